"""`python -m topics verify | stats | show ID`: the seal and what stands behind it.

`python -m topics seal` draws the split again from its seed and writes the manifest; only a maintainer who adds
or mends motions needs it, and doing so makes a new version of the data set.
"""

import argparse
import json
import sys
from collections import Counter

import topics
from topics import catalogue, files, leakage, seal, split
from topics.errors import InputError, command
from topics.topic import Topic


@command
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m topics", description="The sealed topics.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verify | stats | show ID | seal")
    verbs.add_parser("verify", help="check the seal, the split and the overlap across it")
    verbs.add_parser("stats", help="counts by theme and question type, and every id")
    show = verbs.add_parser("show", help="one topic, whole")
    show.add_argument("topic_id", metavar="ID")
    verbs.add_parser("seal", help="draw the split and write the manifest anew (maintainers)")
    given = parser.parse_args(argv)
    if given.verb == "show":
        print(_whole(topics.load([given.topic_id])[0]))
        return 0
    return {"verify": verify, "stats": stats, "seal": reseal}[given.verb]()


def verify() -> int:
    """Check everything that held-out means for these topics."""
    known = catalogue.sealed()
    train, test = ([t for t in known if t.split == part] for part in ("train", "test"))
    drawn = split.draw(known)
    if moved := [t.topic_id for t in known if drawn[t.topic_id] != t.split]:
        raise InputError(f"the split is not the one drawn from seed {split.SEED}: {', '.join(moved[:5])}")
    if shared := {t.cluster for t in train} & {t.cluster for t in test}:
        raise InputError(f"clusters on both sides of the split: {', '.join(sorted(shared))}")
    if pairs := list(leakage.overlaps(train, test)):
        a, b, overlap = pairs[0]
        raise InputError(f"{a.topic_id!r} and {b.topic_id!r} are near-duplicates across the split ({overlap:.2f})")
    root = json.loads(catalogue.MANIFEST.read_text())["root"]
    print(f"{len(known)} topics, {len(train)} train, {len(test)} test: sealed, root {root[:16]}…")
    print(f"split drawn from seed {split.SEED}; no cluster and no near-duplicate motion on both sides")
    return 0


def stats() -> int:
    known = catalogue.sealed()
    cells: Counter[tuple[str, str, str]] = Counter((t.theme, t.question_type, t.split) for t in known)
    kinds = ("policy", "value", "fact", "mixed")
    print(f"{'train/test':<14}" + "".join(f"{kind:>10}" for kind in kinds) + f"{'all':>10}")
    for theme in dict.fromkeys(t.theme for t in known):
        row = [(cells[theme, k, "train"], cells[theme, k, "test"]) for k in kinds]
        row.append((sum(a for a, _ in row), sum(b for _, b in row)))
        print(f"{theme:<14}" + "".join(f"{f'{a}/{b}':>10}" for a, b in row))
    clusters = len({t.cluster for t in known})
    print(f"\n{len(known)} motions, {clusters} propositions; one whole: python -m topics show {known[0].topic_id}\n")
    for topic in known:
        print(f"{topic.split:<6}{topic.topic_id:<50}{topic.motion}")
    return 0


def reseal() -> int:
    known = files.read(catalogue.MOTIONS)
    drawn = split.draw(known)
    known = [t.model_copy(update={"split": drawn[t.topic_id]}) for t in known]
    lines = (t.model_dump_json() for t in known)
    catalogue.MOTIONS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    catalogue.MANIFEST.write_text(json.dumps(seal.manifest(known, split.SEED), indent=1) + "\n", encoding="utf-8")
    return verify()


def _whole(topic: Topic) -> str:
    lines = [topic.motion, "", topic.info, ""]
    for side, points in topic.points.items():
        lines += [side.upper(), *(f"  {p.claim}, because {p.reason}." for p in points), ""]
    facts = (
        f"{key}: {getattr(topic, key)}" for key in ("topic_id", "theme", "question_type", "framing", "cluster", "split")
    )
    return "\n".join([*lines, *facts])


if __name__ == "__main__":
    sys.exit(main(None))

"""Cited answers: reading them, and the citation reward.

    <answer>Trams are quiet. <snippet id=S1,S4>Line 2 carries 40,000 people a day</snippet> ...</answer>

    text = answer(completion)                       # None where there is not exactly one answer
    well_formed(completion)                         # the format reward, which needs no judge
    cited = await citation(judge, prompt, text, {"S1": "...", "S4": "..."}, about=prompt_id)
    cited.f1, cited.recall, cited.precision         # None in place of `cited` where the judge failed

Recall of a claim is how far the snippets that it cites, taken together, support it; precision is how far each of them
bears on it, in the mean over all ids of the citation. The reward is the mean over claims of F1. An id that does not
exist supports nothing, bears on nothing, and still counts among those cited. The rubric judge says both, in one
question for all claims of an answer; what stands in the system message is numbers, never a text of the policy's.

How it departs from the usual one: every id of a citation counts, not the last alone; an answer that cannot be judged
is None, not 0; and text outside `<snippet>` is no claim here, so that no parser decides what needs a citation. That
facts go uncited is for a rubric item to say. After Gao et al. 2023 (ALCE), with degrees in place of yes and no.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from arena.speech import presentable, visible
from judges.rubric import Item, ItemScore, RubricJudge
from training.rewards import Items, item

MOST_CITATIONS = 40
"""Citations of existing ids that are judged in one answer; further ones count as unsupported. It bounds the question,
and a judge's answer to what it may write."""

SUPPORTED = "Claim {claim}: the snippets that it cites, taken together, state all that it says."
BEARS = "Claim {claim}: snippet {snippet} by itself states some of what it says."

_ANSWER = re.compile(r"<(/?)answer>")
_SNIPPET = re.compile(r"<(/?)snippet\b([^<>]*)>")
_IDS = re.compile(r"\s+id\s*=\s*(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What stands in one `<snippet>`."""

    text: str
    ids: tuple[str, ...]
    """All that it cites, each once, whether they exist or not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Support:
    """How far the citation of one claim holds, each 0 to 1."""

    recall: float
    precision: float

    @property
    def f1(self) -> float:
        """The harmonic mean of both; 0 where both are."""
        both = self.recall + self.precision
        return 2 * self.recall * self.precision / both if both else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """How far the citations of an answer hold: means over its claims, 0 where it makes none."""

    claims: tuple[Support, ...]

    @property
    def f1(self) -> float:
        return fmean(claim.f1 for claim in self.claims) if self.claims else 0.0

    @property
    def recall(self) -> float:
        return fmean(claim.recall for claim in self.claims) if self.claims else 0.0

    @property
    def precision(self) -> float:
        return fmean(claim.precision for claim in self.claims) if self.claims else 0.0

    @property
    def items(self) -> Items:
        """The component of a reward."""
        return (item("citation F1", self.f1),)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def answer(completion: str) -> str | None:
    """What stands in the one `<answer>` of what can be heard; None where there is none, or another, or it is empty."""
    block = _block(visible(completion))
    return block[1] if block else None


def _block(text: str) -> tuple[str, str, str] | None:
    """(before, within, after) the one answer."""
    tags = list(_ANSWER.finditer(text))
    if [tag[1] for tag in tags] != ["", "/"]:
        return None
    before, after = text[: tags[0].start()].strip(), text[tags[1].end() :].strip()
    within = text[tags[0].end() : tags[1].start()].strip()
    return (before, within, after) if within else None


def claims(answer: str) -> tuple[Claim, ...]:
    """The claims of an answer, in order."""
    return _read(answer)[0]


def _read(answer: str) -> tuple[tuple[Claim, ...], int]:
    """The claims of an answer, and how many tags open or close none."""
    found: list[Claim] = []
    stray = 0
    opened: re.Match[str] | None = None
    for tag in _SNIPPET.finditer(answer):
        if not tag[1]:
            stray += opened is not None
            opened = tag
        elif opened is None:
            stray += 1
        else:
            found.append(Claim(text=answer[opened.end() : tag.start()].strip(), ids=_ids(opened[2])))
            opened = None
    return tuple(found), stray + (opened is not None)


def _ids(attributes: str) -> tuple[str, ...]:
    named = _IDS.fullmatch(attributes)
    ids = (part.strip(" \t\r\n\"'") for part in (named[1] if named else "").split(","))
    return tuple(dict.fromkeys(filter(None, ids)))


def well_formed(completion: str) -> Items:
    """The component `format`: one answer, nothing but the answer, and tags that are as they should be."""
    block = _block(visible(completion))
    found, stray = _read(block[1]) if block else ((), 1)
    return (
        item("one answer block", float(block is not None)),
        item("nothing outside the answer block", float(block is not None and not block[0] and not block[2])),
        item("well-formed snippet tags", float(not stray and all(claim.ids and _says(claim) for claim in found))),
    )


def _says(claim: Claim) -> bool:
    """There is a word in it."""
    return bool(re.search(r"\w", claim.text))


# ── judging ──────────────────────────────────────────────────────────────────────────────────────


async def citation(
    judge: RubricJudge, prompt: str, answer: str | None, snippets: Mapping[str, str], *, about: str, draw: int = 0
) -> Citation | None:
    """How far the citations of an answer hold; None where the judge failed.

    `snippets` are the texts by id that could be cited. Nothing is asked where nothing that exists is cited. Raises
    `NotNow`.
    """
    found = claims(answer or "")
    cited = existing(found, snippets)
    if not any(cited):
        return support(found, cited, ())
    text, items = question(found, cited, snippets)
    scores = await judge.score(prompt, text, items, about=about, draw=draw)
    return None if scores is None else support(found, cited, scores.items)


def existing(claims: Sequence[Claim], snippets: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Of each claim, the ids that exist; of a claim without a word none, and `MOST_CITATIONS` together."""
    left = MOST_CITATIONS
    cited: list[tuple[str, ...]] = []
    for claim in claims:
        cited.append(tuple(name for name in claim.ids if name in snippets)[:left] if _says(claim) else ())
        left -= len(cited[-1])
    return cited


def question(
    claims: Sequence[Claim], cited: Sequence[tuple[str, ...]], snippets: Mapping[str, str]
) -> tuple[str, list[Item]]:
    """What the rubric judge is shown, and the items that it scores that on; all by number, from 1.

    The text is JSON, so no claim and no snippet can pass itself off as another.
    """
    numbers = {name: n for n, name in enumerate(dict.fromkeys(name for ids in cited for name in ids), 1)}
    asked = [(n, claim, ids) for n, (claim, ids) in enumerate(zip(claims, cited, strict=True), 1) if ids]
    shown = {
        "snippets": {str(n): presentable(snippets[name]) for name, n in numbers.items()},
        "claims": [{"claim": n, "says": claim.text, "cites": [numbers[i] for i in ids]} for n, claim, ids in asked],
    }
    items: list[Item] = []
    for n, _, ids in asked:
        items.append(Item(text=SUPPORTED.format(claim=n)))
        items += [Item(text=BEARS.format(claim=n, snippet=numbers[name])) for name in ids]
    return json.dumps(shown, ensure_ascii=False, indent=1), items


def support(claims: Sequence[Claim], cited: Sequence[tuple[str, ...]], scores: Sequence[ItemScore]) -> Citation:
    """What the scores of `question`'s items come to."""
    given = iter(scores)
    found: list[Support] = []
    for claim, ids in zip(claims, cited, strict=True):
        recall = next(given).score if ids else 0.0
        bearing = sum(next(given).score for _ in ids)
        found.append(Support(recall=recall, precision=bearing / len(claim.ids) if ids else 0.0))
    return Citation(claims=tuple(found))

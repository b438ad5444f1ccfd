"""A debate as a judge reads it: visible speech under neutral names, between delimiters that no speech can forge.

Who speaks is told by two given names that say nothing of a side or a model, drawn for each debate among those that no
text of it mentions and no contestant bears. Each turn stands between lines that carry a nonce, which no text of the
debate contains: so a speech may hold whatever it likes, delimiters included, and is still read as one speech. All of it
is drawn from the debate's seed, so every judge, order and sample sees the same bytes.

    transcript = Transcript.of(debate)
    transcript.text      # the turns
    transcript.names     # {"for": "Rowan", "against": "Ellis"}
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from math import gcd

from runs.records import Debate, content_id, content_seed
from topics import Side

NAMES = (
    "Alder", "Ashby", "Blake", "Briar", "Carey", "Corin", "Darcy", "Ellis", "Emery", "Finley", "Gale", "Harper",
    "Jules", "Kerry", "Lane", "Marlow", "Noel", "Oakley", "Perry", "Quinn", "Reese", "Rowan", "Sage", "Tatum",
)  # fmt: skip
STEPS = tuple(step for step in range(len(NAMES)) if gcd(step, len(NAMES)) == 1)
"""Ways through all names, so that those are looked for alone that are drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """What is shown of a debate."""

    text: str
    names: dict[Side, str]
    nonce: str

    @classmethod
    @lru_cache(maxsize=512)  # a debate's votes follow each other
    def of(cls, debate: Debate) -> "Transcript":
        """The transcript of a debate, as long as it is."""
        said = "\n".join((debate.topic.motion, debate.topic.info, *(turn.text for turn in debate.turns))).casefold()
        names, nonce = _names(debate, said), _nonce(debate, said)
        shown = "\n\n".join(
            f"[turn {turn.turn} | {names[turn.side]} | {nonce}]\n{turn.text}\n[end of turn {turn.turn} | {nonce}]"
            for turn in debate.turns
        )
        return cls(text=shown, names=names, nonce=nonce)


def _names(debate: Debate, said: str) -> dict[Side, str]:
    """Two names that are neither mentioned nor borne; where too few are left, any two."""
    place = content_seed("names", debate.match.seed, debate.id)
    step = STEPS[place // len(NAMES) % len(STEPS)]
    drawn = [NAMES[(place + step * n) % len(NAMES)] for n in range(len(NAMES))]
    borne = f"{debate.match.for_contestant}\n{debate.match.against_contestant}".casefold()
    free = (name for name in drawn if name.casefold() not in said and name.casefold() not in borne)
    first, second = [*islice(free, 2), *drawn][:2]
    return {"for": first, "against": second if second != first else drawn[1]}


def _nonce(debate: Debate, said: str) -> str:
    """Sixteen hex digits that no text contains."""
    drawn = (content_id("nonce", debate.match.seed, debate.id, n) for n in count())
    return next(nonce for nonce in drawn if nonce not in said)

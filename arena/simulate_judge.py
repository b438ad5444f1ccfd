"""Simulated judges: they vote as an LLM judge is asked to, with biases planted in them whose size is known exactly.

What they are for: to see whether a calibration finds a bias that is there, and none where there is none. A prompt of
the LLM judge (`judges/llm.py`), to whatever model, is answered with a vote; dials in the model's name say how it comes
about (`arena/simulate_dials.py`), what a debate shows is read by `arena/simulate_reading.py`; one of a screen or of the
rubric judge is answered as that is asked:

    judge                                         the truth, always
    judge?position=0.1&noise=0.2                  now and then something else
    first?noise=0.2, second?noise=0.2             two judges that err apart

A vote depends on the model's name, the words that it is asked in, and the seed; whether it is invalid, not on the seed
nor on a second request, so that neither a repair nor a fresh sample mends it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from arena.simulate_dials import Dials, Facts, chances, dials, mixture, planted, verdict
from arena.simulate_reading import Seen, pleads, see, truth
from arena.simulated import Draw
from judges.answers import wording
from judges.rules import words
from runs.records import content_id
from topics import SIDES, Side, opposite

__all__ = ["Dials", "Facts", "answer", "chances", "dials", "mark", "planted", "pleads", "truth", "verdict"]

Messages = Sequence[Mapping[str, Any]]

CERTAIN = 1 << 53
"""What a draw is below; its share of this is a number from 0 to 1."""

_TAIL = re.compile(r"This is reading \d+\. Look at [^\n]+? first, who speaks (for|against) the motion")
_CRITERION = re.compile(r"^- ([^\n(]+?) \(weight [^)\n]+\): ", re.MULTILINE)


def answer(model: str, messages: Messages, seed: int) -> str | None:
    """What a judge says to a question that is one for a judge; None where it is none. Other kinds join `_ANSWERS`."""
    if len(messages) < 2:
        return None
    said = (known(model, messages[0]["content"], messages[1]["content"], seed) for known in _ANSWERS)
    return next((text for text in said if text is not None), None)


def mark(family: str) -> str:
    """How a family speaks, in lower case."""
    return f"as one says in {family.lower()}:"


# ── voting ───────────────────────────────────────────────────────────────────────────────────────


def vote(model: str, system: str, shown: str, seed: int) -> str | None:
    """The vote that an LLM judge is asked for; None where nobody asks for one."""
    end = shown.rfind("]\n\n") + 1
    if not shown.startswith("Motion: ") or (asked := _TAIL.search(shown, end)) is None:
        return None
    criteria, seen = _CRITERION.findall(system), see(shown[:end])
    if not criteria or seen is None:
        return None
    planted, first = dials(model), _side(asked[1])
    key = content_id(model, system, shown)
    draw = Draw("vote", key, seed)
    garbled = Draw("invalid", key)
    if garbled.below(CERTAIN) < planted.invalid * CERTAIN:
        whole = _reply(draw, seen, criteria, SIDES[draw.below(2)])
        return _GARBLED[garbled.below(len(_GARBLED))](whole)
    marked = [side for side in SIDES if planted.kin and mark(planted.kin) in seen.texts[side]]
    facts = Facts(
        first=first,
        truth=seen.truth,
        longer=seen.longer,
        marked=marked[0] if len(marked) == 1 else None,
        pleading=seen.pleading,
    )
    return json.dumps(_reply(draw, seen, criteria, _drawn(draw, planted, facts)), ensure_ascii=False)


def _drawn(draw: Draw, planted: Dials, facts: Facts) -> str:
    """The winner of a valid vote."""
    at = planted.invalid + (1 - planted.invalid) * draw.below(CERTAIN) / CERTAIN
    winner: str | None = facts.truth
    for chance, leads_to in mixture(planted, facts):
        if (at := at - chance) < 0:
            winner = leads_to
            break
    return winner or SIDES[draw.below(2)]


def _side(name: str) -> Side:
    return "for" if name == "for" else "against"


def _reply(draw: Draw, seen: Seen, criteria: Sequence[str], winner: str) -> dict[str, Any]:
    """A reply that can be read: quotes are the sides' own words, and all scores say the same."""
    scored: dict[str, Any] = {}
    for criterion in criteria:
        low = 3 + draw.below(3)
        high = low + 2 + draw.below(3) if winner in SIDES else low
        scored[criterion] = {f"quote_{side}": _quote(draw, seen.quotes[side]) for side in SIDES}
        scored[criterion] |= {side: high if side == winner else low for side in SIDES}
    return {
        "criteria": scored,
        "summary": f"The side {winner} gave the better reasons." if winner in SIDES else "Neither side was better.",
        "winner": winner,
        "confidence": 50 + draw.below(50),
    }


def _quote(draw: Draw, quotes: Sequence[str]) -> str:
    return draw.pick(quotes) if quotes else ""


def _other(reply: dict[str, Any]) -> dict[str, Any]:
    return reply | {"winner": opposite(_side(reply["winner"]))}


_GARBLED: tuple[Callable[[dict[str, Any]], str], ...] = (
    lambda reply: json.dumps(reply)[: len(json.dumps(reply)) * 2 // 3],
    lambda reply: f"Both for and against were strong. On balance I would say {reply['winner'].upper()}.",
    lambda reply: "I am sorry, but I cannot take part in judging this debate.",
    lambda reply: json.dumps({key: value for key, value in reply.items() if key != "winner"}),
    lambda reply: json.dumps(reply | {"winner": "both"}),
    lambda reply: json.dumps(reply | {"confidence": "high"}),
    lambda reply: json.dumps(reply | {"criteria": {}}),
    lambda reply: json.dumps(_other(reply)),
    lambda reply: f"{json.dumps(reply)}\n\nOn reflection:\n\n{json.dumps(_other(reply))}",
)
"""Replies that no reader may take for a vote."""

# ── screening ────────────────────────────────────────────────────────────────────────────────────

_SCREENED = re.compile(
    r"This is reading \d+, and nobody has spoken yet\. Look at the side (for|against) the motion first"
)
_SWEEPING = re.compile(r"\b(?:always|never|every|nobody|everybody)\b", re.IGNORECASE)
_MODEST = re.compile(r"\b(?:sometimes|often|someone|somewhere)\b", re.IGNORECASE)


def leaning(motion: str) -> Side | None:
    """Which side of a motion holds before anyone has spoken: what is said of everything is easily refuted, what is said
    of something easily shown. Nothing to go by in any other motion, nor in one that says both."""
    sweeping, modest = bool(_SWEEPING.search(motion)), bool(_MODEST.search(motion))
    return None if sweeping == modest else "against" if sweeping else "for"


def view(model: str, system: str, shown: str, seed: int) -> str | None:
    """What a judge says of a motion (`judges/screening.py`); None where nobody asks. Drawn as a vote is, where the
    truth is what `leaning` says, or a coin at every reading; no winner is "even"."""
    motion, _, rest = shown.partition("\n\n")
    if not motion.startswith("Motion: ") or (asked := _SCREENED.match(rest.rpartition("\n\n")[2])) is None:
        return None
    planted, key = dials(model), content_id(model, system, shown)
    draw, garbled = Draw("view", key, seed), Draw("invalid", key)
    truth = leaning(motion) or SIDES[draw.below(2)]
    winner = _drawn(draw, planted, Facts(first=_side(asked[1]), truth=truth))
    said = {"winner": winner if winner in SIDES else "even", "confidence": 50 + draw.below(50)}
    if garbled.below(CERTAIN) < planted.invalid * CERTAIN:
        return _GARBLED[garbled.below(len(_GARBLED))](said)  # without a reason, so none of them can be read
    return json.dumps({"reason": f"By what is known, {said['winner']}.", **said})


# ── scoring by a rubric ──────────────────────────────────────────────────────────────────────────

MOST_LUCK = 2
"""Points of the ten that come from no word."""


def scores(model: str, system: str, shown: str, seed: int) -> str | None:
    """What the rubric judge (`judges/rubric.py`) is told of a text; None where nobody asks. An item scores higher, the
    more of its longer words stand in the text; what is added to that is drawn from model, item and text alone."""
    if (items := _items(system)) is None or (found := _scored_text().fullmatch(shown)) is None:
        return None
    said = words(found["text"])
    told = {str(n): _score(model, item, found["text"], said) for n, item in enumerate(items, 1)}
    garbled = Draw("invalid", content_id(model, system, shown))
    if garbled.below(CERTAIN) < dials(model).invalid * CERTAIN:
        return _MISSCORED[garbled.below(len(_MISSCORED))](told)
    return json.dumps({"items": told})


def _score(model: str, item: str, text: str, said: frozenset[str]) -> dict[str, Any]:
    sought = words(item)
    stand, luck = len(sought & said), Draw("score", model, item, text).below(MOST_LUCK + 1)
    score = luck + (10 - MOST_LUCK) * stand // max(1, len(sought))
    return {"reason": f"Of the item's {len(sought)} longer words, {stand} stand in the text.", "score": score}


@lru_cache(maxsize=1024)
def _items(system: str) -> tuple[str, ...] | None:
    """The items that a system message lists, if it is the rubric judge's."""
    before, after = wording("rubric").split("{items}")
    if not (system.startswith(before) and system.endswith(after)):
        return None
    listed = [line.partition(". ") for line in system[len(before) : len(system) - len(after)].split("\n")]
    numbered = all(number == str(n) and item for n, (number, _, item) in enumerate(listed, 1))
    return tuple(item for _, _, item in listed) if numbered else None


@cache
def _scored_text() -> re.Pattern[str]:
    """The rubric judge's user message."""
    form = re.escape(wording("text"))
    for name, part in {"nonce": "[0-9a-f]{16}", "prompt": ".*", "text": ".*"}.items():
        slot = re.escape(f"{{{name}}}")
        form = form.replace(slot, f"(?P<{name}>{part})", 1).replace(slot, f"(?P={name})")
    return re.compile(form, re.DOTALL)


_MISSCORED: tuple[Callable[[dict[str, Any]], str], ...] = (
    lambda told: json.dumps({"items": told})[:-2],
    lambda told: "I am sorry, but I cannot score this text.",
    lambda told: json.dumps({"items": dict(list(told.items())[1:])}),
    lambda told: json.dumps({"items": told | {"0": {"reason": "There is more to it.", "score": 5}}}),
    lambda told: json.dumps({"items": {number: one | {"score": 11} for number, one in told.items()}}),
    lambda told: json.dumps({"items": {number: one["score"] for number, one in told.items()}}),
)
"""Replies that no reader may take for scores."""


_ANSWERS: tuple[Callable[[str, str, str, int], str | None], ...] = (vote, view, scores)
"""Each is given a model's name, the first two messages and the seed; None says that the question is not its own."""

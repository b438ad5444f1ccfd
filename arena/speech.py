"""From an answer to a turn: what a contestant said, made fit to be heard.

Done once, at the one place where answers enter, for every kind of contestant:

1. Private reasoning (`<think>…</think>` and its relatives, nested or cut off) is split off and kept apart.
2. Characters that cannot be stored or shown are dropped.
3. A text over its word budget ends at the last sentence end within it, and is marked. A sentence is never cut:
   where the first alone passes the budget, it is kept whole. A text that a limit on tokens has cut off loses the
   sentence it was cut off in, and is marked too.

An answer with nothing visible is a failed attempt, and so is one that has no sentence end within bounds.
"""

import re
import unicodedata

from arena.contestants import SpeakFailed
from runs.records import Debate, Slot, Speech, Turn

CHARACTERS_PER_WORD = 40
"""A text may hold this many characters per word of its budget: no prose does, a megabyte of one letter does."""

MOST_REASONING = 400_000
"""Characters of private reasoning that are kept."""

_NAMES = "think|thinking|thought|reasoning"
_TAG = re.compile(rf"<(/?)\s*(?:{_NAMES})(?=[\s/>]|$)[^<>]*(?:>|$)|\[(/?)(?:{_NAMES})\]", re.IGNORECASE)
"""Tags of private reasoning, one that is cut off at the end of the answer included."""
_INVISIBLE_SPACE = re.compile(r"[\u00ad\u200b\u2060-\u2064\ufeff]")
"""Characters that part words, or hide within them, without being seen."""
_UNSHOWN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)
"""Control characters, lone surrogates, direction marks and invisible tag characters."""
_SENTENCE_END = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’»)\]*_]*+(?=\s+[\"'“‘«(\[*_]*+[^\sa-z]|\s*+$)"
    r"|[。！？]++[”」』]*+|\n\s*\n"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[“\"'])(?:[A-Z]\.(?:[A-Z]\.)*|(?:"
    r"e\.g|i\.e|cf|vs|etc|al|approx|ca|viz|nos?|vol|fig|figs|pp?|para|paras|sec|secs|art|arts|ch|chap|eq|ed|eds|"
    r"mr|mrs|ms|dr|drs|prof|st|jr|sr|rev|gen|gov|sen|rep|hon|col|lt|capt|cpl|sgt|maj|pres|supt|ph\.d|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun|a\.m|p\.m|"
    r"inc|ltd|corp|co|bros|dept|univ|assn|est|mt|ft|ave|blvd|min|max|avg|resp|\d{1,2})\.)$",
    re.IGNORECASE,
)
"""What a full stop may close without closing a sentence. To miss a sentence end costs a few words; to see one where
there is none would cut a sentence."""


def hear(speech: Speech, debate: Debate, slot: Slot) -> Turn:
    """The turn that `speech` comes to in `slot`; raises `SpeakFailed` where it comes to nothing."""
    visible, private = split_reasoning(speech.answer)
    private = "\n\n".join(part for part in (speech.reasoning, private) if part)
    text = presentable(visible)
    if not text:
        raise SpeakFailed("empty", "the answer has no visible text", speech.call.attempts)
    kept, words = within(_whole(text) if speech.cut else text, slot.words)
    if not kept:
        message = f"{len(text)} characters without a sentence end within bounds"
        raise SpeakFailed("length", message, speech.call.attempts)
    return Turn(
        debate_id=debate.id,
        turn=slot.turn,
        side=slot.side,
        stage=slot.stage,
        contestant=debate.match.contestant(slot.side),
        text=kept,
        reasoning=presentable(private[:MOST_REASONING]) or None,
        words=words,
        trimmed=len(kept) < len(text),
        call_id=speech.call.call_id,
    )


def visible(answer: str) -> str:
    """What can be heard of an answer: without private reasoning, presentable."""
    return presentable(split_reasoning(answer)[0])


def _whole(text: str) -> str:
    """`text` up to the end of its last whole sentence; empty where there is none."""
    ends = sentence_ends(text)
    return text[: ends[-1]].rstrip() if ends else ""


def split_reasoning(answer: str) -> tuple[str, str]:
    """(visible, private) parts of an answer.

    Tags nest; an opening tag that is never closed hides everything after it; a closing tag that was never
    opened hides everything before it (templates that put the opening tag into the prompt answer so).
    """
    if "<" not in answer and "[" not in answer:
        return answer, ""
    visible: list[str] = []
    private: list[str] = []
    depth, at = 0, 0
    for tag in _TAG.finditer(answer):
        between = answer[at : tag.start()]
        closing = bool(tag[1] or tag[2])
        if closing and depth == 0:
            private += [*visible, between]
            visible.clear()
        else:
            (private if depth else visible).append(between)
        depth = max(0, depth + (-1 if closing else 1))
        at = tag.end()
    (private if depth else visible).append(answer[at:])
    return " ".join(visible), "\n".join(part.strip() for part in private if part.strip())


def presentable(text: str) -> str:
    """`text` without control characters and what else is not seen (joiners of scripts stay), in NFC, stripped."""
    text = _UNSHOWN.sub("", text)
    return (text if text.isascii() else unicodedata.normalize("NFC", _INVISIBLE_SPACE.sub(" ", text))).strip()


def within(text: str, budget: int) -> tuple[str, int]:
    """`text`, or as much of it as ends at a sentence end within `budget` words, and how many words that is.

    The last sentence end within the budget counts; where there is none, the first one after it. Empty where no
    sentence ends within `CHARACTERS_PER_WORD` characters a word of the budget (or of 50, if that is more).
    """
    most, words = CHARACTERS_PER_WORD * max(budget, 50), len(text.split())
    if len(text) <= most and words <= budget:
        return text, words
    ends = [end for end in sentence_ends(text[: most + 100]) if end <= most]  # the cut itself is no sentence's end
    if not ends and len(text) <= most:
        return text, words  # one single sentence: never cut
    kept = at = said = 0
    for end in ends:
        said += len(text[at:end].split())
        if kept and said > budget:
            break
        kept = at = end
    text = text[:kept].rstrip()
    return text, len(text.split())


def sentence_ends(text: str) -> list[int]:
    """Offsets just behind each sentence of `text`; full stops of common abbreviations and initials do not count."""
    ends: list[int] = []
    for match in _SENTENCE_END.finditer(text):
        if match[0].isspace() and ends and ends[-1] == match.start():
            continue  # a blank line behind a full stop
        if text[match.start()] == "." and _ABBREVIATION.search(text, max(0, match.start() - 12), match.start() + 1):
            continue
        ends.append(match.end())
    return ends

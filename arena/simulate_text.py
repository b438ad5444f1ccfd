"""What the simulated endpoint says: the speech of a simulated contestant, found from the messages alone.

    await Speakers("debate").answer("sim-0.8", messages, seed=1)

The messages are those of `arena/prompting.py`. They hold all that a simulated contestant goes by: motion, side, slot
and what was said; so the debate is put together again, and `Simulated.speak` answers, as it would have without a
network between. The model's name says how well: a name of `arena/rosters/default.toml` has that contestant's dials,
`sim-0.8` has strength 0.8, any other name a strength drawn from it. `sim-0.8?family=oak` speaks as its family does, so
that a judge can favour it. A motion of the catalogue brings its points; another one is argued in general terms.

What a judge is asked is answered by `arena/simulate_judge.py`. What is neither gets a plain answer of canned sentences,
and `plain` gives every contestant one.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import topics as catalogue
from arena import simulate_judge
from arena.simulate_dials import dials
from arena.simulated import Draw, Simulated
from arena.speech import sentence_ends, within
from runs.records import Debate, Match, Slot, Turn, content_id
from topics import Side, Topic, opposite

Style = Literal["debate", "plain"]
Messages = Sequence[Mapping[str, Any]]

PLAIN_WORDS, MOST_WORDS = 60, 20_000
"""Of a plain answer where nobody asks for a number of words; and at most, whatever is asked for."""
LEAST_STRENGTH, MOST_STRENGTH = 0.3, 0.95
"""Between which the strengths of unknown names lie."""

_SYSTEM = re.compile(r"The motion is:\s*(.+?)\s*You speak (for|against) the motion", re.DOTALL)
_SLOT = re.compile(r"number (\d{1,4}) of (\d{1,4}): (.+?)\. (.*?)\s*At most (\d{1,9}) words", re.DOTALL)
_BUDGET = re.compile(r"At most (\d{1,9}) words", re.IGNORECASE)
_STRENGTH = re.compile(r"sim-(0(?:\.\d+)?|1(?:\.0+)?)")

_SENTENCES = (
    "There is a case to be made here, and it rests on what most people would grant.",
    "Consider what follows if we take the matter as it stands.",
    "The costs are known, while the gains are spread over many years.",
    "Nobody has shown that the usual remedy does what it is said to do.",
    "A rule that works in one place may still fail in another.",
    "What counts in the end is who bears the burden, and for how long.",
    "We should ask for reasons, and weigh them with some care.",
    "That much is plain from the way such questions have been settled before.",
    "The other view deserves an answer, and it can be given in a few words.",
    "So the balance falls on one side, and it does so by more than a little.",
    "It would be a mistake to leave this to chance.",
)
_LAST_RESORT = "Agreed."


class Speakers:
    """Whoever stands behind the names of models."""

    def __init__(self, style: Style = "debate") -> None:
        self.style = style
        self._topics = {topic.motion: topic for topic in catalogue.load("all")} if style == "debate" else {}
        self._placed = lru_cache(maxsize=8192)(self._place)

    async def answer(self, model: str, messages: Messages, seed: int) -> str:
        """What `model` says; the same whenever it is asked the same with the same seed."""
        if (judged := simulate_judge.answer(model, messages, seed)) is not None:
            return judged
        last = messages[-1]["content"]
        asked = last[last.rfind("</speech>") + 1 :]  # what the opponent said is no instruction
        budget = _BUDGET.findall(asked)
        words = min(int(budget[-1]), MOST_WORDS) if budget else PLAIN_WORDS
        placed = self._placed(messages[0]["content"]) if self.style == "debate" else None
        if placed is None:
            return plain(words, seed)
        if (found := _SLOT.search(asked)) is None:
            return _shorter(messages, words, seed)
        topic, side = placed
        slot = Slot(turn=int(found[1]), side=side, stage=found[3], words=words, instruction=found[4])
        speech = (await speaker(model).speak(debate_from(messages, topic, slot, seed), slot)).answer
        return _as_in(dials(model).kin, speech)

    def _place(self, system: str) -> tuple[Topic, Side] | None:
        """Topic and side from a system message; None where it is none of a debate."""
        found = _SYSTEM.search(system)
        if found is None or len(found[1]) > 1_000 or not found[1].isprintable():
            return None
        side: Side = "for" if found[2] == "for" else "against"
        unknown = Topic(topic_id=f"motion-{content_id(found[1])}", motion=found[1])
        return self._topics.get(found[1], unknown), side


def debate_from(messages: Messages, topic: Topic, slot: Slot, seed: int) -> Debate:
    """The debate so far, read backwards from its last slot."""
    spoken, turn = [], slot.turn
    for message in reversed(messages[1:]):
        content = message["content"]
        if message["role"] == "assistant":
            turn -= 2
            spoken.append(_turn(turn, slot.side, content))
        elif (start := content.find("<speech>")) >= 0:
            text = content[start + len("<speech>") : content.rfind("</speech>")]
            spoken.append(_turn(turn - 1, opposite(slot.side), text.strip()))
    match = Match(
        debate_id="",
        match=0,
        topic_id=topic.topic_id,
        for_contestant="",
        against_contestant="",
        opener=slot.side if slot.turn % 2 else opposite(slot.side),
        replicate=0,
        seed=seed,
    )
    return Debate(match=match, topic=topic, slots=(slot,), turns=tuple(reversed(spoken)))


def _as_in(family: str, answer: str) -> str:
    """A speech as a family's member gives it, behind what was thought before."""
    thought, end, speech = answer.rpartition("</think>\n")
    return f"{thought}{end}{simulate_judge.mark(family).capitalize()} {speech}" if family else answer


def _turn(number: int, side: Side, text: str) -> Turn:
    return Turn(
        debate_id="",
        turn=number,
        side=side,
        stage="",
        contestant="",
        text=text,
        reasoning=None,
        words=0,
        trimmed=False,
        call_id="",
    )


def _shorter(messages: Messages, words: int, seed: int) -> str:
    """The last speech up to a sentence end within so many words; another text where it has none."""
    spoken = next((message["content"] for message in reversed(messages) if message["role"] == "assistant"), "")
    text, said = within(spoken, words)
    return text if 0 < said <= words and sentence_ends(text)[-1:] == [len(text)] else plain(words, seed)


def plain(words: int, seed: int) -> str:
    """Canned sentences, as many as fit nine tenths of a budget of so many words."""
    return _plain(words, seed % len(_SENTENCES))


@lru_cache(maxsize=1024)
def _plain(words: int, first: int) -> str:
    said: list[str] = []
    count = 0
    while True:
        sentence = _SENTENCES[(first + len(said)) % len(_SENTENCES)]
        count += len(sentence.split())
        if count > max(1, 0.9 * words):
            return " ".join(said) or _LAST_RESORT
        said.append(sentence)


@lru_cache(maxsize=4096)
def speaker(model: str) -> Simulated:
    """The simulated contestant that answers to a model's name. It never fails: faults are the endpoint's business."""
    name = model.partition("?")[0]
    known = _default().get(name)
    if known is None:
        named = _STRENGTH.fullmatch(name)
        drawn = LEAST_STRENGTH + (MOST_STRENGTH - LEAST_STRENGTH) * Draw("strength", name).below(1001) / 1000
        known = Simulated(kind="simulated", name="any", strength=float(named[1]) if named else drawn)
    return known.model_copy(update={"name": name, "fails": 0.0})


@lru_cache(maxsize=1)
def _default() -> dict[str, Simulated]:
    path = Path(__file__).parent / "rosters" / "default.toml"
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["contestants"]
    return {entry["name"]: Simulated.model_validate(entry) for entry in entries}

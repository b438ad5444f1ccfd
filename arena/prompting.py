"""What a contestant is asked: the one place where a debate becomes chat messages.

The arena asks with it and `training` renders training prompts with it, so that training and play see the same
words. A seat's messages only ever grow: those for its next slot begin with those for the one before, word for
word, followed by its own speech as the assistant's. No name of a model, no reasoning of the opponent's, and
nothing that depends on a clock stands in them. The texts are files in `arena/prompts/`.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypedDict

from runs.adapters import Context
from runs.records import Debate, Slot

FOLDER = Path(__file__).parent / "prompts"


class Message(TypedDict):
    """One chat message."""

    role: str
    content: str


def messages(debate: Debate, slot: Slot, persona: str = "") -> list[Message]:
    """The prompt for `slot`, given what has been said in the turns before it; `persona` ends the instructions."""
    before = {turn.turn: turn for turn in debate.turns if turn.turn < slot.turn}
    prompt = [_system(debate, slot, persona)]
    for own in (s for s in debate.slots if s.side == slot.side and s.turn <= slot.turn):
        heard = before.get(own.turn - 1)
        if own.turn == 1:
            preface = _text("opening")
        else:
            preface = _text("heard").format(text=_quoted(heard.text)) if heard else ""
        prompt.append(_ask(debate, own, preface))
        if own.turn < slot.turn and own.turn in before:
            prompt.append({"role": "assistant", "content": before[own.turn].text})
    return prompt


def as_text(prompt: Sequence[Message]) -> str:
    """A prompt as one text, for who is shown it and not asked with it."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}:\n{message['content']}" for message in prompt)


def render(context: Context, debate: Debate, slot: Slot, persona: str = "") -> list[Message]:
    """The prompt for `slot` in the way that a policy was trained on, and is played with."""
    return key_messages(debate, slot, persona) if context == "key" else messages(debate, slot, persona)


def key_messages(debate: Debate, slot: Slot, persona: str = "") -> list[Message]:
    """The prompt for `slot` from the topic, side and turn alone, whatever was said: PERSUADE's key."""
    return [_system(debate, slot, persona), _ask(debate, slot, "")]


def shorten(prompt: list[Message], speech: str, slot: Slot) -> list[Message]:
    """The request to give the `speech` that answered `prompt` again, within the slot's word budget."""
    asked = _text("shorten").format(said=len(speech.split()), words=slot.words).strip()
    return [*prompt, {"role": "assistant", "content": speech}, {"role": "user", "content": asked}]


def _system(debate: Debate, slot: Slot, persona: str) -> Message:
    background = f"What is known: {debate.topic.info} " if debate.topic.info else ""
    text = _text("system").format(motion=debate.topic.motion, side=slot.side, background=background).strip()
    return {"role": "system", "content": f"{text}\n\n{persona.strip()}" if persona.strip() else text}


def _ask(debate: Debate, slot: Slot, heard: str) -> Message:
    text = _text("slot").format(
        heard=heard,
        turn=slot.turn,
        turns=len(debate.slots),
        stage=slot.stage,
        instruction=slot.instruction,
        words=slot.words,
    )
    return {"role": "user", "content": text.strip()}


def _quoted(text: str) -> str:
    """A speech that cannot close the tags it stands between."""
    return text.replace("</speech>", "(/speech)")


@cache
def _text(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")

"""Whole debates as practice: the policy plays them against seated opponents, and earns what the judge makes of them.

    with company(roster, opponents, judge, slots, out) as seated:       # training/company.py
        practice = Debates(seated=seated, tokenizer=tokenizer, context="transcript", rewards=rewards)
        samples = practice.draw(speaker, [(Seat(topic=topic, side="for", opponent="granite"), draw) for ...])

All debates of a step go forward together, slot by slot: the policy's turns are drawn in one batch, the opponents are
asked all at once, as the arena asks them. An opponent may be the policy as it was, at a check or before it was trained
(`--league`): its adapter is kept beside the one that is trained, and in its checkpoints. What an opponent said enters
the sequence as it was heard, and is masked: no gradient comes from it. What a debate earns is the verdict, shared by
all turns of the policy (`margin`), or what each turn moved the judge, who is asked after every turn (`gain`); and
whether word budgets were kept, since nobody hears how much was trimmed (`budget`).

How a debate becomes sequences. With transcript prompts, which only grow, it is one, as long as it is: own turns and
masked ones by turns. With key prompts, or where each turn earns by itself, it is one for each own turn. What departs
from play: in the long sequence the policy reads its own earlier speeches as it drew them, reasoning and what was
trimmed included; opponent and judge hear what would be heard.

What went wrong: an opponent or a judge that fails, or a debate that grows longer than a sequence may be, gives no
reward (None): it makes no turn likelier. A policy that says nothing that can be heard has lost: that is its own doing,
and the worst reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean
from uuid import uuid4

from arena.boundary import ours
from arena.contestants import SpeakFailed, Unavailable
from arena.generate import Request
from arena.local import most_tokens
from arena.models import Tokenizer, prompt_ids, rendered
from arena.prompting import Message, render
from arena.speech import hear, visible
from judges.rubric import weigh
from runs.adapters import Context
from runs.records import Call, Debate, Match, Slot, Winner, content_id, content_seed
from runs.verdicts import VALUE
from topics import Side, Topic
from topics.errors import InputError
from training.company import SEATED, Company, nothing_said, public, together, turn_of, worth
from training.debate_rewards import budget
from training.practice import POLICY, Sample, Speaker, drawn, text_of
from training.rewards import Component, Items, Reward, Rewards, item
from training.scoring import Unscored

ITSELF, PARENT = "its past", "its parent"
"""Opponents that are the policy as it was: at a check, by lot, or before it was trained."""
COMPONENTS: tuple[Component, ...] = ("margin", "gain", "budget")
"""What a whole debate can earn."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A task: a side of a debate that is yet to be played."""

    topic: Topic
    side: Side
    opponent: str

    @property
    def unit(self) -> str:
        return self.topic.topic_id


# ── playing ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(kw_only=True)
class Played:
    """A debate that is under way, and the tokens of the policy's turns in it."""

    seat: Seat
    draw: int
    debate: Debate
    past: str | None = None
    """The adapter that speaks for the opponent, where that is the policy as it was."""
    own: list[Request] = field(default_factory=list)
    heard: list[list[int]] = field(default_factory=list)
    """Before each own turn but the first: tokens of what came in between."""
    failed: bool = False
    """An opponent gave no answer: there is no verdict."""
    silent: bool = False
    """The policy said nothing that can be heard: it has lost."""

    @property
    def over(self) -> bool:
        return self.failed or self.silent or len(self.debate.turns) == len(self.debate.slots)


@dataclass(kw_only=True)
class Debates:
    """Practice in whole debates."""

    seated: Company
    tokenizer: Tokenizer
    context: Context
    rewards: Rewards
    window: int | None = None
    """Most tokens of a sequence."""
    group: int = 1
    """Draws of a seat that follow each other meet an opponent with the same luck, so many at a time: they then differ
    by the policy alone."""
    adapter: str = POLICY
    each: int = field(init=False)

    def __post_init__(self) -> None:
        earnable(self.rewards)
        self.each = len(self.seated.slots) // 2 if is_by_turn(self.context, self.rewards) else 1

    def draw(self, speaker: Speaker, wanted: Sequence[tuple[Seat, int]]) -> list[Sample]:
        """Debates, one for each, and their sequences."""
        debates = [self._opened(speaker, seat, draw) for seat, draw in wanted]
        for number in range(len(self.seated.slots)):
            going = [one for one in debates if not one.over]
            others = [one for one in going if one.debate.slots[number].side != one.seat.side]
            drawn = [one for one in going if one not in others or one.past]
            self._speak(speaker, drawn, number)
            self.seated.runner.run(together(self._hear(one, number) for one in others if not one.past))
        judged = self.seated.runner.run(together(self._judged(one) for one in debates))
        served = any(request.log_probs is not None for one in debates for request in one.own)
        found = (self._samples(one, votes, served) for one, votes in zip(debates, judged, strict=True))
        return list(chain.from_iterable(found))

    def _opened(self, speaker: Speaker, seat: Seat, draw: int) -> Played:
        slots = self.seated.slots
        sides = (SEATED, seat.opponent) if seat.side == "for" else (seat.opponent, SEATED)
        key = ("rollout", seat.topic.topic_id, *sides, draw // self.group)
        match = Match(
            debate_id=content_id(*key),  # opponents of every kind make their seeds of both
            match=draw,
            topic_id=seat.topic.topic_id,
            for_contestant=sides[0],
            against_contestant=sides[1],
            opener=slots[0].side,
            replicate=0,
            seed=content_seed(*key),
        )
        past = None
        if seat.opponent in (ITSELF, PARENT):
            selves = speaker.selves
            past = selves[match.seed % len(selves)] if seat.opponent == ITSELF else selves[0]
        return Played(seat=seat, draw=draw, debate=Debate(match=match, topic=seat.topic, slots=slots), past=past)

    def _speak(self, speaker: Speaker, debates: Sequence[Played], number: int) -> None:
        """The policy's turn, in all debates where it is, and that of what it was."""
        requests: list[tuple[Played, Request]] = []
        for one in debates:
            slot = one.debate.slots[number]
            own = slot.side == one.seat.side
            request = (self._request if own else self._past_request)(one, slot, speaker.temperature)
            if request is None:
                one.failed = True
                continue
            if own:
                one.own.append(request)
            requests.append((one, request))
        speaker([request for _, request in requests])
        for one, request in requests:
            slot = one.debate.slots[number]
            text, cut = text_of(self.tokenizer, request), request.finish == "length"
            try:
                one.debate = one.debate.with_turn(turn_of(text, one.debate, slot, cut=cut))
            except SpeakFailed:
                own = slot.side == one.seat.side
                one.silent, one.failed = own, not own

    def _past_request(self, one: Played, slot: Slot, temperature: float) -> Request:
        """What the policy as it was is asked: as in play, with its own earlier speeches as they were heard."""
        assert one.past is not None
        return Request(
            prompt=prompt_ids(self.tokenizer, render(self.context, one.debate, slot)),
            adapter=one.past,
            seed=content_seed("past", one.debate.id, slot.turn),
            temperature=temperature,
            most=most_tokens(slot),
        )

    def _request(self, one: Played, slot: Slot, temperature: float) -> Request | None:
        """What the policy is asked; None where others have said so much that there is no room left.

        Raises `InputError` where there is none for its first turn.
        """
        said = render(self.context, one.debate, slot)
        heard: list[int] | None = None
        if self.each > 1 or not one.own:
            prompt = prompt_ids(self.tokenizer, said)
        else:
            before = one.own[-1]
            heard = between(self.tokenizer, said, ended=before.end == self.tokenizer.eos_token_id)
            prompt = [*before.prompt, *drawn(before), *heard]
        most = most_tokens(slot)
        if self.window is not None and len(prompt) + most > self.window:
            if one.own:
                return None
            raise InputError(
                f"a debate has {len(prompt):,} tokens before turn {slot.turn}, which may have {most:,} more, and "
                f"--max-length is {self.window:,}; raise it, or name a shorter format"
            )
        if heard is not None:
            one.heard.append(heard)
        return Request(
            prompt=prompt,
            adapter=self.adapter,
            seed=content_seed("speak", one.debate.id, one.draw, slot.turn),
            temperature=temperature,
            most=most,
        )

    async def _hear(self, one: Played, number: int) -> None:
        """An opponent's turn."""
        slot = one.debate.slots[number]
        try:
            speech = await self.seated.contestants[one.seat.opponent].speak(one.debate, slot)
            self._book(speech.call, speech.shorten)
            turn = hear(speech, one.debate, slot)
        except Unavailable as error:
            self._book(error.call)
            raise Unscored(f"opponent {one.seat.opponent!r} cannot be asked: {error}") from None
        except BaseException as error:  # whatever an opponent raises, the others' debates go on
            if ours(error):
                raise
            self._book(error.call if isinstance(error, SpeakFailed) else None)
            one.failed = True
            return
        one.debate = one.debate.with_turn(public(turn))

    def _book(self, *calls: Call | None) -> None:
        """Keep what was sent to an opponent, whether it came to anything or not."""
        self.seated.calls.extend(call for call in calls if call and call.attempts)

    # ── judging ──────────────────────────────────────────────────────────────────────────────────────

    async def _judged(self, one: Played) -> list[tuple[float | None, Winner]]:
        """Margin and winner of the whole debate; where turns earn by themselves, of it as it stood after each turn."""
        if one.failed or one.silent:
            return []
        turns = range(1, len(one.debate.slots) + 1) if "gain" in self.rewards.weights else [len(one.debate.slots)]
        return await together(self.seated.margin(one.debate, turn) for turn in turns)

    # ── what is learnt from ──────────────────────────────────────────────────────────────────────────

    def _samples(self, one: Played, judged: Sequence[tuple[float | None, Winner]], served: bool) -> list[Sample]:
        """The sequences of a debate, `each` of them; the first says how it ended."""
        rewards = self._rewards(one, judged)
        if self.each == 1 and one.own:
            samples = [self._long(one, rewards[-1])]
        else:
            samples = [self._short(one, request, reward) for request, reward in zip(one.own, rewards, strict=False)]
        samples += [self._nothing(one, served, reward) for reward in rewards[len(samples) : self.each]]
        return [replace(samples[0], score=_score(one, judged)), *samples[1:]]

    def _long(self, one: Played, reward: Reward) -> Sample:
        """A debate as one sequence."""
        completion, own, log_probs = list[int](), list[int](), list[float]()
        for request, heard in zip(one.own, [[], *one.heard], strict=True):
            said = drawn(request)
            completion += [*heard, *said]
            own += [0] * len(heard) + [1] * len(said)
            log_probs += [0.0] * len(heard) + (request.log_probs or [])
        last = one.own[-1]
        return Sample(
            unit=one.seat.unit,
            prompt=one.own[0].prompt,
            completion=completion,
            own=own,
            log_probs=log_probs if last.log_probs is not None else None,
            texts=[text_of(self.tokenizer, request) for request in one.own],
            cut=last.finish == "length",
            reward=reward,
        )

    def _short(self, one: Played, request: Request, reward: Reward) -> Sample:
        """A turn of a debate as a sequence."""
        said = drawn(request)
        return Sample(
            unit=one.seat.unit,
            prompt=request.prompt,
            completion=said,
            own=[1] * len(said),
            log_probs=request.log_probs,
            texts=(text_of(self.tokenizer, request),),
            cut=request.finish == "length",
            reward=reward,
        )

    def _nothing(self, one: Played, served: bool, reward: Reward) -> Sample:
        """For a turn that was not come to: a token that nobody drew, so that nothing is learnt from it."""
        end, log_probs = [self.tokenizer.eos_token_id], [0.0] if served else None
        return Sample(
            unit=one.seat.unit,
            prompt=end,
            completion=end,
            own=[0],
            log_probs=log_probs,
            reward=reward,
        )

    def _rewards(self, one: Played, judged: Sequence[tuple[float | None, Winner]]) -> list[Reward]:
        """What each own turn earns."""
        if one.silent:
            lost = self.rewards.compose({name: nothing_said(name) for name in self.rewards.weights})
            return [lost] * (len(one.debate.slots) // 2)
        margins = [value for value, _ in judged]
        kept = self._kept(one)
        rewards = []
        for place, slot in enumerate(slot for slot in one.debate.slots if slot.side == one.seat.side):
            before = 0.0 if slot.turn == 1 else margins[slot.turn - 2] if len(margins) > 1 else None
            after = margins[slot.turn - 1] if len(margins) > 1 else None
            last = margins[-1] if margins else None
            found: dict[Component, Items | None] = {
                "margin": worth("margin", None, last, one.seat.side),
                "gain": worth("gain", before, after, one.seat.side),
                "budget": kept[place] if place < len(kept) else None,
            }
            rewards.append(self.rewards.compose({name: found[name] for name in self.rewards.weights}))
        return rewards

    def _kept(self, one: Played) -> list[Items]:
        """Whether each own turn kept its word budget, before it was trimmed; one sequence has the mean of all."""
        slots = [slot for slot in one.debate.slots if slot.side == one.seat.side]
        said = [visible(text_of(self.tokenizer, request)) for request in one.own]
        kept = [budget(text, slot.words) for text, slot in zip(said, slots, strict=False)]
        if self.each > 1 or not kept:
            return kept
        return [(item("word budgets kept", fmean(weigh(items) for items in kept)),)] * len(slots)


def between(tokenizer: Tokenizer, messages: Sequence[Message], *, ended: bool) -> list[int]:
    """The tokens that follow an own speech in a prompt, up to where the next one begins.

    `messages` end with what is asked now, and the own speech stands before it; `ended` says that the token which ends
    a turn was drawn with it. Raises `InputError` for a chat template that does not show one turn after the other.
    """
    mark = f"own speech {uuid4().hex}"
    *before, _, now = messages
    said = [*before, Message(role="assistant", content=mark), now]
    shown = rendered(tokenizer, said)
    head, found, tail = shown.rpartition(mark)
    if not found or not head:
        raise InputError("the chat template does not show a speech as it was given; whole debates need one that does")
    ids = list(tokenizer(tail, add_special_tokens=False)["input_ids"])
    return ids[1:] if ended and ids[:1] == [tokenizer.eos_token_id] else ids


def _score(one: Played, judged: Sequence[tuple[float | None, Winner]]) -> float | None:
    """1 for a debate that the policy won, 1/2 for a tie, 0 for a loss; None where nobody knows."""
    if one.silent:
        return 0.0
    winner = judged[-1][1] if judged else "invalid"
    return None if winner not in VALUE else 0.5 if winner == "tie" else float(winner == one.seat.side)


def earnable(rewards: Rewards) -> None:
    """Refuse what a whole debate cannot earn."""
    if unknown := set(rewards.weights) - set(COMPONENTS):
        known = ", ".join(COMPONENTS)
        raise InputError(f"a whole debate cannot earn {min(unknown)!r}; expected weights of {known}: see [debates]")


def is_by_turn(context: Context, rewards: Rewards) -> bool:
    """Whether each own turn of a debate is a sequence by itself."""
    return context == "key" or "gain" in rewards.weights

"""One batch, from its questions to what comes of them, and the notes by which it is found again.

    notes = Notes(run.folder)                       # batches.json
    batch = Sent(api, notes, who, {id: line})       # or Sent(api, notes, who, note=...), of an earlier sitting
    left = await batch.follow()
    batch.outcomes.get(id)                          # or, where there is none, `left`

A batch costs from when it is begun, and its answers lie at the endpoint for weeks. So it is noted as soon as its file
is there, which costs nothing, and once more when it is begun; a process that was killed between the two finds out from
the endpoint whether it was. What a batch ended without is crossed out in its note, and will be in another one.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from arena.batch_api import ENDED, BatchApi, Id, State, Stopped
from arena.client import NOTHING, Fault, Reply, Usage
from runs.files import replace_text
from topics.errors import InputError, is_file, one_line

NAME = "batches.json"
TOO_MANY_TOKENS = "token_limit_exceeded"
"""Code of a batch that is refused since too many tokens wait at the endpoint."""


@dataclass(frozen=True, kw_only=True)
class Who:
    """Whose questions they are, and to whom."""

    judge: str
    endpoint: str
    model: str


class Note(BaseModel):
    """A batch, as the run's folder knows it."""

    who: Who
    file: Id
    """Its questions, at the endpoint."""
    batch: Id | None = None
    """None until it is known to be begun."""
    sent_at: datetime
    ids: list[str]
    """Of its questions, in order."""
    unanswered: list[str] = []
    """Those that it ended without."""


class Notes:
    """The batches of a run whose votes may not be stored yet."""

    def __init__(self, folder: Path) -> None:
        """Raises `InputError` where they cannot be read."""
        self.path = folder / NAME
        try:
            read = TypeAdapter(list[Note]).validate_json
            self._notes = read(self.path.read_bytes()) if is_file(self.path) else []
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{str(self.path)!r} cannot be read ({type(error).__name__}); restore it, "
                f"or delete it to ask and pay again"
            ) from None

    def of(self, who: Who) -> list[Note]:
        """The batches of one judge at one model."""
        return [note for note in self._notes if note.who == who]

    @property
    def judges(self) -> set[str]:
        """Whoever has batches."""
        return {note.who.judge for note in self._notes}

    def add(self, note: Note) -> None:
        """Note a batch."""
        self._notes.append(note)
        self.save()

    def drop(self, judges: Iterable[str]) -> None:
        """Forget the batches of judges: all their votes are stored."""
        self._notes = [note for note in self._notes if note.who.judge not in set(judges)]
        self.save()

    def save(self) -> None:
        """Write down what there is; a batch without answers is dropped, and with the last batch the file."""
        self._notes = [note for note in self._notes if len(note.unanswered) < len(note.ids)]
        if self._notes:
            replace_text(self.path, json.dumps([note.model_dump(mode="json") for note in self._notes]) + "\n")
        else:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a question in one batch."""

    found: Reply | Fault
    sent_at: datetime | None = None
    """A moment that only this question has, the same on any day; None where the batch had no answer to it, or has it no
    more."""
    in_vain: bool = True
    """Where it had none, whether that counts: it was of this sitting, and not merely too large."""

    @property
    def usage(self) -> Usage | None:
        """What was billed; None where nobody knows."""
        return self.found.usage

    @property
    def stays(self) -> bool:
        """Whether asking again would be of no use, or be paid again."""
        if self.sent_at is None:
            return False
        return isinstance(self.found, Reply) or self.found.remedy == "never" or self.usage != NOTHING


class Sent:
    """A batch that is sent, or is about to be."""

    def __init__(
        self,
        api: BatchApi,
        notes: Notes,
        who: Who,
        questions: Mapping[str, bytes] | None = None,
        note: Note | None = None,
    ) -> None:
        """Either of `questions`, a line by id, or of the `note` of an earlier sitting."""
        self.outcomes: dict[str, Outcome] | None = None
        """By question, once it has ended; of those that need not be asked again, and in this sitting of the others."""
        self.too_large: Literal["", "bytes", "tokens"] = ""
        """It was refused for its size, or for all that waits at the endpoint."""
        self._gone: set[str] = set()
        """Questions that may have been answered, by answers that the endpoint has no more."""
        self._api = api
        self._notes = notes
        self._who = who
        self._questions = questions or {}
        self._note = note

    def outcome(self, id_: str, left: Fault) -> Outcome:
        """What came of a question, once it was followed; `left` where nothing did."""
        if id_ in self._gone:
            left = Fault(left.kind, str(left), left.remedy, usage=None)
        return (self.outcomes or {}).get(id_) or Outcome(
            found=left, in_vain=bool(self._questions) and not self.too_large
        )

    @property
    def ids(self) -> set[str]:
        """Questions that it may have answers to."""
        if self._note is None:
            return set(self._questions)
        return set(self._note.ids) - set(self._note.unanswered)

    async def follow(self) -> Fault:
        """See it to its outcomes; returns what to tell questions that have none."""
        try:
            left = await self._to_its_end()
            if self.outcomes is not None:
                self._cross_out(self.outcomes)
            return left
        except Stopped as stopped:
            begun = self._note and self._note.batch
            goes_on = f"batch {begun} goes on, and the same command fetches it" if begun else "no batch was begun"
            return Fault("transport", f"{stopped}; {goes_on}", "park")
        except Exception as error:  # a full disk, for one: nobody may wait for ever
            return Fault("raised", one_line(f"{type(error).__name__}: {error}"), "park")

    async def _to_its_end(self) -> Fault:
        try:
            state = await self._begun()
            if state is None:
                self.outcomes = {}
                return Fault("server", "its batch was never begun", "slower")
            assert self._note is not None
            state = await self._ended(state, len(self._note.ids))
            answers, self._gone = await self._api.answers(state, self.ids)
        except Fault as fault:
            return self._broken(fault)
        sent_at = {id_: self._note.sent_at + timedelta(microseconds=at) for at, id_ in enumerate(self._note.ids)}
        self.outcomes = {id_: Outcome(found=found, sent_at=sent_at[id_]) for id_, found in answers.items()}
        self._say(f"batch {state.id}: {state.status}, {len(answers):,} of {len(self.ids):,} questions answered")
        return self._without_answer(state, len(self._note.ids))

    async def _begun(self) -> State | None:
        """How it stands, once it is begun; None where an earlier sitting came no further than to its file."""
        if self._note is not None and self._note.batch is not None:
            return await self._api.look(self._note.batch)
        if self._note is not None:
            state = await self._api.find(self._note.file)
        else:
            file = await self._api.upload(b"".join(self._questions.values()))
            self._note = Note(who=self._who, file=file, sent_at=datetime.now(UTC), ids=list(self._questions))
            self._notes.add(self._note)
            await self._api.rest(0)
            state = await self._api.begin(file)
        if state is not None:
            self._note.batch = state.id
            self._notes.save()
        return state

    async def _ended(self, state: State, count: int) -> State:
        """Wait for its end."""
        pace = self._api.pace
        self._say(f"batch {state.id}: {count:,} questions, {state.progress}; this may take a day")
        pause, told, told_at = pace.first, state.progress, monotonic()
        while state.status not in ENDED:
            await self._api.rest(pause)
            pause = min(1.5 * pause, pace.longest)
            state = await self._api.look(state.id)
            if state.progress != told and monotonic() - told_at >= pace.told:
                told, told_at = state.progress, monotonic()
                self._say(f"batch {state.id}: {told}")
        return state

    def _without_answer(self, state: State, count: int) -> Fault:
        """What to tell a question that it ended without."""
        code, words = state.error
        said = self._api.blotted(f"batch {state.id} {state.status} without an answer to this. {words}".strip())
        if state.status == "failed" and code == TOO_MANY_TOKENS:
            self.too_large = "tokens"
            return Fault("rate", said, "slower" if count > 1 else "park")
        return Fault("timeout" if state.status == "expired" else "server", said, "slower")

    def _broken(self, fault: Fault) -> Fault:
        """What to tell whoever waits where it cannot be begun, or not be followed to its end."""
        where = f"endpoint {self._who.endpoint!r}"
        if self._note is None and fault.kind == "length" and len(self._questions) > 1:
            self.too_large = "bytes"
            return Fault(fault.kind, f"{where} takes no file as large ({fault})", "slower")
        if self._note is None:
            return Fault(fault.kind, f"{where} takes no questions for a batch ({fault}); ask without --batch", "park")
        if self._note.batch is None and fault.remedy == "never":
            self.outcomes = {}
            return Fault(fault.kind, f"{where} begins no batch ({fault}); ask without --batch", "park")
        if fault.kind == "not_found":
            self.outcomes, self._gone = {}, self.ids
            return Fault(fault.kind, f"{where} knows batch {self._note.batch} no more", "slower")
        which = f"batch {self._note.batch}" if self._note.batch else f"the batch of file {self._note.file}"
        again = f"the same command tries again; without {str(self._notes.path)!r} it asks and pays again"
        return Fault(fault.kind, f"{where}: {which} could not be followed ({fault}); {again}", "park")

    def _cross_out(self, outcomes: Mapping[str, Outcome]) -> None:
        """Note which questions it ended without, so that they are asked again."""
        assert self._note is not None
        self._note.unanswered = [id_ for id_ in self._note.ids if id_ not in outcomes or not outcomes[id_].stays]
        self._notes.save()

    def _say(self, text: str) -> None:
        print(f"judge {self._who.judge}: {text}", file=sys.stderr, flush=True)

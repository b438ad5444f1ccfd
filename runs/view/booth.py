"""Where a person votes: one debate after the other, blind.

    booth = Booth(watch, pages, sealing, person="ann")
    booth.routes()                     # /judge, /judge/name, /judge/<ballot>

A ballot shows what every judge is shown: the motion, what is known, and the speeches under the neutral names of
`runs/transcript.py`. It is addressed by a keyed digest of the person and the debate, whose key nobody is told and goes
with the process: neither the page nor its address leads to the debate, to who speaks, or to what anybody thought of it,
until the vote is stored. Then the page says who it was.

Everybody is given the same debates in the same order (`runs/ballots.py`). A vote lands in the journal at once; a thread
seals a sealed run again when no vote has come for a moment (`Sealing`). A vote that is refused comes back as it was
filled in.
"""

import hashlib
import hmac
import secrets
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from runs.ballots import MOST_REASON, behind, cast, name_of, reseal, vote_of
from runs.journal import StorageError
from runs.panels import is_trajectory
from runs.transcript import Transcript
from runs.view.pages import Pages, checked
from runs.view.stored import UNREADABLE
from runs.view.watch import Watch, background
from topics.errors import InputError

PERSON = "person"
"""The cookie with a person's name."""
KEPT = 100_000
"""Ballots that are remembered."""
FORM = "application/x-www-form-urlencoded"
"""How forms are sent; of any other kind, none is read."""
QUIET_S = 2.0
"""Seconds without a vote after which a run is sealed again."""


class Cast(BaseModel):
    """A ballot that was filled in."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    winner: Literal["for", "against", "tie", "abstain"]
    confidence: Annotated[float | None, Field(ge=0, le=100)] = None
    reason: Annotated[str, Field(max_length=MOST_REASON)] = ""


class Booth:
    """The pages on which a person votes."""

    def __init__(self, watch: Watch, pages: Pages, sealing: "Sealing", *, person: str = "") -> None:
        """`person` is who votes here, whoever comes; without one, each says a name, which a cookie keeps."""
        if person:
            name_of(person)
        self.watch = watch
        self.pages = pages
        self.sealing = sealing
        self.person = person
        self._key = secrets.token_bytes(32)
        self._ballots: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._cast: dict[str, set[str]] = {}

    def routes(self) -> list[BaseRoute]:
        """Where each page is."""
        return [
            Route("/judge", self.next, methods=["GET"]),
            Route("/judge/name", self.name, methods=["GET"]),
            Route("/judge/name", self.named, methods=["POST"]),
            Route("/judge/{ballot}", self.ballot, methods=["GET"]),
            Route("/judge/{ballot}", self.vote, methods=["POST"]),
        ]

    # Who

    def _of(self, request: Request) -> str:
        """Who votes, or nobody yet."""
        person = self.person or request.cookies.get(PERSON, "")
        with suppress(InputError):
            name_of(person)
            return person
        return ""

    def name(self, request: Request) -> Response:
        """Where a person says a name, or another one."""
        return RedirectResponse("/judge", 303) if self.person else self._asked_name()

    def _asked_name(self, error: str = "") -> Response:
        status = 400 if error else 200
        return self.pages.page("name.html", title="Judge", status=status, csrf=self.csrf, error=error)

    async def named(self, request: Request) -> Response:
        """A person says a name."""
        form = await self._form(request)
        person = form.get("name", "").strip()
        try:
            name_of(person)
        except InputError:
            return self._asked_name("A name has up to 50 letters, digits, - and _.")
        response = RedirectResponse("/judge", 303)
        if not self.person:
            response.set_cookie(PERSON, person, max_age=30 * 86_400, httponly=True, samesite="lax")
        return response

    @property
    def csrf(self) -> str:
        """What a form of ours carries, and nobody else's can."""
        return self._digest("form")

    def _digest(self, *parts: str) -> str:
        return hashlib.blake2b("\x1f".join(parts).encode(), key=self._key, digest_size=16).hexdigest()

    async def _form(self, request: Request) -> dict[str, str]:
        given = await self._sent(request)
        if not hmac.compare_digest(given.get("csrf", "").encode(), self.csrf.encode()):
            raise HTTPException(403, "this form is not of this sitting; go back, load the page again, and send it anew")
        return given

    async def _sent(self, request: Request) -> dict[str, str]:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
            raise HTTPException(415, f"a form is sent as {FORM}")
        form = await request.form(max_files=0, max_fields=10)
        return {name: value for name, value in form.items() if isinstance(value, str)}

    # Which debate

    def next(self, request: Request) -> Response:
        """To the next ballot of whoever asks."""
        if not (person := self._of(request)):
            return self._asked_name()
        now = self.watch.now
        voted = {*now.verdicts.filter(judge=name_of(person))["debate_id"]} | self._cast.get(person, set())
        for debate_id in now.ballots:
            if debate_id not in voted:
                return RedirectResponse(f"/judge/{self._ballot(person, debate_id)}", 303)
        return self.pages.page(
            "done.html",
            title="Judge",
            person=person,
            fixed=bool(self.person),
            voted=len(voted),
            going=not now.sealed,
        )

    def _ballot(self, person: str, debate_id: str) -> str:
        ballot = self._digest("ballot", person, debate_id)
        self._ballots[ballot] = person, debate_id
        self._ballots.move_to_end(ballot)
        if len(self._ballots) > KEPT:
            self._ballots.popitem(last=False)
        return ballot

    def _named(self, request: Request) -> tuple[str, str, str]:
        """Ballot, person and debate of a URL."""
        ballot = request.path_params["ballot"]
        person, debate_id = self._ballots.get(ballot, ("", ""))
        if not person or person != self._of(request):
            raise HTTPException(404, "no such ballot of yours, or no longer; take the next one")
        return ballot, person, debate_id

    # The ballot, the vote, and who it was

    def ballot(self, request: Request) -> Response:
        """A ballot, or what it turned out to be once it was cast."""
        ballot, person, debate_id = self._named(request)
        stored = self.watch.store.debate(debate_id)
        mine = next((vote for vote in stored.votes if vote["judge"] == name_of(person)), None)
        if mine is None:
            return self._shown(ballot, person, debate_id)
        self._has_voted(person, debate_id)
        return self.pages.page(
            "cast.html",
            title="Your vote",
            person=person,
            row=self.watch.now.debate(debate_id),
            vote=mine,
            verdicts=[verdict for verdict in stored.verdicts if not is_trajectory(verdict["judge"])],
            waits=self.sealing.waits,
        )

    def _has_voted(self, person: str, debate_id: str) -> None:
        """Known at once, though what is watched tells it a moment later."""
        self._cast.setdefault(person, set()).add(debate_id)

    def _shown(
        self, ballot: str, person: str, debate_id: str, *, error: str = "", status: int = 200, given: Any = None
    ) -> Response:
        debate = self.watch.of(debate_id)
        return self.pages.page(
            "ballot.html",
            title="Judge",
            status=status,
            ballot=ballot,
            csrf=self.csrf,
            person=person,
            fixed=bool(self.person),
            topic=debate.topic,
            names=Transcript.of(debate).names,
            turns=debate.turns,
            error=error,
            given={"winner": "", "confidence": "", "reason": ""} | (given or {}),
            most_reason=MOST_REASON,
        )

    async def vote(self, request: Request) -> Response:
        """Store a vote."""
        from starlette.concurrency import run_in_threadpool

        try:
            ballot, person, debate_id = self._named(request)
        except HTTPException as error:  # the viewer was started anew since the ballot was read
            typed = (await self._sent(request)).get("reason", "")
            return self.pages.page("error.html", title="404", status=404, line=error.detail, typed=typed)
        form = await self._form(request)
        return await run_in_threadpool(self._vote, ballot, person, debate_id, form)

    def _vote(self, ballot: str, person: str, debate_id: str, form: dict[str, str]) -> Response:
        try:
            given = checked(Cast, {name: value for name, value in form.items() if value.strip()})
            debate = self.watch.of(debate_id)
            confidence = None if given.confidence is None else given.confidence / 100
            vote = vote_of(debate, name_of(person), given.winner, confidence=confidence, reason=given.reason)
            cast(self.watch.folder, debate.match, vote)
        except (InputError, StorageError) as error:
            status = 409 if isinstance(error, InputError) else 503
            return self._shown(ballot, person, debate_id, error=str(error), status=status, given=form)
        self._has_voted(person, debate_id)
        self.sealing.wanted()
        return RedirectResponse(f"/judge/{ballot}", 303)


class Sealing:
    """Seals a sealed run again whose journal holds votes that its tables lack, in a thread while the block lasts.

    All tables are written anew, which takes seconds for a large run: so it waits until nobody has voted for a moment,
    and then for five times as long as it took before.
    """

    def __init__(self, folder: Path, *, quiet: float = QUIET_S) -> None:
        self.folder = folder
        self.waits = ""
        """Why votes are not in the tables yet, where they are not."""
        self._quiet = quiet
        self._due = 0.0
        self._stop = threading.Event()

    def wanted(self) -> None:
        """A vote came."""
        self._due = max(self._due, time.monotonic() + self._quiet)

    def __enter__(self) -> "Sealing":
        self._thread = background("sealing", self._step, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with suppress(InputError, *UNREADABLE):
            if behind(self.folder):
                print("sealing the votes; Ctrl-C again leaves them to the next start", file=sys.stderr, flush=True)
        self._thread.join()
        self.waits = reseal(self.folder)

    def _step(self) -> float:
        if (began := time.monotonic()) >= self._due:
            self.waits = reseal(self.folder)
            took = time.monotonic() - began
            self._due = max(self._due, began + 6 * took)
        return self._quiet / 2

"""A worker: one language model in this process, and the thread that answers for it.

    worker = Worker("models/small", dtype="float32", four_bit=False, batch=64)
    worker.add(adapter)                     # any number of adapters over the one base
    worker.start()
    request = await worker.ask(request)     # from as many tasks as there are
    worker.close()

torch lets other threads run while it computes, so a thread is all that it takes. Requests that come in at about the
same time, as those of the debates of a run do, are gathered into one batch (`arena/generate.py`). A request that is
cancelled leaves its batch at the next token. Whatever a model raises fails the requests in flight, and the thread
goes on; where memory is full, it goes on with smaller batches.
"""

import logging
import sys
import threading
from asyncio import AbstractEventLoop, Future, get_running_loop
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

from arena.contestants import SpeakFailed
from arena.models import Tokenizer, extra, load_model, load_tokenizer
from arena.speech import split_reasoning
from runs.adapters import Adapter
from topics.errors import one_line

if TYPE_CHECKING:
    from arena.generate import Request

LINGER, LONGEST_LINGER = 0.02, 0.2
"""Seconds without a new request after which a batch begins, and seconds after which it begins in any case."""
LONG = 2.0
"""Seconds of loading after which it is said what is being loaded."""


@dataclass(eq=False)
class Waiting:
    """A request, and who waits for it."""

    request: "Request"
    future: "Future[Request]"
    loop: AbstractEventLoop
    over: bool = False
    """It was told what came of it, or given up."""

    def tell(self, error: SpeakFailed | None = None) -> None:
        """From the worker's thread: hand over what came of it."""
        self.over = True

        def tell() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(self.request)
            else:
                self.future.set_exception(error)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(tell)


class Worker:
    """One model in this process, and the thread that generates with it."""

    def __init__(self, source: str, *, dtype: Literal["float32", "bfloat16", "auto"], four_bit: bool, batch: int):
        with _loading(source), extra():
            import arena.generate

            self._generate = arena.generate.generate
            self._is_full = arena.generate.is_full
            self.tokenizer: Tokenizer = load_tokenizer(source)
            self.model = load_model(source, dtype=dtype, four_bit=four_bit)
        self.name = Path(source).name if Path(source).is_dir() else source
        self.batch = batch
        self.adapters: set[str] = set()
        config = self.model.config.get_text_config(decoder=True)
        self.window: int | None = getattr(config, "max_position_embeddings", None)
        self._stops = _stops(self.model, self.tokenizer)
        control = {i: self.tokenizer.convert_ids_to_tokens(i) for i in self.tokenizer.all_special_ids}
        self._unsaid = {i for i, token in control.items() if split_reasoning(token) == (token, "")}
        self._waiting: list[Waiting] = []
        self._arrived = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"worker {self.name}", daemon=True)

    def add(self, adapter: Adapter) -> None:
        """Lay a LoRA adapter over the base, or know the base as this `full` entry; its canary must agree."""
        from arena.canary import attach, check_canary

        if adapter.form == "full":
            with self.model.disable_adapter() if self.adapters else nullcontext():
                check_canary(adapter, self.model, self.tokenizer)
        elif adapter.id not in self.adapters:
            self.model = attach(self.model, adapter, name=adapter.id)
            self.model.set_adapter(adapter.id)
            check_canary(adapter, self.model, self.tokenizer)
            self.adapters.add(adapter.id)

    def text(self, tokens: Sequence[int]) -> str:
        """What was said: without control tokens, but with tags of private reasoning, which are split off later."""
        said = [token for token in tokens if token not in self._unsaid]
        return str(self.tokenizer.decode(said, skip_special_tokens=False))

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    async def ask(self, request: "Request") -> "Request":
        """Wait until `request` is answered. Who is cancelled takes the request along."""
        loop = get_running_loop()
        waiting = Waiting(request, loop.create_future(), loop)
        with self._arrived:
            if self._closing:
                raise SpeakFailed("server", f"the worker of {self.name} has ended")
            self._waiting.append(waiting)
            self._arrived.notify()
        try:
            return await waiting.future
        finally:
            request.dropped = request.finish is None

    def close(self) -> None:
        """End the thread, at the next token at the latest; what is in flight is dropped."""
        with self._arrived:
            self._closing = True
            self._arrived.notify()
            for waiting in self._waiting:
                waiting.request.dropped = True
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while batch := self._gathered():
            self._answer(batch)
            with self._arrived:
                self._waiting = [waiting for waiting in self._waiting if not waiting.over]

    def _answer(self, batch: list[Waiting]) -> None:
        requests = [waiting.request for waiting in batch]
        waiting_for = {id(waiting.request): waiting for waiting in batch}
        try:
            self._generate(self.model, requests, self._stops, lambda request: waiting_for[id(request)].tell())
        except BaseException as error:  # whatever a model raises, the thread lives on and nobody waits in vain
            if self._is_full(error) and len(batch) > 1:
                self.batch = len(batch) // 2
                print(f"{self.name}: memory is full; going on with {self.batch} speeches at once", file=sys.stderr)
                return  # all that has not ended is asked again, and draws the same
            what = one_line(f"{self.name}: {type(error).__name__}: {error}")
            for waiting in batch:
                if not waiting.over:
                    waiting.tell(SpeakFailed("server", what))

    def _gathered(self) -> list[Waiting]:
        """Whatever waits, up to a batch, once requests have stopped coming in; nothing when it is time to end."""
        with self._arrived:
            while True:
                self._arrived.wait_for(lambda: self._waiting or self._closing)
                since, before = monotonic(), 0
                while before < len(self._waiting) < self.batch and monotonic() - since < LONGEST_LINGER:
                    before = len(self._waiting)
                    self._arrived.wait_for(lambda: self._closing, timeout=LINGER)
                if self._closing:
                    return []
                self._waiting = [waiting for waiting in self._waiting if not waiting.request.dropped]
                if self._waiting:
                    return self._waiting[: self.batch]


def _stops(model: object, tokenizer: Tokenizer) -> set[int]:
    """Tokens that end a turn."""
    config = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    return {tokenizer.eos_token_id, *([] if ids is None else [ids] if isinstance(ids, int) else ids)}


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Say on stderr what is being loaded if that takes long, and nothing else of what libraries say."""
    with extra():
        from transformers.utils import logging as bars
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # of a kernel that is not needed
    timer = threading.Timer(LONG, lambda: print(f"loading {source} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if shown:
            bars.enable_progress_bar()

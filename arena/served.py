"""Policies inside a vLLM server: loading an adapter while it runs, and the proof that it is the one that was meant.

    server = Server(endpoint=endpoint, urls=endpoint.base_url, key=key)      # or that of arena/serving.py
    name = server.seat(adapter, base="some-model")                           # what requests are to call it

A server answers a request that names no adapter, or one it got wrong, with whatever weights it has, and without a word.
So each checkpoint has a name of its own, which its digest is part of (a prefix cache goes by that name), and before it
plays it recites its canary (`arena/canary.py`) through the server: the prompt as the server's own template renders it,
and the log-probability of each token of the speech, asked once by the adapter's name and once by the base's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from arena.canary import compare
from arena.client import listed, without
from arena.endpoints import Endpoint
from arena.models import TEMPLATE
from runs.adapters import Adapter, tokens_digest
from topics.errors import InputError, one_line


def name_of(adapter: Adapter) -> str:
    """What servers call an adapter: its id and a part of its weights' digest, so that no two checkpoints share it."""
    return f"{adapter.id}-{adapter.weights_digest[:12]}"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A vLLM that runs, at one URL or at several that are to hold the same."""

    endpoint: Endpoint
    urls: tuple[str, ...]
    """Each ends in /v1, as a rule."""
    key: str | None = field(default=None, repr=False)
    dtype: str | None = None
    """What it computes in, where that is known."""

    def seat(self, adapter: Adapter, base: str) -> str:
        """Have an adapter over the model `base` loaded and proven everywhere; returns what requests are to call it.

        A policy of form `full` is the model `base` itself. Raises `InputError`.
        """
        name = base if adapter.form == "full" else self.load(adapter)
        self.check(adapter, name, base)
        return name

    def load(self, adapter: Adapter) -> str:
        """Have an adapter loaded, where it is not yet; returns its name there."""
        name = name_of(adapter)
        for url in self.urls:
            if name in (listed(self.endpoint, url, self.key) or ()):
                continue
            body = {"lora_name": name, "lora_path": str(adapter.folder.resolve())}
            status, answer = self._post(url + "/load_lora_adapter", body)
            said = self._said(answer)
            if status == 200 or (status == 400 and "already" in said):
                continue
            byhand = f"start it with --lora-modules {name}=FOLDER"
            if status in (403, 404, 405) and name not in said and str(adapter.folder.name) not in said:
                raise InputError(
                    f"endpoint {self.endpoint.name!r} loads no adapters while it runs ({status}); set "
                    f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True where it is started, with --enable-lora, or {byhand}"
                )
            raise InputError(
                f"endpoint {self.endpoint.name!r} does not load {adapter.id} ({status}: {said}); it needs "
                f"--enable-lora, a --max-lora-rank that is large enough, and sight of {str(adapter.folder)!r}; "
                f"or {byhand}"
            )
        return name

    def check(self, adapter: Adapter, name: str, base: str) -> float:
        """Refuse a server at which `name` is not `adapter`, or `base` not its base; returns the largest difference."""
        differences = []
        for url in self.urls:
            prompt = self._prompt(url, adapter, name)
            now = self._recited(url, adapter, name, prompt)
            without = None if adapter.canary.without is None else self._recited(url, adapter, base, prompt)
            try:
                differences.append(compare(adapter, now, self.dtype, base=without))
            except InputError as error:
                raise InputError(f"endpoint {self.endpoint.name!r}, {name!r} at {url}: {error}") from None
        return max(differences)

    def _prompt(self, url: str, adapter: Adapter, name: str) -> list[int]:
        """The tokens of the canary's prompt, as the server renders it."""
        body = {
            "model": name,
            "messages": [said.model_dump() for said in adapter.canary.messages],
            "add_generation_prompt": True,
            "chat_template_kwargs": TEMPLATE,
        }
        found = self._answered(url.removesuffix("/v1") + "/tokenize", body)
        tokens = found.get("tokens") if isinstance(found, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            self._no_proof("its /tokenize gives no tokens")
        if tokens_digest(tokens) != adapter.canary.prompt_digest:
            raise InputError(
                f"endpoint {self.endpoint.name!r}: the tokens of {adapter.id}'s canary (prompt) are others than when "
                f"it was trained: another tokenizer or chat template; serve the base it was trained on"
            )
        return tokens

    def _recited(self, url: str, adapter: Adapter, name: str, prompt: Sequence[int]) -> list[float]:
        """Natural log-probability of each token of the canary's speech behind `prompt`, by the policy `name`."""
        speech = adapter.canary.tokens
        body = {
            "model": name,
            "prompt": [*prompt, *speech],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,  # of no other tokens
        }
        found = self._answered(url + "/completions", body)
        try:
            tokens = found["choices"][0]["prompt_logprobs"][len(prompt) :]
            return [float(row[str(token)]["logprob"]) for token, row in zip(speech, tokens, strict=True)]
        except (KeyError, IndexError, TypeError, ValueError):
            self._no_proof("its /completions gives no prompt_logprobs")

    def _answered(self, url: str, body: Mapping[str, Any]) -> Any:
        status, answer = self._post(url, body)
        if status != 200:
            self._no_proof(f"{url} answers {status}: {self._said(answer)}")
        return answer

    def _no_proof(self, why: str) -> NoReturn:
        raise InputError(
            f"endpoint {self.endpoint.name!r} cannot prove which adapter it plays ({why}); expected a vLLM server, "
            f"with nothing before it that hides /tokenize or /v1/completions"
        )

    def _post(self, url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Status and body of an answer."""
        import openai

        with openai.OpenAI(
            api_key=self.key or "none", base_url=url, max_retries=1, timeout=self.endpoint.timeout_s
        ) as client:
            try:
                return 200, client.post(url, cast_to=object, body=body)
            except openai.APIStatusError as error:
                return error.status_code, error.body or error.message
            except (openai.APIError, ValueError) as error:
                raise InputError(
                    f"endpoint {self.endpoint.name!r}: no answer from {url} ({self._said(str(error))})"
                ) from None

    def _said(self, answer: Any) -> str:
        """What an answer says, on one bounded line and without the key."""
        text = answer.get("message") or answer.get("detail") or answer if isinstance(answer, dict) else answer
        return one_line(without(self.key, str(text)), 300)

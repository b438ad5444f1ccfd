"""Endpoints: where contestants and judges that are language models answer, and what that costs.

    [[endpoints]]
    name = "big"
    base_url = "https://api.example.com/v1"     # or a list of them
    api_key_env = "BIG_API_KEY"                 # read from the environment or .env; the key itself stands nowhere
    requests_per_minute = 500
    prompt_price = 0.15                         # USD per million tokens

    [[endpoints]]
    name = "here"
    kind = "vllm"
    model = "runs/out/bases/tiny-0c77aa1d"      # no base_url: the arena starts `vllm serve` (arena/serving.py)

Both kinds speak the OpenAI protocol. They differ in how they are to be treated: an API tells when it is asked too much,
so how many requests are in flight adapts to it; a vLLM server queues without a word, so a fixed number is.
"""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from arena.contestants import Name

Price = Annotated[float, Field(ge=0, le=1e6)]
PerMinute = Annotated[int, Field(ge=1, le=10**12)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://HOST:PORT/v1 or https://HOST/v1")
    if parts.username or parts.password:
        raise ValueError("holds a name or a key; a key is named by api_key_env and stands in the environment")
    return text.rstrip("/")


Url = Annotated[str, AfterValidator(_url)]


class Endpoint(BaseModel):
    """An endpoint, as it stands in a roster."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Name
    kind: Literal["api", "vllm"] = "api"
    base_url: Annotated[
        tuple[Url, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
    ] = ()
    """Where it is: one, or several that share the debates among them; none where the arena starts the server."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """Of a server that the arena starts: a folder or hub name."""
    arguments: tuple[str, ...] = ()
    """Of a server that the arena starts: further arguments of `vllm serve`."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of the variable that holds the key."""
    in_flight: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Most requests at once, of each model."""
    requests_per_minute: PerMinute | None = None
    """Most requests that begin within any minute, of each model."""
    tokens_per_minute: PerMinute | None = None
    """Most tokens within any minute, of each model."""
    connect_timeout_s: Seconds = 10
    timeout_s: Seconds = 300
    """For a whole answer."""
    attempts: Annotated[int, Field(ge=1, le=100)] = 6
    """How often one answer is asked for before it counts as failed."""
    prompt_price: Price = 0.0
    """USD per million prompt tokens."""
    cached_price: Price | None = None
    """USD per million prompt tokens that were read from a cache (default: as any other)."""
    completion_price: Price = 0.0
    """USD per million completion tokens, those of reasoning included."""
    batch_discount: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of these prices that is taken off what is asked through the batch API."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.base_url and self.kind == "api":
            raise ValueError("has no base_url; expected base_url = 'https://HOST/v1'")
        if not self.base_url and self.model is None:
            raise ValueError("has neither base_url nor model; expected where a server is, or model = what to serve")
        if self.base_url and (self.model is not None or self.arguments):
            raise ValueError("has a base_url, so the arena starts no server for it; leave out model and arguments")
        return self

    @property
    def is_started(self) -> bool:
        """Whether the arena starts the server itself."""
        return not self.base_url

    def cost(self, prompt: int, cached: int, completion: int) -> float:
        """USD for so many tokens; `cached` are among those of the prompt."""
        cached_price = self.prompt_price if self.cached_price is None else self.cached_price
        return (
            (prompt - cached) * self.prompt_price + cached * cached_price + completion * self.completion_price
        ) / 1e6

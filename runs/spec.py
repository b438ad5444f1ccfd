"""The spec: everything that decides a run's debates, resolved, and its digest.

`spec.json` is written before any debate; a folder that holds one is a run. On `--resume` the digest must agree;
where it does not, the keys that differ are named. What does not decide the debates (judges, endpoints, concurrency,
folders, `--limit`) is stored beside it and may change.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from runs.files import replace_text
from runs.records import Opener, Slot
from runs.schema import VERSION
from topics.errors import InputError, is_file

NAME = "spec.json"


class Spec(BaseModel):
    """What a run plays. Fields up to `contestants` decide the debates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    topics: dict[str, str]
    """Digest by topic id."""
    format: tuple[Slot, ...]
    opener: Opener
    matches: int | None
    """Per topic; None for every pair on both sides."""
    replicates: int
    contestants: tuple[dict[str, Any], ...]
    """As seated, by name."""
    endpoints: tuple[dict[str, Any], ...] = ()
    """Where contestants and judges are asked; without keys."""
    judges: tuple[dict[str, Any], ...] = ()
    """Every judge that was ever seated."""
    panels: tuple[dict[str, Any], ...] = ()
    settings: dict[str, Any] = {}
    """As given on the command line and in files; `--config spec.json` feeds them back."""
    version: int = VERSION

    @property
    def decisive(self) -> dict[str, Any]:
        """The fields that decide the debates, as JSON values."""
        return self.model_dump(mode="json", exclude={"endpoints", "judges", "panels", "settings", "version"})

    @property
    def unpriced(self) -> list[str]:
        """Endpoints of which no price is set: what they took is not known, and not nothing."""
        prices = ("prompt_price", "cached_price", "completion_price")
        return [str(endpoint.get("name")) for endpoint in self.endpoints if not any(map(endpoint.get, prices))]

    @property
    def digest(self) -> str:
        """SHA-256 over what decides the debates."""
        return sha256(json.dumps(self.decisive, sort_keys=True).encode()).hexdigest()

    def differences(self, other: "Spec") -> list[str]:
        """Names of the deciding fields in which two specs differ."""
        mine, theirs = self.decisive, other.decisive
        return [key for key in mine if mine[key] != theirs[key]]

    def save(self, folder: Path) -> None:
        """Write `spec.json`, whole or not at all."""
        body = json.loads(self.model_dump_json()) | {"digest": self.digest}
        replace_text(folder / NAME, json.dumps(body, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def beside(cls, folder: Path) -> "Spec | None":
        """The spec of tables that were read from a folder; None where there is none, as of tables made otherwise."""
        return cls.read(folder) if is_file(folder / NAME) else None

    @classmethod
    def read(cls, path: Path) -> "Spec":
        """The spec in a run's folder, or in a file by itself; its digest is checked."""
        path = path / NAME if path.is_dir() else path
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            digest = body.pop("digest")
            if body["version"] > VERSION:
                raise InputError(
                    f"{str(path)!r} has version {body['version']}, newer than {VERSION}; update debate-arena"
                )
            spec = cls.model_validate(body)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{str(path)!r} cannot be read as the spec of a run: {type(error).__name__}") from None
        if digest != spec.digest:
            raise InputError(
                f"{str(path)!r} was changed by hand: its digest does not match; restore it or start a new run"
            )
        return spec

"""Files that are there whole or not at all, and their digests."""

import hashlib
import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, never sees half of it."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

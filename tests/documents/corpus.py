"""Shards of documents for tests of stages, and what is in shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import SCHEMA, Shards, documents_of, read_batches, shards_in


def write(folder: Path, sources: Mapping[str, Sequence[str]], shard_bytes: int = 1 << 20) -> Path:
    """Write texts as the finished folder of a stage."""
    for name, texts in sources.items():
        with Shards(folder / "documents", name, SCHEMA, shard_bytes) as shards:
            shards.write(documents_of(name, texts, licence="MIT"))
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every document of a folder of shards, in order."""
    return [row for shard in shards_in(folder) for batch in read_batches(shard) for row in batch.to_pylist()]


def texts(folder: Path) -> list[str]:
    """The text of every document of a folder of shards, in order."""
    return [row["text"] for row in rows(folder)]


class Place(Workspace):
    """A workspace that remembers what it tells the user."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        super().__init__(folder, Machine(workers=workers))
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        """Remember a message."""
        self.notes.append(message)

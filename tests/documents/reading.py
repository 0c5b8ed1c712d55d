"""Reading one source in a test, and what came of it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from headwater.core.errors import EmptyResultError, InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import read_batches, shards_in
from headwater.documents.read import Read, read


def run(folder: Path, source: dict[str, Any], workers: int = 1, **more: Any) -> tuple[dict[str, Any], list, list]:
    """Read one source and return the counts, the documents and the dropped documents."""
    settings = Read.model_validate({"sources": {"web": source}, **more})
    counts = read(settings, {}, Workspace(folder, Machine(workers=workers)))
    return counts, rows(folder / "documents"), rows(folder / "dropped")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for shard in shards_in(folder) for batch in read_batches(shard) for row in batch.to_pylist()]


def texts(documents: list[dict[str, Any]]) -> list[str]:
    return [document["text"] for document in documents]


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fingerprint(source: dict[str, Any]) -> Any:
    return Read.model_validate({"sources": {"web": source}}).fingerprint(hash_file)["web"]


def problem_of(folder: Path, source: dict[str, Any], **more: Any) -> str:
    """The line that a user sees, after checking that nothing half-written would be taken for a result."""
    with pytest.raises((InputError, EmptyResultError)) as caught:
        run(folder / "refused", source, **more)
    assert not (folder / "refused" / "documents").exists()
    shutil.rmtree(folder / "refused", ignore_errors=True)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)

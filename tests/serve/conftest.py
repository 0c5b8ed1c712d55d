"""A finished run with an index, two models of it, and the app that serves them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from headwater import load, run
from headwater.core.hardware import Machine
from headwater.documents.document import read_batches, shards_in
from headwater.evaluation.arena import Votes
from headwater.serve.app import app_of
from headwater.serve.browse import Shelf
from headwater.serve.models import Models, open_models

BASE = "http://127.0.0.1:7878"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, prose: Path) -> Path:
    """A folder in which the recipe `tiny` has run, of the first 120 documents of the prose."""
    folder = tmp_path_factory.mktemp("serve")
    lines = prose.read_text(encoding="utf-8").splitlines(keepends=True)[:120]
    (folder / "prose.jsonl").write_text("".join(lines), encoding="utf-8")
    shutil.copy(Path(__file__).parent / "tiny.yaml", folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run(load("tiny.yaml", "machine.workers=1", "machine.threads=1"))
    finally:
        os.chdir(before)
    (folder / "runs" / "tiny" / "report.html").write_text("<!doctype html><title>report</title><script>1</script>")
    return folder


@pytest.fixture(scope="session")
def document(place: Path) -> dict[str, str]:
    """A training document."""
    (shard, *_) = shards_in(place / "runs" / "tiny" / "stages" / "split" / "documents")
    return next(row for batch in read_batches(shard) for row in batch.to_pylist() if len(row["text"].split()) > 40)


@pytest.fixture(scope="session")
def models(place: Path) -> Models:
    """The model of the run before and after training."""
    machine = Machine(runs=str(place / "runs"), threads=1, device="cpu")
    return open_models(["before=tiny@0", "tiny"], machine, dtype=torch.float32, most_tokens=64, origin=None)


@pytest.fixture
def votes(tmp_path: Path) -> Votes:
    return Votes(tmp_path / "arena" / "votes.jsonl")


@pytest.fixture
def client(place: Path, models: Models, votes: Votes, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser of sorts, without a network."""
    monkeypatch.chdir(place)
    with TestClient(app_of(models, votes, Shelf(place / "runs"), "127.0.0.1"), base_url=BASE) as client:
        yield client

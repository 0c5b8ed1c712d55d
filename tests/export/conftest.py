"""Finished stages of a small run whose model is not trivial: documents, a tokenizer, and checkpoints on demand."""

from __future__ import annotations

import inspect
import json
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.model import checkpoint
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.tokens.tokenizer import TrainBpe, tokenizer

torch.set_num_threads(1)

MakeInputs = Callable[..., dict[str, Path]]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of documents, a tenth held out, and of a tokenizer of 500 tokens."""
    folder = tmp_path_factory.mktemp("finished")
    prose = list(pydoc_data.topics.topics.values())
    for path, texts in {
        "documents/prose-00000.parquet": prose[:40],
        "held_out/prose-00000.parquet": prose[40:46],
        "held_out/code-00000.parquet": [inspect.getsource(json.decoder)],
    }.items():
        with ShardFile(folder / "split" / path) as shard:
            shard.write(documents_of(Path(path).stem.rpartition("-")[0], texts))
    (folder / "tokenizer").mkdir()
    out = Workspace(folder / "tokenizer", Machine(workers=1))
    tokenizer(TrainBpe(use="train_bpe", vocab_size=500, sample_bytes=200_000), {"documents": folder / "split"}, out)
    return {"documents": folder / "split", "tokenizer": folder / "tokenizer"}


@pytest.fixture
def make_inputs(finished: dict[str, Path], tmp_path: Path) -> MakeInputs:
    """Write a checkpoint of a model whose norms are not 1 and whose logits span several nats."""

    def make(**shape: object) -> dict[str, Path]:
        small = {"vocab_size": 500, "hidden_size": 64, "num_layers": 3, "num_heads": 4, "ffn_size": 96}
        model = random_model(ModelConfig.model_validate({"context_length": 100, **small, **shape}), 0, "plain")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * 0.3) if parameter.dim() == 1 else parameter.mul_(4)
        checkpoint.save(tmp_path / "train" / "checkpoint", model, 30)
        return {**finished, "checkpoint": tmp_path / "train"}

    return make


@pytest.fixture
def out(tmp_path: Path) -> Workspace:
    """A place for the stage to work; other software is not asked."""
    (tmp_path / "stage.partial").mkdir()
    return Workspace(tmp_path / "stage.partial", Machine(threads=1, foreign_python="off"))

"""A small world to train in: documents of repeating patterns as token shards, and a tiny first checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from headwater.core.hardware import Machine
from headwater.core.stage import Inputs, Workspace
from headwater.model import checkpoint
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.tokens.shards import TokenCounts, TokenFormat, TokenShard, write_tokens_json
from headwater.training.config import Train

torch.set_num_threads(1)

VOCABULARY = 64
PLAIN = {"precision": "fp32", "compile": "off", "attention": "blocks"}
"""How the tests compute where speed is not their matter: nothing is measured."""

TRICKS = {
    "optimizer": {"use": "muon", "variance_beta": 0.9, "equilibrate_rows": True, "cautious_decay": True},
    "average": {"memory_steps": 5},
    "z_loss": 1e-3,
    "dropout": 0.2,
}
"""Everything that a run may do beside the plain way, together."""


@pytest.fixture
def world(tmp_path: Path) -> Inputs:
    """Inputs of the stage train: two sources, and a model of two small layers."""
    return make_world(tmp_path)


def make_world(folder: Path, held_out: Mapping[str, int] | None = None) -> Inputs:
    """Write the inputs of the stage train into `folder`; `held_out` says how many documents of each source are."""
    form = TokenFormat(VOCABULARY, separator_id=0, tokenizer_sha256="ab" * 32)
    counts: dict[str, dict[str, TokenCounts]] = {"up": {}, "down": {}}
    for name, direction in (("up", 1), ("down", -1)):
        for split, documents in (("training", 60), ("held_out", (held_out or {}).get(name, 8))):
            with TokenShard(folder / "encode" / split / f"{name}-00000.parquet", form) as shard:
                rng = np.random.default_rng(len(split))
                for number in range(documents):
                    length = int(rng.integers(5, 60))
                    tokens = (rng.integers(0, 63) + direction * np.arange(length)) % 63 + 1
                    tokens[0] = 0
                    shard.write(pa.array([f"{name}-{number}"]), tokens, np.array([length]), np.array([3 * length]))
            counts[name][split] = shard.counts
    write_tokens_json(folder / "encode", form, counts)
    config = ModelConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=2, context_length=64, qk_norm=True
    )
    model = random_model(config, 0)
    notes = {"expected_initial_loss": config.expected_initial_loss()}
    checkpoint.save(folder / "initialize" / "checkpoint", model, 0, notes)
    return {"tokens": folder / "encode", "checkpoint": folder / "initialize"}


MakeSettings = Callable[..., Train]


@pytest.fixture
def settings() -> MakeSettings:
    return make_settings


def make_settings(**changes: Any) -> Train:
    """20 steps of 4 rows of 32 tokens, uncompiled."""
    small = {"steps": 20, "sequence_length": 32, "batch_tokens": 128, "speed": PLAIN}
    quick = {"validate_every": 0, "validation_tokens": 256, "checkpoint_interval": 0, "mixture": {"max_epochs": 1000}}
    return Train.model_validate(small | quick | {"schedule": {"use": "wsd", "warmup_steps": 2}} | changes)


@pytest.fixture
def out(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "store" / "train.partial")


def workspace(folder: Path) -> Workspace:
    """A stage's folder, one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    return Workspace(folder, Machine(threads=1, device="cpu"))

"""Token folders made by hand, and documents of real text: Python's own reference manual and source files."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import pydoc_data.topics
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.tokens.shards import TokenCounts, TokenFormat, TokenShard, write_tokens_json
from headwater.tokens.tokenizer import TrainBpe, tokenizer

MODULES = (argparse, ast, inspect, json, tarfile)

MakeTokens = Callable[..., Path]


@pytest.fixture
def make_tokens(tmp_path: Path) -> MakeTokens:
    """Write a token folder: `make_tokens(prose=[5, 9], code=[...])` gives each document so many tokens."""

    def make(vocab_size: int = 50_000, shards: int = 2, **lengths: list[int]) -> Path:
        folder = tmp_path / "encode"
        form = TokenFormat(vocab_size, separator_id=0, tokenizer_sha256="ab" * 32)
        counts = {}
        for number, (name, documents) in enumerate(lengths.items()):
            rng = np.random.default_rng(number)
            counts[name] = {
                split: _write(folder / split, name, documents, form, rng, shards) for split in ("training", "held_out")
            }
        write_tokens_json(folder, form, counts)
        return folder

    return make


def _write(
    folder: Path, name: str, lengths: list[int], form: TokenFormat, rng: np.random.Generator, shards: int
) -> TokenCounts:
    totals = np.zeros(3, int)
    for shard, part in enumerate(np.array_split(np.asarray(lengths), shards)):
        with TokenShard(folder / f"{name}-{shard:05d}.parquet", form) as out:
            for index, length in enumerate(part):
                tokens = rng.integers(1, form.vocab_size, length)
                tokens[0] = form.separator_id
                ids = pa.array([f"{name}-{shard}-{index}"])
                out.write(ids, tokens, np.array([length]), np.array([3 * (length - 1)]))
        totals += (out.counts.tokens, out.counts.documents, out.counts.bytes)
    return TokenCounts(*totals.tolist())


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished document stage: prose in two shards and code in one, the last tenth held out."""
    folder = tmp_path_factory.mktemp("split")
    prose = list(pydoc_data.topics.topics.values())
    code = [inspect.getsource(module) for module in MODULES]
    write_documents(folder / "documents" / "prose-00000.parquet", prose[:30])
    write_documents(folder / "documents" / "prose-00001.parquet", prose[30:70])
    write_documents(folder / "held_out" / "prose-00001.parquet", prose[70:])
    write_documents(folder / "documents" / "code-00000.parquet", code[:4])
    write_documents(folder / "held_out" / "code-00000.parquet", code[4:])
    return folder


@pytest.fixture(scope="session")
def trained(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage tokenizer: 600 entries trained on the documents."""
    out = Workspace(tmp_path_factory.mktemp("tokenizer"), Machine(workers=1))
    tokenizer(TrainBpe(use="train_bpe", vocab_size=600, sample_bytes=300_000), {"documents": documents}, out)
    return out.folder


@pytest.fixture
def out(tmp_path: Path) -> Workspace:
    """A place for a stage to work."""
    (tmp_path / "stage.partial").mkdir()
    return Workspace(tmp_path / "stage.partial", Machine(workers=1))


def write_documents(path: Path, texts: list[str]) -> None:
    """Write a shard of documents."""
    with ShardFile(path) as shard:
        shard.write(documents_of(path.stem.rpartition("-")[0], texts))

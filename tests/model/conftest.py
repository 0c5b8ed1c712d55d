"""Small models with weights that are not trivial, and a small real tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from headwater.core.hardware import Machine
from headwater.core.stage import Inputs, Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.model.transformer import Transformer

torch.set_num_threads(1)

MakeModel = Callable[..., Transformer]


@pytest.fixture
def make_model() -> MakeModel:
    """Make a small model; norm weights differ from 1 and matrices are large enough to matter."""

    def make(seed: int = 0, **shape: object) -> Transformer:
        small = {"vocab_size": 300, "hidden_size": 48, "num_layers": 3, "num_heads": 4, "ffn_size": 80}
        model = random_model(ModelConfig.model_validate({"context_length": 200, **small, **shape}), seed, "plain")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
                else:
                    parameter.mul_(5)
        return model

    return make


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a stage tokenizer: a byte-level BPE of 300 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([json.__doc__ or "", torch.__doc__ or "", Workspace.__doc__ or ""] * 4, trainer)
    folder = tmp_path_factory.mktemp("stage") / "tokenizer"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder.parent


@pytest.fixture
def out(tmp_path: Path) -> Workspace:
    folder = tmp_path / "stage.partial"
    folder.mkdir()
    return Workspace(folder, Machine(threads=1))


def write_documents(folder: Path) -> None:
    """Write a finished stage of documents: two sources of English that is at hand everywhere."""
    sources = {"library": [json.__doc__ or "", Workspace.__doc__ or ""], "torch": [torch.__doc__ or ""] * 3}
    for name, texts in sources.items():
        with ShardFile(folder / "documents" / f"{name}-00000.parquet") as shard:
            shard.write(documents_of(name, texts * 3))


@pytest.fixture
def inputs(tokenizer: Path, tmp_path: Path) -> Inputs:
    """Inputs of the stage initialize: the tokenizer, and documents to measure on."""
    write_documents(tmp_path / "split")
    return {"tokenizer": tokenizer, "documents": tmp_path / "split"}

"""Small models with random weights that are far from uniform, and a small run up to its two checkpoints."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import pytest
import torch

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.model.checkpoint import save
from headwater.model.config import ModelConfig
from headwater.model.transformer import Transformer
from headwater.tokens.encode import Encode, encode
from headwater.tokens.loader import Batches
from headwater.tokens.mixture import Mixture
from headwater.tokens.tokenizer import TrainBpe, tokenizer


def make_model(seed: int = 0, **changes: object) -> Transformer:
    """A model of 2 layers, context 32 and 97 tokens."""
    shape = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "context_length": 32,
    }
    model = Transformer(ModelConfig(**(shape | changes)))
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = 1 + noise * 0.1 if norm else noise * (1.0 if name.startswith("positions") else 0.3)
    return model.eval()


GPT2 = {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True, "num_kv_heads": 4}


@pytest.fixture(params=[{}, GPT2], ids=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Transformer:
    """A random model."""
    return make_model(**request.param)


SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64, "vocab_size": 400}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stages before evaluate: documents of Python's manual, a tokenizer, tokens, and two checkpoints.

    The trained one has had a few steps on the training documents, enough to tell it from the untrained one.
    """
    folders = {
        name: tmp_path_factory.mktemp(name) for name in ("documents", "tokenizer", "tokens", "start", "checkpoint")
    }
    texts = list(pydoc_data.topics.topics.values())
    for name, part in (("prose", texts[:60]), ("poems", texts[60:])):
        for folder, few in (("documents", part[: len(part) // 2]), ("held_out", part[len(part) // 2 :])):
            with ShardFile(folders["documents"] / folder / f"{name}-00000.parquet") as shard:
                shard.write(documents_of(name, few))
    machine = Machine(workers=1)
    settings = TrainBpe(use="train_bpe", vocab_size=400, sample_bytes=200_000)
    tokenizer(settings, folders, Workspace(folders["tokenizer"], machine))
    encode(Encode(), folders, Workspace(folders["tokens"], machine))
    torch.manual_seed(0)
    model = make_model(**SHAPE)
    for parameter in model.parameters():
        parameter.data *= 0.1 if parameter.ndim > 1 else 1
    save(folders["start"] / "checkpoint", model, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = Batches(folders["tokens"], Mixture(max_epochs=100), 64, 8, 0)
    for step in range(60):
        batch = [torch.from_numpy(array).long() for array in batches.batch(step)]
        optimizer.zero_grad()
        model.loss(*batch).backward()
        optimizer.step()
    save(folders["checkpoint"] / "checkpoint", model, 60)
    return folders


@pytest.fixture
def out(tmp_path: Path) -> Workspace:
    """A place for the stage to work."""
    (tmp_path / "evaluate.partial").mkdir()
    return Workspace(tmp_path / "evaluate.partial", Machine(workers=1, threads=1, device="cpu"))

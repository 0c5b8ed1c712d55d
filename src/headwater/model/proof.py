"""The proof that a changed model is sound, before anything is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.model import checkpoint
from headwater.model.calibration import Rows
from headwater.model.transformer import KVCache, Transformer

ROUNDING = 1e-4
"""Largest difference of logits that counts as rounding in fp32, as a share of the largest logit."""
CACHED_TOKENS = 64
"""Tokens that are fed one by one to compare with and without cache: each is a pass through the model."""


def prove(model: Transformer, tokens: Tensor) -> dict[str, float]:
    """Check that a model is what its shape says and computes the same with a cache as without.

    Args:
        model: the new one.
        tokens: a text [tokens] int64, at least 2.

    Raises:
        MismatchError: it is not; says what differs.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters != model.config.parameters():
        _fail(f"{parameters:,} parameters, its shape says {model.config.parameters():,}")
    row = tokens[None, : min(len(tokens), model.config.context_length, CACHED_TOKENS)]
    with torch.no_grad():
        whole = model(row)
        cache = KVCache(model.config, 1, row.shape[1])
        pieces = [model(row[:, n : n + 1], cache=cache) for n in range(row.shape[1])]
    apart = _apart(torch.cat(pieces, 1), whole)
    if not apart <= ROUNDING:
        _fail(f"logits with a cache differ by {apart:.1e} of their size from those without")
    return {"cache_apart": apart}


def prove_same(model: Transformer, source: Transformer, tokens: Tensor, tolerance: float) -> dict[str, float]:
    """Check that a model gives the logits of its source.

    Args:
        model: the new one.
        source: the old one.
        tokens: a text [tokens] int64.
        tolerance: largest difference, as a share of the largest logit; 0 allows none.

    Raises:
        MismatchError: it does not.
    """
    row = tokens[None, : model.config.context_length]
    with torch.no_grad():
        apart = _apart(model(row), source(row))
    if not apart <= tolerance:
        _fail(f"what was added changed the logits by {apart:.1e} of their size")
    return {"logits_apart": apart}


def prove_written(folder: Path, model: Transformer) -> None:
    """Check that a checkpoint, read back, is the model in memory, bit for bit.

    Raises:
        MismatchError: it is not; names the tensor.
    """
    again, _ = checkpoint.load_model(folder)
    if again.config != model.config:
        _fail(f"it reads back with the shape {again.config}")
    written = again.state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.equal(written[name], tensor):
            _fail(f"tensor {name} reads back as other numbers")


def mean_loss(model: Transformer, rows: Rows) -> float:
    """Loss of a model on a text [nats per token]."""
    total, left = 0.0, rows.counted
    with torch.no_grad():
        for batch in rows.batches():
            losses = model.token_losses(*map(torch.from_numpy, batch)).flatten()[:left]
            total += float(losses.double().sum())
            left -= losses.numel()
    return total / rows.counted


def measured(model: Transformer, rows: Rows) -> dict[str, float]:
    """Loss [nats per token] and bits per byte of a model on a text."""
    loss = mean_loss(model, rows)
    return {"loss": loss, "bits_per_byte": loss * rows.counted / math.log(2) / rows.bytes, "tokens": rows.counted}


def _apart(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())


def _fail(problem: str) -> NoReturn:
    raise MismatchError(
        f"the new model is wrong: {problem}", place="initialize", hint="this is a bug; please report it"
    )

"""What looks wrong while a run goes on: the first loss, losses and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headwater.core.stage import Workspace
from headwater.core.store import write_json
from headwater.tokens.loader import Row
from headwater.training.config import INITIAL_LOSS_TOLERANCE


def check_initial_loss(loss: float, notes: Mapping[str, Any], vocab_size: int, out: Workspace) -> None:
    """Compare the loss before the first update with what random weights give, or with guessing."""
    expected = notes.get("expected_initial_loss")
    chance = math.log(vocab_size)
    if expected is None:
        out.note(f"initial loss {loss:.3f} nats per token; guessing would be {chance:.3f}")
        if loss > chance + INITIAL_LOSS_TOLERANCE:
            out.warn(
                f"the initial loss {loss:.3f} is above ln(vocabulary) = {chance:.3f}: do weights and tokenizer belong together?"
            )
        return
    out.note(f"initial loss {loss:.3f} nats per token, expected {expected:.3f}")
    if abs(loss - expected) > INITIAL_LOSS_TOLERANCE:
        out.warn(
            f"the initial loss is {loss:.3f}, expected {expected:.3f} of random weights: something is wrong with the weights, the tokens or the loss"
        )


def keep_batch(what: str, step: int, loss: float, norm: float, rows: list[Row], folder: Path) -> Path:
    """Write down which documents the batch of a step was made of, to look at them; returns the file."""
    pieces = [{"source": row.source, "pieces": [piece._asdict() for piece in row.pieces]} for row in rows]
    record = folder / f"{what}-step-{step:06d}.json"
    write_json(record, {"step": step, "loss": str(loss), "gradient_norm": str(norm), "rows": pieces})
    return record


def sources_of(rows: list[Row]) -> str:
    """The sources of rows, for a message."""
    return ", ".join(sorted({row.source for row in rows}))

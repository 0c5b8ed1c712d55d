"""The validation: whole held-out documents, and totals that say what they are weighted by."""

from __future__ import annotations

import math

import pytest
import torch

from headwater.model.checkpoint import load_model
from headwater.tokens.packing import permutation
from headwater.tokens.shards import TokenFolder
from headwater.training.validation import Validation

from .conftest import make_world


def test_it_measures_whole_documents_and_weighs_the_total_by_their_bytes(settings, out, tmp_path):
    world = make_world(tmp_path, held_out={"up": 3, "down": 40})
    shares = {"up": 3, "down": 1}
    model, _ = load_model(world["checkpoint"] / "checkpoint")
    found = Validation(settings(validation_tokens=500), world["tokens"], shares, 4, out)(model, "cpu")
    losses, bits, sizes = {}, {}, {}
    for name in shares:
        source = TokenFolder(world["tokens"]).source(name, "held_out")
        tokens = sizes[name] = 0
        nats = 0.0
        for index in permutation(source.num_documents, f"evaluate/{name}").tolist():
            document = torch.from_numpy(source.document(index).astype("int64"))
            if tokens + len(document) > 500:
                break
            with torch.no_grad():
                targets = torch.cat([document[1:], torch.tensor([0])])
                # rows of 32 tokens: a document goes on in the next row without what is before it
                for first, last in _rows(tokens, len(document), 32):
                    logits = model(document[None, first:last])[0].double()
                    nats += float(torch.nn.functional.cross_entropy(logits, targets[first:last], reduction="sum"))
            tokens += len(document)
            sizes[name] += int(source.bytes[index])
        losses[name], bits[name] = nats / tokens, nats / math.log(2) / sizes[name]
    assert found["validation_loss"] == pytest.approx(
        losses | {"total": 0.75 * losses["up"] + 0.25 * losses["down"]}, rel=1e-5
    )
    total = sum(bits[name] * sizes[name] for name in bits) / sum(sizes.values())
    assert found["validation_bits_per_byte"] == pytest.approx(bits | {"total": total}, rel=1e-5)
    assert sizes["down"] > 2 * sizes["up"], "so that weighing by shares would show"


def _rows(start: int, length: int, sequence_length: int) -> list[tuple[int, int]]:
    """Where a document that begins at token `start` is cut by rows."""
    cuts = [cut - start for cut in range(0, start + length, sequence_length) if start < cut]
    return list(zip([0, *cuts], [*cuts, length], strict=True))

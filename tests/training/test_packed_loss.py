"""What a document teaches does not depend on where it is packed, beside what, or by how many ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headwater.model.checkpoint import load_model
from headwater.model.transformer import Transformer
from headwater.tokens.loader import Batch, Batches
from headwater.tokens.mixture import Mixture
from headwater.tokens.packing import BestFit, Concatenate
from headwater.tokens.shards import TokenFolder
from headwater.training.train import Run

WHOLE = BestFit(use="best_fit", max_padding=0.999)


def sums(model: Transformer, batches: list[Batch]) -> tuple[float, torch.Tensor]:
    """Loss and gradient summed over the targets that count."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        tokens, targets, documents = (torch.from_numpy(array) for array in batch)
        loss = model.loss(tokens, targets, documents) * (targets >= 0).sum()
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def alone(folder: Path) -> list[Batch]:
    """Each training document as a row of its own."""
    rows = []
    for name in ("up", "down"):
        source = TokenFolder(folder).source(name)
        for index in range(source.num_documents):
            tokens = source.document(index).astype("int32")[None]
            targets = tokens.copy()
            targets[0, :-1], targets[0, -1] = tokens[0, 1:], 0
            rows.append(Batch(tokens, targets, tokens * 0))
    return rows


@pytest.mark.parametrize("length", [64, 60])
def test_an_epoch_of_whole_documents_is_the_sum_of_its_documents(world, length):
    model, _ = load_model(world["checkpoint"] / "checkpoint")
    packed = []
    for name, other in (("up", "down"), ("down", "up")):
        batches = Batches(world["tokens"], Mixture(weights={name: 1, other: 0}), length, 1, 0, WHOLE)
        assert batches.fits[name].documents_cut == 0
        assert batches.fits[name].padding_share > 0, "so that padding would show"
        packed += [batches.batch(step) for step in range(int(batches.fits[name].rows))]
    loss, gradient = sums(model, packed)
    expected, wanted = sums(model, alone(world["tokens"]))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert (gradient - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_where_documents_are_cut_the_gradient_is_another(world):
    """The control of the test above: concatenation parts documents, which it would notice."""
    model, _ = load_model(world["checkpoint"] / "checkpoint")
    mixture = Mixture(weights={"up": 1, "down": 0})
    epochs = []
    for packing in (WHOLE, Concatenate(use="concatenate")):
        batches = Batches(world["tokens"], mixture, 64, 1, 0, packing)
        epochs.append(sums(model, [batches.batch(step) for step in range(-(-batches.tokens["up"] // 64))]))
    assert (epochs[0][1] - epochs[1][1]).abs().max() > 1e-2 * epochs[0][1].abs().max()


@pytest.mark.parametrize(("ranks", "rows"), [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_micro_batches_change_neither_loss_nor_gradient(world, settings, out, ranks, rows):
    """Padded rows: each micro-batch counts by its targets, and all ranks divide by those of the whole batch."""
    whole = {"packing": {"use": "best_fit", "max_padding": 0.999}, "sequence_length": 64, "batch_tokens": 256}
    run = Run(settings(**whole, micro_batch_sequences=4, clip_norm=0), world, out)
    step = 3
    counted = run.batches.counted_targets(step)
    assert counted < 256
    total, gradient = sums(run.model, [run.batches.batch(step)])
    parts = [run.batches.batch(step, rank, ranks) for rank in range(ranks)]
    micro = [
        Batch(*(array[first : first + rows] for array in part))
        for part in parts
        for first in range(0, len(part.tokens), rows)
    ]
    loss, ours = sums(run.model, micro)
    assert loss == pytest.approx(total, rel=1e-6)
    assert (ours - gradient).abs().max() < 1e-6 * counted
    run.model.zero_grad()
    run.state["steps_done"] = step
    assert run._gradient(run.batches.batch(step))[0] == pytest.approx(total / counted, rel=1e-6)

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from headwater.model.transformer import KVCache, document_starts

SHAPES = [
    {},
    {"num_kv_heads": 2, "head_size": 10},
    {"qk_norm": True, "tie_embeddings": False},
    {"num_kv_heads": 1, "qk_norm": True},
    {"ffn": "relu2", "bias": True, "num_kv_heads": 2},
    {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True},
]


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_document_gives_the_same_wherever_it_stands_in_a_row(make_model, shape):
    model = make_model(**shape)
    lengths = [1, 70, 64, 2, 63]  # across the borders of blocks of queries, which lie at multiples of 64
    row = tokens(1, sum(lengths))
    documents = torch.repeat_interleave(torch.arange(5, dtype=torch.int32), torch.tensor(lengths))[None]
    together = model(row, documents)
    apart = torch.cat([model(part) for part in row.split(lengths, dim=1)], dim=1)
    assert (together - apart).abs().max() < 2e-5
    assert (model(row) - apart).abs().max() > 1e-2  # without document numbers they do see each other


def test_no_gradient_crosses_documents(make_model):
    model = make_model()
    row = tokens(2, 150)
    documents = torch.repeat_interleave(torch.arange(3, dtype=torch.int32), torch.tensor([40, 50, 60])).expand(2, -1)
    vectors = model.embedding.weight[row].detach().requires_grad_()
    with torch.no_grad():
        model.embedding.weight.zero_()
    x, rope = vectors, (model.rope_cos[:150], model.rope_sin[:150])
    for block in model.blocks:
        x = block(x, rope, document_starts(documents))
    x[0, 40:90].pow(2).sum().backward()  # the middle document of the first row
    reached = vectors.grad.abs().sum(dim=-1) > 0
    expected = torch.zeros(2, 150, dtype=torch.bool)
    expected[0, 40:90] = True
    assert torch.equal(reached, expected)


def test_document_starts():
    documents = torch.tensor([[0, 0, 1, 2, 2, 2], [0, 1, 1, 1, 1, 2]], dtype=torch.int32)
    assert document_starts(documents).tolist() == [[0, 0, 2, 3, 3, 3], [0, 1, 1, 1, 1, 5]]


def test_later_tokens_change_nothing_before_them(make_model):
    model, row = make_model(), tokens(1, 130)
    changed = row.clone()
    changed[0, 100] = (changed[0, 100] + 1) % 300
    before, after = model(row), model(changed)
    assert torch.equal(before[:, :100], after[:, :100])
    assert not torch.equal(before[:, 100:], after[:, 100:])


def test_learned_positions_begin_again_with_each_document(make_model):
    model, row = make_model(positions="learned", norm="layer", ffn="gelu", bias=True, context_length=64), tokens(1, 60)
    documents = torch.repeat_interleave(torch.arange(3, dtype=torch.int32), torch.tensor([10, 20, 30]))[None]
    before = model(row, documents)
    with torch.no_grad():
        model.positions.weight[30:] = 100.0  # beyond the longest document
    assert torch.equal(model(row, documents), before)
    with torch.no_grad():
        model.positions.weight[29] += 1.0  # the last place of the longest
    changed = (model(row, documents) != before).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [59]


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_rows_are_no_part_of_anything(make_model, shape):
    """Loss, gradients and logits are those of the model without the rows, whatever stands in them."""
    padded = make_model(**shape, vocab_size=320, padding_rows=20)
    with torch.no_grad():
        for matrix in {padded.embedding.weight, padded.head_weight}:
            matrix[300:] = 50.0
    plain = make_model(**shape)
    weights = padded.state_dict()
    plain.load_state_dict(
        {name: t[:300] if name in ("embedding.weight", "head.weight") else t for name, t in weights.items()}
    )
    rows = tokens(2, 65)
    inputs, targets = rows[:, :-1], rows[:, 1:]
    assert torch.equal(padded(inputs), plain(inputs))
    assert torch.equal(padded.token_losses(inputs, targets), plain.token_losses(inputs, targets))
    losses = [model.loss(inputs, targets) for model in (padded, plain)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    for loss in losses:
        loss.backward()
    for matrix in {padded.embedding.weight, padded.head_weight}:
        assert not matrix.grad[300:].any()
    expected = dict(plain.named_parameters())
    for name, parameter in padded.named_parameters():
        rows_of = slice(0, 300) if name in ("embedding.weight", "head.weight") else slice(None)
        assert torch.allclose(parameter.grad[rows_of], expected[name].grad, atol=1e-6), name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cache_changes_nothing(make_model, shape):
    model, rows = make_model(**shape), tokens(3, 90)
    cache = KVCache(model.config, 3, capacity=90)
    with torch.no_grad():
        pieces = [model(part, cache=cache) for part in rows.split([40, 1, 1, 30, 18], dim=1)]
        assert (torch.cat(pieces, dim=1) - model(rows)).abs().max() < 2e-5
    assert cache.length == 90


@pytest.mark.parametrize("shape", SHAPES)
def test_chunked_loss_is_the_plain_loss(make_model, shape, monkeypatch):
    monkeypatch.setattr("headwater.model.transformer.CHUNK_LOGITS", 300 * 64)  # chunks of 64 tokens
    model, rows = make_model(**shape), tokens(3, 101)
    inputs, targets = rows[:, :-1], rows[:, 1:]
    loss = model.loss(inputs, targets)
    (loss * 0.5).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    plain = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    (plain * 0.5).backward()
    assert loss.item() == pytest.approx(plain.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        assert (found[name] - parameter.grad).abs().max() < 1e-6 * max(1, parameter.grad.abs().max()), name


def test_losses_of_tokens_add_up_to_the_loss(make_model):
    model, rows = make_model(), tokens(3, 101)
    losses = model.token_losses(rows[:, :-1], rows[:, 1:])
    assert losses.shape == (3, 100)
    assert not losses.requires_grad
    assert losses.mean().item() == pytest.approx(model.loss(rows[:, :-1], rows[:, 1:]).item(), abs=1e-6)


def test_bf16_arithmetic_is_near_fp32_and_gradients_stay_fp32(make_model):
    model, rows = make_model(), tokens(2, 65)
    plain = model.loss(rows[:, :-1], rows[:, 1:]).item()
    model.compute_dtype = torch.bfloat16
    loss = model.loss(rows[:, :-1], rows[:, 1:])
    loss.backward()
    assert loss.item() == pytest.approx(plain, abs=0.05)
    assert loss.item() != plain
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}

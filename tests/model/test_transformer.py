from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from headwater.model.transformer import (
    BlockAttention,
    KVCache,
    document_starts,
    drop,
    flex_attention,
    flex_mask,
    library_attention,
)

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


@pytest.mark.parametrize("chunk_logits", [1 << 22, 300 * 64])
def test_targets_below_zero_count_for_nothing(make_model, monkeypatch, chunk_logits):
    monkeypatch.setattr("headwater.model.transformer.CHUNK_LOGITS", chunk_logits)
    model, row, targets = make_model(), tokens(3, 70), tokens(3, 70, seed=1)
    targets[0, 40:] = targets[2] = -1
    logits = model(row)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    expected.backward()
    wanted = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    loss = model.loss(row, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        assert (parameter.grad - gradient).abs().max() < 1e-5 * max(float(gradient.abs().max()), 1)
    found = model.token_losses(row, targets)
    assert not found[targets < 0].any()
    assert float(found.sum() / 110) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(model.loss(row[:1], torch.full((1, 70), -1)).detach()) == 0


@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.3])
def test_the_gradient_of_the_z_loss_is_that_of_autograd(make_model, monkeypatch, z_loss):
    monkeypatch.setattr("headwater.model.transformer.CHUNK_LOGITS", 300 * 64)
    model, row, targets = make_model(tie_embeddings=False).double(), tokens(3, 70), tokens(3, 70, seed=1)
    targets[0, 40:] = targets[2] = -1
    vectors = model.hidden(row).detach().requires_grad_()  # attention computes its softmax in fp32
    monkeypatch.setattr(model, "hidden", lambda *_: vectors)
    model.z_loss = z_loss
    objective, loss = model.losses(row, targets)
    (objective * 0.7).backward()
    found = vectors.grad.clone(), model.head_weight.grad.clone()
    vectors.grad = model.head_weight.grad = None
    logits = model(row).flatten(0, 1)
    plain = F.cross_entropy(logits, targets.flatten(), ignore_index=-1)
    penalty = (logits.logsumexp(-1).square() * (targets.flatten() >= 0)).sum() / 110
    ((plain + z_loss * penalty) * 0.7).backward()
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(plain.item(), abs=1e-12)
    assert objective.item() == pytest.approx((plain + z_loss * penalty).item(), abs=1e-12)
    for ours, theirs in zip(found, (vectors.grad, model.head_weight.grad), strict=True):
        assert ours.dtype == torch.float64
        assert (ours - theirs).abs().max() < 1e-14
        assert theirs.abs().max() > 1e-4


def test_dropout_leaves_out_its_share_and_is_gone_when_switched_off(make_model):
    model, row = make_model(), tokens(1, 60)
    plain = model(row)
    model.set_dropout(0.25)
    torch.manual_seed(3)
    first, second = model(row), model(row)
    torch.manual_seed(3)
    assert torch.equal(model(row), first)
    assert (first - second).abs().max() > 1e-3
    dropped = drop(torch.ones(100_000), 0.25)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    model.set_dropout(0.0)
    assert torch.equal(model(row), plain)


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


def queries_keys_values(rows: int, length: int, heads: int, kv_heads: int, dtype=torch.float32, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    sizes = (heads, kv_heads, kv_heads)
    return [torch.randn(rows, length, n, 16, generator=generator).to(dtype).requires_grad_() for n in sizes]


def random_documents(rows: int, length: int, share: float, seed: int) -> torch.Tensor:
    begins = torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < share
    documents = begins.int().cumsum(dim=1, dtype=torch.int32)
    return documents - documents[:, :1]


def mixed(attention, qkv, start) -> list[torch.Tensor]:
    """The mixed values, and the gradients of a fixed weighting of them."""
    out = attention(*qkv, start)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, qkv, weight)]


@given(
    rows=st.integers(1, 5),
    length=st.integers(1, 150),
    kv_heads=st.sampled_from([1, 2, 4]),
    size=st.sampled_from([0, 16, 64]),
    share=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_attention_by_blocks_is_that_of_the_library_with_its_gradients(rows, length, kv_heads, size, share, seed):
    qkv = queries_keys_values(rows, length, 4, kv_heads, seed=seed)
    start = document_starts(random_documents(rows, length, share, seed)) if share else None
    for ours, theirs in zip(mixed(BlockAttention(size), qkv, start), mixed(library_attention, qkv, start), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def test_attention_by_blocks_in_bf16_is_as_near_to_fp32_as_the_library_s():
    start = document_starts(random_documents(3, 200, 0.02, 1))
    exact = mixed(library_attention, queries_keys_values(3, 200, 4, 2), start)
    errors = [
        [float((a.float() - b).abs().max()) for a, b in zip(mixed(f, half, start), exact, strict=True)]
        for f in (BlockAttention(64), library_attention)
        for half in [queries_keys_values(3, 200, 4, 2, torch.bfloat16)]
    ]
    assert all(ours < 1.5 * theirs + 1e-3 for ours, theirs in zip(*errors, strict=True)), errors


def test_the_cost_of_attention_follows_the_lengths_of_documents():
    attention, documents = BlockAttention(64), torch.arange(1024, dtype=torch.int32)[None] // 128
    start = document_starts(documents.expand(3, -1))

    def positions(tiles) -> int:
        return sum((rows.stop - rows.start) * (end - begin) * (end - key) for rows, key, begin, end in tiles)

    whole, short = attention.tiles(None, 3, 1024), attention.tiles(start, 3, 1024)
    assert positions(whole) == 3 * 64 * sum(range(64, 1025, 64))
    assert positions(short) == 3 * 8 * 64 * (64 + 128)
    assert all(rows == slice(0, 3) for rows, *_ in short)  # equal rows share their tiles
    start[1] = 0  # one document in the middle row: the others do not pay for it
    assert positions(attention.tiles(start, 3, 1024)) == (positions(whole) + 2 * positions(short)) / 3


def test_activations_that_are_computed_again_change_nothing(make_model):
    model, row = make_model(), tokens(2, 80)
    gradients = []
    for model.recompute in (False, True):
        model.zero_grad()
        model.loss(row[:, :-1], row[:, 1:]).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device: FlexAttention was not run")
def test_flex_attention_is_that_of_the_library():
    qkv = [x.detach().cuda().requires_grad_() for x in queries_keys_values(2, 256, 4, 2)]
    start = document_starts(random_documents(2, 256, 0.02, 1)).cuda()
    compiled = torch.compile(flex_attention)
    for ours, theirs in zip(mixed(compiled, qkv, flex_mask(start)), mixed(library_attention, qkv, start), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_sees_what_the_others_see():
    """Its forward pass also runs on a processor, uncompiled."""
    with torch.no_grad():
        qkv = [x.detach() for x in queries_keys_values(2, 128, 4, 2)]
        start = document_starts(random_documents(2, 128, 0.05, 1))
        ours = flex_attention(*qkv, flex_mask(start))
        torch.testing.assert_close(ours, library_attention(*qkv, start), rtol=1e-4, atol=1e-5)

"""The compiled loops against the model: the same logits, whatever the family, the type of the weights, the lengths of the texts."""

from __future__ import annotations

import pytest
import torch

from headwater.model import decoding
from headwater.model.decoding import Decoder, fits
from headwater.model.transformer import KVCache

SHAPES = {
    "llama": {},
    "grouped queries, head size of its own": {"num_kv_heads": 2, "head_size": 10},
    "biases": {"bias": True},
    "qwen3, untied": {"qk_norm": True, "num_kv_heads": 1, "tie_embeddings": False},
    "arcee": {"ffn": "relu2"},
    "gpt2": {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True},
    "padding rows": {"vocab_size": 320, "padding_rows": 20},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(0))


@shapes
def test_they_compute_what_the_model_computes(make_model, shape):
    model = make_model(**shape)
    row = tokens(3, 60)
    cache = KVCache(model.config, 3, 60)
    with torch.inference_mode():
        expected = model(row)
        model.hidden(row[:, :20], cache=cache)
        decoder = Decoder(model, cache)
        for at in range(20, 60):
            found = decoder(row[:, at])
            assert (found - expected[:, at]).abs().max() <= 2e-5 * expected.std()


@shapes
def test_texts_of_different_lengths_are_each_as_alone(make_model, shape):
    model = make_model(**shape)
    long, short = tokens(1, 30), tokens(1, 12)
    rows = torch.cat([long, torch.cat([torch.zeros(1, 18, dtype=torch.int64), short], dim=1)])
    documents = torch.tensor([[1] * 30, [0] * 18 + [1] * 12])
    cache = KVCache(model.config, 2, 40)
    more = tokens(2, 10)
    with torch.inference_mode():
        model.hidden(rows, documents, cache)
        decoder = Decoder(model, cache)
        together = [decoder(more[:, at]).clone() for at in range(10)]
        for number, begin in enumerate((long, short)):
            alone = model(torch.cat([begin, more[number : number + 1]], dim=1))[0, begin.shape[1] :]
            for at in range(10):
                assert (together[at][number] - alone[at]).abs().max() <= 2e-5 * alone.std()


def test_weights_of_16_bits_are_read_as_they_are(make_model):
    model = make_model(qk_norm=True).to(torch.bfloat16)
    exact = make_model(qk_norm=True)
    exact.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    row = tokens(2, 30)
    cache = KVCache(model.config, 2, 30)
    with torch.inference_mode():
        exact.hidden(row[:, :10], cache=cache)
        decoder = Decoder(model, cache)
        expected = exact(row)
        for at in range(10, 30):
            assert (decoder(row[:, at]) - expected[:, at]).abs().max() <= 2e-5 * expected.std()


def test_positions_stop_at_the_end_of_the_context(make_model):
    """A row whose text has ended goes on being computed, past the tables of positions."""
    model = make_model(context_length=16)
    cache = KVCache(model.config, 1, 20)
    with torch.inference_mode():
        model.hidden(tokens(1, 15), cache=cache)
        decoder = Decoder(model, cache)
        for _ in range(4):
            assert torch.isfinite(decoder(torch.tensor([1]))).all()


def test_weights_that_are_no_numbers_stay_visible(make_model):
    model = make_model()
    cache = KVCache(model.config, 1, 20)
    with torch.inference_mode():
        model.hidden(tokens(1, 10), cache=cache)
        model.blocks[1].attention.qkv.weight[3, 3] = float("nan")
        assert not torch.isfinite(Decoder(model, cache)(torch.tensor([1]))).all()


def test_where_they_are_taken(make_model, monkeypatch):
    model = make_model()
    assert fits(model, 1)
    assert not fits(model, decoding.ROWS + 1)
    assert not fits(make_model(tricks={"residual_scales": [1.1, 1.0]}), 1)
    assert not fits(make_model().to(torch.float16), 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: decoding.THREADS + 1)
    assert not fits(model, 1)

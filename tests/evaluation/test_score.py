from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.errors import InputError
from headwater.evaluation.config import Sampling
from headwater.evaluation.generate import generate
from headwater.evaluation.score import BATCH_TOKENS, batches, bits_per_byte, document_losses, total, windows


def documents(lengths: list[int], vocab_size: int = 97) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.concatenate([[0], rng.integers(1, vocab_size, length - 1)]).astype(np.uint16) for length in lengths]


def brute_force(model, tokens: np.ndarray, context: int, stride: int) -> float:
    """The loss of a document, token by token, each from whole logits of the window in which it is scored."""
    ids = torch.from_numpy(tokens.astype(np.int64))
    loss = 0.0
    for target in range(1, len(ids)):
        end = context if target <= context else context + math.ceil((target - context) / stride) * stride
        end = min(end, len(ids) - 1)
        logits = model(ids[None, max(end - context, 0) : target])[0, -1]
        loss -= logits.double().log_softmax(-1)[ids[target]].item()
    return loss


@torch.no_grad()
def test_losses_equal_brute_force_for_short_and_long_documents(model):
    texts = documents([1, 2, 33, 20, 32, 34, 100, 7])
    losses = document_losses(model, texts, overlap=0.5)
    for tokens, loss in zip(texts, losses, strict=True):
        assert loss == pytest.approx(brute_force(model, tokens, 32, 16), rel=1e-5, abs=1e-6)
    assert losses[0] == 0, "a separator alone has nothing to predict"


@torch.no_grad()
def test_context_and_overlap_are_respected(model):
    (tokens,) = texts = documents([75])
    for context, overlap, stride in ((8, 0.0, 8), (8, 0.75, 2), (20, 0.5, 10)):
        (loss,) = document_losses(model, texts, context_length=context, overlap=overlap)
        assert loss == pytest.approx(brute_force(model, tokens, context, stride), rel=1e-5)


def test_losses_do_not_depend_on_the_company(model):
    texts = documents([40, 3, 28, 90, 17, 90, 5])
    together = document_losses(model, texts)
    alone = [document_losses(model, [text])[0] for text in texts]
    assert together == pytest.approx(alone, rel=1e-5)


@given(st.integers(1, 200), st.integers(2, 40), st.floats(0, 0.99))
def test_each_token_but_the_first_is_scored_once(tokens: int, context: int, overlap: float):
    scored = []
    for window in windows(0, tokens, context, overlap):
        assert 0 <= window.begin < window.end < max(tokens, 2)
        assert 1 <= window.scored <= window.length <= context
        if window.begin and overlap < 1:
            assert window.length - window.scored >= int(context * overlap) - 1
        scored += range(window.end - window.scored + 1, window.end + 1)
    assert scored == list(range(1, tokens))


def test_batches_hold_all_windows_and_not_too_many_tokens():
    shown = [w for i, length in enumerate((5, 900, 70, 71, 3000, 2)) for w in windows(i, length, 512, 0.5)]
    made = list(batches(shown))
    assert sorted(window for batch in made for window in batch) == sorted(shown)
    assert all(len(batch) * batch[0].length <= BATCH_TOKENS for batch in made)
    assert all(batch[0].length == max(window.length for window in batch) for batch in made)


def test_bits_per_byte_are_a_ratio_of_sums():
    score = bits_per_byte(math.log(2) * np.array([100.0, 20.0]), np.array([50, 30]), np.array([20, 10]))
    assert score.value == pytest.approx(120 / 80)
    assert (score.documents, score.bytes, score.tokens) == (2, 80, 30)
    assert score.nats_per_token == pytest.approx(120 * math.log(2) / 30)
    assert score.perplexity == pytest.approx(2**4)


def test_the_standard_error_is_how_much_another_sample_differs():
    rng = np.random.default_rng(1)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        sizes = rng.lognormal(6, 1, 400)
        return sizes * rng.normal(1.5, 0.3, 400) * math.log(2), sizes

    scores = [bits_per_byte(losses, sizes, sizes) for losses, sizes in (sample() for _ in range(600))]
    spread = float(np.std([score.value for score in scores]))
    claimed = float(np.mean([score.standard_error for score in scores]))
    assert claimed == pytest.approx(spread, rel=0.1)


def test_one_document_has_no_standard_error():
    assert bits_per_byte(np.array([5.0]), np.array([10]), np.array([3])).standard_error is None


def test_the_total_weights_by_bytes_and_adds_errors_in_squares():
    first = bits_per_byte(math.log(2) * np.array([100.0, 140.0, 90.0]), np.array([100, 100, 100]), np.full(3, 30))
    second = bits_per_byte(math.log(2) * np.array([20.0, 30.0]), np.array([50, 50]), np.full(2, 5))
    both = total({"prose": first, "code": second})
    assert both.value == pytest.approx((330 + 50) / 400)
    assert both.standard_error == pytest.approx(math.hypot(0.75 * first.standard_error, 0.25 * second.standard_error))
    assert (both.documents, both.bytes, both.tokens) == (5, 400, 100)
    assert both.nats_per_token == pytest.approx(math.log(2) * 380 / 100)
    assert both.perplexity == pytest.approx(2**3.8)
    relative = math.hypot(
        0.9 * first.perplexity_error / first.perplexity, 0.1 * second.perplexity_error / second.perplexity
    )
    assert both.perplexity_error == pytest.approx(2**3.8 * relative)
    alone = bits_per_byte(np.array([5.0]), np.array([10]), np.array([3]))
    assert total({"prose": first, "code": alone}).standard_error is None


def test_predictions_that_are_not_numbers_are_an_error(model):
    model.norm.weight.data[:] = 3e38  # the hidden vectors are near the largest number, their products beyond
    with pytest.raises(InputError, match="predictions are not finite"):
        document_losses(model, documents([20]))
    with pytest.raises(InputError, match="predictions are not finite"):
        next(generate(model, [[1, 2]], Sampling(max_new_tokens=3)))

from __future__ import annotations

import pytest
import torch

from headwater.core.errors import MismatchError
from headwater.evaluation.config import Sampling
from headwater.evaluation.generate import draw, penalise
from headwater.evaluation.generate import generate as generate_together

from .conftest import make_model

PROMPT = [0, 5, 17, 80]


def generate(model, prompt: list[int], stop: int | None = None, vocab_size: int | None = None, **settings) -> list[int]:
    """What a model writes after one prompt."""
    sampling = Sampling.model_validate({"temperature": 1.0, "top_k": None, **settings})
    return [tokens[0] for tokens in generate_together(model, [prompt], sampling, stop=stop, vocab_size=vocab_size)]


def greedy_without_cache(model, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_greedy_with_a_cache_equals_greedy_without(model):
    written = generate(model, PROMPT, max_new_tokens=20, temperature=0)
    assert written == greedy_without_cache(model, PROMPT, 20)
    assert len(set(written)) > 3, "a model that repeats one token would prove nothing"


@pytest.mark.parametrize("tricks", [{}, {"residual_scales": [1.2, 0.9], "norm_weights": False}])
def test_compiled_loops_write_what_the_model_writes(monkeypatch, tricks):
    model = make_model(tricks=tricks)
    settings = Sampling(max_new_tokens=25, temperature=0.9, seed=3)
    prompts = [[0, 5, 17], [3, 80, 41, 2, 7], [9]]
    by_loops = list(generate_together(model, prompts, settings))
    monkeypatch.setattr("headwater.evaluation.generate.fits", lambda model, rows: False)
    assert list(generate_together(model, prompts, settings)) == by_loops
    assert len(by_loops) == 25


def test_the_seed_decides(model):
    def write(seed: int) -> list[int]:
        return generate(model, PROMPT, max_new_tokens=20, temperature=1.0, seed=seed)

    assert write(1) == write(1)
    assert write(1) != write(2)


def test_it_stops_before_the_separator_and_at_the_end_of_the_context(model):
    written = greedy_without_cache(model, PROMPT, 20)
    stop = written[7]
    expected = written[: written.index(stop)]
    assert (generate(model, PROMPT, max_new_tokens=20, temperature=0, stop=stop)) == expected
    assert len(generate(model, PROMPT, max_new_tokens=1000, temperature=0)) == 32 - len(PROMPT)


@pytest.mark.parametrize("length", [0, 32, 40])
def test_a_prompt_must_fit_the_context(model, length: int):
    with pytest.raises(MismatchError, match=f"a prompt of {length} tokens does not fit a context of 32"):
        (generate(model, [1] * length, max_new_tokens=5))


def test_ids_beyond_the_vocabulary_are_never_drawn(model):
    written = generate(model, PROMPT, max_new_tokens=28, temperature=5.0, vocab_size=20)
    assert max(written) < 20


def test_padding_rows_are_never_drawn():
    padded = make_model(vocab_size=128, padding_rows=31)
    with torch.no_grad():
        padded.embedding.weight[97:] = 9.0  # nobody's logits would be larger
    written = generate(padded, PROMPT, max_new_tokens=28, temperature=5.0)
    assert max(written) < 97


def frequencies(draws: int = 20_000, **settings) -> list[float]:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    random = torch.Generator().manual_seed(0)
    sampling = Sampling(**settings)
    drawn = torch.tensor([draw(logits, random, sampling) for _ in range(draws)])
    return (torch.bincount(drawn, minlength=4) / draws).tolist()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperature": 1.0, "top_k": None, "top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.5, "top_k": None, "top_p": 1.0}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        ({"temperature": 1.0, "top_k": 2, "top_p": 1.0}, [0, 4 / 7, 0, 3 / 7]),
        ({"temperature": 1.0, "top_k": None, "top_p": 0.65}, [0, 4 / 7, 0, 3 / 7]),
        ({"temperature": 1.0, "top_k": None, "top_p": 0.75}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"temperature": 1.0, "top_k": 2, "top_p": 0.5}, [0, 1, 0, 0]),
        ({"temperature": 1.0, "top_k": None, "min_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
        ({"temperature": 1.0, "top_k": None, "min_p": 0.45}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"temperature": 0.0, "top_k": None, "top_p": 1.0}, [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_right_frequencies(settings: dict, expected: list[float]):
    assert frequencies(4000, **settings) == pytest.approx(expected, abs=0.035)


def test_what_may_be_drawn_is_what_transformers_keeps():
    from transformers.generation import logits_process as theirs

    random = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature=0.7, top_k=12, top_p=0.9, min_p=0.1)
    for seed in range(20):
        logits = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3
        scores = logits[None]
        for step in (
            theirs.TemperatureLogitsWarper(0.7),
            theirs.TopKLogitsWarper(12),
            theirs.TopPLogitsWarper(0.9),
            theirs.MinPLogitsWarper(0.1),
        ):
            scores = step(torch.tensor([[0]]), scores)
        kept = set(torch.isfinite(scores[0]).nonzero().flatten().tolist())
        assert {draw(logits, random, sampling) for _ in range(600)} <= kept


def test_tokens_that_were_seen_are_penalised_as_in_transformers():
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3
    seen = [3, 7, 7, 49]
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), logits[None])[0]
    assert torch.equal(penalise(logits, {*seen, 60}, 1.3), theirs)


def test_a_penalty_makes_a_model_repeat_itself_less(model):
    settings = {"max_new_tokens": 28, "temperature": 0}
    plain, penalised = generate(model, PROMPT, **settings), generate(model, PROMPT, repetition_penalty=5.0, **settings)
    assert len(set(penalised)) > len(set(plain))


PROMPTS = [[0, 5, 17, 80], [0, 9], [0, 44, 3, 3, 60, 12, 71, 8, 20]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompts_of_different_lengths_are_continued_together_as_each_alone(model, temperature: float):
    settings = Sampling(temperature=temperature, top_k=None, max_new_tokens=28, seed=3)
    rows = list(zip(*generate_together(model, PROMPTS, settings), strict=True))
    for number, (prompt, row) in enumerate(zip(PROMPTS, rows, strict=True)):
        alone = generate(model, prompt, temperature=temperature, max_new_tokens=28, seed=3 + number)
        room = min(28, 32 - len(prompt))
        assert list(row) == alone + [None] * (len(row) - room)
        assert len(alone) == room


def test_a_text_that_ends_leaves_the_others_as_they_were(model):
    settings = Sampling(temperature=0, max_new_tokens=20)
    alone = [greedy_without_cache(model, prompt, 20) for prompt in PROMPTS]
    stop = alone[0][4]
    rows = list(zip(*generate_together(model, PROMPTS, settings, stop=stop), strict=True))
    for row, whole in zip(rows, alone, strict=True):
        end = whole.index(stop) if stop in whole else 20
        assert list(row) == whole[:end] + [None] * (len(row) - end)

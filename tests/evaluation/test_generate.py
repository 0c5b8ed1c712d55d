from __future__ import annotations

import pytest
import torch

from headwater.core.errors import MismatchError
from headwater.evaluation.generate import draw, generate

PROMPT = [0, 5, 17, 80]


def greedy_without_cache(model, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_greedy_with_a_cache_equals_greedy_without(model):
    written = list(generate(model, PROMPT, max_new_tokens=20, temperature=0))
    assert written == greedy_without_cache(model, PROMPT, 20)
    assert len(set(written)) > 3, "a model that repeats one token would prove nothing"


def test_the_seed_decides(model):
    def write(seed: int) -> list[int]:
        return list(generate(model, PROMPT, max_new_tokens=20, temperature=1.0, seed=seed))

    assert write(1) == write(1)
    assert write(1) != write(2)


def test_it_stops_before_the_separator_and_at_the_end_of_the_context(model):
    written = greedy_without_cache(model, PROMPT, 20)
    stop = written[7]
    expected = written[: written.index(stop)]
    assert list(generate(model, PROMPT, max_new_tokens=20, temperature=0, stop=stop)) == expected
    assert len(list(generate(model, PROMPT, max_new_tokens=1000, temperature=0))) == 32 - len(PROMPT)


@pytest.mark.parametrize("length", [0, 32, 40])
def test_a_prompt_must_fit_the_context(model, length: int):
    with pytest.raises(MismatchError, match=f"a prompt of {length} tokens does not fit a context of 32"):
        next(generate(model, [1] * length, max_new_tokens=5))


def test_ids_beyond_the_vocabulary_are_never_drawn(model):
    written = list(generate(model, PROMPT, max_new_tokens=28, temperature=5.0, vocab_size=20))
    assert max(written) < 20


def frequencies(draws: int = 20_000, **settings) -> list[float]:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    random = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw(logits, random, **settings) for _ in range(draws)])
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
        ({"temperature": 0.0, "top_k": None, "top_p": 1.0}, [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_the_right_frequencies(settings: dict, expected: list[float]):
    assert frequencies(4000, **settings) == pytest.approx(expected, abs=0.035)


def test_top_k_and_top_p_keep_what_transformers_keeps():
    from transformers.generation import logits_process

    random = torch.Generator().manual_seed(0)
    for seed in range(20):
        logits = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3
        theirs = logits_process.TemperatureLogitsWarper(0.7)(torch.tensor([[0]]), logits[None])
        theirs = logits_process.TopKLogitsWarper(12)(torch.tensor([[0]]), theirs)
        theirs = logits_process.TopPLogitsWarper(0.8)(torch.tensor([[0]]), theirs)
        kept = set(torch.isfinite(theirs[0]).nonzero().flatten().tolist())
        assert {draw(logits, random, 0.7, 12, 0.8) for _ in range(600)} <= kept

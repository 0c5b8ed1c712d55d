from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from headwater.training.config import Train

SMALL = {"sequence_length": 256, "batch_tokens": 2048}


def test_the_end_is_given_in_one_of_three_ways():
    assert Train.model_validate(SMALL | {"steps": 10}).planned_tokens == 20_480
    assert Train.model_validate(SMALL | {"total_tokens": "1M tokens"}).planned_steps == 489  # 488.28 rounded up
    budget = Train.model_validate(SMALL | {"budget": "3 min"})
    assert (budget.budget, budget.planned_steps, budget.planned_tokens) == (180.0, None, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, "set exactly one of steps, total_tokens and budget; got none"),
        ({"steps": 5, "budget": 60}, "got steps and budget"),
        (
            {"steps": 5, "batch_tokens": 2000},
            "batch_tokens 2,000 is not a multiple of sequence_length 256; 2,048 would be",
        ),
        ({"budget": 60, "schedule": {"use": "wsd", "decay_share": 1}}, "decay_share must leave time .* not 1"),
        ({"steps": 5, "micro_batch_sequences": 3}, "a batch of 8 sequences does not divide by micro_batch_sequences 3"),
        ({"budget": 60, "schedule": {"use": "cosine"}}, "a budget needs the schedule wsd"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, problem):
    with pytest.raises(ValidationError, match=problem):
        Train.model_validate(SMALL | change)


@pytest.mark.parametrize(
    ("sequence_length", "batch_tokens", "rows"),
    [(256, 2048, 8), (512, 1 << 19, 8), (1024, 7 * 1024, 1), (8192, 8192, 1)],
)
def test_micro_batches_are_chosen_to_divide_the_batch(sequence_length, batch_tokens, rows):
    settings = Train(steps=1, sequence_length=sequence_length, batch_tokens=batch_tokens)
    assert settings.micro_batch == rows
    assert settings.batch_sequences % settings.micro_batch == 0


def test_a_kill_of_a_short_run_costs_little():
    assert 0 < Train(steps=1, sequence_length=256, batch_tokens=2048).checkpoint_interval <= 60


def test_settings_load_no_torch():
    code = "import sys, headwater.training.config, headwater.model.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"

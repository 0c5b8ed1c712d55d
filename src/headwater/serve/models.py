"""The models of the app, opened once, and what they are asked: who writes, after what, and how much at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator

from headwater.core.config import Config
from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.evaluation.cases import Case
from headwater.evaluation.compare import Comparing, open_all, parse_place
from headwater.evaluation.config import Sampling
from headwater.evaluation.opening import Opened, model_digest
from headwater.serve.worker import Event

MOST_CHARACTERS = 8_000
"""Of a prompt."""
MOST_MODELS = 6
"""That write side by side."""
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.01, 10.0
"""Nearer to 0, logits divided by it are no finite numbers; 0 itself takes the likeliest token."""


class Asked(Config):
    """What some models shall write."""

    prompt: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _can_be_written(self) -> Asked:
        if not self.prompt.strip():
            raise ValueError("the prompt is empty")
        settings = self.sampling
        if settings.temperature and not LEAST_TEMPERATURE <= settings.temperature <= MOST_TEMPERATURE:
            raise ValueError(f"temperature is 0, or {LEAST_TEMPERATURE} to {MOST_TEMPERATURE:g}")
        if not 0.1 <= settings.repetition_penalty <= 10:
            raise ValueError("repetition_penalty is 0.1 to 10")
        if not 0 <= settings.seed < 2**53:
            raise ValueError("seed is 0 to 2^53 - 1")
        if len(settings.stop) > 8 or any(not 0 < len(stop) <= 100 for stop in settings.stop):
            raise ValueError("stop is at most 8 strings of 1 to 100 characters")
        return self


class Write(Asked):
    """What the chosen models shall write."""

    models: tuple[int, ...] = Field(min_length=1, max_length=MOST_MODELS)
    """Which of them, from 0."""


@dataclass(frozen=True)
class Models:
    """The models that the app was started with."""

    labels: list[str]
    opened: list[Opened]
    weights: list[str]
    """A hash of each one's weights: by it votes know a model."""
    runs: list[Path | None]
    """The folder of the run that each one is of."""
    most_tokens: int
    """The most that one text may have."""

    def check(self, asked: Asked) -> None:
        """Refuse what is more than this app gives.

        Raises:
            InputError: too many tokens are asked for, or there is no such model.
        """
        if asked.sampling.max_new_tokens > self.most_tokens:
            hint = "start headwater serve with a larger --max-tokens"
            raise InputError(f"is more than {self.most_tokens:,}", place="max_new_tokens", hint=hint)
        if isinstance(asked, Write):
            for number in asked.models:
                self.check_number(number)
            if len(set(asked.models)) < len(asked.models):
                raise InputError("a model is named twice", place="models", hint="name each once")

    def check_number(self, number: int) -> None:
        """Make sure that there is a model of this number.

        Raises:
            InputError: there is none.
        """
        if not 0 <= number < len(self.opened):
            hint = "load the page again: headwater serve was started anew"
            raise InputError(f"there is no model {number}", place="models", hint=hint)

    def write(
        self,
        asked: Asked,
        models: Sequence[int],
        names: Sequence[str],
        finished: Callable[[list[str]], None] | None = None,
    ) -> Iterator[Event]:
        """Let models continue a prompt, a token each in turns: what they write as it is written, then how much and how fast.

        Args:
            asked: the prompt and how to draw.
            models: which.
            names: what remarks call them; blind, not what they are.
            finished: told the texts, before the last event.
        """
        remarks: list[str] = []
        opened = [self.opened[number] for number in models]
        case = Case(prompt=asked.prompt.rstrip(" "))
        comparing = Comparing(opened, list(names), [case], asked.sampling, warn=remarks.append)
        begun = time.perf_counter()
        for _, place, text in comparing.pieces():
            while remarks:
                yield {"remark": remarks.pop(0)}
            if text:
                yield {"place": place, "text": text}
        (answers,) = comparing.answers
        if finished:
            finished([answer.texts[0] for answer in answers])
        seconds = round(time.perf_counter() - begun, 3)
        yield {"done": True, "tokens": [answer.tokens for answer in answers], "seconds": seconds}

    def facts(self) -> list[dict[str, Any]]:
        """What the page says of each model."""
        return [
            {
                "label": label,
                "step": opened.step,
                "parameters": opened.model.config.parameters(),
                "context": opened.model.config.context_length,
            }
            for label, opened in zip(self.labels, self.opened, strict=True)
        ]


def open_models(
    places: Sequence[str], machine: Machine, *, dtype: torch.dtype, most_tokens: int, origin: Path | None
) -> Models:
    """Open models, named as for `headwater compare`.

    Args:
        places: `name=place@step`, see `parse_place`.
        machine: where to compute.
        dtype: number format of weights and arithmetic.
        most_tokens: the most that one text may have.
        origin: the run in whose documents texts are looked up; None: each model's own.

    Raises:
        InputError: a model cannot be read.
        MismatchError: a model and its tokenizer do not belong together.
    """
    torch.set_num_threads(machine.processor_threads)
    labels, opened = open_all(places, machine, dtype)
    runs = [origin or _run_of(parse_place(place)[1], machine) for place in places]
    return Models(labels, opened, [model_digest(one.model) for one in opened], runs, most_tokens)


def _run_of(place: str, machine: Machine) -> Path | None:
    """The folder of the run that a place names, as `open_model` looks for it; None for other models."""
    folder = Path(place).expanduser()
    if (folder / "model.json").is_file() or (folder / "config.json").is_file():
        return None
    run = machine.run_folder(folder)
    return run if (run / "stages").is_dir() else None

"""What the command `generate` does: open a model, continue texts, show them as they grow."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.log import logger
from headwater.core.units import format_count
from headwater.evaluation.config import Sampling
from headwater.evaluation.opening import Opened, open_model
from headwater.evaluation.write import write

TOGETHER = 16
"""Texts that are written side by side: more take more memory for their keys and values, and gain little on a processor."""


@dataclass
class Written:
    """A prompt and what was written after it."""

    prompt: str
    text: str
    seed: int
    tokens: int
    """Tokens written."""


class Prompting:
    """Prompts being continued. Go through it once: by `pieces`, or by `all`."""

    def __init__(self, opened: Opened, prompts: Sequence[str], settings: Sampling, count: int) -> None:
        self._opened = opened
        self._settings = settings
        self._prompts = [prompt for prompt in prompts for _ in range(count)]
        self._tokens = 0
        self._seconds = 0.0

    def pieces(self) -> Iterator[str]:
        """The texts for a person: a single one grows piece by piece, of several each comes when it is done."""
        if len(self._prompts) == 1:
            yield self._prompts[0]
            for _, piece, _ in self._write(self._prompts, self._settings):
                yield piece
            yield "\n"
            return
        for number, written in enumerate(self._each()):
            yield f"{'' if number == 0 else chr(10)}--- {number + 1}, seed {written.seed}\n{written.prompt}{written.text}\n"

    def all(self) -> list[Written]:
        """The texts for a program."""
        return list(self._each())

    def summary(self) -> str:
        """How much was written, and how fast."""
        parameters = format_count(self._opened.model.config.parameters())
        step = "" if self._opened.step is None else f", step {self._opened.step:,}"
        speed = self._tokens / self._seconds if self._seconds else 0
        return f"{self._opened.name} ({parameters} parameters{step}): {self._tokens:,} tokens, {speed:,.1f} per second"

    def _each(self) -> Iterator[Written]:
        for first in range(0, len(self._prompts), TOGETHER):
            prompts = self._prompts[first : first + TOGETHER]
            seed = self._settings.seed + first
            found = [Written(prompt, "", seed + number, 0) for number, prompt in enumerate(prompts)]
            for number, piece, tokens in self._write(prompts, self._settings.model_copy(update={"seed": seed})):
                found[number].text += piece
                found[number].tokens += tokens
            yield from found

    def _write(self, prompts: Sequence[str], settings: Sampling) -> Iterator[tuple[int, str, int]]:
        begun = time.perf_counter()
        for number, piece, tokens in write(self._opened.model, self._opened.codec, prompts, settings, logger.warning):
            self._tokens += tokens
            self._seconds = time.perf_counter() - begun
            yield number, piece, tokens


def prompting(
    place: str,
    prompts: Sequence[str],
    sampling: Mapping[str, Any],
    machine: Machine,
    *,
    count: int = 1,
    step: int | None = None,
    tokenizer: Path | None = None,
    dtype: str = "float32",
) -> Prompting:
    """Open a model and make ready to continue prompts.

    Args:
        place: which model, see `open_model`.
        prompts: the texts, each the beginning of a document.
        sampling: fields of `Sampling`.
        machine: where to compute.
        count: texts after each prompt.
        step: of a run, which checkpoint.
        tokenizer: folder of the tokenizer, where the model has none of its own.
        dtype: number format of weights and arithmetic.

    Raises:
        InputError: a setting is out of range, there is no prompt, or the model cannot be read.
        MismatchError: model and tokenizer do not belong together.
    """
    settings = sampling_of(sampling, "generate")
    if count < 1:
        raise InputError("is less than 1", place="--count", hint="ask for one text or more")
    if not prompts:
        raise InputError("there is no prompt", place="generate", hint='such as: headwater generate demo "Return the"')
    torch.set_num_threads(machine.processor_threads)
    opened = open_model(place, machine, step=step, tokenizer=tokenizer, dtype=getattr(torch, dtype))
    return Prompting(opened, prompts, settings, count)


def sampling_of(values: Mapping[str, Any], command: str) -> Sampling:
    """Settings from the options of a command.

    Raises:
        InputError: one is out of range; names the option.
    """
    try:
        return Sampling.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        problem = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(problem, place=option, hint=f"headwater {command} --help") from None


def read_prompts(path: Path) -> list[str]:
    r"""Prompts from a file, one per line; `\n` in a line stands for a line break, and `-` reads standard input.

    Raises:
        InputError: the file cannot be read, or is empty.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(str(problem), place=str(path), hint="give a text file with one prompt per line") from None
    lines = [line.replace("\\n", "\n") for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError("holds no prompt", place=str(path), hint="give a text file with one prompt per line")
    return lines

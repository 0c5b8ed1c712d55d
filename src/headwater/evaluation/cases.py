"""Prompts that models are compared on: texts to continue, with how they should go on, or tests for code."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from pydantic import Field, model_validator

from headwater.core.config import Config, load, nearest
from headwater.core.errors import InputError
from headwater.evaluation.prompting import read_prompts

CODE_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n@", "\n```")
"""Where a Python function that was begun has ended. Source: the first five of Chen et al. 2021 (arXiv:2107.03374), section 2."""


class Case(Config):
    """A prompt."""

    prompt: str = Field(min_length=1)
    """The beginning of a document. Blanks at its end belong to the next word in most tokenizers: leave them off."""
    name: str | None = None
    """What it is called; by default its number."""
    reference: str | None = Field(default=None, min_length=1)
    """A continuation, as it is written after the prompt, of which each model says how likely it is."""
    tests: str | None = Field(default=None, min_length=1)
    """Python that is run after prompt and continuation, in a sandbox: without an error the continuation is right."""
    stop: tuple[str, ...] | None = None
    """Strings that end a continuation. By default none, and with `tests` the beginnings of lines after a function."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end a continuation."""
        return self.stop if self.stop is not None else CODE_STOPS if self.tests else ()

    @model_validator(mode="after")
    def _no_blanks(self) -> Case:
        if self.prompt != self.prompt.rstrip(" "):
            raise ValueError("the prompt ends with a blank, which belongs to the next word: begin `reference` with it")
        return self


class Cases(Config):
    """A file of prompts."""

    cases: tuple[Case, ...] = Field(min_length=1)
    """The prompts, in the order in which they are shown."""


def read_cases(place: str | None, prompts: tuple[str, ...] = ()) -> list[Case]:
    """Prompts from a file and from the command line.

    Args:
        place: a YAML file with `cases:`, a text file with one prompt per line, or the name of shipped ones.
        prompts: more, which come first.

    Raises:
        InputError: the file cannot be read or holds no prompt.
        RecipeError: the YAML file does not fit; says file and line.
    """
    found = [Case(prompt=text.rstrip(" ")) for text in prompts if text.strip(" ")]
    if place is None:
        return found
    path = _find(place)
    if path.suffix in (".yaml", ".yml"):
        return [*found, *load(Cases, path).cases]
    return [*found, *(Case(prompt=line.rstrip(" ")) for line in read_prompts(path))]


def shipped() -> list[str]:
    """Names of the prompts that come with Headwater."""
    folder = Path(str(importlib.resources.files("headwater.evaluation").joinpath("prompts")))
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _find(place: str) -> Path:
    path = Path(place).expanduser()
    if place == "-" or path.exists():
        return path
    if place in shipped():
        return Path(str(importlib.resources.files("headwater.evaluation").joinpath(f"prompts/{place}.yaml")))
    hint = f"give a YAML or text file, or one of: {', '.join(shipped())}"
    raise InputError(f"is neither a file nor shipped prompts{nearest(place, shipped())}", place=place, hint=hint)

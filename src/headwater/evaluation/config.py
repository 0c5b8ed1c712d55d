"""Settings of the stage evaluate. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from headwater.core.config import Config
from headwater.core.errors import HeadwaterError, InputError
from headwater.core.units import Bytes, Tokens
from headwater.evaluation.records import find
from headwater.evaluation.tasks import Chosen, choose


class Sampling(Config):
    """How a model's next token is drawn, and when it stops writing."""

    max_new_tokens: Tokens = Field(default=120, gt=0)
    """Length of a generation; it ends sooner where the model ends the document or its context is full."""
    temperature: float = Field(default=0.8, ge=0)
    """How freely to draw: 1 as the model says, less is safer, 0 always takes the likeliest token."""
    top_k: int | None = Field(default=50, ge=1)
    """Draw only among so many of the likeliest tokens; null means all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw only among the likeliest tokens that together have this probability."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Draw only tokens that are at least this share as likely as the likeliest one."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Above 1, tokens that the prompt or the text already has become less likely; 1 changes nothing."""
    stop: tuple[str, ...] = ()
    """Strings that end a generation; they are not part of it."""
    seed: int = 0
    """Which random numbers; prompt number n uses seed + n."""


class Evaluate(Sampling):
    """Score the model before and after training on held-out documents, and let both continue the same prompts."""

    max_bytes: Bytes = Field(default=100_000, gt=0)
    """How much held-out text of each source is scored; documents are drawn at random, the same in every run."""
    max_document_bytes: Bytes = Field(default=32_768, gt=0)
    """A document is scored up to here, so that a few long ones do not stand for the whole source."""
    context_length: Tokens | None = Field(default=None, ge=2)
    """How many tokens the model is shown at once when it is scored. By default all that it can attend to; set it to
    the sequence length of training where that is shorter."""
    overlap: float = Field(default=0.25, ge=0, lt=1)
    """Share of the context that is shown again when a document is longer than it: every token but the first ones of a
    document is then scored with at least that much before it. 0 is the fastest and gives the highest, worst score."""
    tasks: tuple[str, ...] = ()
    """Tasks that the trained model is scored on, such as blimp or arc_easy@5 (with five examples); see
    `headwater list tasks`. Their items come from `task_data`, from `headwater fetch evals`, or from the hub."""
    task_data: Path | None = None
    """Folder with tasks' items, looked in first."""
    task_items: int | None = Field(default=None, ge=1)
    """At most so many items of each task, or of each of its subtasks. By default all."""
    prompts: tuple[str, ...] = ()
    """Texts that the models continue. Blanks at the end are left off: in a tokenizer they belong to the next word."""
    prompts_from: dict[str, int] = Field(default_factory=dict)
    """For each source, how many prompts to take from the beginnings of its held-out documents."""
    prompt_characters: int = Field(default=100, ge=1)
    """Length of a prompt that is taken from a document; it ends with a whole word."""

    @field_validator("tasks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            choose(names)
        except HeadwaterError as error:
            raise ValueError(f"{error.place}: {error.problem}") from None
        return names

    @model_validator(mode="after")
    def _of_tasks(self) -> Evaluate:
        if not self.tasks and (self.task_data or self.task_items):
            raise ValueError("task_data and task_items are of tasks; name some with tasks")
        return self

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """What tasks' names do not tell: what each asks and how, and the contents of its files."""
        if not self.tasks:
            return None
        chosen, _ = choose(self.tasks)
        return {one.name: [one.identity, *_contents(one, self.task_data, hash_file)] for one in chosen}


def _contents(chosen: Chosen, folder: Path | None, hash_file: Callable[[Path], str]) -> list[str]:
    """Hashes of a task's files, or the commit on the hub."""
    task, told = chosen.task, []
    for subtask, _ in task.parts():
        for data in (task.data, task.shots_from if task.shots else None):
            if data is None:
                continue
            try:
                found = find(data, subtask, folder)
            except HeadwaterError as error:
                raise InputError(error.problem, place=f"evaluate.tasks: {chosen.name}", hint=error.hint) from None
            if found.path is None:
                told.append(found.place)
            elif found.path.is_dir():
                told += [hash_file(path) for path in sorted(found.path.glob("*.arrow"))]
            else:
                told.append(hash_file(found.path))
    return list(dict.fromkeys(told))


class Memorization(Config):
    """How much of its training documents the model gives back letter for letter.

    The model is shown the first tokens of a passage of a training document, and always writes the likeliest token. A passage
    counts as memorised when all that it writes is how the document goes on. Held-out documents are the control.

    Source: extractable memorisation, Carlini et al. 2023 (arXiv:2202.07646): 50 tokens shown, 50 to be continued, greedy,
    passages by number of duplicates.
    """

    shown_tokens: Tokens = Field(default=32, gt=0)
    """Tokens of a passage that the model is shown."""
    continued_tokens: Tokens = Field(default=50, gt=0)
    """Tokens that it must continue as the document does."""
    passages: int = Field(default=256, ge=1)
    """Passages of training documents, drawn at random among all places that training read, and as many held-out ones. With
    an index, as many of each number of duplicates, where there are so many among 16 times as many drawn."""
    samples: int = Field(default=6, ge=0)
    """Passages to show in the result: those of which most was continued."""
    min_words: int = Field(default=8, ge=1)
    """Words of a match between what the stage evaluate had the model write and the training documents."""
    seed: int = 0
    """Another seed, other passages."""

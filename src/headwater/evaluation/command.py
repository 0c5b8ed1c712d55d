"""What the command `evaluate` does: open a model, score documents and tasks, write what was found, and show it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headwater.core import log
from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.store import write_json
from headwater.core.units import format_count
from headwater.evaluation.benchmark import Results, finished, rows_of, run_tasks
from headwater.evaluation.opening import Opened, open_model, tokens_of
from headwater.evaluation.records import find
from headwater.evaluation.tasks import Chosen, Group, Task, choose, shipped
from headwater.evaluation.texts import (
    COMPRESSORS,
    LONGEST_DOCUMENT,
    Sample,
    compressed,
    held_out_samples,
    samples_of_files,
    score_samples,
)
from headwater.tokens.shards import TokenFolder

HELD_OUT_BYTES = 1_000_000
"""Of each source of a run's held-out documents, where nothing else is asked for."""

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Texts:
    """Which documents are scored."""

    files: tuple[Path, ...] = ()
    """Without any, a run's held-out documents."""
    max_bytes: int | None = None
    """At most so much of each source."""
    field: str = "text"
    """Where the text of a record is."""
    by: str = "source"
    """Where the source or domain of a record is."""
    overlap: float = 0.25
    """Share of the context that is shown again when a document is longer."""


@dataclass(frozen=True)
class Evaluated:
    """What was found, and where it is written."""

    summary: str
    folder: Path
    documents: Mapping[str, Mapping[str, Any]]
    """Model or compressor -> source -> values."""
    tasks: Mapping[str, Any]
    """What tasks.json says."""
    results: Results

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {"bits_per_byte": self.documents, **self.tasks}

    def document_rows(self) -> Rows:
        """One row per source: bits per byte and perplexity of the model, bits per byte of compressors, sizes."""
        rows: Rows = []
        model = self.documents.get("model", {})
        for source, of in model.items():
            others = [f"{self.documents[name][source]['value']:.3f}" for name in COMPRESSORS]
            sizes = (f"{of['documents']:,}", f"{of['bytes']:,}")
            values = (
                _plus_minus(of["value"], of["standard_error"]),
                _plus_minus(of["perplexity"], of["perplexity_error"]),
            )
            rows.append((source, *values, *others, *sizes))
        return rows

    def task_rows(self) -> Rows:
        """One row per task, part of a task, and group."""
        return list(rows_of(self.tasks))


def evaluate_model(
    place: str,
    tasks: Sequence[str],
    texts: Texts,
    machine: Machine,
    *,
    output: Path | None = None,
    data: Path | None = None,
    limit: int | None = None,
    step: int | None = None,
    tokenizer: Path | None = None,
    dtype: str = "float32",
) -> Evaluated:
    """Score a model on documents and tasks; what was scored before in the same folder is not scored again.

    Args:
        place: which model, see `open_model`.
        tasks: names of tasks and groups, or paths of files of them; none: those that suit the model's size.
        texts: which documents.
        machine: where to compute.
        output: folder of the results; by default `evaluations/` and the model's name, with `@step` where one is asked for.
        data: folder with tasks' items.
        limit: at most so many items of each subtask.
        step: of a run, which checkpoint.
        tokenizer: folder of the tokenizer, where the model has none of its own.
        dtype: number format of weights and arithmetic.

    Raises:
        InputError: the model, a task or a file cannot be read.
        MismatchError: model and tokenizer do not belong together.
    """
    for value, option in ((limit, "--items"), (texts.max_bytes, "--max-bytes")):
        if value is not None and value < 1:
            raise InputError("is less than 1", place=option, hint="leave it out for all")
    torch.set_num_threads(machine.processor_threads)
    opened = open_model(place, machine, step=step, tokenizer=tokenizer, dtype=getattr(torch, dtype))
    name = Path(place).name if step is None else f"{Path(place).name}@{step}"
    folder = output or Path("evaluations") / name
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, not a folder for results", place=str(folder), hint="choose another --output")
    begun = time.perf_counter()
    documents = _score_documents(opened, place, texts, machine, wanted=not tasks)
    if documents:
        write_json(folder / "scores.json", {"bits_per_byte": documents})
    chosen, groups = choose(tasks) if tasks else (_suitable(opened, data), {})
    results = Results([], {})
    if chosen:
        results = run_tasks(opened, chosen, groups, folder, data=data, limit=limit, show=log.progress)
    parameters = format_count(opened.model.config.parameters())
    at = "" if opened.step is None else f", step {opened.step:,}"
    summary = f"{opened.name} ({parameters} parameters{at}): {time.perf_counter() - begun:,.0f} s"
    return Evaluated(summary, folder, documents, finished(folder) if chosen else {}, results)


def _score_documents(
    opened: Opened, place: str, texts: Texts, machine: Machine, *, wanted: bool
) -> dict[str, dict[str, Any]]:
    """Scores of the model and of compressors; nothing when there are no documents, or only tasks were asked for."""
    samples: dict[str, Sample] = {}
    if texts.files:
        samples = samples_of_files(texts.files, opened.codec, texts.max_bytes, texts.field, texts.by)
    elif wanted and (tokens := tokens_of(place, machine)):
        folder = TokenFolder(tokens)
        folder.check_tokenizer(opened.codec.folder)
        samples = held_out_samples(folder, opened.codec, texts.max_bytes or HELD_OUT_BYTES, LONGEST_DOCUMENT)
    if not samples:
        return {}
    with log.progress("scoring documents", sum(sample.tokens for sample in samples.values()), "tokens") as bar:
        scores = score_samples(opened.model, samples, bar, overlap=texts.overlap)
    found = {"model": {source: asdict(score) for source, score in scores.items()}}
    return found | {name: compressed(samples, compress) for name, compress in COMPRESSORS.items()}


def _suitable(opened: Opened, data: Path | None) -> list[Chosen]:
    """The shipped tasks that tell models of this size apart and whose items are at hand; says which are not."""
    size = opened.model.config.parameters()
    chosen, absent, larger = [], [], []
    for name, task in shipped().items():
        if isinstance(task, Group) or name.startswith("core_"):
            continue
        if task.needs > size:
            larger.append(name)
        elif _at_hand(task, data):
            chosen.append(Chosen(name, task))
        else:
            absent.append(name)
    if larger:
        log.logger.info("not scored, for larger models: %s", ", ".join(larger))
    if absent:
        log.logger.info("not scored, no items at hand: %s (headwater fetch evals, or --data)", ", ".join(absent))
    return chosen


def _at_hand(task: Task, data: Path | None) -> bool:
    """Whether a task's items, of the first part of it, are in a folder: the hub is not asked unasked."""
    subtask, _ = next(task.parts())
    wanted = [task.data, *([task.shots_from] if task.shots and task.shots_from else [])]
    try:
        return all(find(of, subtask, data).path is not None for of in wanted)
    except InputError:
        return False


def _plus_minus(value: float, error: float | None) -> str:
    return f"{value:,.3f}" + ("" if error is None else f" ± {error:.3f}")

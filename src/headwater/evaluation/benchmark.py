"""Run tasks: items in parts, each part kept when it is done, so that what was stopped goes on where it was.

In the folder of results: `tasks.json`, the scores; `items/<task>.parquet`, one row per item with its prompt, choices,
log-probabilities and marks; while a task is under way `items/<task>/`, its parts.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from headwater.core.errors import EvaluationError, HeadwaterError, InputError
from headwater.core.log import Progress
from headwater.core.store import atomic_path, hash_value, read_json, write_json
from headwater.evaluation import sandbox
from headwater.evaluation.config import Sampling
from headwater.evaluation.items import Item, items_of, render
from headwater.evaluation.likelihood import PairEncoder, encode_items, likelihoods
from headwater.evaluation.marks import (
    Mark,
    Score,
    centred,
    mark_answer,
    mark_choices,
    mark_continuation,
    mark_text,
    score,
)
from headwater.evaluation.opening import Opened, first_token, model_digest
from headwater.evaluation.score import document_losses
from headwater.evaluation.statistics import pass_at_k
from headwater.evaluation.tasks import Chosen, Code, Generate, Group, LanguageModelling, Rolling, Task
from headwater.evaluation.write import write

PART_ITEMS = 2_048
"""Items of a part: what is lost at most when a run is killed."""
WRITTEN_TOGETHER = 16
"""Texts that are written side by side, as in `headwater generate`."""
ENGINE = 1
"""Raised when the same task and model would get other log-probabilities."""

Show = Callable[[str, float | None, str], AbstractContextManager[Progress]]

SCHEMA = pa.schema(
    [
        ("item", pa.int32()),
        ("subtask", pa.string()),
        ("cluster", pa.string()),
        ("hash", pa.string()),
        ("prompt", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("gold", pa.list_(pa.int32())),
        ("log_probabilities", pa.list_(pa.float64())),
        ("tokens", pa.list_(pa.int32())),
        ("picked", pa.int32()),
        ("written", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("fate", pa.list_(pa.string())),
        ("correct", pa.float64()),
        *((name, pa.float64()) for name in ("acc", "acc_norm", "acc_bytes", "acc_tokens", "mass", "exact", "pass")),
        *((name, pa.float64()) for name in ("nats", "bytes", "words")),
    ]
)
"""Columns of the table of items. `correct` is the headline's mark; of a task without right and wrong it is empty."""


@dataclass
class Outcome:
    """What became of a task."""

    chosen: Chosen
    score: Score | None = None
    parts: dict[str, Score] = field(default_factory=dict)
    """Scores of what its subtasks have in common, where it has any."""
    subtasks: dict[str, Score] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What a reader must know, such as prompts that were cut."""
    problem: str | None = None
    """Why there is no score."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For tasks.json."""
        task = self.chosen.task
        told: dict[str, Any] = {"use": task.kind, "version": task.version, "shots": task.shots, "about": task.about}
        told |= {"seconds": round(self.seconds, 3), "notes": self.notes}
        if self.score is None:
            return told | {"problem": self.problem}
        told |= self.score.as_json()
        for name in ("parts", "subtasks"):
            if scores := getattr(self, name):
                told[name] = {of: one.as_json() for of, one in scores.items()}
        return told


@dataclass
class Results:
    """What became of all tasks."""

    outcomes: list[Outcome]
    groups: dict[str, dict[str, Any]]
    """For each group its mean, with its standard error, and how many of its members have a score."""

    def check(self) -> None:
        """Make sure that every task has a score.

        Raises:
            EvaluationError: some have none; one line for each.
        """
        problems = [one.problem for one in self.outcomes if one.problem]
        if problems:
            hint = "the other tasks' results are kept; run the same command again when this is mended"
            raise EvaluationError("tasks without a score", place="evaluate", hint=hint, problems=problems)


def run_tasks(
    opened: Opened,
    chosen: Sequence[Chosen],
    groups: Mapping[str, Group],
    folder: Path,
    *,
    data: Path | None = None,
    limit: int | None = None,
    show: Show,
) -> Results:
    """Score a model on tasks; a task without data or with bad items is noted, and the others go on.

    Args:
        opened: the model.
        chosen: the tasks.
        groups: groups of them, for their means.
        folder: where to write; what is there of the same model and items is taken as done.
        data: the user's folder of data.
        limit: at most so many items of each subtask.
        show: opens a progress bar.
    """
    digest = model_digest(opened.model)
    outcomes: list[Outcome] = []
    for one in chosen:
        outcome = Outcome(one)
        outcomes.append(outcome)
        begun = time.perf_counter()
        try:
            _run(opened, outcome, folder, digest, data, limit, show)
        except HeadwaterError as error:
            outcome.problem = str(error) if one.name in str(error) else f"{one.name}: {error}"
        outcome.seconds = time.perf_counter() - begun
        results = Results(outcomes, _means(groups, outcomes))
        write_json(folder / "tasks.json", as_json(opened, digest, results, limit))
    return Results(outcomes, _means(groups, outcomes))


def as_json(opened: Opened, digest: str, results: Results, limit: int | None) -> dict[str, Any]:
    """What tasks.json says."""
    return {
        "schema": 1,
        "model": opened.name,
        "step": opened.step,
        "parameters": opened.model.config.parameters(),
        "weights": digest,
        "limit": limit,
        "tasks": {one.chosen.name: one.as_json() for one in results.outcomes},
        "groups": results.groups,
    }


def _run(
    opened: Opened, outcome: Outcome, folder: Path, digest: str, data: Path | None, limit: int | None, show: Show
) -> None:
    """Score one task."""
    chosen = outcome.chosen
    items = items_of(chosen, data, limit)
    asked = xxhash.xxh3_128("\0".join(item.prompt for item in items).encode("utf-8", "surrogatepass")).hexdigest()
    hashes = [item.hash for item in items]  # of records; `asked` is of the worked examples too
    identity = hash_value([ENGINE, PART_ITEMS, chosen.identity, digest, opened.codec.sha256, asked, hashes])
    path = folder / "items" / f"{chosen.name}.parquet"
    if _identity(path) == identity:
        table = pq.read_table(path)
    else:
        table = _table(opened, outcome, items, folder / "items" / chosen.name, identity, show)
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        shutil.rmtree(folder / "items" / chosen.name, ignore_errors=True)
    outcome.notes = (table.schema.metadata or {}).get(b"notes", b"").decode().splitlines()
    marks = table.select([*SCHEMA.names[SCHEMA.names.index("acc") :]]).to_pylist()
    _sum_up(outcome, items, marks, opened.model.config.parameters())


def _table(opened: Opened, outcome: Outcome, items: Sequence[Item], parts: Path, identity: str, show: Show) -> pa.Table:
    """The rows of all items; parts that are done already are read."""
    chosen, tables = outcome.chosen, []
    with show(chosen.name, len(items), "items") as bar:
        for begin in range(0, len(items), PART_ITEMS):
            part = parts / f"{begin:08d}.parquet"
            some = items[begin : begin + PART_ITEMS]
            if _identity(part) == identity:
                bar.advance(len(some))
                tables.append(pq.read_table(part))
                continue
            rows, cut = _marked(opened, chosen, some, bar.advance)
            table = _as_table(outcome, rows, some, begin, identity, cut)
            with atomic_path(part) as temporary:
                pq.write_table(table, temporary, compression="zstd")
            tables.append(table)
    cut = sum(int((table.schema.metadata or {}).get(b"cut", b"0")) for table in tables)
    said = f"of {cut:,} texts the model saw only the end: they are longer than its context" if cut else ""
    whole = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    return whole.replace_schema_metadata({"identity": identity, "notes": said})


def _as_table(
    outcome: Outcome, rows: Sequence[Mark], items: Sequence[Item], begin: int, identity: str, cut: int
) -> pa.Table:
    headline = outcome.chosen.task.metrics[0]
    full = [
        {
            "item": begin + number,
            "subtask": item.subtask,
            "cluster": item.cluster,
            "hash": item.hash,
            "prompt": item.prompt,
            "choices": item.choices,
            "gold": item.gold,
            "correct": row.get(headline),
            **row,
        }
        for number, (item, row) in enumerate(zip(items, rows, strict=True))
    ]
    table = pa.Table.from_pylist(full, schema=SCHEMA)
    return table.replace_schema_metadata({"identity": identity, "cut": str(cut)})


def _identity(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):
        return None
    return metadata.get(b"identity", b"").decode()


def _marked(
    opened: Opened, chosen: Chosen, items: Sequence[Item], advance: Callable[[float], None]
) -> tuple[list[Mark], int]:
    """Marks of items, and of how many texts the model saw only the end."""
    task = chosen.task
    if isinstance(task, Generate | Code):
        return _written(opened, task, items, advance)
    if isinstance(task, Rolling):
        return _rolled(opened, task, items, advance), 0
    encoder = PairEncoder(opened.codec, opened.model.config.context_length, always_begin=task.always_begin)
    asked = encode_items(encoder, [item.pairs for item in items], lambda n: f"{chosen.name}: {items[n].place}")
    found = likelihoods(opened.model, asked, [item.subtask for item in items], advance)
    rows = []
    for item, of in zip(items, found, strict=True):
        values, tokens = [one.log_probability for one in of], [one.tokens for one in of]
        if isinstance(task, LanguageModelling):
            mark = mark_continuation(item, values[0], of[0].greedy)
        else:
            mark = mark_choices(task, item, values, tokens)
        rows.append({"log_probabilities": values, "tokens": tokens, **mark})
    return rows, encoder.cut


def _rolled(opened: Opened, task: Rolling, items: Sequence[Item], advance: Callable[[float], None]) -> list[Mark]:
    first = np.array([first_token(opened.codec)], np.int64)
    encoded = [np.concatenate([first, ids]) for ids in opened.codec.encode([item.prompt for item in items])]
    if empty := next((item for item, ids in zip(items, encoded, strict=True) if len(ids) < 2), None):
        raise InputError("the text has no tokens", place=empty.place, hint="take it out")
    losses = document_losses(opened.model, encoded, overlap=task.overlap)
    advance(len(items))
    rows = [mark_text(item, float(nats)) for item, nats in zip(items, losses, strict=True)]
    return [
        {"log_probabilities": [-row["nats"]], "tokens": [len(ids) - 1], **row}
        for row, ids in zip(rows, encoded, strict=True)
    ]


def _written(
    opened: Opened, task: Generate | Code, items: Sequence[Item], advance: Callable[[float], None]
) -> tuple[list[Mark], int]:
    """Let the model write after each prompt, those of about the same length together."""
    samples = task.samples if isinstance(task, Code) else 1
    temperature = task.temperature if isinstance(task, Code) else 0.0
    settings = Sampling(max_new_tokens=task.max_new_tokens, temperature=temperature, top_k=None, stop=task.stop, seed=0)
    asked = sorted(
        ((n, sample) for n in range(len(items)) for sample in range(samples)), key=lambda one: len(items[one[0]].prompt)
    )
    texts: dict[tuple[int, int], str] = dict.fromkeys(asked, "")
    cut = 0

    def count(_: str) -> None:
        nonlocal cut
        cut += 1

    for begin in range(0, len(asked), WRITTEN_TOGETHER):
        some = asked[begin : begin + WRITTEN_TOGETHER]
        seeded = settings.model_copy(update={"seed": begin})
        for number, piece, _ in write(opened.model, opened.codec, [items[n].prompt for n, _ in some], seeded, count):
            texts[some[number]] += piece
        advance(len(some) / samples)
    rows = []
    for number, item in enumerate(items):
        written = [texts[number, sample] for sample in range(samples)]
        mark = _mark_programs(task, item, written) if isinstance(task, Code) else mark_answer(task, item, written[0])
        rows.append({"written": written, **mark})
    return rows, cut


def _mark_programs(task: Code, item: Item, written: Sequence[str]) -> Mark:
    """Run each program; the mark is pass@k."""
    programs = [render(task.program, {**item.record, "written": text}, item.place) for text in written]
    fates = [sandbox.run(program).fate for program in programs]
    right = fates.count(sandbox.PASSED)
    return {"fate": fates, "pass": pass_at_k(len(fates), right, task.k)}


def _sum_up(outcome: Outcome, items: Sequence[Item], marks: Sequence[Mark], parameters: int) -> None:
    """Scores of a task, of each subtask, and of what subtasks have in common."""
    task = outcome.chosen.task
    outcome.score = score(task, items, marks, parameters)
    if task.subtasks:
        common = dict(task.parts())
        outcome.subtasks = _by(task, items, marks, [item.subtask for item in items])
        outcome.parts = _by(task, items, marks, [common[item.subtask] for item in items])


def _by(task: Task, items: Sequence[Item], marks: Sequence[Mark], names: Sequence[str]) -> dict[str, Score]:
    members: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        members.setdefault(name, []).append(number)
    return {name: score(task, [items[n] for n in of], [marks[n] for n in of]) for name, of in members.items()}


def _means(groups: Mapping[str, Group], outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """The mean of each group's headlines; its error as of independent tasks."""
    by_name = {one.chosen.name: one.score for one in outcomes}
    means = {}
    for name, group in groups.items():
        scores = [found for member in group.members if (found := by_name.get(member))]
        told = {"about": group.about, "centred": group.centred, "members": len(group.members), "scored": len(scores)}
        if scores:
            chances = [(one.chance or 0.0) if group.centred else 0.0 for one in scores]
            errors = [(one.headline[1].standard_error or 0.0) / (1 - c) for one, c in zip(scores, chances, strict=True)]
            told["value"] = centred([(one.headline[1].value, c) for one, c in zip(scores, chances, strict=True)])
            told["standard_error"] = math.hypot(*errors) / len(errors)
        means[name] = told
    return means


def finished(folder: Path) -> dict[str, Any]:
    """What tasks.json of a folder says; empty without one."""
    path = folder / "tasks.json"
    return read_json(path) if path.is_file() else {}


def rows_of(told: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows of a table for a person, from what tasks.json says: task, metric, score, chance, detects, items, remark."""
    for name, task in told.get("tasks", {}).items():
        if "problem" in task:
            yield name, "", "failed", "", "", "", task["problem"]
            continue
        yield _row(name, task)
        for part, of in task.get("parts", {}).items():
            yield _row(f"  {part}", of)
    for name, group in told.get("groups", {}).items():
        if "value" in group:
            what = "centred mean" if group["centred"] else "mean"
            scored = f"of {group['scored']} of {group['members']} tasks"
            value = f"{group['value']:.4f} ± {group['standard_error']:.4f}"
            yield name, what, value, "0" if group["centred"] else "", "", "", scored


def _row(name: str, task: Mapping[str, Any]) -> tuple[str, ...]:
    value = task["metrics"][task["metric"]]
    error, chance, detects = value["standard_error"], task["chance"], task["detectable"]
    shown = f"{value['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")
    remark = "; ".join(filter(None, [task["signal"], *task.get("notes", [])]))
    return (
        name,
        task["metric"],
        shown,
        "" if chance is None else f"{chance:.3g}",
        "" if detects is None else f"{detects:.4f}",
        f"{task['items']:,}",
        remark,
    )

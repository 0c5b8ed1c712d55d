"""Which of several models is better at which task, item by item, and how sure that is. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.core.errors import InputError, MismatchError
from headwater.core.store import read_json
from headwater.evaluation.marks import LOWER_IS_BETTER
from headwater.evaluation.statistics import Paired, holm, mcnemar, paired, sign_flip

ALPHA = 0.05
"""Chance of one false alarm or more among all tasks of a pair of models."""
COLUMNS = ["subtask", "cluster", "hash", "correct", "nats", "bytes", "words"]


class Marks(NamedTuple):
    """The headline's marks of a task's items."""

    metric: str
    values: np.ndarray
    """[items]: right and wrong, or nats, which for scores of texts stand in the place of a mark."""
    sizes: np.ndarray
    """[items]: what the sum of values is divided by: 1, bytes or words."""
    clusters: list[str] | None
    """None: each item is its own."""
    hashes: list[str]


@dataclass(frozen=True)
class Difference:
    """Two models on one task."""

    task: str
    metric: str
    first: float
    second: float
    difference: Paired
    """In units of the metric, except for perplexity: there bits per word. Positive: the second is better."""
    p: float
    """Probability of such a difference between equally good models."""
    adjusted: float
    """The same, adjusted for the number of tasks."""
    verdict: str
    """`better`, `worse` (the second), or `no difference seen`."""

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {**asdict(self), "difference": self.difference._asdict()}


def read_marks(folder: Path, task: str) -> Marks:
    """The marks of a task in a folder of results.

    Raises:
        InputError: there are none.
    """
    path = folder / "items" / f"{task}.parquet"
    if not path.is_file():
        raise InputError(f"has no results of {task}", place=str(folder), hint="run the task first")
    metric = read_json(folder / "tasks.json")["tasks"][task]["metric"]
    table = pq.read_table(path, columns=COLUMNS)
    ones = np.ones(len(table))
    if metric in LOWER_IS_BETTER:
        values, sizes = _numbers(table, "nats"), _numbers(table, "bytes" if metric == "bits_per_byte" else "words")
    else:
        values, sizes = _numbers(table, "correct"), ones
    clusters = table.column("cluster").to_pylist()
    of = [name or str(n) for n, name in enumerate(clusters)] if any(clusters) else None
    hashes = [
        f"{sub}/{digest}"
        for sub, digest in zip(*(table.column(c).to_pylist() for c in ("subtask", "hash")), strict=True)
    ]
    return Marks(metric, values, sizes, of, hashes)


def compare_tasks(
    first: Path, second: Path, tasks: Sequence[str], keep: Mapping[str, Sequence[bool]] | None = None
) -> list[Difference]:
    """Two models on tasks, each item beside itself; p-values are adjusted for the number of tasks by Holm's method.

    Marks of right and wrong are tested by McNemar's exact test, or by flipping the signs of clusters where items belong
    together; marks that are numbers by flipping signs.

    Args:
        first: folder of a model's results.
        second: that of another.
        tasks: names of tasks that both have.
        keep: for tasks which items count, in the order of the table; by default all.

    Raises:
        InputError: a task is missing.
        MismatchError: the items differ, or none is left.
    """
    raw: dict[str, tuple[Marks, Paired, float, float, float]] = {}
    for task in tasks:
        one, other = read_marks(first, task), read_marks(second, task)
        if one.hashes != other.hashes or one.metric != other.metric:
            hint = "score both on the same items: the same version, data and --limit"
            raise MismatchError(f"the two have other items of {task}", place=str(second), hint=hint)
        kept = np.ones(len(one.values), bool) if keep is None else np.asarray(keep[task], bool)
        if not kept.any():
            raise MismatchError(f"no item of {task} is left", place=task, hint="leave the task out")
        raw[task] = _difference(one, other, kept)
    adjusted = holm({task: found[2] for task, found in raw.items()})
    return [
        Difference(task, marks.metric, a, b, found, p, adjusted[task], verdict(found, adjusted[task]))
        for task, (marks, found, p, a, b) in raw.items()
    ]


def verdict(found: Paired, adjusted: float) -> str:
    """What a difference says."""
    if adjusted >= ALPHA or found.difference == 0:
        return "no difference seen"
    return "better" if found.difference > 0 else "worse"


def sentence(first: str, second: str, differences: Sequence[Difference]) -> str:
    """All tasks in one sentence.

    >>> sentence("A", "B", [])
    'B and A have no task in common.'
    """
    if not differences:
        return f"{second} and {first} have no task in common."
    better, worse = (sum(one.verdict == of for one in differences) for of in ("better", "worse"))
    tasks = f"{len(differences)} task{'s' * (len(differences) != 1)}"
    if not better and not worse:
        return f"Between {second} and {first} no difference is seen on {tasks}."
    of = [f"better than {first} on {better or 'none'} of {tasks}", f"worse on {worse or 'none'}"]
    return f"{second} is {', '.join(of)} (chance of any false alarm at most {ALPHA:.0%})."


def _difference(one: Marks, other: Marks, kept: np.ndarray) -> tuple[Marks, Paired, float, float, float]:
    """Marks, difference, p-value, and both scores."""
    a, b, sizes = one.values[kept], other.values[kept], one.sizes[kept]
    clusters = [name for name, keep in zip(one.clusters, kept, strict=True) if keep] if one.clusters else None
    if one.metric not in LOWER_IS_BETTER:
        test = sign_flip(a, b, clusters) if clusters or not _is_right_or_wrong(a, b) else mcnemar(a, b)
        return one, paired(a, b, clusters), test, float(a.mean()), float(b.mean())
    bits = 1 / math.log(2) / sizes.mean()  # so that the mean of a - b is the difference of the two ratios
    a, b = a * bits, b * bits
    first, second = float(a.mean()), float(b.mean())
    if one.metric == "perplexity":
        first, second = 2**first, 2**second
    return one, paired(b, a, clusters), sign_flip(b, a, clusters), first, second  # fewer bits are better


def _is_right_or_wrong(*marks: np.ndarray) -> bool:
    return all(np.isin(values, (0.0, 1.0)).all() for values in marks)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)

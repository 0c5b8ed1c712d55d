"""Several models on the same tasks: run them, look for the items in training documents, compare item by item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headwater.core.errors import InputError
from headwater.core.log import progress
from headwater.evaluation.benchmark import Results, run_tasks
from headwater.evaluation.contamination import Found, contaminated, training_documents
from headwater.evaluation.items import items_of
from headwater.evaluation.opening import Opened
from headwater.evaluation.paired import Difference, compare_tasks, sentence
from headwater.evaluation.tasks import Chosen, choose


def compete(
    models: Sequence[Opened],
    labels: Sequence[str],
    tasks: Sequence[str],
    folder: Path,
    *,
    data: Path | None = None,
    limit: int | None = None,
    training: Path | None = None,
) -> dict[str, Any]:
    """Score models on tasks and compare each with the first, item by item.

    Args:
        models: the models.
        labels: what each is called.
        tasks: names, groups or files of tasks.
        folder: where the results of each model go; what is there already is not scored again.
        data: folder of the tasks' data.
        limit: at most so many items of each subtask.
        training: folder of a run; items that overlap with its training documents are counted, and the comparison is
            made once more without them.

    Returns:
        `scores`, `pairs` and `contaminated` of the tasks that all models have a score of; `problems` of the others.

    Raises:
        InputError: there is no such task, or the names of two models differ only in what cannot be a file's name.
    """
    chosen, groups = choose(tasks)
    if len({_file_name(label) for label in labels}) < len(labels):
        hint = "name them, such as: headwater compare old=PLACE new=PLACE"
        raise InputError("two names would have the same folder of results", place=", ".join(labels), hint=hint)
    results: list[Results] = []
    for label, opened in zip(labels, models, strict=True):
        place = folder / _file_name(label)
        results.append(run_tasks(opened, chosen, groups, place, data=data, limit=limit, show=progress))
    problems = [
        f"{label}: {one.problem}"
        for label, of in zip(labels, results, strict=True)
        for one in of.outcomes
        if one.problem
    ]
    failed = {one.chosen.name for of in results for one in of.outcomes if one.problem}
    chosen = [one for one in chosen if one.name not in failed]
    names = [one.name for one in chosen]
    overlap = _overlap(chosen, data, limit, training) if training is not None and chosen else {}
    first, *others = labels
    pairs = []
    for other in others if names else ():
        both = (folder / _file_name(first), folder / _file_name(other))
        differences = compare_tasks(*both, names)
        pairs.append(
            {
                "first": first,
                "second": other,
                "sentence": sentence(first, other, differences),
                "differences": [_with_clean(one, both, overlap) for one in differences],
            }
        )
    scores = {
        label: {one.chosen.name: one.as_json() for one in of.outcomes if one.chosen.name in names}
        for label, of in zip(labels, results, strict=True)
    }
    counted = {name: {"items": len(found), "of": total} for name, (found, total) in overlap.items()}
    told = {"scores": scores, "pairs": pairs, "problems": problems}
    return told | {"contaminated": counted, "training": str(training) if training else None}


def _overlap(
    chosen: Sequence[Chosen], data: Path | None, limit: int | None, training: Path
) -> dict[str, tuple[dict[int, Found], int]]:
    """For each task its items that are in training documents, and how many it has."""
    bare = [Chosen(one.name, one.task.model_copy(update={"shots": 0})) for one in chosen]  # examples are no question
    items = {one.name: items_of(one, data, limit) for one in bare}
    documents = training_documents(training)
    with progress("looking for items in training documents", None, "documents") as bar:
        found = contaminated(documents, items, advance=bar.advance)
    return {name: (found[name], len(items[name])) for name in items}


def _with_clean(
    one: Difference, both: tuple[Path, Path], overlap: dict[str, tuple[dict[int, Found], int]]
) -> dict[str, Any]:
    """A difference for a program, with the one on clean items where some are not."""
    told = one.as_json()
    found, total = overlap.get(one.task, ({}, 0))
    if found and len(found) < total:
        clean = np.ones(total, bool)
        clean[list(found)] = False
        (again,) = compare_tasks(*both, [one.task], {one.task: clean.tolist()})
        told["clean"] = again.as_json()["difference"] | {"p": again.p, "first": again.first, "second": again.second}
    return told


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.@" else "_" for c in label)

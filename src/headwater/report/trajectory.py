"""The page of a run's checkpoints: every score against the tokens seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from headwater.report.blocks import Block, Figures, Page, Section, Table, Text, decimal, whole
from headwater.report.figures import HALF, curves

Row = Mapping[str, Any]


def trajectory_page(name: str, rows: Sequence[Row]) -> Page:
    """The page of what the command `watch` found.

    Args:
        name: of the run.
        rows: one for each checkpoint, the oldest first, as `Watching.rows` gives them.
    """
    sections = [Section("scores", "Scores of checkpoints", [_table(rows), *_charts(rows)])]
    return Page(
        title=f"{name}: checkpoints",
        about=f"{len(rows)} checkpoints, scored on the same documents and items.",
        sentence="",
        tiles=[],
        notices=[],
        sections=sections,
        made=f"Made by Headwater {version('headwater')}.",
    )


def scores_of(row: Row) -> dict[str, tuple[float, float | None]]:
    """All scores of a checkpoint: what is measured -> value and standard error."""
    found = {_text(source): (one["value"], one["standard_error"]) for source, one in row["bits_per_byte"].items()}
    of_tasks = {f"{task}, {one['metric']}": (one["value"], one["standard_error"]) for task, one in row["tasks"].items()}
    return found | of_tasks


def _text(source: str) -> str:
    return "all held-out text, bits per byte" if source == "total" else f"{source}, bits per byte"


def _table(rows: Sequence[Row]) -> Table:
    names = list(scores_of(rows[-1]))
    cells = []
    for row in rows:
        of = scores_of(row)
        shown = [_cell(*of[name]) if name in of else "" for name in names]
        cells.append([whole(row["step"]), whole(row["tokens"]), *shown])
    return Table("Every checkpoint; after ± one standard error", ["step", "tokens", *names], cells, 0)


def _cell(value: float, error: float | None) -> str:
    return decimal(value) + ("" if error is None else f" ± {decimal(error)}")


def _charts(rows: Sequence[Row]) -> list[Block]:
    if len(rows) < 2:
        return [Text("A curve needs a second checkpoint.")]
    figures = []
    for name in scores_of(rows[-1]):
        points = [
            {"tokens": row["tokens"], "value": scores_of(row)[name][0], "series": ""}
            for row in rows
            if name in scores_of(row)
        ]
        title, _, unit = name.rpartition(", ")
        first, last = points[0]["value"], points[-1]["value"]
        described = (
            f"{title}: {unit} from {decimal(first)} to {decimal(last)} over {whole(points[-1]['tokens'])} tokens."
        )
        figures.append(curves(title, unit, points, described, width=HALF))
    return [Figures(figures)]

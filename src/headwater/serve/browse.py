"""What lies in the folders of runs and evaluations, for the page to show. Names of a request are looked up, never joined to paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from headwater.core.config import Config, nearest
from headwater.core.errors import HeadwaterError, InputError
from headwater.core.store import read_json
from headwater.documents.inspect import Wanted, inspect, stages_at
from headwater.evaluation.benchmark import rows_of
from headwater.report.trajectory import scores_of

PAGES = {"report": "report.html", "trajectory": "trajectory/trajectory.html"}
"""Pages of a run that may be looked at, by the name in their address."""
MOST_DOCUMENTS = 50
DOCUMENT_CHARACTERS = 3_000
"""Of a document's text that is shown."""


class Search(Config):
    """Documents to look at, as the page asks for them."""

    run: str = Field(max_length=200)
    fate: Literal["kept", "dropped"] | None = None
    rule: str | None = Field(default=None, max_length=200)
    source: str | None = Field(default=None, max_length=200)
    text: str | None = Field(default=None, max_length=500)
    id: str | None = Field(default=None, max_length=200)
    count: int = Field(default=10, ge=0, le=MOST_DOCUMENTS)
    seed: int = Field(default=0, ge=0, lt=2**32)


class Shelf:
    """Runs and evaluations below two folders."""

    def __init__(self, runs: Path, evaluations: Path = Path("evaluations")) -> None:
        """Show what is in these folders, as it is when it is asked for."""
        self._runs = runs
        self._evaluations = evaluations

    def runs(self) -> list[dict[str, Any]]:
        """Every run: its stages, which pages it has, its main numbers."""
        return [self._run(name, folder) for name, folder in self._folders(self._runs).items()]

    def run(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            InputError: there is none of this name.
        """
        folders = self._folders(self._runs)
        if name not in folders:
            raise InputError(
                f"there is no run '{name[:100]}'{nearest(name, list(folders))}", hint="load the page again"
            )
        return folders[name]

    def page(self, name: str, which: str) -> Path:
        """A page of a run.

        Raises:
            InputError: there is no such run or page.
        """
        path = self.run(name) / PAGES[which] if which in PAGES else None
        if path is None or not path.is_file():
            raise InputError(f"the run has no {which[:100]}", place=name, hint=f"headwater report {name}")
        return path

    def scores(self) -> list[dict[str, Any]]:
        """What models scored: evaluations and trajectories, each with tables."""
        found = [
            {"name": name, "kind": "evaluation"} | _read(folder, _evaluation_tables)
            for name, folder in self._folders(self._evaluations).items()
        ]
        for name, folder in self._folders(self._runs).items():
            if (folder / "trajectory" / "trajectory.json").is_file():
                found.append({"name": name, "kind": "trajectory"} | _read(folder, _trajectory_tables))
        return found

    def documents(self, search: Search) -> dict[str, Any]:
        """Documents kept or dropped: how many of what, and a fair sample of those that fit.

        Raises:
            InputError: there is no such run, rule or source, or the text is no regular expression.
        """
        wanted = Wanted(**search.model_dump(exclude={"run"}))
        found = inspect(self.run(search.run), wanted)
        whole = None if search.id else DOCUMENT_CHARACTERS
        return {
            "fitting": found.fitting,
            "summary": [list(row) for row in found.summary()],
            "documents": [_document(row, whole) for row in found.documents],
        }

    def _run(self, name: str, folder: Path) -> dict[str, Any]:
        told: dict[str, Any] = {"name": name}
        try:
            told["stages"] = list(read_json(folder / "stages.json")) if (folder / "stages.json").is_file() else []
            told["numbers"] = read_json(folder / "summary.json") if (folder / "summary.json").is_file() else {}
            told["documents"] = bool(stages_at(folder))
        except InputError:
            told["documents"] = False
        except HeadwaterError as error:
            told["problem"] = str(error)
        pages = [which for which, path in PAGES.items() if (folder / path).is_file()]
        index = (folder / "stages" / "index" / "manifest.json").is_file()
        return told | {"pages": pages, "index": index}

    @staticmethod
    def _folders(place: Path) -> dict[str, Path]:
        if not place.is_dir():
            return {}
        return {path.name: path for path in sorted(place.iterdir()) if path.is_dir() and _shown(path.name)}


Table = dict[str, Any]


def _shown(name: str) -> bool:
    """Whether a folder of this name is one to show: not hidden, and of characters that can be sent."""
    return name.isprintable() and not name.startswith(".")


def _read(folder: Path, tables: Any) -> dict[str, Any]:
    """Tables of a folder; what is damaged is said, and the others are shown."""
    try:
        return {"tables": list(tables(folder))}
    except HeadwaterError as error:
        return {"tables": [], "problem": str(error)}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return {"tables": [], "problem": f"{folder}: is not as Headwater writes it ({type(error).__name__}: {error})"}


def _evaluation_tables(folder: Path) -> Iterator[Table]:
    if (folder / "scores.json").is_file():
        by_model: Mapping[str, Any] = read_json(folder / "scores.json")["bits_per_byte"]
        names = list(by_model)
        sources = list(by_model[names[0]]) if names else []
        rows = [[source, *(_plus_minus(by_model[name][source]) for name in names)] for source in sources]
        yield {"caption": "Bits per byte", "header": ["source", *names], "rows": rows}
    if (folder / "tasks.json").is_file():
        header = ["task", "metric", "score", "chance", "detects", "items", "remark"]
        yield {
            "caption": "Tasks",
            "header": header,
            "rows": [list(row) for row in rows_of(read_json(folder / "tasks.json"))],
        }


def _trajectory_tables(folder: Path) -> Iterator[Table]:
    rows = read_json(folder / "trajectory" / "trajectory.json")["rows"]
    names = list(scores_of(rows[-1])) if rows else []
    told = []
    for row in rows:
        of = scores_of(row)
        cells = [_plus_minus({"value": of[n][0], "standard_error": of[n][1]}) if n in of else "" for n in names]
        told.append([f"{row['step']:,}", f"{row['tokens']:,}", *cells])
    yield {"caption": "Every checkpoint", "header": ["step", "tokens", *names], "rows": told}


def _plus_minus(score: Mapping[str, Any]) -> str:
    error = score.get("standard_error")
    return f"{score['value']:,.3f}" + ("" if error is None else f" ± {error:.3f}")


def _document(row: Mapping[str, Any], characters: int | None) -> dict[str, Any]:
    facts = {name: row.get(name) for name in ("id", "stage", "fate", "rule", "value", "threshold", "detail")}
    facts |= {name: row.get(name) for name in ("source", "url", "licence", "language")}
    text = row["text"]
    return facts | {"text": text[:characters], "characters": len(text)}

"""Where a text of a model stands in training documents, cut into pieces that a page can mark."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import Field

from headwater import tracing
from headwater.core.config import Config
from headwater.core.errors import HeadwaterError, InputError
from headwater.core.log import logger
from headwater.evaluation.trace import MIN_WORDS, Match, trace
from headwater.serve.models import Models
from headwater.tokens.text_index import TextIndex

MOST_CHARACTERS = 30_000
"""Of a text that is looked up."""


class Look(Config):
    """A text to look up, as the page sends it."""

    model: int
    """Which model wrote it: its run's documents are searched."""
    text: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    min_words: int = Field(default=MIN_WORDS, ge=2, le=100)
    """Words of a match at least."""


@dataclass(frozen=True)
class _Known:
    index: TextIndex
    steps: tracing.Steps | None


class Origins:
    """The indexes of the models' runs, each opened when it is first asked for."""

    def __init__(self, models: Models) -> None:
        """Look texts of these models up."""
        self._models = models
        self._known: dict[Path, _Known] = {}
        self._lock = threading.Lock()

    def facts(self) -> list[dict[str, str]]:
        """For each model the run in whose documents its texts are looked up, or why they cannot be."""
        return [_where(run) for run in self._models.runs]

    def look(self, asked: Look) -> dict[str, Any]:
        """Find where a text stands in the training documents.

        Returns:
            `pieces`: the text in order, each with the numbers of the matches that cover it; `matches`.

        Raises:
            InputError: the model is of no run, or its run has no index.
            HeadwaterError: the index is damaged, or of other documents.
        """
        self._models.check_number(asked.model)
        run = self._models.runs[asked.model]
        where = _where(run)
        if run is None or "why" in where:
            raise InputError(where["why"], place=self._models.labels[asked.model])
        with self._lock:
            known = self._known.get(run) or self._known.setdefault(run, _open(run))
            found = trace(known.index, asked.text, min_words=asked.min_words)
            if known.steps:
                found = known.steps.of_matches(known.index, found)
        return {
            "run": run.name,
            "documents": known.index.documents,
            "pieces": list(pieces(asked.text, found)),
            "matches": [_told(match) for match in found],
        }


def pieces(text: str, matches: Sequence[Match]) -> Iterator[dict[str, Any]]:
    """A text in pieces, each with the numbers of the matches that cover it.

    Pieces and not positions: Python counts characters, browsers count halves of those beyond U+FFFF.
    """
    cuts = sorted({0, len(text), *(cut for match in matches for cut in (match.begin, match.end))})
    for begin, end in pairwise(cuts):
        covering = [n for n, match in enumerate(matches) if match.begin <= begin and end <= match.end]
        yield {"text": text[begin:end], "matches": covering}


def _where(run: Path | None) -> dict[str, str]:
    if run is None:
        return {
            "why": "is not the model of a run: its training documents are not known here "
            "(headwater serve --trace RUN looks its texts up in a run's)"
        }
    if not (run / "stages" / "index" / "manifest.json").is_file():
        return {"why": f"the run {run.name} has no index of its training documents: headwater index {run.name}"}
    return {"run": run.name}


def _open(run: Path) -> _Known:
    index = tracing.open_index(run)
    try:
        return _Known(index, tracing.steps_of(run))
    except HeadwaterError as error:
        logger.warning("which training steps read a match is not known: %s", error)
        return _Known(index, None)


def _told(match: Match) -> dict[str, Any]:
    return {
        "text": match.text,
        "words": match.words,
        "count": match.count,
        "documents": match.documents,
        "sources": [
            {
                "id": source.id,
                "source": source.source,
                "url": source.url,
                "licence": source.licence,
                "before": source.before,
                "after": source.after,
                "steps": None if source.steps is None else list(source.steps[:20]),
                "step_count": None if source.steps is None else len(source.steps),
            }
            for source in match.sources
        ],
    }

"""The step that judges documents by a classifier that you have: any fastText model, such as those for toxicity."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from headwater.core.config import nearest
from headwater.core.errors import InputError
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.meta import add_meta, replaced
from headwater.documents.cleaning.steps import CleaningStep, Verdict, at_least, at_most, judge

_PREFIX = "__label__"


class Classifier(CleaningStep):
    """Drop documents by the score that a fastText classifier gives to one of its labels.

    Dolma's classifiers of toxicity and DCLM's of quality are such models; `use: quality` trains one of your own.
    Line ends become spaces, as both do. Source: Soldaini et al., arXiv 2402.00159, section 5.3 (toxic above 0.4); Li et
    al., arXiv 2406.11794, section 4.4; Joulin et al., arXiv 1607.01759.
    """

    use: Literal["classifier"]
    model: Path
    """A fastText model, .bin or .ftz."""
    label: str = Field(min_length=1)
    """The label that counts, with or without `__label__`."""
    max_score: float | None = Field(default=None, ge=0, le=1)
    """Score that a document has at most, for labels of what you do not want."""
    min_score: float | None = Field(default=None, ge=0, le=1)
    """Score that a document has at least, for labels of what you want."""
    max_characters: int | None = Field(default=None, ge=1)
    """Characters that it reads of each document; null reads all."""
    tag: str | None = Field(default=None, min_length=1)
    """Field of `meta` in which the score is written."""

    @model_validator(mode="after")
    def _has_effect(self) -> Classifier:
        self._need_one_of("max_score", "min_score", "tag")
        return self

    @property
    def only_tells(self) -> bool:
        """Whether the step neither drops nor edits."""
        return self.max_score is None and self.min_score is None

    def files(self) -> dict[str, Path]:
        """The model.

        Raises:
            InputError: there is no such file, it is no model of fastText, or it has no such label.
        """
        if not self.model.is_file():
            raise InputError("there is no such file", place=str(self.model), hint="check the path in `use: classifier`")
        known = sorted(_labels(_opened(self.model, self.model.stat().st_mtime_ns)))
        if self._label not in known:
            names = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            problem = f"has no label '{self._label}'{nearest(self._label, known)}"
            raise InputError(problem, place=str(self.model), hint=f"its labels are: {names}")
        return {f"classifier: {self.model}": self.model}

    @property
    def _label(self) -> str:
        return self.label.removeprefix(_PREFIX)

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        model = _opened(self.model, self.model.stat().st_mtime_ns)
        scores = np.zeros(batch.rows.num_rows)
        meta, column = {}, batch.rows.column("meta")
        for index in np.flatnonzero(batch.wanted).tolist():
            text = batch.texts[index].as_py()[: self.max_characters].replace("\n", " ")
            labels, found = model.predict(text, k=-1)  # those of less than 0.00001 are left out
            scores[index] = dict(zip(labels, found, strict=True)).get(_PREFIX + self._label, 0.0)
            if self.tag:
                meta[index] = add_meta(column[index].as_py(), self.tag, round(float(scores[index]), 4))
        scores = scores.clip(0, 1)  # sums of rounded numbers may be a hair above
        return judge(
            len(scores),
            at_most("max_score", scores, self.max_score),
            at_least("min_score", scores, self.min_score),
            columns=replaced(batch.rows, "meta", meta),
        )


def _labels(model: Any) -> set[str]:
    """Every label of a model: a threshold below all scores leaves none out."""
    return {label.removeprefix(_PREFIX) for label in model.predict("", k=-1, threshold=-1.0)[0]}


@functools.lru_cache(maxsize=8)
def _opened(file: Path, changed: int) -> Any:  # noqa: ARG001  (a newer file is another)
    """A model of fastText.

    Raises:
        InputError: the file is none.
    """
    import fasttext

    try:
        return fasttext.load_model(str(file))
    except ValueError as error:
        hint = "give a .bin or .ftz of fastText; a model that `use: quality` has trained goes there"
        raise InputError(f"is no model of fastText ({error})", place=str(file), hint=hint) from None

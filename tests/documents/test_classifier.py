"""A classifier that the user has judges: its scores are the library's, and what is wrong with it is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fasttext
import pytest
from pydantic import ValidationError

from headwater.core.errors import InputError
from headwater.documents.cleaning.classifier import Classifier
from headwater.documents.cleaning.classify import model_file
from headwater.documents.cleaning.features import Features
from headwater.documents.document import documents_of

TEXTS = [
    "Das ist ein schöner Tag,\nund wir gehen an den See.",
    "The weather is fine today.",
    "Aujourd'hui il pleut.",
    "",
]


def test_scores_are_the_librarys() -> None:
    step = Classifier(use="classifier", model=model_file(), label="de", max_score=0.4, tag="german")
    verdict = step(Features(documents_of("web", TEXTS)))
    assert verdict.keep.tolist() == [False, True, True, True]
    labels, scores = fasttext.load_model(str(model_file())).predict(TEXTS[0].replace("\n", " "), k=1)
    assert labels == ("__label__de",)
    assert verdict.values[0] == pytest.approx(min(scores[0], 1.0))
    told = [json.loads(meta)["german"] for meta in verdict.columns["meta"].to_pylist()]
    assert told == [pytest.approx(scores[0], abs=1e-4), *[pytest.approx(0, abs=0.1)] * 3]
    wanted = Classifier(use="classifier", model=model_file(), label="__label__de", min_score=0.4)
    assert wanted(Features(documents_of("web", TEXTS))).keep.tolist() == [True, False, False, False]
    short = Classifier(use="classifier", model=model_file(), label="en", min_score=0.4, max_characters=25)
    assert short(Features(documents_of("web", ["The weather is fine today." + TEXTS[0] * 9]))).keep.tolist() == [True]


def test_what_is_wrong_with_a_classifier_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        Classifier(use="classifier", model=tmp_path / "none.bin", label="de", max_score=0.4).files()
    (tmp_path / "text.bin").write_text("no model")
    with pytest.raises(InputError, match="is no model of fastText"):
        Classifier(use="classifier", model=tmp_path / "text.bin", label="de", max_score=0.4).files()
    shutil.copy(model_file(), tmp_path / "lid.bin")
    with pytest.raises(InputError, match="has no label 'nsfw'") as caught:
        Classifier(use="classifier", model=tmp_path / "lid.bin", label="nsfw", max_score=0.4).files()
    assert "its labels are: af, als," in caught.value.hint
    with pytest.raises(ValidationError, match="does nothing; set one of max_score, min_score, tag"):
        Classifier(use="classifier", model=tmp_path / "lid.bin", label="de")

"""Languages are told apart, in every script, and the unwanted ones are dropped with their score."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest
from pydantic import ValidationError

from headwater.core.errors import InputError
from headwater.documents.cleaning import language_model
from headwater.documents.cleaning.classify import LANGUAGES, Language, model_file
from headwater.documents.cleaning.features import Features
from headwater.documents.document import documents_of

TEXTS = {
    "en": "The committee will meet again on Thursday to discuss the new bridge across the river.",
    "de": "Der Ausschuss trifft sich am Donnerstag wieder, um über die neue Brücke zu sprechen.",
    "fr": "La commission se réunira de nouveau jeudi pour parler du nouveau pont sur la rivière.",
    "ko": "위원회는 목요일에 다시 모여 강을 건너는 새 다리에 대해 논의할 예정이다.",
    "ja": "委員会は木曜日に再び集まり、川にかかる新しい橋について話し合います。",
    "th": "คณะกรรมการจะประชุมอีกครั้งในวันพฤหัสบดีเพื่อหารือเกี่ยวกับสะพานใหม่ข้ามแม่น้ำ",
}


def test_languages_are_found_and_written_down() -> None:
    batch = Features(documents_of("web", list(TEXTS.values())))
    verdict = Language(use="language")(batch)
    assert verdict.keep.all()
    assert batch.with_columns(verdict.columns).rows.column("language").to_pylist() == list(TEXTS)


def test_unwanted_languages_and_low_scores_are_dropped() -> None:
    texts = [*TEXTS.values(), "x1 qq zz 7"]
    verdict = Language(use="language", keep=("en", "de"), min_score=0.65)(Features(documents_of("web", texts)))
    assert verdict.keep.tolist() == [True, True, False, False, False, False, False]
    assert [verdict.rules[index] for index in verdict.failed[2:6].tolist()] == ["keep"] * 4
    assert verdict.details is not None
    assert verdict.details.to_pylist()[2:6] == ["fr", "ko", "ja", "th"]
    assert all(0.65 < value <= 1.01 for value in verdict.values[2:6].tolist())
    low = Language(use="language", min_score=0.95)(Features(documents_of("web", ["x1 qq zz 7"])))
    assert low.rules[low.failed[0]] == "min_score"
    assert 0 < low.values[0] < 0.95
    assert low.thresholds[0] == 0.95


def test_lines_are_words_apart() -> None:
    """Joined without a space, the last and first words of lines would be one."""
    joined = "\n".join(TEXTS["en"].split())
    verdict = Language(use="language", keep=("en",), min_score=0.65)(Features(documents_of("web", [joined])))
    assert verdict.keep.all()


def test_only_the_beginning_counts() -> None:
    text = TEXTS["de"] + " " + TEXTS["fr"] * 50
    assert Language(use="language", keep=("de",), max_characters=84)(Features(documents_of("web", [text]))).keep.all()


def test_odd_texts_do_not_fail() -> None:
    texts = ["", " \n\t", "\x00\x00", "\u2028", "\ufffe", "🔎", "a" * 100_000, "\u0301"]
    verdict = Language(use="language", min_score=0.99)(Features(documents_of("web", texts)))
    assert not any(math.isnan(value) for value in verdict.values[~verdict.keep].tolist())


@pytest.mark.parametrize("newlines", ["space", "nothing"])
def test_labels_and_scores_are_those_of_the_library(
    many_scripts: dict[str, list[str]], newlines: Literal["space", "nothing"]
) -> None:
    fasttext = pytest.importorskip("fasttext")
    library = fasttext.load_model(str(model_file()))
    texts = [text for some in many_scripts.values() for text in some[:60]] + list(TEXTS.values())
    texts += ["", " \n", "x1 qq 7", "__label__en hallo", "a </s> Bonjour le monde", "\u3000全角\u3000スペース\xa0e"]
    texts += ["a\x00b\x1fc d\x0be", "🔎🔎 \u0301", "日本語" * 3000, "1.5\u2028,<x>"]
    found = Language(use="language", newlines=newlines).detect(pa.array(texts))
    for text, ours in zip(texts, found, strict=True):
        line = " ".join(text.split()) if newlines == "space" else text.replace("\n", "")
        labels, scores = library.predict(line, 1)
        assert [f"__label__{label}" for label in ours] == list(labels), text[:80]
        assert list(ours.values()) == pytest.approx(list(scores), abs=1e-6)


@pytest.mark.parametrize("size", [0, 20, 100, 5000, 400_000])
def test_a_damaged_model_is_one_clear_line(tmp_path: Path, size: int) -> None:
    file = tmp_path / "lid.176.ftz"
    file.write_bytes(model_file().read_bytes()[:size])
    with pytest.raises(InputError, match="not a language model"):
        language_model.load(file)


@pytest.mark.parametrize("language", ["de", "ko", "ja"])
def test_real_pages_of_help(many_scripts: dict[str, list[str]], language: str) -> None:
    """Pages about BASIC are left out where they are mostly English keywords."""
    texts = [
        text for text in many_scripts[language] if language == "de" or sum(map(str.isascii, text)) < 0.65 * len(text)
    ]
    assert len(texts) >= 20
    verdict = Language(use="language", keep=(language,))(Features(documents_of("web", texts)))
    assert verdict.keep.mean() >= 0.95


def test_the_likeliest_languages_are_written_down() -> None:
    batch = Features(documents_of("web", [TEXTS["en"]], meta='{"page": 3}'))
    verdict = Language(use="language", top=3)(batch)
    meta = json.loads(batch.with_columns(verdict.columns).rows.column("meta")[0].as_py())
    assert meta["page"] == 3
    assert next(iter(meta["languages"])) == "en"
    assert len(meta["languages"]) == 3
    assert list(meta["languages"].values()) == sorted(meta["languages"].values(), reverse=True)


def test_languages_have_certainties_of_their_own() -> None:
    batch = Features(documents_of("web", [TEXTS["en"], TEXTS["de"]]))
    step = Language(use="language", keep=("en", "de"), min_score=0.1, min_scores={"de": 1.1})
    verdict = step(batch)
    assert verdict.keep.tolist() == [True, False]
    assert (verdict.rules[verdict.failed[1]], verdict.thresholds[1]) == ("min_score", 1.1)
    with pytest.raises(ValidationError, match="'fr' is not in keep"):
        Language(use="language", keep=("en",), min_scores={"fr": 0.5})


def test_paragraphs_of_other_languages_are_removed() -> None:
    text = "\n\n".join([TEXTS["en"], "Short line", TEXTS["fr"], "Court", TEXTS["en"] + " Again."])
    batch = Features(documents_of("web", [text, TEXTS["en"], TEXTS["fr"] + "\n\n" + TEXTS["de"]]))
    verdict = Language(use="language", keep=("en",), paragraphs=True)(batch)
    assert verdict.keep.tolist() == [True, True, False]
    assert verdict.edited is not None
    assert verdict.edited.tolist() == [True, False, False]
    left = batch.with_columns(verdict.columns).texts[0].as_py()
    assert left == "\n\n".join([TEXTS["en"], "Short line", TEXTS["en"] + " Again."])
    with pytest.raises(ValidationError, match="which languages to keep"):
        Language(use="language", paragraphs=True)


def test_joining_lines_without_a_space_glues_words() -> None:
    """It is there to repeat what others did, and says so."""
    joined = "\n".join(TEXTS["en"].split())
    glued, right = Language(use="language", newlines="nothing"), Language(use="language")
    lines, spaces, nothing = (pa.array([text]) for text in (joined, TEXTS["en"], joined.replace("\n", "")))
    assert glued.detect(lines) == right.detect(nothing)
    assert right.detect(lines) == right.detect(spaces)
    assert "glues words" in glued.cautions[0]
    assert not right.cautions


def test_accuracy_on_the_declaration_of_human_rights(shared_data: Path) -> None:
    files = {"en": "eng", "fr": "fra", "es": "spa", "it": "ita", "pt": "por_PT", "nl": "nld", "sv": "swe", "pl": "pol"}
    files |= {"cs": "ces", "ru": "rus", "uk": "ukr", "el": "ell_monotonic", "tr": "tur", "hi": "hin", "ja": "jpn"}
    files |= {"ko": "kor", "th": "tha", "ar": "arb", "he": "heb", "vi": "vie", "hu": "hun", "fi": "fin"}
    texts, wanted = [], []
    with zipfile.ZipFile(shared_data / "text" / "nltk-udhr2.zip") as archive:
        for language, name in files.items():
            lines = [line.strip() for line in archive.read(f"udhr2/{name}.txt").decode().splitlines()]
            found = [line for line in lines if len(line) >= 80]
            texts += found
            wanted += [language] * len(found)
    batch = Features(documents_of("web", texts))
    labels = batch.with_columns(Language(use="language")(batch).columns).rows.column("language").to_pylist()
    assert len(texts) > 800
    assert sum(map(str.__eq__, labels, wanted)) / len(texts) > 0.985


def test_languages_are_those_of_the_model() -> None:
    assert set(language_model.load(model_file()).labels) == LANGUAGES


def test_a_language_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"keep: no language 'eng'; did you mean 'en'\?"):
        Language(use="language", keep=("de", "eng"))
    with pytest.raises(ValidationError, match="min_scores: no language 'xx'"):
        Language(use="language", min_scores={"xx": 0.5})

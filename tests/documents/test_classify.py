"""Languages are told apart, in every script, and the unwanted ones are dropped with their score."""

from __future__ import annotations

import math

import pytest

from headwater.documents.classify import Language
from headwater.documents.document import documents_of
from headwater.documents.features import Features

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


@pytest.mark.parametrize("language", ["de", "ko", "ja"])
def test_real_pages_of_help(many_scripts: dict[str, list[str]], language: str) -> None:
    """Pages about BASIC are left out where they are mostly English keywords."""
    texts = [
        text for text in many_scripts[language] if language == "de" or sum(map(str.isascii, text)) < 0.65 * len(text)
    ]
    assert len(texts) >= 20
    verdict = Language(use="language", keep=(language,))(Features(documents_of("web", texts)))
    assert verdict.keep.mean() >= 0.95

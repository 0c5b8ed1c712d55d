"""Word lists: a share of words or a single one, whole words where there are spaces, inside text where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.core.errors import InputError
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.toxicity import Toxicity
from headwater.documents.document import documents_of


def test_words_phrases_and_shares(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("# words\nbad\nvery ugly\n\nBAD\n")
    texts = ["a badge of honour", "a BAD, very ugly day " + "of rain " * 10, "nothing", "bad"]
    batch = Features(documents_of("web", texts, language="en"))
    strict = Toxicity(use="toxicity", lists={"en": tmp_path / "en"}, max_words=0, max_share=None)
    assert strict(batch).keep.tolist() == [True, False, True, False]
    mild = Toxicity(use="toxicity", lists={"en": tmp_path / "en"}, max_share=0.2)
    verdict = mild(batch)
    assert verdict.keep.tolist() == [True, True, True, False]
    assert verdict.details is not None
    assert verdict.details[3].as_py() == "bad"
    assert Toxicity(use="toxicity", lists={"en": tmp_path / "en"}, max_share=0.11)(batch).values[1] == pytest.approx(
        3 / 25
    )


@pytest.mark.parametrize(
    ("language", "word", "hit", "miss"),
    [
        ("ja", "畜生", "この畜生め", "家畜が生きる"),
        ("th", "เลว", "คนเลวมาก", "คนดีมาก"),
        ("zh", "坏蛋", "你这个坏蛋啊", "坏的蛋"),
        ("ko", "바보", "너는 바보야", "밤바보다"),
        ("de", "Mist", "So ein Mist!", "Das Mistbeet"),
    ],
)
def test_scripts(tmp_path: Path, language: str, word: str, hit: str, miss: str) -> None:
    (tmp_path / "list").write_text(word + "\n", encoding="utf-8")
    step = Toxicity(use="toxicity", lists={language: tmp_path / "list"}, max_words=0)
    batch = Features(documents_of("web", [hit, miss], language=language))
    assert step(batch).keep.tolist() == [False, True]


def test_other_languages_stay_unless_a_list_is_theirs(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("bad\n")
    batch = Features(documents_of("web", ["bad", "bad"], language=["fr", None]))
    assert Toxicity(use="toxicity", lists={"en": tmp_path / "en"}, max_words=0)(batch).keep.all()
    step = Toxicity(use="toxicity", lists={"en": tmp_path / "en"}, max_words=0, default_language="en")
    assert not step(batch).keep.any()


def test_bad_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        Toxicity(use="toxicity", lists={"en": tmp_path / "none"}).files()
    (tmp_path / "empty").write_text("\n# nothing\n")
    with pytest.raises(InputError, match="holds no words"):
        Toxicity(use="toxicity", lists={"en": tmp_path / "empty"}).files()
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as a list"):
        Toxicity(use="toxicity", lists={"en": tmp_path / "bad"}).files()


def test_real_lists_spare_ordinary_text(shared_data: Path, many_scripts: dict[str, list[str]]) -> None:
    for language, texts in many_scripts.items():
        step = Toxicity(use="toxicity", lists={language: shared_data / f"gold/toxicity/ldnoobw-{language}.txt"})
        kept = step(Features(documents_of("web", texts, language=language))).keep
        assert kept.mean() > 0.9, language

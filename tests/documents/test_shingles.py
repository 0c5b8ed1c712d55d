"""Units of texts: words or characters, as plain Python parts them, with their places in the bytes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.documents.document import text_buffer
from headwater.documents.overlap.sketch import minhash
from headwater.documents.text.shingles import gram_hashes, units

from . import reference

LETTERS = st.one_of(st.sampled_from(list(" ab,.1Éß\n٣\u0301İ한3.字ก")), st.characters(exclude_categories=["Cs"]))
TEXT = st.lists(LETTERS, max_size=60).map("".join)
MIXED = {
    "zh": "河水在夜里上涨,到了早晨,山谷里的人们不得不离开家园。",
    "ja": "川は夜のうちに増水し、朝には谷の人々が家を離れなければならなかった。",
    "ko": "강물은 밤사이 불어났고 아침에는 골짜기 사람들이 집을 떠나야 했다.",
    "th": "แม่น้ำเอ่อขึ้นในตอนกลางคืน และผู้คนในหุบเขาต้องออกจากบ้าน",
}


def cut(text: str, kind: str) -> tuple[list[str], list[int]]:
    table = units(pa.array([text], pa.string()), kind)  # type: ignore[arg-type]
    data = text_buffer(pa.array([text], pa.string()))[0].tobytes()
    return [data[b:e].decode() for b, e in zip(table.begins, table.ends, strict=True)], table.hashes.tolist()


@given(TEXT)
@example("3.14 3.1.4 1,000.5 ٣.٣ 3.٣ 3\u0301.1 a3b4 .5 5.")
def test_words_are_those_of_plain_python_and_stand_where_they_say(text: str) -> None:
    pieces, hashes = cut(text, "words")
    expected = reference.folded_words(text)
    assert [reference.folded_words(piece) for piece in pieces] == [[word] for word in expected]
    assert len(set(hashes)) == len(set(expected))


@given(TEXT)
def test_characters_are_the_letters_of_the_words(text: str) -> None:
    pieces, hashes = cut(text, "characters")
    expected = list("".join(reference.folded_words(text)))
    assert len(pieces) == len(expected)
    assert ["".join(reference.folded_words(piece)) for piece in pieces] == expected
    assert len(set(hashes)) == len(set(expected))


@pytest.mark.parametrize("script", MIXED)
def test_scripts_without_spaces_are_compared_by_characters(script: str) -> None:
    text = MIXED[script]
    english = "The river rose in the night and by the morning the people had to leave. "
    table = units(pa.array([text, english, text + english, english * 30 + text, "", "123"]), "auto")
    assert table.characters.tolist() == [True, False, True, False, False, False]
    assert table.unspaced[0] == sum(letter.isalpha() for letter in reference_letters(text))
    assert table.unspaced[1] == 0


def reference_letters(text: str) -> str:
    return "".join(reference.folded_words(text))


def test_only_wanted_texts_have_units() -> None:
    table = units(pa.array(["one two", "three", "four five six"]), "words", np.array([True, False, True]))
    assert table.offsets.tolist() == [0, 2, 2, 5]


def test_gram_hashes_are_equal_where_the_grams_are() -> None:
    table = units(pa.array(["a b c d", "x a b c", "b c", "a b c a b c"]), "words")
    offsets, hashes = gram_hashes(table, np.array([3, 3, 3, 3]))
    assert offsets.tolist() == [0, 2, 4, 4, 8]
    abc, bcd, xab, other, *rest = hashes.tolist()
    assert abc == other == rest[0] == rest[3]
    assert len({abc, bcd, xab}) == 3


def test_one_changed_character_leaves_a_text_similar() -> None:
    text = MIXED["zh"] * 3
    edited = text[:40] + "们" + text[41:]
    _, marks, grams = minhash(pa.array([text, edited]), 5, 14, 8, 1, compare="auto")
    assert grams.tolist() == [len(reference_letters(text)) - 7] * 2
    assert (marks[0] == marks[1]).mean() > 0.5
    _, _, grams = minhash(pa.array([text]), 5, 14, 8, 1, compare="words")
    assert grams[0] < 15

"""Words are parted as documented, and the compiled loop equals its plain-Python twin."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.documents.text.words import CHUNK, HAS_LETTER, IS_SYMBOL, words

from . import reference

MARKS = st.sampled_from(list(" \n.,:;-–'’\"()[]{}/=<>+*^%$…!?_#&~€ab1Zé한字\u0301\u00a0\u2028🔎."))
TEXT = st.lists(st.one_of(MARKS, st.characters(exclude_categories=["Cs"])), max_size=60).map("".join)


def parted(text: str) -> list[str]:
    """The words of a text, cut out of it by the lengths that the compiled loop gives."""
    found, rest = [], text
    table = words(pa.array([text]), np.ones(1, np.bool_))
    for length in table.lengths.tolist():
        rest = rest.lstrip() if not found or not rest or rest[0].isspace() else rest
        found.append(rest[:length])
        rest = rest[length:]
    assert not rest.strip()
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(e.g. don't!)", "( e.g. do n't ! )"),
        ("Don't stop. It's 3.14, U.S. and we'll see...", "Do n't stop . It 's 3.14 , U.S. and we 'll see ..."),
        ("well-known 1-2 a--b x=3 a=b", "well - known 1 - 2 a -- b x=3 a = b"),
        ("def f(self, x):", "def f(self , x ):"),
        ("torch.nn.Module a.b.c end.Start", "torch.nn . Module a.b.c end . Start"),
        ("see https://a.b/c,d=e www.x.org/a-b now", "see https://a.b/c,d=e www.x.org/a-b now"),
        ("50% of $5 +5 5+ + --- ===", "50 % of $ 5 +5 5 + + --- = = ="),
        ("Straße, naïve — «так»", "Straße , naïve — « так »"),
        ("東京は日本の首都です。人口は多い", "東京は日本の首都です。人口は多い"),
        ("안녕하세요. 반갑습니다!", "안녕하세요 . 반갑습니다 !"),
        ("ok🔎ok", "ok 🔎 ok"),
        (" \t\n", ""),
        ("", ""),
    ],
)
def test_words_are_parted_as_documented(text: str, expected: str) -> None:
    assert parted(text) == reference.words(text) == expected.split()


def test_kinds_tell_letters_and_symbols_apart() -> None:
    table = words(pa.array(["abc 12 ... x1 — é"]), np.ones(1, np.bool_))
    assert table.kinds.tolist() == [HAS_LETTER, 0, IS_SYMBOL, HAS_LETTER, IS_SYMBOL, HAS_LETTER]


def test_equal_words_have_equal_hashes_and_different_ones_different() -> None:
    table = words(pa.array(["the cat, the", "cat The"]), np.ones(2, np.bool_))
    the, cat, comma, the2, cat2, upper = table.hashes.tolist()
    assert the == the2
    assert cat == cat2
    assert len({the, cat, comma, upper}) == 4
    assert table.offsets.tolist() == [0, 4, 6]


def test_documents_that_are_not_wanted_have_no_words() -> None:
    table = words(pa.array(["one two", "three", "four five"]), np.array([True, False, True]))
    assert table.offsets.tolist() == [0, 2, 2, 4]


def test_slices_of_a_column_are_read_at_their_own_place() -> None:
    texts = pa.array(["skipped words", "a, b", "c", "skipped"])
    table = words(texts.slice(1, 2), np.ones(2, np.bool_))
    assert table.lengths.tolist() == [1, 1, 1, 1]
    assert table.offsets.tolist() == [0, 3, 4]


@pytest.mark.parametrize("run", ["x" * (3 * CHUNK + 1), "é" * CHUNK, "x" * (CHUNK - 1) + "。" * 10, "ab-" * CHUNK])
def test_long_runs_without_space_are_cut(run: str) -> None:
    assert parted(run) == reference.words(run)


def test_there_is_place_for_as_many_words_as_there_can_be() -> None:
    table = words(pa.array(["( " * 20_000, "(" * 30_000]), np.ones(2, np.bool_))
    assert table.offsets.tolist() == [0, 20_000, 50_000]


def test_a_line_of_five_megabytes() -> None:
    table = words(pa.array(["x" * 5_000_000, "a " * 10]), np.ones(2, np.bool_))
    assert table.offsets.tolist() == [0, -(-5_000_000 // CHUNK), -(-5_000_000 // CHUNK) + 10]


@given(TEXT)
@example("\x00a\x00. \x1f \x85 \ufeffé\ufffe\U0010ffff")
@example("a.\u0301 ..' ''s 's n't 'll x'll ....")
def test_equals_plain_python_on_any_text(text: str) -> None:
    assert parted(text) == reference.words(text)


def test_equals_plain_python_on_real_text(
    english: list[str], source_code: list[str], many_scripts: dict[str, list[str]]
) -> None:
    texts = [*english[:200], *source_code[:8], *(text for part in many_scripts.values() for text in part[:30])]
    table = words(pa.array(texts), np.ones(len(texts), np.bool_))
    hashes: dict[str, set[int]] = {}
    for i, text in enumerate(texts):
        rows, expected = slice(table.offsets[i], table.offsets[i + 1]), reference.words(text)
        assert table.lengths[rows].tolist() == [len(word) for word in expected], text
        kinds = [
            HAS_LETTER * any(map(str.isalpha, word)) + IS_SYMBOL * all(map(reference.is_symbol, word))
            for word in expected
        ]
        assert table.kinds[rows].tolist() == kinds, text
        for word, hashed in zip(expected, table.hashes[rows].tolist(), strict=True):
            hashes.setdefault(word, set()).add(hashed)
    assert all(len(found) == 1 for found in hashes.values())
    assert len({*map(min, hashes.values())}) == len(hashes)

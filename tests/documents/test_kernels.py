"""Lines, paragraphs and repetition are measured as documented, and as their plain-Python twins measure them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.documents.text import kernels
from headwater.documents.text.kernels import ENDS_IN_ELLIPSIS, ENDS_SENTENCE, HAS_BULLET, IS_BLANK
from headwater.documents.text.words import Words, words

from . import reference

PIECES = st.sampled_from(
    ["\n", "\n\n", " ", "  \n", "...", "…", ".", "- ", "• ", "#", "a b.", "é!", "?", "x1", "。", "\r\n", "\t"]
)
TEXT = st.lists(st.one_of(PIECES, st.characters(exclude_categories=["Cs"])), max_size=40).map("".join)
WORDS = st.lists(st.sampled_from(["a", "bb", "the", "cat", "of", "longer", "."]), max_size=60)


def lines(*texts: str) -> kernels.Lines:
    return kernels.lines(pa.array(texts, pa.string()), np.ones(len(texts), np.bool_))


def table_of(*documents: list[str]) -> Words:
    return words(
        pa.array([" ".join(document) for document in documents], pa.string()), np.ones(len(documents), np.bool_)
    )


def check_lines(text: str) -> None:
    table, parts = lines(text), text.split("\n")
    assert table.lengths.tolist() == [len(part) for part in parts]
    for part, kind in zip(parts, table.kinds.tolist(), strict=True):
        assert bool(kind & IS_BLANK) == (not part.strip())
        assert bool(kind & HAS_BULLET) == part.lstrip().startswith(("•", "-"))
        assert bool(kind & ENDS_IN_ELLIPSIS) == part.rstrip().endswith(("...", "…"))
        assert bool(kind & ENDS_SENTENCE) == (part != "" and ord(part[-1]) in reference.TERMINALS)
    alphanumeric = sum(letter.isalpha() or letter in reference.DIGITS for letter in text)
    ellipses = sum(part.count("...") + part.count("…") for part in parts)
    assert table.counts.tolist() == [[len(text), alphanumeric, text.count("#"), ellipses, max(map(len, parts))]]


@given(TEXT)
@example("")
@example("\n")
@example(". . .\n.. .\n...... ...")
@example("\x00\n\x85\u2028-")
def test_lines_equal_plain_python_on_any_text(text: str) -> None:
    check_lines(text)


def test_lines_equal_plain_python_on_real_text(english: list[str], many_scripts: dict[str, list[str]]) -> None:
    for text in [*english[:300], *(text for part in many_scripts.values() for text in part[:40])]:
        check_lines(text)


def test_there_is_place_for_as_many_lines_as_there_can_be() -> None:
    assert lines("\n" * 10_000, "a\n" * 3).offsets.tolist() == [0, 10_001, 10_005]


def test_unwanted_documents_have_no_lines() -> None:
    table = kernels.lines(pa.array(["a\nb", "c\nd", "e"]), np.array([False, True, False]))
    assert table.offsets.tolist() == [0, 0, 2, 2]
    assert table.counts[0].tolist() == [0] * 5


@given(TEXT)
@example("  \n\na\n\n\nb\nc\n \n")
def test_paragraphs_equal_plain_python(text: str) -> None:
    offsets, hashes, lengths = kernels.paragraphs(lines(text))
    expected = reference.paragraphs(text)
    assert lengths.tolist() == [len(part) for part in expected]
    assert offsets.tolist() == [0, len(expected)]
    assert len(set(hashes.tolist())) == len(set(expected))


def test_repeated_lines_are_counted() -> None:
    table = lines("one\ntwo\none\n\n\none", "one\n", "")
    counts = kernels.duplicates(table.offsets, table.hashes, table.lengths, table.lengths == 0)
    assert counts.tolist() == [[4, 2, 6], [1, 0, 0], [0, 0, 0]]


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=40), min_size=1, max_size=4))
def test_duplicates_equal_plain_python(documents: list[list[str]]) -> None:
    table = lines(*("\n".join(document) for document in documents))
    counts = kernels.duplicates(table.offsets, table.hashes, table.lengths, table.lengths == 0)
    assert counts.tolist() == [[len(document), *reference.repeated(document)] for document in documents]


def test_distinct_members_are_counted_once_in_each_document() -> None:
    table = table_of(["the", "cat", "the", "of"], [], ["cat", "cat"], ["the"])
    wanted = table.hashes[[0, 3]].copy()  # the, of
    assert kernels.distinct_members(table.offsets, table.hashes, wanted).tolist() == [2, 0, 0, 1]


def check_repetition(texts: list[str], share: float) -> None:
    """Exact above the limit, never above it when the exact value is not."""
    table = words(pa.array(texts, pa.string()), np.ones(len(texts), np.bool_))
    limits = np.repeat([[share * len(text)] for text in texts], 9, axis=1)
    found = kernels.gram_repetition(table.offsets, table.hashes, table.lengths, limits)
    for text, limit, values in zip(texts, limits[:, 0].tolist(), found.tolist(), strict=True):
        parts = reference.words(text)
        exact = [reference.most_common_gram(parts, n) for n in (2, 3, 4)]
        exact += [reference.repeated_grams(parts, n) for n in range(5, 11)]
        for measured, truth in zip(values, exact, strict=True):
            assert measured == truth if truth > limit else measured in (0, truth)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
def test_repetition_equals_plain_python_on_real_text(
    english: list[str], source_code: list[str], many_scripts: dict[str, list[str]], share: float
) -> None:
    check_repetition([*english[:80], *source_code[:4], *many_scripts["ko"][:15], *many_scripts["de"][:15]], share)


@given(st.lists(WORDS, min_size=1, max_size=3), st.sampled_from([0.0, 0.05, 0.3, 0.6]))
def test_repetition_equals_plain_python_on_repetitive_text(documents: list[list[str]], share: float) -> None:
    check_repetition([" ".join(document) for document in documents], share)


def test_rules_that_are_off_cost_nothing() -> None:
    table = table_of(["same", "words"] * 200)
    limits = np.full((1, 9), np.inf)
    assert not kernels.gram_repetition(table.offsets, table.hashes, table.lengths, limits).any()


def test_empty_columns_and_empty_texts() -> None:
    for texts in ([], [""], ["", "", ""], [" "]):
        table = table_of(*[[text] for text in texts])
        assert len(table.hashes) == 0
        assert lines(*texts).offsets.tolist() == list(range(len(texts) + 1))
        limits = np.zeros((len(texts), 9))
        assert not kernels.gram_repetition(table.offsets, table.hashes, table.lengths, limits).any()


def test_functions_are_compiled_once_whatever_the_buffers() -> None:
    texts = pa.array(["a b", "c d e"])
    copied = pa.StringArray.from_buffers(2, texts.buffers()[1], pa.py_buffer(bytearray(texts.buffers()[2])))
    for column in (texts, copied, pa.array(["", ""]), texts.take(pa.array([1, 0]))):
        kernels.lines(column, np.ones(len(column), np.bool_))
    assert len(kernels._lines.signatures) == 1


def test_compiles_where_machine_code_cannot_be_kept() -> None:
    """Code that is in no file has no place for a cache, as an installation nobody may write to, without a home folder."""
    place: dict[str, Any] = {}
    exec("def double(values):\n    for i in range(len(values)):\n        values[i] *= 2\n", place)
    values = np.array([1, 2])
    kernels.compiled(place["double"])(values)
    assert values.tolist() == [2, 4]

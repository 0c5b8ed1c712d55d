"""Sketches of similar texts are similar to the degree that the texts are; clusters join what shares a key."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.documents.overlap import sketch
from headwater.documents.overlap.sketch import clusters, minhash, unite

from . import reference

LETTERS = st.one_of(st.sampled_from(list(" ab,.1Éß\n٣\u0301İ한3.")), st.characters(exclude_categories=["Cs"]))
TEXT = st.lists(LETTERS, max_size=60).map("".join)


def check(texts: list[str], ngram: int) -> None:
    """Marks, keys and the number of n-grams equal those of plain Python."""
    bands, rows, seed = 3, 2, 7
    numbers = sketch._random_numbers(seed, 2 * bands * rows).tolist()
    permutations = [(a | 1, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    keys, marks, grams = minhash(pa.array(texts, pa.string()), ngram, bands, rows, seed)
    for index, text in enumerate(texts):
        minima = reference.minima(text, ngram, permutations)
        assert grams[index] == max(0, len(reference.folded_words(text)) - ngram + 1)
        assert marks[index].tolist() == ([least % 256 for least in minima] or [0] * bands * rows)
        assert (keys[:, index] != 0).tolist() == [bool(minima)] * bands


@given(TEXT, st.integers(1, 3))
@example("3.14 3.1.4 1,000.5 ٣.٣ 3.٣ 3\u0301.1 a3b4 .5 5.", 1)
@example("Éa\u0301 İ ﬁ ß ẞ 한국 \x00 \u0345 ǅ", 1)
def test_equals_plain_python_on_any_text(text: str, ngram: int) -> None:
    check([text], ngram)


def test_equals_plain_python_on_real_text(english: list[str], many_scripts: dict[str, list[str]]) -> None:
    check([*english[:60], *(text for part in many_scripts.values() for text in part[:10])], 5)


def test_case_numbers_marks_and_punctuation_make_no_difference() -> None:
    texts = ["The café has 12 tables, and 3.5 more!", "the CAFE has 7 tables and 1,000 more"]
    keys, marks, _ = minhash(pa.array(texts), 3, 4, 2, 1)
    assert (keys[:, 0] == keys[:, 1]).all()
    assert (marks[0] == marks[1]).all()


def test_a_text_with_too_few_words_shares_no_key() -> None:
    keys, _, grams = minhash(pa.array(["one two three four", "one two three four five", ""]), 5, 4, 2, 1)
    assert grams.tolist() == [0, 1, 0]
    assert (keys[:, [0, 2]] == 0).all()
    assert (keys[:, 1] != 0).all()


def test_another_seed_gives_other_keys() -> None:
    text = pa.array(["one two three four five six"])
    assert not set(minhash(text, 5, 4, 2, 1)[0][:, 0].tolist()) & set(minhash(text, 5, 4, 2, 2)[0][:, 0].tolist())


@pytest.fixture(scope="module")
def pairs(english: list[str]) -> tuple[list[str], list[str], np.ndarray]:
    """Real texts, each beside a copy with some words replaced, and their true similarity."""
    generator = random.Random(5)
    long = [text for text in english if len(text.split()) >= 80]
    vocabulary = sorted({word for text in long for word in text.split()})
    copies = [
        edited(text, generator.choice([0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.3]), vocabulary, generator)
        for text in long
    ]
    similar = [
        reference.jaccard(reference.shingles(a, 5), reference.shingles(b, 5)) for a, b in zip(long, copies, strict=True)
    ]
    return long, copies, np.array(similar)


def edited(text: str, rate: float, vocabulary: list[str], generator: random.Random) -> str:
    return " ".join(generator.choice(vocabulary) if generator.random() < rate else word for word in text.split())


def test_estimates_are_exact_and_without_bias(pairs: tuple[list[str], list[str], np.ndarray]) -> None:
    left, right, similar = pairs
    marks = [minhash(pa.array(texts), 5, 14, 8, seed)[1] for seed in (1, 2, 3) for texts in (left, right)]
    agree = np.concatenate([(marks[i] == marks[i + 1]).mean(axis=1) for i in (0, 2, 4)])
    error = (agree - 1 / 256) / (1 - 1 / 256) - np.tile(similar, 3)
    close = np.tile(similar >= 0.8, 3)
    assert close.sum() > 500
    assert np.sqrt(np.mean(error[close] ** 2)) <= 0.03
    assert abs(error.mean()) <= 0.005
    # Each of 112 independent minima agrees with probability J: the error is no larger than that of 112 coins.
    coins = np.sqrt(np.mean(similar * (1 - similar)) / 112)
    assert np.sqrt(np.mean(error**2)) <= 1.1 * coins


def test_similar_texts_share_a_key(pairs: tuple[list[str], list[str], np.ndarray]) -> None:
    left, right, similar = pairs
    found = (minhash(pa.array(left), 5, 14, 8, 1)[0] == minhash(pa.array(right), 5, 14, 8, 1)[0]).any(axis=0)
    near, middle, far = similar >= 0.9, (similar >= 0.8) & (similar < 0.9), similar < 0.4
    assert near.sum() > 100
    assert middle.sum() > 50
    assert found[near].all()
    assert found[middle].mean() >= 0.93
    assert found[far].mean() <= 0.05


def test_texts_that_have_nothing_in_common_share_no_key(english: list[str]) -> None:
    keys, _, grams = minhash(pa.array([f"{text[:50]} {number}" for number, text in enumerate(english)]), 5, 14, 8, 1)
    sets = [reference.shingles(text[:50], 5) for text in english]
    for band in keys:
        order = np.argsort(band)
        for a, b in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
            if band[a] == band[b] and grams[a]:
                assert reference.jaccard(sets[a], sets[b]) > 0


@given(st.lists(st.lists(st.integers(0, 6), min_size=12, max_size=12), min_size=1, max_size=3))
def test_clusters_equal_those_found_by_comparing_all(bands: list[list[int]]) -> None:
    parents = np.arange(12)
    for band in bands:
        unite(parents, np.array(band, np.uint64))
    expected = list(range(12))
    for _ in range(12):
        for band in bands:
            for a in range(12):
                for b in range(12):
                    if band[a] == band[b] != 0:
                        expected[a] = expected[b] = min(expected[a], expected[b])
    assert clusters(parents).tolist() == expected


def test_equal_keys_join_only_with_equal_checks() -> None:
    parents = np.arange(3)
    unite(parents, np.array([5, 5, 5], np.uint64), np.array([1, 2, 3], np.uint64))
    assert clusters(parents).tolist() == [0, 1, 2]

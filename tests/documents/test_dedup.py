"""Stage dedup: copies go, the first stays, and nothing else goes; against comparing all with all."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headwater.core.errors import EmptyResultError
from headwater.core.stage import Counts
from headwater.documents.dedup import Dedup, dedup
from headwater.documents.document import shards_in

from . import corpus, reference

LONG = "The river rose in the night and by the morning the people of the valley had to be taken out of their houses"
OTHER = "Nobody had thought that a bridge of such age could be repaired in less than a year with so few workers at hand"


def run(
    folder: Path, sources: Mapping[str, Sequence[str]], workers: int = 1, shard_bytes: int = 1 << 20, **settings: Any
) -> tuple[Counts, corpus.Place]:
    inputs = {"documents": corpus.write(folder / "clean", sources, shard_bytes)}
    out = corpus.Place(folder / "dedup", workers)
    return dedup(Dedup.model_validate(settings), inputs, out), out


def dropped(out: corpus.Place) -> list[tuple[str, str]]:
    return [(row["text"], row["rule"]) for row in corpus.rows(out.folder / "dropped")]


def test_the_first_of_equal_documents_stays(tmp_path: Path) -> None:
    sources = {"a": ["one", "two", "one"], "b": ["two", "three", "Two"]}
    counts, out = run(tmp_path, sources, near=None)
    assert corpus.texts(out.folder / "documents") == ["one", "two", "three", "Two"]
    assert dropped(out) == [("one", "exact"), ("two", "exact")]
    kept = {row["text"]: row["id"] for row in corpus.rows(out.folder / "documents")}
    for row in corpus.rows(out.folder / "dropped"):
        assert (row["stage"], row["detail"], row["value"], row["threshold"]) == ("dedup", kept[row["text"]], 1.0, 1.0)
    assert counts["dropped"] == {"exact": {"documents": 2, "bytes": 6}}
    assert counts["sources"]["b"]["dropped"] == {"exact": 1}
    assert (counts["documents_in"], counts["documents_out"]) == (6, 4)
    assert counts["clusters"] == {"1": 2, "2": 2}


def test_near_duplicates_are_dropped_with_their_similarity(tmp_path: Path) -> None:
    copy = LONG.upper().replace("PEOPLE", "people,") + "!"
    counts, out = run(tmp_path, {"web": [LONG, OTHER, copy, LONG, f"{LONG} {OTHER} {LONG[::-1]}"]})
    assert dropped(out) == [(copy, "near_duplicate"), (LONG, "exact")]
    near, exact = corpus.rows(out.folder / "dropped")
    assert near["value"] == 1.0
    assert near["threshold"] == 0.6
    assert near["detail"] == exact["detail"] == corpus.rows(out.folder / "documents")[0]["id"]
    assert counts["clusters"] == {"1": 2, "3": 1}


def test_each_kind_can_be_switched_off(tmp_path: Path) -> None:
    texts = [LONG, LONG + "!", "short", "short"]
    assert dropped(run(tmp_path / "exact", {"web": texts}, near=None)[1]) == [("short", "exact")]
    assert dropped(run(tmp_path / "near", {"web": texts}, exact=False)[1]) == [(LONG + "!", "near_duplicate")]
    with pytest.raises(ValidationError, match="does nothing"):
        Dedup(exact=False, near=None)


def test_documents_with_few_words_are_only_compared_exactly(tmp_path: Path) -> None:
    texts = ["one two three four", "One two three four!", "one two three four five", "One two three four five."]
    assert dropped(run(tmp_path / "5", {"web": texts})[1]) == [(texts[3], "near_duplicate")]
    assert dropped(run(tmp_path / "6", {"web": texts}, near={"min_words": 6})[1]) == []
    found = dropped(run(tmp_path / "3", {"web": texts}, near={"ngram": 3, "min_words": 3, "rows": 1})[1])
    assert (texts[1], "near_duplicate") in found


def test_each_source_can_keep_its_own_near_duplicate(tmp_path: Path) -> None:
    sources = {"a": [LONG, LONG + "?"], "b": [LONG + "!", LONG + "!!"], "c": [LONG]}
    _, out = run(tmp_path, sources, near={"per_source": True})
    assert [(row["source"], row["text"]) for row in corpus.rows(out.folder / "documents")] == [
        ("a", LONG),
        ("b", LONG + "!"),
    ]
    assert dropped(out) == [(LONG + "?", "near_duplicate"), (LONG + "!!", "near_duplicate"), (LONG, "exact")]


def test_odd_documents(tmp_path: Path) -> None:
    texts = [
        "\x00",
        "\ufffe",
        "\u0301",
        "🔎\ufe0f" * 50,
        "x" * 5_000_000,
        "\u2028a",
        "日本語のテキスト",
        "\x00",
        "x" * 5_000_000,
    ]
    counts, out = run(tmp_path, {"web": texts})
    assert corpus.texts(out.folder / "documents") == texts[:7]
    assert counts["dropped"]["exact"]["documents"] == 2


def test_without_documents_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EmptyResultError, match="no documents"):
        run(tmp_path, {})


def test_without_duplicates_it_says_so(tmp_path: Path) -> None:
    counts, out = run(tmp_path, {"web": [LONG, OTHER]})
    assert out.notes == ["no duplicates"]
    assert counts["dropped"] == {}


@pytest.fixture(scope="module")
def edited(english: list[str]) -> list[str]:
    """Real texts, and after them copies in which some words are others."""
    generator = random.Random(3)
    long = [text for text in english if len(text.split()) >= 60][:250]
    vocabulary = sorted({word for text in long for word in text.split()})
    copies = [
        " ".join(generator.choice(vocabulary) if generator.random() < rate else word for word in text.split())
        for rate in (0.003, 0.01, 0.03)
        for text in long
    ]
    return long + copies


def test_all_that_is_near_is_found_and_nothing_else(tmp_path: Path, edited: list[str]) -> None:
    """Against comparing every text with every other."""
    _, out = run(tmp_path, {"web": edited}, shard_bytes=100_000)
    sets = [reference.shingles(text, 5) for text in edited]
    kept = {text: number for number, text in enumerate(edited)}
    left = {kept[text] for text in corpus.texts(out.folder / "documents")}
    holders: dict[tuple[str, ...], list[int]] = {}
    best = [0.0] * len(edited)  # similarity to the most similar earlier text
    for number, grams in enumerate(sets):
        for other in {holder for gram in grams for holder in holders.get(gram, ())}:
            best[number] = max(best[number], reference.jaccard(grams, sets[other]))
        for gram in grams:
            holders.setdefault(gram, []).append(number)
    near = [number for number, similar in enumerate(best) if similar >= 0.9]
    middle = [number for number, similar in enumerate(best) if 0.8 <= similar < 0.9]
    assert len(near) > 200
    assert len(middle) > 50
    assert not left & set(near)
    assert sum(number not in left for number in middle) / len(middle) >= 0.93
    gone = [number for number in range(len(edited)) if number not in left]
    assert sum(best[number] >= 0.5 for number in gone) / len(gone) >= 0.995
    identifiers = {row["id"] for row in corpus.rows(out.folder / "documents")}
    assert all(row["value"] > 0.3 and row["detail"] in identifiers for row in corpus.rows(out.folder / "dropped"))


def test_workers_and_shards_make_no_difference(tmp_path: Path, edited: list[str]) -> None:
    found = []
    for name, workers, size in (("one", 1, 30_000), ("two", 2, 30_000), ("whole", 1, 1 << 20)):
        counts, out = run(tmp_path / name, {"web": edited[:300], "more": edited[300:]}, workers, size)
        rows = [corpus.rows(out.folder / kind) for kind in ("documents", "dropped")]
        files = {path.relative_to(out.folder): path.read_bytes() for path in sorted(out.folder.rglob("*.parquet"))}
        found.append((counts, rows, files))
    assert len(found[0][2]) > 10
    assert found[0] == found[1]
    assert found[0][:2] == found[2][:2]


def test_a_killed_run_goes_on(tmp_path: Path, edited: list[str]) -> None:
    first, out = run(tmp_path, {"web": edited}, shard_bytes=100_000)
    before = {path.name: path.read_bytes() for path in shards_in(out.folder / "documents")}
    names = sorted(before)[1:]
    for name in names:  # as if killed after the first shard was written
        (out.folder / "documents" / name).unlink()
        (out.folder / ".done" / f"dedup-{name.removesuffix('.parquet')}.json").unlink()
    again = dedup(Dedup(), {"documents": tmp_path / "clean"}, out)
    assert again == first
    assert {path.name: path.read_bytes() for path in shards_in(out.folder / "documents")} == before

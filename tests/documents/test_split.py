"""The split: by document, by hash, the same whatever the order, and never the same text on both sides."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.core.errors import EmptyResultError, InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import SCHEMA, Shards, documents_of, read_batches, shards_in
from headwater.documents.split import Split, split


def run(
    folder: Path, sources: dict[str, list[str]], workers: int = 1, shard_bytes: int = 400, **settings: Any
) -> tuple[dict[str, Any], dict[str, list[str]], dict[str, list[str]]]:
    """Split documents and return the counts, and the texts of each side by source."""
    for name, texts in sources.items():
        with Shards(folder / "in" / "documents", name, SCHEMA, shard_bytes) as shards:
            shards.write(documents_of(name, texts))
    out = Workspace(folder / "out", Machine(workers=workers))
    counts = split(Split(**settings), {"documents": folder / "in"}, out)
    return counts, texts_in(folder / "out" / "documents"), texts_in(folder / "out" / "held_out")


def texts_in(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for shard in shards_in(folder):
        for batch in read_batches(shard):
            for row in batch.to_pylist():
                found.setdefault(row["source"], []).append(row["text"])
    return found


def numbered(count: int, word: str = "text") -> list[str]:
    return [f"{word} {number}" for number in range(count)]


@given(count=st.integers(20, 120), fraction=st.floats(0.01, 0.5), least=st.integers(1, 10), seed=st.integers(0, 3))
def test_each_document_is_on_one_side_and_the_share_is_exact(
    tmp_path_factory: pytest.TempPathFactory, count: int, fraction: float, least: int, seed: int
) -> None:
    texts = numbered(count)
    settings = {"fraction": fraction, "min_documents": least, "seed": seed}
    counts, training, held = run(tmp_path_factory.mktemp("split"), {"web": texts}, **settings)
    assert sorted(training["web"] + held["web"]) == sorted(texts)
    assert len(held["web"]) == max(least, round(fraction * count))
    assert [text for text in texts if text in set(training["web"])] == training["web"]
    assert counts["documents_in"] == count
    assert counts["documents_out"] == len(training["web"])
    size = sum(map(len, held["web"]))
    assert counts["held_out"] == counts["sources"]["web"]["held_out"] == {"documents": len(held["web"]), "bytes": size}
    assert counts["bytes_in"] == counts["bytes_out"] + size


def test_order_shards_and_workers_make_no_difference(tmp_path: Path) -> None:
    texts = numbered(200)
    _, _, first = run(tmp_path / "a", {"web": texts}, fraction=0.1)
    _, _, second = run(tmp_path / "b", {"web": texts[::-1]}, fraction=0.1, workers=2, shard_bytes=100)
    assert sorted(first["web"]) == sorted(second["web"])
    _, _, other = run(tmp_path / "c", {"web": texts}, fraction=0.1, seed=1)
    assert sorted(first["web"]) != sorted(other["web"])


def test_new_documents_leave_the_old_where_they_are(tmp_path: Path) -> None:
    _, _, before = run(tmp_path / "a", {"web": numbered(1000)}, fraction=0.1)
    _, training, after = run(tmp_path / "b", {"web": numbered(1000) + numbered(100, "new")}, fraction=0.1)
    assert len(set(before["web"]) & set(training["web"])) <= 10
    assert len(after["web"]) == 110


def test_copies_of_a_text_are_on_the_same_side(tmp_path: Path) -> None:
    texts = numbered(50) * 4
    _, training, held = run(tmp_path, {"web": texts}, fraction=0.2)
    assert not set(training["web"]) & set(held["web"])
    assert len(held["web"]) == 40


def test_each_source_gives_its_share(tmp_path: Path) -> None:
    sources = {"a": numbered(100), "a-0": numbered(40, "other"), "a-0000": numbered(30, "third")}
    _, training, held = run(tmp_path, sources, fraction=0.1, min_documents=2, shard_bytes=50)
    assert {name: len(texts) for name, texts in held.items()} == {"a": 10, "a-0": 4, "a-0000": 3}
    assert {name: len(texts) for name, texts in training.items()} == {"a": 90, "a-0": 36, "a-0000": 27}


def test_bounds_in_documents_and_bytes(tmp_path: Path) -> None:
    texts = [f"{number:10d}" for number in range(1000)]
    assert len(run(tmp_path / "a", {"web": texts}, fraction=0.5, max_documents=70)[2]["web"]) == 70
    assert len(run(tmp_path / "b", {"web": texts}, fraction=0.5, max_bytes=305)[2]["web"]) == 30
    assert len(run(tmp_path / "c", {"web": texts}, fraction=0.5, max_bytes=5, min_documents=12)[2]["web"]) == 12


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["only one"], "source 'small' has 1 document, too few to hold out 10"),
        (numbered(19), "source 'small' has 19 documents, too few to hold out 10"),
        (["same"] * 1000, "most of the 1000 documents of source 'small' are copies of a few"),
    ],
)
def test_a_source_that_is_too_small_is_trained_on_whole(tmp_path: Path, texts: list[str], problem: str) -> None:
    for name, documents in {"big": numbered(100), "small": texts}.items():
        with Shards(tmp_path / "both" / "documents", name, SCHEMA, 400) as shards:
            shards.write(documents_of(name, documents))
    out = Workspace(tmp_path / "split", Machine(workers=1))
    counts = split(Split(), {"documents": tmp_path / "both"}, out)
    assert texts_in(tmp_path / "split" / "documents")["small"] == texts
    assert list(texts_in(tmp_path / "split" / "held_out")) == ["big"]
    assert counts["sources"]["small"]["held_out"] == {"documents": 0, "bytes": 0}
    assert [warning.startswith(problem) for warning in out.warnings] == [True]
    with pytest.raises(InputError) as caught:
        run(tmp_path, {"small": texts})
    assert str(caught.value).startswith(f"split: {problem}")
    assert caught.value.hint
    assert not (tmp_path / "out" / "held_out").exists()


def test_nothing_to_split(tmp_path: Path) -> None:
    with pytest.raises(EmptyResultError, match="no documents to split"):
        run(tmp_path, {})


def test_bounds_that_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="min_documents 20 is more than max_documents 10"):
        Split(min_documents=20, max_documents=10)

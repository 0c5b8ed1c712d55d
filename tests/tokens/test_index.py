"""The index finds exactly what a search through every word of every document finds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.errors import EmptyResultError, StoreError
from headwater.core.hardware import Machine
from headwater.core.stage import Stage, Store, perform
from headwater.core.store import HashMemory
from headwater.documents.document import ShardFile, documents_of
from headwater.tokens import index as module
from headwater.tokens.index import Index
from headwater.tokens.suffixes import words_of
from headwater.tokens.text_index import TextIndex

Make = Callable[..., TextIndex]


def build(folder: Path, shards: dict[str, Sequence[str]], part: int = 1 << 20) -> TextIndex:
    """Index shards of documents, through the stage as a recipe runs it."""
    for name, texts in shards.items():
        with ShardFile(folder / "split" / "documents" / f"{name}.parquet") as shard:
            source = name.rpartition("-")[0]
            shard.write(documents_of(source, texts, url=[f"{name}#{i}" for i in range(len(texts))], licence="CC0-1.0"))
    before = Stage("split", "", {})
    hashes = HashMemory(folder / "hashes.json")
    documents = Store(folder).plan(before, Index(), {}, hashes)
    shutil.copytree(folder / "split", documents.folder)
    (documents.folder / "manifest.json").write_text("{}")
    stage = Stage("index", "headwater.tokens.index:index", {"documents": ("split",)})
    step = Store(folder).plan(stage, Index(part=part), {"documents": documents}, hashes)
    with pytest.MonkeyPatch.context() as patch:  # the documents are no finished stage: only the index is checked here
        patch.setattr("headwater.core.stage.check_fully", lambda folder: None)
        perform(step, Machine(workers=1))
    return TextIndex(step.folder)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda shards, part=1 << 20: build(tmp_path, shards, part)


def test_words_are_runs_of_letters_and_single_letters_of_scripts_without_spaces() -> None:
    def cut(text: str) -> list[str]:
        words = words_of(text)
        return [bytes(words.data[a:b]).decode() for a, b in zip(words.begins, words.ends, strict=True)]

    assert cut("A cat's 2nd, naïve co-op; x_y!") == ["A", "cat", "s", "2nd", "naïve", "co", "op", "x", "y"]
    assert cut("e\u0301te\u0301 fin") == ["e\u0301te\u0301", "fin"]
    assert cut("日本語abc ไทย한") == ["日", "本", "語", "abc", "ไ", "ท", "ย", "한"]
    assert cut("Привет, мир… — “quoted”") == ["Привет", "мир", "quoted"]
    assert cut("") == cut(" \n…—") == []


def test_where_a_word_begins_follows_from_the_characters_around_it() -> None:
    text = "One two, three-four (five) 六七 eight's 1,000.5 Über ﬁn"
    words = words_of(text)
    for begin in words.begins[1:]:
        rest = bytes(words.data[begin:]).decode()
        again = words_of(rest)
        np.testing.assert_array_equal(again.begins + begin, words.begins[words.begins >= begin])


WORD = st.sampled_from(["a", "ab", "b", "the", "é", "日", "a1"])
TEXT = st.lists(st.tuples(WORD, st.sampled_from([" ", ", ", "\n", "-"])), max_size=30).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


@settings(max_examples=20)
@given(documents=st.lists(TEXT, min_size=1, max_size=6), question=TEXT, cut=st.integers(1, 5))
def test_longest_runs_and_counts_equal_a_search_through_every_word(
    documents: list[str], question: str, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shards = {"one-00000": documents[:cut], "two-00000": documents[cut:]}
    shards = {name: texts for name, texts in shards.items() if texts}
    index = build(tmp_path_factory.mktemp("index"), shards, part=1024)
    words = words_of(question)
    texts = [words_of(text) for text in documents]
    for first in range(len(words)):
        most = max(_longest(words, first, text) for text in texts)
        assert index.longest(words, first) == most
        for last in range(first + 1, len(words) + 1):
            run = bytes(words.data[words.begins[first] : words.ends[last - 1]])
            places = [
                (number, int(begin))
                for number, text in enumerate(texts)
                for begin in text.begins
                if bytes(text.data[begin:]).startswith(run)
            ]
            count, found = index.places(words, first, last)
            assert count == len(places)
            urls = [(index.document(place).url, place.byte) for place in found]
            named = [f"{name}#{i}" for name, some in shards.items() for i in range(len(some))]
            assert sorted(urls) == sorted((named[number], byte) for number, byte in places)
            assert index.stands(words, first, last) == bool(places) == (last <= first + most)
    for size in (1, 2, 5):
        expected = [index.longest(words, first) >= size for first in range(len(words) - size + 1)]
        assert index.standing(words, size).tolist() == expected


def _longest(words: object, first: int, text: object) -> int:
    """Words from the first on that stand in a text, tried at each of its words."""
    best = 0
    for begin in text.begins:
        count = best
        while first + count < len(words) and bytes(text.data[begin:]).startswith(
            bytes(words.data[words.begins[first] : words.ends[first + count]])
        ):
            count += 1
        best = max(best, count)
    return best


def test_no_run_crosses_from_one_document_to_the_next(make: Make) -> None:
    index = make({"prose-00000": ["one two three", "four five six", "", "seven"]})
    words = words_of("one two three four five six seven")
    assert index.standing(words, 3).tolist() == [True, False, False, True, False]
    assert index.longest(words, 0) == 3
    assert index.documents == 4


def test_documents_are_numbered_within_their_source_across_shards_and_parts(make: Make) -> None:
    shards = {
        "code-00000": ["x " * 700],
        "prose-00000": ["alpha " * 300, "beta " * 300],
        "prose-00001": ["gamma " * 300, "delta"],
    }
    index = make(shards, part=1024)
    assert index.manifest["counts"]["parts"] == 3 == len(list(index.folder.glob("*.text")))
    for word, source, number in (("x", "code", 0), ("alpha", "prose", 0), ("gamma", "prose", 2), ("delta", "prose", 3)):
        _, places = index.places(words_of(word), 0, 1)
        document = index.document(places[0])
        assert (document.source, document.number, document.licence) == (source, number, "CC0-1.0")
    assert len(set(index.ids())) == 5


def test_text_around_a_place_ends_with_its_document(make: Make) -> None:
    index = make({"prose-00000": ["first", "über alles und mehr", "last"]})
    _, (place,) = index.places(words_of("alles und"), 0, 2)
    assert index.text(place, 100, 100) == ("über ", "alles und mehr")
    assert index.text(place, 2, 5) == ("r ", "alles")
    assert index.text(place, 5, 5)[0] == "ber ", "half a character is left out"


def test_text_that_repeats_itself_is_no_slower_to_sort(make: Make) -> None:
    index = make({"prose-00000": ["ha " * 50_000, "ha " * 50_000]})
    words = words_of("ha " * 1000)
    assert index.longest(words, 0) == 1000
    assert index.places(words, 0, 1000, most=3)[0] == 2 * (50_000 - 999)


def test_counts_and_sizes_are_in_the_manifest(make: Make) -> None:
    index = make({"prose-00000": ["Grüße an alle", "zwei Wörter"]})
    counts = index.manifest["counts"]
    assert counts["text_bytes"] == counts["bytes_in"] == index.text_bytes == 15 + 12
    assert (counts["documents"], counts["words"], counts["parts"]) == (2, 5, 1)
    files = sum(of["bytes"] for of in index.manifest["files"].values())
    assert counts["index_bytes"] == pytest.approx(files, abs=400)


def test_without_documents_there_is_nothing_to_index(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    with pytest.raises(EmptyResultError, match="no documents to index"):
        module.index(Index(), {"documents": tmp_path}, None)


def test_a_folder_that_is_no_index_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no finished index") as raised:
        TextIndex(tmp_path)
    assert "headwater index" in raised.value.hint


def test_damage_is_found(make: Make) -> None:
    folder = make({"prose-00000": ["one two three four five"]}).folder
    order = folder / "00000.order"
    sound, stamp = order.read_bytes(), order.stat()
    order.write_bytes(sound[:-4])
    with pytest.raises(StoreError, match="was changed after its stage finished"):
        TextIndex(folder)
    order.write_bytes((1 << 20).to_bytes(4, "little") * (len(sound) // 4))
    os.utime(order, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a disk that fails leaves it
    with pytest.raises(StoreError, match=r"00000\.order: was changed after its stage finished"):
        TextIndex(folder, verify=True)
    with pytest.raises(StoreError, match="names places beyond the text"):
        TextIndex(folder).longest(words_of("two three"), 0)


def test_little_memory_is_said_and_limits_what_is_built_together(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available, total = 100, 1000

    monkeypatch.setattr(module.psutil, "virtual_memory", Memory)
    index = make({"prose-00000": ["one two three"], "prose-00001": ["four"]})
    assert index.longest(words_of("one two three"), 0) == 3
    assert "more than half of what is free" in index.manifest["warnings"][0]

"""Matches are the longest runs, with the right characters, places and context; what was removed leaves nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.evaluation.absence import Removed, absence
from headwater.evaluation.trace import read_by, spans, told, trace, union
from headwater.tokens.index import Index, index
from headwater.tokens.suffixes import words_of
from headwater.tokens.text_index import TextIndex

POEM = "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch; die Vögelein schweigen im Walde."
STOCK = "All rights reserved. No part of this page may be reproduced in any form without permission in writing."
DOCUMENTS = [
    POEM,
    f"{STOCK} One.",
    f"Two. {STOCK}",
    f"{STOCK} Three.",
    f"Four. {STOCK}",
    f"{STOCK} Five.",
    "東京は日本の首都です",
]


def open_index(folder: Path, texts: list[str]) -> TextIndex:
    """An index of some texts."""
    with ShardFile(folder / "documents" / "prose-00000.parquet") as shard:
        urls = [f"https://example.org/{i}" for i in range(len(texts))]
        shard.write(documents_of("prose", texts, url=urls, licence="CC-BY-4.0"))
    out = folder / "index"
    out.mkdir()
    index(Index(), {"documents": folder}, Workspace(out, Machine(workers=1)))
    (out / "manifest.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headwater.tokens.text_index.check_quickly", lambda folder: None)
        return TextIndex(out)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> TextIndex:
    return open_index(tmp_path_factory.mktemp("known"), DOCUMENTS)


def test_a_match_says_where_it_is_in_the_text_and_in_the_document(known: TextIndex) -> None:
    text = "Größe: „in allen Wipfeln spürest du“ — und mehr"
    (match,) = trace(known, text, min_words=3, context=12)
    assert match.text == text[match.begin : match.end] == "in allen Wipfeln spürest du"
    assert (match.words, match.count, match.documents) == (5, 1, 1)
    (source,) = match.sources
    assert (source.source, source.number, source.url) == ("prose", 0, "https://example.org/0")
    assert source.licence == "CC-BY-4.0"
    assert POEM.encode()[source.place.byte :].startswith(match.text.encode())
    assert source.before == POEM[: POEM.index(match.text)][-12:]
    assert source.after == POEM[POEM.index(match.text) + len(match.text) :][:12]
    assert source.steps is None


def test_matches_overlap_but_none_lies_within_another(tmp_path: Path) -> None:
    found = open_index(tmp_path, ["one two three four five", "three four five six seven", "four five"])
    matches = trace(found, "one two three four five six seven eight", min_words=2)
    assert [match.text for match in matches] == ["one two three four five", "three four five six seven"]
    assert union(matches) == [(0, len("one two three four five six seven"))]


def test_longest_runs_of_random_text_are_those_of_a_search_through_all(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcde", k=60)) for _ in range(8)]
    found = open_index(tmp_path, texts)
    for _ in range(30):
        words = words_of(" ".join(rng.choices("abcde", k=40)))
        reach = [first + found.longest(words, first) for first in range(len(words))]
        for least in (1, 3, 4, 6):
            expected, end = [], 0
            for first, last in enumerate(reach):
                if last - first >= least and last > end:
                    expected.append((first, last))
                    end = last
            assert list(spans(found, words, least)) == expected


def test_a_whole_long_document_is_one_match(tmp_path: Path) -> None:
    rng = random.Random(0)
    text = " ".join(f"w{rng.randrange(3000)}" for _ in range(20_000))
    found = open_index(tmp_path, [text, text[: len(text) // 2]])
    matches = trace(found, f"before {text} after", min_words=8)
    assert [(match.words, match.count) for match in matches] == [(20_000, 1)]


def test_letters_case_and_spaces_count(known: TextIndex) -> None:
    assert trace(known, "IN ALLEN WIPFELN SPÜREST DU", min_words=2) == []
    assert trace(known, "in  allen  Wipfeln  spürest  du", min_words=2) == []
    assert [match.text for match in trace(known, "日本の首都", min_words=4)] == ["日本の首都"]
    assert trace(known, "", min_words=1) == trace(known, "—", min_words=1) == []


def test_many_places_are_counted_and_few_are_shown(known: TextIndex) -> None:
    (match,) = trace(known, STOCK, sources=2)
    assert (match.count, match.documents, len(match.sources)) == (5, 5, 2)
    assert [source.number for source in match.sources] == [1, 2]
    lines = "\n".join(told(STOCK, [match], 8))
    assert "1 run of 8 words or more" in lines
    assert "in 5 places" in lines
    assert "and 3 more documents" in lines
    assert "https://example.org/1" in lines
    assert "99.0%" in lines, "the full stop at the end is no word"


def test_steps_are_told_in_words() -> None:
    assert read_by(None) == ""
    assert read_by([]) == "  read by no step"
    assert read_by([7]) == "  read by step 7"
    assert read_by(range(1, 8)) == "  read by steps 1, 2, 3, 4, 5 and 2 more"


def test_what_is_not_there_is_proven_absent_with_the_longest_run_that_is_left(known: TextIndex) -> None:
    removed = [
        Removed("x", "page", "Somebody wrote this. All rights reserved. No part of it."),
        Removed(None, "b", "zzz"),
    ]
    found = absence(known, removed, min_words=8)
    assert found.proven
    assert (found.documents, found.spans, found.left) == (2, 0, ())
    assert found.longest is not None
    assert found.longest.match.text == "All rights reserved. No part of"
    text = "\n".join(found.told())
    assert "absent: no run of 8 words of 2 documents" in text
    assert "too short to count" in text
    assert found.short == 1
    assert "1 of the documents have fewer than 8 words" in text
    nothing = absence(known, [Removed(None, "b", "zzz yyy")])
    assert nothing.longest is None
    assert "not a single word" in "\n".join(nothing.told())


def test_what_is_left_is_found_and_explained(known: TextIndex) -> None:
    copied = Removed("y", "copied", f"My page. {POEM}")
    stock = Removed("z", "stock", f"My other page. {STOCK}")
    found = absence(known, [copied, stock], min_words=8)
    assert not found.proven
    assert found.spans == 2
    assert [left.document for left in found.left] == ["copied", "stock"], "the longest first"
    assert found.left[1].explanation == "in 5 documents: a common phrase, a quotation or boilerplate"
    assert found.left[0].explanation == "in few documents: look at them, it may be a copy"
    assert found.words_left == sum(left.match.words for left in found.left)
    assert "2 runs of 8 words or more stand" in "\n".join(found.told())


def test_tables_are_explained_and_whole_documents_named_by_their_id(tmp_path: Path) -> None:
    known = open_index(tmp_path, ["0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", "a document"])
    identifier = next(iter(known.ids()))
    found = absence(known, [Removed(identifier, "table", "1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 2")], min_words=5)
    assert found.whole == ("table",)
    assert "a table or a pattern" in found.left[0].explanation
    assert "1 of the documents are training documents" in "\n".join(found.told())

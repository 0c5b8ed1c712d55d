"""Stage dedup, beyond whole documents: addresses, which copy stays, lines, paragraphs, spans, and the exact check."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from pydantic import ValidationError

from headwater.core.errors import InputError
from headwater.core.stage import Counts
from headwater.documents.dedup import Dedup, dedup
from headwater.documents.document import SCHEMA, Shards, documents_of
from headwater.documents.overlap import partitions
from headwater.documents.overlap.clusters import normal_url

from . import corpus, reference

Row = tuple[str, dict[str, Any]]
ALL = {"paragraphs": {"min_characters": 10}, "lines": {"max_count": 2, "min_characters": 5}, "spans": {}}


def write(folder: Path, sources: Mapping[str, Sequence[Row]], shard_bytes: int = 1 << 20) -> Path:
    for name, rows in sources.items():
        with Shards(folder / "documents", name, SCHEMA, shard_bytes) as shards:
            columns = {key: [columns.get(key) for _, columns in rows] for key in ("url", "date", "meta") if rows}
            shards.write(documents_of(name, [text for text, _ in rows], **columns))
    return folder


def run(
    folder: Path, given: Mapping[str, Sequence[Any]], workers: int = 1, shard_bytes: int = 1 << 20, **settings: Any
) -> tuple[Counts, corpus.Place]:
    rows = {name: [row if isinstance(row, tuple) else (row, {}) for row in texts] for name, texts in given.items()}
    out = corpus.Place(folder / "dedup", workers)
    inputs = {"documents": write(folder / "clean", rows, shard_bytes)}
    return dedup(Dedup.model_validate({"near": None} | settings), inputs, out), out


def kept(out: corpus.Place) -> list[str]:
    return corpus.texts(out.folder / "documents")


# ---------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://Example.org", "example.org"),
        ("http://www.example.org:80/", "example.org"),
        ("https://example.org:443/a/?utm_source=x&b=1&fbclid=2#c", "example.org/a?b=1"),
        ("https://user:word@example.org/%7Eme/", "example.org/~me"),
        ("https://example.org:8080/a;jsessionid=1A2?a=2&a=1", "example.org:8080/a?a=2&a=1"),
        ("https://example.org/A", "example.org/A"),
        ("file.txt#3", None),
        ("ftp://example.org/", None),
        ("", None),
        (None, None),
    ],
)
def test_addresses_are_compared_without_what_does_not_choose_the_page(url: str | None, normal: str | None) -> None:
    assert normal_url(url) == normal


def test_documents_of_one_address_are_one(tmp_path: Path) -> None:
    """As in two archives of one crawl: the same pages, fetched again, with other markup around."""
    arc = [
        ("old page one", {"url": "http://a.org/1"}),
        ("page two", {"url": "http://a.org/2"}),
        ("x", {"url": "f.txt"}),
    ]
    warc = [("new page one!", {"url": "https://www.a.org/1/"}), ("page two", {"url": "http://b.org"})]
    counts, out = run(tmp_path, {"arc": arc, "warc": [*warc, ("y", {"url": "f.txt"})]}, url=True)
    assert kept(out) == ["old page one", "page two", "x", "y"]
    rows = corpus.rows(out.folder / "dropped")
    assert [(row["text"], row["rule"], row["value"]) for row in rows] == [
        ("new page one!", "url", None),
        ("page two", "exact", 1.0),
    ]
    assert rows[0]["detail"] == corpus.rows(out.folder / "documents")[0]["id"]
    assert counts["dropped"]["url"] == {"documents": 1, "bytes": 13}


def test_without_addresses_comparing_them_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no document has a web address"):
        run(tmp_path, {"a": [("one", {"url": "file.txt"}), ("two", {})]}, url=True)


# ------------------------------------------------------------------------------------------------- which copy stays

COPIES = [
    ("page", {"url": "https://a.org", "date": "2020-05-01"}),
    ("page, longest of all", {"url": "https://a.org/"}),
    ("page three", {"url": "http://a.org", "date": "2021-01-01T10:00:00Z"}),
    ("page four!!", {"url": "http://www.a.org", "date": "2019"}),
    ("another", {"url": "http://b.org"}),
]


@pytest.mark.parametrize(
    ("keep", "text"),
    [("first", "page"), ("longest", "page, longest of all"), ("newest", "page three"), ("oldest", "page four!!")],
)
def test_the_copy_that_is_asked_for_stays(tmp_path: Path, keep: str, text: str) -> None:
    sources = {"a": COPIES[:2], "b": COPIES[2:]}
    _, out = run(tmp_path, sources, url=True, keep=keep)
    assert sorted(kept(out)) == sorted([text, "another"])
    rows = {row["text"]: row for row in corpus.rows(out.folder / "documents")}
    assert {row["detail"] for row in corpus.rows(out.folder / "dropped")} == {rows[text]["id"]}
    assert json.loads(rows[text]["meta"]) == {"cluster_size": 4}
    assert rows["another"]["meta"] is None


def test_the_copy_of_the_best_source_stays(tmp_path: Path) -> None:
    given = {name: [(f"from {name}", {"url": "https://a.org", "meta": '{"k": 1}'})] for name in ("a", "b", "c", "d")}
    _, out = run(tmp_path / "cb", given, url=True, keep="source", sources=["c", "b"])
    assert kept(out) == ["from c"]
    assert json.loads(corpus.rows(out.folder / "documents")[0]["meta"]) == {"k": 1, "cluster_size": 4}
    _, out = run(tmp_path / "d", given, url=True, keep="source", sources=["d"])
    assert kept(out) == ["from d"]
    with pytest.raises(InputError, match="source 'x' has no documents"):
        run(tmp_path / "x", given, url=True, keep="source", sources=["x"])
    for wrong in ({"keep": "source"}, {"sources": ["a"]}):
        with pytest.raises(ValidationError, match="need each other"):
            Dedup.model_validate(wrong)


def test_the_copy_of_the_highest_score_stays(tmp_path: Path) -> None:
    metas = ['{"q": -3}', None, '{"q": 0.25}', '{"q": true}', '{"q": 0.5, "k": 1}', '{"q": "9"}', '{"q": 0.5}']
    given = {
        "a": [(f"number {place}", {"url": "https://a.org", "meta": meta}) for place, meta in enumerate(metas)],
        "b": [("b1", {"url": "https://b.org"}), ("b2", {"url": "https://b.org", "meta": '{"q": -1e9}'})],
        "c": [("c1", {"url": "https://c.org"}), ("c2", {"url": "https://c.org"})],
    }
    _, out = run(tmp_path / "q", given, url=True, keep="quality", score="q")
    assert kept(out) == ["number 4", "b2", "c1"]
    with pytest.raises(InputError, match="no document has a number 'quality' in its meta"):
        run(tmp_path / "none", given, url=True, keep="quality")
    with pytest.raises(ValidationError, match="score needs keep: quality"):
        Dedup.model_validate({"score": "q"})


def test_each_source_can_keep_its_own(tmp_path: Path, english: list[str]) -> None:
    text = max(english, key=len)
    _, out = run(tmp_path, {"a": [text, text], "b": [text, "b " + text]}, per_source=True, near={}, **ALL)
    assert kept(out) == [text, text]


# --------------------------------------------------------------------------------------------- lines and paragraphs

MENU = "Home | News | About this site"


def test_frequent_lines_stay_once(tmp_path: Path) -> None:
    texts = [f"{MENU}\nText number {word}.\n  ok\n" for word in ("one", "two", "three")]
    sources = {"a": texts[:2], "b": [*texts[2:], f"  {MENU}  "]}
    counts, out = run(tmp_path / "3", sources, lines={"max_count": 3})
    assert kept(out) == [texts[0], "Text number two.\n  ok", "Text number three.\n  ok"]
    assert counts["edited"] == {"repeated_lines": 2}
    assert counts["cut_bytes"] == {"repeated_lines": 2 * len(MENU) + 2}
    (row,) = corpus.rows(out.folder / "dropped")
    assert (row["text"], row["rule"], row["detail"]) == (
        f"  {MENU}  ",
        "repeated_lines",
        "100% of its text is repeated",
    )
    assert counts["bytes_out"] == sum(map(len, kept(out)))
    _, out = run(tmp_path / "4", sources, lines={"max_count": 4})
    assert kept(out) == [*texts, f"  {MENU}  "]


def test_repeated_paragraphs_are_cut(tmp_path: Path) -> None:
    first = "A paragraph of two lines\nwhich stays where it is first."
    texts = [
        f"one\n\n{first}\n\nlast",
        f"\n\n{first}\n \n\n\ntwo",
        f"three\n\n{first}",
        "one\n\n" + first.replace("\n", " "),
    ]
    _, out = run(tmp_path, {"web": texts}, paragraphs={"min_characters": 20})
    assert kept(out) == [texts[0], "two", "three", texts[3]]


def test_lines_of_dropped_documents_do_not_count(tmp_path: Path) -> None:
    copy = "a line that is long enough to count\nsecond"
    _, out = run(tmp_path, {"web": [copy, copy, "a line that is long enough to count\nother"]}, lines={"max_count": 2})
    assert kept(out) == [copy, "a line that is long enough to count\nother"]


def reference_lines(texts: Sequence[str], most: int, least: int) -> list[list[str]]:
    """The lines that stay, in plain Python."""
    counts: dict[str, int] = {}
    for text in texts:
        for line in text.split("\n"):
            counts[line.strip()] = counts.get(line.strip(), 0) + 1
    seen, left = set(), []
    for text in texts:
        lines = []
        for line in text.split("\n"):
            key = line.strip()
            if len(key) < least or counts[key] <= most or key not in seen:
                lines.append(key)
            seen.add(key)
        left.append([line for line in lines if line])
    return left


def test_lines_equal_plain_python_on_real_text(tmp_path: Path, english: list[str]) -> None:
    texts = [text.replace("\x0b", " ").replace("\x0c", " ") for text in dict.fromkeys(english)]
    for size in (30_000, 1 << 20):
        _, out = run(
            tmp_path / str(size), {"web": texts}, shard_bytes=size, lines={"max_count": 2, "min_characters": 4}
        )
        found = [[line.strip() for line in text.split("\n") if line.strip()] for text in kept(out)]
        expected = [lines for lines in reference_lines(texts, 2, 4) if lines]
        assert found == expected
    assert sum(map(len, expected)) < sum(len([line for line in text.split("\n") if line.strip()]) for text in texts)


# ---------------------------------------------------------------------------------------------------------------- spans


def words(count: int, seed: int) -> str:
    generator = random.Random(seed)
    return " ".join(
        generator.choice(["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "jetty"])
        + str(generator.randrange(999)).translate(str.maketrans("0123456789", "abcdefghij"))
        for _ in range(count)
    )


@pytest.mark.parametrize("size", [50, 51, 80, 400])
def test_a_span_of_enough_words_is_found_wherever_it_stands(tmp_path: Path, size: int) -> None:
    span = words(size, 1)
    texts = [
        f"{words(40, 2)} {span} {words(30, 3)}",
        f"{words(33, 4)}, {span}; {words(60, 5)}",
        f"{span} {words(25, 6)}",
    ]
    counts, out = run(tmp_path, {"a": texts[:1], "b": texts[1:]}, exact=False, spans={})
    assert kept(out) == [texts[0], f"{words(33, 4)}, ; {words(60, 5)}", words(25, 6)]
    assert counts["edited"] == {"repeated_spans": 2}


def test_a_shorter_span_stays(tmp_path: Path) -> None:
    span = words(49, 1)
    texts = [f"{words(40, 2)} {span} {words(30, 3)}", f"{words(33, 4)} {span} {words(60, 5)}"]
    assert kept(run(tmp_path, {"a": texts}, exact=False, spans={})[1]) == texts


def test_a_document_of_which_little_is_left_is_dropped(tmp_path: Path) -> None:
    span = words(70, 1)
    texts = [f"{words(40, 2)} {span}", f"{words(19, 4)} {span}", f"{words(20, 5)} {span}"]
    _, out = run(tmp_path, {"a": texts}, exact=False, spans={})
    assert kept(out) == [texts[0], words(20, 5)]
    (row,) = corpus.rows(out.folder / "dropped")
    assert (row["text"], row["rule"], row["value"], row["threshold"]) == (texts[1], "repeated_spans", 19, 20)
    with pytest.raises(ValidationError, match="more than min_words"):
        Dedup.model_validate({"spans": {"min_words_left": 60}})


def test_a_document_that_repeats_itself(tmp_path: Path) -> None:
    text = " ".join([words(60, 1)] * 200)
    _, out = run(tmp_path, {"a": [text + " " + words(30, 2), "ha " * 20_000]}, exact=False, spans={"min_words_left": 0})
    assert kept(out)[0].startswith(words(60, 1))
    assert len(kept(out)[0].split()) <= 60 + 30
    assert 1 <= len(kept(out)[1].split()) <= 50


def test_spans_of_characters(tmp_path: Path) -> None:
    generator = random.Random(1)
    span, *rest = ("".join(chr(generator.randrange(0x4E00, 0x9FA5)) for _ in range(120)) for _ in range(5))
    texts = [f"{rest[0]}。{span}。{rest[1]}", f"{rest[2]}、{span}、{rest[3]}"]
    _, out = run(tmp_path, {"a": texts}, exact=False, spans={})
    assert kept(out) == [texts[0], f"{rest[2]}、、{rest[3]}"]


def test_nothing_is_lost_that_has_no_earlier_copy(tmp_path: Path, english: list[str]) -> None:
    """Every run of 50 words of the corpus is still somewhere, but for the words around which cuts were made."""
    generator = random.Random(2)
    long = [" ".join(text.split()) for text in english if len(text.split()) > 120][:200]
    texts = []
    for text in long:
        cut = generator.randrange(30, 90)
        texts += [text, " ".join(text.split()[cut:] + generator.choice(long).split()[:cut])]
    _, out = run(tmp_path, {"web": texts}, exact=False, shard_bytes=50_000, spans={"min_words_left": 0})
    left = kept(out)
    assert sum(map(len, left)) < 0.75 * sum(map(len, texts))
    before, after = ({gram for text in part for gram in reference.shingles(text, 5)} for part in (texts, left))
    # A run of 5 words is lost only across a cut: at most 8 for each of two ends.
    assert len(before - after) <= 16 * len(texts)
    single = {word for text in texts for word in reference.folded_words(text)}
    assert single == {word for text in left for word in reference.folded_words(text)}


def test_workers_shards_and_ranges_make_no_difference(
    tmp_path: Path, english: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = random.Random(2)
    texts = [text + "\n" + generator.choice(english)[:2000] for text in english[:500]]
    found = []
    near = {"verify": True, "min_similarity": 0.5}
    for name, workers, size, most in (
        ("one", 1, 30_000, 1 << 24),
        ("two", 2, 30_000, 1 << 24),
        ("parts", 2, 1 << 20, 4000),
    ):
        monkeypatch.setattr(partitions.ranges, "__defaults__", (most,))
        counts, out = run(
            tmp_path / name, {"a": texts[:200], "b": texts[200:]}, workers, size, near=near, keep="longest", **ALL
        )
        documents, dropped = (corpus.rows(out.folder / kind) for kind in ("documents", "dropped"))
        found.append((counts, documents, sorted(dropped, key=str)))  # shards part what is dropped in other batches
    assert found[0][0]["edited"].keys() == {"repeated_lines", "repeated_paragraphs", "repeated_spans"}
    assert found[0] == found[1] == found[2]


def test_a_killed_run_goes_on(tmp_path: Path, english: list[str]) -> None:
    texts = [text + "\n" + english[place // 2][:1500] for place, text in enumerate(english[:200])]
    settings = {"near": {"verify": True}, "keep": "longest", **ALL}
    first, out = run(tmp_path, {"web": texts}, shard_bytes=60_000, **settings)
    markers = sorted(path.stem for path in (out.folder / ".done").glob("*.json"))
    before = {path.name: path.read_bytes() for path in sorted(out.folder.rglob("*.parquet"))}
    for label in ("sketch", "grams", "windows", "count-lines", "pairs", "spans", "dedup"):
        gone = [name for name in markers if name.rpartition("-web")[0] == label or name.startswith(f"{label}-0")]
        assert gone
        for name in gone[1:]:  # as if killed after the first shard of this pass
            (out.folder / ".done" / f"{name}.json").unlink()
    again = dedup(Dedup.model_validate(settings), {"documents": tmp_path / "clean"}, out)
    assert again == first
    assert {path.name: path.read_bytes() for path in sorted(out.folder.rglob("*.parquet"))} == before


# ----------------------------------------------------------------------------------------------------------- exact check


def test_verified_pairs_are_as_similar_as_asked(tmp_path: Path, english: list[str]) -> None:
    """Against comparing every text with every earlier one."""
    generator = random.Random(3)
    long = [text for text in english if len(text.split()) >= 60][:200]
    vocabulary = sorted({word for text in long for word in text.split()})
    texts = long + [
        " ".join(generator.choice(vocabulary) if generator.random() < rate else word for word in text.split())
        for rate in (0.003, 0.01, 0.03, 0.06)
        for text in long
    ]
    near = {"verify": True, "min_similarity": 0.8}
    _, out = run(tmp_path, {"web": texts}, shard_bytes=60_000, exact=False, near=near)
    sets = [reference.shingles(text, 5) for text in texts]
    numbers = {text: number for number, text in enumerate(texts)}
    left = {numbers[text] for text in kept(out)}
    best = [max((reference.jaccard(grams, other) for other in sets[:i]), default=0) for i, grams in enumerate(sets)]
    assert all(best[number] >= 0.8 for number in range(len(texts)) if number not in left)
    assert not [number for number in left if best[number] >= 0.9]
    middle = [number for number in range(len(texts)) if 0.8 <= best[number] < 0.9]
    assert sum(number not in left for number in middle) / len(middle) >= 0.93
    assert {row["threshold"] for row in corpus.rows(out.folder / "dropped")} == {0.8}
    with pytest.raises(ValidationError, match="verify: true needs a min_similarity above 0"):
        Dedup.model_validate({"near": {"verify": True, "min_similarity": 0}})


def test_sketches_keep_apart_what_meets_by_chance(tmp_path: Path, english: list[str]) -> None:
    """Pages made from one template: each shares a good third of its n-grams with all others."""
    generator = random.Random(4)
    known = sorted({word for text in english[:50] for word in text.split() if word.isalpha()})
    template = generator.choices(known, k=80)
    pages = [" ".join([*template, *generator.choices(known, k=60)]) for _ in range(150)]
    copies = [
        " ".join("another" if place == 100 else word for place, word in enumerate(page.split())) for page in pages[:20]
    ]
    sets = [reference.shingles(text, 5) for text in pages]
    best = [max(reference.jaccard(one, two) for j, two in enumerate(sets) if j != i) for i, one in enumerate(sets)]
    gone = {}
    for name, near in (("plain", {"min_similarity": 0}), ("sketches", {}), ("texts", {"verify": True})):
        _, out = run(tmp_path / name, {"web": pages + copies}, shard_bytes=30_000, exact=False, near=near)
        left = set(kept(out))
        gone[name] = {number for number, text in enumerate(pages + copies) if text not in left}
    assert max(best) < 0.5
    assert len([number for number in gone["plain"] if number < len(pages)]) >= 20
    assert gone["sketches"] == gone["texts"] == set(range(len(pages), len(pages) + 20))


def test_editions_that_share_a_third_stay_apart(tmp_path: Path, english: list[str]) -> None:
    """Jaccard about 0.29, as of two editions of one play with other spelling and notes."""
    text = " ".join(max(english, key=len).split()[:3000])
    edition = [word if place % 11 else word + "e" for place, word in enumerate(text.split())]
    other = " ".join(word if place % 17 else "and" for place, word in enumerate(edition))
    similar = reference.jaccard(reference.shingles(text, 5), reference.shingles(other, 5))
    assert 0.2 < similar < 0.4
    _, out = run(tmp_path, {"a": [text], "b": [other]}, near={})
    assert kept(out) == [text, other]


def test_plays_of_two_collections(tmp_path: Path, shared_data: Path) -> None:
    """One play is nearly the same in both, of another one collection has a third: the first is a duplicate, not that."""
    small = (shared_data / "text/tinyshakespeare.txt").read_text(encoding="utf-8")
    shrew = small[small.index("SLY:\n") : small.index("thou hast tamed a curst shrew")]
    tempest = small[small.index("Boatswain!") :]
    with zstandard.open(shared_data / "text/books-train.jsonl.zst", "rt", encoding="utf-8") as lines:
        titles = ("The Taming of the Shrew", "The Tempest", "Othello")
        found = (json.loads(line) for line in lines if any(f'"{title}"' in line[:300] for title in titles))
        whole = {book["title"]: book["text"] for book in found}
    similar = [
        reference.jaccard(reference.shingles(part, 5), reference.shingles(whole[title], 5))
        for part, title in ((shrew, "The Taming of the Shrew"), (tempest, "The Tempest"))
    ]
    assert similar[0] > 0.85
    assert 0.25 < similar[1] < 0.45
    _, out = run(tmp_path, {"books": list(whole.values()), "small": [shrew, tempest]}, near={})
    assert kept(out) == [*whole.values(), tempest]
    (row,) = corpus.rows(out.folder / "dropped")
    assert (row["text"], row["rule"]) == (shrew, "near_duplicate")
    assert row["value"] == pytest.approx(similar[0], abs=0.1)

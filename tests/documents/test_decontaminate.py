"""Stage decontaminate: planted benchmark items are found, what happens to their documents, and nothing else is touched."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from headwater.core.errors import EmptyResultError, InputError
from headwater.core.stage import Counts
from headwater.documents.decontaminate import REPORT, Decontaminate, decontaminate
from headwater.documents.overlap.benchmarks import Sizes, load

from . import corpus, reference

QUESTION = "A farmer walks twelve miles to the market each Monday and back again by a road that is two miles longer"
ANSWER = "He walks twenty six miles because the way home is fourteen miles"
SHORT = "Why does the moon turn red at night"
PROSE = (
    "The river rose in the night. By the morning the people of the valley had to be taken out of their houses, and the "
    "mill, which had stood for two hundred years, was gone. Nobody had thought that a bridge of such age could be "
    "repaired in less than a year with so few workers at hand, yet it was done before the summer ended."
)


def jsonl(folder: Path, records: list[dict[str, Any]], name: str = "quiz.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(folder / name)


def run(
    folder: Path,
    texts: list[str],
    benchmarks: dict[str, Any],
    workers: int = 1,
    shard_bytes: int = 1 << 20,
    **more: Any,
) -> tuple[Counts, corpus.Place]:
    inputs = {"documents": corpus.write(folder / "dedup", {"web": texts}, shard_bytes)}
    out = corpus.Place(folder / "decontaminate", workers)
    out.folder.mkdir(parents=True, exist_ok=True)
    return decontaminate(Decontaminate.model_validate({"benchmarks": benchmarks} | more), inputs, out), out


def report(out: corpus.Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out.folder / REPORT).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def quiz(tmp_path: Path) -> dict[str, Any]:
    records = [{"q": QUESTION, "a": ANSWER}, {"q": SHORT, "a": "Dust"}, {"q": "Why?", "a": "So."}]
    return {"quiz": {"use": "jsonl", "paths": [jsonl(tmp_path, records)], "fields": ["q", "a"]}}


def test_documents_with_items_are_dropped_with_the_item_and_the_match(tmp_path: Path, quiz: dict[str, Any]) -> None:
    leak = f"{PROSE} {QUESTION.upper()}! {PROSE}"
    counts, out = run(tmp_path, [PROSE, leak, f"{SHORT}? Dust, they say.", ANSWER[:40]], quiz)
    assert corpus.texts(out.folder / "documents") == [PROSE, ANSWER[:40]]
    long, short = corpus.rows(out.folder / "dropped")
    assert (long["stage"], long["rule"], long["threshold"]) == ("decontaminate", "quiz", 0.0)
    assert long["value"] == pytest.approx(21 / 33)
    assert long["detail"] == f"quiz#1: 21 in a row: {QUESTION.upper()}"
    assert (short["rule"], short["value"]) == ("quiz", pytest.approx(8 / 9))
    assert short["detail"] == f"quiz#2: 8 in a row: {SHORT}"
    found = counts["benchmarks"]["quiz"]
    assert {name: found[name] for name in found if name != "examples"} == {
        "items": 3,
        "items_whole": 1,
        "items_too_short": 1,
        "grams": 9 + 1 + 1,
        "items_contaminated": 2,
        "documents": 2,
    }
    assert [
        (row["benchmark"], row["item"], row["longest_match"], row["grams"], row["documents"]) for row in report(out)
    ] == [
        ("quiz", 1, 21, 9, 1),
        ("quiz", 2, 8, 1, 1),
    ]
    assert report(out)[0]["ids"] == [long["id"]]
    assert out.notes == ["quiz: 1 of 3 items are too short to be looked for"]


def test_fewer_words_than_an_n_gram_in_common_are_no_overlap(tmp_path: Path, quiz: dict[str, Any]) -> None:
    words = QUESTION.split()
    texts = [" ".join(words[:12]) + " and stays", " ".join(words[:13]) + " and stays", " ".join(SHORT.split()[:7])]
    _counts, out = run(tmp_path, texts, quiz)
    assert corpus.texts(out.folder / "documents") == [texts[0], texts[2]]
    _, out = run(tmp_path / "8", texts, quiz, ngram=8)
    assert corpus.texts(out.folder / "documents") == [texts[2]]


def test_an_overlap_can_need_a_share_of_the_item(tmp_path: Path, quiz: dict[str, Any]) -> None:
    half, whole = " ".join(QUESTION.split()[:16]), f"{QUESTION}. {ANSWER}."
    counts, out = run(tmp_path, [half, whole], quiz, min_coverage=0.6)
    assert corpus.texts(out.folder / "documents") == [half]
    (row,) = corpus.rows(out.folder / "dropped")
    assert (row["value"], row["threshold"]) == (1.0, 0.6)
    assert counts["benchmarks"]["quiz"]["documents"] == 1


def test_matches_are_cut_with_their_margin(tmp_path: Path, quiz: dict[str, Any]) -> None:
    before, after = PROSE, " ".join(reversed(PROSE.split()))
    leak = f"{before} {QUESTION}? {after}"
    counts, out = run(tmp_path, [PROSE, leak, f"Note: {QUESTION}?"], quiz, action="cut", margin_words=3)
    kept = corpus.texts(out.folder / "documents")
    assert kept[0] == PROSE
    assert kept[1].startswith(before.rsplit(" ", 4)[0])
    assert set(QUESTION.split()) - set(PROSE.split())
    assert "farmer" not in kept[1]
    words = [part for part in (before, after) for part in reference.folded_words(part)]
    assert reference.folded_words(kept[1]) == words[: len(words) // 2 - 3] + words[len(words) // 2 + 3 :]
    assert counts["edited"] == {"overlap": 1}
    assert [row["text"] for row in corpus.rows(out.folder / "dropped")] == [f"Note: {QUESTION}?"]


def test_documents_can_only_be_tagged(tmp_path: Path, quiz: dict[str, Any]) -> None:
    counts, out = run(tmp_path, [PROSE, f"{QUESTION} {SHORT}"], quiz, action="tag")
    rows = corpus.rows(out.folder / "documents")
    assert [row["meta"] and json.loads(row["meta"]) for row in rows] == [None, {"contaminated": ["quiz#1", "quiz#2"]}]
    assert counts["edited"] == {"tagged": 1}
    assert counts["dropped"] == {}


def test_numbers_alone_are_no_overlap(tmp_path: Path) -> None:
    numbers = " ".join(map(str, range(1, 60)))
    records = [{"q": f"{numbers} {QUESTION}"}, {"q": "of the " * 30 + ANSWER}]
    quiz = {"quiz": {"use": "jsonl", "paths": jsonl(tmp_path, records), "fields": ["q"]}}
    texts = [f"{PROSE} {numbers}", "of the " * 40, PROSE]
    assert corpus.texts(run(tmp_path, texts, quiz)[1].folder / "documents") == texts


def test_other_numbers_are_another_item(tmp_path: Path) -> None:
    text = "In {} years the town on the hill will have {} houses, {} shops and a railway station of its own"
    quiz = {"quiz": {"use": "jsonl", "paths": jsonl(tmp_path, [{"q": text.format(10, 3000, 25)}]), "fields": ["q"]}}
    texts = [text.format(11, 2000, 30), text.format(10, "3,000", 25)]
    assert corpus.texts(run(tmp_path, texts, quiz)[1].folder / "documents") == texts[:1]


def test_nothing_to_look_for_is_an_error(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"q": "Why?", "a": {"text": "So."}}, {"q": "1 2 3 4 5 6 7 8 9 10 11 12 13 14"}])
    quiz = {"use": "jsonl", "paths": path, "fields": ["q"]}
    with pytest.raises(EmptyResultError, match="yields no n-grams: 2 items"):
        run(tmp_path, [PROSE], {"quiz": quiz})
    with pytest.raises(InputError, match="has a field 'question'"):
        run(tmp_path, [PROSE], {"quiz": quiz | {"fields": ["q", "question"]}})
    with pytest.raises(InputError, match="no such file"):
        run(tmp_path, [PROSE], {"quiz": quiz | {"paths": str(tmp_path / "quiz.json")}})
    (tmp_path / "bad.jsonl").write_text('{"q": 1}\n{"q"')
    with pytest.raises(InputError, match="is not JSON") as error:
        run(tmp_path, [PROSE], {"quiz": quiz | {"paths": str(tmp_path / "bad.jsonl")}})
    assert error.value.place.endswith("bad.jsonl:2")
    with pytest.raises(EmptyResultError, match="no documents"):
        run(tmp_path / "none", [], {"quiz": quiz})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"fields": ["a"]}, "has no item with 8 words in a field"),
        ({"fields": ["q", "question"]}, None),  # the stage reads all items, the plan only as far as it must
        ({"fields": ["question"]}, "has a field 'question'"),
        ({"paths": "none.jsonl"}, "no such file"),
        ({}, None),
    ],
)
def test_what_cannot_be_looked_for_is_told_before_anything_runs(
    tmp_path: Path, change: dict[str, Any], problem: str | None
) -> None:
    items = [{"q": "one two three four five six seven eight", "a": "So."}, {"q": "Why?", "a": "No."}]
    quiz = {"use": "jsonl", "paths": jsonl(tmp_path, items), "fields": ["q"]} | change
    settings = Decontaminate.model_validate({"benchmarks": {"quiz": quiz}})
    if problem is None:
        assert settings.fingerprint(lambda path: path.name)
        return
    with pytest.raises((InputError, EmptyResultError), match=problem):
        settings.fingerprint(lambda path: path.name)


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    quiz = {"use": "jsonl", "paths": str(tmp_path / "quiz.jsonl"), "fields": ["q"]}
    for wrong in ({"margin_words": 2}, {"ngram": 8, "min_words": 9}, {"benchmarks": {}}, {"ngram": 14}):
        with pytest.raises(ValidationError):
            Decontaminate.model_validate({"benchmarks": {"quiz": quiz}} | wrong)


def test_every_document_contaminated_is_an_error(tmp_path: Path, quiz: dict[str, Any]) -> None:
    with pytest.raises(EmptyResultError, match="every document overlaps"):
        run(tmp_path, [QUESTION], quiz)


def test_large_numbers_are_written_with_commas(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(" ".join(f"word{n}" for n in range(1_512)))
    _, out = run(tmp_path, [PROSE], {"long": {"use": "text", "paths": [str(tmp_path / "long.txt")]}})
    assert out.notes[-1] == "none of 1,500 benchmark n-grams is in the documents"


def test_a_clean_corpus_says_what_was_looked_for(tmp_path: Path, quiz: dict[str, Any]) -> None:
    counts, out = run(tmp_path, [PROSE], quiz)
    assert out.notes[-1] == "none of 11 benchmark n-grams is in the documents"
    assert counts["benchmarks"]["quiz"]["items_contaminated"] == 0
    assert report(out) == []


def test_every_form_of_file_gives_the_same_items(tmp_path: Path) -> None:
    records = [{"q": QUESTION, "a": {"text": [ANSWER, "x"], "no": 3}}, {"q": SHORT, "a": {"text": []}}]
    lines = jsonl(tmp_path, records)
    (tmp_path / "array.json").write_text(json.dumps(records))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "quiz.parquet")
    flat = [{"q": record["q"], "a": "\n".join(record["a"]["text"])} for record in records]
    with (tmp_path / "quiz.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["q", "a"], delimiter=";")
        writer.writeheader()
        writer.writerows(flat)
    with zstandard.open(tmp_path / "quiz.csv.zst", "wb") as file:
        file.write((tmp_path / "quiz.csv").read_bytes())
    (tmp_path / "quiz.txt").write_text(f"{QUESTION}\n{ANSWER}\n\n{SHORT}\n")
    forms: dict[str, dict[str, Any]] = {
        "lines": {"use": "jsonl", "paths": lines, "fields": ["q", "a.text"]},
        "array": {"use": "jsonl", "paths": str(tmp_path / "array.json"), "fields": ["q", "a.text"]},
        "rows": {"use": "parquet", "paths": str(tmp_path / "quiz.parquet"), "fields": ["q", "a.text"]},
        "table": {"use": "csv", "paths": str(tmp_path / "quiz.csv"), "fields": ["q", "a"], "delimiter": ";"},
        "packed": {"use": "csv", "paths": str(tmp_path / "quiz.csv.zst"), "fields": ["q", "a"], "delimiter": ";"},
    }
    for name, form in forms.items():
        settings = Decontaminate.model_validate({"benchmarks": {name: form}})
        loaded = load(settings.benchmarks, settings.words, settings.characters)
        assert loaded.counts[name] == {"items": 2, "items_whole": 1, "items_too_short": 0, "grams": 11}, name
    text = {"use": "text", "paths": str(tmp_path / "quiz.txt"), "split": "blank_lines"}
    settings = Decontaminate.model_validate({"benchmarks": {"text": text}})
    found = load(settings.benchmarks, settings.words, settings.characters).counts["text"]
    assert (found["items"], found["grams"]) == (2, 33 - 12 + 1)
    both = Decontaminate.model_validate({"benchmarks": forms})
    fingerprint = both.fingerprint(lambda path: str(path.stat().st_size))
    assert fingerprint["lines"] == [[lines, str(Path(lines).stat().st_size)]]


@pytest.mark.parametrize(
    "text",
    [
        "河水在夜里上涨,到了早晨,山谷里的人们不得不离开家园,而磨坊已经不见了踪影,村民们都很伤心。",
        "川は夜のうちに増水し、朝には谷の人々が家を離れなければならなかった。水車小屋はもうなかった。",
        "강물은 밤사이 불어났고 아침에는 골짜기 사람들이 모두 집을 떠나야 했으며 방앗간은 사라지고 없었다.",
        "แม่น้ำเอ่อขึ้นในตอนกลางคืนและผู้คนในหุบเขาต้องออกจากบ้านในตอนเช้า โรงสีหายไปแล้ว",
    ],
)
def test_scripts_without_spaces(tmp_path: Path, text: str) -> None:
    """Found in a document of its language and in one that is mostly English; half of it is no overlap."""
    quiz = {"quiz": {"use": "jsonl", "paths": jsonl(tmp_path, [{"q": text}]), "fields": ["q"]}}
    texts = [PROSE, f"{text[:20]}", f"前{text}後", f"{PROSE * 3} {text}", PROSE + text[:12]]
    _, out = run(tmp_path, texts, quiz)
    assert corpus.texts(out.folder / "documents") == [texts[0], texts[1], texts[4]]


def test_an_item_in_words_and_in_characters_is_one(tmp_path: Path) -> None:
    korean = "강물은 밤사이 불어났고 아침에는 골짜기 사람들이 모두 집을 떠나야 했으며 방앗간은 사라지고 없었다."
    quiz = {"quiz": {"use": "jsonl", "paths": jsonl(tmp_path, [{"q": QUESTION, "k": korean}]), "fields": ["q", "k"]}}
    counts, out = run(tmp_path, [PROSE, f"{PROSE} {QUESTION} {korean} {PROSE}"], quiz)
    (row,) = report(out)
    assert (row["coverage"], row["documents"]) == (1.0, 1)
    assert row["match"] == korean.rstrip(".")
    assert counts["benchmarks"]["quiz"]["documents"] == 1


def test_workers_and_shards_make_no_difference(tmp_path: Path, english: list[str], quiz: dict[str, Any]) -> None:
    generator = random.Random(1)
    texts = [text if generator.random() < 0.8 else f"{text}\n{QUESTION}" for text in english[:300]]
    found = []
    for name, workers, size in (("one", 1, 20_000), ("two", 2, 20_000), ("whole", 1, 1 << 20)):
        counts, out = run(tmp_path / name, texts, quiz, workers, size)
        found.append((counts, [corpus.rows(out.folder / kind) for kind in ("documents", "dropped")], report(out)))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["benchmarks"]["quiz"]["documents"] == sum(QUESTION in text for text in texts)


# ---------------------------------------------------------------------------------------------------- real benchmarks


@pytest.fixture(scope="module")
def real(shared_data: Path) -> dict[str, Any]:
    folder = shared_data / "bench"
    return {
        "truthfulqa": {
            "use": "csv",
            "paths": str(folder / "truthfulqa/TruthfulQA.csv.zst"),
            "fields": ["Question", "Best Answer", "Correct Answers"],
        },
        "gsm8k": {"use": "jsonl", "paths": str(folder / "gsm8k/test.jsonl.zst"), "fields": ["question", "answer"]},
        "humaneval": {
            "use": "jsonl",
            "paths": str(folder / "humaneval/HumanEval.jsonl.gz"),
            "fields": ["prompt", "canonical_solution"],
        },
    }


@pytest.fixture(scope="module")
def books(shared_data: Path) -> list[str]:
    """Pages of books that are older than the benchmarks."""
    texts = []
    with zstandard.open(shared_data / "text/books-train.jsonl.zst", "rt", encoding="utf-8") as lines:
        for _, line in zip(range(12), lines, strict=False):
            text = json.loads(line)["text"]
            texts += [text[start : start + 3000] for start in range(0, min(len(text), 600_000), 3000)]
    return texts


def test_planted_items_are_found_in_real_prose_and_nothing_else(
    tmp_path: Path, real: dict[str, Any], books: list[str]
) -> None:
    settings = Decontaminate.model_validate({"benchmarks": real})
    generator, texts, planted = random.Random(4), list(books), {}
    for name, benchmark in settings.benchmarks.items():
        for number, parts in enumerate(benchmark.items(name), start=1):
            if number % 9 == 0:  # its longest field, in other letters, somewhere in a page
                row = generator.randrange(len(books))
                place = texts[row].index(" ", 1000)
                texts[row] = f"{texts[row][:place]} {max(parts, key=len).upper()}\n{texts[row][place:]}"
                planted.setdefault(row, []).append((name, number, len(reference.folded_words(max(parts, key=len)))))
    counts, out = run(tmp_path, texts, real, shard_bytes=4 << 20)
    found = {(row["benchmark"], row["item"]) for row in report(out)}
    long = {(name, number) for items in planted.values() for name, number, words in items if words >= 13}
    short = {(name, number) for items in planted.values() for name, number, words in items if words < 8}
    assert len(long) > 200
    assert long <= found  # recall 1.0
    kept = corpus.texts(out.folder / "documents")
    clean = [text for row, text in enumerate(texts) if row not in planted]
    lost = set(clean) - set(kept)
    assert not lost, [text[:80] for text in lost]  # no page without a planted item goes
    assert counts["benchmarks"]["gsm8k"]["items"] == 1319
    assert counts["benchmarks"]["humaneval"]["items"] == 164
    assert counts["benchmarks"]["truthfulqa"]["items"] == 817
    assert not short & found


def test_hits_equal_those_of_plain_python(tmp_path: Path, real: dict[str, Any]) -> None:
    """Train questions of gsm8k against its test questions: the same n-grams as sets of tuples have."""
    from headwater.documents.overlap.membership import find
    from headwater.documents.text.shingles import units

    settings = Decontaminate.model_validate({"benchmarks": {"gsm8k": real["gsm8k"]}})
    loaded = load(settings.benchmarks, settings.words, settings.characters)
    train = Path(real["gsm8k"]["paths"]).parent / "train.jsonl.zst"
    with zstandard.open(train, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["question"] for _, line in zip(range(2000), lines, strict=False)]
    sizes = Sizes(8, 8)
    loaded = load(settings.benchmarks, sizes, sizes)
    table = units(pa.array(texts), "words", numbers=True)
    hits = find(table, loaded.words, sizes)
    wanted, shown = (
        set(),
        units(pa.array([p for i in settings.benchmarks["gsm8k"].items("") for p in i]), "words", numbers=True),
    )

    def grams(table: Any, row: int) -> list[tuple[int, ...]]:
        own = table.hashes[table.offsets[row] : table.offsets[row + 1]].tolist()
        return [tuple(own[i : i + 8]) for i in range(len(own) - 7)]

    for row in range(len(shown.offsets) - 1):
        wanted |= set(grams(shown, row))
    expected = {
        (row, place) for row in range(len(texts)) for place, gram in enumerate(grams(table, row)) if gram in wanted
    }
    found = set(zip(hits.documents.tolist(), hits.places.tolist(), strict=True))
    assert found <= expected
    assert len(found) > 50
    # The others are n-grams that say too little: of numbers, or of few different words.
    for row, place in expected - found:
        own = table.hashes[table.offsets[row] + place :][:8].tolist()
        begin = table.offsets[row] + place
        data = pa.array(texts).buffers()[2].to_pybytes()
        words = [
            data[b:e].decode()
            for b, e in zip(table.begins[begin : begin + 8], table.ends[begin : begin + 8], strict=True)
        ]
        assert len(set(own)) < 8 / 3 or sum(any(map(str.isalpha, word)) for word in words) < 4
    assert np.all(np.diff(loaded.words.keys.astype(object)) > 0)

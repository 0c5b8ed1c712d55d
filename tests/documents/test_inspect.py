from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater.cli import main
from headwater.core.errors import InputError
from headwater.documents.document import DROPPED_SCHEMA, ShardFile, documents_of, drop
from headwater.documents.inspect import Wanted, inspect


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two stages: read dropped 2 of 42 documents, clean 20 of 40."""
    place = tmp_path / "runs" / "mine"
    texts = [f"text number {number}" for number in range(40)]
    for stage, kept, gone in (
        ("read", texts, [("empty", None, "", None), ("malformed_json", None, "{", None)]),
        ("clean", texts[:20], [("length.min_words", float(n), text, 9.0) for n, text in enumerate(texts[20:])]),
    ):
        folder = tmp_path / "store" / f"{stage}-0123"
        with ShardFile(folder / "documents" / "web-00000.parquet") as shard:
            shard.write(documents_of("web", kept, language="en"))
        with ShardFile(folder / "dropped" / "web-00000.parquet", DROPPED_SCHEMA) as shard:
            for rule, value, text, limit in gone:
                shard.write(drop(documents_of("web", [text]), stage, rule, value, limit))
        (place / "stages").mkdir(parents=True, exist_ok=True)
        (place / "stages" / stage).symlink_to(folder)
    return place


def test_all_documents_of_a_run_are_counted_once(run: Path) -> None:
    found = inspect(run, Wanted())
    assert found.summary() == [
        ("read", "empty", "web", 1),
        ("read", "malformed_json", "web", 1),
        ("clean", "kept", "web", 20),
        ("clean", "length.min_words", "web", 20),
    ]
    assert found.fitting == 42
    assert len(found.documents) == 20


@pytest.mark.parametrize(
    ("wanted", "fitting"),
    [
        (Wanted(fate="kept"), 20),
        (Wanted(fate="dropped"), 22),
        (Wanted(rule="length"), 20),
        (Wanted(rule="length.min_words", text=r"number 2\d"), 10),
        (Wanted(rule="len"), None),
        (Wanted(source="web", text="number 1$"), 1),
        (Wanted(source="wob"), None),
    ],
)
def test_documents_are_found_by_fate_rule_source_and_text(run: Path, wanted: Wanted, fitting: int | None) -> None:
    if fitting is None:
        with pytest.raises(InputError, match=r"no document has the (rule|source)"):
            inspect(run, wanted)
    else:
        assert inspect(run, wanted).fitting == fitting


def test_one_document_is_found_by_its_id(run: Path) -> None:
    first = inspect(run, Wanted(count=1)).documents[0]
    assert inspect(run, Wanted(id=first["id"][:12])).documents == [first]


def test_the_sample_is_fair_and_changes_with_the_seed(run: Path) -> None:
    def texts(seed: int) -> set[str]:
        return {row["text"] for row in inspect(run, Wanted(fate="kept", count=5, seed=seed)).documents}

    assert texts(0) == texts(0) != texts(1)
    assert len(set.union(*map(texts, range(60)))) == 20


def test_the_command_prints_counts_and_documents(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(run.parents[1])
    main(["inspect", "mine", "--rule", "length", "--count", "1", "--characters", "4"])
    out = capsys.readouterr().out
    assert "20 documents fit; 1 of them" in out
    assert "dropped by clean: length.min_words, measured " in out
    assert "text\n[... " in out
    main(["inspect", str(run / "stages" / "read"), "--dropped", "--json"])
    assert {row["rule"] for row in json.loads(capsys.readouterr().out)} == {"empty", "malformed_json"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nothing"], "there is no such folder or run"),
        (["."], "holds no documents"),
        (["runs/mine", "--text", "("], "is no regular expression"),
        (["runs/mine", "--kept", "--dropped"], "choose --dropped or --kept"),
    ],
)
def test_what_cannot_be_looked_at_is_told(run: Path, arguments, problem, capsys, monkeypatch) -> None:
    monkeypatch.chdir(run.parents[1])
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", *arguments])
    assert stopped.value.code == 2
    assert problem in " ".join(capsys.readouterr().err.split())

"""From a text to the documents and training steps behind it, on a run as a user has it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from headwater import load, run
from headwater.cli import main
from headwater.core.errors import MismatchError, StoreError
from headwater.documents.document import read_batches, shards_in
from headwater.documents.sources.removal import Search
from headwater.evaluation.trace import trace
from headwater.flow import Results
from headwater.ledger import trace as ledger_of
from headwater.tokens.codec import Codec
from headwater.tokens.shards import TokenFolder
from headwater.tokens.text_index import TextIndex
from headwater.tracing import Steps, open_index, steps_of
from headwater.training.config import Train
from headwater.training.phases import PhasedBatches

from .conftest import TINY


@pytest.fixture(scope="module", autouse=True)
def links(results: Results, settings: tuple[str, ...]) -> None:
    """Other tests run changed recipes of the same name: point its links at the results again."""
    assert not run(load(TINY, *settings)).ran


@pytest.fixture(scope="module")
def index(results: Results) -> TextIndex:
    return open_index(results.folder)


@pytest.fixture(scope="module")
def documents(results: Results) -> list[dict[str, str]]:
    """The training documents, in the order of the token shards."""
    shards = shards_in(results.stages["split"] / "documents")
    return [row for shard in shards for batch in read_batches(shard) for row in batch.to_pylist()]


def test_the_index_numbers_documents_as_the_token_shards_do(
    results: Results, index: TextIndex, documents: list[dict[str, str]]
) -> None:
    tokens = TokenFolder(results.stages["encode"]).source("prose")
    assert list(index.ids()) == [row["id"] for row in documents]
    for number in (0, len(documents) // 2, len(documents) - 1):
        (match,) = trace(index, documents[number]["text"], sources=50)
        assert documents[number]["id"] in {source.id for source in match.sources}
        for source in match.sources:
            assert source.id == tokens.document_id(source.number)


def test_steps_are_those_whose_batches_hold_the_words(
    results: Results, index: TextIndex, documents: list[dict[str, str]]
) -> None:
    steps = steps_of(results.folder)
    assert steps is not None
    tokenizer = Codec(results.stages["tokenizer"] / "tokenizer")
    settings = Train.model_validate(json.loads((results.stages["train"] / "manifest.json").read_text())["settings"])
    batches = PhasedBatches(results.stages["encode"], settings)
    read = [" ".join(tokenizer.decode(row).split()) for step in range(20) for row in batches.batch(step).tokens]
    found = 0
    for row in documents[::3]:
        text = " ".join(row["text"].split(" ")[3:11])
        matches = [match for match in trace(index, text, min_words=6) if match.count == 1]
        for match in steps.of_matches(index, matches):
            (source,) = match.sources
            assert source.steps is not None
            wanted = " ".join(match.text.split())
            holding = {number // 8 + 1 for number, line in enumerate(read) if wanted in line}
            assert holding <= set(source.steps) <= set(range(1, 21))
            assert len(source.steps) <= len(holding) + 2, "only the row before and after may be taken too"
            found += bool(holding)
    assert found > 5


def test_tokens_of_a_document_are_told_apart(results: Results) -> None:
    settings = Train.model_validate(json.loads((results.stages["train"] / "manifest.json").read_text())["settings"])
    batches = PhasedBatches(results.stages["encode"], settings)
    lengths = TokenFolder(results.stages["encode"]).source("prose").lengths
    longest = int(np.argmax(lengths))
    expected: dict[int, set[int]] = {}
    for step in range(400):
        for row in batches.rows(step):
            for piece in row.pieces:
                if piece.document == longest:
                    for token in range(piece.first, piece.first + piece.tokens):
                        expected.setdefault(token, set()).add(step)
    for first, last in ((0, 1), (5, 9), (60, 70), (0, int(lengths[longest]))):
        wanted = set().union(*(expected.get(token, set()) for token in range(first, last)))
        assert batches.steps_with("prose", longest, 400, (first, last)) == sorted(wanted)
    assert batches.steps_with("prose", longest, 400) == sorted(set().union(*expected.values()))


def test_the_command_tells_documents_and_steps(
    results: Results, documents: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = documents[3]["text"]
    main(["trace", str(results.folder), text[:400], "--verify"])
    out = capsys.readouterr().out
    assert documents[3]["url"] in out
    assert "PSF-2.0" in out
    assert "read by" in out
    (tmp_path / "text.txt").write_text(text)
    main(["trace", str(results.folder), "--file", str(tmp_path / "text.txt"), "--json"])
    (traced,) = json.loads(capsys.readouterr().out)
    assert traced["text"] == text
    match = traced["matches"][0]
    assert text[match["begin"] : match["end"]] == match["text"]
    assert match["sources"][0]["id"]
    main(
        [
            "trace",
            str(results.folder),
            "--generate",
            "Return the",
            "--max-new-tokens",
            "8",
            "--json",
            "--min-words",
            "1",
        ]
    )
    (traced,) = json.loads(capsys.readouterr().out)
    assert traced["text"].startswith("Return the")
    assert all(match["end"] > len("Return the") for match in traced["matches"])


@pytest.mark.parametrize(
    ("arguments", "problem", "hint"),
    [
        ([], "there is no text", "such as"),
        (["", "--min-words", "1"], "there is no text", "such as"),
        (["two words"], "has 2 words, a match has at least 8", "--min-words 2"),
        (["a text", "--min-words", "0"], "--min-words: is less than 1", "--help"),
        (["a text", "--sources", "-1"], "--sources: is less than 0", "--help"),
        (["--absent", "prose", "--min-words", "0"], "--min-words: is less than 1", "--help"),
        (["--file", "missing.txt"], "No such file", "a text file"),
        (["--absent", "no-such-source"], "no text of these documents was found", "a file with their text"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], problem: str, hint: str, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["trace", str(results.folder), *arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert problem in said
    assert hint in said
    with pytest.raises(SystemExit):
        main(["trace", "no-such-run", "text"])
    assert "there is no such run" in capsys.readouterr().err


def copy_of(results: Results, folder: Path, *leave_out: str) -> Path:
    """The run's folder of links, some left out."""
    (folder / "stages").mkdir(parents=True)
    for name, target in results.stages.items():
        if name not in leave_out:
            (folder / "stages" / name).symlink_to(target.resolve())
    return folder


def test_an_index_can_be_built_afterwards_and_is_the_one_of_the_recipe(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(results, tmp_path / "run", "index")
    with pytest.raises(StoreError, match="has no index") as raised:
        open_index(folder)
    assert f"headwater index {folder}" in raised.value.hint
    main(["index", str(folder)])
    assert Path(capsys.readouterr().out.strip()).resolve() == results.stages["index"].resolve(), (
        "nothing was built again"
    )
    main(["index", str(folder), "--part", "64 KiB"])
    built = Path(capsys.readouterr().out.strip())
    assert built.name != results.stages["index"].name
    assert open_index(folder).manifest["counts"]["parts"] == 1, "one shard"
    assert "index" in {holding.stage for holding in ledger_of(results.folder, Search(source="prose")).holdings}
    with pytest.raises(SystemExit):
        main(["index", str(folder), "--part", "no size"])
    assert "headwater index: part" in capsys.readouterr().err
    shutil.rmtree(built)


def test_an_index_of_other_documents_is_refused(results: Results, settings: tuple[str, ...], tmp_path: Path) -> None:
    changed = run(load(TINY, *settings, "clean.steps.1.min_characters=300", f"machine.runs={tmp_path}"), until="index")
    folder = copy_of(results, tmp_path / "mixed", "index")
    (folder / "stages" / "index").symlink_to(changed.stages["index"].resolve())
    with pytest.raises(MismatchError, match="the index is of the documents in split-"):
        open_index(folder)
    with pytest.raises(MismatchError, match="was not trained on the tokens in"):
        Steps(changed.stages["encode"], results.stages["train"], results.stages["tokenizer"] / "tokenizer")


def test_the_memorization_of_a_run_is_measured_traced_and_reported(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = json.loads((results.stages["memorization"] / "memorization.json").read_text())
    assert 1 <= measured["training"]["passages"] <= 32, "20 steps read few of the passages drawn"
    assert measured["never_read"]["passages"] == 32
    assert measured["held_out"]["passages"] + measured["held_out_in_training"] == 32
    assert measured["not_told"] == []
    assert [written["prompt"] for written in measured["generations"]] == ["Return the"]
    for match in measured["generations"][0]["matches"]:
        assert match["end"] > len("Return the")
        assert all(source["steps"] is not None for source in match["sources"])
    page = (results.folder / "report.html").read_text(encoding="utf-8")
    assert "What it repeats" in page
    assert "held out, the control" in page
    main(["memorization", str(results.folder), "--shown-tokens", "16", "--continued-tokens", "16", "--passages", "8"])
    out = capsys.readouterr().out
    assert "training, standing in 1 place" in out
    with pytest.raises(SystemExit):
        main(["memorization", str(results.folder)])
    assert "82 tokens are more than the model's context of 64" in capsys.readouterr().err


def test_what_was_forgotten_is_proven_absent(
    results: Results,
    settings: tuple[str, ...],
    documents: list[dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = max(documents, key=lambda row: len(row["text"]))
    forgotten = tmp_path / "forgotten.jsonl"
    forgotten.write_text(json.dumps({"id": gone["id"]}))
    with pytest.raises(SystemExit) as stopped:
        main(["trace", str(results.folder), "--absent", str(forgotten)])
    assert stopped.value.code == 2
    out = capsys.readouterr().out
    assert "1 of the documents are training documents" in out
    changed = (*settings, f"read.forget=[{forgotten}]", f"machine.runs={tmp_path / 'runs'}")
    again = run(load(TINY, *changed), until="index")
    main(["trace", str(again.folder), "--absent", str(forgotten), "--min-words", "25"])
    assert "absent: no run of 25 words" in capsys.readouterr().out
    main(["trace", str(again.folder), "--absent", str(forgotten), "--min-words", "25", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["proven"]
    assert told["documents"] >= 1
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": documents[0]["text"], "url": "https://example.org/jane"}))
    for place in (texts, tmp_path / "text.txt"):
        (tmp_path / "text.txt").write_text(documents[0]["text"])
        with pytest.raises(SystemExit):
            main(["trace", str(again.folder), "--absent", str(place)])
        assert "stand in the training documents" in capsys.readouterr().out
    texts.write_text("no json")
    with pytest.raises(SystemExit):
        main(["trace", str(again.folder), "--absent", str(texts)])
    assert "texts.jsonl:1: is no JSON object" in capsys.readouterr().err

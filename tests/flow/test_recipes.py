"""The recipes for text of one's own, from their sources to the report, on small real data: only paths and sizes differ."""

from __future__ import annotations

import gzip
import json
import pydoc_data.topics
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from headwater import load, run
from headwater.cli import main
from headwater.flow import Results
from headwater.recipe import shipped

THAI = Path(__file__).parent / "thai.txt"
"""The Universal Declaration of Human Rights, which is in the public domain; from nltk_data's udhr2."""
TINY = (
    "split.min_documents=2",
    "tokenizer.vocab_size=400",
    "initialize.model.hidden_size=32",
    "initialize.model.num_layers=1",
    "initialize.model.num_heads=1",
    "initialize.model.context_length=64",
    "train.budget=null",
    "train.steps=4",
    "train.sequence_length=64",
    "train.batch_tokens=256",
    "train.speed.compile=off",
    "train.speed.precision=fp32",
    "evaluate.max_bytes=2kB",
    "evaluate.max_new_tokens=8",
    "machine.workers=1",
    "machine.foreign_python=off",  # transformers takes seconds to load
)
SOURCES = sorted(Path(json.__file__).parent.glob("*.py")) + sorted(Path(re.__file__).parent.glob("*.py"))
TOPICS = {name: text for name, text in pydoc_data.topics.topics.items() if len(text) > 400}
QUESTION = (
    "Which of the rivers that run from the northern hills to the western sea carries the most water in a dry summer?"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finish(name: str, *overrides: str) -> tuple[Results, str]:
    """Run a shipped recipe; every stage of it, with its report."""
    recipe = load(name, *TINY, *overrides)
    results = run(recipe)
    assert results.ran[-1] == "report"
    assert results.report is not None
    assert results.model is not None
    report = (results.folder / "report.md").read_text(encoding="utf-8")
    copies = [row for row in rows(results, "dedup", "dropped") if row["rule"] in ("near_duplicate", "exact")]
    assert ("Sizes of clusters of duplicates" in report) == bool(copies)
    assert "kept with their text changed" not in report  # some of those that a step mends are dropped later
    return results, report


def rows(results: Results, stage: str, fate: str = "documents") -> list[dict[str, Any]]:
    folder = results.stages[stage] / fate
    return pq.read_table(folder).to_pylist() if any(folder.glob("*.parquet")) else []


@pytest.mark.parametrize("name", ["web", "company", "community", "continue"])
@pytest.mark.parametrize("command", ["plan", "run"])
def test_without_its_files_a_recipe_is_one_clear_line(
    name: str, command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["check", name])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert f"{name}: well-formed" in said.out
    assert "it cannot run yet" in said.err
    with pytest.raises(SystemExit) as stop:
        main([command, name])
    assert stop.value.code == 2
    source, path = {
        "web": ("web", "archives"),
        "company": ("records", "records"),
        "community": ("own", "own"),
        "continue": ("own", "own"),
    }[name]
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: no such file or folder (source '{source}')",
        f"hint: check read.sources.{source}",
    ]
    assert not list(place.iterdir())


@pytest.mark.parametrize("name", ["web", "company", "community", "continue"])
def test_commands_in_the_recipes_name_the_file_that_they_make(name: str) -> None:
    text = shipped()[name].read_text(encoding="utf-8")
    copy = next(line for line in text.splitlines() if "headwater new" in line).split()[3]
    commands = [line.split()[2:4] for line in text.splitlines() if line.startswith("#   headwater ")]
    assert len(commands) >= 4
    assert {named.removesuffix(".yaml") for _, named in commands} == {copy.removesuffix(".yaml")}


def page(number: int, html: bytes) -> bytes:
    """A page as a record of a web archive."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://docs.example.org/{number}\r\n"
        f"WARC-Date: 2024-02-03T04:05:06Z\r\nWARC-Record-ID: <urn:uuid:{number:032d}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n")


def manual_page(text: str) -> bytes:
    paragraphs = "".join(f"<p>{' '.join(part.split())}</p>\n" for part in text.split("\n\n"))
    return f"<html lang=en><head><title>Page</title></head><body><article>{paragraphs}</article></body></html>".encode()


def plain_manual() -> list[str]:
    """Python's manual without its marks and numbers, which reads like other prose."""
    return [re.sub(r"[^\w\s.,?'-]|(?<!\w)[.,-]+(?!\w)|\d", "", text) for text in TOPICS.values()]


def manual() -> list[bytes]:
    """The manual as pages, of which nine hold a question of a benchmark (ten would make it boilerplate) and five personal data."""
    texts = sorted(plain_manual(), key=len)
    asked = [f"{text}\n\n{QUESTION}" for text in texts[-9:]]
    private = [
        f"{text}\n\nPlease write to jane.roe@river.org about the river, or call her at +1 212-555-0143."
        for text in texts[-14:-9]
    ]
    return [manual_page(text) for text in (*texts[:-14], *private, *asked)]


def run_web(place: Path, pages: list[bytes]) -> tuple[Results, str]:
    (place / "archives").mkdir()
    (place / "archives" / "pages.warc.gz").write_bytes(b"".join(page(n, html) for n, html in enumerate(pages)))
    (place / "benchmarks").mkdir()
    (place / "benchmarks" / "quiz.jsonl").write_text(json.dumps({"question": QUESTION}))
    return finish("web", "train.mixture.max_epochs=100")


def test_web(place: Path) -> None:
    results, report = run_web(place, manual())
    kept = rows(results, "split")
    assert len(kept) >= 10
    assert not [row for row in kept if "northern hills" in row["text"]]
    assert 2 <= len(rows(results, "decontaminate", "dropped")) <= 9
    private = [row["text"] for row in kept if "Please write to" in row["text"]]
    assert private
    assert all("Please write to <email> about the river, or call her at <phone>." in text for text in private)
    assert all(row["url"].startswith("https://docs.example.org/") for row in kept)
    assert "clean: gopher" in report


def test_web_on_real_articles(place: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "web" / "article-extraction-benchmark" / "html").glob("*.gz"))
    results, report = run_web(place, [gzip.decompress(file.read_bytes()) for file in files])
    assert 40 < len(rows(results, "split")) < len(files) == 91
    assert "language.min_score" in report or "language.keep" in report


def test_company(place: Path, prose: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "records").mkdir()
    (place / "texts").mkdir()
    lines = [json.loads(line) for line in prose.read_text(encoding="utf-8").splitlines()[:250]]
    records = [
        {"text": line["text"], "id": line["url"], "date": f"2024-01-{1 + number % 28:02d}"}
        for number, line in enumerate(lines)
    ]
    letter = next(line["text"] for line in lines if len(line["text"].split()) > 150)
    other = next(line["text"] for line in lines if 60 < len(line["text"].split()) < 100)
    private = f"{letter}\n\nWrite to jane.roe@river.org, card 4111 1111 1111 1111."
    records += [
        {"text": private, "id": "old", "date": "2023-01-01"},
        {"text": private.replace("Write to", "Please write to"), "id": "new", "date": "2025-01-01"},
        {"text": f"{other} password = 'AKIAIOSFODNN7EXAMPLF'", "id": "key", "date": "2025-01-01"},
    ]
    (place / "records" / "tickets.jsonl").write_text("\n".join(map(json.dumps, records)))
    for number, text in enumerate(list(TOPICS.values())[:20]):
        (place / "texts" / f"{number}.txt").write_text(text)
    results, report = finish("company")
    kept = {row["url"]: row for row in rows(results, "split")}
    assert "new" in kept
    assert "old" not in kept
    assert "<email>" in kept["new"]["text"]
    assert "<credit_card>" in kept["new"]["text"]
    assert not [row for row in kept.values() if "jane.roe" in row["text"] or "4111 1111" in row["text"]]
    assert {row["licence"] for row in kept.values()} == {"LicenseRef-company"}
    assert {row["url"]: row["rule"] for row in rows(results, "clean", "dropped")}["key"] == "personal_data.secret"
    assert "near_duplicate" in report
    with pytest.raises(SystemExit):
        main(["forget", "company", "--meta", "customer=17", "--source", "records"])
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "runs/company: no document fits source=records and customer=17"
    assert "`meta: [...]`" in said[-1]


def test_company_refuses_other_licences(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "records").mkdir()
    (place / "texts").mkdir()
    (place / "records" / "a.jsonl").write_text(
        json.dumps({"text": next(iter(TOPICS.values())), "id": "a", "date": "2024"})
    )
    (place / "texts" / "a.txt").write_text(list(TOPICS.values())[1])
    with pytest.raises(SystemExit):
        main(["run", "company", "--until", "clean", "machine.workers=1", "read.sources.records.licence=CC-BY-NC-4.0"])
    said = capsys.readouterr().err
    assert "all 1 documents of source 'records' were dropped, 1 of them by licence.not_allowed" in said


def test_web_without_its_benchmarks_is_one_clear_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "archives").mkdir()
    (place / "archives" / "a.warc.gz").write_bytes(page(0, manual_page("A text.")))
    with pytest.raises(SystemExit):
        main(["plan", "web"])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("benchmarks: no such file or folder")
    assert second.startswith("hint: ")


def test_community(place: Path, prose: Path) -> None:
    (place / "own").mkdir()
    (place / "english").mkdir()
    (place / "own" / "rights.txt").write_bytes(THAI.read_bytes())
    for number, text in enumerate(plain_manual()):
        (place / "english" / f"{number}.txt").write_text(text)
    results, report = finish("community", "read.sources.own.split=lines", "train.mixture.max_epochs=100")
    kept = rows(results, "split")
    thai, english = ([row for row in kept if row["source"] == name] for name in ("own", "english"))
    assert len(thai) >= 30
    assert len(english) >= 15
    assert {row["language"] for row in thai} == {"th"}
    facts = json.loads((results.stages["tokenizer"] / "facts.json").read_text())
    assert facts
    assert "| own |" in report


BASE = (
    "initialize={use: random, model: {hidden_size: 32, num_layers: 1, num_heads: 1, context_length: 64}}",
    "tokenizer={use: train_bpe, vocab_size: 400}",
)


def test_continue(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A base model is made of the manual, exported, and goes on with other text while the manual is replayed."""
    for folder, texts in (("general", plain_manual()), ("own", [path.read_text() for path in SOURCES])):
        (place / folder).mkdir()
        for number, text in enumerate(texts):
            (place / folder / f"{number}.txt").write_text(text)
    sizes = [change for change in TINY if "model." not in change and "vocab_size" not in change]
    sizes += [
        "evaluate.prompts_from.own=1",
        "dedup=null",
        "clean.steps=[{use: normalise}]",
        "train.total_tokens=null",
        "train.packing.max_padding=0.5",
    ]
    base = [*BASE, "name=base", "train.mixture={max_epochs: 100}", "train.phases=[]", "train.forgetting=null"]
    made = run(load("continue", *sizes, *base))
    assert made.model is not None
    (place / "models").mkdir()
    made.model.resolve().rename(place / "models" / "base")

    limit = ["train.steps=10", "train.validate_every=2", "train.forgetting={use: stop, limit: 0.00001}"]
    rate = ["train.optimizer.learning_rate=0.1", "train.schedule.warmup_steps=0", "train.mixture.max_epochs=100"]
    changes = [*sizes, *limit, *rate, "train.phases.1.mixture={replay: {general: 0.1}, max_epochs: 100}"]
    capsys.readouterr()
    main(["plan", "continue", *changes])
    plan = capsys.readouterr().out
    assert re.search(r"main +general +25\.00%", plan)
    assert re.search(r"anneal +general +10\.00%", plan)
    assert re.search(r"all phases +own", plan)
    results = run(load("continue", *changes))
    counts = json.loads((results.stages["train"] / "manifest.json").read_text())["counts"]
    assert counts["steps"] < 10
    assert counts["forgetting"]["events"][0]["source"] == "general"
    assert counts["phases"][0]["name"] == "main"
    report = (results.folder / "report.md").read_text(encoding="utf-8")
    assert "Phases of the training" in report
    assert re.search(r"\| main \| .*general 25\.0.% \| 1 \|", report)
    assert "had risen from" in report
    assert "above the limit: training stopped." in report
    assert "documents cut that fit in a row" in report

    main(["tokens", "continue", *changes, "--to", "rows.parquet", "--steps", "3"])
    assert "rows.parquet: 12 rows" in capsys.readouterr().out
    assert {len(row) for row in pq.read_table(place / "rows.parquet")["input_ids"].to_pylist()} == {64}


def test_what_is_finished_can_be_looked_at_when_a_stage_fails(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "one.txt").write_text("a line of text that is long enough to stay\n\n" * 3)
    with pytest.raises(SystemExit):
        main(["run", "shakespeare", "read.sources.plays.paths=[one.txt]", "clean.steps.1.min_words=2"])
    assert "too few to hold out" in capsys.readouterr().err
    main(["inspect", "shakespeare"])
    assert "long enough to stay" in capsys.readouterr().out

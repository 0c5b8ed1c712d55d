"""Everything that a user can get wrong: one clear line, a hint, exit code 2, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from headwater.cli import main

TINY = Path(__file__).parents[1] / "flow" / "tiny.yaml"
LINES = [
    json.dumps({"text": f"A sentence of plain English words, the number {n} of them all, " * 6}) for n in range(400)
]


class Refusal:
    """What the command said when it refused."""

    def __init__(self, folder: Path, stderr: str) -> None:
        self.folder = folder
        self.lines = [line for line in stderr.splitlines() if line.strip()]

    @property
    def said(self) -> str:
        return "\n".join(self.lines[-2:-1])


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a recipe that must be refused with exit code 2, one line and a hint."""

    def run(*overrides: str, source: str = "", until: str = "report") -> Refusal:
        monkeypatch.chdir(tmp_path)
        source = source or "{use: jsonl, paths: [input.jsonl]}"
        with pytest.raises(SystemExit) as caught:
            main(
                [
                    "run",
                    str(TINY),
                    f"read.sources={{prose: {source}}}",
                    "machine.workers=1",
                    *overrides,
                    "--until",
                    until,
                ]
            )
        stderr = capsys.readouterr().err
        assert caught.value.code == 2, stderr
        refusal = Refusal(tmp_path, stderr)
        assert refusal.lines[-1].startswith("hint: "), stderr
        assert "Traceback" not in stderr
        return refusal

    return run


def leftovers(folder: Path, stage: str) -> list[str]:
    return [path.name for path in (folder / "store").glob(f"{stage}-*")]


def test_missing_file(refused) -> None:
    assert "input.jsonl" in refused().said


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(refused, tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_text("\n".join(LINES))
    (tmp_path / "input.jsonl").chmod(0)
    assert "input.jsonl" in refused().said


def test_empty_file(refused, tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_bytes(b"")
    assert "empty" in refused().said
    assert leftovers(tmp_path, "read") == []


def test_a_folder_where_a_file_is_expected_to_have_files(refused, tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").mkdir()
    assert "input.jsonl" in refused().said


def test_wrong_column(refused, tmp_path: Path) -> None:
    pq.write_table(pa.table({"txt": ["a document"]}), tmp_path / "input.parquet")
    said = refused(source="{use: parquet, paths: [input.parquet]}").said
    assert "'text'" in said
    assert "txt" in said
    assert leftovers(tmp_path, "read") == []


def test_not_a_parquet_file(refused, tmp_path: Path) -> None:
    (tmp_path / "input.parquet").write_text("plain text")
    assert "input.parquet" in refused(source="{use: parquet, paths: [input.parquet]}").said


def test_not_utf8(refused, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes("Grüße aus Köln".encode("latin-1") * 50)
    said = refused(source="{use: text, paths: [input.txt]}").said
    assert "UTF-8" in said or "utf" in said.lower()
    assert leftovers(tmp_path, "read") == []


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_truncated_file(refused, tmp_path: Path, suffix: str) -> None:
    data = ("\n".join([*LINES, ""]) * 20).encode()
    packed = gzip.compress(data) if suffix == "gz" else zstandard.compress(data)
    (tmp_path / f"input.jsonl.{suffix}").write_bytes(packed[: len(packed) * 2 // 3])
    source = f"{{use: jsonl, paths: [input.jsonl.{suffix}]}}"
    said = refused("read.max_damaged_files=0", source=source, until="read").said
    assert "1 file is damaged, more than max_damaged_files 0 allows" in said
    assert f"input.jsonl.{suffix}" in said
    assert "truncated" in said.lower()
    assert leftovers(tmp_path, "read") == []
    main(["run", str(TINY), f"read.sources={{prose: {source}}}", "machine.workers=1", "--until", "read"])
    dropped = pq.read_table(tmp_path / "runs/tiny/stages/read/dropped").to_pylist()
    assert [row["rule"] for row in dropped] == ["damaged_file"]


def test_too_many_malformed_lines(refused, tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_text("\n".join([*LINES[:95], *["{broken"] * 5]))
    said = refused("read.max_bad_fraction=0.01").said
    assert "5 of 100" in said
    assert "max_bad_fraction 0.01" in said
    assert leftovers(tmp_path, "read") == []


def test_a_few_malformed_lines_are_kept_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input.jsonl").write_text("\n".join([*LINES[:200], "{broken", *LINES[200:]]))
    source = "read.sources={prose: {use: jsonl, paths: [input.jsonl]}}"
    main(["run", str(TINY), source, "machine.workers=1", "--until", "read"])
    dropped = pq.read_table(tmp_path / "runs/tiny/stages/read/dropped").to_pylist()
    assert [row["rule"] for row in dropped] == ["malformed_json"]
    assert dropped[0]["text"] == "{broken"
    assert "201" in dropped[0]["detail"]


def test_a_source_that_yields_nothing(refused, tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_text('{"text": "  "}\n' * 10)
    assert "yields no documents" in refused().said
    assert leftovers(tmp_path, "read") == []


def test_a_filter_that_drops_everything(refused, tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_text("\n".join(LINES))
    said = refused("clean.steps.1.min_characters=100k").said
    assert "length.min_characters" in said
    assert "100,000" in said or "100000" in said
    assert leftovers(tmp_path, "clean") == []


def test_a_vocabulary_larger_than_the_text_supports(refused, tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_text("\n".join(LINES))
    said = refused("tokenizer.vocab_size=60000", "dedup=null").said
    assert "60,000" in said or "60000" in said
    assert leftovers(tmp_path, "tokenizer") == []


def test_a_sequence_longer_than_the_text(refused, tmp_path: Path, prose: Path) -> None:
    (tmp_path / "input.jsonl").write_text("".join(prose.read_text().splitlines(keepends=True)[:150]))
    long = ("train.sequence_length=1000000", "train.batch_tokens=1M", "initialize.model.context_length=1000000")
    said = refused(*long, "train.mixture.max_epochs=1000").said
    assert "prose" in said
    assert leftovers(tmp_path, "train") == []


def test_a_sequence_beyond_the_context(refused, tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_text("\n".join(LINES))
    said = refused("train.sequence_length=128").said
    assert "128" in said
    assert "64" in said
    assert not (tmp_path / "store").exists()


def test_loss_that_is_not_finite(refused, tmp_path: Path, prose: Path) -> None:
    (tmp_path / "input.jsonl").write_text("".join(prose.read_text().splitlines(keepends=True)[:300]))
    refusal = refused("train.optimizer.learning_rate=1e30", "train.clip_norm=0")
    assert re.search(r"step \d+: .*\b(nan|inf)\b", refusal.said)
    assert "rows of prose" in refusal.said
    partial = next((tmp_path / "store").glob("train-*.partial"))
    assert not (partial / "manifest.json").exists()


SMALL_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from headwater.cli import main
main(sys.argv[1:])
"""


def test_a_disk_that_refuses_to_grow(tmp_path: Path, prose: Path) -> None:
    arguments = ["run", str(TINY), f"read.sources.prose.paths=[{prose}]", "machine.workers=1", "--until", "clean"]
    done = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr.splitlines()[-2]
    assert list((tmp_path / "store").glob("*/manifest.json")) == []
    main_again = [sys.executable, "-m", "headwater", *arguments]
    assert subprocess.run(main_again, capture_output=True, cwd=tmp_path, check=False).returncode == 0

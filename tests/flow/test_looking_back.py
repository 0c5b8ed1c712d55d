"""What a finished run can be asked: where a document is, and what more text would take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater import load, plan, run
from headwater.advice.scale import extrapolate, parse_target
from headwater.cli import main
from headwater.core.errors import InputError, StoreError
from headwater.documents.document import read_batches, shards_in
from headwater.documents.sources.removal import Search
from headwater.flow import Results
from headwater.ledger import add_to_list, trace

from .conftest import TINY


@pytest.fixture(scope="module", autouse=True)
def links(results: Results, settings: tuple[str, ...]) -> None:
    """Other tests run changed recipes of the same name: point its links at the results again."""
    assert not run(load(TINY, *settings)).ran


@pytest.fixture(scope="module")
def trained_on(results: Results) -> tuple[str, str]:
    """Id and url of a document that was trained on."""
    for shard in shards_in(results.stages["split"] / "documents"):
        for batch in read_batches(shard, ["id", "url"]):
            row = batch.slice(0, 1).to_pylist()[0]
            return row["id"], row["url"]
    raise AssertionError("no document")


def test_a_document_is_found_in_every_stage_down_to_the_checkpoints(
    results: Results, trained_on: tuple[str, str]
) -> None:
    ledger = trace(results.folder, Search(id=trained_on[0]))
    assert ledger.ids == {trained_on[0]}
    stages = list(dict.fromkeys(holding.stage for holding in ledger.holdings))
    assert stages[:6] == ["read", "clean", "dedup", "decontaminate", "split", "tokenizer"]
    assert all(holding.path.exists() for holding in ledger.holdings)
    by_source = trace(results.folder, Search(source="prose"))
    ours = results.stages["train"].name
    checkpoints = [holding.path for holding in by_source.holdings if ours in holding.path.parts]
    kept = sorted((results.stages["train"] / "checkpoints").glob("step-*"))
    assert [path.name for path in checkpoints] == [*(path.name for path in kept), "checkpoint"]


def test_a_document_that_was_seen_late_is_not_in_early_checkpoints(results: Results) -> None:
    ids = {row for shard in shards_in(results.stages["split"] / "documents") for row in _ids(shard)}
    first = {}
    for identifier in sorted(ids)[:40]:
        how = [h.how for h in trace(results.folder, Search(id=identifier)).holdings if h.stage == "train"]
        for text in how:
            first[identifier] = int(text.split("first in step ")[1].split()[0])
    assert first, "20 steps of 8 rows see some of 40 documents"
    assert all(1 <= step <= 20 for step in first.values())
    assert len(set(first.values())) > 3


def _ids(shard: Path) -> list[str]:
    return [name for batch in read_batches(shard, ["id"]) for name in batch.to_pydict()["id"]]


def test_what_is_forgotten_is_in_no_later_run(
    results: Results, settings: tuple[str, ...], trained_on: tuple[str, str], tmp_path: Path
) -> None:
    search = Search(url=trained_on[1])
    ledger = trace(results.folder, search)
    assert trained_on[0] in ledger.ids
    lines = add_to_list(tmp_path / "list.jsonl", search, ledger, copies=False)
    assert lines == 1 + len(ledger.ids)
    assert add_to_list(tmp_path / "list.jsonl", search, ledger, copies=False) == lines, "nothing is on it twice"
    changed = (*settings, f"read.forget=[{tmp_path / 'list.jsonl'}]", f"machine.runs={tmp_path / 'runs'}")
    again = run(load(TINY, *changed), until="split")
    with pytest.raises(InputError, match="no document fits"):
        trace(again.folder, Search(url=trained_on[1]))
    left = {name for shard in shards_in(again.stages["split"] / "documents") for name in _ids(shard)}
    assert trained_on[0] not in left


def test_the_command_says_where_and_what_next(
    results: Results, trained_on: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["forget", str(results.folder), "--id", trained_on[0], "--add-to", str(tmp_path / "list.jsonl")])
    out = capsys.readouterr().out
    assert "1 documents" in out or "1 document" in out
    assert "their tokens, training" in out
    assert "Set read.forget=" in out
    main(["forget", str(results.folder), "--id", trained_on[0], "--json"])
    assert json.loads(capsys.readouterr().out)["ids"] == [trained_on[0]]
    for arguments, problem in (
        ([], "which documents are meant?"),
        (["--meta", "author"], "is not of the form name=value"),
        (["--url", "https://nowhere"], "no document fits"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["forget", str(results.folder), *arguments])
        assert stopped.value.code == 2
        assert problem in capsys.readouterr().err


def test_results_of_earlier_settings_are_found_too(
    results: Results, settings: tuple[str, ...], trained_on: tuple[str, str]
) -> None:
    changed = (*settings, "clean.steps.1.min_characters=161")
    run(load(TINY, *changed), until="dedup")
    ledger = trace(results.folder, Search(id=trained_on[0]))
    before = {holding.path for holding in ledger.holdings}
    assert any(results.stages["encode"].name in path.parts for path in before), "no link leads there any more"
    assert results.stages["report"] in before
    run(load(TINY, *settings))


def test_more_text_takes_in_proportion(results: Results, settings: tuple[str, ...], tmp_path: Path) -> None:
    steps = plan(load(TINY, *settings)).steps
    small, large = (extrapolate(steps, parse_target(size)) for size in ("1 GB", "1 TB"))
    assert [stage.stage for stage in large.stages] == ["read", "clean", "dedup", "decontaminate", "split"]
    assert large.documents == pytest.approx(1000 * small.documents)
    for one, many in zip(small.stages, large.stages, strict=True):
        assert many.core_seconds == pytest.approx(1000 * one.core_seconds)
        assert many.disk_bytes == pytest.approx(1000 * one.disk_bytes)
    assert "take a larger sample" in str(large)
    assert "no estimate: what so small a sample took was starting up" in str(large)
    assert parse_target("common-crawl-wet") == 8e12
    with pytest.raises(InputError, match="'lots' is no size"):
        parse_target("lots")
    with pytest.raises(StoreError, match="there is no measured sample"):
        extrapolate(plan(load(TINY, *settings, f"machine.store={tmp_path}")).steps, 1e9)

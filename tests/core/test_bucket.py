"""A store behind a URL: what workers with disks of their own leave there is what a run on one machine leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from headwater import load, plan, run
from headwater.core import bucket as buckets
from headwater.core import pool
from headwater.core.bucket import Bucket, exchange, here
from headwater.core.errors import MismatchError, StoreError
from headwater.core.hardware import Machine
from headwater.core.store import write_json

RECIPE = """
read:
  shard_bytes: 40kB
  sources:
    prose: {use: jsonl, paths: [prose.jsonl], fields: {url: address}}
clean:
  steps:
    - {use: normalise}
    - {use: boilerplate, min_pages: 4}
    - {use: gopher_repetition}
    - {use: gopher_quality, min_words: 10}
dedup:
  near: {verify: true}
  keep: longest
  lines: {}
  paragraphs: {}
  spans: {}
split: {fraction: 0.05, min_documents: 2}
tokenizer: {use: train_bpe, vocab_size: 300}
encode: {}
"""


class OtherMachine(Executor):
    """One more machine, with an empty disk for each shard: it has what it brings, and leaves what it puts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shards = folder, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        fn, args = cloudpickle.loads(cloudpickle.dumps((fn, args)))
        aside = self.folder.with_name("aside")
        self.folder.rename(aside)
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # belongs to the one who asks for the result
            done.set_exception(error)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            aside.rename(self.folder)
        self.shards += 1
        return done


def files(store: Path) -> dict[str, str]:
    """Stage and file -> hash of its content, as the manifests say it."""
    return {
        f"{manifest.parent.name}/{name}": file["sha256"]
        for manifest in store.glob("*/manifest.json")
        for name, file in json.loads(manifest.read_text())["files"].items()
    }


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prose: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [json.loads(line) for line in prose.read_text(encoding="utf-8").splitlines()[:120]]
    with Path("prose.jsonl").open("w", encoding="utf-8") as out:
        for turn in range(3):  # near copies, copies, lines that a site repeats
            for number, row in enumerate(lines):
                text = row["text"] + f"\nAll the rights of page {turn % 2} are reserved by its author."
                text += f"\n{number} of {turn}" if number % 3 else ""
                out.write(json.dumps({"text": text, "address": f"https://host{number % 3}.org/{turn}/{number}"}) + "\n")
    path = tmp_path / "bucket.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> list[OtherMachine]:
    """A cluster of machines that share nothing but the bucket."""
    machines: list[OtherMachine] = []

    @contextmanager
    def executor(machine: Machine, workers: int, threads: bool) -> Iterator[Executor]:
        del workers, threads
        machines.append(OtherMachine(machine.store_folder))
        yield machines[-1]

    buckets._bucket.cache_clear()
    monkeypatch.setattr(pool, "_executor", executor)
    return machines


def test_machines_that_share_only_a_bucket_make_the_same_files(
    recipe: Path, machines: list[OtherMachine], tmp_path: Path
) -> None:
    run(load(str(recipe), "machine.workers=1"), until="encode")
    assert not machines
    store = f"machine.store=file://{tmp_path}/bucket"
    run(load(str(recipe), store, "machine.scratch=scratch", "machine.engine=ray"), until="encode")
    alone, bucket = files(tmp_path / "store"), tmp_path / "bucket"
    assert len(alone) > 20
    assert sum(machine.shards for machine in machines) > 60
    assert files(bucket) == alone
    manifests = {f"{name.partition('/')[0]}/manifest.json" for name in alone}
    left = {path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file()}
    assert left == alone.keys() | manifests | {"README"}, "nothing that lay between the passes is left in the bucket"
    # Later, somewhere else:
    buckets._bucket.cache_clear()
    elsewhere = load(str(recipe), store, "machine.scratch=laptop", "machine.runs=laptop/runs")
    assert not plan(elsewhere, until="encode").waiting
    assert not list(Path("laptop").rglob("*.parquet")), "a plan brings manifests alone"
    assert run(elsewhere, until="encode").ran == ()
    assert files(elsewhere.machine.store_folder) == alone
    assert {name for name in alone if not (elsewhere.machine.store_folder / name).is_file()} == set()
    assert len(list(Path("laptop/runs").glob("*/stages/dedup/documents/*.parquet"))) > 1


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    bucket = Bucket(f"file://{tmp_path}/bucket", tmp_path / "here")
    bucket.claim()
    return bucket


def stage(folder: Path, **files: str) -> Path:
    """A finished stage."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    told = {name: {"bytes": len(text)} for name, text in files.items()}
    write_json(folder / "manifest.json", {"files": told, "sha256": repr(files)})
    return folder


def worker(bucket: Bucket, folder: Path) -> Bucket:
    """The same bucket as a worker on a machine with another disk sees it."""
    return Bucket(bucket.url, folder, bucket.home, bucket.session)


def test_what_a_shard_reads_is_brought_and_what_it_writes_is_put(bucket: Bucket, tmp_path: Path) -> None:
    bucket.publish(stage(bucket.folder / "read-00000001", a="one", b="two"))
    far = worker(bucket, tmp_path / "far")

    def work(name: str) -> dict[str, int]:
        text = here(far.folder / "read-00000001" / name).read_text()
        write_json(far.folder / "clean-00000002.partial" / "documents" / name, text.upper())
        return {"bytes": len(text)}

    counts, written = exchange(far, work, "b")
    assert counts == {"bytes": 3}
    assert written == {"clean-00000002.partial/documents/b": 6}
    assert not (far.folder / "read-00000001" / "a").exists(), "nobody asked for it"
    bucket.get(written)
    assert (bucket.folder / "clean-00000002.partial" / "documents" / "b").read_text() == '"TWO"\n'
    with pytest.raises(StoreError, match="is not in the store"):
        exchange(far, work, "c")


def test_copies_of_an_earlier_run_are_not_read(bucket: Bucket, tmp_path: Path) -> None:
    bucket.publish(stage(bucket.folder / "read-00000001", a="old"))
    path = tmp_path / "far" / "read-00000001" / "a"
    exchange(worker(bucket, tmp_path / "far"), lambda _: here(path), None)
    assert path.read_text() == "old"
    shutil.rmtree(bucket.folder)
    shutil.rmtree(tmp_path / "bucket")
    again = Bucket(bucket.url, bucket.folder)  # another process, which makes the stage anew
    again.claim()
    again.publish(stage(bucket.folder / "read-00000001", a="new"))
    exchange(worker(again, tmp_path / "far"), lambda _: here(path), None)
    assert path.read_text() == "new"


def test_results_of_somebody_else_are_not_emptied(bucket: Bucket, tmp_path: Path) -> None:
    kept = stage(tmp_path / "far" / "train-00000001.partial", weights="many hours")
    with pytest.raises(StoreError, match="would be emptied"):
        exchange(worker(bucket, tmp_path / "far"), lambda _: None, None)
    assert (kept / "weights").exists()


def test_a_stage_is_finished_when_its_manifest_is_there(bucket: Bucket) -> None:
    folder = stage(bucket.folder / "read-00000001", a="one", b="two")
    Bucket(bucket.url, bucket.folder).put(list(folder.glob("?")))
    assert bucket.manifest(folder.name) is None
    bucket.settle(folder)
    assert bucket.manifest(folder.name) == json.loads((folder / "manifest.json").read_text())
    shutil.rmtree(folder)
    bucket.settle(folder)
    assert {path.name: path.read_text() for path in folder.glob("?")} == {"a": "one", "b": "two"}


def test_two_results_of_one_stage_are_told(bucket: Bucket, tmp_path: Path) -> None:
    bucket.publish(stage(bucket.folder / "train-00000001", weights="1"))
    with pytest.raises(StoreError, match="two machines made it"):
        Bucket(bucket.url, tmp_path / "far").settle(stage(tmp_path / "far" / "train-00000001", weights="2"))


def test_a_file_that_was_cut_short_is_told(bucket: Bucket, tmp_path: Path) -> None:
    folder = stage(bucket.folder / "read-00000001", a="one")
    bucket.publish(folder)
    (tmp_path / "bucket" / "read-00000001" / "a").write_text("o")
    with pytest.raises(StoreError, match="has 1 bytes, and was put there with 3"):
        Bucket(bucket.url, tmp_path / "far").settle(tmp_path / "far" / "read-00000001")


def test_a_bucket_out_of_reach_is_one_line(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("Access Denied\nrequest 17")

    monkeypatch.setattr(LocalFileSystem, "cat_file", refuse)
    with pytest.raises(StoreError, match=r"cannot be reached \(Access Denied\)"):
        bucket.manifest("read-00000001")


def test_a_bucket_that_takes_nothing_is_told_before_any_work(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("Access Denied")

    buckets._bucket.cache_clear()
    monkeypatch.setattr(LocalFileSystem, "put_file", refuse)
    with pytest.raises(StoreError, match=r"bucket/README: cannot be reached \(Access Denied\)"):
        run(load(str(recipe), f"machine.store=file://{tmp_path}/bucket", "machine.scratch=scratch"), until="read")
    assert not list(Path("scratch").glob("*/read-*"))


def test_settings_of_a_store_behind_a_url(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"(?i)protocol not known"):
        Bucket("nosuch://bucket", tmp_path).manifest("read-00000001")
    with pytest.raises(ValidationError, match="scratch has no effect"):
        Machine(scratch="x")
    with pytest.raises(ValidationError, match=r"only machine\.store can be one"):
        Machine(runs="s3://bucket/runs")
    machine = Machine(store="s3://bucket/my store", scratch=str(tmp_path))
    assert machine.store_folder == tmp_path / "s3-bucket-my-store"
    assert Machine(store="s3://bucket").store_folder.is_absolute()

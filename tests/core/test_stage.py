"""Stages run once, go on after a kill, notice changes, and refuse folders that were edited by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from headwater.core import pool, stage
from headwater.core.config import Config
from headwater.core.errors import InputError, StoreError
from headwater.core.hardware import Machine
from headwater.core.stage import Stage, Step, Store, Workspace, door
from headwater.core.store import HashMemory


class Settings(Config):
    factor: int = 2
    fail_at: int = -1


class FileSettings(Config):
    path: str

    def fingerprint(self, hashes: HashMemory) -> object:
        return hashes(Path(self.path))


RUNS: list[int] = []


def multiply(settings: Settings, inputs: stage.Inputs, out: Workspace) -> stage.Counts:
    """A door: writes one number per shard."""

    def work(number: int) -> stage.Counts:
        RUNS.append(number)
        if number == settings.fail_at:
            raise KeyboardInterrupt
        (out.folder / f"{number}.txt").write_text(str(number * settings.factor))
        return {"value": number * settings.factor}

    counts = pool.map(work, [0, 1, 2, 3], out, label="multiply", name=str, threads=True)
    out.warn("a warning")
    return {"total": sum(count["value"] for count in counts)}


def add(settings: Settings, inputs: stage.Inputs, out: Workspace) -> stage.Counts:
    """A door with an input."""
    total = sum(int(file.read_text()) for file in inputs["numbers"].glob("*.txt"))
    (out.folder / "sum.txt").write_text(str(total + settings.factor))
    return {"sum": total + settings.factor}


def refuse(settings: Settings, inputs: stage.Inputs, out: Workspace) -> stage.Counts:
    """A door that finds the user's input wrong half-way."""
    (out.folder / "half.txt").write_text("half")
    raise InputError("is empty", place="x.txt", hint="fill it")


MULTIPLY = Stage("multiply", "doors_of_the_test:multiply", {})
ADD = Stage("add", "doors_of_the_test:add", {"numbers": ("multiply",)})
REFUSE = Stage("refuse", "doors_of_the_test:refuse", {})
MACHINE = Machine(workers=1)


@pytest.fixture(autouse=True)
def doors(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("doors_of_the_test")
    module.multiply, module.add, module.refuse = multiply, add, refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "doors_of_the_test", module)
    RUNS.clear()


def planned(
    folder: Path,
    unit: Stage = MULTIPLY,
    settings: Config | None = None,
    last: dict[str, str] | None = None,
    **inputs: Step,
) -> Step:
    return Store(folder, last or {}).plan(unit, settings or Settings(), inputs, HashMemory(folder / "hashes.json"))


def test_a_stage_runs_once(tmp_path: Path) -> None:
    step = planned(tmp_path)
    assert (step.finished, step.reason) == (False, "new")
    manifest = stage.perform(step, MACHINE)
    assert manifest["counts"] == {"total": 12}
    assert manifest["warnings"] == ["a warning"]
    assert set(manifest["files"]) == {"0.txt", "1.txt", "2.txt", "3.txt"}
    assert planned(tmp_path).finished
    assert len(RUNS) == 4
    stage.perform(planned(tmp_path), MACHINE)
    assert len(RUNS) == 4


def test_machine_settings_are_not_identity(tmp_path: Path) -> None:
    stage.perform(planned(tmp_path), Machine(workers=1))
    one = json.loads((planned(tmp_path).folder / "manifest.json").read_text())
    stage.perform(planned(tmp_path / "other"), Machine(workers=3))
    three = json.loads((planned(tmp_path / "other").folder / "manifest.json").read_text())
    assert one["fingerprint"] == three["fingerprint"]
    assert one["files"] == three["files"]
    assert one["counts"] == three["counts"]


def test_a_stopped_stage_goes_on_with_the_shards_that_are_left(tmp_path: Path) -> None:
    step = planned(tmp_path, settings=Settings(fail_at=2))
    with pytest.raises(KeyboardInterrupt):
        stage.perform(step, MACHINE)
    assert RUNS == [0, 1, 2]
    assert planned(tmp_path, settings=Settings(fail_at=2)).reason == "goes on where it stopped (2 shards done)"
    RUNS.clear()
    with pytest.raises(KeyboardInterrupt):
        stage.perform(step, MACHINE)
    assert RUNS == [2]
    assert not step.folder.exists()


def test_the_reason_names_what_changed(tmp_path: Path) -> None:
    first = planned(tmp_path)
    stage.perform(first, MACHINE)
    last = {"multiply": first.folder.name}
    changed = planned(tmp_path, settings=Settings(factor=3), last=last)
    assert changed.reason == "factor 2 -> 3"
    newer = Stage("multiply", MULTIPLY.door, {}, version=2)
    assert planned(tmp_path, newer, last=last).reason == "stage version 1 -> 2"
    sums = planned(tmp_path, ADD, numbers=first)
    stage.perform(sums, MACHINE)
    assert planned(tmp_path, ADD, last={"add": sums.folder.name}, numbers=changed).reason == "multiply changed"


def test_a_changed_file_changes_the_fingerprint(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one")
    before = planned(tmp_path / "store", settings=FileSettings(path=str(text)))
    text.write_text("two")
    after = planned(tmp_path / "store", settings=FileSettings(path=str(text)))
    assert before.fingerprint != after.fingerprint


def test_wrong_input_leaves_nothing_behind(tmp_path: Path) -> None:
    step = planned(tmp_path, REFUSE)
    with pytest.raises(InputError, match="is empty"):
        stage.perform(step, MACHINE)
    assert not step.partial.exists()
    assert not step.folder.exists()


def test_a_file_edited_by_hand_is_named(tmp_path: Path) -> None:
    step = planned(tmp_path)
    stage.perform(step, MACHINE)
    (step.folder / "1.txt").write_text("9")
    with pytest.raises(StoreError, match=r"1\.txt: was changed after its stage finished \(hash mismatch\)"):
        planned(tmp_path)


def test_an_edit_that_hides_its_time_is_found_before_use(tmp_path: Path) -> None:
    import os

    step = planned(tmp_path)
    stage.perform(step, MACHINE)
    file = step.folder / "1.txt"
    status = file.stat()
    file.write_text("9")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StoreError, match="hash mismatch"):
        stage.perform(planned(tmp_path, ADD, numbers=planned(tmp_path)), MACHINE)


def test_a_missing_file_and_a_newer_schema_are_named(tmp_path: Path) -> None:
    step = planned(tmp_path)
    stage.perform(step, MACHINE)
    (step.folder / "2.txt").unlink()
    with pytest.raises(StoreError, match=r"2\.txt: is missing"):
        planned(tmp_path)
    manifest = json.loads((step.folder / "manifest.json").read_text())
    (step.folder / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(StoreError, match="schema 99"):
        planned(tmp_path)


def test_added_files_and_an_edited_manifest_are_named(tmp_path: Path) -> None:
    step = planned(tmp_path)
    stage.perform(step, MACHINE)
    extra = step.folder / "4.txt"
    extra.write_text("8")
    with pytest.raises(StoreError, match=r"4\.txt: was added after its stage finished"):
        planned(tmp_path)
    extra.unlink()
    manifest = (step.folder / "manifest.json").read_text()
    (step.folder / "manifest.json").write_text(manifest.replace('"total": 12', '"total": 13'))
    with pytest.raises(StoreError, match=r"manifest\.json: was changed after its stage finished"):
        planned(tmp_path)


def test_what_a_kill_leaves_behind_is_not_taken_for_a_result_and_warnings_stay(tmp_path: Path) -> None:
    settings = Settings(fail_at=2)
    step = planned(tmp_path, settings=settings)
    with pytest.raises(KeyboardInterrupt):
        stage.perform(step, MACHINE)
    Workspace(step.partial, MACHINE).warn("seen before the kill")
    (step.partial / ".3.txt.12ab34cd.writing").write_text("half")
    (step.partial / ".done" / "multiply-2.json").write_text('{"value": 4}')
    manifest = stage.perform(step, MACHINE)
    assert manifest["warnings"] == ["seen before the kill", "a warning"]
    assert set(manifest["files"]) == {"0.txt", "1.txt", "3.txt"}


def test_a_finished_stage_can_be_made_anew(tmp_path: Path) -> None:
    stage.perform(planned(tmp_path), MACHINE)
    stage.perform(planned(tmp_path), MACHINE, anew=True)
    assert len(RUNS) == 8
    assert planned(tmp_path).finished


def test_what_a_door_imports_finds_threads_set_to_sleep(tmp_path, monkeypatch):
    """OpenMP reads it once, when torch is loaded: afterwards it is too late."""
    (tmp_path / "spy_of_doors.py").write_text(
        "import os\nfound = os.environ.get('GOMP_SPINCOUNT')\n\n\ndef tell():\n    return found\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # is put back when the test ends
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert door("spy_of_doors:tell")() == "10000"

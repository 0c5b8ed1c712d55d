"""A stage: a cached unit of the flow, its fingerprint, its folder and its manifest.

    settings + outside world + inputs' fingerprints --hash--> store/clean-7fdd2d8a/
    work goes on in store/clean-7fdd2d8a.partial/ ; manifest.json is written last; one rename finishes the stage.

A folder with a manifest is finished, by definition. Where and how a stage runs (`Machine`) is not part of its
fingerprint: two workers or twenty, it is the same result in the same folder.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import importlib.metadata
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.core import hardware, log
from headwater.core.bucket import Bucket, bucket_of
from headwater.core.config import Config, difference, nearest
from headwater.core.errors import (
    EmptyResultError,
    HeadwaterError,
    InputError,
    MismatchError,
    StoreError,
    UnreachableError,
)
from headwater.core.hardware import Machine
from headwater.core.store import (
    HashMemory,
    hash_file,
    hash_value,
    locked,
    read_json,
    remove_unfinished,
    storage_error,
    write_json,
)

Counts = dict[str, Any]
"""What a door returns: JSON-able numbers for the manifest."""
Inputs = Mapping[str, Path]
"""Role -> finished folder of the stage that fills it."""

MANIFEST_SCHEMA = 1
IDENTITY = ".identity.json"
"""File of an unfinished stage that says what it is: all that its manifest will say of it but the results."""


@dataclass(frozen=True)
class Stage:
    """One unit of the flow: `door` names the function that does the work, `inputs` the stages that feed each role."""

    name: str
    door: str
    """`package.module:function`, imported only when the stage runs."""
    inputs: Mapping[str, tuple[str, ...]]
    """Role -> names of stages that can fill it; the first that is in the recipe does."""
    version: int = 1
    """Raise it when the same settings would now give another result."""
    evidence: tuple[str, ...] = ()
    """Stages whose records it reads as well, where they are in the recipe, as inputs under their own names. Only what is
    read of them decides: their manifests are checked, not every file."""


class Workspace:
    """Where and how a stage works; never part of its identity."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folder = folder
        """The stage's `.partial` folder, handed back after a kill: write only here."""
        self.machine = machine
        self._kept = folder / ".warnings.json"
        self.warnings: list[str] = read_json(self._kept) if self._kept.exists() else []

    def progress(self, label: str, total: float | None, unit: str) -> AbstractContextManager[log.Progress]:
        """Show how far a piece of work is; units "bytes" and "seconds" are written as such."""
        return log.progress(label, total, unit)

    def note(self, message: str) -> None:
        """Tell the user one thing, on one line."""
        log.logger.info("  %s", message)

    def warn(self, message: str) -> None:
        """Tell the user what looks wrong; it is kept in the manifest and shown in the report."""
        log.logger.warning("%s", message)
        if message not in self.warnings:
            self.warnings.append(message)
            write_json(self._kept, self.warnings)  # a resumed stage still has them


@dataclass(frozen=True)
class Step:
    """A stage of one recipe, planned: its identity, its folder, and whether and why it must run."""

    stage: Stage
    settings: Config
    outside: Any
    """What the settings alone do not tell, such as the hashes of the files that are read."""
    inputs: Mapping[str, Step]
    fingerprint: str
    folder: Path
    finished: bool
    reason: str

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def partial(self) -> Path:
        """The folder in which the work goes on until it is finished."""
        return self.folder.with_name(self.folder.name + ".partial")

    def manifest(self) -> dict[str, Any]:
        """The record of the finished stage."""
        return read_json(self.folder / "manifest.json")


@dataclass(frozen=True)
class Store:
    """The folder of results, and the memory of what each recipe's stages were last time."""

    folder: Path
    last: Mapping[str, str] = field(default_factory=dict)
    """Stage name -> name of the folder that it had in the recipe's last run; for saying what changed."""
    begun: Mapping[str, str] = field(default_factory=dict)
    """Stage name -> name of the folder in which the recipe's last run began it, finished or not."""
    bucket: Bucket | None = None
    """Where the results are, if the folder only holds this machine's copies."""

    def plan(self, stage: Stage, settings: Config, inputs: Mapping[str, Step], hashes: HashMemory) -> Step:
        """Work out a stage's fingerprint, and whether it is finished or must run and why.

        Raises:
            InputError: something outside that the settings name is missing or unreadable.
            StoreError: the finished folder was changed by hand.
        """
        describe: Callable[[HashMemory], Any] | None = getattr(settings, "fingerprint", None)
        outside = describe(hashes) if describe else None
        identity = {
            "stage": stage.name,
            "version": stage.version,
            "settings": settings.model_dump(mode="json"),
            "outside": outside,
            "inputs": {role: step.fingerprint for role, step in inputs.items()},
        }
        fingerprint = hash_value(identity)
        folder = self.folder / f"{stage.name}-{fingerprint[:8]}"
        finished = (folder / "manifest.json").is_file()
        if not finished and self.bucket and (manifest := self.bucket.manifest(folder.name)):
            write_json(folder / "manifest.json", manifest)  # its files are brought when they are needed
            finished = True
        if finished:
            check_quickly(folder, elsewhere=self.bucket is not None)
        step = Step(stage, settings, outside, inputs, fingerprint, folder, finished, "done")
        return step if finished else Step(**{**vars(step), "reason": self._reason(step)})

    def _reason(self, step: Step) -> str:
        """Why a stage must run: begun before, new, or what changed since the recipe's last run."""
        if step.partial.is_dir():
            done = len(list((step.partial / ".done").glob("*.json")))
            return f"goes on where it stopped ({done} shards done)" if done else "goes on where it stopped"
        left = self.left_behind(step)
        if left is not None:
            return f"changed since {left[0].name} was begun ({left[1]})"
        last = self.folder / self.last.get(step.name, "-") / "manifest.json"
        return _changes(read_json(last), step) or "new" if last.is_file() else "new"

    def left_behind(self, step: Step) -> tuple[Path, str] | None:
        """Unfinished work of the recipe's last run on a stage that has changed since: its folder, and what changed."""
        partial = self.folder / f"{self.begun.get(step.name, '-')}.partial"
        if partial == step.partial or not (partial / IDENTITY).is_file():
            return None
        return partial, _changes(read_json(partial / IDENTITY), step)


def _changes(before: Mapping[str, Any], step: Step) -> str:
    """What differs between a stage as it was before and as it is planned."""
    changes = list(difference(before["settings"], step.settings.model_dump(mode="json")))
    if before["version"] != step.stage.version:
        changes.append(f"stage version {before['version']} -> {step.stage.version}")
    if before["outside"] != json.loads(json.dumps(step.outside)):
        changes.append("the files it reads changed")
    for role, source in step.inputs.items():
        if before["inputs"].get(role, {}).get("fingerprint") != source.fingerprint:
            changes.append(f"{source.name} changed")
    return ", ".join(changes[:4]) + (f" and {len(changes) - 4} more" if len(changes) > 4 else "")


def perform(step: Step, machine: Machine, *, anew: bool = False) -> dict[str, Any]:
    """Run a planned stage and return its manifest; a kill at any moment leaves a folder that the next run goes on with.

    Args:
        step: what to run.
        machine: where and how.
        anew: run it although it is finished; the new result takes the place of the old one.

    Raises:
        HeadwaterError: what the stage says the user can solve.
        StoreError: another run works on this stage, an input was changed by hand, or the disk is full.
    """
    with locked(step.folder, f"stage {step.name}"):
        if (step.folder / "manifest.json").is_file() and not anew:  # another run finished it meanwhile
            return step.manifest()
        inputs = {role: source.folder for role, source in step.inputs.items()}
        bucket = bucket_of(machine)
        for role, source in step.inputs.items():
            if bucket:
                bucket.settle(source.folder)
            check_quickly(source.folder) if role in step.stage.evidence else check_fully(source.folder)
        started = datetime.datetime.now(datetime.UTC)
        clock = time.perf_counter()
        out = Workspace(step.partial, machine)
        seconds_before = _seconds_so_far(step.partial)
        try:
            step.partial.mkdir(parents=True, exist_ok=True)
            remove_unfinished(step.partial)
            write_json(step.partial / IDENTITY, _identity(step))
            counts = door(step.stage.door)(step.settings, inputs, out)
        except OSError as error:
            _keep_seconds(step.partial, seconds_before + time.perf_counter() - clock)
            raise storage_error(error, step.partial) from error
        except (InputError, EmptyResultError, MismatchError) as error:
            if isinstance(error, UnreachableError):
                _keep_seconds(step.partial, seconds_before + time.perf_counter() - clock)
                raise
            shutil.rmtree(step.partial, ignore_errors=True)  # its result can never be finished: leave nothing behind
            raise
        except BaseException:
            _keep_seconds(step.partial, seconds_before + time.perf_counter() - clock)
            raise
        manifest = {
            "schema": MANIFEST_SCHEMA,
            **_identity(step),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(seconds_before + time.perf_counter() - clock, 3),
            "machine": machine.model_dump(mode="json"),
            "hardware": hardware.describe(),
            "versions": library_versions(),
            "commit": hardware.git_commit(Path(__file__).parent),
            "warnings": out.warnings,
            "counts": counts,
        }
        manifest = _finish(step, manifest)
        if bucket:
            bucket.publish(step.folder)
        return manifest


def _identity(step: Step) -> dict[str, Any]:
    """What decides a stage's result, as its manifest says it."""
    return {
        "stage": step.name,
        "version": step.stage.version,
        "fingerprint": step.fingerprint,
        "settings": step.settings.model_dump(mode="json"),
        "outside": step.outside,
        "inputs": {r: {"folder": s.folder.name, "fingerprint": s.fingerprint} for r, s in step.inputs.items()},
    }


def _finish(step: Step, manifest: dict[str, Any]) -> dict[str, Any]:
    """Hash the files, write the manifest last, and give the folder its final name."""
    try:
        for leftover in (".done", ".seconds.json", ".warnings.json", IDENTITY):
            path = step.partial / leftover
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        files = sorted(path for path in step.partial.rglob("*") if path.is_file())
        manifest["files"] = {
            file.relative_to(step.partial).as_posix(): {"bytes": file.stat().st_size, "sha256": hash_file(file)}
            for file in files
            if file.name != "manifest.json"
        }
        manifest["sha256"] = hash_value(manifest)
        write_json(step.partial / "manifest.json", manifest)
        shutil.rmtree(step.folder, ignore_errors=True)
        step.partial.rename(step.folder)
    except OSError as error:
        raise storage_error(error, step.folder) from error
    return manifest


def check_quickly(folder: Path, *, elsewhere: bool = False) -> None:
    """Check that a finished folder holds what its manifest says; only files changed since then are hashed.

    Args:
        folder: of the stage.
        elsewhere: files that are missing here are in a bucket.

    Raises:
        StoreError: names the file that is missing or was changed.
    """
    manifest = read_json(folder / "manifest.json")
    written = (folder / "manifest.json").stat().st_mtime_ns
    if elsewhere:
        here = {name: file for name, file in manifest["files"].items() if (folder / name).is_file()}
        _check(folder, manifest, lambda path: path.stat().st_mtime_ns > written, here)
        return
    _check(folder, manifest, lambda path: path.stat().st_mtime_ns > written, manifest["files"])


def check_fully(folder: Path) -> None:
    """Hash every file of a finished folder and compare with its manifest.

    Raises:
        StoreError: names the file that is missing or was changed.
    """
    manifest = read_json(folder / "manifest.json")
    _check(folder, manifest, lambda _: True, manifest["files"])


def _check(
    folder: Path, manifest: dict[str, Any], suspicious: Callable[[Path], bool], files: Mapping[str, Any]
) -> None:
    if manifest.get("schema") != MANIFEST_SCHEMA:
        problem = f"has manifest schema {manifest.get('schema')}, this version reads {MANIFEST_SCHEMA}"
        raise StoreError(problem, place=str(folder), hint="remove the folder to make it again")
    hint = f"remove {folder} to make it again"
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    if manifest.get("sha256") != hash_value(content):
        problem = "was changed after its stage finished (hash mismatch)"
        raise StoreError(problem, place=str(folder / "manifest.json"), hint=hint)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(found - manifest["files"].keys() - {"manifest.json"}):
        raise StoreError("was added after its stage finished", place=str(folder / name), hint=hint)
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise StoreError("is missing; the stage had written it", place=str(path), hint=hint)
        if path.stat().st_size != expected["bytes"] or (suspicious(path) and hash_file(path) != expected["sha256"]):
            raise StoreError("was changed after its stage finished (hash mismatch)", place=str(path), hint=hint)


def library_versions() -> dict[str, str]:
    """Versions of Headwater and of every library that it depends on."""
    requirements = importlib.metadata.requires("headwater") or []
    names = [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in requirements if "extra ==" not in line]
    return {name: importlib.metadata.version(name) for name in ["headwater", *sorted(names)]}


def door(name: str) -> Callable[..., Any]:
    """Import the function that `package.module:function` names: only now, so that planning loads no torch."""
    hardware.share_processor()  # what is imported may load torch, which reads this once
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _seconds_so_far(partial: Path) -> float:
    path = partial / ".seconds.json"
    return read_json(path) if path.exists() else 0.0


def _keep_seconds(partial: Path, seconds: float) -> None:
    with contextlib.suppress(HeadwaterError):  # the disk may be full; the error that led here says so
        write_json(partial / ".seconds.json", seconds)


def stage_named(stages: tuple[Stage, ...], name: str) -> Stage:
    """Find a stage by its name.

    Raises:
        InputError: there is no such stage; names the nearest one.
    """
    for stage in stages:
        if stage.name == name:
            return stage
    raise InputError(
        f"no such stage '{name}'{nearest(name, [stage.name for stage in stages])}", hint="see 'headwater list stages'"
    )

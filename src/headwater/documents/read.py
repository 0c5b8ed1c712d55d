"""Stage read: documents from the sources of a recipe."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, StringConstraints

from headwater.core import pool
from headwater.core.config import Config
from headwater.core.errors import EmptyResultError, InputError
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.units import Bytes, Count
from headwater.documents.document import SHARD_BYTES, add_counts
from headwater.documents.sources.common_crawl import CommonCrawl
from headwater.documents.sources.crawl import Crawl
from headwater.documents.sources.delimited import Csv
from headwater.documents.sources.files import Paths
from headwater.documents.sources.formats import JsonLines, Text
from headwater.documents.sources.huggingface import HuggingFace
from headwater.documents.sources.python_environment import PythonEnvironment
from headwater.documents.sources.removal import Removal
from headwater.documents.sources.repository import Repository
from headwater.documents.sources.source import (
    MAX_RECORD_BYTES,
    PLACES_KEPT,
    EnoughError,
    Intake,
    TooManyBadRecordsError,
)
from headwater.documents.sources.tables import Arrow, Parquet
from headwater.documents.sources.warc import Warc
from headwater.documents.sources.wikipedia import Wikipedia

Source = Annotated[
    Text
    | JsonLines
    | Parquet
    | Csv
    | Arrow
    | HuggingFace
    | Repository
    | Crawl
    | PythonEnvironment
    | Warc
    | CommonCrawl
    | Wikipedia,
    Field(discriminator="use"),
]
T = TypeVar("T")
_REASONS_SHOWN = 5
SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Read(Config):
    """Where documents come from."""

    sources: dict[SourceName, Source] = Field(min_length=1)
    """Each source by the name that the rest of the recipe calls it: small letters, digits, `-` and `_`."""
    max_bad_fraction: float = Field(default=0.01, ge=0, le=1)
    """Malformed records that a source may have, as a share of all; more of them stop the run."""
    max_damaged_files: Count | None = Field(default=None, ge=0)
    """Files of a source that may be cut off, corrupt or not of the form that its settings say; more of them stop the run. 0
    refuses any. null, the default, goes on with what can be read, and names each one."""
    shard_bytes: Bytes = Field(default=SHARD_BYTES, ge=1)
    """Most text in a shard [bytes]: the unit of parallel work and of resuming."""

    forget: Paths = ()
    """Removal lists: documents on them are dropped by rule `forgotten`, and their text is kept nowhere. `headwater forget`
    writes them, one JSON object on each line: see docs/guides/forget.md."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, Any]:
        """What is in the sources, as far as the settings do not tell: hashes of files, versions of packages.

        Raises:
            InputError: a source or removal list cannot be read; names it.
        """
        found = {
            name: _naming(name, lambda s=source: s.fingerprint(hash_file)) for name, source in self.sources.items()
        }
        Removal(self.forget)  # a list that cannot be read is told before anything runs
        return found | (
            {"read.forget": [hash_file(Path(path).expanduser()) for path in self.forget]} if self.forget else {}
        )

    def input_bytes(self) -> int:
        """Size of all sources as they lie on disk [bytes]."""
        return sum(_naming(name, source.input_bytes) for name, source in self.sources.items())

    def text_bytes(self) -> dict[str, float]:
        """Estimate of the text of each source [UTF-8 bytes]."""
        return {name: _naming(name, source.text_bytes) for name, source in self.sources.items()}


@dataclass(frozen=True)
class Job:
    """One part of one source."""

    source: str
    number: int
    part: Any

    @property
    def name(self) -> str:
        """Name of the part, the beginning of its shards' names."""
        return f"{self.source}-{self.number:05d}"


def read(settings: Read, inputs: Inputs, out: Workspace) -> Counts:
    """Read every source into shards of documents; bad records go to shards beside them.

    Raises:
        InputError: a file cannot be read, or too many records of a source are bad.
        EmptyResultError: a source yields no document.
    """
    assert not inputs, "nothing comes before the stage read"
    sizes = {
        name: _naming(name, source.input_bytes) for name, source in settings.sources.items()
    }  # while they are there
    jobs = [
        Job(name, number, part)
        for name, source in sorted(settings.sources.items())
        for number, part in enumerate(_parts(name, source, settings.shard_bytes, out))
    ]
    work = functools.partial(_read_part, settings, out.folder / "parts")
    results = _read_jobs(work, jobs, out)
    for source in sorted(settings.sources):
        of_source = [result for job, result in zip(jobs, results, strict=True) if job.source == source]
        damaged = {path: problem for result in of_source for path, problem in result["damaged"].items()}
        _check_damage(source, damaged, settings)
        _judge(source, of_source, damaged, settings)
        _tell_left_out(source, of_source, out)
        _tell_lost_dates(source, [result["lost_dates"] for result in of_source], out)
        if damaged:
            out.warn(
                f"read.sources.{source}: {_counted(damaged)}, of which only a part could be read, or nothing: {_named(damaged)}"
            )
    for kind in ("documents", "dropped"):
        shards = {job.name: result["shards"][kind] for job, result in zip(jobs, results, strict=True)}
        _number(shards, out.folder / "parts" / kind, out.folder / kind)
    for name in ("parts", "cache"):
        shutil.rmtree(out.folder / name, ignore_errors=True)
    counts = add_counts(result["tally"] for result in results)
    if settings.forget:
        _tell_forgotten(settings, {line for result in results for line in result["forgotten_lines"]}, counts, out)
    for name, of_source in counts["sources"].items():
        of_source["input_bytes"] = sizes[name] or of_source["bytes_in"]
    return counts


def _read_jobs(work: Callable[[Job], Counts], jobs: Sequence[Job], out: Workspace) -> list[Counts]:
    """Read every part; those of sources that this machine has brought here itself stay on it when others cannot see them."""
    brought = [job for job in jobs if out.machine.store_is_url and (out.folder / "cache" / job.source).is_dir()]
    others = [job for job in jobs if job not in brought]
    alone = Workspace(out.folder, out.machine.model_copy(update={"engine": "local"}))
    results = {}
    for some, on in ((brought, alone), (others, out)):
        counts = pool.map(work, some, on, label="read", name=lambda job: job.name) if some else []
        results |= {job.name: count for job, count in zip(some, counts, strict=True)}
    return [results[job.name] for job in jobs]


def _parts(name: str, source: Any, part_bytes: int, out: Workspace) -> Sequence[Any]:
    """Cut a source in parts, and say what is doubtful about it."""
    for warning in source.warnings():
        out.warn(f"read.sources.{name}: {warning}")
    cache = out.folder / "cache" / name
    parts = _naming(name, lambda: source.fetch(part_bytes, cache, out.machine.processor_workers))
    if source.max_documents and len(parts) > 1:
        return [tuple(piece for part in parts for piece in part)]  # the first documents are those of one reader
    return parts


def _read_part(settings: Read, folder: Path, job: Job) -> Counts:
    """Read one part into shards of its own."""
    source = settings.sources[job.source]
    removal = Removal(settings.forget) if settings.forget else None
    with Intake(job.source, folder, job.name, settings.shard_bytes, settings.max_bad_fraction, removal) as intake:
        intake.limit = source.max_documents
        try:
            with contextlib.suppress(EnoughError):
                _naming(job.source, lambda: source.read(job.part, intake))
        except TooManyBadRecordsError:
            raise _too_many_bad(job.source, intake.bad, intake.seen, intake.places, settings) from None
    _check_damage(job.source, intake.damaged, settings)
    return intake.counts()


def _check_damage(source: str, damaged: Mapping[str, str], settings: Read) -> None:
    """Refuse a source with more damaged files than the settings allow."""
    if settings.max_damaged_files is not None and len(damaged) > settings.max_damaged_files:
        problem = (
            f"{_counted(damaged)}, more than max_damaged_files {settings.max_damaged_files} allows: {_named(damaged)}"
        )
        hint = "download or write them again, or raise read.max_damaged_files"
        raise InputError(problem, place=f"read.sources.{source}", hint=hint)


def _tell_left_out(source: str, results: Sequence[Counts], out: Workspace) -> None:
    """Say how many records were read that are no documents by their nature, and the most frequent reasons."""
    tally = add_counts(result["tally"] for result in results)
    reasons = tally["sources"].get(source, {}).get("skipped", {})
    if reasons:
        most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{reason} {count:,}" for reason, count in most[:_REASONS_SHOWN])
        more = f", and {len(most) - _REASONS_SHOWN} more reasons" if len(most) > _REASONS_SHOWN else ""
        out.note(
            f"{source}: {tally['documents_in']:,} documents and {sum(reasons.values()):,} other records: {shown}{more}"
        )


def _tell_lost_dates(source: str, lost: Sequence[tuple[int, str]], out: Workspace) -> None:
    """Say how many documents have no date because what stood there is none."""
    if count := sum(number for number, _ in lost):
        first = next(date for number, date in lost if number)
        out.warn(
            f"read.sources.{source}: {count:,} dates are none that can be told, such as '{first}'; these documents have none"
        )


def _tell_forgotten(settings: Read, fitted: set[int], counts: Counts, out: Workspace) -> None:
    """Say how many lines of the removal lists fit a document, and which do not: an address may be mistyped."""
    lines = Removal(settings.forget).lines
    documents = counts["dropped"].get("forgotten", {"documents": 0})["documents"]
    told = f"read.forget: {len(fitted):,} of {len(lines):,} lines fit documents, {documents:,} in all"
    idle = [line for number, line in enumerate(lines) if number not in fitted]
    if not idle:
        out.note(told)
        return
    shown = ", ".join(idle[:PLACES_KEPT]) + (", ..." if len(idle) > PLACES_KEPT else "")
    out.warn(f"{told}; these fit none: {shown}")


def _counted(damaged: Mapping[str, str]) -> str:
    return "1 file is damaged" if len(damaged) == 1 else f"{len(damaged)} files are damaged"


def _named(damaged: Mapping[str, str]) -> str:
    named = " | ".join(f"{path}: {problem}" for path, problem in list(damaged.items())[:PLACES_KEPT])
    return named + (f" | and {len(damaged) - PLACES_KEPT} more" if len(damaged) > PLACES_KEPT else "")


def _judge(source: str, results: list[Counts], damaged: Mapping[str, str], settings: Read) -> None:
    """Refuse a source with too many bad records, without documents, or without a field that its settings name."""
    tally = add_counts(result["tally"] for result in results)
    seen, bad = tally.get("documents_in", 0), sum(result["bad"] for result in results)
    if bad > settings.max_bad_fraction * seen:
        places = [place for result in results for place in result["places"]]
        raise _too_many_bad(source, bad, seen, places, settings)
    if damaged and not tally.get("documents_out") and tally["dropped"].keys() == {"damaged_file"}:
        path, problem = next(iter(damaged.items()))
        more = f", as are {len(damaged) - 1} more files" if len(damaged) > 1 else ""
        hint = f"download or write it again, or check `use` of read.sources.{source}"
        raise InputError(f"{problem} (source '{source}'{more}); nothing is left", place=path, hint=hint)
    if not tally.get("documents_out"):
        reasons = ", ".join(f"{rule} {count['documents']}" for rule, count in tally.get("dropped", {}).items())
        problem = f"yields no documents; {seen} records were read" + (f" and dropped: {reasons}" if reasons else "")
        skipped = tally.get("sources", {}).get(source, {}).get("skipped", {})
        problem += "".join(f"; {count} left out: {reason}" for reason, count in skipped.items())
        hint = "look into what it reads"
        if "private_address" in tally.get("dropped", {}):
            hint = f"if these are machines of yours, set read.sources.{source}.allow_private=true"
        if "too_long" in tally.get("dropped", {}):
            hint = f"lines, and files that are one document, may have {MAX_RECORD_BYTES >> 20} MiB: check `use` and `split`"
        raise EmptyResultError(problem, place=f"read.sources.{source}", hint=hint)
    if not settings.sources[source].max_documents:
        settings.sources[source].check_fields({field for result in results for field in result["fields"]}, source)


def _too_many_bad(source: str, bad: int, seen: int, places: list[str], settings: Read) -> InputError:
    share = f"{bad} of {seen} records are bad, more than max_bad_fraction {settings.max_bad_fraction:g} allows"
    hint = "mend the files, check `use` and the names of fields, or raise read.max_bad_fraction"
    return InputError(f"{share}; the first: {' | '.join(places[:3])}", place=f"read.sources.{source}", hint=hint)


def _number(shards: Mapping[str, int], parts: Path, folder: Path) -> None:
    """Move the shards of the parts to their final names, numbered through each source; goes on after a kill."""
    numbers: dict[str, int] = {}
    for name, count in shards.items():
        source = name.rpartition("-")[0]
        for shard in range(count):
            number = numbers[source] = numbers.get(source, -1) + 1
            staged = parts / f"{name}-{shard:05d}.parquet"
            final = folder / f"{source}-{number:05d}.parquet"
            final.parent.mkdir(exist_ok=True)
            if staged.exists() or not final.exists():
                staged.replace(final)


def _naming(source: str, action: Callable[[], T]) -> T:
    """Name the source in the errors of an action."""
    try:
        return action()
    except InputError as error:
        hint = f"check read.sources.{source}" if error.hint == "check the path" else error.hint
        raise type(error)(f"{error.problem} (source '{source}')", place=error.place, hint=hint) from None

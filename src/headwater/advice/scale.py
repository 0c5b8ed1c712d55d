"""What the document stages would take for much more text than a sample of it took: `headwater plan --scale`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.advice.delivery import DOCUMENT_STAGES
from headwater.advice.estimate import TYPICAL, disk_bytes
from headwater.core.errors import InputError, StoreError
from headwater.core.hardware import Machine, core_count
from headwater.core.stage import Step
from headwater.core.units import format_bytes, format_count, format_seconds, parse_bytes

DUMP_BYTES = {"wet": 8e12, "warc": 80e12}
"""Compressed bytes of a Common Crawl dump. Source: its statistics of 2023 to 2025 (commoncrawl.org/overview): 90,000
files a dump, WARC 70 to 100 TiB, WET 6 to 9 TiB."""
LEAST_SECONDS = 1.0
"""A stage that took less beyond its start is too short to be a measure."""
LEAST_SAMPLE_BYTES = 20_000_000
"""A smaller sample is read and cleaned in about the time that workers take to start."""
DAY = 86_400


@dataclass(frozen=True)
class Extrapolation:
    """What one stage would take.

    Attributes:
        stage: its name.
        core_seconds: time of one processor core [s].
        disk_bytes: what it would leave.
        measured_seconds: what it took for the sample on this machine, its start left out.
    """

    stage: str
    core_seconds: float
    disk_bytes: float
    measured_seconds: float


@dataclass(frozen=True)
class Scale:
    """All document stages at another size.

    Attributes:
        target_bytes: input as it lies on disk.
        sample_bytes: the same of the sample.
        documents: how many there would be.
        stages: in the order of the flow.
    """

    target_bytes: float
    sample_bytes: int
    documents: float
    stages: tuple[Extrapolation, ...]

    def __str__(self) -> str:
        """A table, and what it means."""
        cores = core_count()
        table = [("stage", "one core", f"{cores} cores", "disk")]
        table += [
            (
                s.stage,
                format_seconds(s.core_seconds),
                format_seconds(s.core_seconds / cores),
                format_bytes(s.disk_bytes),
            )
            for s in self.stages
        ]
        total, disk = sum(s.core_seconds for s in self.stages), sum(s.disk_bytes for s in self.stages)
        table.append(("all", format_seconds(total), format_seconds(total / cores), format_bytes(disk)))
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        lines = [
            "  ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row)) for row in table
        ]
        factor = self.target_bytes / self.sample_bytes
        lines = [
            f"{format_bytes(self.target_bytes)} of input, {factor:,.0f} times the sample of "
            f"{format_bytes(self.sample_bytes)}: about {format_count(self.documents)} documents",
            *lines,
            f"In one day: {math.ceil(total / DAY):,} cores, if reading keeps up at "
            f"{format_bytes(self.target_bytes / DAY)} per second. Finding duplicates needs "
            f"{format_bytes(self.documents * 16)} of memory in one place.",
        ]
        short = [s.stage for s in self.stages if s.measured_seconds < LEAST_SECONDS]
        if short:
            lines.append(f"!! too short to measure well: {', '.join(short)}; take a larger sample")
        if self.sample_bytes < LEAST_SAMPLE_BYTES:
            least = format_bytes(LEAST_SAMPLE_BYTES)
            lines.append(f"!! no estimate: what so small a sample took was starting up; take {least} or more")
        elif factor > 10_000:
            lines.append("!! the sample is less than a ten-thousandth: expect to be wrong by half, either way")
        return "\n".join(lines)


def parse_target(text: str) -> float:
    """Bytes of input that are meant: a size such as `1 TB`, or `common-crawl-warc` or `common-crawl-wet` for a dump.

    Raises:
        InputError: it is neither.
    """
    name = text.lower().removeprefix("common-crawl-")
    if name in DUMP_BYTES:
        return DUMP_BYTES[name]
    try:
        return float(parse_bytes(text))
    except ValueError:
        hint = "a size such as 1TB, or common-crawl-warc or common-crawl-wet for a whole dump"
        raise InputError(f"'{text}' is no size", place="--scale", hint=hint) from None


def extrapolate(steps: Sequence[Step], target_bytes: float) -> Scale:
    """Scale what the finished document stages of a recipe took, in proportion to the input's bytes.

    Start-up, which does not grow, is left out. A stage's workers are taken to have been busy all the time.

    Raises:
        StoreError: the stage read, or one behind it, is not finished: there is no measure.
    """
    stages = [step for step in steps if step.name in DOCUMENT_STAGES]
    waiting = [step.name for step in stages if not step.finished]
    if waiting or not stages:
        problem = f"there is no measured sample: {', '.join(waiting) or 'read'} has not run"
        hint = f"run a sample first: headwater run RECIPE --until {stages[-1].name if stages else 'read'}"
        raise StoreError(problem, place="--scale", hint=hint)
    manifests = {step.name: step.manifest() for step in stages}
    sources = manifests[stages[0].name]["counts"]["sources"]
    sample_bytes = sum(counts.get("input_bytes", counts["bytes_in"]) for counts in sources.values())
    factor = target_bytes / max(sample_bytes, 1)
    found = []
    for name, manifest in manifests.items():
        seconds = max(manifest["seconds"] - TYPICAL[name].fixed_seconds / 2, 0.1)
        workers = Machine.model_validate(manifest["machine"]).processor_workers
        found.append(Extrapolation(name, seconds * workers * factor, disk_bytes(manifest) * factor, seconds))
    documents = manifests[stages[0].name]["counts"]["documents_in"] * factor
    return Scale(target_bytes, sample_bytes, documents, tuple(found))

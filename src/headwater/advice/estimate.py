"""How long each stage will take and how much disk it fills, before anything runs.

A finished stage says what it took. Else a stage of documents goes by the newest finished one of its name in the store,
scaled by the bytes that go in, or by a rate that was measured once on two cores of a server processor; a stage of the
model goes by its parameters and FLOPs, at the pace that pace.py knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.advice.pace import pace_of
from headwater.core.errors import MismatchError
from headwater.core.hardware import Machine
from headwater.core.stage import Step
from headwater.core.store import read_json
from headwater.model.config import RandomWeights
from headwater.model.dial import Derivation
from headwater.model.planned import planned
from headwater.model.shape import ModelConfig


@dataclass(frozen=True)
class Estimate:
    """What a stage takes."""

    seconds: float
    disk_bytes: int
    basis: str
    """`measured` for a finished stage, `like before` when scaled from the last one of its name, `trial` where steps of this
    very run were timed, `budget` and `formula` for the model, `typical` from the table below."""


@dataclass(frozen=True)
class Rate:
    """Time and disk of a stage as a function of the bytes of text that go in."""

    fixed_seconds: float
    seconds_per_mb: float
    out: float
    """Bytes of text that come out per byte that goes in."""
    fixed_disk_bytes: int
    disk: float
    """Bytes on disk per byte of text that goes in."""


MODEL_STAGES = ("initialize", "train", "export")
TYPICAL = {
    "read": Rate(2, 0.03, 1.0, 0, 0.3),
    "clean": Rate(5, 0.08, 0.8, 0, 0.3),
    "dedup": Rate(2, 0.02, 0.9, 0, 0.3),
    "decontaminate": Rate(3, 0.03, 1.0, 0, 0.3),
    "split": Rate(1, 0.015, 1.0, 0, 0.3),
    "tokenizer": Rate(4, 0.005, 1.0, 2_000_000, 0),
    "encode": Rate(2, 0.03, 1.0, 0, 0.75),
    "index": Rate(1, 0.2, 1.0, 0, 1.75),
    "initialize": Rate(3, 0, 1.0, 0, 0),
    "train": Rate(40, 0, 1.0, 0, 0),
    "evaluate": Rate(30, 0, 1.0, 1_000_000, 0),
    "memorization": Rate(10, 0, 1.0, 1_000_000, 0),
    "export": Rate(10, 0, 1.0, 0, 0),
    "report": Rate(4, 0, 1.0, 5_000_000, 0),
}
"""Source: the shipped demo recipe on 2 cores of two server processors of 2021 and 2024, between the two;
`docs/lab-notes.md` has the runs."""


MOST_SCALED = 5.0
"""A run whose text was more than so many times larger or smaller is no measure for this one."""
TYPICAL_VOCABULARY = 32_000


def estimate(steps: Sequence[Step], store: Path, machine: Machine | None = None) -> Iterator[Estimate]:
    """Estimate each of a recipe's stages, in order; a trial counts that was made on such a machine."""
    text: dict[str, float] = {}  # stage -> bytes of text that it hands on
    model = planned_model(steps)
    for step in steps:
        source = next((text[s.name] for role, s in step.inputs.items() if role in ("documents", "tokens")), 0.0)
        if step.finished:
            manifest = step.manifest()
            text[step.name] = manifest["counts"].get("bytes_out", source)
            yield Estimate(manifest["seconds"], disk_bytes(manifest), "measured")
            continue
        if step.name == "read":
            source = sum(step.settings.text_bytes().values())  # type: ignore[attr-defined]
        text[step.name] = source * TYPICAL[step.name].out
        if step.name in MODEL_STAGES:
            yield _of_model(step, model, store, machine)
        else:
            yield _of_text(step, source, newest(store, step.name))


def _of_text(step: Step, source: float, like: dict[str, Any] | None) -> Estimate:
    """A stage whose time goes by the bytes of text: as the last one of its name, or typical."""
    rate = TYPICAL[step.name]
    before = like["counts"].get("bytes_in", 0) if like else 0
    if like and before and 1 / MOST_SCALED < source / before < MOST_SCALED:
        seconds = rate.fixed_seconds + max(like["seconds"] - rate.fixed_seconds, 0.0) * source / before
        return Estimate(seconds, round(disk_bytes(like) * source / before), "like before")
    seconds = rate.fixed_seconds + rate.seconds_per_mb * source / 1e6
    return Estimate(seconds, round(rate.fixed_disk_bytes + rate.disk * source), "typical")


def _of_model(step: Step, model: ModelConfig | None, store: Path, machine: Machine | None) -> Estimate:
    """A stage whose time and disk go by the size of the model."""
    fixed = TYPICAL[step.name].fixed_seconds
    parameters = model.parameters() if model else 0
    if step.name != "train":
        return Estimate(fixed + parameters / 1e8, 4 * parameters, "formula")
    settings: Any = step.settings
    kept = settings.keep_last + settings.keep_best + 1  # one more is being written
    if settings.keep_every and settings.planned_steps:
        kept += settings.planned_steps // settings.keep_every
    copies = 3 * kept + 1  # a checkpoint is the weights and two moments
    disk = 4 * parameters * copies
    pace = pace_of(settings, model, store, machine)
    if settings.budget:
        seconds = pace.train_seconds(settings, model) if model else fixed + settings.budget
        return Estimate(seconds, disk, "budget, trial" if pace.basis == "trial" else "budget")
    seconds = pace.train_seconds(settings, model) if model else fixed
    return Estimate(seconds, disk, "trial" if pace.basis == "trial" else f"formula, {pace.basis}")


def planned_model(steps: Sequence[Step]) -> ModelConfig | None:
    """The model that a recipe will make or go on with; None when it has none, or none fits."""
    return derived_model(steps)[0]


def derived_model(steps: Sequence[Step]) -> tuple[ModelConfig | None, tuple[Derivation, ...]]:
    """The model that a recipe will make or go on with, and what followed from its dial, if it has one.

    Until the tokenizer is known, its vocabulary is TYPICAL_VOCABULARY; a new model that does not fit that is not planned.

    Raises:
        InputError: a model that it begins with cannot be read.
        MismatchError: it is none that is computed here, or what is asked for does not go with it.
    """
    named = {step.name: step for step in steps}
    if "initialize" not in named:
        return None, ()
    start: Any = named["initialize"].settings
    if named["initialize"].finished and not isinstance(start, RandomWeights):
        shape = named["initialize"].manifest()["counts"].get("model")
        if shape:
            return ModelConfig.model_validate(shape), ()
    tokenizer = named["tokenizer"]
    if tokenizer.finished:
        tokens = tokenizer.manifest()["counts"].get("vocab_size", TYPICAL_VOCABULARY)
    else:
        tokens = getattr(tokenizer.settings, "vocab_size", TYPICAL_VOCABULARY)
    if not isinstance(start, RandomWeights):
        return planned(start, tokens), ()
    try:
        return start.derive(tokens)
    except MismatchError:
        return None, ()


def newest(store: Path, stage: str) -> dict[str, Any] | None:
    """The manifest of the stage that finished last in this store."""
    found = [path for path in store.glob(f"{stage}-*/manifest.json") if not path.parent.name.endswith(".partial")]
    return read_json(max(found, key=lambda path: path.stat().st_mtime_ns)) if found else None


def disk_bytes(manifest: dict[str, Any]) -> int:
    """Bytes of a finished stage's files."""
    return sum(file["bytes"] for file in manifest["files"].values())

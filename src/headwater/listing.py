"""What there is to choose from, and whether this machine can do it: behind `headwater list` and `headwater doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import psutil
from ruamel.yaml import YAML

from headwater.core import config, hardware
from headwater.core.config import nearest
from headwater.core.errors import HeadwaterError, InputError
from headwater.core.store import read_json
from headwater.core.units import format_bytes, format_count
from headwater.documents.clean import Clean
from headwater.documents.cleaning import presets
from headwater.documents.read import Read
from headwater.evaluation import tasks
from headwater.flow import FLOW, REPORT
from headwater.model.memory import (
    ServingPrecision,
    Sharding,
    TrainingPrecision,
    cache_bytes,
    serving_bytes,
    training_memory,
)
from headwater.model.presets import PRESETS
from headwater.recipe import Recipe, shipped

Rows = list[tuple[str, ...]]


def table_of(what: str) -> tuple[tuple[str, ...], Rows]:
    """The header and the rows of one list.

    Raises:
        InputError: there is no such list.
    """
    tables = {"recipes": _recipes, "stages": _stages, "sources": _sources, "steps": _steps, "presets": _presets}
    tables |= {"models": _models, "tasks": _tasks, "runs": _runs}
    if what not in tables:
        raise InputError(f"no such list '{what}'{nearest(what, tables)}", hint=f"one of: {', '.join(tables)}")
    return tables[what]()


def _recipes() -> tuple[tuple[str, ...], Rows]:
    texts = {name: YAML(typ="safe").load(path.read_text(encoding="utf-8")) for name, path in shipped().items()}
    return ("recipe", "about"), [(name, " ".join(str(text.get("about", "")).split())) for name, text in texts.items()]


def _stages() -> tuple[tuple[str, ...], Rows]:
    fields = Recipe.model_fields
    return ("stage", "about"), [(stage.name, fields[stage.name].description or "") for stage in (*FLOW, REPORT)]


def _sources() -> tuple[tuple[str, ...], Rows]:
    return ("use", "about"), _choices(Read, "sources")


def _steps() -> tuple[tuple[str, ...], Rows]:
    return ("use", "about"), _choices(Clean, "steps")


def _presets() -> tuple[tuple[str, ...], Rows]:
    rows = []
    for name in presets.shipped():
        preset = presets.read(name)
        rows.append((name, preset["about"], ", ".join(step["use"] for step in preset["steps"])))
    return ("preset", "about", "steps"), rows


def _tasks() -> tuple[tuple[str, ...], Rows]:
    """Every shipped task and group: kind, examples, from which size of models on, and what it is about."""
    rows: Rows = []
    for name, task in tasks.shipped().items():
        if isinstance(task, tasks.Group):
            rows.append((name, "group", "", "", f"{task.about} ({len(task.members)} tasks)"))
        else:
            rows.append((name, task.kind.replace("_", " "), str(task.shots), format_count(task.needs), task.about))
    return ("task", "kind", ">examples", ">parameters", "about"), rows


MODELS_NOTE = """\
shape: layers x hidden_size; tokens: of context; FLOPs: to train on one token at the full context;
sizes are in KiB, MiB, GiB and TiB.
train: weights, gradients and AdamW in fp32, on one device, and on each of 8 with all of it
sharded (FSDP); activations come on top. serve: weights in bf16, and in 4 bits; cache: keys and
values of one full context in bf16. More formats and shardings: headwater list models --json.
To use one:
initialize: {use: random, model: {preset: llama-14m, num_layers: 8}}"""


def _models() -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    for facts in model_facts():
        train, serve = facts["training_bytes"], facts["serving_bytes"]
        sizes = [train["fp32 none"], train["fp32 weights / 8"], serve["bf16"], serve["int4"], facts["cache_bytes"]]
        rows.append(
            (
                facts["model"],
                f"{facts['parameters']:,}",
                f"{facts['num_layers']}x{facts['hidden_size']}",
                str(facts["context_length"]),
                format_count(facts["flops_per_token"]),
                *(format_bytes(size).removesuffix("iB") for size in sizes),
            )
        )
    header = ("model", ">parameters", ">shape", ">tokens", ">FLOPs", ">train", ">of 8", ">serve", ">4 bit", ">cache")
    return header, rows


def model_facts() -> list[dict[str, Any]]:
    """Every model with a name: shape, parameters, FLOPs, and memory by number format and sharding [bytes]."""
    facts = []
    for name, preset in PRESETS.items():
        config = preset.config()
        training = {
            f"{precision} {sharding}{'' if sharding == 'none' else ' / 8'}": round(
                training_memory(config, precision, sharding=sharding, devices=8).total
            )
            for precision in get_args(TrainingPrecision)
            for sharding in get_args(Sharding)
        }
        facts.append(
            {
                "model": name,
                "family": config.family,
                "parameters": config.parameters(),
                "flops_per_token": config.flops_per_token(config.context_length),
                "training_bytes": training,
                "serving_bytes": {kind: round(serving_bytes(config, kind)) for kind in get_args(ServingPrecision)},
                "cache_bytes": cache_bytes(config, config.context_length),
                **config.model_dump(mode="json"),
            }
        )
    return facts


def _choices(kind: type[config.Config], field: str) -> Rows:
    members = config.members(kind.model_fields[field].rebuild_annotation())
    return [(config.tag(member) or "", (member.__doc__ or "").splitlines()[0]) for member in members]


def _runs() -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    for path in sorted(Path(hardware.Machine().runs).glob("*/stages.json")):
        try:
            stages = read_json(path)
        except HeadwaterError:
            continue
        report = path.parent / "report.html"
        rows.append((path.parent.name, ", ".join(stages), str(report) if report.exists() else "-"))
    return ("run", "stages", "report"), rows


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on this machine."""

    what: str
    found: str
    ok: bool
    hint: str
    needed: bool = True
    """Whether Headwater cannot work without it."""


def examine_machine() -> list[Finding]:
    """Look at everything that a run depends on."""
    return list(_findings())


def _findings() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding("Python", version, sys.version_info >= (3, 11), "Headwater needs Python 3.11 or newer")
    for name in ("pyarrow", "numba", "tokenizers", "fasttext-predict", "torch", "altair", "vl-convert-python"):
        try:
            yield Finding(name, importlib.metadata.version(name), True, "")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", False, f"pip install {name}")
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    hint = "without one training runs uncompiled, about half as fast; on Debian: apt-get install g++"
    yield Finding("C++ compiler", compiler or "missing", compiler is not None, hint, needed=False)
    header = Path(sys.base_prefix, "include", f"python{sys.version_info.major}.{sys.version_info.minor}", "Python.h")
    yield Finding(
        "Python headers", str(header), header.exists(), "torch.compile may need them: python3-dev", needed=False
    )
    memory = psutil.virtual_memory()
    yield Finding("processor", f"{hardware.processor_name()}, {hardware.core_count()} cores", True, "")
    found = f"{format_bytes(memory.available)} free of {format_bytes(memory.total)}"
    yield Finding("memory", found, memory.available > 2 * 2**30, "the demo needs about 2 GiB", needed=False)
    free = hardware.free_disk_bytes(Path(hardware.Machine().store))
    yield Finding("disk", f"{format_bytes(free)} free", free > 2**30, "the demo needs about 1 GiB", needed=False)
    yield _gpu()


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", "unknown without torch", True, "", needed=False)
    torch: Any = importlib.import_module("torch")
    found = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none; training runs on the processor"
    return Finding("GPU", found, True, "", needed=False)

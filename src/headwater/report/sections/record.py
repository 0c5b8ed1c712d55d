"""Sections for the record: warnings, settings, versions, hardware, files, how to do it again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML

from headwater.core.units import format_bytes
from headwater.report.blocks import Block, Code, Details, Notice, Table, Text, plural
from headwater.report.evidence import Evidence


def warnings(evidence: Evidence) -> Iterator[Block]:
    """What the stages found odd."""
    if evidence.warnings:
        yield Notice("Noted while the stages ran", [f"{stage}: {text}" for stage, text in evidence.warnings])
    else:
        yield Text("No stage warned of anything.")


def everything(evidence: Evidence) -> Iterator[Block]:
    """Every setting, version and machine, folded away."""
    for name, manifest in evidence.manifests.items():
        rows = [[setting, value] for setting, value in _flat(manifest["settings"])]
        made = f"version {manifest['version']} of the stage, fingerprint {manifest['fingerprint'][:16]}, begun {manifest['started']}"
        blocks: list[Block] = [Text(made)]
        if rows:
            blocks.append(Table(f"Settings of {name}", ["setting", "value"], rows, 2))
        yield Details(name, blocks)
    for title, key in (("Versions", "versions"), ("Hardware", "hardware"), ("Machine settings", "machine")):
        kinds: dict[str, list[str]] = {}
        for name, manifest in evidence.manifests.items():
            kinds.setdefault(json.dumps(manifest[key], sort_keys=True), []).append(name)
        tables = [
            Table(
                "All stages" if len(kinds) == 1 else ", ".join(stages), ["", "value"], list(_flat(json.loads(kind))), 2
            )
            for kind, stages in kinds.items()
        ]
        yield Details(title, tables)


def _flat(value: Any, path: str = "") -> Iterator[list[str]]:
    """Name every plain value inside nested settings, as in `steps.0.min_words`."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{index}" if path else str(index))
    elif path:
        yield [path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]


def files(evidence: Evidence) -> Iterator[Block]:
    """Every file of every stage with its size and hash, folded away."""
    for name, manifest in evidence.manifests.items():
        rows = [[file, found["sha256"], format_bytes(found["bytes"])] for file, found in manifest["files"].items()]
        size = format_bytes(sum(found["bytes"] for found in manifest["files"].values()))
        summary = f"{evidence.folders[name].name}: {plural(len(rows), 'file')}, {size}"
        yield Details(summary, [Table(f"Files of {name}", ["file", "SHA-256", "size"], rows, 2)] if rows else [])


def commands(evidence: Evidence) -> Iterator[Block]:
    """The recipe with every setting written out, and the commands."""
    recipe = {name: manifest["settings"] for name, manifest in evidence.manifests.items()}
    last = list(evidence.manifests.values())[-1]
    commit = f", commit {last['commit']}" if last["commit"] else ""
    yield Text(
        f"Save the recipe below as recipe.yaml. With Headwater {last['versions']['headwater']}{commit} and the same input files, "
        "every stage gets the same fingerprint, and so the same folder name, as in Files and hashes."
    )
    yield Code("headwater check recipe.yaml\nheadwater plan recipe.yaml\nheadwater run recipe.yaml", "console")
    if "export" in evidence.manifests:
        yield Text("To use the model from Python with transformers:")
        load = f'pipeline("text-generation", model="{evidence.machine.runs}/recipe/model")'
        lines = (
            "from transformers import pipeline",
            "",
            f"write = {load}",
            'print(write("The ")[0]["generated_text"])',
        )
        yield Code("\n".join(lines), "python")
    text = io.StringIO()
    YAML().dump(recipe, text)
    yield Details("The recipe with every setting written out", [Code(text.getvalue(), "yaml")])

"""Where a document is: every stage, shard and checkpoint of a run that holds it; behind `headwater forget`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from headwater.core.errors import InputError
from headwater.core.store import atomic_path, read_json
from headwater.documents.document import read_batches, shards_in, source_of
from headwater.documents.inspect import stages_at
from headwater.documents.sources.removal import Search
from headwater.tokens.loader import Batches
from headwater.tokens.shards import HELD_OUT, TRAINING
from headwater.training.config import Train

PARTS = ("documents", "held_out", "dropped")
"""Folders of shards in a stage of documents."""


@dataclass(frozen=True)
class Holding:
    """A file or folder of a run that holds some of the documents, or was made from them."""

    stage: str
    path: Path
    documents: int
    how: str
    """What it has of them, in words."""


@dataclass(frozen=True)
class Ledger:
    """What a run holds of some documents.

    Attributes:
        ids: their ids.
        copies: ids of near-duplicates that the stage dedup dropped in their favour: nearly the same text.
        holdings: where they are, in the order of the flow.
    """

    ids: frozenset[str]
    copies: frozenset[str]
    holdings: tuple[Holding, ...]


def trace(run: Path, search: Search) -> Ledger:
    """Find everything in a run that holds some documents, or was made from them.

    Args:
        run: the folder `runs/<recipe>` with its `stages`.
        search: which documents.

    Raises:
        InputError: there is no such run, nothing is asked for, or no document fits.
    """
    if not search.to_json():
        hint = "give --url, --source, --id or --meta"
        raise InputError("which documents are meant?", place="headwater forget", hint=hint)
    stages = stages_at(run)
    ids: set[str] = set()
    copies: set[str] = set()
    holdings: list[Holding] = []
    for stage, folder in stages.items():
        for path, found, as_copies in _found(folder, search, ids):
            ids |= found
            copies |= as_copies
            part = path.parent.name
            how = {"documents": "kept", "held_out": "held out", "dropped": "dropped, with their text"}.get(part, part)
            if found:
                holdings.append(Holding(stage, path, len(found), how))
    if not ids:
        hint = "headwater inspect lists sources and documents"
        if search.meta:
            hint += " with their meta; fields of records are kept there when `fields` has `meta: [...]`"
        given = {**search.to_json(), "meta": None} | dict(search.meta)
        asked = " and ".join(f"{name}={value}" for name, value in given.items() if value)
        raise InputError(f"no document fits {asked}", place=str(run), hint=hint)
    named = {path.name: path.resolve() for path in (run / "stages").iterdir()} if (run / "stages").is_dir() else {}
    holdings += _derived(named, ids)
    return Ledger(frozenset(ids), frozenset(copies - ids), tuple(holdings))


def add_to_list(path: Path, search: Search, ledger: Ledger, copies: bool) -> int:
    """Append documents to a removal list, which `read.forget` names; returns how many lines it has now.

    The list has one JSON object on each line: an id for each document there is, and what was searched for, so that
    documents that come later are meant too.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    ids = sorted(ledger.ids | (ledger.copies if copies else frozenset()))
    wanted = [search.to_json(), *({"id": identifier} for identifier in ids)]
    new = [line for line in map(orjson.dumps, wanted) if line not in set(lines)]
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in (*lines, *new)))
    return len(lines) + len(new)


def _found(folder: Path, search: Search, known: set[str]) -> Iterator[tuple[Path, set[str], set[str]]]:
    """Each shard of a stage, the ids in it that are meant, and those that were dropped as copies of such."""
    for part in PARTS:
        for shard in shards_in(folder / part):
            if search.source is not None and source_of(shard) != search.source and not known:
                continue
            columns = ["id", "source", "url", "meta"] + (["rule", "detail"] if part == "dropped" else [])
            found, copies = set(), set()
            for batch in read_batches(shard, columns):
                for row in batch.to_pylist():
                    if row["id"] in known or search.fits(row):
                        found.add(row["id"])
                    elif row.get("detail") in known and re.search("duplicate|exact", row["rule"]):
                        copies.add(row["id"])
            yield shard, found, copies


def _derived(stages: Mapping[str, Path], ids: set[str]) -> Iterator[Holding]:
    """What was made from the documents: tokenizer, token shards, checkpoints, and what came of those."""
    encode, train = stages.get("encode"), stages.get("train")
    if "tokenizer" in stages:
        yield Holding("tokenizer", stages["tokenizer"], len(ids), "its merges may have been counted on them")
    places: dict[str, list[int]] = {}
    if encode is not None:
        for split in (TRAINING, HELD_OUT):
            for shard, source, indexes in _in_tokens(encode / split, ids):
                yield Holding("encode", shard, len(indexes), f"their tokens, {split.replace('_', ' ')}")
                if split == TRAINING:
                    places.setdefault(source, []).extend(indexes)
    if train is None or encode is None or not places:
        return
    seen = _first_steps(train, encode, places)
    for checkpoint, step in _checkpoints(train):
        count = sum(first < step for first in seen)
        if count:
            yield Holding("train", checkpoint, count, f"trained on them, first in step {min(seen) + 1:,} of {step:,}")
    for name in ("evaluate", "export", "report"):
        if name in stages and seen:
            yield Holding(name, stages[name], len(seen), "made from a model that was trained on them")


def _in_tokens(folder: Path, ids: set[str]) -> Iterator[tuple[Path, str, list[int]]]:
    """Token shards that hold some ids: the shard, its source, and the documents' numbers within the source."""
    before: Counter[str] = Counter()
    for shard in sorted(folder.glob("*.parquet")):
        source = source_of(shard)
        column = pq.read_table(shard, columns=["id"]).column("id").to_pylist()
        indexes = [before[source] + number for number, identifier in enumerate(column) if identifier in ids]
        before[source] += len(column)
        if indexes:
            yield shard, source, indexes


def _first_steps(train: Path, encode: Path, places: Mapping[str, list[int]]) -> list[int]:
    """The first step, counted from 0, that saw each document; of those that were seen at all."""
    manifest = read_json(train / "manifest.json")
    settings = Train.model_validate(manifest["settings"])
    batches = Batches(encode, settings.mixture, settings.sequence_length, settings.batch_sequences, settings.seed)
    steps = manifest["counts"]["steps"]
    found = (batches.steps_with(source, index, steps) for source, indexes in places.items() for index in indexes)
    return [steps_with[0] for steps_with in found if steps_with]


def _checkpoints(train: Path) -> Iterator[tuple[Path, int]]:
    """Checkpoints of a training, and after how many steps each was written."""
    for folder in sorted((train / "checkpoints").glob("step-*")):
        yield folder, int(folder.name.removeprefix("step-"))
    yield train / "checkpoint", read_json(train / "manifest.json")["counts"]["steps"]

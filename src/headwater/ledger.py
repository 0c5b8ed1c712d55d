"""Where a document is: every stage, shard and checkpoint of a run that holds it; behind `headwater forget`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from headwater.core.errors import InputError
from headwater.core.store import atomic_path, read_json
from headwater.documents.document import read_batches, shards_in, source_of
from headwater.documents.inspect import stages_at
from headwater.documents.sources.removal import Search
from headwater.tokens.shards import HELD_OUT, TRAINING
from headwater.training.config import Train
from headwater.training.phases import PhasedBatches

PARTS = ("documents", "held_out", "dropped")
"""Folders of shards in a stage of documents."""
DOCUMENT_STAGES = ("read", "clean", "dedup", "decontaminate", "split")
ORDER = (*DOCUMENT_STAGES, "tokenizer", "encode", "index", "train", "evaluate", "memorization", "export", "report")
"""Stages that can hold something of a document, in the order of the flow."""


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
    """Find everything that holds some documents of a run, or was made from them: in the run and in its whole store.

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
    for folder in stages.values():
        for found, as_copies in _meant(folder, search, ids):
            ids |= found
            copies |= as_copies
    if not ids:
        given = search.to_json() | dict(search.meta)
        told = " and ".join(f"{name}={value}" for name, value in given.items() if name != "meta")
        hint = "headwater inspect lists sources and documents"
        if search.meta:
            hint += " with their meta; fields of records are kept there when `fields` has `meta: [...]`"
        raise InputError(f"no document fits {told}", place=str(run), hint=hint)
    return Ledger(frozenset(ids), frozenset(copies - ids), tuple(_holdings(_results(stages), ids)))


def add_to_list(path: Path, search: Search, ledger: Ledger, copies: bool) -> int:
    """Append documents to a removal list, which `read.forget` names; returns how many lines it has now.

    The list has one JSON object on each line: an id for each document there is, and what was searched for, so that
    documents that come later are meant too.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    known = set(lines)
    ids = sorted(ledger.ids | (ledger.copies if copies else frozenset()))
    wanted = [search.to_json(), *({"id": identifier} for identifier in ids)]
    new = [line for line in map(orjson.dumps, wanted) if line not in known]
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in (*lines, *new)))
    return len(lines) + len(new)


def _meant(folder: Path, search: Search, known: set[str]) -> Iterator[tuple[set[str], set[str]]]:
    """For each shard of a stage: the ids in it that are meant, and those that were dropped as copies of such."""
    for part in PARTS:
        for shard in shards_in(folder / part):
            columns = ["id", "source", "url", "meta"] + (["rule", "detail"] if part == "dropped" else [])
            found, copies = set(), set()
            for batch in read_batches(shard, columns):
                for row in batch.to_pylist():
                    if row["id"] in known or search.fits(row):
                        found.add(row["id"])
                    elif row.get("detail") in known and re.search("duplicate|exact", row["rule"]):
                        copies.add(row["id"])
            yield found, copies


def _results(stages: Mapping[str, Path]) -> list[tuple[str, Path]]:
    """Stage and folder of everything in the stores of a run, finished or not, in the order of the flow."""
    stores = {folder.resolve().parent for folder in stages.values()}
    found = [
        (folder.name.partition("-")[0], folder)
        for store in stores
        for folder in store.iterdir()
        if folder.is_dir() and ((folder / "manifest.json").is_file() or folder.name.endswith(".partial"))
    ]
    known = [(stage, folder) for stage, folder in found if stage in ORDER]
    return sorted(known, key=lambda item: (ORDER.index(item[0]), item[1].name)) or list(stages.items())


def _holdings(results: Sequence[tuple[str, Path]], ids: set[str]) -> Iterator[Holding]:
    """What holds the documents, and what was made from what does."""
    touched: set[str] = set()  # names of folders
    places: dict[str, dict[str, list[int]]] = {}  # folder of token shards -> source -> numbers of documents
    for stage, folder in results:
        before = _inputs(folder)
        found: list[Holding] = []
        if stage in DOCUMENT_STAGES:
            found += _in_documents(stage, folder, ids)
        elif stage == "encode":
            found += _in_tokens(folder, ids, places.setdefault(folder.name, {}))
        elif stage == "index":
            found += _in_index(folder, ids)
        elif stage == "train":
            encode = next((folder.with_name(name) for name in before.values() if places.get(name)), None)
            found += _in_training(folder, encode, places.get(encode.name, {}) if encode else {})
        elif touched & set(before.values()):
            how = {
                "tokenizer": "its merges may have been counted on them",
                "evaluate": "made from a model that was trained on them",
                "memorization": "made from a model that was trained on them, and may quote them",
                "export": "a model that was trained on them",
                "report": "may quote them",
            }
            # a tokenizer or report has the documents themselves before it, the others only through training
            if stage in ("tokenizer", "report") or any(name in touched for name in before.values() if "train-" in name):
                found.append(Holding(stage, folder, len(ids), how.get(stage, "made from them")))
        if found:
            touched.add(folder.name)
        yield from found


def _inputs(folder: Path) -> dict[str, str]:
    """Role -> name of the folder, of a finished stage."""
    if not (folder / "manifest.json").is_file():
        return {}
    return {role: given["folder"] for role, given in read_json(folder / "manifest.json")["inputs"].items()}


def _in_documents(stage: str, folder: Path, ids: set[str]) -> Iterator[Holding]:
    """Shards of a stage of documents, and what else it wrote, that hold some ids."""
    told = {"documents": "kept", "held_out": "held out", "dropped": "dropped, with their text"}
    unfinished = ", unfinished" if folder.name.endswith(".partial") else ""
    for part in (*PARTS, *(f"parts/{part}" for part in PARTS)):
        for shard in shards_in(folder / part):
            count = sum(name in ids for batch in read_batches(shard, ["id"]) for name in batch.to_pydict()["id"])
            if count:
                yield Holding(stage, shard, count, told[part.removeprefix("parts/")] + unfinished)
    report = folder / "contaminated.jsonl"
    if report.is_file():
        text = report.read_text(encoding="utf-8", errors="replace")
        if count := sum(name in text for name in ids):
            yield Holding(stage, report, count, "quotes what they share with benchmarks")


def _in_training(train: Path, encode: Path | None, places: Mapping[str, list[int]]) -> Iterator[Holding]:
    """Checkpoints of a training that came after a step which saw one of the documents."""
    if train.name.endswith(".partial"):
        yield Holding("train", train, 0, "unfinished: may have been trained on them")
    elif encode is not None and places:
        seen = _first_steps(train, encode, places)
        for checkpoint, step in _checkpoints(train):
            count = sum(first < step for first in seen)
            if count:
                how = f"trained on them, first in step {min(seen) + 1:,} of {step:,}"
                yield Holding("train", checkpoint, count, how)


def _in_tokens(encode: Path, ids: set[str], places: dict[str, list[int]]) -> Iterator[Holding]:
    """Token shards that hold some ids; the numbers of the training documents within their source go to `places`."""
    for split in (TRAINING, HELD_OUT):
        before: Counter[str] = Counter()
        for shard in sorted((encode / split).glob("*.parquet")):
            source = source_of(shard)
            column = pq.read_table(shard, columns=["id"]).column("id").to_pylist()
            indexes = [before[source] + number for number, identifier in enumerate(column) if identifier in ids]
            before[source] += len(column)
            if not indexes:
                continue
            if split == TRAINING:
                places.setdefault(source, []).extend(indexes)
            yield Holding("encode", shard, len(indexes), f"their tokens, {split.replace('_', ' ')}")


def _in_index(folder: Path, ids: set[str]) -> Iterator[Holding]:
    """Parts of an index of training documents that hold some ids."""
    for part in sorted(folder.glob("*.parquet")):
        count = sum(name in ids for name in pq.read_table(part, columns=["id"]).column("id").to_pylist())
        if count:
            yield Holding("index", part.with_suffix(".text"), count, "their text, to be searched")


def _first_steps(train: Path, encode: Path, places: Mapping[str, list[int]]) -> list[int]:
    """The first step, counted from 0, that saw each document; of those that were seen at all."""
    manifest = read_json(train / "manifest.json")
    settings = Train.model_validate(manifest["settings"])
    batches = PhasedBatches(encode, settings)
    steps = manifest["counts"]["steps"]
    found = (batches.steps_with(source, index, steps) for source, indexes in places.items() for index in indexes)
    return [steps_with[0] for steps_with in found if steps_with]


def _checkpoints(train: Path) -> Iterator[tuple[Path, int]]:
    """Checkpoints of a training, and after how many steps each was written."""
    for folder in sorted((train / "checkpoints").glob("step-*")):
        yield folder, int(folder.name.removeprefix("step-"))
    yield train / "checkpoint", read_json(train / "manifest.json")["counts"]["steps"]

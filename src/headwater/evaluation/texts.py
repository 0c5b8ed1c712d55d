"""How well a model predicts texts, by source, beside general compressors on the same bytes."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from headwater.core.errors import InputError
from headwater.core.log import Progress
from headwater.evaluation.opening import first_token
from headwater.evaluation.records import Found, read
from headwater.evaluation.score import Score, bits_per_byte, document_losses, total
from headwater.model.transformer import Transformer
from headwater.tokens.codec import Codec
from headwater.tokens.loader import held_out_order
from headwater.tokens.shards import HELD_OUT, TokenFolder, TokenSource

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    "zstd": lambda data: zstandard.compress(data, 22),
}
"""General compressors at their strongest, as a baseline: each sees a source's scored text as one file."""
LONGEST_DOCUMENT = 32_768
"""[bytes] A held-out document is scored up to here, as in the stage evaluate."""
PLAIN = (".txt", ".md", ".rst", ".text")
"""Files that are one document each."""


class Sample(NamedTuple):
    """The documents of a source that are scored."""

    texts: list[str]
    documents: list[np.ndarray]
    """Their tokens, separator first."""

    @property
    def tokens(self) -> int:
        """Tokens that are predicted."""
        return sum(len(document) - 1 for document in self.documents)


def held_out_samples(folder: TokenFolder, codec: Codec, max_bytes: int, max_document_bytes: int) -> dict[str, Sample]:
    """Held-out documents of each source that has any, drawn at random, the same in every run."""
    found = {
        name: _held_out(folder.source(name, HELD_OUT), codec, max_bytes, max_document_bytes) for name in folder.sources
    }
    return {name: sample for name, sample in found.items() if sample}


def _held_out(source: TokenSource, codec: Codec, max_bytes: int, max_document_bytes: int) -> Sample | None:
    """Draw documents of a source, as many as fit in `max_bytes` but at least one; None when there are none."""
    texts: list[str] = []
    documents: list[np.ndarray] = []
    size = 0
    for index in held_out_order(source).tolist():
        tokens = source.document(index)
        whole = codec.decode(tokens[1:])
        text = whole.encode()[: min(max_document_bytes, max_bytes)].decode(errors="ignore")
        length = len(text.encode())
        if size + length > max_bytes:
            break
        if text:
            texts.append(text)
            documents.append(tokens if text == whole else np.concatenate([tokens[:1], codec.encode([text])[0]]))
            size += length
    return Sample(texts, documents) if texts else None


def samples_of_files(
    files: Sequence[Path], codec: Codec, max_bytes: int | None = None, field: str = "text", by: str = "source"
) -> dict[str, Sample]:
    """Documents of files, by source: what a record says in its field `by`, else the name of the file.

    Args:
        files: plain text, each a document; or JSON Lines, Parquet, CSV, Arrow, with records.
        codec: the tokenizer.
        max_bytes: at most so much of each source, its first documents, but at least a character; None: all.
        field: where the text of a record is.
        by: where the source or domain of a record is.

    Raises:
        InputError: a file cannot be read, or holds no text.
    """
    texts: dict[str, list[str]] = {}
    for path in files:
        for source, text in _texts_of(path, field, by):
            texts.setdefault(source, []).append(text)
    first = np.array([first_token(codec)], np.int64)
    samples = {}
    for source, of in texts.items():
        kept = _first_of(of, max_bytes)
        samples[source] = Sample(kept, [np.concatenate([first, ids]) for ids in codec.encode(kept)])
    return samples


def _texts_of(path: Path, field: str, by: str) -> Iterable[tuple[str, str]]:
    name = path.name.partition(".")[0]
    found = []
    if path.suffix in PLAIN:
        try:
            found = [(name, path.read_text(encoding="utf-8"))]
        except (OSError, UnicodeDecodeError) as error:
            problem = (error.strerror or "cannot be read") if isinstance(error, OSError) else "is not UTF-8 text"
            raise InputError(problem, place=str(path), hint="give text, JSON Lines or Parquet") from None
    else:
        for number, record in enumerate(read(Found(str(path), path)), 1):
            if not isinstance(record.get(field), str):
                hint = f"it has {', '.join(map(str, record))}; name one with --field"
                raise InputError(f"has no text in '{field}'", place=f"{path}, record {number}", hint=hint)
            found.append((str(record.get(by) or name), record[field]))
    found = [(source, text) for source, text in found if text]
    if not found:
        raise InputError("holds no text", place=str(path), hint="give a file with documents")
    return found


def _first_of(texts: list[str], max_bytes: int | None) -> list[str]:
    if max_bytes is None:
        return texts
    sizes = np.cumsum([len(text.encode()) for text in texts])
    kept = int(np.searchsorted(sizes, max_bytes, side="right"))
    return texts[:kept] if kept else [texts[0].encode()[:max_bytes].decode(errors="ignore") or texts[0][0]]


def score_samples(
    model: Transformer,
    samples: Mapping[str, Sample],
    bar: Progress,
    *,
    context_length: int | None = None,
    overlap: float = 0.25,
) -> dict[str, Score]:
    """Bits per byte and perplexity of each source, and in `total`.

    Args:
        model: the model.
        samples: documents by source.
        bar: told how many tokens are scored.
        context_length: tokens shown at once; by default all that the model can attend to.
        overlap: share of the context that is shown again when a document is longer.
    """
    scores: dict[str, Score] = {}
    for source, sample in samples.items():
        losses = document_losses(
            model, sample.documents, context_length=context_length, overlap=overlap, advance=bar.advance
        )
        sizes = np.array([len(text.encode()) for text in sample.texts])
        tokens = np.array([len(document) - 1 for document in sample.documents])
        scores[source] = bits_per_byte(losses, sizes, tokens)
    return scores | {"total": total(scores)} if scores else {}


def compressed(samples: Mapping[str, Sample], compress: Callable[[bytes], bytes]) -> dict[str, dict[str, Any]]:
    """Bits per byte of a general compressor on the same text."""
    sizes = {name: _sizes("".join(sample.texts).encode(), compress) for name, sample in samples.items()}
    sizes["total"] = tuple(np.sum(list(sizes.values()), axis=0).tolist())
    return {name: {"value": 8 * after / before, "bytes": before} for name, (before, after) in sizes.items()}


def _sizes(data: bytes, compress: Callable[[bytes], bytes]) -> tuple[int, int]:
    return len(data), len(compress(data))

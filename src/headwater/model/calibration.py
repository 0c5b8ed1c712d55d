"""A text on which models are measured, before and after they are changed. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from pydantic import Field

from headwater.core.config import Config
from headwater.core.errors import EmptyResultError, InputError
from headwater.core.units import Tokens
from headwater.documents.document import read_batches, shards_in, source_of

ROWS_TOKENS = 2048
"""Tokens of the rows that are measured at a time: enough for large matrix products, small in memory."""


class Calibration(Config):
    """The text on which models are measured before and after an operation."""

    path: Path | None = None
    """A text file of one's own. By default the run's training documents, as much of each source: held-out ones stay unseen."""
    tokens: Tokens = Field(default=8192, ge=64)
    """How much of it."""
    sequence_length: int = Field(default=256, ge=2)
    """Tokens of a row; where the model's context is shorter, that."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, str]:
        """The content of the file, if it is one.

        Raises:
            InputError: there is none.
        """
        if self.path is None:
            return {}
        path = self.path.expanduser()
        if not path.is_file():
            raise InputError("there is no such file", place=str(path), hint="check calibration.path")
        return {"calibration": hash_file(path)}

    def texts(self, documents: Path | None, tokenizer: tokenizers.Tokenizer) -> dict[str, list[str]]:
        """Source -> texts that have so many tokens in all; the last text of each source is cut to fit.

        Args:
            documents: a finished stage of documents.
            tokenizer: counts the tokens.

        Raises:
            EmptyResultError: there is no text.
        """
        found = {"calibration": _lines(self.path.expanduser())} if self.path else _documents(documents)
        texts = {name: list(_cut(given, self.tokens // len(found), tokenizer)) for name, given in found.items()}
        if not any(map(len, texts.values())):
            place = str(self.path or "initialize.calibration")
            raise EmptyResultError("there is no text to measure the model on", place=place, hint="set calibration.path")
        return texts


@dataclass(frozen=True)
class Rows:
    """Texts as rows of tokens, each text begun by a separator.

    Attributes:
        tokens: [rows, length] int64; the last row is filled up.
        targets: the token after each [rows, length] int64.
        documents: number of each token's text, rising [rows, length] int32.
        counted: targets that are not filling, from the first on.
        bytes: size of the texts [UTF-8 bytes].
    """

    tokens: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    counted: int
    bytes: int

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Tokens, targets and documents, some rows at a time."""
        size = max(ROWS_TOKENS // self.tokens.shape[1], 1)
        for begin in range(0, len(self.tokens), size):
            part = slice(begin, begin + size)
            yield self.tokens[part], self.targets[part], self.documents[part]


def rows_of(texts: list[str], tokenizer: tokenizers.Tokenizer, separator: int, length: int) -> Rows:
    """Put texts into rows.

    Args:
        texts: what to measure on, at least one token of it.
        tokenizer: encodes them.
        separator: id of the token to set before each.
        length: tokens of a row.
    """
    ids = [[separator, *encoded.ids] for encoded in tokenizer.encode_batch(texts, add_special_tokens=False)]
    stream = np.concatenate([np.array(part, np.int64) for part in ids])
    numbers = np.repeat(np.arange(len(ids), dtype=np.int32), [len(part) for part in ids])
    counted = len(stream) - 1
    filled = -(-counted // length) * length
    tokens, targets, documents = (
        np.pad(part, (0, filled - counted), mode="edge").reshape(-1, length)
        for part in (stream[:-1], stream[1:], numbers[:-1])
    )
    return Rows(tokens, targets, documents, counted, sum(len(text.encode()) for text in texts))


def _lines(path: Path) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", place=str(path), hint="give a text file in UTF-8") from None


def _documents(folder: Path | None) -> dict[str, Iterator[str]]:
    if folder is None:
        hint = "set calibration.path to a text file"
        raise EmptyResultError("there are no documents to measure the model on", place="initialize", hint=hint)
    shards: dict[str, list[Path]] = {}
    for shard in shards_in(folder / "documents"):
        shards.setdefault(source_of(shard), []).append(shard)
    return {name: _texts(paths) for name, paths in shards.items()} or {"none": iter(())}


def _texts(shards: list[Path]) -> Iterator[str]:
    for shard in shards:
        for batch in read_batches(shard, ["text"]):
            yield from batch.column("text").to_pylist()


def _cut(texts: Iterator[str], tokens: int, tokenizer: tokenizers.Tokenizer) -> Iterator[str]:
    """Texts until there are so many tokens, counting separators."""
    left = tokens
    for text in texts:
        if left <= 1:
            return
        # a token is hardly ever longer than 64 characters: enough of a long text, and not all of it, is encoded
        encoding = tokenizer.encode(text[: 64 * left], add_special_tokens=False)
        if len(encoding.ids) > left - 1:
            text = text[: encoding.offsets[left - 2][1]]  # what is left of it
        if text:
            yield text
        left -= 1 + len(encoding.ids)

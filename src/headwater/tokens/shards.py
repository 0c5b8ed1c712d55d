"""Tokens on disk: how token shards are written, memory-mapped and verified.

The stage encode writes for each shard of documents `<source>-00000` two files into `training/` or `held_out/`:

    <source>-00000.bin       token ids one after the other, little-endian uint16 (or uint32 above 65,536 token types)
    <source>-00000.parquet   its index, one row per document: id, start, tokens, bytes, and what was measured of it

The separator token stands before each document: it starts that document and, as the next target, ends the one before.
`tokens.json` beside the two folders says how to read them and which tokenizer made them (class TokenFormat).

Source: memory-mapped .bin of uint16 is the format of nanoGPT and llm.c (github.com/karpathy/nanoGPT, data/openwebtext);
the index of documents is what we add, for packing, provenance and exact bits per byte.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.core.errors import MismatchError, StoreError
from headwater.core.store import atomic_path, hash_file, read_json, write_json

SEPARATOR = "<|endoftext|>"
"""The separator token of tokenizers that Headwater trains. Source: GPT-2's name for it, known to most software."""
TRAINING, HELD_OUT = "training", "held_out"
"""The two splits, also the names of the folders of their token shards."""
DOCUMENTS = "documents"
"""Folder of the training documents in the stages before; the held-out ones lie in HELD_OUT, as here."""

FACTS = ("quality", "cluster_size")
"""What stages before may have measured of a document, and left in its `meta`: the mixture may go by it."""
_INDEX = pa.schema(
    [("id", pa.string()), ("start", pa.uint64()), ("tokens", pa.uint32()), ("bytes", pa.uint32())]
    + [(fact, pa.float32()) for fact in FACTS]
)
_CHECKED_DOCUMENTS = 1024  # documents per shard whose separator is looked at on opening: finds swapped bytes and files
_AGAIN = "remove the folder of this stage and run again"


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type on disk that holds every token id.

    >>> str(token_dtype(65_536)), str(token_dtype(65_537))
    ('uint16', 'uint32')
    """
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


@dataclass(frozen=True)
class TokenFormat:
    """How to read a folder of token shards: the heart of `tokens.json`."""

    vocab_size: int
    separator_id: int
    tokenizer_sha256: str
    """SHA-256 of the tokenizer.json that made the tokens."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a token id on disk."""
        return token_dtype(self.vocab_size)


@dataclass(frozen=True)
class TokenCounts:
    """How much of a source there is in one split."""

    tokens: int = 0
    """Separators included."""
    documents: int = 0
    bytes: int = 0
    """UTF-8 bytes of text."""


class TokenFolder:
    """A finished folder of the stage encode: what `tokens.json` says, and the way to its sources.

    Attributes:
        format: how to read its shards.
        sources: name of each source, in alphabetical order.
    """

    def __init__(self, folder: Path) -> None:
        """Read `tokens.json` of a folder.

        Raises:
            StoreError: it is missing or damaged.
        """
        self.folder = folder
        facts = read_json(folder / "tokens.json")
        try:
            self.format = TokenFormat(facts["vocab_size"], facts["separator_id"], facts["tokenizer_sha256"])
            self._counts = {
                (name, split): TokenCounts(**counts)
                for name, splits in facts["sources"].items()
                for split, counts in splits.items()
            }
            if facts["schema"] != 1 or facts["dtype"] != str(self.format.dtype):
                raise ValueError(f"schema {facts['schema']}, dtype {facts['dtype']}")
        except (KeyError, TypeError, ValueError) as error:
            place = str(folder / "tokens.json")
            raise StoreError(f"does not describe token shards ({error!r})", place=place, hint=_AGAIN) from None
        self.sources = tuple(facts["sources"])

    def counts(self, name: str, split: str = TRAINING) -> TokenCounts:
        """How much there is of a source; zeros when a split is empty."""
        return self._counts.get((name, split), TokenCounts())

    def source(self, name: str, split: str = TRAINING) -> TokenSource:
        """Open one source of one split."""
        return TokenSource(self.folder / split, name)

    def check_tokenizer(self, tokenizer_folder: Path) -> None:
        """Make sure that these tokens were made by the tokenizer in `tokenizer_folder`.

        Raises:
            MismatchError: they were made by another one.
        """
        if hash_file(tokenizer_folder / "tokenizer.json") != self.format.tokenizer_sha256:
            raise MismatchError(
                f"these tokens were not made by the tokenizer in {tokenizer_folder}",
                place=str(self.folder),
                hint="encode the documents again with this tokenizer, or take the one that made them",
            )


def write_tokens_json(folder: Path, form: TokenFormat, sources: dict[str, dict[str, TokenCounts]]) -> None:
    """Write `tokens.json`; `sources` holds the counts of each split of each source."""
    counts = {name: {split: asdict(count) for split, count in splits.items()} for name, splits in sources.items()}
    facts = {"schema": 1, "dtype": str(form.dtype), **asdict(form), "sources": counts}
    write_json(folder / "tokens.json", facts)


class TokenShard:
    """A token shard being written: appears under its name whole, the index last, or not at all."""

    def __init__(self, path: Path, form: TokenFormat) -> None:
        """Begin a shard.

        Args:
            path: its index, `<folder>/<source>-00000.parquet`; the tokens go beside it.
            form: what the ids stand for.
        """
        self.path = path
        self.counts = TokenCounts()
        self._form = form
        self._index: list[pa.RecordBatch] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        bin_path = self.path.with_suffix(".bin")
        self._file = self._stack.enter_context(self._stack.enter_context(atomic_path(bin_path)).open("wb"))
        return self

    def write(
        self,
        ids: pa.Array,
        tokens: np.ndarray,
        lengths: np.ndarray,
        text_bytes: np.ndarray,
        facts: Mapping[str, pa.Array] | None = None,
    ) -> None:
        """Append documents.

        Args:
            ids: id of each document [documents] string.
            tokens: all their tokens, a separator before each document [sum of lengths] integers.
            lengths: tokens of each document, separator included [documents] integers.
            text_bytes: UTF-8 bytes of each document's text [documents] integers.
            facts: values of FACTS, null where a document has none [documents] float32.
        """
        assert int(lengths.sum()) == len(tokens), "lengths do not add up to the tokens"
        assert not len(tokens) or int(tokens.max()) < self._form.vocab_size, "a token id beyond the vocabulary"
        tokens.astype(self._form.dtype).tofile(self._file)
        ends = self.counts.tokens + np.cumsum(lengths, dtype=np.uint64)
        columns = [ids, ends - lengths.astype(np.uint64), lengths.astype(np.uint32), text_bytes.astype(np.uint32)]
        columns += [(facts or {}).get(fact, pa.nulls(len(lengths), pa.float32())) for fact in FACTS]
        self._index.append(pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=_INDEX))
        self.counts = TokenCounts(
            self.counts.tokens + len(tokens),
            self.counts.documents + len(lengths),
            self.counts.bytes + int(text_bytes.sum()),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            about = {"vocab_size": str(self._form.vocab_size), "tokenizer_sha256": self._form.tokenizer_sha256}
            table = pa.Table.from_batches(self._index, _INDEX).replace_schema_metadata(about)
            with atomic_path(self.path) as temporary:
                pq.write_table(table, temporary, compression="zstd")


class TokenSource:
    """The tokens of one source, memory-mapped; its shards appear as one list of documents.

    Attributes:
        num_tokens: tokens in all, separators included.
        num_documents: documents in all.
        starts: position of each document's separator in the whole source [documents] uint64.
        lengths: tokens of each document, separator included [documents] uint32.
        bytes: UTF-8 bytes of each document's text [documents] uint32.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Open a source.

        Args:
            folder: the folder of one split, `<encode>/training` or `<encode>/held_out`.
            name: the source's name in the recipe.

        Raises:
            StoreError: a shard is missing, truncated or not what its index says.
            MismatchError: a shard was made by another tokenizer than `tokens.json` says.
        """
        described = TokenFolder(folder.parent)
        self.name = name
        self.format = described.format
        self._paths = sorted(path for path in folder.glob("*.parquet") if path.stem.rpartition("-")[0] == name)
        indexes = [_read_index(path, self.format) for path in self._paths]
        self._shards = [_map_tokens(path, index, self.format) for path, index in zip(self._paths, indexes, strict=True)]
        self._shard_documents = np.cumsum([0, *(len(index) for index in indexes)])
        self._shard_tokens = np.cumsum([0, *(len(shard) for shard in self._shards)], dtype=np.int64)
        whole = pa.concat_tables(indexes or [_INDEX.empty_table().select(["start", "tokens", "bytes"])])
        self.lengths = whole.column("tokens").to_numpy()
        self.bytes = whole.column("bytes").to_numpy()
        self.starts = np.cumsum(self.lengths, dtype=np.uint64) - self.lengths
        self.num_documents = len(self.lengths)
        self.num_tokens = int(self._shard_tokens[-1])
        expected = described.counts(name, folder.name)
        if (self.num_tokens, self.num_documents) != (expected.tokens, expected.documents):
            found = f"{self.num_documents:,} documents and {self.num_tokens:,} tokens"
            wanted = f"{expected.documents:,} and {expected.tokens:,}"
            problem = f"source '{name}' has {found}, tokens.json says {wanted}: a shard is missing or too many"
            raise StoreError(problem, place=str(folder), hint=_AGAIN)

    def document(self, index: int) -> np.ndarray:
        """The tokens of document `index`, separator first [tokens] uint16 or uint32, a view into the file."""
        start = int(self.starts[index])
        return self.read(start, int(self.lengths[index]))

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` tokens from position `start`, all within one document, a view into the file."""
        shard = int(np.searchsorted(self._shard_tokens, start, side="right")) - 1 if len(self._shards) > 1 else 0
        first = start - int(self._shard_tokens[shard])
        return self._shards[shard][first : first + count]

    def fact(self, name: str) -> np.ndarray:
        """A fact of FACTS of each document, NaN where it has none [documents] float64."""
        columns = [pq.read_table(path, columns=[name]).column(name).to_numpy() for path in self._paths]
        return np.concatenate(columns or [np.zeros(0)]).astype(np.float64)

    def document_id(self, index: int) -> str:
        """The id of document `index`, as in the documents' shards."""
        shard = int(np.searchsorted(self._shard_documents, index, side="right")) - 1
        column = pq.read_table(self._paths[shard], columns=["id"]).column("id")
        return column[index - int(self._shard_documents[shard])].as_py()


def _read_index(path: Path, form: TokenFormat) -> pa.Table:
    """Read a shard's index but for the ids, and check whose tokens it lists."""
    try:
        index = pq.read_table(path, columns=["start", "tokens", "bytes"])
    except (OSError, pa.ArrowInvalid) as error:
        problem = f"is not the index of a token shard ({str(error).splitlines()[0]})"
        raise StoreError(problem, place=str(path), hint=_AGAIN) from None
    about = index.schema.metadata or {}
    made_by = (about.get(b"tokenizer_sha256", b"").decode(), about.get(b"vocab_size", b"").decode())
    if made_by != (form.tokenizer_sha256, str(form.vocab_size)):
        problem = f"was made by another tokenizer ({made_by[0][:8] or 'unknown'}, {made_by[1] or '?'} token types)"
        wanted = f"{form.tokenizer_sha256[:8]}, {form.vocab_size} token types"
        raise MismatchError(f"{problem} than tokens.json says ({wanted})", place=str(path), hint=_AGAIN)
    return index.replace_schema_metadata(None)


def _map_tokens(path: Path, index: pa.Table, form: TokenFormat) -> np.ndarray:
    """Memory-map the tokens of a shard; make sure that size, type and separators are what the index says."""
    bin_path = path.with_suffix(".bin")
    starts, lengths = index.column("start").to_numpy(), index.column("tokens").to_numpy()
    tokens = int(lengths.sum(dtype=np.int64))
    try:
        size = bin_path.stat().st_size
        if size != tokens * form.dtype.itemsize:
            wanted = f"{tokens:,} tokens of type {form.dtype} are {tokens * form.dtype.itemsize:,}"
            problem = f"has {size:,} bytes, but {wanted}: it is truncated or of another type"
            raise StoreError(problem, place=str(bin_path), hint=_AGAIN)
        if tokens == 0:
            return np.zeros(0, form.dtype)
        with bin_path.open("rb") as file:
            mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), form.dtype)
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", place=str(bin_path), hint=_AGAIN) from None
    if not np.array_equal(starts, np.cumsum(lengths, dtype=np.uint64) - lengths):
        raise StoreError("lists documents that overlap or leave gaps", place=str(path), hint=_AGAIN)
    if np.any(mapped[starts[:_CHECKED_DOCUMENTS].astype(np.int64)] != form.separator_id):
        problem = f"a document does not begin with the separator ({form.separator_id}): not the tokens of its index"
        raise StoreError(problem, place=str(bin_path), hint=_AGAIN)
    return mapped

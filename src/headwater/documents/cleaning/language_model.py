"""The model that tells languages: fastText's compressed format read, and its predictions by a compiled loop.

The same labels and scores as those of the library, which holds Python's lock and takes four to six times as long.

Source: Joulin et al., FastText.zip, arXiv 1612.03651; fastText 0.9.2 (MIT): dictionary.cc, quantmatrix.cc, loss.cc.
"""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from headwater.core.errors import InputError

_MAGIC, _VERSION, _HIERARCHICAL = 793712314, 12, 1
_LABEL = b"__label__"
_LEAST_SCORE = np.float32(np.log(1e-5))  # of the natural logarithm: fastText looks no further


class LanguageModel(NamedTuple):
    """Tables of a fastText model with compressed vectors and a tree of labels; V rows of D numbers, L labels."""

    labels: tuple[str, ...]
    words: np.ndarray
    """[slots] uint64: hash table of the words it knows whole, see kernels.py; 0 is an empty slot."""
    word_rows: np.ndarray
    """[slots] int32"""
    gram_rows: np.ndarray
    """[buckets] int32: row of each bucket of character n-grams, or -1."""
    sizes: tuple[int, int]
    """Characters in the shortest and the longest n-gram."""
    vectors: np.ndarray
    """[V, D] float32"""
    line_end: int
    """Row of the word that ends every line, or -1."""
    children: np.ndarray
    """[L - 1, 2] int32: nodes under each inner node, which are numbered from L on; the last one is the root."""
    output: np.ndarray
    """[L - 1, D] float32: vector of each inner node."""


@functools.cache
def load(file: Path) -> LanguageModel:
    """Read a model.

    Raises:
        InputError: it is not a compressed fastText model with a tree of labels.
    """
    try:
        return _read(io.BytesIO(file.read_bytes()))
    except (struct.error, ValueError, IndexError) as error:
        hint = "use the file lid.176.ftz of fasttext.cc"
        raise InputError(f"not a language model: {error}", place=str(file), hint=hint) from None


def _take(file: io.BytesIO, form: str) -> tuple[int, ...]:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))


def _array(file: io.BytesIO, kind: type, count: int) -> np.ndarray:
    return np.frombuffer(file.read(count * np.dtype(kind).itemsize), kind, count)


def _read(file: io.BytesIO) -> LanguageModel:
    magic, version, dim, *rest = _take(file, "14i")
    loss, buckets, least, most = rest[5], rest[7], rest[8], rest[9]
    if (magic, version, loss, rest[4]) != (_MAGIC, _VERSION, _HIERARCHICAL, 1):
        raise ValueError("another version or kind of fastText model")
    file.seek(8, io.SEEK_CUR)  # a threshold of training
    size, num_words, num_labels = _take(file, "3i")
    _, pruned = _take(file, "2q")
    entries = []
    data = file.getbuffer()
    for _ in range(size):
        begin = file.tell()
        end = begin + bytes(data[begin : begin + 4096]).index(0)
        file.seek(end + 1)
        count, _ = _take(file, "qb")
        entries.append((bytes(data[begin:end]), count))
    gram_rows = np.full(buckets, -1, np.int32)
    pairs = _array(file, np.int32, 2 * pruned).reshape(-1, 2)
    gram_rows[pairs[:, 0]] = num_words + pairs[:, 1]
    compressed, vectors = _take(file, "?")[0], None
    if compressed:
        vectors = _vectors(file)
    if vectors is None or vectors.shape[1] != dim or _take(file, "?")[0]:
        raise ValueError("its vectors are not compressed, or those of its labels are")
    rows, columns = _take(file, "2q")
    output = _array(file, np.float32, rows * columns).reshape(rows, columns)[: num_labels - 1]
    labels = tuple(name.removeprefix(_LABEL).decode() for name, _ in entries[num_words:])
    words = [name for name, _ in entries[:num_words]]
    keys, key_rows = _word_table(words)
    line_end = words.index(b"</s>") if b"</s>" in words else -1
    children = _tree([count for _, count in entries[num_words:]])
    return LanguageModel(labels, keys, key_rows, gram_rows, (least, most), vectors, line_end, children, output)


def _vectors(file: io.BytesIO) -> np.ndarray:
    """Undo the compression by product quantisation."""
    normed, rows, _, num_codes = _take(file, "?2qi")
    codes = _array(file, np.uint8, num_codes)
    vectors = _decoded(file, codes, rows)
    if normed:
        norm_codes = _array(file, np.uint8, rows)
        vectors = vectors * _decoded(file, norm_codes, rows)
    return vectors


def _decoded(file: io.BytesIO, codes: np.ndarray, rows: int) -> np.ndarray:
    """[rows, D] float32: the centroid of each code of a row, one after the other."""
    dim, parts, width, last = _take(file, "4i")
    centroids, codes, begin, found = _array(file, np.float32, dim * 256), codes.reshape(rows, parts), 0, []
    for part in range(parts):
        size = last if part == parts - 1 else width
        found.append(centroids[begin : begin + 256 * size].reshape(256, size)[codes[:, part]])
        begin += 256 * size
    return np.concatenate(found, 1)


def _word_table(words: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    from headwater.documents.cleaning.language_kernels import enter, word_hashes

    size = 1 << (2 * len(words) + 16).bit_length()
    keys, rows = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    starts = np.cumsum([0, *map(len, words)])
    hashes = np.empty(len(words), np.uint64)
    word_hashes(np.frombuffer(b"".join(words), np.uint8), starts, hashes)
    enter(hashes, keys, rows)
    return keys, rows


def _tree(counts: list[int]) -> np.ndarray:
    """Huffman's tree over labels, the most frequent of which come first: [L - 1, 2]. Source: loss.cc, buildTree."""
    labels = len(counts)
    weights = [float(count) for count in counts] + [1e15] * (labels - 1)
    leaf, node, children = labels - 1, labels, []
    for inner in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        weights[inner] = weights[pair[0]] + weights[pair[1]]
        children.append(pair)
    return np.array(children, np.int32)


def scores(model: LanguageModel, texts: pa.StringArray, wanted: np.ndarray, *, glued: bool = False) -> np.ndarray:
    """Score every label for each text: [D, L] float32, 0 for one that is out of the question or a text without words.

    Args:
        model: the model.
        texts: the texts; line ends in them part words.
        wanted: [D] bool: the others get no scores.
        glued: part words at ASCII white space alone, as fastText does, not at all that Unicode has.
    """
    from headwater.documents.cleaning.language_kernels import score
    from headwater.documents.text import characters as c
    from headwater.documents.text.kernels import text_of

    data, starts = text_of(texts)
    alphabet, found = c.alphabet(), np.full((len(texts), len(model.labels)), -np.inf, np.float32)
    hidden, nodes = np.empty(model.vectors.shape[1], np.float32), np.empty(2 * len(model.labels) - 1, np.float32)
    tables = (model.words, model.word_rows, model.gram_rows, model.vectors, model.line_end, *model.sizes)
    letters = (alphabet.pages, alphabet.kinds)
    score(data, starts, wanted, letters, glued, tables, model.children, model.output, hidden, nodes, found)
    return np.where(found >= _LEAST_SCORE, np.exp(found), np.float32(0))

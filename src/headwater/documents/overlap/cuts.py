"""Stretches of text that are cut out of documents, and the text that is left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from headwater.documents.document import text_buffer

_SPACES = b" \t"


class Cuts(NamedTuple):
    """Stretches of the documents of a batch, in bytes from the beginning of each document."""

    rows: np.ndarray
    """[C] int64: which document"""
    begins: np.ndarray
    """[C] int64"""
    ends: np.ndarray
    """[C] int64"""

    @classmethod
    def none(cls) -> Cuts:
        """No stretch at all."""
        return cls(*(np.zeros(0, np.int64) for _ in range(3)))

    @classmethod
    def joined(cls, parts: Sequence[Cuts]) -> Cuts:
        """All stretches of several."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls._fields))

    def merged(self) -> Cuts:
        """The same stretches in order, those that touch or overlap made one."""
        if not len(self.rows):
            return self
        order = np.lexsort((self.begins, self.rows))
        rows, begins, ends = self.rows[order], self.begins[order], self.ends[order]
        span = int(ends.max()) + 1  # put the documents one behind the other, so that none reaches into the next
        reach = np.maximum.accumulate(rows * span + ends)
        new = np.ones(len(rows), np.bool_)
        new[1:] = (rows[1:] != rows[:-1]) | (rows[1:] * span + begins[1:] > reach[:-1])
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(rows)) - 1
        return Cuts(rows[first], begins[first], reach[last] - rows[first] * span)

    def bytes_of(self, documents: int) -> np.ndarray:
        """How much is cut of each document [bytes]; for merged stretches."""
        return np.bincount(self.rows, self.ends - self.begins, documents).astype(np.int64)


def cut(texts: pa.StringArray, cuts: Cuts) -> pa.StringArray:
    """Take stretches out of texts.

    Where words were on both sides, white space stays between them: a line end if there was one, else a space. Blank
    space that is left over at the beginning and the end of an edited text goes too.

    Args:
        texts: the texts.
        cuts: merged stretches that begin and end between characters.
    """
    if not len(cuts.rows):
        return texts
    data, starts = text_buffer(texts)
    view, at = data.data, starts.tolist()
    first = np.searchsorted(cuts.rows, np.arange(len(texts) + 1)).tolist()
    begins, ends = cuts.begins.tolist(), cuts.ends.tolist()
    pieces: list[bytes | memoryview] = []
    for row in range(len(texts)):
        if first[row] == first[row + 1]:
            pieces.append(view[at[row] : at[row + 1]])
            continue
        text = bytes(view[at[row] : at[row + 1]])
        places = range(first[row], first[row + 1])
        bounds = [0, *(bound for place in places for bound in (begins[place], ends[place])), len(text)]
        left = b""
        for begin, end in list(pairwise(bounds))[::2]:
            left = _join(left, text[begin:end])
        pieces.append(left.rstrip())
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(pieces)))


def _join(left: bytes, right: bytes) -> bytes:
    r"""Put together what stood before and behind a stretch.

    >>> _join(b"one ", b" two"), _join(b"one\n\n", b"\ntwo"), _join(b"one", b" two"), _join(b"one\n", b"  two")
    (b'one two', b'one\n\ntwo', b'one two', b'one\n  two')
    """
    if not left:
        return right.lstrip()
    if left.endswith(b"\n"):
        return left + (right.lstrip(b"\n") if left.endswith(b"\n\n") else right)
    if right.startswith(b"\n"):
        return left.rstrip(_SPACES) + right
    if left[-1:] in _SPACES:
        return left + right.lstrip(_SPACES)
    return left + right

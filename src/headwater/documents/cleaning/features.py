"""What the rules of cleaning measure of a batch of documents: each feature is computed once, when first asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:  # both load numba, which planning does not need
    from headwater.documents.text.kernels import Lines
    from headwater.documents.text.words import Words


class Features:
    """A batch of documents and their features.

    Attributes:
        rows: the documents (document.SCHEMA).
        wanted: [documents] bool: the ones that are still to be judged; features of the others are zero or empty.
    """

    def __init__(self, rows: pa.RecordBatch, wanted: np.ndarray | None = None) -> None:
        self.rows = rows
        self.wanted = np.ones(rows.num_rows, np.bool_) if wanted is None else wanted

    @property
    def texts(self) -> pa.StringArray:
        """The text of each document."""
        return self.rows.column("text")

    @functools.cached_property
    def words(self) -> Words:
        """The table of words."""
        from headwater.documents.text.words import words

        return words(self.texts, self.wanted)

    @functools.cached_property
    def lines(self) -> Lines:
        """The table of lines."""
        from headwater.documents.text.kernels import lines

        return lines(self.texts, self.wanted)

    @property
    def num_words(self) -> np.ndarray:
        """[documents] int64, marks included."""
        return np.diff(self.words.offsets)

    @property
    def num_characters(self) -> np.ndarray:
        """[documents] int64."""
        return self.lines.counts[:, 0]

    def narrowed(self, wanted: np.ndarray) -> Features:
        """The same documents, of which fewer are still to be judged."""
        if (wanted == self.wanted).all():
            return self
        narrow = Features(self.rows, wanted)
        narrow.__dict__ |= {name: self.__dict__[name] for name in ("words", "lines") if name in self.__dict__}
        return narrow

    def with_columns(self, columns: Mapping[str, pa.Array]) -> Features:
        """The same documents with other columns; features are kept as long as the text is the same."""
        rows = self.rows
        for name, column in columns.items():
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
        changed = Features(rows, self.wanted)
        if "text" not in columns:
            changed.__dict__ |= {name: self.__dict__[name] for name in ("words", "lines") if name in self.__dict__}
        return changed


def per_document(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Add up the rows of a table for each document.

    Args:
        values: [rows] numbers or bools.
        offsets: [documents + 1]: the rows of document i are `offsets[i]:offsets[i + 1]`.

    >>> per_document(np.array([1, 2, 3]), np.array([0, 2, 2, 3])).tolist()
    [3, 0, 3]
    """
    if not len(offsets) - 1:
        return np.zeros(0, np.int64)
    sums = np.add.reduceat(np.append(values, values.dtype.type(0)), offsets[:-1], dtype=np.int64)
    sums[offsets[1:] == offsets[:-1]] = 0  # reduceat gives the first row of what comes after
    return sums


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide, where nothing of nothing is 0.

    >>> share(np.array([1, 0]), np.array([4, 0])).tolist()
    [0.25, 0.0]
    """
    return part / np.maximum(whole, 1)

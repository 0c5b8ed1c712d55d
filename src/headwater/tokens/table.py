"""Training rows as a parquet file, for other software: a column `input_ids` of rows of one length, as courses package them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.core.errors import InputError
from headwater.core.store import atomic_path
from headwater.tokens.loader import Batch, Row

_GROUP_TOKENS = 1 << 22  # of a row group: bounds memory


class Given(Protocol):
    """Batches of a run."""

    def batch(self, step: int) -> Batch:
        """The batch of step `step`."""
        ...

    def rows(self, step: int) -> list[Row]:
        """Where its rows come from."""
        ...


def write_table(batches: Given, steps: range, path: Path) -> int:
    """Write the rows of some steps in the order in which training reads them; returns how many there are.

    The columns: `input_ids`, the inputs of a row; `labels`, the target of each input, -100 for padding; `document_ids`,
    the number of each input's document within its row; `source`. Labels are targets, shifted already: transformers' own
    models shift by themselves and want `input_ids` as labels.

    Raises:
        InputError: the path is no parquet file, or there is such a file.
        StoreError: the disk is full.
    """
    if path.suffix != ".parquet":
        raise InputError("is not the name of a parquet file", place=str(path), hint=f"name it {path}.parquet")
    if path.exists():
        raise InputError("exists already", place=str(path), hint="choose another name, or remove it")
    lists = pa.list_(pa.int32())
    schema = pa.schema(
        [
            ("input_ids", lists),
            ("labels", lists),
            ("document_ids", lists),
            ("source", pa.dictionary(pa.int32(), pa.string())),
        ]
    )
    written = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        waiting: list[pa.RecordBatch] = []
        for step in steps:
            batch, rows = batches.batch(step), batches.rows(step)
            labels = batch.targets.copy()
            labels[labels < 0] = -100  # the number that torch's cross_entropy leaves out
            columns = [_lists(array) for array in (batch.tokens, labels, batch.documents)]
            sources = pa.array([row.source for row in rows]).dictionary_encode()
            waiting.append(
                pa.RecordBatch.from_arrays([*columns, sources.cast(schema.field("source").type)], schema=schema)
            )
            written += len(rows)
            if sum(part.num_rows for part in waiting) * batch.tokens.shape[1] >= _GROUP_TOKENS or step == steps[-1]:
                writer.write_table(pa.Table.from_batches(waiting).unify_dictionaries())
                waiting = []
    return written


def _lists(array: np.ndarray) -> pa.ListArray:
    rows, length = array.shape
    return pa.ListArray.from_arrays(
        pa.array(range(0, (rows + 1) * length, length), pa.int32()), pa.array(array.ravel())
    )

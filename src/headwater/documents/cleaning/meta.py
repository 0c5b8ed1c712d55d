"""Values written into columns of documents at some places: what steps find out is kept in `meta`."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa


def add_meta(meta: str | None, key: str, value: object) -> str:
    """Put a value in the JSON object that is a document's `meta`.

    >>> add_meta('{"page": 3}', "personal_data", {"email": 1})
    '{"page": 3, "personal_data": {"email": 1}}'
    """
    return json.dumps((json.loads(meta) if meta else {}) | {key: value}, ensure_ascii=False)


def replaced(rows: pa.RecordBatch, name: str, values: Mapping[int, str]) -> dict[str, pa.Array]:
    """A column of documents with other values at some places, by its name; nothing where no value is another."""
    if not values:
        return {}
    column = rows.column(name).to_pylist()
    for index, value in values.items():
        column[index] = value
    return {name: pa.array(column, pa.string())}

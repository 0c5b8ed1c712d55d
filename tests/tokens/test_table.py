"""Training rows as parquet: what other software reads is what training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from headwater.core.errors import InputError
from headwater.tokens.loader import Batches
from headwater.tokens.mixture import Mixture
from headwater.tokens.packing import BestFit, Concatenate
from headwater.tokens.table import write_table

LENGTHS = {"prose": [40, 7, 90, 33, 15, 120, 4, 8, 61], "code": [200, 3, 77, 12, 150, 31]}


@pytest.mark.parametrize("packing", [Concatenate(use="concatenate"), BestFit(use="best_fit")], ids=lambda p: p.use)
def test_rows_are_the_loaders(make_tokens, tmp_path: Path, packing, monkeypatch):
    monkeypatch.setattr("headwater.tokens.table._GROUP_TOKENS", 300)
    batches = Batches(make_tokens(**LENGTHS), Mixture(weights={"prose": 3, "code": 1}), 24, 4, 0, packing)
    file = tmp_path / "rows.parquet"
    assert write_table(batches, range(10), file) == 40
    table = pq.read_table(file)
    assert table.column_names == ["input_ids", "labels", "document_ids", "source"]
    assert pq.ParquetFile(file).num_row_groups > 1
    wanted = [batches.batch(step) for step in range(10)]
    assert np.array_equal(np.array(table["input_ids"].to_pylist()), np.concatenate([b.tokens for b in wanted]))
    labels = np.array(table["labels"].to_pylist())
    assert np.array_equal(np.where(labels == -100, -1, labels), np.concatenate([b.targets for b in wanted]))
    assert np.array_equal(np.array(table["document_ids"].to_pylist()), np.concatenate([b.documents for b in wanted]))
    assert table["source"].to_pylist() == [row.source for step in range(10) for row in batches.rows(step)]


def test_datasets_reads_it(make_tokens, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    batches = Batches(make_tokens(**LENGTHS), Mixture(), 24, 4, 0)
    write_table(batches, range(3), tmp_path / "rows.parquet")
    found = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    rows = np.array(found["input_ids"])
    assert rows.shape == (12, 24)
    assert np.array_equal(rows[4:8], batches.batch(1).tokens)


def test_what_it_does_not_write_is_one_clear_line(make_tokens, tmp_path: Path):
    batches = Batches(make_tokens(**LENGTHS), Mixture(), 24, 4, 0)
    with pytest.raises(InputError, match="is not the name of a parquet file"):
        write_table(batches, range(1), tmp_path / "rows.json")
    (tmp_path / "rows.parquet").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_table(batches, range(1), tmp_path / "rows.parquet")

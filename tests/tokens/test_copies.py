from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.core.errors import MismatchError
from headwater.tokens.copies import ClusterSizes, QualityCurve, repeated
from headwater.tokens.loader import Batches
from headwater.tokens.mixture import Mixture
from headwater.tokens.shards import TokenFolder, TokenFormat, TokenShard, write_tokens_json

CURVE = QualityCurve(use="quality")


@given(
    drop=st.floats(0, 0.8), top=st.floats(0, 0.3), most=st.floats(1, 20), mean=st.floats(0.1, 5), seed=st.integers(0, 9)
)
def test_a_curve_keeps_its_promises(drop: float, top: float, most: float, mean: float, seed: int):
    try:
        curve = QualityCurve(use="quality", drop_share=drop, top_share=top, max_copies=most, mean_copies=mean)
    except ValidationError:
        assume(False)
    scores = np.random.default_rng(seed).permutation(20_000).astype(float)
    copies = curve(scores)[np.argsort(scores)]
    assert (np.diff(copies) >= 0).all()
    assert (copies[: int(drop * 20_000)] == 0).all()
    assert copies.max() <= most
    assume(curve.power < 200)  # steeper than that, so many steps do not show the mean
    assert copies.mean() == pytest.approx(mean, rel=0.05)


def test_a_curve_that_cannot_be_is_refused():
    with pytest.raises(ValidationError, match=r"mean_copies must lie between 0\.35 and 4\.2, not be 5"):
        QualityCurve(use="quality", mean_copies=5)
    with pytest.raises(ValidationError, match="drop_share and top_share must leave documents between"):
        QualityCurve(use="quality", drop_share=0.95, top_share=0.05)
    with pytest.raises(ValidationError, match="how often clusters of size 1 are seen"):
        ClusterSizes(use="cluster_size", copies={2: 2})


def write(folder: Path, values: list[float | None], tokens: int = 10, fact: str = "quality") -> Path:
    form = TokenFormat(1000, separator_id=0, tokenizer_sha256="ab" * 32)
    numbers = np.arange(len(values) * tokens) % 999 + 1
    numbers[::tokens] = 0
    with TokenShard(folder / "training" / "web-00000.parquet", form) as shard:
        lengths = np.full(len(values), tokens)
        ids = pa.array([str(number) for number in range(len(values))])
        shard.write(ids, numbers, lengths, lengths, {fact: pa.array(values, pa.float32())})
    write_tokens_json(folder, form, {"web": {"training": shard.counts}})
    return folder


def test_an_epoch_holds_each_document_as_often_as_its_quality_says(tmp_path: Path):
    folder = write(tmp_path, [number / 200 for number in range(200)])
    mixture = Mixture.model_validate({"copies": {"web": {"use": "quality"}}})
    batches = Batches(folder, mixture, sequence_length=10, batch_sequences=1, seed=0)
    assert batches.tokens["web"] == pytest.approx(2000, abs=10)
    assert batches.copies["web"]["documents"] == 200
    rows = batches.tokens["web"] // 10
    seen = np.zeros(200, int)
    for step in range(rows):
        for piece in batches.rows(step)[0].pieces:
            seen[piece.document] += piece.tokens
    expected = 10 * CURVE(np.arange(200.0))
    assert (seen[:80] == 0).all(), "the worst two fifths are left out"
    assert np.abs(seen - expected).max() <= 10, "to within one copy"
    assert batches.copies["web"] == {"documents": 200, "seen": int((seen > 0).sum()), "copies": rows}


def test_what_was_not_measured_is_refused(tmp_path: Path):
    source = TokenFolder(write(tmp_path, [0.5, None, 0.7])).source("web")
    with pytest.raises(MismatchError, match="1 of 3 documents of source 'web' have no quality") as caught:
        repeated(source, CURVE, "0")
    assert "cleaning step quality" in caught.value.hint
    with pytest.raises(MismatchError, match="3 of 3 documents of source 'web' have no cluster_size"):
        repeated(source, ClusterSizes(use="cluster_size"), "0")


def test_documents_without_copies_are_clusters_of_one(tmp_path: Path):
    source = TokenFolder(write(tmp_path, [None, 3, None], fact="cluster_size")).source("web")
    copies = repeated(source, ClusterSizes(use="cluster_size"), "0")
    assert np.bincount(copies).tolist() == [1, 3, 1]


def test_a_rule_for_no_source_is_refused(tmp_path: Path):
    mixture = Mixture.model_validate({"copies": {"wob": {"use": "quality"}}})
    with pytest.raises(MismatchError, match="a rule for 'wob', which is not a source"):
        Batches(write(tmp_path, [0.1, 0.2, 0.3]), mixture, 10, 1, 0)

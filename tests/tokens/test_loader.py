from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headwater.core.errors import MismatchError
from headwater.tokens.loader import NOT_COUNTED, Batches, HeldOutBatches
from headwater.tokens.mixture import Mixture
from headwater.tokens.packing import BestFit, Concatenate, permutation
from headwater.tokens.shards import TokenFolder

LENGTHS = {"prose": [40, 7, 90, 33, 15, 120, 4, 8, 61], "code": [200, 3, 77, 12, 150, 31]}


def open_batches(folder: Path, seed: int = 0, batch_sequences: int = 4, packing: str = "concatenate") -> Batches:
    use = {"concatenate": Concatenate, "best_fit": BestFit}[packing](use=packing)
    return Batches(folder, Mixture(weights={"prose": 3, "code": 1}), 24, batch_sequences, seed, use)


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_rows_hold_the_tokens_of_their_documents(make_tokens, packing: str):
    folder = make_tokens(**LENGTHS)
    batches = open_batches(folder, packing=packing)
    sources = {name: TokenFolder(folder).source(name) for name in LENGTHS}
    padded = 0
    for step in range(30):
        batch = batches.batch(step)
        assert batch.tokens.shape == batch.targets.shape == batch.documents.shape == (4, 24)
        assert batch.tokens.dtype == batch.targets.dtype == batch.documents.dtype == np.int32
        counted = 0
        for index, row in enumerate(batches.rows(step)):
            wholes = [np.append(sources[row.source].document(p.document), 0) for p in row.pieces]
            inputs = [whole[p.first : p.first + p.tokens] for whole, p in zip(wholes, row.pieces, strict=True)]
            targets = [whole[p.first + 1 : p.first + p.tokens + 1] for whole, p in zip(wholes, row.pieces, strict=True)]
            numbers = np.repeat(np.arange(len(inputs)), [len(part) for part in inputs])
            empty = 24 - len(numbers)
            assert batch.tokens[index].tolist() == [*np.concatenate(inputs), *[0] * empty]
            assert batch.targets[index].tolist() == [*np.concatenate(targets), *[NOT_COUNTED] * empty]
            assert batch.documents[index].tolist() == [*numbers, *[len(inputs)] * empty]
            counted += len(numbers)
            padded += empty
        assert batches.counted_targets(step) == counted == np.count_nonzero(batch.targets != NOT_COUNTED)
    assert (padded > 0) == (packing == "best_fit")


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_ranks_share_a_batch_whatever_their_number(make_tokens, packing: str, ranks: int):
    """Rank r of R has rows r, r + R ...: any micro-batch of all ranks together is a run of the batch's rows."""
    batches = open_batches(make_tokens(**LENGTHS), batch_sequences=12, packing=packing)
    for step in (0, 7):
        whole = batches.batch(step)
        parts = [batches.batch(step, rank, ranks) for rank in range(ranks)]
        for name in ("tokens", "targets", "documents"):
            mine = [getattr(part, name) for part in parts]
            assert np.array_equal(np.stack(mine, axis=1).reshape(12, 24), getattr(whole, name))
        assert sum(np.count_nonzero(part.targets >= 0) for part in parts) == batches.counted_targets(step)


def test_a_step_depends_on_nothing_but_seed_and_step(make_tokens):
    folder = make_tokens(**LENGTHS)
    ahead = [open_batches(folder).batch(step) for step in range(40)]
    resumed = open_batches(folder)
    for step in [17, *range(18, 40), 3]:
        for left, right in zip(ahead[step], resumed.batch(step), strict=True):
            assert np.array_equal(left, right)


def test_rows_do_not_depend_on_how_they_are_batched(make_tokens):
    folder = make_tokens(**LENGTHS)
    small, large = open_batches(folder, batch_sequences=2), open_batches(folder, batch_sequences=6)
    rows = np.concatenate([small.batch(step).tokens for step in range(9)])
    assert np.array_equal(rows, np.concatenate([large.batch(step).tokens for step in range(3)]))


def test_seeds_differ(make_tokens):
    folder = make_tokens(**LENGTHS)
    assert not np.array_equal(open_batches(folder, 0).batch(0).tokens, open_batches(folder, 1).batch(0).tokens)


def test_an_epoch_sees_every_token_of_its_source_once(make_tokens):
    folder = make_tokens(prose=LENGTHS["prose"])
    source = TokenFolder(folder).source("prose")
    batches = Batches(folder, Mixture(), 21, 1, 5)
    rows = source.num_tokens // 21
    assert source.num_tokens == 378 == rows * 21, "an epoch of whole rows: nothing is carried"
    seen = np.concatenate([batches.batch(step).tokens[0] for step in range(rows)])
    everything = np.concatenate([source.document(index) for index in range(source.num_documents)])
    assert sorted(seen.tolist()) == sorted(everything.tolist())


def test_the_mixture_decides_which_source_a_row_is_from(make_tokens):
    batches = open_batches(make_tokens(**LENGTHS))
    sources = [row.source for step in range(10) for row in batches.rows(step)]
    assert sources.count("prose") == 30
    assert all(sources[i : i + 4].count("code") == 1 for i in range(0, 40, 4))
    assert [plan.rows for plan in batches.plan(10).sources] == [30, 10]


def test_sources_of_weight_zero_are_left_out(make_tokens):
    batches = Batches(make_tokens(**LENGTHS), Mixture(weights={"prose": 1, "code": 0}), 24, 4, 0)
    assert {row.source for step in range(10) for row in batches.rows(step)} == {"prose"}


def test_a_sequence_longer_than_the_source_is_refused(make_tokens):
    folder = make_tokens(**LENGTHS)
    with pytest.raises(MismatchError, match="source 'prose' has 378 tokens: too few for one sequence of 378"):
        Batches(folder, Mixture(), 378, 1, 0)
    Batches(folder, Mixture(), 377, 1, 0).batch(0)


def test_a_sequence_longer_than_any_document_is_warned_of(make_tokens):
    folder = make_tokens(**LENGTHS)
    assert open_batches(folder).warnings == ()
    (warning,) = Batches(folder, Mixture(), 160, 1, 0).warnings
    assert "source 'prose' fills a sequence of 160 tokens: the longest has 120, the median 33" in warning


def test_too_many_steps_are_refused(make_tokens):
    batches = open_batches(make_tokens(**LENGTHS))
    batches.plan(20)
    with pytest.raises(MismatchError, match="which are 1,512 in 4 epochs"):
        batches.plan(40)


def counted(batches: HeldOutBatches) -> tuple[list[int], list[int]]:
    """Inputs and targets that count."""
    found = list(batches)
    assert len(found) == len(batches)
    assert all(len(batch.tokens) <= 4 for batch in found)
    inputs, targets = (np.concatenate([batch[part].ravel() for batch in found]) for part in (0, 1))
    assert not targets[batches.tokens :].any(), "filled up with something else than separators"
    return inputs[: batches.tokens].tolist(), targets[: batches.tokens].tolist()


@pytest.mark.parametrize(("max_tokens", "length"), [(10_000, 10), (473, 150), (300, 24), (200, 1000)])
def test_held_out_batches_are_whole_documents_drawn_as_for_evaluate(make_tokens, max_tokens: int, length: int):
    folder = make_tokens(**LENGTHS)
    source = TokenFolder(folder).source("code", "held_out")
    drawn: list[np.ndarray] = []
    for index in permutation(source.num_documents, "evaluate/code").tolist():
        if sum(map(len, drawn)) + source.lengths[index] > max_tokens:
            break
        drawn.append(source.document(index))
    batches = HeldOutBatches(folder, "code", length, 4, max_tokens)
    inputs, targets = counted(batches)
    assert inputs == np.concatenate(drawn).tolist()
    assert targets == [*inputs[1:], 0]
    assert len(drawn) == 6 or max_tokens < 473
    assert batches.bytes == sum(3 * (len(document) - 1) for document in drawn)


def test_bits_per_byte_are_of_the_documents_measured(make_tokens):
    """Documents of very different bytes per token: only those that are measured may count."""
    folder = make_tokens(code=[100] * 20)
    for path in (folder / "held_out").glob("*.parquet"):
        index = pq.read_table(path)
        sizes = pa.array([int(start) // 10 + 7 for start in index["start"].to_pylist()], pa.uint32())
        pq.write_table(index.set_column(3, "bytes", sizes), path)
    source = TokenFolder(folder).source("code", "held_out")
    order = permutation(20, "evaluate/code")
    batches = HeldOutBatches(folder, "code", 24, 4, max_tokens=350)
    assert batches.tokens == 300
    assert batches.bits_per_byte(math.log(2)) == pytest.approx(300 / source.bytes[order[:3]].sum())


def test_a_held_out_document_beyond_the_limit_is_cut(make_tokens):
    batches = HeldOutBatches(make_tokens(code=[201]), "code", 24, 4, max_tokens=67)
    inputs, targets = counted(batches)
    assert len(inputs) == 67
    assert inputs[1:] == targets[:-1]
    assert targets[-1] != 0, "it does not end here"
    assert batches.bytes == pytest.approx(67 / 201 * 600)


def test_without_held_out_documents_there_are_no_batches(make_tokens):
    with pytest.raises(MismatchError, match="source 'code' has no held-out documents"):
        HeldOutBatches(make_tokens(code=[]), "code", 24, 4, max_tokens=67)


@pytest.mark.parametrize("packing", [Concatenate(use="concatenate"), BestFit(use="best_fit")], ids=lambda p: p.use)
@pytest.mark.parametrize("copies", [{}, {"prose": {"use": "cluster_size", "copies": {1: 2}}}])
def test_the_steps_that_saw_a_document_are_known_without_looking(make_tokens, copies, packing):
    folder, steps = make_tokens(**LENGTHS), 37
    if copies:
        for path in (folder / "training").glob("*.parquet"):
            index = pq.read_table(path)
            sizes = pa.array([1.0] * len(index), pa.float32())
            pq.write_table(index.set_column(5, "cluster_size", sizes), path)
    mixture = Mixture.model_validate({"weights": {"prose": 3, "code": 1}, "copies": copies})
    batches = Batches(folder, mixture, 24, 4, 0, packing)
    seen: dict[tuple[str, int], set[int]] = {}
    for step in range(steps):
        for row in batches.rows(step):
            for piece in row.pieces:
                seen.setdefault((row.source, piece.document), set()).add(step)
    for source, lengths in LENGTHS.items():
        for document in range(len(lengths)):
            expected = sorted(seen.get((source, document), ()))
            assert batches.steps_with(source, document, steps) == expected, (source, document)

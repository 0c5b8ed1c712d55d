from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headwater.core.errors import MismatchError, StoreError
from headwater.core.store import read_json, write_json
from headwater.tokens.shards import TokenCounts, TokenFolder, TokenFormat, TokenShard, TokenSource

FORM = TokenFormat(vocab_size=1000, separator_id=0, tokenizer_sha256="cd" * 32)


def test_documents_come_back_as_they_were_written(make_tokens):
    source = TokenFolder(make_tokens(prose=[5, 1, 9, 4, 2])).source("prose")
    rng = np.random.default_rng(0)
    expected = [np.concatenate([[0], rng.integers(1, 50_000, n)[1:]]) for n in (5, 1, 9, 4, 2)]
    assert source.num_documents == 5
    assert source.num_tokens == 21
    assert source.starts.tolist() == [0, 5, 6, 15, 19]
    assert source.bytes.tolist() == [12, 0, 24, 9, 3]
    for index, tokens in enumerate(expected):
        assert source.document(index).tolist() == tokens.tolist()
        assert source.document(index).dtype == np.uint16
    assert [source.document_id(index) for index in range(5)] == [
        "prose-0-0",
        "prose-0-1",
        "prose-0-2",
        "prose-1-0",
        "prose-1-1",
    ]


def test_large_vocabularies_take_four_bytes(make_tokens):
    folder = make_tokens(vocab_size=128_256, prose=[300, 300])
    source = TokenFolder(folder).source("prose")
    assert source.document(0).dtype == np.uint32
    assert source.document(0).max() > 65_535
    assert (folder / "training" / "prose-00000.bin").stat().st_size == 4 * 300


def test_sources_are_told_apart_by_their_whole_name(make_tokens):
    folder = make_tokens(**{"web": [5], "web-2024": [7, 7]})
    assert TokenFolder(folder).source("web").num_tokens == 5
    assert TokenFolder(folder).source("web-2024").num_tokens == 14


def test_an_empty_split_is_an_empty_source(make_tokens):
    folder = make_tokens(prose=[5, 5])
    for file in (folder / "held_out").iterdir():
        file.unlink()
    facts = read_json(folder / "tokens.json")
    facts["sources"]["prose"]["held_out"] = {"tokens": 0, "documents": 0, "bytes": 0}
    write_json(folder / "tokens.json", facts)
    assert TokenSource(folder / "held_out", "prose").num_tokens == 0


def test_a_truncated_shard_is_named(make_tokens):
    folder = make_tokens(prose=[5, 1, 9])
    path = folder / "training" / "prose-00000.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"prose-00000\.bin: has 9 bytes, but 6 tokens of type uint16 are 12"):
        TokenFolder(folder).source("prose")


def test_tokens_of_another_type_are_noticed(make_tokens):
    folder = make_tokens(prose=[5, 1, 9])
    path = folder / "training" / "prose-00000.bin"
    np.fromfile(path, "<u2").astype("<u4").tofile(path)
    with pytest.raises(StoreError, match="truncated or of another type"):
        TokenFolder(folder).source("prose")


def test_swapped_bytes_and_swapped_files_are_noticed(make_tokens):
    folder = make_tokens(prose=[5, 3, 9])
    path = folder / "training" / "prose-00000.bin"
    path.write_bytes(np.roll(np.fromfile(path, "<u2"), 1).tobytes())
    with pytest.raises(StoreError, match="does not begin with the separator"):
        TokenFolder(folder).source("prose")


def test_a_missing_shard_is_noticed(make_tokens):
    folder = make_tokens(prose=[5, 3, 9])
    (folder / "training" / "prose-00001.parquet").unlink()
    with pytest.raises(StoreError, match=r"2 documents and 8 tokens, tokens\.json says 3 and 17"):
        TokenFolder(folder).source("prose")
    (folder / "training" / "prose-00000.bin").unlink()
    with pytest.raises(StoreError, match=r"prose-00000\.bin: cannot be read"):
        TokenFolder(folder).source("prose")


def test_a_shard_of_another_tokenizer_is_refused(make_tokens):
    folder = make_tokens(prose=[5, 3, 9])
    with TokenShard(folder / "training" / "prose-00001.parquet", FORM) as out:
        out.write(pa.array(["x"]), np.zeros(9, int), np.array([9]), np.array([20]))
    with pytest.raises(MismatchError, match="another tokenizer"):
        TokenFolder(folder).source("prose")


def test_tokens_and_tokenizer_must_belong_together(make_tokens, tmp_path: Path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(MismatchError, match=r"were not made by the tokenizer in .*hint: encode the documents again"):
        TokenFolder(make_tokens(prose=[5])).check_tokenizer(tmp_path / "tokenizer")


@pytest.mark.parametrize("content", ["{}", "[1", '{"schema": 1, "sources": 3}'])
def test_a_damaged_tokens_json_is_named(tmp_path: Path, content: str):
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(StoreError, match=r"tokens\.json"):
        TokenFolder(tmp_path)


def test_a_failed_shard_leaves_nothing(tmp_path: Path):
    def fill() -> None:
        with TokenShard(tmp_path / "prose-00000.parquet", FORM) as out:
            out.write(pa.array(["x"]), np.zeros(9, int), np.array([9]), np.array([20]))
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_ids_beyond_the_vocabulary_are_never_written(tmp_path: Path):
    with (
        pytest.raises(AssertionError, match="beyond the vocabulary"),
        TokenShard(tmp_path / "prose-00000.parquet", FORM) as out,
    ):
        out.write(pa.array(["x"]), np.array([0, 1000]), np.array([2]), np.array([20]))


def test_counts_add_up(tmp_path: Path):
    with TokenShard(tmp_path / "prose-00000.parquet", FORM) as out:
        out.write(pa.array(["x", "y"]), np.zeros(9, int), np.array([4, 5]), np.array([20, 1]))
        out.write(pa.array(["z"]), np.zeros(2, int), np.array([2]), np.array([7]))
    assert out.counts == TokenCounts(tokens=11, documents=3, bytes=28)

"""Shards of documents: what is written is what is read, whole or not at all; counts add up."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.errors import StoreError
from headwater.documents import document
from headwater.documents.document import (
    DROPPED_SCHEMA,
    SCHEMA,
    ShardFile,
    Shards,
    Tally,
    add_counts,
    document_ids,
    documents_of,
    drop,
    read_batches,
    shards_in,
    source_of,
    text_bytes,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)  # surrogates are not text


@given(st.lists(TEXT, max_size=30), st.integers(0, 5))
def test_ids_are_the_hash_of_the_text_alone(texts: list[str], skip: int) -> None:
    expected = [xxhash.xxh3_128_hexdigest(text.encode()) for text in texts]
    assert document_ids(pa.array(texts, pa.string())).to_pylist() == expected
    sliced = pa.array(texts, pa.string()).slice(min(skip, len(texts)))
    assert document_ids(sliced).to_pylist() == expected[skip:]
    assert text_bytes(sliced) == sum(len(text.encode()) for text in texts[skip:])


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(st.lists(TEXT, max_size=12), max_size=6), group=st.integers(1, 200), rows=st.integers(1, 9))
def test_documents_come_back_in_order_in_row_groups_of_bounded_size(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]], group: int, rows: int
) -> None:
    path = tmp_path_factory.mktemp("shard") / "web-00000.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "ROW_GROUP_BYTES", group)
        patch.setattr(document, "ROW_GROUP_ROWS", rows)
        with ShardFile(path) as shard:
            for texts in batches:
                shard.write(documents_of("web", texts))
    everything = [text for texts in batches for text in texts]
    assert shard.documents == len(everything)
    assert path.exists() == bool(everything)
    if everything:
        read = list(read_batches(path))
        assert [text for batch in read for text in batch.column("text").to_pylist()] == everything
        assert all(batch.schema.names == SCHEMA.names for batch in read)
        for batch in read:
            assert batch.num_rows <= rows
            assert batch.num_rows == 1 or text_bytes(batch.column("text")) <= group


def test_columns_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    with ShardFile(tmp_path / "web-00000.parquet") as shard:
        shard.write(documents_of("web", ["a", "b"], licence="MIT", url=["x", None]))
    (batch,) = read_batches(tmp_path / "web-00000.parquet", ["url", "text"])
    assert batch.to_pydict() == {"url": ["x", None], "text": ["a", "b"]}


def test_a_failing_writer_leaves_no_shard(tmp_path: Path) -> None:
    def fail() -> None:
        with ShardFile(tmp_path / "web-00000.parquet") as shard:
            shard.write(documents_of("web", ["x" * 1000] * 5000))  # more than a row group: the file has begun
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cuts", [[11], [3, 8], [1] * 11])
def test_shards_roll_over_at_the_same_documents_however_they_arrive(tmp_path: Path, cuts: list[int]) -> None:
    texts = ["a" * 10] * 3 + ["b" * 40] + ["c" * 10] * 7
    with Shards(tmp_path, "web", shard_bytes=35) as shards:
        first = 0
        for cut in cuts:
            shards.write(documents_of("web", texts[first : first + cut]))
            first += cut
    found = shards_in(tmp_path)
    assert [shard.name for shard in found] == [f"web-{i:05d}.parquet" for i in range(shards.count)]
    read = [pq.read_table(shard).column("text").to_pylist() for shard in found]
    assert [text for shard in read for text in shard] == texts
    assert [len(shard) for shard in read] == [3, 1, 3, 3, 1]  # the long document stands alone


def test_source_names_may_hold_dashes() -> None:
    assert source_of(Path("/x/my-web-00003.parquet")) == "my-web"


def test_dropped_documents_keep_the_document_and_the_verdict(tmp_path: Path) -> None:
    batch = documents_of("web", ["a", "bb"], licence="MIT")
    dropped = drop(batch, "clean", "min_words", [1.0, 2.0], 5, None)
    assert dropped.schema == DROPPED_SCHEMA
    with ShardFile(tmp_path / "web-00000.parquet", DROPPED_SCHEMA) as shard:
        shard.write(dropped)
    (read,) = read_batches(tmp_path / "web-00000.parquet")
    assert read.column("text").to_pylist() == ["a", "bb"]
    assert read.column("value").to_pylist() == [1.0, 2.0]
    assert read.column("threshold").to_pylist() == [5.0, 5.0]
    assert read.column("detail").to_pylist() == [None, None]


def test_counts_of_shards_add_up() -> None:
    parts = []
    for texts in (["a", "bb", "ccc"], ["é"]):
        batch = documents_of("web", texts, licence=["MIT", None, None][: len(texts)], language="en")
        tally = Tally("web")
        tally.take(batch)
        tally.keep(batch.slice(1))
        tally.drop(drop(batch.slice(0, 1), "clean", "short", 1, 2))
        tally.edit("trim", 1)
        parts.append(tally.counts())
    assert add_counts(parts) == {
        "documents_in": 4,
        "documents_out": 2,
        "bytes_in": 8,
        "bytes_out": 5,
        "dropped": {"short": {"documents": 2, "bytes": 3}},
        "edited": {"trim": 2},
        "sources": {
            "web": {
                "documents_in": 4,
                "documents_out": 2,
                "bytes_in": 8,
                "bytes_out": 5,
                "dropped": {"short": 2},
                "licences": {"unknown": 2},
                "languages": {"en": 2},
            }
        },
    }


@pytest.mark.parametrize("content", [None, b"", b"PAR1 this is not a shard PAR1"])
def test_a_damaged_shard_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "web-00000.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"web-00000.parquet: .*; hint: "):
        list(read_batches(path))

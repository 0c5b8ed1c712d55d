from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from headwater.core.errors import EmptyResultError, MismatchError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.core.store import hash_file, read_json
from headwater.documents.document import ShardFile, documents_of, read_batches, shards_in
from headwater.tokens.codec import Codec
from headwater.tokens.encode import Encode, encode
from headwater.tokens.shards import TokenFolder


def run(documents: Path, trained: Path, folder: Path, workers: int = 1) -> tuple[dict, Workspace]:
    out = Workspace(folder, Machine(workers=workers))
    return encode(Encode(), {"documents": documents, "tokenizer": trained}, out), out


def test_every_document_is_encoded_behind_a_separator(documents: Path, trained: Path, tmp_path: Path):
    counts, _ = run(documents, trained, tmp_path)
    tokens = TokenFolder(tmp_path)
    tokens.check_tokenizer(trained / "tokenizer")
    codec = Codec(trained / "tokenizer", fast=False)
    total = 0
    for split, place in (("training", "documents"), ("held_out", "held_out")):
        for name in ("prose", "code"):
            source = tokens.source(name, split)
            documents_of_source = [
                document
                for shard in shards_in(documents / place)
                if shard.name.startswith(name)
                for batch in read_batches(shard, ["id", "text"])
                for document in batch.to_pylist()
            ]
            assert source.num_documents == len(documents_of_source) > 0
            for index, document in enumerate(documents_of_source):
                ids = source.document(index)
                assert ids[0] == codec.separator_id
                assert codec.decode(ids[1:]) == document["text"]
                assert source.bytes[index] == len(document["text"].encode())
                assert source.document_id(index) == document["id"]
            total += source.num_tokens if split == "training" else 0
    assert counts["tokens"] == total == sum(counts["sources"].values())
    assert counts["held_out_documents"] == tokens.counts("prose", "held_out").documents + 1


def test_tokens_json_says_what_is_there(documents: Path, trained: Path, tmp_path: Path):
    run(documents, trained, tmp_path)
    facts = read_json(tmp_path / "tokens.json")
    assert facts["schema"] == 1
    assert facts["dtype"] == "uint16"
    assert facts["vocab_size"] == 600
    assert facts["separator_id"] == 0
    assert facts["tokenizer_sha256"] == hash_file(trained / "tokenizer" / "tokenizer.json")
    assert facts["sources"]["code"]["training"]["documents"] == 4


def test_the_result_does_not_depend_on_workers(documents: Path, trained: Path, tmp_path: Path):
    run(documents, trained, tmp_path / "one")
    run(documents, trained, tmp_path / "two", workers=2)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*") if path.is_file())
    assert len(files) == 2 * 5 + 1 + 5  # shards, tokens.json, markers
    for file in files:
        assert hash_file(tmp_path / "one" / file) == hash_file(tmp_path / "two" / file), file


def test_a_killed_stage_goes_on_where_it_was(documents: Path, trained: Path, tmp_path: Path):
    counts, _ = run(documents, trained, tmp_path)
    kept, lost = tmp_path / "training" / "prose-00000.bin", tmp_path / "training" / "code-00000.bin"
    before = kept.stat().st_mtime_ns, hash_file(lost)
    (tmp_path / ".done" / "encoding-training-code-00000.json").unlink()
    lost.unlink()
    (tmp_path / "tokens.json").unlink()
    again, _ = run(documents, trained, tmp_path)
    assert again == counts
    assert (kept.stat().st_mtime_ns, hash_file(lost)) == before


def test_without_gigatoken_the_tokens_are_the_same(documents: Path, trained: Path, tmp_path: Path, monkeypatch):
    run(documents, trained, tmp_path / "fast")
    monkeypatch.setitem(__import__("sys").modules, "gigatoken", None)
    assert not Codec(trained / "tokenizer").fast
    slow = tmp_path / "copy"
    slow.symlink_to(trained)  # another path: an opened tokenizer is remembered by its path
    run(documents, slow, tmp_path / "slow")
    for name in ("prose-00000.bin", "prose-00001.bin", "code-00000.bin"):
        assert hash_file(tmp_path / "fast" / "training" / name) == hash_file(tmp_path / "slow" / "training" / name)


def test_no_documents_is_an_error(trained: Path, tmp_path: Path):
    (tmp_path / "held_out").mkdir()
    with pytest.raises(EmptyResultError, match="there are no documents to encode"):
        run(tmp_path, trained, tmp_path / "out")


def test_tokens_of_another_tokenizer_are_refused(documents: Path, trained: Path, tmp_path: Path):
    run(documents, trained, tmp_path / "out")
    other = tmp_path / "tokenizer.json"
    other.write_text((trained / "tokenizer" / "tokenizer.json").read_text().replace("<|endoftext|>", "<|end|>"))
    with pytest.raises(MismatchError, match="were not made by the tokenizer in"):
        TokenFolder(tmp_path / "out").check_tokenizer(tmp_path)


def test_the_index_has_the_agreed_columns(documents: Path, trained: Path, tmp_path: Path):
    run(documents, trained, tmp_path)
    schema = pq.read_schema(tmp_path / "training" / "code-00000.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("id", "string"),
        ("start", "uint64"),
        ("tokens", "uint32"),
        ("bytes", "uint32"),
        ("quality", "float"),
        ("cluster_size", "float"),
    ]
    tokens = np.fromfile(tmp_path / "training" / "code-00000.bin", "<u2")
    assert len(tokens) == TokenFolder(tmp_path).counts("code").tokens


def test_what_stages_before_measured_reaches_the_index(trained: Path, tmp_path: Path):
    meta = ['{"cluster_size": 3, "title": "a"}', None, '{"quality": 0.25}', '{"title": "quality"}']
    with ShardFile(tmp_path / "documents" / "web-00000.parquet") as shard:
        shard.write(documents_of("web", ["one text", "two texts", "three texts", "four texts"], meta=meta))
    (tmp_path / "held_out").mkdir()
    run(tmp_path, trained, tmp_path / "out")
    source = TokenFolder(tmp_path / "out").source("web")
    assert np.nan_to_num(source.fact("cluster_size"), nan=-1).tolist() == [3, -1, -1, -1]
    assert np.nan_to_num(source.fact("quality"), nan=-1).tolist() == [-1, -1, 0.25, -1]

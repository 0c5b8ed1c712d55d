"""Reading: what is in the files is what comes out, in order, whatever their form, size and number of workers."""

import gzip
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.core.config import Config
from headwater.core.errors import EmptyResultError, InputError, UnreachableError
from headwater.core.hardware import Machine
from headwater.core.stage import Stage, Store, Workspace, perform
from headwater.core.store import HashMemory
from headwater.documents.document import read_batches, shards_in
from headwater.documents.read import Read, read
from headwater.documents.sources.files import Span
from headwater.documents.sources.formats import JsonLines
from headwater.documents.sources.source import Intake
from headwater.documents.sources.urls import Told

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda content: zstandard.compress(content),
}


def run(folder: Path, source: dict[str, Any], workers: int = 1, **more: Any) -> tuple[dict[str, Any], list, list]:
    """Read one source and return the counts, the documents and the dropped documents."""
    read_settings = Read.model_validate({"sources": {"web": source}, **more})
    counts = read(read_settings, {}, Workspace(folder, Machine(workers=workers)))
    return counts, rows(folder / "documents"), rows(folder / "dropped")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for shard in shards_in(folder) for batch in read_batches(shard) for row in batch.to_pylist()]


def texts(documents: list[dict[str, Any]]) -> list[str]:
    return [document["text"] for document in documents]


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def problem_of(folder: Path, source: dict[str, Any], **more: Any) -> str:
    """The line that a user sees, after checking that nothing half-written would be taken for a result."""
    with pytest.raises((InputError, EmptyResultError)) as caught:
        run(folder / "refused", source, **more)
    assert not (folder / "refused" / "documents").exists()
    shutil.rmtree(folder / "refused", ignore_errors=True)
    assert caught.value.hint
    return str(caught.value)


VISIBLE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(lambda text: text.strip())
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=60).filter(
    lambda text: text.encode().strip()
)


@settings(max_examples=30)
@given(
    documents=st.lists(VISIBLE, min_size=1, max_size=20), size=st.integers(1, 200), ending=st.sampled_from(list(PACK))
)
def test_jsonl_round_trip(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], size: int, ending: str
) -> None:
    folder = tmp_path_factory.mktemp("jsonl")
    lines = b"".join(orjson.dumps({"n": i, "text": text}) + b"\n" for i, text in enumerate(documents))
    (folder / f"a.jsonl{ending}").write_bytes(PACK[ending](lines))
    counts, found, _ = run(folder / "out", {"use": "jsonl", "paths": str(folder)}, shard_bytes=size)
    assert texts(found) == documents
    assert counts["documents_out"] == len(documents)
    assert counts["bytes_out"] == sum(len(text.encode()) for text in documents)


@settings(max_examples=30)
@given(documents=st.lists(VISIBLE, min_size=1, max_size=20), size=st.integers(1, 200), group=st.integers(1, 7))
def test_parquet_round_trip(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], size: int, group: int
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    table = pa.table({"nested": [{"text": "no"}] * len(documents), "text": pa.array(documents, pa.large_string())})
    pq.write_table(table, folder / "a.parquet", row_group_size=group)
    _, found, _ = run(folder / "out", {"use": "parquet", "paths": str(folder / "a.parquet")}, shard_bytes=size)
    assert texts(found) == documents


@settings(max_examples=30)
@given(
    lines=st.lists(LINE | st.just(""), min_size=1, max_size=20),
    size=st.integers(1, 200),
    end=st.sampled_from(["\n", "\r\n"]),
)
@pytest.mark.parametrize("split", ["lines", "blank_lines"])
def test_text_is_cut_at_the_same_places_however_the_file_is_read(
    tmp_path_factory: pytest.TempPathFactory, split: str, lines: list[str], size: int, end: str
) -> None:
    if not any(lines):
        return
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_bytes(end.join(lines).encode())
    _, found, _ = run(folder / "out", {"use": "text", "paths": str(folder), "split": split}, shard_bytes=size)
    if split == "lines":
        assert texts(found) == [line for line in lines if line]
    else:
        paragraphs = "\n".join(lines).split("\n\n")
        assert texts(found) == [paragraph.strip("\n") for paragraph in paragraphs if paragraph.strip("\n")]


def test_fields_of_a_record_become_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"body": "one", "link": "http://x/1", "when": "2024-05-01", "lang": "en", "rights": "MIT", "id": 7, "x": [1]}\n'
        "\n"
        '{"body": "two"}\n'
    )
    fields = {
        "text": "body",
        "url": "link",
        "date": "when",
        "language": "lang",
        "licence": "rights",
        "meta": ["id", "x"],
    }
    source = {"use": "jsonl", "paths": str(path), "fields": fields, "licence": "CC0-1.0"}
    counts, (one, two), dropped = run(tmp_path / "out", source)
    assert (one["url"], one["date"], one["language"], one["licence"]) == ("http://x/1", "2024-05-01", "en", "MIT")
    assert orjson.loads(one["meta"]) == {"id": 7, "x": [1]}
    assert (two["url"], two["date"], two["licence"], two["meta"]) == (str(path), None, "CC0-1.0", None)
    assert counts["sources"]["web"]["licences"] == {"CC0-1.0": 1, "MIT": 1}
    assert dropped == []  # a blank line is nothing


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"licence": "licnse"}, r"fields\.licence: no record has a field 'licnse'; did you mean 'license'\?"),
        ({"url": "URL"}, r"fields\.url: no record has a field 'URL'"),
        ({"meta": ["license", "stras"]}, r"fields\.meta: no record has a field 'stras'; did you mean 'stars'\?"),
    ],
)
def test_a_field_that_no_record_has_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.jsonl"
    lines = [orjson.dumps({"text": f"line {number}", "license": None, "stars": 3}) for number in range(20)]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=r"read\.sources\.web\." + message):
        run(tmp_path / "out", {"use": "jsonl", "paths": str(path), "fields": fields}, shard_bytes=100)


def test_a_field_that_few_records_have_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [orjson.dumps({"text": f"line {n}"} | ({"license": "MIT"} if n == 33 else {})) for n in range(40)]
    path.write_bytes(b"\n".join(lines))
    source = {"use": "jsonl", "paths": str(path), "fields": {"licence": "license"}}
    counts, _, _ = run(tmp_path / "out", source, shard_bytes=100)
    assert counts["sources"]["web"]["licences"] == {"MIT": 1, "unknown": 39}


def test_columns_of_parquet_become_columns(tmp_path: Path) -> None:
    import datetime

    when = pa.array([datetime.datetime(2024, 5, 1, 12), None], pa.timestamp("s"))
    pq.write_table(pa.table({"body": ["one", "two"], "when": when, "n": [1, 2]}), tmp_path / "a.parquet")
    source = {"use": "parquet", "paths": str(tmp_path), "columns": {"text": "body", "date": "when", "meta": ["n"]}}
    _, (one, two), _ = run(tmp_path / "out", source)
    assert (one["date"], two["date"]) == ("2024-05-01T12:00:00", None)
    assert orjson.loads(two["meta"]) == {"n": 2}


def test_tinyshakespeare_becomes_documents_of_the_size_wanted(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "text" / "tinyshakespeare.txt"
    source = {"use": "text", "paths": str(path), "split": "blank_lines", "join_characters": "2k", "licence": "CC0-1.0"}
    counts, found, _ = run(tmp_path, source)
    assert "\n\n".join(texts(found)) == re.sub(r"\n{3,}", "\n\n", path.read_text().strip())
    assert 500 < counts["documents_out"] < 700
    assert max(map(len, texts(found))) < 4000
    assert found[0]["text"].startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n")
    assert found[0]["licence"] == "CC0-1.0"


def test_every_file_of_a_folder_is_a_document_by_default(tmp_path: Path) -> None:
    for name, text in {
        "b.txt": "b\n\nb",
        "sub/a.md": "\ufeffa",
        "c.txt.gz": "c",
        "d.jpg": "d",
        ".hidden.txt": "e",
    }.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(PACK[".gz" if name.endswith(".gz") else ""](text.encode()))
    _, found, _ = run(tmp_path / "out", {"use": "text", "paths": str(tmp_path / "in")})
    assert [(Path(row["url"]).name, row["text"]) for row in found] == [
        ("b.txt", "b\n\nb"),
        ("c.txt.gz", "c"),
        ("a.md", "a"),
    ]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    paths = [str(tmp_path / "b.txt"), str(tmp_path / "*.txt"), str(tmp_path)]
    _, found, _ = run(tmp_path / "out", {"use": "text", "paths": paths})
    assert texts(found) == ["b", "a"]


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    for number in range(6):
        lines = [orjson.dumps({"text": f"{number} {line} " + "word " * line}).decode() for line in range(40)]
        (tmp_path / f"{number}.jsonl").write_text("\n".join([*lines, "{broken"]))
    source = {"use": "jsonl", "paths": str(tmp_path / "*.jsonl")}
    contents = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        counts, _, _ = run(out, source, workers=workers, shard_bytes=3000, max_bad_fraction=0.1)
        files = {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}
        contents.append((counts, files))
    assert contents[0] == contents[1]
    assert len(contents[0][1]) > 12


def test_finished_parts_are_not_read_again(tmp_path: Path) -> None:
    whole = gzip.compress(b"c" * 100)
    (tmp_path / "a.txt").write_text("a" * 100)
    (tmp_path / "b.txt").write_text("b" * 100)
    (tmp_path / "c.txt.gz").write_bytes(whole[:-4])
    source = {"use": "text", "paths": str(tmp_path / "*.*")}
    with pytest.raises(InputError, match=r"c.txt.gz"):
        run(tmp_path / "out", source, shard_bytes=100, max_damaged_files=0)
    (tmp_path / "a.txt").write_text("x" * 100)  # not seen: its part is done
    (tmp_path / "c.txt.gz").write_bytes(whole)
    counts, found, _ = run(tmp_path / "out", source, shard_bytes=100, max_damaged_files=0)
    assert [text[0] for text in texts(found)] == ["a", "b", "c"]
    assert counts["documents_out"] == 3
    again, found, _ = run(tmp_path / "out", source, shard_bytes=100)  # killed between the last shard and the manifest
    assert again == counts
    assert len(found) == 3


def test_sources_keep_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    sources = {f"{name}-0": {"use": "text", "paths": str(tmp_path / f"{name}.txt")} for name in "ba"}
    counts = read(Read.model_validate({"sources": sources}), {}, Workspace(tmp_path / "out", Machine(workers=1)))
    names = [path.name for path in shards_in(tmp_path / "out" / "documents")]
    assert names == ["a-0-00000.parquet", "b-0-00000.parquet"]
    assert [(row["source"], row["text"]) for row in rows(tmp_path / "out" / "documents")] == [
        ("a-0", "a"),
        ("b-0", "b"),
    ]
    assert counts["sources"]["a-0"]["documents_out"] == 1
    assert counts["sources"]["a-0"]["input_bytes"] == 1


# ---------------------------------------------------------------------------------------------------- fingerprints


def test_the_fingerprint_changes_with_the_content_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    read_settings = Read.model_validate({"sources": {"web": {"use": "text", "paths": str(path)}}})
    first = read_settings.fingerprint(hash_file)
    assert first == {"web": [[str(path), 3, hash_file(path)]]}
    os.utime(path, (1, 1))
    assert read_settings.fingerprint(hash_file) == first
    path.write_text("two")
    assert read_settings.fingerprint(hash_file) != first
    assert read_settings.input_bytes() == 3


@pytest.mark.parametrize("name", ["Web", "a/b", "", "-a", "a b", "é"])
def test_names_of_sources_are_safe_in_file_names(name: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        Read.model_validate({"sources": {name: {"use": "text", "paths": "x"}}})


def test_a_setting_without_effect_is_refused() -> None:
    with pytest.raises(ValidationError, match="join_characters joins pieces"):
        Read.model_validate({"sources": {"web": {"use": "text", "paths": "x", "join_characters": 10}}})


# ------------------------------------------------------------------------------------------------------- bad input


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "poems.txt").write_text("a")
    read_settings = Read.model_validate({"sources": {"web": {"use": "text", "paths": str(tmp_path / "poem.txt")}}})
    with pytest.raises(InputError) as caught:
        read_settings.fingerprint(hash_file)
    expected = f"{tmp_path}/poem.txt: no such file or folder (source 'web'); hint: did you mean 'poems.txt'?"
    assert str(caught.value) == expected


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    problem = problem_of(tmp_path, {"use": "text", "paths": str(tmp_path / "dat" / "x" / "a.txt")})
    assert f"there is no folder {tmp_path}/dat" in problem
    assert "did you mean 'data'?" in problem


@pytest.mark.parametrize("paths", ["nothing/*.txt", "in"])
def test_a_pattern_or_folder_without_files(tmp_path: Path, paths: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.html").write_text("a")
    problem = problem_of(tmp_path, {"use": "text", "paths": str(tmp_path / paths)})
    assert "no file fits this pattern" in problem or "holds no .txt" in problem


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    assert "a.jsonl: is empty" in problem_of(tmp_path, {"use": "jsonl", "paths": str(tmp_path / "a.jsonl")})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    assert "cannot be read (Permission denied)" in problem_of(
        tmp_path, {"use": "text", "paths": str(tmp_path / "a.txt")}
    )


@pytest.mark.parametrize("source", [{"use": "text", "split": "lines"}, {"use": "jsonl"}])
def test_a_source_that_yields_nothing(tmp_path: Path, source: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    problem = problem_of(tmp_path, {**source, "paths": str(tmp_path / "a.jsonl")})
    assert problem.startswith("read.sources.web: yields no documents")


def test_empty_documents_are_dropped_and_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": "one"}\n{"text": " \\n"}\n')
    counts, found, dropped = run(tmp_path / "out", {"use": "jsonl", "paths": str(tmp_path / "a.jsonl")})
    assert texts(found) == ["one"]
    assert [(row["rule"], row["text"]) for row in dropped] == [("empty", ""), ("empty", " \n")]
    assert counts["dropped"] == {"empty": {"documents": 2, "bytes": 2}}
    assert (counts["documents_in"], counts["documents_out"]) == (3, 1)


def test_bad_records_are_kept_with_their_line_and_the_run_goes_on(tmp_path: Path) -> None:
    good = [b'{"text": "%d"}' % number for number in range(1000)]
    bad = {100: b'{"text": "x', 400: b'{"text": "\xff"}', 700: b'{"body": "x"}', 701: b"[1]", 702: b'{"text": 3}'}
    lines = [bad.get(number, line) for number, line in enumerate(good, start=1)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    source = {"use": "jsonl", "paths": str(tmp_path / "a.jsonl")}
    counts, found, dropped = run(tmp_path / "out", source, shard_bytes=2000)  # several spans: lines count in the file
    assert len(found) == 995
    assert {rule: count["documents"] for rule, count in counts["dropped"].items()} == {
        "malformed_json": 1,
        "not_utf8": 1,
        "no_text": 3,
    }
    details = [(row["rule"], row["detail"].removeprefix(str(tmp_path))) for row in dropped]
    assert details[0] == ("malformed_json", "/a.jsonl:100: unexpected end of data: line 1 column 12 (char 11)")
    assert details[1] == ("not_utf8", "/a.jsonl:400: not UTF-8 (byte 10: invalid start byte)")
    assert details[2] == ("no_text", "/a.jsonl:700: no field 'text'; choose from body")
    assert details[3] == ("no_text", "/a.jsonl:701: a JSON list, not an object")
    assert details[4] == ("no_text", "/a.jsonl:702: field 'text' holds no text but int")
    assert dropped[1]["text"] == '{"text": "\ufffd"}'


def test_too_many_bad_records_stop_the_run_and_name_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 98 + "{\n{\n")
    source = {"use": "jsonl", "paths": str(tmp_path / "a.jsonl")}
    problem = problem_of(tmp_path, source, max_bad_fraction=0.01)
    assert "read.sources.web: 2 of 100 records are bad, more than max_bad_fraction 0.01 allows" in problem
    assert "a.jsonl:99: " in problem
    assert len(run(tmp_path / "more", source)[1]) == 98, "a few never stop a run"


def test_a_hopeless_file_is_given_up_early(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("id,text\n" * 3000)
    source = {"use": "jsonl", "paths": str(tmp_path / "a.jsonl")}
    assert "1000 of 1000 records are bad" in problem_of(tmp_path, source)
    with pytest.raises(EmptyResultError, match="3000 records were read"):
        run(tmp_path / "all", source, max_bad_fraction=1)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo \xe9t\xe9\n\nthree")
    source = {"use": "text", "paths": str(tmp_path / "a.txt"), "split": "blank_lines"}
    problem = problem_of(tmp_path, source, max_bad_fraction=0)
    assert "1 of 3 records are bad" in problem
    assert "a.txt:3: not UTF-8 (byte 4: invalid continuation byte)" in problem
    _, found, dropped = run(tmp_path / "more", source)
    assert texts(found) == ["one", "three"]
    assert [(row["rule"], row["text"]) for row in dropped] == [("not_utf8", "two \ufffdt\ufffd")]


def test_parquet_rows_without_usable_text(tmp_path: Path) -> None:
    raw = pa.array([b"one", None, b"\xff", b"two"])
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())  # a careless writer does not check
    pq.write_table(pa.table({"text": text, "url": ["a", "b", "c", "d"]}), tmp_path / "a.parquet")
    source = {"use": "parquet", "paths": str(tmp_path), "columns": {"url": "url"}}
    _, found, dropped = run(tmp_path / "out", source, max_bad_fraction=0.5)
    assert [(row["text"], row["url"]) for row in found] == [("one", "a"), ("two", "d")]
    assert [(row["rule"], row["text"]) for row in dropped] == [("no_text", ""), ("not_utf8", "\ufffd")]
    assert "row 2: the text is null" in dropped[0]["detail"]


def test_a_wrong_column_names_the_right_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"texts": ["a"], "n": [1]}), tmp_path / "a.parquet")
    problem = problem_of(tmp_path, {"use": "parquet", "paths": str(tmp_path)})
    assert "has no column 'text'; did you mean 'texts'?" in problem
    assert "its columns are texts, n" in problem
    problem = problem_of(tmp_path, {"use": "parquet", "paths": str(tmp_path), "columns": {"text": "n"}})
    assert "column 'n' holds int64, not text" in problem
    assert "columns that hold text: texts" in problem


@pytest.mark.parametrize("keep", [0.5, 0.99])
@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("source", [{"use": "jsonl"}, {"use": "text"}, {"use": "text", "split": "lines"}])
def test_a_truncated_file_is_named(tmp_path: Path, source: dict[str, Any], ending: str, keep: float) -> None:
    words = [hashlib.sha256(str(number).encode()).hexdigest() * 20 for number in range(3000)]
    content = PACK[ending](b"".join(orjson.dumps({"text": word}) + b"\n" for word in words))
    path = tmp_path / f"b.jsonl{ending}"
    path.write_bytes(content[: int(len(content) * keep)])
    for name in ("a", "c"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "whole"}')
    settings = {**source, "paths": str(tmp_path / "*.jsonl*")}
    out = Workspace(tmp_path / "out", Machine(workers=1))
    counts = read(Read.model_validate({"sources": {"web": settings}}), {}, out)
    found, lost = texts(rows(tmp_path / "out" / "documents")), rows(tmp_path / "out" / "dropped")
    assert "whole" in found[0], "files before it are read"
    assert "whole" in found[-1], "files behind it are read"
    assert [(row["rule"], row["url"], row["text"]) for row in lost] == [("damaged_file", str(path), "")]
    assert f"{path}: cannot be read to its end (Truncated compressed stream)" in lost[0]["detail"]
    assert counts["sources"]["web"]["dropped"] == {"damaged_file": 1}
    assert [warning.split(", of which")[0] for warning in out.warnings] == ["read.sources.web: 1 file is damaged"]
    assert str(path) in out.warnings[0]
    if source["use"] == "jsonl" or "split" in source:
        assert f"its first {len(found) - 2} lines" in lost[0]["detail"]
        assert 0.9 * keep < len(found) / 3000 < keep + 0.01, "all but the last few bytes before the damage"
    problem = problem_of(tmp_path, settings, max_damaged_files=0)
    assert "1 file is damaged, more than max_damaged_files 0 allows: " in problem
    alone = problem_of(tmp_path, {"use": "text", "paths": str(path)})
    assert alone.startswith(f"{path}: cannot be read to its end (Truncated compressed stream)")


def test_a_file_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_text('{"text": "a"}\n')
    assert "a.jsonl.gz: cannot be read to its end" in problem_of(tmp_path, {"use": "jsonl", "paths": str(tmp_path)})
    (tmp_path / "b.parquet").write_text("text\n" * 100)
    assert "b.parquet: is not a Parquet file" in problem_of(tmp_path, {"use": "parquet", "paths": str(tmp_path)})


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    words = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20000)]
    pq.write_table(pa.table({"text": words}), path, row_group_size=5000, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:-20])
    pq.write_table(pa.table({"text": ["whole"]}), tmp_path / "c.parquet")
    counts, found, lost = run(tmp_path / "out", {"use": "parquet", "paths": str(tmp_path)}, shard_bytes=1 << 18)
    assert len(found) > 10_000, "row groups before and behind the damage are read"
    assert found[-1]["text"] == "whole"
    details = [row["detail"] for row in lost]
    assert any(detail.startswith(f"{path}: cannot be read to its end") for detail in details)
    assert any(detail.startswith(f"{tmp_path}/b.parquet: is not a Parquet file, or only") for detail in details)
    assert counts["dropped"]["damaged_file"]["documents"] == len(lost)
    assert "2 files are damaged" in problem_of(
        tmp_path, {"use": "parquet", "paths": str(tmp_path)}, max_damaged_files=1
    )


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there the next time must not be left out for good."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 100)

    class Failing:
        closed = False

        def read(self, size: int) -> bytes:
            raise TimeoutError("timed out")

        def close(self) -> None: ...

    monkeypatch.setattr("headwater.documents.sources.files.urls.is_url", lambda _: True)
    monkeypatch.setattr("headwater.documents.sources.files.urls.opened", lambda _: Told(Failing()))
    source = JsonLines(use="jsonl", paths=("a.jsonl",))
    with (
        Intake("web", tmp_path / "out", "web-0", 1 << 20, 0.01) as intake,
        pytest.raises(UnreachableError, match="timed out"),
    ):
        source.read((Span("a.jsonl"),), intake)
    assert not intake.damaged


def test_what_was_read_is_kept_when_a_server_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(settings: Any, inputs: Any, out: Workspace) -> Any:
        (out.folder / "done").write_text("")
        raise UnreachableError("is away", place="s3://bucket", hint="wait")

    monkeypatch.setitem(globals(), "failing_door", failing)
    stage = Stage("read", f"{__name__}:failing_door", {})
    step = Store(tmp_path).plan(stage, Config(), {}, HashMemory(tmp_path / "hashes.json"))
    with pytest.raises(UnreachableError):
        perform(step, Machine(workers=1))
    assert (step.partial / "done").exists()


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(66):
            file.write(b" " * (1 << 20))
    problem = problem_of(tmp_path, {"use": "jsonl", "paths": str(tmp_path)})
    assert "yields no documents; 1 records were read and dropped: too_long 1" in problem
    assert "may have 64 MiB: check `use` and `split`" in problem
    problem = problem_of(tmp_path, {"use": "text", "paths": str(tmp_path / "a.jsonl.gz")})
    assert "dropped: too_long 1" in problem


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("use", ["jsonl", "text", "csv", "parquet"])
def test_any_source_can_be_cut_short(tmp_path: Path, use: str, workers: int) -> None:
    for number in range(4):
        words = [f"file {number} line {line}" for line in range(50)]
        if use == "parquet":
            pq.write_table(pa.table({"text": words}), tmp_path / f"{number}.parquet", row_group_size=10)
            continue
        lines = [orjson.dumps({"text": word}).decode() for word in words] if use == "jsonl" else words
        lines = ["text", *lines] if use == "csv" else lines
        (tmp_path / f"{number}.{'txt' if use == 'text' else use}").write_text("\n".join(lines))
    source = {"use": use, "paths": str(tmp_path), "max_documents": 70} | ({"split": "lines"} if use == "text" else {})
    counts, found, _ = run(tmp_path / "out", source, workers, shard_bytes=200)
    assert texts(found) == [f"file {n // 50} line {n % 50}" for n in range(70)]
    assert counts["documents_in"] == 70

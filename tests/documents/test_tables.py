"""CSV, TSV and Arrow: what is in the cells is what comes out; what is wrong with a row is counted and kept."""

import csv
import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.errors import EmptyResultError, InputError

from .reading import problem_of, run, texts

CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VISIBLE = CELL.filter(lambda text: text.strip())


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(CELL, VISIBLE, CELL), min_size=1, max_size=15),
    delimiter=st.sampled_from([",", "\t", ";"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], delimiter: str, end: str
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("n", "text", "url"), *rows])
    source = {"use": "csv", "paths": str(folder), "delimiter": delimiter, "columns": {"url": "url"}}
    _, found, dropped = run(folder / "out", source)
    assert texts(found) == [row[1] for row in rows]
    assert [row["url"] for row in found] == [row[2] or str(folder / "a.csv") for row in rows]
    assert not dropped


@settings(max_examples=150)
@given(content=st.binary(min_size=1, max_size=200) | st.text('",\n\r\tab\x00é', min_size=1).map(str.encode))
@pytest.mark.parametrize("quoted", [True, False])
def test_whatever_is_in_a_csv_file_is_read_counted_or_said(
    tmp_path_factory: pytest.TempPathFactory, quoted: bool, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    (folder / "a.csv").write_bytes(b"text,n\nfirst,1\n" + content)
    source = {"use": "csv", "paths": str(folder), "quoted": quoted}
    counts, found, dropped = run(folder / "out", source, max_bad_fraction=1)
    assert found[0]["text"] == "first"
    assert counts["documents_in"] == len(found) + len(dropped)
    seen = b"".join(row["text"].encode() for row in found + dropped)
    for letter in b"ab":  # no letter of the content is lost: it is in a document, or in what was dropped
        wanted = sum(line.count(letter) for line in content.split(b"\n"))
        assert seen.count(letter) <= wanted + b"first".count(letter)


def test_embedded_lines_quotes_and_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(
        b'\xef\xbb\xbfid\ttext\twhen\n1\t"two\r\nlines, ""quoted"""\t2024-05-01\n\n2\tplain\t\n'
    )
    source = {"use": "csv", "paths": str(tmp_path), "columns": {"date": "when", "meta": ["id"]}, "language": "en"}
    _, (one, two), dropped = run(tmp_path / "out", source)
    assert one["text"] == 'two\r\nlines, "quoted"'
    assert (one["date"], two["date"], two["language"]) == ("2024-05-01", None, "en")
    assert orjson.loads(one["meta"]) == {"id": "1"}
    assert not dropped


def test_files_without_header_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('say "hi\t1\nthe 5" disk\t2\n')
    source = {"use": "csv", "paths": str(tmp_path / "a.txt"), "delimiter": "\t", "quoted": False}
    _, found, _ = run(tmp_path / "out", source | {"header": ["text", "n"]})
    assert texts(found) == ['say "hi', 'the 5" disk']


def test_bad_rows_are_kept_with_their_line(tmp_path: Path) -> None:
    rows = ["text,n", "good,1", "short", '"two\nlines",2', "a,b,c", '"wrong"quote,3', "good,4"]
    (tmp_path / "a.csv").write_bytes("\n".join(rows).encode() + b'\n\xff,5\nfine,\xff\n"open,6\n')
    source = {"use": "csv", "paths": str(tmp_path)}
    counts, found, dropped = run(tmp_path / "out", source, max_bad_fraction=0.6)
    assert texts(found) == ["good", "two\nlines", "good", "fine"]
    details = [(row["rule"], row["detail"].removeprefix(str(tmp_path)), row["text"]) for row in dropped]
    assert details == [
        ("wrong_fields", "/a.csv:3: 1 fields, the header has 2", "short"),
        ("wrong_fields", "/a.csv:6: 3 fields, the header has 2", "a,b,c"),
        ("malformed_csv", "/a.csv:7: ',' expected after '\"'", '"wrong"quote,3'),
        ("not_utf8", "/a.csv:9: field 1 is not UTF-8 (byte 0: invalid start byte)", "\ufffd,5"),
        ("malformed_csv", "/a.csv:11: unexpected end of data", '"open,6'),
    ]
    assert counts["documents_in"] == 9


def test_a_column_that_a_csv_file_lacks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id;texts\n1;a\n")
    problem = problem_of(tmp_path, {"use": "csv", "paths": str(tmp_path)})
    assert "has no column 'text'" in problem
    assert "its columns are id;texts; check `delimiter`" in problem
    problem = problem_of(tmp_path, {"use": "csv", "paths": str(tmp_path), "delimiter": ";"})
    assert "did you mean 'texts'?" in problem
    (tmp_path / "a.csv").write_text("text,text\n1,a\n")
    assert "has two columns 'text'" in problem_of(tmp_path, {"use": "csv", "paths": str(tmp_path)})


def test_a_csv_file_with_a_header_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,n\n")
    assert "yields no documents; 0 records were read" in problem_of(tmp_path, {"use": "csv", "paths": str(tmp_path)})


def test_a_quote_left_open_does_not_fill_the_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        file.write(b'text,n\n"open,1\n')
        for _ in range(66):
            file.write((b"x" * 1020 + b",2\n") * 1024)
    counts, _, lost = run(tmp_path / "out", {"use": "csv", "paths": str(tmp_path)})
    assert [(row["rule"], row["text"]) for row in lost] == [("malformed_csv", '"open,1')]
    assert lost[0]["detail"].startswith(f"{tmp_path}/a.csv:2: a quote is left open for ")
    assert counts["documents_out"] == 66 * 1024, "what it swallowed is parsed once more"


def test_a_quote_left_open_near_the_end_swallows_nothing(tmp_path: Path) -> None:
    lines = [f"{'word ' * 100}{number},1\n" for number in range(5000)]
    (tmp_path / "a.csv").write_text("text,n\n" + "".join(lines[:100]) + '"open,1\n' + "".join(lines[100:]))
    _, found, lost = run(tmp_path / "out", {"use": "csv", "paths": str(tmp_path)})
    assert len(found) == 5000
    assert [(row["rule"], row["text"]) for row in lost] == [("malformed_csv", '"open,1')]
    assert f"{tmp_path}/a.csv:102: " in lost[0]["detail"]


# ----------------------------------------------------------------------------------------------------------- arrow


def written(path: Path, table: pa.Table, rows: int, kind: str) -> None:
    opened = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with opened(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


@settings(max_examples=30)
@given(
    documents=st.lists(VISIBLE, min_size=1, max_size=20),
    size=st.integers(1, 2000),
    rows=st.integers(1, 7),
    kind=st.sampled_from(["file", "stream"]),
    text=st.sampled_from([pa.string(), pa.large_string(), pa.string_view()]),
)
def test_arrow_round_trip(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], size: int, rows: int, kind: str, text: pa.DataType
) -> None:
    folder = tmp_path_factory.mktemp("arrow")
    table = pa.table({"n": list(range(len(documents))), "text": pa.array(documents, text)})
    written(folder / "a.arrow", table, rows, kind)
    source = {"use": "arrow", "paths": str(folder), "columns": {"meta": ["n"]}}
    _, found, _ = run(folder / "out", source, shard_bytes=size)
    assert texts(found) == documents
    assert [orjson.loads(row["meta"])["n"] for row in found] == list(range(len(documents)))


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather_files(tmp_path: Path, compression: str) -> None:
    table = pa.table({"text": [f"document {number}" for number in range(3000)]})
    pyarrow.feather.write_feather(table, str(tmp_path / "a.feather"), compression=compression)
    _, found, _ = run(tmp_path / "out", {"use": "arrow", "paths": str(tmp_path)})
    assert texts(found) == table["text"].to_pylist()


def test_arrow_rows_without_usable_text(tmp_path: Path) -> None:
    raw = pa.array([b"one", None, b"\xff", b"two"])
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    year_33658 = pa.array([10**12, 1, 2, 3], pa.timestamp("s"))
    written(tmp_path / "a.arrow", pa.table({"text": text, "when": year_33658}), 4, "file")
    source = {"use": "arrow", "paths": str(tmp_path), "columns": {"date": "when"}}
    _, found, dropped = run(tmp_path / "out", source, max_bad_fraction=0.5)
    assert texts(found) == ["one", "two"]
    assert "row 3: not UTF-8" in dropped[1]["detail"]


def test_arrow_files_that_are_none(tmp_path: Path) -> None:
    source = {"use": "arrow", "paths": str(tmp_path)}
    (tmp_path / "a.arrow").write_text("text\n" * 100)
    assert "a.arrow: is not an Arrow file" in problem_of(tmp_path, source)
    (tmp_path / "a.arrow").write_bytes(b"FEA1" + bytes(100))
    assert "the first version of Feather" in problem_of(tmp_path, source)
    (tmp_path / "a.arrow").write_bytes(b"ARROW1" + bytes(100))
    assert "a.arrow: is not an Arrow file" in problem_of(tmp_path, source)


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_damaged_arrow_files_end_no_process(tmp_path: Path, kind: str) -> None:
    table = pa.table({"text": [f"document {number}" for number in range(200)]})
    written(tmp_path / "a.arrow", table, 50, kind)
    good = (tmp_path / "a.arrow").read_bytes()
    outcomes = set()
    for place in range(8, len(good), 97):
        (tmp_path / "a.arrow").write_bytes(good[:place] + b"\xff\x7f\xff" + good[place + 3 :])
        try:
            run(tmp_path / f"out{place}", {"use": "arrow", "paths": str(tmp_path / "a.arrow")}, max_bad_fraction=1)
            outcomes.add("read")
        except (InputError, EmptyResultError):
            outcomes.add("said")
    assert outcomes >= {"read"}
    (tmp_path / "a.arrow").write_bytes(good[: len(good) // 2])
    source = {"use": "arrow", "paths": str(tmp_path)}
    assert "a.arrow: " in problem_of(tmp_path, source, max_damaged_files=0)
    written(tmp_path / "b.arrow", table, 50, kind)
    _, found, lost = run(tmp_path / "out", source)
    assert texts(found)[-200:] == table.column("text").to_pylist()
    assert len(found) in ((200,) if kind == "file" else (250, 300, 350)), "a file's table of contents is at its end"
    assert [(row["rule"], row["url"]) for row in lost] == [("damaged_file", str(tmp_path / "a.arrow"))]


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"text": [f"document {number}" for number in range(30)], "n": list(range(30))})
    data.save_to_disk(str(tmp_path / "saved"), num_shards=3)
    assert len(json.loads((tmp_path / "saved" / "state.json").read_text())["_data_files"]) == 3
    written(tmp_path / "saved" / "cache-1234.arrow", pa.table({"text": ["of a cache"]}), 1, "stream")
    _, found, _ = run(tmp_path / "out", {"use": "arrow", "paths": str(tmp_path / "saved")})
    assert texts(found) == data["text"][:]


def test_a_table_names_the_columns_it_has(tmp_path: Path) -> None:
    written(tmp_path / "a.arrow", pa.table({"texts": ["a"], "n": [1]}), 1, "file")
    problem = problem_of(tmp_path, {"use": "arrow", "paths": str(tmp_path)})
    assert "has no column 'text'; did you mean 'texts'?" in problem
    source: dict[str, Any] = {"use": "arrow", "paths": str(tmp_path), "columns": {"text": "n"}}
    assert "column 'n' holds int64, not text" in problem_of(tmp_path, source)

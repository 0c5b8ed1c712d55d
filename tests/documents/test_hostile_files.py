"""Files that are out to break a reader, or look like it: bombs, loops, endless lines, odd characters, noise."""

import gzip
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from .reading import problem_of, run, texts

MEASURED = """
import resource, sys
from headwater.core.errors import EmptyResultError, InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.read import Read, read
from pathlib import Path
import headwater.documents.sources.tables, headwater.documents.sources.delimited
folder, use = sys.argv[1:]
def attempt(paths, out):
    try:
        settings = Read.model_validate({"sources": {"web": {"use": use, "paths": paths}}})
        read(settings, {}, Workspace(Path(folder) / out, Machine(workers=1)))
    except (InputError, EmptyResultError) as error:
        return str(error)
attempt(folder + "/small.gz", "small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problem = attempt(folder + "/bomb.gz", "big")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, problem)
"""


@pytest.mark.parametrize("use", ["jsonl", "text", "csv"])
def test_a_bomb_does_not_fill_the_memory(tmp_path: Path, use: str) -> None:
    """10 GB of zeros in 10 MB: given up after 1 GiB without the end of a line, or 64 MiB of one document."""
    (tmp_path / "small.gz").write_bytes(gzip.compress(b'text\n{"text": "a"}\n' if use == "csv" else b'{"text": "a"}\n'))
    member = gzip.compress(bytes(64 << 20), compresslevel=9)
    with (tmp_path / "bomb.gz").open("wb") as file:
        file.write(gzip.compress(b"text,n\n") if use == "csv" else b"")
        for _ in range(160):
            file.write(member)
    assert (tmp_path / "bomb.gz").stat().st_size < 12_000_000
    command = [sys.executable, "-c", MEASURED, str(tmp_path), use]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    megabytes, _, problem = done.stdout.partition(" ")
    assert ("64 MiB" if use == "text" else "goes on for 1024 MiB without the end of a line") in problem
    assert int(megabytes) < 220, "three times the longest line is allowed"


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_line_of_100_mb_is_passed_over_in_linear_time(tmp_path: Path, ending: str) -> None:
    line = b'{"text": "a"}\n' + orjson.dumps({"text": "x" * 100_000_000}) + b'\n{"text": "b"}\n'
    (tmp_path / f"a.jsonl{ending}").write_bytes(gzip.compress(line, compresslevel=1) if ending else line)
    started = time.process_time()
    for max_bad_fraction, shard_bytes in ((0.0, 8 << 20), (0.01, 1 << 30)):
        settings = {"max_bad_fraction": max_bad_fraction, "shard_bytes": shard_bytes}
        _, found, lost = run(tmp_path / f"out{shard_bytes}", {"use": "jsonl", "paths": str(tmp_path)}, **settings)
        assert texts(found) == ["a", "b"]
        assert [(row["rule"], row["value"], len(row["text"])) for row in lost] == [("too_long", 100_000_011, 2000)]
        assert lost[0]["detail"].startswith(f"{tmp_path}/a.jsonl{ending}:2: a line of 100,000,011 bytes")
    assert time.process_time() - started < 5


def test_a_line_just_within_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps({"text": "é" * 30_000_000}) + b'\n{"text": "b"}\n')
    _, found, _ = run(tmp_path / "out", {"use": "jsonl", "paths": str(tmp_path)})
    assert [len(text) for text in texts(found)] == [30_000_000, 1]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("use", ["jsonl", "text"])
def test_an_archive_of_files_is_named_and_not_read_as_lines(tmp_path: Path, name: str, use: str) -> None:
    """Whatever paths are in it, `../` among them, nothing is unpacked."""
    (tmp_path / "in").mkdir()
    lines = ('{"text": "a line of the file"}\n' * 400).encode()
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / "in" / name, "w") as archive:
            archive.writestr("../outside.jsonl", lines)
    else:
        with tarfile.open(tmp_path / "in" / name, "w:gz" if name.endswith(".gz") else "w") as archive:
            member = tarfile.TarInfo("../outside.jsonl")
            member.size = len(lines)
            archive.addfile(member, io.BytesIO(lines))
    problem = problem_of(tmp_path, {"use": use, "paths": [str(tmp_path / "in" / name)]})
    assert f"is a {name.split('.')[1]} archive of files; unpack it" in problem
    assert not list(tmp_path.rglob("outside*"))


def test_lone_surrogates_are_bad_records(tmp_path: Path) -> None:
    lines = [
        r'{"text": "a \ud800 b"}',
        r'{"text": "\udc00"}',
        r'{"text": "\ud83d\ude00"}',
        r'{"text": "x", "\ud800": 1}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    _, found, dropped = run(tmp_path / "out", {"use": "jsonl", "paths": str(tmp_path)}, max_bad_fraction=1)
    assert texts(found) == ["\U0001f600"]
    assert [row["rule"] for row in dropped] == ["malformed_json"] * 3
    assert dropped[0]["text"] == lines[0]


def test_nul_bytes_and_other_controls_stay_in_the_text(tmp_path: Path) -> None:
    odd = ["a\0b", "\0", "\x1a", "\x85", "\u2028\u2029x", "\ufeff", "\U0010ffff"]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(orjson.dumps({"text": text}) for text in odd))
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in odd), encoding="utf-8")
    (tmp_path / "a.txt").write_text("\n".join(odd), encoding="utf-8")
    for use in ("jsonl", "csv", "text"):
        source = {"use": use, "paths": str(tmp_path)} | ({"split": "lines"} if use == "text" else {})
        _, found, dropped = run(tmp_path / "out" / use, source)
        assert sorted(texts(found) + texts(dropped)) == sorted(odd), use
        assert {row["rule"] for row in dropped} <= {"empty"}


def test_deep_nesting_is_a_bad_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b", "x": ' + "[" * 200_000 + "\n")
    _, found, dropped = run(tmp_path / "out", {"use": "jsonl", "paths": str(tmp_path)}, max_bad_fraction=1)
    assert (texts(found), len(dropped)) == (["a"], 1)


@pytest.mark.parametrize("use", ["jsonl", "csv", "text"])
@pytest.mark.parametrize("space", ["", " ", "\t \u00a0\u3000", "\u2003"])
def test_documents_of_nothing_but_space(tmp_path: Path, use: str, space: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps({"text": space}) + b'\n{"text": "a"}\n')
    (tmp_path / "a.csv").write_text(f'text,n\n"{space}",1\na,2\n', encoding="utf-8")
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    (tmp_path / "b.txt").write_text(space or "\n", encoding="utf-8")
    counts, found, dropped = run(tmp_path / "out", {"use": use, "paths": str(tmp_path)})
    assert texts(found) == ["a"]
    assert [row["rule"] for row in dropped] == ["empty"]
    assert counts["documents_in"] == 2


def test_loops_of_links_are_not_walked(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.txt").write_text("a")
    for name in ("one", "two", "three"):
        (tmp_path / "in" / "sub" / name).symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.txt").symlink_to(tmp_path / "nothing")
    started = time.monotonic()
    for paths in ("in", "in/**/*.txt", "in/**", "in/*/*.txt"):
        _, found, _ = run(tmp_path / "out" / paths, {"use": "text", "paths": str(tmp_path / paths)})
        assert texts(found) == ["a"], paths
    assert time.monotonic() - started < 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_inside_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("a")
    (tmp_path / "in" / "closed").chmod(0)
    problem = problem_of(tmp_path, {"use": "text", "paths": str(tmp_path / "in")})
    assert f"{tmp_path}/in/closed: cannot be read (Permission denied)" in problem


def test_patterns_leave_hidden_files_alone_unless_they_ask(tmp_path: Path) -> None:
    for name in ("a.txt", ".b.txt", ".c/d.txt", "e[1].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    for pattern, expected in {
        "*.txt": ["a.txt", "e[1].txt"],
        ".*.txt": [".b.txt"],
        "**/d.txt": None,
        "e[[]1].txt": ["e[1].txt"],
        "e[1].txt": ["e[1].txt"],  # a file of this very name
    }.items():
        source = {"use": "text", "paths": str(tmp_path / pattern)}
        if expected is None:
            assert "no file fits" in problem_of(tmp_path, source)
        else:
            assert texts(run(tmp_path / "out" / pattern, source)[1]) == expected


@settings(max_examples=200)
@given(
    lines=st.lists(
        st.binary(max_size=60)
        | st.text('{}[]",:\\ textu0d8\ud800"'.replace("\ud800", "")).map(str.encode)
        | st.recursive(
            st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "url", "x"]), inner),
            max_leaves=5,
        ).map(lambda value: orjson.dumps(value, default=str)),
        min_size=1,
        max_size=8,
    ),
    packed=st.sampled_from([bytes, gzip.compress, zstandard.compress]),
)
def test_whatever_is_in_a_jsonl_file_is_read_counted_or_said(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], packed: object
) -> None:
    folder = tmp_path_factory.mktemp("jsonl")
    ending = {gzip.compress: ".gz", zstandard.compress: ".zst"}.get(packed, "")  # type: ignore[call-overload]
    content = b'{"text": "first"}\n' + b"\n".join(lines)
    (folder / f"a.jsonl{ending}").write_bytes(packed(content))  # type: ignore[operator]
    source = {"use": "jsonl", "paths": str(folder), "fields": {"meta": ["text"]}}
    counts, found, dropped = run(folder / "out", source, max_bad_fraction=1, shard_bytes=40)
    assert found[0]["text"] == "first"
    records = [line for line in content.split(b"\n") if line.strip()]
    assert counts["documents_in"] == len(found) + len(dropped) == len(records)

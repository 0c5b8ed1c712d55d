"""Datasets of the hub: a folder laid out like one, and a server of this machine that imitates the hub."""

import io
import logging
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from headwater.core.errors import MissingExtraError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.read import Read, read
from headwater.documents.sources.dataset_layout import licence_of_card, splits_of

from .hub import COMMIT, REPO, Hub, hub_of
from .reading import fingerprint, problem_of, run, texts

pytest.importorskip("huggingface_hub", reason="needs headwater[hub]")


def parquet(*documents: str) -> bytes:
    out = io.BytesIO()
    numbers = list(range(len(documents)))
    pq.write_table(pa.table({"text": list(documents), "n": numbers}), out, row_group_size=2)
    return out.getvalue()


def jsonl(*documents: str) -> bytes:
    return b"".join(orjson.dumps({"text": text, "n": 1}) + b"\n" for text in documents)


TRAIN = [f"story {number}" for number in range(7)]
CARD = {
    "license": "cc-by-4.0",
    "language": ["en"],
    "configs": [
        {
            "config_name": "plain",
            "default": True,
            "data_files": [
                {"split": "train", "path": "plain/train-*"},
                {"split": "test", "path": ["plain/test.parquet"]},
            ],
        },
        {"config_name": "lines", "data_files": [{"split": "train", "path": "lines/**/*.jsonl"}]},
        {"config_name": "table", "data_dir": "table", "data_files": "*.csv"},
    ],
}
FILES = {
    "README.md": b"---\n" + orjson.dumps(CARD) + b"\n---\n# Stories\n",  # JSON is YAML
    "plain/train-00000-of-00002.parquet": parquet(*TRAIN[:4]),
    "plain/train-00001-of-00002.parquet": parquet(*TRAIN[4:]),
    "plain/test.parquet": parquet("a test"),
    "lines/a.jsonl": jsonl("line a"),
    "lines/sub/b.jsonl": jsonl("line b"),
    "table/c.csv": b"text,n\nin a table,1\n",
    "loader.py": b"raise SystemExit('code of a repository was run')\n",
    ".gitattributes": b"*.parquet filter=lfs\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return laid_out(tmp_path / "stories", FILES)


def laid_out(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


WANTED = [
    ({}, TRAIN),
    ({"split": "test"}, ["a test"]),
    ({"config": "lines"}, ["line a", "line b"]),
    ({"config": "table"}, ["in a table"]),
    ({"data_files": "lines/*.jsonl"}, ["line a"]),
    ({"data_files": ["plain/*.parquet"]}, ["a test", *TRAIN]),
    ({"max_documents": 5}, TRAIN[:5]),
]


@pytest.mark.parametrize(("wanted", "expected"), WANTED)
def test_a_folder_laid_out_like_a_dataset(tmp_path: Path, folder: Path, wanted: dict, expected: list[str]) -> None:
    source = {"use": "huggingface", "repo": str(folder), "columns": {"meta": ["n"]}, **wanted}
    counts, found, dropped = run(tmp_path / "out", source, shard_bytes=20)
    assert texts(found) == expected
    assert not dropped
    assert counts["documents_in"] == counts["documents_out"] == len(expected)
    assert {(row["licence"], row["language"]) for row in found} == {("CC-BY-4.0", "en")}
    assert found[0]["url"].startswith(f"{folder}/")


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(("wanted", "expected"), WANTED)
def test_a_dataset_of_the_hub(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict,
    expected: list[str],
    streaming: bool,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub_of(Hub(FILES, CARD), monkeypatch) as server:
        source = {"use": "huggingface", "repo": REPO, "streaming": streaming, **wanted}
        _, found, _ = run(tmp_path / "out", source, shard_bytes=20)
        assert texts(found) == expected
        assert {(row["licence"], row["language"]) for row in found} == {("CC-BY-4.0", "en")}
        assert found[0]["url"].startswith(f"hf://datasets/{REPO}@{COMMIT}/")
        asked = [path for _, path, _ in server.seen]
        assert not any("loader.py" in path for path in asked)
        if streaming and not wanted:
            assert any("Range" in headers or "range" in headers for _, _, headers in server.seen)


def test_the_commit_is_in_the_fingerprint_and_a_branch_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_of(Hub(FILES, CARD), monkeypatch):
        source = {"use": "huggingface", "repo": REPO}
        assert fingerprint(source)["commit"] == COMMIT
        assert fingerprint(source)["files"] == sorted(name for name in FILES if "train-" in name)
        out = Workspace(tmp_path / "out", Machine(workers=1))
        read(Read.model_validate({"sources": {"web": source}}), {}, out)
        assert out.warnings == [
            f"read.sources.web: {REPO} is read at its commit of today; set revision: {COMMIT} to read the same at any"
            " later time"
        ]
        pinned = Workspace(tmp_path / "pinned", Machine(workers=1))
        read(Read.model_validate({"sources": {"web": source | {"revision": COMMIT}}}), {}, pinned)
        assert pinned.warnings == []
        assert fingerprint(source | {"revision": "v1"})["commit"] == COMMIT


def test_the_fingerprint_of_a_folder_follows_its_files_and_its_card(folder: Path) -> None:
    source = {"use": "huggingface", "repo": str(folder)}
    seen = [fingerprint(source)]
    for name in ("plain/train-00000-of-00002.parquet", "README.md", "plain/test.parquet"):
        with (folder / name).open("ab") as file:
            file.write(b"\n")
        seen.append(fingerprint(source))
    assert seen[0] != seen[1] != seen[2] == seen[3]


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (
            {"split": "tests"},
            "has no split 'tests'; did you mean 'test'? (source 'web'); hint: set split; there are: tra",
        ),
        ({"config": "plane"}, "has no configuration 'plane'; did you mean 'plain'?"),
        ({"config": "x"}, "hint: set config; there are: plain, lines, table"),
        ({"data_files": "x/*"}, "no file fits x/* (source 'web'); hint: its files: "),
        ({"data_files": "*.md"}, "no file fits *.md"),
        ({"data_files": "**/*.[jp]*"}, "holds files of several kinds, such as "),
        ({"columns": {"text": "body"}}, "has no column 'body'"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict, problem: str
) -> None:
    assert problem in problem_of(tmp_path, {"use": "huggingface", "repo": str(folder), **wanted})
    with hub_of(Hub(FILES, CARD), monkeypatch):
        assert problem in problem_of(tmp_path, {"use": "huggingface", "repo": REPO, **wanted})


def test_a_dataset_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_of(Hub(FILES, CARD), monkeypatch):
        problem = problem_of(tmp_path, {"use": "huggingface", "repo": "people/nothing"})
        assert problem.startswith("dataset people/nothing: is not on the hub, or you may not read it")
        problem = problem_of(tmp_path, {"use": "huggingface", "repo": REPO, "revision": "mian"})
        assert "has no revision 'mian'; did you mean 'main'?" in problem
        assert "there are: main, v1, and commits" in problem
    problem = problem_of(tmp_path, {"use": "huggingface", "repo": str(tmp_path / "folder")})
    assert "no such file or folder" in problem


def test_a_private_dataset_and_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = "hf_" + "x" * 34
    source = {"use": "huggingface", "repo": REPO}
    with hub_of(Hub(FILES, CARD, token=token), monkeypatch) as server, caplog.at_level(logging.DEBUG, "headwater"):
        assert "you may not read it" in problem_of(tmp_path, source)
        monkeypatch.setenv("HF_TOKEN", token)
        _, found, _ = run(tmp_path / "out", source)
        assert texts(found) == TRAIN
        assert any(headers.get("authorization") or headers.get("Authorization") for _, _, headers in server.seen)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert token.encode() not in written
    assert token not in caplog.text


def test_an_unreachable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with hub_of(Hub(FILES, CARD), monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        problem = problem_of(tmp_path, {"use": "huggingface", "repo": REPO})
        assert problem.startswith(f"dataset {REPO}: cannot be reached (")


def test_archives_go_through_the_datasets_library(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs headwater[hub]")
    datasets.disable_progress_bars()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("inner.jsonl", jsonl("one", "", "two", "three"))
    folder = laid_out(tmp_path / "stories", {"README.md": b"---\nlicense: mit\n---\n", "train.zip": out.getvalue()})
    source = {"use": "huggingface", "repo": str(folder), "columns": {"meta": ["n"]}}
    _, found, dropped = run(tmp_path / "out", source)
    assert [(row["text"], row["licence"]) for row in found] == [("one", "MIT"), ("two", "MIT"), ("three", "MIT")]
    assert [row["rule"] for row in dropped] == ["empty"]
    assert texts(run(tmp_path / "few", source | {"max_documents": 2})[1]) == ["one", "two"]
    (folder / "train.zip").write_bytes(b"no archive")
    assert "cannot be read by the datasets library" in problem_of(tmp_path, source)


def test_two_workers_read_the_same(tmp_path: Path, folder: Path) -> None:
    source = {"use": "huggingface", "repo": str(folder)}
    one = run(tmp_path / "one", source, workers=1, shard_bytes=20)
    assert run(tmp_path / "two", source, workers=2, shard_bytes=20) == one


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.jsonl", "b.jsonl"], {"train": ["a.jsonl", "b.jsonl"]}),
        (["train.jsonl", "valid.jsonl"], {"train": ["train.jsonl"], "validation": ["valid.jsonl"]}),
        (["my-training-data.csv", "trainer.csv"], {"train": ["my-training-data.csv"]}),
        (["test/a.csv", "train/a.csv"], {"train": ["train/a.csv"], "test": ["test/a.csv"]}),
        (["data/few-00000-of-00001.parquet", "data/x.parquet"], {"few": ["data/few-00000-of-00001.parquet"]}),
    ],
)
def test_splits_by_the_names_of_files(files: list[str], expected: dict[str, list[str]]) -> None:
    assert splits_of(files, {}) == expected


def test_splits_by_name_agree_with_the_datasets_library(tmp_path: Path) -> None:
    data_files = pytest.importorskip("datasets.data_files", reason="needs headwater[hub]")
    for number, files in enumerate(
        [
            ["a.jsonl", "sub/b.jsonl"],
            ["train.jsonl", "eval.jsonl", "x.jsonl"],
            ["corpus_dev.csv", "corpus_train.csv"],
            ["test/a.csv", "train/a.csv", "train/deep/b.csv"],
            ["data/few-00000-of-00001.parquet", "data/more-00000-of-00001.parquet"],
            ["en/train.csv", "de/test.csv"],
        ]
    ):
        folder = laid_out(tmp_path / str(number), dict.fromkeys(files, b"x"))
        patterns = data_files.get_data_patterns(str(folder))
        theirs = {
            str(split): sorted(
                str(Path(file).relative_to(folder))
                for file in data_files.DataFilesList.from_patterns(paths, str(folder))
            )
            for split, paths in patterns.items()
        }
        assert {split: sorted(names) for split, names in splits_of(files, {}).items()} == theirs, files


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "apache-2.0"}, "Apache-2.0"),
        ({"license": ["odc-by"]}, "ODC-By-1.0"),
        ({"license": ["mit", "cc-by-4.0"]}, None),
        ({"license": "other"}, None),
        ({}, None),
    ],
)
def test_licences_of_cards(card: dict[str, Any], licence: str | None) -> None:
    assert licence_of_card(card) == licence


def test_a_card_whose_metadata_is_broken(tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "stories", {"README.md": b"---\na: [1\n---\n", "a.jsonl": jsonl("a")})
    assert "its metadata is not YAML" in problem_of(tmp_path, {"use": "huggingface", "repo": str(folder)})


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="data_files takes the place"):
        Read.model_validate({"sources": {"a": {"use": "huggingface", "repo": "a/b", "split": "x", "data_files": "y"}}})


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match="needs the package huggingface_hub") as caught:
        fingerprint({"use": "huggingface", "repo": "people/nowhere"})
    assert caught.value.hint == "pip install 'headwater[hub]'"


def test_settings_load_no_library() -> None:
    code = "import sys, headwater.documents.read; print(*{'datasets', 'huggingface_hub', 'fsspec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_workers_do_not_ask_which_commit_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A branch that moves while a dataset is read must not mix two commits."""
    from headwater.documents.document import SHARD_BYTES
    from headwater.documents.sources.huggingface import HuggingFace, _on_the_hub
    from headwater.documents.sources.source import Intake

    with hub_of(Hub(FILES, CARD), monkeypatch) as server:
        source = HuggingFace(use="huggingface", repo=REPO)
        (part, *_) = source.parts(SHARD_BYTES)
        _on_the_hub.cache_clear()  # as in another process
        server.seen.clear()
        with Intake("web", tmp_path, "web-00000", SHARD_BYTES, 0.0) as intake:
            source.read(part, intake)
        assert intake.tally.documents_out == len(TRAIN)
        assert not any("/revision/main" in path or "/tree/" in path for _, path, _ in server.seen)

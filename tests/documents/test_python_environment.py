"""The Python environment as a source: docstrings and files of the packages that run these tests."""

import json
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import read_batches, shards_in
from headwater.documents.read import Read, read
from headwater.documents.sources.python_environment import PythonEnvironment, packages_installed
from headwater.documents.sources.source import MAX_RECORD_BYTES


def run(folder: Path, **source: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    settings = Read.model_validate({"sources": {"python": {"use": "python_environment", **source}}})
    counts = read(settings, {}, Workspace(folder, Machine(workers=1)))
    shards = shards_in(folder / "documents")
    return counts, [row for shard in shards for batch in read_batches(shard) for row in batch.to_pylist()]


def test_source_files_of_a_package_with_licence_and_place(tmp_path: Path) -> None:
    counts, documents = run(tmp_path, part="source", packages=["Pluggy"])
    version = metadata.version("pluggy")
    hooks = next(row for row in documents if row["url"] == f"pluggy=={version}/pluggy/_hooks.py")
    assert hooks["text"] == metadata.distribution("pluggy").locate_file("pluggy/_hooks.py").read_text()
    assert {row["licence"] for row in documents} == {"MIT"}
    assert counts["sources"]["python"]["licences"] == {"MIT": len(documents)}


def test_docstrings_of_the_standard_library(tmp_path: Path) -> None:
    counts, documents = run(tmp_path, part="docstrings", packages=["python"])
    place = f"python=={platform.python_version()}"
    by_url = {row["url"]: row for row in documents}
    assert by_url[f"{place}/json/__init__.py"]["text"] == json.__doc__.strip()
    dumps = by_url[f"{place}/json/__init__.py#dumps"]["text"]
    assert dumps.startswith("dumps(obj, *, skipkeys=False, ensure_ascii=True, ")
    assert "``skipkeys`` is true" in dumps
    encoder = by_url[f"{place}/json/encoder.py#JSONEncoder"]["text"]
    assert encoder.startswith("class JSONEncoder(object)\n\nExtensible JSON")
    assert "JSONEncoder.iterencode(self, o, _one_shot=False)\n\nEncode the given object" in encoder
    assert {row["licence"] for row in documents} == {"PSF-2.0"}
    assert not any("site-packages" in row["url"] for row in documents)
    assert counts["bytes_out"] > 2_000_000
    assert counts["sources"]["python"]["dropped"].get("not_utf8", 0) < 10


def test_all_packages_but_headwater_each_with_a_version() -> None:
    packages = packages_installed()
    names = [package.name for package in packages]
    assert names[0] == "python"
    assert names[1:] == sorted(set(names[1:]))
    assert "headwater" not in names
    installed = {entry.name.lower().replace("_", "-").replace(".", "-") for entry in metadata.distributions()}
    assert set(names[1:]) == installed - {"headwater"}
    assert all(package.version == metadata.version(package.name) for package in packages[1:])


def test_the_fingerprint_is_names_and_versions_and_takes_no_time() -> None:
    source = PythonEnvironment(use="python_environment", part="docstrings")
    start = time.perf_counter()
    fingerprint = source.fingerprint(lambda path: pytest.fail("no file is hashed"))
    assert time.perf_counter() - start < 5
    assert fingerprint["python"] == platform.python_version()
    assert ["pyarrow", metadata.version("pyarrow")] in fingerprint["packages"]
    one = source.model_copy(update={"packages": ("pluggy",)})
    assert one.fingerprint(hash)["packages"] == [["pluggy", metadata.version("pluggy")]]


def test_a_package_that_is_not_installed_is_named() -> None:
    source = PythonEnvironment(use="python_environment", part="source", packages=("plugy",))
    with pytest.raises(InputError, match=r"package 'plugy' is not installed; did you mean 'pluggy'\?; hint: "):
        source.fingerprint(hash)


def test_files_are_never_run_and_bad_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    info = site / "tricky-1.0.dist-info"
    info.mkdir(parents=True)
    files = {
        "tricky/__init__.py": b"",
        "tricky/runs.py": b"'''Documented.'''\nraise SystemExit('was run')\n",
        "tricky/latin.py": "# coding: latin-1\n'''caf\xe9'''\n".encode("latin-1"),
        "tricky/bad.py": b"'''caf\xe9'''\n",
        "tricky/what.py": b"# coding: martian\n''''''\n",
    }
    (site / "tricky").mkdir()
    for name, content in files.items():
        (site / name).write_bytes(content)
    with (site / "tricky/huge.py").open("wb") as huge:
        huge.truncate(MAX_RECORD_BYTES + 1)
    files["tricky/huge.py"] = b"as large as that"
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: tricky\nVersion: 1.0\nLicense: BSD\n")
    (info / "LICENSE").write_text(
        "Redistribution in binary form ... redistributions in binary form ... neither the name of"
    )
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, "tricky/gone.py", "../../bin/tool.py"]))
    monkeypatch.setattr(sys, "path", [str(site)])
    source = {"use": "python_environment", "packages": ["tricky"], "part": "docstrings"}
    settings = Read.model_validate({"sources": {"python": source}, "max_bad_fraction": 0.6})
    counts = read(settings, {}, Workspace(tmp_path / "out", Machine(workers=1)))
    (shard,) = shards_in(tmp_path / "out" / "documents")
    documents = [row for batch in read_batches(shard) for row in batch.to_pylist()]
    assert [(row["url"], row["text"]) for row in documents] == [
        ("tricky==1.0/tricky/latin.py", "caf\xe9"),
        ("tricky==1.0/tricky/runs.py", "Documented."),
    ]
    assert {row["licence"] for row in documents} == {"BSD-3-Clause"}
    assert counts["dropped"]["not_utf8"]["documents"] == 2
    shards = shards_in(tmp_path / "out" / "dropped")
    dropped = [row for shard in shards for batch in read_batches(shard) for row in batch.to_pylist()]
    assert [row for row in dropped if row["rule"] == "too_large"] == [
        next(row for row in dropped if row["url"] == "tricky==1.0/tricky/huge.py")
        | {"text": "", "value": MAX_RECORD_BYTES + 1, "threshold": MAX_RECORD_BYTES}
    ]
    assert counts["documents_in"] == 5

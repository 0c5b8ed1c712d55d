"""A function of the user's decides; what is wrong with it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from headwater.core.errors import InputError
from headwater.core.store import hash_file
from headwater.documents.clean import Clean
from headwater.documents.cleaning.custom import PythonStep
from headwater.documents.cleaning.features import Features
from headwater.documents.document import documents_of

ROWS = documents_of("web", ["short", "a longer text"], licence=["MIT", "GPL-3.0"])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step(folder: Path, code: str, name: str = "keep") -> PythonStep:
    (folder / "mine.py").write_text(code, encoding="utf-8")
    return PythonStep(use="python", call=f"mine:{name}")


def test_the_function_sees_the_document_and_decides(folder: Path) -> None:
    code = "def keep(document):\n    return len(document['text']) > 5 and document['licence'] != 'MIT'\n"
    verdict = step(folder, code)(Features(ROWS))
    assert verdict.keep.tolist() == [False, True]
    assert verdict.rules == ("mine:keep",)


def test_a_changed_file_is_loaded_again_and_changes_the_fingerprint(folder: Path) -> None:
    settings = Clean(steps=(step(folder, "def keep(document):\n    return True\n"),))
    before = settings.fingerprint(hash_file)
    assert settings.steps[0](Features(ROWS)).keep.all()
    step(folder, "def keep(document):\n    return False  # now\n")
    assert not settings.steps[0](Features(ROWS)).keep.any()
    assert settings.fingerprint(hash_file) != before


@pytest.mark.parametrize(
    ("code", "name", "problem"),
    [
        ("def keep(document):\n    return 1 / 0\n", "keep", "ZeroDivisionError: division by zero"),
        ("def keep(document):\n    pass\n", "keep", "returned None"),
        ("def keep(document):\n    return True\n", "kepe", "no function 'kepe'"),
        ("def keep(:\n", "keep", "cannot be loaded: SyntaxError"),
    ],
)
def test_what_is_wrong_with_the_function_is_said(folder: Path, code: str, name: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        step(folder, code, name)(Features(ROWS))
    assert f"mine:{name}" in str(caught.value)
    assert caught.value.hint


def test_a_missing_module_is_said_before_anything_runs() -> None:
    with pytest.raises(InputError, match=r"no module 'absent\.thing'"):
        Clean(steps=(PythonStep(use="python", call="absent.thing:keep"),)).fingerprint(hash_file)


def test_installed_modules_are_found() -> None:
    assert PythonStep(use="python", call="headwater.documents.document:drop").file().name == "document.py"


def test_a_name_without_a_function_is_refused() -> None:
    with pytest.raises(ValidationError):
        PythonStep(use="python", call="mine")

"""Real text for the tests of the document stages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard


@pytest.fixture(scope="session")
def english(prose: Path) -> list[str]:
    """Some 1,500 docstrings of the standard library, of 150 characters and more."""
    with prose.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="session")
def source_code() -> list[str]:
    """Source files of the standard library's smaller packages."""
    library = Path(json.__file__).parents[1]
    files = [*sorted(library.glob("a*.py")), *sorted((library / "email").glob("*.py"))]
    return [file.read_text(encoding="utf-8") for file in files]


@pytest.fixture(scope="session")
def many_scripts(shared_data: Path) -> dict[str, list[str]]:
    """Pages of the same help text in German, Korean and Japanese, and lines of Thai."""
    texts = {
        language: [
            json.loads(line)["text"] for line in _head(shared_data / f"lang/libreoffice-help-{language}.jsonl.zst")
        ]
        for language in ("de", "ko", "ja")
    }
    return texts | {"th": list(_head(shared_data / "lang/th-wisesight/neu.txt.zst"))}


def _head(file: Path, lines: int = 150) -> Iterator[str]:
    with zstandard.open(file, "rt", encoding="utf-8") as text:
        for _, line in zip(range(lines), text, strict=False):
            yield line

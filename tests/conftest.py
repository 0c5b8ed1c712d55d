"""What all tests share: real data where it is at hand, and a quiet, deterministic environment."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("default")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes after their argument: gzip writes the time into them, and every worker must collect the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def denormals() -> None:
    """Training flushes denormal numbers to zero for its whole process; the next test may need them."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real corpora, tokenizers and weights that lie beside the checkout; tests that need them are skipped elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of some 1,500 real documents of English: the docstrings of the standard library's larger modules."""
    names = ("argparse", "asyncio", "collections", "concurrent", "ctypes", "datetime", "decimal", "difflib", "email")
    names += ("fractions", "functools", "heapq", "http", "importlib", "inspect", "json", "logging", "multiprocessing")
    names += ("optparse", "os", "pathlib", "pickle", "random", "re", "shutil", "socket", "statistics", "subprocess")
    names += ("tarfile", "threading", "tkinter", "traceback", "typing", "unittest", "urllib", "xml", "zipfile")
    library = Path(json.__file__).parents[1]
    texts: dict[str, str] = {}
    for name in names:
        package = library / name
        for file in sorted(package.rglob("*.py")) if package.is_dir() else [library / f"{name}.py"]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
            for node in ast.walk(tree):
                text = ast.get_docstring(node) if isinstance(node, kinds) else None
                if text and len(text) > 150:
                    texts[text] = f"{file.relative_to(library)}#{getattr(node, 'name', '')}"
    path = tmp_path_factory.mktemp("prose") / "prose.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for text, url in texts.items():
            out.write(json.dumps({"text": text, "url": url, "licence": "PSF-2.0"}) + "\n")
    return path

"""Docstrings found by scanning are the ones that Python finds by parsing."""

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.documents.sources.docstrings import docstrings

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def expected(body: list[ast.stmt], path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and docstring of what documents should hold, by Python's own parser."""
    for node in body:
        if isinstance(node, DEFINITIONS):
            name = f"{path}{node.name}"
            if text := inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip():
                yield name, text
            if isinstance(node, ast.ClassDef):
                yield from expected(node.body, f"{name}.")
            continue
        for field in ("body", "orelse", "handlers", "finalbody"):
            for inner in getattr(node, field, []):
                yield from expected(inner.body if isinstance(inner, ast.ExceptHandler) else [inner], path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "package", ["asyncio", "collections", "email", "importlib", "json", "unittest", "xml/dom", "."]
)
def test_scanning_finds_what_parsing_finds(package: str) -> None:
    folder = Path(sysconfig.get_path("stdlib")) / package
    files = sorted(folder.glob("*.py"))[:120]
    definitions = 0
    for file in files:
        source = file.read_text(encoding="utf-8")
        if file.name == "locale.py":
            continue  # defines the same function in `try` and in `except`, which Python nests the other way round
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        found = dict(docstrings(source))
        assert found.pop("", "") == inspect.cleandoc(ast.get_docstring(tree, clean=False) or "").strip(), file
        wanted = list(expected(tree.body))
        definitions += len(wanted)
        everything = "\n\n".join(text for _, text in docstrings(source))
        position = 0
        for name, text in wanted:
            assert name.partition(".")[0] in found, (file, name)
            position = everything.find(text, position) + len(text)
            assert position >= len(text), f"{file}: {name} is missing, or out of order"
        assert set(found) == {name.partition(".")[0] for name, _ in wanted}, file
    assert definitions > 10


def test_a_class_is_a_document_with_its_methods_and_functions_inside_functions_are_left_out() -> None:
    source = '''#!/usr/bin/env python
# a comment with """ three quotes
r"""The module
with \\d in it."""
x = 'def f(): """no"""'
class Linear(Module, Generic[T]):
    """A layer.

    Text.
        Indented.
    """
    template = """
def inside_a_string():
    \'\'\'not me\'\'\'
"""
    @property
    def weight(self) -> Tensor:  # a comment: with "quotes"
        "The weight."
        def inner():
            """not me"""
    class Inner:
        async def go(
            self,  # where: from
            to: str = ")",
        ) -> dict[str, int]:
            """Go."""

if x:
    def f(x=lambda: 1): """One\\ttab."""
else:
    def g(x):
        b"""bytes are no docstring"""
        return """nor is this"""
def h(x):
    """Joined""" """from two."""
'''
    assert list(docstrings(source)) == [
        ("", "The module\nwith \\d in it."),
        (
            "Linear",
            "class Linear(Module, Generic[T])\n\nA layer.\n\nText.\n    Indented.\n\n"
            "Linear.weight(self) -> Tensor\n\nThe weight.\n\n"
            'Linear.Inner.go(self, to: str = ")") -> dict[str, int]\n\nGo.',
        ),
        ("f", "f(x=lambda: 1)\n\nOne     tab."),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def",
        "class :",
        'def f(:\n  """',
        "'''",
        '"""a',
        "def f(x):\n  '\\",
        'def f(): "\\N{nothing}"',
        "\x00\ud800",
    ],
)
def test_what_is_not_python_does_no_harm(source: str) -> None:
    for _, text in docstrings(source):
        assert isinstance(text, str)


def test_line_ends_of_windows_make_no_difference() -> None:
    source = 'def f(\n    x,\n):\n    """Add.\n\n    Both.\n    """\n'
    assert (
        list(docstrings(source.replace("\n", "\r\n"))) == list(docstrings(source)) == [("f", "f(x)\n\nAdd.\n\nBoth.")]
    )

"""Documents from the docstrings of Python source, by scanning it.

Scanning is 6.7 times as fast as building syntax trees (10.0 s against 67.4 s for 244 MB in 14,535 files, of which all
but 6 give the same docstrings) and reads the files of any Python version. A docstring that is joined from several
literals is not found.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import re
import warnings
from collections.abc import Iterator

_STRING = r"""
    \"{3} [^"\\]*+ (?: (?: \\. | "(?!"") ) [^"\\]*+ )*+ (?: \"{3} | \Z )
  | '{3}  [^'\\]*+ (?: (?: \\. | '(?!'') ) [^'\\]*+ )*+ (?: '{3}  | \Z )
  | "     [^"\\\n]*+ (?: \\. [^"\\\n]*+ )*+ "?
  | '     [^'\\\n]*+ (?: \\. [^'\\\n]*+ )*+ '?
"""
_TOKEN = re.compile(rf"\#[^\n]*+ | {_STRING}", re.VERBOSE | re.DOTALL)
# Every alternative begins with a literal character, which lets the search skip from candidate to candidate.
_NEXT = re.compile(
    r"""\"\"\" | ''' | \n (?P<indent>[ \t]*+)
    (?: (?:async[ ]+)? (?P<kind>def|class) [ ]+ (?P<name>\w+) | (?:if|el(?:if|se)|try|except|finally|for|while|with)\b )""",
    re.VERBOSE,
)
_IN_HEADER = re.compile(rf"[()\[\]{{}}:\n] | \#[^\n]*+ | \\\n | {_STRING}", re.VERBOSE | re.DOTALL)
_DOCSTRING = re.compile(
    rf"""(?: [ \t\f]*+ (?:\#[^\n]*+)? \n )*+ [ \t\f]*+
    (?P<prefix> [rRuU]?) (?P<literal> {_STRING}) (?= [ \t]* (?: [;\#\n] | \Z ) )""",
    re.VERBOSE | re.DOTALL,
)
_LEFT_OUT = re.compile(r"\#[^\n]*")


def docstrings(source: str) -> Iterator[tuple[str, str]]:
    r"""The documents in a module's docstrings, each with the name of what it documents; "" for the module itself.

    A function is a document of its heading and its docstring; a class is one with all that it holds, because a
    method's docstring leans on its class. Functions inside functions are left out.

    >>> list(docstrings("def f(x, *,\n      y=2):\n  '''Add  \n  both.'''"))
    [('f', 'f(x, *, y=2)\n\nAdd  \nboth.')]
    """
    if text := _docstring_at(source, 0)[0]:
        yield "", text
    name, sections = "", []
    for path, heading, text in _definitions(source):
        if len(path) == 1:
            if sections:
                yield name, "\n\n".join(sections)
            name, sections = path[0], []
        if text:
            sections.append(f"{heading}\n\n{text}")
    if sections:
        yield name, "\n\n".join(sections)


def _definitions(source: str) -> Iterator[tuple[list[str], str, str]]:
    """Names from the outside in, heading and docstring of each function and class, except those inside functions."""
    source = "\n" + source.replace("\r\n", "\n")
    around: list[tuple[int, str, str]] = []  # indent, kind and name of the definitions that we are inside of
    _, position = _docstring_at(source, 0)
    while match := _NEXT.search(source, position):
        if match["indent"] is None:  # three quotes
            position = _end_of_token(source, position, match.start())
            continue
        position = match.end()
        indent = len(match["indent"].expandtabs(8))
        while around and around[-1][0] >= indent:
            around.pop()
        if match["kind"] is None:  # a block, which only ends definitions
            continue
        inside_function = any(kind == "def" for _, kind, _ in around)
        around.append((indent, match["kind"], match["name"]))
        position = _end_of_header(source, position)
        if inside_function or source[position - 1] != ":":
            continue
        text, after = _docstring_at(source, position)
        path = [name for _, _, name in around]
        if match["kind"] == "class" or text:
            heading = _heading(source[match.end("name") : position - 1], match["kind"], ".".join(path)) if text else ""
            yield path, heading, text
        position = after


def _end_of_token(source: str, position: int, quotes: int) -> int:
    """Where the string or comment ends that three quotes are in: they open it, or it began before on their line."""
    position = max(position, source.rfind("\n", 0, quotes) + 1)
    while match := _TOKEN.search(source, position):
        position = match.end()
        if position > quotes:
            return position
    return len(source)


def _end_of_header(source: str, position: int) -> int:
    """Where the header of a definition ends: behind its colon, or at the line's end when this is no definition."""
    depth = 0
    while match := _IN_HEADER.search(source, position):
        position = match.end()
        token = match.group()
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif depth <= 0 and token in (":", "\n"):
            return position if token == ":" else position - 1
    return len(source)


def _heading(signature: str, kind: str, name: str) -> str:
    """How documentation shows what it documents: `Linear.forward(self, x)`, `class Linear(Module)`."""
    line = " ".join(_LEFT_OUT.sub("", signature).split()) if "\n" in signature else signature.strip()
    line = re.sub(r",? ([)\]])", r"\1", re.sub(r"([(\[]) ", r"\1", line))
    return f"class {name}{line}" if kind == "class" else f"{name}{line}"


def _docstring_at(source: str, position: int) -> tuple[str, int]:
    """The cleaned docstring that begins at a position, "" when there is none, and where it ends."""
    match = _DOCSTRING.match(source, position)
    if match is None:
        return "", position
    literal, quotes = match["literal"], 3 if match["literal"][:3] in ('"""', "'''") else 1
    text = literal[quotes:-quotes] if len(literal) >= 2 * quotes else ""
    if "\\" in text and match["prefix"] not in ("r", "R"):
        with warnings.catch_warnings(), contextlib.suppress(SyntaxError, ValueError):
            warnings.simplefilter("ignore")  # other people's invalid escapes; what Python refuses stays as written
            text = ast.literal_eval(literal)
    return inspect.cleandoc(text).strip(), match.end()

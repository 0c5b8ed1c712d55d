"""What all commands share: the app, arguments that many take, tables and errors on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence, Sized
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from headwater import __version__
from headwater.core import hardware, log

app = App(
    name="headwater",
    help="From raw text to a base model with its evidence, from one recipe file.",
    version=__version__,
    version_flags=["--version"],
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
Recipe = Annotated[str, Parameter(help="Path of a recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[str, Parameter(help="Settings to change, as key=value, such as train.steps=100.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for a program to read.")]
Until = Annotated[str | None, Parameter(help="Name of the last stage to run.")]


def complain(problems: list[str], hint: str) -> None:
    """Print what the user can solve, one line per problem and then a hint, and exit with code 2."""
    if not ((launched := hardware.launch()) and launched.rank):  # of several ranks, the first speaks for all
        for problem in problems:
            log.console.print(problem, style="red", markup=False)
        if hint:
            log.console.print(f"hint: {hint}", markup=False)
    raise SystemExit(2) from None


def counted(things: Sized, name: str) -> str:
    """How many there are, in words: 1 part, 2 parts."""
    return f"{len(things):,} {name}" + ("" if len(things) == 1 else "s")


def plain_table(*columns: str) -> Table:
    """A borderless table; a column whose name begins with '>' is aligned right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table on standard output, as wide as the terminal or, in a file, as it needs."""
    width = None if sys.stdout.isatty() else 200
    Console(highlight=False, no_color=not hardware.colour_allowed(), width=width, markup=False).print(table)


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        print_json([dict(zip((name.lstrip(">") for name in header), row, strict=True)) for row in rows])
        return
    table = plain_table(*header)
    for row in rows:
        table.add_row(*row)
    print_table(table)


def print_json(value: Any) -> None:
    """Print JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))

"""The command line: argv to one call. The only module that knows the terminal.

Exit codes: 0 ok; 1 a bug of Headwater (with a traceback); 2 something that the user can solve (one line per problem,
then a hint); 130 stopped by the user. Data goes to standard output, log lines and progress bars to standard error.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from headwater import __version__
from headwater.core import hardware, log
from headwater.core.errors import HeadwaterError, InputError
from headwater.core.store import storage_error

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


@app.command
def new(
    path: Path, *, like: Annotated[str, Parameter(name="--from", help="Shipped recipe to begin with.")] = "demo"
) -> None:
    """Write a new recipe file to edit, as a commented copy of a shipped one."""
    from headwater.recipe import find

    if path.exists():
        raise InputError("exists already", place=str(path), hint="choose another name, or remove it")
    if path.suffix not in (".yaml", ".yml"):
        raise InputError("is not a recipe's name", place=str(path), hint=f"name it {path}.yaml")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(find(like), path)
    except OSError as error:
        raise storage_error(error, path) from None
    print(f"{path}: a copy of the recipe '{like}'. Edit it, then: headwater check {path}")


@app.command
def check(recipe: Recipe, /, *overrides: Overrides) -> None:
    """Check a recipe: every problem at once, each with its place. Nothing runs."""
    from headwater.flow import stages_of
    from headwater.recipe import load

    loaded = load(recipe, *overrides)
    print(f"{recipe}: ok, {len(stages_of(loaded))} stages: {', '.join(stage.name for stage in stages_of(loaded))}")


@app.command
def show(recipe: Recipe, /, *overrides: Overrides, as_json: Json = False) -> None:
    """Show a recipe with its includes, overrides and every default filled in."""
    from ruamel.yaml import YAML

    from headwater.recipe import load

    values = load(recipe, *overrides).model_dump(mode="json")
    if as_json:
        print_json(values)
    else:
        yaml = YAML()
        yaml.indent(mapping=2, sequence=4, offset=2)
        yaml.dump(values, sys.stdout)


@app.command
def plan(recipe: Recipe, /, *overrides: Overrides, until: Until = None, as_json: Json = False) -> None:
    """Say what will run and why, how long it takes and how much disk it needs."""
    from headwater import flow
    from headwater.recipe import load

    planned = flow.plan(load(recipe, *overrides), until)
    if as_json:
        print_json({"recipe": planned.recipe.name, "stages": planned.rows()})
        return
    print(planned)


@app.command
def run(recipe: Recipe, /, *overrides: Overrides, until: Until = None) -> None:
    """Run a recipe; what is finished already is not run again, what was stopped goes on where it was."""
    from headwater import flow
    from headwater.recipe import load

    results = flow.run(load(recipe, *overrides), until)
    if not results.ran:
        print("Nothing to do: every stage is done.")
    print_results(results, recipe)


@app.command
def report(recipe: Recipe, /, *overrides: Overrides) -> None:
    """Make the report of what is finished so far, also of a run that has not ended."""
    from headwater import flow
    from headwater.recipe import load

    print(flow.report_so_far(load(recipe, *overrides)).report)


@app.command
def export(
    recipe: Recipe,
    /,
    *overrides: Overrides,
    to: Annotated[Path, Parameter(help="Folder to write; must not exist.")],
    step: Annotated[
        int | None, Parameter(help="Export the checkpoint of this training step; default: the final one.")
    ] = None,
) -> None:
    """Write a trained model of a recipe as a Hugging Face folder."""
    from headwater import flow
    from headwater.recipe import load

    print(flow.export_to(load(recipe, *overrides), to, step))


@app.command(name="list")
def list_(
    what: Annotated[str, Parameter(help="recipes, stages, sources, steps, presets or runs.")] = "recipes",
    *,
    as_json: Json = False,
) -> None:
    """List what there is: shipped recipes, stages, sources, cleaning steps, presets of them, runs in this folder."""
    from headwater import listing

    header, rows = listing.table_of(what)
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    table = plain_table(*header)
    for row in rows:
        table.add_row(*row)
    print_table(table)


@app.command
def doctor(*, as_json: Json = False) -> None:
    """Check this machine: Python, libraries, compiler, processors, memory, disk."""
    from headwater import listing

    findings = listing.examine_machine()
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        table = plain_table("", "what", "found", "hint")
        for finding in findings:
            table.add_row("ok" if finding.ok else "!!", finding.what, finding.found, "" if finding.ok else finding.hint)
        print_table(table)
    if not all(finding.ok or not finding.needed for finding in findings):
        raise SystemExit(2)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `headwater` command."""
    log.set_up()
    try:
        app(arguments, exit_on_error=False, print_error=False, help_on_error=False, console=Console(highlight=False))
    except CycloptsError as error:
        complain([str(error).splitlines()[0]], "headwater --help")
    except HeadwaterError as error:
        complain(list(error.lines), error.hint)
    except KeyboardInterrupt:
        log.console.print("stopped; run the same command again to go on from here", markup=False)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        raise SystemExit(0) from None


def complain(problems: list[str], hint: str) -> None:
    """Print what the user can solve, one line per problem and then a hint, and exit with code 2."""
    for problem in problems:
        log.console.print(problem, style="red", markup=False)
    if hint:
        log.console.print(f"hint: {hint}", markup=False)
    raise SystemExit(2) from None


def print_results(results: Any, recipe: str) -> None:
    """Say where the results are and what can be done with them."""
    rows = [("report", results.report), ("model", results.model), ("everything", results.folder)]
    print()
    for name, path in rows:
        if path:
            print(f"  {name:<11} {path}")
    commands = [f"headwater plan {recipe}", f"headwater show {recipe}", f"headwater new my.yaml --from {recipe}"]
    if Path(recipe).is_file():
        commands.pop()
    if results.model:
        commands.insert(0, f"headwater export {recipe} --to my-model")
    print("\nnext: " + "\n      ".join(commands))


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


def print_json(value: Any) -> None:
    """Print JSON on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))

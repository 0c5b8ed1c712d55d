"""Commands on models: let them write, score, compare, serve and watch them; compress with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from headwater.cli.terminal import (
    Json,
    app,
    plain_table,
    print_json,
    print_table,
)
from headwater.core import hardware, log
from headwater.core.errors import EvaluationError, InputError, MissingExtraError

ModelPlace = Annotated[str, Parameter(help="Recipe that has run, folder of a run, checkpoint, Hugging Face folder.")]
Step = Annotated[int | None, Parameter(help="Of a run: the checkpoint of this step; 0 is before training.")]
Tokenizer = Annotated[Path | None, Parameter(help="Folder of the tokenizer, where the model has none.")]
Precision = Annotated[Literal["float32", "bfloat16"], Parameter(help="Number format of the weights.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], Parameter(help="Where to compute.")]
TopK = Annotated[int, Parameter(help="Draw among so many of the likeliest tokens; 0 means all.")]
TopP = Annotated[float, Parameter(help="Draw among the likeliest that together have this probability.")]
Penalty = Annotated[float, Parameter(help="Above 1: say less often again what was said.")]
Data = Annotated[Path | None, Parameter(help="Folder with tasks' items; default: what fetch evals got.")]
Items = Annotated[int | None, Parameter(help="At most so many items of each task or subtask.")]
Out = Annotated[Path | None, Parameter(name=["--output", "-o"], help="File to write; must not exist.")]


@app.command
def generate(
    place: ModelPlace,
    prompt: Annotated[tuple[str, ...], Parameter(help="Texts to continue.")] = (),
    /,
    *,
    prompts: Annotated[
        Path | None, Parameter(help="File with more texts to continue, one per line; - reads them.")
    ] = None,
    max_new_tokens: Annotated[int, Parameter(help="The most tokens to write.")] = 120,
    temperature: Annotated[float, Parameter(help="How freely to draw; 0 always takes the likeliest token.")] = 0.8,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
    min_p: Annotated[float, Parameter(help="Draw only what is at least this share as likely as the likeliest.")] = 0.0,
    repetition_penalty: Penalty = 1.0,
    stop: Annotated[tuple[str, ...], Parameter(help="Text that ends the writing; may be given several times.")] = (),
    seed: Annotated[int, Parameter(help="Another seed, another text.")] = 0,
    count: Annotated[int, Parameter(help="Texts to write after each prompt.")] = 1,
    step: Step = None,
    tokenizer: Tokenizer = None,
    precision: Precision = "float32",
    device: Device = "auto",
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
    place: ModelPlace,
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
    data: Data = None,
    items: Items = None,
    step: Step = None,
    tokenizer: Tokenizer = None,
    precision: Precision = "float32",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model: bits per byte of documents beside compressors, and tasks; goes on where it was stopped."""
    from headwater.core.stage import door

    size = None if max_bytes is None else _size(max_bytes)
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


def _size(max_bytes: str) -> int:
    """The size that --max-bytes gives.

    Raises:
        InputError: it is none.
    """
    from headwater.core.units import parse_bytes

    try:
        return parse_bytes(max_bytes)
    except ValueError as error:
        raise InputError(str(error), place="--max-bytes") from None


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


@app.command
def compress(
    file: Annotated[Path, Parameter(help="Any file; text that is like the training text becomes smallest.")],
    /,
    *,
    model: ModelPlace,
    output: Out = None,
    step: Step = None,
    tokenizer: Tokenizer = None,
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
    step: Step = None,
    tokenizer: Tokenizer = None,
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
    data: Data = None,
    items: Items = None,
    training: Annotated[
        str | None, Parameter(help="Run whose training documents are searched for the tasks' items.")
    ] = None,
    samples: Annotated[int, Parameter(help="Texts that each model writes after each prompt.")] = 1,
    max_new_tokens: Annotated[int, Parameter(help="The most tokens of a text.")] = 120,
    temperature: Annotated[float, Parameter(help="How freely to draw; 0 always takes the likeliest token.")] = 0.0,
    top_k: TopK = 50,
    top_p: TopP = 1.0,
    repetition_penalty: Penalty = 1.0,
    seed: Annotated[int, Parameter(help="Another seed, other texts.")] = 0,
    output: Annotated[
        Path, Parameter(help="Folder for comparison.html, comparison.json and the tasks' results.")
    ] = Path("comparison"),
    precision: Precision = "float32",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Let several models continue the same prompts side by side, and score them on the same tasks."""
    from headwater import tracing
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
    searched = tracing.run_folder(training, machine) if training else None
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
            training=searched,
        )
    write_json(output / "comparison.json", found)
    (output / "comparison.html").write_text(html(comparison_page(found)), encoding="utf-8")
    if as_json:
        print_json(found)
    else:
        print_comparison(found)
        print(f"\n{output / 'comparison.html'}")
    if problems := found.get("tasks", {}).get("problems"):
        hint = "the other tasks are compared; run the same command again when this is mended"
        raise EvaluationError("tasks without a score", place="compare", hint=hint, problems=problems)


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
    precision: Precision = "float32",
    device: Device = "auto",
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
    data: Data = None,
    items: Items = None,
    max_bytes: Annotated[str, Parameter(help="How much held-out text of each source is scored.")] = "200 kB",
    every: Annotated[float, Parameter(help="Seconds between two looks for a new checkpoint.")] = 10.0,
    once: Annotated[bool, Parameter(negative="", help="Score what is there, and do not wait for more.")] = False,
    threads: Annotated[int, Parameter(help="Processor threads; few leave the others to the training. 0: all.")] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score the checkpoints of a run as they appear, while it trains: every score against the tokens seen."""
    from headwater.core.stage import door
    from headwater.report.page import html
    from headwater.report.trajectory import scores_of, trajectory_page

    machine = hardware.Machine(device=device, threads=threads)
    watching = door("headwater.evaluation.watch:watch")(
        run, tasks, machine, data=data, items=items, max_bytes=_size(max_bytes), every=every, once=once
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
    watching.check()

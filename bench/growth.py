"""Does growing a model pay? Grown, shrunk, continued and from scratch, at equal counted FLOPs and equal seconds.

Every run goes through Headwater's own stages, so that a kill costs little and a finished run is not done again:

    python bench/growth.py run --books books.jsonl.zst --work growth --seeds 0 1 2     # hours of one core, restartable
    python bench/growth.py speed --work growth                                         # once, on a quiet machine
    python bench/growth.py tell --work growth --figure docs/images/growth.png

`run` takes one thread for each seed given to it, one after the other; several of them may share a folder if each has
seeds of its own. Rows of `results-<seed>.jsonl` hold the whole validation curve of a run. All models train at a constant rate
behind a short warm-up, so that each point of a curve is a result of its own; the cases named `.. decayed` then let it
fall to zero.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from headwater.core.hardware import set_environment, share_processor

MODEL = {
    "hidden_size": 32,
    "num_heads": 2,
    "ffn_size": 96,
    "context_length": 128,
    "qk_norm": True,
}
BASE_LAYERS, GROWN_LAYERS = 4, 6
VOCABULARY, SEQUENCE, BATCH = 512, 128, 2048
CHINCHILLA = 700
"""Steps of the base that count as its whole budget: 1.43M tokens, 20 for each of its 70,048 parameters."""
SHALLOW = 420
"""The same for the base of 2 layers, which has 43,232 parameters."""
AFTER = 210
"""Steps after growth."""
SCRATCH = 950
"""Steps from scratch at the final depth: 20 tokens for each of its parameters."""
DEEP = 900
"""Steps of 12 layers, which are to be cut to 8, and of 8 layers from scratch: about 10 and 15 tokens for each parameter."""
LATE = 100
"""Added to the seed of the data after a change, so that nobody goes on with text just seen."""

SOLAR = {"use": "depth_upscale", "overlap_cut": 1}
METHODS = {
    "depth_upscale": SOLAR,
    "stack": {"use": "stack", "num_layers": GROWN_LAYERS},
    "interpolate": {"use": "interpolate", "num_layers": GROWN_LAYERS},
    "identity_blocks": {"use": "identity_blocks", "every": 2},
}
WHICH = {
    "lowest twice": [0, 0, 1, 1, 2, 3],
    "middle twice": [0, 1, 1, 2, 2, 3],
    "highest twice": [0, 1, 2, 2, 3, 3],
}
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Degrees of freedom -> 97.5 % quantile of Student's t."""
PAIRED = "depth_upscale at 100 %"
"""With what other ways to grow the same base are compared, seed by seed."""
FIGURE = {
    f"{BASE_LAYERS} layers become {GROWN_LAYERS}": {
        "scratch": f"{GROWN_LAYERS} layers from scratch",
        "base": f"{BASE_LAYERS} layers, never grown",
        "base, long": f"{BASE_LAYERS} layers, never grown",
        "continued at 400 %": f"{BASE_LAYERS} layers, never grown",
        "depth_upscale at 10 %": "grown after 2 tokens per parameter",
        "depth_upscale at 50 %": "grown after 10",
        "depth_upscale at 100 %": "grown after 20",
        "depth_upscale at 200 %": "grown after 40",
        "depth_upscale at 400 %": "grown after 80",
    },
    "2 layers become 4": {
        "base": "4 layers from scratch",
        "2 layers": "2 layers, never grown",
        "2 layers continued at 400 %": "2 layers, never grown",
        "2 layers stacked at 100 %": "grown after 20 tokens per parameter",
        "2 layers stacked at 400 %": "grown after 80",
    },
    "12 layers become 8": {
        "8 layers": "8 layers from scratch",
        "12 layers": "12 layers, never cut",
        "12 layers cut to 8, middle": "cut in the middle",
        "12 layers cut to 8, measured": "cut by measured loss",
    },
}
"""Panels of the figure: their titles, what is drawn, and its name there."""


@dataclass(frozen=True)
class Case:
    """One training run."""

    name: str
    steps: int
    source: str | None = None
    """The case that it begins with; none: random weights."""
    step: int | None = None
    """Which of the source's checkpoints; none: its last."""
    growth: dict[str, Any] | None = None
    layers: int = BASE_LAYERS
    """Of random weights."""
    state: str = "keep"
    """What becomes of the source's optimizer state."""
    warmup: int = 0
    decay: bool = False
    every: int = 15
    """Steps between two validations."""
    control: str | None = "base"
    """What the source becomes when it is trained on as it is; none where the case is that itself."""
    rival: str | None = "scratch"
    """The model of the same depth from scratch; none where one of the two has had its decay and the other not."""


def cases() -> Iterator[Case]:
    """All runs of a seed, each behind what it begins with; the most telling ones first."""
    yield Case("base", 2 * CHINCHILLA, warmup=20, every=70)
    yield Case("scratch", SCRATCH, layers=GROWN_LAYERS, warmup=20, every=50)
    yield Case("continued at 100 %", 330, "base", CHINCHILLA, control=None)
    control = "continued at 100 %"
    for name, growth in METHODS.items():
        yield Case(f"{name} at 100 %", AFTER, "base", CHINCHILLA, growth, control=control)
    at = (AFTER, "base", CHINCHILLA, SOLAR)
    yield Case("depth_upscale, fresh, warm-up 20", *at, state="fresh", warmup=20, control=control)
    yield Case("continued at 200 %", 330, "base", 2 * CHINCHILLA, control=None)
    yield Case("depth_upscale at 200 %", AFTER, "base", 2 * CHINCHILLA, SOLAR, control="continued at 200 %")
    yield from _far()
    yield from _shallow()
    yield Case("depth_upscale, fresh, warm-up 0", *at, state="fresh", control=control)
    yield Case("depth_upscale, kept, warm-up 100", *at, warmup=100, control=control)
    # grown early: as long as makes the cost of the base's whole budget, its own part counted
    yield Case("depth_upscale at 10 %", 450, "base", CHINCHILLA // 10, SOLAR, every=30)
    yield Case("depth_upscale at 50 %", 250, "base", CHINCHILLA // 2, SOLAR, every=25)
    # shrinking 6 layers to 4 with healing, against the 4 layers from scratch, which is "base"
    yield Case("shrunk", AFTER, "scratch", None, {"use": "middle", "drop": 2}, control=None, rival="base")
    yield Case("12 layers", DEEP, layers=12, warmup=20, every=45)
    yield Case("8 layers", DEEP, layers=8, warmup=20, every=30)
    for how in ("middle", "measured"):
        cut = {"use": how, "drop": 4}
        yield Case(f"12 layers cut to 8, {how}", AFTER, "12 layers", None, cut, control=None, rival="8 layers")
    yield from _released()
    yield Case("depth_upscale at 25 %", 375, "base", CHINCHILLA // 4, SOLAR, every=25)
    for name, sources in WHICH.items():
        growth = {"use": "layers", "sources": sources}
        yield Case(f"layers: {name}", AFTER, "base", CHINCHILLA, growth, control=control)


def _far() -> Iterator[Case]:
    """Far beyond what a model of this size is usually trained for, 80 tokens for each parameter; then with a decay too."""
    yield Case("base, long", 2 * CHINCHILLA, "base", every=140)
    yield Case("continued at 400 %", 330, "base, long", control=None)
    yield Case("depth_upscale at 400 %", AFTER, "base, long", None, SOLAR, control="continued at 400 %")
    for point in ("200 %", "400 %"):
        control = f"continued at {point}, decayed"
        yield Case(control, 210, f"continued at {point}", None, decay=True, control=None, rival=None)
        name = f"depth_upscale at {point}"
        yield Case(f"{name}, decayed", 174, name, None, decay=True, control=control, rival=None)


def _shallow() -> Iterator[Case]:
    """A base so shallow that depth is what it lacks: 2 layers become 4, against "base", which has 4 from scratch."""
    double = {"use": "stack", "num_layers": 4}
    yield Case("2 layers", 4 * SHALLOW, layers=2, warmup=20, every=60)
    yield Case("2 layers continued at 400 %", 510, "2 layers", 4 * SHALLOW, every=30, control=None, rival="base")
    to_4 = {"rival": "base", "control": "2 layers continued at 400 %"}
    yield Case("2 layers stacked at 400 %", 300, "2 layers", 4 * SHALLOW, double, **to_4)
    yield Case(
        "2 layers stacked at 100 %", 500, "2 layers", SHALLOW, double, every=25, rival="base", control="2 layers"
    )
    control = "2 layers continued at 400 %, decayed"
    yield Case(control, 246, "2 layers continued at 400 %", None, decay=True, control=None, rival=None)
    name = "2 layers stacked at 400 %"
    yield Case(f"{name}, decayed", 150, name, None, decay=True, control=control, rival=None)
    silent = {"use": "identity_blocks", "every": 1}
    yield Case("2 layers with identity_blocks at 400 %", 300, "2 layers", 4 * SHALLOW, silent, **to_4)


def _released() -> Iterator[Case]:
    """A base as it is published, after its decay."""
    yield Case("base decayed", 140, "base", CHINCHILLA, decay=True)
    yield Case("released, continued", 330, "base decayed", control=None, rival=None)
    at = (AFTER, "base decayed", None, SOLAR)
    yield Case("released, depth_upscale", *at, control="released, continued", rival=None)
    yield Case(
        "released, depth_upscale, fresh", *at, state="fresh", warmup=20, control="released, continued", rival=None
    )


def generation(case: Case) -> int:
    """How many runs went before this one."""
    return 0 if case.source is None else 1 + generation(next(other for other in cases() if other.name == case.source))


def write_pages(books: Path, out: Path, megabytes: int = 45, page: int = 2000) -> None:
    """Cut books in pages of about so many characters at the ends of paragraphs, and mix them."""
    pages = []
    with zstandard.open(books, "rt", encoding="utf-8") as lines:
        for line in lines:
            gathered, size = [], 0
            for paragraph in json.loads(line)["text"].split("\n\n"):
                gathered.append(paragraph)
                size += len(paragraph)
                if size >= page:
                    pages.append("\n\n".join(gathered))
                    gathered, size = [], 0
    random.Random(0).shuffle(pages)
    room = megabytes * 1_000_000
    with out.with_suffix(".part").open("w", encoding="utf-8") as file:
        for text in pages:
            room -= len(text.encode())
            if room < 0:
                break
            file.write(json.dumps({"text": text}) + "\n")
    out.with_suffix(".part").rename(out)


def recipe_of(case: Case, seed: int, work: Path, folders: dict[str, Path], train: dict[str, Any] | None = None) -> Any:
    """The recipe of a run; without `case.source` in `folders` it cannot be made."""
    from headwater.recipe import Recipe  # after the environment is set

    if case.source is None:
        start: dict[str, Any] = {"use": "random", "model": {**MODEL, "num_layers": case.layers}, "seed": seed}
    else:
        folder = folders[case.source]
        path = folder / ("checkpoint" if case.step is None else f"checkpoints/step-{case.step:06d}")
        if case.step is not None and not path.is_dir():
            path = folder / "checkpoint"  # the last step
        start = {"use": "checkpoint", "path": str(path), "optimizer_state": case.state}
        if case.growth is not None:
            shrinks = "drop" in case.growth
            more = {"use": "shrunk", "layers": case.growth} if shrinks else {"use": "grown", "growth": case.growth}
            start = {"source": start, **more}
    kind = {"use": "wsd", "decay_share": 1.0} if case.decay else {"use": "constant"}
    return Recipe.model_validate(
        {
            "name": f"growth-{seed}",
            "read": {"sources": {"books": {"use": "jsonl", "paths": str(work / "pages.jsonl"), "licence": "CC0-1.0"}}},
            "split": {"fraction": 0.02, "max_bytes": "1MB"},
            "tokenizer": {"use": "train_bpe", "vocab_size": VOCABULARY},
            "encode": {},
            "initialize": start,
            "train": {
                "steps": case.steps,
                "sequence_length": SEQUENCE,
                "batch_tokens": BATCH,
                "optimizer": {"use": "muon"},
                "schedule": {**kind, "warmup_steps": case.warmup},
                "speed": {"precision": "bf16"},
                "seed": seed + LATE * generation(case),
                "log_every": 20,
                "validate_every": case.every,
                "validation_tokens": 16_384,
                "checkpoint_every": 35 if case.source is None else 0,
                "checkpoint_interval": "60s",
                "keep_last": 1000,
            }
            | (train or {}),
            "report": None,
            "machine": {"store": str(work / "store"), "runs": str(work / "runs"), "threads": 1, "workers": 1},
        }
    )


def start_loss(recipe: Any, results: Any) -> dict[str, float]:
    """Validation of the weights before their first step."""
    from headwater.core.stage import Workspace
    from headwater.model import checkpoint
    from headwater.training.validation import Validation

    model, _ = checkpoint.load_model(results.stages["initialize"] / "checkpoint")
    out = Workspace(results.stages["train"], recipe.machine)
    rows = recipe.train.micro_batch
    values = Validation(recipe.train, results.stages["encode"], {"books": 1}, rows, out)(model, "cpu")
    return {name: value["total"] for name, value in values.items()}


def run_seed(work: Path, seed: int, only: Sequence[str]) -> None:
    """Do all runs of a seed that are not done yet, and write a row for each."""
    from headwater.core.log import read_metrics
    from headwater.core.store import read_json
    from headwater.flow import run

    path = work / f"results-{seed}.jsonl"
    rows = {row["case"]: row for row in map(json.loads, path.read_text().splitlines())} if path.is_file() else {}
    folders = {name: Path(row["folder"]) for name, row in rows.items() if "folder" in row}
    for case in cases():
        if case.name in rows or (case.source is not None and not any(part in case.name for part in only)):
            continue
        if case.source is not None and case.source not in rows:
            print(f"seed {seed}, {case.name}: left out, '{case.source}' is not done yet")
            continue
        recipe = recipe_of(case, seed, work, folders)
        clock = time.process_time()
        results = run(recipe, until="train")
        folder = results.stages["train"]
        folders[case.name] = folder
        counts = read_json(folder / "manifest.json")["counts"]
        curve = [
            [line["step"], line["validation_loss"]["total"], line["validation_bits_per_byte"]["total"]]
            for line in read_metrics(folder / "metrics.jsonl")
            if "validation_loss" in line
        ]
        first = start_loss(recipe, results)
        given = rows[case.source] if case.source else None
        before = 0.0
        if given:
            step = given["steps"] if case.step is None else case.step
            before = given["flops_before"] + step * given["flops_per_step"]
        rows[case.name] = {
            "case": case.name,
            "seed": seed,
            "source": case.source,
            "source_step": case.step,
            "layers": recipe.initialize.model.num_layers if case.source is None else _layers(results),
            "parameters": counts["parameters"],
            "steps": counts["steps"],
            "tokens_per_step": BATCH,
            "flops_per_step": counts["flops_per_token"] * BATCH,
            "flops_before": before,
            "processor_seconds": time.process_time() - clock,
            "curve": [[0, first["validation_loss"], first["validation_bits_per_byte"]], *curve],
            "folder": str(folder),
        }
        with path.open("a") as file:
            file.write(json.dumps(rows[case.name]) + "\n")
        print(f"seed {seed}, {case.name}: {curve[-1][1]:.4f} nats, {time.process_time() - clock:.0f} CPU s", flush=True)


def _layers(results: Any) -> int:
    from headwater.model import checkpoint

    return checkpoint.read_info(results.stages["initialize"] / "checkpoint").config.num_layers


class Run(NamedTuple):
    """One row of results: a case with one seed."""

    layers: int
    before: float
    """What was spent before its first step, its source and that one's source included."""
    costs: np.ndarray
    """Spent after its first step, at each validation."""
    losses: np.ndarray
    """[nats per token]"""

    @property
    def totals(self) -> np.ndarray:
        """Spent since random weights."""
        return self.before + self.costs


Runs = dict[tuple[str, int], Run]


def read_runs(work: Path, per_step: dict[int, float] | None = None) -> Runs:
    """All rows; costs in FLOPs, or in seconds where `per_step` gives those of a step by number of layers."""
    rows = {}
    for path in sorted(work.glob("results-*.jsonl")):
        rows |= {(row["case"], row["seed"]): row for row in map(json.loads, path.read_text().splitlines())}
    rows = {key: row for key, row in rows.items() if per_step is None or row["layers"] in per_step}
    cost = {key: per_step[row["layers"]] if per_step else row["flops_per_step"] for key, row in rows.items()}

    def before(key: tuple[str, int]) -> float:
        row = rows[key]
        if row["source"] is None:
            return 0.0
        source = row["source"], row["seed"]
        step = row["source_step"] or rows[source]["steps"]
        return before(source) + step * cost[source]

    found = {}
    for key, row in rows.items():
        steps, losses, _ = np.array(row["curve"]).T
        found[key] = Run(row["layers"], before(key), steps * cost[key], losses)
    return found


def cost_of(run: Run, loss: float) -> float:
    """What was spent after the first step until the curve first comes down to a loss; infinite if it never does."""
    below = np.flatnonzero(run.losses <= loss)
    if not len(below):
        return math.inf
    at = below[0]
    if at == 0:
        return 0.0
    share = (run.losses[at - 1] - loss) / (run.losses[at - 1] - run.losses[at])
    return float(run.costs[at - 1] + share * (run.costs[at] - run.costs[at - 1]))


def loss_at(run: Run, total: float) -> float:
    """The loss when so much was spent since random weights; not a number beyond the end of the curve."""
    inside = run.totals[0] <= total <= run.totals[-1] * 1.005
    return float(np.interp(total, run.totals, run.losses)) if inside else math.nan


def band(values: Sequence[float]) -> str:
    """Mean and 95 % confidence band over seeds, by Student's t; a dash where there is nothing to compare."""
    if not values or any(map(math.isnan, values)):
        return "-"
    if missed := sum(map(math.isinf, values)):
        return f"not by {missed} of {len(values)}"
    if len(values) < 2:
        return f"{values[0]:.3f} (1 seed)"
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


class Table:
    """The comparisons of one unit of cost."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    def seeds(self, *cases: str) -> list[int]:
        """The seeds with which all of these cases were run."""
        return [seed for seed in range(100) if all((case, seed) in self.runs for case in cases)]

    def start(self, case: str) -> str:
        """Loss before the first step."""
        return band([self.runs[case, seed].losses[0] for seed in self.seeds(case)])

    def end(self, case: str) -> str:
        """Loss after the last."""
        return band([self.runs[case, seed].losses[-1] for seed in self.seeds(case)])

    def against(self, case: str, other: str) -> str:
        """Loss at the end of a case less that of another when it had cost as much, its sources counted."""
        pairs = [(self.runs[case, seed], self.runs[other, seed]) for seed in self.seeds(case, other)]
        return band([run.losses[-1] - loss_at(control, run.totals[-1]) for run, control in pairs])

    def saving(self, case: str, rival: str, given: bool) -> str:
        """Share of the cost that a case saves until it is as good as a model from scratch that cost as much as its end.

        What was trained before counts too unless it is `given`; then the model from scratch cost as much as the source.
        """
        found = []
        for seed in self.seeds(case, rival):
            run, scratch = self.runs[case, seed], self.runs[rival, seed]
            total = min(run.totals[-1], scratch.totals[-1])
            spent = cost_of(run, loss_at(scratch, total)) + (0.0 if given else run.before)
            found.append(1 - spent / total if run.before < total else math.nan)
        return band(found)

    def shrinking(self, case: str, rival: str) -> str:
        """Share of the cost of as many layers from scratch that healing a shrunk model saves, its source given."""
        found = []
        for seed in self.seeds(case, rival):
            shrunk, scratch = self.runs[case, seed], self.runs[rival, seed]
            found.append(1 - shrunk.costs[-1] / cost_of(scratch, shrunk.losses[-1]))
        return band(found)

    def recovery(self, case: str, source: str) -> str:
        """Share of a case until it is as good again as what it was made of."""
        found = []
        for seed in self.seeds(case, source):
            run, before = self.runs[case, seed], self.runs[source, seed]
            found.append(cost_of(run, loss_at(before, run.before)) / run.costs[-1])
        return band(found)


def tell(work: Path, figure: Path | None) -> None:
    """Print the tables, and draw the curves."""
    flops = Table(read_runs(work))
    if not flops.runs:
        print("nothing was run yet: python bench/growth.py run --books books.jsonl.zst")
        return
    speeds = json.loads((work / "speed.json").read_text()) if (work / "speed.json").is_file() else None
    seconds = None
    if speeds:
        print(f"Processor seconds of a step, in turns in one process: {speeds}\n")
        seconds = Table(read_runs(work, {int(layers): value for layers, value in speeds.items()}))
    done = [case for case in cases() if flops.seeds(case.name)]
    cut = [case for case in done if case.growth and "drop" in case.growth]
    print("| run | seeds | steps | loss before its first step | at its end |\n|---|---|---|---|---|")
    for case in done:
        seeds = len(flops.seeds(case.name))
        print(f"| {case.name} | {seeds} | {case.steps:,} | {flops.start(case.name)} | {flops.end(case.name)} |")
    print(
        "\nDifferences of loss at the end of a run, at equal cost with all sources counted (below 0: growing is better); "
        "savings up to the loss of a model from scratch of the same whole cost; recovered: share of the run until it is "
        "as good as its source.\n"
    )
    head = (
        "against scratch | against the source going on | saved, source given | saved, source counted | recovered after"
    )
    for unit, table in (("FLOPs", flops), ("seconds", seconds)):
        if table is None:
            continue
        print(f"\n| equal {unit} | {head} |\n|---|---|---|---|---|---|")
        for case in done:
            if case.source is None or case in cut or case.name in ("base, long", "base decayed"):
                continue
            cells = (
                table.against(case.name, case.rival) if case.rival else "-",
                table.against(case.name, case.control) if case.control else "-",
                table.saving(case.name, case.rival, given=True) if case.rival else "-",
                table.saving(case.name, case.rival, given=False) if case.rival else "-",
                table.recovery(case.name, case.source),
            )
            print(f"| {case.name} | {' | '.join(cells)} |")
        print(f"\n| loss at the end less that of {PAIRED} | mean |\n|---|---|")
        for case in done:
            if case.source == "base" and case.step == CHINCHILLA and case.growth and case.name != PAIRED:
                print(f"| {case.name} | {table.against(case.name, PAIRED)} |")
        print("\n| cut | saved of the cost of its last loss from scratch, its source given |\n|---|---|")
        for case in cut:
            print(f"| {case.name} | {table.shrinking(case.name, case.rival)} |")
    if figure:
        draw(flops, figure)


def draw(table: Table, path: Path) -> None:
    """The curves, means over seeds, against all that was spent."""
    import altair

    panels = []
    for title, names in FIGURE.items():
        points = []
        for case in (case for case in names if table.seeds(case)):
            runs = [table.runs[case, seed] for seed in table.seeds(case)]
            losses = np.mean([run.losses for run in runs], axis=0)
            for spent, loss in zip(runs[0].totals, losses, strict=True):
                points.append({"run": names[case], "TFLOP": spent / 1e12, "loss": loss})
        if not points:  # none of these was run
            continue
        low = min(point["loss"] for point in points)
        panels.append(
            altair.Chart(altair.Data(values=points), title=title)
            .mark_line(clip=True, strokeWidth=1.5)
            .encode(
                x=altair.X("TFLOP:Q", title="TFLOP since random weights, sources counted"),
                y=altair.Y(
                    "loss:Q",
                    title="validation loss [nats per token]",
                    scale=altair.Scale(domain=[low - 0.02, low + 0.6]),
                ),
                color=altair.Color(
                    "run:N", title=None, sort=list(dict.fromkeys(names.values())), legend=altair.Legend(labelLimit=260)
                ),
            )
            .properties(width=520, height=300)
        )
    altair.vconcat(*panels).resolve_scale(color="independent").save(path)


def speed(work: Path, rounds: int = 12) -> None:
    """Processor seconds of a step of each depth, taken in turns: the medians, for `tell`."""
    from headwater.core.stage import Workspace
    from headwater.flow import run
    from headwater.training.train import Run as Training

    trainings = {}
    for layers in (2, BASE_LAYERS, GROWN_LAYERS, 8, 12):
        recipe = recipe_of(Case("speed", 10_000, layers=layers), 0, work, {})
        results = run(recipe, until="initialize")
        out = Workspace(work / "speed" / str(layers), recipe.machine)
        out.folder.mkdir(parents=True, exist_ok=True)
        inputs = {"tokens": results.stages["encode"], "checkpoint": results.stages["initialize"]}
        trainings[layers] = Training(recipe.train.model_copy(update={"validate_every": 0}), inputs, out)
    times: dict[int, list[float]] = {layers: [] for layers in trainings}
    for turn in range(rounds):
        for layers, training in trainings.items():
            for _ in range(5):
                start = time.process_time()
                training.step()
                if turn:  # the first turn compiles
                    times[layers].append(time.process_time() - start)
    medians = {layers: statistics.median(values) for layers, values in times.items()}
    (work / "speed.json").write_text(json.dumps(medians))
    for layers, value in medians.items():
        print(f"{layers} layers: {value * 1000:.1f} ms, {BATCH / value:,.0f} tokens per processor second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", default="tell", choices=["run", "speed", "tell"])
    parser.add_argument("--work", type=Path, default=Path("growth"), help="folder of all that is made")
    parser.add_argument("--books", type=Path, help="books as jsonl.zst with a column text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only", nargs="+", default=[""], help="runs whose name has this in it, besides those from random weights"
    )
    parser.add_argument("--figure", type=Path, help="where to draw the curves (.svg or .png)")
    given = parser.parse_args()
    if given.verb == "tell":
        tell(given.work, given.figure)
        return
    set_environment(TORCHINDUCTOR_COMPILE_THREADS="1", OMP_NUM_THREADS="1")
    share_processor()
    if given.verb == "speed":
        speed(given.work)
        return
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "pages.jsonl").is_file():
        write_pages(given.books, given.work / "pages.jsonl")
    for seed in given.seeds:
        run_seed(given.work, seed, given.only)


if __name__ == "__main__":
    main()

"""How soon is a small model as good as nanoGPT's? Bits per byte of held-out pages of books.

Time is processor seconds of one thread, because machines are shared: ten minutes on two cores are 1,200 of them, and
80 seconds are 160. Our rows are of shorter runs, in `speedrun-results`. Everything counts, for both alike: starting Python, making the model, loading data, training,
measuring held-out text, writing the result. Compiling alone is shown apart; nanoGPT does not compile on a processor. Both
have 4 layers of 256 with 4 heads, 4,096 tokens of vocabulary, rows of 256 tokens, and the same text.

    python bench/speedrun.py prepare --books books.jsonl.zst --work speedrun
    python bench/speedrun.py peer --work speedrun --clone nanoGPT --rates 5e-4 1e-3 2e-3 --seconds 50 --warmup 15
    python bench/speedrun.py peer --work speedrun --clone nanoGPT --rates 1e-3 --seconds 300
    python bench/speedrun.py ours --work speedrun --seeds 0 1 2 --set train.steps=90 train.schedule.warmup_steps=10
    python bench/speedrun.py ours --work speedrun --name "no NorMuon" --seeds 0 1 --set train.optimizer.variance_beta=0
    python bench/speedrun.py series --work speedrun --cases cases.json --seeds 0 1 --set train.steps=200
    python bench/speedrun.py tell --work speedrun --figure docs/images/speedrun.svg

Each run appends a row to `results.jsonl`, and is not done again. Measured with nanoGPT at commit 3adf61e.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from growth import write_pages
from headwater.core.hardware import environment_with, share_processor
from peers.environment import PEERS

SHAPE = {"vocab_size": 4096, "hidden_size": 256, "num_layers": 4, "num_heads": 4}
SEQUENCE, ROWS, HELD_OUT_TOKENS = 256, 8, 32_768
SURE = 3.09
"""Standard deviations of the mean by which a run must be better than its goal: one-sided p < 0.001 at a known deviation.
Source: the rule of modded-nanogpt's optimizer track."""
RECIPE = """
read: {{sources: {{books: {{use: jsonl, paths: {pages}, licence: CC0-1.0}}}}}}
split: {{fraction: 0.02, max_bytes: 1MB}}
tokenizer: {{use: train_bpe, vocab_size: 4096}}
encode: {{}}
initialize:
  use: random
  model: {{hidden_size: 256, num_layers: 4, num_heads: 4, context_length: 256, ffn_size: 704}}
train:
  regime: speed
  steps: 400
  sequence_length: 256
  batch_tokens: 2048
  validation_tokens: 32768
  log_every: 20
  checkpoint_interval: 0
report: null
machine: {{store: {work}/store, runs: {work}/runs, threads: 1, workers: 1, device: cpu}}
"""


def load(work: Path, *overrides: str) -> Any:
    """The recipe of a run."""
    from headwater.recipe import load as load_recipe  # after the environment is set

    return load_recipe(work / "speedrun.yaml", *overrides)


def prepare(work: Path, books: Path) -> None:
    """Make the token shards once, and of them what nanoGPT reads."""
    import numpy as np

    from headwater.flow import run
    from headwater.tokens.loader import NOT_COUNTED, HeldOutBatches
    from headwater.tokens.shards import TRAINING, TokenFolder

    work.mkdir(parents=True, exist_ok=True)
    pages = work / "pages.jsonl"
    if not pages.is_file():
        write_pages(books, pages)
    (work / "speedrun.yaml").write_text(RECIPE.format(pages=pages, work=work))
    encoded = run(load(work), until="encode").stages["encode"]
    source = TokenFolder(encoded).source("books", TRAINING)
    np.concatenate([source.document(n) for n in range(source.num_documents)]).astype(np.uint16).tofile(
        work / "train.bin"
    )
    held_out = HeldOutBatches(encoded, "books", SEQUENCE, ROWS, HELD_OUT_TOKENS)
    rows = [np.full((ROWS * len(held_out), SEQUENCE), fill, np.int64) for fill in (0, NOT_COUNTED)]
    for place, array in zip(rows, ("tokens", "targets"), strict=True):
        found = np.concatenate([getattr(batch, array) for batch in held_out])
        place[: len(found)] = found
    rows[1].reshape(-1)[held_out.tokens :] = NOT_COUNTED
    tokens, targets = (place.reshape(-1, ROWS, SEQUENCE) for place in rows)
    np.savez(work / "held_out.npz", tokens=tokens, targets=targets)
    facts = {"bits_per_nat": held_out.bits_per_byte(1.0), "tokens": held_out.tokens, "train": source.num_tokens}
    (work / "facts.json").write_text(json.dumps(facts))
    print(f"{source.num_tokens:,} tokens to train on, {held_out.tokens:,} to measure")


def rows_of(work: Path) -> list[dict[str, Any]]:
    """The runs that are done."""
    path = work / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def keep(work: Path, row: dict[str, Any]) -> None:
    """Note a run that is done."""
    with (work / "results.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    step, seconds, bits = row["curve"][-1]
    print(
        f"{row['name']}, seed {row['seed']}: {bits:.4f} bits per byte, {step:,} steps, {seconds:.1f} CPU s", flush=True
    )


def peer(
    work: Path, clone: Path, rates: list[float], seconds: float, steps: int, warmup: int, measurements: int, seed: int
) -> None:
    """Train nanoGPT at each of the rates, for so many processor seconds, or so many steps in quicker arithmetic."""
    factor = json.loads((work / "facts.json").read_text())["bits_per_nat"]
    for rate in rates:
        name = f"nanoGPT, rate {rate:g}, " + (f"{steps} steps in bf16" if steps else f"{seconds:g} s")
        if any((row["name"], row["seed"]) == (name, seed) for row in rows_of(work)):
            continue
        job = {"clone": str(clone.resolve()), "shape": SHAPE, "rows": ROWS, "sequence": SEQUENCE, "rate": rate}
        job |= {
            "seed": seed,
            "processor_seconds": seconds,
            "steps": steps,
            "measurements": measurements,
            "warmup": warmup,
        }
        job |= {name: str(work / file) for name, file in (("data", "train.bin"), ("held_out", "held_out.npz"))}
        job["result"] = str(work / "peer.json")
        script = [sys.executable, PEERS / "nanogpt_speedrun.py", json.dumps(job)]
        subprocess.run(
            script, check=True, env=environment_with(OMP_NUM_THREADS="1", TORCHINDUCTOR_CACHE_DIR=f"{work}/nanogpt")
        )
        result = json.loads((work / "peer.json").read_text())
        result["curve"] = [[step, spent, loss * factor] for step, spent, loss in result["curve"]]
        keep(work, {"name": name, "rate": rate, "budget": seconds, "seed": seed, "compiling": 0.0, **result})


def ours(work: Path, name: str, seeds: list[int], overrides: list[str]) -> None:
    """Train Headwater from each of the seeds, each in a process of its own."""
    for seed in seeds:
        if any((row["name"], row["seed"]) == (name, seed) for row in rows_of(work)):
            continue
        script = [
            sys.executable,
            __file__,
            "one",
            "--work",
            work,
            "--name",
            name,
            "--seeds",
            str(seed),
            "--set",
            *overrides,
        ]
        subprocess.run(script, check=True, env=environment_with(OMP_NUM_THREADS="1"))


_RAN: list[str] = []


def one(work: Path, name: str, seed: int, overrides: list[str]) -> None:
    """Train Headwater once, in this process, whose processor seconds all count but those of compiling.

    A second run in a process does not count those of the first, nor those of starting Python.
    """
    share_processor()
    from headwater.core.stage import Workspace
    from headwater.flow import run
    from headwater.training.train import Run

    compiling, curve, begin = 0.0, [], 0.0 if not _RAN else time.process_time()
    _RAN.append(name)

    class Timed(Run):
        def _prepare(self) -> None:
            nonlocal compiling
            start = time.process_time()
            super()._prepare()
            compiling += time.process_time() - start

        def _validate(self) -> bool:
            best = super()._validate()
            bits = self._validated[1]["validation_bits_per_byte"]["total"]
            curve.append([self.steps_done, time.process_time() - begin - compiling, bits])
            return best

    # held-out text is measured once, at the end: a decay that is to come makes earlier numbers say little
    seeded = [f"initialize.seed={seed}", f"train.seed={seed}", "train.validate_every=0"]
    recipe = load(work, *seeded, *overrides)
    stages = run(recipe, until="initialize").stages
    out = Workspace(work / "store" / f"speedrun-{len(rows_of(work))}", recipe.machine)
    out.folder.mkdir(parents=True, exist_ok=True)
    training = Timed(recipe.train, {"tokens": stages["encode"], "checkpoint": stages["initialize"]}, out)
    while not training.finished:
        training.step()
    counts = training.finish()
    curve[-1][1] = time.process_time() - begin - compiling
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {"name": name, "seed": seed, "steps": counts["steps"], "tokens": counts["tokens"], "curve": curve}
    row |= {"compiling": compiling + children.ru_utime + children.ru_stime, "parameters": counts["parameters"]}
    keep(work, row | {"speed": str(training.arithmetic.choice), "overrides": overrides})


def groups_of(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each name, seeds together."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row)
    return found


def final(runs: list[dict[str, Any]], what: int) -> float:
    """The mean over seeds of the last steps (0), processor seconds (1) or bits per byte (2)."""
    return statistics.mean(run["curve"][-1][what] for run in runs)


def noise(groups: dict[str, list[dict[str, Any]]]) -> float:
    """Standard deviation of the last bits per byte over seeds, from all groups of more than one together."""
    squares = [(run["curve"][-1][2] - final(runs, 2)) ** 2 for runs in groups.values() if len(runs) > 1 for run in runs]
    freedom = sum(len(runs) - 1 for runs in groups.values())
    return math.sqrt(sum(squares) / freedom) if freedom else math.nan


def tell(work: Path, figure: Path | None) -> None:
    """Print every group beside the one called `base`, and how soon the goal was reached."""
    groups = groups_of(rows_of(work))
    peers = {name: runs for name, runs in groups.items() if "rate" in runs[0]}
    mine = {name: runs for name, runs in groups.items() if name not in peers}
    sigma = noise(mine)
    print(
        f"standard deviation over seeds: {sigma:.4f} bits per byte\n\n| run | seeds | steps | CPU s | bits per byte |"
    )
    print("|---|---|---|---|---|")
    for name, runs in groups.items():
        print(f"| {name} | {len(runs)} | {final(runs, 0):,.0f} | {final(runs, 1):.0f} | {final(runs, 2):.4f} |")
    base = mine.get("base", [])
    print("\n| change | bits per byte, less base | z |\n|---|---|---|")
    for name, runs in mine.items():
        if base and name != "base" and runs[0]["steps"] == base[0]["steps"]:
            gap = final(runs, 2) - final(base, 2)
            z = gap / (sigma * math.sqrt(1 / len(runs) + 1 / len(base)))
            print(f"| {name} | {gap:+.4f} | {z:+.1f} |")
    longest = max((runs[0]["budget"] for runs in peers.values()), default=0)
    found = [runs for runs in peers.values() if runs[0]["budget"] == longest]
    if found and "speed" in mine:
        best, ours_ = min(found, key=lambda runs: final(runs, 2)), mine["speed"]
        margin = (final(best, 2) - final(ours_, 2)) * math.sqrt(len(ours_)) / sigma
        print(
            f"\n{best[0]['name']}: {final(best, 2):.4f} bits per byte after {final(best, 1):.0f} CPU s; Headwater: "
            f"{final(ours_, 2):.4f} after {final(ours_, 1):.0f} ({len(ours_)} seeds; compiling, apart: "
            f"{statistics.mean(run['compiling'] for run in ours_):.0f}): {final(best, 1) / final(ours_, 1):.1f} times as soon, "
            f"z {margin:.1f} ({'as good' if margin > SURE else 'NOT shown to be as good'})"
        )
    if figure:
        draw(groups, figure)


def draw(groups: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The curves against processor seconds, means over seeds."""
    import altair

    points = []
    for name, runs in groups.items():
        if "rate" in runs[0] or name == "speed":
            for numbers in zip(*(run["curve"] for run in runs), strict=True):
                step, seconds, bits = (statistics.mean(column) for column in zip(*numbers, strict=True))
                label = "Headwater, regime speed" if name == "speed" else name
                points.append({"run": label, "step": step, "seconds": seconds, "bits": bits})
    chart = altair.Chart(altair.Data(values=points)).mark_line(point=True, strokeWidth=1.5)
    chart = chart.encode(
        x=altair.X("seconds:Q", title="processor seconds, all but compiling"),
        y=altair.Y("bits:Q", title="bits per byte of held-out pages", scale=altair.Scale(zero=False)),
        color=altair.Color("run:N", title=None, legend=altair.Legend(labelLimit=260)),
    )
    chart.properties(width=520, height=300).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "peer", "ours", "one", "series", "tell"))
    parser.add_argument("--work", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--books", type=Path, help="JSON lines with a field text, compressed by zstd")
    parser.add_argument("--clone", type=Path, help="folder with nanoGPT's model.py")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="learning rates of nanoGPT")
    parser.add_argument("--seconds", type=float, default=1200, help="processor seconds of nanoGPT")
    parser.add_argument("--steps", type=int, default=0, help="steps of nanoGPT in bf16, for their losses alone")
    parser.add_argument(
        "--warmup", type=int, default=100, help="steps of nanoGPT's warm-up, as in its small configuration"
    )
    parser.add_argument(
        "--measurements", type=int, default=4, help="how often nanoGPT measures held-out text, beside the end"
    )
    parser.add_argument("--name", default="speed")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument(
        "--cases", type=Path, help="JSON: names of runs and their key=value, all trained in one process"
    )
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="key=value, settings of Headwater's recipe")
    given = parser.parse_args()
    share_processor()
    work = given.work.absolute()
    match given.what:
        case "prepare":
            prepare(work, given.books)
        case "peer":
            peer(
                work,
                given.clone,
                given.rates,
                given.seconds,
                given.steps,
                given.warmup,
                given.measurements,
                given.seeds[0],
            )
        case "ours":
            ours(work, given.name, given.seeds, given.set)
        case "one":
            one(work, given.name, given.seeds[0], given.set)
        case "series":
            for name, changes in json.loads(given.cases.read_text()).items():
                for seed in given.seeds:
                    if not any((row["name"], row["seed"]) == (name, seed) for row in rows_of(work)):
                        one(work, name, seed, [*given.set, *changes])
        case "tell":
            tell(work, given.figure)


if __name__ == "__main__":
    main()

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
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
AFTER = 210
"""Steps after growth."""
SCRATCH = 950
"""Steps from scratch at the final depth: 20 tokens for each of its parameters."""
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
    "highest, as a stack": [0, 1, 2, 3, 2, 3],
}


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


def cases() -> Iterator[Case]:
    """All runs of a seed, each behind what it begins with; the most telling ones first."""
    grown = GROWN_LAYERS
    yield Case("base", 2 * CHINCHILLA, warmup=20, every=70)
    yield Case("scratch", SCRATCH, layers=grown, warmup=20, every=50)
    yield Case("continued at 100 %", 300, "base", CHINCHILLA)
    for name, growth in METHODS.items():
        yield Case(f"{name} at 100 %", AFTER, "base", CHINCHILLA, growth)
    yield Case("depth_upscale, fresh, warm-up 20", AFTER, "base", CHINCHILLA, SOLAR, state="fresh", warmup=20)
    yield Case("continued at 200 %", 300, "base", 2 * CHINCHILLA)
    yield Case("depth_upscale at 200 %", AFTER, "base", 2 * CHINCHILLA, SOLAR)
    yield Case("depth_upscale at 10 %", 660, "base", CHINCHILLA // 10, SOLAR, every=30)
    yield Case("depth_upscale at 50 %", 460, "base", CHINCHILLA // 2, SOLAR, every=30)
    yield Case("depth_upscale, fresh, warm-up 0", AFTER, "base", CHINCHILLA, SOLAR, state="fresh")
    yield Case("depth_upscale, kept, warm-up 20", AFTER, "base", CHINCHILLA, SOLAR, warmup=20)
    yield Case("depth_upscale, kept, warm-up 100", AFTER, "base", CHINCHILLA, SOLAR, warmup=100)
    yield Case("depth_upscale at 25 %", 585, "base", CHINCHILLA // 4, SOLAR, every=30)
    # shrinking 6 layers to 4 with healing, against the 4 layers from scratch, which is "base"
    yield Case("shrunk", AFTER, "scratch", None, {"use": "drop_layers", "count": 2})
    # a released base has had its decay; then each trains on, and decays in the end
    yield Case("base decayed", 140, "base", CHINCHILLA, decay=True)
    yield Case("released, continued", 300, "base decayed")
    yield Case("released, depth_upscale", AFTER, "base decayed", None, SOLAR)
    yield Case(
        "released, depth_upscale, fresh, warm-up 20", AFTER, "base decayed", None, SOLAR, state="fresh", warmup=20
    )
    for name, sources in WHICH.items():
        yield Case(f"layers: {name}", AFTER, "base", CHINCHILLA, {"use": "layers", "sources": sources})
    yield Case("scratch decayed", 140, "scratch", None, decay=True)
    yield Case("continued decayed", 200, "continued at 200 %", None, decay=True)
    yield Case("grown decayed", 140, "depth_upscale at 200 %", None, decay=True)


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
            start = {"use": "grown", "source": start, "growth": case.growth}
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
                "precision": "bf16",
                "seed": seed if case.source is None else seed + LATE * (1 + (case.decay or "released" in case.name)),
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
    values = Validation(recipe.train, results.stages["encode"], {"books": 1}, out)(model, "cpu")
    return {name: value["total"] for name, value in values.items()}


def run_seed(work: Path, seed: int, only: str) -> None:
    """Do all runs of a seed that are not done yet, and write a row for each."""
    from headwater.core.log import read_metrics
    from headwater.core.store import read_json
    from headwater.flow import run

    path = work / f"results-{seed}.jsonl"
    rows = {row["case"]: row for row in map(json.loads, path.read_text().splitlines())} if path.is_file() else {}
    folders: dict[str, Path] = {name: Path(row["folder"]) for name, row in rows.items()}
    for case in cases():
        if case.name in rows or (only not in case.name and case.source is not None):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("--work", type=Path, default=Path("growth"), help="folder of all that is made")
    parser.add_argument("--books", type=Path, help="books as jsonl.zst with a column text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="runs whose name has this in it, besides those from random weights")
    given = parser.parse_args()
    set_environment(TORCHINDUCTOR_COMPILE_THREADS="1", OMP_NUM_THREADS="1")
    share_processor()
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "pages.jsonl").is_file():
        write_pages(given.books, given.work / "pages.jsonl")
    for seed in given.seeds:
        run_seed(given.work, seed, given.only)


if __name__ == "__main__":
    main()

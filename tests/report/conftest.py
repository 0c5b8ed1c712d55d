"""A made-up but complete run: small stages that write what the real ones write, through the real core."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from headwater.core.config import Config
from headwater.core.hardware import Machine
from headwater.core.log import MetricsLog
from headwater.core.stage import Counts, Inputs, Stage, Step, Store, Workspace, perform
from headwater.core.store import HashMemory, read_json, write_json
from headwater.documents.cleaning.linear import report
from headwater.documents.document import (
    DROPPED_SCHEMA,
    ShardFile,
    Tally,
    add_counts,
    documents_of,
    drop,
    read_batches,
    shards_in,
    source_of,
)
from headwater.report import Report

HOSTILE = (
    "<script>alert('documents')</script>\n```\n# not a heading \x07 \u202eturned\n</pre><img src=x onerror=alert(1)>"
)
"""A text that would break a page that does not escape it, and a markdown fence of three backticks."""
DOORS = "made_stages"
MACHINE = Machine(workers=1, watts=40, usd_per_hour=0.2)
SOURCES = {"prose": ("MIT", "PSF-2.0", None), "code": ("BSD-3-Clause", "Apache-2.0 AND MIT")}
STEPS = 300


class Made(Config):
    """Settings of a made-up stage."""

    min_words: int = 20
    sources: Mapping[str, Mapping[str, str]] = {"prose": {"use": "text", "path": "notes.txt"}}
    steps: tuple[Mapping[str, str | float], ...] = (
        {"use": "length", "min_words": 20},
        {"use": "quality", "min_score": 0.5},
    )


class MadeModel(Config):
    """Settings of the made-up stage initialize."""

    use: str = "random"
    seed: int = 0
    model: Mapping[str, int] = {"hidden_size": 256, "num_layers": 4}


def read(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    chance, tallies = random.Random(0), []
    for source, licences in SOURCES.items():
        words = ["return", "value", "of", "the", "list", "open", "file", "when", "given", "path", "and", "bytes"]
        texts = [" ".join(chance.choices(words, k=chance.randrange(1, 120))) for _ in range(400)]
        if source == "prose":
            texts[:8] = [HOSTILE] * 7 + ["short"]
        rows = {
            "licence": [licences[i % len(licences)] for i in range(400)],
            "url": [f"{source}.py#{i}" for i in range(400)],
        }
        batch = documents_of(source, texts, **rows)
        bad = drop(documents_of(source, ['{"text": 3']), "read", "malformed_json", None, None, "line 17: expected text")
        tally = Tally(source)
        tally.take(batch)
        tally.take(bad.select(batch.schema.names))
        tally.keep(batch)
        tally.drop(bad)
        tally.skip("status_404")
        write(out, source, batch, bad)
        tallies.append(tally.counts())
    out.warn("code: 1 of 401 records is malformed and was <dropped>")
    return add_counts(tallies)


def clean(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    def judge(batch: pa.RecordBatch) -> tuple[pa.Array, str, pa.Array, float]:
        count = pc.cast(pc.add(pc.count_substring(batch.column("text"), " "), 1), pa.float64())
        return pc.less(count, settings.min_words), "gopher_quality.min_words", count, float(settings.min_words)

    by_step = {
        "edited": {"normalise_spaces": 31},
        "sensitivity": {"0": {"min_words": {"judged": 800, "dropped": 20, "stricter": 33, "looser": 12}}},
        "found": {"0": {"ip_address": 7}},
    }
    judged = report(np.array([0.9, 0.8, 0.4, 0.3]), np.array([True, True, True, False]))
    return add_counts([by_step, curate(inputs, out, "clean", judge)]) | {"prepared": {"1": {"held_out": judged}}}


def dedup(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    def judge(batch: pa.RecordBatch) -> tuple[pa.Array, str, pa.Array, float]:
        likeness = pa.array([0.7 + 0.3 * (int(key[:4], 16) % 10) / 9 for key in batch.column("id").to_pylist()])
        return pc.greater_equal(likeness, 0.95), "near_duplicate", likeness, 0.95

    return curate(inputs, out, "dedup", judge) | {"clusters": {"1": 500, "2": 30, "5-9": 5}}


def split(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    held = {"documents": 25, "bytes": 15_000}
    counts = curate(inputs, out, "split", lambda batch: (pa.repeat(False, batch.num_rows), "never", None, None))
    for source in counts["sources"].values():
        source |= {"documents_out": source["documents_out"] - 25, "held_out": held}
    return counts | {"documents_out": counts["documents_out"] - 50, "held_out": {"documents": 50, "bytes": 30_000}}


def curate(inputs: Inputs, out: Workspace, stage: str, judge: Callable[[pa.RecordBatch], tuple]) -> Counts:
    tallies = []
    for shard in shards_in(inputs["documents"] / "documents"):
        tally = Tally(source_of(shard))
        for batch in read_batches(shard):
            bad, rule, value, threshold = judge(batch)
            kept = batch.filter(pc.invert(bad))
            value = value.filter(bad) if value is not None else None
            detail = kept.column("id")[0].as_py() if rule == "near_duplicate" else None
            gone = drop(batch.filter(bad), stage, rule, value, threshold, detail)
            tally.take(batch)
            tally.keep(kept)
            tally.drop(gone)
            write(out, source_of(shard), kept, gone)
        tallies.append(tally.counts())
    return add_counts(tallies)


def write(out: Workspace, source: str, kept: pa.RecordBatch, gone: pa.RecordBatch) -> None:
    with ShardFile(out.folder / "documents" / f"{source}-00000.parquet") as shard:
        shard.write(kept)
    with ShardFile(out.folder / "dropped" / f"{source}-00000.parquet", DROPPED_SCHEMA) as shard:
        shard.write(gone)


def tokenizer(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    write_json(out.folder / "tokenizer" / "tokenizer.json", {"model": {}})
    facts = {"vocab_size": 8192, "separator": "<|endoftext|>", "vocabulary_used": 0.871}
    write_json(out.folder / "facts.json", {**facts, "longest_tokens": [" deprecated", "<b>Parameters</b>"]})
    return facts


def encode(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    sizes = {"training": {"tokens": 91_000, "documents": 500, "bytes": 364_000}}
    sizes["held_out"] = {"tokens": 4_000, "documents": 25, "bytes": 15_000}
    tokens = {"schema": 1, "dtype": "uint16", "vocab_size": 8192, "separator_id": 0, "tokenizer_sha256": "0" * 64}
    write_json(out.folder / "tokens.json", {**tokens, "sources": dict.fromkeys(SOURCES, sizes)})
    return {"tokens": 190_000}


def initialize(settings: MadeModel, inputs: Inputs, out: Workspace) -> Counts:
    write_json(out.folder / "checkpoint" / "model.json", settings.model_dump(mode="json"))
    derived = {"setting": "num_layers", "value": 4, "why": "hidden_size / 64"}
    weights = {"embedding.weight": {"mean": 0.0, "std": 0.02, "max_abs": 0.091}}
    facts = {"model": dict(settings.model), "derived": [derived], "weights": weights}
    return {"parameters": 5_247_232, "flops_per_token": 40_000_000, **facts}


def train(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    log, chance = MetricsLog(out.folder / "metrics.jsonl"), random.Random(1)
    for step in range(STEPS + 1):
        level, tokens = 3.4 + 5.7 * math.exp(-step / 45), 8192 * step
        if step:
            rate = 1e-3 * min(1.0, step / 20) * (0.55 + 0.45 * math.cos(math.pi * step / STEPS))
            line = {"step": step, "tokens": tokens, "loss": level + chance.gauss(0, 0.08), "learning_rate": rate}
            log.write(
                {
                    **line,
                    "grad_norm": 1.0,
                    "tokens_per_second": 15_000 + chance.gauss(0, 300),
                    "mfu": 0.41,
                    "seconds": step * 0.5,
                }
            )
        if step % 50 == 0:
            loss = {"prose": level + 0.2, "code": level - 0.3, "total": level}
            bits = {name: value * 0.37 for name, value in loss.items()}
            log.write({"step": step, "tokens": tokens, "validation_loss": loss, "validation_bits_per_byte": bits})
    return {
        "initial_loss": 9.0301,
        "expected_initial_loss": 9.0622,
        "steps": STEPS,
        "tokens": 8192 * STEPS,
        "final_loss": 3.41,
        "tokens_per_second": 14_987.2,
        "mfu": 0.411,
        "peak_flops_per_second": 1.23e12,
        "parameters": 5_247_232,
        "mixture": {
            name: {"weight": 0.5, "requested_tokens": 45_000, "available_tokens": 91_000, "epochs": 0.4945}
            for name in SOURCES
        },
    }


def evaluate(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    def model(value: float, error: float) -> dict:
        one = {"standard_error": error, "documents": 25, "bytes": 15_000, "tokens": 4_000}
        return {
            name: {"value": value + step, **one} for name, step in (("prose", 0.1), ("code", -0.15), ("total", 0.0))
        }

    scores = {"trained": model(1.2593, 0.0213), "untrained": model(3.2871, 0.0042)}
    gzip = {name: {"value": 2.3, "bytes": 15_000} for name in ("prose", "code", "total")}
    write_json(out.folder / "scores.json", {"bits_per_byte": {**scores, "gzip": gzip}})
    sample = {"prompt": "Return the list of <files>", "seed": 0, "temperature": 0.8, "top_k": 50, "top_p": 1.0}
    sample |= {"source": "prose", "reference": " in the folder.", "untrained": HOSTILE}
    sample["trained"] = " when given a path.\n\nParameters\n----------\npath : str"
    write_json(out.folder / "generations.json", [sample])
    return {}


def export(settings: Made, inputs: Inputs, out: Workspace) -> Counts:
    write_json(out.folder / "model" / "config.json", {})
    return {}


FLOW: dict[str, Sequence[str]] = {
    "read": (),
    "clean": ("read",),
    "dedup": ("clean",),
    "split": ("dedup",),
    "tokenizer": ("split",),
    "encode": ("split", "tokenizer"),
    "initialize": ("tokenizer",),
    "train": ("encode", "initialize"),
    "evaluate": ("train",),
    "export": ("train",),
}
DOOR_FUNCTIONS = (read, clean, dedup, split, tokenizer, encode, initialize, train, evaluate, export)


class Run:
    """A store with the stages of a made-up run."""

    machine = MACHINE
    hostile = HOSTILE
    training_steps = STEPS

    def __init__(self, folder: Path) -> None:
        self.store, self.hashes = Store(folder), HashMemory(folder / ".hashes.json")
        self.steps: dict[str, Step] = {}
        for name, before in FLOW.items():
            roles = {
                "documents" if self.steps[b].stage.name in ("read", "clean", "dedup", "split") else b: self.steps[b]
                for b in before
            }
            settings = MadeModel() if name == "initialize" else Made()
            stage = Stage(name, f"{DOORS}:{name}", {})
            self.steps[name] = self.store.plan(stage, settings, roles, self.hashes)
            perform(self.steps[name], MACHINE)

    def report(self, settings: Report | None = None, only: Sequence[str] = tuple(FLOW)) -> Path:
        """The folder of the report of some of the stages, made by the real door."""
        stage = Stage("report", "headwater.report:report", {})
        step = self.store.plan(
            stage, settings or Report(title="made"), {name: self.steps[name] for name in only}, self.hashes
        )
        perform(step, MACHINE)
        return step.folder


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All stages but the report, done."""
    sys.modules[DOORS] = SimpleNamespace(**{door.__name__: door for door in DOOR_FUNCTIONS})  # pyright: ignore
    yield Run(tmp_path_factory.mktemp("store"))
    del sys.modules[DOORS]


@pytest.fixture(scope="session")
def report_folder(made_run: Run) -> Path:
    """The report of the whole made-up run."""
    return made_run.report(Report(title="made", about="A run that never was."))


@pytest.fixture(scope="session")
def summary(report_folder: Path) -> dict:
    return read_json(report_folder / "summary.json")

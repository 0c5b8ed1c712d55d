"""Benchmark overlap: MB of documents per CPU second that are looked through for benchmark n-grams.

    python bench/decontamination.py [--mb 60]

Real text and the benchmarks beside the checkout: TruthfulQA, GSM8K and HumanEval; without them made-up questions. Once the
kernels alone (units and membership), once the whole stage with reading and writing shards.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from headwater.core.hardware import Machine, processor_name
from headwater.core.stage import Workspace
from headwater.documents.decontaminate import Decontaminate, decontaminate
from headwater.documents.document import Shards, documents_of
from headwater.documents.overlap.benchmarks import load
from headwater.documents.overlap.membership import find
from headwater.documents.text.shingles import units
from peers import texts as sample

BENCH = sample.BOOKS.parents[1] / "bench"


def benchmarks(folder: Path) -> dict[str, object]:
    if BENCH.is_dir():
        files = {
            "truthfulqa": (
                "csv",
                "truthfulqa/TruthfulQA.csv.zst",
                ["Question", "Correct Answers", "Incorrect Answers"],
            ),
            "gsm8k": ("jsonl", "gsm8k/test.jsonl.zst", ["question", "answer"]),
            "humaneval": ("jsonl", "humaneval/HumanEval.jsonl.gz", ["prompt", "canonical_solution"]),
        }
        return {name: {"use": use, "paths": str(BENCH / file), "fields": of} for name, (use, file, of) in files.items()}
    made = folder / "made.jsonl"
    lines = (
        json.dumps({"question": text[:400]}) + "\n" for text in itertools.islice(sample.documents(10**9, seed=77), 2000)
    )
    made.write_text("".join(lines), encoding="utf-8")
    return {"made": {"use": "jsonl", "paths": str(made), "fields": ["question"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=60, help="text [MB]")
    options = parser.parse_args()
    texts = list(sample.documents(options.mb * 1_000_000))
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(processor_name())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Decontaminate.model_validate({"benchmarks": benchmarks(folder)})
        before = time.process_time()
        loaded = load(settings.benchmarks, settings.words, settings.characters)
        print(f"load {time.process_time() - before:.2f} CPU s: {loaded.counts}")
        columns = [pa.array(texts[start : start + 1500]) for start in range(0, len(texts), 1500)]
        find(units(columns[0].slice(0, 9), "words", numbers=True), loaded.words, settings.words)
        before, hits = time.process_time(), 0
        for column in columns:
            hits += len(find(units(column, "words", numbers=True), loaded.words, settings.words).documents)
        seconds = time.process_time() - before
        print(f"kernels {seconds:.2f} CPU s, {size / seconds:.0f} MB/CPU s, {hits} hits in {size:.0f} MB")
        with Shards(folder / "dedup" / "documents", "web") as shards:
            for start in range(0, len(texts), 1000):
                shards.write(documents_of("web", texts[start : start + 1000]))
        out = Workspace(folder / "out", Machine(workers=1))
        out.folder.mkdir()
        before = time.process_time()
        counts = decontaminate(settings, {"documents": folder / "dedup"}, out)
        seconds = time.process_time() - before
        print(f"stage {seconds:.2f} CPU s, {size / seconds:.0f} MB/CPU s, dropped {counts['dropped']}")


if __name__ == "__main__":
    main()

"""The peer's half of bench/documents.py: filters, exact and near duplicates by data-juicer, in an environment of its own.

python data_juicer_documents.py documents.jsonl FOLDER    CPU seconds of each part, as JSON

It has no rules of Gopher: in their place stand its own of length, repetition, marks and letters, which are fewer.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import datasets
from data_juicer.core.data import NestedDataset
from data_juicer.ops.deduplicator.document_deduplicator import DocumentDeduplicator
from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator
from data_juicer.ops.filter.alphanumeric_filter import AlphanumericFilter
from data_juicer.ops.filter.average_line_length_filter import AverageLineLengthFilter
from data_juicer.ops.filter.character_repetition_filter import CharacterRepetitionFilter
from data_juicer.ops.filter.special_characters_filter import SpecialCharactersFilter
from data_juicer.ops.filter.word_repetition_filter import WordRepetitionFilter
from data_juicer.ops.filter.words_num_filter import WordsNumFilter
from loguru import logger

ONE = {"num_proc": 1, "auto_op_parallelism": False}


def cpu_seconds() -> float:
    """Of this process and those that it waited for."""
    return sum(os.times()[:4])


def measure(rows: NestedDataset, out: str) -> dict[str, float]:
    """CPU seconds of each part."""
    parts = {
        "filters": [
            WordsNumFilter(min_num=50, max_num=100_000, **ONE),
            WordRepetitionFilter(rep_len=5, max_ratio=0.15, **ONE),
            WordRepetitionFilter(rep_len=10, max_ratio=0.10, **ONE),
            CharacterRepetitionFilter(rep_len=10, max_ratio=0.5, **ONE),
            SpecialCharactersFilter(max_ratio=0.3, **ONE),
            AlphanumericFilter(min_ratio=0.6, **ONE),
            AverageLineLengthFilter(min_len=10, **ONE),
        ],
        "exact": [DocumentDeduplicator(**ONE)],
        "near": [
            DocumentMinhashDeduplicator(window_size=5, num_permutations=112, num_bands=14, num_rows_per_band=8, **ONE)
        ],
    }
    seconds, before = {}, cpu_seconds()
    for name, operations in parts.items():
        for operation in operations:
            rows = operation.run(rows)
        seconds[name] = cpu_seconds() - before
        before = cpu_seconds()
    rows.select_columns(["id", "text"]).to_json(out)
    return seconds | {"write": cpu_seconds() - before}


def main() -> None:
    file, folder = sys.argv[1:]
    logger.remove()
    datasets.disable_progress_bars()
    Path(folder).mkdir()
    warm = NestedDataset(datasets.Dataset.from_list([{"id": "0", "text": "warm up"}] * 2))
    measure(warm, f"{folder}/warm.jsonl")  # imports torch, which it installs when it is not there
    before = cpu_seconds()
    rows = NestedDataset(datasets.Dataset.from_json(file, cache_dir=folder))
    read = cpu_seconds() - before
    print(json.dumps({"read": read} | measure(rows, f"{folder}/kept.jsonl")))


if __name__ == "__main__":
    main()

"""Encoding beside Hugging Face's tokenizers: processor seconds for the same text and ids, one thread each.

    python bench/encoding.py [--mb 24] [--vocabulary 16384]

The text is real sentences in documents of some 2.8 KB (classic books beside the checkout, docstrings elsewhere). Both get it
in batches of 1 MB, as the stage encode does, and both give one array of ids for each document; every id is compared. A new
object each round, so caches begin cold; what is proven before the first shard is counted apart. Goal: at least 15x, and no
id that differs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from headwater.core.hardware import Machine, processor_name, set_environment
from headwater.core.stage import Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.tokens.codec import Codec
from headwater.tokens.encode import BATCH_BYTES
from headwater.tokens.tokenizer import PATTERNS, TrainBpe, tokenizer
from peers import texts as sample


def batches(texts: list[str]) -> list[list[str]]:
    """Texts in runs of about BATCH_BYTES."""
    found: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size >= BATCH_BYTES:
            found.append([])
            size = 0
        found[-1].append(text)
        size += len(text)
    return found


def encode(codec: Codec, given: list[list[str]]) -> tuple[float, list[np.ndarray]]:
    """Processor seconds, and the ids of each text."""
    start = time.process_time()
    ids = [array for batch in given for array in codec.encode(batch)]
    return time.process_time() - start, ids


def measure(folder: Path, given: list[list[str]], megabytes: float, rounds: int) -> float:
    """Compare on one tokenizer, in turns; returns the median ratio."""
    ratios, speeds, proofs = [], [], []
    for _ in range(rounds):
        begun = time.process_time()
        fast = Codec(folder)
        proofs.append(time.process_time() - begun)
        assert fast.fast, fast.fallback
        ours, ids = encode(fast, given)
        theirs, expected = encode(Codec(folder, fast=False), given)
        differ = sum(not np.array_equal(left, right) for left, right in zip(ids, expected, strict=True))
        assert not differ, f"{differ} documents differ"
        ratios.append(theirs / ours)
        speeds.append((megabytes / ours, megabytes / theirs))
    ours, theirs = (statistics.median(column) for column in zip(*speeds, strict=True))
    ratio = statistics.median(ratios)
    print(
        f"{folder.parent.name:>8}: {ours:6.1f} MB per CPU second, tokenizers {theirs:.2f}: {ratio:.1f}x "
        f"({min(ratios):.1f} to {max(ratios):.1f}); no id differs; proof of equality {statistics.median(proofs):.2f} s"
    )
    return ratio


def main() -> None:
    """Train a tokenizer for each pattern, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=24)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    set_environment(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    texts = list(sample.documents(arguments.mb * 1_000_000))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {megabytes:.1f} MB, {processor_name()}, one thread, {arguments.rounds} rounds")
    given = batches(texts)
    with tempfile.TemporaryDirectory() as temporary:
        with ShardFile(Path(temporary) / "documents" / "text-00000.parquet") as shard:
            shard.write(documents_of("text", texts))
        ratios = []
        for pattern in PATTERNS:
            out = Workspace(Path(temporary) / pattern, Machine(workers=1))
            settings = TrainBpe(
                use="train_bpe", vocab_size=arguments.vocabulary, sample_bytes=8_000_000, pattern=pattern
            )
            tokenizer(settings, {"documents": Path(temporary)}, out)
            ratios.append(measure(out.folder / "tokenizer", given, megabytes, arguments.rounds))
    print(f"smallest ratio {min(ratios):.1f}x; goal 15x {'reached' if min(ratios) >= 15 else 'missed'}")


if __name__ == "__main__":
    main()

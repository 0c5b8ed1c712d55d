"""One process with a thread per core, or one process per core? Tokens per second of the same training run, side by side.

python bench/ranks.py [--steps 12] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from headwater.core.hardware import Machine, core_count, share_processor
from headwater.core.stage import Workspace


def make_world(folder: Path) -> dict[str, Path]:
    """Random tokens and a model of 13.8M parameters."""
    from headwater.model import checkpoint
    from headwater.model.config import ModelConfig
    from headwater.model.initialize import random_model
    from headwater.tokens.shards import TokenFormat, TokenShard, write_tokens_json

    form = TokenFormat(8192, separator_id=0, tokenizer_sha256="ab" * 32)
    rng, counts = np.random.default_rng(0), {}
    for split, documents in (("training", 2000), ("held_out", 20)):
        with TokenShard(folder / "encode" / split / "noise-00000.parquet", form) as shard:
            for number in range(documents):
                tokens = rng.integers(1, 8192, 800)
                tokens[0] = 0
                shard.write(pa.array([str(number)]), tokens, np.array([800]), np.array([3200]))
        counts[split] = shard.counts
    write_tokens_json(folder / "encode", form, {"noise": counts})
    config = ModelConfig(vocab_size=8192, hidden_size=384, num_layers=6, num_heads=6, context_length=512, qk_norm=True)
    checkpoint.save(folder / "initialize" / "checkpoint", random_model(config, 0), 0)
    return {"tokens": folder / "encode", "checkpoint": folder / "initialize"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    share_processor()
    from headwater.training.config import Train
    from headwater.training.train import train

    cores = core_count()
    settings = Train.model_validate(
        {"steps": arguments.steps, "sequence_length": 512, "batch_tokens": 16_384, "micro_batch_sequences": 8}
        | {"validate_every": 0, "validation_tokens": 4096, "checkpoint_interval": 0}
        | {"schedule": {"use": "constant"}, "mixture": {"max_epochs": 1000}}
    )
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        inputs = make_world(Path(name))
        for turn in range(arguments.repeats):
            for what, ranks in ((f"1 process, {cores} threads", 1), (f"{cores} processes, 1 thread", cores)):
                folder = Path(name) / f"run-{turn}-{ranks}"
                folder.mkdir()
                out = Workspace(folder, Machine(device="cpu", ranks=ranks, trackers=()))
                speeds.setdefault(what, []).append(train(settings, inputs, out)["tokens_per_second"])
    first = None
    for what, found in speeds.items():
        median = statistics.median(found)
        first = first or median
        print(f"{what:24} {median:8,.0f} tokens/s  {median / first:.2f}x   all: {[round(x) for x in found]}")


if __name__ == "__main__":
    main()

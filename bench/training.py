"""Training speed beside transformers.Trainer with its defaults: the same Llama, batch, sequence length and tokens.

Both run in this process on the same threads, in turns, so that a busy machine slows both alike. Trainer keeps every
default but for no checkpoints and no trackers; Headwater runs its whole step, with loader, log and TensorBoard. The
settings of the process that Headwater makes (denormals, freed memory kept) hold for both.

    python bench/training.py                  # 15M parameters, sequence 512
    python bench/training.py --model 5m
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from headwater.core.hardware import Machine, processor_name
from headwater.core.stage import Workspace
from headwater.core.units import format_count
from headwater.model import checkpoint, hf
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.tokens.shards import TokenFormat, TokenShard, write_tokens_json
from headwater.training.config import Train
from headwater.training.train import Run

MODELS: dict[str, dict[str, Any]] = {
    "5m": {"vocab_size": 4096, "hidden_size": 256, "num_layers": 4, "num_heads": 4, "ffn_size": 704, "sequence": 256},
    "15m": {"vocab_size": 8192, "hidden_size": 384, "num_layers": 6, "num_heads": 6, "ffn_size": 1024, "sequence": 512},
    "50m": {
        "vocab_size": 16384,
        "hidden_size": 640,
        "num_layers": 8,
        "num_heads": 10,
        "ffn_size": 1728,
        "sequence": 512,
    },
}
ROWS = 8  # Trainer's default for rows of a batch


class Times(TrainerCallback):
    """Wall and processor seconds of each of Trainer's steps."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note when a step begins."""
        self._start = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note how long it took."""
        self.wall.append(time.perf_counter() - self._start[0])
        self.processor.append(time.process_time() - self._start[1])


def write_tokens(folder: Path, vocab_size: int) -> Path:
    """Random documents of 20 to 1,000 tokens."""
    form = TokenFormat(vocab_size, separator_id=0, tokenizer_sha256="00" * 32)
    rng, counts = np.random.default_rng(0), {}
    for split, documents in (("training", 2000), ("held_out", 20)):
        lengths = rng.integers(20, 1000, documents)
        tokens = rng.integers(1, vocab_size, int(lengths.sum()))
        tokens[np.cumsum(lengths) - lengths] = 0
        with TokenShard(folder / split / "random-00000.parquet", form) as shard:
            shard.write(pa.array([str(n) for n in range(documents)]), tokens, lengths, lengths * 4)
        counts[split] = shard.counts
    write_tokens_json(folder, form, {"random": counts})
    return folder


def make_run(folder: Path, config: ModelConfig, sequence: int, threads: int) -> Run:
    checkpoint.save(folder / "initialize" / "checkpoint", random_model(config, 0), 0)
    settings = Train.model_validate(
        {
            "sequence_length": sequence,
            "batch_tokens": ROWS * sequence,
            "steps": 100_000,
            "optimizer": {"use": "adamw"},
            "validate_every": 0,
            "checkpoint_interval": 0,
            "mixture": {"max_epochs": 1e6},
        }
    )
    inputs = {"tokens": write_tokens(folder / "encode", config.vocab_size), "checkpoint": folder / "initialize"}
    out = Workspace(folder / "store" / "train", Machine(threads=threads))
    out.folder.mkdir(parents=True)
    return Run(settings, inputs, out)


def make_trainer(folder: Path, config: ModelConfig, run: Run, steps: int, times: Times) -> Trainer:
    rows = [torch.from_numpy(row).long() for step in range(steps) for row in run.batches.batch(step).tokens]
    values = hf.huggingface_config(config, 0)
    theirs = LlamaForCausalLM(
        LlamaConfig(**{k: v for k, v in values.items() if k not in ("architectures", "model_type")})
    )
    arguments = TrainingArguments(
        str(folder / "trainer"), max_steps=steps, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True
    )
    data = [{"input_ids": row, "labels": row} for row in rows]
    return Trainer(model=theirs, args=arguments, train_dataset=data, callbacks=[times])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", choices=MODELS, default="15m")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=4, help="steps of each in a round; the first is not counted")
    arguments.add_argument("--threads", type=int, default=0, help="0: all processor cores")
    given = arguments.parse_args()
    transformers.utils.logging.set_verbosity_error()
    shape = dict(MODELS[given.model])
    sequence = shape.pop("sequence")
    config = ModelConfig(**shape, context_length=sequence)
    ours: tuple[list[float], list[float]] = ([], [])
    times = Times()
    theirs: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as temporary:
        run = make_run(Path(temporary), config, sequence, given.threads)
        trainer = make_trainer(Path(temporary), config, run, given.steps, times)
        for _ in range(given.rounds):
            times.wall.clear()
            times.processor.clear()
            trainer.train()
            theirs[0].extend(times.wall[1:])
            theirs[1].extend(times.processor[1:])
            for step in range(given.steps):
                start = time.perf_counter(), time.process_time()
                run.step()
                if step:
                    ours[0].append(time.perf_counter() - start[0])
                    ours[1].append(time.process_time() - start[1])
        run.tensorboard.close()
    tokens = ROWS * sequence
    print(
        f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; Llama of {format_count(config.parameters())} parameters, "
        f"batch {ROWS} x {sequence}, {run.arithmetic.precision}, "
        f"peak {run.arithmetic.peak_flops_per_second / 1e9:.0f} GFLOP/s"
    )
    for name, mine, other in (("wall clock", ours[0], theirs[0]), ("processor", ours[1], theirs[1])):
        fast, slow = statistics.median(mine), statistics.median(other)
        print(
            f"{name:>10}: Headwater {tokens / fast:,.0f} tokens/s, Trainer {tokens / slow:,.0f} tokens/s; "
            f"ratio {slow / fast:.2f} (best steps {min(other) / min(mine):.2f})"
        )


if __name__ == "__main__":
    main()

"""Training speed beside other trainers: the same shape, batch, sequence length and tokens, in turns.

Each trainer is a process of its own with the settings that it makes for itself, and trains a few steps whenever it is
its turn, so that a busy machine slows all alike. Headwater runs its whole step, with loader, log and TensorBoard.

    python bench/training.py                                            # 15M parameters, beside Trainer's defaults
    python bench/training.py --model 5m --peers trainer trainer-bf16 trainer-course litgpt litgpt-bf16
    python bench/training.py --peers nanogpt nanochat --clones ~/src    # folders nanoGPT and nanochat in ~/src
    python bench/training.py --peers pair --threads 2                   # two processes of one thread each

litgpt gets an environment of its own on first use (`peers/litgpt.txt`). Measured with nanoGPT at commit 3adf61e and
nanochat at 92d63d4.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import torch

from headwater.core.hardware import core_count, measure_peak_flops_per_second, processor_name
from headwater.core.units import format_bytes, format_count, format_seconds
from headwater.model import checkpoint, hf
from headwater.model.initialize import random_model
from headwater.model.shape import ModelConfig
from headwater.tokens.loader import Batches
from headwater.tokens.mixture import Mixture
from headwater.tokens.shards import TokenFormat, TokenShard, write_tokens_json
from peers.environment import PEERS, python_of

MODELS: dict[str, tuple[int, ...]] = {  # vocabulary, width, layers, heads, feed-forward, sequence, rows
    "5m": (4096, 256, 4, 4, 704, 256, 8),
    "15m": (8192, 384, 6, 6, 1024, 512, 8),
    "50m": (16384, 640, 8, 10, 1728, 512, 8),
    "124m": (50304, 768, 12, 12, 2048, 1024, 4),
}
SHAPE = ("vocab_size", "hidden_size", "num_layers", "num_heads", "ffn_size")
CLONES = {"nanogpt": "nanoGPT", "nanochat": "nanochat"}
PEERS_TO_CHOOSE = (
    "trainer",
    "trainer-bf16",
    "trainer-course",
    "litgpt",
    "litgpt-bf16",
    "nanogpt",
    "nanogpt-compile",
    "nanochat",
    "nanochat-bf16",
    "pair",
)


def write_tokens(folder: Path, vocab_size: int, longest: int) -> Path:
    """Random documents of `longest` / 50 to `longest` tokens."""
    form = TokenFormat(vocab_size, separator_id=0, tokenizer_sha256="00" * 32)
    rng, counts = np.random.default_rng(0), {}
    for split, total in (("training", 400_000), ("held_out", 20_000)):
        lengths = rng.integers(longest // 50, longest, max(2 * total // longest, 2))
        tokens = rng.integers(1, vocab_size, int(lengths.sum()))
        tokens[np.cumsum(lengths) - lengths] = 0
        with TokenShard(folder / split / "random-00000.parquet", form) as shard:
            shard.write(pa.array([str(n) for n in range(len(lengths))]), tokens, lengths, lengths * 4)
        counts[split] = shard.counts
    write_tokens_json(folder, form, {"random": counts})
    return folder


@dataclass
class Trainer:
    """One process that trains when told to."""

    name: str
    process: subprocess.Popen[str]
    laps: list[tuple[float, float]]
    """Wall and processor seconds of each counted step."""
    facts: dict[str, Any]

    def ask(self, steps: int) -> None:
        """Let it train."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def hear(self) -> None:
        """Wait until it has; its first step, which finds cold caches, is not counted."""
        out: IO[str] | None = self.process.stdout
        assert out is not None
        line = out.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self.process.wait()}")
        self.facts = json.loads(line)
        self.laps.extend(tuple(lap) for lap in self.facts.pop("laps")[1:])

    def median(self, processor: bool) -> float:
        """Seconds of a step."""
        return statistics.median(lap[processor] for lap in self.laps)


def start(name: str, job: dict[str, Any], clones: Path, quiet: bool) -> Trainer:
    """Start a trainer and wait until it has warmed up."""
    peer, _, variant = name.partition("-")
    python = python_of(peer) if (PEERS / f"{peer}.txt").exists() else Path(sys.executable)
    default = {"trainer": "default", "litgpt": "fp32", "nanochat": "fp32"}.get(peer, "")
    job = job | {"variant": variant or default, "clone": str((clones / CLONES.get(peer, "")).expanduser().resolve())}
    environment = dict(os.environ) | {"OMP_NUM_THREADS": str(job["threads"])}
    environment["TORCHINDUCTOR_CACHE_DIR"] = f"{job['folder']}/compiled-{name}"  # else peers would share theirs
    if peer == "headwater":
        environment |= {"GOMP_SPINCOUNT": "10000"}  # as its command does
    process = subprocess.Popen(
        [python, PEERS / f"{peer}_training.py", json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
        env=environment,
    )
    trainer = Trainer(name, process, [], {})
    trainer.hear()
    trainer.laps.clear()
    print(f"{name} is ready", file=sys.stderr)
    return trainer


def report(
    trainers: dict[str, list[Trainer]], config: ModelConfig, sequence: int, rows: int, peak: float, threads: int
) -> None:
    """Print a line for each trainer; its share of the peak by processor time, which a busy machine changes least."""
    ours, flops = trainers["headwater"][0], config.flops_per_token(sequence)
    best = max([peak, *(t.facts["peak_flops_per_second"] for t in trainers["headwater"])])
    print(f"\n{'':<16} {'tokens/s':>9} {'ratio':>6} {'tokens/CPU s':>13} {'ratio':>6} {'of peak':>8} {'memory':>9}")
    for name, several in trainers.items():
        wall, processor = (sum(rows * sequence / t.median(which) for t in several) for which in (False, True))
        mine = [rows * sequence / ours.median(which) for which in (False, True)]
        memory = format_bytes(sum(t.facts["peak_bytes"] for t in several))
        print(
            f"{name:<16} {wall:>9,.0f} {mine[0] / wall:>6.2f} {processor:>13,.0f} {mine[1] / processor:>6.2f} "
            f"{processor * threads * flops / best:>8.1%} {memory:>9}"
        )
    facts = ours.facts
    print(
        f"\npeak {best / 1e9:,.0f} GFLOP/s; Headwater: {facts['speed']}; loading "
        f"{facts['load_seconds'] / ours.median(processor=False):.2%} of a step; ready after "
        f"{format_seconds(facts['ready_seconds'][0])} ({facts['ready_seconds'][1]:.0f} CPU s)"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", choices=MODELS, default="15m")
    arguments.add_argument("--peers", nargs="*", choices=PEERS_TO_CHOOSE, default=["trainer"])
    arguments.add_argument("--clones", type=Path, default=Path(), help="folder with the clones nanoGPT and nanochat")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=4, help="steps of each in a round; the first is not counted")
    arguments.add_argument("--threads", type=int, default=0, help="0: all processor cores")
    arguments.add_argument("--heads", type=int, help="other than the model's, such as half as many of twice the size")
    arguments.add_argument("--longest", type=int, default=100_000, help="tokens of the longest document")
    arguments.add_argument("--loud", action="store_true", help="show what the trainers print")
    given = arguments.parse_args()
    *numbers, sequence, rows = MODELS[given.model]
    shape = dict(zip(SHAPE, numbers, strict=True))
    shape["num_heads"] = given.heads or shape["num_heads"]
    config, threads = ModelConfig(**shape, context_length=sequence), given.threads or core_count()
    print(
        f"{processor_name()}, {threads} threads; {format_count(config.parameters())} parameters, batch {rows} x "
        f"{sequence}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint.save(folder / "initialize" / "checkpoint", random_model(config, 0), 0)
        encoded = write_tokens(folder / "encode", config.vocab_size, given.longest)
        batches = Batches(encoded, Mixture(max_epochs=1e9), sequence, rows, 0)
        tokens = [np.column_stack((b.tokens, b.targets[:, -1])) for b in map(batches.batch, range(20))]
        np.save(folder / "tokens.npy", np.concatenate(tokens))
        llama = {k: v for k, v in hf.huggingface_config(config, 0).items() if k not in ("architectures", "model_type")}
        job = {"folder": temporary, "tokens": str(folder / "tokens.npy"), "shape": shape, "llama": llama}
        job |= {"rows": rows, "sequence": sequence, "threads": threads, "warm_steps": 2, "number": 0}
        trainers: dict[str, list[Trainer]] = {"headwater": [start("headwater", job, given.clones, not given.loud)]}
        for number, name in enumerate(given.peers, 1):
            if name == "pair":
                jobs = [job | {"number": number * 100 + one, "threads": 1} for one in range(2)]
                trainers[name] = [start("headwater", one, given.clones, not given.loud) for one in jobs]
            else:
                trainers[name] = [start(name, job | {"number": number}, given.clones, not given.loud)]
        peak = 0.0
        for _ in range(given.rounds):
            for several in trainers.values():
                for trainer in several:
                    trainer.ask(given.steps)
                for trainer in several:
                    trainer.hear()
            peak = max(peak, measure_peak_flops_per_second("cpu", "bf16", 0.2))
        report(trainers, config, sequence, rows, peak, threads)
        for trainer in (one for several in trainers.values() for one in several):
            assert trainer.process.stdin is not None
            trainer.process.stdin.close()
            trainer.process.wait()


if __name__ == "__main__":
    main()

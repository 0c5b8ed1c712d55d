"""What a run on hundreds or thousands of GPUs needs: memory, network, checkpoints, failures. `python -m` prints a table.

Every formula is in docs/concepts/scale.md with its source. Nothing here was measured by us on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headwater.advice.cost import CHECKPOINT_BYTES
from headwater.advice.market import Accelerator, market
from headwater.advice.memory import CHUNK_BYTES
from headwater.model.presets import PRESETS
from headwater.model.shape import ModelConfig

DAY = 86_400.0
GB = 1e9


H100 = market().accelerator("h100-80gb")
"""H100 SXM, 8 to a machine, 400 Gb/s of network each; market.yaml has its numbers and their sources."""


@dataclass(frozen=True)
class LargeRun:
    """A training run and the machines that it is given.

    Attributes:
        name: what it is called.
        model: its shape.
        tokens: to train on.
        sequence_length: tokens of a row.
        batch_tokens: tokens of a step.
        micro_batch_tokens: tokens of a forward and backward pass of a data-parallel rank.
        gpus: how many.
        tensor_parallel: GPUs of a machine that share every matrix.
        shards: ranks over which weights and optimizer are spread (FSDP), each of `tensor_parallel` GPUs.
        mfu: share of the peak that is reached, counted with full attention.
        checkpoint_every_layer: whether only the input of each block is kept for the backward pass.
        restart_seconds: from an interruption to the next step: notice, replace, load, compile.
        gpu: their kind.
    """

    name: str
    model: ModelConfig
    tokens: float
    sequence_length: int
    batch_tokens: int
    micro_batch_tokens: int
    gpus: int
    tensor_parallel: int
    shards: int
    mfu: float
    checkpoint_every_layer: bool
    restart_seconds: float = 600.0
    gpu: Accelerator = H100

    # time and money

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs while they work."""
        flops = self.model.flops_per_token(self.sequence_length, attention="full")
        return self.gpus * self.gpu.flops_per_second("bf16") * self.mfu / flops

    @property
    def step_seconds(self) -> float:
        """Time of a step."""
        return self.batch_tokens / self.tokens_per_second

    @property
    def working_seconds(self) -> float:
        """Time of all steps."""
        return self.tokens / self.tokens_per_second

    # memory of one GPU

    @property
    def tokens_per_replica(self) -> int:
        """Tokens of a step for one rank of data parallelism, which is `tensor_parallel` GPUs."""
        return self.batch_tokens * self.tensor_parallel // self.gpus

    def memory(self) -> dict[str, float]:
        """Bytes on one GPU by what they are for."""
        model, parts = self.model, self.shards * self.tensor_parallel
        block = model.block_matrix_parameters() / self.tensor_parallel
        vocabulary = model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
        rows = self.micro_batch_tokens * model.hidden_size
        kept = 2 * rows * model.num_layers  # bf16 input of each block
        inside = ACTIVATION_BYTES * rows / self.tensor_parallel
        return {
            "fp32 weights, gradients, two moments, sharded": 16 * model.parameters() / parts,
            "two blocks gathered in bf16, one's gradient in fp32": 2 * 2 * block + 4 * block,
            "embedding and head gathered in fp32, with gradients": 2 * 4 * vocabulary,
            "activations": kept + inside if self.checkpoint_every_layer else inside * model.num_layers,
            "a chunk of logits and its gradient": CHUNK_BYTES,
        }

    # network, of one GPU in one step

    @property
    def sharding_bytes(self) -> float:
        """Sent by FSDP: weights gathered in bf16 for forward and again for backward, gradients reduced in fp32."""
        micro_batches = max(self.tokens_per_replica // self.micro_batch_tokens, 1)
        share = self.model.parameters() / self.tensor_parallel * (self.shards - 1) / self.shards
        replicas = self.gpus // (self.shards * self.tensor_parallel)
        across = 2 * 4 * share / self.shards * (replicas - 1) / replicas  # all-reduce of the shard's gradient
        return micro_batches * (2 + 2) * share + 4 * share + across

    @property
    def tensor_parallel_bytes(self) -> float:
        """Sent by tensor parallelism: 4 all-reduces of bf16 activations per block, 2 forward and 2 backward."""
        t = self.tensor_parallel
        return 4 * self.model.num_layers * 2 * self.tokens_per_replica * self.model.hidden_size * 2 * (t - 1) / t

    @property
    def network_seconds(self) -> float:
        """Time of a step that the network needs; it runs beside the arithmetic."""
        return self.sharding_bytes / (self.gpu.network_gb_per_second * GB)

    @property
    def node_seconds(self) -> float:
        """Time of a step that the links inside a machine need; arithmetic waits for most of it."""
        return self.tensor_parallel_bytes / (self.gpu.node_gb_per_second * GB)

    # checkpoints and failures

    @property
    def checkpoint_bytes(self) -> float:
        """fp32 weights and two moments."""
        return float(CHECKPOINT_BYTES * self.model.parameters())

    @property
    def pause_seconds(self) -> float:
        """What a checkpoint in the background stops training for: the copy to the host's memory."""
        return (
            self.checkpoint_bytes
            / min(self.shards * self.tensor_parallel, self.gpus)
            / (self.gpu.host_gb_per_second * GB)
        )

    @property
    def failures_per_day(self) -> float:
        """Interruptions of the whole run."""
        return self.gpus * self.gpu.failures_per_day

    @property
    def interval_seconds(self) -> float:
        """Best time between two checkpoints: sqrt(2 x pause x time between failures), at least 5 minutes."""
        return max(math.sqrt(2 * self.pause_seconds * DAY / self.failures_per_day), 300.0)

    @property
    def store_bytes_per_second(self) -> float:
        """What the shared disk must take for one checkpoint to be written before the next is due."""
        return self.checkpoint_bytes / self.interval_seconds

    @property
    def lost_share(self) -> float:
        """Share of the time that is lost: to pauses, to work that is done again, and to restarts."""
        per_failure = self.interval_seconds / 2 + self.restart_seconds
        return self.pause_seconds / self.interval_seconds + per_failure * self.failures_per_day / DAY

    @property
    def days(self) -> float:
        """From the first step to the last, failures included."""
        return self.working_seconds / (1 - self.lost_share) / DAY

    @property
    def gpu_hours(self) -> float:
        """GPU-hours that are paid."""
        return self.days * 24 * self.gpus


ACTIVATION_BYTES = 46
"""Bytes of activations that a block keeps for its backward pass, per token and number of the hidden size, in bf16. Source:
46 to 53 counted on Llama blocks of transformers with SDPA; Korthikanti et al. 2022 (arXiv:2205.05198) have 34 for GPT-2's."""

LLAMA_7B, LLAMA_70B = PRESETS["llama2-7b"].config(), PRESETS["llama3-70b"].config()
RUNS = (
    LargeRun("7B on 1T", LLAMA_7B, 1e12, 4096, 1024 * 4096, 16_384, 256, 1, 256, 0.42, True),
    LargeRun("70B on 15T", LLAMA_70B, 15e12, 8192, 2048 * 8192, 16_384, 4096, 8, 128, 0.38, True),
)
"""Shapes of Llama 2 7B and Llama 3 70B. Source of the MFU: llm-foundry's table for H100 in bf16, 42 to 46 % for 7B and 36 to
43 % for 70B."""


def table(runs: tuple[LargeRun, ...] = RUNS) -> str:
    """All numbers as a table in markdown."""
    rows: list[tuple[str, list[str]]] = [
        ("parameters", [f"{r.model.parameters() / 1e9:.2f}e9" for r in runs]),
        ("FLOPs per token, attention counted in full", [f"{_flops(r):.3g}" for r in runs]),
        ("GPUs: data x tensor parallel", [f"{r.gpus // r.tensor_parallel:,} x {r.tensor_parallel}" for r in runs]),
        ("weights spread over (FSDP x tensor)", [f"{r.shards:,} x {r.tensor_parallel}" for r in runs]),
        (
            "tokens per step, and per data-parallel rank",
            [f"{r.batch_tokens:,}, {r.tokens_per_replica:,}" for r in runs],
        ),
        (
            "tokens per second of all, per GPU",
            [f"{r.tokens_per_second:,.0f}, {r.tokens_per_second / r.gpus:,.0f}" for r in runs],
        ),
        ("seconds per step", [f"{r.step_seconds:.2f}" for r in runs]),
    ]
    rows += [
        (f"memory per GPU: {what}", [f"{r.memory()[what] / GB:.2f} GB" for r in runs]) for what in runs[0].memory()
    ]
    rows += [
        ("memory per GPU: all of it", [f"{sum(r.memory().values()) / GB:.1f} of {r.gpu.memory_bytes / GB:.0f} GB" for r in runs]),
        ("network per GPU and step (FSDP)", [f"{r.sharding_bytes / GB:.1f} GB, {r.network_seconds:.2f} s" for r in runs]),
        ("inside the machine (tensor parallel)", [f"{r.tensor_parallel_bytes / GB:.1f} GB, {r.node_seconds:.2f} s" for r in runs]),
        ("the same network without tensor parallelism", [f"{_flat(r).network_seconds:.2f} s" for r in runs]),
        ("a checkpoint", [f"{r.checkpoint_bytes / GB:,.0f} GB" for r in runs]),
        ("failures per day, hours between two", [f"{r.failures_per_day:.2f}, {24 / r.failures_per_day:.0f} h" for r in runs]),
        ("training pauses for the copy", [f"{r.pause_seconds * 1000:.0f} ms" for r in runs]),
        ("best time between checkpoints", [f"{r.interval_seconds / 60:.0f} min" for r in runs]),
        ("the shared disk must take", [f"{r.store_bytes_per_second / GB:.2f} GB/s" for r in runs]),
        ("GPU-hours that a failure costs", [f"{(r.interval_seconds / 2 + r.restart_seconds) / 3600 * r.gpus:,.0f}" for r in runs]),
        ("time lost to pauses and failures", [f"{r.lost_share:.2%}" for r in runs]),
        ("days", [f"{r.days:.1f}" for r in runs]),
        ("GPU-hours", [f"{r.gpu_hours:,.0f}" for r in runs]),
        (f"price at {H100.usd_per_hour.likely:g} USD per GPU-hour", [f"{r.gpu_hours * r.gpu.usd_per_hour.likely / 1e6:.2f} million USD" for r in runs]),
    ]  # fmt: skip
    head = ["| | " + " | ".join(r.name for r in runs) + " |", "|---|" + "---|" * len(runs)]
    return "\n".join([*head, *(f"| {what} | " + " | ".join(values) + " |" for what, values in rows)])


def _flops(run: LargeRun) -> float:
    return float(run.model.flops_per_token(run.sequence_length, attention="full"))


def _flat(run: LargeRun) -> LargeRun:
    """The same run with FSDP alone: as many tokens per GPU as before, at once."""
    tokens = run.tokens_per_replica // run.tensor_parallel
    return LargeRun(**{**vars(run), "tensor_parallel": 1, "shards": run.gpus, "micro_batch_tokens": tokens})


if __name__ == "__main__":
    print(table())

"""What share of its peak hardware will reach (MFU), from what published runs reached: the nearest of them weigh most.

measured.csv has 216 rows of llm-foundry's benchmark (Apache-2.0) and 20 published runs, MFU with full attention.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from headwater.advice.market import Precision, Range

RECOMPUTED = 4 / 3
"""FLOPs with activations computed again, over those without: a second forward pass. Source: the table of llm-foundry."""
SLOWER = 1.2
"""Time with activations computed again, over that without: less than 4 / 3, as larger micro-batches fit. Source: the same
table: 7B on A100 54.8 against 64.2 %, on H100 40.4 against 46.4 %, 3B at 16k and 32k 47.2 against 57.1 %."""
BANDWIDTH = {"parameters": 0.8, "sequence_length": 0.7, "gpus": 3.0}
"""Natural logarithm of the factor by which a row may differ before it weighs less than 1/sqrt(e). Our choice."""
ENOUGH = 0.05
"""Sum of weights below which no row is near: then the interval is widened by WIDER, and it is said."""
WIDER = 1.25
FEW = 5
"""Fewer rows tell no interval: it is widened too. Our choice."""
TINY = 0.4
"""Exponent by which the MFU falls with the size below a quarter of the smallest published model. Our estimate: the width of a
matrix, and with it the work of a kernel beside its start, goes by the root of the size."""
SOFTWARE: dict[str, float] = {"eager": 0.6, "compiled": 1.0, "hand-written": 1.15}
"""MFU over that of compiled or fused code, as most rows are. Source: nanoGPT 29 % (2023, through slow links) and llm.c 60 %
for the same model on the same GPU, whose llm-foundry rows are 43 %; 0.6 and 1.15 are our estimates between them."""
DEFAULT = Range(0.5, 0.35, 0.2)
"""Where no run of such hardware was published. Our estimate."""
Software = Literal["eager", "compiled", "hand-written"]


@dataclass(frozen=True)
class Measured:
    """A published measurement."""

    source: str
    gpu: str
    model: str
    parameters: float
    sequence_length: int
    gpus: int
    precision: Precision
    pure: bool
    """Whether weights stay in 16 bits while they are computed with."""
    sharding: str
    recompute: bool
    micro_batch: int
    tokens_per_second_per_gpu: float | None
    mfu: float

    @property
    def hardware_use(self) -> float:
        """Share of the peak with what is computed again (HFU)."""
        return self.mfu * (RECOMPUTED if self.recompute else 1.0)

    def mfu_if(self, recompute: bool) -> float:
        """Its MFU had it computed activations again, or not."""
        return self.mfu * SLOWER ** (self.recompute - recompute)


@dataclass(frozen=True)
class Utilization:
    """A prior for the MFU."""

    mfu: Range
    """Shares of the peak; `low` is what costs least, so the highest."""
    source: str


@cache
def measured() -> tuple[Measured, ...]:
    """All rows of measured.csv."""
    with Path(__file__).with_name("measured.csv").open(encoding="utf-8") as file:
        return tuple(_row(row) for row in csv.DictReader(file))


def _row(row: dict[str, str]) -> Measured:
    precision: Any = row["precision"]
    speed = row["tokens_per_second_per_gpu"]
    return Measured(
        row["source"], row["gpu"], row["model"], float(row["parameters"]), int(row["sequence_length"]),
        int(row["gpus"]), precision, row["pure"] == "1", row["sharding"], row["recompute"] == "1",
        int(row["micro_batch"]), float(speed) if speed else None, float(row["mfu"]) / 100,
    )  # fmt: skip


def expected(
    like: str,
    parameters: float,
    sequence_length: int,
    gpus: int,
    precision: Precision,
    *,
    recompute: bool = False,
    software: Software = "compiled",
) -> Utilization:
    """The MFU that runs like this one reached: weighted 10th, 50th and 90th percentile of the published.

    Args:
        like: hardware whose rows count, such as `h100-80gb`.
        parameters: active ones.
        sequence_length: tokens of a row.
        gpus: how many.
        precision: number format of the products.
        recompute: whether activations are computed again in the backward pass.
        software: how the model is computed.
    """
    rows = [row for row in measured() if row.gpu == like and row.precision == precision]
    factor = 1.0
    if not rows and precision == "fp8":  # measured in bf16 only: 27 % faster of a peak that is twice as high
        rows, factor = [row for row in measured() if row.gpu == like and row.precision == "bf16"], 0.63
    if not rows:
        small = _smaller(measured(), parameters)
        mfu = Range(*(share * SOFTWARE[software] / small for share in DEFAULT))
        return Utilization(mfu, f"no published run on such hardware in {precision} is known here: a wide guess")
    weights = [_weight(row, parameters, sequence_length, gpus, recompute) for row in rows]
    uses = [row.mfu_if(recompute) for row in rows]
    shares = [_quantile(uses, weights, level) for level in (0.9, 0.5, 0.1)]
    work = _smaller(rows, parameters) / factor / SOFTWARE[software]
    far = sum(weights) < ENOUGH
    wide = WIDER if far or len(rows) < FEW else 1.0
    best, likely, worst = (share / work for share in shares)
    mfu = Range(min(best * wide, max(uses) / work), likely, worst / wide)
    nearest = sorted(zip(weights, rows, strict=True), key=lambda pair: -pair[0])[:3]
    names = ", ".join(dict.fromkeys(_describe(row) for _, row in nearest))
    note = "; none of them is near, so the interval is widened" if far else ""
    note = note or ("; so few that the interval is widened" if len(rows) < FEW else "")
    if software != "compiled":
        note += f"; x{SOFTWARE[software]:g} for {software} code"
    return Utilization(mfu, f"{len(rows)} published measurements on {like}, the nearest {names}{note}")


def _smaller(rows: Sequence[Measured], parameters: float) -> float:
    """By what the MFU of a model falls that is far smaller than all of these: there is too little work for each kernel."""
    least = min(row.parameters for row in rows) / 4
    return max(least / parameters, 1.0) ** TINY


def _weight(row: Measured, parameters: float, sequence_length: int, gpus: int, recompute: bool) -> float:
    distance = sum(
        (math.log(a / b) / BANDWIDTH[name]) ** 2
        for name, a, b in (
            ("parameters", row.parameters, parameters),
            ("sequence_length", row.sequence_length, sequence_length),
            ("gpus", row.gpus, gpus),
        )
    )
    return math.exp(-distance / 2) * (1.0 if row.recompute == recompute else 0.5) + 1e-9 / (1 + distance)


def _describe(row: Measured) -> str:
    again = " (recomputing)" if row.recompute else ""
    return f"{row.source} {row.model} T={row.sequence_length:,} on {row.gpus:,}{again}: {row.mfu:.1%}"


def _quantile(values: Sequence[float], weights: Sequence[float], level: float) -> float:
    """The value below which a share `level` of the weight lies."""
    total, seen = sum(weights), 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        seen += weight
        if seen >= level * total:
            return value
    return max(values)

"""Hardware, prices and grids: the data of market.yaml, or of a copy that the user has edited."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from headwater.core.config import Config, load, nearest
from headwater.core.errors import InputError
from headwater.core.store import storage_error

Precision = Literal["fp32", "tf32", "bf16", "fp8"]
SHIPPED = Path(__file__).with_name("market.yaml")
GIB = 2.0**30


class Range(NamedTuple):
    """A number that is not known for certain. `low` is what is cheapest, `high` what is dearest."""

    low: float
    likely: float
    high: float


class Accelerator(Config):
    """A GPU or the like."""

    flops: dict[Precision, float]
    """Peak of dense products by number format [TFLOP/s]."""
    memory_gib: float = Field(gt=0)
    """Memory [GiB]."""
    watts: float = Field(gt=0)
    """Power under load [W]."""
    usd_per_hour: Range
    """Price of an hour [USD]."""
    reached: float = Field(default=0.9, gt=0, le=1)
    """Largest share of the peak that plain matrix products reach."""
    like: str = ""
    """Whose measured MFU it goes by, among the published."""
    per_node: int = Field(default=8, ge=1)
    """How many stand in a machine."""
    node_gb_per_second: float = Field(gt=0)
    """To the others of its machine, one direction [GB/s]."""
    network_gb_per_second: float = Field(gt=0)
    """To other machines, one direction [GB/s]."""
    host_gb_per_second: float = Field(default=25.0, gt=0)
    """To the memory of its host [GB/s]. Source: PCIe 5 at about half its rate."""
    reserved_bytes: float = Field(default=1.0e9, ge=0)
    """What its driver and libraries take: CUDA's context, workspaces of cuBLAS, buffers of NCCL. Our estimate: 0.5 to 1.5
    GB."""
    failures_per_day: float = Field(default=419 / (54 * 16_384), ge=0)
    """Interruptions that one with its share of everything around it causes. Source: Llama 3 (arXiv:2407.21783, 3.3.4): 419
    in 54 days on 16,384 GPUs."""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if any(value <= 0 for value in self.flops.values()) or any(price < 0 for price in self.usd_per_hour):
            raise ValueError("flops must be above zero, and prices not below")
        if list(self.usd_per_hour) != sorted(self.usd_per_hour):
            raise ValueError(f"usd_per_hour must rise from low to high; got {list(self.usd_per_hour)}")
        return self

    @property
    def memory_bytes(self) -> float:
        """Its memory [bytes]."""
        return self.memory_gib * GIB

    def flops_per_second(self, precision: Precision) -> float:
        """Peak of dense products in a number format [FLOP/s].

        Raises:
            InputError: it cannot compute in it.
        """
        if precision not in self.flops:
            hint = f"it has {', '.join(self.flops)}"
            raise InputError(f"this accelerator has no {precision} products", place="--precision", hint=hint)
        return self.flops[precision] * 1e12


class Market(Config):
    """Everything that has a price or a data sheet."""

    date: str
    """When the prices were looked up."""
    accelerators: dict[str, Accelerator]
    """By name."""
    grids: dict[str, float]
    """Carbon intensity by name [g CO2e per kWh]."""
    pue: Range
    """Energy of the data centre over that of its computers."""
    goodput_small: Range
    """Share of the time that makes progress, on few GPUs."""
    goodput_large: Range
    """The same on many."""
    goodput_gpus: int
    """Up to how many are few."""
    development: Range
    """Cost of everything, as a multiple of the final run."""
    evaluation_share: Range
    """Share of the final run's hours for evaluating checkpoints."""
    storage_usd_per_tb_month: Range
    """Price of storage [USD]."""

    def accelerator(self, name: str) -> Accelerator:
        """The accelerator of this name; `h100` is the usual one of its kind.

        Raises:
            InputError: there is none; names the nearest.
        """
        wanted = name.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")
        wanted = ALIASES.get(wanted, wanted)
        for known, accelerator in self.accelerators.items():
            if known.replace("-", "") == wanted.replace("-", ""):
                return accelerator
        hint = f"one of {', '.join(self.accelerators)}; --write-prices makes a file to add it to"
        raise InputError(f"no GPU '{name}' is known{nearest(wanted, self.accelerators)}", place="--gpu", hint=hint)

    def grid(self, name: str) -> float:
        """Carbon intensity [g CO2e per kWh] of a grid with a name, or the number itself.

        Raises:
            InputError: it is neither; names the nearest.
        """
        if name.lower() in self.grids:
            return self.grids[name.lower()]
        try:
            grams = float(name)
        except ValueError:
            hint = "the name of a grid, or grams of CO2 equivalent for a kWh"
            problem = f"no grid '{name}' is known{nearest(name.lower(), self.grids)}"
            raise InputError(problem, place="--grid", hint=hint) from None
        if not 0 <= grams <= 2000:
            hint = "coal is about 1,000 g, wind 11 g for a kWh; kg for a kWh are a thousand times that"
            raise InputError(f"{name} g CO2e for a kWh is no grid", place="--grid", hint=hint)
        return grams


ALIASES = {
    "a100": "a100-80gb", "a100-sxm": "a100-80gb", "a100-80gb-sxm": "a100-80gb", "a100-40gb-sxm": "a100-40gb",
    "a100-sxm4-80gb": "a100-80gb", "a100-sxm4-40gb": "a100-40gb", "a100-pcie": "a100-pcie-40gb",
    "h100": "h100-80gb", "h100-sxm": "h100-80gb", "h100-80gb-sxm": "h100-80gb", "h100-sxm5": "h100-80gb",
    "h100-80gb-hbm3": "h100-80gb", "h100-sxm5-80gb": "h100-80gb", "h200-sxm": "h200", "h800-80gb": "h800",
    "a800": "a800-80gb", "v100": "v100-32gb", "3090": "rtx-3090", "4090": "rtx-4090", "5090": "rtx-5090",
    "tpuv4": "tpu-v4",
}  # fmt: skip
"""What people write -> the name in market.yaml."""


def market(path: Path | None = None) -> Market:
    """The shipped market, or that of a file.

    Raises:
        InputError: the file cannot be read.
        RecipeError: a number in it is not valid; one line per problem.
    """
    return load(Market, path) if path else _shipped()


@cache
def _shipped() -> Market:
    return load(Market, SHIPPED)


def write_prices(path: Path) -> None:
    """Write a copy of the shipped market to edit.

    Raises:
        InputError: there is such a file already.
    """
    if path.exists():
        raise InputError("exists already", place=str(path), hint="choose another name, or remove it")
    try:
        shutil.copyfile(SHIPPED, path)
    except OSError as error:
        raise storage_error(error, path) from None

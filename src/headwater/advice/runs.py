"""Published runs, computed anew: what was claimed beside what follows from model, tokens and hardware."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from headwater.advice.architecture import named
from headwater.advice.claims import Claims, Finding, check, mfu_of
from headwater.advice.cost import Cost, Job
from headwater.advice.market import Market, market
from headwater.advice.utilization import Software
from headwater.core.config import Config, load


class Run(Config):
    """A run and what was said of it."""

    name: str
    lecture: bool = False
    model: str | None = None
    parameters: float | None = Field(default=None, gt=0)
    tokens: float | None = Field(default=None, gt=0)
    gpu: str | None = None
    gpus: int | None = Field(default=None, ge=1)
    gpu_hours: float | None = None
    days: float | None = None
    mfu: float | None = None
    flops: float | None = None
    usd: float | None = None
    co2: float | None = None
    price: float | None = None
    watts: float | None = None
    pue: float | None = None
    grid: str = "world"
    recompute: bool = False
    software: Software = "compiled"
    note: str = ""
    source: str

    @property
    def complete(self) -> bool:
        """Whether it can be computed."""
        return bool(self.model or self.parameters) and self.tokens is not None

    def cost(self, of: Market | None = None, mfu: float | None = None) -> Cost:
        """What the run takes by our arithmetic, with its MFU predicted or given."""
        assert self.tokens is not None
        return Cost(
            Job(
                self.tokens, named(self.model) if self.model else None, self.gpu or "a100-80gb", self.gpus or 8,
                parameters=self.parameters or 0, mfu=mfu, recompute=self.recompute or None, software=self.software,
                usd_per_hour=self.price, watts=self.watts, pue=self.pue, grid=self.grid, fits_anyhow=True,
                market=of or market(),
            )
        )  # fmt: skip

    def claims(self) -> Claims:
        """What was said."""
        return Claims(
            gpu_hours=self.gpu_hours, days=self.days, mfu=self.mfu, flops=self.flops, usd=self.usd, co2_tonnes=self.co2
        )


class Runs(Config):
    """What runs.yaml holds."""

    runs: tuple[Run, ...]


@cache
def published() -> tuple[Run, ...]:
    """All of them."""
    return load(Runs, Path(__file__).with_name("runs.yaml")).runs


class Row(NamedTuple):
    """A run, computed; None where it cannot be."""

    run: Run
    cost: Cost | None
    findings: tuple[Finding, ...]

    @property
    def mfu(self) -> float | None:
        """Share of the peak over the whole run, from the hours that were claimed."""
        hours = self.run.gpu_hours or (self.run.days and self.run.gpus and self.run.days * 24 * self.run.gpus)
        return mfu_of(self.cost, hours) if self.cost and self.run.gpu and hours else None

    def to_json(self) -> dict[str, Any]:
        """Claimed and computed."""
        cost = self.cost
        computed = cost and {
            "parameters": cost.model.parameters() if cost.model else cost.parameters,
            "flops": cost.flops,
            "gpu_hours": cost.gpu_hours._asdict() if self.run.gpu else None,
            "usd": cost.usd._asdict() if self.run.gpu else None,
            "mfu_of_whole_run": self.mfu,
            "mfu_expected": cost.utilization.mfu.likely if self.run.gpu else None,
        }
        findings = [{"verdict": found.verdict, "text": found.text} for found in self.findings]
        return {"claimed": self.run.model_dump(), "computed": computed, "findings": findings}


def table(of: Market | None = None, *, lecture: bool = False) -> list[Row]:
    """Every published run computed anew; `lecture`: only those of the lecture's table."""
    rows = []
    for run in published():
        if lecture and not run.lecture:
            continue
        cost = run.cost(of) if run.complete else None
        claims = run.claims() if run.gpu else Claims(flops=run.flops)
        rows.append(Row(run, cost, tuple(check(cost, claims)) if cost else ()))
    return rows

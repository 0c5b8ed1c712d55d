"""What a recipe's training is expected to take and to reach, told before it runs and compared with it afterwards. No torch.

The same arithmetic as `headwater cost`, on the machine at hand: its pace takes the place of the published MFU.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from headwater.advice.architecture import of
from headwater.advice.claims import warnings
from headwater.advice.cost import Cost, Job
from headwater.advice.delivery import Delivery
from headwater.advice.estimate import Estimate, planned_model
from headwater.advice.ladder import Forecast, Law, kept_law
from headwater.advice.market import GIB, Accelerator, Market, Range, market
from headwater.advice.pace import TYPICAL_USE, Pace, pace_of
from headwater.core.hardware import Machine, power_watts
from headwater.core.stage import Step
from headwater.core.store import read_json, write_json
from headwater.model.shape import ModelConfig

HERE = "this-machine"
GUESS = 2.5
"""Factor by which a machine that was not measured may be faster or slower than a typical one. Our estimate."""
FOLDER = "forecasts"


@dataclass(frozen=True)
class Outlook:
    """What is expected of the stage train."""

    model: ModelConfig
    settings: Any
    tokens: float
    unique_tokens: float | None
    pace: Pace
    cost: Cost
    law: Law | None
    activation_bytes: float | None = None
    """Measured by `headwater plan --measure` [bytes per token]."""

    @property
    def bits_per_byte(self) -> Forecast | None:
        """How good the model will be, where a ladder tells."""
        return self.law.predict(self.model.parameters(), self.tokens) if self.law else None

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        found = self.bits_per_byte
        return {
            **self.cost.to_json(),
            "pace": vars(self.pace),
            "bits_per_byte": vars(found) if found else None,
            "law": self.law.best if self.law else None,
            "activation_bytes_per_token": self.activation_bytes,
        }

    def __str__(self) -> str:
        """The outlook in some lines."""
        from headwater.advice.statement import statement

        lines = [statement(self.cost, describe=False)]
        found = self.bits_per_byte
        if found:
            lines.append(
                f"expected of the trained model: {found.value:.3f} bits per byte of held-out text, {found.low:.3f} to "
                f"{found.high:.3f} (ladder: {self.law})"
            )
        else:
            lines.append(
                "how good the model will be: not known yet; headwater ladder RECIPE fits a law on small models"
            )
        return "\n\n".join(lines)


def outlook(
    steps: Sequence[Step], taken: Delivery | None, machine: Machine, store: Path, *, gpu: str | None = None,
    gpus: int | None = None, prices: Path | None = None,
) -> Outlook | None:  # fmt: skip
    """What a recipe's training is expected to take; None where nothing is trained, or the model is not known yet.

    Args:
        steps: the planned stages.
        taken: the mixture that training will take.
        machine: the machine at hand.
        store: folder of results.
        gpu: kind of GPU to train on instead.
        gpus: how many of them.
        prices: the user's file of prices.

    Raises:
        InputError: there is no such GPU.
        MismatchError: the model does not fit on it.
    """
    named = {step.name: step for step in steps}
    model = planned_model(steps)
    if "train" not in named or model is None:
        return None
    settings: Any = named["train"].settings
    pace = pace_of(settings, model, store, machine)
    tokens = float(settings.planned_tokens or max(pace.budget_tokens(settings, model), settings.batch_tokens))
    unique = None
    if taken:
        unique = min(float(taken.unique_tokens), tokens) or None
    known = market(prices)
    activations = read_activations(store, model)
    shared = {
        "sequence_length": settings.sequence_length,
        "unique_tokens": unique,
    }
    shared |= {"activation_bytes": activations}
    shape = of(model)
    if gpu is None:
        job = _here(pace, settings, machine, known, model, tokens) | shared
        cost = Cost(Job(model=shape, fits_anyhow=True, **job))
    else:
        cost = Cost(Job(tokens, shape, gpu, gpus, market=known, **shared))
        _ = cost.way
    law = kept_law(store, named.get("encode"), settings)
    return Outlook(model, settings, tokens, unique, pace, cost, law, activations)


def _here(
    pace: Pace, settings: Any, machine: Machine, known: Market, model: ModelConfig, tokens: float
) -> dict[str, Any]:
    """The machine at hand as if it were for rent: its pace is the MFU."""
    peak = pace.peak_flops_per_second or pace.flops_per_second / TYPICAL_USE
    full = model.flops_per_token(settings.sequence_length, "full")
    use = pace.flops_per_second / peak * full / model.flops_per_token(settings.sequence_length)
    price = machine.usd_per_hour
    here = Accelerator(
        flops={"bf16": peak / 1e12}, memory_gib=psutil.virtual_memory().total / GIB, watts=power_watts(machine),
        usd_per_hour=Range(price, price, price), reached=1.0, per_node=1, node_gb_per_second=10,
        network_gb_per_second=1, reserved_bytes=0.4e9,
    )  # fmt: skip
    words = {
        "trial": "of a trial of some steps here", "measured speed": "of the training before",
        "typical speed": "a guess, typical of two cores; headwater plan --measure tells",
    }  # fmt: skip
    return {
        "tokens": tokens, "gpu": HERE, "gpus": 1, "mfu": min(use, 1.0), "mfu_source": words[pace.basis],
        # a run that ends by the clock takes as long as it is told to
        "mfu_factor": GUESS if pace.basis == "typical speed" and settings.planned_steps is not None else 1.0,
        "usd_per_hour": None, "pue": 1.0, "grid": str(machine.carbon_grams_per_kwh),
        "micro_batch": settings.micro_batch, "software": "eager",
        "market": known.model_copy(update={"accelerators": {**known.accelerators, HERE: here}}),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ kept for afterwards


ACTIVATIONS = "activations.json"


def keep_activations(store: Path, model: ModelConfig, bytes_per_token: float) -> None:
    """Remember what was counted."""
    path = store / ACTIVATIONS
    known = dict(read_json(path)) if path.is_file() else {}
    write_json(path, known | {_name(model): bytes_per_token})


def read_activations(store: Path, model: ModelConfig) -> float | None:
    """What was counted of such a model."""
    path = store / ACTIVATIONS
    return read_json(path).get(_name(model)) if path.is_file() else None


def _name(model: ModelConfig) -> str:
    return model.model_dump_json(exclude={"rope_theta", "norm_epsilon", "init_std", "mup_base_size", "context_length"})


def remember(
    steps: Sequence[Step], estimates: Sequence[Estimate], expected: Outlook | None, store: Path
) -> Path | None:
    """Write down what is expected before training begins; what was written when it began stays.

    Returns the file; None where nothing is trained.
    """
    train = next((step for step in steps if step.name == "train" and not step.finished), None)
    if train is None:
        return None
    path = store / FOLDER / f"{train.folder.name}.json"
    if path.is_file() and train.partial.is_dir():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    stages = {
        step.name: {"seconds": cost.seconds, "basis": cost.basis}
        for step, cost in zip(steps, estimates, strict=True)
        if not step.finished
    }
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    values: dict[str, Any] = {"made": made, "stages": stages}
    if expected:
        found, law = expected.bits_per_byte, expected.law
        values |= {
            "tokens": expected.tokens,
            "tokens_per_second": expected.pace.flops_per_second
            / expected.model.flops_per_token(expected.settings.sequence_length),
            "basis": expected.pace.basis,
            "parameters": expected.model.parameters(),
            "bits_per_byte": vars(found) if found else None,
            "law": law.to_json() if law else None,
            "warnings": warnings(expected.cost),
            "cost": expected.cost.to_json(),
        }
    write_json(path, values)
    return path


def remembered(train_folder: Path) -> Mapping[str, Any] | None:
    """What was expected of a finished training; None where nothing was written down."""
    path = train_folder.parent / FOLDER / f"{train_folder.resolve().name}.json"
    return read_json(path) if path.is_file() else None

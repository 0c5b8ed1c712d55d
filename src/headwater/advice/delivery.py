"""What a run will ask of each source and whether the source can give it, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.advice.estimate import TYPICAL, TYPICAL_VOCABULARY, planned_model
from headwater.advice.pace import pace_of
from headwater.core.errors import MismatchError
from headwater.core.hardware import Machine
from headwater.core.stage import Step
from headwater.core.units import format_count
from headwater.tokens.mixture import MixturePlan, together
from headwater.training.phases import PhasedBatches, stretches

DOCUMENT_STAGES = ("read", "clean", "dedup", "decontaminate", "split")


@dataclass(frozen=True)
class Delivery:
    """The mixture of a run that has not been trained yet.

    Attributes:
        plans: rows, tokens and epochs of each source, by phase; one without a name for a run without phases.
        basis: `counted` when the tokens are on disk, else `estimated`.
        ends_by: `tokens`, or `budget` when the machine's speed decides how many there are.
        problem: why this cannot be delivered, as far as an estimate can tell.
    """

    plans: Mapping[str, MixturePlan]
    basis: str
    ends_by: str
    problem: str | None = None

    @property
    def plan(self) -> MixturePlan:
        """All phases together."""
        return together(list(self.plans.values()))

    @property
    def unique_tokens(self) -> int:
        """How many of the tokens are different: a source that is asked for less than it has repeats none."""
        return sum(min(source.available_tokens, source.requested_tokens) for source in self.plan.sources)

    def rows(self) -> list[dict[str, Any]]:
        """One row per phase and source, then one per source for all phases; for a table or as JSON."""
        phases = self.plans if len(self.plans) == 1 else {**self.plans, "all phases": self.plan}
        return [
            ({"phase": phase} if phase else {}) | {"source": name, **numbers}
            for phase, plan in phases.items()
            for name, numbers in plan.to_json().items()
        ]

    def __str__(self) -> str:
        """A table, and what is wrong with it."""
        rows = self.rows()
        header = ("source", "weight", "requested tokens", "available tokens", "deliverable tokens", "epochs")
        table = [header] + [
            (
                row["source"],
                f"{row['weight']:.2%}",
                f"{row['requested_tokens']:,}",
                f"{row['available_tokens']:,}",
                f"{row['deliverable_tokens']:,}",
                f"{row['epochs']:.2f}",
            )
            for row in rows
        ]
        names = 1
        if "phase" in rows[0]:
            names, phases = 2, ["phase", *(row["phase"] for row in rows)]
            table = [(phase, *cells) for phase, cells in zip(phases, table, strict=True)]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        lines = [
            "  ".join(
                cell.ljust(w) if i < names else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in table
        ]
        how = "as counted on disk" if self.basis == "counted" else "estimated from the size of the text"
        more = ", as many as the time is expected to allow" if self.ends_by == "budget" else ""
        lines.insert(0, f"mixture of {format_count(self.plan.tokens)} training tokens{more} ({how}):")
        return "\n".join([*lines, *([f"!! {self.problem}"] if self.problem else [])])


def delivery(steps: Sequence[Step], store: Path, machine: Machine | None = None) -> Delivery | None:
    """Say what a recipe's training will take from each source; None when it trains nothing, or has trained already.

    Raises:
        MismatchError: the tokens are there, and cannot be delivered as the mixture asks.
    """
    named = {step.name: step for step in steps}
    train = named.get("train")
    if train is None or train.finished or "encode" not in named:
        return None
    settings: Any = train.settings
    rows, ends_by = _rows(steps, settings, store, machine)
    if named["encode"].finished:
        tokens = [batches.tokens for batches in PhasedBatches(named["encode"].folder, settings).phases]
        return _checked(settings, tokens, rows, "counted", ends_by)
    estimated = _estimated_tokens(named)
    return _checked(settings, [estimated] * max(len(settings.phases), 1), rows, "estimated", ends_by)


def _checked(settings: Any, tokens: Sequence[Mapping[str, int]], rows: int, basis: str, ends_by: str) -> Delivery:
    """The delivery of a run; `tokens` are those of each source, by phase, `rows` those of a run without phases."""
    plans, problem = {}, None
    for stretch, available in zip(stretches(settings), tokens, strict=True):
        of = stretch.settings
        count = rows if stretch.phase is None else (stretch.steps or 0) * of.batch_sequences
        plans[stretch.name] = of.mixture.outline(available, of.sequence_length, count)
    found = Delivery(plans, basis, ends_by)
    try:
        for plan in (*plans.values(), found.plan):
            plan.check()
    except MismatchError as error:
        if basis == "counted" and ends_by == "tokens":
            raise
        problem = f"{error.problem}; {error.hint}"
        if ends_by == "budget":
            problem = f"training may end before its budget, because {error.problem}"
    return Delivery(plans, basis, ends_by, problem)


def _rows(steps: Sequence[Step], settings: Any, store: Path, machine: Machine | None) -> tuple[int, str]:
    """Training rows in all, and what decides them."""
    if settings.planned_steps is not None:
        return settings.planned_steps * settings.batch_sequences, "tokens"
    model = planned_model(steps)
    tokens = pace_of(settings, model, store, machine).budget_tokens(settings, model)
    return max(int(tokens / settings.sequence_length), 1), "budget"


def _estimated_tokens(named: Mapping[str, Step]) -> dict[str, int]:
    """Training tokens of each source, from the newest counts of its bytes and what the stages to come usually leave."""
    stages = [name for name in DOCUMENT_STAGES if name in named]
    done = [name for name in stages if named[name].finished]
    if done:
        sources = named[done[-1]].manifest()["counts"]["sources"]
        sizes = {name: float(counts["bytes_out"]) for name, counts in sources.items()}
    else:
        settings: Any = named["read"].settings
        sizes = settings.text_bytes()
    left = math.prod(TYPICAL[name].out for name in stages if name not in done)
    vocab_size = getattr(named["tokenizer"].settings, "vocab_size", TYPICAL_VOCABULARY)
    if named["tokenizer"].finished:
        per_token = named["tokenizer"].manifest()["counts"]["bytes_per_token"]
    else:
        per_token = typical_bytes_per_token(vocab_size)
    return {name: max(int(size * left / per_token), 1) for name, size in sizes.items()}


def typical_bytes_per_token(vocab_size: int) -> float:
    """Bytes of English text that a token of a byte-level BPE vocabulary stands for.

    Source: vocabularies of 2,048 to 16,384 trained on English books gave 3.14, 3.53, 3.91 and 4.19 bytes per token; code
    and other languages have fewer; docs/lab-notes.md.

    >>> [round(typical_bytes_per_token(size), 1) for size in (2048, 8192, 32_000, 128_000)]
    [3.1, 3.9, 4.6, 4.7]
    """
    return min(3.14 + 0.37 * (math.log2(max(vocab_size, 256)) - 11), 4.7)

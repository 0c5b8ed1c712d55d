"""The phases of a run: which steps, which settings hold in them, and their batches.

A phase is a list of what it changes; everything else is as in the section `train`. So the loop needs to know one thing:
`stretch(step)`, the phase of a step with its settings resolved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from headwater.core.config import Config
from headwater.core.errors import MismatchError
from headwater.core.units import Tokens, format_count
from headwater.tokens.loader import Batch, Batches, Row
from headwater.tokens.mixture import Mixture, MixturePlan, together
from headwater.tokens.packing import Packing
from headwater.tokens.table import write_table
from headwater.training.schedule import Schedule

if TYPE_CHECKING:  # its settings hold a list of these
    from headwater.training.config import Train


class Phase(Config):
    """A part of a run, and what is different in it; what is left out is as in the section `train`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Its name in the log, the metrics and the report."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Its share of all steps; the shares of all phases add up to 1."""
    total_tokens: Tokens | None = Field(default=None, ge=1)
    """Its tokens, rounded up to whole steps, in place of `share`. Then `train` itself has no length of its own."""
    mixture: Mixture | None = None
    """What share of its tokens comes from each source. A source that earlier phases have read goes on where they
    stopped, if rows have the same length and packing; otherwise its documents are shuffled anew."""
    packing: Packing | None = None
    """How documents become rows."""
    sequence_length: int | None = Field(default=None, ge=2)
    """Tokens of a training row; a divisor of `batch_tokens`, which stays."""
    micro_batch_sequences: int | None = Field(default=None, ge=0)
    """Rows of one forward and backward pass."""
    rope_theta: float | None = Field(default=None, gt=0)
    """The model's rotary base from this phase on. With it, `context_length` grows to the phase's `sequence_length`.
    Source: Xiong et al. 2023 (arXiv:2309.16039): a larger base before training on longer sequences."""
    schedule: Schedule | None = None
    """The learning rate over the steps of this phase alone; by default the run's schedule goes on."""
    peak_share: float = Field(default=1.0, gt=0)
    """Peak rate of this phase as a share of the optimizer's."""


CHANGES = ("mixture", "packing", "sequence_length", "micro_batch_sequences")
"""What a phase may change of the section `train`."""


class Stretch(NamedTuple):
    """A phase in steps."""

    phase: Phase | None
    """None where a run has no phases."""
    first: int
    """Its first step, counted from 0."""
    steps: int | None
    """How many there are; None when a budget decides on the way."""
    settings: Train
    """What holds in it."""

    @property
    def name(self) -> str:
        """Its name; empty where a run has no phases."""
        return self.phase.name if self.phase else ""

    def rate(self, step: int, total_steps: int | None) -> float:
        """The share of the optimizer's peak rate for the update after `step` updates of a run of `total_steps`."""
        if self.phase is None:
            return self.settings.schedule(step, total_steps)
        if self.phase.schedule is None:
            return self.phase.peak_share * self.settings.schedule(step, total_steps)
        return self.phase.peak_share * self.phase.schedule(step - self.first, self.steps)


def borders(phases: Sequence[Phase], batch_tokens: int, total_steps: int | None) -> list[int]:
    """The first step of each phase, and the number of steps in all.

    >>> borders([Phase(name="main", share=0.9), Phase(name="anneal", share=0.1)], 1024, 125)
    [0, 112, 125]
    """
    if any(phase.share is None for phase in phases):
        ends = [0]
        for phase in phases:
            ends.append(ends[-1] + -(-(phase.total_tokens or 0) // batch_tokens))
        return ends
    assert total_steps is not None, "shares of a run whose length is not known"
    shares = [0.0]
    for phase in phases:
        shares.append(shares[-1] + (phase.share or 0.0))
    return [*(round(share * total_steps) for share in shares[:-1]), total_steps]


def problems(train: Train) -> list[str]:
    """What is wrong with the phases of a run, one line each."""
    phases, found = train.phases, []
    names = [phase.name for phase in phases]
    found += [f"two phases are called '{name}'" for name in dict.fromkeys(names) if names.count(name) > 1]
    by_tokens = [phase.name for phase in phases if phase.total_tokens is not None]
    by_share = [phase.name for phase in phases if phase.share is not None]
    if sorted(by_tokens + by_share) != sorted(names) or (by_tokens and by_share):
        found.append("give each phase either a share, or each its total_tokens")
    elif by_share and abs((total := sum(phase.share or 0 for phase in phases)) - 1) > 1e-6:
        found.append(f"the shares of the phases add up to {total:g}, not to 1")
    if train.budget is not None:
        found.append("phases need a length in steps or tokens, not a budget of time")
    for phase in phases:
        length = phase.sequence_length or train.sequence_length
        if train.batch_tokens % length:
            found.append(
                f"phase '{phase.name}': batch_tokens {train.batch_tokens:,} is not a multiple of its "
                f"sequence_length {length:,}"
            )
        rows = phase.micro_batch_sequences if phase.micro_batch_sequences is not None else train.micro_batch_sequences
        if rows and not train.batch_tokens % length and train.batch_tokens // length % rows:
            found.append(
                f"phase '{phase.name}': a batch of {train.batch_tokens // length} sequences does not divide by "
                f"micro_batch_sequences {rows}"
            )
    if not found and train.planned_steps is not None:
        ends = borders(phases, train.batch_tokens, train.planned_steps)
        empty = [phase.name for phase, first, end in zip(phases, ends, ends[1:], strict=False) if first == end]
        found += [f"phase '{name}' has not one of the {train.planned_steps:,} steps" for name in empty]
    return found


def stretches(train: Train) -> tuple[Stretch, ...]:
    """The phases of a run with their steps and settings, in order; one for a run without phases."""
    if not train.phases:
        return (Stretch(None, 0, train.planned_steps, train),)
    ends = borders(train.phases, train.batch_tokens, train.planned_steps)
    found = []
    for phase, first, end in zip(train.phases, ends, ends[1:], strict=False):
        changes: dict[str, Any] = {name: value for name in CHANGES if (value := getattr(phase, name)) is not None}
        found.append(Stretch(phase, first, end - first, train.model_copy(update=changes)))
    return tuple(found)


class PhasedBatches:
    """The batches of a run through all of its phases; to be used like Batches.

    Attributes:
        stretches: the phases in order.
        phases: the batches of each, whose steps count from 0.
        tokens, copies, warnings: as of Batches; of all phases.
    """

    def __init__(self, token_folder: Path, train: Train) -> None:
        """Open the token shards of a run.

        Raises:
            MismatchError: mixture and sources do not fit, or a source is shorter than a row.
            StoreError: shards are missing or damaged.
        """
        self.stretches = stretches(train)
        self.batch_tokens = train.batch_tokens
        self.phases: list[Batches] = []
        taken: dict[Any, dict[str, int]] = {}
        for stretch in self.stretches:
            settings = stretch.settings
            # what makes rows of one phase the same as those of another
            layout = (settings.sequence_length, settings.packing, repr(settings.mixture.copies))
            before = taken.setdefault(layout, {})
            seed = f"{settings.seed}" if len(taken) == 1 else f"{settings.seed}/{list(taken).index(layout)}"
            batches = Batches(
                token_folder,
                settings.mixture,
                settings.sequence_length,
                settings.batch_sequences,
                seed,
                settings.packing,
                before,
            )
            for name, rows in batches.rows_of(stretch.steps or 0).items():
                before[name] = before.get(name, 0) + rows
            self.phases.append(batches)
        self.warnings = tuple(dict.fromkeys(warning for batches in self.phases for warning in batches.warnings))
        self.copies = {name: value for batches in self.phases for name, value in batches.copies.items()}
        self.tokens = self.phases[0].tokens

    def stretch(self, step: int) -> Stretch:
        """The phase of a step; steps count from 0, and those after the last are of the last."""
        return self.stretches[self._phase(step)]

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The batch of step `step`, or one rank's part of it, as of Batches."""
        return self._of(step).batch(self._within(step), rank, ranks)

    def counted_targets(self, step: int) -> int:
        """How many targets of step `step` count, those of all ranks together."""
        return self._of(step).counted_targets(self._within(step))

    def rows(self, step: int) -> list[Row]:
        """Where the rows of step `step` come from."""
        return self._of(step).rows(self._within(step))

    def steps_with(self, source: str, document: int, steps: int, tokens: tuple[int, int] | None = None) -> list[int]:
        """Which of the first `steps` steps have a token of a document among their inputs, as of Batches."""
        return [
            stretch.first + step
            for stretch, batches, count in self._up_to(steps)
            for step in batches.steps_with(source, document, count, tokens)
        ]

    def plans(self, steps: int) -> list[MixturePlan]:
        """What `steps` steps take from each source, in each phase.

        Raises:
            MismatchError: a phase would see a source more often than its mixture allows, or all of them together.
        """
        plans = [batches.plan(count) for _, batches, count in self._up_to(steps)]
        together(plans).check()
        return plans

    def plan(self, steps: int) -> MixturePlan:
        """What `steps` steps take from each source in all phases together; raises as `plans`."""
        return together(self.plans(steps))

    def packed(self) -> dict[str, Any]:
        """How well rows are filled, of each source, for a manifest; by phase where there are phases."""
        found = [{name: fit.to_json() for name, fit in batches.fits.items()} for batches in self.phases]
        if len(found) == 1:
            return found[0]
        return {stretch.name: fits for stretch, fits in zip(self.stretches, found, strict=True)}

    def done(self, steps: int) -> list[tuple[Stretch, int]]:
        """The phases that the first `steps` steps reach, and how many steps of each."""
        return [(stretch, count) for stretch, _, count in self._up_to(steps)]

    def _up_to(self, steps: int) -> list[tuple[Stretch, Batches, int]]:
        """The phases that the first `steps` steps reach, and how many steps of each; at least the first."""
        found = []
        for index, (stretch, batches) in enumerate(zip(self.stretches, self.phases, strict=True)):
            last = index == len(self.phases) - 1
            count = (
                steps - stretch.first if last or stretch.steps is None else min(steps - stretch.first, stretch.steps)
            )
            if count > 0 or not index:
                found.append((stretch, batches, max(count, 0)))
        return found

    def _phase(self, step: int) -> int:
        return max(index for index, stretch in enumerate(self.stretches) if stretch.first <= step)

    def _of(self, step: int) -> Batches:
        return self.phases[self._phase(step)]

    def _within(self, step: int) -> int:
        return step - self.stretch(step).first


def shape(stretch: Stretch) -> tuple[int, int]:
    """Rows of a batch and tokens of a row: what code is compiled for."""
    return stretch.settings.batch_sequences, stretch.settings.sequence_length


def introduction(stretch: Stretch) -> str:
    """A phase in a line."""
    settings, phase = stretch.settings, stretch.phase
    assert phase is not None
    tokens = format_count((stretch.steps or 0) * settings.batch_tokens)
    parts = [
        f"{stretch.steps or 0:,} steps, {tokens} tokens",
        f"{settings.batch_sequences} x {settings.sequence_length} tokens per step",
    ]
    parts += ["a mixture of its own"] if phase.mixture else []
    parts += [f"rope_theta {phase.rope_theta:g}"] if phase.rope_theta else []
    schedule = f"schedule {phase.schedule.use}" if phase.schedule else "the run's schedule"
    return ", ".join(
        [*parts, schedule + (f" at {phase.peak_share:g} of the peak rate" if phase.peak_share != 1 else "")]
    )


def check_contexts(found: Sequence[Stretch], context_length: int) -> None:
    """Make sure that no sequence is longer than the model's context, which phases may extend.

    Raises:
        MismatchError: one is.
    """
    for stretch in found:
        length = stretch.settings.sequence_length
        if stretch.phase is not None and stretch.phase.rope_theta is not None:
            context_length = max(context_length, length)
        if length > context_length:
            of = f" of phase '{stretch.name}'" if stretch.phase else ""
            place = f"train.phases.{stretch.name}" if stretch.phase else "train"
            hint = f"set it to {context_length:,} or less, or initialize a model with a longer context"
            hint += ", or give the phase a rope_theta" if stretch.phase else ""
            problem = f"sequence_length {length:,}{of} is beyond the model's context_length {context_length:,}"
            raise MismatchError(problem, place=f"{place}.sequence_length", hint=hint)


def phases_to_json(batches: PhasedBatches, steps: int) -> list[dict[str, Any]]:
    """What each phase of a run of `steps` steps was, for a manifest; empty for a run without phases."""
    found = []
    for (stretch, count), plan in zip(batches.done(steps), batches.plans(steps), strict=True):
        if stretch.phase is None:
            return []
        found.append(
            {
                "name": stretch.name,
                "first_step": stretch.first,
                "steps": count,
                "tokens": count * batches.batch_tokens,
                "sequence_length": stretch.settings.sequence_length,
                "rope_theta": stretch.phase.rope_theta,
                "mixture": plan.to_json(),
            }
        )
    return found


def write_rows(train: Train, token_folder: Path, path: Path, steps: int | None) -> int:
    """Write the rows of a run as a parquet file, as `write_table`; returns how many there are.

    Args:
        train: the run.
        token_folder: folder of a finished stage encode.
        path: the file.
        steps: how many steps; by default all, or one epoch of the shortest-lived source where a budget decides.

    Raises:
        InputError: the path is no parquet file, or there is such a file.
        MismatchError: the mixture cannot deliver so many steps.
    """
    batches = PhasedBatches(token_folder, train)
    if steps is None:
        scarcest = min(source.available_tokens / source.weight for source in batches.plan(1).sources)
        steps = train.planned_steps or max(int(scarcest) // train.batch_tokens, 1)
    batches.plan(steps)
    return write_table(batches, range(steps), path)

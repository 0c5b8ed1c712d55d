"""How often each source is seen: weights, epochs, and the source of every training row.

The shares are delivered exactly: not by drawing lots, but by a fixed pattern of rows in which, after any number of
rows, every source has had its weight's share of them to within one row. So a run may stop anywhere.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import Field, PositiveFloat, field_validator, model_validator

from headwater.core.config import Config
from headwater.core.errors import MismatchError
from headwater.core.units import format_count
from headwater.tokens.copies import Copies

PERIOD = 1 << 16
"""Rows after which the pattern repeats, at most. Weights that are not whole parts of so many rows are rounded to them,
so a delivered share differs from the one asked for by at most 1/65,536; "0.7 and 0.3" are delivered exactly."""


PUBLISHED: dict[str, dict[str, float]] = {
    "gpt3": {"common_crawl": 0.60, "webtext2": 0.22, "books1": 0.08, "books2": 0.08, "wikipedia": 0.03},
    "llama": {
        "common_crawl": 0.67,
        "c4": 0.15,
        "github": 0.045,
        "wikipedia": 0.045,
        "books": 0.045,
        "arxiv": 0.025,
        "stack_exchange": 0.02,
    },
}
"""Weights of published models, by the names of their sources; the sources of a recipe are to be named so.

Source: gpt3, Brown et al. 2020 (arXiv:2005.14165), table 2.2, which adds up to 1.01 by rounding; llama, Touvron et al.
2023 (arXiv:2302.13971), table 1. Llama 2's mixture was never published; tables that show one show this.
"""


class Mixture(Config):
    """What share of the training tokens comes from each source."""

    weights: dict[str, float] | Literal["gpt3", "llama"] | None = None
    """Weight of each source; they need not add up to 1, and 0 leaves a source out. By default a source's weight is
    the number of its tokens, so that all sources last equally long. `gpt3` and `llama` are the published weights of
    these models, for sources that have their names: see docs/guides/mixture.md."""
    temperature: float = Field(default=1.0, ge=1, le=100)
    """Without weights: a source's weight is the number of its tokens to the power of 1/temperature, so small sources
    get more. 1 leaves them, 3.3 is usual for languages, 100 makes all nearly equal. Source: Devlin et al. 2018 and
    Conneau et al. 2019 (arXiv:1911.02116, section 3.1), whose alpha is 1/temperature."""
    upsample: dict[str, float] = Field(default={})
    """Without weights: how many times as much of a source is seen as its size (and the temperature) would give, such
    as `{wikipedia: 3}`."""
    max_epochs: PositiveFloat | dict[str, PositiveFloat] = 4.0
    """How often a source may be seen; a number for all, or one for some by name and 4 for the others. More is refused.
    Source: Muennighoff et al. 2023 (arXiv:2305.16264): up to 4 epochs are nearly as good as new data."""
    replay: dict[str, float] = Field(default={})
    """To go on with a trained model: sources like those that it was trained on, and the share of the rows that each gets,
    such as `{web: 0.05}`, so that it does not forget them. The others have the rest, by weight or by size. Source: Ibrahim
    et al. 2024 (arXiv:2403.08763): 5 % of the old data were enough for a small change of data, 25 % for a new language."""
    copies: dict[str, Copies] = Field(default={})
    """Sources whose documents are not all seen equally often, with the rule. One epoch of such a source is all copies
    of its documents, and its size is theirs."""

    @model_validator(mode="after")
    def _has_effect(self) -> Mixture:
        if self.weights is not None and (self.temperature != 1 or self.upsample):
            name = "upsample" if self.upsample else "temperature"
            raise ValueError(f"{name} changes weights that follow from size; with `weights` it does nothing")
        for name, factor in self.upsample.items():
            if not 0 < factor < float("inf"):
                raise ValueError(f"upsample of '{name}' is {factor}; expected a number above 0")
        for name, share in self.replay.items():
            if not 0 < share < 1:
                raise ValueError(f"replay of '{name}' is {share}; expected a share between 0 and 1")
            if name in self.upsample or name in (self.known_weights or {}):
                raise ValueError(f"'{name}' is replayed at a fixed share; leave it out of weights and upsample")
        if sum(self.replay.values()) >= 1:
            raise ValueError(f"replay takes {sum(self.replay.values()):g} of the rows: nothing is left for the others")
        return self

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, weights: dict[str, float] | str | None) -> dict[str, float] | str | None:
        if isinstance(weights, dict):
            for name, weight in weights.items():
                if not 0 <= weight < float("inf"):
                    raise ValueError(f"the weight of '{name}' is {weight}; expected a number of 0 or more")
            if not any(weights.values()):
                raise ValueError("all weights are 0: there is nothing to train on")
        return weights

    @property
    def known_weights(self) -> dict[str, float] | None:
        """The weights that are given, by the recipe or by the table that it names."""
        return PUBLISHED[self.weights] if isinstance(self.weights, str) else self.weights

    def parts(self, tokens: Mapping[str, int]) -> dict[str, int]:
        """Each source's weight as a whole number of rows in one period of the pattern; sources of weight 0 are absent.

        Args:
            tokens: tokens of each source.

        Raises:
            MismatchError: a weight names no source, or a source has no weight.

        >>> Mixture(weights={"prose": 0.7, "code": 0.3}).parts({"prose": 1000, "code": 9000})
        {'prose': 7, 'code': 3}
        """
        check_sources("replay", self.replay, tokens)
        others = {name: count for name, count in tokens.items() if name not in self.replay}
        if self.weights is None:
            check_sources("upsample", self.upsample, tokens)
            shares = {name: self._by_size(name, count) for name, count in others.items() if count}
        else:
            weights = self.known_weights or {}
            _check_weights(weights, others)
            shares = {name: Fraction(repr(weight)) for name, weight in weights.items() if weight}
        if not shares:
            raise MismatchError("no source has any tokens", place="mixture", hint="look at what the filters dropped")
        return _whole_parts(self._with_replay(shares, tokens))

    def plan(self, tokens: Mapping[str, int], sequence_length: int, rows: int) -> MixturePlan:
        """Say in whole rows and tokens what `rows` training rows take from each source.

        Args:
            tokens: tokens of each source.
            sequence_length: tokens of a row.
            rows: training rows in all, steps times sequences in a batch.

        Raises:
            MismatchError: a source would be seen more than `max_epochs` times, or as `parts` says.
        """
        plan = self.outline(tokens, sequence_length, rows)
        plan.check()
        return plan

    def outline(self, tokens: Mapping[str, int], sequence_length: int, rows: int) -> MixturePlan:
        """The same, but a source may be asked for more than it has."""
        parts = self.parts(tokens)
        if isinstance(self.max_epochs, dict):
            check_sources("max_epochs", self.max_epochs, tokens)
        taken, period = RowPattern(parts).counts(rows), sum(parts.values())
        plans = (
            SourcePlan(
                name,
                Fraction(part, period),
                taken[name],
                taken[name] * sequence_length,
                tokens.get(name, 0),
                self.epochs_allowed(name),
            )
            for name, part in parts.items()
        )
        # What rounding of the weights and of the last row may add is not the user's fault.
        return MixturePlan(rows * sequence_length, sequence_length * (1 + -(-rows // PERIOD)), tuple(plans))

    def epochs_allowed(self, name: str) -> float:
        """How often a source may be seen."""
        if isinstance(self.max_epochs, dict):
            return self.max_epochs.get(name, Mixture().epochs_allowed(name))
        return self.max_epochs

    def _with_replay(self, shares: dict[str, Fraction], tokens: Mapping[str, int]) -> dict[str, Fraction]:
        """Shares that add up to 1, with those of replayed sources as they are given."""
        for name in self.replay:
            if not tokens[name]:
                hint = "look at what the filters dropped, or leave it out"
                raise MismatchError(
                    f"source '{name}' is to be replayed but has no tokens", place="mixture.replay", hint=hint
                )
        replayed = {name: Fraction(repr(share)) for name, share in self.replay.items()}
        left, total = 1 - sum(replayed.values()), sum(shares.values())
        return {name: share / total * left for name, share in shares.items()} | replayed

    def _by_size(self, name: str, tokens: int) -> Fraction:
        size = Fraction(tokens) if self.temperature == 1 else Fraction(tokens ** (1 / self.temperature))
        return size * Fraction(repr(self.upsample.get(name, 1.0)))


@dataclass(frozen=True)
class SourcePlan:
    """What a run takes from one source."""

    name: str
    weight: Fraction
    """Share of the training rows, exactly."""
    rows: int
    requested_tokens: int
    available_tokens: int
    """Tokens of the source, each counted once."""
    max_epochs: float

    @property
    def deliverable_tokens(self) -> int:
        """Tokens that the source may give, seen `max_epochs` times."""
        return int(self.available_tokens * Fraction(repr(self.max_epochs)))

    @property
    def epochs(self) -> float:
        """How often the source is seen."""
        return self.requested_tokens / self.available_tokens


@dataclass(frozen=True)
class MixturePlan:
    """What a run, or a phase of it, takes from each source."""

    tokens: int
    """Tokens in all."""
    slack: int
    """Tokens that a source may be asked for above what it may give, because rows are whole."""
    sources: tuple[SourcePlan, ...]

    def check(self) -> None:
        """Make sure that each source has what is asked of it.

        Raises:
            MismatchError: a source would be seen more than `max_epochs` times.
        """
        for plan in self.sources:
            if plan.requested_tokens <= plan.deliverable_tokens + self.slack:
                continue
            fits = int(min(p.deliverable_tokens / p.weight for p in self.sources))
            raise MismatchError(
                f"source '{plan.name}' cannot give {plan.requested_tokens:,} tokens: it has {plan.available_tokens:,}, "
                f"which are {plan.deliverable_tokens:,} in {plan.max_epochs:g} epochs",
                place="mixture",
                hint=f"train on at most {format_count(fits)} tokens in all, lower its weight of "
                f"{float(plan.weight):.3g}, or set max_epochs to "
                f"{-(-plan.requested_tokens // max(plan.available_tokens, 1))}",
            )

    def to_json(self) -> dict[str, dict[str, float | int]]:
        """The plan for a manifest: numbers per source."""
        return {
            plan.name: {
                "weight": float(plan.weight),
                "rows": plan.rows,
                "requested_tokens": plan.requested_tokens,
                "available_tokens": plan.available_tokens,
                "deliverable_tokens": plan.deliverable_tokens,
                "epochs": plan.epochs,
            }
            for plan in self.sources
        }


def together(plans: Sequence[MixturePlan]) -> MixturePlan:
    """What the phases of a run take from each source together; a source may be seen as often as any of them allows."""
    if len(plans) == 1:
        return plans[0]
    tokens = sum(plan.tokens for plan in plans)
    parts: dict[str, list[SourcePlan]] = {}
    for plan in plans:
        for source in plan.sources:
            parts.setdefault(source.name, []).append(source)
    sources = []
    for name, found in parts.items():
        requested = sum(part.requested_tokens for part in found)
        available, epochs = max(p.available_tokens for p in found), max(p.max_epochs for p in found)
        rows = sum(part.rows for part in found)
        sources.append(SourcePlan(name, Fraction(requested, tokens), rows, requested, available, epochs))
    return MixturePlan(tokens, sum(plan.slack for plan in plans), tuple(sources))


class RowPattern:
    """Which source every training row comes from: a pattern of rows that repeats for ever.

    After any number of rows n, a source with share w has had more than w n - 1 and less than w n + 1 of them.

    Source: earliest deadline first on unit jobs, which meets all deadlines because the shares add up to 1: job j of a
    source may run from row floor(j / w) and must run before row ceil((j + 1) / w) (Baruah et al. 1996, "Proportionate
    progress"; Steiner and Yeomans 1993 for the same windows in production lines).

    >>> pattern = RowPattern({"prose": 7, "code": 3})
    >>> [pattern.row(n) for n in range(5)]
    [('prose', 0), ('prose', 1), ('code', 0), ('prose', 2), ('prose', 3)]
    """

    def __init__(self, parts: Mapping[str, int]) -> None:
        self.names = tuple(parts)
        self.parts = tuple(parts.values())
        self.period = sum(self.parts)
        self._source = _schedule(self.parts, self.period)
        self._rank = np.zeros(self.period, np.int64)
        for index in range(len(self.parts)):
            mine = self._source == index
            self._rank[mine] = np.arange(np.count_nonzero(mine))

    def row(self, number: int) -> tuple[str, int]:
        """The source of training row `number`, and the how-manieth row of that source it is, both from 0."""
        turn, position = divmod(number, self.period)
        source = int(self._source[position])
        return self.names[source], turn * self.parts[source] + int(self._rank[position])

    def number(self, source: str, row: int) -> int:
        """The training row that is the how-manieth row of a source: the inverse of `row`."""
        index = self.names.index(source)
        turn, rest = divmod(row, self.parts[index])
        return turn * self.period + int(np.flatnonzero(self._source == index)[rest])

    def counts(self, rows: int) -> dict[str, int]:
        """How many of the first `rows` rows come from each source."""
        turns, rest = divmod(rows, self.period)
        partial = np.bincount(self._source[:rest], minlength=len(self.parts))
        return {name: turns * self.parts[i] + int(partial[i]) for i, name in enumerate(self.names)}


def _schedule(parts: tuple[int, ...], period: int) -> np.ndarray:
    """The source of each row of one period, by earliest deadline [period] int32."""
    source = np.repeat(np.arange(len(parts)), parts)
    job = np.concatenate([np.arange(part) for part in parts])
    size = np.asarray(parts)[source]
    release, deadline = job * period // size, -(-(job + 1) * period // size)
    order = np.argsort(release, kind="stable")
    released = zip(release[order].tolist(), deadline[order].tolist(), source[order].tolist(), strict=True)
    upcoming = next(released, None)
    schedule = np.zeros(period, np.int32)
    waiting: list[tuple[int, int]] = []
    for row in range(period):
        while upcoming is not None and upcoming[0] <= row:
            heapq.heappush(waiting, upcoming[1:])
            upcoming = next(released, None)
        due, schedule[row] = heapq.heappop(waiting)
        assert row < due, "a schedule of unit jobs at full load met a deadline too late"
    return schedule


def _whole_parts(shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Shares as whole numbers that add up to at most PERIOD; rounded by largest remainder when they must be."""
    total = sum(shares.values())
    exact = {name: share / total for name, share in shares.items()}
    period = math.lcm(*(share.denominator for share in exact.values()))
    if period <= PERIOD:
        return {name: int(share * period) for name, share in exact.items()}
    parts = {name: max(int(share * PERIOD), 1) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (exact[name] * PERIOD - parts[name], name), reverse=True)
    for name in by_remainder[: max(PERIOD - sum(parts.values()), 0)]:
        parts[name] += 1
    return parts


def check_sources(setting: str, named: Iterable[str], tokens: Mapping[str, int]) -> None:
    """Make sure that a setting names sources.

    Raises:
        MismatchError: it names something else.
    """
    for name in named:
        if name not in tokens:
            what = {"weights": "a weight", "copies": "a rule", "replay": "a share"}.get(
                setting, f"a number in {setting}"
            )
            problem = f"there is {what} for '{name}', which is not a source"
            hint = "the sources are " + ", ".join(f"'{source}'" for source in tokens)
            raise MismatchError(problem, place=f"mixture.{setting}", hint=hint)


def _check_weights(weights: Mapping[str, float], tokens: Mapping[str, int]) -> None:
    check_sources("weights", weights, tokens)
    for name in tokens:  # but for those that are replayed
        if name not in weights:
            hint = "give it one; 0 leaves the source out"
            raise MismatchError(f"source '{name}' has no weight", place="mixture.weights", hint=hint)
    for name, weight in weights.items():
        if weight and not tokens[name]:
            hint = "look at what the filters dropped, or set its weight to 0"
            raise MismatchError(f"source '{name}' has a weight but no tokens", place="mixture.weights", hint=hint)

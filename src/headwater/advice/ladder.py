"""How good a model will be before it is trained: a law fitted to small models of the same text, the ladder. No torch here.

Bits per byte = E + A (N0 / N)^a + B (D0 / D)^b (N / N0)^g, with N parameters in all and D tokens, N0 and D0 those of the
planned run: A and B are what size and tokens still cost there. A few runs cannot tell exponents apart from E, so exponents
have a prior from published laws, and the answer is an average over all laws that fit, with the band in which 90 % of them
lie. Two things differ from Hoffmann et al. 2022: g, because one batch and one rate serve all sizes here and small models gain
less from more tokens; and E may be anything, because so short a range of tokens says nothing of the text's entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.core.errors import EmptyResultError, StoreError
from headwater.core.stage import Step
from headwater.core.store import read_json, write_json
from headwater.model.shape import ModelConfig

SIZES = (0.15, 0.3, 0.55)
"""Parameters of the small models, as shares of those planned."""
LENGTHS = ((1 / 8, 1 / 4, 1 / 2, 1), (1 / 4, 1 / 2), (1 / 4,))
"""Tokens of the runs of each, as shares of those planned. The smallest goes all the way, so that nothing is extrapolated in
tokens alone: with half of them at most, the forecast of our first run was 3.3 % too high (docs/lab-notes.md). Together they
take about two thirds of the planned run's FLOPs."""
PRIOR_A, PRIOR_B = (0.34, 0.10), (0.34, 0.12)
"""Mean and standard deviation of the exponents before anything is measured. Source: published fits, 0.34 and 0.28 (Hoffmann
et al. 2022), 0.35 and 0.37 (Besiroglu et al. 2024), 0.35 and 0.35 (Muennighoff et al. 2023); the width is our choice."""
PRIOR_G = (0.0, 0.1)
"""The same of g. Our choice."""
LEAST_NOISE = 0.004
"""Relative error of a run, at least: seeds and the learning rate's fit to the size. Source: nanochat's seven equal runs."""
SHORT_STEPS, SHORT_ERROR = 1000, 0.05
"""A run of fewer steps has not settled to a law: such a relative error more. Source: our two runs, of 391 and 313 steps, came
out 2.4 to 3.5 and 5.2 % below their forecasts; docs/lab-notes.md."""
FOLDER = "ladders"


class Rung(NamedTuple):
    """A small run: how large, how long, how good."""

    parameters: float
    tokens: float
    bits_per_byte: float


@dataclass(frozen=True)
class Forecast:
    """A predicted measure and the band in which 90 % of the laws that fit put it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """A fitted law: many sets of constants, each with its weight."""

    parameters: float
    """N0."""
    tokens: float
    """D0."""
    rungs: tuple[Rung, ...]
    constants: tuple[tuple[float, float, float, float, float, float, float], ...]
    """Weight, E, A, B, a, b, g."""
    noise: float
    """Relative error of a run that the best fit leaves."""
    steps: float = SHORT_STEPS
    """Of the run that is planned."""

    def predict(self, parameters: float, tokens: float) -> Forecast:
        """Bits per byte of so many parameters after so many tokens."""
        weight, E, A, B, a, b, g = np.array(self.constants).T
        size, length = self.parameters / parameters, self.tokens / tokens
        values = E + A * size**a + B * length**b * size**-g
        order = np.argsort(values)
        share = np.cumsum(weight[order]) / weight.sum()
        low, high = (float(values[order][np.searchsorted(share, level)]) for level in (0.05, 0.95))
        mean = float((values * weight).sum() / weight.sum())
        spread = 1.645 * self.noise * mean  # of one more run
        if self.short:
            spread = math.hypot(spread, SHORT_ERROR * mean)
        return Forecast(mean, mean - math.hypot(mean - low, spread), mean + math.hypot(high - mean, spread))

    @property
    def short(self) -> bool:
        """Whether the planned run is too short for any law."""
        return self.steps < SHORT_STEPS

    @property
    def best(self) -> dict[str, float]:
        """The constants that fit best."""
        return dict(zip(("E", "A", "B", "a", "b", "g"), max(self.constants)[1:], strict=True))

    def __str__(self) -> str:
        c = self.best
        return (
            f"bits per byte = {c['E']:.3f} + {c['A']:.3f} (N0/N)^{c['a']:.2f} + {c['B']:.3f} (D0/D)^{c['b']:.2f} "
            f"(N/N0)^{c['g']:.2f}, "
            f"N0 = {self.parameters:,.0f} parameters, D0 = {self.tokens:,.0f} tokens; runs are {self.noise:.1%} off"
            + (f"; {self.steps:,.0f} steps are too few for a law, so the band is wide" if self.short else "")
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, to be read again."""
        return asdict(self)


def law_from(values: dict[str, Any]) -> Law:
    """Read what `to_json` wrote."""
    rungs = tuple(Rung(*rung) for rung in values["rungs"])
    constants: Any = tuple(tuple(row) for row in values["constants"])
    return Law(values["parameters"], values["tokens"], rungs, constants, values["noise"], values["steps"])


def fit(rungs: Sequence[Rung], parameters: float, tokens: float, steps: float = SHORT_STEPS) -> Law:
    """Fit the law to measured runs.

    For each set of exponents E, A and B are the best, with A and B not negative; sets weigh by how well they fit and by the
    prior. The error of a run is what the best set leaves.

    Args:
        rungs: at least four runs, of two sizes and two lengths.
        parameters: N0.
        tokens: D0.
        steps: of the planned run.

    Raises:
        EmptyResultError: there are too few.
    """
    if len(rungs) < 4 or len({r.parameters for r in rungs}) < 2 or len({r.tokens for r in rungs}) < 2:
        problem = f"a law needs four runs of two sizes and two lengths, not {len(rungs)}"
        raise EmptyResultError(problem, place="ladder", hint="headwater ladder RECIPE runs seven")
    sizes, lengths, measured = (np.array(column) for column in zip(*rungs, strict=True))
    exponents = np.arange(0.06, 0.81, 0.04), np.arange(0.02, 1.01, 0.04), np.arange(-0.2, 0.61, 0.05)
    a, b, g = (grid.ravel() for grid in np.meshgrid(*exponents))
    size, length = parameters / sizes, tokens / lengths
    by_size, by_length = size ** a[:, None], length ** b[:, None] * size ** -g[:, None]
    columns = np.stack([np.ones_like(by_size), by_size, by_length], axis=2) / measured[:, None]  # relative errors
    terms, squares = _least_squares(columns)
    table = np.column_stack([squares, terms, a, b, g])
    free = max(len(rungs) - 4, 1)
    noise = max(math.sqrt(table[:, 0].min() / free), LEAST_NOISE)
    known = (a, PRIOR_A), (b, PRIOR_B), (g, PRIOR_G)
    prior = sum(((value - mean) / deviation) ** 2 for value, (mean, deviation) in known)
    log_weight = -table[:, 0] / (2 * noise**2) - prior / 2
    weight = np.exp(log_weight - log_weight.max())
    kept = weight > 1e-3
    rows = np.column_stack([weight, table[:, 1:]])[kept]
    constants: Any = tuple(tuple(map(float, row)) for row in rows)
    return Law(parameters, tokens, tuple(rungs), constants, noise, steps)


def _least_squares(columns: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Least squares to a target of ones; the coefficients of the second and third column are not negative.

    Args:
        columns: [fits, runs, 3].

    Returns:
        Coefficients [fits, 3], and the sum of squares that each fit leaves [fits].
    """
    fits, _, terms = columns.shape
    best, squares = np.zeros((fits, terms)), np.full(fits, np.inf)
    for chosen in ([0], [0, 1], [0, 2], [0, 1, 2]):  # every set of those that may be zero
        part = columns[:, :, chosen]
        normal = part.transpose(0, 2, 1) @ part + 1e-10 * np.eye(len(chosen))
        found = np.linalg.solve(normal, part.sum(axis=1)[:, :, None])
        left = ((1 - (part @ found)[:, :, 0]) ** 2).sum(axis=1)
        better = (found[:, 1:, 0] >= 0).all(axis=1) & (left < squares)
        squares[better] = left[better]
        best[better] = 0.0
        best[np.ix_(better, chosen)] = found[better, :, 0]
    return best, squares


# ------------------------------------------------------------------------------------------------ which small runs


def rungs_of(config: ModelConfig, tokens: float, batch_tokens: int) -> list[tuple[ModelConfig, int]]:
    """The small models of a ladder and the tokens of each run, smallest first."""
    runs, seen = [], set()
    for size, lengths in zip(SIZES, LENGTHS, strict=True):
        small = shrunk(config, size)
        if small.parameters() in seen or small.parameters() >= 0.9 * config.parameters():
            continue
        seen.add(small.parameters())
        for share in lengths:
            steps = max(round(share * tokens / batch_tokens), 1)
            runs.append((small, steps * batch_tokens))
    return list(dict.fromkeys(runs))


def shrunk(config: ModelConfig, share: float) -> ModelConfig:
    """The same model with about this share of its parameters: narrower and shallower alike, as many heads."""
    step = 2 * config.num_heads
    candidates = []
    for width in range(step, config.hidden_size + 1, step):
        scale = width / config.hidden_size
        for layers in {max(round(config.num_layers * scale) + extra, 1) for extra in (-1, 0, 1)}:
            if layers > config.num_layers:
                continue
            ffn = max(round(config.ffn_size * scale / 8) * 8, 8)
            change = {
                "hidden_size": width,
                "num_layers": layers,
                "head_size": width // config.num_heads,
                "ffn_size": ffn,
            }
            small = ModelConfig.model_validate(config.model_dump() | change)
            shape = abs(math.log(layers / config.num_layers / scale))  # as deep for its width as the model itself
            candidates.append((abs(math.log(small.parameters() / (share * config.parameters()))) + 0.1 * shape, small))
    return min(candidates, key=lambda one: one[0])[1]


# ------------------------------------------------------------------------------------------------ kept in the store


def place_of(store: Path, encode: Step, settings: Any) -> Path:
    """Where the law of a recipe is kept: under its tokens and how they are trained on, not under size or length."""
    from headwater.core.store import hash_value

    free = ("steps", "total_tokens", "budget", "validate_every", "log_every", "speed", "micro_batch_sequences")
    free += ("checkpoint_every", "checkpoint_interval", "keep_last", "keep_every", "keep_best")
    how = settings.model_dump(mode="json", exclude=set(free))
    return store / FOLDER / f"{hash_value([encode.fingerprint, how])[:12]}.json"


def kept_law(store: Path, encode: Step | None, settings: Any) -> Law | None:
    """The law that was fitted for such a recipe; None where there is none."""
    if encode is None:
        return None
    path = place_of(store, encode, settings)
    try:
        return law_from(read_json(path)) if path.is_file() else None
    except (StoreError, KeyError, TypeError):
        return None


def keep_law(store: Path, encode: Step, settings: Any, law: Law) -> Path:
    """Keep a law; returns its file."""
    path = place_of(store, encode, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, law.to_json())
    return path

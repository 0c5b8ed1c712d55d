"""Blind votes between models: kept line by line, and what they say of the models' strengths. No torch here.

A model is known by the hash of its weights, so that votes on a run are not mixed with those on the same run trained anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import filelock
import numpy as np
from pydantic import Field, ValidationError

from headwater.core.config import Config
from headwater.core.errors import StoreError
from headwater.core.log import logger
from headwater.core.store import storage_error

SCALE = 400 / np.log(10)
"""Points of a rating per unit of log-strength: 400 points ahead wins ten times as often as it loses. Source: Elo 1978."""
MEAN = 1000
"""Rating of an average model."""
PRIOR = 1.0
"""Votes that each model is given beforehand, half won and half lost against an average one: without them a model that
always won would have no finite rating. Source: the conjugate prior of Caron & Doucet 2012 (arXiv:1011.1761), as votes."""


class Side(Config):
    """A model that took part, and what it wrote."""

    label: str
    """What it was called."""
    weights: str = Field(min_length=1)
    """Hash of its weights."""
    step: int | None = None
    """Optimizer updates behind its weights, where that is known."""
    text: str
    """What it wrote."""


class Vote(Config):
    """What a person found of two texts without knowing who wrote them."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    time: datetime
    prompt: str
    sampling: dict[str, Any]
    left: Side
    right: Side
    choice: Literal["left", "right", "tie"]


_BEGIN = b'{"schema":1,'
"""How the line of a vote begins."""


class Votes:
    """A file of votes that only grows: a JSON object a line.

    A line is written by one call and synced, under a lock, so that two servers may share the file. A last line without
    an end is what a crash left of a vote; it is not counted, and never joined by the next one.
    """

    def __init__(self, path: Path) -> None:
        """Read the votes of a file; without one there are none yet.

        Raises:
            StoreError: a line is no vote; names it.
        """
        self.path = path
        self.votes: list[Vote] = []
        self._read, self._lines = 0, 0  # bytes and lines seen
        self.refresh()

    def refresh(self) -> list[Vote]:
        """All votes, also those that another server has added."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return self.votes
        except OSError as error:
            raise storage_error(error, self.path) from None
        whole, newline, rest = data.rpartition(b"\n")
        if rest:
            logger.warning("%s: the last line has no end and is not counted: a vote that was cut off", self.path)
        if newline:
            lines = whole.split(b"\n")
            parsed = [_parsed(line, f"{self.path}:{self._lines + n}") for n, line in enumerate(lines, start=1)]
            self.votes += [vote for vote in parsed if vote]
            self._read += len(whole) + 1
            self._lines += len(lines)
        return self.votes

    def add(self, vote: Vote) -> None:
        """Append a vote; when this returns it is on the disk.

        Raises:
            StoreError: the disk is full or not writable.
        """
        line = vote.model_dump_json(by_alias=True).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.path.with_name(f".{self.path.name}.lock")), self.path.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                if end and file.read(1) != b"\n":
                    line = b"\n" + line  # closes what a crash left, which `_parsed` then knows by its form
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(error, self.path) from None
        self.refresh()


def _parsed(line: bytes, place: str) -> Vote | None:
    """The vote of a line; None for the beginning of one that a crash cut off."""
    try:
        return Vote.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid" and (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
            logger.warning("%s: a vote that was cut off is not counted", place)
            return None
        where = ".".join(str(part) for part in first["loc"])
        problem = f"is no vote: {where + ': ' if where else ''}{first['msg']}"
        raise StoreError(problem, place=place, hint="mend or remove the line, or name another file") from None


# ----------------------------------------------------------------------------------------------------------- strengths


class Standing(NamedTuple):
    """How a model does."""

    label: str
    """What it was called last."""
    weights: str
    rating: float
    """Bradley-Terry on Elo's scale."""
    low: float
    high: float
    """95 % interval over votes drawn anew."""
    won: int
    lost: int
    tied: int
    rank_low: int
    rank_high: int
    """Which places, from 1, it takes in 95 % of the drawings."""


def ranking(votes: Sequence[Vote], *, draws: int = 1000, confidence: float = 0.95, seed: int = 0) -> list[Standing]:
    """Rate models by votes, the strongest first.

    Votes of a model against itself count nothing. Models that never met, not even by way of others, are comparable only
    by what both are given beforehand; their wide intervals say so.
    """
    votes = [vote for vote in votes if vote.left.weights != vote.right.weights]
    labels: dict[str, str] = {}
    for vote in votes:
        for side in (vote.left, vote.right):
            labels[side.weights] = side.label
    if not labels:
        return []
    ids = sorted(labels)
    counts_WLT = tally(votes, ids)
    ratings_K = ratings(counts_WLT[None])[0]
    low_K, high_K, first_K, last_K = intervals(counts_WLT, draws, confidence, seed)
    wins_KK, ties_KK = counts_WLT[0], counts_WLT[1] + counts_WLT[1].T
    standings = [
        Standing(
            labels[name],
            name,
            float(ratings_K[n]),
            float(low_K[n]),
            float(high_K[n]),
            int(wins_KK[n].sum()),
            int(wins_KK[:, n].sum()),
            int(ties_KK[n].sum()),
            int(first_K[n]),
            int(last_K[n]),
        )
        for n, name in enumerate(ids)
    ]
    return sorted(standings, key=lambda one: (-one.rating, one.label, one.weights))


def tally(votes: Sequence[Vote], ids: Sequence[str]) -> np.ndarray:
    """Votes counted: [0, i, j] how often i won against j, [1, i, j] with i < j how often they tied."""
    place = {name: n for n, name in enumerate(ids)}
    counts = np.zeros((2, len(ids), len(ids)), np.int64)
    for vote in votes:
        left, right = place[vote.left.weights], place[vote.right.weights]
        if vote.choice == "tie":
            counts[1, min(left, right), max(left, right)] += 1
        else:
            counts[0, *((left, right) if vote.choice == "left" else (right, left))] += 1
    return counts


def ratings(counts: np.ndarray) -> np.ndarray:
    """Ratings [D, K] by counts of votes [D, 2, K, K], as of `tally`, for D drawings at once.

    The strengths are those at which what was seen is likeliest, where i wins against j with probability 1 / (1 +
    exp(s_j - s_i)), a tie is half a vote for each, and each model has met an average one of strength 0 in `PRIOR` votes.
    The function to be maximised is strictly concave, so there is one answer; found by Newton's steps, never longer than 1.

    Source: Bradley & Terry 1952; ties as half a win as Chiang et al. 2024 (Chatbot Arena, arXiv:2403.04132) have them.
    """
    ties_DKK = counts[:, 1] + counts[:, 1].transpose(0, 2, 1)
    wins_DKK = counts[:, 0] + ties_DKK / 2
    games_DKK = wins_DKK + wins_DKK.transpose(0, 2, 1)
    models = wins_DKK.shape[1]
    strengths_DK = np.zeros((len(wins_DKK), models))
    diagonal = np.arange(models)
    for _ in range(200):
        chance_DKK = 1 / (1 + np.exp(strengths_DK[:, None, :] - strengths_DK[:, :, None]))
        own_DK = 1 / (1 + np.exp(-strengths_DK))
        slope_DK = wins_DKK.sum(2) - (games_DKK * chance_DKK).sum(2) + PRIOR * (0.5 - own_DK)
        weight_DKK = games_DKK * chance_DKK * (1 - chance_DKK)
        curve_DKK = -weight_DKK
        curve_DKK[:, diagonal, diagonal] += weight_DKK.sum(2) + PRIOR * own_DK * (1 - own_DK)
        step_DK = np.linalg.solve(curve_DKK, slope_DK[..., None])[..., 0]
        step_DK /= np.maximum(np.abs(step_DK).max(axis=1, keepdims=True), 1)
        strengths_DK = strengths_DK + step_DK
        if np.abs(step_DK).max() < 1e-10:
            break
    return MEAN + SCALE * (strengths_DK - strengths_DK.mean(axis=1, keepdims=True))


def intervals(
    counts: np.ndarray, draws: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest rating and place [K] of each model in `confidence` of drawings of as many votes, with replacement.

    Drawing votes anew is drawing the counts of all their outcomes from a multinomial distribution. For each pair that met,
    one vote is added to those drawn from, which falls as the ratings say: a single vote, or votes for one model alone, would be
    the same in every drawing, and make a band without width of the least that can be known.

    Source: the percentile bootstrap, Efron & Tibshirani 1993, chapter 13; the vote that is added is ours.
    """
    fitted_K = ratings(counts[None])[0]
    chance_KK = 1 / (1 + np.exp((fitted_K[None, :] - fitted_K[:, None]) / SCALE))
    met_KK = (counts + counts.transpose(0, 2, 1)).sum(0) > 0
    weights = counts + np.stack([met_KK * chance_KK, np.zeros_like(chance_KK)])
    shares = weights.reshape(-1) / weights.sum()
    drawn = np.random.default_rng(seed).multinomial(int(counts.sum()), shares, size=draws)
    ratings_DK = ratings(drawn.reshape(draws, *counts.shape))
    places_DK = 1 + (ratings_DK[:, None, :] > ratings_DK[:, :, None] + 1e-6).sum(2)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low_K, high_K = np.quantile(ratings_DK, tails, axis=0)
    first_K, last_K = np.quantile(places_DK, tails, axis=0, method="nearest")
    return low_K, high_K, first_K, last_K

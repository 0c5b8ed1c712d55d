"""Shares of passages with their bands, and the result of `headwater memorization` as rows for people. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NORMAL_95 = 1.959964
"""Quantile of the normal distribution that a band of 95 % reaches to."""


@dataclass(frozen=True)
class Share:
    """A share of passages with its band of 95 %."""

    passages: int
    documents: int
    """Different documents that they are from."""
    memorised: int
    value: float | None
    low: float | None
    high: float | None
    mean_tokens: float | None
    """Tokens that were continued as in the document, on average."""


def share(matched: Sequence[int], documents: Sequence[Any], wanted: int) -> Share:
    """The share of passages of which all `wanted` tokens were continued.

    Passages of one document are not independent. The band is Wilson's for as many independent passages as would give the
    variance between documents; where all passages agree, for as many as there are documents.

    Args:
        matched: tokens of each passage that were continued as in its document.
        documents: which document each is from.
        wanted: tokens that had to be.

    Source: Wilson 1927; effective sample sizes for it: Korn & Graubard 1998.
    """
    hits = np.array(matched) >= wanted
    clusters = len(set(documents))
    if not len(hits):
        return Share(0, 0, 0, None, None, None, None)
    value = float(hits.mean())
    low, high = wilson(value, effective(hits.astype(np.float64), documents))
    return Share(len(hits), clusters, int(hits.sum()), value, low, high, float(np.mean(matched)))


def effective(hits: np.ndarray, clusters: Sequence[Any]) -> float:
    """How many independent observations have the variance that these have between clusters; at most as many as there are.

    Args:
        hits: 0 or 1 of each observation [N] float.
        clusters: which cluster each belongs to.
    """
    value = hits.mean()
    sums: dict[Any, float] = {}
    for cluster, hit in zip(clusters, hits, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + hit - value
    if len(sums) < 2 or value in (0.0, 1.0):
        return float(len(sums))
    variance = sum(total**2 for total in sums.values()) / len(hits) ** 2 * len(sums) / (len(sums) - 1)
    return float(min(len(hits), value * (1 - value) / variance)) if variance else float(len(hits))


def wilson(value: float, count: float, normal: float = NORMAL_95) -> tuple[float, float]:
    """Wilson's band of a share.

    >>> low, high = wilson(0.0, 100)
    >>> round(low, 4), round(high, 4)
    (0.0, 0.037)
    """
    middle = value + normal**2 / (2 * count)
    half = normal * math.sqrt(value * (1 - value) / count + normal**2 / (4 * count**2))
    scale = 1 + normal**2 / count
    low, high = (middle - half) / scale, (middle + half) / scale
    return low if value > 0 else 0.0, high if value < 1 else 1.0  # exactly, in spite of rounding


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What passages are taken together in a result of `memorization.measure`, and their share as JSON."""
    yield "training", result["training"]
    for name, of in (result["by_duplicates"] or {}).items():
        yield f"training, standing in {name} place{'' if name == '1' else 's'}", of
    if result["never_read"]["passages"]:
        yield "training, read by no step", result["never_read"]
    yield "held out, the control", result["held_out"]

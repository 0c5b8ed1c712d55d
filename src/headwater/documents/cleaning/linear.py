"""A linear model over hashed word n-grams, as fastText's classifier is one: trained in seconds, calibrated, deterministic.

A text is the mean of the weights of its words and runs of words, and a bias; the calibration turns that number into the
probability that the text is one of the good ones. No text has more than `max_words` words here, so cost is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.core.errors import InputError
from headwater.core.store import atomic_path

BUCKETS = 1 << 20
"""Weights: of a million n-grams few meet; 4 MB."""
FORMAT = 1


@dataclass(frozen=True)
class LinearModel:
    """Weights and calibration.

    Attributes:
        weights: [BUCKETS + 1] float32; the last is the bias.
        n_grams: the longest run of words that has a weight.
        max_words: words from the beginning that count.
        points: [P, 2] float64: raw scores, and the probability at each; between them it is interpolated.
    """

    weights: np.ndarray
    n_grams: int
    max_words: int
    points: np.ndarray

    def raw_scores(self, offsets: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Raw scores [D] float64 of texts, given as word hashes with `offsets` [D + 1]."""
        from headwater.documents.cleaning.linear_kernels import score

        values = np.zeros(len(offsets) - 1)
        score(offsets, hashes, self.weights, self.n_grams, self.max_words, values)
        return values

    def probabilities(self, offsets: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Calibrated scores [D] float64 between 0 and 1."""
        return np.interp(self.raw_scores(offsets, hashes), self.points[:, 0], self.points[:, 1])

    def save(self, path: Path) -> None:
        """Write the model to one file; equal models give equal files."""
        head = np.array([FORMAT, self.n_grams, self.max_words, len(self.points)], np.int64)
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"HWLM" + head.tobytes() + self.points.tobytes() + self.weights.tobytes())

    @classmethod
    def load(cls, path: Path) -> LinearModel:
        """Read a model.

        Raises:
            InputError: the file cannot be read or is no model.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", place=str(path), hint="check the path") from None
        head = np.frombuffer(data[4:36], np.int64) if data[:4] == b"HWLM" and len(data) >= 36 else np.zeros(4, np.int64)
        size = 36 + 16 * int(head[3]) + 4 * (BUCKETS + 1)
        if head[0] != FORMAT or len(data) != size:
            hint = "give a .model file that a step `use: quality` has trained"
            raise InputError("is not a quality model", place=str(path), hint=hint)
        points = np.frombuffer(data, np.float64, 2 * int(head[3]), 36).reshape(-1, 2)
        weights = np.frombuffer(data, np.float32, BUCKETS + 1, 36 + points.nbytes)
        return cls(weights, int(head[1]), int(head[2]), points)


def fit(
    offsets: np.ndarray,
    hashes: np.ndarray,
    good: np.ndarray,
    *,
    n_grams: int,
    max_words: int,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> LinearModel:
    """Train weights by logistic regression with AdaGrad, one text after the other; not calibrated yet.

    Args:
        offsets: [D + 1] int64: words of text i are `hashes[offsets[i]:offsets[i + 1]]`.
        hashes: [W] uint64.
        good: [D] bool.
        n_grams: longest run of words with a weight.
        max_words: words of a text that count.
        epochs: times that every text is seen.
        learning_rate: of AdaGrad.
        seed: of the order of texts.

    Source: Joulin et al., Bag of Tricks for Efficient Text Classification, arXiv 1607.01759, with one dimension instead of
    an embedding, which for two classes is the same family; Duchi et al., AdaGrad, JMLR 12 (2011).
    """
    from headwater.documents.cleaning.linear_kernels import train

    weights, squares = np.zeros(BUCKETS + 1, np.float32), np.zeros(BUCKETS + 1, np.float32)
    generator = np.random.default_rng(seed)
    importance = np.where(good, len(good) / (2 * max(1, good.sum())), len(good) / (2 * max(1, (~good).sum())))
    for _ in range(epochs):
        order = generator.permutation(len(good))
        train(
            offsets,
            hashes,
            good,
            importance.astype(np.float32),
            order,
            weights,
            squares,
            n_grams,
            max_words,
            learning_rate,
        )
    return LinearModel(weights, n_grams, max_words, np.array([[-1.0, 0.0], [1.0, 1.0]]))


def platt(raw: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Calibrate by a logistic curve: points [257, 2] of (raw score, probability).

    Source: Platt, Probabilistic Outputs for Support Vector Machines (1999), with his smoothed targets, solved by Newton's
    method as in Lin, Lin, Weng, A note on Platt's probabilistic outputs (2007).
    """
    positives, negatives = good.sum(), (~good).sum()
    target = np.where(good, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    scale = max(float(np.std(raw)), 1e-9)
    x, slope, intercept = raw / scale, 1.0, 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(slope * x + intercept, -30, 30)))
        gradient = np.array([((p - target) * x).sum(), (p - target).sum()])
        curve = p * (1 - p)
        hessian = np.array([[(curve * x * x).sum(), (curve * x).sum()], [(curve * x).sum(), curve.sum()]])
        step = np.linalg.solve(hessian + 1e-6 * np.eye(2), gradient)
        slope, intercept = slope - step[0], intercept - step[1]
        if np.abs(step).max() < 1e-9:
            break
    slope = max(float(slope), 1e-6)  # a better text never gets a lower probability
    logits = np.linspace(-12, 12, 257)
    return np.stack([(logits - intercept) / slope * scale, 1 / (1 + np.exp(-logits))], axis=1)


def isotonic(raw: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Calibrate by the best rising steps: points [P, 2] of (raw score, probability).

    Source: Zadrozny & Elkan, Transforming classifier scores into accurate multiclass probability estimates (2002); pool
    adjacent violators.
    """
    order = np.argsort(raw, kind="stable")
    blocks: list[list[float]] = []  # sum of labels, count, sum of scores
    for score, label in zip(raw[order].tolist(), good[order].tolist(), strict=True):
        blocks.append([float(label), 1.0, score])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [mine + its for mine, its in zip(blocks[-1], last, strict=True)]
    return np.array([[scores / count, labels / count] for labels, count, scores in blocks]).reshape(-1, 2)


def report(probabilities: np.ndarray, good: np.ndarray) -> dict[str, Any]:
    """How well probabilities tell good texts from others, and what each threshold would keep.

    >>> report(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, True, False, False]))["auc"]
    1.0
    """
    order = np.argsort(probabilities, kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    _, where = np.unique(probabilities, return_inverse=True)
    ranks = (np.bincount(where, ranks) / np.bincount(where))[where]  # equal scores share their mean rank
    positives, negatives = int(good.sum()), int((~good).sum())
    auc = (ranks[good].sum() - positives * (positives + 1) / 2) / max(1, positives * negatives)
    rows = []
    for threshold in [round(0.05 * step, 2) for step in range(1, 20)]:
        kept = probabilities >= threshold
        right = int((kept & good).sum())
        rows.append(
            {
                "threshold": threshold,
                "precision": round(right / max(1, int(kept.sum())), 4),
                "recall": round(right / max(1, positives), 4),
                "kept": round(float(kept.mean()), 4),
            }
        )
    bins = np.minimum((probabilities * 10).astype(int), 9)
    gaps = [
        abs(probabilities[bins == b].mean() - good[bins == b].mean()) * (bins == b).mean() for b in set(bins.tolist())
    ]
    return {
        "positive": positives,
        "negative": negatives,
        "auc": round(float(auc), 4),
        "accuracy": round(float(((probabilities >= 0.5) == good).mean()), 4),
        "calibration_error": round(float(sum(gaps)), 4),
        "thresholds": rows,
    }

"""What a cleaning step is: settings that are called with a batch of documents and return a verdict.

A document that fails is dropped by the first rule that it fails, which has the name of its setting, with what was measured
and what is allowed. To add a step: write a class like those in filters.py, and name it in clean.Step.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from headwater.core.config import Config
from headwater.documents.features import Features


class Rule(NamedTuple):
    """One rule applied to a batch."""

    name: str
    values: np.ndarray
    """[documents] float64: what was measured."""
    fails: np.ndarray
    """[documents] bool."""
    threshold: float


@dataclass(frozen=True)
class Verdict:
    """What a step says about a batch of documents.

    Attributes:
        rules: names of the step's rules.
        failed: [documents] int64: index in `rules` of the first rule that a document fails, -1 to keep it.
        values: [documents] float64: what that rule measured.
        thresholds: [documents] float64: what it allows.
        details: what else a person needs to understand it, for each document, or None.
        columns: columns of the batch that the step made anew, by name.
        edited: [documents] bool: the documents whose text is another now.
    """

    rules: tuple[str, ...]
    failed: np.ndarray
    values: np.ndarray
    thresholds: np.ndarray
    details: pa.StringArray | None = None
    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    edited: np.ndarray | None = None

    @property
    def keep(self) -> np.ndarray:
        """[documents] bool."""
        return self.failed < 0


def judge(documents: int, *rules: Rule | None, **more: Any) -> Verdict:
    """Make a verdict of rules in order; None is a rule that is switched off.

    Args:
        documents: size of the batch.
        *rules: the rules.
        **more: other attributes of the verdict.
    """
    active = [rule for rule in rules if rule is not None]
    failed, values, thresholds = np.full(documents, -1), np.full(documents, np.nan), np.full(documents, np.nan)
    for index, rule in enumerate(active):
        first = rule.fails & (failed < 0)
        failed[first], values[first], thresholds[first] = index, rule.values[first], rule.threshold
    return Verdict(tuple(rule.name for rule in active), failed, values, thresholds, **more)


def at_least(name: str, values: np.ndarray, threshold: float | None) -> Rule | None:
    """A rule that drops documents whose value is lower than the threshold."""
    return None if threshold is None else Rule(name, values, values < threshold, threshold)


def at_most(name: str, values: np.ndarray, threshold: float | None) -> Rule | None:
    """A rule that drops documents whose value is higher than the threshold."""
    return None if threshold is None else Rule(name, values, values > threshold, threshold)


class CleaningStep(Config, abc.ABC):
    """What every step has."""

    sources: tuple[str, ...] | None = None
    """Names of the sources that the step applies to; all of them by default."""

    @property
    def name(self) -> str:
        """What the step is called in recipes, counts and reports."""
        return str(getattr(self, "use"))  # noqa: B009  (each step declares its own)

    @abc.abstractmethod
    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""

    def _need_one_of(self, *settings: str) -> None:
        if all(getattr(self, setting) in (None, False) for setting in settings):
            raise ValueError(f"does nothing; set one of {', '.join(settings)}")

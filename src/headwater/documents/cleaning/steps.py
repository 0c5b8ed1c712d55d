"""What a cleaning step is: settings that are called with a batch of documents and return a verdict.

A document that fails is dropped by the first rule that it fails, which has the name of its setting, with what was measured
and what is allowed. To add a step: write a class like those in filters.py, and name it in clean.Step.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from headwater.core.config import Config
from headwater.core.stage import Counts, Workspace
from headwater.documents.cleaning.features import Features


class Rule(NamedTuple):
    """One rule applied to a batch."""

    name: str
    values: np.ndarray
    """[documents] float64: what was measured."""
    fails: np.ndarray
    """[documents] bool."""
    threshold: float
    direction: int = 0
    """Which values fail: 1 the higher ones, -1 the lower ones, 0 when the rule is no comparison with its threshold."""


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
        found: [documents] int64 by name: how many things of each kind the step found, for the manifest.
        measured: the rules that were applied.
    """

    rules: tuple[str, ...]
    failed: np.ndarray
    values: np.ndarray
    thresholds: np.ndarray
    details: pa.StringArray | None = None
    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    edited: np.ndarray | None = None
    found: Mapping[str, np.ndarray] = field(default_factory=dict)
    measured: tuple[Rule, ...] = ()

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
    return Verdict(tuple(rule.name for rule in active), failed, values, thresholds, measured=tuple(active), **more)


def at_least(name: str, values: np.ndarray, threshold: float | None) -> Rule | None:
    """A rule that drops documents whose value is lower than the threshold."""
    return None if threshold is None else Rule(name, values, values < threshold, threshold, -1)


def at_most(name: str, values: np.ndarray, threshold: float | None) -> Rule | None:
    """A rule that drops documents whose value is higher than the threshold."""
    return None if threshold is None else Rule(name, values, values > threshold, threshold, 1)


MARGIN = 0.1
"""How far thresholds are moved to see how much hangs on them: a tenth either way."""


def sensitivity(rules: Sequence[Rule], judged: np.ndarray) -> dict[str, dict[str, int]]:
    """How many documents each rule alone drops, and would drop were its threshold a tenth stricter or looser.

    Args:
        rules: rules that were applied; only those with a threshold that is not 0 tell anything.
        judged: [documents] bool: the documents that count.

    >>> rule = at_least("min_words", np.array([44.0, 47.0, 52.0, 60.0]), 50)
    >>> sensitivity([rule], np.ones(4, bool))
    {'min_words': {'judged': 4, 'dropped': 2, 'stricter': 3, 'looser': 1}}
    """
    found = {}
    for rule in rules:
        if not rule.direction or not rule.threshold:
            continue
        values = rule.direction * rule.values[judged]
        limit, margin = rule.direction * rule.threshold, MARGIN * abs(rule.threshold)
        found[rule.name] = {
            "judged": int(judged.sum()),
            "dropped": int((values > limit).sum()),
            "stricter": int((values > limit - margin).sum()),
            "looser": int((values > limit + margin).sum()),
        }
    return found


class CleaningStep(Config, abc.ABC):
    """What every step has."""

    sources: tuple[str, ...] | None = None
    """Names of the sources that the step applies to; all of them by default."""
    languages: tuple[str, ...] | None = None
    """Languages of the documents that the step applies to, such as `de`; all of them by default. The source or a step
    `language` before says which one a document is in."""

    @property
    def name(self) -> str:
        """What the step is called in recipes, counts and reports."""
        return str(getattr(self, "use"))  # noqa: B009  (each step declares its own)

    @abc.abstractmethod
    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""

    @property
    def only_tells(self) -> bool:
        """Whether the step, as it is set, neither drops nor edits, but only writes down what it finds."""
        return False

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a person who chooses these settings should know; said once in a run and kept in the manifest."""
        return ()

    def files(self) -> Mapping[str, Path]:
        """Files that decide what the step does, by a name for each; their contents are part of the stage's identity."""
        return {}

    def prepare(self, name: str, shards: Sequence[Path], out: Workspace) -> tuple[CleaningStep, Counts]:  # noqa: ARG002
        """Do what must be done once before the first shard.

        Args:
            name: a name for the step's files, unique in the stage.
            shards: every shard that will be cleaned.
            out: the stage's workspace.

        Returns:
            the step to call, and what the manifest shall say of it.
        """
        return self, {}

    def _need_one_of(self, *settings: str) -> None:
        if all(getattr(self, setting) in (None, False) for setting in settings):
            raise ValueError(f"does nothing; set one of {', '.join(settings)}")

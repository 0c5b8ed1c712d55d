"""From log-probabilities and texts to marks of items, and from marks to scores with what can be said of them. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headwater.core.units import format_count
from headwater.evaluation.items import Item
from headwater.evaluation.statistics import Estimate, above_chance, exponential, mean, minimum_detectable, ratio
from headwater.evaluation.tasks import Generate, LanguageModelling, Metric, MultipleChoice, Rolling, Task

Mark = dict[str, Any]
"""A row of the table of items: values by metric, and what they were made of."""
COUNTED: tuple[Metric, ...] = ("acc", "acc_norm", "acc_bytes", "acc_tokens", "mass", "exact", "pass")
"""Metrics that are means over items, between 0 and 1, the higher the better."""
LOWER_IS_BETTER: tuple[Metric, ...] = ("bits_per_byte", "perplexity")


def mark_choices(task: Task, item: Item, values: Sequence[float], tokens: Sequence[int]) -> Mark:
    """Mark an item by the log-probabilities [nats] of its choices.

    `acc_norm` divides by characters and `acc_bytes` by bytes of the choice as it is written, without the blank before
    it, as lm-eval does; `acc_tokens` by tokens, as llm-foundry does. Of equal ones the first is taken.
    """
    texts = item.choices if isinstance(task, MultipleChoice) else [pair[1] for pair in item.pairs]
    nats = np.array(values)
    sizes = {
        "acc": np.ones(len(nats)),
        "acc_norm": np.array([max(len(text), 1) for text in texts], float),
        "acc_bytes": np.array([max(len(text.encode()), 1) for text in texts], float),
        "acc_tokens": np.array(tokens, float),
    }
    gold = item.gold[0]
    mark: Mark = {name: float(int((nats / size).argmax()) in item.gold) for name, size in sizes.items()}
    shares = np.exp(nats - nats.max())
    mark["mass"] = float(shares[list(item.gold)].sum() / shares.sum())
    return mark | {"nats": -float(nats[gold]), "bytes": len(texts[gold].encode()), "picked": int(nats.argmax())}


def mark_continuation(item: Item, log_probability: float, greedy: bool) -> Mark:
    """Mark an item by how likely its real continuation is."""
    return {"acc": float(greedy), "nats": -log_probability, "bytes": len(item.choices[0].encode()), "words": 1.0}


def mark_text(item: Item, nats: float) -> Mark:
    """Mark a whole text by its loss."""
    return {"nats": nats, "bytes": len(item.prompt.encode()), "words": float(max(len(item.prompt.split()), 1))}


def mark_answer(task: Generate, item: Item, written: str) -> Mark:
    """Mark what a model wrote by the answer that is found in it."""
    given, right = (answer_in(task, text) for text in (written, item.choices[0]))
    return {"exact": float(given is not None and given == right), "answer": given}


def answer_in(task: Generate, text: str) -> str | None:
    """The answer in a text; None without one."""
    found = re.search(task.answer, text)
    if not found:
        return None
    answer = found[found.re.groups] if found.re.groups else found[0]
    for pattern in task.remove:
        answer = re.sub(pattern, "", answer)
    return answer.strip().lower()


@dataclass(frozen=True)
class Score:
    """How a model does a task, or a part of one."""

    items: int
    values: Mapping[str, Estimate]
    """By metric; the first is the headline."""
    chance: float | None
    """The headline's value of guessing; None where there is none."""
    detectable: float | None
    """The smallest true difference of the headline between two models that are scored so that is found four times in
    five: for models whose marks have nothing to do with each other; paired ones show smaller ones."""
    signal: str
    """What the headline can say; empty when it is above chance."""

    @property
    def headline(self) -> tuple[str, Estimate]:
        """The metric that counts, and its value."""
        return next(iter(self.values.items()))

    def as_json(self) -> dict[str, Any]:
        """For the summary."""
        values = {name: {"value": e.value, "standard_error": e.standard_error} for name, e in self.values.items()}
        return {
            "metric": self.headline[0],
            "items": self.items,
            "chance": self.chance,
            "detectable": self.detectable,
            "signal": self.signal,
            "metrics": values,
        }


def score(task: Task, items: Sequence[Item], marks: Sequence[Mark], parameters: int | None = None) -> Score:
    """Sum up the marks of items.

    Args:
        task: the task.
        items: its items.
        marks: of each.
        parameters: of the model, to say whether it is large enough for the task.
    """
    clusters = [item.cluster or str(n) for n, item in enumerate(items)] if any(i.cluster for i in items) else None
    values = {metric: _estimate(task, metric, marks, clusters) for metric in task.metrics}
    headline, estimate = next(iter(values.items()))
    chance = chance_of(task, items) if headline in COUNTED else None
    error = estimate.standard_error
    detectable = minimum_detectable(math.sqrt(2) * error) if error else None  # all alike: the error is not known
    return Score(len(items), values, chance, detectable, signal_of(task, estimate, chance, parameters))


def _estimate(task: Task, metric: Metric, marks: Sequence[Mark], clusters: Sequence[str] | None) -> Estimate:
    if metric in COUNTED:
        return mean([mark[metric] for mark in marks], clusters)
    nats = np.array([mark["nats"] for mark in marks])
    if metric == "bits_per_byte":
        return ratio(nats / math.log(2), [max(mark["bytes"], 1) for mark in marks], clusters)
    assert isinstance(task, LanguageModelling | Rolling), "perplexity is of texts"
    return exponential(ratio(nats, [mark["words"] for mark in marks], clusters))


def chance_of(task: Task, items: Sequence[Item]) -> float:
    """The score of guessing: what the task says, or the share of choices that are right."""
    if task.chance is not None:
        return task.chance
    if not isinstance(task, MultipleChoice) and not (items and items[0].pairs and len(items[0].pairs) > 1):
        return 0.0
    return float(np.mean([len(item.gold) / len(item.pairs) for item in items]))


def signal_of(task: Task, estimate: Estimate, chance: float | None, parameters: int | None) -> str:
    """What a score cannot say: it is within its error of chance, or the model is smaller than the task needs."""
    if chance is not None and chance < 1:
        if not _is_above(chance, estimate):
            needs = f"; needs about {format_count(task.needs)} parameters" if task.needs else ""
            return f"no signal: not above chance{needs}"
        if parameters is not None and parameters < task.needs:
            return f"weak: models below {format_count(task.needs)} parameters are hardly told apart"
    return ""


def _is_above(chance: float, estimate: Estimate) -> bool:
    """Whether a score is above chance, at 5 %; of items that are all alike, or one, by how many there are."""
    if not estimate.standard_error:
        return above_chance(round(estimate.value * estimate.items), estimate.items, chance) <= 0.05
    return estimate.value > chance + 1.645 * estimate.standard_error


def centred(scores: Sequence[tuple[float, float]]) -> float:
    """Mean of scores (value, chance) on a scale where chance is 0 and all right is 1.

    Source: Li et al. 2024 (arXiv:2406.11794), section 3.3.

    >>> centred([(0.625, 0.25), (0.4, 0.0)])
    0.45
    """
    return float(np.mean([(value - chance) / (1 - chance) for value, chance in scores]))

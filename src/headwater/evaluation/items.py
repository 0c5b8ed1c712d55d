"""Records of a task's data to items: prompts with their worked examples, continuations, what is right. No torch here."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.core.errors import HeadwaterError, InputError
from headwater.core.store import hash_value
from headwater.evaluation.prepare import PREPARE
from headwater.evaluation.records import Record, records_of
from headwater.evaluation.tasks import (
    CHANGES,
    Chosen,
    Code,
    Generate,
    LanguageModelling,
    MultipleChoice,
    Rolling,
    Schema,
    Task,
)


@dataclass(frozen=True)
class Item:
    """One question of a task."""

    place: str
    """Where it is from, for an error."""
    hash: str
    """Of the record that it is made of: the same item in another run."""
    subtask: str
    prompt: str
    """All that stands before the continuation; of a rolling task the text."""
    choices: tuple[str, ...]
    """The continuations; of a schema the contexts; of others what is right."""
    gold: tuple[int, ...] = (0,)
    """Numbers of the right choices."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Context and continuation of each choice."""
    cluster: str = ""
    """Items of one cluster are not independent of each other; empty: it is alone."""
    record: Record = field(default_factory=dict, repr=False, compare=False)
    """The fields of its record: for the tests of a program, and to look for the item in documents."""


@dataclass(frozen=True)
class _Question:
    """A record with its templates filled in."""

    place: str
    record: Record
    hash: str
    prompt: str
    choices: tuple[str, ...]
    gold: tuple[int, ...]
    shown: str
    """How it stands as a worked example, answer included."""


def items_of(chosen: Chosen, folder: Path | None = None, limit: int | None = None) -> list[Item]:
    """The items of a task.

    Args:
        chosen: the task.
        folder: the user's folder of data.
        limit: at most so many of each subtask.

    Raises:
        InputError: the data are nowhere or damaged, or a record lacks a field; says of which task.
    """
    task = chosen.task
    if limit is not None and limit < 1:
        raise InputError("is less than 1", place="--items", hint="score one item or more, or leave it out for all")
    try:
        found: list[Item] = []
        for name, _ in task.parts():
            found += _of_subtask(task, name, folder, limit)
    except HeadwaterError as error:
        place = f"{chosen.name}: {error.place}" if error.place else chosen.name
        raise type(error)(error.problem, place=place, hint=error.hint) from None
    return found


def _of_subtask(task: Task, subtask: str, folder: Path | None, limit: int | None) -> list[Item]:
    whole = task.order_seed is not None or task.shots_drawn == "each"
    most = None if whole or limit is None else limit + task.shots + 1
    place, records = records_of(task.data, subtask, folder, most)
    if task.order_seed is not None:
        random.Random(task.order_seed).shuffle(records)
    asked = records if limit is None else records[:limit]
    others, other_place, own = records, place, True
    if task.shots_from is not None and task.shots:
        (other_place, others), own = records_of(task.shots_from, subtask, folder), False
    questions = [_question(task, record, subtask, f"{place}, item {n + 1}") for n, record in enumerate(asked)]
    examples = _Examples(task, subtask, others, other_place, own)
    return [_item(task, question, subtask, examples(number)) for number, question in enumerate(questions)]


class _Examples:
    """The worked examples before each question."""

    def __init__(self, task: Task, subtask: str, records: list[Record], place: str, own: bool) -> None:
        self._task, self._subtask, self._records, self._place, self._own = task, subtask, records, place, own
        self._shown: dict[int, str] = {}
        available = len(records) - own
        if task.shots > available:
            problem = f"has {available} records for {task.shots} worked examples"
            raise InputError(problem, place=place, hint="ask for fewer: task@shots")

    def __call__(self, number: int) -> str:
        """The examples before item `number`, which is none of them."""
        task = self._task
        if not task.shots:
            return task.instruction.replace("{subtask}", self._subtask.replace("_", " "))
        if task.shots_drawn == "each":  # as nanochat's core_eval draws them, so that scores can be compared
            drawn = random.Random(1234 + number).sample(range(len(self._records) - self._own), task.shots)
            picked = [n + (self._own and n >= number) for n in drawn]
        else:
            picked = [n for n in range(task.shots + 1) if not self._own or n != number][: task.shots]
        start = task.instruction.replace("{subtask}", self._subtask.replace("_", " "))
        return start + "".join(self._example(n) + task.between for n in picked)

    def _example(self, number: int) -> str:
        if number not in self._shown:
            place = f"{self._place}, item {number + 1}"
            self._shown[number] = _question(self._task, self._records[number], self._subtask, place).shown
        return self._shown[number]


def _item(task: Task, question: _Question, subtask: str, before: str) -> Item:
    prompt = before + question.prompt
    cluster = render(task.cluster, question.record, question.place) if task.cluster else ""
    pairs: tuple[tuple[str, str], ...] = ()
    if isinstance(task, MultipleChoice | LanguageModelling):
        pairs = tuple((prompt + task.delimiter, choice) for choice in question.choices)
    elif isinstance(task, Schema):
        text = render(task.continuation, question.record, question.place)
        pairs = tuple((before + context + task.delimiter, text) for context in question.choices)
    return Item(
        place=question.place,
        hash=question.hash,
        subtask=subtask,
        prompt=prompt,
        choices=question.choices,
        gold=question.gold,
        pairs=pairs,
        cluster=hash_value(cluster)[:16] if cluster else "",
        record=question.record,
    )


def _question(task: Task, raw: Record, subtask: str, place: str) -> _Question:
    """Fill in the templates of a task.

    Raises:
        InputError: the record lacks a field, or what is right is not among the choices.
    """
    try:
        record = dict(PREPARE[task.prepare](raw) if task.prepare else raw)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        problem = f"is no record of this dataset ({type(error).__name__}: {error})"
        raise InputError(problem, place=place, hint=f"prepare: {task.prepare} does not understand it") from None
    record.setdefault("subtask", subtask)
    prompt = render(task.prompt, record, place)
    hashed = hash_value(raw)[:16]
    match task:
        case MultipleChoice():
            choices = _texts(task.choices, record, place)
            gold = _gold(task.gold, task.labels, choices, record, place)
            shown = prompt + task.delimiter + choices[gold[0]]
        case Schema():
            choices = _texts(task.contexts, record, place)
            gold = _gold(task.gold, task.labels, choices, record, place)
            shown = choices[gold[0]] + task.delimiter + render(task.continuation, record, place)
        case LanguageModelling() | Generate():
            choices, gold = (render(task.target, record, place),), (0,)
            shown = prompt + task.delimiter + choices[0]
        case Code():
            choices, gold, shown = (), (), prompt
        case Rolling():
            prompt = render(task.text, record, place)
            choices, gold, shown = (), (), prompt
        case _:
            raise AssertionError(f"a task of a kind that is not known: {type(task)}")
    return _Question(place, record, hashed, prompt, choices, gold, shown)


def _gold(
    template: str | int, labels: str | tuple[str, ...] | None, choices: Sequence[str], record: Record, place: str
) -> tuple[int, ...]:
    value = template if isinstance(template, int) else evaluate(template, record, place)
    if isinstance(value, list | tuple):  # for each choice whether it is right
        found = tuple(n for n, right in enumerate(value) if right)
    elif labels is not None:
        names = _texts(labels, record, place)
        found = (names.index(str(value)),) if str(value) in names else ()
    elif isinstance(value, str) and value in choices:  # also where the choices are numbers
        found = (list(choices).index(value),)
    else:
        found = (int(value),) if isinstance(value, int) or re.fullmatch("[0-9]+", str(value)) else ()
    if not found or not all(0 <= number < len(choices) for number in found):
        problem = f"what is right ({value!r}) is none of the {len(choices)} choices"
        raise InputError(problem, place=place, hint="check `gold` and `labels` of the task")
    return found


def _texts(template: str | tuple[str, ...], record: Record, place: str) -> tuple[str, ...]:
    if isinstance(template, tuple):
        return tuple(render(part, record, place) for part in template)
    value = evaluate(template, record, place)
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise InputError(f"{template} is not a list", place=place, hint="give one template for each choice instead")
    return tuple(str(one) for one in value)


def render(template: str, record: Record, place: str) -> str:
    """Fill the fields of a record into a template; `{{` is a brace.

    >>> render("Q: {question|strip} ({meta.topic})", {"question": " Why? ", "meta": {"topic": "sea"}}, "")
    'Q: Why? (sea)'
    """
    return "".join(
        text + ("" if name is None else str(_look_up(name, record, place)))
        for text, name, _, _ in string.Formatter().parse(template)
    )


def evaluate(template: str, record: Record, place: str) -> Any:
    """The value of a field, whatever it is, when the template is nothing but one; else the text."""
    parts = list(string.Formatter().parse(template))
    if len(parts) == 1 and not parts[0][0] and parts[0][1] is not None:
        return _look_up(parts[0][1], record, place)
    return render(template, record, place)


def _look_up(name: str, record: Record, place: str) -> Any:
    path, _, change = name.partition("|")
    value: Any = record
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            known = ", ".join(map(str, record))
            raise InputError(f"has no field '{path}'", place=place, hint=f"it has {known}") from None
    return CHANGES[change](str(value)) if change else value

"""Tasks as data: what is asked, how it is marked, where its items come from. YAML files; no torch here.

A file holds `tasks:`, a mapping of names. The shipped ones are in `tasks/`; a file of your own is named by its path.
`arc_easy@5` is the task with five worked examples before each question.
"""

from __future__ import annotations

import functools
import importlib.resources
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from headwater.core.config import Config, load, nearest, tag
from headwater.core.errors import InputError
from headwater.core.store import hash_value
from headwater.core.units import Count, Tokens
from headwater.evaluation.prepare import PREPARE

Metric = Literal["acc", "acc_norm", "acc_bytes", "acc_tokens", "bits_per_byte", "perplexity", "mass", "exact", "pass"]

CHANGES = {"strip": str.strip, "lstrip": str.lstrip, "rstrip": str.rstrip}
"""What may follow a field in a template, as in `{question|strip}`."""
TEMPLATES = (
    *("prompt", "cluster", "instruction", "choices", "gold", "labels", "contexts", "continuation"),
    *("target", "text", "program"),
)
"""Settings of tasks that are templates."""


class Hub(Config):
    """A split of a dataset of the Hugging Face hub, at one commit."""

    repo: str
    """`owner/name`."""
    config: str | None = None
    """Which configuration."""
    split: str
    """Which split."""
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit, so that the items are the same at any later time."""


class Data(Config):
    """Where items are: the first file that there is, else the hub."""

    files: tuple[str, ...] = ()
    """Files, or folders of Arrow files, below the folder of data or in what `headwater fetch evals` got. JSON, JSON
    Lines, CSV, Parquet, Arrow, as they are or compressed, or inside a zip (`BLiMP.zip/data/x.jsonl`)."""
    hub: Hub | None = None
    """Where to get them otherwise."""


class Task(Config):
    """What all kinds of tasks have."""

    version: int = 1
    """Raised when the same model would get another score."""
    about: str
    """What it measures, in a sentence."""
    source: str
    """Paper or page that it is from, and whose prompt it is."""
    licence: str
    """Of the items."""
    data: Data
    """Where the items are."""
    subtasks: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Parts that are scored together and each for itself, by what they have in common; `{subtask}` in `data` and
    `prompt` is the part's name."""
    prepare: str | None = None
    """Function of `evaluation/prepare.py` that turns a record of the data into the fields that the templates name."""
    instruction: str = ""
    """Text before everything else."""
    prompt: str = ""
    """Template of a question; `{question}` is a field of the record."""
    delimiter: str = " "
    """What stands between a prompt and its continuation."""
    shots: int = Field(default=0, ge=0)
    """Worked examples before each question."""
    shots_from: Data | None = None
    """Where the examples are; by default among the items themselves, never the one that is asked."""
    shots_drawn: Literal["first", "each"] = "first"
    """The first ones for all items, which lets them share the work, or others for each item."""
    between: str = "\n\n"
    """What stands between examples."""
    cluster: str | None = None
    """Template of what items have in common that makes them depend on each other, such as a passage."""
    order_seed: int | None = None
    """Shuffle the items once; null keeps their order."""
    always_begin: bool = False
    """Put the token that documents begin with before every text, also where the tokenizer does not."""
    chance: float | None = Field(default=None, ge=0, le=1)
    """Score of guessing; by default what the number of choices says."""
    needs: Count = Field(default=0, ge=0)
    """Parameters from which on trained models are told apart by it; smaller ones are near chance."""

    @field_validator("prepare")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in PREPARE:
            raise ValueError(f"no such function '{name}'{nearest(name, PREPARE)}")
        return name

    @field_validator(*TEMPLATES, check_fields=False)
    @classmethod
    def _readable(cls, template: Any) -> Any:
        for part in template if isinstance(template, tuple) else (template,):
            for _, name, _, _ in string.Formatter().parse(part if isinstance(part, str) else ""):
                if name is not None and (not name or name.partition("|")[2] not in ("", *CHANGES)):
                    raise ValueError(f"'{{{name}}}' is not a field; write such as {{question}} or {{question|strip}}")
        return template

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the headline."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """Its name in `use:`."""
        return str(tag(type(self)))

    def parts(self) -> Iterator[tuple[str, str]]:
        """Each subtask and what it has in common with others; one nameless part for a task without."""
        if not self.subtasks:
            yield "", ""
        for common, names in self.subtasks.items():
            for name in names:
                yield name, common


class MultipleChoice(Task):
    """The likeliest of several continuations of a prompt."""

    use: Literal["multiple_choice"]
    choices: str | tuple[str, ...]
    """Template that gives a list, or one template for each choice."""
    gold: str | int
    """Template of the right choice: its number, or a text that is found among `labels` or the choices."""
    labels: str | tuple[str, ...] | None = None
    """Names of the choices, among which `gold` is found."""
    measure: Metric = "acc"
    """The headline: `acc` the likeliest, `acc_norm` by character, `acc_bytes` by byte, `acc_tokens` by token; `mass` is
    the probability of all right choices together."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the headline."""
        others: tuple[Metric, ...] = ("acc", "acc_norm", "acc_bytes", "acc_tokens", "bits_per_byte")
        kept = ("mass", "bits_per_byte") if self.measure == "mass" else others
        return (self.measure, *(metric for metric in kept if metric != self.measure))


class Schema(Task):
    """The context after which the same continuation is likeliest."""

    use: Literal["schema"]
    contexts: str | tuple[str, ...]
    """Template that gives a list, or one template for each context."""
    continuation: str
    """Template of what follows."""
    gold: str | int
    """Template of the right context: its number, or a text that is found among `labels`."""
    labels: str | tuple[str, ...] | None = None
    """Names of the contexts, among which `gold` is found."""
    measure: Literal["acc", "acc_tokens"] = "acc"
    """The headline: the likeliest, or the likeliest by token."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the headline."""
        return (self.measure, "acc_tokens" if self.measure == "acc" else "acc", "bits_per_byte")


class LanguageModelling(Task):
    """How a text really goes on: right when the model would write exactly that."""

    use: Literal["language_modelling"]
    target: str
    """Template of the continuation."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the headline."""
        return ("acc", "perplexity", "bits_per_byte")


class Rolling(Task):
    """Whole texts: bits per byte and perplexity per word, over documents."""

    use: Literal["rolling"]
    text: str
    """Template of the text."""
    overlap: float = Field(default=0.25, ge=0, lt=1)
    """Share of the context that is shown again when a text is longer."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the headline."""
        return ("bits_per_byte", "perplexity")


class Generate(Task):
    """The model writes, and what is found in it by a pattern must be the answer."""

    use: Literal["generate"]
    target: str
    """Template of the answer as an example shows it."""
    answer: str
    """Regular expression whose last group is the answer, in the target and in what the model writes."""
    remove: tuple[str, ...] = ()
    """Regular expressions for what does not count in an answer."""
    stop: tuple[str, ...]
    """Where the writing ends."""
    max_new_tokens: Tokens = Field(default=256, gt=0)
    """The most that the model writes."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the headline."""
        return ("exact",)


class Code(Task):
    """The model writes a program, which must pass tests in a sandbox."""

    use: Literal["code"]
    program: str
    """Template of what runs: `{written}` is what the model wrote."""
    stop: tuple[str, ...]
    """Where the writing ends."""
    max_new_tokens: Tokens = Field(default=512, gt=0)
    """The most that the model writes."""
    samples: int = Field(default=1, ge=1)
    """Programs for each item; with more than one they are drawn at `temperature`."""
    k: int = Field(default=1, ge=1)
    """pass@k: the probability that one of k programs is right."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token."""

    @model_validator(mode="after")
    def _enough(self) -> Code:
        if self.k > self.samples:
            raise ValueError(f"pass@{self.k} needs as many samples, not {self.samples}")
        if self.samples > 1 and not self.temperature:
            raise ValueError("samples at temperature 0 are all the same; set temperature")
        return self

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the headline."""
        return ("pass",)


class Group(Config):
    """Tasks that belong together, with a mean."""

    use: Literal["group"]
    about: str
    """What it is, in a sentence."""
    source: str
    """Paper or page that it is from."""
    members: tuple[str, ...] = Field(min_length=1)
    """Names of tasks; `arc_easy@5` with five examples."""
    centred: bool = False
    """The mean is of scores on a scale where chance is 0 and everything right is 1."""


AnyTask = Annotated[
    MultipleChoice | Schema | LanguageModelling | Rolling | Generate | Code | Group, Field(discriminator="use")
]


class TaskFile(Config):
    """A file of tasks."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    """For YAML anchors; not read."""
    tasks: dict[str, AnyTask]
    """Tasks by name."""


@dataclass(frozen=True)
class Chosen:
    """A task that is to be run."""

    name: str
    """As it is shown: with `@shots` where these were asked for."""
    task: Task

    @property
    def identity(self) -> str:
        """A hash of everything that decides the score but the items and the model."""
        return hash_value(self.task.model_dump(mode="json", exclude={"about", "source", "licence", "needs"}))


@functools.cache
def shipped() -> Mapping[str, Task | Group]:
    """The tasks that come with Headwater, by name."""
    folder = Path(str(importlib.resources.files("headwater.evaluation") / "tasks"))
    found: dict[str, Task | Group] = {}
    for path in sorted(folder.glob("*.yaml")):
        found |= load(TaskFile, path).tasks
    return found


def read(path: Path) -> Mapping[str, Task | Group]:
    """The tasks of a file.

    Raises:
        InputError: it cannot be read.
        RecipeError: it is not a file of tasks; one line per problem, with its place.
    """
    return load(TaskFile, path).tasks


def choose(names: Sequence[str]) -> tuple[list[Chosen], dict[str, Group]]:
    """The tasks that names, groups and paths of files stand for, each once, and the groups that were named.

    Raises:
        InputError: there is no such task.
        RecipeError: a file is not one of tasks.
    """
    known: dict[str, Task | Group] = dict(shipped())
    wanted: list[str] = []
    for name in names:
        if Path(name).suffix in (".yaml", ".yml"):
            own = read(Path(name))
            known |= own
            wanted += own
        else:
            wanted.append(name)
    chosen: dict[str, Chosen] = {}
    groups: dict[str, Group] = {}
    for name in wanted:
        found = _find(name, known)
        if isinstance(found, Group):
            groups[name] = found
        for member in found.members if isinstance(found, Group) else (name,):
            task = _find(member, known)
            if isinstance(task, Group):
                raise InputError("is a group inside a group", place=member, hint="name its members")
            chosen[member] = Chosen(member, task)
    return list(chosen.values()), groups


def _find(name: str, known: Mapping[str, Task | Group]) -> Task | Group:
    plain, at, shots = name.partition("@")
    found = known.get(plain)
    if found is None:
        hint = "see 'headwater list tasks', or give the path of a .yaml file"
        raise InputError(f"no such task{nearest(plain, known)}", place=name, hint=hint)
    if not at:
        return found
    if isinstance(found, Group) or not (shots.isascii() and shots.isdigit()):
        raise InputError("says how many examples of a task as in arc_easy@5", place=name, hint="leave @ out")
    return found.model_copy(update={"shots": int(shots)})

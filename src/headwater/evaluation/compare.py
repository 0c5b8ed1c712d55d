"""Several models side by side: the same prompts, the same seeds; how likely a reference is, and whether code runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.log import logger
from headwater.evaluation import sandbox
from headwater.evaluation.cases import Case, read_cases
from headwater.evaluation.config import Sampling
from headwater.evaluation.likelihood import PairEncoder, encode_items, likelihoods
from headwater.evaluation.opening import Opened, open_model
from headwater.evaluation.prompting import sampling_of
from headwater.evaluation.statistics import pass_at_k
from headwater.evaluation.write import write


@dataclass(frozen=True)
class Reference:
    """How likely a model finds the continuation that a case gives."""

    nats: float
    """Minus its log-probability."""
    tokens: int
    bits_per_byte: float
    greedy: bool
    """Whether the model would have written just this, taking the likeliest token each time."""


@dataclass
class Answer:
    """What a model made of a case."""

    texts: list[str]
    """One for each sample."""
    tokens: int = 0
    """Tokens written, of all samples."""
    reference: Reference | None = None
    fates: list[str] | None = None
    """For code: how each sample's run ended, as in sandbox.py."""

    @property
    def right(self) -> int:
        """Samples that passed their tests."""
        return (self.fates or []).count(sandbox.PASSED)

    def pass_at(self) -> dict[int, float]:
        """Probability that one of k samples passes, for k = 1 and for all."""
        if not self.fates:
            return {}
        return {k: pass_at_k(len(self.fates), self.right, k) for k in sorted({1, len(self.fates)})}


class Piece(NamedTuple):
    """Something that happened."""

    case: int
    model: int
    text: str
    """What a model wrote next, in its first sample; empty: the case is done."""


@dataclass
class Comparing:
    """Models being compared. Go through `pieces` once; then `answers` is complete."""

    models: list[Opened]
    labels: list[str]
    cases: list[Case]
    settings: Sampling
    samples: int = 1
    answers: list[list[Answer]] = field(default_factory=list)
    """[cases][models]"""
    means: str = ""
    """What held generated code back when it was run."""
    warn: Callable[[str], None] = logger.warning
    """Told which prompts are too long for which model."""

    def pieces(self) -> Iterator[Piece]:
        """All models continue one case after the other, a token each in turns; a piece without text ends a case."""
        references = [self._references(opened) for opened in self.models]
        for number, case in enumerate(self.cases):
            answers = [Answer([""] * self.samples, reference=of[number]) for of in references]
            self.answers.append(answers)
            settings = self.settings.model_copy(update={"stop": (*self.settings.stop, *case.stops)})
            prompts = [case.prompt] * self.samples
            writing = {
                place: write(opened.model, opened.codec, prompts, settings, self._warning(place))
                for place, opened in enumerate(self.models)
            }
            while writing:
                for place, pieces in list(writing.items()):
                    found = next(pieces, None)
                    if found is None:
                        del writing[place]
                        continue
                    sample, text, tokens = found
                    answers[place].texts[sample] += text
                    answers[place].tokens += tokens
                    if sample == 0 and text:
                        yield Piece(number, place, text)
            if case.tests:
                self._run(case, answers)
            yield Piece(number, -1, "")

    def as_json(self) -> dict[str, Any]:
        """Everything that was found, for a program and for the page."""
        models = [
            {
                "label": label,
                "place": opened.name,
                "step": opened.step,
                "parameters": opened.model.config.parameters(),
            }
            for label, opened in zip(self.labels, self.models, strict=True)
        ]
        cases = [
            {
                "name": case.name or str(number + 1),
                "prompt": case.prompt,
                "reference": case.reference,
                "tests": case.tests,
                "answers": [_as_json(answer) for answer in answers],
            }
            for number, (case, answers) in enumerate(zip(self.cases, self.answers, strict=True))
        ]
        sampling = self.settings.model_dump(mode="json")
        return {
            "schema": 1,
            "models": models,
            "sampling": sampling,
            "samples": self.samples,
            "sandbox": self.means,
            "cases": cases,
        }

    def _warning(self, place: int):  # noqa: ANN202  (a function of a string)
        return lambda text: self.warn(f"{self.labels[place]}: {text}")

    def _references(self, opened: Opened) -> list[Reference | None]:
        """How likely a model finds each case's reference."""
        asked = [(n, case) for n, case in enumerate(self.cases) if case.reference]
        found: list[Reference | None] = [None] * len(self.cases)
        encoder = PairEncoder(opened.codec, opened.model.config.context_length)
        pairs = [[(case.prompt, case.reference or "")] for _, case in asked]
        encoded = encode_items(encoder, pairs, lambda n: f"reference of prompt {asked[n][0] + 1}")
        for (number, case), (one,) in zip(asked, likelihoods(opened.model, encoded) if asked else (), strict=True):
            size = len((case.reference or "").encode())
            bits = -one.log_probability / math.log(2) / size
            found[number] = Reference(-one.log_probability, one.tokens, bits, one.greedy)
        return found

    def _run(self, case: Case, answers: Sequence[Answer]) -> None:
        """Run prompt, continuation and tests of every sample in the sandbox."""
        for answer in answers:
            ran = [sandbox.run(f"{case.prompt}{text}\n\n{case.tests}\n") for text in answer.texts]
            answer.fates = [one.fate for one in ran]
            self.means = ran[0].means


def compare(
    places: Sequence[str],
    prompts: Sequence[str],
    sampling: Mapping[str, Any],
    machine: Machine,
    *,
    file: str | None = None,
    samples: int = 1,
    dtype: str = "float32",
) -> Comparing:
    """Open models and make ready to compare them.

    Args:
        places: which models, see `open_model`. `run@400` is the checkpoint of step 400 of a run, `name=place` gives a
            model the name that it is shown by.
        prompts: texts to continue.
        sampling: fields of `Sampling`.
        machine: where to compute.
        file: more prompts, see `read_cases`.
        samples: texts that each model writes after each prompt.
        dtype: number format of weights and arithmetic.

    Raises:
        InputError: a setting is out of range, a file or a model cannot be read.
        RecipeError: the file of prompts is not one.
        MismatchError: a model and its tokenizer do not belong together.
    """
    settings = sampling_of(sampling, "compare")
    if samples < 1:
        raise InputError("is less than 1", place="--samples", hint="ask for one text or more")
    if samples > 1 and settings.temperature == 0:
        hint = "set --temperature 0.8, or leave --samples out"
        raise InputError(f"{samples} samples at temperature 0 are all the same", place="--samples", hint=hint)
    if not places:
        raise InputError("there is no model", place="compare", hint="such as: headwater compare demo@0 demo")
    cases = read_cases(file, tuple(prompts))
    torch.set_num_threads(machine.processor_threads)
    labels, models = open_all(places, machine, getattr(torch, dtype))
    return Comparing(models, labels, cases, settings, samples)


def open_all(places: Sequence[str], machine: Machine, dtype: torch.dtype) -> tuple[list[str], list[Opened]]:
    """Open models; returns for each a name of its own, and the model.

    Raises:
        InputError: a model cannot be read.
        MismatchError: a model and its tokenizer do not belong together.
    """
    parsed = [parse_place(written) for written in places]
    shown = [label for label, _, _ in parsed]
    labels = [
        f"{name} ({shown[: n + 1].count(name)})" if shown.count(name) > 1 else name for n, name in enumerate(shown)
    ]
    return labels, [open_model(place, machine, step=step, dtype=dtype) for _, place, step in parsed]


def parse_place(written: str) -> tuple[str, str, int | None]:
    """The label, place and step that `name=place@step` says, where name and step may be missing.

    >>> parse_place("base=runs/demo@0"), parse_place("demo")
    (('base', 'runs/demo', 0), ('demo', 'demo', None))
    """
    label, equals, rest = written.partition("=")
    place = rest if equals and label and not Path(written).exists() else written
    folder, at, step = place.rpartition("@")
    number = int(step) if at and step.isdigit() and not Path(place).exists() else None
    place = place if number is None else folder
    short = Path(place).name or place
    shown = label if place != written and equals else short if number is None else f"{short}@{number}"
    return shown, place, number


def _as_json(answer: Answer) -> dict[str, Any]:
    told = {
        "texts": answer.texts,
        "tokens": answer.tokens,
        "reference": asdict(answer.reference) if answer.reference else None,
    }
    if answer.fates:
        told |= {"fates": answer.fates, "pass_at": {str(k): value for k, value in answer.pass_at().items()}}
    return told

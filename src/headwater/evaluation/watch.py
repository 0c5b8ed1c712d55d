"""Score the checkpoints of a run as they appear, beside the training: every score against the tokens seen.

In `runs/<name>/trajectory/`: `trajectory.json`, a row per checkpoint, and for each the results of its tasks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headwater.core import log
from headwater.core.errors import EvaluationError, InputError, StoreError
from headwater.core.hardware import Machine
from headwater.core.store import locked, read_json, write_json
from headwater.evaluation.benchmark import run_tasks
from headwater.evaluation.opening import open_model
from headwater.evaluation.tasks import Chosen, choose
from headwater.evaluation.texts import LONGEST_DOCUMENT, Sample, held_out_samples, score_samples
from headwater.model.checkpoint import read_info, saved_steps
from headwater.tokens.codec import Codec
from headwater.tokens.shards import TokenFolder

Row = dict[str, Any]


@dataclass
class Watching:
    """A run whose checkpoints are scored. Go through `rows`."""

    run: Path
    machine: Machine
    chosen: Sequence[Chosen] = ()
    data: Path | None = None
    items: int | None = None
    max_bytes: int = 200_000
    every: float = 10.0
    """Seconds between two looks for a new checkpoint."""
    once: bool = False
    """Score what is there, and do not wait for more."""
    found: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why tasks have no score."""

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.run / "trajectory"

    def rows(self) -> Iterator[Row]:
        """Score each checkpoint, the oldest first; ends when the training has, or nobody trains.

        A row: step, tokens seen, seconds; `bits_per_byte` by source, and `tasks`, each with value and standard error.

        Raises:
            InputError: a checkpoint's weights are not finite.
            MismatchError: tokenizer and model do not belong together.
        """
        torch.set_num_threads(self.machine.processor_threads)
        identity = {"tasks": [one.identity for one in self.chosen], "items": self.items, "max_bytes": self.max_bytes}
        path = self.folder / "trajectory.json"
        kept = read_json(path) if path.is_file() else {}
        training = self._training()
        known = kept.get("training") == training.name.removesuffix(".partial") and kept.get("settings") == identity
        self.found = kept["rows"] if known else []
        samples = self._samples()
        while True:
            before, training = training, self._training()
            if training.name.removesuffix(".partial") != before.name.removesuffix(".partial"):
                self.found = []  # another training was begun meanwhile
            over = not training.name.endswith(".partial") or not self._is_worked_on(training)
            done = {row["step"] for row in self.found}
            fresh = {step: place for step, place in self._checkpoints(training).items() if step not in done}
            for step, place in sorted(fresh.items()):
                row = self._score(step, place, training, samples)
                if row is None:
                    continue
                self.found = sorted([*self.found, row], key=lambda one: one["step"])
                name = training.name.removesuffix(".partial")
                write_json(path, {"schema": 1, "training": name, "settings": identity, "rows": self.found})
                yield row
            if over or self.once:
                return
            time.sleep(self.every)

    def check(self) -> None:
        """Make sure that every task has a score.

        Raises:
            EvaluationError: some have none.
        """
        if self.problems:
            hint = "the other scores are kept; run the same command again when this is mended"
            raise EvaluationError("tasks without a score", place="watch", hint=hint, problems=self.problems)

    def _score(self, step: int, place: Path, training: Path, samples: Mapping[str, Sample]) -> Row | None:
        """Score one checkpoint; None when it was removed meanwhile, because newer ones took its place."""
        begun = time.perf_counter()
        try:
            opened = open_model(str(place), self.machine, tokenizer=self._tokenizer)
        except (StoreError, InputError, OSError):
            if place.exists():
                raise
            return None
        amount = sum(sample.tokens for sample in samples.values())
        with log.progress(f"scoring step {step:,}", amount, "tokens") as bar:
            scores = score_samples(opened.model, samples, bar)
        row: Row = {
            "step": step,
            "tokens": self._tokens_at(step, training),
            "bits_per_byte": {
                source: {"value": score.value, "standard_error": score.standard_error}
                for source, score in scores.items()
            },
            "tasks": {},
        }
        if self.chosen:
            folder = self.folder / f"step-{step:06d}"
            results = run_tasks(opened, self.chosen, {}, folder, data=self.data, limit=self.items, show=log.progress)
            self.problems += [one.problem for one in results.outcomes if one.problem not in (None, *self.problems)]
            for outcome in results.outcomes:
                if outcome.score is None:
                    continue  # told when all is done; the other scores are kept
                metric, estimate = outcome.score.headline
                row["tasks"][outcome.chosen.name] = {
                    "metric": metric,
                    "value": estimate.value,
                    "standard_error": estimate.standard_error,
                    "chance": outcome.score.chance,
                }
        return row | {"seconds": round(time.perf_counter() - begun, 3)}

    def _training(self) -> Path:
        """The folder of the training: the one that was begun last, finished or not."""
        begun = read_json(self.run / "begun.json").get("train") if (self.run / "begun.json").is_file() else None
        if begun is not None:
            store = self.machine.store_folder
            for folder in (store / f"{begun}.partial", store / begun):
                if folder.is_dir():
                    return folder
        hint = "start it in another terminal: headwater run"
        raise InputError("no training of this run has begun", place=str(self.run), hint=hint)

    def _checkpoints(self, training: Path) -> dict[int, Path]:
        """Step -> checkpoint, the one before training and the final one among them."""
        places = [*saved_steps(training / "checkpoints"), training / "checkpoint"]
        places.append(self._stage("initialize") / "checkpoint")
        found = {}
        for place in places:
            try:
                found[read_info(place, verify=False).step] = place
            except (StoreError, OSError):
                continue  # not there yet, or not any more
        return found

    def _tokens_at(self, step: int, training: Path) -> int:
        """Tokens that a checkpoint has seen."""
        seen = {row["step"]: row["tokens"] for row in log.read_metrics(training / "metrics.jsonl") if "tokens" in row}
        return max((tokens for at, tokens in seen.items() if at <= step), default=0)

    def _stage(self, name: str) -> Path:
        """The folder of a finished stage. While the run goes on, its record knows more than the links in `stages/`."""
        record = read_json(self.run / "stages.json") if (self.run / "stages.json").is_file() else {}
        if name not in record:
            raise InputError(f"has not finished its stage {name}", place=str(self.run), hint="wait until it trains")
        return self.machine.store_folder / record[name]

    @property
    def _tokenizer(self) -> Path:
        return self._stage("tokenizer") / "tokenizer"

    def _samples(self) -> dict[str, Sample]:
        return held_out_samples(
            TokenFolder(self._stage("encode")), Codec(self._tokenizer), self.max_bytes, LONGEST_DOCUMENT
        )

    @staticmethod
    def _is_worked_on(training: Path) -> bool:
        """Whether a process trains in a folder."""
        try:
            with locked(training.with_name(training.name.removesuffix(".partial")), "the training"):
                return False
        except StoreError:
            return True


def watch(
    place: str,
    tasks: Sequence[str],
    machine: Machine,
    *,
    data: Path | None = None,
    items: int | None = None,
    max_bytes: int = 200_000,
    every: float = 10.0,
    once: bool = False,
) -> Watching:
    """Make ready to score the checkpoints of a run.

    Args:
        place: name of a recipe that runs or has run, or folder of a run.
        tasks: names of tasks; the bits per byte of held-out documents are measured in any case.
        machine: where to compute, where runs and their store are.
        data: folder of the tasks' data.
        items: at most so many items of each subtask.
        max_bytes: held-out text of each source.
        every: seconds between two looks.
        once: do not wait for more checkpoints.

    Raises:
        InputError: there is no such run or task.
    """
    run = machine.run_folder(place)
    if not run.is_dir():
        known = sorted(path.name for path in Path(machine.runs).iterdir()) if Path(machine.runs).is_dir() else []
        hint = f"runs: {', '.join(known)}" if known else "start it in another terminal: headwater run"
        raise InputError("is no run", place=place, hint=hint)
    if every <= 0:
        raise InputError("is not a time", place="--every", hint="give seconds above 0")
    chosen = choose(tasks)[0] if tasks else []
    return Watching(run, machine, chosen, data, items, max_bytes, every, once)

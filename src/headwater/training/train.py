"""The training loop: the door of the stage train.

Which tokens a step sees, its learning rate, and when it validates are functions of the step alone, so a run that is
killed and resumed from a checkpoint gives the same weights, bit for bit, as one that was not (on the same machine).
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from headwater.core.errors import MismatchError, TrainingError
from headwater.core.log import MetricsLog, Progress, read_metrics
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.store import write_json
from headwater.core.units import format_count, format_seconds
from headwater.model import checkpoint
from headwater.model.moments import PREFIX
from headwater.model.transformer import Transformer
from headwater.tokens.loader import Batch
from headwater.tokens.mixture import SourcePlan
from headwater.tokens.shards import TokenFolder
from headwater.training import parallel, speed
from headwater.training.config import INITIAL_LOSS_TOLERANCE, Train
from headwater.training.forgetting import Watch
from headwater.training.optimizer import Optimizers
from headwater.training.phases import PhasedBatches, Stretch, check_contexts, introduction, phases_to_json, shape
from headwater.training.schedule import WarmupStableDecay
from headwater.training.validation import Validation


def train(settings: Train, inputs: Inputs, out: Workspace) -> Counts:
    """Train the weights of `inputs["checkpoint"]` on the tokens of `inputs["tokens"]`; goes on where a kill stopped it.

    Raises:
        MismatchError: sequences are longer than the model's context, or tokens and model do not fit.
        TrainingError: the loss is not finite; the last good checkpoint is kept.
        StoreError: a checkpoint is damaged or the disk is full; older checkpoints are untouched.
        KeyboardInterrupt: the user stopped it; the finished steps are saved.
    """
    run = Run(settings, inputs, out)
    with _stop_signals() as stop, run.progress() as progress:
        while not run.finished:
            run.step()
            run.show(progress)
            if stop.asked:
                run.save()
                out.note(f"stopped after step {run.steps_done:,}; run again to go on")
                raise KeyboardInterrupt
    return run.finish()


class Run:
    """One training run: model, optimizers and data, and the state that a checkpoint keeps."""

    def __init__(self, settings: Train, inputs: Inputs, out: Workspace) -> None:
        """Open the data, load the newest intact checkpoint or the first weights, and compile."""
        self.settings = settings
        self.out = out
        self.checkpoints = out.folder / "checkpoints"
        for folder in (out.folder, self.checkpoints):
            checkpoint.remove_unfinished(folder)
        newest = checkpoint.newest(self.checkpoints, out.warn)
        resumed = checkpoint.load_training(newest) if newest else None
        # what a checkpoint keeps beside tensors; changed in place as the run goes on
        self.state: dict[str, Any] = {
            "steps_done": 0,
            "total_steps": settings.planned_steps,
            "seconds_training": 0.0,
            "seconds_validating": 0.0,
            "seconds_saving": 0.0,
            "seconds_compiling": 0.0,
            "proven_step": -1,  # the newest weights that gave a finite loss and gradient: those after so many steps
            "initial_loss": None,
            "last_loss": None,
            "nonfinite": 0,
            "speed": {},  # how it computes rows of each shape, to be kept
            "forgetting": {},
        } | (resumed[1] if resumed else {})
        self.device = parallel.set_up(out, next(iter(self.state["speed"].values()), None))
        self.model, self.start = checkpoint.load_model(newest or inputs["checkpoint"] / "checkpoint", self.device)
        self.batches = PhasedBatches(inputs["tokens"], settings)
        _check_fit(settings, self.model, self.batches, TokenFolder(inputs["tokens"]).format.vocab_size)
        self.stretch = self.batches.stretch(self.steps_done)
        adapt(self.model, self.stretch)
        self.most_steps, self.scarcest = _most_steps(self.batches)
        self._introduce()
        self._prepare()
        self.optimizers = Optimizers(self.model, settings.optimizer, self.arithmetic.dtype)
        shares, rows = (
            settings.mixture.parts(self.batches.tokens),
            next(iter(self.state["speed"].values()))["micro_batch"],
        )
        self.validation = Validation(settings, inputs["tokens"], shares, rows, out)
        self._watch()
        torch.manual_seed(settings.seed)
        if resumed:
            self._restore(resumed[0])
        elif self.start.resumable:
            self.optimizers.begin_with(_moments(checkpoint.load_training(self.start.folder)[0]))
        self.metrics = MetricsLog(out.folder / "metrics.jsonl", keep=self.steps_done)
        self.tensorboard = SummaryWriter(str(out.folder / "tensorboard"), purge_step=self.steps_done + 1)
        self._validated: tuple[int, dict[str, Any]] = -1, {}
        self._logged = self.steps_done, self.state["seconds_training"]
        self._clock = self._saved_at = time.perf_counter()

    def _prepare(self) -> None:
        """Choose how rows of this phase's shape are computed, and compile for it."""
        start, settings, chosen = time.perf_counter(), self.stretch.settings, self.state["speed"]
        key = f"{settings.batch_sequences} x {settings.sequence_length}"
        if chosen and key not in chosen:  # a later phase: optimizer and threads stay as they are
            settings = speed.only_rows(settings, next(iter(chosen.values())))
        first = self._on_device(self.batches.batch(self.steps_done))
        self.arithmetic = parallel.prepare(self.model, settings, self.device, first, self.out, chosen.get(key))
        chosen[key] = asdict(self.arithmetic.choice)
        self.state["seconds_compiling"] += time.perf_counter() - start

    def _watch(self) -> None:
        """Begin to watch what the model knew before."""
        trained_on = {name for batches in self.batches.phases for name in batches.fits}
        replayed = list(dict.fromkeys(name for batches in self.batches.phases for name in batches.mixture.replay))
        default = replayed + [name for name in self.validation.sources if name not in trained_on]
        self.watch = Watch(self.settings.forgetting, default, self.validation.sources, self.state["forgetting"])
        self.continues = self.start.notes.get("initialized", "random") != "random"
        if self.continues and not replayed:
            self.out.warn(
                "the weights are trained already, and nothing like what they were trained on is replayed: they may "
                "forget it; name a source in train.mixture.replay"
            )

    @property
    def micro_batch(self) -> int:
        """Rows of one forward and backward pass."""
        return self.arithmetic.choice.micro_batch

    @property
    def steps_done(self) -> int:
        """Updates so far."""
        return self.state["steps_done"]

    @property
    def finished(self) -> bool:
        """Whether the last update is done."""
        return self.state["total_steps"] is not None and self.steps_done >= self.state["total_steps"]

    @property
    def seconds_spent(self) -> float:
        """Time so far that counts against a budget."""
        return sum(self.state[f"seconds_{what}"] for what in ("training", "validating", "saving"))

    def step(self) -> None:
        """Train on one batch; then log, validate and save when it is time to."""
        self._decide_end()
        self._enter_phase()
        if self.steps_done == 0 and (self.continues or self.settings.forgetting):
            self._validate()  # what the model knows before it learns anything
        batch = self.batches.batch(self.steps_done)
        loss, norm = self._gradient(batch)
        share = self.stretch.rate(self.steps_done, self.state["total_steps"]) * self.watch.rate_factor
        if math.isfinite(loss) and math.isfinite(norm):
            self.state["proven_step"] = self.steps_done
            self.optimizers.step(share)
        else:
            self._nonfinite(loss, norm)
        self.state |= {"steps_done": self.steps_done + 1, "last_loss": loss}
        self._tick("training")
        if self.steps_done == 1:
            self._check_initial_loss(loss)
        if self.steps_done % self.settings.log_every == 0 or self.finished:
            self._log(loss, norm)
        if not self.finished and self.settings.validate_every and self.steps_done % self.settings.validate_every == 0:
            self._validate()
        if not self.finished and self._time_to_save():
            self.save()

    def finish(self) -> Counts:
        """Validate, write the final weights, and count.

        Raises:
            TrainingError: the last update made weights that are not finite, which no later step could notice.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            self._stop_at_the_last_good(f"step {self.steps_done:,}: its update made weights that are not finite")
        step, validation = self._validated
        if step != self.steps_done:
            validation = self._validate()
        self.tensorboard.close()
        self.save(self.out.folder / "checkpoint")
        seconds, tokens = self.state["seconds_training"], self.steps_done * self.settings.batch_tokens
        flops = self._flops() / tokens
        return {
            "initial_loss": self.state["initial_loss"],
            "expected_initial_loss": self.start.notes.get("expected_initial_loss"),
            "final_loss": self._recent_loss(),
            **validation,
            "steps": self.steps_done,
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "mfu": flops * tokens / seconds / self.arithmetic.peak_flops_per_second,
            "peak_flops_per_second": self.arithmetic.peak_flops_per_second,
            "flops_per_token": flops,
            "flops_convention": "6 N + 6 L H Q T (causal attention), T = sequence_length, mean over phases",
            "precision": self.arithmetic.choice.precision,
            "device": self.device,
            "compiled": self.arithmetic.choice.compiled,
            "speed": self.state["speed"],
            "parameters": self.model.config.parameters(),
            "seconds_training": seconds,
            "seconds_validating": self.state["seconds_validating"],
            "seconds_saving": self.state["seconds_saving"],
            "seconds_compiling": self.state["seconds_compiling"],
            "nonfinite_updates": self.state["nonfinite"],
            "mixture": self.batches.plan(self.steps_done).to_json(),
            "copies": self.batches.copies,
            "packing": self.batches.packed(),
            "phases": phases_to_json(self.batches, self.steps_done),
            "forgetting": self.watch.to_json() if self.continues or self.settings.forgetting else None,
        }

    def save(self, folder: Path | None = None) -> None:
        """Write a checkpoint from which the run can go on exactly, and remove old ones."""
        self._tick("training")
        tensors = {PREFIX + name: tensor for name, tensor in self.optimizers.tensors().items()}
        tensors["random/torch"] = torch.get_rng_state()
        folder = folder or checkpoint.step_folder(self.checkpoints, self.steps_done)
        checkpoint.save(folder, self.model, self.steps_done, self.start.notes, tensors, self.state)
        proven, unproven = self._saved()
        for old in (*proven[: -self.settings.keep_last], *unproven[:-1]):
            shutil.rmtree(old)
        self._tick("saving")
        self._saved_at = self._clock

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show how far the run is: by time where a budget decides, else by tokens."""
        budget, steps = self.settings.budget, self.state["total_steps"]
        tokens = None if steps is None else steps * self.settings.batch_tokens
        with self.out.progress("train", budget or tokens, "seconds" if budget else "tokens") as progress:
            yield progress

    def show(self, progress: Progress) -> None:
        """Move the progress bar."""
        budget = self.settings.budget  # the decay may take longer than was left; the bar goes no further than its end
        done = min(self.seconds_spent, budget) if budget else self.steps_done * self.settings.batch_tokens
        info = f"step {self.steps_done:,}, loss {self.state['last_loss']:.3f}"
        progress.update(completed=done, info=info)

    def _decide_end(self) -> None:
        """With a budget: when the time for the decay has come, or the data would run out, fix the number of steps."""
        if self.state["total_steps"] is not None:
            return
        schedule, budget = self.settings.schedule, self.settings.budget
        assert isinstance(schedule, WarmupStableDecay)
        assert budget is not None
        steps = schedule.total_steps(self.steps_done)
        if self.seconds_spent >= budget * (1 - schedule.decay_share):
            self.state["total_steps"] = min(steps, self.most_steps)
        elif steps >= self.most_steps:
            self.state["total_steps"] = self.most_steps
            tokens = self.most_steps * self.settings.batch_tokens
            self.out.warn(
                f"the budget of {format_seconds(budget)} will not be used up: training ends after {self.most_steps:,} "
                f"steps ({format_count(tokens)} tokens), when source '{self.scarcest.name}' with its "
                f"{self.scarcest.available_tokens:,} tokens has been seen {self.scarcest.max_epochs:g} times "
                f"(mixture.max_epochs)"
            )

    def _enter_phase(self) -> None:
        """Where the next step begins another phase: change to its settings."""
        stretch = self.batches.stretch(self.steps_done)
        if stretch is self.stretch:
            return
        before, self.stretch = self.stretch, stretch
        adapt(self.model, stretch)
        self.out.note(f"step {self.steps_done:,}: phase '{stretch.name}' begins: {introduction(stretch)}")
        if shape(before) != shape(stretch):
            self._tick("training")
            self._prepare()
            self._clock = time.perf_counter()

    def _flops(self) -> float:
        """Operations of all steps so far."""
        return sum(
            self.model.config.flops_per_token(stretch.settings.sequence_length) * steps * self.settings.batch_tokens
            for stretch, steps in self.batches.done(self.steps_done)
        )

    def _gradient(self, batch: Batch) -> tuple[float, float]:
        """Forward and backward over the micro-batches of a batch: mean loss, and norm of the gradient."""
        loss = torch.zeros((), device=self.device)
        counted = self.batches.counted_targets(self.steps_done)
        for tokens, targets, documents in self._micro_batches(batch):
            share = (targets >= 0).sum() / counted
            part = self.model.loss(tokens, targets, documents) * share
            part.backward()
            loss += part.detach()
        most = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), most)
        return float(loss), float(norm)

    def _micro_batches(self, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        tokens, targets, documents = (tensor.split(self.micro_batch) for tensor in self._on_device(batch))
        return list(zip(tokens, targets, documents, strict=True))

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        tokens, targets, documents = (torch.from_numpy(array).to(self.device) for array in batch)
        return tokens, targets, documents

    def _nonfinite(self, loss: float, norm: float) -> None:
        """Leave out an update whose loss or gradient is not finite; stop when it happens too often."""
        self.optimizers.drop_gradients()
        self.state["nonfinite"] += 1
        step = self.steps_done + 1
        rows = [
            {"source": row.source, "pieces": [piece._asdict() for piece in row.pieces]}
            for row in self.batches.rows(step - 1)
        ]
        record = self.out.folder / f"nonfinite-step-{step:06d}.json"
        write_json(record, {"step": step, "loss": str(loss), "gradient_norm": str(norm), "rows": rows})
        sources = ", ".join(sorted({row["source"] for row in rows}))
        culprit = f"norm of the gradient is not finite ({norm:g}, at a loss of {loss:g})"
        if not math.isfinite(loss):
            culprit = f"loss is not finite ({loss:g})"
        what = f"step {step:,}: the {culprit} on rows of {sources}"
        if self.state["nonfinite"] <= self.settings.max_nonfinite:
            self.out.warn(f"{what}; update left out, rows in {record}")
            return
        self._stop_at_the_last_good(what, f"look at the documents in {record}, ")

    def _stop_at_the_last_good(self, what: str, hint: str = "") -> NoReturn:
        kept, poisoned = self._saved()
        for folder in poisoned:  # their weights never gave a finite loss: going on from them would fail again
            shutil.rmtree(folder)
        good = f"the last good checkpoint is {kept[-1]}; " if kept else ""
        raise TrainingError(what, place="train", hint=f"{good}{hint}lower the learning rate, or lengthen the warm-up")

    def _saved(self) -> tuple[list[Path], list[Path]]:
        """The checkpoints whose weights have given a finite loss and gradient, and the others, oldest first."""
        saved = checkpoint.saved_steps(self.checkpoints)
        steps = [int(folder.name.removeprefix("step-")) for folder in saved]
        proven = bisect_right(steps, self.state["proven_step"])
        return saved[:proven], saved[proven:]

    def _check_initial_loss(self, loss: float) -> None:
        """Compare the loss before the first update with what random weights give."""
        self.state["initial_loss"] = loss
        expected = self.start.notes.get("expected_initial_loss")
        chance = math.log(self.model.config.token_types)
        if expected is None:
            self.out.note(f"initial loss {loss:.3f} nats per token; guessing would be {chance:.3f}")
            if loss > chance + INITIAL_LOSS_TOLERANCE:
                self.out.warn(
                    f"the initial loss {loss:.3f} is above ln(vocabulary) = {chance:.3f}: do weights and tokenizer belong together?"
                )
            return
        self.out.note(f"initial loss {loss:.3f} nats per token, expected {expected:.3f}")
        if abs(loss - expected) > INITIAL_LOSS_TOLERANCE:
            self.out.warn(
                f"the initial loss is {loss:.3f}, expected {expected:.3f} of random weights: something is wrong with the weights, the tokens or the loss"
            )

    def _tick(self, what: Literal["training", "validating", "saving"]) -> None:
        """Add the time since the last tick to that spent on `what`."""
        now = time.perf_counter()
        self.state[f"seconds_{what}"] += now - self._clock
        self._clock = now

    def _log(self, loss: float, norm: float) -> None:
        now = self.steps_done, self.state["seconds_training"]
        steps, seconds = now[0] - self._logged[0], now[1] - self._logged[1]
        speed = steps * self.settings.batch_tokens / max(seconds, 1e-9)
        self._logged = now
        flops = self.model.config.flops_per_token(self.stretch.settings.sequence_length)
        values = {
            "loss": loss,
            "learning_rate": self.optimizers.learning_rate,
            "grad_norm": norm,
            "tokens_per_second": speed,
            "mfu": speed * flops / self.arithmetic.peak_flops_per_second,
            "seconds": self.state["seconds_training"],
        }
        self.metrics.write(self._place() | values)
        for name, value in values.items():
            self.tensorboard.add_scalar(f"train/{name}", value, self.steps_done)

    def _validate(self) -> dict[str, Any]:
        self._tick("training")
        values = self.validation(self.model, self.device)
        self.metrics.write(self._place() | values)
        for what, per_source in values.items():
            for source, value in per_source.items():
                self.tensorboard.add_scalar(f"{what}/{source}", value, self.steps_done)
        total = values["validation_loss"].get("total")
        if total is not None:
            self.out.note(
                f"step {self.steps_done:,}: validation loss {total:.3f} nats per token, {values['validation_bits_per_byte']['total']:.3f} bits per byte"
            )
        self._validated = self.steps_done, values
        self.watch(self.steps_done, values["validation_loss"], self.out)
        if self.watch.stops:
            self.state["total_steps"] = self.steps_done
        self._tick("validating")
        return values

    def _place(self) -> dict[str, Any]:
        """Where the run is, for a line of metrics.jsonl."""
        place = {"step": self.steps_done, "tokens": self.steps_done * self.settings.batch_tokens}
        return place | ({"phase": self.stretch.name} if self.settings.phases else {})

    def _recent_loss(self) -> float:
        """Mean training loss of the last tenth of the steps, at most 50."""
        losses = [line["loss"] for line in read_metrics(self.out.folder / "metrics.jsonl") if "loss" in line]
        last = losses[-max(min(len(losses) // 10, 50), 1) :]
        return sum(last) / len(last)

    def _time_to_save(self) -> bool:
        every, interval = self.settings.checkpoint_every, self.settings.checkpoint_interval
        by_steps = every and self.steps_done % every == 0
        by_time = interval and time.perf_counter() - self._saved_at >= interval
        return bool(by_steps or by_time)

    def _introduce(self) -> None:
        settings = self.settings
        parameters = format_count(self.model.config.parameters())
        steps = f", {settings.planned_steps:,} steps" if settings.planned_steps else ""
        rows = f"{settings.batch_sequences} x {settings.sequence_length} tokens per step"
        self.out.note(f"{parameters} parameters, {rows}{steps}")
        said: dict[str, None] = {}
        for stretch, batches in zip(self.batches.stretches, self.batches.phases, strict=True):
            if stretch.phase:
                self.out.note(f"phase '{stretch.name}': {introduction(stretch)}")
            fits = batches.fits.items() if stretch.settings.packing.use == "best_fit" else ()
            said |= {f"packing of '{name}': {fit}": None for name, fit in fits}
        for line in said:  # phases whose rows are the same say the same
            self.out.note(line)
        for warning in self.batches.warnings:
            self.out.warn(warning)

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.optimizers.restore(_moments(tensors))
        torch.set_rng_state(tensors["random/torch"])
        spent = format_seconds(self.seconds_spent)
        self.out.note(f"resumed after step {self.steps_done:,} ({spent} of training)")


class _Stop:
    asked = False


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop after the step; a second one stops at once."""
    stop = _Stop()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            before[number] = signal.signal(number, ask)
        except ValueError:  # not the main thread: signals are someone else's business
            break
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _moments(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's part of the tensors of a checkpoint."""
    return {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if key.startswith(PREFIX)}


def adapt(model: Transformer, stretch: Stretch) -> None:
    """Change a model's positions where a phase says so.

    Raises:
        MismatchError: its positions are learned.
    """
    if stretch.phase is None or stretch.phase.rope_theta is None:
        return
    config = model.config
    if config.positions != "rotary":
        place, hint = f"train.phases.{stretch.name}.rope_theta", "leave it out"
        raise MismatchError("the model's positions are learned: it has no rotary base", place=place, hint=hint)
    changes = {
        "rope_theta": stretch.phase.rope_theta,
        "context_length": max(config.context_length, stretch.settings.sequence_length),
    }
    model.config = config.model_copy(update=changes)
    model.reset_buffers(model.embedding.weight.device)


def _check_fit(settings: Train, model: Transformer, batches: PhasedBatches, vocab_size: int) -> None:
    """Make sure that settings, model and tokens fit before anything is computed."""
    config = model.config
    check_contexts(batches.stretches, config.context_length)
    if vocab_size > config.token_types:
        raise MismatchError(
            f"the tokens are of a vocabulary of {vocab_size:,}, the model knows {config.token_types:,} tokens",
            place="train",
            hint="encode with the tokenizer that belongs to the model",
        )
    batches.plan(settings.planned_steps or 1)


def _most_steps(batches: PhasedBatches) -> tuple[int, SourcePlan]:
    """How many steps there are before a source is seen more often than the mixture allows, and which source that is.

    A source of weight w has had less than w n + 1 of the first n rows, and the plan forgives one row: so no plan of
    this many steps or fewer is refused.
    """
    scarcest = min(batches.plan(1).sources, key=lambda source: source.deliverable_tokens / source.weight)
    return max(int(scarcest.deliverable_tokens / scarcest.weight) // batches.batch_tokens, 1), scarcest

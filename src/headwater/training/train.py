"""The training loop: the door of the stage train.

Which tokens a step sees, its learning rate, and when it validates are functions of the step alone, so a run that is
killed and resumed from a checkpoint gives the same weights, bit for bit, as one that was not (on the same machine).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from headwater.core.errors import MismatchError, Stopped, TrainingError
from headwater.core.log import Progress, read_metrics
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.units import format_count, format_seconds
from headwater.model import checkpoint
from headwater.model.moments import PREFIX
from headwater.model.transformer import Transformer
from headwater.tokens.loader import Batch
from headwater.tokens.shards import TokenFolder
from headwater.training import parallel, speed
from headwater.training.alarms import (
    SPIKE_STEPS,
    STUCK_SHARE,
    Alarms,
    NoiseScale,
    check_initial_loss,
    keep_batch,
    local_part,
    share_moved,
    sources_of,
    squared_norm,
)
from headwater.training.checkpoints import Checkpoints
from headwater.training.config import Train
from headwater.training.distill import Losses, Teacher
from headwater.training.distributed import Team, assemble
from headwater.training.fit import adapt, check_fit, most_steps
from headwater.training.forgetting import Watch
from headwater.training.optimizer import AVERAGE, Optimizers
from headwater.training.phases import PhasedBatches, introduction, phases_to_json, shape
from headwater.training.regimes import resolve
from headwater.training.schedule import WarmupStableDecay
from headwater.training.stop import stop_signals
from headwater.training.trackers import Trackers, Values
from headwater.training.validation import Validation


def train(settings: Train, inputs: Inputs, out: Workspace) -> Counts:
    """Train the weights of `inputs["checkpoint"]` on the tokens of `inputs["tokens"]`; goes on where a kill stopped it.

    Raises:
        MismatchError: sequences are longer than the model's context, or tokens and model do not fit.
        TrainingError: the loss is not finite; the last good checkpoint is kept.
        StoreError: a checkpoint is damaged or the disk is full; older checkpoints are untouched.
        KeyboardInterrupt: the user stopped it; the finished steps are saved.
    """
    with assemble(settings, inputs, out) as team:
        return train_together(settings, inputs, team.workspace(out), team)


def train_together(settings: Train, inputs: Inputs, out: Workspace, team: Team) -> Counts:
    """Train as one rank of a team: every rank calls this, the first one writes and counts."""
    with stop_signals(repeats=team.restarts) as stop:
        run = Run(settings, inputs, out, team)
        with run.progress() as progress:
            while not run.finished:
                if asked := run.step(stop.asked):
                    out.note(f"stopped after step {run.steps_done:,}; run again to go on")
                    raise Stopped(asked)
                run.show(progress)
        return run.finish()


class Run:
    """One training run: model, optimizers and data, and the state that a checkpoint keeps."""

    def __init__(self, settings: Train, inputs: Inputs, out: Workspace, team: Team | None = None) -> None:
        """Open the data, load the newest intact checkpoint or the first weights, and compile."""
        self.settings = settings
        self.out = out
        self.team = team = team or Team()
        if team.sharded and settings.distill:
            problem = "a teacher needs a student whose weights are whole on every rank"
            raise MismatchError(problem, place="machine.shard", hint="leave it out, or leave train.distill out")
        self.checkpoints = Checkpoints(settings, out, team)
        if team.leads:
            self.checkpoints.clear_unfinished()
        newest = team.agree(self.checkpoints.newest() if team.leads else None)
        resumed = checkpoint.load_state(newest) if newest else {}
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
            "last_divergence": None,  # of the model's probabilities from the teacher's, where there is one
            "nonfinite": 0,
            "recent_losses": [],
            "spikes": 0,
            "alarms": [],
            "noise_scale": None,
            "best": None,
            "speed": {},  # how it computes rows of each shape, to be kept
            "forgetting": {},
        } | resumed
        self.batches = PhasedBatches(inputs["tokens"], settings)
        for stretch in self.batches.stretches:
            team.check_batch(stretch.settings.batch_sequences)
        self.stretch = self.batches.stretch(self.steps_done)
        self.device = parallel.set_up(out, self.state["speed"].get(self._shape(self.stretch.settings)))
        self._first_weights = inputs["checkpoint"] / "checkpoint"
        tensors = self._load(newest or self._first_weights, resuming=newest is not None)
        check_fit(settings, self.model.config, self.batches, TokenFolder(inputs["tokens"]).format.vocab_size)
        adapt(self.model, self.stretch)
        settings, self.by_law = resolve(settings, self.model.config)
        self.settings = settings
        self.model.z_loss = settings.z_loss
        self.most_steps, self.scarcest = most_steps(self.batches)
        self._introduce()
        self._prepare()
        longest = max(stretch.settings.sequence_length for stretch in self.batches.stretches)
        self.teacher = (
            Teacher(settings.distill, self.model, longest, self.arithmetic, out) if settings.distill else None
        )
        self._wrap()
        self.optimizers = Optimizers(self.model, settings.optimizer, self.arithmetic.dtype, team, settings.average)
        shares = settings.mixture.parts(self.batches.tokens)
        rows = self.state["speed"].get(self._shape(settings), {}).get("micro_batch", self.micro_batch)
        self.validation = Validation(settings, inputs["tokens"], shares, rows, out, team)
        self._watch()
        self.alarms = Alarms(self.model, self.state, out, team.sum)
        self.noise_scale = NoiseScale(self.state)
        torch.manual_seed(settings.seed)
        if newest:
            self._restore(tensors)
        elif self.start.resumable:
            self.optimizers.begin_with(_moments(checkpoint.load_training(self.start.folder)[0]))
        self.trackers = Trackers(out, self.steps_done, settings.model_dump(mode="json")) if team.leads else None
        self._validated: tuple[int, dict[str, Any]] = -1, {}
        self._logged = self.steps_done, self.state["seconds_training"]
        self._clock = time.perf_counter()

    def _load(self, folder: Path, resuming: bool) -> dict[str, Tensor]:
        """Load the model, spread over the ranks where they share it; returns the tensors to resume from."""
        team = self.team
        if not team.sharded:
            self.model, self.start = checkpoint.load_model(folder, self.device)
            return checkpoint.load_training(folder)[0] if resuming else {}
        dtype = speed.unraced(self.stretch.settings, self.device).dtype
        if not checkpoint.sharded_sizes(folder):
            self.model, self.start = checkpoint.load_model(
                folder, self.device, spread=lambda model: team.spread(model, dtype), part=team.part
            )
            return checkpoint.load_training(folder)[0] if resuming else {}
        self.start = checkpoint.read_info(folder)
        with torch.device("meta"):
            self.model = Transformer(self.start.config)
        team.spread(self.model, dtype)
        self.model.to_empty(device=self.device)
        self.model.reset_buffers(self.device)
        return team.read_parts(folder, dict(self.model.named_parameters()))

    def _share_of(self, settings: Train) -> Train:
        """Settings as they are for this rank's share of each batch."""
        return settings.model_copy(update={"batch_tokens": settings.batch_tokens // self.team.ranks})

    def _shape(self, settings: Train) -> str:
        """The shape of this rank's rows under some settings."""
        return f"{self._share_of(settings).batch_sequences} x {settings.sequence_length}"

    def _prepare(self) -> None:
        """Choose how rows of this phase's shape are computed, and compile for it.

        Rank 0 races and compiles first; the others compute as it does, and find its compiled code. Where each holds only
        a part of the weights nobody can compute alone: nothing is raced.
        """
        start, settings, chosen = time.perf_counter(), self._share_of(self.stretch.settings), self.state["speed"]
        key, team = self._shape(self.stretch.settings), self.team
        if chosen and key not in chosen:  # a later phase, or other ranks: number format and attention stay as they are
            settings = speed.only_rows(settings, next(iter(chosen.values())))
        if team.sharded and key not in chosen:
            chosen[key] = asdict(speed.unraced(settings, self.device))
        rows = self._on_device(self._batch())
        if team.leads or team.sharded:
            self.arithmetic = parallel.prepare(self.model, settings, self.device, rows, self.out, chosen.get(key))
        chosen[key] = team.agree(asdict(self.arithmetic.choice) if team.leads else None)
        if not (team.leads or team.sharded):
            self.arithmetic = parallel.prepare(self.model, settings, self.device, rows, self.out, chosen[key])
        if settings.dropout:  # compiled code for it is other code; that without it stays for validation
            self.model.set_dropout(settings.dropout)
            speed.one_pass(self.model, [part[: self.micro_batch] for part in rows])
        self.peak_flops_per_second = team.sum(self.arithmetic.peak_flops_per_second)[0]
        self.state["seconds_compiling"] += time.perf_counter() - start

    def _wrap(self) -> None:
        """Have gradients averaged over the ranks from now on, with rows of this phase's shape."""
        self.team.wrap(self.model, self._losses, self._micro_batches(self._batch())[0])

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
    def steps_done(self) -> int:
        """Updates so far."""
        return self.state["steps_done"]

    @property
    def micro_batch(self) -> int:
        """Rows of one forward and backward pass."""
        return self.arithmetic.choice.micro_batch

    @property
    def finished(self) -> bool:
        """Whether the last update is done."""
        return self.state["total_steps"] is not None and self.steps_done >= self.state["total_steps"]

    @property
    def seconds_spent(self) -> float:
        """Time so far that counts against a budget."""
        return sum(self.state[f"seconds_{what}"] for what in ("training", "validating", "saving"))

    def step(self, stop_asked: int = 0) -> int:
        """Train on one batch; then log, validate and save when it is time to.

        Args:
            stop_asked: number of the signal by which this rank was asked to stop; 0 when it was not.

        Returns:
            The number of the signal by which any rank was asked to stop: then the run is saved.
        """
        self._decide_end()
        self._enter_phase()
        if self.steps_done == 0 and (self.continues or self.settings.forgetting):
            self._validate()  # what the model knows before it learns anything
        loss, norm = self._gradient(self._batch())
        share = self.stretch.rate(self.steps_done, self.state["total_steps"]) * self.watch.rate_factor
        if math.isfinite(loss) and math.isfinite(norm):
            self.state["proven_step"] = self.steps_done
            self._update(loss, norm, share)
        else:
            self._nonfinite(loss, norm)
        self.state |= {"steps_done": self.steps_done + 1, "last_loss": loss}
        self._tick("training")
        if self.steps_done == 1:
            self.state["initial_loss"] = loss
            check_initial_loss(loss, self.start.notes, self.model.config.token_types, self.out)
        if self.steps_done % self.settings.log_every == 0 or self.finished:
            self._log(loss, norm)
        best = False
        if not self.finished and self.settings.validate_every and self.steps_done % self.settings.validate_every == 0:
            best = self._validate() and self.settings.keep_best
        due = not self.finished and (best or self.checkpoints.due(self.steps_done))
        due, stop_asked, writing = (int(value) for value in self.team.most(due, stop_asked, self.checkpoints.writing))
        if not writing:
            self.checkpoints.settle()  # on all ranks at the same step
        if due or stop_asked:
            self.save()
        if stop_asked:
            self.checkpoints.settle()
        return stop_asked

    def _update(self, loss: float, norm: float, share: float) -> None:
        """Change the weights, and watch what comes of it."""
        step = self.steps_done + 1
        sigmas = self.alarms.spikes(loss)
        if sigmas is not None:
            rows = self.batches.rows(step - 1)
            record = keep_batch("spike", step, loss, norm, rows, self.out.folder) if self.team.leads else None
            self.out.warn(
                f"step {step:,}: the loss jumped to {loss:.3f}, {sigmas:.1f} standard deviations above the last "
                f"{SPIKE_STEPS} steps, on rows of {sources_of(rows)}; rows in {record}"
            )
        sample = self.alarms.before_update(step)
        self.optimizers.step(share)
        self.alarms.after_update(step, sample)

    def finish(self) -> Counts:
        """Validate, write the final weights, and count.

        Raises:
            TrainingError: the last update made weights that are not finite, which no later step could notice.
        """
        broken = sum(not bool(local_part(parameter).isfinite().all()) for parameter in self.model.parameters())
        if self.team.sum(broken)[0]:
            self._stop_at_the_last_good(f"step {self.steps_done:,}: its update made weights that are not finite")
        if self._validated[0] != self.steps_done:
            self._validate()
        with self.optimizers.averaged():
            self.save(final=True)
        if self.trackers is None:
            return {}
        self.trackers.close()
        seconds, tokens = self.state["seconds_training"], self.steps_done * self.settings.batch_tokens
        flops = self._flops() / tokens
        return {
            "initial_loss": self.state["initial_loss"],
            "expected_initial_loss": self.start.notes.get("expected_initial_loss"),
            "final_loss": self._recent_loss(),
            **self._validated[1],
            "steps": self.steps_done,
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "mfu": flops * tokens / seconds / self.peak_flops_per_second,
            "peak_flops_per_second": self.peak_flops_per_second,
            "ranks": self.team.ranks,
            "flops_per_token": flops,
            "flops_convention": "6 N + 6 L H Q T (causal attention), T = sequence_length, mean over phases"
            + (", and a third of it for the teacher" if self.teacher else ""),
            "distilled": self.teacher
            and {"parameters": self.teacher.model.config.parameters(), "divergence": self.state["last_divergence"]},
            "precision": self.arithmetic.choice.precision,
            "device": self.device,
            "compiled": self.arithmetic.choice.compiled,
            "speed": self.state["speed"],
            "parameters": self.model.config.parameters(),
            "seconds_training": seconds,
            "seconds_validating": self.state["seconds_validating"],
            "seconds_saving": self.state["seconds_saving"],
            "seconds_compiling": self.state["seconds_compiling"],
            "by_law": [law._asdict() for law in self.by_law],
            "averaged": self.settings.average and self.settings.average.model_dump(),
            "nonfinite_updates": self.state["nonfinite"],
            "loss_spikes": self.state["spikes"],
            "gradient_noise_scale_tokens": self.noise_scale.tokens,
            "best_validation": self.state["best"],
            "share_moved_in_bf16": self._share_moved(),
            "mixture": self.batches.plan(self.steps_done).to_json(),
            "copies": self.batches.copies,
            "packing": self.batches.packed(),
            "phases": phases_to_json(self.batches, self.steps_done),
            "forgetting": self.watch.to_json() if self.continues or self.settings.forgetting else None,
        }

    def save(self, final: bool = False) -> None:
        """Write a checkpoint from which the run can go on exactly, and remove old ones."""
        self._tick("training")
        weights: dict[str, Tensor] = dict(self.optimizers.parameters)
        tensors = {PREFIX + name: tensor for name, tensor in self.optimizers.tensors().items()}
        if final:  # the weights are read out already
            tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(f"/{AVERAGE}")}
        if final and self.team.sharded:
            weights = {name: self._gather(name, tensor) for name, tensor in weights.items()}
            tensors = {
                key: self._gather(key.removeprefix(PREFIX).rpartition("/")[0], tensor)
                for key, tensor in tensors.items()
            }
        tensors["random/torch"] = torch.get_rng_state()
        self.checkpoints.save(self.model.config, weights, self.start.notes, tensors, self.state, final)
        self._tick("saving")

    def _gather(self, name: str, tensor: Tensor) -> Tensor:
        """All of a tensor in the processor's memory of rank 0; an empty one on the others."""
        whole = self.team.whole(tensor.detach(), self.optimizers.parameters[name])
        return whole.cpu() if self.team.leads else torch.empty(0)

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
        spent = self.team.agree(self.seconds_spent)  # clocks of ranks differ
        if spent >= budget * (1 - schedule.decay_share):
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
            self._wrap()
            self._clock = time.perf_counter()

    def _flops_per_token(self, sequence_length: int) -> int:
        """Operations to train on one token of such a row; with a teacher, its forward pass too."""
        student = self.model.config.flops_per_token(sequence_length)
        return student + (self.teacher.flops_per_token(sequence_length) if self.teacher else 0)

    def _flops(self) -> float:
        """Operations of all steps so far."""
        return sum(
            self._flops_per_token(stretch.settings.sequence_length) * steps * self.settings.batch_tokens
            for stretch, steps in self.batches.done(self.steps_done)
        )

    def _gradient(self, batch: Batch) -> tuple[float, float]:
        """Forward and backward over the micro-batches of a batch: mean loss, and norm of the gradient."""
        loss, divergence = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        # the mean over ranks of what each adds up is the mean over all targets that count
        counted = self.batches.counted_targets(self.steps_done) / self.team.ranks
        parts = self._micro_batches(batch)
        measure = self.noise_scale.due(self.steps_done) and not self.team.sharded
        self.team.local_squares = torch.zeros_like(loss) if measure and self.team.ranks > 1 else None
        small = None
        for number, (tokens, targets, documents) in enumerate(parts, 1):
            share = (targets >= 0).sum() / counted
            if self.settings.dropout:  # what is left out is a function of the step, and so the same after a resume
                torch.manual_seed(hash((self.settings.seed, self.steps_done, number, self.team.rank)))
            with self.team.gradients(shared=number == len(parts)):
                losses: Losses = self.team.loss(tokens, targets, documents)
                (losses.objective * share).backward()
            loss += losses.token * share
            divergence += losses.teacher * share
            if measure and self.team.ranks == 1 and number == 1 < len(parts):
                small = squared_norm(list(self.optimizers.parameters.values())) / max(float(share), 1e-9) ** 2
        norm = self.team.clip(self.optimizers.parameters.values(), self.settings.clip_norm or math.inf)
        squares = float(self.team.local_squares or 0.0)
        loss_everywhere, apart, squares = self.team.sum(float(loss), float(divergence), squares)
        if self.teacher is not None:
            self.state["last_divergence"] = apart / self.team.ranks
        if self.team.local_squares is not None:
            small = squares / self.team.ranks
        if small is not None:
            pieces = len(parts) if self.team.ranks == 1 else self.team.ranks
            tokens_of_all = self.settings.batch_tokens
            self.noise_scale.add(small, tokens_of_all // pieces, norm**2, tokens_of_all)
        return loss_everywhere / self.team.ranks, norm

    def _losses(self, *micro_batch: Tensor) -> Losses:
        """Losses of a micro-batch: the model's own, or those with its teacher."""
        if self.teacher is not None:
            return self.teacher.losses(self.model, *micro_batch)
        objective, loss = self.model.losses(*micro_batch)
        return Losses(objective, loss, torch.zeros_like(loss))

    def _batch(self) -> Batch:
        """This rank's rows of the next batch."""
        return self.batches.batch(self.steps_done, self.team.rank, self.team.ranks)

    def _micro_batches(self, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        """This rank's rows of a batch, as parts of equal size."""
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
        rows = self.batches.rows(step - 1)
        record = keep_batch("nonfinite", step, loss, norm, rows, self.out.folder) if self.team.leads else None
        culprit = f"norm of the gradient is not finite ({norm:g}, at a loss of {loss:g})"
        if not math.isfinite(loss):
            culprit = f"loss is not finite ({loss:g})"
        what = f"step {step:,}: the {culprit} on rows of {sources_of(rows)}"
        if self.state["nonfinite"] <= self.settings.max_nonfinite:
            self.out.warn(f"{what}; update left out, rows in {record}")
            return
        self._stop_at_the_last_good(what, f"look at the documents in {record}, ")

    def _stop_at_the_last_good(self, what: str, hint: str = "") -> NoReturn:
        kept = self.checkpoints.drop_unproven(self.state["proven_step"]) if self.team.leads else None
        good = f"the last good checkpoint is {kept}; " if kept else ""
        raise TrainingError(what, place="train", hint=f"{good}{hint}lower the learning rate, or lengthen the warm-up")

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
        flops = self._flops_per_token(self.stretch.settings.sequence_length)
        values = {
            "loss": loss,
            "learning_rate": self.optimizers.learning_rate,
            "grad_norm": norm,
            "tokens_per_second": speed,
            "mfu": speed * flops / self.peak_flops_per_second,
            "seconds": self.state["seconds_training"],
        }
        if self.noise_scale.tokens is not None:
            values["noise_scale_tokens"] = self.noise_scale.tokens
        if self.teacher is not None:
            values["teacher_divergence"] = self.state["last_divergence"]
        self._track(values)

    def _track(self, values: Values) -> None:
        if self.trackers is not None:
            phase = {"phase": self.stretch.name} if self.settings.phases else {}
            self.trackers.log(self.steps_done, self.steps_done * self.settings.batch_tokens, values, phase)

    def _validate(self) -> bool:
        """Measure on held-out documents; says whether the loss is the lowest so far."""
        self._tick("training")
        self.model.set_dropout(0.0)
        with self.optimizers.averaged():
            values = self.validation(self.model, self.device)
        self.model.set_dropout(self.settings.dropout)
        self._track(values)
        total = values["validation_loss"].get("total")
        best = total is not None and (self.state["best"] is None or total < self.state["best"]["loss"])
        if best:
            self.state["best"] = {"step": self.steps_done, "loss": total}
        if total is not None:
            self.out.note(
                f"step {self.steps_done:,}: validation loss {total:.3f} nats per token, {values['validation_bits_per_byte']['total']:.3f} bits per byte"
            )
        self._validated = self.steps_done, values
        self.watch(self.steps_done, values["validation_loss"], self.out)
        if self.watch.stops:
            self.state["total_steps"] = self.steps_done
        self._tick("validating")
        return best

    def _share_moved(self) -> float:
        """Share of the weights that training moved as far as bf16 can tell; warns when most of it is lost there."""
        before = checkpoint.load_weights(self._first_weights)
        share = share_moved(before, checkpoint.load_weights(self.out.folder / "checkpoint"))
        if share < STUCK_SHARE:
            self.out.warn(
                f"only {share:.0%} of the weights differ from those at the start when written in bf16: the learning "
                "rate is too small for bf16 weights; export in fp32, train longer, or raise it"
            )
        return share

    def _recent_loss(self) -> float:
        """Mean training loss of the last tenth of the steps, at most 50."""
        losses = [line["loss"] for line in read_metrics(self.out.folder / "metrics.jsonl") if "loss" in line]
        last = losses[-max(min(len(losses) // 10, 50), 1) :]
        return sum(last) / len(last)

    def _introduce(self) -> None:
        settings = self.settings
        parameters = format_count(self.model.config.parameters())
        steps = f", {settings.planned_steps:,} steps" if settings.planned_steps else ""
        rows = f"{settings.batch_sequences} x {settings.sequence_length} tokens per step"
        if self.team.ranks > 1:
            rows += f" on {self.team.ranks} ranks" + (", weights spread over them" if self.team.sharded else "")
        self.out.note(f"{parameters} parameters, {rows}{steps}")
        said: dict[str, None] = {}
        for stretch, batches in zip(self.batches.stretches, self.batches.phases, strict=True):
            if stretch.phase:
                self.out.note(f"phase '{stretch.name}': {introduction(stretch)}")
            fits = batches.fits.items() if stretch.settings.packing.use == "best_fit" else ()
            said |= {f"packing of '{name}': {fit}": None for name, fit in fits}
        for line in said:  # phases whose rows are the same say the same
            self.out.note(line)
        for law in self.by_law:
            self.out.note(f"train.{law}")
        for warning in self.batches.warnings:
            self.out.warn(warning)

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.optimizers.restore(_moments(tensors))
        torch.set_rng_state(tensors["random/torch"])
        spent = format_seconds(self.seconds_spent)
        self.out.note(f"resumed after step {self.steps_done:,} ({spent} of training)")


def _moments(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's part of the tensors of a checkpoint."""
    return {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items() if key.startswith(PREFIX)}

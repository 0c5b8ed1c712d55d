"""Settings of the stage `train`. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from headwater.core.config import Config
from headwater.core.units import Count, Seconds, Tokens
from headwater.model.config import Trained
from headwater.tokens.mixture import Mixture
from headwater.tokens.packing import Concatenate, Packing
from headwater.training.forgetting import Forgetting
from headwater.training.phases import Phase, borders, problems
from headwater.training.regimes import Regime, fill_train
from headwater.training.schedule import Schedule, WarmupStableDecay

Rate = Annotated[float, Field(gt=0)] | Literal["auto"]
"""A learning rate, or `auto` for one by a published law."""
Decay = Annotated[float, Field(ge=0)] | Literal["auto"]
"""A weight decay, or `auto` for one by a published law."""


class _Lawful(Config):
    """Settings of which some may be left to a law."""

    @property
    def laws(self) -> tuple[str, ...]:
        """Those that are `auto`, a weight decay behind the rate that it goes by."""
        return tuple(sorted(name for name in type(self).model_fields if getattr(self, name) == "auto"))


class AdamW(_Lawful):
    """AdamW for all weights. Source: Loshchilov and Hutter 2017 (arXiv:1711.05101)."""

    use: Literal["adamw"]
    """`adamw`: one moving average of the gradient, one of its square."""
    learning_rate: Rate = 1e-3
    """Peak rate, or `auto`: by the Step Law (arXiv:2503.04715), from the model's size and the tokens to train on.
    Source: 1e-3 was better than 3e-3 at 4M parameters on books; see docs/lab-notes.md."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Memory of the gradient."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Memory of its square. Source: GPT-3 (arXiv:2005.14165, appendix B)."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the square."""
    weight_decay: Decay = 0.1
    """Decoupled decay of matrices and embeddings, times the learning rate; norms do not decay. `auto`: so that it forgets
    over a fixed share of the run (arXiv:2405.13698)."""
    decay_embeddings: bool = True
    """Embeddings, and a head that is tied to them, decay too. Production runs such as OLMo 3 spare them."""
    cautious_decay: bool = False
    """A weight decays only where that goes the way of its update. Source: Chen et al. 2025 (arXiv:2510.12402)."""


class Muon(_Lawful):
    """Muon for the matrices of the blocks, AdamW for embeddings, head and norms.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); update size 0.2 sqrt(max(rows, columns)) from Liu et
    al. 2025 (Moonlight, arXiv:2502.16982), with which AdamW's habits for rate and decay carry over.
    """

    use: Literal["muon"]
    """`muon`: momentum, made orthogonal by a Newton-Schulz iteration."""
    learning_rate: Rate = 6e-3
    """Peak rate of the matrices, or `auto`, as of AdamW."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Memory of the gradient, with a look ahead (Nesterov)."""
    newton_schulz_steps: int = Field(default=5, ge=1, le=10)
    """Steps of the iteration; each costs three matrix products per matrix."""
    equilibrate_rows: bool = False
    """Bring the rows of the momentum to one length before the iteration. Source: MuonEq (arXiv:2603.28254), as nanochat has it."""
    variance_beta: float = Field(default=0.0, ge=0, lt=1)
    """Memory of the mean square of each row of the update, by whose root the row is divided (NorMuon); 0 does without.
    Source: Li et al. 2025 (arXiv:2510.05491), there 0.95; the size of the whole update stays what it was."""
    weight_decay: Decay = 0.1
    """Decoupled decay of the matrices, times the learning rate. `auto` as of AdamW."""
    cautious_decay: bool = False
    """A weight decays only where that goes the way of its update. Source: Chen et al. 2025 (arXiv:2510.12402)."""
    adamw_learning_rate: Rate = 2e-3
    """Peak rate of embeddings, head and norms, or `auto`: 0.008 (768 / hidden_size)^0.5, nanochat's for its head. Higher ones
    than the default are better where embeddings are tied; see docs/lab-notes.md."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's memory of the gradient."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """AdamW's memory of its square."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's addition to the root of the square."""


class Average(Config):
    """Read the model out as partly its last weights, partly their moving average: the noise of the last steps cancels.

    What is validated and what the run ends with is this mixture; training itself and checkpoints on the way go by the
    weights as they are. Source: modded-nanogpt, optimizer track, record 45 (2026), its share and memory.
    """

    memory_steps: Count = Field(default=150, ge=2)
    """Steps that the moving average remembers, about."""
    share: float = Field(default=0.6, gt=0, le=1)
    """Share of the average in what is read out."""


INITIAL_LOSS_TOLERANCE = 0.1
"""Largest difference [nats per token] between the first loss and the expected one that passes without a warning."""

Optimizer = Annotated[AdamW | Muon, Field(discriminator="use")]
"""How gradients change weights."""


class Speed(Config):
    """How the arithmetic of training is done. What is `auto` is chosen by a race of some seconds at the start.

    The winner is kept in the store for the next run of the same model on the same machine, and in each checkpoint, so
    that a resumed run computes as before. The loss is compared with that of plain fp32 arithmetic.
    """

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the arithmetic; weights and optimizer stay fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Translate a block to machine code first. `auto` goes on without it, with a warning, where that fails."""
    attention: Literal["auto", "blocks", "library"] = "auto"
    """`blocks`: tile by tile, only keys of the same document; `library`: torch's scaled_dot_product_attention."""
    activations: Literal["keep", "recompute"] = "keep"
    """`recompute` keeps only the input of each block for the backward pass: much less memory, a third more arithmetic.
    Source: Chen et al. 2016 (arXiv:1604.06174)."""


def _auto(value: object) -> object:
    return {} if value == "auto" else value


class Distill(Config):
    """Learn from a trained model too: what a shrunk model comes from teaches it. Source: Hinton et al. 2015 (arXiv:1503.02531)."""

    source: Trained
    """The teacher: a model with the same vocabulary. Each step takes its forward pass as well."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """Its share of the loss; the rest is that of the tokens that came. Source: equal shares, our choice; Minitron
    (arXiv:2407.14679, section 4) heals shrunk models with the teacher alone."""
    temperature: float = Field(default=1.0, gt=0)
    """Probabilities are compared at this temperature: above 1 unlikely tokens count more."""

    @model_validator(mode="after")
    def _same_tokens(self) -> Self:
        if self.source.vocabulary is not None:
            raise ValueError("a teacher is taken as it is; leave vocabulary out")
        return self


def _batch_may_be_left_out(schema: dict[str, Any]) -> None:
    schema["required"].remove("batch_tokens")  # with a regime a law gives it


class Train(Config):
    """How the weights are trained. Set exactly one of `steps`, `total_tokens` and `budget`, or `total_tokens` of each phase."""

    model_config = ConfigDict(json_schema_extra=_batch_may_be_left_out)

    regime: Regime | None = None
    """What the run is for: `speed`, the lowest loss per second with plenty of text; `data_limited`, a text that is seen many
    times; `production`, as published models of 1B and more are trained. Fills the settings that are left out, and those of new
    weights in `initialize`; `headwater check` shows each with its evidence. By default every setting has its own default."""
    sequence_length: int = Field(ge=2)
    """Tokens of a training row; at most the model's context_length."""
    batch_tokens: Tokens = Field(ge=2)
    """Tokens of one step, a multiple of `sequence_length`. `auto`, the default with a regime: by the Step Law
    (arXiv:2503.04715) from the tokens to train on, the nearest power of two of rows."""
    steps: Count | None = Field(default=None, ge=1)
    """Optimizer updates in all."""
    total_tokens: Tokens | None = Field(default=None, ge=1)
    """Tokens to train on in all, rounded up to whole steps."""
    budget: Seconds | None = Field(default=None, gt=0)
    """Time to train for: steps, validation and checkpoints, but not compilation. Needs the schedule `wsd`, whose decay
    begins when the time left is its share. How many steps that makes depends on the machine; training ends earlier,
    with a warning, where it would see a source more often than the mixture allows."""
    micro_batch_sequences: int = Field(default=0, ge=0)
    """Rows of one forward and backward pass, a divisor of those of a batch; 0 chooses among sizes of 1,024 to 8,192 tokens (`speed`)."""
    optimizer: Optimizer = Muon(use="muon")
    """How gradients change weights."""
    schedule: Schedule = WarmupStableDecay(use="wsd")
    """How the learning rate goes over the run."""
    clip_norm: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient of all weights together; 0 does not clip."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the mean square of the logarithm of softmax's denominator, added to what is trained on: keeps logits from
    drifting. Losses are reported without it. Source: PaLM (arXiv:2204.02311), 1e-4; OLMo (arXiv:2402.00838), 1e-5."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the numbers that embeddings and each part of a block add to the residual stream that is left out at random
    while training. Source: Srivastava et al. 2014; for text that is seen many times, none for text seen once."""
    average: Average | None = None
    """Read out an average over the last steps. None by default: the last weights are the result."""
    speed: Annotated[Speed, BeforeValidator(_auto)] = Speed()
    """How the arithmetic is done; `auto` measures everything at the start."""
    distill: Distill | None = None
    """A trained model to learn from, beside the text."""
    mixture: Mixture = Mixture()
    """What share of the training tokens comes from each source."""
    packing: Packing = Concatenate(use="concatenate")
    """How documents become rows. Attention never crosses the border of two documents, whichever way."""
    phases: tuple[Phase, ...] = ()
    """Parts of the run in order, such as a main part, a long context and an annealing on the best text, each with what
    is different in it. None by default: all steps are alike."""
    forgetting: Forgetting | None = None
    """What to do when the validation loss of a source rises above what it was before training."""
    seed: int = 0
    """Which order of the documents."""
    log_every: Count = Field(default=1, ge=1)
    """Steps between two lines of metrics.jsonl."""
    validate_every: Count = Field(default=100, ge=0)
    """Steps between two measurements of the validation loss; 0 measures at the end only."""
    validation_tokens: Tokens = Field(default=32_768, ge=2)
    """Held-out tokens of each source for the validation loss."""
    checkpoint_every: Count = Field(default=0, ge=0)
    """Steps between two checkpoints; 0 goes by `checkpoint_interval` only."""
    checkpoint_interval: Seconds = Field(default=30.0, ge=0)
    """Time between two checkpoints, which is what a kill can cost; 0 goes by `checkpoint_every` only. Saving a model of
    4M parameters takes well under a second; a larger interval suits much larger models."""
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints kept, older ones are removed. The newest is kept beside them until a step from it has shown that its
    weights give a finite loss."""
    keep_every: Count = Field(default=0, ge=0)
    """Steps between two checkpoints that are written and kept for good; 0 keeps none for good."""
    keep_best: bool = False
    """Write a checkpoint whenever the validation loss is the lowest so far, and keep it until a better one comes."""
    max_nonfinite: int = Field(default=0, ge=0)
    """Updates that may be left out because the loss or its gradient is not finite; one more stops the run."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        return fill_train(values)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given = [name for name in ("steps", "total_tokens", "budget") if getattr(self, name) is not None]
        given += ["total_tokens of phases"] if any(phase.total_tokens is not None for phase in self.phases) else []
        if len(given) != 1:
            raise ValueError(f"set exactly one of steps, total_tokens and budget; got {' and '.join(given) or 'none'}")
        if self.batch_tokens % self.sequence_length:
            near = max(round(self.batch_tokens / self.sequence_length), 1) * self.sequence_length
            raise ValueError(
                f"batch_tokens {self.batch_tokens:,} is not a multiple of sequence_length {self.sequence_length:,}; "
                f"{near:,} would be"
            )
        if self.micro_batch_sequences and self.batch_sequences % self.micro_batch_sequences:
            raise ValueError(
                f"a batch of {self.batch_sequences} sequences does not divide by micro_batch_sequences "
                f"{self.micro_batch_sequences}"
            )
        if self.budget is not None and not isinstance(self.schedule, WarmupStableDecay):
            raise ValueError(f"a budget needs the schedule wsd; {self.schedule.use} must know its end from the start")
        if self.budget is not None and isinstance(self.schedule, WarmupStableDecay) and self.schedule.decay_share > 0.9:
            raise ValueError(
                f"with a budget, decay_share must leave time to learn how fast steps are: 0.9 at most, "
                f"not {self.schedule.decay_share:g}"
            )
        names = " and ".join(name for name in self.optimizer.laws if name != "adamw_learning_rate")
        if names and self.budget is not None:
            raise ValueError(
                f"{names} of the optimizer cannot be auto with a budget: laws go by the tokens to train on"
            )
        if self.average and self.keep_best:
            raise ValueError(
                "keep_best would keep the weights that training goes on from, not the average that was measured; leave "
                "out average or keep_best"
            )
        if self.z_loss and self.distill:
            raise ValueError("z_loss has no effect beside a teacher; leave out z_loss or distill")
        if self.phases and (found := problems(self)):
            raise ValueError("; ".join(found))
        return self

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, Any] | None:
        """The content of the teacher's files, where there is one.

        Raises:
            InputError: they are missing.
        """
        return {"teacher": self.distill.source.fingerprint(hash_file)} if self.distill else None

    @property
    def batch_sequences(self) -> int:
        """Rows of a batch."""
        return self.batch_tokens // self.sequence_length

    @property
    def planned_steps(self) -> int | None:
        """Optimizer updates in all; None when a budget decides on the way."""
        if self.phases and self.phases[0].total_tokens is not None:
            return borders(self.phases, self.batch_tokens, None)[-1]
        return self.steps if self.total_tokens is None else -(-self.total_tokens // self.batch_tokens)

    @property
    def planned_tokens(self) -> int | None:
        """Tokens to train on in all; None when a budget decides on the way."""
        return None if self.planned_steps is None else self.planned_steps * self.batch_tokens

    @property
    def micro_batch(self) -> int:
        """Rows of one forward and backward pass with which the race of `speed` begins: as many as make 4,096 tokens.

        Source: a prototype on one core: 1,024, 2,048 and 4,096 tokens were within 8 %; see docs/lab-notes.md.
        """
        most = self.micro_batch_sequences or max(4096 // self.sequence_length, 1)
        return max(
            rows for rows in range(1, self.batch_sequences + 1) if rows <= most and not self.batch_sequences % rows
        )

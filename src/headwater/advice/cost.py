"""What a training run takes: FLOPs, GPU-hours, days, money, energy; each as low, likely and high, with its reasons.

Formulas, sources and what is not counted: docs/concepts/cost.md. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from headwater.advice import architecture as shapes
from headwater.advice import memory
from headwater.advice.architecture import ALL, Architecture, Trainable
from headwater.advice.market import Accelerator, Market, Precision, Range, market
from headwater.advice.utilization import Software, Utilization, expected
from headwater.core.errors import InputError, MismatchError
from headwater.core.units import format_count
from headwater.model import laws
from headwater.model.memory import Sharding

HOUR, DAY = 3600.0, 24.0
CHECKPOINT_BYTES = 12
"""Bytes of a parameter in a checkpoint: weights and two moments in fp32; Headwater's, and that of most others."""
KEPT_CHECKPOINTS = Range(3, 10, 50)
"""Checkpoints on disk. Our choice."""
TEXT_BYTES_PER_TOKEN = 4.0
"""Of the text itself; English. Token shards take 2 or 4 more."""


@dataclass(frozen=True)
class Job:
    """A run to price.

    Attributes:
        model: its shape; None where only its number of parameters is known.
        tokens: to train on.
        gpu: name in the market.
        gpus: how many; None for the fewest on which it fits.
        parameters: where there is no shape.
        sequence_length: tokens of a row; None for the model's context.
        precision: number format of the products.
        mfu: share of the peak over the whole run, where it is known; else the published runs tell.
        mfu_source: who says so.
        mfu_factor: by how much it may be wrong, either way.
        goodput: share of the time that makes progress; None for the market's, and 1 where `mfu` is of the whole run.
        recompute: whether activations are computed again; None where memory decides.
        software: how the model is computed.
        usd_per_hour: price of a GPU's hour; None for the market's.
        watts: power of a GPU; None for the market's.
        pue: energy of the data centre over that of its computers; None for the market's.
        grid: name of a grid, or grams of CO2 equivalent for a kWh.
        unique_tokens: how many of the tokens are different; None where none repeats.
        trainable: which parts learn.
        sharding: how it is spread; None for the simplest that fits.
        tensor_parallel: GPUs that share each matrix, with `sharding`.
        micro_batch: rows of one pass.
        activation_bytes: of all blocks for a token, where they were measured.
        fits_anyhow: do not refuse a model that fits nowhere.
        market: hardware and prices.
    """

    tokens: float
    model: Architecture | None = None
    gpu: str = "h100-80gb"
    gpus: int | None = None
    parameters: float = 0
    sequence_length: int | None = None
    precision: Precision = "bf16"
    mfu: float | None = None
    mfu_source: str = "as given, of the whole run"
    mfu_factor: float = 1.0
    goodput: float | None = None
    recompute: bool | None = None
    software: Software = "compiled"
    usd_per_hour: float | None = None
    watts: float | None = None
    pue: float | None = None
    grid: str = "world"
    unique_tokens: float | None = None
    trainable: Trainable = ALL
    sharding: Sharding | None = None
    tensor_parallel: int = 1
    micro_batch: int = 1
    activation_bytes: float | None = None
    fits_anyhow: bool = False
    market: Market = field(default_factory=market)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be.

        Raises:
            InputError: names the first.
        """
        above = {
            "--tokens": self.tokens, "--count": self.gpus, "--mfu": self.mfu, "--goodput": self.goodput,
            "--price": self.usd_per_hour, "--watts": self.watts, "--sequence-length": self.sequence_length,
            "--unique-tokens": self.unique_tokens, "--tensor-parallel": self.tensor_parallel,
            "--micro-batch": self.micro_batch,
        }  # fmt: skip
        for name, value in above.items():
            if value is not None and not value > 0:
                raise InputError(
                    f"must be above zero, not {value:g}", place=name, hint="leave it out, or give a number"
                )
        if self.model is None and not self.parameters > 0:
            hint = "--model llama-2-7b, or --parameters 7B"
            raise InputError("neither a model nor a number of parameters is given", place="--model", hint=hint)
        for name, value in (("--mfu", self.mfu), ("--goodput", self.goodput)):
            if value is not None and value > 1:
                hint = f"{value:g} % is {value / 100:g}" if value <= 100 else "give 0.4 or 40%"
                raise InputError(f"is a share of 1, not {value:g}", place=name, hint=hint)
        if self.watts is not None and self.watts < 1:
            hint = "watts, as 700; kW are a thousand of them"
            raise InputError(f"{self.watts:g} W is no GPU", place="--watts", hint=hint)
        if self.pue is not None and not 1 <= self.pue <= 5:
            raise InputError(f"{self.pue:g} cannot be: it is 1 or more", place="--pue", hint="1.1 to 1.6 are usual")
        if self.unique_tokens is not None and self.unique_tokens > self.tokens:
            problem = f"{self.unique_tokens:g} are more than the {self.tokens:g} of --tokens"
            raise InputError(problem, place="--unique-tokens", hint="--tokens counts repetitions too")
        if self.gpus is not None and self.gpus % self.tensor_parallel:
            problem = f"{self.tensor_parallel} does not divide {self.gpus} GPUs"
            raise InputError(problem, place="--tensor-parallel", hint="take 2, 4 or 8")


@dataclass(frozen=True)
class Cost:
    """What a job takes."""

    job: Job

    # ----------------------------------------------------------------------------------------------- arithmetic

    @property
    def model(self) -> Architecture | None:
        """The shape, if known."""
        return self.job.model

    @cached_property
    def parameters(self) -> float:
        """Active parameters, embeddings included: N of 6 N D."""
        return self.model.active_parameters() if self.model else self.job.parameters

    @cached_property
    def sequence_length(self) -> int:
        """Tokens of a row."""
        if self.model is None:
            return self.job.sequence_length or 2048
        return shapes.tokens_of_context(self.model, self.job.sequence_length)

    @cached_property
    def flops_per_token(self) -> dict[str, float]:
        """FLOPs to train on a token by convention; without a shape there is only 6 N."""
        rule = 6.0 * self.parameters
        if self.model is None:
            return {"full": rule, "causal": rule, "6N": rule}
        count = self.model.flops_per_token
        return {
            "full": count(self.sequence_length, "full", self.job.trainable),
            "causal": count(self.sequence_length, "causal", self.job.trainable),
            "6N": rule,
        }

    @property
    def flops(self) -> float:
        """FLOPs of the run, attention in full."""
        return self.flops_per_token["full"] * self.job.tokens

    @cached_property
    def gpu(self) -> Accelerator:
        """The accelerator."""
        return self.job.market.accelerator(self.job.gpu)

    @cached_property
    def peak(self) -> float:
        """Its peak [FLOP/s]."""
        return self.gpu.flops_per_second(self.job.precision)

    # --------------------------------------------------------------------------------------------------- memory

    @cached_property
    def ways(self) -> tuple[memory.Choice, ...]:
        """Ways to spread the model over the GPUs, and which fit; none without a shape."""
        if self.model is None:
            return ()
        return memory.choices(
            self.model, self.gpu, self.gpus, self.sequence_length, self._base, self.job.activation_bytes
        )

    @property
    def _base(self) -> memory.Layout:
        """What every way has in common."""
        assert self.model is not None
        learned = self.model.trained_parameters(self.job.trainable) / self.model.parameters()
        return memory.Layout(1, micro_batch=self.job.micro_batch, eager=self.job.software == "eager", learned=learned)

    @cached_property
    def way(self) -> memory.Choice | None:
        """The way that is taken: as asked, else the simplest that fits.

        Raises:
            MismatchError: none fits; names the smallest machine that would do.
        """
        if self.model is None:
            return None
        asked = [way for way in self.ways if self._asked(way.layout)]
        if found := memory.preferred(tuple(asked)):
            return found
        if self.job.fits_anyhow:
            return min(asked, key=lambda way: way.memory.total, default=None)
        raise self._refuse(self.model, self.gpus)

    def _refuse(self, model: Architecture, gpus: int) -> MismatchError:
        job = self.job
        return memory.refuse(
            model, job.market, job.gpu, gpus, self.sequence_length, self._base, job.activation_bytes, self._asked
        )

    def _asked(self, layout: memory.Layout) -> bool:
        job = self.job
        if job.sharding is None and job.tensor_parallel == 1:
            return job.recompute is None or (layout.recompute == "everything") == job.recompute
        wanted = (job.sharding or layout.sharding, job.tensor_parallel)
        again = layout.recompute == "everything"
        return (layout.sharding, layout.tensor_parallel) == wanted and job.recompute in (None, again)

    @cached_property
    def gpus(self) -> int:
        """How many GPUs: as asked, else whole machines on which the model fits."""
        if self.job.gpus is not None or self.model is None:
            return self.job.gpus or self.gpu.per_node
        least = memory.smallest(
            self.model, self.gpu, self.sequence_length, base=self._base, measured=self.job.activation_bytes,
            asked=self._asked,
        )  # fmt: skip
        if least is None:
            raise self._refuse(self.model, 1)
        return least

    # ----------------------------------------------------------------------------------------------------- time

    @cached_property
    def utilization(self) -> Utilization:
        """The MFU and where it is from."""
        if self.job.mfu is not None:
            mfu, factor = self.job.mfu, self.job.mfu_factor
            best = max(min(mfu * factor, self.gpu.reached), mfu)
            return Utilization(Range(best, mfu, mfu / factor), self.job.mfu_source)
        again = self.job.recompute if self.job.recompute is not None else self._recomputes()
        return expected(
            self.gpu.like,
            self.parameters,
            self.sequence_length,
            self.gpus,
            self.job.precision,
            recompute=bool(again),
            software=self.job.software,
        )

    def _recomputes(self) -> bool:
        return self.way is not None and self.way.layout.recompute == "everything"

    @cached_property
    def goodput(self) -> Range:
        """Share of the time that makes progress; 1 where a given MFU is of the whole run already."""
        if self.job.goodput is not None:
            return Range(self.job.goodput, self.job.goodput, self.job.goodput)
        if self.job.mfu is not None:
            return Range(1.0, 1.0, 1.0)
        few = self.gpus <= self.job.market.goodput_gpus
        return self.job.market.goodput_small if few else self.job.market.goodput_large

    @cached_property
    def gpu_hours(self) -> Range:
        """GPU-hours of the final run that are paid."""
        ideal = self.flops / self.peak / HOUR
        return Range(*(ideal / m / g for m, g in zip(self.utilization.mfu, self.goodput, strict=True)))

    @property
    def lost_hours(self) -> Range:
        """Of them: restarts, work done again, checkpoints."""
        return Range(*(h * (1 - g) for h, g in zip(self.gpu_hours, self.goodput, strict=True)))

    @property
    def days(self) -> Range:
        """From the first step to the last."""
        return Range(*(hours / self.gpus / DAY for hours in self.gpu_hours))

    @property
    def tokens_per_second(self) -> Range:
        """Of all GPUs while they work."""
        rate = self.peak * self.gpus / self.flops_per_token["full"]
        return Range(*(rate * mfu for mfu in self.utilization.mfu))

    # ----------------------------------------------------------------------------------------- money and carbon

    @property
    def price(self) -> Range:
        """USD of a GPU's hour."""
        given = self.job.usd_per_hour
        return Range(given, given, given) if given is not None else self.gpu.usd_per_hour

    @property
    def usd(self) -> Range:
        """Price of the final run."""
        return Range(*(h * p for h, p in zip(self.gpu_hours, self.price, strict=True)))

    @property
    def kwh(self) -> Range:
        """Energy of the final run: GPU-hours x kW x PUE."""
        watts = self.job.watts if self.job.watts is not None else self.gpu.watts
        pue = self.job.market.pue if self.job.pue is None else Range(self.job.pue, self.job.pue, self.job.pue)
        return Range(*(h * watts / 1000 * p for h, p in zip(self.gpu_hours, pue, strict=True)))

    @property
    def co2_tonnes(self) -> Range:
        """Carbon of the final run [t CO2e]."""
        return Range(*(kwh * self.job.market.grid(self.job.grid) / 1e6 for kwh in self.kwh))

    @property
    def evaluation_usd(self) -> Range:
        """Price of evaluating checkpoints."""
        return Range(*(u * s for u, s in zip(self.usd, self.job.market.evaluation_share, strict=True)))

    @property
    def storage_bytes(self) -> Range:
        """Text, token shards and checkpoints on disk."""
        count = self.model.parameters() if self.model else self.parameters
        vocabulary = self.model.vocab_size if self.model else 1 << 16
        shard = 2 if vocabulary <= 1 << 16 else 4
        data = (self.job.unique_tokens or self.job.tokens) * (TEXT_BYTES_PER_TOKEN + shard)
        return Range(*(data + kept * CHECKPOINT_BYTES * count for kept in KEPT_CHECKPOINTS))

    @property
    def storage_usd(self) -> Range:
        """Price of keeping them for the time of the run and a month more."""
        monthly = self.job.market.storage_usd_per_tb_month
        months = [days / 30 + 1 for days in self.days]
        return Range(*(b / 1e12 * p * m for b, p, m in zip(self.storage_bytes, monthly, months, strict=True)))

    @property
    def project_usd(self) -> Range:
        """Price of everything: what is tried before and beside the final run included."""
        factors = self.job.market.development
        rest = zip(self.usd, self.evaluation_usd, self.storage_usd, factors, strict=True)
        return Range(*((u + e) * d + s for u, e, s, d in rest))

    # ----------------------------------------------------------------------------------------------------- laws

    @property
    def laws(self) -> list[dict[str, Any]]:
        """What each scaling law says of this many tokens for this model."""
        count, tokens = self.parameters, self.job.tokens
        rows = []
        for law in laws.LOSS_LAWS.values():
            best = law.optimal_tokens(count)
            rows.append(
                {"law": law.name, "tokens": best, "ratio": tokens / best, "loss": law.loss(count, tokens), "source": law.source}
            )  # fmt: skip
        blocks = self.model.block_parameters() if self.model else count
        bound = laws.kaplan_tokens(blocks)
        rows.append(
            {"law": "Kaplan et al. 2020, least data", "tokens": bound, "ratio": tokens / bound,
             "loss": laws.kaplan_loss(blocks, tokens), "source": "arXiv:2001.08361; parameters without embeddings"}
        )  # fmt: skip
        return rows

    @property
    def epochs(self) -> float:
        """How often each token is seen."""
        return self.job.tokens / (self.job.unique_tokens or self.job.tokens)

    @property
    def worth_tokens(self) -> float:
        """Fresh tokens that the seen ones are worth (Muennighoff et al. 2023)."""
        unique = self.job.unique_tokens or self.job.tokens
        return unique * laws.DATA_CONSTRAINED.worth(self.epochs)

    @property
    def hyperparameters(self) -> tuple[laws.Advice, ...]:
        """Batch, rate and warm-up by law; none without a shape."""
        if self.model is None:
            return ()
        shape = self.model.num_layers, self.model.hidden_size, self.sequence_length
        flops = laws.deepseek_flops_per_token(*shape) * self.job.tokens
        return laws.hyperparameters(self.model.block_parameters(), self.job.tokens, flops)

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        ranges = {
            "mfu": self.utilization.mfu, "goodput": self.goodput, "gpu_hours": self.gpu_hours, "days": self.days,
            "lost_gpu_hours": self.lost_hours, "tokens_per_second": self.tokens_per_second, "usd": self.usd,
            "usd_per_gpu_hour": self.price, "kwh": self.kwh, "co2_tonnes": self.co2_tonnes,
            "evaluation_usd": self.evaluation_usd, "storage_bytes": self.storage_bytes,
            "storage_usd": self.storage_usd, "project_usd": self.project_usd,
        }  # fmt: skip
        ways = [
            {"layout": str(way.layout), "bytes": vars(way.memory), "total_bytes": way.memory.total, "fits": way.fits}
            for way in self.ways
        ]
        return {
            "parameters": self.model.parameters() if self.model else self.parameters,
            "active_parameters": self.parameters,
            "tokens": self.job.tokens,
            "sequence_length": self.sequence_length,
            "gpu": self.job.gpu,
            "gpus": self.gpus,
            "flops_per_token": self.flops_per_token,
            "flops": self.flops,
            "peak_flops_per_second": self.peak,
            "mfu_source": self.utilization.source,
            **{name: value._asdict() for name, value in ranges.items()},
            "memory": ways,
            "layout": str(self.way.layout) if self.way else None,
            "laws": self.laws,
            "epochs": self.epochs,
            "worth_tokens": self.worth_tokens,
            "hyperparameters": [advice._asdict() for advice in self.hyperparameters],
            "prices_of": self.job.market.date,
        }

    def name(self) -> str:
        """Model, tokens and machine in a few words."""
        size = format_count(self.model.parameters() if self.model else self.parameters)
        return f"{size} parameters on {format_count(self.job.tokens)} tokens, {self.gpus:,} x {self.job.gpu}"

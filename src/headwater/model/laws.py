"""Published laws of training: how good a model becomes, how many tokens it wants, which batch and rate. No torch here.

Every law says which parameters and tokens it counts; read that before two of them are compared. Constants are as their
sources print them, and where a printed rounding changes the answer both are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class LossLaw(NamedTuple):
    """Loss [nats per token] of N parameters after D tokens: E + A / N^a + B / D^b. Tokens and text are those of its source.

    >>> besiroglu = LOSS_LAWS["besiroglu"]
    >>> round(besiroglu.optimal_ratio(5.76e23), 1), round(besiroglu.loss(7e9, 2e12), 3)
    (18.4, 2.065)
    """

    name: str
    source: str
    E: float
    A: float
    B: float
    a: float
    b: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Predicted loss [nats per token]."""
        return self.E + self.A / parameters**self.a + self.B / tokens**self.b

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of least loss for so much compute, with C = 6 N D.

        Source: Hoffmann et al. 2022, equation 4: N = G (C/6)^(b/(a+b)) with G = (a A / b B)^(1/(a+b)).
        """
        G = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b))
        parameters = G * (flops / 6) ** (self.b / (self.a + self.b))
        return parameters, flops / 6 / parameters

    def optimal_ratio(self, flops: float) -> float:
        """Tokens per parameter of least loss for so much compute."""
        parameters, tokens = self.optimum(flops)
        return tokens / parameters

    def optimal_tokens(self, parameters: float) -> float:
        """Tokens with which so many parameters are the best use of their compute 6 N D.

        From equation 4: N^a / D^b = (a A) / (b B).
        """
        return (parameters**self.a * self.b * self.B / (self.a * self.A)) ** (1 / self.b)

    def tokens_for(self, loss: float, parameters: float) -> float:
        """Tokens that so many parameters need for a loss; infinite where they cannot reach it."""
        left = loss - self.E - self.A / parameters**self.a
        return (self.B / left) ** (1 / self.b) if left > 0 else math.inf


LOSS_LAWS = {
    "besiroglu": LossLaw(
        "Besiroglu et al. 2024", "arXiv:2404.10102, a new fit to Hoffmann's points; our default",
        1.8172, 482.01, 2085.43, 0.3478, 0.3658,
    ),
    "hoffmann": LossLaw(
        "Hoffmann et al. 2022, not rounded", "arXiv:2203.15556, the constants of the paper's TeX source",
        math.exp(0.5267228), math.exp(6.0073404), math.exp(6.0179186), 0.33917084, 0.2849083,
    ),
    "hoffmann_printed": LossLaw(
        "Hoffmann et al. 2022, as printed", "arXiv:2203.15556, approach 3; rounded, which moves its optimum",
        1.69, 406.4, 410.7, 0.34, 0.28,
    ),
}  # fmt: skip
"""Parameters with embeddings, tokens of MassiveText with a vocabulary of 32,000."""


def kaplan_loss(parameters: float, tokens: float) -> float:
    """Loss [nats per token] after Kaplan et al. 2020 (arXiv:2001.08361, equation 1.5); parameters without embeddings.

    >>> round(kaplan_loss(1.5e9, 22e9), 2)
    2.37
    """
    return ((8.8e13 / parameters) ** (0.076 / 0.095) + 5.4e13 / tokens) ** 0.095


def kaplan_tokens(parameters: float) -> float:
    """Tokens that keep so many parameters (without embeddings) from overfitting: D >= 5e3 N^0.74.

    Source: Kaplan et al. 2020, equation 4.4. The optimum of its compute law trains far shorter than Hoffmann's: counting
    FLOPs of the head, warm-up and tuning explain most of the gap (Porian et al. 2024, arXiv:2406.19146).
    """
    return 5e3 * parameters**0.74


TOKENS_PER_PARAMETER = 20
"""Rule of thumb. Source: Hoffmann et al. 2022 (arXiv:2203.15556), table A9 and its approach 2."""


def llama3_tokens(flops: float) -> float:
    """Tokens of least loss after Llama 3: 0.29 C^0.5378.

    Source: arXiv:2407.21783, section 3.2.1. It prints (0.53, 0.29), which gives 10.5T at 3.8e25 FLOPs and not the 16.55T
    of its text; the exponent of its text is 0.5378. It is a law of tokens; parameters are C / 6 D.
    """
    return 0.29 * flops**0.5378


# ------------------------------------------------------------------------------------------------ data seen again


class DataConstrained(NamedTuple):
    """Muennighoff et al. 2023: what tokens are worth that a model sees again.

    Source: arXiv:2305.16264 and its code (huggingface/datablations): a, b, e and the exponents, R_D* and R_N*.

    >>> round(DATA_CONSTRAINED.loss(6.34e9, 242e9, 25e9), 12)
    2.225644088998
    >>> [round(DATA_CONSTRAINED.worth(epochs), 2) for epochs in (1, 2, 4, 16, 44)]
    [1.0, 1.97, 3.73, 10.58, 15.45]
    """

    a: float
    b: float
    e: float
    alpha: float
    beta: float
    repeats: float
    """R_D*: repetitions after which the worth of one more has fallen to 1/e."""
    excess: float
    """R_N*: the same of parameters beyond those that unique tokens can use."""

    def worth(self, epochs: float) -> float:
        """How many times its unique tokens data is worth that is seen `epochs` times."""
        again = max(epochs - 1, 0.0)
        return min(epochs, 1.0) + self.repeats * (1 - math.exp(-again / self.repeats))

    def loss(self, parameters: float, tokens: float, unique_tokens: float) -> float:
        """Loss [nats per token of its data] of a model that sees `tokens`, of which `unique_tokens` are different."""
        unique = min(tokens, unique_tokens)
        G = (self.alpha * math.exp(self.a) / (self.beta * math.exp(self.b))) ** (1 / (self.alpha + self.beta))
        usable = min((unique * G) ** (self.beta / self.alpha) * G, parameters)
        more = max(parameters / usable - 1, 0.0)
        worth_of_parameters = usable * (1 + self.excess * (1 - math.exp(-more / self.excess)))
        worth_of_tokens = unique * self.worth(tokens / unique)
        return (
            math.exp(self.e)
            + math.exp(self.a) / worth_of_parameters**self.alpha
            + math.exp(self.b) / worth_of_tokens**self.beta
        )


DATA_CONSTRAINED = DataConstrained(6.255414, 7.3049974, 0.6254804, 0.3526596, 0.3526596, 15.387756, 5.309743)
GOOD_EPOCHS = 4
"""Up to so many passes over the text are about as good as fresh text. Source: Muennighoff et al. 2023, section 6."""


# ------------------------------------------------------------------------------------------ batch, rate, warm-up


class Advice(NamedTuple):
    """A hyper-parameter that a law gives."""

    setting: str
    value: float
    law: str
    link: str


def step_law_rate(parameters: float, tokens: float) -> float:
    """Peak rate of AdamW: 1.79 N^-0.713 D^0.307, N without the vocabulary.

    Source: Li et al. 2025, Step Law (arXiv:2503.04715); it was fitted on 60M to 1B parameters.

    >>> f"{step_law_rate(7e9, 1.4e12):.2e}"
    '9.17e-04'
    """
    return 1.79 * parameters**-0.713 * tokens**0.307


def step_law_batch(tokens: float) -> float:
    """Tokens of a batch: 0.58 D^0.571. Source: Li et al. 2025, Step Law (arXiv:2503.04715)."""
    return 0.58 * tokens**0.571


def deepseek_rate(flops: float) -> float:
    """Peak rate of AdamW: 0.3118 C^-0.1250. Source: DeepSeek LLM (arXiv:2401.02954), equation 1; C = M D."""
    return 0.3118 * flops**-0.1250


def deepseek_batch(flops: float) -> float:
    """Tokens of a batch: 0.2920 C^0.3271. Source: DeepSeek LLM (arXiv:2401.02954), equation 1; C = M D."""
    return 0.2920 * flops**0.3271


def deepseek_flops_per_token(num_layers: int, hidden_size: int, sequence_length: int) -> float:
    """M: FLOPs of a token without the vocabulary, attention in full. Source: DeepSeek LLM, equation 2."""
    return 72.0 * num_layers * hidden_size**2 + 12.0 * num_layers * hidden_size * sequence_length


def power_lines_batch(tokens: float, reference_batch: float = 2**19, reference_tokens: float = 5e9) -> float:
    """Tokens of a batch, from one that is known to be good at another number of tokens: it grows as D^0.383.

    Source: Bergsma et al. 2025, Power Lines (arXiv:2505.13738), the exponent; the reference is nanochat's 2^19 tokens for
    about 5B (depth 12 to 16), which its author confirmed up to 1M for depth 26.
    """
    return reference_batch * (tokens / reference_tokens) ** 0.383


def weight_decay_for(timescale: float, batch_tokens: float, rate: float, tokens: float) -> float:
    """Weight decay with which AdamW's average reaches over a share `timescale` of the run: tau = B / (rate x decay x D).

    Source: Wang and Aitchison 2024 (arXiv:2405.13698), and Power Lines (arXiv:2505.13738).
    """
    return batch_tokens / (rate * timescale * tokens)


WARMUP_SHARE, MOST_WARMUP_STEPS = 0.01, 2000
"""Warm-up: share of all steps, and the most of them. Source: 2,000 steps in Llama 2 (arXiv:2307.09288, section 2.2) and
DeepSeek LLM (arXiv:2401.02954, section 2.3), 0.4 to 1 % of theirs; Gupta et al. 2023 (arXiv:2308.04014) find the length
uncritical from 0.5 to 2 %."""


def warmup_steps(tokens: float, batch_tokens: float) -> int:
    """Steps of warm-up: WARMUP_SHARE of the run, at least 10 and at most MOST_WARMUP_STEPS."""
    return min(max(round(WARMUP_SHARE * tokens / batch_tokens), 10), MOST_WARMUP_STEPS)


def hyperparameters(parameters: float, tokens: float, flops: float) -> tuple[Advice, ...]:
    """Batch, rate and warm-up for a run, each by its law.

    Args:
        parameters: those of the blocks, without vocabulary.
        tokens: to train on.
        flops: in all, counted as DeepSeek counts: of the blocks, attention in full.
    """
    batch = step_law_batch(tokens)
    return (
        Advice("batch_tokens", batch, "Step Law: 0.58 D^0.571", "arXiv:2503.04715"),
        Advice("batch_tokens", deepseek_batch(flops), "DeepSeek LLM: 0.2920 C^0.3271", "arXiv:2401.02954"),
        Advice("batch_tokens", power_lines_batch(tokens), "Power Lines: D^0.383 from 2^19 at 5B", "arXiv:2505.13738"),
        Advice("learning_rate (AdamW)", step_law_rate(parameters, tokens), "Step Law: 1.79 N^-0.713 D^0.307", "arXiv:2503.04715"),
        Advice("learning_rate (AdamW)", deepseek_rate(flops), "DeepSeek LLM: 0.3118 C^-0.1250", "arXiv:2401.02954"),
        Advice("warmup_steps", warmup_steps(tokens, batch), "1 % of the steps, at most 2,000", "arXiv:2307.09288"),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- serving, growing


def least_compute_for(
    law: LossLaw, loss: float, served_tokens: float, lowest: float = 1e6, highest: float = 1e13
) -> tuple[float, float]:
    """Parameters and training tokens of least compute, training and serving, for a loss: min 6 N D + 2 N D_served.

    Source: Sardana et al. 2023 (arXiv:2401.00448), equation 3, solved by golden-section search over log N.

    Raises:
        ValueError: no model within the bounds reaches the loss.
    """

    def compute(log_parameters: float) -> float:
        parameters = math.exp(log_parameters)
        tokens = law.tokens_for(loss, parameters)
        return 6 * parameters * tokens + 2 * parameters * served_tokens

    floor = (law.A / (loss - law.E)) ** (1 / law.a) if loss > law.E else math.inf
    if floor >= highest:
        raise ValueError(f"no model of up to {highest:g} parameters reaches a loss of {loss:g} by {law.name}")
    parameters = math.exp(_golden(compute, math.log(max(floor * 1.0001, lowest)), math.log(highest)))
    return parameters, law.tokens_for(loss, parameters)


def growth_tokens(parameters: float, flops: float) -> float:
    """Tokens to train the small model on before stacking it: log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74.

    Args:
        parameters: of the model that it grows to.
        flops: of that model's training in all.

    Source: Du et al. 2024, G_stack (arXiv:2405.15319), equation 4, for growth to 4 times the layers.

    >>> round(growth_tokens(7e9, 6 * 7e9 * 2e12) / 1e9, 1)
    11.1
    """
    return 10 ** (0.88 * math.log10(parameters) + 163.27 / math.log10(flops) - 5.74)


def _golden(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is least."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-9:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if function(a) < function(b) else (a, high)
    return (low + high) / 2

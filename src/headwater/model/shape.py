"""The shape of a model, and what follows from it by arithmetic: parameters, FLOPs, the loss of random weights. No torch.

Four families of transformers are one model with a few switches: positions, norm, feed-forward, biases, QK-norm. A
combination that no family has is refused, so that whatever is trained here can be exported and computed elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from headwater.core.config import Config
from headwater.core.units import format_bytes, format_count
from headwater.model.tricks import Tricks

Family = Literal["llama", "qwen3", "arcee", "gpt2"]
FAMILIES: dict[Family, dict[str, tuple[Any, ...]]] = {
    "llama": {"positions": ("rotary",), "norm": ("rms",), "ffn": ("swiglu",), "qk_norm": (False,)},
    "qwen3": {
        "positions": ("rotary",),
        "norm": ("rms",),
        "ffn": ("swiglu",),
        "qk_norm": (True,),
        "bias": (False,),
    },
    "arcee": {"positions": ("rotary",), "norm": ("rms",), "ffn": ("relu2",), "qk_norm": (False,)},
    "gpt2": {
        "positions": ("learned",),
        "norm": ("layer",),
        "ffn": ("gelu",),
        "qk_norm": (False,),
        "bias": (True,),
    },
}
"""What each family can be; a switch that is not named is free. Source: the modelling code of transformers 5."""
Residual = Literal["scaled", "zero", "plain"]


def _ffn_size(known: dict[str, Any]) -> int:
    if known["ffn"] == "swiglu":
        return math.ceil(known["hidden_size"] * 8 / 3 / 64) * 64
    return 4 * known["hidden_size"]


class ModelKind(Config):
    """What a model is apart from its size: the switches, the context, how it begins."""

    positions: Literal["rotary", "learned"] = "rotary"
    """How it knows the order of tokens: `rotary`, queries and keys turned by their position (Su et al. 2021,
    arXiv:2104.09864), or `learned`, a vector for each position added to the token's, as in GPT-2."""
    norm: Literal["rms", "layer"] = "rms"
    """Before each part: `rms`, scaled to root mean square 1 (Zhang and Sennrich 2019, arXiv:1910.07467), or `layer`, to
    mean 0 and variance 1, with a bias (Ba et al. 2016, arXiv:1607.06450)."""
    ffn: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    """The feed-forward layer: `swiglu`, gated, three matrices (Shazeer 2020, arXiv:2002.05202); `gelu`, two matrices
    (Hendrycks and Gimpel 2016, arXiv:1606.08415, its tanh form); `relu2`, two matrices and the square of the positive
    part (So et al. 2021, arXiv:2109.08668)."""
    bias: bool = False
    """Biases in the blocks' matrix products."""
    qk_norm: bool = False
    """RMSNorm on queries and keys, as in Qwen3. Source: Henry et al. 2020 (arXiv:2010.04245)."""
    tie_embeddings: bool = True
    """Use the embedding matrix as the output head too. Saves vocab_size x hidden_size parameters."""
    context_length: int = Field(default=1024, ge=2)
    """The most tokens that the model attends to."""
    rope_theta: float = Field(default=10_000.0, gt=1)
    """Base of the rotary position embedding; without effect on learned positions. Source: Su et al. 2021
    (arXiv:2104.09864)."""
    norm_epsilon: float = Field(default_factory=lambda known: 1e-5 if known["norm"] == "layer" else 1e-6, gt=0)
    """Added to the mean square in a norm. Default: 1e-6, 1e-5 with `norm: layer`. Source: the defaults of LlamaConfig,
    Qwen3Config and GPT2Config."""
    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of random weights. Source: GPT-2; the default of LlamaConfig."""
    mup_base_size: int | None = Field(default=None, ge=1)
    """The hidden_size at which the learning rate was chosen; for any other, weights and rates are scaled so that the same
    rate stays the best one (muP). Without it nothing is scaled. Keep head_size what it was.
    Source: Yang et al. 2022 (arXiv:2203.03466), table 8, the multiplier of the output kept as the weight of the last norm."""
    tricks: Tricks = Tricks()
    """What helps it to learn, and is folded into plain weights at export."""

    @model_validator(mode="after")
    def _some_family_has_it(self) -> Self:
        _ = self.family
        return self

    @model_validator(mode="after")
    def _tricks_fold(self) -> Self:
        if self.tricks.embedding_norm and self.tie_embeddings:
            raise ValueError("tricks.embedding_norm needs tie_embeddings: false, or it could not be folded at export")
        if self.tricks.qk_gain != 1 and not self.qk_norm:
            raise ValueError("tricks.qk_gain needs qk_norm: true; tricks.attention_multiplier works without")
        return self

    @property
    def family(self) -> Family:
        """The family of transformers that computes this model.

        Raises:
            ValueError: there is none.
        """
        for family, switches in FAMILIES.items():
            if all(getattr(self, name) in choices for name, choices in switches.items()):
                return family
        chosen = ", ".join(f"{name} {getattr(self, name)}" for name in ("positions", "norm", "ffn", "bias", "qk_norm"))
        known = "; ".join(
            f"{family}: {', '.join(f'{name} {choices[0]}' for name, choices in switches.items())}"
            for family, switches in FAMILIES.items()
        )
        raise ValueError(
            f"no family of models has {chosen}; there are {known}".replace("True", "true").replace("False", "false")
        )


class ModelShape(ModelKind):
    """The shape of a model, all but its vocabulary."""

    hidden_size: int = Field(ge=2)
    """Width of the residual stream."""
    num_layers: int = Field(ge=1)
    """Transformer blocks."""
    num_heads: int = Field(ge=1)
    """Query heads."""
    num_kv_heads: int = Field(default_factory=lambda known: known["num_heads"], ge=1)
    """Key and value heads; fewer than `num_heads` is grouped-query attention. Default: `num_heads`."""
    head_size: int = Field(default_factory=lambda known: known["hidden_size"] // known["num_heads"], ge=2)
    """Width of a head. Default: hidden_size / num_heads."""
    ffn_size: int = Field(default_factory=_ffn_size, ge=1)
    """Width inside the feed-forward layer. Default: 4 x hidden_size, and with swiglu 8/3 of hidden_size, rounded up to a
    multiple of 64. Source: Shazeer 2020 (arXiv:2002.05202): two thirds of it keep the size with a gated layer."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if "head_size" not in self.model_fields_set and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_heads} heads; set head_size as well"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(f"head_size {self.head_size} is odd; rotary positions turn pairs of numbers")
        if self.family == "gpt2" and (self.num_kv_heads, self.head_size * self.num_heads) != (
            self.num_heads,
            self.hidden_size,
        ):
            raise ValueError(
                f"GPT-2 has as many kv heads as heads, and num_heads x head_size is hidden_size; got {self.num_kv_heads} "
                f"of {self.num_heads} heads, and {self.num_heads} x {self.head_size} for {self.hidden_size}"
            )
        return self


class ModelConfig(ModelShape):
    """The whole shape of a model, and the arithmetic that follows from it.

    >>> config = ModelConfig(vocab_size=32_000, hidden_size=1024, num_layers=12, num_heads=32, num_kv_heads=8,
    ...                      ffn_size=4096, tie_embeddings=False)
    >>> config.parameters()
    248013824
    """

    vocab_size: int = Field(ge=1)
    """Rows of the embedding matrix."""
    padding_rows: int = Field(default=0, ge=0)
    """Rows at the end of it that stand for no token. They are no part of any softmax, and are not exported."""

    @model_validator(mode="after")
    def _tokens_remain(self) -> Self:
        if self.padding_rows >= self.vocab_size:
            raise ValueError(f"padding_rows {self.padding_rows} leaves no tokens of vocab_size {self.vocab_size}")
        return self

    @property
    def token_types(self) -> int:
        """Tokens that the model can predict: rows that are not padding."""
        return self.vocab_size - self.padding_rows

    @property
    def width_ratio(self) -> float:
        """How many times wider the model is than that for which the learning rate was chosen; 1 without muP."""
        return self.hidden_size / self.mup_base_size if self.mup_base_size else 1.0

    @property
    def query_scale(self) -> float:
        """What queries are multiplied by, apart from 1 / sqrt(head_size)."""
        return self.tricks.qk_gain**2 * self.tricks.attention_multiplier

    @property
    def logit_scale(self) -> float:
        """What logits are multiplied by; muP's multiplier is here where the last norm has no weight to hold it."""
        return self.tricks.logit_multiplier / (1.0 if self.tricks.norm_weights else self.width_ratio)

    def parameters(self) -> int:
        """Exact number of parameters; a tied head counts once."""
        hidden, heads, kv_heads, layers = self.hidden_size, self.num_heads, self.num_kv_heads, self.num_layers
        norm = hidden * (2 if self.norm == "layer" else 1) * self.tricks.norm_weights
        vectors = 2 * norm + 2 * self.qk_norm * self.head_size * self.tricks.norm_weights
        vectors += self.tricks.residual_scales is not None  # one number for each layer
        if self.bias:
            ffn = self.ffn_size * (2 if self.ffn == "swiglu" else 1)
            vectors += (heads + 2 * kv_heads) * self.head_size + hidden + ffn + hidden
        embeddings = self.vocab_size * hidden * (1 if self.tie_embeddings else 2)
        if self.positions == "learned":
            embeddings += self.context_length * hidden
        return embeddings + layers * (self.block_matrix_parameters() + vectors) + norm

    def block_matrix_parameters(self) -> int:
        """Parameters of the matrices of one block: attention and feed-forward."""
        attention = 2 * self.hidden_size * self.head_size * (self.num_heads + self.num_kv_heads)
        return attention + (3 if self.ffn == "swiglu" else 2) * self.hidden_size * self.ffn_size

    def flops_per_token(self, sequence_length: int, attention: Literal["causal", "full"] = "causal") -> int:
        """Floating-point operations to train on one token: forward and backward.

        Args:
            sequence_length: tokens of a training row.
            attention: `causal` counts the half of the attention matrix that is used; `full` counts all of it, the
                convention of PaLM, by which most published MFU figures go.

        Source: 6 N + 12 L H Q T with N the weights of all matrix products, head included (tied or not), embedding
        look-up not (Chowdhery et al. 2022, arXiv:2204.02311, appendix B); causal attention is half of the second term.
        """
        matrices = self.num_layers * self.block_matrix_parameters() + self.vocab_size * self.hidden_size
        width = self.num_heads * self.head_size
        factor = 12 if attention == "full" else 6
        return 6 * matrices + factor * self.num_layers * width * sequence_length

    def describe(self) -> str:
        """What the model is, in a sentence."""
        padding = f" ({self.padding_rows:,} rows of padding)" if self.padding_rows else ""
        tricks = f", with {', '.join(self.tricks.told())}" if self.tricks else ""
        return (
            f"{self.family} of {self.parameters():,} parameters: {self.num_layers} layers of {self.hidden_size:,}, "
            f"{self.num_heads} heads, {self.vocab_size:,} rows of vocabulary{padding}{tricks}; "
            f"{format_count(self.flops_per_token(self.context_length))} FLOPs per token at {self.context_length:,} tokens of "
            f"context, {format_bytes(self.training_bytes())} to train before activations"
        )

    def training_bytes(self) -> int:
        """Memory of weights, gradients and the two AdamW moments in fp32 [bytes]; activations come on top."""
        return 16 * self.parameters()

    def expected_initial_loss(self, residual: Residual = "scaled") -> float:
        """Loss before training [nats per token] of random weights.

        The logits of random weights are normal with variance s^2 = hidden_size x std^2, because the last norm gives
        vectors of length sqrt(hidden_size); so the mean loss is ln vocab_size + s^2 / 2. With a tied head one logit is
        different: that of the input token itself, which the residual stream still points to. It is
        sqrt(hidden_size) x s x (share of the embedding in the stream), negligible when the vocabulary is large and the
        model small. With muP the last norm divides all logits by the width ratio.

        Source: facts of the log-normal; the tied term is ours, checked against measured models in the tests.
        """
        size = self.init_std * self.tricks.logit_multiplier / self.width_ratio
        variance = self.hidden_size * size**2
        others = math.log(self.token_types) + variance / 2
        if not self.tie_embeddings:
            return others
        own = self.hidden_size * size * self._embedding_share(residual)
        return max(others, own) + math.log1p(math.exp(-abs(others - own)))

    def _embedding_share(self, residual: Residual) -> float:
        """Length of the token's embedding relative to the residual stream before the last norm, at random weights."""
        positions = self.init_std**2 if self.positions == "learned" else 0.0
        std = self.init_std / math.sqrt(self.width_ratio)
        inside = self.hidden_size * std**2
        # the mean square of the activation for g, u normal of small variance v:
        activated = {
            # E[(silu(g) u)^2]: silu(g) = g/2 + g^2/4, so v/4 + 3 v^2 / 16, times v
            "swiglu": inside * (inside / 4 + 3 * inside**2 / 16),
            # E[gelu(g)^2]: gelu(g) = g/2 + g^2 / sqrt(2 pi), so v/4 + 3 v^2 / 2 pi
            "gelu": inside / 4 + 3 * inside**2 / (2 * math.pi),
            # E[relu(g)^4]: half of 3 v^2
            "relu2": 1.5 * inside**2,
        }[self.ffn]
        share = {"scaled": 1 / math.sqrt(2 * self.num_layers), "zero": 0.0, "plain": 1.0}[residual]
        share *= self.tricks.residual_multiplier
        layers = sum(1 / scale**2 for scale in self._residual_scales())
        added = layers * self.ffn_size * activated * (std * share) ** 2
        embedding = self.init_std * self.tricks.embedding_multiplier
        return embedding / math.sqrt(embedding**2 + positions + added)

    def _residual_scales(self) -> Iterator[float]:
        """The size of the residual stream in each layer, at the beginning, by the scales of all layers so far."""
        first, last = self.tricks.residual_scales or (1.0, 1.0)
        size = 1.0
        for layer in range(self.num_layers):
            size *= first + (last - first) * layer / max(self.num_layers - 1, 1)
            yield size

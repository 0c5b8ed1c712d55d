"""Any published transformer as arithmetic: parameters, active ones, FLOPs, activations, keys and values. No torch here.

What Headwater trains itself is a `ModelConfig`; `of` turns one into this. Beside that there are the shapes which others
train: experts, latent attention, windows, learned positions, biases here and there. models.yaml has the published ones, and
`read_config` reads a config.json of transformers.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from headwater.core.config import Config, load, nearest
from headwater.core.errors import InputError
from headwater.core.units import format_count
from headwater.model.presets import PRESETS
from headwater.model.shape import ModelConfig

Convention = Literal["full", "causal"]
BiasPlace = Literal["qkv", "out", "ffn", "head"]


class Trainable(NamedTuple):
    """Which parts learn; what lies below the lowest of them needs no backward pass."""

    layers: tuple[int, ...] | None = None
    """Numbers of blocks, from 0; None for all."""
    embedding: bool = True
    head: bool = True


ALL = Trainable()


class Architecture(Config):
    """A transformer that predicts the next token.

    >>> named("llama-2-7b").parameters(), named("deepseek-v3").parameters(), named("deepseek-v3").active_parameters()
    (6738415616, 671026419200, 37552297472)
    """

    hidden_size: int = Field(ge=1)
    """Width of the residual stream."""
    num_layers: int = Field(ge=1)
    """Blocks."""
    num_heads: int = Field(ge=1)
    """Query heads."""
    num_kv_heads: int = Field(default_factory=lambda known: known["num_heads"], ge=1)
    """Key and value heads."""
    head_size: int = Field(default_factory=lambda known: known["hidden_size"] // known["num_heads"], ge=1)
    """Width of a query and of a key."""
    value_size: int = Field(default_factory=lambda known: known["head_size"], ge=1)
    """Width of a value."""
    ffn_size: int = Field(ge=1)
    """Width inside a dense feed-forward layer."""
    gated: bool = True
    """Three matrices of the feed-forward layer instead of two."""
    vocab_size: int = Field(ge=1)
    """Rows of the embedding."""
    tie_embeddings: bool = False
    """The head is the embedding."""
    context_length: int = Field(default=2048, ge=1)
    """Tokens of a training row where nothing else is said."""
    norm: Literal["rms", "layer", "none"] = "rms"
    """`layer` has a bias, `none` no parameters (OLMo 1)."""
    norms: int = Field(default=2, ge=0)
    """Norms of a block: 1 where attention and feed-forward stand side by side, 4 around both (Gemma 2)."""
    embedding_norm: bool = False
    """A norm after the embedding (BLOOM)."""
    qk_norm: Literal["none", "head", "width"] = "none"
    """Weights of the norms of queries and keys: of a head (Qwen3), or of all heads together (OLMo 2)."""
    bias: tuple[BiasPlace, ...] = ()
    """Where matrices have one."""
    learned_positions: int = Field(default=0, ge=0)
    """Rows of a matrix of positions."""
    query_rank: int = Field(default=0, ge=0)
    """Latent attention: width of compressed queries; 0 for none."""
    kv_rank: int = Field(default=0, ge=0)
    """Latent attention: width of compressed keys and values."""
    rope_size: int = Field(default=0, ge=0)
    """Latent attention: part of head_size that positions turn, of which one key serves all heads."""
    window: int = Field(default=0, ge=0)
    """Tokens that a block with a sliding window attends to."""
    global_every: int = Field(default=0, ge=0)
    """Every so many blocks one attends to everything; 0: none does where there is a window."""
    experts: int = Field(default=0, ge=0)
    """Experts of a block; 0 for a dense feed-forward layer."""
    experts_per_token: int = Field(default=0, ge=0)
    """Experts that a token passes."""
    expert_size: int = Field(default=0, ge=0)
    """Width inside an expert."""
    shared_size: int = Field(default=0, ge=0)
    """Width inside the experts that every token passes, together."""
    shared_gate: bool = False
    """A gate on the shared experts (Qwen2-MoE)."""
    dense_layers: int = Field(default=0, ge=0)
    """Blocks at the start that are dense."""
    expert_every: int = Field(default=1, ge=1)
    """Every so many blocks one has experts (Llama 4 Maverick: 2)."""
    router_bias: bool = False
    """A number for each expert beside its router (DeepSeek-V3)."""
    extra_parameters: int = 0
    """Parameters that none of the above says."""
    source: str = ""
    """Where the numbers are from."""

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in type(self).model_fields))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.experts and not (self.experts_per_token and self.expert_size):
            raise ValueError("experts need experts_per_token and expert_size")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self

    # ------------------------------------------------------------------------------------------------- parameters

    @property
    def attention_width(self) -> int:
        """Width of all queries."""
        return self.num_heads * self.head_size

    def attention_matrices(self) -> int:
        """Parameters of the matrices of attention, in a block."""
        hidden, out = self.hidden_size, self.num_heads * self.value_size * self.hidden_size
        if not self.kv_rank:
            return hidden * (self.attention_width + self.num_kv_heads * (self.head_size + self.value_size)) + out
        queries = (hidden + self.attention_width) * self.query_rank or hidden * self.attention_width
        wide = self.num_heads * (self.head_size - self.rope_size + self.value_size)
        return queries + hidden * (self.kv_rank + self.rope_size) + self.kv_rank * wide + out

    def ffn_matrices(self, width: int) -> int:
        """Parameters of a feed-forward layer of this width inside."""
        return (3 if self.gated else 2) * self.hidden_size * width

    def has_experts(self, layer: int) -> bool:
        """Whether a block has experts."""
        return bool(self.experts) and layer >= self.dense_layers and (layer + 1) % self.expert_every == 0

    def block_matrices(self, layer: int, active: bool) -> int:
        """Parameters of the matrices of a block; `active`: only of the experts that a token passes."""
        if not self.has_experts(layer):
            return self.attention_matrices() + self.ffn_matrices(self.ffn_size)
        chosen = self.experts_per_token if active else self.experts
        router = self.hidden_size * (self.experts + self.shared_gate)
        inside = chosen * self.ffn_matrices(self.expert_size) + self.ffn_matrices(self.shared_size)
        return self.attention_matrices() + router + inside

    def block_vectors(self, layer: int) -> int:
        """Parameters of the norms and biases of a block."""
        count = self.norms * self._norm(self.hidden_size)
        count += self.query_rank + self.kv_rank  # norms of the compressed
        width, kv = self.attention_width, self.num_kv_heads * self.head_size
        count += {"none": 0, "head": 2 * self.head_size, "width": width + kv}[self.qk_norm]
        count += (width + kv + self.num_kv_heads * self.value_size) * ("qkv" in self.bias)
        count += self.hidden_size * ("out" in self.bias)
        if self.has_experts(layer):
            ffn = self.experts * (self.expert_size * (1 + self.gated) + self.hidden_size)
            return count + ffn * ("ffn" in self.bias) + self.experts * self.router_bias
        return count + (self.ffn_size * (1 + self.gated) + self.hidden_size) * ("ffn" in self.bias)

    def _norm(self, width: int) -> int:
        return {"rms": 1, "layer": 2, "none": 0}[self.norm] * width

    def _outside(self) -> int:
        """Parameters outside of the blocks."""
        count = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        count += self.learned_positions * self.hidden_size + self._norm(self.hidden_size) * (1 + self.embedding_norm)
        return count + self.vocab_size * ("head" in self.bias) + self.extra_parameters

    def parameters(self) -> int:
        """Exact number of parameters; a tied head counts once."""
        return self._outside() + sum(
            self.block_matrices(layer, active=False) + self.block_vectors(layer) for layer in range(self.num_layers)
        )

    def active_parameters(self) -> int:
        """Parameters that a token passes: of the experts only those that are chosen."""
        unused = (
            self.block_matrices(layer, active=False) - self.block_matrices(layer, active=True)
            for layer in range(self.num_layers)
        )
        return self.parameters() - sum(unused)

    def trained_parameters(self, trainable: Trainable) -> int:
        """Parameters that learn: each has a gradient and moments."""
        if trainable == ALL:
            return self.parameters()
        vocabulary = self.vocab_size * self.hidden_size
        tables = trainable.embedding or trainable.head if self.tie_embeddings else trainable.embedding + trainable.head
        layers = range(self.num_layers) if trainable.layers is None else trainable.layers
        return tables * vocabulary + sum(self.block_matrices(n, active=False) + self.block_vectors(n) for n in layers)

    def block_parameters(self) -> int:
        """Active parameters of the matrices of all blocks: without vocabulary, norms and positions."""
        return sum(self.block_matrices(layer, active=True) for layer in range(self.num_layers))

    def matrix_parameters(self) -> int:
        """Active parameters of all matrix products, the head included, tied or not: N of 6 N."""
        return self.block_parameters() + self.vocab_size * self.hidden_size

    # ------------------------------------------------------------------------------------------------------ FLOPs

    def attended(self, layer: int, sequence_length: int, convention: Convention) -> float:
        """Keys that a query of a block meets, on average."""
        everything = not self.window or (self.global_every and (layer + 1) % self.global_every == 0)
        most = sequence_length if everything else min(self.window, sequence_length)
        if convention == "full":
            return float(most)
        # queries up to the window meet 1, 2, ... keys, the others a whole window: about w - w^2 / 2T
        return most - most**2 / (2 * sequence_length)

    def flops_per_token(
        self, sequence_length: int, convention: Convention = "full", trainable: Trainable = ALL
    ) -> float:
        """Floating-point operations to train on one token, forward and backward.

        With all weights trained it is 6 N + 12 L H Q T, N being `matrix_parameters`: forward 2, gradient of what goes
        in 2, gradient of weights 2 per parameter; attention three times 4 H Q T. Frozen weights need no gradient, and
        below the lowest trained part nothing goes backward at all.

        Args:
            sequence_length: tokens of a training row.
            convention: `full` counts the whole square of attention (PaLM, most published MFU), `causal` the half
                that is used (llm.c, Headwater's own counts).
            trainable: which parts learn.

        Source: Chowdhery et al. 2022 (arXiv:2204.02311), appendix B; equal to torch's FlopCounterMode on Llama.
        """
        learn = range(self.num_layers) if trainable.layers is None else trainable.layers
        lowest = -1 if trainable.embedding else min(learn, default=self.num_layers)
        head = 2.0 * self.vocab_size * self.hidden_size
        # the head's weights learn where it does, or where it is the embedding that does
        flops = head * (2 + (trainable.head or (self.tie_embeddings and trainable.embedding)))
        for layer in range(self.num_layers):
            matrices = 2.0 * self.block_matrices(layer, active=True)
            attended = self.attended(layer, sequence_length, convention)
            attention = 2.0 * self.num_heads * (self.head_size + self.value_size) * attended
            flops += matrices + attention
            if layer >= lowest:
                flops += matrices + 2 * attention  # gradient of what goes in
            if layer in learn:
                flops += matrices
        return flops

    # ----------------------------------------------------------------------------------------------------- memory

    def activation_numbers(self, layer: int) -> float:
        """Numbers that a block keeps for its backward pass, for each token, with flash attention and fused norms.

        Input and output of both norms, queries, keys, values, what attention gives, and inside the feed-forward layer
        what each product needs: 16 h for GPT-2, 34 bytes per token and hidden size with masks.
        Source: Korthikanti et al. 2022 (arXiv:2205.05198), section 4.1, without the scores of attention.
        """
        kv = self.num_kv_heads * (self.head_size + self.value_size)
        inside = self.ffn_size
        if self.has_experts(layer):
            # what the chosen experts read is gathered, so each has a copy of it
            inside = self.experts_per_token * self.expert_size + self.shared_size
            kv += self.experts_per_token * self.hidden_size
        attention = self.attention_width + self.num_heads * self.value_size + kv + self.query_rank + self.kv_rank
        return 4.0 * self.hidden_size + attention + (3 if self.gated else 2) * inside

    def eager_numbers(self) -> float:
        """More numbers of a block, for each token, where no kernels are fused, as in transformers without a compiler.

        Norms keep an fp32 copy and the normed input (6 h), and shared keys and values are copied for each query head.
        Source: measured on Llama blocks: 45.7 bytes per token and hidden size (32 heads), 53.2 (8 of 32, ffn 4 h).
        """
        copied = (self.num_heads - self.num_kv_heads) * (self.head_size + self.value_size)
        return 6.0 * self.hidden_size + copied

    def cache_numbers_per_token(self) -> int:
        """Keys and values of a token in all blocks; with latent attention what they are compressed to."""
        if self.kv_rank:
            return self.num_layers * (self.kv_rank + self.rope_size)
        return self.num_layers * self.num_kv_heads * (self.head_size + self.value_size)

    def describe(self) -> str:
        """The shape in a line."""
        heads = f"{self.num_heads} heads"
        if self.kv_rank:
            heads += f", latent of {self.kv_rank}"
        elif self.num_kv_heads < self.num_heads:
            heads += f" ({self.num_kv_heads} for keys and values)"
        experts = f", {self.experts_per_token} of {self.experts} experts" if self.experts else ""
        window = f", window of {self.window:,}" if self.window else ""
        tied = "tied" if self.tie_embeddings else "untied"
        return (
            f"{self.num_layers} layers of {self.hidden_size:,}, {heads}{experts}{window}, vocabulary of "
            f"{self.vocab_size:,} ({tied})"
        )


class Models(Config):
    """What models.yaml holds."""

    models: dict[str, Architecture]
    """Name -> shape."""


@cache
def published() -> dict[str, Architecture]:
    """Every model with a name: those of models.yaml, and the presets that Headwater trains."""
    known = dict(load(Models, Path(__file__).with_name("models.yaml")).models)
    spelled = {_letters(name) for name in known}
    return known | {name: of(preset.config()) for name, preset in PRESETS.items() if _letters(name) not in spelled}


def named(name: str) -> Architecture:
    """The model of this name, or that of a config.json of transformers.

    Raises:
        InputError: there is none; names the nearest.
    """
    if name.endswith(".json") or Path(name).is_dir():
        return read_config(Path(name))
    for known, architecture in published().items():
        if _letters(known) == _letters(name.rpartition("/")[2]):
            return architecture
    close = nearest(name.lower(), published())
    hint = "a name such as llama-2-7b ('headwater cost --models' lists all), or the path of a config.json"
    raise InputError(f"no model '{name}' is known{close}", place="--model", hint=hint)


def _letters(name: str) -> str:
    """A name without what people write differently: llama-2-7b, Llama2_7B."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def of(config: ModelConfig) -> Architecture:
    """What Headwater trains, as an architecture."""
    bias = ("qkv", "out", "ffn") if config.bias else ()
    return Architecture(
        hidden_size=config.hidden_size, num_layers=config.num_layers, num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads, head_size=config.head_size, ffn_size=config.ffn_size,
        gated=config.ffn == "swiglu", vocab_size=config.vocab_size, tie_embeddings=config.tie_embeddings,
        context_length=config.context_length, norm=config.norm, bias=bias,
        qk_norm="head" if config.qk_norm else "none",
        learned_positions=config.context_length if config.positions == "learned" else 0,
        source="a shape that Headwater trains",
    )  # fmt: skip


def read_config(path: Path) -> Architecture:
    """The architecture that a config.json of transformers describes.

    Raises:
        InputError: the file cannot be read, or it is of a kind of model that is not known here.
    """
    from headwater.advice.foreign_config import architecture_of

    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError("is not there", place=str(path), hint="give a config.json, or a folder with one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "give the config.json of a model of transformers"
        raise InputError(f"cannot be read ({error})", place=str(path), hint=hint) from None
    return architecture_of(values, str(path))


def parse_trainable(text: str, architecture: Architecture) -> Trainable:
    """Which parts learn, as people say it: all, embeddings, head, last:8, or every:4 for one block after every four.

    Raises:
        InputError: it is none of these.
    """
    layers = architecture.num_layers
    kind, _, number = text.partition(":")
    if kind in ("all", "embeddings", "head") and not number:
        return {"all": ALL, "embeddings": Trainable(()), "head": Trainable((), embedding=False)}[kind]
    count = int(number) if number.isdecimal() else 0
    if kind == "last" and 1 <= count <= layers:
        return Trainable(tuple(range(layers - count, layers)), embedding=False, head=False)
    if kind == "every" and 1 <= count <= layers:
        return Trainable(tuple(range(count - 1, layers, count)), embedding=False, head=False)
    hint = f"all, embeddings, head, last:N or every:N with N from 1 to {layers}"
    raise InputError(f"'{text}' names no part of the model", place="--trainable", hint=hint)


def summary(architecture: Architecture) -> str:
    """Parameters in words: all of them, and of experts those that a token passes."""
    count, active = architecture.parameters(), architecture.active_parameters()
    passes = f", of which a token passes {active:,} ({format_count(active)})" if active != count else ""
    return f"{count:,} ({format_count(count)}){passes}"


def tokens_of_context(architecture: Architecture, sequence_length: int | None) -> int:
    """Tokens of a row: as asked, else the context of the model."""
    return sequence_length or min(architecture.context_length, 1 << 20)

"""The dial: one or two of parameters, layers, width and compute are given, the whole shape follows. No torch here."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from headwater.core.units import Count, Flops, format_count
from headwater.model.laws import TOKENS_PER_PARAMETER
from headwater.model.shape import ModelConfig, ModelKind

ASPECT = 64
"""hidden_size / num_layers where neither is given. Source: nanochat (Karpathy 2025), width = 64 x depth; Kaplan et al. 2020
(arXiv:2001.08361, figure 5) find the loss flat, within a few percent, from some 10 to 200."""
WIDE = 2048
"""hidden_size from which heads are of 128 instead of 64. Source: Llama 2 and Qwen3 against GPT-2 and TinyLlama."""


class Derivation(NamedTuple):
    """One number that followed from others."""

    setting: str
    value: int
    why: str
    """By which formula, of whom."""

    def __str__(self) -> str:
        return f"{self.setting} {self.value:,}: {self.why}"


class Dial(ModelKind):
    """Give one or two of parameters, num_layers, hidden_size and budget; the rest is derived, and it is said how."""

    parameters: Count | None = Field(default=None, ge=1, examples=["15M"])
    """Parameters in all, embeddings included, with the tokenizer's vocabulary. Reached as nearly as whole heads allow."""
    num_layers: int | None = Field(default=None, ge=1)
    """Transformer blocks."""
    hidden_size: int | None = Field(default=None, ge=2)
    """Width of the residual stream."""
    budget: Flops | None = Field(default=None, gt=0)
    """Compute to train with [FLOPs]: a number, or a time at a speed, such as "2 h at 80 GFLOP/s". Without `parameters`
    the model is as large as this compute can train best; training tokens that use it up are derived."""
    head_size: int | None = Field(default=None, ge=2)
    """Width of a head. Default: 64, and 128 from a hidden_size of 2,048 on."""
    heads_per_kv_head: int = Field(default=1, ge=1)
    """Query heads that share keys and values."""

    @model_validator(mode="after")
    def _one_or_two(self) -> Self:
        names = ("parameters", "num_layers", "hidden_size", "budget")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) not in (1, 2):
            raise ValueError(f"give one or two of {', '.join(names)}; got {' and '.join(given) or 'none'}")
        step = self._step(self.hidden_size or 0)
        if self.hidden_size is not None and self.hidden_size % step:
            near = max(round(self.hidden_size / step), 1) * step
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of {step} (whole heads); {near} would be"
            )
        return self

    def derive(self, vocab_size: int) -> tuple[ModelConfig, tuple[Derivation, ...]]:
        """The shape for a vocabulary of so many rows, and how each number of it came about.

        Raises:
            ValueError: nothing fits: the vocabulary alone has more parameters than are asked for.
        """
        told: list[Derivation] = []
        parameters = self.parameters
        if parameters is None and self.budget and not (self.num_layers and self.hidden_size):
            parameters = round(math.sqrt(self.budget / (6 * TOKENS_PER_PARAMETER)))
            why = f"C = 6 N D with D = {TOKENS_PER_PARAMETER} N, for C = {self.budget:.3g} FLOPs (Hoffmann et al. 2022)"
            told.append(Derivation("parameters to aim at", parameters, why))
        width, layers = self._width(vocab_size, parameters, told), self.num_layers
        if layers is None:
            layers = self._layers(vocab_size, parameters, width, told)
        config = self._config(vocab_size, width, layers)
        told += self._told_of(config)
        return config, tuple(told)

    def _width(self, vocab_size: int, parameters: int | None, told: list[Derivation]) -> int:
        """hidden_size: as given, or the one that brings the model nearest to its parameters or its proportions."""
        if self.hidden_size is not None:
            return self.hidden_size
        if parameters is None:
            assert self.num_layers is not None
            width = self._whole(ASPECT * self.num_layers)
            told.append(Derivation("hidden_size", width, f"{ASPECT} x num_layers, in whole heads (nanochat)"))
            return width
        candidates: list[tuple[float, int]] = []
        width = 0
        while not candidates or candidates[-1][0] < 0:  # counts rise with the width: stop after the first one above
            width = self._whole(width + 1)
            layers = self.num_layers or max(round(width / ASPECT), 1)
            candidates.append((math.log(self._config(vocab_size, width, layers).parameters() / parameters), width))
        width = min(candidates, key=lambda candidate: abs(candidate[0]))[1]
        whose = f"{self.num_layers} layers" if self.num_layers else f"hidden_size / {ASPECT} layers (nanochat)"
        why = f"the whole heads with which {whose} come nearest to {parameters:,} parameters, by exact count"
        told.append(Derivation("hidden_size", width, why))
        return width

    def _layers(self, vocab_size: int, parameters: int | None, width: int, told: list[Derivation]) -> int:
        if parameters is None:
            layers, why = max(round(width / ASPECT), 1), f"hidden_size / {ASPECT} (nanochat)"
        else:
            one, two = (self._config(vocab_size, width, count).parameters() for count in (1, 2))
            outside = one - (two - one)
            if outside >= parameters:
                problem = f"{vocab_size:,} tokens x hidden_size {width:,} alone are {outside:,} parameters"
                raise ValueError(f"{problem}, more than {parameters:,}; take a smaller vocabulary or width")
            layers = max(round((parameters - outside) / (two - one)), 1)
            why = f"({parameters:,} - {outside:,} outside of blocks) / {two - one:,} of a block"
        told.append(Derivation("num_layers", layers, why))
        return layers

    def _told_of(self, config: ModelConfig) -> list[Derivation]:
        wide = f"at least {WIDE:,}" if config.hidden_size >= WIDE else f"below {WIDE:,}"
        heads = f"head_size {config.head_size}"
        if self.head_size is None:
            heads += f", for a hidden_size {wide} (as Llama 2 and GPT-2)"
        told = [Derivation("num_heads", config.num_heads, heads)]
        why = "8/3 x hidden_size, in 64s" if config.ffn == "swiglu" else "4 x hidden_size"
        told.append(Derivation("ffn_size", config.ffn_size, f"{why} (Shazeer 2020)"))
        count = config.parameters()
        asked = (
            f", {count / self.parameters - 1:+.1%} from the {self.parameters:,} asked for" if self.parameters else ""
        )
        told.append(Derivation("parameters", count, f"exact count{asked}"))
        if self.budget:
            flops = config.flops_per_token(config.context_length)
            tokens = max(int(self.budget / flops), 1)
            ratio = tokens / count
            why = f"{self.budget:.3g} FLOPs / {format_count(flops)} per token; {ratio:.3g} per parameter"
        else:
            tokens, why = TOKENS_PER_PARAMETER * count, f"{TOKENS_PER_PARAMETER} per parameter (Hoffmann et al. 2022)"
        return [*told, Derivation("training tokens", tokens, why)]

    def _config(self, vocab_size: int, width: int, layers: int) -> ModelConfig:
        head_size = self._head_size(width)
        kind = {name: getattr(self, name) for name in ModelKind.model_fields}
        shape: dict[str, Any] = {"hidden_size": width, "num_layers": layers, "num_heads": width // head_size}
        shape["num_kv_heads"] = shape["num_heads"] // self.heads_per_kv_head
        return ModelConfig(vocab_size=vocab_size, **kind, **shape)

    def _head_size(self, width: int) -> int:
        return self.head_size or (128 if width >= WIDE else 64)

    def _step(self, width: int) -> int:
        """What a width of about this much is a multiple of: whole heads, and whole groups of them."""
        return self._head_size(width) * self.heads_per_kv_head

    def _whole(self, width: int) -> int:
        """The next width, from this on, of whole groups of heads; heads may grow larger on the way."""
        while width % self._step(width):
            width += self._step(width) - width % self._step(width)
        return width

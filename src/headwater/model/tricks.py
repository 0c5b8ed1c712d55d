"""What helps a model to learn and is no part of any published architecture: its settings. No torch here.

Each of them can be written into plain weights without changing what the model computes, which `fold` does at export.
What cannot be folded (value embeddings, logit soft-caps, skip connections) is not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from headwater.core.config import Config

Scale = Annotated[float, Field(gt=0)]


class Tricks(Config):
    """Changes to a model that are folded into plain weights when it is exported; by default there are none.

    A norm of queries and keys behind the rotation instead of before it, another well-known one, needs no switch: a turn
    leaves lengths as they are, so with one gain for all dimensions both are the same.
    """

    norm_weights: bool = True
    """false: norms have nothing to learn, those of queries and keys included. Source: nanochat (Karpathy 2025)."""
    embedding_norm: bool = False
    """Scale each token's embedding to root mean square 1. Folding it needs `tie_embeddings: false`. Source: nanochat."""
    residual_scales: tuple[Scale, Scale] | None = Field(default=None, examples=[[1.15, 1.05]])
    """Multiply the residual stream before each layer by a learnt number, which begins at these values, from the first
    layer to the last. We divide what each layer adds by the product of the numbers so far instead: the same function,
    because norms do not see the size of the stream, but for norm_epsilon, which this makes exact to fold. Source: nanochat,
    which begins with 1.15 to 1.05."""
    qk_gain: float = Field(default=1.0, gt=0)
    """Multiply queries and keys by this after their norm, so that attention can be sharper; needs `qk_norm: true`.
    Source: nanochat, 1.2."""
    embedding_multiplier: float = Field(default=1.0, gt=0)
    """Multiplies the token's vector. Source of the multipliers: muP (Yang et al. 2022, arXiv:2203.03466), table 9; Granite's
    models have the same four."""
    residual_multiplier: float = Field(default=1.0, gt=0)
    """Multiplies what attention and feed-forward add."""
    attention_multiplier: float = Field(default=1.0, gt=0)
    """Multiplies the products of queries and keys, on top of 1 / sqrt(head_size)."""
    logit_multiplier: float = Field(default=1.0, gt=0)
    """Multiplies the logits."""

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self != Tricks()

    def told(self) -> Iterator[str]:
        """Those that there are, in words."""
        for name, value in self:
            if value != getattr(Tricks(), name):
                shown = f"{value[0]:g} to {value[1]:g}" if isinstance(value, tuple) else f"{value}".lower()
                yield f"{name} {shown}"

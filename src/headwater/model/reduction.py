"""How a shrunk model follows from its source: which layers go, and which neurons, heads and dimensions. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from headwater.core.config import Config
from headwater.core.errors import MismatchError
from headwater.model.growth import Sizes
from headwater.model.shape import ModelConfig

PLACE = "initialize.layers"


class DropMiddle(Config):
    """Leave layers out of the middle: lower ones read the text, upper ones write it.

    Which layers matter least differs between models, so `measured` is better where there is time to measure.

    Source: the course Pretraining LLMs, which drops the two in the middle of 12.
    """

    use: Literal["middle"]
    """`middle`: the ones in the middle go."""
    drop: int = Field(ge=1)
    """How many go."""

    def kept(self, count: int) -> list[int]:
        """The layers that stay, of so many.

        >>> DropMiddle(use="middle", drop=2).kept(12)
        [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
        """
        check_drop(self.drop, count)
        first = (count - self.drop) // 2
        return [number for number in range(count) if not first <= number < first + self.drop]


class DropListed(Config):
    """Leave out the layers that are named."""

    use: Literal["listed"]
    """`listed`: these go."""
    drop: tuple[int, ...] = Field(min_length=1)
    """Their numbers, counted from 0."""

    def kept(self, count: int) -> list[int]:
        """The layers that stay, of so many."""
        for number in self.drop:
            if not 0 <= number < count:
                problem = f"{number} is no layer of a source with {count}"
                raise MismatchError(problem, place=f"{PLACE}.drop", hint=f"0 to {count - 1}")
        check_drop(len(set(self.drop)), count)
        return [number for number in range(count) if number not in self.drop]


class DropMeasured(Config):
    """Leave out the layers that matter least: one after another, each time the one without which the loss is lowest.

    The loss is measured on the calibration text, anew after each layer that has gone.

    Source: Sieberling et al. 2024, EvoPress (arXiv:2410.14649), for why layers must be judged together and not each by
    itself; greedy choice by loss is the plain way to do so, as in Kim et al. 2024, Shortened LLaMA (arXiv:2402.02834).
    """

    use: Literal["measured"]
    """`measured`: those go that the loss on the calibration text needs least."""
    drop: int = Field(ge=1)
    """How many go."""


Layers = Annotated[DropMiddle | DropListed | DropMeasured, Field(discriminator="use")]
"""Which layers of the source stay."""


class Narrow(Sizes):
    """Keep the neurons, heads and dimensions that do most on the calibration text.

    A neuron of the feed-forward layer counts by the mean size of its activation, a key head with its query heads by the
    root mean square of what they put out, a query head likewise, a dimension of the residual stream by the mean size of
    its normalised value before all layers. Each layer chooses its own neurons and heads; dimensions are the same for all.

    Source: Muralidharan et al. 2024, Minitron (arXiv:2407.14679), section 2.2.
    """

    place = "initialize.width"

    def resized(self, config: ModelConfig) -> ModelConfig:
        """The shape of the new model.

        Raises:
            MismatchError: heads do not divide, or a size would grow, or nothing would shrink.
        """
        narrow = super().resized(config)
        for name in ("hidden_size", "ffn_size", "num_heads", "num_kv_heads"):
            if getattr(narrow, name) > getattr(config, name):
                problem = f"{getattr(narrow, name):,} is more than the {getattr(config, name):,} of the source"
                raise MismatchError(problem, place=f"{self.place}.{name}", hint="to widen, use: grown")
        group, before = narrow.num_heads // narrow.num_kv_heads, config.num_heads // config.num_kv_heads
        if group > before:
            problem = f"{narrow.num_heads} leaves {group} query heads for each key head, the source has {before}"
            raise MismatchError(problem, place=f"{self.place}.num_heads", hint="set num_kv_heads higher as well")
        if narrow == config:
            raise MismatchError("the source has these sizes", place=self.place, hint="set a smaller one")
        return narrow


def check_drop(drop: int, count: int) -> None:
    """Make sure that a layer stays.

    Raises:
        MismatchError: none does.
    """
    if drop >= count:
        raise MismatchError(
            f"{drop} leaves nothing of {count} layers", place=f"{PLACE}.drop", hint=f"at most {count - 1}"
        )

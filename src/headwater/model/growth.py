"""Which layers a grown or shrunk model takes from which layers of its source: settings and layer maps. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from headwater.core.config import Config
from headwater.core.errors import MismatchError


class Layer(NamedTuple):
    """A layer of the new model."""

    source: int
    """The layer of the source that it copies."""
    silent: bool = False
    """Its two projections to the residual stream are zero, so that it changes nothing until it is trained."""


class DepthUpscale(Config):
    """Join the lower layers of one copy to the upper layers of another, as SOLAR: n layers become 2 (n - overlap_cut).

    The first copy loses its last `overlap_cut` layers, the second its first ones, so that layers that meet at the seam
    were 2 overlap_cut - n + 1 apart at most, instead of n - 1.

    Source: Kim et al. 2023, SOLAR 10.7B (arXiv:2312.15166), section 2: n = 32, m = 8 makes 48 layers.
    """

    use: Literal["depth_upscale"]
    """`depth_upscale`: two overlapping copies."""
    overlap_cut: int = Field(ge=0)
    """Layers that each copy loses: SOLAR's m."""

    def layers(self, count: int) -> tuple[Layer, ...]:
        """The layer map for a source of so many layers.

        >>> [layer.source for layer in DepthUpscale(use="depth_upscale", overlap_cut=4).layers(12)]
        [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11]
        """
        if self.overlap_cut >= count:
            _refuse("overlap_cut", self.overlap_cut, f"leaves nothing of {count} layers", f"at most {count - 1}")
        return tuple(Layer(n) for n in (*range(count - self.overlap_cut), *range(self.overlap_cut, count)))


class IdentityBlocks(Config):
    """Insert copies that change nothing at first: the new model computes exactly what its source does.

    Source: Wu et al. 2024, LLaMA Pro (arXiv:2401.02415): a copy after every group, its output projections zero.
    """

    use: Literal["identity_blocks"]
    """`identity_blocks`: silent copies."""
    every: int = Field(ge=1)
    """Layers of a group; a copy of the group's last layer follows it."""

    def layers(self, count: int) -> tuple[Layer, ...]:
        """The layer map for a source of so many layers.

        >>> [(layer.source, layer.silent) for layer in IdentityBlocks(use="identity_blocks", every=2).layers(4)]
        [(0, False), (1, False), (1, True), (2, False), (3, False), (3, True)]
        """
        if count % self.every:
            fits = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
            _refuse("every", self.every, f"does not divide {count} layers", f"one of {fits}")
        found: list[Layer] = []
        for number in range(count):
            found.append(Layer(number))
            if (number + 1) % self.every == 0:
                found.append(Layer(number, silent=True))
        return tuple(found)


class Stack(Config):
    """Repeat the whole stack of layers from its beginning.

    Source: Du et al. 2024, Stacking Your Transformers (arXiv:2405.15319), G_stack.
    """

    use: Literal["stack"]
    """`stack`: all layers, then all again."""
    num_layers: int = Field(ge=1)
    """Layers of the new model."""

    def layers(self, count: int) -> tuple[Layer, ...]:
        """The layer map for a source of so many layers.

        >>> [layer.source for layer in Stack(use="stack", num_layers=7).layers(3)]
        [0, 1, 2, 0, 1, 2, 0]
        """
        _must_grow(self.num_layers, count)
        return tuple(Layer(number % count) for number in range(self.num_layers))


class Interpolate(Config):
    """Repeat layers in place: each new layer copies its neighbour.

    Source: Chang et al. 2018 (arXiv:1710.10348) for residual networks; "interleave" in later comparisons of growth.
    """

    use: Literal["interpolate"]
    """`interpolate`: layers doubled where they are."""
    num_layers: int = Field(ge=1)
    """Layers of the new model."""

    def layers(self, count: int) -> tuple[Layer, ...]:
        """The layer map for a source of so many layers.

        >>> [layer.source for layer in Interpolate(use="interpolate", num_layers=6).layers(4)]
        [0, 0, 1, 2, 2, 3]
        """
        _must_grow(self.num_layers, count)
        return tuple(Layer(number * count // self.num_layers) for number in range(self.num_layers))


class LayerMap(Config):
    """Take any layers in any order: to grow, to shrink, to try something out."""

    use: Literal["layers"]
    """`layers`: a map of one's own."""
    sources: tuple[int, ...] = Field(min_length=1)
    """For each layer of the new model, the layer of the source that it copies, counted from 0."""

    def layers(self, count: int) -> tuple[Layer, ...]:
        """The layer map for a source of so many layers."""
        for number in self.sources:
            if not 0 <= number < count:
                _refuse("sources", number, f"is no layer of a source with {count}", f"0 to {count - 1}")
        return tuple(Layer(number) for number in self.sources)


class DropLayers(Config):
    """Leave layers out of the middle: lower ones read the text, upper ones write it, and these in between matter least.

    Source: Men et al. 2024, ShortGPT (arXiv:2403.03853), and the course Pretraining LLMs, which drops the two in the
    middle; which layers matter least differs between models, so measure where you can.
    """

    use: Literal["drop_layers"]
    """`drop_layers`: the middle ones left out."""
    count: int = Field(ge=1)
    """How many are left out."""

    def layers(self, count: int) -> tuple[Layer, ...]:
        """The layer map for a source of so many layers.

        >>> [layer.source for layer in DropLayers(use="drop_layers", count=2).layers(12)]
        [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
        """
        if self.count >= count:
            _refuse("count", self.count, f"leaves nothing of {count} layers", f"at most {count - 1}")
        first = (count - self.count) // 2
        return tuple(Layer(number) for number in range(count) if not first <= number < first + self.count)


Growth = Annotated[
    DepthUpscale | IdentityBlocks | Stack | Interpolate | LayerMap | DropLayers, Field(discriminator="use")
]
"""How the layers of a new model follow from those of its source."""


def _must_grow(num_layers: int, count: int) -> None:
    if num_layers <= count:
        _refuse("num_layers", num_layers, f"is not more than the {count} of the source", f"{count + 1} or more")


def _refuse(setting: str, value: int, problem: str, hint: str) -> None:
    raise MismatchError(f"{value} {problem}", place=f"initialize.growth.{setting}", hint=hint)

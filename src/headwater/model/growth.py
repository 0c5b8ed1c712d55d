"""How a grown model follows from its source: deeper by a layer map, or wider. Settings; no torch here."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, NoReturn, Self

from pydantic import Field, ValidationError, model_validator

from headwater.core.config import Config
from headwater.core.errors import MismatchError
from headwater.model.config import Trained
from headwater.model.shape import ModelConfig


class Layer(NamedTuple):
    """A layer of the new model."""

    source: int
    """The layer of the source that it copies."""
    silent: bool = False
    """Its two projections to the residual stream are zero, so that it changes nothing until it is trained."""
    other: bool = False
    """It is a layer of the second model, where there are two."""


class DepthUpscale(Config):
    """Join the lower layers of one copy to the upper layers of another, as SOLAR: n layers become s = 2 (n - m).

    The first copy loses its last m layers, the second its first ones, so that layers that meet at the seam were
    2 m - n + 1 apart at most, instead of n - 1. Set `overlap_cut` or `num_layers`.

    Source: Kim et al. 2023, SOLAR 10.7B (arXiv:2312.15166), section 2: n = 32, m = 8 makes s = 48 layers.
    """

    use: Literal["depth_upscale"]
    """`depth_upscale`: two overlapping copies."""
    overlap_cut: int | None = Field(default=None, ge=0)
    """Layers that each copy loses: SOLAR's m."""
    num_layers: int | None = Field(default=None, ge=2)
    """Layers of the new model: SOLAR's s, an even number."""
    upper: Trained | None = None
    """Another trained model of the same shape and tokenizer that gives the upper layers; the source gives the lower ones
    and all that is no layer."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.overlap_cut is None and self.num_layers is None:
            raise ValueError("set overlap_cut (layers that each copy loses) or num_layers (layers of the new model)")
        if self.num_layers is not None and self.num_layers % 2:
            raise ValueError(f"num_layers {self.num_layers} is odd; two copies of equal depth make an even number")
        return self

    def layers(self, count: int) -> tuple[Layer, ...]:
        """The layer map for a source of so many layers.

        >>> [layer.source for layer in DepthUpscale(use="depth_upscale", overlap_cut=4).layers(12)]
        [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11]
        >>> len(DepthUpscale(use="depth_upscale", num_layers=48).layers(32))
        48
        """
        cut = self.overlap_cut
        if self.num_layers is not None:
            if not 2 <= self.num_layers <= 2 * count:
                _refuse(
                    "num_layers", self.num_layers, f"cannot be made of twice {count} layers", f"at most {2 * count}"
                )
            wanted = count - self.num_layers // 2
            if cut not in (None, wanted):
                problem = f"and num_layers {self.num_layers} do not agree for a source with {count} layers"
                _refuse("overlap_cut", cut, problem, f"set one of them; {self.num_layers} layers need {wanted}")
            cut = wanted
        assert cut is not None  # one of the two is set
        if cut >= count:
            _refuse("overlap_cut", cut, f"leaves nothing of {count} layers", f"at most {count - 1}")
        upper = self.upper is not None
        return (*map(Layer, range(count - cut)), *(Layer(number, other=upper) for number in range(cut, count)))


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
    """Take any layers in any order, the same one several times too."""

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


class Sizes(Config):
    """Another width for a model; what is not set stays."""

    place: ClassVar[str]

    hidden_size: int | None = Field(default=None, ge=2)
    """Width of the residual stream."""
    ffn_size: int | None = Field(default=None, ge=1)
    """Width inside the feed-forward layers."""
    num_heads: int | None = Field(default=None, ge=1)
    """Query heads. Default: as many for each key and value head as before."""
    num_kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads. Default: as many query heads for each as before."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not any((self.hidden_size, self.ffn_size, self.num_heads, self.num_kv_heads)):
            raise ValueError("set at least one of hidden_size, ffn_size, num_heads and num_kv_heads")
        return self

    def resized(self, config: ModelConfig) -> ModelConfig:
        """The shape of the new model; heads keep their size.

        Raises:
            MismatchError: heads do not divide, or the family of the model does not allow it.
        """
        group = config.num_heads // config.num_kv_heads
        heads, kv_heads = self.num_heads, self.num_kv_heads
        if heads is None:
            heads = group * (kv_heads or config.num_kv_heads)
        if kv_heads is None:
            if heads % group:
                _refuse_size(self, "num_heads", heads, f"is no multiple of the {group} query heads of each key head")
            kv_heads = heads // group
        if heads % kv_heads:
            _refuse_size(self, "num_heads", heads, f"is no multiple of {kv_heads} key and value heads")
        sizes = {
            "hidden_size": self.hidden_size or config.hidden_size,
            "ffn_size": self.ffn_size or config.ffn_size,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
        }
        try:
            return ModelConfig.model_validate({**config.model_dump(), **sizes})
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise MismatchError(problem, place=self.place, hint="set other sizes") from None


class Widen(Sizes):
    """Make every layer wider; the new model computes what its source does, but for rounding.

    New neurons and heads are copies of old ones. Both halves of a pair write half of what the one wrote, plus and minus
    a random part that cancels, so that they learn to differ. New dimensions of the residual stream hold zero until they
    are trained: what reads them is random, what writes them is zero, and the norms are adjusted to the longer vector.

    Source: Chen et al. 2015, Net2Net (arXiv:1511.05641), for copies; Wang et al. 2023, LEMON (arXiv:2310.07999), for parts
    that cancel. The adjusted norm is ours: a vector of D numbers among D' has the mean square D/D' of what it was, so
    weights times sqrt(D/D') and epsilon times D/D' give the same result.
    """

    place = "initialize.growth"

    use: Literal["widen"]
    """`widen`: more neurons, heads or dimensions."""
    seed: int = 0
    """Which neurons and heads are copied first, and the random parts."""

    def resized(self, config: ModelConfig) -> ModelConfig:
        """The shape of the new model.

        Raises:
            MismatchError: heads do not divide, or a size would shrink, or nothing would grow.
        """
        wide = super().resized(config)
        group, before = wide.num_heads // wide.num_kv_heads, config.num_heads // config.num_kv_heads
        if group < before:
            problem = f"leaves {group} query heads for each of {wide.num_kv_heads} key heads, the source has {before}"
            _refuse_size(self, "num_heads", wide.num_heads, problem)
        for name in ("hidden_size", "ffn_size", "num_heads", "num_kv_heads"):
            if getattr(wide, name) < getattr(config, name):
                _refuse_size(self, name, getattr(wide, name), f"is less than the {getattr(config, name)} of the source")
        if wide == config:
            raise MismatchError("the source has these sizes", place=self.place, hint="set a larger one")
        return wide.model_copy(update={"norm_epsilon": config.norm_epsilon * config.hidden_size / wide.hidden_size})


Growth = Annotated[DepthUpscale | IdentityBlocks | Stack | Interpolate | LayerMap | Widen, Field(discriminator="use")]
"""How a new model follows from its source."""


def _refuse_size(sizes: Sizes, name: str, value: int, problem: str) -> NoReturn:
    raise MismatchError(f"{value:,} {problem}", place=f"{sizes.place}.{name}", hint="set another size")


def _must_grow(num_layers: int, count: int) -> None:
    if num_layers <= count:
        _refuse("num_layers", num_layers, f"is not more than the {count} of the source", f"{count + 1} or more")


def _refuse(setting: str, value: int | None, problem: str, hint: str) -> NoReturn:
    raise MismatchError(f"{value} {problem}", place=f"initialize.growth.{setting}", hint=hint)

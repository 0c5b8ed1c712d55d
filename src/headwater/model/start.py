"""How weights begin: the settings of the stage `initialize`. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from headwater.core.config import Config
from headwater.model.calibration import Calibration
from headwater.model.config import CheckpointWeights, GgufWeights, HuggingFaceWeights, RandomWeights, Trained
from headwater.model.growth import DepthUpscale, Growth
from headwater.model.reduction import Layers, Narrow


class GrownWeights(Config):
    """Begin with a trained model made deeper or wider."""

    use: Literal["grown"]
    """`grown`: more layers, or wider ones, than the model that it comes from."""
    source: Trained
    """The trained model. What does not grow is copied as it is: embeddings, head, last norm, context, vocabulary."""
    growth: Growth
    """How it grows."""
    calibration: Calibration = Calibration()
    """The text on which the losses of both models are compared."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Mapping[str, Any]:
        """The content of all files that it comes from.

        Raises:
            InputError: a folder or its files are missing.
        """
        found: dict[str, Any] = {**self.source.fingerprint(hash_file), **self.calibration.fingerprint(hash_file)}
        if isinstance(self.growth, DepthUpscale) and self.growth.upper is not None:
            found["upper"] = self.growth.upper.fingerprint(hash_file)
        return found


class ShrunkWeights(Config):
    """Begin with a trained model made shallower or narrower; `train.distill` helps it to recover."""

    use: Literal["shrunk"]
    """`shrunk`: fewer layers, or narrower ones, than the model that it comes from."""
    source: Trained
    """The trained model. What does not shrink is copied as it is."""
    layers: Layers | None = None
    """Which layers go."""
    width: Narrow | None = None
    """Which sizes shrink; importance is measured after layers have gone."""
    calibration: Calibration = Calibration()
    """The text on which importance is measured and the losses of both models are compared."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.layers is None and self.width is None:
            raise ValueError("set layers or width, or both")
        return self

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Mapping[str, Any]:
        """The content of all files that it comes from.

        Raises:
            InputError: a folder or its files are missing.
        """
        return {**self.source.fingerprint(hash_file), **self.calibration.fingerprint(hash_file)}


Initialize = Annotated[
    RandomWeights | HuggingFaceWeights | CheckpointWeights | GgufWeights | GrownWeights | ShrunkWeights,
    Field(discriminator="use"),
]
"""How the weights begin."""

"""The shape of a model that is made of a trained one, known before anything runs. No torch here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from headwater.core.errors import InputError
from headwater.core.gguf import GgufFile
from headwater.core.store import read_json
from headwater.model.config import CheckpointWeights, GgufWeights, HuggingFaceWeights, Trained
from headwater.model.families import model_config
from headwater.model.growth import Widen
from headwater.model.metadata import huggingface_values
from headwater.model.reduction import DropMeasured
from headwater.model.shape import ModelConfig
from headwater.model.start import GrownWeights, ShrunkWeights


def planned(start: GrownWeights | ShrunkWeights | Trained, tokens: int) -> ModelConfig:
    """The shape that the stage initialize will make.

    Args:
        start: its settings.
        tokens: size of the tokenizer's vocabulary, as far as it is known.

    Raises:
        InputError: a model that it begins with cannot be read.
        MismatchError: it is none that is computed here, or what is asked for does not go with it.
    """
    match start:
        case GrownWeights():
            config, growth = _source(start.source, tokens), start.growth
            if isinstance(growth, Widen):
                return growth.resized(config)
            return config.model_copy(update={"num_layers": len(growth.layers(config.num_layers))})
        case ShrunkWeights():
            return _shrunk(start, _source(start.source, tokens))
        case _:
            return _source(start, tokens)


def _shrunk(start: ShrunkWeights, config: ModelConfig) -> ModelConfig:
    count = config.num_layers
    match start.layers:
        case DropMeasured(drop=drop):
            count -= drop
        case None:
            pass
        case layers:
            count = len(layers.kept(count))
    config = config.model_copy(update={"num_layers": count})
    return config if start.width is None else start.width.resized(config)


def _source(settings: Trained, tokens: int) -> ModelConfig:
    """The shape of a trained model, with as many rows as the run's tokenizer has tokens where they are made anew."""
    match settings:
        case HuggingFaceWeights():
            path = settings.path / "config.json"
            config = model_config(read_json(path), str(path))
        case CheckpointWeights():
            config = _of_checkpoint(settings.path / "model.json")
        case GgufWeights():
            config = _of_gguf(settings.path, settings.path.stat().st_mtime_ns)
    if settings.vocabulary is None:
        return config
    return config.model_copy(update={"vocab_size": tokens, "padding_rows": 0})


def _of_checkpoint(path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(read_json(path)["model"])
    except (KeyError, TypeError, ValidationError) as error:
        problem = f"is damaged ({str(error).splitlines()[0]})"
        raise InputError(problem, place=str(path), hint="check the path of the checkpoint") from None


@lru_cache(maxsize=4)
def _of_gguf(path: Path, _changed: int) -> ModelConfig:  # a vocabulary of 100,000 tokens takes a while to read
    return model_config(huggingface_values(GgufFile(path)), str(path))

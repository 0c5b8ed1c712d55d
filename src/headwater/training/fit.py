"""Whether settings, model and tokens fit together, before anything is computed."""

from __future__ import annotations

from headwater.core.errors import MismatchError
from headwater.model.config import ModelConfig
from headwater.tokens.loader import Batches
from headwater.tokens.mixture import SourcePlan
from headwater.training.config import Train


def check_fit(settings: Train, config: ModelConfig, batches: Batches, vocab_size: int) -> None:
    """Make sure that settings, model and tokens fit.

    Raises:
        MismatchError: sequences are longer than the context, the vocabularies differ, or data would be seen too often.
    """
    if settings.sequence_length > config.context_length:
        raise MismatchError(
            f"sequence_length {settings.sequence_length:,} is beyond the model's context_length {config.context_length:,}",
            place="train.sequence_length",
            hint=f"set it to {config.context_length:,} or less, or initialize a model with a longer context",
        )
    if vocab_size > config.vocab_size:
        raise MismatchError(
            f"the tokens are of a vocabulary of {vocab_size:,}, the model has {config.vocab_size:,} rows",
            place="train",
            hint="encode with the tokenizer that belongs to the model",
        )
    batches.plan(settings.planned_steps or 1)


def most_steps(batches: Batches) -> tuple[int, SourcePlan]:
    """How many steps there are before a source is seen more often than the mixture allows, and which source that is.

    A source of weight w has had less than w n + 1 of the first n rows, and the plan forgives one row: so no plan of
    this many steps or fewer is refused.
    """
    scarcest = min(batches.plan(1).sources, key=lambda source: source.deliverable_tokens / source.weight)
    return max(int(scarcest.deliverable_tokens / scarcest.weight) // batches.batch_tokens, 1), scarcest

"""Whether settings, model and tokens fit together, before anything is computed."""

from __future__ import annotations

from headwater.core.errors import MismatchError
from headwater.model.config import ModelConfig
from headwater.model.transformer import Transformer
from headwater.tokens.mixture import SourcePlan
from headwater.training.config import Train
from headwater.training.phases import PhasedBatches, Stretch, check_contexts


def check_fit(settings: Train, config: ModelConfig, batches: PhasedBatches, vocab_size: int) -> None:
    """Make sure that settings, model and tokens fit.

    Raises:
        MismatchError: sequences are longer than the context, the vocabularies differ, or data would be seen too often.
    """
    check_contexts(batches.stretches, config.context_length)
    if vocab_size > config.token_types:
        raise MismatchError(
            f"the tokens are of a vocabulary of {vocab_size:,}, the model knows {config.token_types:,} tokens",
            place="train",
            hint="encode with the tokenizer that belongs to the model",
        )
    batches.plan(settings.planned_steps or 1)


def most_steps(batches: PhasedBatches) -> tuple[int, SourcePlan]:
    """How many steps there are before a source is seen more often than the mixture allows, and which source that is.

    A source of weight w has had less than w n + 1 of the first n rows, and the plan forgives one row: so no plan of
    this many steps or fewer is refused.
    """
    scarcest = min(batches.plan(1).sources, key=lambda source: source.deliverable_tokens / source.weight)
    return max(int(scarcest.deliverable_tokens / scarcest.weight) // batches.batch_tokens, 1), scarcest


def adapt(model: Transformer, stretch: Stretch) -> None:
    """Change a model's positions where a phase says so.

    Raises:
        MismatchError: its positions are learned.
    """
    if stretch.phase is None or stretch.phase.rope_theta is None:
        return
    config = model.config
    if config.positions != "rotary":
        place, hint = f"train.phases.{stretch.name}.rope_theta", "leave it out"
        raise MismatchError("the model's positions are learned: it has no rotary base", place=place, hint=hint)
    changes = {
        "rope_theta": stretch.phase.rope_theta,
        "context_length": max(config.context_length, stretch.settings.sequence_length),
    }
    model.config = config.model_copy(update=changes)
    model.reset_buffers(model.embedding.weight.device)

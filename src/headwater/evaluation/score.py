"""How well a model predicts documents: losses per document, and bits per byte with their standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from headwater.core.errors import InputError
from headwater.evaluation.statistics import Estimate, exponential, ratio
from headwater.model.transformer import Transformer

BATCH_TOKENS = 4096
"""Tokens scored at a time, padding included: large enough to keep the processor busy, small enough for its cache."""


class Window(NamedTuple):
    """A stretch of a document that is shown to the model at once."""

    document: int
    begin: int
    """Its first token."""
    end: int
    """Its last target; the token before it is the last that is shown."""
    scored: int
    """How many of its last targets count; those before are context."""

    @property
    def length(self) -> int:
        """Tokens shown."""
        return self.end - self.begin


def not_finite(what: str) -> InputError:
    """The error for a model whose weights are numbers but whose predictions are not: they overflow."""
    hint = "take an earlier checkpoint, and look for where the training loss rose without end"
    return InputError("the model's predictions are not finite numbers", place=what, hint=hint)


@dataclass(frozen=True)
class Score:
    """Bits per byte of some documents."""

    value: float
    standard_error: float | None
    """How far another sample of documents would move the value; None where a source has fewer than two."""
    documents: int
    bytes: int
    tokens: int
    """Tokens predicted: all but the separators."""
    nats_per_token: float
    perplexity: float = 0.0
    """e to the nats per token. It depends on the tokenizer: only models of the same one can be compared by it."""
    perplexity_error: float | None = None


def document_losses(
    model: Transformer,
    documents: Sequence[np.ndarray],
    *,
    context_length: int | None = None,
    overlap: float = 0.25,
    advance: Callable[[float], None] | None = None,
) -> np.ndarray:
    """The loss of each document [nats; documents] float64: the sum over its tokens, given its separator.

    The separator is not predicted, so this is the cost of the text alone, as lm-eval's rolling log-likelihood counts it.
    A document longer than the model's context is scored in windows that overlap.

    Args:
        model: the model, on the device and in the precision in which to score.
        documents: tokens of each document, separator first.
        context_length: tokens shown at once; by default all that the model can attend to.
        overlap: share of the context that a later window shows again.
        advance: called with the number of tokens scored after each batch.

    Raises:
        InputError: the model's predictions are not finite numbers.
    """
    device = model.embedding.weight.device
    context = min(context_length or model.config.context_length, model.config.context_length)
    shown = [w for i, tokens in enumerate(documents) for w in windows(i, len(tokens), context, overlap)]
    losses = np.zeros(len(documents))
    for batch in batches(shown):
        width = batch[0].length
        tokens = np.zeros((len(batch), width + 1), np.int64)
        counted = np.zeros((len(batch), width), bool)
        for row, window in enumerate(batch):
            tokens[row, : window.length + 1] = documents[window.document][window.begin : window.end + 1]
            counted[row, window.length - window.scored : window.length] = True
        tokens_BT = torch.from_numpy(tokens).to(device)
        with torch.no_grad():
            losses_BT = model.token_losses(tokens_BT[:, :-1], tokens_BT[:, 1:])
        of_rows = np.where(counted, losses_BT.double().cpu().numpy(), 0.0).sum(axis=1)
        if not np.isfinite(of_rows).all():
            raise not_finite("score")
        np.add.at(losses, [window.document for window in batch], of_rows)
        if advance is not None:
            advance(sum(window.scored for window in batch))
    return losses


def windows(document: int, tokens: int, context: int, overlap: float) -> Iterator[Window]:
    """Cut a document of `tokens` tokens into windows of at most `context`, so that each token but the first is scored once.

    >>> [window[1:] for window in windows(0, tokens=11, context=4, overlap=0.5)]
    [(0, 4, 4), (2, 6, 2), (4, 8, 2), (6, 10, 2)]
    """
    stride = max(context - int(context * overlap), 1)
    end = 0
    while end < tokens - 1:
        before, end = end, min(end + (stride if end else context), tokens - 1)
        yield Window(document, max(end - context, 0), end, end - before)


def batches(shown: Sequence[Window]) -> Iterator[list[Window]]:
    """Windows of about the same length together, the longest first, BATCH_TOKENS in a batch."""
    ordered = sorted(shown, key=lambda window: -window.length)
    begin = 0
    while begin < len(ordered):
        rows = max(BATCH_TOKENS // ordered[begin].length, 1)
        yield ordered[begin : begin + rows]
        begin += rows


def bits_per_byte(losses: np.ndarray, text_bytes: np.ndarray, tokens: np.ndarray) -> Score:
    """Bits per byte and perplexity of documents, with their standard errors.

    Args:
        losses: loss of each document [nats].
        text_bytes: size of each document's text [UTF-8 bytes].
        tokens: tokens predicted of each document.

    Source: ratios of two sums over documents, with the delta method's errors for them, see `statistics.ratio`.

    >>> bits_per_byte(np.log(2) * np.array([8.0, 24.0]), np.array([10, 10]), np.array([4, 5])).value
    1.6
    """
    found, per_token = ratio(losses / math.log(2), text_bytes), ratio(losses, tokens)
    perplexity = exponential(per_token)
    return Score(
        value=found.value,
        standard_error=found.standard_error,
        documents=found.items,
        bytes=int(text_bytes.sum()),
        tokens=int(tokens.sum()),
        nats_per_token=per_token.value,
        perplexity=perplexity.value,
        perplexity_error=perplexity.standard_error,
    )


def total(scores: Mapping[str, Score]) -> Score:
    """All sources together, each weighted by its bytes of scored text.

    Source: a stratified sample (Cochran 1977, section 5.3): variances add up with the squares of the weights.
    """
    size = sum(score.bytes for score in scores.values())
    tokens = sum(score.tokens for score in scores.values())
    nats = sum(score.nats_per_token * score.tokens for score in scores.values()) / tokens
    relative = {  # the error of the nats per token
        name: None if score.perplexity_error is None else score.perplexity_error / score.perplexity
        for name, score in scores.items()
    }
    perplexity = exponential(Estimate(nats, None, 0)).value
    relative_error = _joint([(score.tokens / tokens, relative[name]) for name, score in scores.items()])
    return Score(
        value=sum(score.bytes / size * score.value for score in scores.values()),
        standard_error=_joint([(score.bytes / size, score.standard_error) for score in scores.values()]),
        documents=sum(score.documents for score in scores.values()),
        bytes=size,
        tokens=tokens,
        nats_per_token=nats,
        perplexity=perplexity,
        perplexity_error=None if relative_error is None else perplexity * relative_error,
    )


def _joint(parts: Sequence[tuple[float, float | None]]) -> float | None:
    """Error of a weighted sum of (weight, error); None when one is not known."""
    known = [share * error for share, error in parts if error is not None]
    return math.hypot(*known) if len(known) == len(parts) else None

"""How well a model predicts documents: losses per document, and bits per byte with their standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from headwater.core.errors import InputError
from headwater.evaluation.statistics import ratio
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


def bits_per_byte(losses: np.ndarray, text_bytes: np.ndarray, tokens: int) -> Score:
    """Bits per byte of documents, with its standard error.

    Args:
        losses: loss of each document [nats].
        text_bytes: size of each document's text [UTF-8 bytes].
        tokens: tokens predicted in all.

    Source: the ratio of two sums over documents, with the delta method's error for it, see `statistics.ratio`.

    >>> bits_per_byte(np.log(2) * np.array([8.0, 24.0]), np.array([10, 10]), tokens=9).value
    1.6
    """
    found = ratio(losses / math.log(2), text_bytes)
    size = int(text_bytes.sum())
    return Score(found.value, found.standard_error, found.items, size, tokens, float(losses.sum()) / tokens)


def total(scores: Mapping[str, Score]) -> Score:
    """All sources together, each weighted by its bytes of scored text.

    Source: a stratified sample (Cochran 1977, section 5.3): variances add up with the squares of the weights.
    """
    size = sum(score.bytes for score in scores.values())
    tokens = sum(score.tokens for score in scores.values())
    errors = [score.standard_error for score in scores.values()]
    shares = [score.bytes / size for score in scores.values()]
    known = [share * error for share, error in zip(shares, errors, strict=True) if error is not None]
    return Score(
        value=sum(share * score.value for share, score in zip(shares, scores.values(), strict=True)),
        standard_error=math.hypot(*known) if len(known) == len(errors) else None,
        documents=sum(score.documents for score in scores.values()),
        bytes=size,
        tokens=tokens,
        nats_per_token=sum(score.nats_per_token * score.tokens for score in scores.values()) / tokens,
    )

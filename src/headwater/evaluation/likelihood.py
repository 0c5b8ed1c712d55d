"""Log-probabilities of continuations: the engine of the tasks.

What a model sees twice it computes once. Texts are sorted, and those that begin alike, such as a question with each of
its answers, stand in one row as a tree: a token sees those on its way to the root and no others. The beginning that all
items of a task share, such as worked examples, is computed once for all rows. Logits, and the last feed-forward, are
computed only where a continuation is predicted. Rows of about the same length stand in a batch together.

    B  rows of a batch      T  positions of a row      P  positions of the shared beginning
    N  positions that predict something                 the other letters as in model/transformer.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its name everywhere

from headwater.core.errors import InputError
from headwater.evaluation.opening import first_token
from headwater.evaluation.score import not_finite
from headwater.model.transformer import CHUNK_LOGITS, Attention, Block, Transformer
from headwater.tokens.codec import Codec

BATCH_TOKENS = 1024
"""Positions computed at a time, padding included. Source: docs/lab-notes.md, processors; more is slower there."""
LONG_ENOUGH = 8
"""A beginning of at least so many tokens that all items share is computed once and for all."""
ROW_TOKENS = 64
"""Texts that share little stand in one row up to here: longer rows cost attention, shorter ones share less."""
MOST_TOKENS = 1024
"""The most of a row of texts that share at least half."""
QUERY_BLOCK = 256
"""Queries of a row that look at once, so that the scores of a long row need not exist as a whole."""

Pair = tuple[str, str]
"""A context and the continuation that is scored."""


class Likelihood(NamedTuple):
    """How likely a continuation is."""

    log_probability: float
    """[nats]"""
    tokens: int
    greedy: bool
    """Whether the model would have written it, taking the likeliest token each time."""


class Asked(NamedTuple):
    """A text of which the end is scored."""

    tokens: np.ndarray
    """All that the model is shown, and the last target."""
    scored: int
    """How many of the last ones are targets."""


# ------------------------------------------------------------------------------------------------------- tokens


class PairEncoder:
    """Pairs of texts to tokens, as lm-eval's TemplateLM and HFLM (0.4.13) do it, so that scores can be compared.

    Context and continuation are encoded together, and what has more tokens than the context alone is the continuation;
    blanks at the end of a context belong to the continuation. What the tokenizer itself puts before a text stands
    there; before an empty context stands the token that documents begin with.
    """

    def __init__(self, codec: Codec, context_length: int, *, always_begin: bool = False) -> None:
        """Make ready for a tokenizer and a model.

        Args:
            codec: the tokenizer.
            context_length: the most tokens that the model can be shown.
            always_begin: put the token that documents begin with before every text.
        """
        self._codec = codec
        self._context_length = context_length
        self._first = first_token(codec)
        own = codec.reference.encode("a", add_special_tokens=True).ids
        self._before = [self._first] if always_begin else own[: -len(codec.encode(["a"])[0])]
        self.cut = 0
        """Texts of which the model sees only the end."""

    def __call__(self, pairs: Sequence[Pair]) -> list[Asked]:
        """Encode pairs.

        Raises:
            InputError: a continuation has no tokens, or more than the model can be shown.
        """
        moved = [_with_blanks(context, continuation) for context, continuation in pairs]
        contexts = list(dict.fromkeys(context for context, _ in moved))
        sizes = dict(zip(contexts, map(len, self._codec.encode(contexts)), strict=True))
        wholes = self._codec.encode([context + continuation for context, continuation in moved])
        return [
            self._asked(ids, sizes[context], not context, continuation)
            for ids, (context, _), (_, continuation) in zip(wholes, moved, pairs, strict=True)
        ]

    def _asked(self, ids: np.ndarray, context: int, bare: bool, continuation: str) -> Asked:
        scored = len(ids) - context
        if scored < 1 or not continuation:
            problem = f"the continuation {continuation[:40]!r} has no tokens of its own"
            raise InputError(problem, hint="give the choice a text, or take the item out")
        if scored > self._context_length:
            problem = f"a continuation of {scored:,} tokens is longer than the context, {self._context_length:,}"
            raise InputError(problem, hint="take a model with a longer context, or the item out")
        before = self._before or ([self._first] if bare else [])
        if bare and ids[0] == self._first and scored > 1 and not self._before:
            before, scored = [], scored - 1
        tokens = np.concatenate([np.array(before, np.int64), ids.astype(np.int64)])
        if len(tokens) > self._context_length + 1:
            self.cut += 1
            tokens = tokens[-(self._context_length + 1) :]
        return Asked(tokens, scored)


def _with_blanks(context: str, continuation: str) -> Pair:
    """Move blanks from the end of a context to its continuation: in most tokenizers they belong to the next word."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


# --------------------------------------------------------------------------------------------------------- rows


@dataclass
class Row:
    """Texts that begin alike laid out as a tree: what they share stands once."""

    tokens: np.ndarray
    places: np.ndarray
    """Position of each token in its text."""
    paths: list[np.ndarray]
    """For each text the indices of its tokens in the row."""
    predicting: np.ndarray
    """Index in the row of each position that predicts a target."""
    targets: np.ndarray
    answers: np.ndarray
    """For each target the number of the text it is of."""

    def __len__(self) -> int:
        return len(self.tokens)


def lay_out(asked: Sequence[Asked], skip: int = 0) -> Iterator[Row]:
    """Sort texts and lay them out in rows; the model has seen the first `skip` tokens of each already.

    A text joins the row of the one before it when it fits into ROW_TOKENS, or shares at least half of itself.

    >>> first, second = Asked(np.array([5, 6, 9]), 1), Asked(np.array([5, 6, 7, 8]), 2)
    >>> (row,) = lay_out([first, second])
    >>> row.tokens.tolist(), row.places.tolist(), [path.tolist() for path in row.paths]
    ([5, 6, 7], [0, 1, 2], [[0, 1], [0, 1, 2]])
    >>> row.predicting.tolist(), row.targets.tolist(), row.answers.tolist()
    ([1, 1, 2], [9, 7, 8], [0, 1, 1])
    """
    shown = [one.tokens[skip:-1] for one in asked]
    order = sorted(range(len(asked)), key=lambda n: shown[n].astype(">u4").tobytes())
    begin = 0
    while begin < len(order):
        paths = [np.arange(len(shown[order[begin]]))]
        pieces, places, size = [shown[order[begin]]], [paths[0]], len(paths[0])
        end = begin + 1
        while end < len(order):
            before, text = shown[order[end - 1]], shown[order[end]]
            shared = common_length([before, text])
            new = len(text) - shared
            if size + new > (MOST_TOKENS if 2 * shared >= len(text) else ROW_TOKENS):
                break
            paths.append(np.concatenate([paths[-1][:shared], np.arange(size, size + new)]))
            pieces.append(text[shared:])
            places.append(np.arange(shared, len(text)))
            size, end = size + new, end + 1
        numbers = order[begin:end]
        yield Row(
            tokens=np.concatenate(pieces),
            places=np.concatenate(places) + skip,
            paths=paths,
            predicting=np.concatenate([p[len(p) - asked[n].scored :] for p, n in zip(paths, numbers, strict=True)]),
            targets=np.concatenate([asked[n].tokens[-asked[n].scored :] for n in numbers]),
            answers=np.concatenate([np.full(asked[n].scored, n) for n in numbers]),
        )
        begin = end


def common_length(texts: Sequence[np.ndarray]) -> int:
    """How many tokens all texts begin with."""
    size = min(map(len, texts))
    for other in texts[1:]:
        different = np.flatnonzero(texts[0][:size] != other[:size])
        size = int(different[0]) if len(different) else size
    return size


def shared_beginning(items: Sequence[Sequence[Asked]]) -> np.ndarray:
    """The tokens that most items begin with before anything is predicted; empty when they are too few to matter.

    Two items in the middle and at the end tell: the first ones may be the worked examples of the others.
    """
    if len(items) < 4:
        return np.zeros(0, np.int64)
    some = [items[len(items) // 2][0], items[-1][0]]
    size = common_length([one.tokens[: len(one.tokens) - one.scored - 1] for one in some])
    return some[0].tokens[:size] if size >= LONG_ENOUGH else np.zeros(0, np.int64)


# ------------------------------------------------------------------------------------------------------ scoring


def likelihoods(
    model: Transformer,
    items: Sequence[Sequence[Asked]],
    groups: Sequence[str] | None = None,
    advance: Callable[[float], None] | None = None,
) -> list[list[Likelihood]]:
    """Log-probabilities of the continuations of each item.

    Args:
        model: the model, on the device and in the precision in which to score.
        items: for each item the texts of which the end is scored.
        groups: for each item what it may share a beginning with, such as the subject whose examples stand before it.
        advance: called with the share of items scored after each batch.

    Raises:
        InputError: the model's predictions are not finite numbers.
    """
    begins = np.cumsum([0, *map(len, items)])
    totals = np.zeros(begins[-1])
    greedy = np.ones(begins[-1], bool)
    attention = _SharedAttention(model)
    with torch.inference_mode():
        for beginning, members in _by_beginning(items, groups):
            numbers = np.concatenate([np.arange(begins[n], begins[n + 1]) for n in members])
            attention.see(beginning)
            for batch in batches(list(lay_out([one for n in members for one in items[n]], len(beginning)))):
                values, best = _score(model, attention, batch)
                answers = numbers[np.concatenate([row.answers for row in batch])]
                np.add.at(totals, answers, values)
                greedy[answers[~best]] = False
                if advance is not None:
                    advance(sum(len(row.paths) for row in batch) * len(items) / max(begins[-1], 1))
    counts = [[one.scored for one in asked] for asked in items]
    return [
        [Likelihood(float(totals[b + k]), count, bool(greedy[b + k])) for k, count in enumerate(of)]
        for b, of in zip(begins, counts, strict=False)
    ]


def _by_beginning(
    items: Sequence[Sequence[Asked]], groups: Sequence[str] | None
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Items by the beginning that they share, and those that share none together, first."""
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups or [""] * len(items)):
        members.setdefault(group, []).append(number)
    alone: list[int] = []
    sharing = []
    for numbers in members.values():
        beginning = shared_beginning([items[n] for n in numbers])
        fits = [n for n in numbers if len(beginning) and all(_begins(one, beginning) for one in items[n])]
        alone += sorted(set(numbers) - set(fits))
        if fits:
            sharing.append((beginning, fits))
    yield from [(np.zeros(0, np.int64), alone)] * bool(alone)
    yield from sharing


def _begins(one: Asked, beginning: np.ndarray) -> bool:
    size = len(beginning)
    return len(one.tokens) - one.scored > size and np.array_equal(one.tokens[:size], beginning)


def batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of about the same length together, the longest first, BATCH_TOKENS in a batch."""
    ordered = sorted(rows, key=lambda row: -len(row))
    begin = 0
    while begin < len(ordered):
        count = max(BATCH_TOKENS // max(len(ordered[begin]), 1), 1)
        yield ordered[begin : begin + count]
        begin += count


def _score(model: Transformer, attention: _SharedAttention, batch: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """For each target of a batch, in order: its log-probability, and whether it is the likeliest token."""
    width = max(map(len, batch))
    tokens, places = (np.zeros((len(batch), width), np.int64) for _ in range(2))
    for number, row in enumerate(batch):
        tokens[number, : len(row)] = row.tokens
        places[number, : len(row)] = row.places
    flat = np.concatenate([row.predicting + number * width for number, row in enumerate(batch)])
    targets = np.concatenate([row.targets for row in batch])
    positions, which = np.unique(flat, return_inverse=True)
    x_ND = attention.hidden(tokens, places, _seen(batch, width), positions)
    values, best = predictions(model, x_ND, which, targets)
    if not np.isfinite(values).all():
        raise not_finite("score")
    return values, best


def _seen(batch: Sequence[Row], width: int) -> np.ndarray | None:
    """Which positions each position sees [B, T, T]; None where all rows are plain texts."""
    if all(len(row.paths) == 1 for row in batch):
        return None
    seen = np.zeros((len(batch), width, width), bool)
    causal = np.tri(width, dtype=bool)
    for number, row in enumerate(batch):
        for path in row.paths:
            seen[number, path[:, None], path] = causal[: len(path), : len(path)]
        seen[number, range(len(row), width), range(len(row), width)] = True  # what fills a row up sees itself
    return seen


def predictions(
    model: Transformer, x_ND: Tensor, which: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of targets [targets], and whether each is the likeliest token.

    Args:
        model: whose head.
        x_ND: hidden vectors.
        which: for each target the hidden vector that predicts it.
        targets: token ids.
    """
    values, best = np.empty(len(targets)), np.empty(len(targets), bool)
    order = np.argsort(which, kind="stable")
    size = max(CHUNK_LOGITS // model.config.vocab_size, 64)
    for begin in range(0, len(x_ND), size):
        logits_CV = model.logits(x_ND[begin : begin + size]).float()
        inside = order[np.searchsorted(which[order], begin) : np.searchsorted(which[order], begin + size)]
        at = torch.from_numpy(which[inside] - begin).to(logits_CV.device)
        wanted = torch.from_numpy(targets[inside]).to(logits_CV.device)
        found = logits_CV[at, wanted]
        largest_C = logits_CV.amax(dim=-1)
        best[inside] = (found >= largest_C[at]).cpu().numpy()
        total_C = (logits_CV - largest_C[:, None]).exp_().sum(dim=-1).log_() + largest_C
        values[inside] = (found - total_C[at]).double().cpu().numpy()
    return values, best


# ---------------------------------------------------------------------------------------------------- attention


class _SharedAttention:
    """A model whose rows are trees, and stand after a beginning that it has seen once."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.blocks = [cast("Block", block) for block in model.blocks]
        self.layers = [_Layer() for _ in self.blocks]
        self._beginning = 0

    def see(self, beginning: np.ndarray) -> None:
        """Compute the beginning that the next rows share; empty: none."""
        for layer in self.layers:
            layer.seen, layer.keep = None, bool(len(beginning))
        self._beginning = 0
        if len(beginning):
            size = len(beginning)
            self.hidden(beginning[None], np.arange(size)[None], np.tri(size, dtype=bool)[None], np.array([size - 1]))
        self._beginning = len(beginning)
        for layer in self.layers:
            layer.keep = False

    def hidden(self, tokens: np.ndarray, places: np.ndarray, seen: np.ndarray | None, positions: np.ndarray) -> Tensor:
        """The vectors from which the next tokens are read, at some positions [N, D].

        Args:
            tokens: of each row [B, T].
            places: their positions in their texts [B, T].
            seen: which positions each position sees [B, T, T]; None: all before it.
            positions: indices into B x T, those that predict something.
        """
        model, device = self.model, self.model.embedding.weight.device
        tokens_BT, places_BT = (torch.from_numpy(array).to(device) for array in (tokens, places))
        x_BTD = F.embedding(tokens_BT, model.embedding.weight)
        rope = None
        if model.positions is not None:
            x_BTD = x_BTD + F.embedding(places_BT, model.positions.weight)
        x_BTD = x_BTD.to(model.compute_dtype or x_BTD.dtype)
        if model.positions is None:
            rope = model.rope_cos[places_BT].to(x_BTD.dtype), model.rope_sin[places_BT].to(x_BTD.dtype)
        plain = seen is None and not self._beginning
        if seen is None and not plain:
            seen = np.broadcast_to(np.tri(tokens.shape[1], dtype=bool), (*tokens.shape, tokens.shape[1]))
        mask: Any = None if seen is None else torch.from_numpy(seen).to(device)
        for block, layer in zip(self.blocks[:-1], self.layers[:-1], strict=True):
            with _mixing(block.attention, None if plain else layer):
                x_BTD = block(x_BTD, rope, mask, None)
        last, at = self.blocks[-1], torch.from_numpy(positions).to(device)
        with _mixing(last.attention, None if plain else self.layers[-1]):
            x_BTD = x_BTD + last.attention(last.attention_norm(x_BTD), rope, mask, None)
        x_ND = x_BTD.flatten(0, 1)[at]
        return model.norm(x_ND + last.ffn(last.ffn_norm(x_ND)))


@contextmanager
def _mixing(attention: Attention, mix: Any) -> Iterator[None]:
    """Let an attention mix values in another way for a while; None: as it does."""
    usual = attention.mix
    attention.mix = mix or usual
    try:
        yield
    finally:
        attention.mix = usual


class _Layer:
    """Attention of one layer: a position sees the shared beginning, and those of its row that the mask says."""

    def __init__(self) -> None:
        self.seen: tuple[Tensor, Tensor] | None = None
        """Keys and values of the beginning [K, P, E]."""
        self.keep = False
        """Keep the keys and values of what comes now."""

    def __call__(self, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, seen_BTT: Tensor) -> Tensor:
        """Mix the values [B, T, H, E]."""
        B, T, K, E = k_BTKE.shape
        G = q_BTHE.shape[2] // K
        q_BKTGE = q_BTHE.view(B, T, K, G, E).permute(0, 2, 1, 3, 4) * E**-0.5
        k_BKTE, v_BKTE = k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)
        y = torch.empty_like(q_BKTGE)
        for begin in range(0, T, QUERY_BLOCK):
            end = min(begin + QUERY_BLOCK, T)
            y[:, :, begin:end] = self._block(
                q_BKTGE[:, :, begin:end], k_BKTE[:, :, :end], v_BKTE[:, :, :end], ~seen_BTT[:, begin:end, :end]
            )
        if self.keep:
            self.seen = k_BKTE[0].contiguous(), v_BKTE[0].contiguous()
        return y.permute(0, 2, 1, 3, 4).reshape(B, T, K * G, E)

    def _block(self, q_BKTGE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, hidden_BTS: Tensor) -> Tensor:
        """Mix the values for the queries of the last T of S positions."""
        B, K, T, G, E = q_BKTGE.shape
        S = k_BKSE.shape[2]
        q = q_BKTGE.reshape(B, K, T * G, E)
        scores = (q @ k_BKSE.mT).view(B, K, T, G, S)
        scores = scores.masked_fill_(hidden_BTS[:, None, :, None], float("-inf")).view(B, K, T * G, S)
        if self.seen is None:
            return (scores.float().softmax(dim=-1).to(q.dtype) @ v_BKSE).view(B, K, T, G, E)
        k_KPE, v_KPE = self.seen
        P = k_KPE.shape[1]
        together = q.transpose(0, 1).reshape(K, B * T * G, E)
        before = (together @ k_KPE.mT).view(K, B, T * G, P).transpose(0, 1)
        weights = torch.cat([before, scores], dim=-1).float().softmax(dim=-1).to(q.dtype)
        first = weights[..., :P].transpose(0, 1).reshape(K, B * T * G, P) @ v_KPE
        return (first.view(K, B, T * G, E).transpose(0, 1) + weights[..., P:] @ v_BKSE).view(B, K, T, G, E)


def encode_items(
    encoder: PairEncoder, items: Iterable[Sequence[Pair]], names: Callable[[int], str]
) -> list[list[Asked]]:
    """The texts of each item as tokens, all items in one go.

    Raises:
        InputError: a continuation has no tokens or too many; says of which item.
    """
    items = list(items)
    try:
        asked = encoder([pair for pairs in items for pair in pairs])
    except InputError:
        for number, pairs in enumerate(items):  # find out which
            try:
                encoder(pairs)
            except InputError as error:
                raise InputError(error.problem, place=names(number), hint=error.hint) from None
        raise
    found = iter(asked)
    return [[next(found) for _ in pairs] for pairs in items]

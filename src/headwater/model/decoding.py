"""One more token for a few texts on a processor, in compiled loops.

With one new position in a row every weight is read for a single product, so the speed of memory is what there is to gain.
The matrix products of libraries are made for many rows and use a third of it where we measured (docs/lab-notes.md); these
loops use nearly all of it with one thread, and read weights of 16 bits in half the time. Letters as in transformer.py.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from headwater.documents.text.kernels import compiled
from headwater.model.transformer import Block, KVCache, LayerNorm, Linear, RMSNorm, Transformer, rope_tables

ROWS, THREADS = 8, 4
"""Most texts at a time, and most threads of the machine, for which these loops are taken: with more of either a library's
products are as fast. Source: ours, docs/lab-notes.md."""

Array = np.ndarray
_NONE = np.zeros(0, np.float32)  # where a norm or product has no weight or bias of this kind
_loop = partial(compiled, fastmath={"reassoc", "contract", "nsz"})  # sums in any order; what is not a number stays none


def fits(model: Transformer, rows: int) -> bool:
    """Whether the loops compute this model, and are the faster way."""
    weight = model.embedding.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and model.compute_dtype in (None, weight.dtype)
        and not model.config.tricks
        and rows <= ROWS
        and torch.get_num_threads() <= THREADS
    )


class Decoder:
    """The logits behind one more token of each text: what `Transformer` computes with a cache, to rounding.

    Sums are in fp32 whatever the type of the weights.
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        """Go on after the positions that a cache holds, which is kept up only here from now on."""
        config = self._config = model.config
        rows, width = cache.kv.shape[2], config.head_size
        self._length = cache.length
        self._kv = cache.kv.float().numpy()
        first = torch.zeros(rows) if cache.first_B is None else cache.first_B
        self._first_B = first.to(torch.int64).numpy()
        self._embedding, self._head = _array(model.embedding.weight), _array(model.head_weight)
        self._positions = None if model.positions is None else model.positions.weight.detach()
        half = np.zeros((config.context_length, 0), np.float32)  # positions that turn nothing
        tables = (half, half)
        if model.positions is None:
            tables = tuple(table[:, 0].numpy() for table in rope_tables(config))  # those of the model may be rounded
        self._cos, self._sin = tables
        self._blocks = [_weights_of(block) for block in model.blocks]  # type: ignore[arg-type]  # ModuleList is untyped
        self._norm = _norm_of(model.norm)
        joint = (config.num_heads + 2 * config.num_kv_heads) * width
        ffn = config.ffn_size * (2 if config.ffn == "swiglu" else 1)
        self._kind = ("swiglu", "gelu", "relu2").index(config.ffn)
        self._scores_HS = np.empty((config.num_heads, cache.capacity), np.float32)
        sizes = (config.hidden_size, joint, config.num_heads * width, ffn, config.ffn_size, len(self._head))
        self._buffers = [np.empty((rows, size), np.float32) for size in sizes]

    def __call__(self, tokens_B: Tensor) -> Tensor:
        """The logits of the token after each of these [B, token types] fp32; valid until the next call."""
        config, at = self._config, self._length
        h_BD, qkv, mixed, inner, active_BF, logits_BV = self._buffers
        place_B = np.clip(at - self._first_B, 0, config.context_length - 1)
        x_BD = self._embed(tokens_B, place_B)
        for block, (keys, values) in zip(self._blocks, self._kv, strict=True):
            _normalise(x_BD, *block["attention_norm"], h_BD)
            _multiply(*block["qkv"], h_BD, qkv, False)
            _keep(qkv, *block["heads"], self._cos, self._sin, place_B, keys, values, at)
            _attend(qkv, keys, values, self._first_B, at, self._scores_HS, mixed)
            _multiply(*block["out"], mixed, x_BD, True)
            _normalise(x_BD, *block["ffn_norm"], h_BD)
            _multiply(*block["up"], h_BD, inner, False)
            _activate(self._kind, inner, active_BF)
            _multiply(*block["down"], active_BF, x_BD, True)
        self._length += 1
        _normalise(x_BD, *self._norm, h_BD)
        _multiply(self._head, _NONE, h_BD, logits_BV, False)
        return torch.from_numpy(logits_BV)[:, : config.token_types]

    def _embed(self, tokens_B: Tensor, place_B: Array) -> Array:
        rows_BD = self._embedding[tokens_B.numpy()]
        if rows_BD.dtype == np.uint16:
            rows_BD = (rows_BD.astype(np.uint32) << 16).view(np.float32)
        if self._positions is not None:
            rows_BD = rows_BD + self._positions[torch.from_numpy(place_B)].float().numpy()
        return rows_BD


def _array(weight: Tensor) -> Array:
    """A weight in the memory where it is; bf16, which NumPy does not know, as its bits."""
    weight = weight.detach()
    return weight.view(torch.uint16).numpy() if weight.dtype == torch.bfloat16 else weight.numpy()


def _vector(weight: Tensor | None) -> Array:
    return _NONE if weight is None else weight.detach().float().numpy()


def _linear_of(linear: Linear) -> tuple[Array, Array]:
    return _array(linear.weight), _vector(linear.bias)


def _norm_of(norm: RMSNorm | LayerNorm) -> tuple[Array, Array, float, bool]:
    centred = isinstance(norm, LayerNorm)
    return _vector(norm.weight), _vector(norm.bias) if centred else _NONE, norm.epsilon, centred


def _weights_of(block: Block) -> dict[str, tuple[Any, ...]]:
    """The arguments of each step of a layer."""
    attention, ffn = block.attention, block.ffn
    norms = (_NONE, _NONE, 0.0)
    if attention.q_norm is not None and attention.k_norm is not None:
        norms = _vector(attention.q_norm.weight), _vector(attention.k_norm.weight), attention.q_norm.epsilon
    return {
        "attention_norm": _norm_of(block.attention_norm),
        "qkv": _linear_of(attention.qkv),
        "heads": norms,
        "out": _linear_of(attention.out),
        "ffn_norm": _norm_of(block.ffn_norm),
        "up": _linear_of(ffn.gate_up if ffn.kind == "swiglu" else ffn.up),
        "down": _linear_of(ffn.down),
    }


def _number(stored: Any) -> Any:
    """A weight as a number: compiled code alone calls it."""
    raise NotImplementedError


@overload(_number, inline="always")
def _number_of(stored: Any) -> Any:
    def plain(stored: Any) -> Any:
        return stored

    def bf16(stored: Any) -> Any:  # the upper half of fp32
        return np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)

    return bf16 if isinstance(stored, types.Integer) else plain


@_loop
def _multiply(weight: Array, bias: Array, x: Array, y: Array, add: bool) -> None:
    """Products of a matrix [outputs, inputs] with vectors [B, inputs], into or added to [B, outputs]."""
    outputs, inputs = weight.shape
    for o in range(outputs):
        for b in range(len(x)):  # a row of the matrix stays in the nearest cache meanwhile
            total = np.float32(0)
            for i in range(inputs):
                total += _number(weight[o, i]) * x[b, i]
            if len(bias):
                total += bias[o]
            y[b, o] = y[b, o] + total if add else total


@_loop
def _normalise(x: Array, weight: Array, bias: Array, epsilon: float, centred: bool, y: Array) -> None:
    """RMSNorm, or where `centred` LayerNorm, of vectors [B, D]."""
    size = x.shape[1]
    for b in range(len(x)):
        mean, square = np.float32(0), np.float32(0)
        if centred:
            for i in range(size):
                mean += x[b, i]
            mean /= np.float32(size)
        for i in range(size):
            square += (x[b, i] - mean) * (x[b, i] - mean)
        scale = np.float32(1) / np.sqrt(square / np.float32(size) + np.float32(epsilon))
        for i in range(size):
            y[b, i] = (x[b, i] - mean) * scale * weight[i]
            if len(bias):
                y[b, i] += bias[i]


@_loop
def _keep(
    qkv: Array, q_norm: Array, k_norm: Array, epsilon: float, cos: Array, sin: Array, place_B: Array,
    keys: Array, values: Array, at: int,
) -> None:  # fmt: skip
    """Normalise and turn queries and keys where they are, and keep keys and values as position `at`."""
    B, K, _, E = keys.shape
    H = qkv.shape[1] // E - 2 * K
    half = cos.shape[1]
    for b in range(B):
        for h in range(H + K):
            head = qkv[b, h * E : h * E + E]
            norm = q_norm if h < H else k_norm
            if len(norm):
                square = np.float32(0)
                for e in range(E):
                    square += head[e] * head[e]
                scale = np.float32(1) / np.sqrt(square / np.float32(E) + np.float32(epsilon))
                for e in range(E):
                    head[e] *= scale * norm[e]
            for e in range(half):
                c, s = cos[place_B[b], e], sin[place_B[b], e]
                first, second = head[e], head[e + half]
                head[e] = first * c - second * s
                head[e + half] = second * c + first * s
        for k in range(K):
            for e in range(E):
                keys[b, k, at, e] = qkv[b, (H + k) * E + e]
                values[b, k, at, e] = qkv[b, (H + K + k) * E + e]


@_loop
def _attend(qkv: Array, keys: Array, values: Array, first_B: Array, at: int, scores_HS: Array, mixed: Array) -> None:
    """Attention of the position `at` to those from the beginning of each text up to itself."""
    B, K, _, E = keys.shape
    H = mixed.shape[1] // E
    group, scale = H // K, np.float32(1 / math.sqrt(E))
    for b in range(B):
        first = first_B[b]
        for h in range(H):
            k, scores = h // group, scores_HS[h]
            largest = np.float32(-np.inf)
            for s in range(first, at + 1):
                score = np.float32(0)
                for e in range(E):
                    score += qkv[b, h * E + e] * keys[b, k, s, e]
                scores[s] = score * scale
                largest = max(largest, scores[s])
            total = np.float32(0)
            for s in range(first, at + 1):
                scores[s] = np.exp(scores[s] - largest)
                total += scores[s]
            for e in range(E):
                mixed[b, h * E + e] = 0
            for s in range(first, at + 1):
                share = scores[s] / total
                for e in range(E):
                    mixed[b, h * E + e] += share * values[b, k, s, e]


@_loop
def _activate(kind: int, inner: Array, active_BF: Array) -> None:
    """SwiGLU of gates and values that stand side by side (0), GELU by its tanh form (1), or squared ReLU (2)."""
    B, F = active_BF.shape
    one = np.float32(1)
    for b in range(B):
        for f in range(F):
            x = inner[b, f]
            if kind == 0:
                active_BF[b, f] = x / (one + np.exp(-x)) * inner[b, F + f]
            elif kind == 1:
                inside = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
                active_BF[b, f] = np.float32(0.5) * x * (one + np.tanh(inside))
            else:
                active_BF[b, f] = max(x, np.float32(0)) * max(x, np.float32(0))

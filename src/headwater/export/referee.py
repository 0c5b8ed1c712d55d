"""An independent reader of exported files: NumPy alone, written from the conventions of each format and not from our model.

It shares no code with `model`: it opens safetensors by their layout on disk and GGUF with the package gguf, and it
computes a Llama or Qwen3 the plain way, whole matrices at a time, in fp32. Slow, and short enough to be checked by eye.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Get = Callable[[str], Array]


class UnknownModelError(Exception):
    """The referee does not know how to compute this model."""


@dataclass(frozen=True)
class Model:
    """What a file says of a model, and its tensors by the names of the format."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    theta: float
    epsilon: float
    interleaved: bool
    """Rotary positions turn numbers e and e + 1 of a head, not e and e + head_size / 2."""
    get: Get
    """A tensor by its name, fp32, rows first."""
    names: Mapping[str, str]
    """Part -> name of its tensor; {} stands for the number of the layer. Parts that a model lacks are not in it."""


HUGGING_FACE = {
    "embedding": "model.embed_tokens.weight",
    "last_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "norm_1": "model.layers.{}.input_layernorm.weight",
    "q": "model.layers.{}.self_attn.q_proj.weight",
    "k": "model.layers.{}.self_attn.k_proj.weight",
    "v": "model.layers.{}.self_attn.v_proj.weight",
    "o": "model.layers.{}.self_attn.o_proj.weight",
    "q_norm": "model.layers.{}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{}.self_attn.k_norm.weight",
    "norm_2": "model.layers.{}.post_attention_layernorm.weight",
    "gate": "model.layers.{}.mlp.gate_proj.weight",
    "up": "model.layers.{}.mlp.up_proj.weight",
    "down": "model.layers.{}.mlp.down_proj.weight",
}
GGUF = {
    "embedding": "token_embd.weight",
    "last_norm": "output_norm.weight",
    "head": "output.weight",
    "norm_1": "blk.{}.attn_norm.weight",
    "q": "blk.{}.attn_q.weight",
    "k": "blk.{}.attn_k.weight",
    "v": "blk.{}.attn_v.weight",
    "o": "blk.{}.attn_output.weight",
    "q_norm": "blk.{}.attn_q_norm.weight",
    "k_norm": "blk.{}.attn_k_norm.weight",
    "norm_2": "blk.{}.ffn_norm.weight",
    "gate": "blk.{}.ffn_gate.weight",
    "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight",
}
PLAIN = {
    "embedding": "embedding.weight",
    "last_norm": "norm.weight",
    "head": "head.weight",
    "norm_1": "blocks.{}.attention_norm.weight",
    "qkv": "blocks.{}.attention.qkv.weight",
    "o": "blocks.{}.attention.out.weight",
    "q_norm": "blocks.{}.attention.q_norm.weight",
    "k_norm": "blocks.{}.attention.k_norm.weight",
    "norm_2": "blocks.{}.ffn_norm.weight",
    "gate_up": "blocks.{}.ffn.gate_up.weight",
    "down": "blocks.{}.ffn.down.weight",
}
"""Where each format keeps what. Source: transformers' modeling_llama.py and modeling_qwen3.py; llama.cpp's llama-arch.cpp."""


def read_huggingface(folder: Path) -> Model:
    """Open a Hugging Face folder.

    Raises:
        UnknownModelError: it is no plain Llama or Qwen3.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in ("llama", "mistral", "qwen3") or config.get("hidden_act") != "silu":
        raise UnknownModelError(config["model_type"])
    tensors = read_safetensors(folder / "model.safetensors")
    return Model(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_size=config["head_dim"],
        theta=config["rope_parameters"]["rope_theta"],
        epsilon=config["rms_norm_eps"],
        interleaved=False,
        get=tensors.__getitem__,
        names=_present(HUGGING_FACE, tensors),
    )


def read_gguf(path: Path) -> Model:
    """Open a GGUF file, and turn what is quantised in it back into numbers.

    Raises:
        UnknownModelError: it is no Llama or Qwen3.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def value(key: str) -> Any:
        field = reader.get_field(key)
        assert field is not None, f"{path} has no {key}"
        return field.contents()

    def get(name: str) -> Array:
        shape = [int(size) for size in reversed(tensors[name].shape)]
        return np.asarray(dequantize(tensors[name].data, tensors[name].tensor_type), np.float32).reshape(shape)

    kind = value("general.architecture")
    if kind not in ("llama", "qwen3"):
        raise UnknownModelError(kind)
    return Model(
        layers=value(f"{kind}.block_count"),
        heads=value(f"{kind}.attention.head_count"),
        kv_heads=value(f"{kind}.attention.head_count_kv"),
        head_size=value(f"{kind}.rope.dimension_count"),
        theta=value(f"{kind}.rope.freq_base"),
        epsilon=value(f"{kind}.attention.layer_norm_rms_epsilon"),
        interleaved=kind == "llama",
        get=get,
        names=_present(GGUF, tensors),
    )


def read_plain(folder: Path) -> Model:
    """Open a folder of plain safetensors with its model.json.

    Raises:
        UnknownModelError: it has tensors that are not of a Llama or Qwen3.
    """
    config = json.loads((folder / "model.json").read_text(encoding="utf-8"))["model"]
    tensors = read_safetensors(folder / "weights.safetensors")
    if extra := tensors.keys() - {
        name.format(layer) for name in PLAIN.values() for layer in range(config["num_layers"])
    }:
        raise UnknownModelError(min(extra))
    return Model(
        layers=config["num_layers"],
        heads=config["num_heads"],
        kv_heads=config["num_kv_heads"],
        head_size=config["head_size"],
        theta=config["rope_theta"],
        epsilon=config["norm_epsilon"],
        interleaved=False,
        get=tensors.__getitem__,
        names=_present(PLAIN, tensors),
    )


def read_safetensors(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file as fp32.

    Source: the format's specification: 8 bytes, the size of a JSON header; the header; the numbers, end to end.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        content = file.read()
    header.pop("__metadata__", None)
    found = {}
    for name, at in header.items():
        raw = content[slice(*at["data_offsets"])]
        if at["dtype"] == "BF16":  # the upper half of an fp32
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[at["dtype"]]).astype(np.float32)
        found[name] = values.reshape(at["shape"])
    return found


def logits(model: Model, rows: list[list[int]]) -> list[Array]:
    """The logits of the token after each position of each row [positions, vocabulary] fp32."""
    embedding = model.get(model.names["embedding"])
    streams = [embedding[row] for row in rows]
    for layer in range(model.layers):
        part = _parts(model, layer)
        for index, x in enumerate(streams):
            x = x + _attention(model, part, _norm(x, part["norm_1"], model.epsilon))
            streams[index] = x + _feed_forward(part, _norm(x, part["norm_2"], model.epsilon))
    head = model.get(model.names["head"]) if "head" in model.names else embedding
    last = model.get(model.names["last_norm"])
    return [_norm(x, last, model.epsilon) @ head.T for x in streams]


def _attention(model: Model, part: Mapping[str, Array], x: Array) -> Array:
    """Each position's mix of the values of the positions up to its own [positions, hidden]."""
    length, size = len(x), model.head_size
    q = (x @ part["q"].T).reshape(length, model.heads, size).swapaxes(0, 1)
    k = (x @ part["k"].T).reshape(length, model.kv_heads, size).swapaxes(0, 1)
    v = (x @ part["v"].T).reshape(length, model.kv_heads, size).swapaxes(0, 1)
    if "q_norm" in part:
        q, k = _norm(q, part["q_norm"], model.epsilon), _norm(k, part["k_norm"], model.epsilon)
    q, k = _rotate(model, q), _rotate(model, k)
    k, v = (np.repeat(each, model.heads // model.kv_heads, axis=0) for each in (k, v))
    scores = q @ k.swapaxes(1, 2) / np.float32(size) ** 0.5
    scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    return mixed.swapaxes(0, 1).reshape(length, -1) @ part["o"].T


def _rotate(model: Model, x: Array) -> Array:
    """Turn pairs of numbers by an angle that grows with the position [heads, positions, head_size]."""
    frequency = model.theta ** -(np.arange(0, model.head_size, 2) / model.head_size)
    angle = np.outer(np.arange(x.shape[1]), frequency)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    half = model.head_size // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if model.interleaved else (x[..., :half], x[..., half:])
    turned = np.stack([a * cos - b * sin, a * sin + b * cos])
    if model.interleaved:
        return np.moveaxis(turned, 0, -1).reshape(x.shape)
    return np.concatenate(list(turned), axis=-1)


def _feed_forward(part: Mapping[str, Array], x: Array) -> Array:
    gate = x @ part["gate"].T
    return (gate / (1 + np.exp(-gate)) * (x @ part["up"].T)) @ part["down"].T


def _norm(x: Array, weight: Array, epsilon: float) -> Array:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(epsilon)) * weight


def _parts(model: Model, layer: int) -> dict[str, Array]:
    """The tensors of one layer by part; those that a format joins are taken apart."""
    part = {key: model.get(name.format(layer)) for key, name in model.names.items() if "{}" in name}
    if "qkv" in part:
        width, kv = model.heads * model.head_size, model.kv_heads * model.head_size
        part["q"], part["k"], part["v"] = np.split(part.pop("qkv"), [width, width + kv])
    if "gate_up" in part:
        part["gate"], part["up"] = np.split(part.pop("gate_up"), 2)
    return part


def _present(names: Mapping[str, str], tensors: Mapping[str, Any]) -> dict[str, str]:
    return {key: name for key, name in names.items() if name.format(0) in tensors}

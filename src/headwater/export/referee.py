"""An independent reader of exported files: NumPy alone, written from the conventions of each format and not from our model.

It shares no code with `model`: it opens safetensors by their layout on disk and GGUF with the package gguf, and it
computes the plain way, whole matrices at a time, in fp32: Llama, Qwen3, Arcee and GPT-2. Slow, and short enough to be
checked by eye.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Part = Mapping[str, Array]


class UnknownModelError(Exception):
    """The referee does not know how to compute this model."""


@dataclass(frozen=True)
class Model:
    """What a file says of a model, and its tensors by the names of the format."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    get: Callable[[str], Array]
    """A tensor by its name, fp32, rows first."""
    names: Mapping[str, str]
    """Part -> name of its tensor; {} stands for the number of the layer. Parts that a model lacks are not in it."""
    theta: float | None = None
    """Base of the rotary positions; None where positions are learnt."""
    interleaved: bool = False
    """Rotary positions turn numbers e and e + 1 of a head, not e and e + head_size / 2."""
    transposed: bool = False
    """Matrices of the layers stand as [inputs, outputs]."""
    activation: str = "silu"
    """`silu` of a gate that multiplies, or `relu2` or `gelu` without a gate."""
    centred: bool = False
    """Norms take the mean off first: LayerNorm and not RMSNorm."""


def _with_biases(names: Mapping[str, str]) -> dict[str, str]:
    """The same parts, and their biases: `q` and `q.bias`."""
    return {
        key: name
        for part, weight in names.items()
        for key, name in ((part, weight), (f"{part}.bias", weight.removesuffix("weight") + "bias"))
    }


HUGGING_FACE = _with_biases(
    {
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
)
GPT2 = _with_biases(
    {
        "embedding": "transformer.wte.weight",
        "positions": "transformer.wpe.weight",
        "last_norm": "transformer.ln_f.weight",
        "head": "lm_head.weight",
        "norm_1": "transformer.h.{}.ln_1.weight",
        "qkv": "transformer.h.{}.attn.c_attn.weight",
        "o": "transformer.h.{}.attn.c_proj.weight",
        "norm_2": "transformer.h.{}.ln_2.weight",
        "up": "transformer.h.{}.mlp.c_fc.weight",
        "down": "transformer.h.{}.mlp.c_proj.weight",
    }
)
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
PLAIN = _with_biases(
    {
        "embedding": "embedding.weight",
        "positions": "positions.weight",
        "last_norm": "norm.weight",
        "head": "head.weight",
        "norm_1": "blocks.{}.attention_norm.weight",
        "qkv": "blocks.{}.attention.qkv.weight",
        "o": "blocks.{}.attention.out.weight",
        "q_norm": "blocks.{}.attention.q_norm.weight",
        "k_norm": "blocks.{}.attention.k_norm.weight",
        "norm_2": "blocks.{}.ffn_norm.weight",
        "gate_up": "blocks.{}.ffn.gate_up.weight",
        "up": "blocks.{}.ffn.up.weight",
        "down": "blocks.{}.ffn.down.weight",
    }
)
"""Where each format keeps what. Source: transformers' modeling_llama.py, modeling_qwen3.py, modeling_arcee.py and
modeling_gpt2.py; llama.cpp's llama-arch.cpp; the last is Headwater's own."""


def read_huggingface(folder: Path) -> Model:
    """Open a Hugging Face folder.

    Raises:
        UnknownModelError: it is of another family.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = read_safetensors(folder / "model.safetensors")
    kind = config["model_type"]
    activation = config.get("hidden_act") or config.get("activation_function")
    known = {"llama": "silu", "qwen3": "silu", "arcee": "relu2", "gpt2": "gelu_new"}
    if known.get(kind) != activation:
        raise UnknownModelError(f"{kind}, {activation}")
    if kind == "gpt2":
        return Model(
            layers=config["n_layer"],
            heads=config["n_head"],
            kv_heads=config["n_head"],
            head_size=config["n_embd"] // config["n_head"],
            epsilon=config["layer_norm_epsilon"],
            get=tensors.__getitem__,
            names=_present(GPT2, tensors),
            transposed=True,
            activation="gelu",
            centred=True,
        )
    return Model(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_size=config["head_dim"],
        epsilon=config["rms_norm_eps"],
        get=tensors.__getitem__,
        names=_present(HUGGING_FACE, tensors),
        theta=config["rope_parameters"]["rope_theta"],
        activation=activation,
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
        epsilon=value(f"{kind}.attention.layer_norm_rms_epsilon"),
        get=get,
        names=_present(GGUF, tensors),
        theta=value(f"{kind}.rope.freq_base"),
        interleaved=kind == "llama",
    )


def read_plain(folder: Path) -> Model:
    """Open a folder of plain safetensors with its model.json.

    Raises:
        UnknownModelError: it has tensors of other kinds.
    """
    config = json.loads((folder / "model.json").read_text(encoding="utf-8"))["model"]
    tensors = read_safetensors(folder / "weights.safetensors")
    known = {name.format(layer) for name in PLAIN.values() for layer in range(config["num_layers"])}
    if extra := tensors.keys() - known:
        raise UnknownModelError(min(extra))
    return Model(
        layers=config["num_layers"],
        heads=config["num_heads"],
        kv_heads=config["num_kv_heads"],
        head_size=config["head_size"],
        epsilon=config["norm_epsilon"],
        get=tensors.__getitem__,
        names=_present(PLAIN, tensors),
        theta=config["rope_theta"] if config["positions"] == "rotary" else None,
        activation={"swiglu": "silu", "relu2": "relu2", "gelu": "gelu"}[config["ffn"]],
        centred=config["norm"] == "layer",
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
    outer = {key: model.get(name) for key, name in model.names.items() if "{}" not in name}
    streams = [outer["embedding"][row] for row in rows]
    if model.theta is None:
        streams = [x + outer["positions"][: len(x)] for x in streams]
    for layer in range(model.layers):
        part = _parts(model, layer)
        for index, x in enumerate(streams):
            x = x + _attention(model, part, _norm(model, part, "norm_1", x))
            streams[index] = x + _feed_forward(model, part, _norm(model, part, "norm_2", x))
    head = outer.get("head", outer["embedding"])
    return [_norm(model, outer, "last_norm", x) @ head.T for x in streams]


def _attention(model: Model, part: Part, x: Array) -> Array:
    """Each position's mix of the values of the positions up to its own [positions, hidden]."""
    length, size = len(x), model.head_size
    q = _product(part, "q", x).reshape(length, model.heads, size).swapaxes(0, 1)
    k = _product(part, "k", x).reshape(length, model.kv_heads, size).swapaxes(0, 1)
    v = _product(part, "v", x).reshape(length, model.kv_heads, size).swapaxes(0, 1)
    if "q_norm" in part:
        q, k = _norm(model, part, "q_norm", q), _norm(model, part, "k_norm", k)
    if model.theta is not None:
        q, k = _rotate(model, model.theta, q), _rotate(model, model.theta, k)
    k, v = (np.repeat(each, model.heads // model.kv_heads, axis=0) for each in (k, v))
    scores = q @ k.swapaxes(1, 2) / np.sqrt(np.float32(size))
    scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    return _product(part, "o", mixed.swapaxes(0, 1).reshape(length, -1))


def _rotate(model: Model, theta: float, x: Array) -> Array:
    """Turn pairs of numbers by an angle that grows with the position [heads, positions, head_size]."""
    frequency = theta ** -(np.arange(0, model.head_size, 2) / model.head_size)
    angle = np.outer(np.arange(x.shape[1]), frequency)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    half = model.head_size // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if model.interleaved else (x[..., :half], x[..., half:])
    turned = np.stack([a * cos - b * sin, a * sin + b * cos])
    if model.interleaved:
        return np.moveaxis(turned, 0, -1).reshape(x.shape)
    return np.concatenate(list(turned), axis=-1)


def _feed_forward(model: Model, part: Part, x: Array) -> Array:
    up = _product(part, "up", x)
    if model.activation == "silu":
        gate = _product(part, "gate", x)
        inner = gate / (1 + np.exp(-gate)) * up
    elif model.activation == "relu2":
        inner = np.square(np.maximum(up, 0))
    else:  # the approximation by tanh, which transformers calls gelu_new
        inner = 0.5 * up * (1 + np.tanh(np.sqrt(np.float32(2 / np.pi)) * (up + np.float32(0.044715) * up**3)))
    return _product(part, "down", inner)


def _product(part: Part, name: str, x: Array) -> Array:
    return x @ part[name].T + part.get(f"{name}.bias", np.float32(0))


def _norm(model: Model, part: Part, name: str, x: Array) -> Array:
    if model.centred:
        x = x - x.mean(axis=-1, keepdims=True)
    scaled = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(model.epsilon))
    return scaled * part[name] + part.get(f"{name}.bias", np.float32(0))


def _parts(model: Model, layer: int) -> dict[str, Array]:
    """The tensors of one layer by part; those that a format joins are taken apart."""
    part = {key: model.get(name.format(layer)) for key, name in model.names.items() if "{}" in name}
    if model.transposed:
        part = {key: values.T for key, values in part.items()}  # of a vector it is the same
    width, kv = model.heads * model.head_size, model.kv_heads * model.head_size
    for end in ("", ".bias"):
        if f"qkv{end}" in part:
            part |= zip(
                (f"q{end}", f"k{end}", f"v{end}"), np.split(part.pop(f"qkv{end}"), [width, width + kv]), strict=True
            )
        if f"gate_up{end}" in part:
            part |= zip((f"gate{end}", f"up{end}"), np.split(part.pop(f"gate_up{end}"), 2), strict=True)
    return part


def _present(names: Mapping[str, str], tensors: Mapping[str, Any]) -> dict[str, str]:
    return {key: name for key, name in names.items() if name.format(0) in tensors}

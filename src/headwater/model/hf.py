"""Models to and from Hugging Face folders, without the library: plain Llama and Qwen3, number by number the same.

Here queries, keys and values are one matrix, and so are gate and up; there they are apart. Everything else has only
another name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from headwater.core.errors import InputError, MismatchError
from headwater.core.store import atomic_path, read_json, write_json
from headwater.model.config import ModelConfig
from headwater.model.transformer import Transformer

ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
PADDING_ROWS = 512
"""Rows of a model that no token uses are taken for padding when there are fewer than this. Source: Qwen3 has 267, GPT-2
in the form of nanoGPT 47."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_IMPORT_HINT = f"models that can be imported are {' and '.join(ARCHITECTURES)} without extras, as .safetensors"

_OUTER_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "attention_norm.weight": ("input_layernorm.weight",),
    "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention.q_norm.weight": ("self_attn.q_norm.weight",),
    "attention.k_norm.weight": ("self_attn.k_norm.weight",),
    "attention.out.weight": ("self_attn.o_proj.weight",),
    "ffn_norm.weight": ("post_attention_layernorm.weight",),
    "ffn.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "ffn.down.weight": ("mlp.down_proj.weight",),
}


def write_folder(folder: Path, model: Transformer, tokenizer: Path, dtype: str = "float32") -> None:
    """Write model and tokenizer as a folder that transformers loads with its Auto classes.

    Args:
        folder: where.
        model: the model.
        tokenizer: folder with tokenizer.json.
        dtype: number format of the weights.

    Raises:
        MismatchError: the tokenizer has more tokens than the model has rows.
    """
    check_vocabulary(model.config.vocab_size, tokenizer)
    separator = separator_id(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "model.safetensors") as temporary:
        tensors = {name: t.to(_DTYPES[dtype]).contiguous() for name, t in to_huggingface(model).items()}
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", {**huggingface_config(model.config, separator), "dtype": dtype})
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": separator, "eos_token_id": separator, "pad_token_id": separator},
    )
    copy_tokenizer(tokenizer, folder)


def copy_tokenizer(tokenizer: Path, folder: Path) -> None:
    """Copy what a tokenizer folder holds of a tokenizer."""
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)


def read_folder(folder: Path) -> Transformer:
    """Load a Llama or Qwen3 model from a Hugging Face folder, in fp32.

    Raises:
        InputError: a file is missing or cannot be read.
        MismatchError: the model is not one that this code computes exactly; names what differs.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("there is no config.json here", place=str(folder), hint="check initialize.path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read ({error})", place=str(path), hint="download the model again") from None
    config = model_config(values, str(path))
    with torch.device("meta"):
        model = Transformer(config)
    weights = from_huggingface(_read_tensors(folder), model, str(folder))
    model.load_state_dict(weights, assign=True)
    model.reset_buffers("cpu")
    return model


def architecture(config: ModelConfig) -> str:
    """The class of transformers that computes this model."""
    return "Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"


def huggingface_config(config: ModelConfig, separator: int) -> dict[str, Any]:
    """The content of config.json."""
    name = architecture(config)
    values: dict[str, Any] = {
        "architectures": [name],
        "model_type": ARCHITECTURES[name],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,  # where transformers 4 looks
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},  # where transformers 5 looks
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "use_cache": True,
        "bos_token_id": separator,
        "eos_token_id": separator,
        "pad_token_id": separator,
    }
    return values if config.qk_norm else {**values, "mlp_bias": False}


def model_config(values: Mapping[str, Any], place: str) -> ModelConfig:
    """The shape that a config.json describes.

    Raises:
        MismatchError: the model is not one that this code computes exactly; names what differs.
    """
    name = (values.get("architectures") or ["none"])[0]
    if name not in ARCHITECTURES:
        raise MismatchError(f"the architecture is {name}", place=place, hint=_IMPORT_HINT)
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    window = values.get("use_sliding_window", False) and values.get("sliding_window")
    expected = {
        "hidden_act": (values.get("hidden_act", "silu"), "silu"),
        "attention_bias": (values.get("attention_bias", False), False),
        "mlp_bias": (values.get("mlp_bias", False), False),
        "rope_type": (rope_type, "default"),
        "sliding_window": (window or None, None),
        "quantization_config": (values.get("quantization_config"), None),
    }
    for key, (found, wanted) in expected.items():
        if found != wanted:
            raise MismatchError(f"{key} is {found!r}, expected {wanted!r}", place=place, hint=_IMPORT_HINT)
    try:
        return ModelConfig(
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            num_layers=values["num_hidden_layers"],
            num_heads=values["num_attention_heads"],
            num_kv_heads=values.get("num_key_value_heads") or values["num_attention_heads"],
            head_size=values.get("head_dim") or _default_head_size(name, values),
            ffn_size=values["intermediate_size"],
            context_length=values.get("max_position_embeddings", 2048 if name == "LlamaForCausalLM" else 32_768),
            rope_theta=rope.get("rope_theta") or values.get("rope_theta") or 10_000.0,
            norm_epsilon=values.get("rms_norm_eps", 1e-6),
            tie_embeddings=values.get("tie_word_embeddings", False),
            qk_norm=name == "Qwen3ForCausalLM",
            init_std=values.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise MismatchError(f"there is no setting {error}", place=place, hint=_IMPORT_HINT) from None
    except ValidationError as error:
        raise MismatchError(error.errors()[0]["msg"], place=place, hint=_IMPORT_HINT) from None


def to_huggingface(model: Transformer) -> dict[str, Tensor]:
    """The weights under the names of transformers."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        names = _huggingface_names(name)
        tensors |= (
            dict(zip(names, tensor.split(_rows(name, len(names), model.config)), strict=True))
            if len(names) > 1
            else {names[0]: tensor}
        )
    return tensors


def from_huggingface(tensors: Mapping[str, Tensor], model: Transformer, place: str) -> dict[str, Tensor]:
    """The weights of a Hugging Face model under the names of `model`, in fp32.

    Raises:
        MismatchError: a tensor is missing, is one too many, or has another shape.
    """
    tensors = {name: t for name, t in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    if model.config.tie_embeddings:
        tensors.pop("lm_head.weight", None)  # some writers store the tied matrix twice
    weights: dict[str, Tensor] = {}
    for name, expected in model.state_dict().items():
        names = _huggingface_names(name)
        missing = [part for part in names if part not in tensors]
        if missing:
            raise MismatchError(f"tensor {missing[0]} is missing", place=place, hint=_IMPORT_HINT)
        rows = _rows(name, len(names), model.config) if len(names) > 1 else [expected.shape[0]]
        for part, count in zip(names, rows, strict=True):
            shape = (count, *expected.shape[1:])
            if tuple(tensors[part].shape) != shape:
                problem = f"tensor {part} is {tuple(tensors[part].shape)}, expected {shape}"
                raise MismatchError(problem, place=place, hint="config.json and weights do not belong together")
        weights[name] = torch.cat([tensors.pop(part).float() for part in names])
    if tensors:
        raise MismatchError(f"tensor {min(tensors)} has no place in the model", place=place, hint=_IMPORT_HINT)
    return weights


def check_vocabulary(rows: int, tokenizer: Path) -> None:
    """Make sure that a model and a tokenizer fit: as many rows as tokens, but for some rows of padding.

    Args:
        rows: vocab_size of the model.
        tokenizer: folder with tokenizer.json.

    Raises:
        MismatchError: they do not; names both numbers.
    """
    tokens = vocabulary_size(tokenizer)
    if not 0 <= rows - tokens < PADDING_ROWS:
        raise MismatchError(
            f"the model has {rows:,} rows for tokens and the tokenizer has {tokens:,} tokens",
            place=str(tokenizer),
            hint="use the tokenizer that belongs to the model",
        )


def vocabulary_size(tokenizer: Path) -> int:
    """Token types of the tokenizer in a folder: the highest id plus one."""
    return max(_load_tokenizer(tokenizer).get_vocab().values()) + 1


def token_ids(tokenizer: Path, text: str) -> list[int]:
    """A text as tokens of the tokenizer in a folder, without any that stand for its beginning or end."""
    return _load_tokenizer(tokenizer).encode(text, add_special_tokens=False).ids


def separator_id(tokenizer: Path) -> int:
    """Id of the token between documents: what tokenizer_config.json calls the end-of-sequence token.

    Raises:
        MismatchError: the tokenizer names no such token.
    """
    path = tokenizer / "tokenizer_config.json"
    token = read_json(path).get("eos_token")
    token = token["content"] if isinstance(token, dict) else token
    found = _load_tokenizer(tokenizer).token_to_id(token) if token else None
    if found is None:
        raise MismatchError("names no eos_token of the tokenizer", place=str(path), hint="set eos_token there")
    return found


def _load_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"cannot be read ({error})", place=str(path), hint="check the tokenizer folder") from None


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        problem = "there are no .safetensors files here"
        if list(folder.glob("*.bin")):
            problem += ", only .bin files, which may run code when they are read"
        raise InputError(problem, place=str(folder), hint="convert the model to safetensors")
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        except (SafetensorError, OSError) as error:
            raise InputError(f"cannot be read ({error})", place=str(path), hint="download the model again") from None
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted({*read_json(index)["weight_map"].values()} - {path.name for path in paths})
        if missing:
            raise InputError(f"{missing[0]} is missing", place=str(folder), hint="download the model again")
    return tensors


def _huggingface_names(name: str) -> list[str]:
    if name in _OUTER_NAMES:
        return [_OUTER_NAMES[name]]
    _, layer, inner = name.split(".", 2)
    return [f"model.layers.{layer}.{part}" for part in _BLOCK_NAMES[inner]]


def _rows(name: str, parts: int, config: ModelConfig) -> list[int]:
    """Rows of each part of a joint matrix."""
    if parts == 2:
        return [config.ffn_size, config.ffn_size]
    assert parts == 3, f"{name} has {parts} parts"
    kv = config.num_kv_heads * config.head_size
    return [config.num_heads * config.head_size, kv, kv]


def _default_head_size(name: str, values: Mapping[str, Any]) -> int:
    """Source: Qwen3Config fixes head_dim at 128 where it is absent; LlamaConfig divides."""
    return 128 if name == "Qwen3ForCausalLM" else values["hidden_size"] // values["num_attention_heads"]

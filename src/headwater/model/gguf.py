"""Models to and from GGUF files, as llama.cpp runs them: Llama and Qwen3.

Everything goes by way of the Hugging Face names, config.json included, so that what does not fit is found by the same
code. One thing is more than a name: llama.cpp turns neighbouring numbers of a Llama's queries and keys by their
position, number e and e + 1 where transformers and Headwater turn e and e + head_size / 2. The rows of both matrices
change places accordingly. Qwen3 keeps its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headwater.core.errors import MismatchError
from headwater.core.gguf import GgufFile
from headwater.core.units import format_count
from headwater.model.families import architecture as class_of
from headwater.model.families import model_config
from headwater.model.metadata import ARCHITECTURES, HINT, huggingface_values
from headwater.model.names import from_huggingface, to_huggingface
from headwater.model.shape import ModelConfig
from headwater.model.transformer import Transformer

_INTERLEAVED = ("llama",)
"""Architectures whose rotary positions turn neighbouring numbers. Source: llama.cpp, llama_model_rope_type."""
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""Number format of an export -> tensor type. Vectors are always F32, as llama.cpp demands."""
_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}


def read_file(path: Path) -> tuple[Transformer, dict[str, int]]:
    """Load a model from a GGUF file, in fp32.

    Returns:
        The model, and in which types its tensors were kept: type -> count.

    Raises:
        InputError: the file is missing, cut off, or no GGUF.
        MismatchError: the model is not one that this code computes exactly; names what differs.
    """
    file = GgufFile(path)
    config = model_config(huggingface_values(file), str(path))
    names = tensor_names(file.get("general.architecture"), config)
    _check_names(file, config, names)
    tensors = {name: torch.from_numpy(_read(file, there, name, config)) for name, there in names.items()}
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(from_huggingface(tensors, model, str(path)), assign=True)
    model.reset_buffers("cpu")
    return model, file.types


def write_file(
    path: Path,
    model: Transformer,
    tokenizer: Mapping[str, Any],
    dtype: str = "float32",
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a model as a GGUF file that llama.cpp loads.

    Args:
        path: where.
        model: the model.
        tokenizer: its tokenizer as metadata, see `tokens.gguf.metadata`, and the ids of its special tokens.
        dtype: number format of the matrices: float32, float16, bfloat16 or q8_0.
        facts: more metadata, such as general.license.

    Raises:
        MismatchError: llama.cpp has no architecture for this model, or its rows do not divide into blocks of q8_0.
    """
    import gguf

    config = model.config
    kind = architecture(config)
    wanted = gguf.GGMLQuantizationType[TYPES[dtype]]
    writer = gguf.GGUFWriter(path, kind)
    _write_shape(writer, config)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[TYPES[dtype]]])
    if dtype == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in {**(facts or {}), **tokenizer}.items():
        _add(writer, key, value)
    tensors = to_huggingface(model)
    for name, there in tensor_names(kind, config).items():
        values = _permuted(tensors[name].detach().float().cpu().numpy(), name, config, kind)
        as_type = wanted if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        try:
            writer.add_tensor(there, gguf.quants.quantize(values, as_type), raw_dtype=as_type)
        except gguf.quants.QuantError as error:
            writer.close()
            problem = f"tensor {there} cannot be written as {as_type.name} ({error})"
            raise MismatchError(problem, place="export.dtype", hint="choose float16 or bfloat16") from None
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def architecture(config: ModelConfig) -> str:
    """The architecture of llama.cpp that computes this model.

    Raises:
        MismatchError: there is none.
    """
    name = class_of(config)
    for kind, known in ARCHITECTURES.items():
        if known == name and not config.bias:
            return kind
    hint = f"GGUF files can be written of {' and '.join(ARCHITECTURES.values())} without biases; choose huggingface"
    raise MismatchError(f"this {name} cannot be written to GGUF", place="export.format", hint=hint)


def tensor_names(kind: str, config: ModelConfig) -> dict[str, str]:
    """Hugging Face name -> GGUF name of every tensor of a model."""
    import gguf

    number = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[kind]
    known = gguf.get_tensor_name_map(number, config.num_layers)
    with torch.device("meta"):
        names = to_huggingface(Transformer(config))
    found = {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}
    unknown = [name for name, there in found.items() if there is None]
    assert not unknown, f"gguf has no name for {unknown} in {kind}"
    return {name: there for name, there in found.items() if there is not None}


def _write_shape(writer: Any, config: ModelConfig) -> None:
    writer.add_size_label(format_count(config.parameters()))
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_vocab_size(config.token_types)


def _add(writer: Any, key: str, value: Any) -> None:
    adders: dict[type, Callable[[str, Any], None]] = {
        str: writer.add_string,
        bool: writer.add_bool,
        int: writer.add_uint32,
        list: writer.add_array,
    }
    adders[type(value)](key, value)


def _check_names(file: GgufFile, config: ModelConfig, names: Mapping[str, str]) -> None:
    """Complain of tensors by the names that stand in the file."""
    place, found = str(file.path), file.shapes
    missing = [there for there in names.values() if there not in found]
    if missing:
        raise MismatchError(f"tensor {missing[0]} is missing", place=place, hint="download the model again")
    extra = sorted(found.keys() - set(names.values()))
    if extra:
        raise MismatchError(f"tensor {extra[0]} has no place in the model", place=place, hint=HINT)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in to_huggingface(Transformer(config)).items()}
    for name, there in names.items():
        if found[there] != shapes[name]:
            problem = f"tensor {there} is {found[there]}, expected {shapes[name]}"
            raise MismatchError(problem, place=place, hint="its metadata and tensors do not belong together")


def _read(file: GgufFile, there: str, name: str, config: ModelConfig) -> np.ndarray:
    values = file.tensor(there)
    heads = _rotated_heads(name, config, file.get("general.architecture"))
    return values if heads is None else _swap(values, heads, config.head_size // 2, 2)


def _permuted(values: np.ndarray, name: str, config: ModelConfig, kind: str) -> np.ndarray:
    heads = _rotated_heads(name, config, kind)
    return values if heads is None else _swap(values, heads, 2, config.head_size // 2)


def _rotated_heads(name: str, config: ModelConfig, kind: str) -> int | None:
    """Heads of a matrix whose rows change places; None for all others."""
    if kind not in _INTERLEAVED:
        return None
    return {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])


def _swap(values: np.ndarray, heads: int, first: int, second: int) -> np.ndarray:
    """Rows (head, first, second) become (head, second, first)."""
    rows = values.reshape(heads, first, second, *values.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(rows.reshape(values.shape))

"""What the metadata of a GGUF file say of a model's shape. No torch here."""

from __future__ import annotations

from typing import Any

import numpy as np

from headwater.core.errors import MismatchError
from headwater.core.gguf import GgufFile

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Architecture in `general.architecture` -> the class of transformers that computes the same."""
HINT = f"models that can be read from GGUF are {' and '.join(ARCHITECTURES)} without extras"


def huggingface_values(file: GgufFile) -> dict[str, Any]:
    """The metadata of a GGUF file in the words of a config.json.

    Raises:
        MismatchError: the architecture is unknown, a key is missing, or the model has parts that are not computed here.
    """
    place = str(file.path)
    kind = file.get("general.architecture", "none")
    if kind not in ARCHITECTURES:
        raise MismatchError(f"the architecture is {kind}", place=place, hint=HINT)
    heads = _number(file, f"{kind}.attention.head_count")
    head_size = int(file.get(f"{kind}.attention.key_length") or _number(file, f"{kind}.embedding_length") // heads)
    for key, expected in {
        f"{kind}.expert_count": 0,
        f"{kind}.rope.scaling.type": "none",
        f"{kind}.rope.dimension_count": head_size,
        f"{kind}.attention.value_length": head_size,
        f"{kind}.attention.sliding_window": 0,
    }.items():
        if (found := file.get(key, expected)) != expected:
            raise MismatchError(f"{key} is {found!r}, expected {expected!r}", place=place, hint=HINT)
    return {
        "architectures": [ARCHITECTURES[kind]],
        "vocab_size": file.shapes.get("token_embd.weight", (0,))[0],
        "hidden_size": _number(file, f"{kind}.embedding_length"),
        "num_hidden_layers": _number(file, f"{kind}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(file, f"{kind}.attention.head_count_kv", heads),
        "head_dim": head_size,
        "intermediate_size": _number(file, f"{kind}.feed_forward_length"),
        "max_position_embeddings": _number(file, f"{kind}.context_length"),
        "rope_parameters": {"rope_type": "default", "rope_theta": _as_written(file, f"{kind}.rope.freq_base", 1e4)},
        "rms_norm_eps": _as_written(file, f"{kind}.attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in file.shapes,
    }


def _number(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.get(key, default) if default is not None else file.need(key)
    if isinstance(value, list):
        if len(set(value)) > 1:
            raise MismatchError(f"{key} differs from layer to layer", place=str(file.path), hint=HINT)
        value = value[0]
    return int(value)


def _as_written(file: GgufFile, key: str, default: float | None = None) -> float:
    """A number that was meant as decimal: fp32 0.000009999999747 is 1e-05."""
    value = file.get(key, default) if default is not None else file.need(key)
    return float(str(np.float32(value)))

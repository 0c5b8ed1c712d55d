"""Models to and from Hugging Face folders, without the library, number by number the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from headwater.core.errors import InputError, MismatchError
from headwater.core.log import logger
from headwater.core.store import atomic_path, read_json, write_json
from headwater.model.families import huggingface_config, model_config, sliding_window
from headwater.model.names import from_huggingface, to_huggingface
from headwater.model.transformer import Transformer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
PADDING_ROWS = 512
"""Rows of a model that no token uses are taken for padding when there are fewer than this. Source: Qwen3 has 267, GPT-2
in the form of nanoGPT 47."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def write_folder(folder: Path, model: Transformer, tokenizer: Path, dtype: str = "float32") -> None:
    """Write model and tokenizer as a folder that transformers loads with its Auto classes.

    Args:
        folder: where.
        model: the model.
        tokenizer: folder with tokenizer.json.
        dtype: number format of the weights.

    Raises:
        MismatchError: the tokenizer has more tokens than the model can predict.
    """
    check_vocabulary(model.config.token_types, tokenizer)
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


def read_folder(
    folder: Path, *, allow_pickle: bool = False, warn: Callable[[str], object] = logger.warning
) -> Transformer:
    """Load a model of one of the families from a Hugging Face folder, in fp32.

    Args:
        folder: where config.json is.
        allow_pickle: read .bin files where there are no .safetensors.
        warn: told when the model is not taken over whole: when its context is cut to its sliding window.

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
    if (window := sliding_window(values)) and config.context_length == window < values["max_position_embeddings"]:
        warn(
            f"{folder}: the model sees {window:,} tokens back of {values['max_position_embeddings']:,}; it is taken with a "
            f"context of {window:,}, in which that makes no difference"
        )
    with torch.device("meta"):
        model = Transformer(config)
    weights = from_huggingface(_read_tensors(folder, allow_pickle), model, str(folder))
    model.load_state_dict(weights, assign=True)
    model.reset_buffers("cpu")
    return model


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


def _read_tensors(folder: Path, allow_pickle: bool) -> dict[str, Tensor]:
    paths, index = sorted(folder.glob("*.safetensors")), folder / "model.safetensors.index.json"
    if not paths:
        paths, index = sorted(folder.glob("*.bin")), folder / "pytorch_model.bin.index.json"
        if not paths:
            problem = "there are no .safetensors files here"
            raise InputError(problem, place=str(folder), hint="download the model again")
        if not allow_pickle:
            problem = "there are no .safetensors files here, only .bin files, which may run code when they are read"
            hint = "convert the model to safetensors, or, if you trust who made the files, set allow_pickle: true"
            raise InputError(problem, place=str(folder), hint=hint)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            if path.suffix == ".bin":
                tensors |= torch.load(path, map_location="cpu", weights_only=True)
                continue
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        except (SafetensorError, UnpicklingError, OSError, RuntimeError, EOFError, TypeError) as error:
            problem = f"cannot be read ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
            raise InputError(problem, place=str(path), hint="download the model again") from None
    if index.is_file():
        missing = sorted({*read_json(index)["weight_map"].values()} - {path.name for path in paths})
        if missing:
            raise InputError(f"{missing[0]} is missing", place=str(folder), hint="download the model again")
    return tensors

"""Open a model by whatever names it: a run, a checkpoint, a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import xxhash

from headwater.core.config import nearest
from headwater.core.errors import HeadwaterError, InputError, MismatchError
from headwater.core.hardware import Machine, tensor_device
from headwater.core.store import read_json
from headwater.model import checkpoint, hf
from headwater.model.transformer import Transformer
from headwater.tokens.codec import Codec


class Opened(NamedTuple):
    """A model that can be scored and asked to write."""

    name: str
    """What a person calls it."""
    model: Transformer
    codec: Codec
    step: int | None
    """Optimizer updates behind its weights, where that is known."""


def open_model(
    place: str,
    machine: Machine,
    *,
    step: int | None = None,
    tokenizer: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> Opened:
    """Open a model to write or to be scored.

    Args:
        place: name of a recipe that has run, a run's folder, a Hugging Face folder, or a checkpoint folder.
        machine: on which device; where runs are.
        step: of a run, the checkpoint of this training step; 0 are the weights before training. Default: the last.
        tokenizer: folder with tokenizer.json, where `place` has none of its own.
        dtype: number format of weights and arithmetic.

    Raises:
        InputError: there is no model here, or it cannot be read.
        MismatchError: the model is of another kind than ours, or the tokenizer is not its own.
    """
    weights, own_tokenizer = _locate(place, machine, step)
    tokenizer = tokenizer or own_tokenizer
    if not (tokenizer / "tokenizer.json").is_file():
        raise InputError(
            "there is no tokenizer.json here", place=str(tokenizer), hint="name its folder with --tokenizer"
        )
    try:
        model, done = load_weights(weights, tensor_device(machine))
    except HeadwaterError as error:
        raise as_input(error, "check the path of the model") from None
    codec = Codec(tokenizer)
    if model.config.token_types < codec.vocab_size:
        problem = f"the model knows {model.config.token_types:,} tokens, the tokenizer has {codec.vocab_size:,}"
        raise MismatchError(problem, place=place, hint="give the tokenizer that belongs to the model")
    check_finite(model, weights)
    return Opened(place, model.to(dtype).eval(), codec, done)


def load_weights(folder: Path, device: str) -> tuple[Transformer, int | None]:
    """A model in fp32 from a checkpoint, with its step, or from a Hugging Face folder.

    Raises:
        StoreError: a checkpoint is damaged.
        InputError: a Hugging Face folder cannot be read.
        MismatchError: the model is of another kind than ours.
    """
    if is_checkpoint(folder):
        model, info = checkpoint.load_model(folder, device)
        return model, info.step
    return hf.read_folder(folder).to(device), None


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint of Headwater's."""
    return (folder / "model.json").is_file()


def check_finite(model: Transformer, place: Path) -> None:
    """Make sure that all weights are numbers.

    Raises:
        InputError: some are not.
    """
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            hint = "take an earlier checkpoint, and look for where the training loss stopped being a number"
            raise InputError(f"holds weights that are not finite numbers (in {name})", place=str(place), hint=hint)


def model_digest(model: Transformer) -> str:
    """A hash of a model's shape and weights in the precision that they are used in."""
    found = xxhash.xxh3_128(repr(model.config).encode())
    for name, weight in model.named_parameters():
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def as_input(error: HeadwaterError, hint: str) -> HeadwaterError:
    """An error about a folder of the user's, which is input here and nothing of the store's."""
    return error if isinstance(error, MismatchError) else InputError(error.problem, place=error.place, hint=hint)


def first_token(codec: Codec) -> int:
    """The token that documents begin with: the tokenizer's bos_token, else its separator.

    Source: lm-eval 0.4, HFLM.prefix_token_id, which takes the first of the two that there is.
    """
    token = read_json(codec.folder / "tokenizer_config.json").get("bos_token")
    token = token["content"] if isinstance(token, dict) else token
    found = codec.reference.token_to_id(token) if token else None
    return codec.separator_id if found is None else found


def tokens_of(place: str, machine: Machine) -> Path | None:
    """The token shards of a run, held-out documents among them; None for a model that is not a run's."""
    tokens = machine.run_folder(place) / "stages" / "encode"
    return tokens if tokens.is_dir() else None


def _locate(place: str, machine: Machine, step: int | None) -> tuple[Path, Path]:
    """The folder of the weights and that of the tokenizer."""
    folder = Path(place).expanduser()
    if is_checkpoint(folder) or (folder / "config.json").is_file():
        if step is not None:
            hint = "leave --step out, or name the run"
            raise InputError("is one model, not a run with steps to choose from", place=place, hint=hint)
        return folder, folder
    runs = Path(machine.runs)
    run = machine.run_folder(folder)
    if not (run / "stages").is_dir():
        known = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
        what = (
            "holds no model" if folder.is_dir() else f"is neither a run nor a folder of a model{nearest(place, known)}"
        )
        hint = "name a recipe that has run, a folder with config.json, or a checkpoint with model.json"
        raise InputError(what, place=place, hint=hint)
    return _weights_of(run, step), run / "stages" / "tokenizer" / "tokenizer"


def _weights_of(run: Path, step: int | None) -> Path:
    """The checkpoint of a run."""
    trained, first = run / "stages" / "train", run / "stages" / "initialize" / "checkpoint"
    if step == 0 and is_checkpoint(first):
        return first
    if not is_checkpoint(trained / "checkpoint"):
        raise InputError(
            "the model is not trained yet", place=str(run), hint="run the recipe first, or ask for --step 0"
        )
    if step is None:
        return trained / "checkpoint"
    known = {
        checkpoint.read_info(path, verify=False).step: path for path in checkpoint.saved_steps(trained / "checkpoints")
    }
    known[checkpoint.read_info(trained / "checkpoint", verify=False).step] = trained / "checkpoint"
    if step not in known:
        steps = ", ".join(f"{number:,}" for number in sorted(known))
        raise InputError(f"has no checkpoint of step {step:,}", place=str(run), hint=f"there are 0, {steps}")
    return known[step]

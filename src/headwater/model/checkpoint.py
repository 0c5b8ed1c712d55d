"""A checkpoint folder: the weights of a model, its shape, and what training needs to go on exactly.

    model.json               shape, step, notes, and the SHA-256 of every other file
    weights.safetensors      fp32 weights under the names of `Transformer`
    training.safetensors     optimizer moments and random-number states     (only where training can be resumed)
    state.json               all else that training keeps                   (only where training can be resumed)
    sharded/                 weights and moments in parts, in the place of both safetensors files, where each rank of a
                             training run wrote its own (torch.distributed.checkpoint)

A checkpoint appears whole or not at all, and is verified when it is read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as load_parts

from headwater.core.errors import HeadwaterError, StoreError
from headwater.core.store import atomic_folder, hash_file, read_json, write_json
from headwater.model.config import ModelConfig
from headwater.model.transformer import Transformer

SCHEMA = 1
WEIGHTS, TRAINING, STATE, SHARDED = "weights.safetensors", "training.safetensors", "state.json", "sharded"


@dataclass(frozen=True)
class CheckpointInfo:
    """What model.json says of a checkpoint."""

    folder: Path
    config: ModelConfig
    step: int
    """Optimizer updates that these weights have seen."""
    notes: Mapping[str, Any]
    """What whoever made the weights wrote down, such as the initial loss to expect."""
    files: Mapping[str, str]
    """File name -> SHA-256."""

    @property
    def resumable(self) -> bool:
        """Whether training can go on from here exactly."""
        return STATE in self.files


def save(
    folder: Path,
    model: Transformer,
    step: int,
    notes: Mapping[str, Any] | None = None,
    training_tensors: Mapping[str, Tensor] | None = None,
    training_state: Mapping[str, Any] | None = None,
) -> None:
    """Write the checkpoint of a model; see `write`."""
    write(folder, model.config, step, model.state_dict(), notes, training_tensors, training_state)


def write(
    folder: Path,
    config: ModelConfig,
    step: int,
    weights: Mapping[str, Tensor],
    notes: Mapping[str, Any] | None = None,
    training_tensors: Mapping[str, Tensor] | None = None,
    training_state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder, whole or not at all; what stood at `folder` is replaced.

    Args:
        folder: where; its parent is made if need be.
        config: shape of the model.
        step: optimizer updates so far.
        weights: by the names of `Transformer`.
        notes: JSON-able facts about the weights.
        training_tensors: optimizer moments and random-number states, to resume.
        training_state: JSON-able state, to resume.

    Raises:
        StoreError: the disk is full or not writable; an older checkpoint is untouched.
    """
    with _in_place_of(folder), atomic_folder(folder) as temporary:
        _save_tensors(weights, temporary / WEIGHTS)
        if training_tensors is not None:
            _save_tensors(training_tensors, temporary / TRAINING)
            write_json(temporary / STATE, dict(training_state or {}))
        _write_info(temporary, config, step, notes)


def finish_parts(
    temporary: Path, folder: Path, config: ModelConfig, step: int, notes: Mapping[str, Any] | None = None
) -> None:
    """Make a checkpoint out of a temporary folder to which all ranks have written their parts."""
    _write_info(temporary, config, step, notes)
    with _in_place_of(folder):
        temporary.rename(folder)


@contextmanager
def _in_place_of(folder: Path) -> Iterator[None]:
    """While the block writes `folder`, keep what stood there, and give it back if that fails."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        yield
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_info(folder: Path, config: ModelConfig, step: int, notes: Mapping[str, Any] | None) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = {
        "schema": SCHEMA,
        "step": step,
        "model": config.model_dump(mode="json"),
        "notes": dict(notes or {}),
        "files": {path.relative_to(folder).as_posix(): hash_file(path) for path in files},
    }
    write_json(folder / "model.json", facts)


def read_info(folder: Path, verify: bool = True) -> CheckpointInfo:
    """Read what a checkpoint is, and make sure that its files are what was written.

    Raises:
        StoreError: a file is missing or was changed; names it.
    """
    facts = read_json(folder / "model.json")
    place = str(folder / "model.json")
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise StoreError("is not a checkpoint that this version reads", place=place, hint="check the path")
    try:
        config = ModelConfig.model_validate(facts["model"])
        info = CheckpointInfo(folder, config, int(facts["step"]), facts["notes"], facts["files"])
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        problem = f"is damaged ({str(error).splitlines()[0]})"
        raise StoreError(problem, place=place, hint="use another checkpoint") from None
    for name, expected in info.files.items() if verify else ():
        path = folder / name
        if not path.is_file():
            raise StoreError("is missing from its checkpoint", place=str(path), hint="use another checkpoint")
        if hash_file(path) != expected:
            problem = "was changed or damaged after it was written (hash mismatch)"
            raise StoreError(problem, place=str(path), hint="use another checkpoint")
    return info


def load_model(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    spread: Callable[[Transformer], None] | None = None,
    part: Callable[[Tensor, nn.Parameter], Tensor] | None = None,
) -> tuple[Transformer, CheckpointInfo]:
    """Load and verify a model.

    Args:
        folder: the checkpoint.
        device: where the weights are to be.
        dtype: their number format.
        spread: lays a model without weights out over several ranks.
        part: this rank's part of a whole weight, laid out as a parameter.

    Raises:
        StoreError: a file is missing, was changed, or does not hold the tensors of this shape; names it.
    """
    info = read_info(folder)
    with torch.device("meta"):
        model = Transformer(info.config)
    if spread is not None:
        spread(model)
    parameters = dict(model.named_parameters())
    weights = load_weights(folder)
    _check_tensors(model, weights, folder / WEIGHTS)
    placed = {}
    for name in list(weights):  # one at a time: with several ranks, nobody holds all of them
        tensor = weights.pop(name).to(device, dtype)
        placed[name] = tensor if part is None else part(tensor, parameters[name])
    model.load_state_dict(placed, assign=True)
    model.reset_buffers(device)
    return model, info


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint by name, not verified; those of a safetensors file are mapped, not read."""
    if (folder / WEIGHTS).is_file():
        return load_file(folder / WEIGHTS)
    return {
        key.removeprefix("weights/"): t for key, t in _read_sharded(folder, lambda k: k.startswith("weights/")).items()
    }


def load_training(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load what training needs to go on: tensors and JSON state, as given to `write`. Verify with `read_info` first."""
    if (folder / TRAINING).is_file():
        return load_file(folder / TRAINING), load_state(folder)
    return _read_sharded(folder, lambda key: not key.startswith("weights/")), load_state(folder)


def load_state(folder: Path) -> dict[str, Any]:
    """What training keeps beside tensors."""
    return read_json(folder / STATE)


def sharded_sizes(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name -> size and number format of each tensor of a checkpoint in parts; empty when it is not in parts."""
    if not (folder / SHARDED).is_dir():
        return {}
    entries: Any = FileSystemReader(folder / SHARDED).read_metadata().state_dict_metadata
    return {key: (tuple(entry.size), entry.properties.dtype) for key, entry in entries.items()}


def _read_sharded(folder: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    sizes = sharded_sizes(folder).items()
    found = {key: torch.empty(size, dtype=dtype) for key, (size, dtype) in sizes if wanted(key)}
    load_parts(found, storage_reader=FileSystemReader(folder / SHARDED), no_dist=True)
    return found


def step_folder(checkpoints: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return checkpoints / f"step-{step:06d}"


def saved_steps(checkpoints: Path) -> list[Path]:
    """The checkpoint folders inside `checkpoints`, oldest first."""
    found = [path for path in checkpoints.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """After how many steps the checkpoint of a step folder was written."""
    return int(folder.name.removeprefix("step-"))


def remove_unfinished(folder: Path) -> None:
    """Clear what a kill during a save left in `folder`; a checkpoint that was about to be replaced comes back."""
    for path in folder.glob(".*.old"):
        target = folder / path.name[1:].removesuffix(".old")
        shutil.rmtree(path) if target.exists() else path.rename(target)
    for path in folder.glob(".*.writing"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def newest(checkpoints: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest intact checkpoint to resume from; a damaged one is passed over with a warning.

    Args:
        checkpoints: folder of `step-000020` folders.
        warn: told about each damaged checkpoint.
    """
    for folder in reversed(saved_steps(checkpoints)):
        try:
            if read_info(folder).resumable:
                return folder
        except HeadwaterError as error:
            warn(f"{error.place}: {error.problem}; going back to the checkpoint before")
    return None


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # carries the system's error only as text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _check_tensors(model: Transformer, weights: Mapping[str, Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            problem = f"tensor {name} is {found.get(name, 'missing')}, expected {expected.get(name, 'none')}"
            raise StoreError(problem, place=str(path), hint="use another checkpoint")

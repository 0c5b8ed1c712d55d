"""The optimizer state that comes with the weights of a checkpoint, sorted to the layers of the model made of them.

With it a model that goes on as it is goes on exactly, without warming up again. Copies of a layer begin with the moments
of that layer: no worse than fresh ones, and no better that we could measure. Source: docs/lab-notes.md, "Does growing pay?".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.core.stage import Workspace
from headwater.model import checkpoint
from headwater.model.config import CheckpointWeights, Trained
from headwater.model.growth import Layer
from headwater.model.transformer import Transformer

PREFIX = "optimizer/"
"""What stands before `<parameter>/<moment>` in the names of a checkpoint's training tensors."""


def carried(settings: Trained, layers: Sequence[Layer] | None, model: Transformer, out: Workspace) -> dict[str, Tensor]:
    """The moments with which training begins, as `optimizer/<parameter>/<moment>`; none where it begins with fresh ones.

    Args:
        settings: the source, and whether its optimizer state is wanted.
        layers: which of its layers the new model has; None if it has them all.
        model: the new model; what has other sizes in it begins with none.
        out: told what is taken over, and what is not there.

    Raises:
        MismatchError: the state is required, and there is none.
    """
    if not isinstance(settings, CheckpointWeights) or settings.optimizer_state == "fresh":
        return {}
    found: dict[str, Tensor] = {}
    info = checkpoint.read_info(settings.path, verify=False)
    folded = info.config.tricks != model.config.tricks
    if info.resumable and not folded:
        found = {key: t for key, t in checkpoint.load_training(settings.path)[0].items() if key.startswith(PREFIX)}
    if not found:
        problem = "has no optimizer state: it holds the weights alone"
        if folded:
            problem = "has the optimizer state of weights that are other ones now: its tricks were folded"
        if settings.optimizer_state == "keep":
            hint = "set optimizer_state to fresh, or use a checkpoint that training has written"
            raise MismatchError(problem, place=str(settings.path), hint=hint)
        out.warn(f"{settings.path}: {problem}; training begins with fresh moments")
        return {}
    moments = found if layers is None else to_layers(found, layers)
    kept = _fitting(moments, model, rows=settings.vocabulary is None)
    silent = sum(layer.silent for layer in layers or ())
    fresh = f", {silent} silent layers begin with none" if silent else ""
    if len(kept) < len(moments):
        fresh += f", {len(moments) - len(kept)} are of weights that changed their size or meaning and begin anew"
    out.note(f"optimizer state of the source taken over: {len(kept)} tensors{fresh}")
    return kept


def _fitting(moments: Mapping[str, Tensor], model: Transformer, rows: bool) -> dict[str, Tensor]:
    """The moments of parameters that are as large as they were; those of rows for tokens only where `rows`."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    other = set() if rows else {"embedding.weight", "head.weight"}
    for key, tensor in moments.items():
        name = _parameter(key)
        shape = shapes.get(name)
        each_row = None if shape is None else torch.Size((shape[0], 1))  # a number for each row of a matrix
        if tensor.dim() and tensor.shape not in (shape, each_row):
            other.add(name)
    return {key: tensor for key, tensor in moments.items() if _parameter(key) not in other}


def _parameter(key: str) -> str:
    return key.removeprefix(PREFIX).rpartition("/")[0]


def to_layers(moments: Mapping[str, Tensor], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Give each layer of a new model the moments of the layer that it copies.

    A silent layer gets none: its gradients are not those of the layer that it copies, and its first are zero. Neither does
    a layer of another model.
    """
    whole = f"{PREFIX}blocks."
    mapped = {key: tensor for key, tensor in moments.items() if not key.startswith(whole)}
    for number, layer in enumerate(layers):
        own = f"{whole}{layer.source}."
        for key, tensor in moments.items():
            if key.startswith(own) and not (layer.silent or layer.other):
                mapped[f"{whole}{number}.{key.removeprefix(own)}"] = tensor.clone()
    return mapped

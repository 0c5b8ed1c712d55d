"""Weights, gradients and optimizer state spread over the ranks (FSDP2), and checkpoints to which each rank adds its part.

Letters as in `headwater.model.transformer`; a DTensor is a tensor of which each rank holds a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from headwater.core.hardware import Launch
from headwater.core.store import write_json
from headwater.model import checkpoint
from headwater.model.transformer import Transformer
from headwater.training.distributed import Team


class ShardedTeam(Team):
    """A team whose ranks each hold a part of every parameter."""

    sharded = True

    def __init__(self, launch: Launch, device: str) -> None:
        super().__init__(launch, device)
        self._mesh = init_device_mesh(device, (self.ranks,), mesh_dim_names=("data",))
        # for what is written in the background, beside the exchanges of the training loop
        self._side_group: Any = dist.new_group(backend="gloo")

    def spread(self, model: Transformer, dtype: torch.dtype) -> None:
        """Give each rank its part of a model, block by block: a block is whole only while it works.

        Blocks are gathered in the type that they compute in, so that half as much travels in bf16 as in fp32, with the
        same result: the model casts every weight where it is used. Gradients are added up in fp32.
        """
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in model.blocks:
            fully_shard(block, mesh=self._mesh, mp_policy=policy)
        fully_shard(model, mesh=self._mesh)
        for method in ("loss", "losses", "token_losses"):
            register_fsdp_forward_method(model, method)
        self._model: Any = model

    def wrap(self, model: Transformer, losses: Callable[..., Any], example: tuple[Tensor, ...]) -> None:  # noqa: ARG002
        """Give back what forward passes have gathered: whoever asks for the parameters must get the parts."""
        self._loss = losses
        for module in (*model.blocks, model):
            part: Any = module
            part.reshard()

    @contextmanager
    def _exchange(self, shared: bool) -> Iterator[None]:
        self._model.set_requires_gradient_sync(shared)
        yield

    def gradients(self, shared: bool) -> AbstractContextManager[Any]:
        """As of every team: gradients are reduced only at the last micro-batch."""
        return self._exchange(shared)

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> float:
        """As of every team, over the parts of all ranks."""
        norm = nn.utils.clip_grad_norm_(parameters, most)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def whole(self, tensor: Tensor, parameter: nn.Parameter) -> Tensor:  # noqa: ARG002
        """All of a tensor; every rank must ask for it."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:
        """This rank's part of a whole tensor."""
        if isinstance(whole, DTensor):
            return whole
        layout: Any = parameter
        return distribute_tensor(whole, layout.device_mesh, layout.placements, src_data_rank=None)

    def open(self, parameter: nn.Parameter) -> Tensor:
        """Zeros of the parameter's whole size."""
        return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)

    def close(self, parameter: nn.Parameter, opened: Tensor) -> None:
        """Add this rank's part of what was opened."""
        parameter.add_(self.part(opened, parameter))

    def write_parts(
        self, folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], finish: Callable[[Path], None]
    ) -> None:
        """Write a checkpoint together: each rank its parts, rank 0 the rest once all parts are there.

        Args:
            folder: the checkpoint; a temporary sibling is filled, and takes its place at the end.
            tensors: everything, weights and optimizer, by name.
            state: JSON-able rest.
            finish: called by rank 0 with the temporary folder, to complete and rename it.
        """
        temporary = folder.with_name(f".{folder.name}.parts.writing")
        writer = FileSystemWriter(temporary / checkpoint.SHARDED, sync_files=True)
        save(dict(tensors), storage_writer=writer, process_group=self._side_group)
        if self.leads:
            write_json(temporary / checkpoint.STATE, dict(state))
            finish(temporary)
        dist.barrier(group=self._side_group)

    def read_parts(self, folder: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Read this rank's parts of a checkpoint that `write_parts` wrote, by however many ranks.

        Args:
            folder: the checkpoint.
            parameters: the parameters of the model, spread over the ranks; their values are replaced.

        Returns:
            The optimizer's tensors, as they were given to `write_parts`.
        """
        found: dict[str, Tensor] = {}
        for key, (size, dtype) in checkpoint.sharded_sizes(folder).items():
            kind, _, name = key.partition("/")
            owner = parameters.get(name if kind == "weights" else name.rpartition("/")[0])
            alike = owner is not None and tuple(owner.shape) == size
            found[key] = torch.empty_like(owner.data) if owner is not None and alike else torch.empty(size, dtype=dtype)
        load(found, storage_reader=FileSystemReader(folder / checkpoint.SHARDED))
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(found.pop(f"weights/{name}"))
        return found

"""Several processes that train one model: the only place that knows process groups.

    rank 0    runs the recipe; at the stage train it publishes a task and leads the team
    others    wait for tasks (`headwater.training.follow`), work in step with rank 0, write nothing

Ranks come from `torchrun`, or are started here for `machine.ranks`. Each takes its rows of every batch. Weights are whole
on every rank (gradients are averaged by DistributedDataParallel), or spread over the ranks (`machine.shard`, FSDP2).
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from headwater.core import hardware
from headwater.core.errors import HeadwaterError, MismatchError, TrainingError
from headwater.core.hardware import Launch, Machine
from headwater.core.log import Progress
from headwater.core.stage import Inputs, Workspace
from headwater.model.transformer import Transformer
from headwater.training.config import Train
from headwater.training.optimizer import OneRank

T = TypeVar("T")
c10d: Any = dist  # torch keeps some public names of this module out of its type hints
PATIENCE = timedelta(days=30)
"""How long followers wait for a task: rank 0 may clean documents for weeks before it trains."""
COLLECTIVE = re.compile(r"gloo|nccl|connection|socket|store|timed out|barrier", re.IGNORECASE)
"""What errors of torch.distributed speak of; they have no class of their own on every backend."""


@dataclass(frozen=True)
class Task:
    """What a team trains."""

    settings: Train
    inputs: Inputs
    folder: Path
    machine: Machine

    def to_json(self) -> str:
        """As text that passes between machines."""
        return json.dumps(
            {
                "settings": self.settings.model_dump(mode="json"),
                "inputs": {role: str(path.absolute()) for role, path in self.inputs.items()},
                "folder": str(self.folder.absolute()),
                "machine": self.machine.model_dump(mode="json"),
            }
        )

    @staticmethod
    def from_json(text: str) -> Task:
        """The inverse of `to_json`."""
        values = json.loads(text)
        inputs = {role: Path(path) for role, path in values["inputs"].items()}
        settings, machine = Train.model_validate(values["settings"]), Machine.model_validate(values["machine"])
        return Task(settings, inputs, Path(values["folder"]), machine)


class Silent(Workspace):
    """The workspace of a rank that only follows: rank 0 speaks for all."""

    @contextmanager
    def progress(self, label: str, total: float | None, unit: str) -> Iterator[Progress]:  # noqa: ARG002
        """Show nothing."""
        yield _NoProgress()

    def note(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""


class _NoProgress:
    def advance(self, amount: float = 1, info: str = "") -> None:
        pass

    def update(self, completed: float | None = None, info: str = "") -> None:
        pass


class Team(OneRank):
    """The ranks that train one model, seen from one of them. A team of one does nothing to anybody.

    Attributes:
        rank: number of this process.
        ranks: how many there are.
        sharded: whether each rank holds only a part of every parameter.
        local_squares: squared norm of this rank's own gradient, before it was averaged; filled while it is not None.
    """

    sharded = False

    def __init__(self, launch: Launch | None = None, device: str = "cpu") -> None:
        self.rank = launch.rank if launch else 0
        self.ranks = launch.ranks if launch else 1
        self._launch = launch
        self._device = device
        self._loss: Callable[..., Any] | None = None
        self._ddp: DistributedDataParallel | None = None
        self.local_squares: Tensor | None = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes and speaks."""
        return self.rank == 0

    @property
    def restarts(self) -> bool:
        """Whether an elastic agent started the ranks: it repeats signals, and it is the one to kill who does not stop."""
        return self._launch is not None and self._launch.elastic

    def workspace(self, out: Workspace) -> Workspace:
        """The workspace of this rank: the cores of a machine are shared by its ranks."""
        if self._launch is None:
            return out
        mine = copy.copy(out)
        threads = out.machine.threads or max(out.machine.processor_threads // self._launch.local_ranks, 1)
        mine.machine = out.machine.model_copy(update={"threads": threads})
        return mine

    def check_batch(self, rows: int) -> int:
        """Rows of a batch that each rank takes.

        Raises:
            MismatchError: they cannot be shared out evenly.
        """
        if rows % self.ranks:
            fits = [n for n in range(1, self.ranks + 1) if not rows % n][-1]
            raise MismatchError(
                f"a batch of {rows:,} sequences cannot be shared out evenly to {self.ranks} ranks",
                place="machine.ranks",
                hint=f"use {fits} rank{'s' if fits > 1 else ''}, or make train.batch_tokens a multiple of "
                f"{self.ranks} x sequence_length",
            )
        return rows // self.ranks

    def agree(self, value: T) -> T:
        """What rank 0 says."""
        if self.ranks == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def sum(self, *values: float) -> list[float]:
        """The sums of numbers over all ranks, the same to the last bit on each."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def most(self, *values: float) -> list[float]:
        """The largest of each number over all ranks."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: tuple[float, ...], how: Any) -> list[float]:
        if self.ranks == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(numbers, op=how)
        return numbers.tolist()

    def wait(self) -> None:
        """Until every rank is here."""
        if self.ranks > 1:
            dist.barrier()

    def wrap(self, model: Transformer, losses: Callable[..., Any], example: tuple[Tensor, ...]) -> None:
        """Have the gradients of a model averaged over the ranks from now on.

        Args:
            model: what is trained.
            losses: computes its losses of a micro-batch, of which `objective` is ready for `backward`.
            example: one micro-batch as it will come.
        """
        if self.ranks == 1:
            self._loss = losses
        elif self._ddp is None:  # once: a second one would average beside the first
            self._loss = self._ddp = DistributedDataParallel(_Losses(model, losses))
            self._ddp.register_comm_hook(self, _average)
            # The buckets of gradients are laid out anew after the first backward pass. Have that behind us: with three
            # ranks or more a run that goes on would else add up its first gradients in another order.
            self._ddp(*example).objective.backward()
            model.zero_grad(set_to_none=True)

    def loss(self, *micro_batch: Tensor) -> Any:
        """Losses of a micro-batch of this rank, as the function given to `wrap` returns them."""
        assert self._loss is not None, "the model is not wrapped"
        return self._loss(*micro_batch)

    def gradients(self, shared: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: ranks exchange gradients only when `shared`, at the last one."""
        return nullcontext() if shared or self._ddp is None else self._ddp.no_sync()

    def clip(self, parameters: Iterable[nn.Parameter], most: float) -> float:
        """Scale the gradients down to a norm of at most `most`; returns the norm that they had."""
        return float(nn.utils.clip_grad_norm_(parameters, most))

    def spread(self, model: Transformer, dtype: torch.dtype) -> None:
        """Give each rank its part of a model without weights; nothing to do where each has the whole."""

    def write_parts(
        self, folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], finish: Callable[[Path], None]
    ) -> None:
        """Write a checkpoint to which each rank adds its part."""
        raise NotImplementedError("only where each rank holds a part")

    def read_parts(self, folder: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Read this rank's parts of a checkpoint into the parameters; returns its optimizer state."""
        raise NotImplementedError("only where each rank holds a part")

    def divide(self, stacked: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
        """Do work on a stack of equal matrices [count, rows, columns], each rank a share of it; all get the whole."""
        count = len(stacked)
        if self.ranks == 1 or count < self.ranks:
            return work(stacked)
        share = -(-count // self.ranks)
        mine = stacked[self.rank * share : (self.rank + 1) * share]
        done = stacked.new_zeros((share, *stacked.shape[1:]))
        if len(mine):
            done[: len(mine)] = work(mine)
        everything = stacked.new_empty((share * self.ranks, *stacked.shape[1:]))
        c10d.all_gather_single(everything, done)
        return everything[:count]


def _average(team, bucket):  # noqa: ANN001, ANN202  # torch compares annotations with classes, and ours are text
    """Average a bucket of gradients over the ranks, and measure this rank's own on the way if that is wanted."""
    if team.local_squares is not None:
        team.local_squares += bucket.buffer().pow(2).sum()
    return allreduce_hook(dist.group.WORLD, bucket)  # type: ignore[arg-type]


class _Losses(nn.Module):
    """A model's losses as a forward pass: what DistributedDataParallel can wrap."""

    def __init__(self, model: Transformer, losses: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self._losses = losses

    def forward(self, *micro_batch: Tensor) -> Any:
        return self._losses(*micro_batch)


@contextmanager
def assemble(settings: Train, inputs: Inputs, out: Workspace) -> Iterator[Team]:
    """Gather the ranks that are to train; this process is rank 0.

    Raises:
        TrainingError: a rank died or failed; says which and why.
    """
    task = Task(settings, inputs, out.folder, out.machine)
    launch = hardware.launch()
    if launch is not None:
        with _group(_rendezvous(), launch, task) as team:
            yield team
        return
    ranks = local_ranks(out.machine)
    if ranks == 1:
        yield Team()
        return
    settings_of_team = Launch(0, ranks, 0, ranks, elastic=False)
    store = c10d.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=30))
    followers = [_start_follower(rank, ranks, store.port) for rank in range(1, ranks)]
    try:
        with _group(store, settings_of_team, task, followers) as team:
            yield team
        store.set(_key(store, "task", advance=False), "end")
    finally:
        for follower in followers:
            assert follower.stdin is not None
            follower.stdin.close()  # whoever still works notices and ends
            follower.wait()


def local_ranks(machine: Machine) -> int:
    """How many ranks this machine is to have."""
    if machine.ranks:
        return machine.ranks
    return torch.cuda.device_count() if hardware.tensor_device(machine) == "cuda" else 1


def tasks() -> Iterator[tuple[Task, AbstractContextManager[Team]]]:
    """What rank 0 has for this process, which is another rank, one after another until there is no more.

    Yields:
        a task, and the membership of its team to enter.
    """
    launch = hardware.launch()
    assert launch is not None, "only ranks follow"
    store = _rendezvous()
    number = 0
    while (text := _wait_for(store, f"task/{number}")) != "end":
        task = Task.from_json(text)
        yield task, _member(store, launch, task, number)
        number += 1


@contextmanager
def _member(store: Any, launch: Launch, task: Task, number: int) -> Iterator[Team]:
    """Be a rank other than 0 of a task, and leave word when it fails here."""
    try:
        with _join(store, launch, task, number) as team:
            yield team
    except Exception as error:
        problem = str(error) if isinstance(error, HeadwaterError) else f"{type(error).__name__}: {error}"
        with suppress(RuntimeError):  # the store may be gone, and rank 0 with it
            store.set(f"error/{number}/{launch.rank}", problem)
        raise


def dismiss() -> None:
    """Tell the ranks that `torchrun` started that there is nothing more to do."""
    store = _rendezvous()
    store.set(_key(store, "task", advance=False), "end")


def _wait_for(store: Any, key: str) -> str:
    store.wait([key], PATIENCE)
    return store.get(key).decode()


def _key(store: Any, what: str, advance: bool = True) -> str:
    """The key of the next task; tasks are counted in the store itself."""
    return f"{what}/{store.add('tasks', 1 if advance else 0) - (1 if advance else 0)}"


_STORE: Any = None


def _rendezvous() -> Any:
    """The store that the ranks of a launch share; one per process."""
    global _STORE
    if _STORE is None:
        _STORE, _, _ = next(iter(c10d.rendezvous("env://")))
    return _STORE


@contextmanager
def _group(
    store: Any, launch: Launch, task: Task, followers: list[subprocess.Popen[bytes]] | None = None
) -> Iterator[Team]:
    """Publish a task, be its rank 0, and say why when it fails because of another rank."""
    key = _key(store, "task")
    number = int(key.partition("/")[2])
    store.set(key, task.to_json())
    try:
        with _join(store, launch, task, number) as team:
            yield team
    except RuntimeError as error:
        if not COLLECTIVE.search(str(error)):
            raise
        raise _team_error(store, launch, number, followers or [], error) from error


def _team_error(
    store: Any, launch: Launch, number: int, followers: list[subprocess.Popen[bytes]], error: RuntimeError
) -> TrainingError:
    """Which rank failed, and why."""
    hint = "run again to go on from the last checkpoint"
    for rank in range(1, launch.ranks):
        if store.check([f"error/{number}/{rank}"]):
            return TrainingError(store.get(f"error/{number}/{rank}").decode(), place=f"rank {rank}", hint=hint)
    for rank, follower in enumerate(followers, 1):
        try:
            code = follower.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
        return TrainingError(f"died (exit code {code})", place=f"rank {rank}", hint=hint)
    return TrainingError(f"a rank is gone ({str(error).splitlines()[0][:150]})", place="train", hint=hint)


@contextmanager
def _join(store: Any, launch: Launch, task: Task, number: int) -> Iterator[Team]:
    """Be a member of the process group of a task."""
    device = hardware.tensor_device(task.machine)
    if device == "cuda":
        torch.cuda.set_device(launch.local_rank)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    group = c10d.PrefixStore(f"group/{number}", store)
    dist.init_process_group(backend, store=group, rank=launch.rank, world_size=launch.ranks)
    try:
        yield _make_team(launch, device, task.machine)
        dist.barrier()  # nobody leaves while another still needs it
    finally:
        dist.destroy_process_group()


def _make_team(launch: Launch, device: str, machine: Machine) -> Team:
    if not machine.shard or launch.ranks == 1:
        return Team(launch, device)
    from headwater.training.sharding import ShardedTeam  # which builds on this module

    return ShardedTeam(launch, device)


def _start_follower(rank: int, ranks: int, port: int) -> subprocess.Popen[bytes]:
    """Start another rank on this machine; it ends when its standard input does, and so with this process."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = hardware.environment_with(**{name: str(value) for name, value in variables.items()})
    # a session of its own: Ctrl-C reaches rank 0 alone, which stops all after the step
    command = [sys.executable, "-m", "headwater.training.follow"]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)


def end_with_standard_input() -> None:
    """End this process at once when its standard input ends, because whoever started it is gone."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock Python wants at its own end
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

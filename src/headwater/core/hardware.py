"""The machine: its processors and memory, how fast it multiplies, what it draws. The only reader of os.environ."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field, field_validator, model_validator

from headwater.core.config import Config
from headwater.core.errors import MismatchError


class Machine(Config):
    """Where and how a recipe runs; never part of a result's identity."""

    store: str = "store"
    """Folder that holds the results of stages, relative to the current folder; or a URL, such as `s3://bucket/store`, where
    every machine of a cluster and every later run finds them. Then each machine works in `scratch`."""
    scratch: str | None = None
    """Folder for the copies of what is in a store behind a URL, the same path on each machine; by default one in
    `~/.cache/headwater/stores`. What is unfinished is only there."""
    runs: str = "runs"
    """Folder that holds one folder of links per recipe, relative to the current folder."""
    engine: Literal["local", "ray"] = "local"
    """Where the document stages work: on this machine, or as tasks of a Ray cluster whose machines all see the store, as a
    folder under the same path or as a URL. The results are the same to the last bit. Needs `headwater[ray]`."""
    cluster: str | None = None
    """Address of the Ray cluster, such as `10.0.0.1:6379`; by default Ray is started on this machine alone."""
    workers: int = Field(default=0, ge=0)
    """Parallel workers of the document stages; 0 means one per processor core."""
    threads: int = Field(default=0, ge=0)
    """Threads of tensor arithmetic, of each rank; 0 shares the processor's cores out."""
    ranks: int = Field(default=0, ge=0)
    """Processes that train together on this machine, each on its rows of every batch; 0 means one per GPU, and one where
    there is none. Under `torchrun` its number counts. The order of the samples does not depend on it."""
    shard: bool = False
    """Spread weights, gradients and optimizer state over the ranks (FSDP2), for models that do not fit on one."""
    save_in_background: bool = True
    """Copy what a checkpoint holds and write it while training goes on. The copy needs as much memory again as weights
    and optimizer state together; without room for it, training waits for the disk, and says so."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)
    """Where the numbers of a training run go beside metrics.jsonl. Needs `headwater[wandb]`, `[mlflow]`, `[trackio]`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live; `auto` takes a GPU when there is one."""
    foreign_python: str | None = None
    """Python of another environment, in which transformers or llama-cpp-python are installed: with it an export is checked
    by them. By default they are looked for in Headwater's own; `off` leaves the check to the independent reader."""
    watts: float = Field(default=0.0, ge=0)
    """Electrical power of this machine under load [W], for the energy estimate; 0 means the built-in guess."""
    usd_per_hour: float = Field(default=0.0, ge=0)
    """Price of one hour of this machine [USD], for the cost estimate; 0 means unknown. A finished report takes it, as
    the two around it, when it is made anew by `headwater report`."""
    carbon_grams_per_kwh: float = Field(default=475.0, ge=0)
    """Carbon intensity of the electricity [g CO2e per kWh]. Source: world average used by codecarbon."""

    @field_validator("runs", "scratch")
    @classmethod
    def _is_folder(cls, path: str | None) -> str | None:
        if path and "://" in path:
            raise ValueError(f"'{path}' is a URL, not a folder; only machine.store can be one")
        return path

    @model_validator(mode="after")
    def _scratch_has_effect(self) -> Machine:
        if self.scratch and not self.store_is_url:
            raise ValueError("scratch has no effect: the store is a folder, in which the work is done")
        return self

    @property
    def store_is_url(self) -> bool:
        """Whether the results of stages go to another place than a folder."""
        return "://" in self.store

    @property
    def store_folder(self) -> Path:
        """Where stages work, and their results are on this machine."""
        if not self.store_is_url:
            return Path(self.store)
        folder = Path(self.scratch).expanduser().absolute() if self.scratch else cache_folder() / "stores"
        return folder / re.sub(r"[^A-Za-z0-9.]+", "-", self.store).strip("-")

    def run_folder(self, place: str | Path) -> Path:
        """The folder of a run, whether it is there or not: `place` itself where that is one, else that of a recipe's name."""
        folder = Path(place).expanduser()
        is_run = (folder / "stages").is_dir() or (folder / "begun.json").is_file()
        return folder if is_run else Path(self.runs) / folder.stem

    @property
    def processor_workers(self) -> int:
        """Workers of the document stages, resolved."""
        return self.workers or core_count()

    @property
    def processor_threads(self) -> int:
        """Threads of tensor arithmetic, resolved."""
        return self.threads or core_count()


def core_count(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processor cores that this process may use: those it may run on, or a container's share of time, rounded up.

    Source: the file cpu.max of Linux control groups, version 2: microseconds of processor time in each period.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        return max(1, min(cores, -(-int(allowed) // int(period))))
    except (OSError, ValueError):  # no control groups, or "max": no limit
        return cores


def cache_folder() -> Path:
    """Where things that were fetched are kept: XDG_CACHE_HOME, by default ~/.cache, and in it `headwater`.

    Source: the XDG Base Directory Specification.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "headwater"


def colour_allowed() -> bool:
    """False when the user asked for plain output with NO_COLOR (https://no-color.org)."""
    return not os.environ.get("NO_COLOR")


def set_environment(**variables: str) -> None:
    """Set environment variables that a library reads when it is imported, unless the user has set them."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def environment_with(**variables: str) -> dict[str, str]:
    """The environment variables for a program that is started, and some more."""
    return {**os.environ, **variables}


@dataclass(frozen=True)
class Launch:
    """This process as one of several that were started together."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    """The same two on this machine alone."""
    elastic: bool
    """Whether an agent watches over them and starts them again (torchrun)."""


def launch() -> Launch | None:
    """What `torchrun` says of this process in the environment; None when it was started alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if any(name not in os.environ for name in (*names, "MASTER_ADDR", "MASTER_PORT")):
        return None
    return Launch(*(int(os.environ[name]) for name in names), elastic="TORCHELASTIC_RUN_ID" in os.environ)


def environment_without(*names: str) -> dict[str, str]:
    """The environment variables for a program that is started, but for some."""
    return {name: value for name, value in os.environ.items() if name not in names}


def keep_compiled_code(folder: Path) -> None:
    """Have torch keep the machine code that it compiles in `folder`, where no other program breaks or removes it."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def share_processor() -> None:
    """Let idle threads of tensor arithmetic soon sleep instead of spin; to be called before torch is imported.

    GNU OpenMP's threads spin long at the end of each operation. Where something else runs on the same cores they take
    the time that the others need: 5 times fewer steps in our measurement. A short spin is as fast on an idle machine.
    Source: docs/lab-notes.md.
    """
    set_environment(GOMP_SPINCOUNT="10000")


def release_freed_memory() -> None:
    """Hand freed memory back to the system, which threads would else each keep for themselves; between passes over the data.

    Does nothing where the C library is not glibc. Source: malloc_trim(3).
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next allocation instead of handing it back to the system.

    Training frees and allocates the same large blocks at every step; taking them from the system again means a page
    fault per 4 KiB. Does nothing where the C library is not glibc. Source: mallopt(3); see docs/lab-notes.md.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mmap_max, trim_threshold, arena_max = -4, -1, -8  # from malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(arena_max, 1)


def processor_name() -> str:
    """The processor's own name, such as `AMD EPYC 9R45`."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """What a manifest records of the machine."""
    return {
        "processor": processor_name(),
        "cores": core_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def free_disk_bytes(folder: Path) -> int:
    """Bytes that can still be written where `folder` is or would be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def power_watts(machine: Machine) -> float:
    """Electrical power under load [W]: the user's setting, or a guess of 10 W per core and 0.37 W per GiB.

    Source: codecarbon's fallback, 0.375 W per GiB of memory; 10 W per core is a server processor of 250 W with
    24 to 32 cores, a guess that the report names as such.
    """
    return machine.watts or 10.0 * core_count() + 0.375 * psutil.virtual_memory().total / 2**30


def tensor_device(machine: Machine) -> str:
    """Where tensors live: "cpu" or "cuda".

    Raises:
        MismatchError: the machine is to use CUDA, and has none.
    """
    import torch

    found = torch.cuda.is_available()
    if machine.device == "cuda" and not found:
        hint = "set machine.device=auto, which takes a GPU where there is one"
        raise MismatchError("torch finds no CUDA device here", place="machine.device", hint=hint)
    return machine.device if machine.device != "auto" else "cuda" if found else "cpu"


def measure_peak_flops_per_second(device: str, precision: Literal["fp32", "bf16"], seconds: float = 0.6) -> float:
    """Measure the rate of square matrix products [FLOP/s]: what MFU is a share of.

    The best of many short trials, because a busy machine only ever makes a trial slower, and a trial of 1 ms fits
    between two turns of other programs.
    """
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 512 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)

    def trial() -> float:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    trial()
    best, end = trial(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, trial())
    return 2 * size**3 / best


def fast_fp32_products() -> bool:
    """Have torch multiply fp32 matrices by oneDNN where that is true fp32; says whether it does.

    torch's "medium" allows bf16 inside, which oneDNN uses on processors with AMX; on others it computes in fp32, and
    faster than MKL does on AMD. So the error decides.
    """
    import torch

    a = torch.linspace(-1, 1, 256 * 256).view(256, 256).sin()
    exact = a.double() @ a.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if float((a @ a - exact).abs().max()) < 1e-4 * float(exact.abs().max()):  # bf16: about 4e-3
        return True
    torch.set_float32_matmul_precision(before)
    return False


def git_commit(folder: Path) -> str | None:
    """The commit that `folder` stands at, with `+changes` when files differ; None outside a repository."""
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()[:12] + ("+changes" if status.stdout.strip() else "")

"""Scripts that run a recipe on somebody's cluster: `headwater launch`. They are written, not submitted."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from headwater.core.errors import InputError

RESTARTS = 3
"""How often torchrun starts the ranks again after one of them died."""
WARNING_SECONDS = 300
"""Time before the end of a SLURM job at which it saves and queues itself again."""
BUCKET = re.compile(r"(s3|gs|r2|cos|https)://\S+")


@dataclass(frozen=True)
class Cluster:
    """What to ask a cluster for.

    Attributes:
        nodes: machines.
        gpus_per_node: GPUs of each; 0 trains on processors, with one rank per machine.
        accelerator: kind of GPU, as the cluster names it.
        hours: longest time of a job [h].
        partition: part of a SLURM cluster.
        account: who pays on a SLURM cluster.
        bucket: bucket that SkyPilot mounts on every machine, for the store.
        spot: SkyPilot's cheaper machines that may be taken away; training goes on from its last checkpoint.
    """

    nodes: int = 1
    gpus_per_node: int = 8
    accelerator: str | None = None
    hours: float = 24.0
    partition: str | None = None
    account: str | None = None
    bucket: str | None = None
    spot: bool = False


def launch(name: str, recipe: str, overrides: Sequence[str], to: Literal["slurm", "skypilot"], cluster: Cluster) -> str:
    """The text of a SLURM script or a SkyPilot task that runs a recipe.

    Args:
        name: of the job.
        recipe: path or name, as the machines of the cluster see it.
        overrides: `key=value` settings.
        to: kind of cluster.
        cluster: what to ask it for.

    Raises:
        InputError: nothing to run on, or a setting that this kind of cluster has not.
    """
    if cluster.nodes < 1 or cluster.gpus_per_node < 0 or cluster.hours <= 0:
        raise InputError("needs at least one node and some time", place="launch", hint="--nodes 1 --hours 24")
    foreign = {
        "slurm": {"--bucket": cluster.bucket, "--spot": cluster.spot},
        "skypilot": {"--partition": cluster.partition, "--account": cluster.account},
    }[to]
    if given := [option for option, value in foreign.items() if value]:
        raise InputError(f"{to} knows no {' and no '.join(given)}", place="launch", hint="leave it out")
    if cluster.bucket and not BUCKET.fullmatch(cluster.bucket):
        raise InputError(f"'{cluster.bucket}' is no bucket", place="--bucket", hint="such as s3://my-bucket")
    return (_slurm if to == "slurm" else _skypilot)(name, recipe, overrides, cluster)


def _command(recipe: str, overrides: Sequence[str], cluster: Cluster, *rendezvous: str) -> str:
    """`torchrun ... headwater run ...` on several lines; rendezvous options may hold variables of the shell."""
    options = [f"--nproc-per-node={max(cluster.gpus_per_node, 1)}", f"--max-restarts={RESTARTS}"]
    options.append(f"--shutdown-timeout={WARNING_SECONDS}")  # torchrun's own 30 s may not be enough to save
    run = ["-m headwater run", *(shlex.quote(word) for word in (recipe, *overrides))]
    return " \\\n    ".join(["torchrun", *rendezvous, *options, " ".join(run)])


def _slurm(name: str, recipe: str, overrides: Sequence[str], cluster: Cluster) -> str:
    minutes = round(cluster.hours * 60)
    asked = {
        "job-name": name,
        "nodes": cluster.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": ":".join(filter(None, [cluster.accelerator, str(cluster.gpus_per_node)])),
        "time": f"{minutes // 60:02}:{minutes % 60:02}:00",
        "partition": cluster.partition,
        "account": cluster.account,
        "output": "%x-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{WARNING_SECONDS}",
    }
    if not cluster.gpus_per_node:
        del asked["gpus-per-node"]
    lines = [f"#SBATCH --{option}={value}" for option, value in asked.items() if value is not None]
    command = _command(
        recipe,
        overrides,
        cluster,
        '--nnodes="$SLURM_NNODES"',
        '--rdzv-id="$SLURM_JOB_ID"',
        "--rdzv-backend=c10d",
        '--rdzv-endpoint="$head:29500"',
    )
    return f"""#!/bin/bash
{chr(10).join(lines)}
#SBATCH --exclusive
#SBATCH --requeue

# All nodes must see this folder, the inputs and machine.store under the same paths.
# Documents are cleaned on the first node; the others wait for the stage train, and train with it.
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# {WARNING_SECONDS} s before the time is up: queue this job again. SLURM then sends SIGTERM, upon which training saves.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

srun --kill-on-bad-exit=0 \\
    {command} &
wait $! || wait $!
"""


def _skypilot(name: str, recipe: str, overrides: Sequence[str], cluster: Cluster) -> str:
    store = ["machine.store=/store"] if cluster.bucket else []
    resources: dict[str, object] = {"use_spot": True} if cluster.spot else {}
    if cluster.gpus_per_node:
        resources["accelerators"] = f"{cluster.accelerator or 'H100'}:{cluster.gpus_per_node}"
    command = _command(
        recipe,
        [*overrides, *store],
        cluster,
        '--nnodes="$SKYPILOT_NUM_NODES"',
        '--rdzv-id="$SKYPILOT_TASK_ID"',
        "--rdzv-backend=c10d",
        '--rdzv-endpoint="$head:29500"',
    )
    task: dict[str, object] = {
        "name": name,
        "num_nodes": cluster.nodes,
        "resources": resources,
        "workdir": ".",
        **({"file_mounts": {"/store": {"source": cluster.bucket, "mode": "MOUNT_CACHED"}}} if cluster.bucket else {}),
        "setup": LiteralScalarString("pip install headwater\n"),
        "run": LiteralScalarString(f'head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n{command}\n'),
    }
    if not resources:
        del task["resources"]
    text = io.StringIO()
    YAML().dump(task, text)
    return text.getvalue()

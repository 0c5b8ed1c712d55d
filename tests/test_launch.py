from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from headwater.cli import main
from headwater.core.errors import InputError
from headwater.launch import Cluster, launch

SBATCH = {
    "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "time", "partition", "account", "output", "open-mode",
    "signal", "exclusive", "requeue",
}  # fmt: skip
"""Options of `sbatch` that we use, as its manual spells them (slurm.schedmd.com/sbatch.html)."""
TORCHRUN = {"--nnodes", "--nproc-per-node", "--max-restarts", "--rdzv-id", "--rdzv-backend", "--rdzv-endpoint"}
TORCHRUN |= {"--shutdown-timeout"}
SKYPILOT = {"name", "num_nodes", "resources", "workdir", "file_mounts", "setup", "run"}
"""Fields of a task (docs.skypilot.co/en/latest/reference/yaml-spec.html)."""


def check_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def options(text: str) -> set[str]:
    from torch.distributed.run import get_args_parser

    used = set(re.findall(r"(--[a-z-]+)=", text[text.index("torchrun") :]))
    known = {option.replace("_", "-") for action in get_args_parser()._actions for option in action.option_strings}
    assert used <= known
    return used


@pytest.mark.parametrize("gpus", [0, 8])
def test_a_slurm_script_is_whole(gpus):
    cluster = Cluster(nodes=4, gpus_per_node=gpus, accelerator="h100", hours=1.5, partition="big", account="lab")
    text = launch("my-run", "my recipe.yaml", ["train.steps=10", "name=a b"], "slurm", cluster)
    check_shell(text)
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE))
    assert asked.keys() <= SBATCH
    assert asked["nodes"] == "4"
    assert asked["time"] == "01:30:00"
    assert asked.get("gpus-per-node") == ("h100:8" if gpus else None)
    assert (asked["partition"], asked["account"]) == ("big", "lab")
    assert options(text) == TORCHRUN
    assert f"--nproc-per-node={gpus or 1}" in text
    assert "-m headwater run 'my recipe.yaml' train.steps=10 'name=a b'" in text


def test_a_skypilot_task_is_whole():
    cluster = Cluster(nodes=2, gpus_per_node=4, accelerator="A100", bucket="s3://mine", spot=True)
    text = launch("my-run", "my.yaml", [], "skypilot", cluster)
    task = YAML(typ="safe").load(text)
    assert task.keys() <= SKYPILOT
    assert (task["name"], task["num_nodes"]) == ("my-run", 2)
    assert task["resources"] == {"use_spot": True, "accelerators": "A100:4"}
    assert task["file_mounts"]["/store"]["source"] == "s3://mine"
    check_shell(task["run"])
    assert options(task["run"]) == TORCHRUN
    assert "machine.store=/store" in task["run"]
    plain = YAML(typ="safe").load(launch("x", "my.yaml", [], "skypilot", Cluster(gpus_per_node=0)))
    assert "resources" not in plain
    assert "file_mounts" not in plain


@pytest.mark.parametrize(
    ("to", "cluster", "problem"),
    [
        ("slurm", Cluster(nodes=0), "at least one node"),
        ("slurm", Cluster(spot=True), "slurm knows no --spot"),
        ("skypilot", Cluster(partition="big"), "skypilot knows no --partition"),
        ("skypilot", Cluster(bucket="mine"), "'mine' is no bucket"),
    ],
)
def test_what_a_cluster_has_not_is_refused(to, cluster, problem):
    with pytest.raises(InputError, match=problem):
        launch("x", "my.yaml", [], to, cluster)


def test_the_command_writes_a_file_and_checks_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = tmp_path / "job.sbatch"
    main(["launch", "demo", "train.budget=60s", "--to", "slurm", "--nodes", "2", "--out", str(script)])
    assert "sbatch" in capsys.readouterr().out
    check_shell(script.read_text())
    assert "-m headwater run demo train.budget=60s" in script.read_text()
    with pytest.raises(SystemExit) as stopped:
        main(["launch", "demo", "train.bugdet=60s", "--to", "slurm", "--out", str(tmp_path / "no.sbatch")])
    assert stopped.value.code == 2
    assert not (tmp_path / "no.sbatch").exists()

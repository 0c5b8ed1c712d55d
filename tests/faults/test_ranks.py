"""`headwater run` under torchrun: on one machine, and on two hosts of which one dies while the model is trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.core.log import read_metrics

pytestmark = pytest.mark.slow
TINY = Path(__file__).parents[1] / "flow" / "tiny.yaml"
FIRST, SECOND = "10.213.78.1", "10.213.78.2"


def recipe(prose: Path, *more: str) -> list[str]:
    settings = ["train.micro_batch_sequences=2", "machine.threads=1", "--until", "train"]
    return ["-m", "headwater", "run", str(TINY), f"read.sources.prose.paths=[{prose}]", *more, *settings]


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options]


def losses(folder: Path) -> list[float]:
    (metrics,) = folder.glob("store/train-*/metrics.jsonl")
    return [line["loss"] for line in read_metrics(metrics) if "loss" in line]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, prose: Path) -> list[float]:
    """The losses of one process."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, *recipe(prose)], cwd=folder, check=True, capture_output=True)
    return losses(folder)


@pytest.mark.parametrize("ranks", [2, 4])
def test_under_torchrun_documents_are_read_once_and_losses_are_the_same(tmp_path, prose, alone, ranks):
    command = [*torchrun("--standalone", "--nproc-per-node", str(ranks)), *recipe(prose)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path) == pytest.approx(alone, abs=1e-5)
    assert done.stderr.count("read: new") == 1
    assert done.stderr.count("initial loss") == 1
    (manifest,) = tmp_path.glob("store/train-*/manifest.json")
    assert json.loads(manifest.read_text())["counts"]["ranks"] == ranks


def test_an_error_is_said_once_and_all_ranks_end(tmp_path, prose):
    command = [*torchrun("--standalone", "--nproc-per-node", "2"), *recipe(prose, "train.sequence_length=128")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.count("tokens are more than the model's context_length") == 1


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def kill(host: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout.split()
    if pids:
        subprocess.run(["kill", "-9", *pids], check=False, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Two hosts with addresses of their own: name by address."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("makes network namespaces: root, iproute2")
    names = {FIRST: f"tr{os.getpid()}a", SECOND: f"tr{os.getpid()}b"}
    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip(
            "link",
            "add",
            "eth-a",
            "netns",
            names[FIRST],
            "type",
            "veth",
            "peer",
            "name",
            "eth-b",
            "netns",
            names[SECOND],
        )
        for address, link in ((FIRST, "eth-a"), (SECOND, "eth-b")):
            ip("-n", names[address], "addr", "add", f"{address}/24", "dev", link)
            ip("-n", names[address], "link", "set", link, "up")
    except subprocess.CalledProcessError as error:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        yield names
    finally:
        for name in names.values():
            kill(name)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_a_host_that_dies_costs_a_restart_and_nothing_else(hosts, tmp_path, prose):
    more = ["train.steps=400", "train.checkpoint_every=20", "train.validate_every=0", "train.mixture.max_epochs=1000"]
    more += ["train.optimizer.learning_rate=1e-4"]  # at high rates rounding alone drives two runs apart in 400 steps
    alone = tmp_path / "alone"
    alone.mkdir()
    subprocess.run([sys.executable, *recipe(prose, *more)], cwd=alone, check=True, capture_output=True)
    agent = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-id", "hw"]
    agent += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{FIRST}:29411"]
    together = tmp_path / "together"
    together.mkdir()
    running = {}
    for address, link in ((FIRST, "eth-a"), (SECOND, "eth-b")):
        command = ["ip", "netns", "exec", hosts[address], *torchrun(*agent, "--local-addr", address)]
        command += ["--rdzv-conf", f"last_call_timeout=15,is_host={int(address == FIRST)}"]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": link}
        with (tmp_path / f"{link}.log").open("w") as log:
            running[address] = subprocess.Popen(
                [*command, *recipe(prose, *more)], cwd=together, stdout=log, stderr=log, env=environment
            )
        if address == FIRST:
            time.sleep(2)
    killed_after, before = None, None
    logs = [tmp_path / "eth-a.log", tmp_path / "eth-b.log"]
    while running[FIRST].poll() is None:
        saved = {path.parent.name for path in together.glob("store/train-*.partial/checkpoints/step-*/model.json")}
        if before is None and any("on 2 ranks" in log.read_text() for log in logs):
            before = saved
        if killed_after is None and before is not None and saved - before:
            killed_after = max(saved)
            kill(hosts[SECOND])
        time.sleep(0.05)
    for process in running.values():
        process.wait()
    said = (tmp_path / "eth-a.log").read_text()
    assert running[FIRST].returncode == 0, said
    assert killed_after is not None, "the host was to die while the model was trained"
    assert "resumed after step" in said + (tmp_path / "eth-b.log").read_text()
    assert losses(together) == pytest.approx(losses(alone), abs=1e-4)
    (manifest,) = together.glob("store/train-*/manifest.json")
    assert json.loads(manifest.read_text())["counts"]["ranks"] == 1

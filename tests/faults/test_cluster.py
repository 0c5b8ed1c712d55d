"""The document stages on two machines of a Ray cluster, one of which is killed half-way: the same bytes as here alone."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="makes network namespaces: root, iproute2"),
]
HEAD, WORKER = "10.213.77.1", "10.213.77.2"
BIN = Path(sys.executable).parent
RECIPE = """
read:
  shard_bytes: 500kB
  sources:
    prose: {use: jsonl, paths: [prose.jsonl]}
clean:
  steps:
    - {use: normalise}
    - {use: language, keep: [en]}
    - {use: gopher_repetition}
    - {use: gopher_quality, min_words: 20}
dedup: {}
split: {}
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def within(host: str, *command: str | Path) -> list[str]:
    return ["ip", "netns", "exec", host, *map(str, command)]


def kill(host: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout.split()
    if pids:
        subprocess.run(["kill", "-9", *pids], check=False, capture_output=True)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Two hosts with addresses of their own, and Ray with one core on each; name of each host by its address."""
    pytest.importorskip("ray", reason="needs headwater[ray]")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    hosts = {HEAD: f"hw{os.getpid()}a", WORKER: f"hw{os.getpid()}b"}
    links = {HEAD: f"v{os.getpid()}a", WORKER: f"v{os.getpid()}b"}
    try:
        for host in hosts.values():
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        ip("link", "add", links[HEAD], "type", "veth", "peer", "name", links[WORKER])
        for address, host in hosts.items():
            ip("link", "set", links[address], "netns", host)
            ip("-n", host, "addr", "add", f"{address}/24", "dev", links[address])
            ip("-n", host, "link", "set", links[address], "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    start = [BIN / "ray", "start", "--block", "--num-cpus", "1", "--disable-usage-stats"]
    roles = {
        HEAD: ["--head", "--port", "6399", "--include-dashboard=false"],
        WORKER: ["--address", f"{HEAD}:6399"],
    }
    running = []
    try:
        for address, role in roles.items():
            command = within(hosts[address], *start, *role, "--node-ip-address", address)
            with (tmp_path / f"ray-{address}.log").open("w") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(6)
        yield hosts
    finally:
        for host in hosts.values():
            kill(host)
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)
        for process in running:
            process.wait()


def files(store: Path) -> dict[str, str]:
    """Stage and file -> hash of its content."""
    found = {}
    for manifest in store.glob("*/manifest.json"):
        stage = manifest.parent.name
        for name, file in json.loads(manifest.read_text())["files"].items():
            found[f"{stage}/{name}"] = file["sha256"]
    return found


def test_a_machine_that_dies_changes_nothing(cluster: dict[str, str], prose: Path, tmp_path: Path) -> None:
    lines = prose.read_text(encoding="utf-8").splitlines()
    with (tmp_path / "prose.jsonl").open("w", encoding="utf-8") as out:
        for turn in range(12):  # the same documents in other words, so that there is work for some time
            out.writelines(line.replace(" the ", f" the {turn} ") + "\n" for line in lines)
    (tmp_path / "two.yaml").write_text(RECIPE)
    run = [BIN / "headwater", "run", "two.yaml", "--until", "split"]
    subprocess.run([*run, "machine.store=here"], cwd=tmp_path, check=True, capture_output=True)
    ray = ["machine.store=there", "machine.engine=ray", f"machine.cluster={HEAD}:6399"]
    with (tmp_path / "there.log").open("w") as log:
        process = subprocess.Popen(within(cluster[HEAD], *run, *ray), cwd=tmp_path, stdout=log, stderr=log)
    killed_after, total = None, 0
    while process.poll() is None:
        markers = len(list((tmp_path / "there").glob("clean-*.partial/.done/clean-*.json")))
        total = max(total, len(list((tmp_path / "there").glob("read-*/documents/*.parquet"))))
        if killed_after is None and total and markers >= total // 3:
            kill(cluster[WORKER])
            killed_after = markers
        time.sleep(0.01)
    output = (tmp_path / "there.log").read_text()
    assert process.returncode == 0, output
    assert "on Ray: 2 machines, 2 cores" in output
    assert killed_after is not None, "the machine was to die while the stage clean ran"
    assert killed_after < total
    here, there = files(tmp_path / "here"), files(tmp_path / "there")
    assert len(here) > 30
    assert here == there

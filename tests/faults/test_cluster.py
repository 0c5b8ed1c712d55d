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
    prose: {{use: jsonl, paths: ['{prose}']}}
clean:
  steps:
    - {{use: normalise}}
    - {{use: language, keep: [en]}}
    - {{use: gopher_repetition}}
    - {{use: gopher_quality, min_words: 20}}
dedup: {dedup}
split: {{}}
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def within(host: str, *command: str | Path) -> list[str]:
    return ["ip", "netns", "exec", host, *map(str, command)]


def kill(host: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=False).stdout.split()
    if pids:
        subprocess.run(["kill", "-9", *pids], check=False, capture_output=True)


BUCKET = "s3://results"
SERVER = f"""
import boto3, moto.server, threading
server = moto.server.ThreadedMotoServer("{HEAD}", 5799, verbose=False)
server.start()
boto3.client("s3").create_bucket(Bucket="results")
boto3.client("s3").upload_file("prose.jsonl", "results", "prose.jsonl")
print("ready", flush=True)
threading.Event().wait()
"""


@pytest.fixture(params=["folder", "bucket"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the machines share: all folders, or only a bucket."""
    if request.param == "bucket":
        pytest.importorskip("moto", reason="needs moto, s3fs")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{HEAD}:5799")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "for-tests")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return request.param


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Iterator[dict[str, str]]:
    """Two hosts with addresses of their own, and Ray with one core on each; name of each host by its address.

    With a bucket, neither sees the folder of the test, nor what the other has in its place.
    """
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
            words = [*start, *role, "--node-ip-address", address]
            if kind == "bucket":
                words = ["sh", "-c", f'mount -t tmpfs none {tmp_path} && exec "$0" "$@"', *words]
            command = within(hosts[address], *words)
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


@pytest.fixture
def served(cluster: dict[str, str], tmp_path: Path, kind: str, texts: Path) -> Iterator[str]:
    """Where the documents are: in a file, or on a server that speaks S3 as well."""
    if kind == "folder":
        yield texts.name
        return
    command = within(cluster[HEAD], sys.executable, "-c", SERVER)
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield f"{BUCKET}/{texts.name}"
        server.kill()


@pytest.fixture
def texts(prose: Path, tmp_path: Path) -> Path:
    """The same documents in other words, so that there is work for some time."""
    lines = prose.read_text(encoding="utf-8").splitlines()
    with (tmp_path / "prose.jsonl").open("w", encoding="utf-8") as out:
        for turn in range(12):
            out.writelines(line.replace(" the ", f" the {turn} ") + "\n" for line in lines)
    return tmp_path / "prose.jsonl"


def test_a_machine_that_dies_changes_nothing(cluster: dict[str, str], served: str, kind: str, tmp_path: Path) -> None:
    dedup = "{}" if kind == "folder" else "{near: {verify: true}, keep: longest, lines: {}, paragraphs: {}, spans: {}}"
    (tmp_path / "two.yaml").write_text(RECIPE.format(prose=served, dedup=dedup))
    run = within(cluster[HEAD], BIN / "headwater", "run", "two.yaml", "--until", "split")
    alone = subprocess.run([*run, "machine.store=here"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    there = tmp_path / "there"
    store = ["machine.store=there"]
    if kind == "bucket":
        store = [f"machine.store={BUCKET}/store", "machine.scratch=there"]
        there = there / "s3-results-store"
    ray = [*store, "machine.engine=ray", f"machine.cluster={HEAD}:6399"]
    with (tmp_path / "there.log").open("w") as log:
        process = subprocess.Popen([*run, *ray], cwd=tmp_path, stdout=log, stderr=log)
    killed_after, total = None, 0
    while process.poll() is None:
        markers = len(list(there.glob("clean-*.partial/.done/clean-*.json")))
        total = max(total, len(list(there.glob("read-*/documents/*.parquet"))))
        if killed_after is None and total and markers >= total // 3:
            kill(cluster[WORKER])
            killed_after = markers
        time.sleep(0.01)
    output = (tmp_path / "there.log").read_text()
    assert process.returncode == 0, output
    assert "on Ray: 2 machines, 2 cores" in output
    assert killed_after is not None, "the machine was to die while the stage clean ran"
    assert killed_after < total
    here, far = files(tmp_path / "here"), files(there)
    assert len(here) > 30
    assert here == far
    if kind == "bucket":
        again = subprocess.run(
            [*run, store[0], "machine.scratch=again", "machine.runs=again/runs"],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        assert "every stage is done; nothing runs" in again.stderr, again.stderr
        assert files(tmp_path / "again" / "s3-results-store") == here

"""Stopping a run, running it twice at once, killing it: nothing is lost and the result is the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headwater.core.store import hash_file

TINY = Path(__file__).parents[1] / "flow" / "tiny.yaml"
LONG = ["train.steps=200", "train.validate_every=0", "--until", "train"]


def command(prose: Path, *more: str) -> list[str]:
    until = () if "--until" in more else ("--until", "export")
    return [sys.executable, "-m", "headwater", "run", str(TINY), f"read.sources.prose.paths=[{prose}]", *more, *until]


@contextmanager
def running(arguments: list[str], folder: Path, until: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command and go on once it has said `until`."""
    with subprocess.Popen(
        arguments, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if until in line:
                break
        assert until in said[-1], "".join(said)
        yield process
        process.kill()


def test_sigterm_saves_and_exits_with_143(tmp_path: Path, prose: Path) -> None:
    with running(command(prose, *LONG), tmp_path, until="initial loss") as process:
        process.send_signal(signal.SIGTERM)
        said = process.communicate()[1]
        assert process.returncode == 143, said
    assert "run again to go on" in said
    assert list((tmp_path / "store").glob("train-*.partial/checkpoints/step-*/model.json"))


def test_a_second_run_is_refused_and_ctrl_c_saves(tmp_path: Path, prose: Path) -> None:
    with running(command(prose, *LONG), tmp_path, until="initial loss") as first:
        second = subprocess.run(command(prose, *LONG), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert "another run is working on stage train" in second.stderr
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        said = first.communicate()[1]
        assert first.returncode == 130, said
        assert said.splitlines()[-1] == "stopped; run the same command again to go on from here"
    partial = next((tmp_path / "store").glob("train-*.partial"))
    assert list((partial / "checkpoints").glob("step-*/model.json"))
    changed = [*command(prose, *LONG), "train.optimizer.learning_rate=1e-3"]
    refused = subprocess.run(changed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2, refused.stderr
    assert "training was begun with other settings and stopped after step " in refused.stderr
    assert "optimizer.learning_rate 0.003 -> 0.001" in refused.stderr
    assert "--anew" in refused.stderr
    planned = [*changed[:3], "plan", *changed[4:]]
    said = subprocess.run(planned, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert f"changed since {partial.name} was begun (optimizer.learning_rate 0.003 -> 0.001)" in said
    told = subprocess.run(
        [*changed, "train.steps=2", "--anew"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    again = subprocess.run(command(prose, *LONG), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "goes on" in again.stderr


SLOW = [pytest.param(moment, marks=pytest.mark.slow) for moment in ("read: ", "dedup: ", "tokenizer: ", "evaluate: ")]


@pytest.mark.parametrize("moment", ["clean: ", "initial loss", *SLOW])
def test_a_kill_at_any_stage_changes_nothing(tmp_path: Path, prose: Path, moment: str, whole: dict[str, str]) -> None:
    with running(command(prose), tmp_path, until=moment) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command(prose), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hashes(tmp_path) == whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, prose: Path) -> dict[str, str]:
    """Hashes of the results of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(command(prose), cwd=folder, capture_output=True, check=True)
    return hashes(folder)


def hashes(folder: Path) -> dict[str, str]:
    stages = folder / "runs" / "tiny" / "stages"
    files = [*sorted((stages / "encode").rglob("*.bin")), stages / "train" / "checkpoint" / "weights.safetensors"]
    files += [folder / "runs" / "tiny" / "model" / "model.safetensors", stages / "evaluate" / "generations.json"]
    return {str(file.relative_to(folder)): hash_file(file) for file in files}

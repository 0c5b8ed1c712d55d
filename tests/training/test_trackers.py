from __future__ import annotations

import subprocess
import sys

import pytest

from headwater.core.errors import MissingExtraError
from headwater.core.hardware import Machine
from headwater.core.log import read_metrics
from headwater.core.stage import Workspace
from headwater.training import trackers
from headwater.training.trackers import Trackers

LOG = """
import os, sys
from pathlib import Path
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.training.trackers import Trackers
name = sys.argv[1]
folder = Path(sys.argv[2]) / "train-12345678.partial"
folder.mkdir(exist_ok=True)
log = Trackers(Workspace(folder, Machine(trackers=(name,))), int(sys.argv[3]), {"steps": 4})
for step in range(int(sys.argv[3]) + 1, int(sys.argv[3]) + 3):
    log.log(step, step * 10, {"loss": 1 / step, "validation_loss": {"books": 2.5}})
log.close()
"""

READ = {
    "wandb": """
import struct
from wandb.proto import wandb_internal_pb2

def records(data):  # the log format of LevelDB: blocks of 32 KiB with (checksum, length, type) before each piece
    place, whole = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""

steps = []
for file in sorted(folder.glob("trackers/wandb/offline-run-*/*.wandb")):
    for record in records(file.read_bytes()):
        if record.HasField("history"):
            values = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            steps.append((int(values["_step"]), float(values["train/loss"]), float(values["validation_loss/books"])))
        if record.HasField("run"):
            assert record.run.run_id == "train-12345678", record.run
""",
    "mlflow": """
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{folder}/trackers/mlflow.db")
(run,) = client.search_runs([client.get_experiment_by_name("headwater").experiment_id])
assert run.info.run_name == "train-12345678" and run.data.params == {"steps": "4"}
books = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "validation_loss/books")}
steps = [(m.step, m.value, books[m.step]) for m in client.get_metric_history(run.info.run_id, "train/loss")]
""",
    "trackio": """
import os
os.environ["TRACKIO_DIR"] = str(folder / "trackers" / "trackio")
from trackio.sqlite_storage import SQLiteStorage
logs = SQLiteStorage.get_logs("headwater", "train-12345678")
steps = [(row["step"], row["train/loss"], row["validation_loss/books"]) for row in logs]
""",
}


def python(code: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_a_tracker_has_every_number_of_a_run_that_was_stopped_once(name, tmp_path, monkeypatch):
    pytest.importorskip(name, reason=f"needs headwater[{name}]")
    for variable, value in {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "", "TRACKIO_DIR": ""}.items():
        monkeypatch.setenv(variable, value) if value else monkeypatch.delenv(variable, raising=False)
    for begin in ("0", "2"):
        python(LOG, name, str(tmp_path), begin)
    wanted = [(step, 1 / step, 2.5) for step in (1, 2, 3, 4)]
    found = f"assert [tuple(row) for row in steps] == {wanted}, steps"
    python("import sys\nfrom pathlib import Path\nfolder = Path(sys.argv[1])" + READ[name] + found, str(tmp_path))
    assert not list((tmp_path / "train-12345678.partial").glob("[!m]*"))  # the stage has metrics.jsonl alone


def test_a_tracker_that_is_not_installed_names_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    out = Workspace(tmp_path, Machine(trackers=("wandb",)))
    with pytest.raises(MissingExtraError, match=r"machine\.trackers: wandb is not installed.*headwater\[wandb\]"):
        Trackers(out, 0)


def test_a_tracker_that_fails_is_left_out_and_metrics_go_on(tmp_path, monkeypatch):
    class Failing:
        def __init__(self, *_: object) -> None:
            self.calls = 0

        def log(self, step: int, values: object) -> None:
            self.calls += 1
            raise ConnectionError("no network")

    monkeypatch.setitem(trackers._KINDS, "wandb", Failing)
    out = Workspace(tmp_path, Machine(trackers=("wandb",)))
    log = Trackers(out, 0)
    for step in (1, 2):
        log.log(step, step, {"loss": 1.0})
    log.close()
    assert out.warnings == ["the tracker wandb failed and is left out from now on: ConnectionError: no network"]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_trackers_do_not_change_what_a_result_is(tmp_path):
    from headwater.recipe import load

    plain, tracked = load("demo"), load("demo", "machine.trackers=[wandb,mlflow]")
    assert plain.train == tracked.train
    assert tracked.machine.trackers == ("wandb", "mlflow")

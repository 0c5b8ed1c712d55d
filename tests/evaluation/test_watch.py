"""The command `watch`: checkpoints of a run are scored as they appear."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from headwater.cli import main
from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.store import locked, write_json
from headwater.evaluation.watch import watch
from headwater.report.page import html
from headwater.report.trajectory import trajectory_page

from .samples import write_samples

MACHINE = Machine(threads=1, device="cpu")


@pytest.fixture
def run(finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in its first training, as `headwater run` leaves it: a store and two records, and no links to stages yet."""
    stages = {"tokenizer": "tokenizer", "initialize": "start", "encode": "tokens"}
    for stage, of in stages.items():
        shutil.copytree(finished[of], tmp_path / "store" / f"{stage}-0123abcd")
    (tmp_path / "store" / "train-0123abcd.partial" / "checkpoints").mkdir(parents=True)
    done = {stage: f"{stage}-0123abcd" for stage in stages}
    write_json(tmp_path / "runs" / "mine" / "stages.json", done)
    write_json(tmp_path / "runs" / "mine" / "begun.json", {**done, "train": "train-0123abcd"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_checkpoints_are_scored_while_they_appear(
    run: Path, finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = run / "store" / "train-0123abcd.partial"
    looks: list[float] = []

    def train_on(seconds: float) -> None:
        """Stands for the time between two looks: first a checkpoint appears, then the training ends."""
        looks.append(seconds)
        if len(looks) == 1:
            shutil.copytree(finished["checkpoint"] / "checkpoint", partial / "checkpoints" / "step-000060")
            line = {"step": 60, "tokens": 7680, "loss": 3.0}
            (partial / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        else:
            partial.rename(run / "store" / "train-0123abcd")

    monkeypatch.setattr("headwater.evaluation.watch.time.sleep", train_on)
    watching = watch("mine", [], MACHINE, every=7)
    with locked(run / "store" / "train-0123abcd", "the test"):
        rows = list(watching.rows())
    assert [row["step"] for row in rows] == [0, 60]
    assert [row["tokens"] for row in rows] == [0, 7680]
    assert looks == [7, 7]
    first, last = (row["bits_per_byte"]["total"]["value"] for row in rows)
    assert last < first, "training helps"
    assert json.loads((watching.folder / "trajectory.json").read_text())["rows"] == rows
    again = watch("mine", [], MACHINE)
    assert list(again.rows()) == [], "what was scored is not scored again"
    assert again.found == rows
    other = watch("mine", [], MACHINE, max_bytes=20_000)
    assert [row["step"] for row in other.rows()] == [0, 60], "other documents, other scores"


def test_a_training_that_nobody_goes_on_with_is_not_waited_for(run: Path) -> None:
    assert [row["step"] for row in watch("mine", [], MACHINE).rows()] == [0]


def test_a_checkpoint_that_is_removed_meanwhile_is_passed_over(
    run: Path, finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = run / "store" / "train-0123abcd.partial" / "checkpoints" / "step-000060"
    shutil.copytree(finished["checkpoint"] / "checkpoint", place)
    watching = watch("mine", [], MACHINE, once=True)
    rows = watching.rows()
    assert next(rows)["step"] == 0
    shutil.rmtree(place)
    assert list(rows) == []


def test_the_command_prints_and_writes_a_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["watch", "mine", "--once", "--device", "cpu", "--max-bytes", "20 kB"])
    assert "step 0, 0 tokens: " in capsys.readouterr().out
    assert "A curve needs a second checkpoint" in (run / "runs/mine/trajectory/trajectory.html").read_text("utf-8")


def test_the_page_has_a_chart_for_each_score() -> None:
    score = {"value": 0.3, "standard_error": 0.1, "metric": "acc", "chance": 0.25}
    rows = [
        {"step": n, "tokens": 100 * n, "bits_per_byte": {"total": {**score, "value": 3 - n}}, "tasks": {"sciq": score}}
        for n in range(3)
    ]
    page = html(trajectory_page("mine", rows))
    assert page.count("<figure") == 2
    assert "sciq" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["watch", "other"], "runs: mine"),
        (["watch", "mine", "--every", "0"], "is not a time"),
        (["watch", "mine", "blimb"], "did you mean 'blimp'?"),
        (["watch", "mine", "--max-bytes", "much"], "--max-bytes"),
    ],
)
def test_bad_input(arguments: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_run_that_does_not_train_is_told(run: Path) -> None:
    (run / "runs" / "mine" / "begun.json").unlink()
    with pytest.raises(InputError, match="no training of this run has begun"):
        list(watch("mine", [], MACHINE).rows())


def test_a_task_without_items_leaves_the_other_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_samples(run / "data")
    (data / "piqa.jsonl").unlink()
    with pytest.raises(SystemExit) as caught:
        main(["watch", "mine", "arc_easy", "piqa", "--once", "--data", str(data), "--device", "cpu"])
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert "arc_easy" in said.out
    assert "piqa" in said.err
    (row,) = json.loads((run / "runs/mine/trajectory/trajectory.json").read_text())["rows"]
    assert list(row["tasks"]) == ["arc_easy"]


def test_rows_of_another_training_are_not_mixed_in(run: Path, finished: dict[str, Path], monkeypatch) -> None:
    def begin_anew(_: float) -> None:
        """Stands for the time between two looks: the settings were changed and the training begun anew."""
        shutil.copytree(
            finished["checkpoint"] / "checkpoint", run / "store" / "train-ffff.partial" / "checkpoints" / "step-000060"
        )
        write_json(run / "runs" / "mine" / "begun.json", {"train": "train-ffff"})

    monkeypatch.setattr("headwater.evaluation.watch.time.sleep", begin_anew)
    watching = watch("mine", [], MACHINE)
    with locked(run / "store" / "train-0123abcd", "the test"):
        assert [row["step"] for row in watching.rows()] == [0, 0, 60]
    assert [row["step"] for row in watching.found] == [0, 60]


def test_a_run_that_is_not_that_far_is_told(run: Path) -> None:
    write_json(run / "runs" / "mine" / "stages.json", {})
    with pytest.raises(InputError, match="has not finished its stage"):
        list(watch("mine", [], MACHINE).rows())

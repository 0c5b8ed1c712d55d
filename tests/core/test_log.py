"""metrics.jsonl survives a kill and a resume."""

from __future__ import annotations

from pathlib import Path

from headwater.core.log import MetricsLog, read_metrics


def test_metrics_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    for step in range(1, 6):
        log.write({"step": step, "loss": 1 / step})
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # a kill in the middle of a line
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5]
    MetricsLog(path, keep=3).write({"step": 4, "loss": 0.5})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]


def test_a_line_cut_after_an_inner_brace_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "validation_loss": {"prose": 1.0}')
    assert [line["step"] for line in read_metrics(path)] == [1]

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.core.hardware import core_count


@pytest.mark.parametrize(
    ("content", "cores"), [("150000 100000", 2), ("100000 100000", 1), ("5000 100000", 1), ("max 100000", 2)]
)
def test_a_container_s_share_of_time_counts(content: str, cores: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    quota = tmp_path / "cpu.max"
    quota.write_text(content + "\n")
    assert core_count(quota) == cores
    assert core_count(tmp_path / "none") == 2

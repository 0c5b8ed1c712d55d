from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from headwater.core.hardware import Machine, core_count


@pytest.mark.parametrize(
    ("content", "cores"), [("150000 100000", 2), ("100000 100000", 1), ("5000 100000", 1), ("max 100000", 2)]
)
def test_a_container_s_share_of_time_counts(content: str, cores: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    quota = tmp_path / "cpu.max"
    quota.write_text(content + "\n")
    assert core_count(quota) == cores
    assert core_count(tmp_path / "none") == 2


@pytest.mark.parametrize("name", ["store", "runs"])
def test_a_bucket_is_no_folder(name: str) -> None:
    """It would become a folder `s3:` of this machine."""
    with pytest.raises(ValidationError, match="is a URL, not a folder; mount the bucket"):
        Machine.model_validate({name: "s3://bucket/store"})

"""Dates: whatever is one becomes ISO 8601, whatever is none is said."""

from __future__ import annotations

import datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.read import Read, read
from headwater.documents.sources.dates import iso_date

from .reading import rows


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2024-03-05T17:30:00Z", "2024-03-05T17:30:00Z"),
        ("2024-03-05T17:30:00.123+02:00", "2024-03-05T17:30:00.123+02:00"),
        ("2024", "2024"),
        (" 2024-03 ", "2024-03"),
        ("20240305", "20240305"),
        ("20240305173000", "2024-03-05T17:30:00+00:00"),
        ("1709659800123", "2024-03-05T17:30:00+00:00"),
        ("2024/3/5", "2024-03-05"),
        ("Mar 5, 2024", "2024-03-05"),
        ("March 2024", "2024-03"),
        ("5.3.2024", "2024-03-05"),
        ("Tue, 5 Mar 2024 17:30:00 +0100", "2024-03-05T17:30:00+01:00"),
        ("2024-13", None),
        ("2024-02-30", None),
        ("0000", None),
        ("9999-01-01", None),
        ("yesterday", None),
        ("05/03/2024", None),
        ("-1", None),
        ("\x00", None),
        ("²⁰²⁴", None),
        ("99999999999999", None),
    ],
)
def test_forms(text: str, date: str | None) -> None:
    assert iso_date(text) == date


@given(st.datetimes(datetime.datetime(1000, 1, 1), datetime.datetime(2199, 12, 31)))
def test_what_is_iso_stays(date: datetime.datetime) -> None:
    assert iso_date(date.isoformat()) == date.isoformat()
    assert iso_date(date.date().isoformat()) == date.date().isoformat()


@given(st.text(max_size=40) | st.from_regex(r"[0-9/., :TZ+-]{1,30}", fullmatch=True))
def test_any_text_is_a_date_or_none(text: str) -> None:
    found = iso_date(text)
    assert found is None or 1000 <= int(found[:4]) < 2200


def test_what_is_no_date_is_counted_and_said(tmp_path: Path) -> None:
    dates = ["2024-03-05", "yesterday", None, "Mar 5, 2024", 1709659800, "soon"]
    lines = [orjson.dumps({"text": f"text {place}", "day": date}) for place, date in enumerate(dates)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    source = {"use": "jsonl", "paths": str(tmp_path / "a.jsonl"), "fields": {"date": "day"}}
    out = Workspace(tmp_path / "out", Machine(workers=1))
    read(Read.model_validate({"sources": {"web": source}}), {}, out)
    found = [row["date"] for row in rows(tmp_path / "out" / "documents")]
    assert found == ["2024-03-05", None, None, "2024-03-05", "2024-03-05T17:30:00+00:00", None]
    assert out.warnings == [
        "read.sources.web: 2 dates are none that can be told, such as 'yesterday'; these documents have none"
    ]

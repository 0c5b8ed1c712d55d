"""The section on what the model repeats: marks lie where matches do, and hostile text stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headwater.core.hardware import Machine
from headwater.report.blocks import Details, Marked, Page, Section, Table, Text
from headwater.report.evidence import Evidence
from headwater.report.page import html, markdown
from headwater.report.sections.repeats import repeats

SHARE = {"passages": 20, "documents": 9, "memorised": 5, "value": 0.25, "low": 0.1, "high": 0.5, "mean_tokens": 7.25}
NONE = {"passages": 0, "documents": 0, "memorised": 0, "value": None, "low": None, "high": None, "mean_tokens": None}
EVIL = "<script>alert(1)</script>"


def sample(matched: int, **changes: Any) -> dict[str, Any]:
    given = {"split": "training", "source": "prose", "id": "ab" * 16, "places": 3, "steps": 2, "shown": "Once upon"}
    return given | {"matched_tokens": matched, "same": " a time", "document": " there", "written": EVIL, **changes}


def source(**changes: Any) -> dict[str, Any]:
    return {"source": "prose", "url": f"https://a.org/{EVIL}", "licence": None, "steps": [3, 9], **changes}


def match(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"begin": begin, "end": end, "text": "some words", "words": 2, "count": 1, "sources": [source()], **changes}


def evidence(folder: Path, **changes: Any) -> Evidence:
    result = {
        "settings": {"shown_tokens": 32, "continued_tokens": 50, "min_words": 8},
        "training": SHARE,
        "never_read": NONE,
        "by_duplicates": {"1": SHARE, "2 to 4": NONE, "20 or more": SHARE},
        "held_out": SHARE | {"memorised": 0, "value": 0.0, "low": 0.0, "high": 0.2},
        "held_out_in_training": 2,
        "not_told": [],
        "samples": [sample(50), sample(12), sample(3)],
        "generations": [
            {"prompt": "abc", "text": "defghij", "matches": [match(2, 5), match(4, 8)]},
            {"prompt": "abc", "text": "defghij", "matches": []},
        ],
    }
    (folder / "memorization.json").write_text(json.dumps(result | changes))
    (folder / "manifest.json").write_text(json.dumps({"counts": {}}))
    return Evidence({"memorization": folder}, Machine())


def test_shares_samples_and_matches_are_shown(tmp_path: Path) -> None:
    blocks = list(repeats(evidence(tmp_path)))
    (table,) = [block for block in blocks if isinstance(block, Table)]
    assert [row[0] for row in table.rows] == [
        "training",
        "training, standing in 1 place",
        "training, standing in 20 or more places",
        "held out, the control",
    ]
    assert table.rows[0][1:] == ["20", "9", "5", "25.0 %", "10.0 % to 50.0 %", "7.2"]
    assert any(isinstance(block, Text) and "2 held-out passages also stood" in block.text for block in blocks)
    (details,) = [block for block in blocks if isinstance(block, Details)]
    assert len(details.blocks) == 2, "of the third, too little was continued"
    (marked,) = [block for block in blocks if isinstance(block, Marked)]
    assert marked.pieces == [("ab", False), ("cde", True), ("fgh", True), ("ij", False)]
    assert "read by step 3, 9" in marked.remarks[0]


def test_what_was_not_measured_is_said_or_left_out(tmp_path: Path) -> None:
    changes = {"by_duplicates": None, "held_out_in_training": None, "not_told": ["how often"], "generations": None}
    blocks = list(repeats(evidence(tmp_path, **changes)))
    assert any(isinstance(block, Text) and block.text == "Not told: how often." for block in blocks)
    assert not any(isinstance(block, Marked) for block in blocks)
    assert list(repeats(Evidence({}, Machine()))) == []


def test_text_of_strangers_is_made_harmless(tmp_path: Path) -> None:
    page = Page("t", "", "", [], [], [Section("repeats", "What it repeats", list(repeats(evidence(tmp_path))))], "")
    told = html(page)
    assert EVIL not in told
    assert "&lt;script&gt;alert(1)" in told
    assert '<mark class="found">cde</mark>' in told
    twin = markdown(page)
    assert "ab⟦cde⟧⟦fgh⟧ij" in twin
    outside = [line for line in twin.splitlines() if EVIL in line]
    assert all("```" in twin.split(line)[0] for line in outside), "only inside fences"

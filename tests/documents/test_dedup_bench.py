"""The benchmarks of dedup in small: they run, and what they measure stays within its goals."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def bench(name: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCH / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])


def test_memory_of_clusters_grows_little(tmp_path: Path) -> None:
    out = bench("lsh_memory.py", "--quick")
    peak, before = number(r"peak (\d+) MB", out), number(r"\((\d+) MB before", out)
    # 16 MB of records are gathered at once and sorted; 100,000 documents are 17 MB of them.
    assert peak - before < 150
    assert peak < 500


def test_near_duplicates_in_english(tmp_path: Path) -> None:
    out = bench("near_duplicates.py", "--no-peers", "--languages", "en", "--documents", "200")
    assert number(r"plain .*recall ([\d.]+)", out) == 1.0
    assert number(r"verified.*recall ([\d.]+)", out) == 1.0
    assert number(r"verified.*precision at .5 ([\d.]+)", out) == 1.0


@pytest.mark.skipif(importlib.util.find_spec("pydivsufsort") is None, reason="needs pydivsufsort")
def test_repeated_spans_beside_a_suffix_array(tmp_path: Path) -> None:
    out = bench("repeated_spans.py", "--mb", "2")
    assert number(r"suffix array's bytes we cover ([\d.]+)%", out) >= 98
    assert number(r"of ours ([\d.]+)% are in it", out) >= 99.9

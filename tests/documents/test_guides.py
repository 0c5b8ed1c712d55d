"""The recipe blocks of the guides on duplicates and benchmarks are valid settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from headwater.documents.decontaminate import Decontaminate
from headwater.documents.dedup import Dedup

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SECTIONS = {"dedup": Dedup, "decontaminate": Decontaminate}


@pytest.mark.parametrize(("name", "least"), [("deduplication", 2), ("decontamination", 1)])
def test_blocks_are_valid(name: str, least: int) -> None:
    text = (GUIDES / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= least
    for block in blocks:
        for section, settings in YAML(typ="safe", pure=True).load(block).items():
            SECTIONS[section].model_validate(settings)

"""The guide to sources: its recipes are valid, and it leaves out no kind of file or place that has a section there."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from headwater.documents.read import Read

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "sources.md"
BLOCKS = [part.partition("```")[0] for part in GUIDE.read_text(encoding="utf-8").split("```yaml\n")[1:]]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_its_recipes_are_valid(number: int) -> None:
    Read.model_validate(YAML(typ="safe", pure=True).load(BLOCKS[number])["read"])


def test_it_shows_every_kind_of_file_and_place() -> None:
    shown = {
        source.use
        for block in BLOCKS
        for source in Read.model_validate(YAML(typ="safe", pure=True).load(block)["read"]).sources.values()
    }
    expected = {"text", "jsonl", "parquet", "csv", "arrow", "huggingface", "repository", "crawl", "python_environment"}
    assert shown == expected

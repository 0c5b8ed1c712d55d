"""What the docs say is true: shipped recipes plan, code blocks parse, commands and links exist, pages are current."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from headwater import load
from headwater.cli import app
from headwater.flow import stages_of
from headwater.recipe import shipped

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.about
    assert stages_of(recipe)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes_fit_the_json_schema(name: str) -> None:
    schema = json.loads((ROOT / "docs" / "reference" / "recipe.schema.json").read_text(encoding="utf-8"))
    values = YAML(typ="safe", pure=True).load(shipped()[name].read_text(encoding="utf-8"))
    jsonschema.validate(values, schema)


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, match[1]) for page in PAGES for match in pattern.finditer(page.read_text(encoding="utf-8"))]


def test_python_blocks_parse_and_import_what_exists() -> None:
    assert blocks("python")
    for page, text in blocks("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("headwater"):
                done = subprocess.run(
                    [sys.executable, "-c", ast.unparse(node)], capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{page}: {done.stderr}"


def test_console_blocks_name_commands_and_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = {name for name in app if not name.startswith("-")}
    lines = [
        (page, line[2:]) for page, text in blocks("console") for line in text.splitlines() if line.startswith("$ ")
    ]
    assert lines
    for page, line in lines:
        words = line.split()
        if words[0] == "make":
            assert set(words[1:]) <= targets, f"{page}: {line}"
        if words[0] == "headwater":
            assert words[1] in commands, f"{page}: {line}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_ci_runs_the_readme_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "$ make demo" in readme
    assert "$ make test" in readme
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["make check", "make test"]


def test_the_readme_is_not_about_other_things() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not re.search(r"/work/|\bTODO\b|\bFIXME\b", text)

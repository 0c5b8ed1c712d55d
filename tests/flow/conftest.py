"""The whole flow on a tiny recipe, run once for all tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater import load, run
from headwater.flow import Results

TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def settings(place: Path, prose: Path) -> tuple[str, ...]:
    """Overrides of the tiny recipe: its text, a benchmark of one question that stands in that text, its folders."""
    text = next(text for text in map(text_of, prose.read_text(encoding="utf-8").splitlines()) if len(text.split()) > 60)
    (place / "quiz.jsonl").write_text(json.dumps({"question": " ".join(text.split()[20:50])}))
    quiz = f"{{quiz: {{use: jsonl, paths: [{place / 'quiz.jsonl'}], fields: [question]}}}}"
    return (
        f"read.sources.prose.paths=[{prose}]",
        f"decontaminate={{benchmarks: {quiz}}}",
        f"machine.store={place / 'store'}",
        f"machine.runs={place / 'runs'}",
    )


def text_of(line: str) -> str:
    return json.loads(line)["text"]


@pytest.fixture(scope="session")
def results(settings: tuple[str, ...]) -> Results:
    return run(load(TINY, *settings))

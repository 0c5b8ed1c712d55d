"""A trained model through the whole flow: its tokenizer extended, its layers dropped, healed by what it was, reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater import load, plan, run
from headwater.core.errors import RecipeError
from headwater.model import checkpoint

from .conftest import TINY, text_of

KOREAN = "강물은 산에서 시작하여 바다로 흐른다. 봄에는 눈이 녹아 강물이 깊어지고, 사람들은 강물을 따라 마을을 세웠다. "


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prose: Path) -> Path:
    """A folder with text in two languages and a small model, trained for some steps, in `runs/base/model`."""
    folder = tmp_path_factory.mktemp("surgery")
    lines = prose.read_text(encoding="utf-8").splitlines()[:300]
    for name, texts in (
        ("korean", [KOREAN * (1 + n % 7) + str(n) for n in range(60)]),
        ("english", map(text_of, lines)),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    run(
        load(
            TINY,
            "name=base",
            "train.steps=30",
            *_overrides(folder),
            "read.sources={english: " + _source(folder, "english") + "}",
        )
    )
    return folder


def _source(folder: Path, name: str) -> str:
    return f"{{use: jsonl, paths: [{folder / name}.jsonl], licence: CC0-1.0}}"


def _overrides(folder: Path) -> list[str]:
    machine = [f"machine.store={folder / 'store'}", f"machine.runs={folder / 'runs'}", "machine.threads=1"]
    return [*machine, "clean=null", "dedup=null", "decontaminate=null", "split={fraction: 0.1}"]


def _training(folder: Path) -> list[str]:
    sizes = [
        "train.sequence_length=64",
        "train.batch_tokens=512",
        "train.total_tokens=null",
        "train.mixture.max_epochs=99",
    ]
    return [
        *sizes,
        "train.steps=6",
        "train.speed={compile: off, precision: fp32, attention: blocks}",
        *_overrides(folder),
    ]


def test_a_trained_model_learns_a_language(place: Path) -> None:
    sources = [f"read.sources.{name}={_source(place, name)}" for name in ("korean", "english")]
    base = place / "runs" / "base" / "model"
    recipe = load(
        "language",
        *sources,
        f"tokenizer.path={base}",
        "tokenizer.new_tokens=30",
        f"initialize.path={base}",
        "evaluate={max_new_tokens: 8, context_length: 64}",
        *_training(place),
    )
    results = run(recipe)
    initialized = json.loads((results.stages["initialize"] / "manifest.json").read_text())["counts"]
    facts = initialized["vocabulary"]
    assert (facts["shared"], facts["new"], facts["gone"]) == (512, 30, 0)
    assert facts["fertility"]["korean"]["after"] > 1.5 * facts["fertility"]["korean"]["before"]
    assert facts["logits_apart"] < 1e-4
    assert initialized["model"]["vocab_size"] == 542
    trained, _ = checkpoint.load_model(results.stages["train"] / "checkpoint")
    assert trained.config.vocab_size == 542
    report = (results.folder / "report.md").read_text(encoding="utf-8")
    assert "## Where the weights come from" in report
    assert "Of the rows for tokens 512 are those of the same token in the source, 30 are made of" in report
    assert "The tokenizer before and after it was changed" in report
    with pytest.raises(RecipeError, match="the model has no rows for the changed tokenizer; set vocabulary"):
        load("language", f"tokenizer.path={base}", f"initialize.path={base}", "initialize.vocabulary=null")


def test_a_shrunk_model_is_healed_by_its_source(place: Path) -> None:
    base = place / "runs" / "base"
    source = f"{{use: checkpoint, path: {base / 'stages' / 'train' / 'checkpoint'}}}"
    recipe = load(
        TINY,
        "name=small",
        "read.sources={english: " + _source(place, "english") + "}",
        f"tokenizer={{use: folder, path: {base / 'model'}}}",
        f"initialize={{use: shrunk, source: {source}, layers: {{use: measured, drop: 1}}, width: {{ffn_size: 128}}}}",
        f"train.distill={{source: {source}, weight: 0.7}}",
        *_training(place),
    )
    results = run(recipe)
    counts = {
        name: json.loads((path / "manifest.json").read_text())["counts"]
        for name, path in results.stages.items()
        if name != "report"
    }
    assert counts["initialize"]["model"]["num_layers"] == 1
    assert counts["initialize"]["shrunk"]["dropped"][0]["layer"] in (0, 1)
    assert counts["train"]["distilled"]["divergence"] > 0
    report = (results.folder / "report.md").read_text(encoding="utf-8")
    assert "A teacher of " in report
    assert "Layers left out, one after another" in report
    assert "Shrunk: before and after, on " in report
    assert not plan(recipe).waiting

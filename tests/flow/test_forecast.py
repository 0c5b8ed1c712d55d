"""Before training: a trial, a ladder, an outlook. After it: forecast and measured side by side in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.flow.conftest import TINY

from headwater import load
from headwater.advice.outlook import remembered
from headwater.cli import main
from headwater.core.errors import HeadwaterError, MismatchError
from headwater.flow import Results, elsewhere, ladder, measure, plan, run
from headwater.recipe import Recipe

LONGER = ("train.steps=48", "train.checkpoint_every=0", "train.checkpoint_interval=0")


@pytest.fixture(scope="module")
def recipe(
    results: Results, place: Path, settings: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Recipe:
    """The tiny recipe with more steps, in a store of its own that has the documents already."""
    folder = tmp_path_factory.mktemp("forecast")
    shutil.copytree(place / "store", folder / "store", symlinks=True)
    mine = (f"machine.store={folder / 'store'}", f"machine.runs={folder / 'runs'}", *LONGER)
    return load(TINY, *settings, *mine)


@pytest.fixture(scope="module")
def foretold(recipe: Recipe) -> tuple[Recipe, Results]:
    """A trial, a ladder, then the run."""
    measure(recipe)
    ladder(recipe)
    return recipe, run(recipe)


def test_before_anything_is_measured_the_plan_says_so(recipe: Recipe) -> None:
    outlook = plan(recipe).outlook
    assert outlook is not None
    assert outlook.tokens == 48 * 512
    assert outlook.cost.flops_per_token["causal"] == outlook.model.flops_per_token(64)
    text = str(plan(recipe))
    assert "12 L H Q T" in text
    assert "Besiroglu" in text


def test_a_trial_replaces_the_guess_and_leaves_nothing_behind(recipe: Recipe) -> None:
    planned = measure(recipe)
    assert planned.outlook is not None
    assert planned.outlook.pace.basis == "trial"
    assert planned.outlook.cost.job.activation_bytes
    row = next(row for row in planned.rows() if row["stage"] == "train")
    assert row["basis"] == "trial"
    assert not list(Path(recipe.machine.store).glob("trial*.partial"))
    trial = next(iter(json.loads((Path(recipe.machine.store) / "trials.json").read_text()).values()))
    assert trial["steps"] >= 20
    # twice the steps are expected to take twice the time, beside what does not depend on them
    assert recipe.train is not None
    double = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 96})})
    times = [next(r["seconds"] for r in plan(one).rows() if r["stage"] == "train") for one in (recipe, double)]
    assert times[1] - times[0] == pytest.approx(48 * trial["seconds_per_step"], rel=0.01)


def test_a_ladder_foretells_bits_per_byte(foretold: tuple[Recipe, Results]) -> None:
    recipe, results = foretold
    expected = remembered(results.stages["train"])
    assert expected is not None
    found = expected["bits_per_byte"]
    reached = json.loads((results.stages["train"] / "manifest.json").read_text())["counts"]["validation_bits_per_byte"]
    assert found["low"] < found["value"] < found["high"]
    assert found["value"] == pytest.approx(reached["total"], rel=0.1)  # 48 steps: the law is for longer runs
    assert expected["tokens"] == 48 * 512
    assert "train" in expected["stages"]
    assert not (Path(recipe.machine.runs) / "ladder").exists()


def test_the_report_shows_forecast_and_measured(foretold: tuple[Recipe, Results]) -> None:
    _, results = foretold
    assert results.report is not None
    page = results.report.read_text(encoding="utf-8")
    for words in (
        "Forecast and measured",
        "time of train",
        "bits per byte, held-out text",
        "The ladder",
        "Settings by law",
    ):
        assert words in page
    assert results.summary["forecast"]["bits_per_byte"]["value"] > 0


def test_what_was_foretold_is_not_changed_afterwards(foretold: tuple[Recipe, Results]) -> None:
    recipe, results = foretold
    before = remembered(results.stages["train"])
    run(recipe)
    assert remembered(results.stages["train"]) == before
    assert plan(recipe).outlook is None, "nothing is left to expect"


def test_the_same_recipe_priced_on_other_hardware(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    longer = recipe.model_copy(update={"train": recipe.train and recipe.train.model_copy(update={"steps": 60})})
    priced = elsewhere(plan(longer), "h100", 8, None).outlook
    assert priced is not None
    assert priced.cost.job.gpu == "h100"
    assert priced.cost.usd.likely > 0
    with pytest.raises(HeadwaterError, match="no GPU 'h1'"):
        elsewhere(plan(longer), "h1", 8, None)
    with pytest.raises(HeadwaterError, match="needs a kind of GPU"):
        elsewhere(plan(longer), None, 8, None)
    huge = "initialize.model={hidden_size: 8192, num_layers: 80, num_heads: 64, context_length: 64}"
    giant = load(
        TINY,
        huge,
        f"machine.store={recipe.machine.store}",
        f"read.sources.prose.paths={[str(p) for p in recipe.read.sources['prose'].paths]}",
    )  # type: ignore[attr-defined]
    with pytest.raises(MismatchError, match="the model fits no way"):
        elsewhere(plan(giant), "rtx-3090", 1, None)


def test_what_cannot_be_foretold_is_said(recipe: Recipe) -> None:
    with pytest.raises(HeadwaterError, match="does not train a new model"):
        ladder(recipe.model_copy(update={"train": None}))
    with pytest.raises(HeadwaterError, match="does not train"):
        measure(recipe.model_copy(update={"train": None}))
    with pytest.raises(SystemExit) as stop:
        main(["ladder", "demmo"])
    assert stop.value.code == 2

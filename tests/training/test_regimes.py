from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from headwater.model.config import ModelConfig
from headwater.recipe import Recipe, model_of
from headwater.training.config import Muon, Train
from headwater.training.regimes import MODEL, REGIMES, resolve, tell

SMALL = {"sequence_length": 256, "total_tokens": "2.5M"}
MODEL_4M = ModelConfig(vocab_size=4096, hidden_size=256, num_layers=4, num_heads=4, ffn_size=704)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_regime_fills_in_what_it_says_and_says_why(regime):
    train = Train.model_validate(SMALL | {"regime": regime})
    told = {one.setting: one for one in tell(train, MODEL_4M)}
    assert set(told) >= {one.setting for one in REGIMES[regime]} | {"batch_tokens"}
    for one in (*REGIMES[regime], *MODEL[regime]):
        assert one.why
        if one.setting.startswith(("optimizer", "schedule")) and one.value != "auto":
            section, _, name = one.setting.partition(".")
            assert getattr(getattr(train, section), name) == one.value
    assert "as the recipe says" not in " ".join(map(str, told.values()))


def test_what_the_recipe_says_holds():
    changes = {"optimizer": {"use": "muon", "cautious_decay": False}, "schedule": {"use": "cosine"}, "average": None}
    train = Train.model_validate(SMALL | {"regime": "speed", "batch_tokens": 8192} | changes)
    assert isinstance(train.optimizer, Muon)
    assert (train.optimizer.cautious_decay, train.optimizer.variance_beta) == (False, 0.95)
    assert train.schedule.use == "cosine"
    lines = [str(one) for one in tell(train, None)]
    assert any(line.startswith("optimizer.cautious_decay false: as the recipe says; the regime's") for line in lines)
    assert any(line.startswith("schedule.use cosine: as the recipe says") for line in lines)
    assert any(line.startswith("batch_tokens 8,192: the best is 2,6") for line in lines)


def test_another_optimizer_than_the_regimes_keeps_its_own_defaults():
    train = Train.model_validate(SMALL | {"regime": "speed", "optimizer": {"use": "adamw"}})
    assert (
        train.optimizer.model_dump()
        == Train.model_validate(SMALL | {"batch_tokens": 2048, "optimizer": {"use": "adamw"}}).optimizer.model_dump()
    )
    told = {one.setting for one in tell(train, None)}
    assert "optimizer.use" in told
    assert "optimizer.variance_beta" not in told, "AdamW has none, and the recipe says nothing of it"


@pytest.mark.parametrize(("steps", "warned"), [(500, True), (100_000, False)])
def test_a_warm_up_that_takes_most_of_the_run_is_told(steps, warned):
    train = Train(regime="production", steps=steps, batch_tokens=2048, sequence_length=128)
    settings = [one.setting for one in tell(train, None)]
    assert ("!! schedule.warmup_steps" in settings) == warned


def test_without_a_regime_nothing_is_filled_in_or_said():
    train = Train.model_validate(SMALL | {"batch_tokens": 2048})
    assert train.regime is None
    assert not list(tell(train, MODEL_4M))


def test_laws_give_their_published_numbers():
    # 0.58 x 2,500,000^0.571 = 2,610
    assert Train.model_validate(SMALL | {"batch_tokens": "auto"}).batch_tokens == 2048
    # by steps: B = 0.58 (1,221 x B)^0.571, so B = (0.58 x 1,221^0.571)^(1 / 0.429) = 3,610
    assert Train.model_validate({"sequence_length": 256, "steps": 1221, "batch_tokens": "auto"}).batch_tokens == 4096
    settings = {"batch_tokens": 2048, "optimizer": {"use": "adamw", "learning_rate": "auto", "weight_decay": "auto"}}
    train, told = resolve(Train.model_validate(SMALL | settings), MODEL_4M)
    rate = 1.79 * (4 * (4 * 256 * 256 + 3 * 256 * 704)) ** -0.713 * train.planned_tokens**0.307
    assert train.optimizer.learning_rate == pytest.approx(rate, rel=5e-3)
    assert train.optimizer.weight_decay == pytest.approx(2048 / (0.39 * rate * 2.5e6), rel=1e-2)
    assert [one.setting for one in told] == ["optimizer.learning_rate", "optimizer.weight_decay"]
    assert resolve(train, MODEL_4M) == (train, ())
    muon = {"batch_tokens": 2048, "optimizer": {"use": "muon", "adamw_learning_rate": "auto"}}
    timed, _ = resolve(Train.model_validate({"sequence_length": 256, "budget": 60} | muon), MODEL_4M)
    assert timed.optimizer.adamw_learning_rate == 0.0139  # 0.008 x (768 / 256)^0.5; goes by no tokens


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"regime": "speed", "budget": 60}, "batch_tokens goes by sequence_length and by total_tokens or steps"),
        (
            {"regime": ["speed"], "steps": 5, "batch_tokens": 2048},
            "Input should be 'speed', 'data_limited' or 'production'",
        ),
        (
            {"regime": "speed", "steps": 5, "sequence_length": 0},
            "sequence_length\n  Input should be greater than or equal to 2",
        ),
        ({"regime": "fast", "steps": 5}, "Input should be 'speed', 'data_limited' or 'production'"),
        (
            {"batch_tokens": 2048, "budget": 60, "optimizer": {"use": "adamw", "learning_rate": "auto"}},
            "learning_rate of the optimizer cannot be auto with a budget",
        ),
        (
            {"batch_tokens": 2048, "steps": 5, "average": {}, "keep_best": True},
            "not the average that was measured; leave out average or keep_best",
        ),
        (
            {"batch_tokens": 2048, "steps": 5, "z_loss": 1e-4, "distill": {"source": {"use": "gguf", "path": "x"}}},
            "z_loss has no effect beside a teacher",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, problem):
    with pytest.raises(ValidationError, match=problem):
        Train.model_validate({"sequence_length": 256} | change)


def recipe(model: dict, regime: str | None, **initialize: object) -> Recipe:
    small = {"hidden_size": 64, "num_layers": 2, "num_heads": 2}
    return Recipe.model_validate(
        {
            "name": "small",
            "read": {"sources": {"books": {"use": "text", "paths": ["x"]}}},
            "tokenizer": {"use": "train_bpe", "vocab_size": 512},
            "initialize": {"use": "random", "model": small | model} | initialize,
            "train": SMALL | ({"regime": regime} if regime else {"batch_tokens": 2048}),
        }
    )


def test_a_regime_begins_new_weights_its_way():
    filled = recipe({}, "speed").initialize
    assert (filled.residual, filled.model.qk_norm) == ("zero", True)
    kept = recipe({"qk_norm": False}, "speed", residual="plain").initialize
    assert (kept.residual, kept.model.qk_norm) == ("plain", False)
    gpt2 = {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True}
    assert recipe(gpt2, "speed").initialize.model.family == "gpt2"
    plain = recipe({}, None).initialize
    assert (plain.residual, plain.model.qk_norm) == ("scaled", False)


def test_check_shows_every_setting_of_a_regime():
    lines = list(model_of(recipe({}, "production")))
    assert "training: regime production" in lines
    told = "\n".join(lines)
    for one in REGIMES["production"]:
        assert f"  {one.setting} " in told
    assert "1.79 N^-0.713 D^0.307 for N = 106,496 outside of embeddings" in told


def test_regimes_load_no_torch():
    code = "import sys, headwater.training.regimes; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"

"""Recipes whose sections are each valid but do not fit together are refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.core.errors import RecipeError
from headwater.model.config import RandomWeights
from headwater.recipe import load

RECIPE = """
read: {sources: {prose: {use: text, paths: a.txt}, code: {use: text, paths: b.txt}}}
clean: {steps: [{use: normalise, sources: [prose]}]}
tokenizer: {use: train_bpe, vocab_size: 500, weights: {prose: 1, code: 2}}
initialize: {use: random, model: {hidden_size: 32, num_layers: 1, num_heads: 2, context_length: 128}}
train: {steps: 5, sequence_length: 64, batch_tokens: 128, mixture: {weights: {prose: 1, code: 1}}}
evaluate: {context_length: 128, prompts_from: {prose: 2}}
dedup: {keep: source, sources: [code]}
"""


def test_a_recipe_that_fits_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(RECIPE)
    assert load(tmp_path / "good.yaml").name == "good"


@pytest.mark.parametrize(
    ("right", "wrong", "place", "problem"),
    [
        ("sources: [prose]", "sources: [pros]", "3: clean.steps.0.sources", "no source 'pros' in read.sources; did"),
        (
            "sources: [prose]}]",
            "languages: [eng]}]",
            "3: clean.steps.0.languages",
            "no language 'eng'; did you mean 'en'?",
        ),
        ("sources: [code]", "sources: [coed]", "8: dedup.sources", "no source 'coed' in read.sources; did"),
        ("{prose: 1, code: 2}", "{proes: 1}", "4: tokenizer.weights.proes", "no source 'proes' in read.sources; did"),
        ("{prose: 1, code: 1}", "{prose: 1, cod: 1}", "6: train.mixture.weights.cod", "no source 'cod' in"),
        ("weights: {prose: 1, code: 1}", "upsample: {cod: 2}", "6: train.mixture.upsample.cod", "did you mean 'code'?"),
        ("weights: {prose: 1, code: 1}", "weights: llama", "6: train.mixture.weights.c4", "no source 'c4' in"),
        ("{prose: 1, code: 1}", "{prose: 1}", "6: train.mixture.weights", "source 'code' has no weight"),
        ("{prose: 2}", "{prose: 2, cdoe: 1}", "7: evaluate.prompts_from.cdoe", "did you mean 'code'?"),
        ("sequence_length: 64", "sequence_length: 129", "6: train.sequence_length", ""),
        (
            "{context_length: 128, prompts",
            "{context_length: 129, prompts",
            "7: evaluate.context_length",
            "129 tokens are more than the model's context_length 128",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_place(tmp_path: Path, right: str, wrong: str, place: str, problem: str) -> None:
    assert RECIPE.count(right) == 1
    (tmp_path / "bad.yaml").write_text(RECIPE.replace(right, wrong).replace("batch_tokens: 128", "batch_tokens: 8256"))
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "bad.yaml")
    assert f"bad.yaml:{place}: " in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize("more", [", language: xyz", ", use: jsonl, fields: {language: lang}"])
def test_a_language_that_a_source_brings_is_known(tmp_path: Path, more: str) -> None:
    source = more if "use:" in more else f"{more}, use: text"
    recipe = RECIPE.replace("{use: text, paths: a.txt}", "{paths: a.txt" + source + "}")
    (tmp_path / "own.yaml").write_text(recipe.replace("sources: [prose]}]", "languages: [xyz]}]"))
    assert load(tmp_path / "own.yaml")


def test_the_reproduction_of_gpt2_has_karpathys_numbers() -> None:
    """Those of build-nanogpt's train_gpt2.py at commit 6104ab1."""
    recipe = load("gpt2-124m")
    train, start = recipe.train, recipe.initialize
    assert isinstance(start, RandomWeights)
    assert train is not None
    model, _ = start.derive(50_257)
    assert (model.family, model.vocab_size, model.parameters()) == ("gpt2", 50_304, 124_475_904)
    assert (model.num_layers, model.num_heads, model.hidden_size, model.context_length) == (12, 12, 768, 1024)
    assert (model.init_std, start.residual, model.tie_embeddings) == (0.02, "scaled", True)
    assert (train.steps, train.batch_tokens, train.sequence_length) == (19_073, 524_288, 1024)
    assert train.batch_sequences % train.micro_batch_sequences == 0
    optimizer = train.optimizer.model_dump()
    wanted = {"use": "adamw", "learning_rate": 6e-4, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
    assert wanted.items() <= optimizer.items()
    assert train.clip_norm == 1.0
    rates = [6e-4 * train.schedule(step, train.steps) for step in (0, 714, 715, 9894, 19_072)]
    assert rates == pytest.approx([6e-4 / 715, 6e-4, 6e-4, 3.3e-4, 6e-5], rel=1e-4)

"""Phases: which steps, which rows and which settings, exactly, also across their borders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.core.errors import MismatchError
from headwater.core.log import read_metrics
from headwater.core.store import hash_file
from headwater.model.checkpoint import load_model
from headwater.training.config import Train
from headwater.training.phases import Phase, PhasedBatches, borders, stretches
from headwater.training.train import Run, train

from .conftest import workspace

PHASES = [
    {"name": "main", "share": 0.5},
    {"name": "more", "share": 0.2, "mixture": {"weights": {"up": 1, "down": 3}, "max_epochs": 1000}},
    {"name": "long", "share": 0.2, "sequence_length": 64, "rope_theta": 50_000, "packing": {"use": "best_fit"}},
    {"name": "last", "share": 0.1, "schedule": {"use": "wsd", "warmup_steps": 0, "decay_share": 1}, "peak_share": 0.5},
]


def test_phases_change_rows_rates_and_positions_at_their_borders(world, settings, out):
    plan = settings(phases=PHASES, schedule={"use": "constant", "warmup_steps": 0})
    counts = train(plan, world, out)
    lines = [line for line in read_metrics(out.folder / "metrics.jsonl") if "loss" in line]
    assert [line["phase"] for line in lines] == ["main"] * 10 + ["more"] * 4 + ["long"] * 4 + ["last"] * 2
    rates = np.array([line["learning_rate"] for line in lines]) / lines[0]["learning_rate"]
    assert rates.tolist() == pytest.approx([1.0] * 18 + [0.5, 0.25])
    assert [phase["first_step"] for phase in counts["phases"]] == [0, 10, 14, 18]
    assert [phase["sequence_length"] for phase in counts["phases"]] == [32, 32, 64, 32]
    assert counts["phases"][1]["mixture"]["down"]["requested_tokens"] == 4 * 128 * 3 // 4
    asked = [sum(source["requested_tokens"] for source in phase["mixture"].values()) for phase in counts["phases"]]
    assert asked == [10 * 128, 4 * 128, 4 * 128, 2 * 128]
    assert sum(source["requested_tokens"] for source in counts["mixture"].values()) == counts["tokens"] == 20 * 128
    assert set(counts["packing"]) == {"main", "more", "long", "last"}
    model, _ = load_model(out.folder / "checkpoint")
    assert model.config.rope_theta == 50_000, "it holds from its phase on"


def test_a_run_of_one_phase_is_the_run_without(world, settings, out, tmp_path):
    one = workspace(tmp_path / "one")
    halves = workspace(tmp_path / "halves")
    train(settings(), world, out)
    train(settings(phases=[{"name": "a", "total_tokens": 20 * 128}], steps=None), world, one)
    train(settings(phases=[{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]), world, halves)
    weights = [hash_file(place.folder / "checkpoint" / "weights.safetensors") for place in (out, one, halves)]
    assert weights[0] == weights[1] == weights[2], "phases that change nothing change nothing"


@pytest.mark.parametrize("moment", [10, 15])
def test_resumed_around_a_border_is_the_same_to_the_last_bit(world, settings, out, tmp_path, moment):
    plan = settings(phases=PHASES)
    train(plan, world, out)
    part = workspace(tmp_path / "part")
    run = Run(plan, world, part)
    while run.steps_done < moment:
        run.step()
    run.save()
    del run
    train(plan, world, part)
    for name in ("weights.safetensors", "training.safetensors"):
        assert hash_file(part.folder / "checkpoint" / name) == hash_file(out.folder / "checkpoint" / name)


def test_a_source_goes_on_where_an_earlier_phase_stopped(world, settings):
    """No row is read twice while another of the epoch has not been read."""
    apart = {"weights": {"up": 1, "down": 1}, "max_epochs": 1000}
    same = {"weights": {"up": 1, "down": 0}, "max_epochs": 1000}
    phases = [{"name": "a", "share": 0.5, "mixture": apart}, {"name": "b", "share": 0.5, "mixture": same}]
    batches = PhasedBatches(world["tokens"], settings(phases=phases, steps=16))
    alone = PhasedBatches(world["tokens"], settings(mixture=same, steps=16))
    rows = [row.pieces for step in range(16) for row in batches.rows(step) if row.source == "up"]
    straight = [row.pieces for step in range(16) for row in alone.rows(step)]
    assert len(rows) == 8 * 2 + 8 * 4
    assert rows == straight[: len(rows)]


def test_the_steps_that_saw_a_document_are_known_across_phases(world, settings):
    plan = settings(phases=PHASES, steps=40)
    batches = PhasedBatches(world["tokens"], plan)
    seen: dict[tuple[str, int], list[int]] = {}
    for step in range(37):
        for row in batches.rows(step):
            for piece in row.pieces:
                found = seen.setdefault((row.source, piece.document), [])
                found += [step] if step not in found else []
    for name in ("up", "down"):
        for document in range(60):
            assert batches.steps_with(name, document, 37) == seen.get((name, document), []), (name, document)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(10, 5000))
def test_borders_share_out_every_step(parts: list[int], steps: int):
    if len(parts) == 1:
        parts = [*parts, 1]
    phases = [Phase(name=f"p{index}", share=part / sum(parts)) for index, part in enumerate(parts)]
    found = borders(phases, 128, steps)
    assert found[0] == 0
    assert found[-1] == steps
    for part, first, end in zip(parts, found, found[1:], strict=False):
        assert abs(end - first - steps * part / sum(parts)) <= 1


SMALL: dict[str, Any] = {"sequence_length": 32, "batch_tokens": 128}
HALF = {"share": 0.5}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"steps": 9, "phases": [{"name": "a", **HALF}]}, "the shares of the phases add up to 0.5, not to 1"),
        ({"steps": 9, "phases": [{"name": "a"}]}, "give each phase either a share, or each its total_tokens"),
        (
            {"phases": [{"name": "a", **HALF}, {"name": "b", "total_tokens": 99}]},
            "give each phase either a share",
        ),
        ({"steps": 9, "phases": [{"name": "a", "total_tokens": 99}]}, "got steps and total_tokens of phases"),
        ({"phases": [{"name": "a", **HALF}, {"name": "b", **HALF}]}, "set exactly one of .* got none"),
        ({"steps": 9, "phases": [{"name": "a", **HALF}, {"name": "a", **HALF}]}, "two phases are called 'a'"),
        ({"budget": 60, "phases": [{"name": "a", **HALF}, {"name": "b", **HALF}]}, "not a budget of time"),
        (
            {"steps": 1, "phases": [{"name": "a", **HALF}, {"name": "b", **HALF}]},
            "phase 'a' has not one of the 1 steps",
        ),
        (
            {"steps": 9, "phases": [{"name": "a", **HALF}, {"name": "b", **HALF, "sequence_length": 48}]},
            "phase 'b': batch_tokens 128 is not a multiple of its sequence_length 48",
        ),
        (
            {"steps": 9, "phases": [{"name": "a", **HALF}, {"name": "b", **HALF, "micro_batch_sequences": 3}]},
            "phase 'b': a batch of 4 sequences does not divide by micro_batch_sequences 3",
        ),
    ],
)
def test_phases_that_do_not_fit_are_refused(change, problem):
    with pytest.raises(ValidationError, match=problem):
        Train.model_validate(SMALL | change)


def test_tokens_of_phases_are_the_length_of_the_run():
    phases = [{"name": "a", "total_tokens": 1000}, {"name": "b", "total_tokens": 129}]
    plan = Train.model_validate(SMALL | {"phases": phases})
    assert plan.planned_steps == 8 + 2
    assert [(stretch.first, stretch.steps) for stretch in stretches(plan)] == [(0, 8), (8, 2)]


def test_a_sequence_beyond_the_context_is_refused_but_where_a_phase_extends_it(world, settings, out):
    phases = [{"name": "a", **HALF}, {"name": "far", **HALF, "sequence_length": 128}]
    with pytest.raises(MismatchError, match="sequence_length 128 of phase 'far' is beyond") as refused:
        Run(settings(phases=phases), world, out)
    assert refused.value.place == "train.phases.far.sequence_length"
    phases[1]["rope_theta"] = 1e6
    train(settings(phases=phases), world, out)
    model, _ = load_model(out.folder / "checkpoint")
    assert (model.config.context_length, model.config.rope_theta) == (128, 1e6)
    assert model.rope_cos.shape[0] == 128


def test_what_all_phases_together_ask_of_a_source_is_refused_too(world, settings):
    up = json.loads((Path(world["tokens"]) / "tokens.json").read_text())["sources"]["up"]["training"]["tokens"]
    mixture = {"weights": {"up": 1, "down": 0}, "max_epochs": 2}
    halves = [{"name": "a", **HALF}, {"name": "b", **HALF}]
    steps = 3 * up // 128  # each half asks for one epoch and a half
    batches = PhasedBatches(world["tokens"], settings(mixture=mixture, phases=halves, steps=steps))
    for phase in batches.phases:
        phase.plan(steps // 2)
    with pytest.raises(MismatchError, match="source 'up' cannot give"):
        batches.plan(steps)

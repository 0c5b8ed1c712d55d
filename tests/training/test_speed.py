from __future__ import annotations

import json
from itertools import accumulate

import pytest
import torch

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.model.initialize import random_model
from headwater.model.shape import ModelConfig
from headwater.training import parallel, speed
from headwater.training.speed import Choice, Memory, fastest
from headwater.training.train import Run, train

from .conftest import PLAIN

CONFIG = ModelConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, context_length=64)
CHOICE = Choice("bf16", "blocks", micro_batch=2, threads=1, attention_block=64, compiled=True)


def clock_of(laps: dict[str, list[float]], order: list[str]):
    """A clock that makes the laps of each candidate take the given seconds."""
    ticks = iter(accumulate(tick for name in order for tick in (0.0, laps[name].pop(0))))
    return lambda: next(ticks)


def race(laps: dict[str, list[float]], order: str) -> str:
    return fastest(list(laps), lambda _name: lambda: None, clock_of(laps, list(order)))[0]


def test_the_first_lap_only_warms_up():
    assert race({"a": [0.1, 0.2, 0.2, 0.2], "b": [0.9, 0.1, 0.1, 0.1]}, "abababab") == "b"


def test_the_first_candidate_stays_unless_another_is_clearly_faster():
    assert race({"a": [0.1] * 4, "b": [0.098] * 4}, "abababab") == "a"
    assert race({"a": [0.1] * 4, "b": [0.096] * 4}, "abababab") == "b"


def test_a_slow_candidate_runs_only_once():
    assert race({"a": [3.0], "b": [0.1] * 4}, "abbbb") == "b"


def test_a_single_candidate_is_not_raced():
    assert fastest(["only"], lambda _name: pytest.fail("raced")) == ("only", {})


def rows(settings):
    tokens = torch.randint(0, 64, (settings.batch_sequences, settings.sequence_length + 1), dtype=torch.int32)
    return tokens[:, :-1], tokens[:, 1:], torch.zeros_like(tokens[:, :-1])


def test_what_is_set_is_not_raced(settings):
    wanted = settings(speed={"precision": "bf16", "attention": "library"}, micro_batch_sequences=2)
    choice, words = speed.race(random_model(CONFIG, 0), wanted, rows(wanted), Machine(threads=1), 1)
    assert choice == Choice("bf16", "library", micro_batch=2, threads=1)
    assert not words


def test_everything_else_is(settings, monkeypatch):
    monkeypatch.setattr(speed, "LAP_SECONDS", 0.0)
    wanted = settings(speed={"compile": "off"}, batch_tokens=128 * 32)
    choice, words = speed.race(random_model(CONFIG, 0), wanted, rows(wanted), Machine(threads=1), 1)
    assert choice.micro_batch in (32, 64, 128)
    assert words[0].startswith("bf16 ")
    assert words[1].startswith("attention in blocks ")


@pytest.mark.parametrize(("bf16", "wanted"), [(1.2, "fp32"), (1.4, "bf16")])
def test_before_compiling_products_decide_and_attention_is_in_blocks(settings, monkeypatch, bf16, wanted):
    rates = {"fp32": 100e9, "bf16": bf16 * 100e9}
    monkeypatch.setattr(speed.hardware, "measure_peak_flops_per_second", lambda _device, name, seconds: rates[name])
    auto = settings(speed="auto", micro_batch_sequences=2)
    choice, words = speed.race(random_model(CONFIG, 0), auto, rows(auto), Machine(threads=1), 1)
    assert choice == Choice(wanted, "blocks", micro_batch=2, threads=1)
    assert words == [f"bf16 products {bf16:.2f}x fp32"]


def test_a_choice_is_remembered_by_machine_model_and_settings(settings, tmp_path):
    memory = Memory(tmp_path, CONFIG, settings(), "cpu")
    assert memory.recall() is None
    memory.keep(CHOICE, ["bf16 1.80x fp32"])
    assert Memory(tmp_path, CONFIG, settings(seed=3), "cpu").recall() == CHOICE
    assert Memory(tmp_path, CONFIG, settings(sequence_length=64), "cpu").recall() is None
    assert Memory(tmp_path, CONFIG.model_copy(update={"num_layers": 3}), settings(), "cpu").recall() is None
    assert Memory(tmp_path, CONFIG, settings(speed={"compile": "off"}), "cpu").recall() is None
    other = Memory(tmp_path, CONFIG, settings(sequence_length=64), "cpu")
    other.keep(CHOICE, [])
    assert memory.recall() == other.recall() == CHOICE


@pytest.mark.parametrize("content", ["", "[1]", '{"KEY": {"choice": {"precision": "bf16"}}}', '{"KEY": 3}'])
def test_a_memory_that_cannot_be_read_is_measured_anew(settings, tmp_path, content):
    memory = Memory(tmp_path, CONFIG, settings(), "cpu")
    memory.path.write_text(content.replace("KEY", memory._key))
    assert memory.recall() is None
    memory.keep(CHOICE, [])
    assert memory.recall() == CHOICE


AUTO = {"compile": "off"}  # compiling is tested in test_train.py, slowly


def test_a_race_is_run_once_in_a_store_and_never_on_resume(world, settings, out, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "LAP_SECONDS", 0.0)
    train(settings(speed=AUTO, steps=4, checkpoint_every=2), world, out)
    assert json.loads((out.folder.parent / "speed.json").read_text())
    monkeypatch.setattr(speed, "race", lambda *_: pytest.fail("raced again"))
    second = Workspace(tmp_path / "store" / "second", out.machine)
    second.folder.mkdir()
    Run(settings(speed=AUTO, steps=4, checkpoint_every=2), world, second)
    (out.folder.parent / "speed.json").unlink()  # a checkpoint knows by itself
    resumed = Run(settings(speed=AUTO, steps=4, checkpoint_every=2), world, out)
    assert resumed.steps_done == 2


def test_a_resumed_run_computes_as_it_began_even_where_another_way_has_won_since(world, settings, out, tmp_path):
    begun = settings(speed={"compile": "off"}, steps=4, checkpoint_every=2)
    train(begun, world, out)
    path = out.folder.parent / "speed.json"
    known = json.loads(path.read_text())
    for entry in known.values():
        entry["choice"] |= {"precision": "fp32", "micro_batch": 1}
    path.write_text(json.dumps(known))
    first = Run(begun, world, out).arithmetic.choice
    other = Workspace(tmp_path / "store" / "other", out.machine)
    other.folder.mkdir()
    second = Run(begun, world, other).arithmetic.choice
    assert second.micro_batch == 1
    assert second.precision == "fp32"
    assert first.micro_batch == 4


def test_a_loss_that_is_not_the_plain_one_is_told(world, settings, out, monkeypatch):
    monkeypatch.setattr(parallel, "TOLERANCE", {"bf16": 0.0, "fp32": 0.0})
    train(settings(speed=PLAIN | {"precision": "bf16"}, steps=1), world, out)
    assert any("the loss in bf16 is" in warning and "the plain one" in warning for warning in out.warnings)

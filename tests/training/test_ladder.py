from __future__ import annotations

import pytest
import torch

from headwater.core.hardware import Machine
from headwater.model.shape import ModelConfig
from headwater.training import ladder
from headwater.training.ladder import Workload


def climb(tmp_path, vocab_size: int):
    config = ModelConfig(vocab_size=vocab_size, hidden_size=32, num_layers=1, num_heads=2, context_length=64)
    return ladder.climb(Workload(config, 2, 32), Machine(threads=1, device="cpu"), tmp_path)


def test_every_rung_is_measured_or_says_why_not(tmp_path, monkeypatch):
    def no_compiler(*_: object) -> None:
        raise RuntimeError("no compiler here\nmore")

    monkeypatch.setattr(ladder.parallel, "compile_blocks", no_compiler)
    monkeypatch.setattr(ladder, "LAP_SECONDS", 0.0)
    rungs = {rung.name: rung for rung in climb(tmp_path, 300)}
    assert list(rungs) == [
        "fp32",
        "TF32",
        "bf16",
        "compile",
        "attention in blocks",
        "vocabulary of 320",
        "fused AdamW",
        "loss in chunks",
    ]
    skipped = {name: rung.note for name, rung in rungs.items() if rung.milliseconds is None}
    assert skipped == {
        "TF32": "a format of NVIDIA GPUs; this is a processor",
        "compile": "failed: RuntimeError: no compiler here",
    }
    measured = [rung for rung in rungs.values() if rung.milliseconds is not None]
    assert measured[-1].total_factor == pytest.approx(measured[0].milliseconds / measured[-1].milliseconds)
    product = torch.tensor([rung.factor for rung in measured], dtype=torch.float64).prod()
    assert float(product) == pytest.approx(measured[-1].total_factor)
    assert measured[0].tokens_per_second == pytest.approx(2 * 32 * 1000 / measured[0].milliseconds)


def test_a_vocabulary_that_needs_no_padding_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "_try", lambda *_: (1.0, ""))
    notes = [rung.note for rung in climb(tmp_path, 320) if rung.name.startswith("vocabulary")]
    assert notes == ["320 is a multiple of 64 already"]


def test_a_recipe_tells_what_to_train(settings, monkeypatch):
    monkeypatch.setattr(ladder, "climb", lambda workload, *_: pytest.fail(str(workload)))
    config = ModelConfig(vocab_size=320, padding_rows=20, hidden_size=32, num_layers=1, num_heads=2)
    with pytest.raises(pytest.fail.Exception, match="parameters, 4 x 32 tokens per step"):
        ladder.ladder(config, settings(), Machine(threads=1, device="cpu"))

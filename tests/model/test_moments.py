"""Moments of the optimizer that go with the layers of a grown model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.core.stage import Workspace
from headwater.model import checkpoint, hf
from headwater.model.config import CheckpointWeights, GrownWeights
from headwater.model.initialize import initialize
from headwater.model.moments import PREFIX

GROWTH = {"use": "depth_upscale", "overlap_cut": 1}
"""3 layers become 0 1 1 2."""


def trained(model: Any, folder: Path, step: int = 7) -> dict[str, Tensor]:
    """Write a checkpoint as training does, with moments that differ everywhere; returns them."""
    generator = torch.Generator().manual_seed(1)
    moments: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        whats = ("momentum",) if name.startswith("blocks.") and parameter.dim() == 2 else ("exp_avg", "exp_avg_sq")
        moments |= {f"{PREFIX}{name}/{what}": torch.randn(parameter.shape, generator=generator) for what in whats}
        if len(whats) == 2:
            moments[f"{PREFIX}{name}/step"] = torch.tensor(float(step))
    checkpoint.save(folder, model, step, None, {**moments, "random/torch": torch.get_rng_state()}, {"steps_done": step})
    return moments


def grown(source: Path, growth: dict[str, Any], state: str = "auto") -> GrownWeights:
    given = {"use": "checkpoint", "path": str(source), "optimizer_state": state}
    return GrownWeights.model_validate({"use": "grown", "source": given, "growth": growth})


@pytest.mark.parametrize(
    ("growth", "sources"),
    [
        (GROWTH, [0, 1, 1, 2]),
        ({"use": "stack", "num_layers": 5}, [0, 1, 2, 0, 1]),
        ({"use": "drop_layers", "count": 1}, [0, 2]),
        ({"use": "identity_blocks", "every": 3}, [0, 1, 2, None]),
    ],
)
def test_each_copy_has_the_moments_of_its_layer(tokenizer, out, make_model, tmp_path, growth, sources):
    given = trained(make_model(), tmp_path / "given")
    counts = initialize(grown(tmp_path / "given", growth), {"tokenizer": tokenizer}, out)
    found, state = checkpoint.load_training(out.folder / "checkpoint")
    expected = {key: tensor for key, tensor in given.items() if ".blocks." not in f".{key.removeprefix(PREFIX)}"}
    for number, source in enumerate(sources):
        begin = f"{PREFIX}blocks.{source}."
        expected |= {
            f"{PREFIX}blocks.{number}.{key.removeprefix(begin)}": tensor
            for key, tensor in given.items()
            if key.startswith(begin)
        }
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert (counts["optimizer_state_tensors"], state) == (len(expected), {})
    assert checkpoint.read_info(out.folder / "checkpoint").step == 0


def test_a_model_that_goes_on_keeps_its_moments(tokenizer, out, make_model, tmp_path):
    given = trained(make_model(), tmp_path / "given")
    initialize(CheckpointWeights(use="checkpoint", path=tmp_path / "given"), {"tokenizer": tokenizer}, out)
    found, _ = checkpoint.load_training(out.folder / "checkpoint")
    assert found.keys() == given.keys()
    assert all(torch.equal(found[key], given[key]) for key in given)


def test_fresh_moments_on_demand(tokenizer, out, make_model, tmp_path):
    trained(make_model(), tmp_path / "given")
    counts = initialize(grown(tmp_path / "given", GROWTH, "fresh"), {"tokenizer": tokenizer}, out)
    assert counts["optimizer_state_tensors"] == 0
    assert not checkpoint.read_info(out.folder / "checkpoint").resumable


def test_weights_alone_are_a_warning_or_refused(tokenizer, out, make_model, tmp_path):
    checkpoint.save(tmp_path / "given", make_model(), 7)
    initialize(grown(tmp_path / "given", GROWTH), {"tokenizer": tokenizer}, out)
    assert out.warnings == [
        f"{tmp_path / 'given'}: has no optimizer state: it holds the weights alone; training begins with fresh moments"
    ]
    with pytest.raises(MismatchError, match=r"has no optimizer state.*hint: set optimizer_state to fresh"):
        initialize(grown(tmp_path / "given", GROWTH, "keep"), {"tokenizer": tokenizer}, out)


def test_a_hugging_face_folder_brings_none(tokenizer, out, make_model, tmp_path):
    hf.write_folder(tmp_path / "given", make_model(), tokenizer / "tokenizer")
    source = {"use": "huggingface", "path": str(tmp_path / "given")}
    settings = GrownWeights.model_validate({"use": "grown", "source": source, "growth": GROWTH})
    assert initialize(settings, {"tokenizer": tokenizer}, out)["optimizer_state_tensors"] == 0
    assert isinstance(out, Workspace)
    assert not out.warnings

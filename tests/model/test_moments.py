"""Moments of the optimizer that go with the layers of a grown model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.model import checkpoint, hf
from headwater.model.config import CheckpointWeights
from headwater.model.growth import Layer
from headwater.model.initialize import initialize
from headwater.model.moments import PREFIX, _fitting, to_layers
from headwater.model.start import GrownWeights, ShrunkWeights

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
        ({"use": "layers", "sources": [0, 2]}, [0, 2]),
        ({"use": "identity_blocks", "every": 3}, [0, 1, 2, None]),
    ],
)
def test_each_copy_has_the_moments_of_its_layer(inputs, out, make_model, tmp_path, growth, sources):
    given = trained(make_model(), tmp_path / "given")
    counts = initialize(grown(tmp_path / "given", growth), inputs, out)
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


def test_a_model_that_goes_on_keeps_its_moments(inputs, out, make_model, tmp_path):
    given = trained(make_model(), tmp_path / "given")
    initialize(CheckpointWeights(use="checkpoint", path=tmp_path / "given"), inputs, out)
    found, _ = checkpoint.load_training(out.folder / "checkpoint")
    assert found.keys() == given.keys()
    assert all(torch.equal(found[key], given[key]) for key in given)


def test_fresh_moments_on_demand(inputs, out, make_model, tmp_path):
    trained(make_model(), tmp_path / "given")
    counts = initialize(grown(tmp_path / "given", GROWTH, "fresh"), inputs, out)
    assert counts["optimizer_state_tensors"] == 0
    assert not checkpoint.read_info(out.folder / "checkpoint").resumable


def test_weights_alone_are_a_warning_or_refused(inputs, out, make_model, tmp_path):
    checkpoint.save(tmp_path / "given", make_model(), 7)
    initialize(grown(tmp_path / "given", GROWTH), inputs, out)
    told = (
        f"{tmp_path / 'given'}: has no optimizer state: it holds the weights alone; training begins with fresh moments"
    )
    assert told in out.warnings
    with pytest.raises(MismatchError, match=r"has no optimizer state.*hint: set optimizer_state to fresh"):
        initialize(grown(tmp_path / "given", GROWTH, "keep"), inputs, out)


def test_a_hugging_face_folder_brings_none(tokenizer, inputs, out, make_model, tmp_path):
    hf.write_folder(tmp_path / "given", make_model(), tokenizer / "tokenizer")
    source = {"use": "huggingface", "path": str(tmp_path / "given")}
    settings = GrownWeights.model_validate({"use": "grown", "source": source, "growth": GROWTH})
    assert initialize(settings, inputs, out)["optimizer_state_tensors"] == 0
    assert not any("optimizer state" in warning for warning in out.warnings)


def test_weights_that_changed_their_size_begin_anew(inputs, out, make_model, tmp_path):
    given = trained(make_model(), tmp_path / "given")
    initialize(grown(tmp_path / "given", {"use": "widen", "ffn_size": 100}), inputs, out)
    found, _ = checkpoint.load_training(out.folder / "checkpoint")
    changed = ("ffn.gate_up.weight", "ffn.down.weight")
    assert found.keys() == {key for key in given if not any(name in key for name in changed)}
    assert all(torch.equal(found[key], given[key]) for key in found)


def test_layers_that_stay_keep_their_moments(inputs, out, make_model, tmp_path):
    given = trained(make_model(), tmp_path / "given")
    source = {"use": "checkpoint", "path": str(tmp_path / "given")}
    layers = {"use": "listed", "drop": [1]}
    initialize(ShrunkWeights.model_validate({"use": "shrunk", "source": source, "layers": layers}), inputs, out)
    found, _ = checkpoint.load_training(out.folder / "checkpoint")
    key = f"{PREFIX}blocks.{{}}.ffn.down.weight/momentum"
    assert torch.equal(found[key.format(1)], given[key.format(2)])


def test_layers_of_another_model_and_rows_of_other_tokens_begin_anew(make_model):
    layers = (Layer(0), Layer(1, other=True))
    moments = {f"{PREFIX}blocks.{n}.ffn.down.weight/momentum": torch.ones(48, 80) * n for n in range(2)}
    moments[f"{PREFIX}blocks.0.ffn.down.weight/variance"] = torch.ones(48, 1)  # NorMuon's, a number for each row
    moments[f"{PREFIX}embedding.weight/exp_avg"] = torch.zeros(300, 48)
    moments[f"{PREFIX}embedding.weight/step"] = torch.tensor(3.0)
    mapped = to_layers(moments, layers)
    assert f"{PREFIX}blocks.1.ffn.down.weight/momentum" not in mapped
    model = make_model(num_layers=2)
    assert _fitting(mapped, model, rows=True).keys() == mapped.keys()
    own = {f"{PREFIX}blocks.0.ffn.down.weight/{what}" for what in ("momentum", "variance")}
    assert _fitting(mapped, model, rows=False).keys() == own

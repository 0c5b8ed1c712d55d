"""What is planned is what is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from headwater.core.errors import InputError, MismatchError
from headwater.model import checkpoint, gguf, hf
from headwater.model.initialize import initialize
from headwater.model.planned import planned
from headwater.model.start import Initialize
from headwater.model.transformer import Transformer

START = TypeAdapter(Initialize)


@pytest.fixture
def source(make_model, tokenizer: Path, tmp_path: Path) -> Transformer:
    """A model in every form that can be read."""
    model = make_model(num_kv_heads=2)
    hf.write_folder(tmp_path / "huggingface", model, tokenizer / "tokenizer")
    checkpoint.save(tmp_path / "checkpoint", model, 3)
    gguf.write_file(tmp_path / "gguf", model, {})
    return model


def start(folder: Path, use: str = "checkpoint", **more: Any) -> Any:
    given = {"use": use, "path": str(folder / use)}
    if more:
        how = "grown" if "growth" in more else "shrunk"
        given = {"use": how, "source": given, "calibration": {"tokens": 512}, **more}
    return START.validate_python(given)


@pytest.mark.parametrize("use", ["huggingface", "checkpoint", "gguf"])
def test_a_trained_model_has_the_shape_of_its_files(source, tmp_path, use):
    assert planned(start(tmp_path, use), 300) == source.config


@pytest.mark.parametrize(
    "more",
    [
        {"growth": {"use": "depth_upscale", "num_layers": 4}},
        {"growth": {"use": "identity_blocks", "every": 3}},
        {"growth": {"use": "widen", "hidden_size": 60, "ffn_size": 96}},
        {"layers": {"use": "middle", "drop": 1}},
        {"layers": {"use": "measured", "drop": 2}},
        {"layers": {"use": "listed", "drop": [0]}, "width": {"ffn_size": 40}},
        {"width": {"num_kv_heads": 1}},
    ],
)
def test_a_changed_model_has_the_shape_that_is_made(source, inputs, out, tmp_path, more):
    settings = start(tmp_path, **more)
    counts = initialize(settings, inputs, out)
    assert planned(settings, 300).model_dump(mode="json") == counts["model"]
    assert planned(settings, 300) != source.config


def test_new_rows_are_as_many_as_the_tokenizer_has_tokens(source, tmp_path):
    given = {"use": "checkpoint", "path": str(tmp_path / "checkpoint"), "vocabulary": {"use": "means"}}
    assert planned(START.validate_python(given), 777).vocab_size == 777


def test_what_does_not_go_is_known_before_anything_runs(source, tmp_path):
    with pytest.raises(MismatchError, match="leaves nothing of 3 layers"):
        planned(start(tmp_path, growth={"use": "depth_upscale", "overlap_cut": 3}), 300)
    with pytest.raises(MismatchError, match="5 is no layer of a source with 3"):
        planned(start(tmp_path, layers={"use": "listed", "drop": [5]}), 300)
    (tmp_path / "checkpoint" / "model.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match="is damaged"):
        planned(start(tmp_path), 300)

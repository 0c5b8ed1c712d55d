from __future__ import annotations

import math

import pytest
import torch

from headwater.core.errors import InputError, MismatchError
from headwater.core.store import hash_file
from headwater.model import checkpoint, hf
from headwater.model.config import CheckpointWeights, HuggingFaceWeights, RandomWeights
from headwater.model.initialize import initialize, random_model
from headwater.model.presets import NewModel

SHAPE = NewModel(hidden_size=64, num_layers=2, num_heads=4, context_length=128)


def test_random_weights_fit_the_tokenizer(tokenizer, out):
    counts = initialize(RandomWeights(use="random", model=SHAPE), {"tokenizer": tokenizer}, out)
    model, info = checkpoint.load_model(out.folder / "checkpoint")
    assert (info.step, info.config.vocab_size) == (0, 300)
    assert counts["parameters"] == sum(p.numel() for p in model.parameters())
    assert counts["expected_initial_loss"] == info.notes["expected_initial_loss"]
    assert counts["expected_initial_loss"] == pytest.approx(math.log(300) + 64 * 0.02**2 / 2, abs=0.02)
    assert counts["weights"]["attention.qkv.weight"]["std"] == pytest.approx(0.02, rel=0.05)
    assert counts["weights"]["ffn.down.weight"]["std"] == pytest.approx(0.02 / math.sqrt(4), rel=0.05)


def test_what_follows_from_the_dial_is_told_and_recorded(tokenizer, out, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(out, "note", told.append)
    dial = {"parameters": "200k", "num_layers": 3, "context_length": 128}
    settings = RandomWeights.model_validate({"use": "random", "dial": dial, "vocabulary_multiple": 64})
    counts = initialize(settings, {"tokenizer": tokenizer}, out)
    model, info = checkpoint.load_model(out.folder / "checkpoint")
    assert (info.config.vocab_size, info.config.padding_rows, info.config.hidden_size) == (320, 20, 64)
    assert not model.embedding.weight[300:].any()
    numbers = {number["setting"]: number for number in counts["derived"]}
    assert numbers["parameters"]["value"] == counts["parameters"] == sum(p.numel() for p in model.parameters())
    assert "hidden_size 64: the whole heads with which 3 layers come nearest to 200,000" in told[0]
    assert counts["expected_initial_loss"] == pytest.approx(math.log(300) + 64 * 0.02**2 / 2, abs=0.02)


def test_a_gpt2_begins_with_biases_of_nothing(tokenizer, out):
    model = {"preset": "gpt2-124m", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "context_length": 128}
    settings = RandomWeights.model_validate({"use": "random", "model": model})
    counts = initialize(settings, {"tokenizer": tokenizer}, out)
    assert set(counts["weights"]["attention.qkv.bias"].values()) == {0.0}
    assert counts["weights"]["positions.weight"]["std"] == pytest.approx(0.02, rel=0.05)
    assert counts["weights"]["ffn.up.weight"]["std"] == pytest.approx(0.02, rel=0.05)


def test_the_seed_decides(tokenizer):
    config = hf.model_config(hf.huggingface_config(_config(), 0), "here")
    first, again, other = (random_model(config, seed) for seed in (0, 0, 1))
    weights = [model.blocks[0].attention.qkv.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not random_model(config, 0, "zero").blocks[1].ffn.down.weight.any()


def test_a_hugging_face_folder_is_taken_over(tokenizer, out, make_model, tmp_path):
    model = make_model()
    hf.write_folder(tmp_path / "given", model, tokenizer / "tokenizer")
    settings = HuggingFaceWeights(use="huggingface", path=tmp_path / "given")
    counts = initialize(settings, {"tokenizer": tokenizer}, out)
    loaded, _ = checkpoint.load_model(out.folder / "checkpoint")
    row = torch.randint(0, 300, (1, 50))
    assert torch.equal(loaded(row), model(row))
    assert counts["expected_initial_loss"] is None


def test_a_checkpoint_is_taken_over(tokenizer, out, make_model, tmp_path):
    checkpoint.save(tmp_path / "given", make_model(), 70)
    counts = initialize(CheckpointWeights(use="checkpoint", path=tmp_path / "given"), {"tokenizer": tokenizer}, out)
    assert counts["step_in_source"] == 70
    assert checkpoint.read_info(out.folder / "checkpoint").step == 0


@pytest.mark.parametrize("rows", [299, 900])
def test_another_vocabulary_is_refused_with_both_numbers(tokenizer, out, make_model, tmp_path, rows):
    checkpoint.save(tmp_path / "given", make_model(vocab_size=rows), 0)
    with pytest.raises(MismatchError, match=rf"{rows} rows for tokens and the tokenizer has 300 tokens"):
        initialize(CheckpointWeights(use="checkpoint", path=tmp_path / "given"), {"tokenizer": tokenizer}, out)
    assert not (out.folder / "checkpoint").exists()


def test_identity_is_the_content_not_the_path(make_model, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        checkpoint.save(tmp_path / name, make_model(seed=seed), 0)
    a, b, c = (CheckpointWeights(use="checkpoint", path=tmp_path / n).fingerprint(hash_file) for n in "abc")
    assert a == b != c


@pytest.mark.parametrize("kind", [CheckpointWeights, HuggingFaceWeights])
def test_a_missing_folder_is_named(tmp_path, kind):
    use = "checkpoint" if kind is CheckpointWeights else "huggingface"
    with pytest.raises(InputError, match=r"nowhere: is not a folder"):
        kind(use=use, path=tmp_path / "nowhere").fingerprint(hash_file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"there is no .*\.json here"):
        kind(use=use, path=tmp_path / "empty").fingerprint(hash_file)


def _config():
    return checkpoint.ModelConfig(vocab_size=300, **SHAPE.model_dump(exclude={"preset"}))

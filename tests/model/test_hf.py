from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from headwater.core.errors import InputError, MismatchError
from headwater.model import hf


@pytest.fixture
def folder(make_model, tokenizer, tmp_path) -> Path:
    hf.write_folder(tmp_path / "model", make_model(), tokenizer / "tokenizer")
    return tmp_path / "model"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


GPT2 = {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True}


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"bias": True, "num_kv_heads": 1},
        {"qk_norm": True, "tie_embeddings": False, "num_kv_heads": 2, "head_size": 10},
        {"ffn": "relu2", "rope_theta": 5e5},
        {"ffn": "relu2", "bias": True, "tie_embeddings": False},
        GPT2,
        GPT2 | {"tie_embeddings": False, "ffn_size": 50},
    ],
)
def test_out_and_in_again_is_the_same(make_model, tokenizer, tmp_path, shape):
    model = make_model(**shape)
    hf.write_folder(tmp_path / "model", model, tokenizer / "tokenizer")
    again = hf.read_folder(tmp_path / "model")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_tokenizer_with_other_tokens_is_refused(make_model, tokenizer, tmp_path):
    with pytest.raises(MismatchError, match="has 299 rows for tokens and the tokenizer has 300 tokens"):
        hf.write_folder(tmp_path / "model", make_model(vocab_size=299), tokenizer / "tokenizer")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "the architecture is GemmaForCausalLM"),
        ({"architectures": None}, "the architecture is none"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type is 'llama3'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"num_attention_heads": 5}, "not a multiple of num_kv_heads"),
    ],
)
def test_what_is_not_computed_here_is_named(folder, change, problem):
    edit(folder / "config.json", **change)
    with pytest.raises(MismatchError, match=problem) as caught:
        hf.read_folder(folder)
    assert "config.json" in caught.value.place


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("model.norm.weight", None, "tensor model.norm.weight is missing"),
        ("model.layers.1.mlp.up_proj.weight", (81, 48), r"is \(81, 48\), expected \(80, 48\)"),
        ("model.layers.1.self_attn.q_proj.bias", (48,), "self_attn.q_proj.bias has no place in the model"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, name, shape, problem):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    save_file(tensors if shape is None else tensors | {name: torch.zeros(shape)}, folder / "model.safetensors")
    with pytest.raises(MismatchError, match=problem):
        hf.read_folder(folder)


def test_weights_in_several_files_are_read(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(hf.read_folder(folder).norm.weight, tensors["model.norm.weight"])
    (folder / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors is missing"):
        hf.read_folder(folder)


def test_a_truncated_file_is_named(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        hf.read_folder(folder)


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="may run code"):
        hf.read_folder(folder)

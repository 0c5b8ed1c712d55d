from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from headwater.core.errors import InputError, MismatchError
from headwater.model import hf
from headwater.model.config import HuggingFaceWeights


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
        (
            {"auto_map": {"AutoModel": "m.M"}},
            r"the model \(LlamaForCausalLM\) brings code of its own \(auto_map\), which is never run",
        ),
        ({"architectures": ["M"], "auto_map": {"AutoModel": "m.M"}}, r"the model \(M\) brings code of its own"),
        ({"mlp_bias": True}, "attention_bias is False, expected True"),
        ({"architectures": ["ArceeForCausalLM"]}, "hidden_act is 'silu', expected 'relu2'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"architectures": ["GPT2LMHeadModel"], "activation_function": "relu"}, "activation_function is 'relu'"),
        ({"architectures": ["GPT2LMHeadModel"], "scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"architectures": ["GPT2LMHeadModel"], "n_head": 5}, "hidden_size 768 does not divide into 5 heads"),
        ({"head_dim": 7}, "head_size 7 is odd"),
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


def test_an_unknown_architecture_is_told_which_are_known(folder):
    edit(folder / "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(MismatchError) as caught:
        hf.read_folder(folder)
    for name in ("Llama", "Mistral", "Qwen3", "Arcee", "GPT2LMHeadModel"):
        assert name in caught.value.hint
    assert "others can still be compared with, by transformers" in caught.value.hint


def test_pickles_are_read_only_when_the_risk_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"may run code when they are read.*allow_pickle: true"):
        hf.read_folder(folder)
    assert torch.equal(hf.read_folder(folder, allow_pickle=True).norm.weight, tensors["model.norm.weight"])
    settings = HuggingFaceWeights(use="huggingface", path=folder, allow_pickle=True)
    assert set(settings.fingerprint(lambda path: path.name)) == {"config.json", "pytorch_model.bin"}


class Harmful:
    """A pickle that runs a command when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harmed"),))


def test_even_then_a_harmful_pickle_runs_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Harmful()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: cannot be read"):
        hf.read_folder(folder, allow_pickle=True)
    assert not (tmp_path / "harmed").exists()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: cannot be read"):
        hf.read_folder(folder, allow_pickle=True)


def test_names_of_openais_own_gpt2_are_understood(make_model, tokenizer, tmp_path):
    model = make_model(**GPT2)
    hf.write_folder(tmp_path / "model", model, tokenizer / "tokenizer")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    short |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 200, 200) for layer in range(3)}
    save_file(short, tmp_path / "model" / "model.safetensors")
    edit(tmp_path / "model" / "config.json", n_inner=None, n_ctx=200, activation_function="gelu_pytorch_tanh")
    with pytest.raises(MismatchError, match=r"mlp\.c_fc\.weight is \(48, 80\), expected \(48, 192\)"):
        hf.read_folder(tmp_path / "model")
    edit(tmp_path / "model" / "config.json", n_inner=80)
    again = hf.read_folder(tmp_path / "model").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_padding_rows_are_not_exported(make_model, tokenizer, tmp_path):
    model = make_model(vocab_size=384, padding_rows=84, tie_embeddings=False)
    hf.write_folder(tmp_path / "model", model, tokenizer / "tokenizer")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert {len(tensors[name]) for name in ("model.embed_tokens.weight", "lm_head.weight")} == {300}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"] == 300
    row = torch.randint(0, 300, (1, 50))
    assert torch.equal(hf.read_folder(tmp_path / "model")(row), model(row))

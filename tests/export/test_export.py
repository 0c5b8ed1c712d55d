"""Exports of every format and family: proven, described, or refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from headwater.core.errors import InputError, MismatchError
from headwater.core.gguf import GgufFile
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.core.store import hash_file
from headwater.export import convert, export, proof, referee
from headwater.model import checkpoint, gguf, hf
from headwater.model.config import Export

FAMILIES = {
    "llama": {"num_kv_heads": 2, "tie_embeddings": False},
    "qwen3": {"qk_norm": True, "head_size": 20},
    "arcee": {"ffn": "relu2"},
    "arcee with biases": {"ffn": "relu2", "bias": True},
    "gpt2": {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True},
    "padded": {"vocab_size": 512, "padding_rows": 12},
}
TRICKS = {"norm_weights": False, "embedding_norm": True, "residual_scales": [1.15, 1.05], "qk_gain": 1.2}
TRICKY = {"qk_norm": True, "head_size": 20, "tie_embeddings": False, "tricks": TRICKS}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["huggingface", "safetensors"])
def test_every_family_is_proven_by_the_independent_reader(make_inputs, out, family, form):
    counts = export(Export(format=form), make_inputs(**FAMILIES[family]), out)
    (check,) = counts["proof"]["checks"]
    assert check["runtime"] == "the independent reader"
    assert check["largest"] < 1e-4
    assert counts["proof"]["tokens"] == 3 * 100, "of three held-out documents, as much as fits the context"
    assert counts["proof"]["compared_on"] == "the beginnings of held-out documents"
    assert counts["proof"]["rounding"]["largest"] == 0
    assert (out.folder / "model" / "README.md").is_file()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "q8_0"])
@pytest.mark.parametrize("shape", [FAMILIES["llama"], {"qk_norm": True, "vocab_size": 512, "padding_rows": 12}])
def test_a_gguf_file_is_proven_by_the_independent_reader(make_inputs, out, shape, dtype):
    counts = export(Export(format="gguf", dtype=dtype, title="A model: small"), make_inputs(**shape), out)
    assert counts["proof"]["checks"][0]["largest"] < 1e-4
    rounding = counts["proof"]["rounding"]
    assert (rounding["largest"] == 0) == (dtype == "float32")
    assert abs(rounding["loss_after"] - rounding["loss_before"]) < 0.05
    file = GgufFile(out.folder / "model" / f"A-model-small-{gguf.TYPES[dtype]}.gguf")
    assert file.get("general.name") == "A model: small"
    assert file.get("tokenizer.ggml.pre") == "smaug-bpe"
    assert file.get("tokenizer.ggml.add_bos_token") is False
    assert len(file.get("tokenizer.ggml.tokens")) == 500, "padding rows are left out"
    assert file.shapes["token_embd.weight"][0] == 500


def test_the_folder_holds_its_own_record(make_inputs, out):
    counts = export(Export(dtype="bfloat16"), make_inputs(qk_norm=True), out)
    assert (counts["architecture"], counts["step"]) == ("Qwen3ForCausalLM", 30)
    folder = out.folder / "model"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    record = json.loads((folder / "export.json").read_text())
    assert record["proof"] == counts["proof"]
    assert record["files"]["model.safetensors"] == hash_file(folder / "model.safetensors")


def test_plain_safetensors_begin_another_run(make_inputs, out):
    inputs = make_inputs()
    export(Export(format="safetensors"), inputs, out)
    model, info = checkpoint.load_model(out.folder / "model")
    before, _ = checkpoint.load_model(inputs["checkpoint"] / "checkpoint")
    assert info.step == 30
    assert all(torch.equal(t, before.state_dict()[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("form", ["huggingface", "gguf", "safetensors"])
def test_tricks_are_folded_with_proof(make_inputs, out, form):
    counts = export(Export(format=form), make_inputs(**TRICKY), out)
    folded = counts["proof"]["folded"]
    assert folded["tricks"][0] == "norm_weights false"
    assert folded["largest_fp64"] <= 1e-10
    assert 0 < folded["largest_fp32"] < 1e-4
    assert counts["proof"]["checks"][0]["largest"] < 1e-4
    card = (out.folder / "model" / "README.md").read_text()
    assert "trained with norm weights false, embedding norm true, residual scales 1.15 to 1.05, qk gain 1.2" in card
    assert "bit for bit" not in card


def test_folding_that_changes_the_model_is_refused(make_inputs, out, monkeypatch):
    monkeypatch.setattr("headwater.model.fold._shares", lambda _, config: [1.0] * config.num_layers)
    with pytest.raises(
        MismatchError, match=r"folding changed the model: in fp64 logits are .* standard deviations apart"
    ):
        export(Export(), make_inputs(**TRICKY), out)
    assert not list(out.folder.iterdir())


def test_what_computes_something_else_is_refused_and_not_left_behind(make_inputs, tmp_path, monkeypatch):
    """A writer that forgets the order of rows in the heads: reading back alone would not find it out."""
    monkeypatch.setattr(gguf, "_INTERLEAVED", ())
    inputs, machine = make_inputs(), Machine(threads=1, foreign_python="off")
    with pytest.raises(
        MismatchError, match=r"the independent reader .* computes other logits: .* standard deviations apart"
    ):
        convert(Export(format="gguf"), inputs, inputs["checkpoint"] / "checkpoint", tmp_path / "there", machine)
    assert not list(tmp_path.glob("*there*"))


def test_a_writer_that_loses_weights_is_refused(make_inputs, out, monkeypatch):
    write = hf.to_huggingface
    monkeypatch.setattr(hf, "to_huggingface", lambda model: {name: t * 1.0001 for name, t in write(model).items()})
    with pytest.raises(MismatchError, match="what was written is not what is read back"):
        export(Export(), make_inputs(), out)
    assert not list(out.folder.iterdir())


def test_rounding_that_makes_another_model_is_refused(make_inputs, out, monkeypatch):
    monkeypatch.setattr(proof, "ROUNDING", 1e-12)
    with pytest.raises(MismatchError, match="as bfloat16 it is another model: the predictions differ by"):
        export(Export(dtype="bfloat16"), make_inputs(), out)


def test_an_export_that_nothing_can_check_is_refused(make_inputs, out, monkeypatch):
    def unknown(folder: Path) -> referee.Model:
        raise referee.UnknownModelError("something new")

    monkeypatch.setattr(referee, "read_huggingface", unknown)
    with pytest.raises(
        MismatchError, match=r"nothing could check it \(.*it does not know the model \(something new\); transf"
    ):
        export(Export(), make_inputs(), out)


def test_tokens_that_are_cut_otherwise_are_refused(make_inputs, out, monkeypatch):
    monkeypatch.setattr("headwater.tokens.gguf._name_of_cut", lambda form, place: "gpt-2")
    with pytest.raises(MismatchError, match=r"Headwater cuts the text into other tokens, from token \d+ of text \d on"):
        export(Export(format="gguf"), make_inputs(), out)


def test_a_tokenizer_with_other_tokens_is_refused(make_inputs, out):
    with pytest.raises(MismatchError, match="has 499 rows for tokens and the tokenizer has 500 tokens"):
        export(Export(), make_inputs(vocab_size=499), out)


def test_a_python_that_is_none_is_named(make_inputs, out):
    out.machine = Machine(threads=1, foreign_python="/nowhere/python")
    with pytest.raises(InputError, match=r"machine\.foreign_python: cannot be run \(No such file or directory\)"):
        export(Export(), make_inputs(), out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "shape"), [("huggingface", {"qk_norm": True}), ("huggingface", TRICKY), ("gguf", {"num_kv_heads": 2})]
)
def test_transformers_proves_it(make_inputs, out, form, shape):
    """In a process of its own, as for any user."""
    pytest.importorskip("transformers")
    out.machine = Machine(threads=1)
    checks = export(Export(format=form), make_inputs(**shape), out)["proof"]["checks"]
    found = {check["runtime"]: check for check in checks}
    assert found["transformers"]["largest"] < 1e-4
    assert found["transformers"]["tokens_equal"] is (True if form == "huggingface" else None)


def test_what_other_software_complains_of_is_passed_on(make_inputs, out, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "KeyError: model_type" >&2\nexit 1\n')
    python.chmod(0o755)
    out.machine = Machine(threads=1, foreign_python=str(python))
    with pytest.raises(MismatchError, match=r"transformers cannot run it \(KeyError: model_type\)"):
        export(Export(), make_inputs(), out)


def test_texts_with_special_tokens_are_passed_over(finished):
    texts, _ = proof.texts_of(finished["documents"], [])
    word = next(word for word in texts[0].split() if len(word) > 6)
    again, _ = proof.texts_of(finished["documents"], [word])
    assert not any(word in text for text in again)


def test_the_independent_reader_reads_safetensors_as_the_library_does(tmp_path):
    from safetensors.torch import save_file

    given = {
        "a": torch.randn(3, 5),
        "b": torch.randn(4).to(torch.bfloat16),
        "c": torch.randn(2, 2, 2).to(torch.float16),
    }
    save_file(given, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = referee.read_safetensors(tmp_path / "x.safetensors")
    for name, tensor in given.items():
        np.testing.assert_array_equal(found[name], tensor.float().numpy())


LLAMA_CPP = os.environ.get("HEADWATER_TEST_LLAMA_CPP", sys.executable)
"""Python that has llama-cpp-python, which is built from source and so is not among the dependencies."""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "q8_0"])
@pytest.mark.parametrize(
    "shape", [{"num_kv_heads": 2}, {"tie_embeddings": False}, {"qk_norm": True, "head_size": 32, "num_kv_heads": 1}]
)
def test_llama_cpp_proves_it(make_inputs, out, shape, dtype):
    if proof._python_with("llama_cpp", Machine(foreign_python=LLAMA_CPP)) is None:
        pytest.skip("llama-cpp-python is not installed; HEADWATER_TEST_LLAMA_CPP can name a Python that has it")
    out.machine = Machine(threads=1, foreign_python=LLAMA_CPP)
    counts = export(Export(format="gguf", dtype=dtype), make_inputs(**shape), out)
    found = {check["runtime"]: check for check in counts["proof"]["checks"]}
    print(dtype, shape, found["llama.cpp"])
    assert found["llama.cpp"]["tokens_equal"]
    assert found["llama.cpp"]["largest"] < (1e-3 if dtype == "float32" else proof.SAME_ROUNDED)


def test_a_workspace_is_left_clean_by_a_refusal(make_inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "SAME", -1.0)
    folder = tmp_path / "again.partial"
    folder.mkdir()
    with pytest.raises(MismatchError, match="please report it"):
        export(Export(), make_inputs(), Workspace(folder, Machine(threads=1, foreign_python="off")))
    assert not list(folder.iterdir())

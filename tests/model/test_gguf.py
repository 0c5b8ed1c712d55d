"""GGUF files: ours against the independent reader, files of the package gguf read here, and files that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf as package
import numpy as np
import pytest
import torch

from headwater.core.errors import InputError, MismatchError
from headwater.core.gguf import GgufFile
from headwater.core.store import hash_file
from headwater.export import referee
from headwater.model import checkpoint, gguf
from headwater.model.config import GgufWeights
from headwater.model.growth import DepthUpscale
from headwater.model.initialize import initialize
from headwater.model.start import GrownWeights

LLAMA = {
    "llama.context_length": 200,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.rope.freq_base": 10_000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 16,
}
SHAPES = [
    {},
    {"num_kv_heads": 2, "tie_embeddings": False, "norm_epsilon": 1e-5},
    {"num_kv_heads": 1, "head_size": 10, "rope_theta": 500_000.0},
    {"qk_norm": True},
    {"qk_norm": True, "num_kv_heads": 2, "head_size": 20, "tie_embeddings": False},
]


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """A Llama of two layers under the names of llama.cpp."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (300, 64), "output_norm.weight": (64,)}
    for layer in range(2):
        sizes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
        sizes |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96), "attn_norm": (64,), "ffn_norm": (64,)}
        shapes |= {f"blk.{layer}.{name}.weight": size for name, size in sizes.items()}
    return {
        name: (random.normal(1 if len(shape) == 1 else 0, 0.2, shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write(
    path: Path, values: dict[str, Any], content: dict[str, np.ndarray], kind: str = "F32", arch: str = "llama"
) -> Path:
    """Write a file with the package alone."""
    writer = package.GGUFWriter(path, arch)
    for key, value in values.items():
        adder = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
        adder[type(value)](key, value)
    for name, numbers in content.items():
        as_type = package.GGMLQuantizationType[kind if numbers.ndim > 1 else "F32"]
        writer.add_tensor(name, package.quants.quantize(numbers, as_type), raw_dtype=as_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "model.gguf", LLAMA, tensors())


def logits(model, rows: list[list[int]]) -> list[np.ndarray]:
    with torch.inference_mode():
        return [model(torch.tensor([row]))[0].numpy() for row in rows]


ROWS = [list(range(3, 60)), [7, 7, 299, 0, 12]]


@pytest.mark.parametrize("shape", SHAPES)
def test_out_and_in_again_is_the_same_and_others_compute_it(make_model, tmp_path, shape):
    model = make_model(**shape)
    gguf.write_file(tmp_path / "model.gguf", model, {})
    again, types = gguf.read_file(tmp_path / "model.gguf")
    assert again.config == model.config
    assert types == {"F32": len(GgufFile(tmp_path / "model.gguf").shapes)}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    for ours, theirs in zip(
        logits(model, ROWS), referee.logits(referee.read_gguf(tmp_path / "model.gguf"), ROWS), strict=True
    ):
        np.testing.assert_allclose(theirs, ours, atol=2e-5 * ours.std())


@pytest.mark.parametrize(
    ("dtype", "kind", "error"), [("float16", "F16", 1e-3), ("bfloat16", "BF16", 1e-2), ("q8_0", "Q8_0", 2e-2)]
)
def test_matrices_are_rounded_and_vectors_are_not(make_model, tmp_path, dtype, kind, error):
    model = make_model(hidden_size=64, ffn_size=96)
    gguf.write_file(tmp_path / "model.gguf", model, {}, dtype)
    again, types = gguf.read_file(tmp_path / "model.gguf")
    assert types == {kind: 1 + 3 * 7, "F32": 1 + 3 * 2}
    for name, tensor in model.state_dict().items():
        found = again.state_dict()[name]
        if tensor.dim() == 1:
            assert torch.equal(found, tensor)
        else:
            assert 0 < (found - tensor).abs().max() <= error * tensor.abs().max()


def test_rows_that_are_no_blocks_are_refused(make_model, tmp_path):
    with pytest.raises(MismatchError, match=r"tensor token_embd\.weight cannot be written as Q8_0"):
        gguf.write_file(tmp_path / "model.gguf", make_model(), {}, "q8_0")  # rows of 48 numbers, blocks of 32


def test_a_family_that_is_not_written_is_named(make_model, tmp_path):
    with pytest.raises(MismatchError, match="this ArceeForCausalLM cannot be written to GGUF"):
        gguf.write_file(tmp_path / "model.gguf", make_model(ffn="relu2"), {})


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_files_of_others_are_read_as_the_independent_reader_does(tmp_path, kind):
    path = write(tmp_path / "model.gguf", LLAMA, tensors(), kind)
    model, types = gguf.read_file(path)
    assert model.config.num_kv_heads == 2
    assert model.config.norm_epsilon == 1e-5, "not 0.000009999999747"
    assert types.get(kind, 0) >= 15
    for ours, theirs in zip(logits(model, ROWS), referee.logits(referee.read_gguf(path), ROWS), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=2e-5 * ours.std())


def test_rows_in_another_order_are_another_model(tmp_path, file):
    """The order of rows in the heads decides: a reader that leaves them as they are is found out."""
    content = tensors()
    for layer in range(2):
        swapped = content[f"blk.{layer}.attn_q.weight"].reshape(4, 8, 2, 64).swapaxes(1, 2).reshape(64, 64)
        content[f"blk.{layer}.attn_q.weight"] = np.ascontiguousarray(swapped)
    other, _ = gguf.read_file(write(tmp_path / "other.gguf", LLAMA, content))
    right, _ = gguf.read_file(file)
    apart = np.abs(logits(other, ROWS)[0] - logits(right, ROWS)[0]).max()
    assert apart > 0.1 * logits(right, ROWS)[0].std()


def test_the_stage_begins_with_a_file_and_says_what_was_rounded(tokenizer, out, tmp_path):
    path = write(tmp_path / "model.gguf", LLAMA, tensors(), "Q4_1")
    counts = initialize(GgufWeights(use="gguf", path=path), {"tokenizer": tokenizer}, out)
    assert counts["tensor_types"] == {"Q4_1": 15, "F32": 5}
    assert out.warnings[0].startswith("15 of 20 tensors of model.gguf were quantised (15 as Q4_1)")
    loaded, _ = checkpoint.load_model(out.folder / "checkpoint")
    assert torch.equal(loaded.norm.weight, gguf.read_file(path)[0].norm.weight)


def test_exact_files_give_no_warning_and_models_grow_from_them(inputs, out, file):
    growth = DepthUpscale(use="depth_upscale", overlap_cut=0)
    settings = GrownWeights(use="grown", source=GgufWeights(use="gguf", path=file), growth=growth)
    counts = initialize(settings, inputs, out)
    assert counts["model"]["num_layers"] == 4
    assert not any("quantised" in warning for warning in out.warnings)


def test_another_vocabulary_is_refused(tokenizer, out, tmp_path):
    content = tensors()
    content["token_embd.weight"] = content["token_embd.weight"][:250]
    path = write(tmp_path / "model.gguf", LLAMA, content)
    with pytest.raises(MismatchError, match="the model has 250 rows for tokens and the tokenizer has 300 tokens"):
        initialize(GgufWeights(use="gguf", path=path), {"tokenizer": tokenizer}, out)


@pytest.mark.parametrize("share", [0.0005, 0.002, 0.005, 0.01, 0.02, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_named(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"model\.gguf: is (damaged or cut off|not a GGUF file)"):
        gguf.read_file(file)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a zip file", b"GGUF", b"GGUF" + b"\xff" * 200, b"GGML" + b"\0" * 99]
)
def test_what_is_no_gguf_is_named(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.gguf: is (damaged or cut off|not a GGUF file)"):
        gguf.read_file(tmp_path / "model.gguf")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.gguf: there is no such file"):
        GgufWeights(use="gguf", path=tmp_path / "nowhere.gguf").fingerprint(hash_file)
    with pytest.raises(InputError, match="cannot be read"):
        gguf.read_file(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"llama.block_count": None}, r"there is no llama\.block_count in its metadata"),
        ({"llama.expert_count": 8}, r"llama\.expert_count is 8, expected 0"),
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8, expected 16"),
        ({"llama.attention.head_count_kv": [2, 4]}, "head_count_kv differs from layer to layer"),
        ({"llama.attention.head_count_kv": 3}, "not a multiple of num_kv_heads"),
        ({"llama.block_count": 3}, r"tensor blk\.2\.attn_norm\.weight is missing"),
        ({"llama.block_count": 1}, r"tensor blk\.1\.attn_k\.weight has no place in the model"),
        ({"llama.feed_forward_length": 80}, r"tensor blk\.0\.ffn_gate\.weight is \(96, 64\), expected \(80, 64\)"),
    ],
)
def test_what_is_not_computed_here_is_named(tmp_path, changes, problem):
    values = {key: value for key, value in (LLAMA | changes).items() if value is not None}
    with pytest.raises(MismatchError, match=problem) as caught:
        gguf.read_file(write(tmp_path / "model.gguf", values, tensors()))
    assert caught.value.place.endswith("model.gguf")


def test_other_architectures_and_parts_are_named(tmp_path):
    values = {key.replace("llama", "gemma3"): value for key, value in LLAMA.items()}
    with pytest.raises(MismatchError, match="the architecture is gemma3") as caught:
        gguf.read_file(write(tmp_path / "a.gguf", values, tensors(), arch="gemma3"))
    assert "llama and qwen3" in caught.value.hint
    part = write(tmp_path / "b.gguf", LLAMA | {"split.count": 3}, tensors())
    with pytest.raises(InputError, match="is one of 3 parts"):
        gguf.read_file(part)
    with pytest.raises(MismatchError, match=r"tensor rope_freqs\.weight has no place in the model"):
        content = tensors() | {"rope_freqs.weight": np.ones(8, np.float32)}
        gguf.read_file(write(tmp_path / "c.gguf", LLAMA, content))

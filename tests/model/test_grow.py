"""Models made of another's layers. Each defect of the course's procedure is a test that it fails and ours passes."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from headwater.core.errors import MismatchError
from headwater.core.stage import Workspace
from headwater.model import checkpoint, hf
from headwater.model.config import ModelConfig
from headwater.model.grow import regrow, widen
from headwater.model.growth import DepthUpscale, Growth, Layer, Widen
from headwater.model.initialize import initialize
from headwater.model.proof import ROUNDING, prove, prove_same, prove_written
from headwater.model.reduction import DropMiddle
from headwater.model.start import GrownWeights
from headwater.model.transformer import Transformer

TOKENS = torch.randint(0, 300, (60,), generator=torch.Generator().manual_seed(0))


def growth(**settings: object) -> Growth:
    return TypeAdapter(Growth).validate_python(settings)


def grown(source: Transformer, **settings: object) -> tuple[Transformer, tuple[Layer, ...]]:
    layers = growth(**settings).layers(source.config.num_layers)
    return regrow(source, layers), layers


ALL = [
    ({"use": "depth_upscale", "overlap_cut": 2}, [0, 1, 2, 3, 2, 3, 4, 5]),
    ({"use": "identity_blocks", "every": 3}, [0, 1, 2, 2, 3, 4, 5, 5]),
    ({"use": "stack", "num_layers": 9}, [0, 1, 2, 3, 4, 5, 0, 1, 2]),
    ({"use": "interpolate", "num_layers": 9}, [0, 0, 1, 2, 2, 3, 4, 4, 5]),
    ({"use": "layers", "sources": [5, 0, 0]}, [5, 0, 0]),
]


@pytest.mark.parametrize(("settings", "sources"), ALL)
@pytest.mark.parametrize("tied", [True, False])
def test_every_map_gives_a_sound_model(make_model, settings, sources, tied):
    source = make_model(num_layers=6, tie_embeddings=tied, qk_norm=True, num_kv_heads=2)
    model, layers = grown(source, **settings)
    assert [layer.source for layer in layers] == sources
    assert model.config == source.config.model_copy(update={"num_layers": len(sources)})
    assert prove(model, TOKENS)["cache_apart"] < 1e-5
    for block, layer in zip(model.blocks, layers, strict=True):
        for name, parameter in block.named_parameters():
            given = source.blocks[layer.source].get_parameter(name)
            silent = layer.silent and name in ("attention.out.weight", "ffn.down.weight")
            assert torch.equal(parameter, torch.zeros_like(given) if silent else given)
            assert parameter.data_ptr() != given.data_ptr(), "a copy, not the same memory"


GPT2 = {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True}


@pytest.mark.parametrize("shape", [GPT2, {"ffn": "relu2"}, {"bias": True}], ids=["gpt2", "arcee", "biases"])
def test_every_family_grows(make_model, shape):
    source = make_model(num_layers=4, **shape)
    assert prove(grown(source, use="depth_upscale", overlap_cut=1)[0], TOKENS)["cache_apart"] < 1e-5
    silent, _ = grown(source, use="identity_blocks", every=2)
    assert prove_same(silent, source, TOKENS, 0.0)["logits_apart"] == 0.0
    wide = widen(source, Widen(use="widen", ffn_size=130))
    prove(wide, TOKENS)
    assert prove_same(wide, source, TOKENS, 2e-5)


def test_where_a_family_cannot_be_wider_is_said(make_model):
    source = make_model(**GPT2)
    with pytest.raises(
        MismatchError, match=r"initialize\.growth: GPT-2 has as many kv heads as heads, and num_heads x"
    ):
        widen(source, Widen(use="widen", num_heads=8))
    with pytest.raises(MismatchError, match=r"growth\.hidden_size: this model's norms subtract the mean"):
        widen(source, Widen(use="widen", hidden_size=96, num_heads=8))


def test_the_last_norm_is_copied(make_model):
    """The course's procedure copies layers, embedding and head, and leaves the last norm at ones."""
    source = make_model(num_layers=6)
    model, _ = grown(source, use="depth_upscale", overlap_cut=2)
    assert torch.equal(model.norm.weight, source.norm.weight)
    forgotten = copy.deepcopy(model)
    with torch.no_grad():
        forgotten.norm.weight.fill_(1.0)
    assert not torch.allclose(forgotten(TOKENS[None]), model(TOKENS[None]), atol=1e-2)


def test_copied_layers_have_places_of_their_own_in_the_cache(make_model):
    """In the course's procedure copies keep the number of their source, so that two layers share a place."""
    source = make_model(num_layers=6)
    model, layers = grown(source, use="depth_upscale", overlap_cut=2)
    assert [block.attention.layer for block in model.blocks] == list(range(8))
    for block, layer in zip(model.blocks, layers, strict=True):
        block.attention.layer = layer.source
    with pytest.raises(MismatchError, match="logits with a cache differ"):
        prove(model, TOKENS)


def test_a_shrunk_model_runs_with_a_cache(make_model):
    """The course's shrunk model keeps numbers beyond its layers and crashes."""
    source = make_model(num_layers=6)
    model = regrow(source, [Layer(number) for number in DropMiddle(use="middle", drop=2).kept(6)])
    assert prove(model, TOKENS)["cache_apart"] < 1e-5
    model.blocks[3].attention.layer = 5
    with pytest.raises(IndexError):
        prove(model, TOKENS)


def test_settings_come_from_the_source(make_model):
    """The course's up-scaled model falls back to the defaults of context, epsilon and rope."""
    source = make_model(num_layers=4, context_length=177, rope_theta=500_000.0, norm_epsilon=3e-5)
    model, _ = grown(source, use="stack", num_layers=6)
    assert (model.config.context_length, model.config.rope_theta, model.config.norm_epsilon) == (177, 500_000.0, 3e-5)


def test_silent_layers_change_nothing_at_all(make_model):
    source = make_model(num_layers=6)
    model, _ = grown(source, use="identity_blocks", every=2)
    assert prove_same(model, source, TOKENS, 0.0) == {"logits_apart": 0.0}
    with torch.no_grad():
        model.blocks[2].ffn.down.weight[0, 0] = 1.0
    with pytest.raises(MismatchError, match="what was added changed the logits"):
        prove_same(model, source, TOKENS, 0.0)


def test_two_models_of_equal_shape_become_one(make_model):
    lower, upper = make_model(num_layers=6), make_model(num_layers=6, seed=1)
    layers = DepthUpscale.model_validate(
        {"use": "depth_upscale", "num_layers": 8, "upper": {"use": "checkpoint", "path": "there"}}
    ).layers(6)
    assert [layer.source for layer in layers] == [0, 1, 2, 3, 2, 3, 4, 5]
    model = regrow(lower, layers, upper)
    assert torch.equal(model.blocks[3].ffn.down.weight, lower.blocks[3].ffn.down.weight)
    assert torch.equal(model.blocks[4].ffn.down.weight, upper.blocks[2].ffn.down.weight)
    assert torch.equal(model.norm.weight, lower.norm.weight)
    assert torch.equal(model.embedding.weight, lower.embedding.weight)
    with pytest.raises(MismatchError, match=r"upper: ffn_size is 96 in the upper model and 80 in the source"):
        regrow(lower, layers, make_model(num_layers=6, ffn_size=96))


@pytest.mark.parametrize(
    "sizes",
    [
        {"ffn_size": 130},
        {"ffn_size": 250},
        {"num_kv_heads": 3},
        {"num_heads": 8},
        {"num_heads": 6, "num_kv_heads": 2},
        {"hidden_size": 80},
        {"hidden_size": 96, "ffn_size": 160, "num_kv_heads": 4},
    ],
)
@pytest.mark.parametrize("shape", [{}, {"tie_embeddings": False, "qk_norm": True}])
def test_a_wider_model_computes_the_same(make_model, sizes, shape):
    source = make_model(num_kv_heads=2, num_layers=2, norm_epsilon=1e-3, **shape)
    settings = Widen(use="widen", **sizes)
    model = widen(source, settings)
    for name, size in sizes.items():
        assert getattr(model.config, name) == size
    prove(model, TOKENS)
    # with QK-norm the smaller epsilon of a wider model enters there too, so 1e-3 is as large as it may be
    tolerance = 1e-2 if shape and "hidden_size" in sizes else 2e-5
    assert prove_same(model, source, TOKENS, tolerance)["logits_apart"] <= tolerance
    assert model.config.norm_epsilon == pytest.approx(1e-3 * 48 / model.config.hidden_size)


def test_copies_in_a_wider_model_do_not_stay_the_same(make_model):
    """Net2Net's halves alone would get equal gradients for ever: an optimizer could never tell them apart."""
    source = make_model(num_layers=2)
    model = widen(source, Widen(use="widen", ffn_size=160, num_heads=8))
    model.loss(TOKENS[None, :-1], TOKENS[None, 1:]).backward()
    gradient = model.blocks[0].ffn.gate_up.weight.grad
    assert torch.equal(
        model.blocks[0].ffn.gate_up.weight[:80].sort(0)[0], model.blocks[0].ffn.gate_up.weight[80:160].sort(0)[0]
    )
    for row in range(80):
        same = (model.blocks[0].ffn.gate_up.weight[80:160] == model.blocks[0].ffn.gate_up.weight[row]).all(1)
        assert int(same.sum()) == 1
        copy_gradient = gradient[80:160][same][0]
        assert torch.nn.functional.cosine_similarity(copy_gradient, gradient[row], dim=0) < 0.999


def test_a_wider_model_trains_in_its_new_dimensions(make_model):
    model = widen(make_model(num_layers=2), Widen(use="widen", hidden_size=64))
    assert not model.embedding.weight[:, 48:].any()
    model.loss(TOKENS[None, :-1], TOKENS[None, 1:]).backward()
    assert model.embedding.weight.grad[:, 48:].any()
    assert model.blocks[0].ffn.down.weight.grad[48:].any()


@pytest.mark.parametrize(
    ("shape", "settings", "parameters"),
    [
        (
            {"hidden_size": 1024, "num_layers": 12, "num_heads": 32, "num_kv_heads": 8, "ffn_size": 4096},
            {"use": "depth_upscale", "overlap_cut": 4},
            308_839_424,
        ),
        (
            {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "ffn_size": 14336},
            {"use": "depth_upscale", "overlap_cut": 8},
            10_731_524_096,
        ),
        (
            {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "ffn_size": 14336},
            {"use": "depth_upscale", "num_layers": 48},
            10_731_524_096,
        ),
    ],
)
def test_parameters_of_the_course_s_models_and_of_solar(shape, settings, parameters):
    config = ModelConfig(vocab_size=32_000, tie_embeddings=False, **shape)
    layers = growth(**settings).layers(config.num_layers)
    assert config.model_copy(update={"num_layers": len(layers)}).parameters() == parameters


def test_parameters_of_the_course_s_shrunk_model():
    config = ModelConfig(
        vocab_size=32_000,
        tie_embeddings=False,
        hidden_size=1024,
        num_layers=12,
        num_heads=32,
        num_kv_heads=8,
        ffn_size=4096,
    )
    kept = DropMiddle(use="middle", drop=2).kept(12)
    assert config.model_copy(update={"num_layers": len(kept)}).parameters() == 217_601_024


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"use": "depth_upscale", "overlap_cut": 6},
            "growth.overlap_cut: 6 leaves nothing of 6 layers; hint: at most 5",
        ),
        (
            {"use": "depth_upscale", "num_layers": 14},
            "num_layers: 14 cannot be made of twice 6 layers; hint: at most 12",
        ),
        (
            {"use": "depth_upscale", "num_layers": 8, "overlap_cut": 3},
            "overlap_cut: 3 and num_layers 8 do not agree for a source with 6 layers; hint: set one of them; 8 layers need 2",
        ),
        ({"use": "identity_blocks", "every": 4}, "every: 4 does not divide 6 layers; hint: one of 1, 2, 3, 6"),
        ({"use": "stack", "num_layers": 6}, "num_layers: 6 is not more than the 6 of the source; hint: 7 or more"),
        ({"use": "interpolate", "num_layers": 2}, "num_layers: 2 is not more than the 6"),
        ({"use": "layers", "sources": [0, 6]}, "sources: 6 is no layer of a source with 6; hint: 0 to 5"),
    ],
)
def test_maps_that_do_not_fit_are_refused(settings, problem):
    with pytest.raises(MismatchError) as caught:
        growth(**settings).layers(6)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"use": "depth_upscale"}, "set overlap_cut"),
        ({"use": "depth_upscale", "num_layers": 7}, "num_layers 7 is odd"),
        ({"use": "widen"}, "set at least one of"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings, problem):
    with pytest.raises(ValidationError, match=problem):
        growth(**settings)


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"ffn_size": 60}, "growth.ffn_size: 60 is less than the 80 of the source"),
        ({"ffn_size": 80}, "growth: the source has these sizes"),
        ({"num_heads": 5}, "num_heads: 5 is no multiple of the 2 query heads of each key head"),
        ({"num_heads": 8, "num_kv_heads": 3}, "num_heads: 8 is no multiple of 3 key and value heads"),
        ({"num_heads": 4, "num_kv_heads": 4}, "num_heads: 4 leaves 1 query heads for each of 4 key heads"),
    ],
)
def test_widths_that_do_not_fit_are_refused(make_model, sizes, problem):
    with pytest.raises(MismatchError) as caught:
        widen(make_model(num_kv_heads=2), Widen(use="widen", **sizes))
    assert problem in str(caught.value)


def test_what_reads_back_as_another_model_is_noticed(make_model, tmp_path):
    model = make_model()
    checkpoint.save(tmp_path / "written", model, 0)
    prove_written(tmp_path / "written", model)
    with torch.no_grad():
        model.norm.weight[3] = model.norm.weight[3].nextafter(torch.tensor(9.0))
    with pytest.raises(MismatchError, match=r"tensor norm\.weight reads back as other numbers"):
        prove_written(tmp_path / "written", model)


def grown_weights(folder, **growth: object) -> GrownWeights:
    source = {"use": "huggingface", "path": str(folder)}
    return GrownWeights.model_validate({"use": "grown", "source": source, "growth": growth})


def test_a_grown_model_is_what_training_begins_with(
    tokenizer, inputs, out: Workspace, make_model, tmp_path, monkeypatch
):
    told: list[str] = []
    monkeypatch.setattr(out, "note", told.append)
    source = make_model(num_layers=4)
    hf.write_folder(tmp_path / "given", source, tokenizer / "tokenizer")
    settings = grown_weights(tmp_path / "given", use="depth_upscale", overlap_cut=1)
    counts = initialize(settings, inputs, out)
    model, _ = checkpoint.load_model(out.folder / "checkpoint")
    expected, _ = grown(source, use="depth_upscale", overlap_cut=1)
    assert torch.equal(model(TOKENS[None]), expected(TOKENS[None]))
    facts = counts["grown"]
    assert [layer["source"] for layer in facts["layers"]] == [0, 1, 2, 1, 2, 3]
    assert counts["parameters"] == model.config.parameters() == facts["parameters_after"]
    assert facts["parameters_before"] == source.config.parameters()
    assert facts["loss_before"] != facts["loss_after"]
    assert "4 layers become 6, copies of: 0 1 2 1 2 3" in told
    assert any(line.startswith("loss on the calibration text (") for line in told)
    assert set(settings.fingerprint(lambda path: path.name)) == {"config.json", "model.safetensors"}


def test_silent_and_wider_models_begin_at_the_loss_of_their_source(tokenizer, inputs, out, make_model, tmp_path):
    hf.write_folder(tmp_path / "given", make_model(num_layers=2), tokenizer / "tokenizer")
    for growth_, apart in (
        ({"use": "identity_blocks", "every": 1}, 0.0),
        ({"use": "widen", "ffn_size": 100}, ROUNDING),
    ):
        facts = initialize(grown_weights(tmp_path / "given", **growth_), inputs, out)["grown"]
        assert facts["logits_apart"] <= apart
        assert facts["loss_after"] == pytest.approx(facts["loss_before"], abs=1e-4 if apart else 0)


def test_the_upper_model_counts_for_identity_and_must_fit(tokenizer, inputs, out, make_model, tmp_path):
    for name, shape in (("given", {}), ("upper", {"seed": 1}), ("other", {"hidden_size": 64})):
        hf.write_folder(tmp_path / name, make_model(num_layers=4, **shape), tokenizer / "tokenizer")
    upper = {"use": "huggingface", "path": str(tmp_path / "upper")}
    settings = grown_weights(tmp_path / "given", use="depth_upscale", overlap_cut=1, upper=upper)
    assert set(settings.fingerprint(lambda path: path.name)["upper"]) == {"config.json", "model.safetensors"}
    counts = initialize(settings, inputs, out)
    assert [layer["other"] for layer in counts["grown"]["layers"]] == [False] * 3 + [True] * 3
    settings = grown_weights(
        tmp_path / "given", use="depth_upscale", overlap_cut=1, upper={**upper, "path": str(tmp_path / "other")}
    )
    with pytest.raises(MismatchError, match="hidden_size is 64 in the upper model and 48 in the source"):
        initialize(settings, inputs, out)


@pytest.mark.parametrize(
    "settings",
    [
        {"use": "depth_upscale", "overlap_cut": 2},
        {"use": "identity_blocks", "every": 3},
        {"use": "widen", "hidden_size": 80, "ffn_size": 100, "num_heads": 8},
    ],
)
def test_transformers_computes_the_same_and_generates_with_a_cache(tokenizer, make_model, tmp_path, settings):
    transformers = pytest.importorskip("transformers")
    source = make_model(num_layers=6)
    model = widen(source, Widen(**settings)) if settings["use"] == "widen" else grown(source, **settings)[0]
    hf.write_folder(tmp_path / "grown", model, tokenizer / "tokenizer")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "grown", dtype=torch.float32)
    with torch.no_grad():
        assert (theirs(TOKENS[None]).logits - model(TOKENS[None])).abs().max() < 1e-4
    greedy = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with_cache, without = (theirs.generate(TOKENS[None, :5], use_cache=use, **greedy) for use in (True, False))
    assert torch.equal(with_cache, without)

"""Models made of another's layers. Each defect of the course's procedure is a test that it fails and ours passes."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from headwater.core.errors import MismatchError
from headwater.model import checkpoint, hf
from headwater.model.config import GrownWeights, ModelConfig
from headwater.model.grow import prove, regrow
from headwater.model.growth import Growth
from headwater.model.initialize import initialize
from headwater.model.transformer import Transformer

TOKENS = torch.randint(0, 300, (60,), generator=torch.Generator().manual_seed(0))


def growth(**settings: object) -> Growth:
    return TypeAdapter(Growth).validate_python(settings)


ALL = [
    ({"use": "depth_upscale", "overlap_cut": 2}, [0, 1, 2, 3, 2, 3, 4, 5]),
    ({"use": "identity_blocks", "every": 3}, [0, 1, 2, 2, 3, 4, 5, 5]),
    ({"use": "stack", "num_layers": 9}, [0, 1, 2, 3, 4, 5, 0, 1, 2]),
    ({"use": "interpolate", "num_layers": 9}, [0, 0, 1, 2, 2, 3, 4, 4, 5]),
    ({"use": "layers", "sources": [5, 0, 0]}, [5, 0, 0]),
    ({"use": "drop_layers", "count": 2}, [0, 1, 4, 5]),
]


@pytest.mark.parametrize(("settings", "sources"), ALL)
@pytest.mark.parametrize("tied", [True, False])
def test_every_map_gives_a_sound_model(make_model, settings, sources, tied):
    source = make_model(num_layers=6, tie_embeddings=tied, qk_norm=True, num_kv_heads=2)
    model, layers = regrow(source, growth(**settings))
    assert [layer.source for layer in layers] == sources
    assert model.config == source.config.model_copy(update={"num_layers": len(sources)})
    facts = prove(model, source, layers, TOKENS)
    assert facts["cache_apart"] < 1e-5
    for block, layer in zip(model.blocks, layers, strict=True):
        for name, parameter in block.named_parameters():
            given = source.blocks[layer.source].get_parameter(name)
            silent = layer.silent and name in ("attention.out.weight", "ffn.down.weight")
            assert torch.equal(parameter, torch.zeros_like(given) if silent else given)
            assert parameter.data_ptr() != given.data_ptr(), "a copy, not the same memory"


@pytest.mark.parametrize("ffn", ["gelu", "relu2"])
@pytest.mark.parametrize("settings", [{"use": "depth_upscale", "overlap_cut": 2}, {"use": "drop_layers", "count": 2}])
def test_every_family_grows(make_model, settings, ffn):
    gpt2 = {"positions": "learned", "norm": "layer", "bias": True}
    source = make_model(num_layers=6, ffn=ffn, **gpt2 if ffn == "gelu" else {})
    model, layers = regrow(source, growth(**settings))
    assert prove(model, source, layers, TOKENS)["cache_apart"] < 1e-5


def test_silent_layers_with_biases_change_nothing(make_model):
    source = make_model(num_layers=4, bias=True)
    model, layers = regrow(source, growth(use="identity_blocks", every=2))
    assert prove(model, source, layers, TOKENS)["largest_change_of_logits"] == 0.0


def test_the_last_norm_is_copied(make_model):
    """The course's procedure copies layers, embedding and head, and leaves the last norm at ones."""
    source = make_model(num_layers=6)
    model, _ = regrow(source, growth(use="depth_upscale", overlap_cut=2))
    assert torch.equal(model.norm.weight, source.norm.weight)
    forgotten = copy.deepcopy(model)
    with torch.no_grad():
        forgotten.norm.weight.fill_(1.0)
    assert not torch.allclose(forgotten(TOKENS[None]), model(TOKENS[None]), atol=1e-2)


def test_copied_layers_have_places_of_their_own_in_the_cache(make_model):
    """In the course's procedure copies keep the number of their source, so that two layers share a place."""
    source = make_model(num_layers=6)
    model, layers = regrow(source, growth(use="depth_upscale", overlap_cut=2))
    assert [block.attention.layer for block in model.blocks] == list(range(8))
    for block, layer in zip(model.blocks, layers, strict=True):
        block.attention.layer = layer.source
    with pytest.raises(MismatchError, match="logits with a cache differ"):
        prove(model, source, layers, TOKENS)


def test_a_shrunk_model_runs_with_a_cache(make_model):
    """The course's shrunk model keeps numbers beyond its layers and crashes."""
    source = make_model(num_layers=6)
    model, layers = regrow(source, growth(use="drop_layers", count=2))
    assert prove(model, source, layers, TOKENS)["cache_apart"] < 1e-5
    model.blocks[3].attention.layer = 5
    with pytest.raises(IndexError):
        prove(model, source, layers, TOKENS)


def test_settings_come_from_the_source(make_model):
    """The course's up-scaled model falls back to the defaults of context, epsilon and rope."""
    source = make_model(num_layers=4, context_length=177, rope_theta=500_000.0, norm_epsilon=3e-5)
    model, _ = regrow(source, growth(use="stack", num_layers=6))
    assert (model.config.context_length, model.config.rope_theta, model.config.norm_epsilon) == (177, 500_000.0, 3e-5)


def test_silent_layers_change_nothing_at_all(make_model):
    source = make_model(num_layers=6)
    model, layers = regrow(source, growth(use="identity_blocks", every=2))
    facts = prove(model, source, layers, TOKENS)
    assert facts["largest_change_of_logits"] == 0.0
    assert facts["loss_before"] == facts["loss_after"]
    with torch.no_grad():
        model.blocks[2].ffn.down.weight[0, 0] = 1.0
    with pytest.raises(MismatchError, match="silent layers changed the logits"):
        prove(model, source, layers, TOKENS)


@pytest.mark.parametrize(
    ("shape", "settings", "parameters"),
    [
        (
            {"hidden_size": 1024, "num_layers": 12, "num_heads": 32, "num_kv_heads": 8, "ffn_size": 4096},
            {"use": "depth_upscale", "overlap_cut": 4},
            308_839_424,
        ),
        (
            {"hidden_size": 1024, "num_layers": 12, "num_heads": 32, "num_kv_heads": 8, "ffn_size": 4096},
            {"use": "drop_layers", "count": 2},
            217_601_024,
        ),
        (
            {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "num_kv_heads": 8, "ffn_size": 14336},
            {"use": "depth_upscale", "overlap_cut": 8},
            10_731_524_096,
        ),
    ],
)
def test_parameters_of_the_course_s_models_and_of_solar(shape, settings, parameters):
    config = ModelConfig(vocab_size=32_000, tie_embeddings=False, **shape)
    layers = growth(**settings).layers(config.num_layers)
    assert config.model_copy(update={"num_layers": len(layers)}).parameters() == parameters


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"use": "depth_upscale", "overlap_cut": 6}, r"overlap_cut: 6 leaves nothing of 6 layers; hint: at most 5"),
        ({"use": "identity_blocks", "every": 4}, r"every: 4 does not divide 6 layers; hint: one of 1, 2, 3, 6"),
        ({"use": "stack", "num_layers": 6}, r"num_layers: 6 is not more than the 6 of the source; hint: 7 or more"),
        ({"use": "interpolate", "num_layers": 2}, r"num_layers: 2 is not more than the 6"),
        ({"use": "layers", "sources": [0, 6]}, r"sources: 6 is no layer of a source with 6; hint: 0 to 5"),
        ({"use": "drop_layers", "count": 6}, r"count: 6 leaves nothing of 6 layers"),
    ],
)
def test_maps_that_do_not_fit_are_refused(make_model, settings, problem):
    with pytest.raises(MismatchError) as caught:
        regrow(make_model(num_layers=6), growth(**settings))
    assert problem in str(caught.value)
    with pytest.raises(ValidationError):
        growth(use="depth_upscale")


def test_a_grown_model_is_what_training_begins_with(tokenizer, out, make_model, tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(out, "note", told.append)
    source = make_model(num_layers=4)
    hf.write_folder(tmp_path / "given", source, tokenizer / "tokenizer")
    settings = GrownWeights.model_validate(
        {
            "use": "grown",
            "source": {"use": "huggingface", "path": str(tmp_path / "given")},
            "growth": {"use": "depth_upscale", "overlap_cut": 1},
        }
    )
    counts = initialize(settings, {"tokenizer": tokenizer}, out)
    model, _ = checkpoint.load_model(out.folder / "checkpoint")
    expected, _ = regrow(source, settings.growth)
    assert torch.equal(model(TOKENS[None]), expected(TOKENS[None]))
    assert [layer["source"] for layer in counts["grown"]["layers"]] == [0, 1, 2, 1, 2, 3]
    assert counts["parameters"] == model.config.parameters() == sum(p.numel() for p in model.parameters())
    assert "4 layers become 6, copies of: 0 1 2 1 2 3" in told
    assert any(line.startswith("loss on the calibration text: ") for line in told)
    assert isinstance(model, Transformer)
    assert set(settings.fingerprint(lambda path: path.name)) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("kind", ["depth_upscale", "identity_blocks"])
def test_transformers_computes_the_same_and_generates_with_a_cache(tokenizer, make_model, tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    settings = {"use": kind, "overlap_cut": 2} if kind == "depth_upscale" else {"use": kind, "every": 3}
    model, _ = regrow(make_model(num_layers=6), growth(**settings))
    hf.write_folder(tmp_path / "grown", model, tokenizer / "tokenizer")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "grown", dtype=torch.float32)
    with torch.no_grad():
        assert (theirs(TOKENS[None]).logits - model(TOKENS[None])).abs().max() < 1e-4
    greedy = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with_cache, without = (theirs.generate(TOKENS[None, :5], use_cache=use, **greedy) for use in (True, False))
    assert torch.equal(with_cache, without)

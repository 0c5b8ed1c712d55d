"""Smaller models: what is measured is what goes, and the result is sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from pydantic import TypeAdapter, ValidationError

from headwater.core.errors import EmptyResultError, InputError, MismatchError
from headwater.model import checkpoint, hf
from headwater.model.calibration import Calibration, Rows, rows_of
from headwater.model.grow import regrow
from headwater.model.growth import Layer
from headwater.model.initialize import initialize
from headwater.model.proof import mean_loss, measured, prove
from headwater.model.reduction import DropMeasured, Layers, Narrow
from headwater.model.shrink import importance, least_needed, narrow
from headwater.model.start import ShrunkWeights

from .conftest import write_documents

TOKENS = torch.randint(0, 300, (60,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def rows() -> Rows:
    """A text in rows of 50 tokens, the last one filled up, of documents of 70 tokens."""
    tokens = np.random.default_rng(0).integers(0, 300, 421)
    inputs, targets = (np.pad(part, (0, 30), mode="edge").reshape(-1, 50) for part in (tokens[:-1], tokens[1:]))
    documents = (np.arange(450, dtype=np.int32) // 70).reshape(-1, 50)
    return Rows(inputs, targets, documents, counted=420, bytes=1260)


def silence(model, layer: int, share: float) -> None:
    """Let a layer write less to the residual stream."""
    with torch.no_grad():
        model.blocks[layer].attention.out.weight.mul_(share)
        model.blocks[layer].ffn.down.weight.mul_(share)


def test_the_layers_that_do_nothing_go_first(make_model, rows):
    model = make_model(num_layers=6)
    silence(model, 4, 0.0)
    silence(model, 1, 0.001)
    with torch.no_grad():  # a text that this model finds likely, so that whatever changes it makes the loss worse
        likely = model(torch.from_numpy(rows.tokens), torch.from_numpy(rows.documents)).argmax(-1)
    kept, dropped = least_needed(
        model, DropMeasured(use="measured", drop=2), replace(rows, targets=likely.numpy()), lambda: None
    )
    assert kept == [0, 2, 3, 5]
    assert {gone.layer for gone in dropped} == {1, 4}
    assert dropped[1].next_best > dropped[1].loss + 0.01
    assert len(model.blocks) == 6
    assert [block.attention.layer for block in model.blocks] == list(range(6))


def test_the_loss_that_is_said_is_the_loss_of_the_smaller_model(make_model, rows):
    """Losses are measured without making the models: they are those of the models that are made."""
    model = make_model(num_layers=4, qk_norm=True)
    kept, dropped = least_needed(model, DropMeasured(use="measured", drop=2), rows, lambda: None)
    first = [layer for layer in range(4) if layer != dropped[0].layer]
    assert dropped[0].loss == pytest.approx(mean_loss(regrow(model, [Layer(n) for n in first]), rows), abs=1e-5)
    assert dropped[1].loss == pytest.approx(mean_loss(regrow(model, [Layer(n) for n in kept]), rows), abs=1e-5)
    others = [mean_loss(regrow(model, [Layer(n) for n in range(4) if n != left_out]), rows) for left_out in range(4)]
    assert min(others) == pytest.approx(dropped[0].loss, abs=1e-5)
    assert dropped[0].next_best == pytest.approx(sorted(others)[1], abs=1e-5)


def test_filled_rows_do_not_count(make_model, rows):
    model = make_model()
    plain = torch.cat(
        [
            model.token_losses(
                *(torch.from_numpy(part[n : n + 1]) for part in (rows.tokens, rows.targets, rows.documents))
            )
            for n in range(9)
        ]
    ).flatten()[:420]
    facts = measured(model, rows)
    assert facts["loss"] == pytest.approx(float(plain.double().mean()), rel=1e-6)
    assert facts["bits_per_byte"] == pytest.approx(float(plain.double().sum()) / np.log(2) / 1260, rel=1e-6)


def test_neurons_and_heads_that_do_nothing_go(make_model, rows):
    """What is zero in the model is what goes, and so the smaller model computes the same."""
    model = make_model(num_kv_heads=2, num_layers=2, qk_norm=True, tie_embeddings=False)
    idle = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for block in model.blocks:
            neurons = torch.randperm(80, generator=idle)[:30]
            block.ffn.gate_up.weight[neurons] = 0.0  # a gate of 0 lets nothing through
            block.attention.qkv.weight[(4 + 2 + 1) * 12 :] = 0.0  # values of the second of 2 key heads
    small, shares = narrow(model, Narrow(ffn_size=50, num_kv_heads=1), rows)
    assert (small.config.ffn_size, small.config.num_heads, small.config.num_kv_heads) == (50, 2, 1)
    assert shares == {"ffn_size": pytest.approx(1.0), "num_heads": pytest.approx(1.0)}
    prove(small, TOKENS)
    assert (small(TOKENS[None]) - model(TOKENS[None])).abs().max() < 1e-4 * model(TOKENS[None]).abs().max()


def test_query_heads_go_inside_their_group(make_model, rows):
    model = make_model(num_kv_heads=2, num_layers=1)
    with torch.no_grad():  # heads 0 1 | 2 3: all heads of a key head put out mixtures of the same values
        model.blocks[0].attention.qkv.weight[: 4 * 12].mul_(3.0)
    small, _ = narrow(model, Narrow(num_heads=2, num_kv_heads=2), rows)
    scores = importance(model, rows).heads[0]
    stays = [int(scores[:2].argmax()), 2 + int(scores[2:].argmax())]
    queries = torch.cat([model.blocks[0].attention.qkv.weight[12 * head : 12 * head + 12] for head in stays])
    assert torch.equal(small.blocks[0].attention.qkv.weight[:24], queries)
    assert torch.equal(small.blocks[0].attention.qkv.weight[24:], model.blocks[0].attention.qkv.weight[48:])


def test_dimensions_that_hold_nothing_go(make_model, rows):
    model = make_model(num_layers=2)
    with torch.no_grad():
        idle = [3, 17, 40]
        model.embedding.weight[:, idle] = 0.0
        for block in model.blocks:
            block.attention.out.weight[idle] = 0.0
            block.ffn.down.weight[idle] = 0.0
    small, shares = narrow(model, Narrow(hidden_size=45), rows)
    assert shares == {"hidden_size": pytest.approx(1.0)}
    stays = [n for n in range(48) if n not in idle]
    assert torch.equal(small.embedding.weight, model.embedding.weight[:, stays])
    assert torch.equal(small.blocks[1].ffn.gate_up.weight, model.blocks[1].ffn.gate_up.weight[:, stays])
    prove(small, TOKENS)


def test_importance_leaves_the_model_as_it_was(make_model, rows):
    model = make_model()
    importance(model, rows)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("layers", "kept"),
    [({"use": "middle", "drop": 2}, [0, 1, 4, 5]), ({"use": "listed", "drop": [5, 0, 0]}, [1, 2, 3, 4])],
)
def test_layers_by_position(layers, kept):
    assert TypeAdapter(Layers).validate_python(layers).kept(6) == kept


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        ({"use": "middle", "drop": 6}, "initialize.layers.drop: 6 leaves nothing of 6 layers; hint: at most 5"),
        ({"use": "listed", "drop": [6]}, "initialize.layers.drop: 6 is no layer of a source with 6; hint: 0 to 5"),
        ({"use": "listed", "drop": [0, 1, 2, 3, 4, 5]}, "6 leaves nothing of 6 layers"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, problem):
    with pytest.raises(MismatchError) as caught:
        TypeAdapter(Layers).validate_python(layers).kept(6)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        (
            {"ffn_size": 90},
            "initialize.width.ffn_size: 90 is more than the 80 of the source; hint: to widen, use: grown",
        ),
        ({"ffn_size": 80}, "initialize.width: the source has these sizes"),
        ({"num_heads": 3}, "num_heads: 3 is no multiple of the 2 query heads of each key head"),
        ({"num_heads": 4, "num_kv_heads": 1}, "num_heads: 4 leaves 4 query heads for each key head, the source has 2"),
    ],
)
def test_widths_that_do_not_fit_are_refused(make_model, rows, sizes, problem):
    with pytest.raises(MismatchError) as caught:
        narrow(make_model(num_kv_heads=2), Narrow(**sizes), rows)
    assert problem in str(caught.value)


def test_more_layers_than_there_are_cannot_be_measured_away(make_model, rows):
    with pytest.raises(MismatchError, match="3 leaves nothing of 3 layers"):
        least_needed(make_model(), DropMeasured(use="measured", drop=3), rows, lambda: None)


def shrunk(folder: Path, **more: object) -> ShrunkWeights:
    return ShrunkWeights.model_validate({"use": "shrunk", "source": {"use": "checkpoint", "path": str(folder)}, **more})


def test_a_shrunk_model_is_what_training_begins_with(tokenizer, out, make_model, tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(out, "note", told.append)
    source = make_model(num_layers=5)
    checkpoint.save(tmp_path / "given", source, 0)
    write_documents(tmp_path / "split")
    settings = shrunk(tmp_path / "given", layers={"use": "measured", "drop": 1}, width={"ffn_size": 60})
    counts = initialize(settings, {"tokenizer": tokenizer, "documents": tmp_path / "split"}, out)
    facts = counts["shrunk"]
    (gone,) = facts["dropped"]
    assert [layer["source"] for layer in facts["layers"]] == [n for n in range(5) if n != gone["layer"]]
    assert gone["loss"] < gone["next_best"]
    assert facts["activity_kept"]["ffn_size"] > 60 / 80
    model, _ = checkpoint.load_model(out.folder / "checkpoint")
    assert (model.config.num_layers, model.config.ffn_size) == (4, 60)
    assert counts["parameters"] == facts["parameters_after"] < facts["parameters_before"]
    assert any(line.startswith(f"without layer {gone['layer']}: loss ") for line in told)
    assert any(line.startswith("narrower: ffn_size 80 to 60; what stays had of all activity") for line in told)


def test_shrinking_nothing_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="set layers or width, or both"):
        shrunk(tmp_path)


def test_calibration_takes_as_much_of_each_source(tokenizer, tmp_path):
    write_documents(tmp_path / "split")
    opened = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer" / "tokenizer.json"))
    texts = Calibration(tokens=200).texts(tmp_path / "split", opened)
    counts = {name: sum(1 + len(opened.encode(text).ids) for text in given) for name, given in texts.items()}
    assert counts == {"library": 100, "torch": 100}
    rows = rows_of(
        [text for given in texts.values() for text in given], opened, hf.separator_id(tokenizer / "tokenizer"), 64
    )
    assert rows.tokens.shape == (4, 64)
    assert rows.counted == 199
    assert rows.documents[0, 0] == 0
    assert rows.documents.max() == sum(map(len, texts.values())) - 1
    assert rows.bytes == sum(len(text.encode()) for given in texts.values() for text in given)


def test_calibration_on_a_file_of_one_s_own(tokenizer, tmp_path):
    opened = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer" / "tokenizer.json"))
    (tmp_path / "mine.txt").write_text("Ein Fluss fließt. " * 100, encoding="utf-8")
    settings = Calibration(path=tmp_path / "mine.txt", tokens=64)
    assert settings.fingerprint(lambda path: path.name) == {"calibration": "mine.txt"}
    (text,) = settings.texts(None, opened)["calibration"]
    assert text.startswith("Ein Fluss")
    assert len(opened.encode(text).ids) == 63


def test_calibration_without_text_is_an_error(tokenizer, tmp_path):
    opened = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer" / "tokenizer.json"))
    with pytest.raises(InputError, match=r"nowhere\.txt: there is no such file; hint: check calibration\.path"):
        Calibration(path=tmp_path / "nowhere.txt").fingerprint(str)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("Straße".encode("latin-1"))
    for path in (tmp_path / "empty.txt", None):
        with pytest.raises(EmptyResultError):
            Calibration(path=path).texts(None if path is None else tmp_path, opened)
    with pytest.raises(EmptyResultError, match="no text to measure"):
        Calibration().texts(tmp_path, opened)
    with pytest.raises(InputError, match="cannot be read"):
        Calibration(path=tmp_path / "latin.txt").texts(None, opened)

from __future__ import annotations

import gzip
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from headwater.core.errors import InputError, MismatchError
from headwater.core.stage import Workspace
from headwater.core.store import read_json, write_json
from headwater.documents.document import read_batches
from headwater.evaluation.config import Evaluate, Sampling
from headwater.evaluation.evaluate import evaluate
from headwater.evaluation.generate import generate
from headwater.model.checkpoint import load_model, save
from headwater.tokens.codec import Codec

SETTINGS = Evaluate(
    max_bytes=20_000,
    max_document_bytes=4_000,
    prompts=("The for statement ", "if x"),
    prompts_from={"prose": 2},
    max_new_tokens=24,
)
Folders = dict[str, Path]


def held_out(folder: Path, source: str) -> list[str]:
    batches = read_batches(folder / "held_out" / f"{source}-00000.parquet", ["text"])
    return [text for batch in batches for text in batch.column("text").to_pylist()]


def test_scores_tell_trained_from_untrained_and_from_compressors(finished: Folders, out: Workspace):
    counts = evaluate(SETTINGS, finished, out)
    scores = read_json(out.folder / "scores.json")["bits_per_byte"]
    assert list(scores) == ["trained", "untrained", "gzip", "xz", "zstd"]
    for of in scores.values():
        assert list(of) == ["poems", "prose", "total"]
    for source in ("prose", "poems", "total"):
        trained, untrained = scores["trained"][source], scores["untrained"][source]
        assert 2 < trained["value"] < untrained["value"] - 0.5
        assert trained["bytes"] == untrained["bytes"] == scores["gzip"][source]["bytes"]
        assert 0 < trained["standard_error"] < 0.5
        assert 1 < scores["xz"][source]["value"] < 5
    untrained = scores["untrained"]["total"]
    assert untrained["nats_per_token"] == pytest.approx(math.log(400), abs=0.2)
    assert untrained["value"] * untrained["bytes"] * math.log(2) == pytest.approx(
        untrained["nats_per_token"] * untrained["tokens"]
    )
    assert counts["bits_per_byte"]["trained"] == scores["trained"]["total"]["value"]
    assert counts["documents"] == scores["trained"]["total"]["documents"] > 5


def test_a_score_is_that_of_the_held_out_text(finished: Folders, out: Workspace):
    """Documents shorter than the context, all of them: the score follows from whole logits and the texts' sizes."""
    settings = Evaluate(max_bytes=10**9, max_document_bytes=60)
    evaluate(settings, finished, out)
    score = read_json(out.folder / "scores.json")["bits_per_byte"]
    codec = Codec(finished["tokenizer"] / "tokenizer")
    model, _ = load_model(finished["checkpoint"] / "checkpoint")
    texts = [text.encode()[:60].decode(errors="ignore") for text in held_out(finished["documents"], "prose")]
    bits = 0.0
    for text in texts:
        ids = torch.tensor([[codec.separator_id, *codec.encode([text])[0].tolist()]])
        with torch.no_grad():
            logits = model(ids)[0].double().log_softmax(-1)
        bits -= logits[:-1].gather(1, ids[0, 1:, None]).sum().item() / math.log(2)
    size = sum(len(text.encode()) for text in texts)
    assert score["trained"]["prose"]["bytes"] == size
    assert score["trained"]["prose"]["documents"] == len(texts)
    assert score["trained"]["prose"]["value"] == pytest.approx(bits / size, rel=1e-5)
    together = "".join(texts).encode()
    assert score["gzip"]["prose"]["value"] == pytest.approx(8 * len(gzip.compress(together, 9)) / size, rel=0.02)


def test_both_models_continue_the_same_prompts(finished: Folders, out: Workspace):
    evaluate(SETTINGS, finished, out)
    generations = read_json(out.folder / "generations.json")
    assert [entry["prompt"] for entry in generations[:2]] == ["The for statement", "if x"]
    assert [entry["seed"] for entry in generations] == [0, 1, 2, 3]
    assert [entry["source"] for entry in generations] == [None, None, "prose", "prose"]
    for entry in generations:
        assert entry["trained"] != entry["untrained"]
        assert entry["temperature"] == 0.8
        assert entry["top_k"] == 50
    texts = held_out(finished["documents"], "prose")
    for entry in generations[2:]:
        assert 60 < len(entry["prompt"]) <= 100
        assert not entry["prompt"][-1].isspace()
        assert any(text.startswith(entry["prompt"] + entry["reference"]) for text in texts)


def test_the_same_run_gives_the_same_results(finished: Folders, out: Workspace, tmp_path: Path):
    evaluate(SETTINGS, finished, out)
    again = Workspace(tmp_path / "again", out.machine)
    evaluate(SETTINGS, finished, again)
    for name in ("scores.json", "generations.json"):
        assert (out.folder / name).read_bytes() == (again.folder / name).read_bytes()


def test_weights_that_are_not_numbers_are_named(finished: Folders, out: Workspace, tmp_path: Path):
    model, _ = load_model(finished["checkpoint"] / "checkpoint")
    model.norm.weight.data[3] = math.nan
    save(tmp_path / "bad" / "checkpoint", model, 60)
    with pytest.raises(
        InputError, match=r"bad/checkpoint: holds weights that are not finite numbers \(in norm\.weight\)"
    ):
        evaluate(SETTINGS, finished | {"checkpoint": tmp_path / "bad"}, out)
    assert not (out.folder / "scores.json").exists()


def test_tokens_of_another_tokenizer_are_refused(finished: Folders, out: Workspace, tmp_path: Path):
    shutil.copytree(finished["tokenizer"], tmp_path / "other")
    path = tmp_path / "other" / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(MismatchError, match="were not made by the tokenizer in"):
        evaluate(SETTINGS, finished | {"tokenizer": tmp_path / "other"}, out)


def test_a_model_with_too_few_tokens_is_refused(finished: Folders, out: Workspace, tmp_path: Path):
    model, _ = load_model(finished["start"] / "checkpoint")
    small = type(model)(model.config.model_copy(update={"vocab_size": 300}))
    save(tmp_path / "small" / "checkpoint", small, 0)
    with pytest.raises(MismatchError, match="the model knows 300 tokens, the tokenizer has 400"):
        evaluate(SETTINGS, finished | {"start": tmp_path / "small"}, out)


def test_of_a_prompt_longer_than_the_context_the_end_is_seen(finished: Folders, out: Workspace):
    end = "and so the statement is executed again and again"
    prompts = tuple(beginning * 40 + end for beginning in ("word ", "other "))
    evaluate(SETTINGS.model_copy(update={"prompts": prompts, "prompts_from": {}, "temperature": 0}), finished, out)
    (warning, other) = out.warnings
    assert re.fullmatch(r"prompt 1 has \d+ tokens, too many for a context of 64: the models see its last 40", warning)
    assert other.startswith("prompt 2 has")
    one, _ = read_json(out.folder / "generations.json")
    assert one["prompt"] == prompts[0]
    assert one["trained"]
    codec = Codec(finished["tokenizer"] / "tokenizer")
    (ids,) = codec.encode([prompts[0]])
    model, _ = load_model(finished["checkpoint"] / "checkpoint")
    settings = Sampling(max_new_tokens=24, temperature=0)
    # both prompts together: the same sums in the same order
    (others,) = codec.encode([prompts[1]])
    shown = [ids[-40:].tolist(), others[-40:].tolist()]
    drawn = generate(model, shown, settings, stop=codec.separator_id, vocab_size=400)
    written = [tokens[0] for tokens in drawn if tokens[0] is not None]
    assert one["trained"] == codec.decode([*ids, *written])[len(prompts[0]) :]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"pros": 1}, "'pros' is not a source; did you mean 'prose'"),
        ({"poems": 99}, "'poems' has .* scored documents of twice 100"),
    ],
)
def test_prompts_must_come_from_somewhere(finished: Folders, out: Workspace, wanted: dict[str, int], message: str):
    with pytest.raises(MismatchError, match=message):
        evaluate(SETTINGS.model_copy(update={"prompts_from": wanted}), finished, out)


def test_without_held_out_documents_there_are_generations_only(finished: Folders, out: Workspace, tmp_path: Path):
    shutil.copytree(finished["tokens"], tmp_path / "tokens")
    shutil.rmtree(tmp_path / "tokens" / "held_out")
    facts = read_json(tmp_path / "tokens" / "tokens.json")
    for splits in facts["sources"].values():
        splits["held_out"] = {"tokens": 0, "documents": 0, "bytes": 0}
    write_json(tmp_path / "tokens" / "tokens.json", facts)
    settings = SETTINGS.model_copy(update={"prompts_from": {}})
    counts = evaluate(settings, finished | {"tokens": tmp_path / "tokens"}, out)
    assert read_json(out.folder / "scores.json") == {"bits_per_byte": {}}
    assert len(read_json(out.folder / "generations.json")) == counts["generations"] == 2
    assert any("source 'prose' has no held-out documents" in warning for warning in out.warnings)


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"overlap": 1.0}, {"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"max_bytes": 0}):
        with pytest.raises(ValidationError):
            Evaluate(**wrong)
    assert np.isclose(Evaluate(max_bytes="1 MB").max_bytes, 1e6)

"""The step `perplexity`: a model's bits per byte decide, are written down, and never depend on the workers."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from headwater.core.errors import InputError, MismatchError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.clean import Clean, clean
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.perplexity import Perplexity
from headwater.documents.document import ShardFile, documents_of
from headwater.evaluation.perplexity import Scorer, open_scorer
from headwater.model import hf
from headwater.model.checkpoint import save
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.model.transformer import Transformer

MACHINE = Machine(workers=1, threads=1, device="cpu")
SHAPE = {"vocab_size": 257, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64}
SENTENCE = "the water of the spring runs down to the river and on to the sea. "


def byte_tokenizer(folder: Path, **facts: object) -> Path:
    """A tokenizer of one token per byte, the separator first."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {"<|end|>": 0} | {c: i + 1 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"} | facts))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model() -> Transformer:
    """A model that has learned one sentence."""
    torch.manual_seed(0)
    model = random_model(ModelConfig.model_validate(SHAPE), 0, "plain")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [alphabet.index(c if c != " " else "Ġ") + 1 for c in SENTENCE * 4]
    row = torch.tensor([[0, *pieces][:129]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        at = step % 64
        window = row[:, at : at + 65] if step % 2 else row[:, :65]
        optimizer.zero_grad()
        model.loss(window[:, :-1], window[:, 1:]).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Transformer, tokenizer: Path) -> Path:
    """The model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    hf.write_folder(folder, model, tokenizer)
    return folder


def step(folder: Path, **settings: object) -> Perplexity:
    return Perplexity.model_validate({"use": "perplexity", "model": folder, **settings})


def shards(place: Path, texts: list[str], count: int = 1) -> Path:
    for number in range(count):
        with ShardFile(place / "documents" / f"web-{number:05d}.parquet") as shard:
            shard.write(documents_of("web", texts[number::count]))
    return place


def run(step: Perplexity, documents: Path, out: Path, machine: Machine = MACHINE) -> dict:
    out.mkdir()
    return clean(Clean(steps=(step,)), {"documents": documents}, Workspace(out, machine))


def test_a_range_decides_and_the_value_is_written(folder: Path, tmp_path: Path) -> None:
    texts = [SENTENCE, "Зимой 19% qZ}{|~ ÿþ", "the sea and the river. " * 3]
    counts = run(step(folder), shards(tmp_path / "in", texts), tmp_path / "told")
    told = pq.read_table(tmp_path / "told" / "documents").to_pylist()
    values = [json.loads(row["meta"])["bits_per_byte"] for row in told]
    easy, hard, middle = values
    assert easy < middle < hard
    assert counts["prepared"]["0"] == {
        "parameters": open_scorer(folder, folder, MACHINE).model.config.parameters(),
        "context_length": 64,
        "vocab_size": 257,
        "device": "cpu",
    }
    bounds = {"min_bits_per_byte": (easy + middle) / 2, "max_bits_per_byte": (middle + hard) / 2}
    run(step(folder, **bounds), tmp_path / "in", tmp_path / "kept")
    assert pq.read_table(tmp_path / "kept" / "documents")["text"].to_pylist() == [texts[2]]
    dropped = {row["text"]: row for row in pq.read_table(tmp_path / "kept" / "dropped").to_pylist()}
    for text, rule, value in ((texts[0], "min_bits_per_byte", easy), (texts[1], "max_bits_per_byte", hard)):
        assert dropped[text]["rule"] == f"perplexity.{rule}"
        assert dropped[text]["value"] == value
        assert dropped[text]["threshold"] == pytest.approx(bounds[rule])


def test_the_value_at_the_limit_stays(folder: Path, tmp_path: Path) -> None:
    documents = shards(tmp_path / "in", [SENTENCE])
    run(step(folder), documents, tmp_path / "told")
    value = json.loads(pq.read_table(tmp_path / "told" / "documents")["meta"][0].as_py())["bits_per_byte"]
    run(step(folder, min_bits_per_byte=value, max_bits_per_byte=value), documents, tmp_path / "kept")
    assert pq.read_table(tmp_path / "kept" / "documents").num_rows == 1


def test_workers_take_turns_and_change_nothing(folder: Path, tmp_path: Path) -> None:
    texts = [SENTENCE[: 5 + 3 * n] + "ü" * (n % 3) for n in range(60)]
    documents = shards(tmp_path / "in", texts, 4)
    limit = float(np.median(open_scorer(folder, folder, MACHINE)(texts)))
    for workers in (1, 4):
        machine = Machine(workers=workers, threads=workers, device="cpu")
        run(step(folder, max_bits_per_byte=limit), documents, tmp_path / str(workers), machine)
    for name in ("documents", "dropped"):
        one, four = (pq.read_table(tmp_path / str(workers) / name) for workers in (1, 4))
        assert one.equals(four)
    assert 20 < pq.read_table(tmp_path / "1" / "documents").num_rows < 40


def test_a_prepared_step_goes_to_another_process_without_its_model(folder: Path, tmp_path: Path) -> None:
    many = Machine(workers=2, threads=2, device="cpu")
    ready, _ = step(folder).prepare("perplexity-0", [], Workspace(tmp_path, many))
    sent = pickle.dumps(ready)
    assert len(sent) < 4_000
    batch = Features(documents_of("web", [SENTENCE, "x"]))
    copy = pickle.loads(sent)
    assert copy._scorer._threads == 1  # a task has one processor
    assert copy._scorer is pickle.loads(sent)._scorer  # one model in a process
    here, there = ready(batch), copy(batch)
    assert here.columns["meta"].equals(there.columns["meta"])


def test_only_the_beginning_counts(folder: Path) -> None:
    scorer = open_scorer(folder, folder, MACHINE)
    ready = step(folder, max_characters=20)
    ready._scorer = scorer
    verdict = ready(Features(documents_of("web", [SENTENCE, SENTENCE[:20] + "%$#@!"])))
    first, second = (json.loads(meta)["bits_per_byte"] for meta in verdict.columns["meta"].to_pylist())
    assert first == second == pytest.approx(scorer([SENTENCE[:20]])[0], abs=1e-4)


def test_a_document_longer_than_the_context_and_one_of_many_bytes(folder: Path) -> None:
    scorer = open_scorer(folder, folder, MACHINE)
    long, wide = scorer([SENTENCE * 20, "日本語" * 40])
    assert 0 < long < wide
    assert np.isfinite(wide)


def test_a_checkpoint_needs_its_tokenizer_and_scores_the_same(
    model: Transformer, folder: Path, tokenizer: Path, tmp_path: Path
) -> None:
    save(tmp_path / "checkpoint", model, 60, None, {"moment": torch.zeros(2)}, {"seed": 1})
    with pytest.raises(InputError, match=r"there is no tokenizer.json here.*") as error:
        step(tmp_path / "checkpoint").files()
    assert "stages/tokenizer/tokenizer" in (error.value.hint or "")
    files = step(tmp_path / "checkpoint", tokenizer=tokenizer).files()
    assert sorted(path.name for path in files.values()) == [
        "model.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "weights.safetensors",
    ]
    ours = open_scorer(tmp_path / "checkpoint", tokenizer, MACHINE)([SENTENCE])
    assert ours == pytest.approx(open_scorer(folder, folder, MACHINE)([SENTENCE]))


def test_documents_begin_with_bos_where_there_is_one(folder: Path, tmp_path: Path) -> None:
    byte_tokenizer(tmp_path, bos_token={"content": "a"}, eos_token={"content": "<|end|>"})
    with_bos, without = (Scorer(folder, place, MACHINE) for place in (tmp_path, folder))
    assert with_bos.first == with_bos.codec.reference.token_to_id("a")
    assert without.first == 0
    assert with_bos([SENTENCE]) != pytest.approx(without([SENTENCE]), abs=1e-3)


def test_other_weights_are_another_fingerprint(model: Transformer, tokenizer: Path, tmp_path: Path) -> None:
    from headwater.core.store import hash_file

    hf.write_folder(tmp_path, model, tokenizer)
    settings = Clean(steps=(step(tmp_path),))
    before = settings.fingerprint(hash_file)
    assert {Path(name.partition(": ")[2]).name for name in before} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    hf.write_folder(tmp_path, random_model(model.config, 1, "plain"), tokenizer)
    assert settings.fingerprint(hash_file) != before


def test_what_cannot_be_a_model(folder: Path, model: Transformer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        step(tmp_path / "none").files()
    with pytest.raises(InputError, match=r"holds no config\.json or model\.json"):
        step(tmp_path).files()
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(InputError, match=r"holds no \.safetensors"):
        step(tmp_path).files()
    out = Workspace(tmp_path, MACHINE)
    small = tmp_path / "small"
    hf.write_folder(small, model, folder)
    values = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(values | {"vocab_size": 5000}))
    with pytest.raises(MismatchError, match="5,000 rows for tokens and the tokenizer has 257"):
        step(small).prepare("", [], out)
    (small / "config.json").write_text(json.dumps(values | {"architectures": ["BloomForCausalLM"]}))
    with pytest.raises(MismatchError, match="the architecture is BloomForCausalLM"):
        step(small).prepare("", [], out)
    (small / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        step(small).prepare("", [], out)
    (small / "config.json").write_text(json.dumps(values))
    (small / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        step(small).prepare("", [], out)
    with pytest.raises(ValidationError, match="nothing would be left"):
        step(folder, min_bits_per_byte=2, max_bits_per_byte=1)


def test_weights_that_overflow_are_one_line(model: Transformer, tokenizer: Path, tmp_path: Path) -> None:
    broken = random_model(model.config, 0, "plain")
    with torch.no_grad():
        broken.embedding.weight[5:] = float("nan")
    hf.write_folder(tmp_path, broken, tokenizer)
    with pytest.raises(InputError, match="not finite numbers"):
        open_scorer(tmp_path, tmp_path, MACHINE)([SENTENCE])


def test_planning_loads_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from headwater.documents.clean import Clean;"
        f"Clean(steps=({{'use': 'perplexity', 'model': {str(folder)!r}}},)).fingerprint(str);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Encoding is Hugging Face's to the last id, for tokenizers of every style; what is fast but wrong is never used."""

from __future__ import annotations

import inspect
import json
import pydoc_data.topics
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.tokens import codec as module
from headwater.tokens.codec import Codec, tricky_texts
from headwater.tokens.encode import Encode, encode
from headwater.tokens.shards import TokenFolder

from .conftest import write_documents
from .published import STYLES, gpt2, save, sentencepiece, small

TEXTS = [*list(pydoc_data.topics.topics.values())[:40], inspect.getsource(json)]


def assert_same(folder: Path, texts: list[str]) -> Codec:
    """Each text has the ids that Hugging Face's software gives."""
    codec = Codec(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    for text, ids in zip(texts, codec.encode(texts), strict=True):
        assert ids.tolist() == theirs.encode(text, add_special_tokens=False).ids, text[:80]
    assert (codec.fallback is None) == (codec.compared > 700) == codec.fast
    return codec


@pytest.mark.parametrize("style", STYLES)
def test_small_tokenizers_of_every_style_agree_or_fall_back(style: str, tmp_path: Path):
    folder = save(small(style, TEXTS), tmp_path, "</s>")
    codec = assert_same(folder, [*TEXTS, *tricky_texts(), "a </s> in the text"])
    if style in ("digits", "nanochat"):
        assert "it does not know this tokenizer" in (codec.fallback or "")
    elif style != "unigram":
        assert codec.fast


@pytest.mark.parametrize("name", ["gpt2", "llama2-32000.model", "mistral-v1-32000.model"])
def test_published_tokenizers_agree(name: str, shared_data: Path, tmp_path: Path):
    made = gpt2(shared_data) if name == "gpt2" else sentencepiece(shared_data / "tokenizers" / name)
    known = {"gpt2": [15496, 995], "llama2-32000.model": [15043, 3186], "mistral-v1-32000.model": [22557, 1526]}
    assert made.encode("Hello world", add_special_tokens=False).ids == known[name]
    folder = save(made, tmp_path, "<|endoftext|>" if name == "gpt2" else "</s>")
    codec = assert_same(folder, [*TEXTS, *tricky_texts()])
    assert codec.fast
    assert codec.check_round_trip(TEXTS, "here") == 0


class Liar:
    """Software that is fast and wrong: on a text that only a fuzz set holds, or on one that only documents hold."""

    def __init__(self, right, wrong_on: str):
        self.right, self.wrong_on = right, wrong_on

    def encode_batch(self, texts: list[str], parallel: bool):
        changed = [text.replace(self.wrong_on, "?") for text in texts]
        return self.right.encode_batch(changed, parallel=parallel)


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch):
    def make(wrong_on: str) -> None:
        honest = module._open_gigatoken
        monkeypatch.setattr(module, "_open_gigatoken", lambda path: (Liar(honest(path)[0], wrong_on), None))

    return make


def test_what_is_wrong_on_the_fuzz_set_is_not_used(trained: Path, lie):
    lie("6789")
    codec = Codec(trained / "tokenizer")
    assert not codec.fast
    assert "its ids are not those of Hugging Face's software on " in (codec.fallback or "")
    assert "6789" in (codec.fallback or "")


def test_what_is_wrong_on_the_first_documents_is_not_used_and_said(trained: Path, lie, tmp_path: Path):
    lie("headwaters")
    texts = ["rivers have headwaters"] * 3
    write_documents(tmp_path / "documents" / "web-00000.parquet", texts)
    (tmp_path / "held_out").mkdir()
    copy = tmp_path / "copy"
    copy.symlink_to(trained)  # another path: an opened tokenizer is remembered by its path
    out = Workspace(tmp_path / "out", Machine(workers=1))
    counts = encode(Encode(), {"documents": tmp_path, "tokenizer": copy}, out)
    assert counts["software"] == "tokenizers"
    assert "disagree on the first documents of 1 of 1 shards" in out.warnings[0]
    reference = Codec(trained / "tokenizer", fast=False)
    assert np.array_equal(TokenFolder(out.folder).source("web").document(0)[1:], reference.encode(texts[:1])[0])


def test_a_slow_tokenizer_is_said_with_the_reason(tmp_path: Path):
    save(small("nanochat", TEXTS), tmp_path / "stage" / "tokenizer", "</s>")
    write_documents(tmp_path / "documents" / "web-00000.parquet", TEXTS)
    (tmp_path / "held_out").mkdir()
    out = Workspace(tmp_path / "out", Machine(workers=1))
    counts = encode(Encode(), {"documents": tmp_path, "tokenizer": tmp_path / "stage"}, out)
    assert counts["software"] == "tokenizers"
    (warning,) = out.warnings
    assert "many times slower than gigatoken would: it does not know this tokenizer (Unknown pre_tokenizer" in warning

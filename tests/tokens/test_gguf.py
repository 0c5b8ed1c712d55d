"""Tokenizers through the metadata of GGUF files: out and in again, and those that are not read or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from headwater.core.errors import InputError, MismatchError
from headwater.core.gguf import GgufFile
from headwater.core.stage import Workspace
from headwater.core.store import hash_file
from headwater.tokens.codec import Codec, open_tokenizer, tricky_texts
from headwater.tokens.gguf import CUTS, UNUSED, end_of_text, metadata, read_tokenizer
from headwater.tokens.patterns import PATTERNS
from headwater.tokens.tokenizer import GgufTokenizer, tokenizer

TEXTS = (
    *tricky_texts(),
    "Costs 1234567 in 2026, don't they? Ça va,   naïve café\n\n\n\tx = f(3.14)  # ok",
    "١٢٣ Ⅻ ½ 한국어 ไทย",
)


def train(cut: str) -> tokenizers.Tokenizer:
    """A BPE of its own for each cut."""
    how = CUTS[cut]
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=how.whole))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if how.digits else []
    if cut == "gpt-2":
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False))  # as GPT-2's own tokenizer.json has it
    else:
        steps.append(pre_tokenizers.Split(Regex(how.pattern), "isolated"))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    if how.nfc:
        made.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(
        [tokenizers.__doc__ or "", *TEXTS, PATTERNS["llama3"], Workspace.__doc__ or ""] * 3, trainer
    )
    made.add_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<note>", normalized=False)])
    return made


def write(path: Path, words: dict[str, Any]) -> GgufFile:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in words.items():
        adders = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
        adders[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path)


def ids(made: tokenizers.Tokenizer) -> list[list[int]]:
    return [each.ids for each in made.encode_batch(list(TEXTS), add_special_tokens=False)]


@pytest.mark.parametrize("cut", CUTS)
def test_out_and_in_again_cuts_every_text_alike(tmp_path, cut):
    made = train(cut)
    words = metadata(made, made.get_vocab_size() + 5, "here")
    assert words["tokenizer.ggml.pre"] == cut
    assert words["tokenizer.ggml.token_type"][-5:] == [UNUSED] * 5
    again = read_tokenizer(write(tmp_path / "t.gguf", words))
    assert ids(again) == ids(made)
    assert again.get_vocab() == made.get_vocab()
    special = {token.content: token.special for token in again.get_added_tokens_decoder().values()}
    assert special == {"<|endoftext|>": True, "<|im_end|>": True, "<note>": False}
    assert again.encode("a<|im_end|>b").tokens == ["a", "<|im_end|>", "b"]


def test_each_cut_is_another(tmp_path):
    """The texts tell the cuts apart, so a wrong name would be found out.

    But for llama-bpe, which is smaug-bpe where merging leads to every token, as it does in a tokenizer trained here.
    """
    made = train("smaug-bpe")
    words = metadata(made, made.get_vocab_size(), "here")
    found = {
        cut: ids(read_tokenizer(write(tmp_path / f"{cut}.gguf", words | {"tokenizer.ggml.pre": cut}))) for cut in CUTS
    }
    for cut in sorted(CUTS.keys() - {"smaug-bpe", "llama-bpe"}):
        assert found[cut] != found["smaug-bpe"], cut


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokenizer.ggml.model": "llama"}, "its tokenizer is of the kind 'llama'; only byte-level BPE"),
        ({"tokenizer.ggml.model": None}, "of the kind 'none'"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "cuts text by 'deepseek-llm'; known are .*gpt-2, llama-bpe"),
        ({"tokenizer.ggml.pre": None}, "cuts text by 'default'"),
        ({"tokenizer.ggml.merges": None}, "there is no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["no such"]}, "its tokenizer is damaged"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, changes, problem):
    made = train("gpt-2")
    words = {key: value for key, value in (metadata(made, 602, "x") | changes).items() if value is not None}
    with pytest.raises(MismatchError, match=problem):
        read_tokenizer(write(tmp_path / "t.gguf", words))


def test_what_llama_cpp_has_no_name_for_is_not_written(trained: Path):
    made = train("gpt-2")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(MismatchError, match=r"here: cuts text in a way that llama\.cpp has no name for"):
        metadata(made, 602, "here")
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(MismatchError, match="is not a byte-level BPE"):
        metadata(words, 1, "here")
    assert (
        metadata(open_tokenizer(trained / "tokenizer" / "tokenizer.json"), 2000, "x")["tokenizer.ggml.pre"]
        == "smaug-bpe"
    )


def test_the_stage_takes_the_tokenizer_of_a_file(tmp_path: Path, documents: Path, out: Workspace):
    made = train("smollm")
    words = metadata(made, made.get_vocab_size(), "x") | {"tokenizer.ggml.eos_token_id": made.token_to_id("<|im_end|>")}
    file = write(tmp_path / "model.gguf", words)
    assert end_of_text(file) == "<|im_end|>"
    counts = tokenizer(GgufTokenizer(use="gguf", path=str(file.path)), {"documents": documents}, out)
    assert counts["separator"] == "<|im_end|>"
    settings = GgufTokenizer(use="gguf", path=str(file.path), separator="<|endoftext|>")
    counts = tokenizer(settings, {"documents": documents}, out)
    assert (counts["separator"], counts["vocab_size"]) == ("<|endoftext|>", made.get_vocab_size())
    codec = Codec(out.folder / "tokenizer")
    assert all(np.array_equal(a, b) for a, b in zip(codec.encode(TEXTS), ids(made), strict=True))
    assert settings.fingerprint(hash_file) == hash_file(file.path)
    with pytest.raises(InputError, match="there is no such file"):
        GgufTokenizer(use="gguf", path=str(tmp_path / "nowhere.gguf")).fingerprint(hash_file)

"""Rows of another vocabulary: tokens that both know keep theirs, new ones are made of their pieces."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from headwater.core.errors import InputError, MismatchError
from headwater.model import checkpoint, hf
from headwater.model.config import CheckpointWeights, HuggingFaceWeights
from headwater.model.initialize import initialize
from headwater.model.rows import with_rows
from headwater.model.vocabulary import Vocabulary, byte_signs, spell

END = "<|endoftext|>"


def byte_level(folder: Path, texts: list[str], size: int, special: str = END) -> Path:
    """Write a tokenizer folder: a byte-level BPE trained on texts."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[special], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return _write(folder, made, special)


def like_llama(folder: Path, words: list[str]) -> Path:
    """Write a tokenizer folder of the kind that sentencepiece makes: letters, some words, a token for each byte."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghinorstuvwxy"]
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            names.append(word[:end])
            merges.append((word[: end - 1], word[end - 1]))
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return _write(folder, made, "</s>")


def _write(folder: Path, made: tokenizers.Tokenizer, special: str) -> Path:
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": special}))
    return folder


def opened(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def spelled(old: Path, new: Path, old_separator: str | None = END, new_separator: str = END):
    return spell(old / "tokenizer.json", new / "tokenizer.json", old_separator, new_separator)


KOREAN = ["강물은 산에서 바다로 흐른다. 강물은 깊다. 산은 높고 강물은 맑다."] * 3
ENGLISH = ["the river runs from the mountain to the sea, and the river is deep"] * 3


def test_rows_of_one_token_in_both_are_copied_and_others_are_means(make_model, tmp_path):
    old = byte_level(tmp_path / "old", ENGLISH, 280)
    new = byte_level(tmp_path / "new", KOREAN + ENGLISH, 320)
    before, after = opened(old), opened(new)
    found = spelled(old, new)
    source = make_model(vocab_size=280, tie_embeddings=False)
    model = with_rows(source, found, "first")
    assert model.config.vocab_size == 320
    signs = {sign: byte for byte, sign in byte_signs().items()}
    new_ones = 0
    for name, number in after.get_vocab().items():
        same = before.token_to_id(name)
        if same is not None:
            assert found.shared[number]
            assert torch.equal(model.embedding.weight[number], source.embedding.weight[same])
            assert torch.equal(model.head.weight[number], source.head.weight[same])
            continue
        pieces = list(found.pieces[number])
        assert len(pieces) > 1
        spelled_bytes = bytes(signs[sign] for piece in pieces for sign in before.id_to_token(piece))
        assert spelled_bytes == bytes(signs[sign] for sign in name)
        assert torch.allclose(model.embedding.weight[number], source.embedding.weight[pieces].mean(0), atol=1e-6)
        assert torch.equal(model.head.weight[number], source.head.weight[pieces[0]])
        new_ones += 1
    assert found.counts == {"shared": 320 - new_ones, "new": new_ones, "gone": 280 - (320 - new_ones)}
    means = with_rows(source, found, "mean")
    token = next(number for number, same in enumerate(found.shared) if not same)
    assert torch.allclose(means.head.weight[token], source.head.weight[list(found.pieces[token])].mean(0), atol=1e-6)


def test_new_tokens_are_spelled_as_the_old_tokenizer_spells_them(tmp_path):
    old = byte_level(tmp_path / "old", ENGLISH, 300)
    new = byte_level(tmp_path / "new", ["mountainriver mountainriver"] * 3, 290)
    found = spelled(old, new)
    number = opened(new).token_to_id("mountainriver")
    assert list(found.pieces[number]) == [token.id for token in opened(old).model.tokenize("mountainriver")]
    assert len(found.pieces[number]) < len("mountainriver")


def test_separators_correspond_whatever_they_are_called(tmp_path):
    old = byte_level(tmp_path / "old", ENGLISH, 280, special="</s>")
    new = byte_level(tmp_path / "new", ENGLISH, 280)
    found = spelled(old, new, "</s>")
    assert list(found.pieces[opened(new).token_to_id(END)]) == [opened(old).token_to_id("</s>")]
    found = spelled(old, new, None)  # without one it is spelled like any text
    assert len(found.pieces[opened(new).token_to_id(END)]) > 1


def test_between_two_kinds_of_tokenizer_what_counts_is_the_text(tmp_path):
    old = like_llama(tmp_path / "old", ["▁the", "▁river"])
    new = byte_level(tmp_path / "new", ENGLISH + KOREAN, 330)
    before, after = opened(old), opened(new)
    found = spelled(old, new, "</s>")
    assert list(found.pieces[after.token_to_id("Ġthe")]) == [before.token_to_id("▁the")]
    assert list(found.pieces[after.token_to_id("a")]) == [before.token_to_id("a")], "the letter, not the byte"
    assert list(found.pieces[after.token_to_id("Ġ")]) == [before.token_to_id("▁")]
    river = "강물은"
    number = after.encode(river).ids
    pieces = [before.id_to_token(piece) for token in number for piece in found.pieces[token]]
    assert pieces == [f"<0x{byte:02X}>" for byte in river.encode()]
    assert list(found.pieces[after.token_to_id(END)]) == [before.token_to_id("</s>")]


def test_the_byte_and_the_letter_of_it_keep_their_own_rows(tmp_path):
    old = like_llama(tmp_path / "old", ["▁the"])
    new = like_llama(tmp_path / "new", ["▁the", "▁sea"])
    found = spelled(old, new, "</s>", "</s>")
    for name in ("<0x61>", "a", "▁the", "<unk>", "</s>"):
        assert list(found.pieces[opened(new).token_to_id(name)]) == [opened(old).token_to_id(name)]
    assert [opened(old).id_to_token(n) for n in found.pieces[opened(new).token_to_id("▁sea")]] == ["▁", "s", "e", "a"]


def test_tokens_that_cannot_be_spelled_or_read_are_refused(tmp_path):
    whole = byte_level(tmp_path / "whole", ENGLISH, 300)
    values = json.loads((whole / "tokenizer.json").read_text())
    removed = values["model"]["vocab"].pop("Å")  # the sign of one byte
    assert isinstance(removed, int)
    poor = tmp_path / "poor"
    poor.mkdir()
    (poor / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(MismatchError, match=re.escape("the tokenizer of the source cannot spell b'\\xc5'")):
        spelled(poor, whole)
    pieces = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    _write(tmp_path / "pieces", pieces, "a")
    with pytest.raises(MismatchError, match=r"its tokens \(WordPiece\) cannot be read as bytes"):
        spelled(tmp_path / "pieces", whole)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="is not a tokenizer"):
        spelled(tmp_path / "broken", whole)


def test_a_model_without_rows_for_its_tokenizer_is_refused(make_model, tmp_path):
    old = byte_level(tmp_path / "old", ENGLISH, 290)
    new = byte_level(tmp_path / "new", ENGLISH, 280)
    with pytest.raises(MismatchError, match=r"token 2\d\d of the source's tokenizer has no row in a model with 270"):
        with_rows(make_model(vocab_size=270), spelled(old, new), "first")


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_begins_with_the_rows_of_the_run_s_tokenizer(inputs, out, make_model, tmp_path, monkeypatch, tied):
    told: list[str] = []
    monkeypatch.setattr(out, "note", told.append)
    own = byte_level(tmp_path / "own", ENGLISH, 280)
    source = make_model(vocab_size=280, tie_embeddings=tied)
    hf.write_folder(tmp_path / "given", source, own)
    settings = HuggingFaceWeights(use="huggingface", path=tmp_path / "given", vocabulary=Vocabulary(use="means"))
    assert "tokenizer.json" in settings.fingerprint(lambda path: path.name)
    counts = initialize(settings, inputs, out)
    facts = counts["vocabulary"]
    assert facts["shared"] + facts["new"] == 300
    assert facts["shared"] + facts["gone"] == 280
    assert facts["logits_apart"] < 1e-5
    assert facts["fertility"]["library"]["after"] > facts["fertility"]["library"]["before"] > 1
    assert facts["bits_per_byte_before"] > 0
    model, _ = checkpoint.load_model(out.folder / "checkpoint")
    expected = with_rows(source, spelled(own, inputs["tokenizer"] / "tokenizer"), "first")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert any(line.startswith("vocabulary of 280 tokens to one of 300: ") for line in told)


def test_a_checkpoint_must_say_which_tokenizer_it_has(inputs, out, make_model, tmp_path):
    checkpoint.save(tmp_path / "given", make_model(vocab_size=280), 7)
    own = byte_level(tmp_path / "own", ENGLISH, 280)
    missing = CheckpointWeights(use="checkpoint", path=tmp_path / "given", vocabulary=Vocabulary(use="means"))
    with pytest.raises(InputError, match=r"no tokenizer\.json of the source here; hint: set vocabulary\.tokenizer"):
        initialize(missing, inputs, out)
    nowhere = missing.model_copy(update={"vocabulary": Vocabulary(use="means", tokenizer=tmp_path / "nowhere")})
    with pytest.raises(
        InputError, match=r"nowhere: there is no tokenizer\.json here; hint: check vocabulary\.tokenizer"
    ):
        nowhere.fingerprint(str)
    settings = missing.model_copy(update={"vocabulary": Vocabulary(use="means", tokenizer=own)})
    counts = initialize(settings, inputs, out)
    assert counts["vocabulary"]["shared"] >= 257
    assert counts["step_in_source"] == 7


def test_a_checkpoint_has_the_tokenizer_that_the_run_s_is_made_of(inputs, out, make_model, tmp_path):
    """What `tokenizer: {use: extend}` begins with is in `base/`."""
    stage = tmp_path / "stage"
    byte_level(stage / "base", ENGLISH, 280)
    shutil.copytree(inputs["tokenizer"] / "tokenizer", stage / "tokenizer")
    checkpoint.save(tmp_path / "given", make_model(vocab_size=280), 7)
    settings = CheckpointWeights(use="checkpoint", path=tmp_path / "given", vocabulary=Vocabulary(use="means"))
    assert set(settings.fingerprint(lambda path: path.name)) == {"model.json", "weights.safetensors"}
    counts = initialize(settings, {**inputs, "tokenizer": stage}, out)
    assert counts["vocabulary"]["shared"] + counts["vocabulary"]["gone"] == 280


def test_another_tokenizer_of_the_same_size_is_noticed(inputs, out, make_model, tmp_path):
    """As many rows as tokens is not enough: the rows would be those of other tokens."""
    own = byte_level(tmp_path / "own", ENGLISH, 300)
    hf.write_folder(tmp_path / "given", make_model(), own)
    with pytest.raises(MismatchError, match=r"in the run's tokenizer and (has id|is no token)") as caught:
        initialize(HuggingFaceWeights(use="huggingface", path=tmp_path / "given"), inputs, out)
    assert "vocabulary: {use: means}" in caught.value.hint

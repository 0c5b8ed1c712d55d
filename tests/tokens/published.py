"""Published tokenizers out of the files in which they were published, and small ones of every style, for comparisons."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import zstandard
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "llama3": LLAMA3,
    "qwen2": LLAMA3.replace("{1,3}", ""),
    "nanochat": LLAMA3.replace("{1,3}", "{1,2}"),
}
STYLES = ("gpt2", "digits", *PATTERNS, "metaspace", "unigram")


def gpt2(data: Path) -> Tokenizer:
    """GPT-2's, from its encoder.json and vocab.bpe."""
    packed = (data / "tokenizers" / name for name in ("gpt2-encoder.json.zst", "gpt2-vocab.bpe.zst"))
    vocabulary, merges = (
        zstandard.ZstdDecompressor().stream_reader(file.read_bytes()).read().decode() for file in packed
    )
    pairs = [tuple(line.split()) for line in merges.splitlines()[1:] if line]
    return _byte_level(Tokenizer(models.BPE(json.loads(vocabulary), pairs)), "gpt2")


def sentencepiece(file: Path) -> Tokenizer:
    """A Llama or Mistral tokenizer from its tokenizer.model, as transformers converts it."""
    pieces = list(_pieces(file.read_bytes()))
    ids = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    merges = []
    for piece, score, kind in pieces:
        if kind == 1:
            pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            known = sorted(
                (pair for pair in pairs if pair[0] in ids and pair[1] in ids), key=lambda p: [ids[s] for s in p]
            )
            merges += [(score, pair) for pair in known]
    merges.sort(key=lambda merge: -merge[0])
    model = models.BPE(ids, [pair for _, pair in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return _with_metaspace(Tokenizer(model))


def small(style: str, texts: list[str]) -> Tokenizer:
    """A tokenizer of a style, trained on texts; a vocabulary of 600."""
    special = ["<unk>", "</s>"]
    if style == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    elif style == "metaspace":
        made = _with_metaspace(Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)))
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    else:
        made = _byte_level(Tokenizer(models.BPE()), style)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    made.train_from_iterator(texts, trainer)
    return made


def save(made: Tokenizer, folder: Path, separator: str) -> Path:
    """Write a tokenizer folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made.add_special_tokens([separator])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": separator}))
    return folder


def _byte_level(made: Tokenizer, style: str) -> Tokenizer:
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if style == "digits":  # as SmolLM2
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    elif style in PATTERNS:
        cut = pre_tokenizers.Split(Regex(PATTERNS[style]), "isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([cut, plain])
    else:
        made.pre_tokenizer = whole
    if style == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    return made


def _with_metaspace(made: Tokenizer) -> Tokenizer:
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(spaces)
    return made


def _pieces(data: bytes) -> Iterator[tuple[str, float, int]]:
    """Text, score and kind of each piece of a SentencePiece model, which is a protocol buffer."""
    for field, body in _fields(data):
        if field == 1:
            piece = dict(_fields(body))
            yield piece[1].decode(), struct.unpack("<f", piece[2])[0], int.from_bytes(piece.get(3, b"\1"), "little")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        start = at
        size, at = _number(data, at) if key & 7 in (0, 2) else (0, at)
        match key & 7:
            case 0:
                yield key >> 3, data[start:at]
                continue
            case 2:
                pass
            case kind:
                size = {1: 8, 5: 4}[kind]
        yield key >> 3, data[at : at + size]
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at

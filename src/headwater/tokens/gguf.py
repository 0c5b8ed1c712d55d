"""Tokenizers to and from the metadata of a GGUF file: byte-level BPE, as GPT-2, Llama 3, SmolLM2 and Qwen have."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from headwater.core.errors import MismatchError
from headwater.core.gguf import GgufFile
from headwater.tokens.patterns import PATTERNS

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens. Source: llama.cpp, enum llama_token_type."""


class Cut(NamedTuple):
    """How text is cut into pieces before merging."""

    pattern: str
    digits: bool = False
    """Cut each digit off first."""
    whole: bool = False
    """Take a piece that is a token of the vocabulary as it is, without merging."""
    nfc: bool = False
    """Bring the text into Unicode's normal form C first."""


_QWEN = PATTERNS["llama3"].replace(r"\p{N}{1,3}", r"\p{N}")
CUTS = {
    "gpt-2": Cut(PATTERNS["gpt2"]),
    "smollm": Cut(PATTERNS["gpt2"], digits=True),
    "llama-bpe": Cut(PATTERNS["llama3"], whole=True),
    "smaug-bpe": Cut(PATTERNS["llama3"]),
    "qwen2": Cut(_QWEN, nfc=True),
}
"""Name of the cut in `tokenizer.ggml.pre` -> what it does. Source: llama.cpp, src/llama-vocab.cpp; the normal form from the
tokenizer.json of Qwen 2 and 3, which llama.cpp leaves to its caller."""
_SAME = {
    **dict.fromkeys(("llama3", "llama-v3", "falcon3"), "llama-bpe"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell"), "smollm"),
    **dict.fromkeys(("phi-2", "olmo", "mpt", "exaone4"), "gpt-2"),
    "dbrx": "smaug-bpe",
    "deepseek-r1-qwen": "qwen2",
}
"""Other names of the same cuts. Source: as above."""


def read_tokenizer(file: GgufFile) -> tokenizers.Tokenizer:
    """The tokenizer inside a GGUF file.

    Raises:
        MismatchError: it has none, or one of a kind that is not read here; names the kinds that are.
    """
    place, hint = str(file.path), "take the tokenizer.json of the same model with use: folder"
    kind = file.get("tokenizer.ggml.model", "none")
    if kind != "gpt2":
        problem = f"its tokenizer is of the kind '{kind}'; only byte-level BPE ('gpt2') is read"
        raise MismatchError(problem, place=place, hint=hint)
    name: str = file.get("tokenizer.ggml.pre", "default")
    cut = CUTS.get(_SAME.get(name, name))
    if cut is None:
        problem = f"its tokenizer cuts text by '{name}'; known are {', '.join(sorted({*CUTS, *_SAME}))}"
        raise MismatchError(problem, place=place, hint=hint)
    tokens: list[str] = file.need("tokenizer.ggml.tokens")
    kinds: list[int] = file.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    merges = [tuple(merge.split(" ", 1)) for merge in file.need("tokenizer.ggml.merges")]
    vocabulary = {token: row for row, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED}
    try:
        made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=cut.whole))
    except Exception as error:  # tokenizers raises bare Exception
        raise MismatchError(f"its tokenizer is damaged ({error})", place=place, hint=hint) from None
    if cut.nfc:
        made.normalizer = normalizers.NFC()
    first = [pre_tokenizers.Digits(individual_digits=True)] if cut.digits else []
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *first,
            pre_tokenizers.Split(Regex(cut.pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (CONTROL, USER_DEFINED):
            made.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False)])
    return made


def end_of_text(file: GgufFile) -> str | None:
    """The token that the file names as the end of a text, if it names one."""
    row = file.get("tokenizer.ggml.eos_token_id")
    tokens = file.get("tokenizer.ggml.tokens") or []
    return tokens[row] if row is not None and row < len(tokens) else None


def metadata(made: tokenizers.Tokenizer, rows: int, place: str) -> dict[str, Any]:
    """What a GGUF file must say of a tokenizer, by key.

    Args:
        made: the tokenizer.
        rows: rows of the model; those that no token uses are filled with unused tokens.
        place: where the tokenizer is, for an error.

    Raises:
        MismatchError: llama.cpp has no cut that does what this tokenizer does.
    """
    form = json.loads(made.to_str())
    model = form["model"]
    if model["type"] != "BPE" or model.get("byte_fallback") or (form["decoder"] or {}).get("type") != "ByteLevel":
        problem = "is not a byte-level BPE, the only kind that is written to GGUF"
        raise MismatchError(problem, place=place, hint="export with --to huggingface, and convert that with llama.cpp")
    by_row = {row: token for token, row in made.get_vocab(with_added_tokens=True).items()}
    added = {row: CONTROL if token.special else USER_DEFINED for row, token in made.get_added_tokens_decoder().items()}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _name_of_cut(form, place),
        "tokenizer.ggml.tokens": [by_row.get(row, f"[PAD{row}]") for row in range(rows)],
        "tokenizer.ggml.token_type": [added.get(row, NORMAL) if row in by_row else UNUSED for row in range(rows)],
        "tokenizer.ggml.merges": merges,
    }


def _name_of_cut(form: dict[str, Any], place: str) -> str:
    """The name under which llama.cpp does what the pre-tokenizer of a tokenizer.json does."""
    steps = form["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    digits = bool(steps) and steps[0] == {"type": "Digits", "individual_digits": True}
    steps = steps[1:] if digits else steps
    pattern = None
    if len(steps) == 2 and steps[0].get("type") == "Split" and steps[0]["behavior"] == "Isolated":
        pattern = steps[0]["pattern"].get("Regex")
    byte_level = bool(steps) and steps[-1].get("type") == "ByteLevel" and not steps[-1]["add_prefix_space"]
    if len(steps) == 1 and byte_level and steps[0]["use_regex"]:
        pattern = PATTERNS["gpt2"]
    nfc = (form["normalizer"] or {}).get("type") == "NFC"
    found = Cut(pattern or "", digits, bool(form["model"].get("ignore_merges")), nfc)
    for name, cut in CUTS.items():
        if byte_level and cut == found and (nfc or form["normalizer"] is None):
            return name
    problem = "cuts text in a way that llama.cpp has no name for"
    raise MismatchError(problem, place=place, hint="export with --to huggingface, which keeps any tokenizer")

"""From one vocabulary to another: which rows of a model each token of a new tokenizer is made of. No torch here.

tokens of the same text      the row is copied
a token that is new          the old tokenizer spells it; its row is made of the rows of the pieces
a token that is gone         its row goes
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tokenizers

from headwater.core.config import Config
from headwater.core.errors import InputError, MismatchError
from headwater.model.calibration import Calibration

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary(Config):
    """Give a model the rows of another tokenizer: tokens that both know keep theirs, new ones begin as their pieces.

    Source: Kim et al. 2024, EEVE (arXiv:2402.14714), section 3: the embedding of a new token is the mean of those of its
    pieces under the old tokenizer, its row of the output head that of the first piece.
    """

    use: Literal["means"]
    """`means`: new rows from the rows of their pieces."""
    tokenizer: Path | None = None
    """The tokenizer of the source: a tokenizer.json or a folder that holds one. Default: the one in the source's folder;
    where there is none, the one that the run's tokenizer is made of (`tokenizer: {use: extend}`)."""
    head: Literal["first", "mean"] = "first"
    """Rows of the output head of new tokens: that of the first piece, which is what the model would have begun to write, or
    the mean of all. No effect with tied embeddings, where the one matrix takes the mean."""
    calibration: Calibration = Calibration()
    """The text on which the losses before and after are compared."""

    def file(self, source: Path, base: Path) -> Path:
        """The tokenizer.json of a source.

        Args:
            source: folder or file of the model.
            base: folder of the tokenizer that the run's is made of, if it is.

        Raises:
            InputError: there is none.
        """
        if (named := self._named(source)) is not None:
            return named
        if (base / "tokenizer.json").is_file():
            return base / "tokenizer.json"
        hint = "set vocabulary.tokenizer to the tokenizer that the model was trained with"
        raise InputError("there is no tokenizer.json of the source here", place=str(source), hint=hint)

    def fingerprint(self, source: Path, hash_file: Callable[[Path], str]) -> dict[str, str]:
        """The content of the source's tokenizer, as far as it is not part of the run.

        Raises:
            InputError: there is none where it is said to be.
        """
        named = self._named(source)
        found = {} if named is None else {"tokenizer.json": hash_file(named)}
        return {**found, **self.calibration.fingerprint(hash_file)}

    def _named(self, source: Path) -> Path | None:
        if self.tokenizer is None:
            return source / "tokenizer.json" if (source / "tokenizer.json").is_file() else None
        path = self.tokenizer.expanduser()
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise InputError("there is no tokenizer.json here", place=str(path), hint="check vocabulary.tokenizer")
        return file


@dataclass(frozen=True)
class Spelling:
    """What each token of a new tokenizer is in the ids of an old one.

    Attributes:
        pieces: for each new id, the old ids that spell it; empty for an id that no token has.
        shared: for each new id, whether it is one and the same token in both.
        old_tokens: tokens of the old tokenizer.
    """

    pieces: Sequence[Sequence[int]]
    shared: Sequence[bool]
    old_tokens: int

    @property
    def counts(self) -> dict[str, int]:
        """Tokens that stay, are new, and are gone."""
        tokens, same = sum(map(bool, self.pieces)), sum(self.shared)
        return {"shared": same, "new": tokens - same, "gone": self.old_tokens - same}


def spell(old_file: Path, new_file: Path, old_separator: str | None, new_separator: str) -> Spelling:
    """Find out for each token of a new tokenizer what it is in an old one.

    Args:
        old_file: tokenizer.json of the source.
        new_file: tokenizer.json of the run.
        old_separator: token that separates documents in the old one; None where it is not known.
        new_separator: the same in the new one. Separators correspond, whatever they are called.

    Raises:
        InputError: a file is no tokenizer.
        MismatchError: a tokenizer is of a kind whose tokens cannot be read as bytes, or the old one cannot spell a token.
    """
    old, new = _Reader(old_file), _Reader(new_file)
    known = {text: number for number, text in old.tokens.items() if text is not None}
    by_name = {name: number for number, name in old.names.items()}
    pieces: list[list[int]] = [[] for _ in range(max(new.tokens) + 1)]
    shared = [False] * len(pieces)
    for number, text in new.tokens.items():
        name = old_separator if new.names[number] == new_separator and old_separator is not None else new.names[number]
        if text is None:
            same = old.specials.get(name)
        else:  # one text may have two tokens: a letter, and the byte of it
            named = by_name.get(name)
            same = named if named is not None and old.tokens[named] == text else known.get(text)
        if same is not None:
            pieces[number], shared[number] = [same], True
        else:
            spelled = new.names[number].encode() if text is None else text
            pieces[number] = old.spell(spelled)
    return Spelling(pieces, shared, len(old.tokens))


class _Reader:
    """A tokenizer whose tokens are read as bytes: byte-level, or of words that begin with the sign of a space.

    Attributes:
        names: id -> how tokenizer.json writes the token.
        specials: name -> id of tokens that stand for no text.
        tokens: id -> bytes of the text that it stands for; None for specials.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"is not a tokenizer ({error})", place=str(file), hint="check the path") from None
        self._place = str(file)
        values = json.loads(file.read_text(encoding="utf-8"))
        self._byte_level = "ByteLevel" in _kinds(values.get("pre_tokenizer")) | _kinds(values.get("decoder"))
        if values["model"].get("type") not in ("BPE", "Unigram") or values["model"].get("continuing_subword_prefix"):
            problem = f"its tokens ({values['model'].get('type')}) cannot be read as bytes of text"
            hint = "vocabulary surgery knows byte-level BPE, and BPE or Unigram as sentencepiece makes them"
            raise MismatchError(problem, place=self._place, hint=hint)
        self.names = {number: name for name, number in self._tokenizer.get_vocab(with_added_tokens=True).items()}
        self.specials = {added["content"]: added["id"] for added in values.get("added_tokens", []) if added["special"]}
        plain = {added["id"] for added in values.get("added_tokens", [])}  # written as text, not as signs of bytes
        special = set(self.specials.values())
        if (unknown := values["model"].get("unk_token")) is not None:
            special.add(self._tokenizer.token_to_id(unknown))
            self.specials.setdefault(unknown, self._tokenizer.token_to_id(unknown))
        self.tokens = {
            number: None if number in special else (name.encode() if number in plain else self._bytes(name))
            for number, name in sorted(self.names.items())
        }

    def spell(self, text: bytes) -> list[int]:
        """The ids that this tokenizer's merges make of some bytes, at least one.

        Raises:
            MismatchError: it has no tokens for them.
        """
        if self._byte_level:
            written = "".join(byte_signs()[byte] for byte in text)
            return self._pieces(written, text)
        try:
            return self._pieces(text.decode().replace(" ", "▁"), text)
        except UnicodeDecodeError:  # a part of a character: byte by byte
            return [piece for byte in text for piece in self._pieces(f"<0x{byte:02X}>", text)]

    def _pieces(self, written: str, text: bytes) -> list[int]:
        whole = self._tokenizer.token_to_id(written)
        found = [whole] if whole is not None else [token.id for token in self._tokenizer.model.tokenize(written)]
        unknown = found and any(number in self.specials.values() for number in found)
        if not found or unknown:
            problem = f"the tokenizer of the source cannot spell {text!r}"
            raise MismatchError(problem, place=self._place, hint="it lacks tokens for single bytes")
        return found

    def _bytes(self, name: str) -> bytes:
        if self._byte_level:
            signs = sign_bytes()
            return bytes(signs[sign] for sign in name) if all(sign in signs for sign in name) else name.encode()
        byte = _BYTE_TOKEN.fullmatch(name)
        return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode()


@cache
def byte_signs() -> dict[int, str]:
    """Byte -> the sign that stands for it in byte-level vocabularies. Source: GPT-2's encoder.py, bytes_to_unicode."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


@cache
def sign_bytes() -> dict[str, int]:
    """The reverse of `byte_signs`."""
    return {sign: byte for byte, sign in byte_signs().items()}


def _kinds(part: Any) -> set[str]:
    """Types of a pre-tokenizer or decoder and of all inside it."""
    if isinstance(part, dict):
        return {part.get("type", "")} | {kind for inner in part.values() for kind in _kinds(inner)}
    return {kind for inner in part for kind in _kinds(inner)} if isinstance(part, list) else set()

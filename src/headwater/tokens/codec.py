"""A finished tokenizer at work: text to token ids and back.

The reference is Hugging Face `tokenizers`. Where gigatoken is installed and understands the tokenizer it encodes 20 to
100 times faster; it is used only after its ids were equal to the reference's on strings made to tell them apart, some of
them of the tokenizer's own tokens, and `encode` compares the first documents of every shard again. Text that spells a special token is text, never that token.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from headwater.core.errors import InputError, MismatchError
from headwater.core.store import hash_file, read_json

_HUGGING_FACE_BATCH_CHARACTERS = 1 << 20  # of text at a time: an Encoding takes about 100 bytes for each character


class Codec:
    """A tokenizer folder, opened.

    Attributes:
        separator: the token that stands before each document.
        separator_id: its id.
        vocab_size: one more than the largest id.
        sha256: SHA-256 of its tokenizer.json.
        reference: the same tokenizer in Hugging Face's software.
        fallback: why gigatoken does not encode; None when it does.
        compared: texts on which it was compared with the reference.
    """

    def __init__(self, folder: Path, *, fast: bool = True) -> None:
        """Open a tokenizer.

        Args:
            folder: holds tokenizer.json and tokenizer_config.json.
            fast: use gigatoken where it agrees.

        Raises:
            InputError: the folder holds no tokenizer.
            MismatchError: it names no separator.
        """
        path = folder / "tokenizer.json"
        self.folder = folder
        self.reference = open_tokenizer(path)
        token = read_json(folder / "tokenizer_config.json").get("eos_token")
        self.separator = str(token["content"] if isinstance(token, dict) else token)
        found = self.reference.token_to_id(self.separator)
        if found is None:
            hint = "name one of its tokens as eos_token in tokenizer_config.json"
            raise MismatchError("the tokenizer names no separator token", place=str(folder), hint=hint)
        self.separator_id = found
        self.vocab_size = vocabulary_size(self.reference)
        self.sha256 = hash_file(path)
        special = [token.content for token in self.reference.get_added_tokens_decoder().values() if token.special]
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        self._gigatoken, self.fallback = _open_gigatoken(path) if fast else (None, "it was not asked for")
        self.compared = 0
        if self._gigatoken is not None:
            texts = (*tricky_texts(), *self._texts_of_tokens())
            self.compared = len(texts)
            if found := self.disagreement(texts):
                self._gigatoken, self.fallback = None, f"its ids are not those of Hugging Face's software on {found!r}"

    @property
    def fast(self) -> bool:
        """Whether gigatoken encodes."""
        return self._gigatoken is not None

    def encode(self, texts: Sequence[str], threads: int = 1) -> list[np.ndarray]:
        """The token ids of each text, without separators or other special tokens.

        Args:
            texts: any text; what spells a special token is encoded letter by letter.
            threads: use one, or as many as there are processor cores.
        """
        if self._gigatoken is None:
            return self._encode_by_reference(texts, threads)
        plain = [not self._special.search(text) for text in texts]
        inputs = [text for text, easy in zip(texts, plain, strict=True) if easy]
        fast = iter(_split(self._gigatoken.encode_batch(inputs, parallel=threads > 1), len(inputs)))
        return [
            next(fast) if easy else self._encode_by_reference([text], 1)[0]
            for text, easy in zip(texts, plain, strict=True)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special tokens included."""
        return self.reference.decode(list(map(int, ids)), skip_special_tokens=False)

    def disagreement(self, texts: Sequence[str]) -> str | None:
        """The beginning of the first text for which the software that encodes gives other ids than the reference does."""
        for text, ours, theirs in zip(texts, self.encode(texts), self._encode_by_reference(texts, 1), strict=True):
            if not np.array_equal(ours, theirs):
                return text[:80]
        return None

    def _texts_of_tokens(self, count: int = 200) -> list[str]:
        """Texts in which this tokenizer's own tokens stand in neighbourhoods that no document has."""
        rng = random.Random(0)
        return [
            self.reference.decode([rng.randrange(self.vocab_size) for _ in range(rng.randint(1, 40))])
            for _ in range(count)
        ]

    def check_round_trip(self, texts: Sequence[str], place: str) -> int:
        """Make sure that no text is lost: decoding gives the text, or what the tokenizer itself normalises it to.

        Returns:
            How many texts the tokenizer changes by its own normaliser, such as Unicode NFC.

        Raises:
            MismatchError: names the first characters that are lost.
        """
        changed = 0
        for text, ids in zip(texts, self.encode(texts), strict=True):
            decoded = self.decode(ids)
            if decoded == text:
                continue
            normaliser = self.reference.normalizer
            if normaliser is None or decoded != normaliser.normalize_str(text):
                at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), len(decoded))
                problem = f"the tokenizer loses text: {text[at : at + 20]!r} comes back as {decoded[at : at + 20]!r}"
                hint = "use a tokenizer that can spell every byte, such as one trained with use: train_bpe"
                raise MismatchError(problem, place=place, hint=hint)
            changed += 1
        return changed

    def _encode_by_reference(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """Encode with Hugging Face's software, which uses threads for batches of more than one text."""
        encoded: list[np.ndarray] = []
        for batch in text_batches(texts, _HUGGING_FACE_BATCH_CHARACTERS if threads > 1 else 0):
            for encoding in self.reference.encode_batch_fast(batch, add_special_tokens=False):
                encoded.append(np.array(encoding.ids, np.uint32))  # noqa: PERF401
        return encoded


def open_tokenizer(path: Path) -> HuggingFaceTokenizer:
    """Open a tokenizer.json so that special tokens in a text are read as text.

    Raises:
        InputError: it is missing or not a tokenizer.
    """
    try:
        tokenizer = HuggingFaceTokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        problem = f"is not a tokenizer ({str(error).splitlines()[0]})" if path.is_file() else "there is no such file"
        hint = "give a folder with a tokenizer.json, such as transformers' save_pretrained writes"
        raise InputError(problem, place=str(path), hint=hint) from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def vocabulary_size(tokenizer: HuggingFaceTokenizer) -> int:
    """One more than the largest id of a tokenizer, which may leave ids unused."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


@functools.cache
def tricky_texts() -> tuple[str, ...]:
    """Texts on which two tokenizers that are not the same will differ.

    Every byte and every kind of character; runs of blanks, digits, capitals and punctuation in all neighbourhoods;
    contractions; lines that end in every way.
    """
    rng = random.Random(0)
    pieces = [
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        "\r\n",
        "\n\n",
        "\u00a0",
        "\u2003",
        "\u200b",
        "'s",
        "'LL",
        "'",
        "’re",
        "_",
        "--",
        "...",
        "://",
    ]
    pieces += [
        "a",
        "The",
        "ABC",
        "camelCase",
        "x1",
        "0",
        "12",
        "345",
        "6789",
        "1,000.5",
        "é",
        "e\u0301",
        "ß",
        "İ",
        "ǆ",
        "ﬁ",
    ]
    pieces += [
        "Привет",
        "한국어",
        "日本語",
        "ไทย",
        "हिन्दी",
        "العربية",
        "½",
        "²",
        "Ⅷ",
        "٣",
        "€",
        "🙂",
        "👨‍👩‍👧",
        "\U0001d4b3",
        "\x00",
        "\x7f",
        "\ufeff",
        "\ufffd",
    ]
    pieces += [
        "def f(x):\n    return x",
        "</a>",
        "{}",
        "[0]",
        "#",
        "\\n",
        "«",
        "»",
        "–",
        "…",
        "=",
        "==",
        "!=",
        "<|",
        "|>",
    ]
    mixed = ["".join(rng.choices(pieces, k=rng.randint(1, 24))) for _ in range(400)]
    ranges = [chr(code) for code in range(256)] + [chr(rng.randrange(256, 0xD800)) for _ in range(256)]
    return ("", *mixed, *pieces, "".join(ranges), *("".join(rng.choices(ranges, k=12)) for _ in range(100)))


def _open_gigatoken(path: Path) -> tuple[Any, str | None]:
    """The tokenizer in gigatoken, or why there is none: it is not installed, or does not understand the tokenizer."""
    try:
        import gigatoken  # slow to import, and an optional gain

        return gigatoken.Tokenizer.from_json(path.read_bytes()), None
    except ImportError:
        return None, "it is not installed (pip install gigatoken)"
    except (RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return None, f"it does not know this tokenizer ({said[0][:100]})"


def _split(array: Any, texts: int) -> list[np.ndarray]:
    """Cut gigatoken's ragged array, of one row for each text, into one array for each."""
    if not texts:
        return []
    import awkward

    lengths = awkward.to_numpy(awkward.num(array))
    return np.split(awkward.to_numpy(awkward.flatten(array)), np.cumsum(lengths)[:-1])


def text_batches(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Runs of texts of about so many characters; one by one for 0."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

"""Extend a byte-level BPE with merges learnt on the documents: for a language or a field that it spells badly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from pydantic import Field
from tokenizers import models, pre_tokenizers, trainers

from headwater.core.errors import InputError, MismatchError
from headwater.core.stage import Workspace
from headwater.core.units import Bytes, Count, format_bytes
from headwater.tokens.codec import Codec, text_batches
from headwater.tokens.existing import ExistingTokenizer
from headwater.tokens.sample import Sample
from headwater.tokens.shards import DOCUMENTS

_PLANE = 0x10000  # characters from here on stand for token ids: none of them is a blank or a surrogate
_BATCH_CHARACTERS = 1 << 20


class Extend(ExistingTokenizer):
    """Add tokens to an existing byte-level BPE: its own tokens keep their ids, new ones come after them.

    The base tokenizer encodes the text, and training goes on from there: the pairs of tokens that stand together most
    often are merged. New merges rank after all old ones, so a text is first encoded as before and then merged further.
    How text is cut before merging stays that of the base tokenizer.

    Source: the idea of Kim et al. 2024, EEVE (arXiv:2402.14714), section 3.1, which trains a second tokenizer and adds what
    is missing; merges that continue from the base need no search for how a token can be reached.
    """

    use: Literal["extend"]
    """`extend`: an existing tokenizer and new tokens."""
    new_tokens: Count = Field(ge=1)
    """How many."""
    min_frequency: int = Field(default=2, ge=1)
    """How often a pair must occur to be merged."""
    sample_bytes: Bytes = Field(default=10_000_000, gt=0)
    """How much text to train on. Documents are drawn by their ids, so the sample does not depend on their order."""
    weights: dict[str, float] | None = None
    """Share of each source in the sample; equal by default. New tokens are for the sources that have a weight here."""

    def __call__(
        self, base: Codec, documents: Path, out: Workspace
    ) -> tuple[tokenizers.Tokenizer, dict[str, int | float]]:
        """Extend a tokenizer.

        Args:
            base: the tokenizer.
            documents: a finished stage of documents.
            out: told how it goes.

        Returns:
            The new tokenizer, and what it gained.

        Raises:
            InputError: the text holds too few pairs for so many tokens.
            MismatchError: the tokenizer is no byte-level BPE.
        """
        values = byte_level_bpe(base.reference, self.path)
        sample = Sample(documents / DOCUMENTS, self.sample_bytes, self.weights)
        out.note(
            f"adding {self.new_tokens:,} tokens to {base.vocab_size:,}, trained on {format_bytes(sample.bytes)} of text"
        )
        names = {number: name for name, number in values["model"]["vocab"].items()}
        spare = 0
        while True:
            with out.progress("training new tokens", None, "documents") as bar:
                pairs = _frequent_pairs(base, sample, self.new_tokens + spare, self.min_frequency, bar.advance)
            merges, found = _merges(pairs, names, _added(values), self.new_tokens)
            if len(found) == self.new_tokens:
                break
            if len(pairs) < self.new_tokens + spare:
                raise InputError(
                    f"{self.new_tokens:,} new tokens need as many frequent pairs, but {format_bytes(sample.bytes)} of text "
                    f"hold only {len(found):,} that occur {self.min_frequency} times and are no tokens yet",
                    place="tokenizer.new_tokens",
                    hint=f"set new_tokens to {len(found):,} or less"
                    if found
                    else "give text that this tokenizer spells badly",
                )
            spare += 2 * (self.new_tokens - len(found))  # pairs that make a token which there is, in another way
        made = _extended(values, merges, found, base.vocab_size)
        used = _used(made, sample, base.vocab_size)
        out.note(f"{used:,} of {self.new_tokens:,} new tokens occur in the text that they were trained on")
        return made, {"new_tokens": self.new_tokens, "new_tokens_used": used}


def byte_level_bpe(tokenizer: tokenizers.Tokenizer, place: str) -> dict[str, Any]:
    """The content of a tokenizer.json, if it is that of a byte-level BPE.

    Raises:
        MismatchError: it is not.
    """
    values = json.loads(tokenizer.to_str())
    model = values["model"]
    kinds = json.dumps([values["pre_tokenizer"], values["decoder"]])
    affixes = [model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    if model["type"] == "BPE" and '"ByteLevel"' in kinds and not any(affixes):
        return values
    raise MismatchError(
        f"the tokenizer is not a byte-level BPE but {model['type']}, which cannot be extended or trimmed",
        place=place,
        hint="train a new one with use: train_bpe, and give the model its rows with initialize.vocabulary",
    )


def merge_pairs(values: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges of a tokenizer.json, which writes each as one text or as two."""
    parts = (merge.split(" ") if isinstance(merge, str) else merge for merge in values["model"]["merges"])
    return [(left, right) for left, right in parts]


def _added(values: dict[str, Any]) -> set[str]:
    return {token["content"] for token in values["added_tokens"]}


def _frequent_pairs(
    base: Codec, sample: Sample, count: int, min_frequency: int, advance: Callable[[], object]
) -> list[tuple[str, str]]:
    """Train a BPE on token ids instead of letters: its merges, in which characters from `_PLANE` on stand for ids."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=base.vocab_size + count,
        min_frequency=min_frequency,
        initial_alphabet=[chr(_PLANE + number) for number in range(base.vocab_size)],
        show_progress=False,
    )
    made.train_from_iterator(_as_characters(base.reference, sample.texts(advance)), trainer)
    return merge_pairs(json.loads(made.to_str()))


def _as_characters(tokenizer: tokenizers.Tokenizer, texts: Iterator[str]) -> Iterator[str]:
    """Each text as one character for each token, with a blank between the pieces that merges may not cross."""
    for batch in text_batches(texts, _BATCH_CHARACTERS):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            if not encoding.ids:
                continue
            characters = np.array(encoding.ids, "<u4") + _PLANE
            words = np.array([-1 if word is None else word for word in encoding.word_ids])
            cuts = np.flatnonzero(np.diff(words)) + 1
            yield np.insert(characters, cuts, ord(" ")).astype("<u4").tobytes().decode("utf-32-le")


def _merges(
    pairs: list[tuple[str, str]], names: dict[int, str], added: set[str], wanted: int
) -> tuple[list[tuple[str, str]], list[str]]:
    """Merges in the letters of the base vocabulary, and the tokens that they make, until there are enough.

    A pair may make a token that there is already, which the base reaches in another way: then it is a merge and no new
    token. A pair that makes what is a special token is left out with all that would be made of it: text never becomes one.
    """
    known, merges, found = set(names.values()), [], []
    left_out: set[str] = set()
    for pair in pairs:
        if len(found) == wanted:
            break
        left, right = ("".join(names[ord(sign) - _PLANE] for sign in part) for part in pair)
        if left in left_out or right in left_out or left + right in added:
            left_out.add(left + right)
            continue
        merges.append((left, right))
        if left + right not in known:
            known.add(left + right)
            found.append(left + right)
    return merges, found


def _extended(
    values: dict[str, Any], merges: list[tuple[str, str]], found: list[str], first: int
) -> tokenizers.Tokenizer:
    model = values["model"]
    old = set(merge_pairs(values))
    vocabulary = {**model["vocab"], **{name: first + place for place, name in enumerate(found)}}
    more = [list(merge) for merge in merges if merge not in old]
    changed = {**model, "vocab": vocabulary, "merges": [list(merge) for merge in merge_pairs(values)] + more}
    made = tokenizers.Tokenizer.from_str(json.dumps({**values, "model": changed}))
    made.encode_special_tokens = True
    return made


def _used(tokenizer: tokenizers.Tokenizer, sample: Sample, first: int) -> int:
    """How many tokens from id `first` on occur in the sample."""
    seen: set[int] = set()
    for batch in text_batches(sample.texts(), _BATCH_CHARACTERS):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            seen.update(number for number in encoding.ids if number >= first)
    return len(seen)

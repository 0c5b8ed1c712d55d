"""Trim a byte-level BPE to the tokens that the documents use: a large vocabulary costs a small model most of its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from pydantic import Field

from headwater.core.errors import EmptyResultError
from headwater.core.stage import Workspace
from headwater.core.units import Count
from headwater.documents.document import read_batches, shards_in
from headwater.tokens.codec import Codec
from headwater.tokens.existing import ExistingTokenizer
from headwater.tokens.extend import byte_level_bpe, merge_pairs
from headwater.tokens.shards import DOCUMENTS


class Trim(ExistingTokenizer):
    """Remove tokens that the training documents do not use; ids are given anew, in the old order.

    Bytes and special tokens stay, and so does whatever a token that stays is merged of. With `min_count: 1` the documents
    are encoded as before; text that needs a removed token is spelled with smaller ones.
    """

    use: Literal["trim"]
    """`trim`: an existing tokenizer without the tokens that are not used."""
    min_count: Count = Field(default=1, ge=1)
    """Occurrences in the training documents below which a token goes."""

    def __call__(self, base: Codec, documents: Path, out: Workspace) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
        """Trim a tokenizer.

        Args:
            base: the tokenizer.
            documents: a finished stage of documents.
            out: told how it goes.

        Returns:
            The new tokenizer, and how many tokens went.

        Raises:
            EmptyResultError: there are no documents.
            MismatchError: the tokenizer is no byte-level BPE.
        """
        values = byte_level_bpe(base.reference, self.path)
        counts = _count(base, documents / DOCUMENTS, out)
        tokens = len(base.reference.get_vocab(with_added_tokens=True))
        kept = _kept(values, counts >= self.min_count) | {base.separator}
        made = _trimmed(values, kept)
        gone = tokens - len(made.get_vocab(with_added_tokens=True))
        out.note(f"{gone:,} of {tokens:,} tokens are removed: they, and all that is merged of them, are too seldom")
        if not gone:
            out.warn("tokenizer: every token is frequent enough or part of one that is; nothing was trimmed")
        return made, {"trimmed_tokens": gone}


def _count(base: Codec, folder: Path, out: Workspace) -> np.ndarray:
    """How often each token occurs in the documents [vocab_size] int64."""
    counts = np.zeros(base.vocab_size, np.int64)
    with out.progress("counting tokens", None, "documents") as bar:
        for shard in shards_in(folder):
            for batch in read_batches(shard, ["text"]):
                texts = batch.column("text").to_pylist()
                for ids in base.encode(texts, out.machine.processor_workers):
                    counts += np.bincount(ids, minlength=base.vocab_size)
                bar.advance(len(texts))
    if not counts.any():
        hint = "look at what the filters dropped"
        raise EmptyResultError("there are no documents to count tokens in", place=str(folder), hint=hint)
    return counts


def _kept(values: dict[str, Any], frequent: np.ndarray) -> set[str]:
    """Names of the tokens that stay: frequent ones, what they are merged of, single bytes, added tokens."""
    parts: dict[str, set[str]] = {}
    for left, right in merge_pairs(values):
        parts.setdefault(left + right, set()).update((left, right))
    waiting = [name for name, number in values["model"]["vocab"].items() if frequent[number] or len(name) == 1]
    waiting += [token["content"] for token in values["added_tokens"]]
    kept: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept.add(name)
            waiting += parts.get(name, ())
    return kept


def _trimmed(values: dict[str, Any], kept: set[str]) -> tokenizers.Tokenizer:
    """The tokenizer with the kept tokens, whose ids follow each other in the old order."""
    numbers = dict(values["model"]["vocab"]) | {token["content"]: token["id"] for token in values["added_tokens"]}
    ids = {name: new for new, name in enumerate(sorted(kept & numbers.keys(), key=numbers.__getitem__))}
    merges = [[left, right] for left, right in merge_pairs(values) if {left, right, left + right} <= kept]
    model = {
        **values["model"],
        "vocab": {name: ids[name] for name in values["model"]["vocab"] if name in kept},
        "merges": merges,
    }
    added = [{**token, "id": ids[token["content"]]} for token in values["added_tokens"]]
    processor = _renumbered(values["post_processor"], {numbers[name]: new for name, new in ids.items()})
    changed = {**values, "model": model, "added_tokens": added, "post_processor": processor}
    made = tokenizers.Tokenizer.from_str(json.dumps(changed))
    made.encode_special_tokens = True
    return made


def _renumbered(processor: Any, ids: dict[int, int]) -> Any:
    """A post-processor whose special tokens have new ids: lists under `ids`, and pairs of a name and an id."""
    if isinstance(processor, list):
        if len(processor) == 2 and isinstance(processor[0], str) and isinstance(processor[1], int):
            return [processor[0], ids[processor[1]]]
        return [_renumbered(part, ids) for part in processor]
    if isinstance(processor, dict):
        return {
            key: [ids[number] for number in part] if key == "ids" else _renumbered(part, ids)
            for key, part in processor.items()
        }
    return processor

"""Give a model the rows of another vocabulary. Settings and which row is made of what: vocabulary.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.model.transformer import Transformer
from headwater.model.vocabulary import Spelling


def with_rows(source: Transformer, spelling: Spelling, head: str) -> Transformer:
    """Make a model whose embedding and output head have the rows of another tokenizer.

    Args:
        source: the model.
        spelling: what each new token is in the tokens of the source.
        head: `first` or `mean`, see `Vocabulary.head`.

    Raises:
        MismatchError: a token of the source's tokenizer has no row.
    """
    rows = source.config.token_types
    highest = max(piece for pieces in spelling.pieces for piece in pieces)
    if highest >= rows:
        raise MismatchError(
            f"token {highest:,} of the source's tokenizer has no row in a model with {rows:,}",
            place="initialize.vocabulary",
            hint="set vocabulary.tokenizer to the tokenizer that the model was trained with",
        )
    model = Transformer(source.config.model_copy(update={"vocab_size": len(spelling.pieces), "padding_rows": 0}))
    weights = dict(source.state_dict())
    weights["embedding.weight"] = _means(weights["embedding.weight"], spelling.pieces)
    if "head.weight" in weights:
        pieces = [pieces[:1] for pieces in spelling.pieces] if head == "first" else spelling.pieces
        weights["head.weight"] = _means(weights["head.weight"], pieces)
    model.load_state_dict(weights)
    return model


def _means(rows_VD: Tensor, pieces: Sequence[Sequence[int]]) -> Tensor:
    """For each list of rows their mean; for an empty one zeros. A single row is copied as it is."""
    lengths = torch.tensor([len(numbers) for numbers in pieces])
    flat = torch.tensor([number for numbers in pieces for number in numbers])
    sums = torch.zeros(len(pieces), rows_VD.shape[1])
    sums.index_add_(0, torch.arange(len(pieces)).repeat_interleave(lengths), rows_VD.detach()[flat])
    return sums / lengths.clamp(min=1)[:, None]

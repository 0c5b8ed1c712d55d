"""Let a model write: one token after the other, drawn from what it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.evaluation.score import not_finite
from headwater.model.transformer import KVCache, Transformer


def generate(
    model: Transformer,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    stop: int | None = None,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Continue a prompt: yields token ids, one at a time.

    It ends after `max_new_tokens`, before the token `stop`, or when the model's context is full. The same seed gives
    the same tokens on every device of the same precision.

    Args:
        model: the model.
        prompt: token ids, a separator first where the prompt begins a document.
        max_new_tokens: the most tokens to write.
        temperature: the logits are divided by it; 0 takes the likeliest token.
        top_k: draw among so many of the likeliest tokens; None means all.
        top_p: draw among the likeliest tokens that together have this probability.
        seed: which random numbers.
        stop: the token that ends a document.
        vocab_size: draw only ids below, for a model with more rows than its tokenizer has tokens.

    Raises:
        MismatchError: the prompt is empty or leaves no room in the context.
        InputError: the model's predictions are not finite numbers.
    """
    context = model.config.context_length
    if not 0 < len(prompt) < context:
        problem = f"a prompt of {len(prompt):,} tokens does not fit a context of {context:,} with room to go on"
        raise MismatchError(problem, place="prompt", hint=f"give 1 to {context - 1:,} tokens")
    random = torch.Generator().manual_seed(seed)
    device = model.embedding.weight.device
    capacity = min(context, len(prompt) + max_new_tokens)
    cache = KVCache(model.config, 1, capacity, device, model.compute_dtype or model.embedding.weight.dtype)
    tokens_BT = torch.tensor([list(prompt)], device=device)
    for _ in range(capacity - len(prompt)):
        with torch.inference_mode():
            x_BD = model.hidden(tokens_BT, cache=cache)[:, -1]
            logits_V = model.logits(x_BD)[0, :vocab_size].float().cpu()
        if not torch.isfinite(logits_V).all():
            raise not_finite("generate")
        token = draw(logits_V, random, temperature, top_k, top_p)
        if token == stop:
            return
        yield token
        tokens_BT = torch.tensor([[token]], device=device)


def draw(logits_V: Tensor, random: torch.Generator, temperature: float, top_k: int | None, top_p: float) -> int:
    """Draw a token from the logits that a model predicts for it.

    Source: in the order of transformers' generation: temperature, then top k (Fan et al. 2018, arXiv:1805.04833), then
    top p (Holtzman et al. 2020, arXiv:1904.09751), which keeps the token that crosses p.
    """
    if temperature == 0:
        return int(logits_V.argmax())
    probabilities_V, ids_V = (logits_V / temperature).softmax(dim=-1).sort(descending=True, stable=True)
    if top_k is not None:
        probabilities_V = probabilities_V[:top_k] / probabilities_V[:top_k].sum()
    before_V = probabilities_V.cumsum(0) - probabilities_V
    kept_V = probabilities_V.masked_fill(before_V >= top_p, 0.0)
    return int(ids_V[torch.multinomial(kept_V, 1, generator=random)])

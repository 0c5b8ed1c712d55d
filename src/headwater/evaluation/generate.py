"""Let a model write: several texts side by side, each token drawn from what the model predicts after those before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.evaluation.config import Sampling
from headwater.evaluation.score import not_finite
from headwater.model.decoding import Decoder, fits
from headwater.model.fold import fold
from headwater.model.transformer import KVCache, Transformer


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    settings: Sampling,
    *,
    stop: int | None = None,
    vocab_size: int | None = None,
) -> Iterator[list[int | None]]:
    """Continue prompts together: yields one list per position, with the next token of each prompt.

    A prompt has ended, and None stands in its place, after `max_new_tokens`, before the token `stop`, or when the
    model's context is full. Prompts may be of different lengths; what stands beside a prompt changes nothing but the
    last bits of its logits. Prompt number n draws with `seed` + n: the same tokens on every device of one precision.

    Args:
        model: the model.
        prompts: token ids of each, a separator first where the prompt begins a document.
        settings: how tokens are drawn, and how many.
        stop: the token that ends a document.
        vocab_size: draw only ids below, for a model with more rows than its tokenizer has tokens.

    Raises:
        MismatchError: a prompt is empty or leaves no room in the context.
        InputError: the model's predictions are not finite numbers.
    """
    if not prompts:
        return
    context = model.config.context_length
    for prompt in prompts:
        if not 0 < len(prompt) < context:
            problem = f"a prompt of {len(prompt):,} tokens does not fit a context of {context:,} with room to go on"
            raise MismatchError(problem, place="prompt", hint=f"give 1 to {context - 1:,} tokens")
    writers = [Writer(prompt, settings, settings.seed + n, context, stop) for n, prompt in enumerate(prompts)]
    new = max(writer.room for writer in writers)
    logits_BV, forward = _begin(fold(model), prompts, new)
    drawn: list[int | None] = []
    for position in range(new):
        if position:
            logits_BV = forward(drawn)
        logits_BV = logits_BV[:, :vocab_size]
        if not torch.isfinite(logits_BV).all():
            raise not_finite("generate")
        drawn = [writer(logits_V) for writer, logits_V in zip(writers, logits_BV, strict=True)]
        if all(token is None for token in drawn):
            return
        yield drawn


def _begin(
    model: Transformer, prompts: Sequence[Sequence[int]], new: int
) -> tuple[Tensor, Callable[[Sequence[int | None]], Tensor]]:
    """The logits behind prompts [B, token types] fp32, and a function from the last token of each text to those of the next."""
    tokens_BT, documents_BT = _padded(prompts, model.embedding.weight.device)
    dtype = model.compute_dtype or model.embedding.weight.dtype
    cache = KVCache(model.config, len(prompts), tokens_BT.shape[1] + new - 1, tokens_BT.device, dtype)

    @torch.inference_mode()
    def library(tokens_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        x_BD = model.hidden(tokens_BT, documents_BT, cache)[:, -1]
        return model.logits(x_BD).float().cpu()

    logits_BV = library(tokens_BT, documents_BT)
    loops = Decoder(model, cache) if fits(model, len(prompts)) else None

    def forward(last: Sequence[int | None]) -> Tensor:
        tokens_B = torch.tensor([token or 0 for token in last])
        return library(tokens_B[:, None].to(tokens_BT.device)) if loops is None else loops(tokens_B)

    return logits_BV, forward


class Writer:
    """One text as it grows."""

    def __init__(
        self, prompt: Sequence[int], settings: Sampling, seed: int, context_length: int, stop: int | None
    ) -> None:
        self.room = min(settings.max_new_tokens, context_length - len(prompt))
        self._settings = settings
        self._random = torch.Generator().manual_seed(seed)
        self._stop = stop
        self._seen = set(prompt) if settings.repetition_penalty != 1 else None

    def __call__(self, logits_V: Tensor) -> int | None:
        """The next token; None, now and ever after, when the text has ended."""
        if not self.room:
            return None
        if self._seen is not None:
            logits_V = penalise(logits_V, self._seen, self._settings.repetition_penalty)
        token = draw(logits_V, self._random, self._settings)
        self.room = 0 if token == self._stop else self.room - 1
        if self._seen is not None:
            self._seen.add(token)
        return None if token == self._stop else token


def penalise(logits_V: Tensor, seen: set[int], penalty: float) -> Tensor:
    """Make tokens that were seen less likely: positive logits divided by `penalty`, negative ones times it.

    Source: Keskar et al. 2019, CTRL (arXiv:1909.05858), section 4.1; the treatment of negative logits and the prompt's
    tokens as transformers' RepetitionPenaltyLogitsProcessor.
    """
    ids = torch.tensor(sorted(token for token in seen if token < len(logits_V)))
    found = logits_V[ids]
    return logits_V.index_copy(0, ids, torch.where(found < 0, found * penalty, found / penalty))


def draw(logits_V: Tensor, random: torch.Generator, settings: Sampling) -> int:
    """Draw a token from the logits that a model predicts for it.

    Source: in the order of transformers' generation: temperature, then top k (Fan et al. 2018, arXiv:1805.04833), then
    top p (Holtzman et al. 2020, arXiv:1904.09751), which keeps the token that crosses p, then min p (Nguyen et al.
    2024, arXiv:2407.01082).
    """
    if settings.temperature == 0:
        return int(logits_V.argmax())
    logits_V = logits_V / settings.temperature
    if settings.top_k is not None and settings.top_k < len(logits_V):
        likely_K, ids_K = logits_V.topk(settings.top_k)
    else:
        likely_K, ids_K = logits_V.sort(descending=True, stable=True)
    probabilities_K = likely_K.softmax(dim=-1)
    before_K = probabilities_K.cumsum(0) - probabilities_K
    dropped_K = (before_K >= settings.top_p) | (probabilities_K < settings.min_p * probabilities_K[0])
    return int(ids_K[torch.multinomial(probabilities_K.masked_fill(dropped_K, 0.0), 1, generator=random)])


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Prompts that end together [B, T], and which tokens are theirs (1) or fill up the row in front (0) [B, T]."""
    longest = max(map(len, prompts))
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    if all(len(prompt) == longest for prompt in prompts):
        return torch.tensor(rows, device=device), None
    of_prompt = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(rows, device=device), torch.tensor(of_prompt, device=device)

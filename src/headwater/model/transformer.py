"""The whole model, top to bottom: a Llama; with a few switches of its shape a Qwen3, an Arcee or a GPT-2.

Letters behind a name say what its dimensions are:

    B  rows of a batch          T  positions of the input       S  positions that can be attended to
    D  hidden_size              H  query heads                  K  key and value heads
    G  query heads per kv head  E  head_size                    F  ffn_size
    V  vocab_size               N  B x T                        C  tokens of a chunk

Weights stay in the type that they are kept in (fp32); a forward pass computes in `compute_dtype`, to which each weight
is cast where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its name everywhere
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from headwater.model.config import ModelConfig

CHUNK_LOGITS = 1 << 22
"""Logits computed at a time (16 MB in fp32, half of a server core's share of cache). Source: a prototype
on another processor, within 3 % from 2^21 to 2^24; see docs/lab-notes.md."""


Function = TypeVar("Function", bound=Callable[..., Any])
AttentionKernel = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""Queries [B, T, H, E], keys and values [B, T, K, E] and where documents begin [B, T] -> mixed values [B, T, H, E]."""


class KVCache:
    """Keys and values of the positions that a model has seen, for generation.

    Attributes:
        length: positions seen so far.
        capacity: the most positions that fit.
        kv: keys and values [layers, 2, B, K, capacity, E].
        first_B: where the text of each row begins, when rows of different lengths were filled up in front; else None.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make room for `rows` rows of up to `capacity` tokens; by default the model's context length."""
        self.length = 0
        self.first_B: Tensor | None = None
        self.capacity = capacity or config.context_length
        shape = (config.num_layers, 2, rows, config.num_kv_heads, self.capacity, config.head_size)
        self.kv = torch.zeros(shape, device=device, dtype=dtype)

    def extend(self, layer: int, k_BTKE: Tensor, v_BTKE: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values of new positions of one layer; return those of all positions seen [B, K, S, E]."""
        end = self.length + k_BTKE.shape[1]
        assert end <= self.capacity, f"{end} positions in a cache for {self.capacity}"
        self.kv[layer, 0, :, :, self.length : end] = k_BTKE.transpose(1, 2)
        self.kv[layer, 1, :, :, self.length : end] = v_BTKE.transpose(1, 2)
        return self.kv[layer, 0, :, :, :end], self.kv[layer, 1, :, :, :end]


class Linear(nn.Module):
    """A matrix product, in the type of its input; by default without bias."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply vectors by the matrix [..., inputs] -> [..., outputs]."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class RMSNorm(nn.Module):
    """Scale vectors to root mean square 1, times what is learnt. Source: Zhang and Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, size: int, epsilon: float, learnt: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if learnt else None
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Scale the vectors in the last dimension."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, (x.shape[-1],), weight, self.epsilon)


class LayerNorm(nn.Module):
    """Shift and scale vectors to mean 0 and variance 1, then by what is learnt. Source: Ba et al. 2016, arXiv:1607.06450."""

    def __init__(self, size: int, epsilon: float, learnt: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if learnt else None
        self.bias = nn.Parameter(torch.zeros(size)) if learnt else None
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the vectors in the last dimension."""
        weight, bias = (None if each is None else each.to(x.dtype) for each in (self.weight, self.bias))
        return F.layer_norm(x, (x.shape[-1],), weight, bias, self.epsilon)


def norm(config: ModelConfig) -> RMSNorm | LayerNorm:
    """The kind of norm that stands before each part of the model."""
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.hidden_size, config.norm_epsilon, config.tricks.norm_weights)


class Attention(nn.Module):
    """Grouped-query attention; queries, keys and values come from one matrix, and are turned where positions are rotary."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.kv_heads = config.num_kv_heads
        self.head_size = config.head_size
        self.layer = layer
        joint = (config.num_heads + 2 * config.num_kv_heads) * config.head_size
        self.qkv = Linear(config.hidden_size, joint, config.bias)
        self.out = Linear(config.num_heads * config.head_size, config.hidden_size, config.bias)
        norms = (config.head_size, config.norm_epsilon, config.tricks.norm_weights)
        self.q_norm = RMSNorm(*norms) if config.qk_norm else None
        self.k_norm = RMSNorm(*norms) if config.qk_norm else None
        self.query_scale = config.query_scale
        self.mix: AttentionKernel = BlockAttention()

    def forward(
        self,
        x_BTD: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        start_BT: Tensor | BlockMask | None,
        cache: KVCache | None,
    ) -> Tensor:
        """Mix each position's vector from those that it may attend to [B, T, D]."""
        B, T, _ = x_BTD.shape
        sizes = [count * self.head_size for count in (self.heads, self.kv_heads, self.kv_heads)]
        q_BTHE, k_BTKE, v_BTKE = (part.view(B, T, -1, self.head_size) for part in self.qkv(x_BTD).split(sizes, dim=-1))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHE, k_BTKE = self.q_norm(q_BTHE), self.k_norm(k_BTKE)
        if self.query_scale != 1:
            q_BTHE = q_BTHE * self.query_scale
        if rope is not None:
            q_BTHE, k_BTKE = rotate(q_BTHE, *rope), rotate(k_BTKE, *rope)
        seen = None if cache is None else cache.extend(self.layer, k_BTKE, v_BTKE)
        if cache is None or seen is None or not cache.length:  # these positions are all there are
            y_BTHE = self.mix(q_BTHE, k_BTKE, v_BTKE, start_BT)
        else:
            y_BTHE = cached_attention(q_BTHE, *seen, cache.first_B)
        return self.out(y_BTHE.flatten(2))


class FeedForward(nn.Module):
    """Transform each position by itself; SwiGLU's gate and up come from one matrix. Sources: `ModelKind.ffn`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.ffn
        if self.kind == "swiglu":
            self.gate_up = Linear(config.hidden_size, 2 * config.ffn_size, config.bias)
        else:
            self.up = Linear(config.hidden_size, config.ffn_size, config.bias)
        self.down = Linear(config.ffn_size, config.hidden_size, config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each position's vector [B, T, D]."""
        if self.kind == "swiglu":
            gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
            return self.down(F.silu(gate_BTF) * up_BTF)
        if self.kind == "gelu":
            return self.down(F.gelu(self.up(x_BTD), approximate="tanh"))
        return self.down(F.relu(self.up(x_BTD)).square())


class Block(nn.Module):
    """One layer: attention and feed-forward, each on normalised input, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = Attention(config, layer)
        self.ffn_norm = norm(config)
        self.ffn = FeedForward(config)
        self.dropout = 0.0

    def forward(
        self,
        x_BTD: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        start_BT: Tensor | BlockMask | None = None,
        cache: KVCache | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        """The residual stream after this layer [B, T, D]; `share` multiplies what the layer adds to it."""
        added_BTD = drop(self.attention(self.attention_norm(x_BTD), rope, start_BT, cache), self.dropout)
        x_BTD = x_BTD + (added_BTD if share is None else added_BTD * share)
        added_BTD = drop(self.ffn(self.ffn_norm(x_BTD)), self.dropout)
        return x_BTD + (added_BTD if share is None else added_BTD * share)


def drop(x: Tensor, share: float) -> Tensor:
    """Set a share of the numbers to 0 at random and enlarge the others accordingly. Source: Srivastava et al. 2014."""
    return F.dropout(x, share) if share else x


class Transformer(nn.Module):
    """A model of one of the families.

    Attributes:
        config: its shape.
        compute_dtype: the type in which a forward pass computes; None is the type of the weights.
        softmax_loss: the function that turns a chunk of logits into loss and gradient; may be compiled.
        z_loss: weight of the mean squared logarithm of softmax's denominator in what is trained on.
        mix: the function of attention, see `set_attention`.
        dropout: share of numbers left out while training, see `set_dropout`.
        recompute: compute each block again in the backward pass instead of keeping its activations.
    """

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        self.softmax_loss: SoftmaxLoss = softmax_loss
        self.z_loss = 0.0
        self.dropout = 0.0
        self.recompute = False
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.context_length, config.hidden_size) if learned else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = norm(config)
        self.head = None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size)
        scales = config.tricks.residual_scales
        self.residual_scales = nn.Parameter(torch.linspace(*scales, config.num_layers)) if scales else None
        self.set_attention(BlockAttention())
        self.reset_buffers()

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Compute the tables of rotary positions, which are not part of the weights; a model without has none."""
        if self.positions is not None:
            return
        cos, sin = rope_tables(self.config, device)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)

    def set_attention(self, mix: AttentionKernel) -> None:
        """Choose by which of the functions below training mixes values."""
        self.mix = mix
        for block in self.blocks:
            cast("Block", block).attention.mix = mix

    def set_dropout(self, share: float) -> None:
        """Leave out a share of what embeddings and blocks add to the residual stream, from now on and until told otherwise."""
        self.dropout = share
        for block in self.blocks:
            cast("Block", block).dropout = share

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns hidden vectors into logits [V, D]."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden(self, tokens_BT: Tensor, documents_BT: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Turn tokens into the vectors from which the next token is read [B, T, D].

        Args:
            tokens_BT: token ids.
            documents_BT: number of each token's document within its row, rising; attention stays inside a document.
                None: each row is one document.
            cache: positions seen before; these tokens follow them, and are added to it. Documents can be told apart
                when it is empty; later tokens go on with the last one of each row.
        """
        start = 0 if cache is None else cache.length
        end = start + tokens_BT.shape[1]
        x_BTD = self._embed(tokens_BT)
        start_BT = None if documents_BT is None else document_starts(documents_BT)
        if cache is not None and start_BT is not None:
            assert not start, "documents are told apart when the cache is empty"
            cache.first_B = start_BT[:, -1]
        places = self._places(start, end, start_BT, None if cache is None else cache.first_B)
        if self.positions is not None:
            weight = self.positions.weight
            x_BTD = x_BTD + (weight[places] if isinstance(places, slice) else F.embedding(places, weight))
        x_BTD = drop(x_BTD.to(self.compute_dtype or x_BTD.dtype), self.dropout)
        rope = None
        if self.positions is None:
            rope = self.rope_cos[places].to(x_BTD.dtype), self.rope_sin[places].to(x_BTD.dtype)
        mask = flex_mask(start_BT) if start_BT is not None and self.mix is flex_attention else start_BT
        for block, share in zip(self.blocks, self._shares(x_BTD), strict=True):
            if self.recompute and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, rope, mask, cache, share, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, rope, mask, cache, share)
        if cache is not None:
            cache.length = end
        x_BTD = self.norm(x_BTD)
        return x_BTD if self.config.logit_scale == 1 else x_BTD * self.config.logit_scale

    def _embed(self, tokens_BT: Tensor) -> Tensor:
        """The tokens' vectors [B, T, D] as they enter the first layer, but for learned positions."""
        x_BTD = F.embedding(tokens_BT, self.embedding.weight)
        if self.config.tricks.embedding_norm:
            x_BTD = F.rms_norm(x_BTD, (x_BTD.shape[-1],), None, self.config.norm_epsilon)
        factor = self.config.tricks.embedding_multiplier
        return x_BTD if factor == 1 else x_BTD * factor

    def _shares(self, like: Tensor) -> Sequence[Tensor | None]:
        """What multiplies that which each layer adds to the residual stream, see `Tricks.residual_scales`."""
        factor = self.config.tricks.residual_multiplier
        if self.residual_scales is not None:
            return (factor / self.residual_scales.cumprod(0)).to(like.dtype).unbind()
        return [None if factor == 1 else like.new_tensor(factor)] * len(self.blocks)

    def _places(self, start: int, end: int, start_BT: Tensor | None, first_B: Tensor | None) -> slice | Tensor:
        """Places in the tables of positions, as a slice or for each token [B, T].

        They count from where the text of each row begins, when a cache was filled with texts of different lengths, and
        when they are learned from where each document begins. Rotary ones enter as differences: any beginning will do.
        """
        if first_B is None:
            assert end <= self.config.context_length, f"{end} positions, context_length {self.config.context_length}"
            if start_BT is None or self.positions is None:
                return slice(start, end)
        begin = start_BT if first_B is None else first_B[:, None]
        assert begin is not None
        # what stands before a text, or goes on after the context of a row is full, counts nowhere
        places_BT = torch.arange(start, end, device=begin.device) - begin
        return places_BT.clamp(0, self.config.context_length - 1)

    def forward(self, tokens_BT: Tensor, documents_BT: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """The logits of the token after each position [B, T, token types]; arguments as in `hidden`."""
        return self.logits(self.hidden(tokens_BT, documents_BT, cache))

    def logits(self, x: Tensor) -> Tensor:
        """Turn hidden vectors into logits [..., D] -> [..., token types]: those of padding rows are left out."""
        return F.linear(x, self.head_weight.to(x.dtype))[..., : self.config.token_types]

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Mean loss of the targets that count, those of 0 or more [nats per token], ready for `backward`.

        The logits never exist as a whole. Where no target counts the loss is 0. With a `z_loss`, that is part of it.
        """
        return self.losses(tokens_BT, targets_BT, documents_BT)[0]

    def losses(
        self, tokens_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is trained on, as `loss` gives it, and of that the loss of the tokens alone, without gradient."""
        x_BTD = self.hidden(tokens_BT, documents_BT)
        objective, loss = _ChunkedLoss.apply(  # type: ignore[misc]  # apply() is untyped
            x_BTD.flatten(0, 1),
            self.head_weight,
            targets_BT.flatten(),
            self.softmax_loss,
            self.config.token_types,
            self.z_loss,
        )
        counted = (targets_BT >= 0).sum().clamp(min=1)
        return objective / counted, loss / counted

    def token_losses(self, tokens_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Loss of each target [nats; B, T] fp32, 0 where none counts, for measuring: no gradient flows back."""
        x_ND = self.hidden(tokens_BT, documents_BT).detach().flatten(0, 1)
        weight_VD = self.head_weight.detach()[: self.config.token_types].to(x_ND.dtype)
        pieces = [
            F.cross_entropy(F.linear(x_CD, weight_VD).float(), targets_C.long(), ignore_index=-1, reduction="none")
            for x_CD, targets_C in _chunks(x_ND, targets_BT.flatten(), weight_VD.shape[0])
        ]
        return torch.cat(pieces).view(targets_BT.shape)


def rope_tables(config: ModelConfig, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions [context_length, 1, E/2] each, in fp32.

    Source: Su et al. 2021 (arXiv:2104.09864) in the order of transformers' Llama: number e turns with e + E/2.
    """
    exponent = torch.arange(0, config.head_size, 2, dtype=torch.int64, device=device).float() / config.head_size
    position = torch.arange(config.context_length, device=device).float()
    angle = torch.outer(position, 1.0 / config.rope_theta**exponent)
    return angle.cos()[:, None], angle.sin()[:, None]


def rotate(x_BTHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys by their positions.

    Only the difference of two positions enters a product of query and key, so a document gives the same result wherever
    it stands in a row: positions need not start again with each document.
    """
    first, second = x_BTHE.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def document_starts(documents_BT: Tensor) -> Tensor:
    """Position at which each token's document begins in its row [B, T] int32."""
    position_T = torch.arange(documents_BT.shape[1], device=documents_BT.device, dtype=torch.int32)
    begins_BT = F.pad(documents_BT[:, 1:] != documents_BT[:, :-1], (1, 0))
    return torch.where(begins_BT, position_T, 0).cummax(dim=1).values


def attention_block(length: int) -> int:
    """Query rows handled at a time where nothing was measured: half of the sequence, 64 to 256.

    Source: at 256, 512 and 1024 tokens blocks of 128 and 256 were within 3 %; see docs/lab-notes.md.
    """
    return min(max(length // 2, 64), 256)


def tile_softmax(scores_RKTGS: Tensor, start_RT: Tensor | None, scale: float, dtype: torch.dtype) -> Tensor:
    """Weights of attention of a tile's T queries to its S keys, the last T of which stand at the queries' places.

    Args:
        scores_RKTGS: products of R rows' queries and keys.
        start_RT: number of the first key that each query may see, negative when all; None when all may.
        scale: what to multiply the scores by.
        dtype: number format of the result.
    """
    T, S = scores_RKTGS.shape[2], scores_RKTGS.shape[4]
    key_S = torch.arange(S, device=scores_RKTGS.device, dtype=torch.int32)
    query_T = torch.arange(T, device=scores_RKTGS.device, dtype=torch.int32) + (S - T)
    masked = key_S > query_T[:, None, None]
    if start_RT is not None:
        masked = masked | (key_S < start_RT[:, None, :, None, None])
    return (scores_RKTGS.float() * scale).masked_fill(masked, float("-inf")).softmax(dim=-1).to(dtype)


def tile_softmax_gradient(weights: Tensor, gradient: Tensor, scale: float) -> Tensor:
    """Gradient of a tile's products, from its weights and their gradient [..., S]."""
    share = weights.float() * gradient.float()
    return ((share - weights.float() * share.sum(dim=-1, keepdim=True)) * scale).to(weights.dtype)


def _uncompiled(function: Function) -> Function:
    """Keep torch.compile out of a function that loops over documents: each batch has its own."""
    return cast("Function", torch.compiler.disable(function))


class BlockAttention:
    """Causal attention within documents, tile by tile: a block of queries, and the keys that one of them may see.

    Keys after a block are skipped, and so are those before the first document of a block: the cost follows the lengths
    of documents. Written out, because a compiler fuses scale, mask and softmax: a prototype in bf16 on a CPU was 2 to 3
    times as fast as `scaled_dot_product_attention`. Query heads that share a key head are rows of the same product.
    """

    def __init__(
        self,
        size: int = 0,
        softmax: Callable[..., Tensor] = tile_softmax,
        softmax_gradient: Callable[..., Tensor] = tile_softmax_gradient,
    ) -> None:
        """Choose a block's size, 0 for one that fits the sequence, and the two functions, which may be compiled."""
        self.size = size
        self.softmax = softmax
        self.softmax_gradient = softmax_gradient

    def tiles(self, start_BT: Tensor | None, rows: int, length: int) -> list[tuple[slice, int, int, int]]:
        """Cut the attention of a batch: rows, first key, first query, end of the queries (and keys).

        Neighbouring rows whose blocks begin at the same key share a tile.
        """
        size = self.size or attention_block(length)
        begins = range(0, length, size)
        # documents only ever begin later, so what a block's first query may see is where the block's keys begin
        keys = [[0] * len(begins)] * rows if start_BT is None else (start_BT[:, ::size] // size * size).tolist()
        tiles = []
        for column, begin in enumerate(begins):
            first = 0
            for row in range(1, rows + 1):
                if row == rows or keys[row][column] != keys[first][column]:
                    tiles.append((slice(first, row), keys[first][column], begin, min(begin + size, length)))
                    first = row
        return tiles

    @_uncompiled
    def __call__(self, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, start_BT: Tensor | None) -> Tensor:
        """Mix the values by attention.

        Args:
            q_BTHE: queries.
            k_BTKE: keys.
            v_BTKE: values.
            start_BT: where each token's document begins; None when each row is one document.

        Returns:
            The mixed values [B, T, H, E].
        """
        return _Tiles.apply(q_BTHE, k_BTKE, v_BTKE, start_BT, self)  # type: ignore[return-value]  # apply() is untyped


def library_attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, start_BT: Tensor | None) -> Tensor:
    """The same by torch's own kernels, which see the whole square of positions where a row has several documents."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
    seen = None
    if start_BT is not None:
        position_T = torch.arange(q.shape[2], device=q.device, dtype=torch.int32)
        seen = ((position_T <= position_T[:, None]) & (position_T >= start_BT[..., None]))[:, None]
    y = F.scaled_dot_product_attention(q, k, v, seen, is_causal=seen is None, enable_gqa=q.shape[1] != k.shape[1])
    return y.transpose(1, 2)


def flex_attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, mask: BlockMask | None) -> Tensor:
    """The same on a GPU, in compiled code: tiles that a mask leaves empty are skipped.

    Source: FlexAttention (Dong et al. 2024, arXiv:2412.05496); it has no gradient on processors (torch 2.13).
    """
    if mask is None:
        return library_attention(q_BTHE, k_BTKE, v_BTKE, None)  # the flash kernel
    q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
    y = flex.flex_attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return y.transpose(1, 2)  # type: ignore[union-attr]  # a tuple only when asked for more


def flex_mask(start_BT: Tensor) -> BlockMask:
    """Which keys each query may see, as FlexAttention wants to know it."""
    B, T = start_BT.shape

    def seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= start_BT[row, query])

    return flex.create_block_mask(seen, B, None, T, T, device=start_BT.device)


class _Tiles(torch.autograd.Function):
    """The arithmetic of BlockAttention. Rows of a matrix are (position, head of the group), one for each (row, kv head)."""

    @staticmethod
    def forward(
        ctx: Any, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, start_BT: Tensor | None, attention: BlockAttention
    ) -> Tensor:
        B, T, K, E = k_BTKE.shape
        G = q_BTHE.shape[2] // K
        q, k, v = _grouped(q_BTHE, K), _grouped(k_BTKE, K), _grouped(v_BTKE, K)
        y = torch.empty_like(q)
        tiles = attention.tiles(start_BT, B, T)
        kept = []
        for rows, key, begin, end in tiles:
            r, queries = slice(rows.start * K, rows.stop * K), slice(begin * G, end * G)
            scores = torch.bmm(q[r, queries], k[r, key:end].mT).view(-1, K, end - begin, G, end - key)
            starts = None if start_BT is None else start_BT[rows, begin:end] - key
            weights = attention.softmax(scores, starts, E**-0.5, v.dtype).view(-1, (end - begin) * G, end - key)
            y[r, queries] = torch.bmm(weights, v[r, key:end])
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.attention, ctx.tiles, ctx.kv_heads = attention, tiles, K
        return _ungrouped(y, K, T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, *kept = ctx.saved_tensors
        K, T, E = ctx.kv_heads, k.shape[1], k.shape[2]
        G = q.shape[1] // T
        dy, dq = _grouped(gradients[0], K), torch.empty_like(q)
        dk, dv = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for (rows, key, begin, end), weights in zip(ctx.tiles, kept, strict=True):
            r, queries = slice(rows.start * K, rows.stop * K), slice(begin * G, end * G)
            dweights = torch.bmm(dy[r, queries], v[r, key:end].mT)
            dscores = ctx.attention.softmax_gradient(weights, dweights, E**-0.5)
            dq[r, queries] = torch.bmm(dscores, k[r, key:end])
            dk[r, key:end] += torch.bmm(dscores.mT, q[r, queries])
            dv[r, key:end] += torch.bmm(weights.mT, dy[r, queries])
        dk, dv = dk.to(k.dtype), dv.to(v.dtype)
        return _ungrouped(dq, K, T), _ungrouped(dk, K, T), _ungrouped(dv, K, T), None, None


def _grouped(x_BTHE: Tensor, kv_heads: int) -> Tensor:
    """One matrix of (position, head of the group) rows for each (row, kv head)."""
    B, T, H, E = x_BTHE.shape
    x = x_BTHE.reshape(B, T, kv_heads, H // kv_heads, E).transpose(1, 2)
    return x.reshape(B * kv_heads, T * (H // kv_heads), E)


def _ungrouped(x: Tensor, kv_heads: int, length: int) -> Tensor:
    """Back from `_grouped` to [B, T, H, E]."""
    E = x.shape[-1]
    x = x.view(-1, kv_heads, length, x.shape[1] // length, E).transpose(1, 2)
    return x.reshape(x.shape[0], length, -1, E)


def cached_attention(q_BTHE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, first_B: Tensor | None = None) -> Tensor:
    """Attention of the last T of S positions to all positions from `first_B` up to their own [B, T, H, E]."""
    B, T, H, E = q_BTHE.shape
    K, S = k_BKSE.shape[1:3]
    q_BKNE = q_BTHE.view(B, T, K, -1, E).transpose(1, 2).reshape(B, K, -1, E)
    scores = (q_BKNE @ k_BKSE.mT).view(B, K, T, -1, S).float() * E**-0.5
    if T > 1:
        position_S = torch.arange(S, device=scores.device)
        scores = scores.masked_fill((position_S > position_S[S - T :, None])[:, None], float("-inf"))
    if first_B is not None:
        position_S = torch.arange(S, device=scores.device)
        scores = scores.masked_fill((position_S < first_B[:, None])[:, None, None, None], float("-inf"))
    weights = scores.softmax(dim=-1).to(v_BKSE.dtype)
    return (weights.view(B, K, -1, S) @ v_BKSE).view(B, K, T, -1, E).transpose(1, 2).reshape(B, T, H, E)


SoftmaxLoss = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor, Tensor]]


def softmax_loss(
    logits_CV: Tensor, targets_C: Tensor, scale: float, z_loss: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the losses of a chunk and of their penalties, and the gradient of `scale` times both with respect to the logits.

    A target below 0 does not count. The penalty is `z_loss` times the square of the logarithm of softmax's denominator,
    which keeps logits from drifting. Source: PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 5).
    """
    logits_CV32 = logits_CV.to(_wide(logits_CV))
    log_total_C = logits_CV32.logsumexp(dim=-1)
    counts_C = targets_C >= 0
    losses_C = log_total_C - logits_CV32.gather(1, targets_C.clamp(min=0)[:, None]).squeeze(1)
    loss = torch.where(counts_C, losses_C, 0.0).sum()
    is_target_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == targets_C[:, None]
    probability_CV = (logits_CV32 - log_total_C[:, None]).exp()
    if z_loss:
        penalty = torch.where(counts_C, z_loss * log_total_C.square(), 0.0).sum()
        probability_CV = probability_CV * (1 + 2 * z_loss * log_total_C)[:, None]
    else:
        penalty = torch.zeros_like(loss)
    gradient_CV = (probability_CV - is_target_CV.to(logits_CV32.dtype)) * (counts_C.to(logits_CV32.dtype) * scale)[
        :, None
    ]
    return loss, penalty, gradient_CV.to(logits_CV.dtype)


def _wide(x: Tensor) -> torch.dtype:
    """The type for sums: fp32, or wider where the numbers are."""
    return torch.promote_types(x.dtype, torch.float32)


def _chunks(x_ND: Tensor, targets_N: Tensor, vocab_size: int) -> list[tuple[Tensor, Tensor]]:
    size = max(CHUNK_LOGITS // vocab_size, 64)
    return list(zip(x_ND.split(size), targets_N.split(size), strict=True))


class _ChunkedLoss(torch.autograd.Function):
    """Sums over tokens of loss and penalty together, and of loss, chunk by chunk; the gradient is made in the forward pass while logits are at hand.

    Padding rows of the vocabulary have probability 0. Their products are computed all the same, because that keeps the
    matrix at a size that processors like, which is what the padding is for.

    Source: the idea of fused linear cross-entropy (Liger kernel, Hsu et al. 2024, arXiv:2410.10989).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        softmax_loss: SoftmaxLoss,
        token_types: int,
        z_loss: float,
    ) -> tuple[Tensor, Tensor]:
        weight = weight_VD.to(x_ND.dtype)
        scale = 1.0 / targets_N.numel()  # keeps the gradient's size in a range that bf16 resolves; undone in backward
        total, penalties = (x_ND.new_zeros((), dtype=_wide(x_ND)) for _ in range(2))
        x_gradient_ND = torch.empty_like(x_ND)
        weight_gradient_VD = torch.zeros_like(weight_VD, dtype=_wide(x_ND))
        begin = 0
        for x_CD, targets_C in _chunks(x_ND, targets_N.long(), weight.shape[0]):
            logits_CV = x_CD @ weight.T
            logits_CV[:, token_types:] = float("-inf")
            loss, penalty, gradient_CV = softmax_loss(logits_CV, targets_C, scale, z_loss)
            total += loss
            penalties += penalty
            torch.mm(gradient_CV, weight, out=x_gradient_ND[begin : begin + len(x_CD)])
            if x_ND.dtype == weight_gradient_VD.dtype:
                weight_gradient_VD.addmm_(gradient_CV.T, x_CD)
            else:
                weight_gradient_VD += gradient_CV.T @ x_CD
            begin += len(x_CD)
        ctx.save_for_backward(x_gradient_ND, weight_gradient_VD)
        ctx.tokens = targets_N.numel()
        ctx.mark_non_differentiable(total)
        return total + penalties, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        x_gradient_ND, weight_gradient_VD = ctx.saved_tensors
        factor = gradients[0] * ctx.tokens
        return (x_gradient_ND * factor).to(x_gradient_ND.dtype), weight_gradient_VD * factor, None, None, None, None

"""Learn from a larger model: its probabilities of every next token beside the token that came.

A shrunk model recovers faster when it is told not only which token follows but how likely its source thinks each one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.core.stage import Workspace
from headwater.core.units import format_count
from headwater.model.surgery import read
from headwater.model.transformer import CHUNK_LOGITS, Transformer
from headwater.training.config import Distill
from headwater.training.parallel import Arithmetic


class Losses(NamedTuple):
    """What a batch costs the student."""

    objective: Tensor
    """(1 - weight) x token + weight x temperature^2 x teacher: ready for `backward`."""
    token: Tensor
    """Mean loss of the tokens that came [nats per token], without gradient."""
    teacher: Tensor
    """Mean divergence of the student's probabilities from the teacher's [nats per token], without gradient."""


class Teacher:
    """A trained model that says how likely each token is; never changed.

    Attributes:
        model: the teacher.
    """

    def __init__(
        self, settings: Distill, student: Transformer, longest: int, arithmetic: Arithmetic, out: Workspace
    ) -> None:
        """Load the teacher and make sure that it speaks of the same tokens.

        Args:
            settings: which model, and what it counts for.
            student: the model that learns.
            longest: tokens of the longest rows.
            arithmetic: how the run computes.
            out: told who teaches.

        Raises:
            InputError: it cannot be read.
            MismatchError: it has another vocabulary, or a context that is too short.
        """
        self._settings = settings
        self.model = read(settings.source, out)[0]
        ours, theirs = student.config, self.model.config
        if theirs.token_types != ours.token_types:
            raise MismatchError(
                f"the teacher knows {theirs.token_types:,} tokens, the model {ours.token_types:,}",
                place="train.distill",
                hint="a teacher must have the vocabulary of the model that it teaches",
            )
        if theirs.context_length < longest:
            raise MismatchError(
                f"the teacher's context_length {theirs.context_length:,} is less than the {longest:,} tokens of a row",
                place="train.distill",
                hint="train on shorter sequences",
            )
        self.model.requires_grad_(False)
        self.model.to(arithmetic.device)
        self.model.compute_dtype = arithmetic.dtype
        out.note(
            f"distilled from a model of {format_count(theirs.parameters())} parameters, which counts for "
            f"{settings.weight:.0%} of the loss"
        )

    def flops_per_token(self, sequence_length: int) -> int:
        """Operations of its forward pass: a third of what training it would take."""
        return self.model.config.flops_per_token(sequence_length) // 3

    def losses(self, student: Transformer, tokens_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor) -> Losses:
        """Losses of the student on a micro-batch, over the targets that count, those of 0 or more.

        The logits of neither model ever exist as a whole.
        """
        with torch.no_grad():
            taught_ND = self.model.hidden(tokens_BT, documents_BT).flatten(0, 1)
        sums = _ChunkedDistillation.apply(
            student.hidden(tokens_BT, documents_BT).flatten(0, 1),
            student.head_weight[: student.config.token_types],
            taught_ND,
            self.model.head_weight[: student.config.token_types],
            targets_BT.flatten().long(),
            self._settings.weight,
            self._settings.temperature,
        )
        counted = (targets_BT >= 0).sum().clamp(min=1)
        objective, token, teacher = (part / counted for part in sums)  # type: ignore[union-attr]
        return Losses(objective, token.detach(), teacher.detach())


class _ChunkedDistillation(torch.autograd.Function):
    """Sums over tokens of objective, loss and divergence; the gradient is made in the forward pass, chunk by chunk.

    With p, q the probabilities of student and teacher at temperature T, the gradient of T^2 KL(q || p) with respect to
    the student's logits is T (p - q).

    Source: Hinton et al. 2015 (arXiv:1503.02531), section 2, also for the factor T^2.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        taught_ND: Tensor,
        taught_weight_VD: Tensor,
        targets_N: Tensor,
        share: float,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight, taught_weight = weight_VD.to(x_ND.dtype), taught_weight_VD.to(x_ND.dtype)
        scale = 1.0 / targets_N.numel()  # keeps the gradient's size in a range that bf16 resolves; undone in backward
        x_gradient_ND = torch.empty_like(x_ND)
        weight_gradient_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        token, teacher = x_ND.new_zeros((), dtype=torch.float32), x_ND.new_zeros((), dtype=torch.float32)
        size = max(CHUNK_LOGITS // 2 // weight.shape[0], 32)  # half of a loss's, because there are two models' logits
        for begin in range(0, len(x_ND), size):
            part = slice(begin, begin + size)
            logits_CV = (x_ND[part] @ weight.T).float()
            taught_CV = ((taught_ND[part] @ taught_weight.T).float() / temperature).log_softmax(-1)
            plain_CV, soft_CV = logits_CV.log_softmax(-1), (logits_CV / temperature).log_softmax(-1)
            counts_C1 = (targets_N[part, None] >= 0).float()
            chosen_C1 = targets_N[part, None].clamp(min=0)
            token -= (plain_CV.gather(1, chosen_C1) * counts_C1).sum()
            q_CV = taught_CV.exp()
            teacher += (q_CV * (taught_CV - soft_CV) * counts_C1).sum()
            plain_gradient_CV = plain_CV.exp_()
            plain_gradient_CV.scatter_add_(1, chosen_C1, plain_gradient_CV.new_full(chosen_C1.shape, -1.0))
            gradient_CV = plain_gradient_CV.mul_(1 - share).add_(soft_CV.exp_() - q_CV, alpha=share * temperature)
            gradient_CV = gradient_CV.mul_(counts_C1 * scale).to(x_ND.dtype)
            x_gradient_ND[part] = gradient_CV @ weight
            weight_gradient_VD += (gradient_CV.T @ x_ND[part]).float()
        ctx.save_for_backward(x_gradient_ND, weight_gradient_VD)
        ctx.tokens = targets_N.numel()
        objective = (1 - share) * token + share * temperature**2 * teacher
        ctx.mark_non_differentiable(token, teacher)
        return objective, token, teacher

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        x_gradient_ND, weight_gradient_VD = ctx.saved_tensors
        factor = gradients[0] * ctx.tokens
        return (
            (x_gradient_ND * factor).to(x_gradient_ND.dtype),
            weight_gradient_VD * factor,
            None,
            None,
            None,
            None,
            None,
        )

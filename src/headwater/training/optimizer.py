"""AdamW and Muon over groups of parameters, and their state by the names of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from headwater.core.errors import MismatchError
from headwater.model.config import ModelConfig
from headwater.model.transformer import Transformer
from headwater.training.config import AdamW, Average, Muon, Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration. Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon)."""


class Ranks(Protocol):
    """The processes that train a model together, of which each may hold only a part of a parameter."""

    def whole(self, tensor: Tensor, parameter: nn.Parameter) -> Tensor:
        """All of a tensor that is laid out as a parameter."""
        ...

    def part(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:
        """What this rank holds of a whole tensor, laid out as a parameter."""
        ...

    def divide(self, stacked: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
        """Do work on a stack of matrices [count, rows, columns], each rank a share of it; all get the whole."""
        ...


class OneRank:
    """A process that has its parameters whole."""

    def whole(self, tensor: Tensor, parameter: nn.Parameter) -> Tensor:  # noqa: ARG002
        """The tensor."""
        return tensor

    def part(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:  # noqa: ARG002
        """The tensor."""
        return whole

    def divide(self, stacked: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
        """All of the work."""
        return work(stacked)


class Optimizers:
    """All optimizers of a run as one.

    Attributes:
        parameters: what is trained, by name.
    """

    def __init__(
        self,
        model: Transformer,
        settings: Optimizer,
        precision: torch.dtype = torch.float32,
        ranks: Ranks | None = None,
        average: Average | None = None,
    ) -> None:
        """Make the optimizers for a model.

        Source of muP's rates: Yang et al. 2022 (arXiv:2203.03466), table 8, for AdamW: matrices 1 / width ratio, vectors
        and embeddings as they are; the last norm, whose weight is our output multiplier, like it 1 / width ratio. Muon's
        updates have size 0.2 sqrt(max(rows, columns)), whose spectral norm is to stay the same: 1 / sqrt(width ratio)
        (Yang et al. 2023, arXiv:2310.17813). Decay that does not shrink with the rate: Wortsman et al. 2023
        (arXiv:2309.14322).

        Args:
            model: what is trained.
            settings: which optimizer, and its rates.
            precision: number format of Muon's iteration.
            ranks: who else trains this model.
            average: whether to average the weights over the last steps.
        """
        self._ranks = ranks or OneRank()
        self._average = average
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        matrices = {name: p for name, p in self.parameters.items() if name.startswith("blocks.") and p.dim() == 2}
        others = {name: p for name, p in self.parameters.items() if name not in matrices}
        rate = settings.learning_rate if isinstance(settings, AdamW) else settings.adamw_learning_rate
        decay = settings.weight_decay if isinstance(settings, AdamW) else 0.0
        assert not isinstance(rate, str), "a rate that no law has given"
        assert not isinstance(decay, str), "a decay that no law has given"
        spared = isinstance(settings, AdamW) and not settings.decay_embeddings
        # with muP matrices and the last norm learn more slowly the wider the model is; rate x decay stays what it was
        slower = 1 / model.config.width_ratio
        last = [p for name, p in others.items() if name.startswith("norm.")]
        vectors = [p for name, p in others.items() if p.dim() < 2 and not name.startswith("norm.")]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others.values() if p.dim() == 2], "weight_decay": 0.0 if spared else decay},
            {"params": vectors, "weight_decay": 0.0},
            {"params": last, "weight_decay": 0.0, "lr": rate * slower},
        ]
        if isinstance(settings, AdamW):
            matrix_group = {"params": list(matrices.values()), "weight_decay": decay / slower, "lr": rate * slower}
            groups.insert(0, matrix_group)
        for group in groups:  # torch's decay knows no caution: it is done here
            group["cautious"] = group["weight_decay"] if settings.cautious_decay else 0.0
            group["weight_decay"] -= group["cautious"]
        betas = (settings.beta1, settings.beta2)
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=rate, betas=betas, eps=settings.epsilon, fused=True)
        ]
        if isinstance(settings, Muon):
            pieces = {p: _row_pieces(name, len(p), model.config) for name, p in matrices.items()}
            self._all.append(BatchedMuon(pieces, settings, precision, slower**0.5, self._ranks))
        for group in self._groups():
            group["peak"] = group["lr"]

    def step(self, rate_share: float) -> None:
        """Update the weights from their gradients with `rate_share` of the peak learning rates, and drop the gradients."""
        for group in self._groups():
            group["lr"] = group["peak"] * rate_share
        careful = [
            (parameter, parameter.detach().clone(), group["lr"] * group["cautious"])
            for group in self._groups()
            if group.get("cautious")
            for parameter in group["params"]
        ]
        for optimizer in self._all:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, before, share in careful:
                update = parameter - before
                parameter.copy_(before)
                shrink(parameter, update, share, cautious=True)
                parameter.add_(update)
            if self._average:
                self._follow(1 / self._average.memory_steps)

    def _follow(self, weight: float) -> None:
        """Move the averages towards the weights; the first weights are an average of their own."""
        for optimizer in self._all:
            for parameter, state in optimizer.state.items():
                if AVERAGE in state:
                    state[AVERAGE].lerp_(parameter, weight)
                else:
                    state[AVERAGE] = parameter.detach().clone()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters be what is read out: partly themselves, partly their averages; then what they were, to the bit."""
        found = [
            (p, state[AVERAGE]) for optimizer in self._all for p, state in optimizer.state.items() if AVERAGE in state
        ]
        if self._average is None or not found:
            yield
            return
        kept = [parameter.detach().clone() for parameter, _ in found]
        with torch.no_grad():
            for parameter, average in found:
                parameter.lerp_(average, self._average.share)
        try:
            yield
        finally:
            with torch.no_grad():
                for (parameter, _), before in zip(found, kept, strict=True):
                    parameter.copy_(before)

    def drop_gradients(self) -> None:
        """Forget the gradients without an update."""
        for optimizer in self._all:
            optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """The rate of the last update: that of the matrices."""
        return float(self._all[-1].param_groups[0]["lr"])

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, as `<parameter>/<what>`."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.parameters.items()}
        found = {}
        for optimizer in self._all:
            for parameter, state in optimizer.state.items():
                found |= {f"{names[parameter]}/{what}": tensor for what, tensor in state.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `tensors` gave."""
        for optimizer in self._all:
            optimizer.state.clear()
        owners: dict[Any, torch.optim.Optimizer] = {
            p: optimizer for optimizer in self._all for group in optimizer.param_groups for p in group["params"]
        }
        for key, tensor in tensors.items():
            name, _, what = key.rpartition("/")
            parameter = self.parameters[name]
            own = tensor.to(parameter.device)
            alike = own.shape == parameter.shape  # else a count, or a number for each row: whole on every rank
            owners[parameter].state[parameter][what] = self._ranks.part(own, parameter) if alike else own

    def begin_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over moments that came with the first weights; a parameter that has none among them begins afresh.

        An average is not taken over: it is of another run.

        Raises:
            MismatchError: they are of another optimizer.
        """
        keeps = {
            p: MOMENTS[type(optimizer)]
            for optimizer in self._all
            for group in optimizer.param_groups
            for p in group["params"]
        }
        kept = {name: keeps[parameter] for name, parameter in self.parameters.items()}
        tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(f"/{AVERAGE}")}
        for key in tensors:
            name, _, what = key.rpartition("/")
            if what not in kept[name]:
                raise MismatchError(
                    f"the optimizer state that came with the weights has {what} of {name}; this optimizer keeps "
                    f"{', '.join(kept[name])}",
                    place="train.optimizer",
                    hint="train with the optimizer of the source, or set optimizer_state of the source to fresh",
                )
        self.restore(tensors)

    def _groups(self) -> Iterable[dict[str, Any]]:
        return (group for optimizer in self._all for group in optimizer.param_groups)


class Piece(NamedTuple):
    """A part of a joint matrix, as views of whole tensors."""

    update: Tensor
    """What is added to it, to be filled in [rows, columns]."""
    direction: Tensor
    """The momentum, a look ahead [rows, columns]."""
    variance: Tensor
    """Mean square of each row of earlier updates [rows, 1]; anything where that is not remembered."""


class BatchedMuon(torch.optim.Optimizer):
    """Muon with all pieces of equal shape in one batched iteration, and joint matrices taken apart into their parts.

    Source: as class `Muon` of the settings. We do not use torch.optim.Muon: it goes matrix by matrix, would take query,
    key and value rows as one matrix, and always computes in bf16, which processors without bf16 arithmetic emulate.
    """

    def __init__(
        self,
        pieces: Mapping[nn.Parameter, list[int]],
        settings: Muon,
        precision: torch.dtype,
        slower: float = 1.0,
        ranks: Ranks | None = None,
    ) -> None:
        """Make the optimizer.

        Args:
            pieces: matrix -> rows of each of its parts.
            settings: rates.
            precision: number format of the iteration.
            slower: factor of the rate, by which the decay is divided.
            ranks: who else trains these matrices; each iterates a share of them.
        """
        rate, decay = settings.learning_rate, settings.weight_decay
        assert not isinstance(rate, str), "a rate that no law has given"
        assert not isinstance(decay, str), "a decay that no law has given"
        group = {"lr": rate * slower, "weight_decay": decay / slower}
        super().__init__([{"params": list(pieces), **group}], {})
        self._pieces = pieces
        self._settings = settings
        self._precision = precision
        self._ranks = ranks or OneRank()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the matrices from their gradients."""
        assert closure is None, "Muon does not evaluate the loss again"
        momentum, rate, decay = self._settings.momentum, *(self.param_groups[0][key] for key in ("lr", "weight_decay"))
        updates: dict[nn.Parameter, Tensor] = {}
        by_shape: dict[tuple[int, ...], list[Piece]] = {}
        for parameter, rows in self._pieces.items():
            assert parameter.grad is not None, "a matrix without gradient"
            state = self._state_of(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - momentum)
            ahead = self._ranks.whole(parameter.grad.lerp(state["momentum"], momentum), parameter)
            updates[parameter] = torch.empty_like(ahead)
            whole = (updates[parameter], ahead, state.get("variance", ahead))
            for piece in zip(*(tensor.split(rows) for tensor in whole), strict=True):
                by_shape.setdefault(tuple(piece[0].shape), []).append(Piece(*piece))
        for shape, group in by_shape.items():
            stacked = torch.stack([piece.direction for piece in group]).to(self._precision)
            changes = self._ranks.divide(stacked, self._orthogonalize)
            if self._settings.variance_beta:
                changes = self._even_out(changes, [piece.variance for piece in group])
            scale = 0.2 * max(shape) ** 0.5
            for piece, change in zip(group, changes, strict=True):
                piece.update.copy_(change).mul_(-rate * scale)
        for parameter, update in updates.items():
            own = self._ranks.part(update, parameter)
            shrink(parameter, own, rate * decay, self._settings.cautious_decay)
            parameter.add_(own)

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is remembered of a matrix; the mean squares of rows are whole on each rank."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            if self._settings.variance_beta:
                state["variance"] = torch.zeros(len(parameter), 1, device=parameter.device)
        return state

    def _even_out(self, changes: Tensor, variances: list[Tensor]) -> Tensor:
        """Divide rows by the root of their mean square over time, and keep the norm of each matrix [count, rows, columns]."""
        changes = changes.float()
        variance = torch.stack(variances).lerp(
            changes.square().mean(dim=2, keepdim=True), 1 - self._settings.variance_beta
        )
        for old, new in zip(variances, variance, strict=True):
            old.copy_(new)
        evened = changes * variance.clamp_min(1e-10).rsqrt()
        before, after = (matrices.norm(dim=(1, 2), keepdim=True) for matrices in (changes, evened))
        return evened * (before / after.clamp_min(1e-10))

    def _orthogonalize(self, matrices: Tensor) -> Tensor:
        if self._settings.equilibrate_rows:
            matrices = matrices / matrices.norm(dim=2, keepdim=True).clamp_min(1e-7)
        return orthogonalize(matrices, self._settings.newton_schulz_steps)


def shrink(parameter: Tensor, update: Tensor, share: float, cautious: bool) -> None:
    """Take away a share of a parameter [0 to 1]; the cautious way only where the update makes a weight smaller as well."""
    if cautious:
        parameter.addcmul_(parameter, (parameter * update < 0).to(parameter.dtype), value=-share)
    else:
        parameter.mul_(1 - share)


AVERAGE = "average"
"""The average of a parameter over the last steps, among what an optimizer keeps of it."""
MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    BatchedMuon: ("momentum", "variance"),
}
"""What each optimizer keeps of a parameter."""


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Bring the singular values of each matrix close to 1 [count, rows, columns].

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon): quintic Newton-Schulz iteration with coefficients
    that leave singular values between about 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _row_pieces(name: str, rows: int, config: ModelConfig) -> list[int]:
    """Rows of each part of a block's matrix: joint matrices are made of several."""
    if name.endswith("attention.qkv.weight"):
        kv = config.num_kv_heads * config.head_size
        return [config.num_heads * config.head_size, kv, kv]
    if name.endswith("ffn.gate_up.weight"):
        return [config.ffn_size, config.ffn_size]
    return [rows]

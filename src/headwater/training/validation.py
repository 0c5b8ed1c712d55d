"""The loss on held-out documents of each source, always the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.core.stage import Workspace
from headwater.model.transformer import Transformer
from headwater.tokens.loader import Batch, HeldOutBatches
from headwater.tokens.shards import HELD_OUT, TokenFolder
from headwater.training.config import Train
from headwater.training.distributed import Team


class Validation:
    """Measures a model on some held-out documents of each source, of those too that it is not trained on."""

    def __init__(
        self,
        settings: Train,
        tokens: Path,
        shares: Mapping[str, int],
        rows: int,
        out: Workspace,
        team: Team | None = None,
    ) -> None:
        """Open the held-out documents.

        Args:
            settings: how many tokens, in rows of which length.
            tokens: folder of the stage encode.
            shares: how the training rows are shared out between the sources.
            rows: how many of them at a time: as many as in training.
            out: told of sources that have too little to measure.
            team: the ranks that share the work.
        """
        self._team = team or Team()
        self._rows = rows
        self._shares = dict(shares)
        self._sources: dict[str, HeldOutBatches] = {}
        folder = TokenFolder(tokens)
        watched = [name for name in folder.sources if name not in shares and folder.counts(name, HELD_OUT).documents]
        for name in (*shares, *watched):
            try:
                batches = HeldOutBatches(tokens, name, settings.sequence_length, self._rows, settings.validation_tokens)
            except MismatchError as error:
                out.warn(f"no validation loss for source '{name}': {error.problem}")
                continue
            self._sources[name] = batches

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that are measured."""
        return tuple(self._sources)

    def __call__(self, model: Transformer, device: str) -> dict[str, dict[str, float]]:
        """Measure: loss [nats per token] and bits per byte of each source, and in `total`.

        Totals are of the sources of the mixture. The total loss is that of the mixture, to be compared with the training loss. The total of bits per byte is all
        bits over all bytes of the documents measured, as in the stage evaluate: each source weighs by its bytes.
        """
        loss = {name: self._loss(model, batches, device) for name, batches in self._sources.items()}
        bits = {name: self._sources[name].bits_per_byte(value) for name, value in loss.items()}
        if loss:
            mixed = [name for name in self._shares if name in loss] or list(loss)
            loss["total"] = _mean(loss, {name: self._shares.get(name, 1) for name in mixed})
            bits["total"] = _mean(bits, {name: self._sources[name].bytes for name in mixed})
        return {"validation_loss": loss, "validation_bits_per_byte": bits}

    def _loss(self, model: Transformer, batches: HeldOutBatches, device: str) -> float:
        total = 0.0
        for batch, counted in self._mine(batches):
            # Gradient mode stays on and short batches are filled up, because the compiled code was made for training
            # and for this many rows; anything else would compile again.
            tokens, targets, documents = (tensor.to(device) for tensor in _fill(batch, self._rows))
            with torch.enable_grad():
                losses = model.token_losses(tokens, targets, documents)
            total += float(losses.flatten()[:counted].double().sum())
        return self._team.sum(total)[0] / batches.tokens

    def _mine(self, batches: HeldOutBatches) -> list[tuple[Batch, int]]:
        """The batches of this rank with how many of their targets count: as many batches for each rank."""
        left, found = batches.tokens, []
        for batch in batches:
            counted = min(batch.tokens.size, left)
            found.append((batch, counted))
            left -= counted
        found += [(found[-1][0], 0)] * (-len(found) % self._team.ranks)
        return found[self._team.rank :: self._team.ranks]


def _mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(weight * values[name] for name, weight in weights.items()) / sum(weights.values())


def _fill(batch: Batch, rows: int) -> list[Tensor]:
    missing = rows - len(batch.tokens)
    return [torch.from_numpy(np.pad(array, ((0, missing), (0, 0)), mode="edge")) for array in batch]

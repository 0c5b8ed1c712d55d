"""How well an existing model foresees texts: what the cleaning step `perplexity` asks."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headwater.core.errors import HeadwaterError, InputError
from headwater.core.hardware import Machine, tensor_device
from headwater.core.store import read_json
from headwater.evaluation.opening import as_input, first_token, is_checkpoint, load_weights
from headwater.evaluation.score import BATCH_TOKENS, document_losses, not_finite
from headwater.model import checkpoint, hf
from headwater.tokens.codec import Codec

_HINT = "check the model of `use: perplexity`"


class Scorer:
    """A model and its tokenizer, which tell the bits per byte of texts.

    One batch is scored at a time: threads take turns, because each batch already uses the processor that the machine gives
    and a second one would only take memory. A copy in another process opens the model there.
    """

    def __init__(self, folder: Path, tokenizer: Path, machine: Machine) -> None:
        """Open a model; see `open_scorer`."""
        self._opened = (folder, tokenizer, machine)
        hf.check_vocabulary(_rows(folder), tokenizer)
        self.codec = Codec(tokenizer)
        try:
            self.model = load_weights(folder, tensor_device(machine))[0].eval()
        except HeadwaterError as error:
            raise as_input(error, _HINT) from None
        self.first = first_token(self.codec)
        self._threads = machine.processor_threads
        self._turn = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., Scorer], tuple[Path, Path, Machine]]:
        """Pickle the paths, not the model; a task of a cluster has one processor."""
        folder, tokenizer, machine = self._opened
        return _opened_here, (folder, tokenizer, machine.model_copy(update={"threads": 1}))

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the model."""
        config = self.model.config
        return {
            "parameters": config.parameters(),
            "context_length": config.context_length,
            "vocab_size": config.vocab_size,
            "device": self.model.embedding.weight.device.type,
        }

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Bits per byte of each text [texts] float64; of a text without bytes NaN.

        Raises:
            InputError: the model's predictions are not finite numbers.
        """
        first = np.array([self.first], np.uint32)
        with self._turn:
            torch.set_num_threads(self._threads)
            documents = [np.concatenate([first, ids]) for ids in self.codec.encode(texts)]
            try:
                losses = document_losses(self.model, documents, context_length=BATCH_TOKENS)
            except InputError:
                raise not_finite(str(self._opened[0])) from None
        sizes = np.array([len(text.encode()) for text in texts], np.float64)
        return np.divide(losses, sizes * math.log(2), out=np.full(len(texts), np.nan), where=sizes > 0)


def open_scorer(folder: Path, tokenizer: Path, machine: Machine) -> Scorer:
    """Open a model to score texts with, in fp32.

    Args:
        folder: a checkpoint of Headwater's, or a Hugging Face folder.
        tokenizer: folder with tokenizer.json and tokenizer_config.json.
        machine: on which device, with how many threads.

    Raises:
        InputError: the folder cannot be read.
        MismatchError: the model is of another kind than ours, or the tokenizer is not its own.
    """
    return Scorer(folder, tokenizer, machine)


@functools.lru_cache(1)
def _opened_here(folder: Path, tokenizer: Path, machine: Machine) -> Scorer:
    """The same scorer for every shard that comes to this process."""
    return open_scorer(folder, tokenizer, machine)


def _rows(folder: Path) -> int:
    """Tokens that a model knows, told before its weights are read."""
    try:
        if is_checkpoint(folder):
            return checkpoint.read_info(folder, verify=False).config.token_types
        path = folder / "config.json"
        return hf.model_config(read_json(path), str(path)).token_types
    except HeadwaterError as error:
        raise as_input(error, _HINT) from None

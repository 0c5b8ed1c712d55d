"""The loop that peers without a trainer of their own get in bench/training.py."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from torch import Tensor
from turns import JOB, Turns


def train(step: Callable[[Tensor, Tensor], None]) -> None:
    """Call `step` with inputs and targets [rows, sequence] int64, for ever."""
    torch.set_num_threads(JOB["threads"])
    turns, tokens = Turns(), torch.from_numpy(np.load(JOB["tokens"])).long()
    batches = tokens.split(JOB["rows"])
    for number in count():
        rows = batches[number % len(batches)]
        step(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        turns.done()

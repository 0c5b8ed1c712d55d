"""nanoGPT's half of bench/training.py: its model and optimizer as train.py uses them on a processor.

There train.py takes no autocast (fp32), and its README says --compile=False; the variant "compile" does compile. GPT-2
has other layers than a Llama: same width, depth, heads and vocabulary, and a feed-forward layer of 4 x width.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from nanogpt_model import gpt
from plain_loop import train
from turns import JOB

sys.path.insert(0, JOB["clone"])


def main() -> None:
    model = gpt(JOB["shape"], JOB["sequence"])
    optimizer = model.configure_optimizers(1e-1, 6e-4, (0.9, 0.95), "cpu")
    run: Any = torch.compile(model) if JOB["variant"] == "compile" else model

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        _, loss = run(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    train(step)


if __name__ == "__main__":
    main()

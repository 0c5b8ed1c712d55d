"""nanochat's half of bench/training.py: its model and optimizer, compiled as base_train.py does, on a processor.

It has more parameters than the others (value embeddings, an untied head). NANOCHAT_DTYPE chooses fp32 (its default on
a processor) or bfloat16.
"""

from __future__ import annotations

import os
import sys

import torch
from turns import JOB

if JOB["variant"] == "bf16":
    os.environ["NANOCHAT_DTYPE"] = "bfloat16"
sys.path.insert(0, JOB["clone"])


def main() -> None:
    from nanochat import gpt
    from plain_loop import train

    shape = JOB["shape"]
    config = gpt.GPTConfig(
        sequence_len=JOB["sequence"],
        vocab_size=shape["vocab_size"],
        n_layer=shape["num_layers"],
        n_head=shape["num_heads"],
        n_kv_head=shape["num_heads"],
        n_embd=shape["hidden_size"],
        window_pattern="L",
    )
    model = gpt.GPT(config)
    model.init_weights()
    optimizer = model.setup_optimizer()
    run = torch.compile(model, dynamic=False)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        run(inputs, targets).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)

    train(step)


if __name__ == "__main__":
    main()

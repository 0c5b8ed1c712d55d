"""nanoGPT's model in the shape that a benchmark asks for; its clone is on the path of whoever imports this."""

from __future__ import annotations

from typing import Any


def gpt(shape: dict[str, int], sequence: int) -> Any:
    """A GPT-2 as nanoGPT makes it, without dropout and biases: its configuration for training."""
    import model as nanogpt

    config = nanogpt.GPTConfig(
        block_size=sequence,
        vocab_size=shape["vocab_size"],
        n_layer=shape["num_layers"],
        n_head=shape["num_heads"],
        n_embd=shape["hidden_size"],
        dropout=0.0,
        bias=False,
    )
    return nanogpt.GPT(config)

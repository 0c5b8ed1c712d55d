"""litgpt's half of bench/training.py: its GPT in the shape of our Llama, compiled, by Fabric as its pretrain.py does."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from litgpt.model import GPT, Config
from litgpt.utils import chunked_cross_entropy
from plain_loop import train
from turns import JOB

PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}


def main() -> None:
    shape = JOB["shape"]
    config = Config(
        block_size=JOB["sequence"],
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        n_layer=shape["num_layers"],
        n_head=shape["num_heads"],
        n_embd=shape["hidden_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        intermediate_size=shape["ffn_size"],
    )
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=PRECISION[JOB["variant"]])
    with fabric.init_module():
        model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    compiled: Any = torch.compile(model)
    run = fabric.setup(compiled)
    optimizer = fabric.setup_optimizers(
        torch.optim.AdamW(run.parameters(), lr=4e-4, weight_decay=0.1, betas=(0.9, 0.95), fused=True)
    )

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> None:
        loss = chunked_cross_entropy(run(inputs), targets)
        fabric.backward(loss)
        fabric.clip_gradients(run, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()

    train(step)


if __name__ == "__main__":
    main()

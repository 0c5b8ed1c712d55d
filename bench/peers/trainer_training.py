"""transformers.Trainer's half of bench/training.py: its defaults, the course's settings, or bf16 by autocast."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from turns import JOB, Turns

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "bf16": {"bf16": True},
    "course": {"bf16": True, "gradient_checkpointing": True},  # and the model's weights in bf16
}


class Steps(TrainerCallback):
    """Tells of each step's end."""

    def __init__(self) -> None:
        self.turns = Turns()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step is done."""
        self.turns.done()


def main() -> None:
    torch.set_num_threads(JOB["threads"])
    transformers.utils.logging.set_verbosity_error()
    steps, model = Steps(), LlamaForCausalLM(LlamaConfig(**JOB["llama"]))
    if JOB["variant"] == "course":
        model = model.to(torch.bfloat16)
    rows = torch.from_numpy(np.load(JOB["tokens"])).long()
    arguments = TrainingArguments(
        f"{JOB['folder']}/trainer-{JOB['number']}",
        max_steps=1_000_000,
        per_device_train_batch_size=JOB["rows"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **VARIANTS[JOB["variant"]],
    )
    data = [{"input_ids": row, "labels": row} for row in rows[:, :-1]]
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[steps]).train()


if __name__ == "__main__":
    main()

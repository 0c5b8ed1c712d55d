"""nanoGPT's half of bench/speedrun.py: its model, batches, optimizer and schedule as train.py has them on a processor.

Only the end differs: training stops after so many processor seconds of this process, and the cosine ends there.
Validation measures the rows that Headwater measures, so that both report the same number. There train.py takes no
autocast (fp32), and its README says --compile=False. Given a number of steps instead, the same steps are computed sooner,
in bf16 and compiled, for their losses alone: their seconds are those of an fp32 run.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

JOB: dict[str, Any] = json.loads(sys.argv[1])
sys.path.insert(0, JOB["clone"])

import numpy as np  # noqa: E402
import torch  # noqa: E402
from nanogpt_model import gpt  # noqa: E402

BETAS, DECAY, CLIP, FINAL_SHARE = (0.9, 0.99), 0.1, 1.0, 0.1
"""Source: nanoGPT's config/train_shakespeare_char.py, whose model and batch are about as small, and train.py."""


def rate(step: int, done: float) -> float:
    """train.py's get_lr, with the share of the run that is done in place of that of the steps."""
    if step < JOB["warmup"]:
        return JOB["rate"] * (step + 1) / (JOB["warmup"] + 1)
    coefficient = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
    return JOB["rate"] * (FINAL_SHARE + coefficient * (1 - FINAL_SHARE))


@torch.no_grad()
def measure(model: Any, held_out: dict[str, np.ndarray]) -> float:
    """Mean loss of the targets that count [nats per token]."""
    model.eval()
    total, counted = 0.0, 0
    for tokens, targets in zip(held_out["tokens"], held_out["targets"], strict=True):
        wanted = torch.from_numpy(targets)
        _, loss = model(torch.from_numpy(tokens), wanted)
        count = int((wanted >= 0).sum())
        total, counted = total + float(loss) * count, counted + count
    model.train()
    return total / counted


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1337 + JOB["seed"])
    rows, length = JOB["rows"], JOB["sequence"]
    model = gpt(JOB["shape"], JOB["sequence"])
    optimizer = model.configure_optimizers(DECAY, JOB["rate"], BETAS, "cpu")
    data = np.memmap(JOB["data"], dtype=np.uint16, mode="r")
    held_out = dict(np.load(JOB["held_out"]))
    compiled: Any = torch.compile(model) if JOB["steps"] else model
    curve, step, due = [], 0, 0.0
    while (done := step / JOB["steps"] if JOB["steps"] else time.process_time() / JOB["processor_seconds"]) < 1:
        if done >= due:
            curve.append([step, time.process_time(), measure(model, held_out)])
            print(f"step {step}: {curve[-1][2]:.4f} nats per token", file=sys.stderr, flush=True)
            due += 1 / JOB["measurements"]
        for group in optimizer.param_groups:
            group["lr"] = rate(step, done)
        begins = torch.randint(len(data) - length, (rows,))
        inputs = torch.stack([torch.from_numpy(data[i : i + length].astype(np.int64)) for i in begins])
        targets = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + length].astype(np.int64)) for i in begins])
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(JOB["steps"])):
            _, loss = compiled(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
    final = measure(model, held_out)
    curve.append([step, time.process_time(), final])
    result = {"steps": step, "tokens": step * rows * length, "curve": curve, "loss": final}
    result |= {"parameters": model.get_num_params(non_embedding=False), "processor_seconds": time.process_time()}
    Path(JOB["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()

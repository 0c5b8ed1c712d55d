"""Tokens written per second beside transformers.generate: the same weights, prompt and greedy text, batch 1 and more.

Both run in this process in turns, with a KV cache, on the same threads and in the same number format; in fp32 the texts must be
the same.

    python bench/generation.py                     # 15M and 135M parameters, batch 1
    python bench/generation.py --rows 8
    python bench/generation.py --dtype bfloat16
    python bench/generation.py --threads 1 --clock processor    # on a busy machine
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM

from headwater.core.hardware import processor_name
from headwater.core.store import write_json
from headwater.core.units import format_count
from headwater.evaluation.config import Sampling
from headwater.evaluation.generate import generate
from headwater.model import hf
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model

MODELS = {
    "15m": ModelConfig(vocab_size=8192, hidden_size=384, num_layers=6, num_heads=6, ffn_size=1024, context_length=512),
    "135m": ModelConfig(
        vocab_size=49_152,
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        ffn_size=1536,
        context_length=2048,
        rope_theta=100_000.0,
        norm_epsilon=1e-5,
    ),
}
"""A small model of ours, and the shape of SmolLM2-135M."""


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}


def write_tokenizer(folder: Path, vocab_size: int) -> Path:
    """A tokenizer that is never asked, for a folder that transformers accepts."""
    folder.mkdir()
    vocabulary = {f"t{n}": n for n in range(vocab_size)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="t0")).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": "t0", "tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


def measure(
    config: ModelConfig, rows: int, prompt: int, new: int, rounds: int, clock: Clock, dtype: torch.dtype
) -> None:
    """Let both write in turns, and print their speeds."""
    model = random_model(config, seed=0).eval()
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, config.vocab_size, (rows, prompt), generator=random)
    settings = Sampling(max_new_tokens=new, temperature=0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        hf.write_folder(folder / "model", model, write_tokenizer(folder / "tokenizer", config.vocab_size))
        theirs = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).eval()
    model = model.to(dtype)
    theirs.generation_config.eos_token_id = None
    ours_seconds, their_seconds = [], []
    for _ in range(rounds + 1):  # the first is not counted
        begun = clock()
        ours = torch.tensor(list(generate(model, prompts.tolist(), settings))).T
        between = clock()
        with torch.inference_mode():
            found = theirs.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                min_new_tokens=new,
                max_new_tokens=new,
            )
        their_seconds.append(clock() - between)
        ours_seconds.append(between - begun)
        same = torch.equal(ours, found[:, prompt:])
        assert same or dtype != torch.float32, "the two wrote different texts"
    fast, slow = statistics.median(ours_seconds[1:]), statistics.median(their_seconds[1:])
    print(
        f"{format_count(config.parameters())} parameters, {rows} x {prompt} tokens of prompt, {new} new: "
        f"Headwater {rows * new / fast:,.1f} tokens/s, transformers {rows * new / slow:,.1f}; ratio {slow / fast:.2f} "
        f"(best {min(their_seconds[1:]) / min(ours_seconds[1:]):.2f})"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments.add_argument("--rows", type=int, default=1)
    arguments.add_argument("--prompt", type=int, default=64)
    arguments.add_argument("--new", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--clock", choices=CLOCKS, default="wall", help="processor time suits a busy machine")
    arguments.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    transformers.utils.logging.set_verbosity_error()
    print(
        f"{processor_name()}, {given.threads} threads, torch {torch.__version__}, transformers {transformers.__version__}, {given.dtype}"
    )
    for name in given.models:
        dtype = getattr(torch, given.dtype)
        measure(MODELS[name], given.rows, given.prompt, given.new, given.rounds, CLOCKS[given.clock], dtype)


if __name__ == "__main__":
    main()

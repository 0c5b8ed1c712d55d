"""Tasks beside lm-eval's HFLM: processor seconds for the same items, the same exported model, one thread.

`python bench/evaluation.py --data FOLDER` scores the first items of each task with Headwater's engine and with HFLM
(batch size 16, the fastest of its sizes on a processor), both with the model loaded before, everything else included:
prompts, tokens, marks. FOLDER holds the files that the tasks name, or `headwater fetch evals` got them. Each number is
the median of some rounds, in which both take turns.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}

import numpy as np
import pyarrow.parquet as pq
import torch

from headwater.core.hardware import Machine
from headwater.core.log import progress
from headwater.core.stage import Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.evaluation.benchmark import run_tasks
from headwater.evaluation.harness import harness_task
from headwater.evaluation.items import items_of
from headwater.evaluation.opening import open_model
from headwater.evaluation.tasks import choose
from headwater.model import hf
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.tokens.tokenizer import TrainBpe, tokenizer

TASKS = {"piqa": 100, "arc_easy": 60, "arc_easy@5": 40, "lambada": 100, "blimp": 15}
GOALS = {"piqa": 1.3, "arc_easy": 2.0, "arc_easy@5": 5.0, "lambada": 2.0, "blimp": 1.5}


def make_model(folder: Path, vocab_size: int, texts: list[str]) -> Path:
    """A random Llama of 384 x 8 with a tokenizer trained on the tasks' own words."""
    documents, words = folder / "documents", folder / "words"
    with ShardFile(documents / "documents" / "texts-00000.parquet") as shard:
        shard.write(documents_of("texts", texts))
    words.mkdir()
    tokenizer(
        TrainBpe(use="train_bpe", vocab_size=vocab_size, sample_bytes=60_000_000),
        {"documents": documents},
        Workspace(words, Machine(workers=1)),
    )
    shape = {"hidden_size": 384, "num_layers": 8, "num_heads": 6, "num_kv_heads": 6, "context_length": 2048}
    model = random_model(ModelConfig(vocab_size=vocab_size, **shape), 0, "plain")
    hf.write_folder(folder / "model", model, words / "tokenizer")
    print(model.config.describe())
    return folder / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    arguments = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = (
            "hellaswag",
            "boolq",
            "mmlu_cloze",
            "gsm8k@0",
            "sciq",
        )  # so that the tokenizer has enough to learn from
        every = [item for one in choose([*arguments.tasks, *words])[0] for item in items_of(one, arguments.data)]
        place = make_model(folder, arguments.vocab, [f"{item.prompt} {' '.join(item.choices)}" for item in every])
        opened = open_model(str(place), Machine(device="cpu", threads=1))
        theirs = HFLM(pretrained=str(place), device="cpu", batch_size=16, dtype="float32", max_length=2048)
        manager = TaskManager(include_defaults=False)
        for task in arguments.tasks:
            limit = TASKS[task]
            ours, other = [], []
            for turn in range(arguments.rounds):
                (one,) = choose([task])[0]
                begun = time.process_time()
                run_tasks(opened, [one], {}, folder / f"{task}-{turn}", data=arguments.data, limit=limit, show=progress)
                ours.append(time.process_time() - begun)
                said = harness_task(one, folder / "said", data=arguments.data, limit=limit)
                begun = time.process_time()
                found = simple_evaluate(
                    theirs, tasks=[said], task_manager=manager, bootstrap_iters=0, verbosity="ERROR"
                )
                other.append(time.process_time() - begun)
            rows = pq.read_table(folder / f"{task}-0" / "items" / f"{task}.parquet").to_pylist()
            samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
            apart = max(
                float(np.max(np.abs(np.array(row["log_probabilities"]) - [r[0][0] for r in sample["resps"]])))
                for row, sample in zip(rows, samples, strict=True)
            )
            same = sum(row["acc"] == float(sample["acc"]) for row, sample in zip(rows, samples, strict=True))
            mine, his = statistics.median(ours), statistics.median(other)
            print(
                f"{task:<12} {len(rows):>5} items  headwater {mine:7.2f} s  HFLM {his:7.2f} s  {his / mine:5.2f}x "
                f"(goal {GOALS[task]}x)  {same}/{len(rows)} marks equal, log-probabilities {apart:.1e} apart",
                flush=True,
            )


if __name__ == "__main__":
    main()

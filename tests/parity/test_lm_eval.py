"""Tasks against lm-eval: the same log-probabilities, and the same items right, as its HFLM finds on the exported model."""

from __future__ import annotations

import importlib.util
import json
import logging
import pydoc_data.topics
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from headwater.core.hardware import Machine
from headwater.core.log import progress
from headwater.core.stage import Workspace
from headwater.documents.document import ShardFile, documents_of
from headwater.evaluation.benchmark import run_tasks
from headwater.evaluation.harness import harness_task, run_in_harness
from headwater.evaluation.opening import Opened, open_model
from headwater.evaluation.tasks import Chosen, choose, read
from headwater.model import hf
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.tokens.tokenizer import TrainBpe, tokenizer

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's software

TASKS = (
    "piqa",
    "arc_easy",
    "arc_easy@3",
    "hellaswag",
    "sciq",
    "boolq",
    "lambada",
    "winogrande",
    "truthfulqa_mc2",
    "blimp",
)
TOLERANCE = 1e-4


def samples(folder: Path) -> Path:
    path = Path(__file__).parents[1] / "evaluation" / "samples.py"
    spec = importlib.util.spec_from_file_location("task_samples", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_samples(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return samples(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A Llama with random weights far from uniform, exported with a tokenizer of its own."""
    documents, words, folder = (tmp_path_factory.mktemp(name) for name in ("documents", "words", "exported"))
    with ShardFile(documents / "documents" / "topics-00000.parquet") as shard:
        shard.write(documents_of("topics", list(pydoc_data.topics.topics.values())))
    settings = TrainBpe(use="train_bpe", vocab_size=500, sample_bytes=200_000)
    tokenizer(settings, {"documents": documents}, Workspace(words, Machine(workers=1)))
    shape = {"vocab_size": 500, "hidden_size": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2}
    model = random_model(ModelConfig(context_length=512, **shape), 0, "plain")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    hf.write_folder(folder / "model", model, words / "tokenizer")
    return folder / "model"


@pytest.fixture(scope="module")
def opened(exported) -> Opened:
    torch.set_num_threads(1)
    return open_model(str(exported), Machine(device="cpu", threads=1))


@pytest.fixture(scope="module")
def theirs(exported, data, tmp_path_factory) -> dict:
    """What lm-eval says of the exported model, on the same tasks said in its words."""
    return in_lm_eval(exported, [harness_task(one, tmp_path_factory.mktemp("said"), data=data) for one in chosen()])


def chosen() -> list[Chosen]:
    return choose(TASKS)[0]


def in_lm_eval(exported: Path, tasks: list) -> dict:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HFLM(pretrained=str(exported), device="cpu", batch_size=16, dtype="float32")
        manager = TaskManager(include_defaults=False)
        return simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0)


@pytest.fixture(scope="module")
def ours(opened, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    results = run_tasks(opened, chosen(), {}, folder, data=data, show=progress)
    results.check()
    return folder, {one.chosen.name: one for one in results.outcomes}


@pytest.mark.parametrize("name", TASKS)
def test_log_probabilities_and_right_items_are_lm_evals(name, theirs, ours):
    folder, outcomes = ours
    rows = pq.read_table(folder / "items" / f"{name}.parquet").to_pylist()
    samples = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
    assert len(rows) == len(samples) >= 12
    for row, sample in zip(rows, samples, strict=True):
        expected = [response[0][0] for response in sample["resps"]]
        assert row["log_probabilities"] == pytest.approx(expected, abs=TOLERANCE)
        if name == "truthfulqa_mc2":
            assert row["mass"] == pytest.approx(sample["acc"], abs=1e-5)
        else:
            assert row["acc"] == float(sample["acc"])
        if "acc_norm" in sample and row["acc_norm"] is not None and name != "truthfulqa_mc2":
            assert row["acc_norm"] == float(sample["acc_norm"])
    score = outcomes[name].score
    metric = "mass" if name == "truthfulqa_mc2" else "acc"
    assert score.values[metric].value == pytest.approx(theirs["results"][name]["acc,none"])
    error = theirs["results"][name].get("acc_stderr,none")
    if isinstance(error, float):
        assert score.values[metric].standard_error == pytest.approx(error)
    if name == "lambada":
        assert score.values["perplexity"].value == pytest.approx(theirs["results"][name]["perplexity,none"], rel=1e-4)


@pytest.mark.slow
def test_rolling_and_generating_tasks_in_lm_eval(exported, opened, data, tmp_path):
    """Texts longer than the context too, which both cut into windows that do not overlap."""
    texts = [text[:4000] for text in list(pydoc_data.topics.topics.values())[:12]]
    (data / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    own = tmp_path / "own.yaml"
    own.write_text(
        "tasks:\n  texts: {use: rolling, about: a, source: b, licence: c, data: {files: [texts.jsonl]},"
        " text: '{text}', overlap: 0}\n"
    )
    (texts,) = choose([str(own)])[0]
    assert "texts" in read(own)
    said = [harness_task(texts, tmp_path, data=data)]
    found = run_tasks(opened, [texts], {}, tmp_path / "ours", data=data, show=progress)
    expected = in_lm_eval(exported, said)["results"]["texts"]["bits_per_byte,none"]
    assert found.outcomes[0].score.values["bits_per_byte"].value == pytest.approx(expected, rel=1e-5)
    assert run_in_harness(opened, said)["results"]["texts"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-5)

    (sums,) = choose(["gsm8k@2"])[0]
    short = sums.task.model_copy(update={"max_new_tokens": 12})
    said = [harness_task(Chosen("sums", short), tmp_path, data=data)]
    mine = run_in_harness(opened, said)["samples"]["sums"]
    run_tasks(opened, [Chosen("sums", short)], {}, tmp_path / "ours", data=data, show=progress).check()
    rows = pq.read_table(tmp_path / "ours" / "items" / "sums.parquet").to_pylist()
    assert [row["written"][0] for row in rows] == [sample["resps"][0][0] for sample in mine]
    assert [row["exact"] for row in rows] == [sample["exact_match"] for sample in mine]


@pytest.mark.slow
def test_lm_evals_tasks_run_on_our_model(opened, theirs, data, tmp_path):
    """Through HarnessLM the same tasks have the same log-probabilities as in HFLM."""
    said = [
        harness_task(one, tmp_path, data=data) for one in chosen() if one.name in ("arc_easy@3", "lambada", "blimp")
    ]
    mine = run_in_harness(opened, said)
    for task in said:
        pairs = zip(mine["samples"][task["task"]], theirs["samples"][task["task"]], strict=True)
        for one, other in pairs:
            found = np.array([response[0][0] for response in one["resps"]])
            assert found == pytest.approx([response[0][0] for response in other["resps"]], abs=TOLERANCE)
            assert one["acc"] == other["acc"]

"""lm-evaluation-harness (extra `eval`): its tasks on Headwater's models, and Headwater's tasks in it.

`HarnessLM` answers its requests with Headwater's engine; `harness_task` says a task in its words, with the items beside
it in a file, so that the same task runs in both and one can check the other. Source: lm-eval 0.4.13.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.core.errors import InputError, MissingExtraError
from headwater.evaluation.config import Sampling
from headwater.evaluation.items import Item, items_of
from headwater.evaluation.likelihood import Pair, PairEncoder, encode_items, likelihoods
from headwater.evaluation.opening import Opened, first_token
from headwater.evaluation.score import document_losses
from headwater.evaluation.tasks import Chosen, Generate, LanguageModelling, MultipleChoice, Rolling, Schema
from headwater.evaluation.write import write

try:
    from lm_eval.api.model import LM
except ImportError:  # said when it is used
    LM = object

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class HarnessLM(LM):  # type: ignore[misc, valid-type]  # object, where lm-eval is not installed
    """A model of Headwater's as lm-eval knows models."""

    def __init__(self, opened: Opened) -> None:
        """Take an opened model.

        Raises:
            MissingExtraError: lm-eval is not installed.
        """
        if LM is object:
            raise MissingExtraError("lm-eval is not installed", hint="pip install 'headwater[eval]'")
        super().__init__()
        self._opened = opened

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """For each (context, continuation): its log-probability, and whether it is what the model would write."""
        arguments: list[Any] = [request.args for request in requests]
        pairs: list[Pair] = [(context, continuation) for context, continuation in arguments]
        encoder = PairEncoder(self._opened.codec, self._opened.model.config.context_length)
        asked = encode_items(encoder, [[pair] for pair in pairs], lambda n: f"request {n + 1}")
        found = likelihoods(self._opened.model, asked)
        return [(one.log_probability, one.greedy) for (one,) in found]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """For each text its log-probability, in windows that do not overlap, as lm-eval cuts them."""
        first = np.array([first_token(self._opened.codec)], np.int64)
        texts = self._opened.codec.encode([request.args[0] for request in requests])
        documents = [np.concatenate([first, ids]) for ids in texts]
        return [-float(nats) for nats in document_losses(self._opened.model, documents, overlap=0.0)]

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """What the model writes after each context."""
        texts = []
        for request in requests:
            arguments: Any = request.args
            context, asked = arguments
            until = asked.get("until", ())
            warm = asked.get("do_sample", False)
            settings = Sampling(
                max_new_tokens=asked.get("max_gen_toks", 256),
                temperature=asked.get("temperature", 1.0) if warm else 0.0,
                top_k=None,
                top_p=asked.get("top_p", 1.0),
                stop=(until,) if isinstance(until, str) else tuple(until),
            )
            pieces = write(self._opened.model, self._opened.codec, [context], settings, lambda _: None)
            texts.append("".join(piece for _, piece, _ in pieces))
        return texts


def harness_task(chosen: Chosen, folder: Path, *, data: Path | None = None, limit: int | None = None) -> dict[str, Any]:
    """A task as lm-eval's settings, worked examples in the prompts; its items are written to a file.

    Args:
        chosen: the task.
        folder: where to write `<task>.jsonl`.
        data: the user's folder of data.
        limit: at most so many items of each subtask.

    Raises:
        InputError: the items are not at hand, or a task's kind has no counterpart.
    """
    task = chosen.task
    items = items_of(chosen, data, limit)
    path = folder / f"{chosen.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in _records(chosen, items))
    told: dict[str, Any] = {
        "task": chosen.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": task.version},
    }
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    blank = task.delimiter[len(task.delimiter.rstrip()) :]
    match task:
        case MultipleChoice():
            told |= {"output_type": "multiple_choice", "target_delimiter": blank, "metric_list": metrics}
            told |= {"doc_to_text": "prompt", "doc_to_choice": "choices", "doc_to_target": "gold"}
            if task.measure == "mass":
                told |= {"process_results": _mass, "metric_list": metrics[:1]}
        case Schema():
            told |= {"output_type": "multiple_choice", "target_delimiter": blank, "metric_list": metrics[:1]}
            told |= {"doc_to_text": "gold", "doc_to_choice": "choices", "doc_to_target": "target"}
        case LanguageModelling():
            measured = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
            told |= {"output_type": "loglikelihood", "metric_list": [measured, metrics[0]]}
            told |= {"doc_to_text": "prompt", "doc_to_target": "target"}
        case Rolling():
            measured = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
            told |= {"output_type": "loglikelihood_rolling", "metric_list": [measured]}
            told |= {"doc_to_text": "", "doc_to_target": "target"}
        case Generate():
            ignored = {"regexes_to_ignore": list(task.remove), "ignore_case": True}
            measured = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, **ignored}
            asked = {"until": list(task.stop), "max_gen_toks": task.max_new_tokens, "do_sample": False}
            found = {"function": "regex", "regex_pattern": task.answer}
            told |= {"output_type": "generate_until", "generation_kwargs": asked, "metric_list": [measured]}
            told |= {"filter_list": [{"name": "answer", "filter": [found, {"function": "take_first"}]}]}
            told |= {"doc_to_text": "prompt", "doc_to_target": "target"}
        case _:
            raise InputError(f"a task of kind '{task.kind}' is not run by lm-eval", place=chosen.name)
    return told


def _records(chosen: Chosen, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    task = chosen.task
    blank = task.delimiter[len(task.delimiter.rstrip()) :]
    for item in items:
        record: dict[str, Any] = {"hash": item.hash, "prompt": item.prompt + task.delimiter.rstrip()}
        match task:
            case MultipleChoice():
                record |= {"choices": list(item.choices), "gold": item.gold[0], "right": list(item.gold)}
            case Schema():
                contexts = [context.removesuffix(blank) for context, _ in item.pairs]
                record |= {"choices": contexts, "gold": item.gold[0], "target": item.pairs[0][1]}
            case LanguageModelling():
                record |= {"target": blank + item.choices[0]}
            case Rolling():
                record |= {"target": item.prompt}
            case Generate():
                record |= {"target": _answer(task, item)}
        yield record


def _answer(task: Generate, item: Item) -> str:
    from headwater.evaluation.marks import answer_in

    return answer_in(task, item.choices[0]) or ""


def _mass(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    nats = np.array([value for value, _ in results])
    shares = np.exp(nats - nats.max())
    return {"acc": float(shares[doc["right"]].sum() / shares.sum())}


def run_in_harness(opened: Opened, tasks: Sequence[str | dict[str, Any]], **options: Any) -> dict[str, Any]:
    """Run lm-eval's own tasks, by name, or tasks as `harness_task` says them, on a model; returns what lm-eval returns.

    lm-eval's bootstrap of errors is left out: it takes a minute for perplexities and gives what the delta method gives.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    model = HarnessLM(opened)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=any(isinstance(task, str) for task in tasks))
    evaluate: Any = simple_evaluate
    return evaluate(model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **options)

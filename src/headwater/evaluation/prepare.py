"""Records of some datasets to the fields that their tasks' templates name, where that takes more than naming fields.

Each function takes a record in every form in which its dataset is spread, and changes nothing in it. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Record = Mapping[str, Any]


def arc(record: Record) -> Record:
    """`question`, `choices`, `gold` of ARC."""
    if "answerKey" in record:
        choices = record["choices"]
        return {**record, "choices": choices["text"], "gold": choices["label"].index(record["answerKey"])}
    question = record["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    return {**record, "question": question}


def hellaswag(record: Record) -> Record:
    """`query`, `choices`, `gold` of HellaSwag, without the marks that WikiHow left in it.

    Source: lm-eval 0.4, tasks/hellaswag/utils.py.
    """
    if "endings" not in record:
        return record
    context = f"{record['ctx_a']} {record['ctx_b'].capitalize()}"
    return {
        "query": _without_marks(f"{record['activity_label']}: {context}"),
        "choices": [_without_marks(ending) for ending in record["endings"]],
        "gold": int(record["label"]),
    }


def _without_marks(text: str) -> str:
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def winogrande(record: Record) -> Record:
    """`context_options`, `continuation`, `gold` of WinoGrande: the sentence up to each name, and what follows.

    Source: lm-eval 0.4, tasks/winogrande/preprocess_winogrande.py; Trinh and Le 2018 (arXiv:1806.02847).
    """
    if "sentence" not in record:
        return record
    before, _, after = record["sentence"].partition("_")
    names = [record["option1"], record["option2"]]
    return {
        "context_options": [before + name for name in names],
        "continuation": after.strip(),
        "gold": int(record["answer"]) - 1,
    }


def copa(record: Record) -> Record:
    """`query`, `choices`, `gold` of COPA: the premise without its point, a connector, and each end in small letters.

    Source: lm-eval 0.4, tasks/super_glue/copa/utils.py; without its second blank before a choice.
    """
    if "premise" not in record:
        return record
    connector = {"cause": "because", "effect": "therefore"}[record["question"]]
    choices = [record["choice1"], record["choice2"]]
    return {
        "query": f"{record['premise'].strip()[:-1]} {connector}",
        "choices": [choice[0].lower() + choice[1:] for choice in choices],
        "gold": int(record["label"]),
    }


def boolq(record: Record) -> Record:
    """`passage`, `question`, `gold` of BoolQ."""
    if "query" in record:  # Passage: ...\nQuestion: ...?, with the choices no and yes
        passage, _, question = record["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        right = record["choices"][record["gold"]]
        return {
            "passage": passage,
            "question": question.removesuffix("\nAnswer:").rstrip("?"),
            "gold": int(right == "yes"),
        }
    return {**record, "gold": int(record["answer"])}


def lambada(record: Record) -> Record:
    """`context` and `word` of LAMBADA: the last word, cut off at the last blank."""
    if "text" in record:
        context, _, word = record["text"].rpartition(" ")
        return {"context": context, "word": word}
    if "query" in record:
        return {"context": record["query"], "word": record["choices"][0]}
    return {"context": record["context"], "word": record["continuation"].strip()}


def truthfulqa(record: Record) -> Record:
    """`question` and the choices and labels of `mc1` and `mc2`."""
    known = {}
    for name in ("mc1", "mc2"):
        targets = record[f"{name}_targets"]
        if "choices" in targets:
            known[name] = targets
        else:
            known[name] = {"choices": list(targets), "labels": list(targets.values())}
    return {"question": record["question"], **known}


def mmlu(record: Record) -> Record:
    """`question`, `choices`, `gold` of MMLU, and its subject as words."""
    return {**record, "gold": record["answer"], "subject": str(record.get("subject", "")).replace("_", " ")}


def core_language_modelling(record: Record) -> Record:
    """`context` and `continuation` of the files of DCLM's CORE."""
    return {"context": record["context"].strip(), "continuation": record["continuation"].strip()}


PREPARE: Mapping[str, Callable[[Record], Record]] = {
    function.__name__: function
    for function in (arc, hellaswag, winogrande, copa, boolq, lambada, truthfulqa, mmlu, core_language_modelling)
}
"""Functions by the name that a task calls them by."""

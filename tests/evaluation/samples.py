"""A few items for every kind of task, written for these tests, in the form of the datasets that the tasks name."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

ANIMALS = ("cat", "dog", "horse", "fish", "bird", "cow", "hen", "mouse", "goat", "bee", "fox", "duck")
THINGS = ("water", "bread", "stone", "paper", "wood", "glass", "wool", "iron", "sand", "salt", "milk", "clay")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def questions(shift: int = 0) -> list[dict[str, Any]]:
    """Records in the form of ARC."""
    records = []
    for n, animal in enumerate(ANIMALS):
        choices = [f"a {thing}" if k % 2 else f"a bit of {thing}" for k, thing in enumerate(THINGS[n % 8 : n % 8 + 4])]
        labels = ["A", "B", "C", "D"]
        question = f"Which of these would a {animal} number {n + shift} rather not eat, and why is that so?"
        records.append(
            {"question": question, "choices": {"text": choices, "label": labels}, "answerKey": labels[(n + shift) % 4]}
        )
    return records


def write_samples(folder: Path) -> Path:
    """Write the files of all tasks that a test needs; returns the folder to give as --data."""
    write_lines(folder / "arc_easy.jsonl", questions())
    write_lines(folder / "arc_easy.validation.jsonl", questions(shift=100))
    write_lines(folder / "openbookqa.jsonl", [{**r, "question_stem": r["question"]} for r in questions(7)])
    write_lines(
        folder / "piqa.jsonl",
        [
            {
                "goal": f"How do I wash a {a}?",
                "sol1": f"Use {t}.",
                "sol2": f"Use some {t} and wait a while.",
                "label": n % 2,
            }
            for n, (a, t) in enumerate(zip(ANIMALS, THINGS, strict=True))
        ],
    )
    write_lines(
        folder / "sciq.jsonl",
        [
            {
                "support": f" Much is known of {t}." if n % 2 else "",
                "question": f"What is {t} made of?",
                "distractor1": "air",
                "distractor2": "fire",
                "distractor3": "light",
                "correct_answer": f"{t}s",
            }
            for n, t in enumerate(THINGS)
        ],
    )
    write_lines(
        folder / "hellaswag.jsonl",
        [
            {
                "activity_label": "Feeding",
                "ctx_a": f"A man holds a {a} [title] and looks.",
                "ctx_b": "then he",
                "endings": [f"gives it {t}.", "runs [substeps] away.", "sleeps  well.", f"paints the {t} red."],
                "label": str(n % 4),
            }
            for n, (a, t) in enumerate(zip(ANIMALS, THINGS, strict=True))
        ],
    )
    write_lines(
        folder / "winogrande.jsonl",
        [
            {
                "sentence": f"The {a} did not fit next to the {t} because the _ was too big to move.",
                "option1": a,
                "option2": t,
                "answer": str(1 + n % 2),
            }
            for n, (a, t) in enumerate(zip(ANIMALS, THINGS, strict=True))
        ],
    )
    write_lines(
        folder / "lambada.jsonl",
        [
            {"text": f"She had a {a}, and every day it got {t}. One day there was no more {t}."}
            for a, t in zip(ANIMALS, THINGS, strict=True)
        ],
    )
    write_lines(
        folder / "boolq.jsonl",
        [
            {"passage": f"{a.title()}s like {t}." * (1 + n % 3), "question": f"do {a}s like {t}", "answer": n % 2 == 0}
            for n, (a, t) in enumerate(zip(ANIMALS, THINGS, strict=True))
        ],
    )
    write_lines(
        folder / "gsm8k.jsonl",
        [
            {
                "question": f"Ann has {n} {a}s and gets {n} more. How many?",
                "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}",
            }
            for n, a in enumerate(ANIMALS)
        ],
    )
    write_lines(
        folder / "gsm8k" / "train.jsonl",
        [
            {"question": f"Bob has {n} {a}s. How many?", "answer": f"He has {n}.\n#### {n}"}
            for n, a in enumerate(ANIMALS)
        ],
    )
    write_lines(
        folder / "humaneval" / "HumanEval.jsonl",
        [
            {
                "task_id": f"Own/{n}",
                "prompt": f"def add_{n}(x):\n",
                "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n",
                "entry_point": f"add_{n}",
            }
            for n in range(3)
        ],
    )
    truths = [
        {
            "question": f"What do {a}s say?",
            "mc1_targets": {"Nothing at all.": 1, f"They say {t}.": 0, "They sing.": 0},
            "mc2_targets": {"Nothing at all.": 1, "Nothing.": 1, f"They say {t}.": 0, "They sing.": 0},
        }
        for a, t in zip(ANIMALS, THINGS, strict=True)
    ]
    (folder / "truthfulqa").mkdir(exist_ok=True)
    (folder / "truthfulqa" / "mc_task.json").write_text(json.dumps(truths))
    with zipfile.ZipFile(folder / "BLiMP.zip", "w") as archive:
        for name in blimp_names():
            pairs = [
                {"sentence_good": f"The {a}s sleep near {t}.", "sentence_bad": f"The {a}s sleeps near {t}."}
                for a, t in zip(ANIMALS[:2], THINGS, strict=False)
            ]
            archive.writestr(f"data/{name}.jsonl", "\n".join(map(json.dumps, pairs)))
    return folder


def blimp_names() -> list[str]:
    from headwater.evaluation.tasks import Task, shipped

    blimp = shipped()["blimp"]
    assert isinstance(blimp, Task)
    return [name for name, _ in blimp.parts()]

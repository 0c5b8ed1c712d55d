"""Text for the benchmarks of the document stages: any amount, without lasting repetition, with copies put in."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import zstandard

BOOKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "text" / "books-train.jsonl.zst"
WORDS = re.compile(r"\S+")


def sentences() -> list[str]:
    """Real sentences: of classic books where they are at hand, else of the docstrings of the standard library."""
    if BOOKS.is_file():
        with zstandard.open(BOOKS, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in itertools.islice(lines, 100)]
    else:
        trees = [ast.parse(file.read_text(encoding="utf-8")) for file in Path(json.__file__).parents[1].rglob("*.py")]
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts = [ast.get_docstring(node) or "" for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]
    parts = (" ".join(part.split()) for text in texts for part in re.split(r"(?<=[.!?])\s+", text))
    return [part for part in parts if 20 <= len(part) <= 400]


def documents(total_bytes: int, seed: int = 0) -> Iterator[str]:
    """Documents of sentences in random order, of some 2.8 KB on average (log-normal), until they are so many bytes.

    One in 25 is a copy of one of the 1,000 documents before it, one in 12 such a copy with one word in a hundred replaced.
    """
    generator, known = random.Random(seed), sentences()
    recent: list[str] = []
    size = 0
    while size < total_bytes:
        kind = generator.random()
        if recent and kind < 0.04:
            text = generator.choice(recent)
        elif recent and kind < 0.12:
            text = WORDS.sub(lambda word: "changed" if generator.random() < 0.01 else word[0], generator.choice(recent))
        else:
            chosen = generator.choices(known, k=max(1, int(generator.lognormvariate(2.8, 0.9))))
            text = "".join(part + ("\n" if index % 4 == 3 else " ") for index, part in enumerate(chosen)).strip()
            recent = [*recent[-999:], text]
        size += len(text.encode())
        yield text

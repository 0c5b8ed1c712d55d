"""SmolLM2, a real model in a GGUF file: the same logits as the independent reader and transformers, the same greedy text.

`headwater fetch smollm2` gets the file; where it is not in the cache these tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater.core.gguf import GgufFile
from headwater.core.hardware import Machine, cache_folder
from headwater.evaluation.config import Sampling
from headwater.evaluation.generate import generate
from headwater.export import proof, referee
from headwater.model import gguf
from headwater.model.transformer import Transformer
from headwater.tokens.gguf import read_tokenizer

pytestmark = pytest.mark.slow
FILE = cache_folder() / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = (
    "War is not a polite recreation but the vilest thing in life, and we ought to understand that and not play at war."
)
GREEDY = {
    "The capital of France is": " Paris.",
    "Once upon a time, there was a little girl": " named Emma who loved to play in the sun.",
    "def fibonacci(n):": "\n    if n == 0:\n        return",
}
"""Begin of the greedy text. Source: transformers 5.23 on the same file."""


@pytest.fixture(scope="module")
def file() -> Path:
    if not FILE.is_file():
        pytest.skip(f"there is no {FILE}: headwater fetch smollm2")
    return FILE


@pytest.fixture(scope="module")
def model(file: Path) -> Transformer:
    return gguf.read_file(file)[0]


def test_the_tokenizer_cuts_digits_one_by_one_and_keeps_text(file: Path) -> None:
    tokenizer = read_tokenizer(GgufFile(file))
    assert tokenizer.encode("in 2026").tokens == ["in", "Ġ", "2", "0", "2", "6"]
    assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT


def test_others_compute_the_same(file: Path, model: Transformer) -> None:
    row = read_tokenizer(GgufFile(file)).encode(TEXT).ids
    with torch.inference_mode():
        ours = model(torch.tensor([row]))[0].numpy()
    (theirs,) = referee.logits(referee.read_gguf(file), [row])
    assert np.abs(theirs - ours).max() < 1e-4 * ours.std()
    if proof._python_with("transformers", Machine()) is None:
        pytest.skip("transformers is not installed")
    answer = proof._ask("transformers", file, {"texts": [], "rows": [row], "threads": 1}, Machine())
    assert np.abs(answer["logits"][0] - ours).max() < 1e-4 * ours.std()  # type: ignore[index]
    print(json.dumps({"positions": len(row), "apart": float(np.abs(answer["logits"][0] - ours).max() / ours.std())}))


@pytest.mark.parametrize("prompt", GREEDY)
def test_it_writes_as_in_transformers(file: Path, model: Transformer, prompt: str) -> None:
    tokenizer = read_tokenizer(GgufFile(file))
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    steps = generate(model, [ids], Sampling(max_new_tokens=16, temperature=0))
    written = tokenizer.decode([token for (token,) in steps if token is not None])
    assert written.startswith(GREEDY[prompt])

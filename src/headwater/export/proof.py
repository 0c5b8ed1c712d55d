"""The proof of an export: the written files, opened by software that is not ours, give the logits that our model gives.

Two questions, kept apart. Is it the same model: do others compute from the files what we compute from them? That must hold
to the noise of fp32 arithmetic. And what did the number format cost: how far is the model in the files from the one that
was trained? That is measured and written down, and refused only where it is another model.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch

from headwater.core.errors import InputError, MismatchError
from headwater.core.hardware import Machine
from headwater.documents.document import read_batches, shards_in, source_of
from headwater.export import referee
from headwater.model import hf
from headwater.model.fold import fold
from headwater.model.transformer import Transformer

Json = dict[str, Any]

TEXTS, TEXT_CHARACTERS, TOKENS = 4, 2000, 128
"""How many texts are compared, how much of each, and the most tokens of each [characters; tokens]."""
SAME = 1e-3
"""Largest difference of a logit between two programs that compute the same in fp32, in standard deviations of the logits.
Source: ours, docs/lab-notes.md: 1e-6 to 4e-6 for models of 3 layers, 2e-5 for 30; rows of heads in the wrong order give 4."""
SAME_ROUNDED = 0.5
"""The same for llama.cpp where the weights are not F32: it then rounds the other factor of each product as well, to 16 or
8 bits. Source: ours, docs/lab-notes.md: up to 0.005 for F16, 0.05 for BF16, 0.19 for Q8_0."""
ROUNDING = 0.05
"""Most that a number format may change the predictions, as mean Kullback-Leibler divergence [nats per token]. Source: ours;
llama.cpp's table for Llama 3 8B (tools/perplexity/README.md) has 0.0014 for Q8_0 and 0.07 for 4 bits."""

FOLDED = 1e-10
"""Largest difference of a logit that folding may make in fp64, in standard deviations of the logits. Source: ours: 1e-14 to
1e-13, and 1e-7 where only norm_epsilon is forgotten."""

Logits = list[np.ndarray]


@dataclass(frozen=True)
class Exported:
    """Files that were written: what to compare."""

    format: str
    dtype: str
    folder: Path
    gguf: Path | None
    """The .gguf file, if that is the format."""
    written: Transformer
    """The model that was written: the trained one, its tricks folded."""
    reread: Transformer
    """The model as Headwater itself reads it from the files."""
    tokenizer: tokenizers.Tokenizer
    """The same of the tokenizer."""


def prove(model: Transformer, tokenizer: Path, exported: Exported, texts: Sequence[str], machine: Machine) -> Json:
    """Compare an exported model with the one that was trained, in every runtime that is at hand.

    Args:
        model: the model that was trained, with its tricks.
        tokenizer: folder with tokenizer.json.
        exported: what was written.
        texts: real text.
        machine: threads, and the Python in which other software may be installed.

    Returns:
        What was compared, with which software, and the differences; also what was not compared, and why.

    Raises:
        MismatchError: the files do not compute what the model computes; names the software and the difference.
    """
    reference = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    separator = hf.separator_id(tokenizer)
    ids = [reference.encode(text, add_special_tokens=False).ids for text in texts]
    _check_tokens(
        "Headwater", [exported.tokenizer.encode(t, add_special_tokens=False).ids for t in texts], ids, exported
    )
    rows = [[separator, *row][: min(TOKENS, model.config.context_length)] for row in ids]
    before, after = _logits(exported.written, rows), _logits(exported.reread, rows)
    rounding = {**_differences(before, after), "loss_before": _loss(before, rows), "loss_after": _loss(after, rows)}
    if exported.dtype == "float32" and rounding["largest"] > 0:
        raise MismatchError("what was written is not what is read back", place=f"export to {exported.format}", hint="")
    if rounding["divergence"] > ROUNDING:
        problem = (
            f"as {exported.dtype} it is another model: the predictions differ by {rounding['divergence']:.3f} nats per "
            f"token, at most {ROUNDING} is allowed"
        )
        raise MismatchError(problem, place=f"export to {exported.format}", hint="choose a number format with more bits")
    asked = {"texts": list(texts), "rows": rows, "threads": machine.processor_threads}
    checks, missing = [], []
    for name, ask in _runtimes(exported, asked, machine):
        answer = ask()
        if isinstance(answer, str):
            missing.append({"runtime": name, "why": answer})
        else:
            checks.append(_check(name, answer, after, ids, exported))
    if not checks:
        why = "; ".join(f"{each['runtime']}: {each['why']}" for each in missing)
        raise MismatchError(f"nothing could check it ({why})", place=f"export to {exported.format}", hint="")
    return {
        "texts": len(texts),
        "tokens": sum(map(len, rows)),
        "deviation": float(np.concatenate(after).std()),
        "rounding": rounding,
        "folded": _prove_folded(model, exported, rows) if model.config.tricks else None,
        "checks": checks,
        "not_checked": missing,
    }


def _prove_folded(trained: Transformer, exported: Exported, rows: list[list[int]]) -> Json:
    """Compare the model that was trained with the plain one that was written: exactly in fp64, and as they are.

    Raises:
        MismatchError: they are not the same function.
    """
    exact = copy.deepcopy(trained).double()
    found = _differences(_logits(exact, rows, np.float64), _logits(fold(exact), rows, np.float64))
    rounded = _differences(_logits(trained, rows), _logits(exported.written, rows))
    for name, largest, limit in (("fp64", found["largest"], FOLDED), ("fp32", rounded["largest"], SAME)):
        if not largest <= limit:
            problem = f"folding changed the model: in {name} logits are {largest:.2g} standard deviations apart"
            raise MismatchError(problem, place="export", hint="this is a fault of Headwater: please report it")
    tricks = list(trained.config.tricks.told())
    return {"tricks": tricks, "largest_fp64": found["largest"], "largest_fp32": rounded["largest"], "limit": FOLDED}


def texts_of(documents: Path, unwanted: Sequence[str]) -> tuple[list[str], str]:
    """Texts to compare on: the beginnings of held-out documents, of as many sources as there are; and what they are.

    Args:
        documents: folder of a stage that hands on documents.
        unwanted: texts with one of these are passed over: special tokens, which each software treats in its own way.
    """
    for folder, what in ((documents / "held_out", "held-out"), (documents / "documents", "training")):
        by_source: dict[str, list[Path]] = {}
        for shard in shards_in(folder) if folder.is_dir() else ():
            by_source.setdefault(source_of(shard), []).append(shard)
        each = max(1, TEXTS // max(len(by_source), 1))
        texts = [text for shards in by_source.values() for text in _beginnings(shards, each, unwanted)][:TEXTS]
        if texts:
            return texts, f"the beginnings of {what} documents"
    raise InputError("there is no document to compare logits on", place=str(documents), hint="look at what was dropped")


def _beginnings(shards: Sequence[Path], count: int, unwanted: Sequence[str]) -> list[str]:
    """The first texts of a source, long ones if there are."""
    found: list[str] = []
    for shard in shards:
        for batch in read_batches(shard, ["text"]):
            texts = [text[:TEXT_CHARACTERS] for text in batch.column("text").to_pylist()]
            found += [text for text in texts if text.strip() and not any(word in text for word in unwanted)]
            found = sorted(found, key=len, reverse=True)[:count]
            if len(found) == count and len(found[-1]) == TEXT_CHARACTERS:
                return found
    return found


# --------------------------------------------------------------------------------------------------------- runtimes

Answer = Json | str
"""Version, logits and tokens; or why there are none."""


def _runtimes(exported: Exported, asked: Json, machine: Machine) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """Software that can open the files, and how to ask it."""
    yield "the independent reader", lambda: _ask_referee(exported, asked["rows"])
    if exported.format == "huggingface":
        yield "transformers", lambda: _ask("transformers", exported.folder, asked, machine)
    if exported.gguf is not None:
        path, config = exported.gguf, exported.reread.config
        yield "llama.cpp", lambda: _ask("llama_cpp", path, asked, machine)
        if config.qk_norm and config.head_size != 128:  # it reads no attention.key_length
            yield "transformers", lambda: "its reader of GGUF takes every head of a Qwen3 to be 128 wide"
        else:
            yield "transformers", lambda: _ask("transformers", path, asked, machine)


def _ask_referee(exported: Exported, rows: list[list[int]]) -> Answer:
    try:
        if exported.gguf is not None:
            model = referee.read_gguf(exported.gguf)
        elif exported.format == "huggingface":
            model = referee.read_huggingface(exported.folder)
        else:
            model = referee.read_plain(exported.folder)
    except referee.UnknownModelError as error:
        return f"it does not know the model ({error})"
    return {"version": importlib.metadata.version("numpy"), "logits": referee.logits(model, rows), "tokens": None}


def _ask(runtime: str, path: Path, asked: Json, machine: Machine) -> Answer:
    """Run other software in a process of its own."""
    if machine.foreign_python == "off":
        return "machine.foreign_python is off"
    python = _python_with(runtime, machine)
    if python is None:
        package = runtime.replace("llama_cpp", "llama-cpp-python")
        return f"{package} is not installed (machine.foreign_python can name a Python that has it)"
    with tempfile.TemporaryDirectory() as temporary:
        question, answer = Path(temporary) / "asked.json", Path(temporary) / "answer.npz"
        question.write_text(json.dumps(asked), encoding="utf-8")
        script = Path(__file__).with_name("foreign.py")
        command = [python, str(script), runtime, str(path.resolve()), str(question), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = ([line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"])[-1]
            problem = f"{runtime} cannot run it ({last.strip()})"
            raise MismatchError(
                problem, place=f"export to {path.name}", hint="docs/guides/export.md names tested versions"
            )
        with np.load(answer) as found:
            facts = json.loads(str(found["facts"]))
            return {**facts, "logits": [found[f"logits_{index}"] for index in range(len(asked["rows"]))]}


def _python_with(module: str, machine: Machine) -> str | None:
    """A Python in which a module is installed."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    for python in filter(None, (machine.foreign_python, sys.executable)):
        try:
            done = subprocess.run([python, "-c", look, module], capture_output=True, check=False)
        except OSError as error:
            problem = f"cannot be run ({error.strerror or error})"
            hint = "give the path of a Python, such as other/.venv/bin/python"
            raise InputError(problem, place="machine.foreign_python", hint=hint) from None
        if done.returncode == 0:
            return python
    return None


# ------------------------------------------------------------------------------------------------------ comparisons


def _check(name: str, answer: Json, ours: Logits, ids: list[list[int]], exported: Exported) -> Json:
    """What one software found, beside what we found; raises where they differ."""
    place = f"export to {exported.format}"
    theirs = [logits[:, : mine.shape[1]] for logits, mine in zip(answer["logits"], ours, strict=True)]
    shapes = [[each.shape for each in logits] for logits in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise MismatchError(f"{name} gives logits of shape {shapes[0][0]}, expected {shapes[1][0]}", place=place)
    found = _differences(ours, theirs)
    limit = SAME_ROUNDED if name == "llama.cpp" and exported.dtype != "float32" else SAME
    if not found["largest"] <= limit:  # also where it is not a number
        problem = (
            f"{name} {answer['version']} computes other logits: {found['largest']:.2g} standard deviations apart, "
            f"at most {limit:g} is allowed"
        )
        raise MismatchError(
            problem, place=place, hint="this is a fault of Headwater or of that version: please report it"
        )
    if answer["tokens"] is not None:
        _check_tokens(f"{name} {answer['version']}", answer["tokens"], ids, exported)
    return {
        "runtime": name,
        "version": answer["version"],
        **found,
        "limit": limit,
        "tokens_equal": None if answer["tokens"] is None else True,
    }


def _check_tokens(name: str, found: list[list[int]], expected: list[list[int]], exported: Exported) -> None:
    """Complain where a software that reads the files cuts text into other tokens."""
    for index, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
        if theirs != ours:
            at = next(
                (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
            )
            problem = f"{name} cuts the text into other tokens, from token {at} of text {index} on"
            hint = "export with --to huggingface, which keeps any tokenizer"
            raise MismatchError(problem, place=f"export to {exported.format}", hint=hint)


def _logits(model: Transformer, rows: list[list[int]], dtype: type[np.floating] = np.float32) -> Logits:
    with torch.inference_mode():
        return [model(torch.tensor([row]))[0].numpy().astype(dtype) for row in rows]


def _differences(ours: Logits, theirs: Logits) -> Json:
    """How far two sets of logits are apart.

    Returns:
        `largest` difference and its `mean`, in standard deviations of the logits; `divergence`, the mean Kullback-Leibler
        divergence [nats per token]; `same_choice`, the share of positions with the same likeliest token.
    """
    mine, other = np.concatenate(ours).astype(np.float64), np.concatenate(theirs).astype(np.float64)
    apart = np.abs(mine - other) / max(mine.std(), 1e-9)
    p, q = _log_softmax(mine), _log_softmax(other)
    return {
        "largest": float(apart.max()),
        "mean": float(apart.mean()),
        "divergence": max(float((np.exp(p) * (p - q)).sum(axis=-1).mean()), 0.0),
        "same_choice": float((mine.argmax(axis=-1) == other.argmax(axis=-1)).mean()),
    }


def _loss(logits: Logits, rows: list[list[int]]) -> float:
    """Mean loss of the tokens that follow [nats per token]."""
    losses = [
        -_log_softmax(each[:-1])[np.arange(len(row) - 1), row[1:]] for each, row in zip(logits, rows, strict=True)
    ]
    return float(np.concatenate(losses).mean())


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

"""The stage evaluate: what the model knew before training and after, on the same documents and from the same prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from headwater.core.config import nearest
from headwater.core.errors import MismatchError
from headwater.core.hardware import Machine, tensor_device
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.store import write_json
from headwater.evaluation.benchmark import finished, run_tasks
from headwater.evaluation.config import Evaluate
from headwater.evaluation.opening import Opened, check_finite
from headwater.evaluation.score import Score
from headwater.evaluation.tasks import choose
from headwater.evaluation.texts import COMPRESSORS, Sample, compressed, held_out_samples, score_samples
from headwater.evaluation.write import write
from headwater.model.checkpoint import load_model
from headwater.model.transformer import Transformer
from headwater.tokens.codec import Codec
from headwater.tokens.shards import TokenFolder

MODELS = {"untrained": "start", "trained": "checkpoint"}
"""Name in the results -> role of the input that holds the checkpoint."""


class Prompt(NamedTuple):
    """A text to continue."""

    text: str
    source: str | None = None
    """Where it comes from; None: the recipe."""
    reference: str | None = None
    """How the document really goes on."""


def evaluate(settings: Evaluate, inputs: Inputs, out: Workspace) -> Counts:
    """Score and sample the model before and after training; writes `scores.json`, `generations.json`, and `tasks.json`.

    Raises:
        MismatchError: tokens, tokenizer and model do not belong together, or a source does not fit.
        InputError: a checkpoint has weights that are not finite.
        EvaluationError: some tasks have no score.
    """
    torch.set_num_threads(out.machine.processor_threads)
    codec = Codec(inputs["tokenizer"] / "tokenizer")
    folder = TokenFolder(inputs["tokens"])
    folder.check_tokenizer(codec.folder)
    samples = held_out_samples(folder, codec, settings.max_bytes, settings.max_document_bytes)
    for name in folder.sources:
        if name not in samples:
            out.warn(f"source '{name}' has no held-out documents, so it has no score")
    prompts = list(_prompts(settings, samples, folder.sources))
    scores: dict[str, dict[str, Score]] = {}
    written: dict[str, list[str]] = {}
    seconds, tasks = 0.0, {}
    for name, role in MODELS.items():
        model = _open(inputs[role] / "checkpoint", codec, out.machine)
        written[name] = _continue(model, codec, [prompt.text for prompt in prompts], settings, out)
        begun = time.perf_counter()
        tokens = sum(sample.tokens for sample in samples.values())
        with out.progress(f"scoring the {name} model", tokens, "tokens") as bar:
            scores[name] = score_samples(
                model, samples, bar, context_length=settings.context_length, overlap=settings.overlap
            )
        seconds += time.perf_counter() - begun
        if role == "checkpoint" and settings.tasks:
            tasks = _tasks(Opened(name, model, codec, None), settings, out)
    results: dict[str, dict[str, dict[str, Any]]] = {}
    if samples:
        results = {
            name: {source: asdict(score) for source, score in of.items()} for name, of in reversed(scores.items())
        }
        results |= {name: compressed(samples, compress) for name, compress in COMPRESSORS.items()}
    write_json(out.folder / "scores.json", {"bits_per_byte": results})
    write_json(out.folder / "generations.json", _generations(settings, prompts, written))
    predicted = len(MODELS) * sum(sample.tokens for sample in samples.values())
    return {
        "bits_per_byte": {name: of["total"]["value"] for name, of in results.items()},
        "documents": sum(len(sample.texts) for sample in samples.values()),
        "tokens": predicted,
        "tokens_per_second": predicted / seconds if predicted else None,
        "generations": len(prompts),
        **(
            {"tasks": {name: task["metrics"][task["metric"]]["value"] for name, task in tasks.items()}} if tasks else {}
        ),
    }


def _open(folder: Path, codec: Codec, machine: Machine) -> Transformer:
    """Load a checkpoint and make sure that it can be used with the tokenizer.

    Raises:
        MismatchError: it has fewer tokens than the tokenizer.
        InputError: some of its weights are not finite.
    """
    model, _ = load_model(folder, tensor_device(machine))
    if model.config.token_types < codec.vocab_size:
        problem = f"the model knows {model.config.token_types:,} tokens, the tokenizer has {codec.vocab_size:,}"
        raise MismatchError(problem, place=str(folder), hint="initialize the model with this tokenizer")
    check_finite(model, folder)
    return model.eval()


def _tasks(opened: Opened, settings: Evaluate, out: Workspace) -> dict[str, Any]:
    """Score the model on tasks: `tasks.json`, and a table of items of each in `items/`.

    Raises:
        EvaluationError: some have no score; what the others have is kept for the next run.
    """
    chosen, groups = choose(settings.tasks)
    results = run_tasks(
        opened, chosen, groups, out.folder, data=settings.task_data, limit=settings.task_items, show=out.progress
    )
    results.check()
    for outcome in results.outcomes:
        for note in outcome.notes:
            out.warn(f"{outcome.chosen.name}: {note}")
    return finished(out.folder)["tasks"]


def _prompts(settings: Evaluate, samples: dict[str, Sample], sources: Sequence[str]) -> Iterator[Prompt]:
    """The prompts of the recipe, then those from held-out documents.

    Raises:
        MismatchError: a source is not known, or has too few documents that are long enough.
    """
    yield from (Prompt(text.rstrip(" ")) for text in settings.prompts)
    for name, wanted in settings.prompts_from.items():
        if name not in sources:
            problem = f"'{name}' is not a source{nearest(name, sources)}"
            raise MismatchError(
                problem, place="evaluate.prompts_from", hint="use the names of the sources in the recipe"
            )
        texts = samples[name].texts if name in samples else []
        fitting = [text for text in texts if len(text) >= 2 * settings.prompt_characters]
        if len(fitting) < wanted:
            problem = f"'{name}' has {len(fitting)} scored documents of twice {settings.prompt_characters} characters, not {wanted}"
            hint = f"ask for {len(fitting)}, or hold out or score more documents"
            raise MismatchError(problem, place=f"evaluate.prompts_from.{name}", hint=hint)
        for text in fitting[:wanted]:
            cut = text[: settings.prompt_characters]
            prompt = cut[: len(cut) - len(cut.split()[-1])].rstrip() if len(cut.split()) > 1 else cut
            yield Prompt(prompt, name, text[len(prompt) : len(prompt) + 4 * settings.max_new_tokens])


def _continue(model: Transformer, codec: Codec, prompts: list[str], settings: Evaluate, out: Workspace) -> list[str]:
    """What a model writes after each prompt, without the prompt."""

    def warn_once(warning: str) -> None:  # not for each model
        if warning not in out.warnings:
            out.warn(warning)

    texts = [""] * len(prompts)
    for number, piece, _ in write(model, codec, prompts, settings, warn_once):
        texts[number] += piece
    return texts


def _generations(settings: Evaluate, prompts: list[Prompt], written: dict[str, list[str]]) -> list[dict[str, Any]]:
    """One object per prompt: how it was continued, by whom, and with what settings."""
    return [
        {
            "prompt": prompt.text,
            "source": prompt.source,
            "reference": prompt.reference,
            "seed": settings.seed + number,
            **settings.model_dump(include={"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}),
            **{name: texts[number] for name, texts in written.items()},
        }
        for number, prompt in enumerate(prompts)
    ]

"""Sections on the model: what it writes, how it learnt, the first-step check, scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headwater.core.units import format_bytes
from headwater.report import figures
from headwater.report.blocks import (
    ABSENT,
    Block,
    Continuation,
    Details,
    Figures,
    Table,
    Text,
    decimal,
    share,
    significant,
    whole,
    words,
)
from headwater.report.evidence import Evidence
from headwater.training.config import INITIAL_LOSS_TOLERANCE


def samples(evidence: Evidence) -> Iterator[Block]:
    """What the untrained and the trained model write after the same prompts."""
    if not evidence.generations:
        return
    yield Text(
        "Both models continue the same prompt (in colour) with the same random seed. The untrained one is where training "
        "began: what it writes is chance."
    )
    for sample in evidence.generations:
        chosen = [key for key in ("temperature", "top_k", "top_p", "seed") if sample.get(key) is not None]
        chosen = [key for key in chosen if (key, sample[key]) != ("top_p", 1.0)]  # no restriction at all
        conditions = ", ".join(f"{words(key)} {sample[key]}" for key in chosen)
        title = f"From a held-out document of {sample['source']}" if sample.get("source") else "From the recipe"
        texts = [(words(key), sample[key]) for key in ("untrained", "trained") if key in sample]
        yield Continuation(title, conditions, sample["prompt"], texts, sample.get("reference") or "")


def learning(evidence: Evidence) -> Iterator[Block]:
    """Loss, bits per byte, learning rate and throughput over the tokens seen."""
    steps, validations, counts = evidence.training_steps, evidence.validations, evidence.counts("train")
    if not counts:
        return
    use = (
        f", {share(counts['mfu'], 1)} of a measured peak of {_flops(counts['peak_flops_per_second'])}"
        if counts.get("mfu")
        else ""
    )
    yield Text(
        f"{whole(counts['steps'])} steps over {whole(counts['tokens'])} tokens, on average "
        f"{whole(counts['tokens_per_second'])} tokens per second{use}. Loss is the mean surprise for each token; bits per byte "
        "divides it by the length of the text, so that models with different tokenizers can be compared."
    )
    if taught := counts.get("distilled"):
        yield Text(
            f"A teacher of {whole(taught['parameters'])} parameters was learnt from too; at the last step the model's "
            f"probabilities were {decimal(taught['divergence'])} nats per token away from the teacher's."
        )
    if average := counts.get("averaged"):
        yield Text(
            f"What was validated, and the result, is {decimal(1 - average['share'])} of the last weights and "
            f"{decimal(average['share'])} of their moving average over about {whole(average['memory_steps'])} steps."
        )
    for law in counts.get("by_law", ()):
        yield Text(f"{law['setting']} was {law['value']:g}: {law['why']}.")
    if len(steps) > 1:
        yield figures.loss(steps, validations, counts.get("expected_initial_loss"))
    if len(validations) > 1:
        yield figures.bits_per_byte(validations)
    if len(steps) > 1:
        yield Figures([figures.learning_rate(steps), figures.throughput(steps)])
    if counts.get("mixture"):
        rows = [
            [
                name,
                share(of["weight"], 1),
                *map(whole, (of["requested_tokens"], of["available_tokens"])),
                decimal(of["epochs"]),
            ]
            for name, of in counts["mixture"].items()
        ]
        header = ["source", "share", "tokens read", "tokens at hand", "times seen"]
        yield Table("The mixture: how much of each source the model read", header, rows)
    yield from _phases(counts)
    yield from _packing(counts)
    yield from _forgetting(counts)
    if validations:
        names = list(validations[-1]["validation_bits_per_byte"])
        rows = [
            [whole(line["step"]), whole(line["tokens"]), decimal(_loss_at(steps, line["step"]))]
            + [decimal(line["validation_bits_per_byte"].get(name)) for name in names]
            for line in _spread(validations, 12)
        ]
        header = ["step", "tokens", "training loss", *(f"bits per byte, {name}" for name in names)]
        yield Details(
            "The numbers of these charts", [Table("Validation during training", header, rows, text_columns=0)]
        )


def _phases(counts: Mapping[str, Any]) -> Iterator[Block]:
    """What was different in each phase."""
    if not counts.get("phases"):
        return
    rows = [
        [
            phase["name"],
            ", ".join(f"{name} {share(of['weight'], 1)}" for name, of in phase["mixture"].items()),
            *map(whole, (phase["first_step"] + 1, phase["steps"], phase["tokens"], phase["sequence_length"])),
        ]
        for phase in counts["phases"]
    ]
    header = ["phase", "sources", "first step", "steps", "tokens", "sequence length"]
    yield Table("Phases of the training", header, rows, text_columns=2)


def _packing(counts: Mapping[str, Any]) -> Iterator[Block]:
    """How well documents filled the training rows."""
    packing = counts.get("packing") or {}
    by_phase = {"": packing} if all("rows" in fit for fit in packing.values()) else packing
    rows = [
        [
            f"{phase}: {name}" if phase else name,
            whole(fit["rows"]),
            share(fit["padding_share"], 1),
            whole(fit["documents_cut"]),
            share(fit["cut_off_share"], 1),
        ]
        for phase, fits in by_phase.items()
        for name, fit in fits.items()
    ]
    header = [
        "source",
        "rows of an epoch",
        "padding",
        "documents cut that fit in a row",
        "tokens without their beginning",
    ]
    if rows:
        yield Details("How documents filled the rows", [Table("Packing", header, rows)])


def _forgetting(counts: Mapping[str, Any]) -> Iterator[Block]:
    """What became of what the model knew before, and what was done about it."""
    found = counts.get("forgetting") or {}
    losses = {name: loss for name, loss in (found.get("loss") or {}).items() if loss["start"] is not None}
    if not losses:
        return
    rows = [
        [name, decimal(loss["start"]), decimal(loss["end"]), f"{loss['end'] - loss['start']:+.3f}"]
        for name, loss in losses.items()
    ]
    header = ["source", "before training", "after", "change"]
    yield Table("Validation loss before and after training, nats per token", header, rows)
    for event in found["events"]:
        done = (
            "training stopped"
            if event["action"] == "stop"
            else f"the learning rate was lowered to {significant(event['rate_factor'])} of the schedule's"
        )
        yield Text(
            f"After step {whole(event['step'])} the validation loss of {event['source']} had risen from "
            f"{decimal(event['start'])} to {decimal(event['loss'])}, above the limit: {done}."
        )


def _loss_at(steps: Sequence[Mapping[str, Any]], step: int) -> float | None:
    before = [line["loss"] for line in steps if line["step"] <= step]
    return before[-1] if before else None


def _spread(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many rows, evenly spread, with the first and the last."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]


def shape(evidence: Evidence) -> Iterator[Block]:
    """What the model is, which of its numbers follow from others, and its weights before training."""
    counts = evidence.counts("initialize")
    if counts.get("model"):
        rows = [
            [words(name), json.dumps(value).strip('"')] for name, value in counts["model"].items() if value is not None
        ]
        rows += [["parameters", whole(counts["parameters"])], ["FLOPs per token", whole(counts["flops_per_token"])]]
        yield Table("Shape", ["", "value"], rows)
    if counts.get("derived"):
        rows = [[number["setting"], whole(number["value"]), number["why"]] for number in counts["derived"]]
        yield Table("What followed from the dial", ["setting", "value", "how"], rows, text_columns=3)
    if counts.get("weights"):
        rows = [
            [kind, *(significant(found[key]) for key in ("mean", "std", "max_abs"))]
            for kind, found in counts["weights"].items()
        ]
        table = Table("Weights by kind", ["weights", "mean", "standard deviation", "largest"], rows)
        yield Details("The weights before training", [table])


def first_step(evidence: Evidence) -> Iterator[Block]:
    """Whether the loss before training is what a model that knows nothing must have."""
    counts = evidence.counts("train")
    measured, expected = counts.get("initial_loss"), counts.get("expected_initial_loss")
    if measured is None:
        return
    if expected is None:
        yield Text(
            f"The first loss was {decimal(measured)} nats per token; the weights were not random, so none is expected."
        )
        return
    away = abs(measured - expected)
    verdict = (
        "as it should be" if away <= INITIAL_LOSS_TOLERANCE else "too far: look at the initialisation and the data"
    )
    yield Table(
        "Loss before the first step",
        ["", "nats per token"],
        [["measured", decimal(measured)], ["expected", decimal(expected)], ["difference", decimal(away)]],
    )
    yield Text(
        f"A model that knows nothing spreads its bets over the whole vocabulary, which costs ln V, and a little more for the "
        f"noise of its random weights. A difference of {decimal(away)} is {verdict} (tolerance {INITIAL_LOSS_TOLERANCE})."
    )


def scores(evidence: Evidence) -> Iterator[Block]:
    """Bits per byte of held-out text by source, with standard errors, beside the baselines."""
    found = evidence.bits_per_byte
    if not found:
        return
    names = list(next(iter(found.values())))
    rows = [
        {
            "source": source,
            "series": words(model),
            "value": values[source]["value"],
            "standard_error": values[source].get("standard_error"),
        }
        for source in names
        for model, values in found.items()
        if source in values
    ]
    yield Text(
        "Bits per byte: how many bits the model needs for each byte of held-out text; 8 is no compression at all, fewer is "
        "better. After ± stands one standard error over documents."
    )
    if not found.keys() <= {"trained", "untrained"}:
        yield Text("The others are general compressors at their strongest, which see the text of a source as one file.")
    yield figures.scores(rows)
    table = []
    for source in names:
        cells = [_plus_minus(values.get(source)) for values in found.values()]
        sizes = next((values[source] for values in found.values() if "documents" in values.get(source, {})), {})
        table.append(
            [
                source,
                *cells,
                *(_perplexity(of.get(source)) for name, of in found.items() if name == "trained"),
                whole(sizes.get("documents")),
                format_bytes(sizes["bytes"]) if "bytes" in sizes else ABSENT,
            ]
        )
    perplexity = ["perplexity, trained"] * ("trained" in found)
    header = ["source", *(words(model) for model in found), *perplexity, "documents", "text"]
    yield Table("Bits per byte on held-out documents", header, table, total_row="total" in names)


def tasks(evidence: Evidence) -> Iterator[Block]:
    """Scores on tasks, each with its error, its chance level, and the least difference that would be seen."""
    told = evidence.tasks
    if not told:
        return
    yield Text(
        "Tasks of the trained model. After ± stands one standard error over items; chance is the score of guessing. "
        "A difference between two models is seen four times in five when it is at least as large as the last number says."
    )
    rows = []
    for name, task in told["tasks"].items():
        rows.append(_task_row(name, task, str(task["shots"])))
        rows += [_task_row(f"- {words(part)}", of, "") for part, of in task.get("parts", {}).items()]
    header = ["task", "metric", "remark", "score", "chance", "examples", "items", "detects"]
    yield Table("Tasks", header, rows, text_columns=3)
    groups = [(name, group) for name, group in told["groups"].items() if "value" in group]
    if groups:
        rows = [
            [
                name,
                f"{'centred ' * group['centred']}mean of {group['scored']} of {group['members']} tasks",
                _plus_minus(group),
            ]
            for name, group in groups
        ]
        yield Table("Groups of tasks", ["group", "what", "score"], rows, text_columns=2)


def _task_row(name: str, task: Mapping[str, Any], shots: str) -> list[str]:
    value = task["metrics"][task["metric"]]
    remark = "; ".join(filter(None, [task["signal"], *task.get("notes", [])])) or ABSENT
    numbers = (decimal(task["chance"]), shots, whole(task["items"]), decimal(task["detectable"]))
    return [name, words(task["metric"]), remark, _plus_minus(value), *numbers]


def _plus_minus(score: Mapping[str, Any] | None) -> str:
    if not score:
        return ABSENT
    error = score.get("standard_error")
    return decimal(score["value"]) + (f" ± {decimal(error)}" if error is not None else "")


def _perplexity(score: Mapping[str, Any] | None) -> str:
    if not score or "perplexity" not in score:
        return ABSENT
    error = score["perplexity_error"]
    return significant(score["perplexity"]) + (f" ± {significant(error, 2)}" if error is not None else "")


def _flops(rate: float) -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if rate >= size:
            return f"{significant(rate / size)} {letter}FLOP/s"
    return f"{significant(rate)} FLOP/s"

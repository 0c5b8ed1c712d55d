"""The page of a comparison of models: what each wrote, how likely references are, which is better at which task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from headwater.core.units import format_count
from headwater.report.blocks import ABSENT, Block, Continuation, Details, Page, Section, Table, Text, decimal, whole

Json = Mapping[str, Any]


def comparison_page(found: Json) -> Page:
    """The page of what the command `compare` found.

    Args:
        found: what `Comparing.as_json` gives, and under `tasks` what `compare_on_tasks` gives, where tasks were run.
    """
    labels = [model["label"] for model in found["models"]]
    about = f"{len(found['cases'])} prompt{'s' * (len(found['cases']) != 1)}, the same seeds for all."
    sections = [Section("models", "Models", [_models(found["models"])])]
    if tasks := found.get("tasks"):
        sections.append(Section("tasks", "Tasks", list(task_blocks(tasks))))
    sections.append(Section("texts", "What they write", list(_cases(found, labels))))
    return Page(
        title=" and ".join([", ".join(labels[:-1]), labels[-1]] if len(labels) > 1 else labels),
        about=about,
        sentence=" ".join(pair["sentence"] for pair in tasks["pairs"]) if tasks else "",
        tiles=[],
        notices=[],
        sections=sections,
        made=f"Made by Headwater {version('headwater')} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
    )


def _models(models: Sequence[Json]) -> Table:
    rows = [
        (model["label"], model["place"], whole(model["step"]), format_count(model["parameters"])) for model in models
    ]
    return Table("Where the models are from", ("model", "place", "step", "parameters"), rows, 2)


def _cases(found: Json, labels: Sequence[str]) -> Iterator[Block]:
    sampling = found["sampling"]
    drawn = "always the likeliest token" if not sampling["temperature"] else f"temperature {sampling['temperature']}"
    if any(case["reference"] for case in found["cases"]):
        yield Text(
            "A reference is a continuation that was given with the prompt. Bits per byte say how surprised a model is "
            "by it: the fewer, the better, whatever its tokenizer."
        )
    if any(case["tests"] for case in found["cases"]):
        yield Text(
            f"Code was run against the tests of its prompt in a sandbox ({found['sandbox']}). pass@k is the probability "
            "that one of k texts passes."
        )
    for case in found["cases"]:
        texts = [
            (_label(label, answer), answer["texts"][0]) for label, answer in zip(labels, case["answers"], strict=True)
        ]
        conditions = f"{drawn}, seed {sampling['seed']}"
        yield Continuation(case["name"], conditions, case["prompt"], texts)
        if found["samples"] > 1:
            yield Details(f"{case['name']}: the other texts", list(_others(case, labels)))
        if case["reference"] or case["tests"]:
            yield _outcomes(case, labels)


def _others(case: Json, labels: Sequence[str]) -> Iterator[Block]:
    """All samples but the first."""
    for number in range(1, len(case["answers"][0]["texts"])):
        pairs = zip(labels, case["answers"], strict=True)
        texts = [(_label(label, answer, number), answer["texts"][number]) for label, answer in pairs]
        yield Continuation(f"text {number + 1}", "", case["prompt"], texts)


def _label(label: str, answer: Json, number: int = 0) -> str:
    fates = answer.get("fates")
    return label if not fates else f"{label}: {fates[number]}"


def _outcomes(case: Json, labels: Sequence[str]) -> Table:
    header, rows = ["model"], [[label] for label in labels]
    for row, answer in zip(rows, case["answers"], strict=True):
        if reference := answer["reference"]:
            row += [decimal(reference["bits_per_byte"], 2), decimal(reference["nats"], 1), whole(reference["tokens"])]
        for value in answer.get("pass_at", {}).values():
            row.append(f"{100 * value:.0f} %")
    if case["reference"]:
        header += ["bits per byte", "nats", "tokens"]
    if case["tests"]:
        header += [f"pass@{k}" for k in case["answers"][0]["pass_at"]]
    return Table(
        f"{case['name']}: reference and tests" if case["tests"] else f"{case['name']}: reference", header, rows
    )


def task_blocks(tasks: Json) -> Iterator[Block]:
    """Scores of all models, and what can be said of each pair."""
    labels = list(tasks["scores"])
    names = list(next(iter(tasks["scores"].values())))
    header = ["task", "measure", *labels, "chance", "smallest difference seen", "in training text"]
    rows = []
    for name in names:
        of = [tasks["scores"][label][name] for label in labels]
        found = tasks["contaminated"].get(name) if tasks.get("contaminated") else None
        overlap = ABSENT if found is None else f"{whole(found['items'])} of {whole(found['of'])}"
        rows.append(
            [
                name,
                of[0]["metric"],
                *(_score(one) for one in of),
                decimal(of[0]["chance"], 3),
                decimal(of[0]["detectable"], 3),
                overlap,
            ]
        )
    yield Table("Scores with their standard errors", header, rows, 2)
    for pair in tasks["pairs"]:
        yield Text(pair["sentence"])
        yield _pair(pair)


def _score(one: Json) -> str:
    value = one["metrics"][one["metric"]]
    error = value["standard_error"]
    return decimal(value["value"], 3) + ("" if error is None else f" ± {decimal(error, 3)}")


def _pair(pair: Json) -> Table:
    header = ["task", "verdict", "difference", "95 % interval", "items better", "items worse", "p", "p adjusted"]
    clean = any(one.get("clean") for one in pair["differences"])
    header += ["difference on clean items"] if clean else []
    rows = []
    for one in pair["differences"]:
        d = one["difference"]
        interval = ABSENT if d["low"] is None else f"{d['low']:+.3f} to {d['high']:+.3f}"
        row = [one["task"], one["verdict"], f"{d['difference']:+.3f}", interval, whole(d["better"]), whole(d["worse"])]
        row += [decimal(one["p"], 3), decimal(one["adjusted"], 3)]
        if clean:
            row.append(f"{one['clean']['difference']:+.3f}" if one.get("clean") else ABSENT)
        rows.append(row)
    return Table(f"{pair['second']} against {pair['first']}, item by item", header, rows, 2)

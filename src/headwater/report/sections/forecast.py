"""The section on what was expected before training, and what came: time, tokens, bits per byte; and what laws say of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headwater.advice.ladder import Law, law_from
from headwater.core.units import format_count, format_seconds
from headwater.report import figures
from headwater.report.blocks import ABSENT, Block, Details, Table, Text, decimal, significant, whole
from headwater.report.evidence import Evidence

GOOD_TIME, GOOD_BITS = 0.10, 0.03
"""Differences up to which a forecast is called good. Our goal for it."""
CURVE_POINTS = 9


def forecast(evidence: Evidence) -> Iterator[Block]:
    """What was expected beside what was measured; nothing where nothing was written down."""
    expected = evidence.forecast
    if not expected:
        return
    rows = list(_rows(evidence, expected))
    yield Text(
        "Written down before training began, and not touched since. "
        + _sources(expected)
        + f" A forecast is good when the time is within {GOOD_TIME:.0%} and bits per byte are within {GOOD_BITS:.0%}."
    )
    yield Table("Forecast and measured", ["", "forecast", "measured", "off by", "basis"], rows)
    shown = {name: stage["seconds"] for name, stage in expected["stages"].items() if name in evidence.seconds}
    if shown:
        yield figures.forecast_times(shown, evidence.seconds)
    if expected.get("law"):
        yield _ladder(evidence, law_from(expected["law"]), expected)
    if expected.get("cost"):
        yield Details("What laws and arithmetic say of this run", list(_laws(evidence, expected["cost"])))


def _sources(expected: Mapping[str, Any]) -> str:
    how = {
        "trial": "The pace is of real steps of this run, timed before it (headwater plan --measure).",
        "measured speed": "The pace is of the training before this one.",
        "typical speed": "The pace is a guess: headwater plan --measure times some steps.",
    }
    pace = how.get(expected.get("basis", ""), "")
    law = (
        ""
        if expected.get("law")
        else " How good the model would be was not known: headwater ladder fits a law to small models."
    )
    return pace + law


def _rows(evidence: Evidence, expected: Mapping[str, Any]) -> Iterator[list[str]]:
    train = evidence.counts("train")
    for name, stage in expected["stages"].items():
        if name in evidence.seconds:
            measured = evidence.seconds[name]
            times = [format_seconds(stage["seconds"]), format_seconds(measured)]
            yield [f"time of {name}", *times, _off(measured, stage["seconds"]), stage["basis"]]
    if expected.get("tokens") and train:
        counts = [whole(expected["tokens"]), whole(train["tokens"])]
        yield ["tokens trained on", *counts, _off(train["tokens"], expected["tokens"]), expected["basis"]]
        speed = expected["tokens_per_second"], train["tokens_per_second"]
        yield ["tokens per second", *map(whole, speed), _off(speed[1], speed[0]), expected["basis"]]
    found, reached = expected.get("bits_per_byte"), _reached(evidence)
    if found and reached is not None:
        band = f"{decimal(found['value'])} ({decimal(found['low'])} to {decimal(found['high'])})"
        inside = "inside" if found["low"] <= reached <= found["high"] else "outside"
        yield [
            "bits per byte, held-out text",
            band,
            decimal(reached),
            _off(reached, found["value"]),
            f"ladder; {inside} the band",
        ]


def _reached(evidence: Evidence) -> float | None:
    """Bits per byte of the last validation."""
    return (evidence.counts("train").get("validation_bits_per_byte") or {}).get("total")


def _off(measured: float, expected: float) -> str:
    return f"{measured / expected - 1:+.1%}" if expected else ABSENT


def _ladder(evidence: Evidence, law: Law, expected: Mapping[str, Any]) -> Block:
    """Small models, the law through them, and where the run came out."""
    points: list[dict[str, Any]] = []
    for parameters in dict.fromkeys(rung.parameters for rung in law.rungs):
        name = f"{format_count(parameters)} parameters, measured"
        points += [
            {"tokens": rung.tokens, "value": rung.bits_per_byte, "series": name}
            for rung in law.rungs
            if rung.parameters == parameters
        ]
    first, last = min(rung.tokens for rung in law.rungs), max(expected["tokens"], evidence.counts("train")["tokens"])
    for at in range(CURVE_POINTS + 1):
        tokens = first * (last / first) ** (at / CURVE_POINTS)
        found = law.predict(expected["parameters"], tokens)
        for value, what in ((found.value, "law"), (found.low, "band, low"), (found.high, "band, high")):
            points.append({"tokens": tokens, "value": value, "series": f"this model, {what}"})
    reached = _reached(evidence)
    if reached is not None:
        points.append(
            {"tokens": evidence.counts("train")["tokens"], "value": reached, "series": "this model, measured"}
        )
    return figures.curves(
        "The ladder: small models, the law through them, and this model",
        "bits per byte",
        points,
        f"Bits per byte against tokens seen, for {len(law.rungs)} small runs, and by the law for this model. {law}.",
    )


def _laws(evidence: Evidence, cost: Mapping[str, Any]) -> Iterator[Block]:
    """What `headwater cost` says of the run: FLOPs, the best tokens, settings by law, memory."""
    per_token = cost["flops_per_token"]
    yield Text(
        f"FLOPs to train on a token: {significant(per_token['full'], 4)} with attention in full (6 N + 12 L H Q T), "
        f"{significant(per_token['causal'], 4)} with its causal half, {significant(per_token['6N'], 4)} by 6 N. "
        f"{format_count(cost['tokens'])} tokens: {cost['flops']:.3g} FLOPs."
    )
    best = [[row["law"], row["source"], format_count(row["tokens"]), significant(row["ratio"])] for row in cost["laws"]]
    yield Table("Tokens that are best for so many parameters", ["law", "source", "tokens", "run / best"], best, 2)
    used = evidence.settings("train")
    optimizer, schedule = used.get("optimizer") or {}, used.get("schedule") or {}
    here = {"batch_tokens": used.get("batch_tokens"), "warmup_steps": schedule.get("warmup_steps")}
    if optimizer.get("use") == "adamw":
        here["learning_rate (AdamW)"] = optimizer.get("learning_rate")
    rows = [
        [one["setting"], one["law"], one["link"], significant(one["value"]), significant(here.get(one["setting"]))]
        for one in cost["hyperparameters"]
    ]
    yield Table("Settings by law", ["setting", "law", "source", "by law", "here"], rows, 3)
    if cost["memory"]:
        names = list(cost["memory"][0]["bytes"])
        sizes = [
            [way["layout"], *(significant(size / 1e6) for size in (*way["bytes"].values(), way["total_bytes"]))]
            for way in cost["memory"]
        ]
        yield Table("Memory that training was expected to take [MB]", ["", *names, "all"], sizes)

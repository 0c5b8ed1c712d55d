"""Where the weights come from: what was done to a trained model before training, measured before and after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.report.blocks import ABSENT, Block, Table, Text, decimal, share, whole
from headwater.report.evidence import Evidence


def origin(evidence: Evidence) -> Iterator[Block]:
    """A grown or shrunk model, or one with the rows of another vocabulary; nothing for any other."""
    counts = evidence.counts("initialize")
    if facts := counts.get("vocabulary"):
        yield from _vocabulary(facts)
    for name, verb in (("grown", "Grown"), ("shrunk", "Shrunk")):
        if facts := counts.get(name):
            yield from _changed(facts, verb)


def _changed(facts: dict[str, Any], verb: str) -> Iterator[Block]:
    if facts.get("layers"):
        signs = {"silent": "*", "other": "u"}
        shown = " ".join(
            f"{layer['source']}{''.join(sign for key, sign in signs.items() if layer[key])}"
            for layer in facts["layers"]
        )
        legend = [
            text
            for key, text in (("silent", "* changes nothing until it is trained"), ("other", "u is of the upper model"))
            if any(layer[key] for layer in facts["layers"])
        ]
        yield Text(f"Its {len(facts['layers'])} layers are these of the source: {'; '.join([shown, *legend])}.")
    if expected := facts.get("expected"):
        yield _expected(expected)
    if facts.get("dropped"):
        rows = [[str(gone["layer"]), decimal(gone["loss"]), decimal(gone["next_best"])] for gone in facts["dropped"]]
        header = ["layer left out", "loss without it", "without the next best"]
        yield Table("Layers left out, one after another", header, rows)
    if facts.get("activity_kept"):
        kept = [[name, share(value, 1)] for name, value in facts["activity_kept"].items()]
        yield Table("What stays had so much of all activity", ["size", "activity"], kept)
    yield _before_and_after(facts, verb)


def _expected(expected: dict[str, Any]) -> Text:
    """What growing has paid elsewhere."""
    given, counted = (expected[f"saved_source_{what}"] for what in ("given", "counted"))
    lags = ", ".join(
        f"{lag['mean']:+.3f} ± {lag['half']:.3f} after {tokens}"
        for tokens, lag in expected["lag_by_tokens_per_parameter"].items()
    )
    return Text(
        f"Where Headwater's authors measured it on small models, growing in depth saved {share(given['mean'], 1)} ± "
        f"{share(given['half'], 1)} of the arithmetic of training from scratch if the source was given, "
        f"{share(counted['mean'], 1)} ± {share(counted['half'], 1)} with its training counted. Simply training the source on "
        f"may be better: less the loss of that control at equal arithmetic, the grown model's was {lags} tokens per "
        "parameter (nats per token, 95 % bands)."
    )


def _vocabulary(facts: dict[str, Any]) -> Iterator[Block]:
    yield Text(
        f"Of the rows for tokens {whole(facts['shared'])} are those of the same token in the source, {whole(facts['new'])} are "
        f"made of the rows of the pieces in which the source's tokenizer writes a new token, and {whole(facts['gone'])} are gone."
    )
    rows = [
        [name, decimal(values["before"]), decimal(values["after"]), f"{values['after'] / values['before']:.2f}x"]
        for name, values in facts["fertility"].items()
    ]
    if rows:
        header = ["source", "before", "after", "text in the same context"]
        yield Table("Bytes per token on the calibration text", header, rows)
    yield _before_and_after(facts, "New vocabulary")


def _before_and_after(facts: dict[str, Any], verb: str) -> Table:
    same_tokens = verb != "New vocabulary"
    losses = [decimal(facts[f"loss_{when}"]) if same_tokens else ABSENT for when in ("before", "after")]
    rows = [
        ["parameters", whole(facts["parameters_before"]), whole(facts["parameters_after"])],
        ["loss, nats per token", *losses],
        ["bits per byte", decimal(facts["bits_per_byte_before"]), decimal(facts["bits_per_byte_after"])],
    ]
    caption = f"{verb}: before and after, on {whole(facts['calibration_tokens'])} tokens of calibration text"
    return Table(caption, ["", "before", "after"], [row for row in rows if row[1] != ABSENT])

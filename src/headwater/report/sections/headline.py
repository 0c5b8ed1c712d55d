"""The top of a report: the run in words, the numbers that matter most, and what to look at first."""

from __future__ import annotations

from collections.abc import Iterator

from headwater.core.units import format_bytes, format_count, format_seconds
from headwater.report.blocks import Notice, decimal, plural, share, whole, words
from headwater.report.evidence import Evidence
from headwater.report.sections.cost import energy_kwh, write_energy, write_price


def sentence(evidence: Evidence) -> str:
    """The run in words: what went in, what came out, how good it is, how long it took and what it cost."""
    summary, parts = evidence.summary(), []
    if evidence.document_stages:
        size = format_bytes(evidence.counts(evidence.document_stages[0])["bytes_in"])
        kept = f"{whole(summary['documents_out'])} ({share(summary['documents_out'], summary['documents_in'])})"
        came = plural(len(evidence.sources), "source")
        parts.append(f"Of {plural(summary['documents_in'], 'document')} ({size}) from {came}, {kept} were kept.")
    if evidence.tokens:
        tokens = sum(source["training"]["tokens"] for source in evidence.tokens["sources"].values())
        parts.append(
            f"A tokenizer of {whole(evidence.tokens['vocab_size'])} entries turned them into {format_count(tokens)} tokens "
            "for training."
        )
    if summary["tokens"]:
        parts.append(
            f"A model of {format_count(summary['parameters'])} parameters read {format_count(summary['tokens'])} tokens "
            f"in {plural(summary['steps'], 'step')}."
        )
    parts.extend(_quality(evidence))
    seconds = sum(evidence.seconds.values())
    power, money = energy_kwh(evidence, seconds), evidence.machine.usd_per_hour * seconds / 3600
    price = f" and {write_price(money)}" if money else ""
    parts.append(
        f"All of it took {format_seconds(seconds)} on one machine: about {write_energy(power)} of electricity{price} (estimate)."
    )
    return " ".join(parts)


def _quality(evidence: Evidence) -> Iterator[str]:
    """How good the model is, in a sentence."""
    totals = {model: found["total"]["value"] for model, found in evidence.bits_per_byte.items() if "total" in found}
    if "trained" in totals:
        baselines = {name: value for name, value in totals.items() if name not in ("trained", "untrained")}
        best = min(baselines, key=lambda name: baselines[name], default=None)
        others = [name for name in ("untrained", best) if name in totals]
        than = "".join(f", {words(name)} {decimal(totals[name])}" for name in others)
        yield f"It predicts held-out text with {decimal(totals['trained'])} bits per byte (fewer is better{than})."
    elif evidence.validations:
        last = evidence.validations[-1]["validation_bits_per_byte"]["total"]
        yield f"It predicts held-out text with {decimal(last)} bits per byte."


def tiles(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    """The numbers that matter most."""
    summary = evidence.summary()
    found = summary["final_validation_bits_per_byte"]
    trained = evidence.bits_per_byte.get("trained", {}).get("total")
    untrained = evidence.bits_per_byte.get("untrained", {}).get("total")
    if trained or found:
        remark = f"untrained: {decimal(untrained['value'])}" if untrained else "held-out text"
        yield decimal(trained["value"] if trained else found["total"]), "bits per byte", remark
    if summary["documents_in"]:
        yield (
            format_count(summary["documents_out"]),
            "documents kept",
            f"of {format_count(summary['documents_in'])} read",
        )
    if summary["parameters"]:
        shape = evidence.counts("initialize").get("model") or {}
        layers = f"{shape['num_layers']} layers of {shape['hidden_size']}" if "num_layers" in shape else ""
        yield format_count(summary["parameters"]), "parameters", layers
    if summary["tokens"]:
        yield format_count(summary["tokens"]), "tokens trained on", f"{whole(summary['steps'])} steps"
    if summary["tokens_per_second"]:
        use = f"{share(summary['mfu'], 1)} of the measured peak" if summary["mfu"] else ""
        yield whole(summary["tokens_per_second"]), "tokens per second", use
    seconds = sum(evidence.seconds.values())
    yield format_seconds(seconds), "from first to last stage", f"about {write_energy(energy_kwh(evidence, seconds))}"


def first_warnings(evidence: Evidence, most: int = 3) -> Iterator[Notice]:
    """What the stages found odd, in brief, for the top of the page."""
    lines = [f"{stage}: {text}" for stage, text in evidence.warnings]
    if lines:
        more = [f"and {len(lines) - most} more, see the section Warnings"] if len(lines) > most else []
        yield Notice(plural(len(lines), "warning"), [*lines[:most], *more])

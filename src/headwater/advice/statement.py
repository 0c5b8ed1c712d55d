"""A cost in words and columns, for the terminal; the same numbers as `Cost.to_json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from headwater.advice.architecture import summary
from headwater.advice.claims import Finding, warnings
from headwater.advice.cost import Cost
from headwater.advice.market import Range
from headwater.advice.memory import Choice
from headwater.advice.runs import Row
from headwater.core.units import format_count

GB = 1e9


def statement(cost: Cost, findings: Sequence[Finding] = (), *, describe: bool = True) -> str:
    """Everything that is known of a job, section by section; its model is not described where that was done before."""
    parts = [_model(cost, describe), _memory(cost), _run(cost), _laws(cost), _advice(cost)]
    said = [f"!! {line}" for line in warnings(cost)] + [str(finding) for finding in findings]
    if said:
        parts.append("\n".join(["checks:", *(f"  {line}" for line in said)]))
    return "\n\n".join(part for part in parts if part)


HOURS = (("hours", 1.0), ("minutes", 60.0))
DAYS = (("days", 1.0), ("hours", 24.0), ("minutes", 1440.0))


def _model(cost: Cost, describe: bool) -> str:
    model, per_token, job = cost.model, cost.flops_per_token, cost.job
    lines = []
    if model and describe:
        lines += [f"model: {summary(model)} parameters; {model.describe()}"]
    if model is None:
        lines += [f"model: {format_count(cost.parameters)} parameters of unknown shape: only 6 N can be counted"]
    T = cost.sequence_length
    lines += [
        f"FLOPs per token to train, T = {T:,}:",
        f"  {per_token['full']:.4g}  6 N + 12 L H Q T, attention in full (PaLM; used below)",
        f"  {per_token['causal']:.4g}  6 N + 6 L H Q T, its causal half (llm.c, Headwater's training log)",
        f"  {per_token['6N']:.4g}  6 N, all active parameters ({per_token['6N'] / per_token['full'] - 1:+.1%})",
        f"FLOPs of {format_count(job.tokens)} tokens: {cost.flops:.4g}",
    ]
    if model is None:
        del lines[2:4]
    if job.trainable.layers is not None:
        lines.append(
            "  counted with frozen parts: no gradient of their weights, none at all below the lowest that learns"
        )
    return "\n".join(lines)


def _memory(cost: Cost) -> str:
    if not cost.ways:
        return ""
    taken = cost.way
    largest = max(way.memory.total for way in cost.ways)
    unit, name = (GB, "GB") if largest >= GB else (1e6, "MB")
    rows: list[tuple[str, ...]] = [
        ("", "weights", "gradients", "optimizer", "gathered", "activations", "logits", "buffers", "all", "")
    ]
    for way in cost.ways:
        if way is taken or _usual(way):
            numbers = [f"{value / unit:.1f}" for value in vars(way.memory).values()]
            rows.append((str(way.layout), *numbers, f"{way.memory.total / unit:.1f}", _verdict(way, taken)))
    how = "by formula"
    if cost.job.activation_bytes:
        how = f"{cost.job.activation_bytes:,.0f} bytes a token, counted on copies of 2 and 6 layers"
    each = f"each of {cost.gpus:,} x {cost.job.gpu}" if cost.gpus > 1 else cost.job.gpu
    head = (
        f"memory of {each} [{name}], of {cost.gpu.memory_bytes / unit:,.1f}, with "
        f"{cost.job.micro_batch} row{'s' * (cost.job.micro_batch > 1)} of {cost.sequence_length:,} tokens at a time "
        f"(activations {how}):"
    )
    return "\n".join([head, *_columns(rows)])


def _usual(way: Choice) -> bool:
    """Whether a way is shown although it is not taken: DDP, ZeRO 1 to 3 and tensor parallelism; once with recomputing."""
    layout = way.layout
    plain = layout.pipeline_parallel == layout.context_parallel == 1
    return plain and (layout.recompute == "nothing" or (layout.sharding, layout.tensor_parallel) == ("weights", 1))


def _verdict(way: Choice, taken: Choice | None) -> str:
    return ("fits" if way.fits else "too large") + (", taken here" if way is taken else "")


def _run(cost: Cost) -> str:
    job, whole = cost.job, "{:,.0f}".format
    use, gone = (Range(*(100 * share for share in value)) for value in (cost.utilization.mfu, cost.goodput))
    rows: list[tuple[str, ...]] = [("", "low", "likely", "high", "")]
    rows.append(_row("MFU [%]", use, "{:.1f}".format, cost.utilization.source))
    rows.append(_row("tokens/s", cost.tokens_per_second, whole, "of all GPUs while they work"))
    rows.append(_scaled("GPU-", cost.gpu_hours, HOURS, f"the final run; {cost.gpus:,} x {job.gpu}"))
    if any(share < 1 for share in cost.goodput):
        rows.append(_row("  goodput [%]", gone, "{:.0f}".format, "share of the time that makes progress"))
        rows.append(_scaled("  lost, GPU-", cost.lost_hours, HOURS, "restarts, work done again, checkpoints"))
    rows.append(_scaled("", cost.days, DAYS, "from the first step to the last"))
    watts = job.watts if job.watts is not None else cost.gpu.watts
    rows.append(_scaled("", cost.kwh, (("kWh", 1), ("Wh", 1e3)), f"{watts:,.4g} W each, x PUE"))
    grams = job.market.grid(job.grid)
    named = "" if job.grid.replace(".", "").isdigit() else f", grid: {job.grid}"
    carbon = (("t CO2e", 1), ("kg CO2e", 1e3), ("g CO2e", 1e6))
    rows.append(_scaled("", cost.co2_tonnes, carbon, f"{grams:g} g for a kWh{named}"))
    size = (("TB", 1e-12), ("GB", 1e-9), ("MB", 1e-6))
    rows.append(_scaled("storage, ", cost.storage_bytes, size, "text, token shards, 3 to 50 checkpoints"))
    return "\n".join(_columns([*rows, *_money(cost)], text=(0, 4)))


def _money(cost: Cost) -> list[tuple[str, ...]]:
    """Rows on money; none where an hour has no price."""
    if not cost.price.high:
        return [("USD", "", "", "", "no price of an hour is set (machine.usd_per_hour)")]
    date = cost.job.market.date
    price = f"{cost.price.likely:g} USD" if cost.job.usd_per_hour else f"{_three(cost.price, '{:g}'.format)} USD"
    factors = _three(cost.job.market.development, "{:g}".format)
    return [
        _row("USD", cost.usd, _dollars, f"the final run, at {price} a GPU-hour (prices of {date})"),
        _row("  evaluation", cost.evaluation_usd, _dollars, "of checkpoints, beside the run"),
        _row("  storage", cost.storage_usd, _dollars, "for the time of the run and a month more"),
        _row("  project", cost.project_usd, _dollars, f"with what is tried before and beside it: x {factors}"),
    ]


def _laws(cost: Cost) -> str:
    tokens = cost.job.tokens
    guess = math.log(cost.model.vocab_size) if cost.model else math.inf
    rows: list[tuple[str, ...]] = [("law", "best tokens", "yours / best", "loss", "")]
    for row in cost.laws:
        best = format_count(row["tokens"])
        loss = "-" if row["loss"] > guess else f"{row['loss']:.3f}"
        rows.append((row["law"], best, f"{row['ratio']:.3g}", loss, row["source"]))
    lines = [
        f"{format_count(tokens)} tokens are {tokens / cost.parameters:.3g} for each of {format_count(cost.parameters)} parameters "
        "(embeddings included); best for the compute, by law:",
        *_columns(rows, text=(0, 4)),
    ]
    if any(row["loss"] > guess for row in cost.laws):
        lines.append(
            f"!! where the loss is '-' the law gives more than the {guess:.3f} of guessing among all tokens: a model so "
            "small, trained so briefly, is outside of what it was fitted on"
        )
    printed, exact = cost.laws[2]["tokens"], cost.laws[1]["tokens"]
    if abs(printed / exact - 1) > 0.2:
        lines.append(
            f"!! Hoffmann's constants as printed are rounded: they ask for {format_count(printed)} tokens, unrounded for "
            f"{format_count(exact)}; neither is the 20 for a parameter of the same paper"
        )
    if cost.job.unique_tokens and cost.epochs >= 1.005:
        unique = cost.job.unique_tokens
        lines.append(
            f"{format_count(unique)} different tokens seen {cost.epochs:.2f} times are worth "
            f"{format_count(cost.worth_tokens)} fresh ones (Muennighoff et al. 2023, arXiv:2305.16264: up to 4 passes are "
            "nearly as good, 16 give little)"
        )
    return "\n".join(lines)


def _advice(cost: Cost) -> str:
    if not cost.hyperparameters:
        return ""
    rows: list[tuple[str, ...]] = [("setting", "by law", "", "")]
    for setting, value, law, link in cost.hyperparameters:
        written = f"{value:.2e}" if value < 1 else f"{value:,.0f}"
        rows.append((setting, written, law, link))
    return "\n".join(["settings by law:", *_columns(rows, text=(0, 2, 3))])


def run_rows(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """Published runs as rows for a table: claimed beside computed."""
    for row in rows:
        run, cost = row.run, row.cost
        claimed = [_or(run.gpu_hours, "{:,.0f}"), _or(run.flops, "{:.3g}"), _or(run.usd, "{:,.0f}")]
        if cost is None:
            yield (run.name, *claimed, "", "", "", "", f"cannot be computed: {run.note or 'no model or tokens'}")
            continue
        known = run.gpu is not None
        hours = f"{cost.gpu_hours.likely:,.0f} ({_small(cost.gpu_hours.low)}-{_small(cost.gpu_hours.high)})"
        use = f"{row.mfu:.1%}" if row.mfu else ""
        wrong = [str(finding) for finding in row.findings if finding.verdict != "agrees"]
        note = "; ".join([*wrong, *([run.note] if run.note else [])]) or "agrees"
        money = f"{_small(cost.usd.low)}-{_small(cost.usd.high)}" if known else ""
        yield (run.name, *claimed, hours if known else "", f"{cost.flops:.3g}", money, use, note)


RUN_HEADER = (
    "run", ">claimed GPU-h", ">claimed FLOPs", ">claimed USD", ">GPU-h, likely (low-high)", ">FLOPs", ">USD",
    ">MFU of its hours", "",
)  # fmt: skip


def _or(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _row(name: str, values: Range, write: Callable[[float], str], note: str) -> tuple[str, ...]:
    return (name, *(write(value) for value in values), note)


def _three(values: Range, write: Callable[[float], str]) -> str:
    return " / ".join(write(value) for value in values)


def _scaled(name: str, values: Range, units: Sequence[tuple[str, float]], remark: str) -> tuple[str, ...]:
    """A row in the first of some units, each so many of the value's own, in which the likely value is 1 or more."""
    unit, factor = next((one for one in units if values.likely * one[1] >= 1), units[-1])
    return _row(name + unit, Range(*(value * factor for value in values)), _small, remark)


def _small(value: float) -> str:
    """A number in full from 100 on, with three digits below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _dollars(value: float) -> str:
    """An amount of money: as any number, but nothing below a cent."""
    return "<0.01" if 0 < value < 0.01 else _small(value)


def _columns(rows: Sequence[tuple[str, ...]], text: tuple[int, ...] = (0, -1)) -> list[str]:
    """Rows in columns; those of `text` to the left."""
    last = len(rows[0]) - 1
    left = {column % (last + 1) for column in text}
    widths = [max(len(row[column]) for row in rows) for column in range(last + 1)]
    return [
        ("  " + "  ".join(f"{cell:{'<' if i in left else '>'}{widths[i]}}" for i, cell in enumerate(row))).rstrip()
        for row in rows
    ]

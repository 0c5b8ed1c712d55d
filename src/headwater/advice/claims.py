"""Whether what somebody says of a run can be: MFU that no hardware reaches, slipped units, cards that do not add up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from headwater.advice.cost import DAY, HOUR, Cost
from headwater.advice.utilization import measured
from headwater.core.units import format_count
from headwater.model import laws

Verdict = Literal["agrees", "odd", "wrong", "impossible"]
PF_DAY = 1e15 * 86_400
"""FLOPs of a petaFLOP/s-day, the unit of GPT-3's tables."""
CLOSE = 0.05
"""Relative difference up to which two numbers of a card agree. Our choice: cards round to two digits."""
LOW_MFU = 0.12
"""A whole run below this share of the peak is odd. Source: the lowest known here are 0.12 (BloombergGPT), 0.17 (Llama 3.1
8B, whose card may count more than one run)."""

LONG_ROWS = 16_384
"""Longer rows are trained on at the end only. Source: Llama 3 (arXiv:2407.21783, 3.4): 8,192 until the last 800B tokens."""


@dataclass(frozen=True)
class Claims:
    """What is said of a run; None where nothing is."""

    gpu_hours: float | None = None
    days: float | None = None
    mfu: float | None = None
    flops: float | None = None
    tokens_per_second: float | None = None
    parameters: float | None = None
    usd: float | None = None
    co2_tonnes: float | None = None
    kwh: float | None = None
    optimal_tokens: float | None = None

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class Finding:
    """One claim and what arithmetic says of it."""

    verdict: Verdict
    text: str

    def __str__(self) -> str:
        mark = {"agrees": "ok", "odd": "?", "wrong": "!!", "impossible": "!!"}[self.verdict]
        return f"{mark} {self.verdict}: {self.text}"


def check(cost: Cost, claims: Claims) -> list[Finding]:
    """Compare what is said with what follows from model, tokens and hardware."""
    parts = (_hours, _days, _mfu, _flops, _speed, _parameters, _money, _carbon, _law)
    return [finding for part in parts for finding in part(cost, claims)]


def _hours(cost: Cost, claims: Claims) -> Iterator[Finding]:
    hours = claims.gpu_hours
    if hours is None:
        return
    mfu = mfu_of(cost, hours)
    says = f"{hours:,.0f} GPU-hours mean an MFU of {mfu:.1%} over the whole run"
    plausible = cost.utilization.mfu.high * cost.goodput.high * 0.5, highest(cost)
    if mfu > cost.gpu.reached:
        slip = ""
        if plausible[0] < mfu_of(cost, hours * cost.gpus) < plausible[1]:
            slip = f"; they may be hours of the clock: times {cost.gpus:,} GPUs the MFU is {mfu_of(cost, hours * cost.gpus):.1%}"
        yield Finding("impossible", f"{says}; matrix products alone reach {cost.gpu.reached:.0%} at most{slip}")
    elif mfu < LOW_MFU:
        slip = ""
        if plausible[0] < mfu_of(cost, hours / cost.gpus) < plausible[1] and cost.gpus > 1:
            fewer = hours / cost.gpus
            slip = f": GPU-hours count every GPU already, so it looks as if they were multiplied by the {cost.gpus:,} GPUs once more; {fewer:,.0f} would be {mfu_of(cost, fewer):.1%}"
        yield Finding("wrong" if slip else "odd", f"{says}, lower than any run known here{slip}")
    elif mfu > highest(cost):
        yield Finding("odd", f"{says}, above the {highest(cost):.1%} that the best known run on such hardware reached")
    else:
        low, high = cost.gpu_hours.low, cost.gpu_hours.high
        inside = "" if low * 0.9 <= hours <= high * 1.1 else f"; the forecast is {low:,.0f} to {high:,.0f}"
        yield Finding("odd" if inside else "agrees", f"{says}{inside}")


def _days(cost: Cost, claims: Claims) -> Iterator[Finding]:
    if claims.days is None:
        return
    hours = claims.days * DAY * cost.gpus
    says = f"{claims.days:g} days on {cost.gpus:,} GPUs are {hours:,.0f} GPU-hours"
    if claims.gpu_hours is not None:
        if abs(hours / claims.gpu_hours - 1) > 2 * CLOSE:
            yield Finding("wrong", f"{says}, not the {claims.gpu_hours:,.0f} that are said")
        else:
            yield Finding("agrees", f"{says}, as is said")
        return
    mfu = mfu_of(cost, hours)
    if mfu > cost.gpu.reached:
        yield Finding("impossible", f"{says}: an MFU of {mfu:.1%}; matrix products alone reach {cost.gpu.reached:.0%}")
    elif mfu > highest(cost) or mfu < LOW_MFU:
        yield Finding(
            "odd", f"{says}: an MFU of {mfu:.1%}; the best known run on such hardware has {highest(cost):.1%}"
        )
    else:
        yield Finding("agrees", f"{says}: an MFU of {mfu:.1%}")


def _mfu(cost: Cost, claims: Claims) -> Iterator[Finding]:
    if claims.mfu is None:
        return
    if claims.mfu > cost.gpu.reached:
        text = f"an MFU of {claims.mfu:.1%}: matrix products alone reach {cost.gpu.reached:.0%} of this peak at most"
        yield Finding("impossible", text)
    elif claims.mfu > highest(cost):
        text = f"an MFU of {claims.mfu:.1%} is above the {highest(cost):.1%} of the best known run; is it HFU, which counts what is computed again, or of another peak?"
        yield Finding("odd", text)
    if claims.gpu_hours is not None:
        whole = mfu_of(cost, claims.gpu_hours)
        causal = whole * cost.flops_per_token["causal"] / cost.flops_per_token["full"]
        text = f"the GPU-hours mean {whole:.1%} (attention in full; {causal:.1%} with its causal half), the claim is {claims.mfu:.1%}"
        fits = 0.7 * claims.mfu < whole < (1 + CLOSE) * claims.mfu or abs(causal / claims.mfu - 1) < CLOSE
        yield Finding("agrees" if fits else "wrong", text)


def _flops(cost: Cost, claims: Claims) -> Iterator[Finding]:
    said = claims.flops
    if said is None:
        return
    tokens = cost.job.tokens
    known = {
        "6 N + attention in full": cost.flops,
        "6 N + causal attention": cost.flops_per_token["causal"] * tokens,
        "6 N D": cost.flops_per_token["6N"] * tokens,
    }
    name, value = min(known.items(), key=lambda pair: abs(math.log(said / pair[1])))
    ratio = said / value
    if abs(ratio - 1) < CLOSE:
        yield Finding("agrees", f"{said:.3g} FLOPs are {name} ({value:.3g}, {ratio - 1:+.1%})")
        return
    slips = {
        "petaFLOP/s-days": PF_DAY, "teraFLOPs": 1e12, "petaFLOPs": 1e15, "exaFLOPs": 1e18, "zettaFLOPs": 1e21,
        "two FLOPs for a parameter, the forward pass alone": 3, "8 N D, with activations computed again": 3 / 4,
        "multiply-adds, of two FLOPs each": 2,
    }  # fmt: skip
    slip = next((f"; it may count {name}" for name, x in slips.items() if abs(ratio * x - 1) < 2 * CLOSE), "")
    text = f"{said:.3g} FLOPs are {ratio:.2g} times what model and tokens need ({value:.3g}, {name}){slip}"
    yield Finding("wrong" if slip or not 0.5 < ratio < 2 else "odd", text)


def _speed(cost: Cost, claims: Claims) -> Iterator[Finding]:
    if claims.tokens_per_second is None:
        return
    per_token = cost.flops_per_token["full"]
    one, every = (claims.tokens_per_second * per_token / cost.peak / count for count in (1, cost.gpus))
    if every > cost.gpu.reached:
        text = f"{claims.tokens_per_second:,.0f} tokens per second on {cost.gpus:,} GPUs need an MFU of {every:.1%}"
        yield Finding("impossible", text)
    elif every < LOW_MFU and one <= highest(cost):
        text = f"{claims.tokens_per_second:,.0f} tokens per second on {cost.gpus:,} GPUs are an MFU of {every:.2%}; of one GPU they would be {one:.1%}"
        yield Finding("wrong", text)
    else:
        yield Finding("agrees", f"{claims.tokens_per_second:,.0f} tokens per second are an MFU of {every:.1%}")


def _parameters(cost: Cost, claims: Claims) -> Iterator[Finding]:
    if claims.parameters is None or cost.model is None:
        return
    exact = cost.model.parameters()
    off = claims.parameters / exact - 1
    text = f"{format_count(claims.parameters)} parameters; by exact count {exact:,} ({off:+.1%})"
    yield Finding("agrees" if abs(off) < CLOSE else "wrong", text)


def _money(cost: Cost, claims: Claims) -> Iterator[Finding]:
    if claims.usd is None:
        return
    by_days = (claims.days or 0.0) * DAY * cost.gpus
    hours = claims.gpu_hours or by_days or cost.gpu_hours.likely
    each = claims.usd / hours
    low, high = cost.price.low, cost.price.high
    text = f"{claims.usd:,.0f} USD for {hours:,.0f} GPU-hours are {each:.2f} USD an hour"
    if low == high:
        yield Finding("agrees" if abs(each / low - 1) < 2 * CLOSE else "wrong", f"{text}; {low:g} is given")
    elif 0.7 * low < each < 1.3 * high:
        yield Finding("agrees", f"{text}; the market of {cost.job.market.date} is {low:g} to {high:g}")
    else:
        yield Finding("wrong", f"{text}, outside of the market of {cost.job.market.date}, {low:g} to {high:g}")


def _carbon(cost: Cost, claims: Claims) -> Iterator[Finding]:
    hours = claims.gpu_hours or cost.gpu_hours.likely
    watts = cost.job.watts if cost.job.watts is not None else cost.gpu.watts
    pue = cost.job.pue if cost.job.pue is not None else cost.job.market.pue.likely
    grams = cost.job.market.grid(cost.job.grid)
    kwh = hours * watts / 1000 * pue
    yield from _amount("kWh", claims.kwh, kwh, pue, f"{hours:,.0f} h x {watts:g} W x PUE {pue:g}")
    energy = claims.kwh if claims.kwh is not None else kwh
    yield from _amount("t CO2e", claims.co2_tonnes, energy * grams / 1e6, pue, f"{energy:,.0f} kWh x {grams:g} g")


def _amount(unit: str, said: float | None, computed: float, pue: float, how: str) -> Iterator[Finding]:
    if said is None:
        return
    ratio = said / computed
    text = f"{said:,.4g} {unit}; {how} are {computed:,.4g}"
    if abs(ratio - 1) < CLOSE:
        yield Finding("agrees", text)
        return
    slips = {"the PUE is counted twice": pue, "the PUE is left out": 1 / pue}
    slip = next((f"; it looks as if {name}" for name, x in slips.items() if abs(ratio / x - 1) < CLOSE / 2), "")
    if 0.6 < ratio * 1e3 < 1.6 or 0.6 < ratio / 1e3 < 1.6:  # grid and PUE are guesses, a thousand is none
        slip = f"; it looks as if a unit slipped: a thousand{'th' if ratio < 1 else ' times as much'}"
    yield Finding("wrong" if slip or not 0.5 < ratio < 2 else "odd", f"{text} ({ratio:.3g} times){slip}")


def _law(cost: Cost, claims: Claims) -> Iterator[Finding]:
    said = claims.optimal_tokens
    if said is None:
        return
    flops = cost.flops_per_token["6N"] * cost.job.tokens
    known = {law.name: law.optimum(flops)[1] for law in laws.LOSS_LAWS.values()}
    known |= {"Llama 3": laws.llama3_tokens(flops), "Llama 3, exponent as printed (0.53)": 0.29 * flops**0.53}
    name, value = min(known.items(), key=lambda pair: abs(math.log(said / pair[1])))
    text = f"{format_count(said)} tokens are the optimum of {flops:.3g} FLOPs by {name} ({format_count(value)})"
    sized = {law.name: law.optimal_tokens(cost.parameters) for law in laws.LOSS_LAWS.values()}
    sized |= {"the rule of 20 for each": laws.TOKENS_PER_PARAMETER * cost.parameters}
    alike, best = min(sized.items(), key=lambda pair: abs(math.log(said / pair[1])))
    if abs(said / value - 1) > 2 * CLOSE:
        size = f"for {format_count(cost.parameters)} parameters"
        if abs(said / best - 1) <= 2 * CLOSE:
            text = f"{format_count(said)} tokens are the best {size} by {alike} ({format_count(best)})"
            yield Finding(
                "agrees", f"{text}; for the {flops:.3g} FLOPs of this run the nearest is {name}'s {format_count(value)}"
            )
            return
        nearest = f"{format_count(value)}, by {name}; {size} {format_count(best)}, by {alike}"
        yield Finding(
            "odd", f"{format_count(said)} tokens are no law's optimum; nearest for {flops:.3g} FLOPs: {nearest}"
        )
    elif "printed" in name:
        better = known["Llama 3"] if name.startswith("Llama") else known[laws.LOSS_LAWS["hoffmann"].name]
        yield Finding("wrong", f"{text}: constants rounded in print; not rounded they give {format_count(better)}")
    else:
        yield Finding("agrees", text)


def mfu_of(cost: Cost, gpu_hours: float) -> float:
    """Share of the peak over a whole run that took so many GPU-hours, attention in full."""
    return cost.flops / (gpu_hours * HOUR * cost.peak)


def highest(cost: Cost) -> float:
    """The highest MFU of the published runs on such hardware and number format; without one, of all; and 2 % for rounding."""
    rows = [row for row in measured() if row.precision == cost.job.precision]
    alike = [row.mfu for row in rows if row.gpu == cost.gpu.like]
    return 1.02 * max(alike or [row.mfu for row in measured()])


def warnings(cost: Cost) -> list[str]:
    """What is odd about a plan, without any claim: too many epochs, a law's rounding, an MFU that cannot be."""
    found = []
    if cost.utilization.mfu.likely > cost.gpu.reached:
        reached = f"matrix products alone reach {cost.gpu.reached:.0%}"
        found.append(f"impossible: an MFU of {cost.utilization.mfu.likely:.1%} on {cost.job.gpu}; {reached}")
    elif cost.job.mfu is not None and cost.gpu.like and cost.job.mfu > highest(cost):
        found.append(f"an MFU of {cost.job.mfu:.1%} is above the {highest(cost):.1%} of any run known here")
    if cost.job.sequence_length is None and cost.sequence_length > LONG_ROWS:
        found.append(
            f"rows of {cost.sequence_length:,} tokens, the longest that the model takes: most of a training has shorter "
            "ones, and far fewer FLOPs for attention; give --sequence-length"
        )
    if cost.epochs > 16:
        found.append(f"each token is seen {cost.epochs:.1f} times: beyond about 16 more passes give next to nothing")
    elif cost.epochs > laws.GOOD_EPOCHS:
        found.append(
            f"each token is seen {cost.epochs:.1f} times: they are worth {format_count(cost.worth_tokens)} fresh ones"
        )
    if cost.job.tokens < cost.parameters:
        found.append(
            f"fewer tokens ({format_count(cost.job.tokens)}) than parameters ({format_count(cost.parameters)}): "
            "a smaller model would learn more; or are the two mixed up, or a unit missing?"
        )
    return found

"""What people type -> numbers: a job and claims from the command line's words; every mistake is one clear line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from headwater.advice.architecture import named, parse_trainable
from headwater.advice.claims import Claims
from headwater.advice.cost import Cost, Job
from headwater.advice.market import Market
from headwater.core.errors import InputError
from headwater.core.units import parse_count, parse_flops

LEAST = 1000
"""Fewer parameters or tokens are a number whose unit was forgotten. Our choice."""
LEAST_GRAMS = 2.0
"""Less CO2 equivalent for a kWh are kg. Our choice: the cleanest grids have about 20 g."""


def job(
    market: Market,
    *,
    model: str | None,
    parameters: str | None,
    tokens: str | None,
    unique_tokens: str | None = None,
    trainable: str = "all",
    mfu: str | None = None,
    goodput: str | None = None,
    price: str | None = None,
    **settings: Any,
) -> Cost:
    """The cost of what is asked.

    Raises:
        InputError: something is missing, has no unit that is known, or cannot be.
        MismatchError: the model does not fit on the GPUs.
    """
    if tokens is None:
        raise InputError("how many tokens to train on?", place="--tokens", hint="such as --tokens 2T")
    if model is not None and parameters is not None:
        raise InputError("give a model or a number of parameters, not both", place="--parameters", hint="drop one")
    shape = named(model) if model is not None else None
    learn = {"trainable": parse_trainable(trainable, shape)} if shape else {}
    if shape is None and trainable != "all":
        raise InputError("needs a model with a shape", place="--trainable", hint="--model llama-2-7b")
    asked = Cost(
        Job(
            number("--tokens", tokens, parse_count),
            shape,
            parameters=number("--parameters", parameters, parse_count) if parameters is not None else 0,
            unique_tokens=_maybe("--unique-tokens", unique_tokens, parse_count),
            mfu=_maybe("--mfu", mfu, parse_share),
            goodput=_maybe("--goodput", goodput, parse_share),
            usd_per_hour=_maybe("--price", price, parse_usd),
            market=market,
            **learn,
            **settings,
        )
    )
    for place, value, hint in (
        ("--parameters", asked.job.parameters, "7B"),
        ("--tokens", asked.job.tokens, "2T"),
    ):
        if value and value < LEAST:
            raise InputError(
                f"{value:g} cannot be meant: is a unit missing?", place=place, hint=f"such as {place} {hint}"
            )
    _ = asked.way, asked.peak  # what cannot be is said before anything is printed
    if 0 < market.grid(asked.job.grid) < LEAST_GRAMS:
        hint = "wind is about 11 g; kg for a kWh are a thousand times that"
        raise InputError(f"{asked.job.grid} g CO2e for a kWh is no grid", place="--grid", hint=hint)
    return asked


def claims(**said: Any) -> Claims:
    """What somebody says of a run.

    Raises:
        InputError: a number cannot be read.
    """
    readers: dict[str, Callable[[Any], float]] = {
        "mfu": parse_share, "flops": parse_flops, "usd": parse_usd, "days": _plain, "co2_tonnes": _plain,
        "gpu_hours": parse_amount, "tokens_per_second": parse_amount, "kwh": parse_amount,
    }  # fmt: skip
    values = {}
    for name, text in said.items():
        place = "--claimed-" + name.removesuffix("_tonnes").replace("_", "-")
        values[name] = _maybe(place, text, readers.get(name, parse_count))
    return Claims(**values)


def number(place: str, text: Any, read: Callable[[Any], float]) -> float:
    """A number above zero.

    Raises:
        InputError: it is none; names the place and how to write it.
    """
    try:
        value = float(read(text))
    except ValueError as error:
        raise InputError(str(error).replace("expected", "takes"), place=place) from None
    if value <= 0:
        raise InputError(f"must be above zero, not {text}", place=place)
    return value


def _maybe(place: str, text: Any, read: Callable[[Any], float]) -> float | None:
    return None if text is None else number(place, text, read)


def parse_share(text: str) -> float:
    """Read a share of 1, as 0.4 or 40%.

    >>> parse_share("0.41"), parse_share("41 %")
    (0.41, 0.41)
    """
    bare = text.strip().removesuffix("%")
    value = _plain(bare) / (100 if bare != text.strip() else 1)
    if value > 1:
        raise ValueError(f"expected a share such as 0.4 or 40%, got '{text}'")
    return value


def parse_usd(text: str) -> float:
    """Read an amount of US dollars, as 2.5, "$100K" or "5.6M USD".

    >>> parse_usd("2.49"), parse_usd("$100K"), parse_usd("5.6M USD")
    (2.49, 100000.0, 5600000.0)
    """
    bare = text.strip().lower().removeprefix("$").removesuffix("usd").strip()
    if bare.removesuffix("eur") != bare or "€" in bare:
        raise ValueError(f"expected US dollars such as 2.5 or $100K, got '{text}'")
    return parse_amount(bare)


def parse_amount(text: Any) -> float:
    """Read an amount that need not be whole, as 12.6, "184K" or "3.3M".

    >>> parse_amount("12.6"), parse_amount("184K")
    (12.6, 184000.0)
    """
    bare = str(text).strip().lower()
    factor = {"k": 1e3, "m": 1e6, "b": 1e9}.get(bare[-1:], 1.0)
    return _plain(bare[:-1] if factor > 1 else bare) * factor


def _plain(text: Any) -> float:
    try:
        value = float(str(text).replace(",", "").replace("_", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a number, got '{text}'")
    return value

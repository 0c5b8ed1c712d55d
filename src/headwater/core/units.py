"""Numbers with units as people write them: "2M tokens", "200 s", "1.5 GiB", "10k".

>>> parse_count("2M tokens"), parse_seconds("1h 30m"), parse_bytes("1.5 GiB")
(2000000, 5400.0, 1610612736)
>>> format_count(10_731_524_096), format_bytes(1_610_612_736), format_seconds(5400)
('10.7B', '1.5 GiB', '1 h 30 min')
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_COUNTS = {
    "": 1,
    "k": 10**3,
    "thousand": 10**3,
    "m": 10**6,
    "million": 10**6,
    "b": 10**9,
    "billion": 10**9,
    "t": 10**12,
}
_BYTES = {"": 1, "b": 1, "byte": 1, "bytes": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _BYTES |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
_FLOPS = {"": 1}
for _power, _letter in enumerate("kmgtpez", start=1):
    _FLOPS |= {f"{_letter}flop": 1000**_power, f"{_letter}flops": 1000**_power}
_SECONDS = {
    "": 1.0,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
}
_NUMBER = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")


def parse_count(value: object) -> int:
    """Read a count such as 10_000, "10k", "300B" or "300B tokens"."""
    if isinstance(value, str):
        value = re.sub(r"\s*(tokens?|documents?|steps?|parameters?)$", "", value.strip())
    return _whole(_scaled(value, _COUNTS, 'a count such as 10000, "10k" or "300B tokens"'), value)


def parse_bytes(value: object) -> int:
    """Read a size in bytes such as 1048576, "1 MiB" or "1.5 GB"."""
    size = _scaled(value, _BYTES, 'a size such as 1048576, "1 MiB" or "1.5 GB"')
    if 0 < size < 1:
        raise ValueError(f"expected a size of at least one byte, got {value!r}")
    return round(size)


def parse_seconds(value: object) -> float:
    """Read a duration in seconds such as 200, "200 s", "5 min" or "1h 30m"."""
    expected = 'a duration such as 200, "200 s", "5 min" or "1h 30m"'
    if not isinstance(value, str):
        return _scaled(value, _SECONDS, expected)
    parts = _NUMBER.findall(value)
    if not parts or _NUMBER.sub("", value).strip():
        raise ValueError(f"expected {expected}, got {value!r}")
    return sum(_scaled(f"{number} {unit}", _SECONDS, expected) for number, unit in parts)


def parse_flops(value: object) -> float:
    """Read a number of floating-point operations such as 1e18, "3 EFLOP" or "2 h at 80 GFLOP/s".

    >>> parse_flops("2 h at 80 GFLOP/s"), parse_flops("1.5 EFLOPs")
    (576000000000000.0, 1.5e+18)
    """
    expected = 'FLOPs such as 1e18, "3 EFLOP" or "2 h at 80 GFLOP/s"'
    if not isinstance(value, str):
        return _scaled(value, _FLOPS, expected)
    time, at, rate = value.partition(" at ")
    if not at:
        return _scaled(value.strip(), _FLOPS, expected)
    if not rate.rstrip().endswith("/s"):
        raise ValueError(f"expected {expected}, got {value!r}")
    return parse_seconds(time) * _scaled(rate.rstrip().removesuffix("/s"), _FLOPS, expected)


def format_count(value: float) -> str:
    """Write a count in at most four characters of digits: 950, 12.3k, 4.3M, 10.7B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{letter}" if abs(value) < 999.5 * size else f"{value / size:.0f}{letter}"
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def format_bytes(value: float) -> str:
    """Write a size in binary units: 512 B, 1.5 MiB."""
    for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB")):
        if abs(value) < 1024 ** (power + 1) or unit == "TiB":
            scaled = value / 1024**power
            return f"{scaled:.0f} {unit}" if unit == "B" or scaled >= 100 else f"{scaled:.3g} {unit}"
    raise AssertionError("the loop always returns")


def format_seconds(value: float) -> str:
    """Write a duration with the two largest units that matter: 0.4 s, 48 s, 3 min 20 s, 1 h 30 min, 2 d 4 h."""
    if value < 10:
        return f"{value:.1f} s"
    seconds = round(value)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds % 60 else f"{seconds // 60} min"
    minutes = round(value / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = round(value / 3600)
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def _scaled(value: object, units: dict[str, Any], expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected {expected}, got {value!r}")
    if not isinstance(value, str):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"expected {expected}, got {value!r}")
        return value
    match = _NUMBER.fullmatch(value.strip())
    if not match or match[2].lower() not in units:
        raise ValueError(f"expected {expected}, got {value!r}")
    return float(Decimal(match[1].replace("_", "").replace(",", "")) * Decimal(units[match[2].lower()]))


def _whole(number: float, value: object) -> int:
    if number != int(number):
        raise ValueError(f"expected a whole number, got {value!r}")
    return int(number)


def _unit(parse: Callable[[object], float], kind: str, example: str) -> Any:
    schema = {"anyOf": [{"type": kind}, {"type": "string"}], "examples": [example]}
    return (BeforeValidator(parse), WithJsonSchema(schema))


Count = Annotated[int, *_unit(parse_count, "integer", "10k")]
"""A whole number; text such as "10k" is understood."""
Tokens = Annotated[int, *_unit(parse_count, "integer", "2M tokens")]
"""A number of tokens; text such as "2M tokens" is understood."""
Bytes = Annotated[int, *_unit(parse_bytes, "integer", "1.5 GiB")]
"""A size in bytes; text such as "1.5 GiB" is understood."""
Flops = Annotated[float, *_unit(parse_flops, "number", "2 h at 80 GFLOP/s")]
"""A number of floating-point operations; text such as "2 h at 80 GFLOP/s" is understood."""
Seconds = Annotated[float, *_unit(parse_seconds, "number", "5 min")]
"""A duration in seconds; text such as "5 min" is understood."""

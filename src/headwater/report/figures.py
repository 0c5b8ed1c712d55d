"""The charts of a report: described with Vega-Altair, drawn to SVG here, so that the page needs neither script nor network.

Each drawing uses the light colours of DARK; on a dark page the style sheet swaps every one for its partner. What can be
pointed at has an `aria-label`, which the page shows as a tooltip. Charts that hold much are drawn twice: WIDE for a desktop
and NARROW for a phone, because shrinking a wide drawing makes its text too small to read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from headwater.core.units import format_count, format_seconds
from headwater.report.blocks import Figure, decimal, share, significant, whole

Row = dict[str, Any]

WIDE, HALF, NARROW = 860, 420, 350
"""Widths of drawings [px]: the text column of the page, half of it, a phone."""
INK, MUTED, GRID = "#1b1f23", "#59626c", "#d9dee3"
SERIES = ("#0072b2", "#c2500a", "#00805f", "#a8478a", "#8a6a00", "#3b6fd4", "#6b4fa3", "#7a4b2a")
"""Colours of sources. Source: Okabe and Ito, Color Universal Design (blue, vermilion, green, purple first), darkened until
each has a contrast of at least 4.5 to white."""
DARK = {INK: "#e8ebee", MUTED: "#a4adb7", GRID: "#3a4149"} | dict(
    zip(SERIES, ("#56b4e9", "#f08b4f", "#2ec29a", "#e29bcb", "#e0b83c", "#8fb2ff", "#b9a3ee", "#d0a080"), strict=True)
)
"""Light colour -> the colour that takes its place on a dark page."""
LINE = "M-1.3,-0.2H1.3V0.2H-1.3Z"
SHAPES = (
    "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z",
    "M-0.9,-0.9H0.9V0.9H-0.9Z",
    "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",
    "M0,-1.1L1.15,0.9H-1.15Z",
    "M-1.2,-0.4H-0.4V-1.2H0.4V-0.4H1.2V0.4H0.4V1.2H-0.4V0.4H-1.2Z",
    "M0,1.1L1.15,-0.9H-1.15Z",
)
"""Shapes of points as SVG paths: circle, square, diamond, triangle, cross, triangle upside down."""
MOST_POINTS = 240
"""Points in a line: more cannot be told apart at this width, so neighbours are averaged."""
MOST_BARS = 18
"""Bars in a chart: the smallest are put together."""


def loss(steps: Sequence[Row], validations: Sequence[Row], expected: float | None) -> Figure:
    """The loss of training and validation [nats/token] against the tokens seen, with the loss that chance gives."""
    points = [{"tokens": row["tokens"], "value": row["loss"], "series": "training"} for row in thinned(steps, "loss")]
    points += [
        {"tokens": row["tokens"], "value": value, "series": f"validation: {name}"}
        for row in validations
        for name, value in row["validation_loss"].items()
        if math.isfinite(value)
    ]
    rules = [(expected, f"expected before training: {decimal(expected)}")] if expected is not None else []
    last = steps[-1]
    description = (
        f"Loss against tokens seen: training ends at {decimal(last['loss'])} nats per token after "
        f"{format_count(last['tokens'])} tokens."
    )
    return curves("Loss", "nats per token", points, description, rules=rules)


def bits_per_byte(validations: Sequence[Row]) -> Figure:
    """Bits per byte of held-out text of each source against the tokens seen."""
    points = [
        {"tokens": row["tokens"], "value": value, "series": name}
        for row in validations
        for name, value in row["validation_bits_per_byte"].items()
        if math.isfinite(value)
    ]
    last = validations[-1]["validation_bits_per_byte"]
    ends = ", ".join(f"{name} {decimal(value)}" for name, value in last.items())
    return curves("Surprise per byte of held-out text", "bits per byte", points, f"Last values: {ends}.")


def learning_rate(steps: Sequence[Row]) -> Figure:
    """The learning rate against the tokens seen."""
    points = [
        {"tokens": row["tokens"], "value": row["learning_rate"], "series": ""}
        for row in thinned(steps, "learning_rate")
    ]
    top = max(point["value"] for point in points)
    description = f"Learning rate against tokens seen; at most {significant(top)}."
    return curves("Learning rate", "", points, description, width=HALF, write=significant)


def throughput(steps: Sequence[Row]) -> Figure:
    """Tokens per second against the tokens seen."""
    name = "tokens_per_second"
    points = [{"tokens": row["tokens"], "value": row[name], "series": ""} for row in thinned(steps, name)]
    middle = sorted(point["value"] for point in points)[len(points) // 2]
    description = f"Tokens per second against tokens seen; half of the time above {whole(middle)}."
    return curves("Throughput", "tokens per second", points, description, width=HALF, write=whole)


def curves(
    title: str,
    unit: str,
    points: Sequence[Row],
    description: str,
    *,
    rules: Sequence[tuple[float, str]] = (),
    width: int = WIDE,
    write: Callable[[float], str] = decimal,
) -> Figure:
    """Lines over tokens, one for each `series` of the points; "training" is drawn in grey behind the others."""
    for point in points:
        place = f"{format_count(point['tokens'])} tokens"
        point["label"] = ", ".join(filter(None, (point["series"], f"{write(point['value'])} at {place}")))
    looks = looks_of([point["series"] for point in points])
    x = alt.X("tokens:Q", title="tokens seen", axis=count_axis(6), scale=alt.Scale(nice=False, zero=True))
    counted = write is whole
    y = alt.Y(
        "value:Q",
        title=None,
        scale=alt.Scale(zero=counted),
        axis=count_axis(5, domain=False, ticks=False) if counted else alt.Axis(tickCount=6, domain=False, ticks=False),
    )
    colour, shape = look_channels(looks)
    data = {
        "behind": [point for point in points if point["series"] == "training"],
        "front": [point for point in points if point["series"] != "training"],
        "points": points,
        "rules": [{"value": at, "label": label, "tokens": points[-1]["tokens"]} for at, label in rules],
    }
    layers = [
        chart("behind").mark_line(aria=False, strokeWidth=1.25).encode(x, y, colour),
        chart("front").mark_line(aria=False, strokeWidth=2).encode(x, y, colour),
    ]
    if len(looks) > 1 and len(data["front"]) <= MOST_POINTS // 2:
        layers.append(
            chart("front").mark_point(size=46, filled=True, opacity=1, aria=False).encode(x, y, colour, shape)
        )
    layers.append(
        chart("points").mark_point(size=160, opacity=0, filled=True, color=INK).encode(x, y, description="label:N")
    )
    layers.append(chart("rules").mark_rule(strokeDash=[5, 4], color=INK, aria=False).encode(y))
    text = chart("rules").mark_text(align="right", baseline="bottom", dx=-4, dy=-4, color=INK, aria=False)
    layers.append(text.encode(alt.X("tokens:Q"), y, alt.Text("label:N")))
    layered = alt.LayerChart(layer=layers)
    wide = svg(layered, data, width, 320 if width == WIDE else 210)
    narrow = svg(layered, data, NARROW, 270) if width == WIDE else ""
    return Figure(title, unit, description, wide, narrow, key_of(looks))


def funnel(documents_in: int, drops: Sequence[tuple[str, int]]) -> Figure:
    """How many documents came in, how many each reason took away, and how many are left."""
    shown = list(drops)
    if len(shown) > MOST_BARS:
        kept = set(sorted(shown, key=lambda drop: -drop[1])[: MOST_BARS - 1])
        rest = [drop for drop in shown if drop not in kept]
        shown = [drop for drop in shown if drop in kept] + [(f"{len(rest)} other reasons", sum(n for _, n in rest))]
    rows = [{"name": "read", "start": 0, "end": documents_in, "kind": "in", "value": whole(documents_in)}]
    left = documents_in
    for name, documents in shown:
        value = f"\N{MINUS SIGN}{whole(documents)}"
        rows.append({"name": name, "start": left - documents, "end": left, "kind": "dropped", "value": value})
        left -= documents
    rows.append({"name": "kept", "start": 0, "end": left, "kind": "kept", "value": whole(left)})
    description = (
        f"Of {whole(documents_in)} documents read, {whole(left)} ({share(left, documents_in)}) are kept; "
        f"{len(drops)} reasons dropped the others."
    )
    colours = {"in": MUTED, "dropped": SERIES[1], "kept": SERIES[0]}
    return bars("From the first document to the last", "documents", description, rows, colours)


def stage_times(seconds: Mapping[str, float]) -> Figure:
    """How long each stage took."""
    rows = [{"name": n, "start": 0, "end": s, "kind": "stage", "value": format_seconds(s)} for n, s in seconds.items()]
    longest = max(seconds, key=lambda name: seconds[name])
    description = f"Time for each stage; {longest} took longest, {format_seconds(seconds[longest])}."
    return bars("Time for each stage", "", description, rows, {"stage": SERIES[0]})


def forecast_times(expected: Mapping[str, float], measured: Mapping[str, float]) -> Figure:
    """The time of each stage as expected and as measured, one bar under the other."""
    rows: list[Row] = []
    for name, seconds in expected.items():
        for kind, value in (("forecast", seconds), ("measured", measured[name])):
            rows.append(
                {"name": f"{name}, {kind}", "start": 0, "end": value, "kind": kind, "value": format_seconds(value)}
            )
    total = sum(expected.values()), sum(measured[name] for name in expected)
    description = f"Expected {format_seconds(total[0])} for all of these stages, measured {format_seconds(total[1])}."
    return bars("Time, forecast and measured", "", description, rows, {"forecast": MUTED, "measured": SERIES[0]})


def bars(title: str, unit: str, description: str, rows: Sequence[Row], colours: Mapping[str, str]) -> Figure:
    """Horizontal bars from `start` to `end` with names and values; on a narrow page the name stands above its bar."""
    furthest = max(max(row["end"] for row in rows), 1e-9)
    for row in rows:
        row |= {"label": f"{row['name']}: {row['value']} {unit}".strip(), "text_at": row["end"]}
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    drawings = []
    for width in (WIDE, NARROW):
        wide = width == WIDE
        axis = alt.Axis(labelLimit=330, ticks=False, domain=False, labelPadding=8, labelColor=INK) if wide else None
        y = alt.Y("name:N", sort=None, title=None, axis=axis, scale=alt.Scale(paddingInner=0.35 if wide else 0.62))
        # the value stands right of its bar, so leave room after the longest
        x = alt.X("start:Q", axis=None, scale=alt.Scale(domain=[0, furthest * (1.14 if wide else 1.3)], nice=False))
        base = chart("rows")
        colour = alt.Color("kind:N", scale=scale, legend=None)
        bar = base.mark_bar(minBandSize=2, cornerRadius=1).encode(x, alt.X2("end:Q"), y, colour, description="label:N")
        value = base.mark_text(align="left", dx=5, color=INK, aria=False)
        layers = [bar, value.encode(alt.X("text_at:Q"), y, alt.Text("value:N"))]
        if not wide:
            name = base.mark_text(align="left", baseline="bottom", dy=-9, color=INK, aria=False, limit=NARROW - 20)
            layers.append(name.encode(y, alt.Text("name:N"), x=alt.value(0)))
        drawings.append(svg(alt.LayerChart(layer=layers), {"rows": rows}, width, len(rows) * (24 if wide else 38) + 10))
    return Figure(title, unit, description, *drawings)


def scores(rows: Sequence[Row]) -> Figure:
    """Bits per byte of each source under each model or baseline, with standard errors: fewer is better."""
    for row in rows:
        error = row["standard_error"] or 0.0
        spread = f" ± {decimal(error)}" if error else ""
        row |= {"low": row["value"] - error, "high": row["value"] + error}
        row["label"] = f"{row['source']}, {row['series']}: {decimal(row['value'])}{spread} bits per byte"
    looks = looks_of([row["series"] for row in rows])
    colour, shape = look_channels(looks)
    axis = alt.Axis(ticks=False, domain=False, grid=True, labelLimit=120, labelColor=INK)
    y = alt.Y("source:N", sort=None, title=None, axis=axis)
    x = alt.X("low:Q", title="bits per byte", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=8))
    base = chart("rows")
    errors = base.mark_rule(strokeWidth=2, aria=False).encode(x, alt.X2("high:Q"), y, colour)
    marks = base.mark_point(size=90, filled=True, opacity=1)
    layered = alt.LayerChart(layer=[errors, marks.encode(alt.X("value:Q"), y, colour, shape, description="label:N")])
    height = len({row["source"] for row in rows}) * 34 + 50
    best = min((row for row in rows if row["source"] == rows[-1]["source"]), key=lambda row: row["value"])
    description = f"Bits per byte by source; best of {best['source']}: {best['series']} with {decimal(best['value'])}."
    drawings = svg(layered, {"rows": rows}, WIDE, height), svg(layered, {"rows": rows}, NARROW, height)
    return Figure("Bits per byte by source", "fewer is better", description, *drawings, key_of(looks))


def thinned(rows: Sequence[Row], name: str) -> list[Row]:
    """At most MOST_POINTS rows that have a finite value `name`: each the mean of neighbours, the first and last kept as they are.

    >>> len(thinned([{"tokens": i, "loss": 1.0} for i in range(1000)], "loss")) <= MOST_POINTS
    True
    """
    rows = [row for row in rows if row.get(name) is not None and math.isfinite(row[name])]
    if len(rows) <= MOST_POINTS:
        return [{"tokens": row["tokens"], name: row[name]} for row in rows]
    size = -(-(len(rows) - 2) // (MOST_POINTS - 2))
    groups = [rows[:1], *(rows[at : min(at + size, len(rows) - 1)] for at in range(1, len(rows) - 1, size)), rows[-1:]]
    return [{key: sum(row[key] for row in group) / len(group) for key in ("tokens", name)} for group in groups]


# ---------------------------------------------------------------------------------------------------------- drawing


def chart(name: str) -> alt.Chart:
    """An Altair chart of the rows that `svg` is given under this name."""
    return alt.Chart(alt.NamedData(name))


def count_axis(marks: int, **more: Any) -> alt.Axis:
    """An axis of counts written as people do: 500k, 2M, 1.5B."""
    billions = "replace(format(datum.value, '~s'), 'G', 'B')"
    return alt.Axis(labelExpr=billions, tickCount=marks, **more)


def looks_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name -> colour and shape: both tell series apart, so that neither has to alone; "training" is a grey line."""
    others = [name for name in dict.fromkeys(names) if name != "training"]
    looks = {name: (SERIES[at % len(SERIES)], SHAPES[at % len(SHAPES)]) for at, name in enumerate(others)}
    return ({"training": (MUTED, LINE)} if "training" in names else {}) | looks


def look_channels(looks: Mapping[str, tuple[str, str]]) -> tuple[alt.Color, alt.Shape]:
    """The colour and the shape of each series for a chart; the page writes the key itself."""
    names, colours = list(looks), [colour for colour, _ in looks.values()]
    shapes = [shape for _, shape in looks.values()]
    colour = alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=None)
    return colour, alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=None)


def key_of(looks: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """A drawing and the name of each series; nothing for a single one."""
    draw = '<svg width="14" height="14" viewBox="-1.4 -1.4 2.8 2.8" aria-hidden="true"><path fill="{}" d="{}"/></svg>'
    return [(draw.format(*look), name) for name, look in looks.items()] if len(looks) > 1 else []


def svg(layered: alt.LayerChart, data: Mapping[str, Sequence[Row]], width: int, height: int) -> str:
    """Draw a chart of the named rows in `data` to SVG of this size [px]; its colours are those of DARK and no other."""
    sized = layered.properties(
        width=width,
        height=height,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        background="transparent",
        padding={"left": 2, "right": 8, "top": 4, "bottom": 2},
    )
    font = "Helvetica, Arial, sans-serif"
    axis: dict[str, Any] = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "gridColor": GRID,
        "domainColor": GRID,
        "tickColor": GRID,
    }
    axis |= {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelOverlap": True,
        "labelPadding": 7,
    }
    configured = (
        sized.configure(font=font)
        .configure_axis(**axis)
        .configure_axisX(grid=False)
        .configure_view(stroke=None)
        .configure_text(fontSize=12)
    )
    drawing = vl_convert.vegalite_to_svg({**configured.to_dict(), "datasets": data})
    return re.sub(r' (role="graphics-object"|aria-roledescription="[^"]*"|xmlns:xlink="[^"]*")', "", drawing)

"""Sections on what a run took: time, energy, money."""

from __future__ import annotations

from collections.abc import Iterator

from headwater.core import hardware
from headwater.core.units import format_seconds
from headwater.report import figures
from headwater.report.blocks import Block, Table, Text, share, significant
from headwater.report.evidence import Evidence


def times(evidence: Evidence) -> Iterator[Block]:
    """How long each stage took."""
    seconds = evidence.seconds
    total = sum(seconds.values())
    yield figures.stage_times(seconds)
    rows = [[name, format_seconds(value), share(value, total)] for name, value in seconds.items()]
    yield Table(
        "Time for each stage",
        ["stage", "time", "of all"],
        [*rows, ["total", format_seconds(total), share(total, total)]],
        1,
        True,
    )
    yield Text("A stage that an earlier run had already finished counts with the time that it took then.")


def estimate(evidence: Evidence) -> Iterator[Block]:
    """An estimate of energy, carbon and money, with everything that it assumes."""
    machine, seconds = evidence.machine, evidence.seconds
    watts, total = hardware.power_watts(machine), sum(evidence.seconds.values())
    parts = [("training", seconds["train"])] if "train" in seconds else []
    rows = []
    for name, time in [*parts, ("all stages", total)]:
        energy = energy_kwh(evidence, time)
        price = write_price(machine.usd_per_hour * time / 3600) if machine.usd_per_hour else "no price set"
        rows.append(
            [
                name,
                format_seconds(time),
                write_energy(energy),
                f"{significant(energy * machine.carbon_grams_per_kwh)} g",
                price,
            ]
        )
    yield Table(
        "Estimates, not measurements", ["", "time", "electricity", "CO2 equivalent", "price"], rows, total_row=True
    )
    power = f"{significant(watts)} W, " + (
        "set in machine.watts" if machine.watts else "guessed from the number of cores and the memory"
    )
    yield Text(
        f"Assumed: the machine draws {power}, for the whole time; each kWh emits {significant(machine.carbon_grams_per_kwh)} g "
        "of CO2 equivalent; cooling and other overhead of a data centre are left out. To change this, set machine.watts, "
        "machine.carbon_grams_per_kwh and machine.usd_per_hour."
    )


def energy_kwh(evidence: Evidence, seconds: float) -> float:
    """Energy [kWh] = power [W] x time [s] / 3.6 MJ."""
    return hardware.power_watts(evidence.machine) * seconds / 3.6e6


def write_energy(energy: float) -> str:
    """Write an amount of energy given in kWh."""
    return f"{significant(energy * 1000)} Wh" if energy < 1 else f"{significant(energy)} kWh"


def write_price(money: float) -> str:
    """Write an amount of US dollars."""
    return f"{money:,.2f} USD" if money >= 0.01 else "less than 0.01 USD"

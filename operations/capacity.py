"""Capacity: cores, memory and disk for a number of users, from unit costs that the benches measured.

Plain arithmetic, no prices. Every figure is a unit cost times a load; the page names both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError, NotReadyError
from core.files import read_json

UNITS = {
    "cpu_ingest": ("core-seconds a million events", "units"),
    "cpu_clocks": ("core-seconds a million events", "units"),
    "cpu_samples": ("core-seconds a million events", "units"),
    "cpu_training": ("core-seconds a million events and variant", "units"),
    "cpu_gate": ("core-seconds a million events", "units"),
    "serve_cpu_matched": ("core-milliseconds a request of 200 candidates", "serving"),
    "cpu_ab": ("core-seconds a million events, once a day", "units"),
    "spark_rebuild": ("seconds on two cores", "spark"),
    "bytes_event": ("bytes an event", "units"),
    "bytes_changes_event": ("bytes an event", "units"),
    "bytes_samples_event": ("bytes an event", "units"),
    "bytes_clock_user": ("bytes a user", "units"),
    "bytes_online_user": ("bytes a user in Redis", "units"),
    "bytes_model_id": ("bytes a user or item, optimizer included", "units"),
}
"""Figure of ``var/bench/results.json`` → its unit, and the bench that measures it."""
BENCH_CORES = 2


@dataclass(frozen=True)
class Load:
    """What people do, and what machines are like."""

    users: float
    active_share: float = 0.3
    events_a_day: float = 60.0
    requests_a_day: float = 20.0
    items: float = 1e6
    peak: float = 2.0
    utilization: float = 0.5
    variants: int = 2
    kept_days: int = 180
    machine_cores: int = 32
    machine_memory_gb: float = 128.0

    def __post_init__(self) -> None:
        if bad := [name for name, value in vars(self).items() if not value > 0]:
            raise ConfigError(f"{', '.join(bad)}: must be more than 0")
        if self.active_share > 1 or self.utilization > 1 or self.peak < 1:
            raise ConfigError("active share and utilization are shares of 1; the peak hour is at least the mean hour")

    @property
    def peak_events(self) -> float:
        """Events of the busiest hour."""
        return self.users * self.active_share * self.events_a_day / 24 * self.peak

    @property
    def peak_requests(self) -> float:
        """Requests a second of the busiest hour."""
        return self.users * self.active_share * self.requests_a_day / 86_400 * self.peak


@dataclass(frozen=True)
class Need:
    """What one part needs: cores at the peak, memory and disk in GB."""

    part: str
    cores: float
    memory_gb: float = 0.0
    disk_gb: float = 0.0

    def machines(self, load: Load) -> int:
        return max(1, math.ceil(max(self.cores / load.machine_cores, self.memory_gb / load.machine_memory_gb)))


def read_units(path: Path) -> dict[str, float]:
    """The measured unit costs.

    Raises:
        NotReadyError: some were not measured; names the benches that do.
    """
    measured = {row["name"]: float(row["value"]) for row in read_json(path)} if path.exists() else {}
    if missing := sorted({bench for name, (_, bench) in UNITS.items() if name not in measured}):
        raise NotReadyError(f"{path} lacks unit costs; run 'clock bench {' '.join(missing)}'")
    peers = {row["name"]: float(row["peer_value"]) for row in read_json(path)}
    return {name: measured[name] for name in UNITS} | {
        "spark_factor": measured["spark_rebuild"] / peers["spark_rebuild"]
    }


def needs(units: dict[str, float], load: Load) -> list[Need]:
    """What every part needs at a load."""
    millions = load.peak_events / 1e6

    def cores(core_seconds: float) -> float:
        return millions * core_seconds / 3600 / load.utilization

    daily_gb = load.users * load.active_share * load.events_a_day / 1e9
    model_gb = (load.users + load.items) * units["bytes_model_id"] / 1e9
    clocks = cores(units["cpu_clocks"])
    on_spark = clocks > load.machine_cores
    return [
        Need("ingest and event store", cores(units["cpu_ingest"]), 0, daily_gb * load.kept_days * units["bytes_event"]),
        Need(
            f"clocks ({'Spark' if on_spark else 'DuckDB'})", clocks * (units["spark_factor"] if on_spark else 1), 0,
            load.users * units["bytes_clock_user"] / 1e9 + daily_gb * load.kept_days * units["bytes_changes_event"],
        ),
        Need("online store (Redis)", 0, load.users * units["bytes_online_user"] / 1e9),
        Need("samples", cores(units["cpu_samples"]), 0, daily_gb * load.kept_days * units["bytes_samples_event"]),
        Need(f"training, {load.variants} variants", cores(units["cpu_training"]) * load.variants, model_gb * load.variants),
        Need("gate", cores(units["cpu_gate"])),
        Need("ranking service", load.peak_requests * units["serve_cpu_matched"] / 1000 / load.utilization, model_gb),
        Need("A/B user tables, in an hour a day", daily_gb * 1e3 * units["cpu_ab"] / 3600 / load.utilization),
    ]  # fmt: skip


def limits(units: dict[str, float], load: Load) -> list[str]:
    """What one process must do or hold alone and cannot at this load: where the platform as it is ends."""
    demands = []
    seconds = load.peak_events / 1e6 * units["cpu_training"] / BENCH_CORES
    if seconds > 3600:
        demands.append(
            f"one trainer on {BENCH_CORES} cores needs {seconds / 3600:,.1f} h for the busiest hour: `torchrun` with at least "
            f"{math.ceil(seconds / 3600 / load.utilization)} processes a variant"
        )
    model = (load.users + load.items) * units["bytes_model_id"] / 1e9
    if model > load.machine_memory_gb / 2:
        demands.append(
            f"a model and its optimizer are {model:,.0f} GB and every training process holds all of it: tables would have to be "
            "spread over machines, which is not built"
        )
    return demands


def page(units: dict[str, float], loads: list[Load]) -> str:
    """The page in Markdown: a table for each load, what does not fit, the unit costs, what was assumed."""
    lines = [
        "# Capacity",
        "",
        "Written by `clock ops capacity` from unit costs that `clock bench` measured on two cores: arithmetic, "
        "not a test at these sizes.",
        "",
    ]
    for load in loads:
        lines += [
            f"## {load.users:,.0f} users",
            "",
            f"{load.peak_events:,.0f} events in the busiest hour, {load.peak_requests:,.0f} requests a second.",
            "",
            "| part | cores | memory, GB | disk, GB | machines |",
            "| --- | --: | --: | --: | --: |",
        ]
        demands = needs(units, load)
        for need in demands:
            cells = (_figure(need.cores), _figure(need.memory_gb), _figure(need.disk_gb), f"{need.machines(load):,}")
            lines.append(f"| {need.part} | {' | '.join(cells)} |")
        total = (sum(n.cores for n in demands), sum(n.memory_gb for n in demands), sum(n.disk_gb for n in demands))
        lines += [f"| **together** | {' | '.join(map(_figure, total))} | |", ""]
        if ends := limits(units, load):
            lines += [*(f"- Does not fit as it is: {limit}." for limit in ends), ""]
    lines += ["## Unit costs", "", "| figure | value | unit | bench |", "| --- | --: | --- | --- |"]
    lines += [f"| `{name}` | {units[name]:,.1f} | {unit} | `{bench}` |" for name, (unit, bench) in UNITS.items()]
    first = loads[0]
    lines += [
        "",
        f"Spark took {units['spark_factor']:.1f} times as long as DuckDB on the same two cores, and is counted with where DuckDB "
        "would need more than a machine.",
        "",
        "## Assumed",
        "",
        f"{first.active_share:.0%} of the users are active on a day, with {first.events_a_day:g} events and "
        f"{first.requests_a_day:g} requests each; the busiest hour has {first.peak:g} times the mean; processors are "
        f"{first.utilization:.0%} busy at that time; {first.items:,.0f} items; {first.kept_days} days of events, changes and samples "
        f"are kept; a machine has {first.machine_cores} cores and {first.machine_memory_gb:g} GB. Every one is an option "
        "(`--help`). Users with clocks online are all users; those of the unit costs had 500 events in 30 days. "
        "The benches' events are made up, a million of 200 k users in an hour: a real log compresses less.",
        "",
    ]
    return "\n".join(lines)


def _figure(value: float) -> str:
    if value == 0:
        return ""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"

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
    "traffic_ingestion_1M": ("core-seconds a million events", "traffic"),
    "traffic_clocks_1M": ("core-seconds a million events", "traffic"),
    "traffic_samples_1M": ("core-seconds a million events", "traffic"),
    "traffic_training_1M": ("core-seconds a million events, two variants", "traffic"),
    "traffic_gate_1M": ("core-seconds a million events, an hour's scores", "traffic"),
    "traffic_experiments_1M": ("core-seconds a million events, a look at one experiment", "traffic"),
    "serve_cpu_matched": ("core-milliseconds a request of 200 candidates", "serving"),
    "cpu_ab": ("core-seconds a million events, a day's report of one experiment", "units"),
    "spark_rebuild": ("seconds on two cores", "spark_rebuild"),
    "bytes_event": ("bytes an event", "units"),
    "bytes_changes_event": ("bytes an event", "units"),
    "bytes_samples_event": ("bytes an event", "units"),
    "bytes_clock_user": ("bytes a user", "units"),
    "bytes_online_user": ("bytes a user in Redis", "units"),
    "bytes_model_id": ("bytes a user or item, optimizer included", "units"),
}
"""Figure of ``var/bench/results.json`` → its unit, and the bench that measures it."""
GROWING = ("ingestion", "clocks", "samples", "training", "gate", "experiments")
"""Steps whose cost in a service of more users `clock bench population` compares."""
POPULATION = ("0.1M", "4M")
TRAFFIC_VARIANTS = 2
"""Rankers that the bench trains in an hour."""
SERVED_VERSIONS = 2
"""Models in the memory of each process that ranks: the champion, and its challenger."""


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
    variants: int = 6
    experiments: int = 10
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
    benches = {name: bench for name, (_, bench) in UNITS.items()}
    benches |= {f"population_{step}_{size}": "population" for step in GROWING for size in POPULATION}
    if missing := sorted({bench for name, bench in benches.items() if name not in measured}):
        raise NotReadyError(f"{path} lacks unit costs; run 'clock bench {' '.join(missing)}'")
    peers = {row["name"]: float(row["peer_value"]) for row in read_json(path)}
    small, large = POPULATION
    growth = {
        f"growth_{step}": measured[f"population_{step}_{large}"] / measured[f"population_{step}_{small}"]
        for step in GROWING
    }
    return {
        **{name: measured[name] for name in UNITS},
        **growth,
        "spark_factor": measured["spark_rebuild"] / peers["spark_rebuild"],
    }


def needs(units: dict[str, float], load: Load) -> list[Need]:
    """What every part needs at a load."""
    millions = load.peak_events / 1e6

    def cores(core_seconds: float) -> float:
        return millions * core_seconds / 3600 / load.utilization

    daily_gb = load.users * load.active_share * load.events_a_day / 1e9
    model_gb = (load.users + load.items) * units["bytes_model_id"] / 1e9
    clocks = cores(units["traffic_clocks_1M"])
    on_spark = clocks > load.machine_cores
    serving = load.peak_requests * units["serve_cpu_matched"] / 1000 / load.utilization
    processes = math.ceil(serving)
    report = daily_gb * 1e3 * units["cpu_ab"] / 3600 / load.utilization
    return [
        Need(
            "ingest and event store", cores(units["traffic_ingestion_1M"]), 0, daily_gb * load.kept_days * units["bytes_event"],
        ),
        Need(
            f"clocks ({'Spark' if on_spark else 'DuckDB'})", clocks * (units["spark_factor"] if on_spark else 1), 0,
            load.users * units["bytes_clock_user"] / 1e9 + daily_gb * load.kept_days * units["bytes_changes_event"],
        ),
        Need("online store (Redis)", 0, load.users * units["bytes_online_user"] / 1e9),
        Need("samples", cores(units["traffic_samples_1M"]), 0, daily_gb * load.kept_days * units["bytes_samples_event"]),
        Need(
            f"training, {load.variants} variants", cores(units["traffic_training_1M"]) * load.variants / TRAFFIC_VARIANTS,
            model_gb * load.variants,
        ),
        Need("gate", cores(units["traffic_gate_1M"])),
        Need(f"ranking service, {processes:,} processes", serving, processes * SERVED_VERSIONS * model_gb),
        Need(f"hourly looks at {load.experiments} experiments", cores(units["traffic_experiments_1M"]) * load.experiments),
        Need(f"reports of {load.experiments} experiments, in an hour a day", report * load.experiments),
    ]  # fmt: skip


def limits(units: dict[str, float], load: Load) -> list[str]:
    """What one process must do or hold alone and cannot at this load: where the platform as it is ends."""
    demands = []
    each = {
        "the ingestion": units["traffic_ingestion_1M"], "the gate": units["traffic_gate_1M"],
        "the trainer of one variant": units["traffic_training_1M"] / TRAFFIC_VARIANTS,
    }  # fmt: skip
    for part, cost in each.items():
        seconds = load.peak_events / 1e6 * cost
        if seconds > 3600:
            processes = math.ceil(seconds / 3600 / load.utilization)
            remedies = {
                "the ingestion": ": executors of Spark share it (CLOCK_ENGINE=spark)",
                "the trainer of one variant": f": at least {processes} processes a variant (CLOCK_TRAIN_PROCESSES, or `torchrun` over "
                "machines)",
            }
            remedy = remedies.get(part, "")
            demands.append(
                f"{part} is one process and needs {seconds / 3600:,.1f} core-hours for the busiest hour{remedy}"
            )
    model = (load.users + load.items) * units["bytes_model_id"] / 1e9
    if model > load.machine_memory_gb / 2:
        demands.append(
            f"a model and its optimizer are {model:,.0f} GB: `torchrun` spreads the tables over the training processes of several "
            "machines, but the gate and every ranking process hold all of it"
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
        "The arithmetic takes a million events to cost the same whatever the service's users. Measured core-time of the same hour in "
        f"a service of {POPULATION[1][:-1]} million users over that in one of {POPULATION[0][:-1]} million (`clock bench population`): "
        + ", ".join(f"{step} {units[f'growth_{step}']:.2f}" for step in GROWING)
        + ".",
        "",
        "## Assumed",
        "",
        f"{first.active_share:.0%} of the users are active on a day, with {first.events_a_day:g} events and "
        f"{first.requests_a_day:g} requests each; the busiest hour has {first.peak:g} times the mean; processors are "
        f"{first.utilization:.0%} busy at that time; {first.items:,.0f} items; {first.kept_days} days of events, changes and samples "
        f"are kept; {first.variants} rankers are trained; {first.experiments} experiments run at a time, each on all users, and a "
        "report reads a day of events (what it computes from users and days is left out); each process that ranks has one core and "
        f"{SERVED_VERSIONS} models of its own, and ranks each request alone; the gate scores every hour, and what it takes to compare "
        f"hours when it decides is left out; a machine has {first.machine_cores} cores and {first.machine_memory_gb:g} GB. "
        "Every one is an option (`--help`). Users with clocks online are all users; those of the unit costs had 500 events in 30 days. "
        "The benches' events are made up, a million of 200 k users in an hour: a real log compresses less.",
        "",
    ]
    return "\n".join(lines)


def _figure(value: float) -> str:
    if value == 0:
        return ""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"

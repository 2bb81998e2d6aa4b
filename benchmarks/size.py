"""What the same hour costs in a larger service, and what an event costs in a larger hour: core-seconds of every hourly step."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.growth import Service, ServiceLog, growth, hour_costs
from benchmarks.result import Result
from core.hours import DAY_HOURS

DAYS = 31
"""Of log: the window is full, and the hours that leave it while the bench runs are there."""
USERS = (100_000, 1_000_000, 4_000_000)
ACTIVE = 50_000
EVENTS = (100_000, 1_000_000)
EVENTS_A_SESSION = 4
EVENTS_A_USER = 6
"""In the log before the measured hours, besides those of the hours that are as large as these."""


def bench_population(scale: float) -> list[Result]:
    """Median core-seconds of a step for the same hour, 50,000 active users and 200,000 events, in services of 0.1, 1 and 4 M users.

    All users have clocks, recent behaviors and rows in the rankers' tables; the experiment has as many users in each
    service. The online store is taken as filled: to fill it with 4 M users would take most of the run.
    """
    active = int(ACTIVE * scale)
    services = {f"{users / 1e6:g}M": _service(int(users * scale), active, int(USERS[0] * scale)) for users in USERS}
    return growth("population", _costs(services), f"{USERS[0] / 1e6:g}M")


def bench_traffic(scale: float) -> list[Result]:
    """Median core-microseconds of a step for each event, in hours of 0.1 and 1 M events; the service grows with its hours.

    5 M events an hour are left out: two variants train on them for minutes, hour after hour.
    """
    services = {}
    for events in EVENTS:
        active = int(events * scale) // EVENTS_A_SESSION
        services[f"{events / 1e6:g}M"] = _service(4 * active, active, 2 * active)
    costs = {
        size: {step: 1e6 * seconds / services[size].events for step, seconds in by_step.items()}
        for size, by_step in _costs(services).items()
    }
    return growth("traffic", costs, f"{EVENTS[0] / 1e6:g}M", "µs")


def _service(users: int, active: int, exposed: int) -> Service:
    return Service(
        days=DAYS, users=users, active=active, events=active * EVENTS_A_SESSION,
        events_before=max(1, users * EVENTS_A_USER // (DAYS * DAY_HOURS)), exposed=exposed, history=False, online=False,
        warm_hours=2, measured_hours=3,
    )  # fmt: skip


def _costs(services: Mapping[str, Service]) -> dict[str, dict[str, float]]:
    """What the steps of an hour cost in services that differ in size alone."""
    with tempfile.TemporaryDirectory() as name:
        workspaces = {
            size: ServiceLog(Path(name) / size, service).workspace(Path(name) / size / "var", DAYS)
            for size, service in services.items()
        }
        return hour_costs(workspaces, next(iter(services.values())))

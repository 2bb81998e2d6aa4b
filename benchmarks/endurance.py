"""What the same hour costs after a short log and after a long one: core-seconds of every hourly step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.growth import Service, ServiceLog, growth, hour_costs
from benchmarks.result import Result

LOG_DAYS = (8, 32, 64, 256)
FULL_WINDOW = 32
"""Days of log from which an hour has events that leave its window; what grows beyond this grows with the log."""
USERS, ACTIVE, EVENTS = 10_000, 100, 400


def bench_endurance(scale: float) -> list[Result]:
    """Median core-seconds of a step for the same hour after 8, 32, 64 and 256 days of log; the peer is the full window.

    10,000 users, 400 events an hour, in a log of impressions and in one of positives only. Before the window is full an
    hour has no events that leave it, so 8 days cost less by nature.
    """
    return [*endurance("impressions", scale), *endurance("positives", scale, positives_only=True)]


def endurance(kind: str, scale: float, *, positives_only: bool = False) -> list[Result]:
    """The figures of one kind of log.

    Args:
        kind: its name.
        scale: share of the users and the events.
        positives_only: whether the log holds positives alone.
    """
    service = Service(
        days=LOG_DAYS[-1], users=int(USERS * scale), active=max(1, int(ACTIVE * scale)), events=int(EVENTS * scale),
        events_before=int(EVENTS * scale), positives_only=positives_only,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        whole = ServiceLog(Path(name), service)
        workspaces = {f"{days}d": whole.workspace(Path(name) / f"{days}-days", days) for days in LOG_DAYS}
        return growth(f"endurance_{kind}", hour_costs(workspaces, service), f"{FULL_WINDOW}d")

"""Time zones that every library of the platform knows."""

from __future__ import annotations

from functools import cache
from zoneinfo import available_timezones

import duckdb

from core.documents import did_you_mean


@cache
def known_zones() -> frozenset[str]:
    """Time zones that Python and DuckDB both know; those that stand for this machine's own do not count."""
    with duckdb.connect() as con:
        engine = {str(row[0]) for row in con.execute("SELECT name FROM pg_timezone_names()").fetchall()}
    return frozenset(available_timezones() & engine - {"localtime", "posixrules", "Factory"})


def is_zone(name: str) -> bool:
    """Whether every library that the platform uses knows a time zone."""
    return name in known_zones()


def check_zone(name: str) -> str:
    """Return ``name`` if it is a known time zone; ``ValueError`` with a near match otherwise."""
    if not is_zone(name):
        raise ValueError(f"unknown time zone '{name}'{did_you_mean(name, known_zones())}")
    return name

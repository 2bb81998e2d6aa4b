"""Python's garbage collector, for processes that import much and then make many objects that are soon free.

By its defaults it looks for garbage at every 700 new objects, and mostly finds none: what a process imports stays, and what a
request or a test makes is mostly free without it.
"""

from __future__ import annotations

import gc

COLLECT_AFTER = 50_000
"""New objects after which garbage is looked for."""


def collect_seldom() -> None:
    """Look for garbage seldom from now on."""
    gc.set_threshold(COLLECT_AFTER)


def settle() -> None:
    """Say that what is there now stays for good: collections leave it alone, and so do not write to memory that forks share."""
    gc.collect()
    gc.freeze()

"""Fails what takes the locks of a workspace in another order than the declared one, whether or not anybody else waits."""

from __future__ import annotations

import fcntl
import sys
import threading
from pathlib import Path

from core.lock_order import LOCK_ORDER

_OF_THREAD = threading.local()


def watch_locks() -> None:
    """Look at every lock that this process and its forks take from now on."""
    sys.addaudithook(_look)


def rank(path: Path) -> tuple[int, str] | None:
    """A lock's place in the order; None where it is none of a workspace's. The longest pattern that fits says which it is."""
    fitting = [pattern for pattern in LOCK_ORDER if path.match(pattern)]
    return (LOCK_ORDER.index(max(fitting, key=lambda pattern: pattern.count("/"))), str(path)) if fitting else None


def _look(event: str, arguments: tuple[int, int]) -> None:
    if event != "fcntl.flock" or not arguments[1] & fcntl.LOCK_EX:
        return
    handle, path = arguments[0], _file_of(arguments[0])
    if path is None or (place := rank(path)) is None:
        return
    taken: dict[int, Path] = getattr(_OF_THREAD, "taken", {})
    held = {other: file for other, file in taken.items() if other != handle and _file_of(other) == file}
    for file in held.values():
        before = rank(file)
        assert before is None or before < place, f"{path} is taken while {file} is held: see core/lock_order.py"
    _OF_THREAD.taken = {**held, handle: path}


def _file_of(handle: int) -> Path | None:
    try:
        return Path(f"/proc/self/fd/{handle}").readlink()
    except OSError:
        return None

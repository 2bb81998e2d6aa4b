"""A measured figure beside its peer's."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """A figure and its peer's.

    Attributes:
        name: of the figure.
        value: ours.
        unit: of both values.
        peer: what ours is compared with.
        peer_value: the peer's value.
        ratio: how many times better ours is: the peer's value divided by ours, or the reverse if more is better.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float

    @property
    def line(self) -> str:
        """The figure as a line for a terminal."""
        return (
            f"{self.name:<28} {self.value:9.3f} {self.unit:<3} "
            f"{self.ratio:7.1f} × {self.peer} ({self.peer_value:.2f} {self.unit})"
        )


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of calls.

    Args:
        work: called without arguments.
        repeats: number of calls.
    """
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return float(np.median(took))


def alone(work: Callable[..., T], *arguments: object) -> T:
    """Call a function in a separate process and return its result.

    Args:
        work: a function that can be imported.
        arguments: for it; they are pickled.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def in_own_process(work: Callable[..., object], *arguments: object) -> tuple[float, float]:
    """Seconds that a function takes in a separate process, and that process's peak memory (GB); imports are not timed.

    Args:
        work: a function that can be imported.
        arguments: for it; they are pickled.
    """
    return alone(_measured, work, arguments)


def _measured(work: Callable[..., object], arguments: tuple[object, ...]) -> tuple[float, float]:
    begun = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begun, peak_memory()


def peak_memory() -> float:
    """Peak memory of this process, GB; the kernel's ``ru_maxrss`` would include what its parent held at the start."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e9  # type: ignore[index]

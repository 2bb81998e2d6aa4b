"""Runs benchmarks one by one: results are written as they come, and every process that a benchmark started is stopped."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import psutil

from benchmarks.result import Result
from core.files import read_json, write_json
from core.release import platform_version

STOP_SECONDS = 10
"""Time that processes have to end by themselves before they are killed."""
PR_SET_CHILD_SUBREAPER = 36
"""Of Linux's ``prctl``: a process whose parent has ended becomes our child, not that of process 1."""


def run_benches(
    benches: Mapping[str, Callable[[float], list[Result]]],
    chosen: Sequence[str],
    scale: float,
    path: Path,
    show: Callable[[Result], None],
) -> list[Result]:
    """Run benchmarks; the file of results is written atomically after each.

    SIGTERM and SIGINT end the run. All processes that a benchmark started, directly or indirectly, are stopped, and the
    results so far are kept.

    Args:
        benches: name → function that measures it.
        chosen: names to run, in this order.
        scale: share of the full size, above 0.
        path: JSON file with the newest result of every name; results that are not measured again are kept.
        show: called with each result.

    Returns:
        All results of this run.

    Raises:
        SystemExit: a signal ended the run; its code is 128 and the signal's number.
    """
    results: list[Result] = []
    with children_stopped():
        for name in chosen:
            measured = benches[name](scale)
            keep(path, measured)
            results += measured
            for result in measured:
                show(result)
    return results


def keep(path: Path, results: Sequence[Result]) -> None:
    """Write results, with the version that they are of, to a file of results, replacing those of the same name."""
    names = {result.name for result in results}
    others = [result for result in read_json(path) if result["name"] not in names] if path.exists() else []
    write_json(path, [*others, *(asdict(result) | {"version": platform_version()} for result in results)])


@contextmanager
def children_stopped() -> Iterator[None]:
    """Within a ``with`` block, signals to end raise SystemExit; afterwards all processes that began in it are stopped.

    Those whose parent has ended are among them: a Spark worker that is killed leaves its executors behind.
    """
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def started() -> list[psutil.Process]:
        return [child for child in psutil.Process().children(recursive=True) if child.pid not in before]

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)  # the first is enough
        raise SystemExit(128 + number)

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    _adopt_orphans(True)
    try:
        yield
    finally:
        while processes := started():  # again, as one that is told to end may have started another
            _stop(processes)
        _adopt_orphans(False)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _adopt_orphans(adopt: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")


def _stop(processes: Sequence[psutil.Process]) -> None:
    alive = [process for process in processes if process.is_running()]
    for process in alive:
        _signal(process.terminate)
    _, stubborn = psutil.wait_procs(alive, timeout=STOP_SECONDS)
    for process in stubborn:
        _signal(process.kill)
    psutil.wait_procs(stubborn, timeout=STOP_SECONDS)


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return

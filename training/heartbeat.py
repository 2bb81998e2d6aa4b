"""Signs of life of processes that train together: a small file for each, so that one that stands still can be named."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BEAT_SECONDS = 1.0
"""How often a process that goes on says so."""


@dataclass(frozen=True)
class Pulse:
    """What a process last said.

    Attributes:
        rank: of the process.
        count: steps that it has begun; all processes go through the same ones.
        doing: the last of them.
        progressed: when it was seen to have gone on, seconds since 1970.
        alive: when it said so; a process that is stopped says nothing.
        pid: of the process.
    """

    rank: int
    count: int
    doing: str
    progressed: float
    alive: float
    pid: int


class Heartbeat:
    """Writes the signs of life of this process: that it is there, and whether it has gone on since the last one, or does long work.

    It also ends this process when the one that started it is gone.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{rank}.json"
        self._count, self._doing, self._busy = 0, "starting", False
        self._parent = os.getppid()
        threading.Thread(target=self._write_on, daemon=True).start()

    def beat(self, doing: str) -> None:
        """Note that the next step begins."""
        self._doing = doing
        self._count += 1

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Within a ``with`` block, the process counts as going on however long it takes."""
        self.beat(doing)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _write_on(self) -> None:
        last, progressed = -1, time.time()
        while True:
            count, now = self._count, time.time()
            if self._busy or count != last:
                last, progressed = count, now
            pulse = {"count": count, "doing": self._doing, "progressed": progressed, "alive": now, "pid": os.getpid()}
            self._path.write_text(json.dumps(pulse), encoding="utf-8")
            if self._is_orphan():
                os._exit(1)
            time.sleep(BEAT_SECONDS)

    def _is_orphan(self) -> bool:
        """Whether who started the group was killed: nobody waits for it. A forked process has a server between."""
        starter = multiprocessing.parent_process()
        return os.getppid() != self._parent or (starter is not None and not starter.is_alive())


def pulses(folder: Path) -> list[Pulse]:
    """The last sign of life of each process, by rank; those that have given none, or are writing one, are left out."""
    read = []
    for path in folder.glob("*.json"):
        try:
            read.append(Pulse(rank=int(path.stem), **json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, OSError):
            continue
    return sorted(read, key=lambda pulse: pulse.rank)


def signs_of_life(folder: Path, port: str) -> Path:
    """Where the processes that meet at a port of this machine write their signs of life."""
    return folder / f"port-{port}"

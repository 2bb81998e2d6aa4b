"""Starts the processes that train together on this machine, relays what they log, and names the one that fails or stands still."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.cli import EXIT_ERROR, EXIT_RETRY
from core.errors import ConfigError, NotReadyError
from core.logs import relay
from core.ports import LOOPBACK, free_port
from training.heartbeat import Pulse, pulses, signs_of_life

log = logging.getLogger("pipeline.processes")

START_SECONDS = 120.0
"""Time that processes have to start, imports included."""
POLL_SECONDS = 0.2
SILENT_SECONDS = 4.0
"""A process that has not even said for so long that it is there is stopped, or its machine is."""
GRACE_SECONDS = 5.0
"""Once a process has failed, the others have so long to say what they know of it."""


@dataclass
class _Process:
    """One of the processes, and the last line that it logged."""

    rank: int
    popen: subprocess.Popen[str]
    output: str = ""
    last: str = ""
    readers: list[threading.Thread] = field(default_factory=list)

    def read(self) -> None:
        """Relay its log, and keep its output, in threads."""
        self.readers = [threading.Thread(target=each, daemon=True) for each in (self._relay, self._keep)]
        for reader in self.readers:
            reader.start()

    def _relay(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            relay(line if self.rank == 0 else f"rank {self.rank}: {line}")
            self.last = line.strip() or self.last

    def _keep(self) -> None:
        assert self.popen.stdout is not None
        self.output = self.popen.stdout.read()

    @property
    def message(self) -> str:
        return self.last.removeprefix("error: ")


def run_group(
    module: str,
    *arguments: str,
    processes: int,
    environment: Mapping[str, str],
    folder: Path,
    stall_seconds: float,
) -> str:
    """Run a command line of the platform in several processes that train together, as ``torchrun`` does on one machine.

    Args:
        module: run as ``python -m module`` in each process.
        arguments: its command line.
        processes: how many.
        environment: variables on top of this process's own.
        folder: for the processes' signs of life.
        stall_seconds: a group in which nothing goes on for so long is ended.

    Returns:
        What the first process printed to standard output.

    Raises:
        ConfigError: a process met an error that a retry does not fix.
        NotReadyError: a process died or stood still; the message names it. A retry starts from the last state.
    """
    port = str(free_port())
    folder = signs_of_life(folder, port)
    shutil.rmtree(folder, ignore_errors=True)
    rendezvous = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    command = [sys.executable, "-m", module, *arguments]
    group: list[_Process] = []
    begun = time.time()
    try:
        for rank in range(processes):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            popen = subprocess.Popen(
                command, env={**os.environ, **environment, **rendezvous, **place}, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            group.append(_Process(rank, popen))
            group[-1].read()
        while any(each.popen.poll() is None for each in group):
            if any(each.popen.poll() for each in group):
                break
            _check_progress(folder, processes, begun, stall_seconds)
            time.sleep(POLL_SECONDS)
        if any(each.popen.poll() for each in group):
            _wait(group, GRACE_SECONDS)
            _raise_first_failure(group, folder)
    finally:
        _end(group)
        shutil.rmtree(folder, ignore_errors=True)
    return group[0].output


def _check_progress(folder: Path, processes: int, begun: float, stall_seconds: float) -> None:
    """Raise ``NotReadyError``, with the process that is furthest behind, if nothing goes on."""
    seen = pulses(folder)
    now = time.time()
    if len(seen) < processes:
        if now - begun > max(START_SECONDS, stall_seconds):
            missing = sorted(set(range(processes)) - {pulse.rank for pulse in seen})
            raise NotReadyError(f"rank {missing[0]} has not started within {now - begun:.0f} s")
        return
    if now - max(pulse.progressed for pulse in seen) > stall_seconds:
        behind = min(seen, key=lambda pulse: (now - pulse.alive < SILENT_SECONDS, pulse.count))
        raise NotReadyError(
            f"rank {behind.rank} stands still ({behind.doing}), the others have waited for it for {stall_seconds:.0f} s; "
            "nothing of the hour was kept, and a retry starts from the last state"
        )


def _raise_first_failure(group: Sequence[_Process], folder: Path) -> None:
    """Raise the error of the process that failed by itself, and not because another one did."""
    failed = [each for each in group if each.popen.returncode]
    doing: dict[int, Pulse] = {pulse.rank: pulse for pulse in pulses(folder)}
    for each in failed:
        if each.popen.returncode < 0:
            name, last = signal.Signals(-each.popen.returncode).name, doing.get(each.rank)
            raise NotReadyError(
                f"rank {each.rank} was ended by {name}{f' ({last.doing})' if last else ''}; nothing of the hour was kept, "
                "and a retry starts from the last state"
            )
    first = min(failed, key=lambda each: ("another process of the group" in each.message, each.rank))
    text = first.message or f"ended with status {first.popen.returncode}"
    text = text if text.startswith("rank ") else f"rank {first.rank}: {text}"
    raise (ConfigError if first.popen.returncode == EXIT_ERROR else NotReadyError)(
        text if first.popen.returncode in {EXIT_ERROR, EXIT_RETRY} else f"{text} (status {first.popen.returncode})"
    )


def _wait(group: Sequence[_Process], seconds: float) -> None:
    """Wait until all processes have ended, but not longer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(each.popen.poll() is None for each in group):
        time.sleep(POLL_SECONDS)


def _end(group: Sequence[_Process]) -> None:
    """End what still runs; one that is stopped does not hear a request."""
    for each in group:
        if each.popen.poll() is None:
            each.popen.terminate()
    _wait(group, GRACE_SECONDS)
    for each in group:
        if each.popen.poll() is None:
            each.popen.kill()
        each.popen.wait()
        for reader in each.readers:
            reader.join(GRACE_SECONDS)
        for stream in (each.popen.stdout, each.popen.stderr):
            if stream is not None:
                stream.close()

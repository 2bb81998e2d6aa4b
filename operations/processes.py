"""Processes on this machine: started on loopback, remembered by process id, stopped by it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn

import psutil

from core.errors import NotReadyError
from core.files import read_json, write_json
from core.ports import free_port, port_is_free
from core.settings import ROOT, Settings

log = logging.getLogger("operations.processes")

START_TIMEOUT_SECONDS = 180
STOP_TIMEOUT_SECONDS = 20
LOG_BYTES = 50_000_000
"""A longer log file is begun anew."""
SERVICE_OF_PORT = {
    "airflow_port": "airflow-api-server", "mlflow_port": "mlflow", "feast_port": "feast-ui", "reports_port": "reports",
    "serving_port": "serving", "metrics_port": "metrics",
}  # fmt: skip
"""Settings that name a port, and whose it is."""
PORTS = tuple(SERVICE_OF_PORT)


@dataclass(frozen=True)
class ServiceProcess:
    """A process of the platform; ``url`` is its page where it has one, ``environment`` goes on top of this process's."""

    name: str
    command: tuple[str, ...]
    url: str | None = None
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def port(self) -> int | None:
        """Port of its page."""
        return int(self.url.split(":")[2].split("/")[0]) if self.url else None


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, told from a later one with the same id by when it was ``born``, in seconds since 1970."""

    pid: int
    born: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of a running process."""
        return cls(pid, psutil.Process(pid).create_time())

    @property
    def lives(self) -> bool:
        """Whether the process still runs; an id that another program has by now does not count."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.born) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class RunningService:
    """A service that runs, the process that it is to end with, if any, and the port of its page, if it has one."""

    process: ProcessIdentity
    owner: ProcessIdentity | None
    port: int | None = None


_children: list[subprocess.Popen[bytes]] = []
"""Services of this process that may still run: a ``Popen`` that is forgotten before its process has ended warns of it."""


def start(settings: Settings, services: list[ServiceProcess], *, owned: bool = False) -> None:
    """Start services and wait until those with a page answer. What a killed owner left behind is stopped first.

    Args:
        settings: of the workspace.
        services: that are started.
        owned: they are to end with this process.

    Raises:
        NotReadyError: a port is taken, a service ended at once, or it did not answer in time.
    """
    known = _known(settings)
    if orphans := [name for name, entry in known.items() if entry.owner and not entry.owner.lives]:
        log.info("stopping what a killed process left running: %s", ", ".join(orphans))
        stop(settings, orphans)
        known = _known(settings)
    for service in services:
        if service.name in known:
            raise NotReadyError(
                f"{service.name} is running already (process {known[service.name].process.pid}); "
                f"'make down SOURCE={settings.source}' stops it"
            )
        if service.port and not port_is_free(service.port):
            raise NotReadyError(
                f"port {service.port} of {service.name} is taken; set another: "
                + ", ".join(f"CLOCK_{name.upper()}" for name in PORTS)
            )
    logs = log_folder(settings)
    logs.mkdir(parents=True, exist_ok=True)
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for service in services:
            with (logs / f"{service.name}.log").open("ab") as sink:
                process = subprocess.Popen(
                    service.command, env={**os.environ, **service.environment}, stdin=subprocess.DEVNULL,
                    stdout=sink, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT,
                )  # fmt: skip
            started[service.name] = process
            _children[:] = [child for child in _children if child.poll() is None] + [process]
            owner = ProcessIdentity.of(os.getpid()) if owned else None
            known[service.name] = RunningService(ProcessIdentity.of(process.pid), owner, service.port)
            _remember(settings, known)
        for service in services:
            wait_for(
                lambda s=service: _answers(s, started[s.name], logs),  # type: ignore[misc]
                f"{service.name} to answer (log: {logs / service.name}.log)",
            )
    except BaseException:  # Ctrl-C too
        stop(settings, list(started))
        raise


def log_folder(settings: Settings) -> Path:
    """Where each service, the demo and the loop have a log file."""
    return settings.workspace / "logs"


def rotate_logs(settings: Settings, longest: int = LOG_BYTES) -> int:
    """Move what is in log files that are too long to ``NAME.log.1``, in the place of what was moved there before.

    Services append to their files, and go on in the same, emptied file; a line that one writes in between is lost.

    Args:
        settings: of the workspace.
        longest: bytes.

    Returns:
        The files that were too long.
    """
    long = [path for path in sorted(log_folder(settings).glob("*.log")) if path.stat().st_size > longest]
    for path in long:
        shutil.copyfile(path, path.with_suffix(".log.1"))
        os.truncate(path, 0)
    return len(long)


def stop(settings: Settings, only: Sequence[str] | None = None) -> list[str]:
    """Stop the processes that ``start`` remembers, all or ``only`` some; returns their names."""
    remembered = _known(settings)
    known = {name: entry for name, entry in remembered.items() if only is None or name in only}
    processes = [process for entry in known.values() for process in _told_to_end(entry.process.pid)]
    _, alive = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_SECONDS)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)
    if rest := {name: entry for name, entry in remembered.items() if name not in known}:
        _remember(settings, rest)
    else:
        _record(settings).unlink(missing_ok=True)
    return sorted(known)


def _told_to_end(pid: int) -> list[psutil.Process]:
    """A process that is told to end, and those that it started; it may have ended by itself, or by somebody else, at any moment."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        family.append(leader)
        family += leader.children(recursive=True)
        leader.send_signal(signal.SIGTERM)
    return family


@contextmanager
def running(settings: Settings, services: list[ServiceProcess]) -> Iterator[None]:
    """Services for the length of a ``with`` block; a SIGTERM ends it as Ctrl-C does, and the services with it.

    Those that ``clock up`` left running are used, and go on.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _terminated))
        missing = [service for service in services if not is_left_running(settings, service)]
        if len(missing) < len(services):
            log.info("using what runs already: %s", ", ".join(s.name for s in services if s not in missing))
        start(settings, missing, owned=True)
        stack.callback(stop, settings, [service.name for service in missing])
        yield


def left_running(settings: Settings) -> dict[str, RunningService]:
    """Services that ``clock up`` left running, by name."""
    return {name: service for name, service in sorted(_known(settings).items()) if service.owner is None}


def is_left_running(settings: Settings, service: ServiceProcess) -> bool:
    """Whether ``clock up`` left a service running, on the same port."""
    left = left_running(settings).get(service.name)
    return left is not None and left.port == service.port


def _terminated(number: int, _: Any) -> NoReturn:
    raise SystemExit(128 + number)


def wait_for(check: Callable[[], bool], what: str, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
    """Wait until ``check`` holds; ``NotReadyError`` names ``what`` when it does not in time."""
    end = time.monotonic() + timeout_seconds
    while not check():
        if time.monotonic() > end:
            raise NotReadyError(f"waited {timeout_seconds:.0f} s for {what}")
        time.sleep(0.5)


def with_free_ports(settings: Settings) -> dict[str, int]:
    """A port for every service: that of the one that ``clock up`` left running, else the setting's, or another where it is taken."""
    left = left_running(settings)
    ports = {}
    for name, service in SERVICE_OF_PORT.items():
        port = int(getattr(settings, name))
        if service in left and (taken := left[service].port):
            ports[name] = taken
        else:
            ports[name] = port if port_is_free(port) else free_port()
    return ports


def _answers(service: ServiceProcess, process: subprocess.Popen[bytes], logs: Path) -> bool:
    if process.poll() is not None:
        raise NotReadyError(
            f"{service.name} ended at once with status {process.returncode}; see {logs / service.name}.log"
        )
    if service.url is None:
        return True
    try:
        with urllib.request.urlopen(service.url, timeout=5) as answer:  # noqa: S310 # nosec B310
            return answer.status < 500
    except (OSError, HTTPException):
        return False


def _record(settings: Settings) -> Path:
    return settings.workspace / "services.json"


def _remember(settings: Settings, services: Mapping[str, RunningService]) -> None:
    write_json(
        _record(settings),
        {
            name: {
                **asdict(service.process),
                "owner": asdict(service.owner) if service.owner else None,
                "port": service.port,
            }
            for name, service in services.items()
        },
    )


def require_running(settings: Settings) -> None:
    """Raise ``NotReadyError`` if a service that was started has ended by itself; it says where to read why."""
    if ended := sorted(name for name, service in _remembered(settings).items() if not service.process.lives):
        logs = settings.workspace / "logs"
        raise NotReadyError(
            f"{ended[0]} has ended by itself; its log says why: {logs / ended[0]}.log; then run this again"
        )


def _known(settings: Settings) -> dict[str, RunningService]:
    """Remembered services that still run."""
    return {name: service for name, service in _remembered(settings).items() if service.process.lives}


def _remembered(settings: Settings) -> dict[str, RunningService]:
    """Services that were started and not stopped."""
    if not _record(settings).exists():
        return {}
    return {
        name: RunningService(
            ProcessIdentity(entry["pid"], entry["born"]),
            ProcessIdentity(**entry["owner"]) if entry.get("owner") else None,
            entry.get("port"),
        )
        for name, entry in read_json(_record(settings)).items()
    }

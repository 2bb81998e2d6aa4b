"""The local platform's processes: started on loopback, remembered by process id, stopped by it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from core.errors import NotReadyError
from core.files import read_json, scratch_directory, write_json, write_text
from core.settings import ROOT, Settings

log = logging.getLogger("pipeline.services")

START_TIMEOUT_SECONDS = 180
STOP_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Service:
    """A process of the platform; ``url`` is its page where it has one."""

    name: str
    command: tuple[str, ...]
    url: str | None = None


def airflow_environment(settings: Settings) -> dict[str, str]:
    """Environment of every Airflow process of a workspace, on top of this process's own."""
    home = settings.workspace / "airflow"
    keys = _secrets(home)
    url = f"http://127.0.0.1:{settings.airflow_port}"
    config = {
        "CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "CORE__PLUGINS_FOLDER": str(ROOT / "dags" / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "3",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "CORE__FERNET_KEY": keys["fernet"],
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(settings.airflow_port),
        "API__BASE_URL": url,
        "API__WORKERS": "1",
        "API__SECRET_KEY": keys["api"],
        "API__EXPOSE_CONFIG": "False",
        "API_AUTH__JWT_SECRET": keys["jwt"],
        "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "LOGGING__LOGGING_LEVEL": "INFO",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    own = {
        f"CLOCK_{k.upper()}": v if isinstance(v, str) else json.dumps(v)
        for k, v in settings.model_dump(mode="json").items()
        if k in _PLAIN
    }
    return {
        **os.environ,
        **own,
        **{f"AIRFLOW__{k}": v for k, v in config.items()},
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job workers are for other uses of MLflow
    }


_PLAIN = frozenset(
    {
        "var", "source", "airflow_port", "mlflow_port", "reports_port", "log_level", "mlflow_uri", "live",
        "alert_webhook", "hour_deadline_minutes", "serving_port", "serving_refresh_seconds", "serving_feature_ms",
        "serving_timeout_ms", "variants",
        "candidate_variant", "baseline_variant",
    }
)  # fmt: skip


def _secrets(home: Path) -> dict[str, str]:
    """The workspace's own keys, made once; readable by the owner only."""
    path = home / "secrets.json"
    if not path.exists():
        from cryptography.fernet import Fernet

        write_json(
            path, {"fernet": Fernet.generate_key().decode(), "api": secrets.token_hex(32), "jwt": secrets.token_hex(32)}
        )
        path.chmod(0o600)
    return dict(read_json(path))


def migrate_airflow(settings: Settings) -> None:
    """Create or upgrade Airflow's database."""
    home = settings.workspace / "airflow"
    environment, database = airflow_environment(settings), home / "airflow.db"
    with scratch_directory(home / "new") as folder:
        fresh = not database.exists()
        if fresh:  # a new database is made in a folder of its own: a crash leaves no half-migrated one
            environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{folder / database.name}"
        done = subprocess.run(
            [_program("airflow"), "db", "migrate"], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            write_text(home / "migrate.log", done.stdout + done.stderr)
            raise NotReadyError(f"Airflow's database could not be made ready; see {home / 'migrate.log'}")
        if fresh:
            (folder / database.name).replace(database)


def airflow_services(settings: Settings) -> list[Service]:
    """The four processes of Airflow."""
    airflow, url = _program("airflow"), f"http://127.0.0.1:{settings.airflow_port}"
    return [
        Service("airflow-api-server", (airflow, "api-server"), f"{url}/api/v2/monitor/health"),
        Service("airflow-scheduler", (airflow, "scheduler")),
        Service("airflow-dag-processor", (airflow, "dag-processor")),
        Service("airflow-triggerer", (airflow, "triggerer")),
    ]


def page_services(settings: Settings) -> list[Service]:
    """MLflow's UI and the report pages."""
    from training.tracking import open_mlflow

    open_mlflow(settings)
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    mlflow = (_program("mlflow"), "server", "--backend-store-uri", settings.tracking_uri, "--host", "127.0.0.1",
              "--port", str(settings.mlflow_port), "--workers", "1",
              "--default-artifact-root", (settings.workspace / "mlflow" / "artifacts").as_uri())  # fmt: skip
    reports = (sys.executable, "-m", "http.server", str(settings.reports_port), "--bind", "127.0.0.1",
               "--directory", str(settings.reports_dir))  # fmt: skip
    return [
        Service("mlflow", mlflow, f"http://127.0.0.1:{settings.mlflow_port}/health"),
        Service("reports", reports, f"http://127.0.0.1:{settings.reports_port}/"),
    ]


def serving_service(settings: Settings) -> Service:
    """The ranking service."""
    url = f"http://127.0.0.1:{settings.serving_port}"
    return Service("serving", (sys.executable, "-m", "serving", "run"), f"{url}/health")


def start(settings: Settings, services: list[Service]) -> None:
    """Start services and wait until those with a page answer.

    Raises:
        NotReadyError: a port is taken, a service ended at once, or it did not answer in time.
    """
    environment = airflow_environment(settings)
    known = _known(settings)
    for service in services:
        if service.name in known:
            raise NotReadyError(
                f"{service.name} is running already (process {known[service.name]['pid']}); 'make down' stops it"
            )
        if service.url and not port_is_free(port := int(service.url.split(":")[2].split("/")[0])):
            raise NotReadyError(
                f"port {port} of {service.name} is taken; set CLOCK_AIRFLOW_PORT, CLOCK_MLFLOW_PORT, "
                "CLOCK_REPORTS_PORT or CLOCK_SERVING_PORT"
            )
    logs = settings.workspace / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    started: dict[str, subprocess.Popen[bytes]] = {}
    for service in services:
        with (logs / f"{service.name}.log").open("ab") as sink:
            process = subprocess.Popen(
                service.command, env=environment, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True, cwd=ROOT,
            )  # fmt: skip
        started[service.name] = process
        known[service.name] = {"pid": process.pid, "born": psutil.Process(process.pid).create_time()}
        write_json(_record(settings), known)
    try:
        for service in services:
            wait_for(
                lambda s=service: _answers(s, started[s.name], logs),  # type: ignore[misc]
                f"{service.name} to answer (log: {logs / service.name}.log)",
            )
    except NotReadyError:
        stop(settings)
        raise


def stop(settings: Settings) -> list[str]:
    """Stop every process that ``start`` remembers; returns their names."""
    known = _known(settings)
    processes: list[psutil.Process] = []
    for entry in known.values():
        leader = psutil.Process(entry["pid"])
        processes += [leader, *leader.children(recursive=True)]
        leader.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_SECONDS)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)
    _record(settings).unlink(missing_ok=True)
    return sorted(known)


@contextmanager
def running(settings: Settings, services: list[Service]) -> Iterator[None]:
    """Services for the length of a ``with`` block."""
    start(settings, services)
    try:
        yield
    finally:
        stop(settings)


def wait_for(check: Callable[[], bool], what: str, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
    """Wait until ``check`` holds; ``NotReadyError`` names ``what`` when it does not in time."""
    end = time.monotonic() + timeout_seconds
    while not check():
        if time.monotonic() > end:
            raise NotReadyError(f"waited {timeout_seconds:.0f} s for {what}")
        time.sleep(0.5)


def with_free_ports(settings: Settings) -> dict[str, int]:
    """A port for every service: the setting's, or another where that one is taken."""
    names = ("airflow_port", "mlflow_port", "reports_port", "serving_port")
    wanted = {name: int(getattr(settings, name)) for name in names}
    return {name: port if port_is_free(port) else free_port() for name, port in wanted.items()}


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(service: Service, process: subprocess.Popen[bytes], logs: Path) -> bool:
    if process.poll() is not None:
        raise NotReadyError(
            f"{service.name} ended at once with status {process.returncode}; see {logs / service.name}.log"
        )
    if service.url is None:
        return True
    try:
        with urllib.request.urlopen(service.url, timeout=5) as answer:  # noqa: S310
            return answer.status < 500
    except (urllib.error.URLError, OSError):
        return False


def _record(settings: Settings) -> Path:
    return settings.workspace / "services.json"


def _known(settings: Settings) -> dict[str, dict[str, float]]:
    """Remembered services that still run; a process id that was given to another program does not count."""
    if not _record(settings).exists():
        return {}
    found = {}
    for name, entry in read_json(_record(settings)).items():
        try:
            if abs(psutil.Process(entry["pid"]).create_time() - entry["born"]) < 1:
                found[name] = entry
        except psutil.NoSuchProcess:
            continue
    return found


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))

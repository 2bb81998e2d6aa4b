"""The services of ``docker/compose.yaml`` as processes of this machine: same commands, same environment, same secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from core.ports import free_port
from core.settings import ROOT
from operations.prepare import prepare
from operations.processes import wait_for
from tests.servers import Cluster, answers, new_cluster, object_server, process, redis_server

COMPOSE = ROOT / "docker" / "compose.yaml"
PORTS = {"airflow-api-server": 8080, "mlflow": 5000, "serving": 8070, "metrics": 8060, "objects": 8333}
PORT_SETTINGS = {
    "airflow-api-server": "CLOCK_AIRFLOW_PORT", "mlflow": "CLOCK_MLFLOW_PORT", "serving": "CLOCK_SERVING_PORT",
    "metrics": "CLOCK_METRICS_PORT",
}  # fmt: skip
FORKS = """
import io, json, os, runpy, sys, tempfile
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from core.settings import load_settings
from operations.services import airflow_environment
os.environ.update(airflow_environment(load_settings()))
import airflow.providers.fab.auth_manager.cli_commands.utils, mlflow.server.auth.sqlalchemy_store
for line in sys.stdin:
    arguments, stdin, more = json.loads(line)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            sys.argv, sys.stdin = ["operations", *arguments], io.StringIO(stdin)
            os.environ.update(more)
            try:
                runpy.run_module("operations", run_name="__main__", alter_sys=True)
            except SystemExit as ended:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(ended.code or 0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        print(json.dumps([status, out.read(), err.read()]), file=answers, flush=True)
"""
"""Reads commands of ``operations``, a line each, and runs each in a fork of a process that has imported Airflow and MLflow."""
ORDER = ("mlflow", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
         "airflow-worker", "serving", "metrics")  # fmt: skip


HEALTH = {
    "mlflow": "/mlflow/health", "serving": "/health", "metrics": "/metrics", "airflow-api-server": "/api/v2/monitor/health",
}  # fmt: skip
START_SECONDS = 240
"""Given to services that start side by side on a busy machine."""


def compose() -> dict[str, Any]:
    """The Compose file; its anchors and merge keys resolved."""
    return dict(yaml.safe_load(COMPOSE.read_text()))


def interpolate(text: str, values: dict[str, str]) -> str:
    """``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` as Compose reads them; ``$$`` is a dollar."""

    def one(match: re.Match[str]) -> str:
        name, operator, rest = match.group(1), match.group(2), match.group(3) or ""
        if values.get(name):
            return values[name]
        assert operator != ":?", f"{name} is not set: {rest}"
        return rest

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", one, text).replace("$$", "$")


@dataclass
class Stack:
    """A stack under a folder: the addresses that its containers would have are mapped to loopback.

    ``more`` goes on top of every service's environment.
    """

    folder: Path
    hosts: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    cluster: Cluster | None = None
    more: dict[str, str] = field(default_factory=dict)
    forks: subprocess.Popen[str] | None = None

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()

    def local(self, text: str) -> str:
        """A text of the stack's files with this machine's addresses and folders."""
        for host, address in self.hosts.items():
            text = text.replace(host, address)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """Environment of a service; of the secrets it sees those that the file gives it."""
        service = compose()["services"][name]
        env_file = dict(line.split("=", 1) for line in (self.folder / ".env").read_text().splitlines())
        of_service = {k: self.local(interpolate(str(v), env_file)) for k, v in service["environment"].items()}
        mounted = self.folder / "mounted" / name
        if not mounted.exists():
            mounted.mkdir(parents=True)
            for secret in service["secrets"]:
                shutil.copy(self.secrets / secret, mounted / secret)
        of_service["CLOCK_SECRETS_DIR"] = str(mounted)
        of_service["CLOCK_BIND"] = "127.0.0.1"
        of_service |= {PORT_SETTINGS[n]: str(self.ports[n]) for n in PORT_SETTINGS}
        small = {
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
            "CLOCK_VARIANTS": '["hour_embedding","matched_clock"]',
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CLOCK_", "AIRFLOW", "MLFLOW_", "AWS_"))}
        return {**kept, **of_service, **small, **self.more, "PYTHONPATH": str(ROOT)}

    def command(self, name: str) -> list[str]:
        """The image's entry point with the service's command."""
        return [sys.executable, "-m", "operations", *compose()["services"][name]["command"]]

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in a service's container, by its environment and secrets."""
        return subprocess.run(
            [sys.executable, *arguments], env=self.environment(name), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, cwd=self.folder,
        )  # fmt: skip

    def operations(self, *arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """A command of ``operations`` with the environment and secrets of ``init``, which must have run, and ``more`` on top.

        It is forked from a process that has imported Airflow and MLflow: that is most of what a command takes.
        """
        if self.forks is None:
            log = (self.folder / "logs" / "forks.log").open("ab")
            with log:
                self.forks = subprocess.Popen(
                    [sys.executable, "-c", FORKS], env=self.environment("init"), cwd=self.folder,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                )  # fmt: skip
        assert self.forks.stdin is not None
        assert self.forks.stdout is not None
        print(json.dumps([arguments, stdin, more]), file=self.forks.stdin, flush=True)
        answer = self.forks.stdout.readline()
        assert answer, (self.folder / "logs" / "forks.log").read_text()[-2000:]
        return subprocess.CompletedProcess(arguments, *json.loads(answer))

    def close(self) -> None:
        """End the process that commands are forked from."""
        if self.forks is not None:
            with self.forks:
                self.forks.kill()

    def logs(self, dag: str) -> str:
        """The ends of a DAG's task logs."""
        files = sorted((self.state / "simulator" / "airflow" / "logs").rglob(f"*dag_id={dag}*/**/*.log"))
        return "\n".join(f"{p}:\n{p.read_text()[-1500:]}" for p in files)

    def up(self, names: Iterable[str], stack: ExitStack) -> None:
        """Start services side by side and wait until each is well by its own health check."""
        for name in names:
            log = self.folder / "logs" / f"{name}.log"
            log.parent.mkdir(exist_ok=True)
            started = process(
                self.command(name), log, lambda: True, env=self.environment(name), cwd=self.folder,
                start_new_session=True, stop=signal.SIGTERM,
            )  # fmt: skip
            self.processes[name] = stack.enter_context(started)
            stack.callback(kill_group, self.processes[name].pid)  # its children too, before it is waited for
        for name in names:
            wait_for(lambda name=name: self.is_well(name), f"{name} to be well", START_SECONDS)  # type: ignore[misc]

    def is_well(self, name: str) -> bool:
        """Whether a service answers, or where it has no port, runs."""
        if (status := self.processes[name].poll()) is not None:
            log = self.folder / "logs" / f"{name}.log"
            raise AssertionError(f"{name} ended with status {status}: {log.read_text()[-2000:]}")
        return name not in HEALTH or answers(f"http://127.0.0.1:{self.ports[name]}{HEALTH[name]}")


def kill_group(pid: int, what: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process that leads a group, and all it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, what)


@contextmanager
def base(folder: Path, *, servers: bool = True) -> Iterator[Stack]:
    """Secrets, PostgreSQL, Redis and an object store; no service of the platform yet.

    With ``servers`` false PostgreSQL and Redis are only prepared: the caller starts them.
    """
    made = prepare(folder, "127.0.0.1")
    assert "tls_key" in made
    stack = Stack(folder)
    stack.ports = {name: free_port() for name in [*PORTS, "proxy"]}
    (folder / "postgres").mkdir()
    stack.cluster = new_cluster(folder / "postgres", stack.secret("postgres_admin"))
    redis_port = free_port()
    stack.hosts = {
        "postgres:5432": stack.cluster.url.split("@")[1],
        "redis:6379": f"127.0.0.1:{redis_port}",
        "/state": str(stack.state),
        **{f"{name}:{port}": f"127.0.0.1:{stack.ports[name]}" for name, port in PORTS.items()},
    }
    with ExitStack() as started:
        started.callback(stack.close)
        if servers:
            log = folder / "postgres.log"
            started.enter_context(process(stack.cluster.command, log, stack.cluster.answers, **stack.cluster.options))
            started.enter_context(redis_server(folder, redis_port, stack.secret("redis")))
        started.enter_context(object_server(folder, stack.ports["objects"]))
        lines = (folder / ".env").read_text().replace(":8443", f":{stack.ports['proxy']}")
        (folder / ".env").write_text(lines)
        yield stack


@contextmanager
def proxy(stack: Stack) -> Iterator[str]:
    """nginx with the stack's own file: its URL."""
    folder = stack.folder / "nginx"
    folder.mkdir()
    text = (ROOT / "docker" / "nginx" / "nginx.conf").read_text()
    text = stack.local(text).replace("8443", str(stack.ports["proxy"])).replace("/tmp/", f"{folder}/")
    text = text.replace("/run/secrets", str(stack.secrets)).replace(
        "worker_processes auto", "user root;\nworker_processes 1"
    )
    text = text.replace("listen ", "listen 127.0.0.1:").replace("/dev/stdout", f"{folder}/access.log")
    (folder / "nginx.conf").write_text(text)
    url = f"https://127.0.0.1:{stack.ports['proxy']}"
    ready = partial(answers, f"{url}/proxy-health")
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    with process([program, "-c", str(folder / "nginx.conf"), "-g", "daemon off;"], folder / "nginx.log", ready):
        yield url

"""``docker/compose.yaml`` in containers, by the engine of this machine: podman with podman-compose, or docker."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.ports import free_port
from core.settings import ROOT
from operations.prepare import IMAGE_USER, prepare
from operations.processes import wait_for

START_SECONDS = 240
"""For the whole stack to be healthy, on a machine that does other work too."""
DAEMON_SECONDS = 20


def engine_missing() -> str:
    """Why containers are not run here; empty if they are."""
    if not os.environ.get("CLOCK_TEST_CONTAINERS"):
        return "the stack in containers takes 10 to 30 minutes: make containers"
    if not engine():
        return "no container engine answers (make containers, as root)"
    return "" if compose_program() else "neither podman-compose nor docker compose is installed"


@functools.cache
def engine() -> str:
    """The engine that answers: docker or podman; empty if there is none."""
    for name in ("docker", "podman"):
        if shutil.which(name) is None:
            continue
        done = subprocess.run([name, "info"], capture_output=True, check=False, timeout=DAEMON_SECONDS)
        if done.returncode == 0:
            return name
    return ""


def compose_program() -> list[str]:
    """The command that reads Compose files, for the engine."""
    if engine() == "docker":
        return ["docker", "compose"]
    program = Path(sys.executable).with_name("podman-compose")
    return [str(program), "--podman-path", str(ROOT / "docker" / "podman.sh")] if program.exists() else []


def build_images() -> str:
    """Build what the stack needs, as far as the engine has not kept it: the output's last lines, with the sizes."""
    environment = {**os.environ, "ENGINE": engine()}
    done = subprocess.run(
        [ROOT / "docker" / "images.sh", "debian", "platform"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@dataclass
class Containers:
    """The stack of a copy of ``docker/``, under a project's name."""

    folder: Path
    project: str
    port: int

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def services(self) -> dict[str, Any]:
        """Services of the profile ``core`` as the file describes them."""
        file = yaml.safe_load((self.folder / "compose.yaml").read_text())
        return {name: s for name, s in file["services"].items() if "core" in s["profiles"]}

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()

    def name(self, service: str) -> str:
        """Name of a service's container."""
        separator = "-" if engine() == "docker" else "_"
        return separator.join((self.project, service, "1"))

    def compose(self, *arguments: str, timeout: float = 600) -> str:
        """A command of Compose on the whole stack: its output."""
        command = [*compose_program(), "--env-file", str(self.folder / ".env"), "-f", str(self.folder / "compose.yaml"),
                   "-p", self.project, "--profile", "core", *arguments]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout, cwd=self.folder, env=quiet()
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout + done.stderr

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in a service's container."""
        return subprocess.run(
            [engine(), "exec", self.name(service), *command], capture_output=True, text=True, check=False, env=quiet()
        )

    def inspect(self, service: str) -> dict[str, Any]:
        done = subprocess.run(
            [engine(), "inspect", self.name(service)], capture_output=True, text=True, check=True, env=quiet()
        )
        return dict(json.loads(done.stdout)[0])

    def logs(self, service: str, characters: int = 3000) -> str:
        """End of a service's log."""
        done = subprocess.run(
            [engine(), "logs", self.name(service)], capture_output=True, text=True, check=False, env=quiet()
        )
        return (done.stdout + done.stderr)[-characters:]

    def task_logs(self, dag: str) -> str:
        """The ends of a DAG's task logs."""
        files = sorted((self.state / "simulator" / "airflow" / "logs").rglob(f"*dag_id={dag}*/**/*.log"))
        return "\n".join(f"{p}:\n{p.read_text()[-1500:]}" for p in files)

    def is_healthy(self, service: str) -> bool:
        """Whether a service's own health check passes now. podman has no clock for it without systemd, so it is asked."""
        state = self.inspect(service)["State"]
        assert state["Status"] != "exited", f"{service} ended with {state['ExitCode']}: {self.logs(service)}"
        if engine() == "docker":
            return bool(state["Health"]["Status"] == "healthy")
        done = subprocess.run(
            ["podman", "healthcheck", "run", self.name(service)], capture_output=True, check=False, env=quiet()
        )
        return done.returncode == 0

    def wait_until_healthy(self) -> None:
        """Wait for every service that has a health check."""
        for service, description in self.services.items():
            if description.get("healthcheck", {"disable": True}).get("disable"):
                continue
            wait_for(lambda s=service: self.is_healthy(s), f"{service} to be healthy", START_SECONDS)  # type: ignore[misc]


def quiet() -> dict[str, str]:
    """This process's environment without settings of the platform, which Compose would prefer to ``.env``."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("CLOCK_", "COMPOSE_"))}


def prepared(folder: Path, project: str, settings: dict[str, str]) -> Containers:
    """A copy of ``docker/`` with its secrets, certificate and ``.env``.

    Args:
        folder: where the copy goes.
        project: Compose's name for the stack.
        settings: what the deployment chooses, for ``.env``.
    """
    target = folder / "docker"
    shutil.copytree(ROOT / "docker", target, ignore=shutil.ignore_patterns("secrets", "state", ".env"))
    prepare(target, "127.0.0.1")
    port = free_port()
    environment = target / ".env"
    more = {"CLOCK_PORT": str(port), **settings}
    text = environment.read_text().replace(":8443", f":{port}")
    environment.write_text(text + "".join(f"{name}={value}\n" for name, value in more.items()))
    return Containers(target, project, port)


def give_to_containers(folder: Path) -> None:
    """Make a folder that root has written the containers' own."""
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, IMAGE_USER, IMAGE_USER)

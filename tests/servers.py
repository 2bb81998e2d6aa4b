"""Real servers for tests, on loopback, stopped by their process id: PostgreSQL, Redis, an object store, a Spark cluster."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from core.ports import free_port

TIMEOUT_SECONDS = 60
HTTP = httpx.Client(verify=False, timeout=20)
"""One for all: a client reads all certificates when it is made, which takes longer than a server's answer."""


def answers(url: str) -> bool:
    """Whether a server says that it is well."""
    try:
        return HTTP.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def process(
    command: list[str],
    log: Path,
    ready: Callable[[], bool],
    timeout_seconds: float = TIMEOUT_SECONDS,
    stop: signal.Signals = signal.SIGINT,  # PostgreSQL: do not wait for clients
    **options: object,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the length of a ``with`` block, once it is ready."""
    with log.open("ab") as sink:
        started = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload]
    try:
        end = time.monotonic() + timeout_seconds
        while not ready():
            assert started.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.1)
        yield started
    finally:
        started.send_signal(stop)
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait(10)


def redis_command(program: str, folder: Path, port: int, password: str = "") -> list[str]:
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    return (
        [*command, "--requirepass", password, "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        if password
        else command
    )


@contextmanager
def redis_server(
    folder: Path, port: int | None = None, password: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An empty Redis, on a free port or the one asked for: its host:port and its process."""
    import redis

    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed (make services)")
    port = port or free_port()

    def ready() -> bool:
        try:
            return bool(redis.Redis(port=port, password=password or None).ping())
        except redis.ConnectionError:
            return False

    with process(redis_command(program, folder, port, password), folder / "redis.log", ready) as started:
        yield f"127.0.0.1:{port}", started


@contextmanager
def object_server(folder: Path, port: int) -> Iterator[None]:
    """A server that speaks S3 (moto's)."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    ready = partial(answers, f"http://127.0.0.1:{port}/moto-api/data.json")
    with process(command, folder / "objects.log", ready, cwd=folder):
        yield


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL cluster on the disk: what starts it, and the URL of its server."""

    command: list[str]
    options: dict[str, Any]
    url: str

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(f"{self.url}/postgres").close()
        except psycopg.OperationalError:
            return False
        return True


def new_cluster(folder: Path, password: str = "") -> Cluster:
    """A new cluster, not started. Its only role is ``clock``, or with a password ``postgres``, who needs it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed (make services)")
    binaries, data, port = programs[-1], folder / "data", free_port()
    options: dict[str, Any] = {"cwd": folder}
    if os.getuid() == 0:  # the server refuses to run as root
        user = pwd.getpwnam("nobody")
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        for parent in (folder, *folder.parents):
            if parent.owner() == "root" and parent.stat().st_mode & 0o005 != 0o005 and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o005)
        shutil.chown(folder, user.pw_uid, user.pw_gid)
    role, login = "clock", ["--auth=trust"]
    if password:
        role, login = "postgres", ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        (folder / "password").write_text(password)
        (folder / "password").chmod(0o644)
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", role, *login, "-E", "UTF8", "--no-sync"],
        check=True, capture_output=True, **options,
    )  # fmt: skip
    command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1",
               "-c", "unix_socket_directories="]  # fmt: skip  # a socket's path may have 107 bytes, a worker's folder has more
    return Cluster(command, options, f"postgresql://{role}{':' + password if password else ''}@127.0.0.1:{port}")


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """A new PostgreSQL server: the URL of its database ``clock``."""
    import psycopg

    cluster = new_cluster(folder)
    with process(cluster.command, folder.parent / "postgres.log", cluster.answers, **cluster.options):
        with psycopg.connect(f"{cluster.url}/postgres", autocommit=True) as connection:
            connection.execute("CREATE DATABASE clock")
        yield f"{cluster.url}/clock"


QUICK_TO_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
FEW_ROWS = f"""
spark.sql.codegen.wholeStage false
spark.sql.codegen.factoryMode NO_CODEGEN
spark.driver.extraJavaOptions {QUICK_TO_START}
spark.executor.extraJavaOptions {QUICK_TO_START}
"""
"""Three users repay neither compiled queries nor the second tier of Java's compiler: it took two fifths of the time."""


@dataclass(frozen=True)
class SparkCluster:
    """A standalone cluster that runs.

    Attributes:
        url: of its master.
        conf: folder of settings, for ``SPARK_CONF_DIR``.
        workers: their processes.
    """

    url: str
    conf: Path
    workers: tuple[subprocess.Popen[bytes], ...]

    def executors(self) -> list[int]:
        """Process ids of the executors."""
        executors = []
        for worker in self.workers:
            for child in psutil.Process(worker.pid).children():
                with suppress(psutil.Error):  # it has just ended
                    if "CoarseGrainedExecutorBackend" in " ".join(child.cmdline()):
                        executors.append(child.pid)
        return executors


@contextmanager
def spark_cluster(folder: Path, memory: str = "1g", options: str = FEW_ROWS, cores: int = 1) -> Iterator[SparkCluster]:
    """A standalone cluster of a master and two workers.

    Args:
        folder: for logs, scratch and settings.
        memory: of a worker.
        options: lines of ``spark-defaults.conf``.
        cores: of a worker; it may promise more than the machine has.
    """
    if shutil.which("java") is None:
        pytest.skip("Java is not installed (make services)")
    import pyspark

    launcher = Path(pyspark.__file__).parent / "bin" / "spark-class"
    ports = [free_port() for _ in range(6)]
    environment = {
        **os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_MASTER_HOST": "127.0.0.1", "PYSPARK_PYTHON": sys.executable,
        "SPARK_WORKER_DIR": str(folder / "work"), "SPARK_LOCAL_DIRS": str(folder / "local"), "SPARK_LOG_DIR": str(folder),
        "SPARK_DAEMON_MEMORY": "512m",
    }  # fmt: skip
    (folder / "conf").mkdir()
    (folder / "local").mkdir()  # what a killed executor leaves goes with the folder
    (folder / "conf" / "spark-defaults.conf").write_text(options)
    url = f"spark://127.0.0.1:{ports[0]}"
    logs = [folder / f"{name}.log" for name in ("master", "worker1", "worker2")]

    def says(log: Path, words: str) -> Callable[[], bool]:
        return lambda: words in log.read_text()

    master = [str(launcher), "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(ports[0]),
              "--webui-port", str(ports[1])]  # fmt: skip

    def worker(n: int) -> list[str]:
        return [str(launcher), "org.apache.spark.deploy.worker.Worker", "--cores", str(cores), "--memory", memory, "--host", "127.0.0.1",
                "--port", str(ports[2 * n]), "--webui-port", str(ports[2 * n + 1]), url]  # fmt: skip

    registered = [says(log, "Successfully registered") for log in logs[1:]]
    with (
        process(master, logs[0], says(logs[0], "I have been elected leader"), env=environment),
        process(worker(1), logs[1], logs[1].exists, env=environment) as first,  # both start at the same time
        process(worker(2), logs[2], lambda: all(ready() for ready in registered), env=environment) as second,
    ):
        yield SparkCluster(url, folder / "conf", (first, second))

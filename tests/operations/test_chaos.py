"""Chaos: processes of the whole production stack are killed at random while hours run; the state must not show it.

``make chaos INJECTIONS=200`` does it at length; the suite makes a few. What dies is started again, as a container
platform would; nobody repairs anything but as the runbook says: a failed run is triggered again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from core.hours import Hour
from core.settings import Settings, load_settings
from operations.airflow_driver import HOURLY
from operations.fingerprint import differences, fingerprint
from pipeline.history import build_history
from pipeline.hour import run_hour
from pipeline.source import save_app_source
from simulation.config import SimulatorConfig
from tests.conftest import SMALL_POLICY, place_tracking_store, write_app
from tests.operations.stack import ORDER, Stack, base, kill_group
from tests.servers import redis_command

pytestmark = pytest.mark.slow

INJECTIONS = int(os.environ.get("CHAOS_INJECTIONS", "6"))
SEED = int(os.environ.get("CHAOS_SEED", "2024"))
APP = SimulatorConfig(days=6, users=80, items=60, experiment={"start_day": 2}, dirt={"damaged": 0.01, "late": 0.02})
TAKEOVER = APP.first_hour + 48
VARIANTS = ("hour_embedding", "matched_clock")
PAUSE_SECONDS, BURST, PAUSE_AFTER_BURST_SECONDS = (1.0, 4.0), 10, 120.0
"""Injections come in bursts. A pause follows each burst until a step has ended, but no longer than this: on two cores the
stack starts more slowly than a burst kills it, and without a pause no step would ever end."""
PATIENCE_SECONDS = 60
"""How long a DAG that the one before should have started may be missing before a person starts it."""
DEADLINE_SECONDS = 900
FAST = {
    # Airflow finds out sooner what died than by its defaults, which are for big installations.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "3",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "45",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "CLOCK_RETRY_SECONDS": "5",
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "60",
}  # fmt: skip


class Supervisor(threading.Thread):
    """Starts every process of the stack, and again what died."""

    def __init__(self, stack: Stack, redis: list[str]) -> None:
        super().__init__(daemon=True)
        self.stack, self.redis = stack, redis
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.held: dict[str, float] = {}
        self.restarts: Counter[str] = Counter()
        self.ended = threading.Event()

    def start_one(self, name: str) -> None:
        log = self.stack.folder / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        options: dict[str, Any] = {"cwd": self.stack.folder}
        if name == "postgres":
            assert self.stack.cluster is not None
            command, options = self.stack.cluster.command, dict(self.stack.cluster.options)
        elif name == "redis":
            command = self.redis
        else:
            command, options["env"] = self.stack.command(name), self.stack.environment(name)
        with log.open("ab") as sink:
            self.running[name] = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True, **options
            )

    def run(self) -> None:
        while not self.ended.wait(1):
            for name, process in list(self.running.items()):
                if process.poll() is not None and time.monotonic() >= self.held.get(name, 0):
                    self.restarts[name] += 1
                    self.start_one(name)

    def stop(self) -> None:
        self.ended.set()
        self.join(10)
        for name in reversed(list(self.running)):
            kill_group(self.running[name].pid, signal.SIGINT if name == "postgres" else signal.SIGKILL)
        for process in self.running.values():
            process.wait(30)


class Monkey:
    """Injections: each a name and what it does."""

    def __init__(self, supervisor: Supervisor, seed: int) -> None:
        self.supervisor, self.random = supervisor, random.Random(seed)
        self.done: Counter[str] = Counter()

    def inject(self) -> str:
        kinds: list[tuple[str, Callable[[], bool], int]] = [
            *((f"kill {name}", lambda n=name: self._kill(n), 2) for name in ORDER),
            ("kill a task's process", self._kill_task, 16),
            ("mlflow away for 8 s", lambda: self._away("mlflow"), 2),
            ("crash postgres", lambda: self._kill("postgres", signal.SIGQUIT), 3),
            ("kill a postgres backend", self._kill_backend, 3),
            ("kill redis", lambda: self._kill("redis"), 3),
            ("flush redis", self._flush, 2),
        ]  # fmt: skip
        while True:
            name, act, _ = self.random.choices(kinds, [k[2] for k in kinds])[0]
            if act():
                self.done[name] += 1
                return name

    def _kill(self, name: str, what: signal.Signals = signal.SIGKILL) -> bool:
        process = self.supervisor.running[name]
        if process.poll() is not None:
            return False
        kill_group(process.pid, what)
        return True

    def _away(self, name: str) -> bool:
        self.supervisor.held[name] = time.monotonic() + 8
        return self._kill(name)

    def _children(self, name: str) -> list[psutil.Process]:
        try:
            return psutil.Process(self.supervisor.running[name].pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _kill_task(self) -> bool:
        deep = [p for c in self._children("airflow-worker") for p in self._grandchildren(c)]
        return self._end(self.random.choice(deep)) if deep else self._kill("airflow-worker")

    def _grandchildren(self, process: psutil.Process) -> list[psutil.Process]:
        try:
            return process.children()
        except psutil.NoSuchProcess:
            return []

    def _kill_backend(self) -> bool:
        children = self._children("postgres")
        return bool(children) and self._end(self.random.choice(children))

    def _end(self, process: psutil.Process) -> bool:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _flush(self) -> bool:
        import redis

        host, port = self.supervisor.stack.hosts["redis:6379"].split(":")
        try:
            redis.Redis(host, int(port), password=self.supervisor.stack.secret("redis")).flushall()
        except redis.RedisError:
            return False
        return True


class Operator:
    """Triggers hours, and again what failed; never gives up on an answer that did not come."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{stack.ports['airflow-api-server']}", timeout=30)
        self.again: Counter[str] = Counter()
        self.steps = 0

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            try:
                answer = self.client.request(method, path, **arguments)
                if answer.status_code in {401, 403} and path != "/auth/token":
                    self.log_in()
                elif answer.status_code < 300:
                    return answer.json()
                elif answer.status_code == 409:
                    return None
            except (httpx.HTTPError, ValueError):
                pass
            time.sleep(1)
        raise AssertionError(f"{method} {path}: no answer in {DEADLINE_SECONDS} s")

    def log_in(self) -> None:
        body = {"username": "admin", "password": self.stack.secret("airflow_admin")}
        token = self.call("POST", "/auth/token", json=body)["access_token"]
        self.client.headers["Authorization"] = f"Bearer {token}"

    def states(self, dag: str, hour: Hour) -> list[str]:
        runs = self.call("GET", f"/api/v2/dags/{dag}/dagRuns?order_by=-run_after&limit=60")["dag_runs"]
        return [r["state"] for r in runs if r["partition_key"] == hour.key]

    def trigger(self, dag: str, hour: Hour) -> None:
        body: dict[str, Any] = {"logical_date": None, "partition_key": hour.key, "conf": {}}
        self.call("POST", f"/api/v2/dags/{dag}/dagRuns", json=body)

    def bring_through(self, hour: Hour) -> None:
        self.trigger("ingest_hour", hour)
        end = time.monotonic() + DEADLINE_SECONDS
        for dag in HOURLY:
            missing_since = time.monotonic()
            while "success" not in (states := self.states(dag, hour)):
                assert time.monotonic() < end, (hour.key, dag, states, self.stack.logs(dag)[-6000:])
                idle = not any(s in {"queued", "running"} for s in states)
                if idle and (states or time.monotonic() - missing_since > PATIENCE_SECONDS):
                    self.again[dag] += 1
                    self.trigger(dag, hour)
                    missing_since = time.monotonic()
                time.sleep(1.5)
            self.steps += 1


@pytest.fixture
def calm(tmp_path: Path) -> Settings:
    """A workspace that nothing disturbs, with its history."""
    settings = load_settings(var=tmp_path / "calm" / "var", source="simulator", variants=VARIANTS)
    write_app(settings.workspace, APP, SMALL_POLICY)
    place_tracking_store(settings)
    save_app_source(settings)
    build_history(settings, TAKEOVER)
    return settings


@pytest.fixture
def stormy(tmp_path: Path) -> Iterator[tuple[Supervisor, Stack]]:
    """The stack with its history, every process supervised."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed (make services)")
    with base(tmp_path, servers=False) as stack, ExitStack() as ending:
        stack.more = FAST | {"CLOCK_VARIANTS": json.dumps(VARIANTS)}
        redis = redis_command(program, tmp_path, int(stack.hosts["redis:6379"].split(":")[1]), stack.secret("redis"))
        supervisor = Supervisor(stack, redis)
        ending.callback(supervisor.stop)
        supervisor.start_one("postgres")
        supervisor.start_one("redis")
        done = stack.run("init", "-m", "operations", "init")
        assert done.returncode == 0, done.stderr[-3000:]
        write_app(stack.state / "simulator", APP, SMALL_POLICY)
        supervisor.start_one("mlflow")
        supervisor.start()
        for command in (("setup", "simulated"), ("history", TAKEOVER.key)):
            done = stack.run("airflow-worker", "-m", "pipeline", *command)
            for _ in range(20):
                if done.returncode != 75:
                    break
                time.sleep(3)  # MLflow is still starting
                done = stack.run("airflow-worker", "-m", "pipeline", *command)
            assert done.returncode == 0, done.stderr[-3000:]
        for name in ORDER:
            if name not in supervisor.running:
                supervisor.start_one(name)
        yield supervisor, stack


def test_the_state_after_random_kills_equals_an_undisturbed_run(
    calm: Settings, stormy: tuple[Supervisor, Stack], tmp_path: Path
) -> None:
    supervisor, stack = stormy
    monkey, operator = Monkey(supervisor, SEED), Operator(stack)
    operator.log_in()
    while len(operator.call("GET", "/api/v2/dags?limit=100")["dags"]) < len(HOURLY):
        time.sleep(1)
    over = threading.Event()

    def storm() -> None:
        for n in range(INJECTIONS):
            time.sleep(monkey.random.uniform(*PAUSE_SECONDS))
            print(f"injection {n + 1} of {INJECTIONS}: {monkey.inject()}", flush=True)
            if (n + 1) % BURST == 0:
                steps, end = operator.steps, time.monotonic() + PAUSE_AFTER_BURST_SECONDS
                while operator.steps == steps and time.monotonic() < end:
                    time.sleep(0.5)
        over.set()

    weather = threading.Thread(target=storm, daemon=True)
    weather.start()
    hours = [TAKEOVER]
    operator.bring_through(TAKEOVER)
    while len(hours) < 2 or not over.is_set():
        hours.append(hours[-1] + 1)
        operator.bring_through(hours[-1])
        print(f"{hours[-1]} is through", flush=True)
    weather.join()
    supervisor.stop()
    account = {
        "injections": sum(monkey.done.values()), "kinds": dict(sorted(monkey.done.items())), "hours": len(hours),
        "restarts": dict(sorted(supervisor.restarts.items())), "triggered_again": dict(operator.again),
    }  # fmt: skip
    print(json.dumps(account, indent=1), flush=True)
    if report := os.environ.get("CHAOS_REPORT"):
        Path(report).write_text(json.dumps(account, indent=1) + "\n")
    for hour in hours:
        run_hour(calm, hour)
    disturbed = load_settings(var=stack.state, source="simulator", variants=VARIANTS)
    assert differences(fingerprint(calm), fingerprint(disturbed)) == []
    assert moves(calm) == moves(disturbed)
    assert account["injections"] == INJECTIONS


def moves(settings: Settings) -> list[tuple[str, str, str | None]]:
    """What the aliases did, without when."""
    trail = settings.workspace / "registry" / "moves.jsonl"
    return [(m["alias"], m["version"], m["previous"]) for m in map(json.loads, trail.read_text().splitlines())]

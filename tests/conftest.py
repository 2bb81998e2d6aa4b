"""Shared fixtures: a separate state folder for every test, small logs, a small simulated app."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pandas as pd
import pytest
import yaml

from core.garbage import collect_seldom, settle
from core.settings import Settings, load_settings
from events.ingest import ingest
from events.store import EventStore
from model_registry.store import open_mlflow
from simulation.config import SimulatorConfig
from simulation.log import AppLog
from tests.browser import launched
from tests.folders import temporary_root
from tests.lock_order import watch_locks

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ.setdefault("MPLBACKEND", "Agg")
# Workers share the processors: a thread of OpenMP that waits for another one must not keep one busy meanwhile.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# In CI the examples are the same every time; at a desk hypothesis keeps looking for new ones.
# Nowhere is an example too slow: side by side with servers that start, the time of one says nothing.
hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")
# At exit DuckDB's bindings list every object that ibis still holds; that has nothing to do with a test.
atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
# Told to end, a run stops the servers that it started, as at Ctrl-C.
signal.signal(signal.SIGTERM, signal.default_int_handler)
watch_locks()

NOW = datetime(2026, 11, 1, tzinfo=UTC)
FOURSQUARE = Path(__file__).resolve().parents[2] / "shared" / "data" / "foursquare-nyc" / "checkins.parquet"

LONGEST_FIRST = (
    "tests/e2e/test_demo.py",
    "tests/operations/test_containers.py",
    "tests/operations/test_stack.py",
    "tests/training/test_sharded.py",
    "tests/pipeline/test_hours.py",
    "tests/spark/test_spark.py",
    "tests/studies/test_ab_calibration.py",
    "tests/operations/test_state.py",
    "tests/closed_loop/test_loop.py",
    "tests/feature_repo/test_clock.py",
    "tests/model_registry/test_tracking.py",
    "tests/ab_analysis/test_report.py",
    "tests/operations/test_report_pages.py",
    "tests/ab_analysis/test_clusters.py",
    "tests/streaming/test_parameters.py",
    "tests/operations/test_chaos.py",  # by now the worker that had the demo and the stack is free: all three wait a lot
    "tests/training/test_trainer.py",
    "tests/feature_repo/test_retrieval.py",
    "tests/feature_repo/test_feast_commands.py",
    "tests/feature_repo/test_stores.py",
    "tests/serving/test_api.py",
    "tests/pages/test_clocks.py",
    "tests/studies/test_lab.py",
    "tests/pipeline/test_retention.py",
    "tests/studies/test_peers.py",
    "tests/serving/test_pages.py",
    "tests/ab_analysis/test_table_page.py",
    "tests/pipeline/test_forgetting.py",
)
"""Files that take half a minute or more: begun last, one of them would run on alone while the other workers are done."""

WARNINGS_SHOWN = (
    "tests/e2e/test_demo.py",
    "tests/operations/test_containers.py",
    "tests/operations/test_stack.py",
    "tests/operations/test_chaos.py",
    "tests/spark/test_spark.py",
)
"""Files whose warnings are shown and do not fail: clients of many servers, used side by side, where libraries give most."""

TINY = SimulatorConfig(days=4, users=60, items=80, experiment={"start_day": 2}, dirt={"damaged": 0.01})


def pytest_configure(config: pytest.Config) -> None:
    """Give the run its own folder for temporary files, in memory where there is room.

    pytest's shared one is closed to others whenever a run begins; a PostgreSQL server of another run, which works there
    as ``nobody``, would lose its files.
    """
    collect_seldom()
    if not (config.option.basetemp or os.environ.get("PYTEST_DEBUG_TEMPROOT") or "PYTEST_XDIST_WORKER" in os.environ):
        root, patch = temporary_root(), pytest.MonkeyPatch()
        (root / "tmp").mkdir()
        patch.setenv("PYTEST_DEBUG_TEMPROOT", str(root))
        # For what does not ask pytest: Chromium's profiles, Spark's blocks, sockets. It is removed in any case.
        patch.setenv("TMPDIR", str(root / "tmp"))
        patch.setattr(tempfile, "tempdir", str(root / "tmp"))
        config.add_cleanup(lambda: _remove_unless_kept(root))
        config.add_cleanup(patch.undo)


def _remove_unless_kept(root: Path) -> None:
    """Remove a run's folder, unless pytest kept the workspace of a failed test in it."""
    shutil.rmtree(root / "tmp", ignore_errors=True)
    if not any(path.is_dir() and not path.is_symlink() for path in root.glob("*/*")):
        shutil.rmtree(root, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, as xdist hands them out in this order, a file's tests to one worker."""
    rank = {name: n for n, name in enumerate(LONGEST_FIRST)}

    def file_of(item: pytest.Item) -> str:
        return item.path.relative_to(item.config.rootpath).as_posix()

    items.sort(key=lambda item: rank.get(file_of(item), len(rank)))
    for item in items:
        if file_of(item) in WARNINGS_SHOWN:
            item.add_marker(pytest.mark.filterwarnings("default"))
        if "trained" in getattr(item, "fixturenames", ()):  # a whole workspace with models
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What the tests import stays to the end: the garbage collector need not go through it again and again."""
    settle()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name of a parameter in a test's name: bytes do not stand in it, as a packed file may hold the time of its packing.

    Workers that collect at different seconds would have different tests.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def foursquare_file() -> Path:
    if not FOURSQUARE.exists():
        pytest.skip("the Foursquare check-ins (../shared/data/foursquare-nyc) are not on this machine")
    return FOURSQUARE


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(var=tmp_path / "var", source="test", mlflow_uri="")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser, for tests of pages; closed with the file, as a process can have one at a time."""
    yield from launched()


@pytest.fixture(scope="session")
def app_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A workspace with the ingested log of a tiny simulated app; tests must not change it."""
    settings = load_settings(var=tmp_path_factory.mktemp("app") / "var", source="simulator")
    log = AppLog(TINY, settings.workspace / "app")
    log.write_hours(TINY.first_hour, TINY.end_hour)
    ingest(str(log.prepare()), [str(log.root / "log")], settings, now=NOW)
    return settings


@pytest.fixture(scope="session")
def app_events(app_settings: Settings) -> EventStore:
    return EventStore(app_settings.events_dir)


def workspace_of_app(app_settings: Settings, var: Path) -> Settings:
    """A workspace with the tiny app's events, and nothing made of them yet."""
    settings = load_settings(var=var, source="simulator")
    settings.workspace.mkdir(parents=True)
    (settings.workspace / "events").symlink_to(app_settings.events_dir)
    return settings


SMALL_POLICY = "{min_hours: 2, max_hours: 6, min_samples: 100, min_users: 10}"


def write_app(workspace: Path, app: SimulatorConfig, policy: str = "") -> None:
    """A workspace's own simulated app, and perhaps a policy of the gate for so few people."""
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / "app.yaml").write_text(yaml.safe_dump(app.model_dump(mode="json")))
    if policy:
        (workspace / "policy.yaml").write_text(policy)


@functools.cache
def tracking_store() -> bytes:
    """MLflow's store as it is when new: its migrations take longer than most tests, so it is made once for all."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="empty")
        open_mlflow(settings)
        return _store_file(settings).read_bytes()


def _store_file(settings: Settings) -> Path:
    return Path(settings.tracking_uri.removeprefix("sqlite:///"))


def place_tracking_store(settings: Settings) -> None:
    """Give an embedded workspace MLflow's new store."""
    path = _store_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tracking_store())


def copy_var(original: Path, target: Path) -> None:
    """Copy workspaces for a test to change.

    Parquet files are linked, as none is ever changed in place. MLflow's artifacts stay where its store says they are.
    """

    def link_or_copy(source: str, path: str) -> None:
        os.link(source, path) if source.endswith(".parquet") else shutil.copy2(source, path)

    shutil.copytree(original, target, copy_function=link_or_copy, ignore=shutil.ignore_patterns("artifacts"))


def write_mapping(folder: Path, extra: str = "", **replace: str) -> Path:
    """A mapping for small CSV logs with columns uid, track, ts, played, length, genre."""
    lines = {
        "source": "source: test",
        "columns": "columns: {user_id: uid, item_id: track, played_seconds: played, duration_seconds: length}",
        "timestamp": "timestamp: {column: ts, unit: iso, zone: UTC}",
        "local_time": "local_time: {zone: Europe/Berlin}",
        "facets": "facets: {genre: genre}",
        "behaviors": "behaviors: {finish: played_seconds / duration_seconds >= 0.9, skip: played_seconds < 5}",
        **replace,
    }
    path = folder / "mapping.yaml"
    path.write_text("\n".join(line for line in lines.values() if line) + "\n" + extra)
    return path


def small_log(rows: int = 6) -> pd.DataFrame:
    """``rows`` plausible rows, half an hour apart from 2026-03-02T08:00 UTC on."""
    start = pd.Timestamp("2026-03-02T08:00:00Z")
    return pd.DataFrame(
        {
            "uid": [f"u{n % 3}" for n in range(rows)],
            "track": [f"t{n % 4}" for n in range(rows)],
            "ts": [(start + pd.Timedelta(minutes=30 * n)).isoformat() for n in range(rows)],
            "played": [100 if n % 2 else 3 for n in range(rows)],
            "length": [100] * rows,
            "genre": [None if n == 5 else ["rock", "jazz"][n % 2] for n in range(rows)],
        }
    )


@contextmanager
def something_else() -> Iterator[int]:
    """A server that does not speak HTTP, as on a port that another program has: its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with suppress(OSError):  # closed
                while True:
                    client, _ = server.accept()
                    with client:
                        client.recv(65536)
                        client.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=greet, daemon=True).start()
        yield server.getsockname()[1]


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that takes alerts: its URL, and the list that they are put into."""
    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", taken
    finally:
        server.shutdown()
        server.server_close()

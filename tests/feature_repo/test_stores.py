"""The feature store on real servers: Redis online, Feast's registry in PostgreSQL, Spark offline."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
import redis

from core.errors import NotReadyError
from core.hours import Hour
from core.settings import Settings, load_settings
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.materialization import Materialization, advance
from feature_repo.retrieval import ClockFeatures
from tests.feature_repo.test_clock import START, WINDOW_DAYS, ingest_rows
from tests.servers import postgres_server, redis_server

pytestmark = pytest.mark.slow

ROWS: list[Any] = [
    ((n * 5) % 80, (n * 13) % 60, n % 4, ["rock", "jazz", None, "folk"][n % 4], [100, 3, 100, 50][n % 3])
    for n in range(200)
]
CUT = 60


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("stores")
    with redis_server(folder) as (redis_url, _), postgres_server(tmp_path_factory.mktemp("postgres")) as postgres:
        registry = postgres.replace("postgresql:", "postgresql+psycopg:")
        yield {"online_store": "redis", "redis_url": redis_url, "registry_url": registry}


def filled(folder: Path, **stores: Any) -> Settings:
    """Clocks up to hour ``CUT`` in bulk, then three hours one by one, a late event among them."""
    settings = load_settings(var=folder / "var", source="test", window_days=WINDOW_DAYS, **stores)
    rows = sorted(ROWS, key=lambda e: (e[0], e[1]))
    known = [r for r in rows if r[0] < CUT]
    ingest_rows(folder, settings, known, 0, (START, START + CUT))
    advance(settings, START + CUT)
    seen = len(known)
    for hour in range(CUT, CUT + 3):
        fresh = [r for r in rows if r[0] == hour] + ([(CUT - 2, 30, 1, "soul", 100)] if hour == CUT + 1 else [])
        ingest_rows(folder, settings, fresh, seen, (START + hour, START + hour + 1))
        seen += len(fresh)
        advance(settings, START + hour + 1)
    return settings


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Filled on SQLite and files; tests must not change it."""
    return filled(tmp_path_factory.mktemp("plain"))


def in_redis(plain: Settings, folder: Path, url: str) -> Settings:
    """The plain workspace's events and clocks, put online in a Redis of its own."""
    settings = load_settings(
        var=folder / "var", source="test", window_days=WINDOW_DAYS, online_store="redis", redis_url=url
    )
    shutil.copytree(plain.events_dir, settings.events_dir)
    shutil.copytree(plain.features_dir, settings.features_dir)
    Materialization(features(settings)).materialize_all(START + CUT + 3)
    return settings


def features(settings: Settings) -> ClockFeatures:
    return ClockFeatures(settings, EventStore(settings.events_dir))


def both_sides(settings: Settings) -> tuple[pa.Table, pa.Table]:
    """Clocks of every user as of the last hour, online and offline."""
    at = START + CUT + 3
    clock_features = features(settings)
    online = clock_features.get_clock([1, 2, 3, 4, 99], at)
    keys = pa.table({"user_id": pa.array([1, 2, 3, 4, 99], pa.int64()), "hour": pa.array([at.number] * 5, pa.int64())})
    offline = clock_features.historical(keys).slots
    return online, offline.select(online.column_names)


def test_redis_and_postgres_hold_what_sqlite_and_files_hold(
    stores: dict[str, Any], plain: Settings, tmp_path: Path
) -> None:
    real = filled(tmp_path, **stores)
    online, offline = both_sides(real)
    assert online.num_rows > 10
    assert online.equals(offline)
    assert online.equals(both_sides(plain)[0])


def test_a_redis_that_lost_everything_is_filled_by_the_next_hour(plain: Settings, tmp_path: Path) -> None:
    with redis_server(tmp_path) as (url, _):
        settings = in_redis(plain, tmp_path, url)
        host, port = url.split(":")
        redis.Redis(host, int(port)).flushall()
        assert not both_sides(settings)[0].num_rows
        advance(settings, START + CUT + 3)
        online, offline = both_sides(settings)
        assert online.num_rows
        assert online.equals(offline)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis's client tries again as often as ever, after milliseconds instead of seconds."""
    pause = time.sleep
    monkeypatch.setattr("redis.retry.sleep", lambda seconds: pause(seconds / 100))


@pytest.mark.usefixtures("short_pauses")
def test_an_hour_without_redis_fails_completely_and_can_be_repeated(plain: Settings, tmp_path: Path) -> None:
    import redis as client

    with redis_server(tmp_path) as (url, process):
        settings = in_redis(plain, tmp_path, url)
        hour = START + CUT + 3
        ingest_rows(tmp_path, settings, [(CUT + 3, 5, 2, "soul", 100)], 900, (hour, hour + 1))
        before, _ = both_sides(settings)
        process.send_signal(signal.SIGSTOP)
        host, port = url.split(":")
        connection = client.Redis(host, int(port))
        process.send_signal(signal.SIGCONT)
        assert connection.ping()
        ClockState(settings, EventStore(settings.events_dir)).refresh(hour + 1)  # killed before it was put online
        assert both_sides(settings)[0].equals(before)
        assert advance(settings, hour + 1).online_rows > 0
        written: Any = list(connection.scan_iter())
        assert written
        assert all(cast("int", connection.ttl(key)) > 0 for key in written), "who stays away is forgotten"
        keys = pa.table({"user_id": pa.array([3], pa.int64()), "hour": pa.array([hour.number + 1], pa.int64())})
        clock_features = features(settings)
        online = clock_features.get_clock([3], hour + 1)
        assert online.equals(clock_features.historical(keys).slots.select(online.column_names))
    with pytest.raises(redis.ConnectionError, match=r"onnect|refused"):
        features(settings).get_clock([3], hour + 1)


class Cut:
    """A TCP proxy on loopback that breaks every connection after so many bytes to the server; None: never."""

    def __init__(self, target: str) -> None:
        host, port = target.split(":")
        self.target = (host, int(port))
        self.left: int | None = None
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.server.accept()
            server = socket.create_connection(self.target)
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if counted and self.left is not None:
                    data = data[: self.left]
                    self.left -= len(data)
                sink.sendall(data)
                if counted and self.left == 0:
                    break
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.usefixtures("short_pauses")
def test_an_interrupted_write_leaves_every_user_old_or_new_and_a_repeat_completes_it(
    plain: Settings, tmp_path: Path
) -> None:
    users, hour = [1, 2, 3], START + CUT + 3
    with redis_server(tmp_path) as (url, _):
        proxy = Cut(url)
        settings = in_redis(plain, tmp_path, proxy.address)
        fresh = [(CUT + 3, 5 + u, u - 1, value, 100) for u in users for value in ("soul", "folk")]
        ingest_rows(tmp_path, settings, fresh, 900, (hour, hour + 1))
        clock_features = features(settings)
        clock_features.clock.refresh(hour + 1)
        keys = pa.table({"user_id": pa.array(users, pa.int64()), "hour": pa.array([hour.number + 1] * 3, pa.int64())})

        def of_user(clock: pa.Table) -> list[list[dict[str, Any]]]:
            return [[row for row in clock.to_pylist() if row["user_id"] == user] for user in users]

        old = of_user(clock_features.get_clock(users, hour + 1))
        new = of_user(
            clock_features.historical(keys).slots.select(clock_features.get_clock(users, hour + 1).column_names)
        )
        assert all(a != b for a, b in zip(old, new, strict=True))
        seen = set()
        for bytes_left in (40, 700, 1100, 1500):
            proxy.left = bytes_left
            with pytest.raises(redis.ConnectionError, match=r"onnect|closed|reset|pipe"):
                Materialization(clock_features).materialize(hour + 1)
            proxy.left = None
            now = of_user(clock_features.get_clock(users, hour + 1))
            assert all(n in (a, b) for n, a, b in zip(now, old, new, strict=True))
            seen.add(sum(n == b for n, b in zip(now, new, strict=True)))
        assert len(seen) > 1, seen  # some cuts fell between users
        Materialization(clock_features).materialize(hour + 1)
        assert of_user(clock_features.get_clock(users, hour + 1)) == new


def test_a_registry_that_does_not_answer_is_named_and_the_one_before_goes_on_to_work(plain: Settings) -> None:
    gone = load_settings(
        var=plain.var,
        source="test",
        window_days=WINDOW_DAYS,
        registry_url="postgresql+psycopg://clock@127.0.0.1:9/clock",
    )
    with pytest.raises(NotReadyError, match="registry"):
        features(gone)
    assert features(plain).get_clock([1], START + CUT + 3).num_rows


def test_cells_that_left_the_window_are_not_shown(plain: Settings) -> None:
    clock_features = features(plain)
    assert clock_features.get_clock([1], START + CUT + 3).num_rows
    assert not clock_features.get_clock([1], START + CUT + 4 + 24 * WINDOW_DAYS).num_rows


def test_hours_that_were_never_reached_have_no_clock(plain: Settings) -> None:
    keys = pa.table({"user_id": pa.array([1], pa.int64()), "hour": pa.array([Hour(5).number], pa.int64())})
    assert not features(plain).historical(keys).slots.num_rows

"""From a real Redis stream to hourly log files: every entry once, whatever is killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from core.errors import ConfigError, NotReadyError
from core.files import exclusive_lock
from core.hours import Hour
from core.lock_order import LANDING_LOCK
from core.settings import Settings
from streaming.redis_log import LogWriter, land
from tests.servers import redis_server

HOUR = Hour.parse("2026-03-02T10")
BEGIN_MS = int(HOUR.start.timestamp() * 1000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as (address, _):
        yield f"redis://{address}/0"


@pytest.fixture
def client(server: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(server, decode_responses=True)
    client.flushall()
    yield client
    client.close()


def add(client: redis.Redis, minutes: list[float]) -> None:
    """One row at each of some minutes after the hour's begin."""
    for n, minute in enumerate(minutes):
        client.xadd("events", {"uid": f"u{n}", "minute": str(minute)}, id=f"{BEGIN_MS + int(minute * 60_000)}-{n}")


def rows(path: Path) -> list[str]:
    return [json.loads(line)["minute"] for line in path.read_text().splitlines() if line]


def test_entries_are_in_the_file_of_their_hour_which_is_complete_when_it_is_over(
    settings: Settings, server: str, client: redis.Redis, tmp_path: Path
) -> None:
    log, pattern = tmp_path / "log", str(tmp_path / "log" / "{hour}.jsonl")
    add(client, [1, 30])
    at = BEGIN_MS / 1000 + 45 * 60

    def run(**options: bool) -> int:
        return land(settings, server, "events", pattern, once=True, clock=lambda: at, **{"trim": False, **options})

    assert run() == 2
    assert rows(log / f"{HOUR.key}.jsonl.part") == ["1", "30"]
    assert run() == 0
    add(client, [59, 185])
    client.xadd("events", {"json": '{"uid": "u9",\n "minute": "186"}'}, id=f"{BEGIN_MS + 186 * 60_000}-0")
    assert run(trim=True) == 3
    assert rows(log / f"{HOUR.key}.jsonl") == ["1", "30", "59"]
    assert rows(log / f"{(HOUR + 3).key}.jsonl.part") == ["185", "186"]
    assert [rows(log / f"{(HOUR + n).key}.jsonl") for n in (1, 2)] == [[], []]  # nothing happened in these hours
    at += 4 * 3600
    assert run(trim=True) == 0
    assert not [*log.glob("*.part")]
    assert rows(log / f"{(HOUR + 3).key}.jsonl") == ["185", "186"]
    at += 40 * 24 * 3600
    assert run() == 0
    assert not (log / f"{(HOUR + 5).key}.jsonl").exists()  # silent for a month: nobody knows whether nothing happened


def test_after_a_crash_at_any_point_every_entry_is_there_once(
    settings: Settings, server: str, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = str(tmp_path / "{hour}.jsonl")
    add(client, [1, 2, 3])
    land(settings, server, "events", pattern, trim=False, once=True, clock=lambda: BEGIN_MS / 1000)
    add(client, [10, 20, 70])
    part = tmp_path / f"{HOUR.key}.jsonl.part"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # the rows are on disk, how far they are is not
        patch.setattr(LogWriter, "_reach", killed)
        with pytest.raises(KeyboardInterrupt):
            land(settings, server, "events", pattern, trim=False, once=True, clock=lambda: BEGIN_MS / 1000)
    assert len(rows(part)) > 3
    land(settings, server, "events", pattern, trim=False, once=True, clock=lambda: BEGIN_MS / 1000 + 7200 + 10)
    assert rows(tmp_path / f"{HOUR.key}.jsonl") == ["1", "2", "3", "10", "20"]
    assert rows(tmp_path / f"{(HOUR + 1).key}.jsonl") == ["70"]


@pytest.mark.parametrize("lost", ["landing.json", "streaming"])
def test_a_completed_file_stays_whole_when_it_is_no_longer_known_how_far_the_files_are(
    settings: Settings, server: str, client: redis.Redis, tmp_path: Path, lost: str
) -> None:
    """A trimmed stream holds the end of hours that are complete: written again, they would be that end alone."""
    pattern, complete = str(tmp_path / "{hour}.jsonl"), tmp_path / f"{HOUR.key}.jsonl"
    add(client, [1, 30, 59, 61])

    def run() -> int:
        return land(settings, server, "events", pattern, trim=False, once=True, clock=lambda: BEGIN_MS / 1000 + 3700)

    assert run() == 4
    client.xtrim("events", minid=f"{BEGIN_MS + 40 * 60_000}-0", approximate=False)
    settings.streaming_dir.mkdir(exist_ok=True)
    path = settings.workspace / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run() == (2 if lost == "landing.json" else 0)
    assert rows(complete) == ["1", "30", "59"]
    running = rows(tmp_path / f"{(HOUR + 1).key}.jsonl.part")
    assert running == (["61", "59", "61"] if lost == "landing.json" else ["61"]), (
        "ingestion recognizes what comes twice"
    )


def test_two_processes_do_not_write_one_log(settings: Settings, server: str, tmp_path: Path) -> None:
    with (
        exclusive_lock(settings.workspace / LANDING_LOCK),
        pytest.raises(NotReadyError, match="another 'clock stream land' of 'test' writes its log already"),
    ):
        land(settings, server, "events", str(tmp_path / "{hour}.jsonl"), trim=False, once=True)


def test_an_entry_that_comes_late_to_its_hour_is_not_trimmed_before_it_is_written(
    settings: Settings, server: str, client: redis.Redis, tmp_path: Path
) -> None:
    """Redis gives ids by its own clock, which may be behind the clock that ends the hours."""
    pattern = str(tmp_path / "{hour}.jsonl")
    add(client, [1, 2])
    late = iter([59.9])

    def clock() -> float:
        add(client, [*late])
        return BEGIN_MS / 1000 + 3600 + 10

    assert land(settings, server, "events", pattern, trim=True, once=True, clock=clock) == 3
    assert rows(tmp_path / f"{HOUR.key}.jsonl") == ["1", "2"]
    assert rows(tmp_path / f"{(HOUR + 1).key}.jsonl.part") == ["59.9"]


def test_bytes_that_are_no_text_do_not_keep_what_follows_from_being_written(
    settings: Settings, server: str, client: redis.Redis, tmp_path: Path
) -> None:
    pattern = str(tmp_path / "{hour}.jsonl")
    add(client, [1])
    client.xadd("events", {b"uid": b"\xff7", b"minute": b"2"}, id=f"{BEGIN_MS + 120_000}-0")
    client.xadd("events", {"json": '{"uid": "\\ud800", "minute": "2.5"}'}, id=f"{BEGIN_MS + 150_000}-0")
    client.xadd("events", {"json": "[" * 200_000}, id=f"{BEGIN_MS + 160_000}-0")
    add(client, [3])
    assert land(settings, server, "events", pattern, trim=False, once=True, clock=lambda: BEGIN_MS / 1000) == 5
    written = (tmp_path / f"{HOUR.key}.jsonl.part").read_text()
    assert [json.loads(line)["uid"] for line in written.splitlines() if not line.startswith("[")] == [
        "u0",
        "\ufffd7",
        "?",
        "u0",
    ]


def test_wrong_streams_and_paths_are_said(settings: Settings, server: str, client: redis.Redis, tmp_path: Path) -> None:
    pattern = str(tmp_path / "{hour}.jsonl")

    def run(url: str = server, stream: str = "events", pattern: str = pattern) -> int:
        return land(settings, url, stream, pattern, trim=False, once=True)

    with pytest.raises(ConfigError, match="a file an hour of JSON lines"):
        run(pattern=str(tmp_path / "log.jsonl"))
    with pytest.raises(ConfigError, match="is no URL of Redis"):
        run(url="localhost")
    with pytest.raises(NotReadyError, match="does not answer"):
        run(url="redis://127.0.0.1:1/0")
    client.set("text", "x")
    with pytest.raises(ConfigError, match="cannot be read as a stream"):
        run(stream="text")
    add(client, [1])
    assert run() == 1
    with pytest.raises(ConfigError, match="tells of the stream 'events'"):
        run(stream="other")

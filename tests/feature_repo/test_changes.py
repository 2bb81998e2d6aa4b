"""Change logs: who reads an hour opens few files, and finds what all of them together would tell."""

from __future__ import annotations

import functools
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.engine import engine
from core.hours import DAY_HOURS, Hour
from core.settings import load_settings
from core.sql_engine import Engine
from feature_repo.changes import ChangeLog, Tablet, covering, files_between, latest_folder, tablets_of

START = Hour.parse("2026-03-02T00")
HOLDS = 60
SCHEMA = pa.schema([("user_id", pa.int64()), ("events", pa.int64()), ("as_of", pa.int64())])
USERS = 6


def rows(values: list[tuple[int, int, int]]) -> pa.Table:
    names = SCHEMA.names
    return pa.Table.from_pylist([dict(zip(names, value, strict=True)) for value in sorted(values)], schema=SCHEMA)


@functools.cache
def rows_of(file: Path, inode: int, changed: int) -> list[dict[str, int]]:
    """Rows of a file, which are read again once another one has taken its place."""
    rows: list[dict[str, int]] = pq.ParquetFile(file).read().to_pylist()
    return rows


def latest(files: list[Path], hour: Hour) -> dict[int, tuple[int, int]]:
    """User → (as_of, events) of the newest row at an hour that still holds."""
    newest: dict[int, tuple[int, int]] = {}
    for file in files:
        stamp = file.stat()
        for row in rows_of(file, stamp.st_ino, stamp.st_mtime_ns):
            if hour.number - HOLDS <= row["as_of"] <= hour.number:
                newest[row["user_id"]] = max(newest.get(row["user_id"], (0, 0)), (row["as_of"], row["events"]))
    return newest


def put(log: ChangeLog, running: Engine, at: Hour, values: list[tuple[int, int, int]]) -> None:
    running.register("put", rows(values))
    log.put(running, at, "put")


def change(log: ChangeLog, running: Engine, at: Hour, draw: random.Random) -> None:
    """A few users' rows of an hour, and now and then those of past hours again."""
    if draw.random() < 0.1:
        since, user = at - draw.randint(1, 40), draw.randrange(USERS)
        running.register("late", pa.table({"user_id": [user]}))
        running.register("corrected", rows([(user, draw.randrange(100), n) for n in range(since.number, at.number, 7)]))
        log.replace(running, "late", "corrected", since)
    changed = draw.sample(range(USERS), draw.randint(0, 2))
    put(log, running, at, [(user, draw.randrange(100), at.number) for user in changed])
    log.tidy(running, at)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "tablet_rows"), [(0, 100), (1, 1), (2, 2)])
def test_the_files_of_an_hour_tell_what_all_files_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, tablet_rows: int
) -> None:
    monkeypatch.setattr("feature_repo.changes.TABLET_ROWS", tablet_rows)
    draw, most = random.Random(seed), 0
    log = ChangeLog(tmp_path / "view", ("user_id",), SCHEMA, HOLDS, turn=5)
    used = 0
    with engine(load_settings(var=tmp_path / "var", source="test")) as running:
        running.register("first", rows([(user, user, START.number + user) for user in range(USERS)]))
        running.write("SELECT * FROM first ORDER BY user_id", log.span(START, START + USERS))
        for n in range(USERS + 1, 6 * DAY_HOURS):
            at = START + n
            change(log, running, at, draw)
            for hour in (at, at - 1, at - draw.randint(2, 50)):
                files = files_between(log.root, hour, at, HOLDS)
                assert latest(files, hour) == latest(log.parts(), hour)
                used += any("latest" in file.parts for file in files)
            most = max(most, len(tablets_of(log.root)))
    assert used > 100
    assert (most > 1) == (tablet_rows < USERS)


@pytest.mark.slow
def test_the_running_hour_opens_the_last_days_files_however_long_the_log_is(tmp_path: Path) -> None:
    log = ChangeLog(tmp_path / "view", ("user_id",), SCHEMA, holds_hours=100 * DAY_HOURS)
    opened = []
    with engine(load_settings(var=tmp_path / "var", source="test")) as running:
        for n in range(20 * DAY_HOURS):
            put(log, running, START + n, [(n % USERS, n, START.number + n)])
            log.tidy(running, START + n)
            if n % DAY_HOURS == DAY_HOURS - 1:
                opened.append(len(files_between(log.root, START + n, START + n, None)))
    assert max(opened[3:]) == opened[3] < 2 * DAY_HOURS + 2
    assert len(log.parts()) > opened[-1] - DAY_HOURS + 15
    assert len(tablets_of(log.root)) == 1


def test_a_view_that_changes_at_midnight_only_is_collected_too(tmp_path: Path) -> None:
    log = ChangeLog(tmp_path / "view", ("user_id",), SCHEMA, holds_hours=100 * DAY_HOURS, turn=9)
    opened = []
    with engine(load_settings(var=tmp_path / "var", source="test")) as running:
        for n in range(20 * DAY_HOURS):
            if n % DAY_HOURS == 0:
                put(log, running, START + n, [(user, n, START.number + n) for user in range(USERS)])
            log.tidy(running, START + n)
            opened.append(len(files_between(log.root, START + n, START + n, None)))
    assert max(opened) <= 4
    assert len(log.parts()) > 8


def filled(tmp_path: Path, running: Engine, users: int) -> ChangeLog:
    """A log that begins with a row of every user, two days ago."""
    log = ChangeLog(tmp_path / "view", ("user_id",), SCHEMA, holds_hours=100 * DAY_HOURS, turn=3)
    put(log, running, START, [(user, user, START.number) for user in range(users)])
    for n in range(1, 2 * DAY_HOURS + 1):
        put(log, running, START + n, [(n % users, n, (START + n).number)])
        log.tidy(running, START + n)
    return log


def test_every_hour_brings_a_few_tablets_forward_and_the_day_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_repo.changes.TABLET_ROWS", 4)
    users, written = 100, []
    with engine(load_settings(var=tmp_path / "var", source="test")) as running:
        log = filled(tmp_path, running, users)
        for n in range(2 * DAY_HOURS + 1, 4 * DAY_HOURS):
            before = {tablet.folder for tablet in tablets_of(log.root)}
            log.tidy(running, START + n)
            after = tablets_of(log.root)
            written.append(len({tablet.folder for tablet in after} - before))
            assert len(covering(log.root)) == len(after) == users // 4
        read, expected = (
            latest(files, START + n) for files in (files_between(log.root, START + n, START + n, None), log.parts())
        )
    assert {tablet.hour for tablet in after} == {START + 2 * DAY_HOURS - 1}
    assert read == expected
    of_the_last_day = written[-DAY_HOURS:]
    assert sum(of_the_last_day) == users // 4
    assert max(of_the_last_day) == 2
    assert of_the_last_day[:3] == [0, 0, 0]  # other views' turns


def test_a_crash_between_writing_tablets_and_removing_what_they_replace_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = START + 3 * DAY_HOURS + 5
    with engine(load_settings(var=tmp_path / "var", source="test")) as running:
        log = filled(tmp_path, running, 10)
        expected = latest(log.parts(), at)
        monkeypatch.setattr("feature_repo.changes.TABLET_ROWS", 2)
        with monkeypatch.context() as patch:
            patch.setattr("feature_repo.changes.shutil", SimpleNamespace(rmtree=lambda _: pytest.fail("stopped")))
            with pytest.raises(pytest.fail.Exception, match="stopped"):
                log.tidy(running, at)
        whole, *pieces = tablets_of(log.root)
        assert (whole.low, whole.high, len(pieces)) == (None, None, 5)
        assert [tablet.folder for tablet in covering(log.root)] == [tablet.folder for tablet in reversed(pieces)]
        assert latest(files_between(log.root, at, at, None), at) == expected
        shutil.rmtree(pieces[2].folder)  # what was not written yet
        assert {tablet.folder for tablet in covering(log.root)} == {
            t.folder for t in (whole, *pieces) if t != pieces[2]
        }
        assert latest(files_between(log.root, at, at, None), at) == expected
        log.tidy(running, at)
        assert whole.folder not in {tablet.folder for tablet in tablets_of(log.root)}
        assert latest(files_between(log.root, at, at, None), at) == expected


def test_what_an_older_platform_collected_is_read_and_brought_forward(tmp_path: Path) -> None:
    at = START + 3 * DAY_HOURS + 5
    with engine(load_settings(var=tmp_path / "var", source="test")) as running:
        log = filled(tmp_path, running, 10)
        (tablet,) = tablets_of(log.root)
        older = tablet.folder.rename(latest_folder(log.root) / tablet.hour.key)
        assert covering(log.root) == [Tablet(older, tablet.hour)]
        expected = latest(log.parts(), at)
        log.tidy(running, at)
        assert older not in {tablet.folder for tablet in tablets_of(log.root)}
        assert latest(files_between(log.root, at, at, None), at) == expected

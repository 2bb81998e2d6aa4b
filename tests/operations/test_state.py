"""What keeps a workspace: its version, migrations, backups, the doctor, writes that fail in the middle, a clock that jumps."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from core.errors import ConfigError, CorruptStateError, DataError
from core.files import read_json, write_json, write_text
from core.hours import Hour
from core.lock_order import lock_files
from core.settings import ROOT, Settings, load_settings
from core.state_version import STATE_VERSION, check_state_version, state_version
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures
from operations.backup import back_up, restore
from operations.doctor import examine, failed, table
from operations.fingerprint import differences, fingerprint
from operations.migrations import migrate
from pipeline.history import build_history
from pipeline.hour import run_hour
from pipeline.source import save_app_source
from simulation.config import SimulatorConfig
from tests import forked
from tests.conftest import SMALL_POLICY, copy_var, place_tracking_store, write_app

pytestmark = pytest.mark.slow

APP = SimulatorConfig(days=4, users=80, items=60, experiment={"start_day": 2}, dirt={"damaged": 0.01, "late": 0.02})
TAKEOVER = APP.first_hour + 60
VARIANTS = ("hour_embedding", "matched_clock")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A workspace with its history; tests must not change it."""
    settings = load_settings(var=tmp_path_factory.mktemp("state") / "var", source="simulator", variants=VARIANTS)
    write_app(settings.workspace, APP, SMALL_POLICY)
    place_tracking_store(settings)
    save_app_source(settings)
    build_history(settings, TAKEOVER)
    return settings


@pytest.fixture(scope="module")
def undisturbed(built: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The workspace after the next hour; tests must not change it."""
    settings = copy_of(built, tmp_path_factory.mktemp("next"))
    run_hour(settings, TAKEOVER)
    return settings


@pytest.fixture(scope="module")
def next_hour(undisturbed: Settings) -> dict[str, str]:
    """The state after the next hour, undisturbed."""
    return fingerprint(undisturbed)


def copy_of(built: Settings, folder: Path) -> Settings:
    copy_var(built.var, folder / "var")
    settings = load_settings(var=folder / "var", source="simulator", variants=VARIANTS)
    save_app_source(settings)
    return settings


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ, "CLOCK_VAR": str(settings.var), "CLOCK_SOURCE": settings.source, "PYTHONPATH": str(ROOT),
        "CLOCK_VARIANTS": json.dumps(VARIANTS),
    }  # fmt: skip


def run(settings: Settings, *command: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """A command line in a separate process, perhaps with a limit on the size of a file it may write."""
    return forked.run(*command, environment=environment(settings), file_limit=limit)


def test_a_new_workspace_is_marked_and_another_versions_is_refused(built: Settings, tmp_path: Path) -> None:
    assert state_version(built) == STATE_VERSION
    settings = load_settings(var=tmp_path, source="simulator")
    assert state_version(settings) is None
    for version, words in (
        (0, "clock ops --source simulator migrate"),
        (STATE_VERSION + 1, "newer than this platform's"),
    ):
        write_json(settings.workspace / "version.json", {"state": version})
        with pytest.raises(ConfigError, match=words):
            check_state_version(settings)
    done = run(settings, "feature_repo", "advance", TAKEOVER.key)
    assert done.returncode == 2
    assert "newer than this platform's" in done.stderr


def test_migrations_go_step_by_step_and_on_after_a_crash(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path, source="simulator")
    with pytest.raises(ConfigError, match="there is no state"):
        migrate(settings)
    write_json(settings.workspace / "version.json", {"state": 1})
    done: list[int] = []

    def breaks(s: Settings) -> None:
        done.append(2)
        if len(done) < 3:
            raise OSError("no space")

    steps = {1: lambda s: done.append(1), 2: breaks}
    with pytest.raises(OSError, match="no space"):
        migrate(settings, steps, 3)
    assert state_version(settings) == 2
    assert migrate(settings, steps, 3) == [3]
    assert done == [1, 2, 2]
    assert migrate(settings, steps, 3) == []
    with pytest.raises(ConfigError, match="version 3 cannot be migrated"):
        migrate(settings, steps, 4)
    with pytest.raises(ConfigError, match="newer than"):
        migrate(settings, steps, 2)


def test_a_workspace_of_version_1_is_brought_to_sums_of_scores(built: Settings, tmp_path: Path) -> None:
    settings = copy_of(built, tmp_path)
    shutil.rmtree(settings.features_dir / "sums")
    state = read_json(settings.features_dir / "state.json")
    state["sums"] = {"5": {"folder": "005-2026-01-01T00-0", "digest": "0" * 64}}  # as that version described them
    write_json(settings.features_dir / "state.json", state)
    write_json(settings.workspace / "version.json", {"state": 1})
    done = run(settings, "operations", "migrate")
    assert done.returncode == 0, done.stderr
    assert state_version(settings) == STATE_VERSION
    one, other = (ClockFeatures(s, EventStore(s.events_dir)) for s in (built, settings))
    users = one.most_active(5)
    assert users == other.most_active(5)
    keys = pa.table({"user_id": users * 3, "hour": [TAKEOVER.number - n for n in (0, 9, 30) for _ in users]})
    before, after = one.historical(keys), other.historical(keys)
    assert before.slots.num_rows > 50
    assert after.slots.equals(before.slots)
    assert after.profiles.equals(before.profiles)
    run_hour(settings, TAKEOVER)
    assert other.clock.as_of == TAKEOVER + 1


@pytest.mark.parametrize("late", [[], [TAKEOVER - 5]])
def test_a_workspace_of_version_4_goes_on_from_its_clocks_and_corrects_what_came_late(
    built: Settings, undisturbed: Settings, next_hour: dict[str, str], tmp_path: Path, late: list[Hour]
) -> None:
    settings = copy_of(built, tmp_path)
    store, clock = EventStore(settings.events_dir), ClockState(settings, EventStore(settings.events_dir))
    shutil.rmtree(store.changes.folder)
    state = read_json(clock.path)
    del state["changes"]
    state["hours"] = {h.key: "before it was late" if h in late else store.manifest(h).digest for h in store.hours()}
    write_json(clock.path, state)
    write_json(settings.workspace / "version.json", {"state": 4})
    with closing(sqlite3.connect(settings.features_dir / "recent" / "behaviors.db")) as con, con:
        con.executescript(
            "DROP TABLE reached; CREATE TABLE hours (hour INTEGER PRIMARY KEY, digest TEXT NOT NULL);"
            "CREATE TABLE state (as_of INTEGER NOT NULL, settings TEXT NOT NULL)"
        )
    sums = clock.require_state().sums
    assert migrate(settings) == [5]
    assert migrate(settings) == []
    assert clock.require_state().sums == sums, "the clocks are not computed again"
    assert clock._late(clock.require_state()) == late
    run_hour(settings, TAKEOVER)
    assert clock._late(clock.require_state()) == []
    written_otherwise = ("features/",) if late else ()  # a correction moves rows between files
    assert [n for n in differences(fingerprint(settings), next_hour) if not n.startswith(written_otherwise)] == []
    one, other = (ClockFeatures(s, EventStore(s.events_dir)) for s in (undisturbed, settings))
    for view in clock.logs:
        tables = [
            pa.concat_tables(features.latest(view, TAKEOVER + 1)).drop_columns(["as_of", "event_timestamp"])
            for features in (one, other)
        ]
        assert tables[0].num_rows
        assert tables[0].equals(tables[1])


def test_clocks_of_other_events_are_computed_again(built: Settings, tmp_path: Path) -> None:
    settings = copy_of(built, tmp_path)
    store = EventStore(settings.events_dir)
    write_text(store.changes.path, "another log's\n")
    clock = ClockState(settings, store)
    with pytest.raises(DataError, match=f"clock features rebuild {TAKEOVER}"):
        clock.refresh(TAKEOVER)
    assert advance(settings, TAKEOVER).rebuilt
    assert not advance(settings, TAKEOVER).rebuilt


def test_a_restored_backup_is_complete_and_the_next_hour_is_the_same(
    built: Settings, next_hour: dict[str, str], tmp_path: Path
) -> None:
    assert {*built.workspace.rglob("*.lock")} <= {*lock_files(built.workspace)}  # a backup holds them all
    done = back_up(built, tmp_path / "backups")
    backup = Path(done.backup)
    assert done.bytes > 10_000
    with pytest.raises(ConfigError, match="is not empty"):
        restore(built, backup)
    other = load_settings(var=tmp_path / "var", source="other")
    with pytest.raises(ConfigError, match="of the source simulator"):
        restore(other, backup)
    with pytest.raises(ConfigError, match="is not a backup"):
        restore(other, tmp_path)
    with pytest.raises(ConfigError, match="nothing to back up"):
        back_up(other, tmp_path)
    settings = load_settings(var=tmp_path / "var", source="simulator", variants=VARIANTS)
    damaged = tmp_path / "damaged"
    shutil.copytree(backup, damaged)
    content = bytearray((damaged / "workspace.tar.gz").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "workspace.tar.gz").write_bytes(content)
    with pytest.raises(CorruptStateError, match="damaged"):
        restore(settings, damaged)
    assert not settings.workspace.exists()
    restore(settings, backup)
    assert differences(fingerprint(settings), fingerprint(built)) == []
    save_app_source(settings)
    assert run_hour(settings, TAKEOVER).trained
    assert differences(fingerprint(settings), next_hour) == []


def test_a_disk_that_is_full_at_any_size_of_file_costs_nothing_but_the_attempt(
    built: Settings, next_hour: dict[str, str], tmp_path: Path
) -> None:
    """Writes beyond a size fail as on a full disk; ever later steps are reached; then there is room again."""
    settings = copy_of(built, tmp_path)
    failures = 0
    for limit in (100, 2_000, 20_000, 100_000, 500_000):
        failures += run(settings, "pipeline", "hour", TAKEOVER.key, limit=limit).returncode != 0
    assert failures >= 3
    done = run(settings, "pipeline", "hour", TAKEOVER.key)
    assert done.returncode == 0, done.stderr[-2000:]
    assert differences(fingerprint(settings), next_hour) == []


JUMPED = """
import json, os, runpy, sys, time
import operations.preload
failed = 0
for days, environment in json.load(sys.stdin):
    begun, child = time.time(), os.fork()
    if not child:
        os.environ.update(environment, FAKETIME=f"{days:+d}d")
        print("jumped by", round((time.time() - begun) / 86400), "days", file=sys.stderr, flush=True)
        runpy.run_module("pipeline", run_name="__main__", alter_sys=True)
        sys.exit()
    failed |= os.waitpid(child, 0)[1]
sys.exit(1 if failed else 0)
"""
"""Runs the command line of its arguments in forks, each of which has its own environment and time."""


def test_a_clock_that_jumps_changes_no_state(built: Settings, next_hour: dict[str, str], tmp_path: Path) -> None:
    program = shutil.which("faketime")
    if program is None:
        pytest.skip("faketime is not installed (make services)")
    jumps = {days: copy_of(built, tmp_path / str(days)) for days in (400, -30)}
    done = subprocess.run(
        [program, "-f", "+0d", sys.executable, "-c", JUMPED, "hour", TAKEOVER.key],
        env={**os.environ, "PYTHONPATH": str(ROOT), "FAKETIME_NO_CACHE": "1"},
        input=json.dumps([(days, environment(settings)) for days, settings in jumps.items()]),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for days, settings in jumps.items():
        assert f"jumped by {days} days" in done.stderr
        assert differences(fingerprint(settings), next_hour) == []


def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(built: Settings, tmp_path: Path) -> None:
    findings = examine(built)
    assert failed(findings) == 0, table(findings)
    assert {"python", "packages", "workspace", "disk", "state", "engine"} <= {f.check for f in findings}
    write_json(tmp_path / "simulator" / "version.json", {"state": 99})
    (tmp_path / "spark").mkdir()
    sick = load_settings(var=tmp_path, source="simulator", engine="spark", spark_master="spark://127.0.0.1:9")
    text = table(examine(sick))
    assert "FAILED   state" in text
    assert "FAILED   spark master" in text
    assert "→ is it running" in text
    done = run(load_settings(var=tmp_path, source="simulator"), "operations", "doctor")
    assert done.returncode == 2
    assert "error: 1 of" in done.stderr

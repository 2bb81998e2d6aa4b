"""A backup is taken while everything runs: it waits for nobody who never ends, and nobody waits for it for ever."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from core.files import exclusive_lock
from core.lock_order import LANE_LOCK, LOCK_ORDER, lock_files
from core.settings import ROOT, Settings, load_settings
from core.state_version import STATE_VERSION, write_state_version
from events.forgotten import ForgottenList
from events.ingest import ingest
from operations.backup import back_up
from tests.conftest import NOW, small_log, write_mapping

SECONDS = 120
"""After so long nobody goes on any more: each test takes a few seconds beside the imports."""
PROLOGUE = """
import sys
from pathlib import Path
from core.settings import load_settings
settings = load_settings(var=Path(sys.argv[1]), source="test")
"""
LANE = """
from streaming.lane import only_one
with only_one(settings):
    print("holding", flush=True)
    sys.stdin.read()
"""
FORGET = """
from pipeline.forgetting import forget
print("ready", flush=True)
for number in range(40):
    forget(settings, [f"nobody-{number}"])
print("done", flush=True)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Settings:
    settings = load_settings(var=tmp_path / "var", source="test")
    small_log().to_csv(tmp_path / "log.csv", index=False)
    ingest(str(write_mapping(tmp_path)), [str(tmp_path / "log.csv")], settings, now=NOW)
    write_state_version(settings, STATE_VERSION)
    return settings


@contextmanager
def process(code: str, settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A process that runs code beside this one; it has said its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + code, str(settings.var)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            assert running.stdout.readline()
            yield running
        finally:
            running.kill()


def backup_in_a_process(settings: Settings, folder: Path, times: int = 1) -> subprocess.Popen[str]:
    code = f"""
from operations.backup import back_up
for number in range({times}):
    back_up(settings, Path(sys.argv[2]) / str(number))
"""
    return subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + code, str(settings.var), str(folder)], cwd=ROOT, text=True
    )


@pytest.mark.slow
def test_a_backup_does_not_wait_for_a_lane_that_runs(workspace: Settings, tmp_path: Path) -> None:
    with process(LANE, workspace) as lane, backup_in_a_process(workspace, tmp_path / "backups") as backup:
        try:
            assert backup.wait(SECONDS) == 0
        finally:
            backup.kill()
        assert lane.poll() is None
        with pytest.raises(BlockingIOError), exclusive_lock(workspace.workspace / LANE_LOCK, wait=False):
            pass
    assert len(list((tmp_path / "backups" / "0").glob("test-*/workspace.tar.gz"))) == 1


@pytest.mark.slow
def test_people_are_forgotten_beside_one_backup_after_the_other(workspace: Settings, tmp_path: Path) -> None:
    with process(FORGET, workspace) as forgetting, backup_in_a_process(workspace, tmp_path / "backups", 40) as backup:
        try:
            assert forgetting.wait(SECONDS) == 0
            assert backup.wait(SECONDS) == 0
        finally:
            backup.kill()
    assert all(ForgottenList(workspace.events_dir).matcher().has(f"nobody-{number}") for number in range(40))
    assert len(list((tmp_path / "backups").glob("*/test-*/workspace.tar.gz"))) == 40


def test_what_a_running_service_removes_meanwhile_does_not_end_a_backup(
    workspace: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database's journal, a query's spilled rows, and what is being written go as they came, between listing and reading."""
    root = workspace.workspace
    brief = (
        "mlflow/mlflow.db-journal",
        "serving/log/.half.tmp",
        "scratch/duckdb-1/spill",
        "training/.half.tmp/a",
        "zz/old",
    )
    paths = [root / name for name in (*brief, "zz/kept")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    add = tarfile.TarFile.add

    def gone_meanwhile(archive: tarfile.TarFile, name: Path, arcname: str, **options: Any) -> None:
        for path in paths[:-1]:
            path.unlink(missing_ok=True)
        add(archive, name, arcname, **options)

    monkeypatch.setattr(tarfile.TarFile, "add", gone_meanwhile)
    written = back_up(workspace, tmp_path / "backups")
    with tarfile.open(Path(written.backup) / "workspace.tar.gz") as archive:
        names = archive.getnames()
    assert "zz/kept" in names
    assert not {*brief} & {*names}


def test_a_writer_that_begins_amid_a_backup_waits_also_where_nobody_wrote_before(
    workspace: Settings, tmp_path: Path
) -> None:
    for folder in ("features", "training/states"):
        (workspace.workspace / folder).mkdir(parents=True)
    (workspace.workspace / "training" / "states" / ".b.lock").touch()
    (workspace.workspace / "training" / "states" / ".a.lock").touch()
    names = [path.relative_to(workspace.workspace).as_posix() for path in lock_files(workspace.workspace)]
    assert names == [
        ".forgetting.lock", ".experiments.lock", ".events.lock", "training/states/.a.lock", "training/states/.b.lock",
        "training/.samples.lock", "features/.lock",
    ]  # fmt: skip
    back_up(workspace, tmp_path / "backups")
    assert not (workspace.workspace / "streaming").exists()
    assert LANE_LOCK not in LOCK_ORDER


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_named(workspace: Settings, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=rf"'{tmp_path / folder}' cannot hold backups: .*; name a folder"):
        back_up(workspace, tmp_path / folder)

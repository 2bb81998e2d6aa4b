"""The folder of a run of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import folders


def test_the_folders_of_ended_runs_are_removed_and_those_of_running_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "IN_MEMORY", tmp_path)
    monkeypatch.setattr(folders, "MEMORY_BYTES", 0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {pid: f"{folders.PREFIX}-{pid}-x" for pid in (ended.pid, os.getpid())}
    for name in (*names.values(), "clock-tests-other", "something"):
        (tmp_path / name / "inside").mkdir(parents=True)
    made = folders.temporary_root()
    assert {p.name for p in tmp_path.iterdir()} == {
        names[os.getpid()],
        "clock-tests-other",
        "something",
        made.name,
    }


def test_without_room_in_memory_the_folder_is_where_temporary_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "IN_MEMORY", tmp_path / "memory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert folders.temporary_root().parent == tmp_path
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(folders, "ROOM_BYTES", 1 << 60)
    assert folders.temporary_root().parent == tmp_path

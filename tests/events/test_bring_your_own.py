"""A log in a format of its own, mapped by YAML alone, through the command line."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import ROOT

MAPPING = """
source: radio
format: jsonl
columns:
  user_id: listener
  item_id: song
  played_seconds: ms / 1000
  duration_seconds: total_ms / 1000
timestamp: {column: at, unit: ms}
local_time: {zone_column: tz}
items: {path: songs.csv, key: id, facets: {genre: g, language: lang}}
behaviors:
  finish: played_seconds / duration_seconds >= 0.9
  skip: played_seconds < 5
  like: action = 'heart'
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "events", *arguments],
        cwd=folder, env={**os.environ, "CLOCK_VAR": str(folder / "var"), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def radio(tmp_path: Path) -> Path:
    (tmp_path / "radio.yaml").write_text(MAPPING)
    (tmp_path / "songs.csv").write_text("id,g,lang\nx1,rock,en\nx2,jazz,\n")
    (tmp_path / "logs").mkdir()
    start = 1772438400000  # 2026-03-02T08:00:00Z
    for hour in range(3):
        rows = [
            {"listener": f"Ä-{n % 2}", "song": f"x{n % 3 + 1}", "at": start + hour * 3_600_000 + n * 60_000, "ms": 100_000 * (n % 2),
             "total_ms": 100_000, "tz": "Asia/Kolkata", "action": "heart" if n == 1 else None}
            for n in range(4)
        ]  # fmt: skip
        lines = "\n".join(json.dumps(r) for r in rows).encode()
        (tmp_path / "logs" / f"{hour:02d}.jsonl.gz").write_bytes(gzip.compress(lines + b"\n{broken\n", mtime=0))
    return tmp_path


@pytest.mark.slow
def test_the_last_line_is_the_account(radio: Path) -> None:
    done = run(radio, "ingest", "radio.yaml", "logs")
    account = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0
    assert {k: account[k] for k in ("rows_in", "kept", "duplicates", "quarantined", "hours", "users", "items")} == {
        "rows_in": 15, "kept": 12, "duplicates": 0, "quarantined": 3, "hours": 3, "users": 2, "items": 3,
    }  # fmt: skip
    assert account["reasons"] == {"malformed_json": 3}
    assert account["null_facets"] == {"genre": 3, "language": 6}
    status = json.loads(run(radio, "status", "--out", str(radio / "var" / "radio" / "events")).stdout)
    assert (status["events"], status["missing"]) == (12, [])


@pytest.mark.slow
def test_errors_are_one_line_without_a_traceback(radio: Path) -> None:
    for arguments, message in (
        (("ingest", "radio.yaml", "nowhere"), "no such file: 'nowhere'"),
        (("ingest", "radoi.yaml"), "no mapping file at 'radoi.yaml'"),
        (("close", "yesterday"), "'yesterday' is not an hour"),
    ):
        done = run(radio, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_help_teaches_the_mapping(radio: Path) -> None:
    assert "MAPPING.yaml" in run(radio, "ingest", "--help").stdout
    assert "behaviors:" in run(radio, "explain").stdout

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from core.settings import ROOT, load_settings
from training.tracking import open_mlflow

OPEN = (
    "from core.settings import load_settings; from training.tracking import open_mlflow; open_mlflow(load_settings())"
)


def tables_in(folder: Path) -> int:
    """Tables that the store has by now, wherever it is being made."""
    for path in folder.rglob("mlflow.db"):
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                return int(database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0])
        except sqlite3.OperationalError:
            return 0
    return 0


def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path) -> None:
    """Kills early and late in MLflow's migrations; what they leave must not stand in the way."""
    settings = load_settings(var=tmp_path)
    environment = {**os.environ, "CLOCK_VAR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    folder = settings.workspace / "mlflow"
    for tables in (5, 40):
        process = subprocess.Popen([sys.executable, "-c", OPEN], env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and tables_in(folder) < tables:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "mlflow.db").exists()  # half made, it stands elsewhere
    assert open_mlflow(settings).search_experiments()
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".lock" and p.name != ".lock") == ["mlflow.db"]

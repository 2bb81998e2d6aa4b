"""What tasks' processes inherit: the steps' modules, and no thread that a fork would lose."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from airflow.executors.local_executor import LocalExecutor

from core.forks import hidden
from core.settings import ROOT, load_settings
from operations.preload import MODULES
from operations.preloading_executor import PreloadingLocalExecutor
from operations.services import airflow_environment

pytestmark = pytest.mark.slow

CHILD = """
import json, os, sys, threading
import operations.preload
pid = os.fork()
if pid == 0:  # as a task: everything is imported, and what has threads works
    import polars, torch
    assert polars.DataFrame({"a": [2, 1]}).sort("a")["a"].to_list() == [1, 2]
    assert torch.ones(1000, 1000).sum() == 1e6
    import duckdb
    assert duckdb.sql("SELECT sum(range) FROM range(100000)").fetchall() == [(4999950000,)]
    os._exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
threads = [open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")]
print(json.dumps({"modules": sorted(sys.modules), "status": status, "python": threading.active_count(), "threads": threads,
    "feast": sys.modules["feast"].Entity.__init__.__code__.co_names}))
"""


def test_a_fork_finds_the_steps_and_works() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["status"] == 0, done.stderr
    assert set(MODULES) <= set(seen["modules"])
    assert not {"polars", "sklearn"} & set(seen["modules"])
    assert "check_argument_types" not in seen["feast"]
    assert seen["python"] == 1
    assert not [t for t in seen["threads"] if "polars" in t]


@pytest.mark.skipif(importlib.util.find_spec("torchrec") is None, reason="needs the extra 'distributed'")
def test_the_server_of_processes_that_train_together_can_import_what_they_need() -> None:
    """A module that wants Polars while it is imported would leave each process to import everything by itself."""
    program = """
import sys, threading
from pipeline.rank_imports import MODULES
assert set(MODULES) <= set(sys.modules) and "polars" not in sys.modules and threading.active_count() == 1
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_hidden_module_can_be_imported_afterwards() -> None:
    sys.modules.pop("colorsys", None)
    with hidden("colorsys"):
        try:
            import colorsys
        except ImportError:
            missing = True
        else:
            missing = False
    import colorsys

    assert missing
    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)


def test_airflow_runs_the_executor_that_preloads() -> None:
    path = airflow_environment(load_settings())["AIRFLOW__CORE__EXECUTOR"]
    assert path == f"{PreloadingLocalExecutor.__module__}.{PreloadingLocalExecutor.__name__}"
    assert issubclass(PreloadingLocalExecutor, LocalExecutor)

"""An hour of benches that is interrupted keeps what it measured and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.result import Result
from benchmarks.runner import keep
from clock.commands.bench import run_bench
from core.errors import ConfigError
from core.settings import ROOT

# A quick bench, then one that starts a shell and its child, as Spark's launcher does, and a process whose parent ends.
RUN = """
import subprocess, sys, time
from pathlib import Path
from benchmarks.result import Result
from benchmarks.runner import run_benches

folder = Path(sys.argv[1])

def quick(scale):
    return [Result("quick", scale, "s", "nothing", 1.0, 1.0)]

def endless(scale):
    subprocess.run(["bash", "-c", "setsid sleep 600 > /dev/null & echo $! > orphan"], cwd=folder, check=True)
    shell = subprocess.Popen(["bash", "-c", "trap '' INT; sleep 600 & echo $! > child; mv child started; wait"], cwd=folder)
    while True:
        time.sleep(0.1)

run_benches({"quick": quick, "endless": endless}, ["quick", "endless"], 0.5, folder / "results.json", print)
"""


def result(name: str, value: float) -> Result:
    return Result(name, value, "s", "nothing", 1.0, 1.0)


def test_a_result_takes_the_place_of_its_name_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "results.json"
    keep(path, [result("a", 1), result("b", 2)])
    keep(path, [result("a", 3)])
    assert {known["name"]: known["value"] for known in json.loads(path.read_text())} == {"a": 3, "b": 2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_that_was_started_and_keeps_the_results(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT, env={**os.environ})
    started, deadline = tmp_path / "started", time.monotonic() + 60
    while not started.exists():
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    grandchild = psutil.Process(int(started.read_text()))
    orphan = psutil.Process(int((tmp_path / "orphan").read_text()))
    shell = grandchild.parent()
    assert shell is not None
    assert grandchild.is_running()
    assert orphan.is_running()
    assert shell.ppid() == run.pid
    assert [known["name"] for known in json.loads((tmp_path / "results.json").read_text())] == ["quick"]
    run.send_signal(number)
    assert run.wait(40) == 128 + number
    for process in (shell, grandchild, orphan):
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert [known["name"] for known in json.loads((tmp_path / "results.json").read_text())] == ["quick"]


def test_a_bench_says_which_library_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests.servers", None)  # as in an installation for users, where it lacks pytest
    with pytest.raises(ConfigError, match=r"the bench online_write needs tests\.servers, which 'make dev' installs"):
        run_bench("online_write", 0.01)

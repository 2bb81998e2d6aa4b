"""``clock serve``: what a person may get wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.cli import EXIT_RETRY
from core.ports import free_port
from core.settings import ROOT
from tests import forked

pytestmark = pytest.mark.slow


def run(var: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CLOCK_VAR": str(var), "PYTHONPATH": str(ROOT), **extra}
    return forked.run("serving", *arguments, environment=environment)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--workers", "0"), "at least 1"),
        (("run", "--host", ""), "--host is empty"),
        (("run", "--port", "70000"), "cannot listen on 127.0.0.1:70000: a port is from 0 to 65535"),
        (("replay", "yesterday"), "is not an hour"),
        (("replay", "2026-03-18T10"), "no requests are logged"),
        (("stop", "../x"), "no experiment '../x'"),
        (("resume", "arms"), "arms is not stopped"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(tmp_path, "run", "--port", str(port))
    assert done.stderr.splitlines()[-1] == (
        f"error: cannot listen on 127.0.0.1:{port}: Address already in use; give --port, or set CLOCK_SERVING_PORT"
    )
    assert done.returncode == EXIT_RETRY


def test_the_service_says_where_it_is_and_that_there_is_nothing_to_rank_by_yet(tmp_path: Path) -> None:
    environment = {**os.environ, "CLOCK_VAR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "serving", "run", "--source", "nowhere", "--port", str(port := free_port())]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = [process.stderr.readline() for _ in range(2)]
        process.terminate()  # it is still importing
        try:
            process.wait(60)
        finally:
            process.kill()
    assert f"ranking for 'nowhere' on http://127.0.0.1:{port}" in said[0]
    assert f"{tmp_path / 'nowhere'} does not exist yet" in said[1]


def test_help_and_wrong_settings(tmp_path: Path) -> None:
    assert "replay" in run(tmp_path, "--help").stdout
    done = run(tmp_path, "run", CLOCK_SERVING_QUEUE="0")
    assert "CLOCK_SERVING_QUEUE" in done.stderr
    assert "Traceback" not in done.stderr

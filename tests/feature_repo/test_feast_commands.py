"""Feast's own command line in the feature repository's folder, on a separate workspace."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.settings import ROOT, Settings, load_settings
from feature_repo.materialization import advance
from feature_repo.schemas import view_schemas
from tests.conftest import TINY

pytestmark = pytest.mark.slow

FEAST = Path(sys.executable).with_name("feast")
UNTIL = TINY.first_hour + 30


@pytest.fixture(scope="module")
def project(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``feature_repo`` and the default workspace beside it, as in a checkout."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "feature_repo").mkdir()
    for name in ("feature_store.yaml", "definitions.py", ".feastignore"):
        shutil.copy(ROOT / "feature_repo" / name, folder / "feature_repo")
    settings = load_settings(var=folder / "var", source="simulator")
    shutil.copytree(app_settings.events_dir, settings.events_dir)
    advance(settings, UNTIL)
    return folder


def environment(project: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CLOCK_")}
    return {**plain, "CLOCK_VAR": str(project / "var"), "PYTHONPATH": str(ROOT)}


IN_TURN = """
import json, os, sys
from feast.cli.cli import cli
answers = []
for arguments, folder, environment in json.load(sys.stdin):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        for output in (1, 2):
            os.dup2(writer, output)
        os.close(writer)
        os.chdir(folder)
        os.environ.update(environment)
        cli(arguments)
    os.close(writer)
    text = open(reader).read()
    answers.append((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text))
print(json.dumps(answers))
"""
"""Runs commands one after the other, each in a fork: to import Feast's command line takes longer than what they do."""


@dataclass(frozen=True)
class Answer:
    """What a command ended with, and printed."""

    returncode: int
    output: str


@dataclass(frozen=True)
class Answers:
    """Of the commands that are run on the project, in this order."""

    views: Answer
    apply: Answer
    services: Answer
    apply_elsewhere: Answer


@pytest.fixture(scope="module")
def answers(project: Path) -> Answers:
    in_folder, elsewhere = str(project / "feature_repo"), {"CLOCK_VAR": str(project / "elsewhere")}
    commands = [
        (["-c", "feature_repo", "feature-views", "list"], str(project), {}),
        (["apply"], in_folder, {}),
        (["-c", "feature_repo", "feature-services", "list"], str(project), {}),
        (["-c", "feature_repo", "apply"], str(project), elsewhere),
    ]
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN], input=json.dumps(commands), cwd=project, env=environment(project),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return Answers(*(Answer(*answer) for answer in json.loads(done.stdout.splitlines()[-1])))


def test_feast_lists_and_applies_the_views_and_the_platform_goes_on_to_read_them(
    project: Path, answers: Answers
) -> None:
    assert answers.views.returncode == 0, answers.views.output[-2000:]
    for view in (*view_schemas(["genre"], whole_days=False), "clock", "user_history"):
        assert view in answers.views.output
    assert answers.apply.returncode == 0, answers.apply.output[-2000:]
    services = answers.services.output
    assert all(service in services for service in ("training_set", "ranking", "cold_start"))
    assert "ranker_" not in services
    assert advance(load_settings(var=project / "var", source="simulator"), UNTIL + 1).online_rows > 0


def test_feast_apply_for_another_workspace_names_the_folder_to_use(answers: Answers) -> None:
    assert answers.apply_elsewhere.returncode != 0
    assert "feature_store.yaml is not that of" in answers.apply_elsewhere.output


def test_feast_ui_serves_the_repository(project: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [FEAST, "-c", "feature_repo", "ui", "--host", "127.0.0.1", "--port", str(port)],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    assert b"Feast" in answer.read()
                break
            except OSError:
                assert time.monotonic() < deadline, "feast ui did not answer"
                time.sleep(0.5)
    finally:
        process.terminate()
        process.wait(30)

"""Feast's own command line in the feature repository's folder, on a separate workspace."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from core.settings import ROOT, Settings, load_settings
from feature_repo.retrieval import advance
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


def feast(project: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FEAST, *arguments],
        cwd=cwd or project,
        env=environment(project),
        capture_output=True,
        text=True,
        check=False,
    )


def test_feast_lists_and_applies_the_views_and_the_platform_goes_on_to_read_them(project: Path) -> None:
    listed = feast(project, "-c", "feature_repo", "feature-views", "list")
    assert listed.returncode == 0, listed.stderr[-2000:]
    for view in (*view_schemas(["genre"]), "clock", "user_history"):
        assert view in listed.stdout
    applied = feast(project, "apply", cwd=project / "feature_repo")
    assert applied.returncode == 0, applied.stderr[-2000:]
    services = feast(project, "-c", "feature_repo", "feature-services", "list").stdout
    assert all(service in services for service in ("training_set", "ranking", "cold_start"))
    assert "ranker_" not in services
    assert advance(load_settings(var=project / "var", source="simulator"), UNTIL + 1).online_rows > 0


def test_feast_apply_for_another_workspace_names_the_folder_to_use(project: Path) -> None:
    (project / "var" / "other").mkdir(exist_ok=True)
    done = subprocess.run(
        [FEAST, "-c", "feature_repo", "apply"],
        cwd=project,
        env={**environment(project), "CLOCK_VAR": str(project / "elsewhere")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "feature_store.yaml is not that of" in done.stdout + done.stderr


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

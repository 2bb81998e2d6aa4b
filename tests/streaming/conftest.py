"""A small workspace with clocks, two trained variants and a champion, made once; and the rows of the hour that runs then."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from core.settings import Settings
from simulation.config import SimulatorConfig
from simulation.log import AppLog
from simulation.workspace import app_config
from tests.trained import copy_of, trained_workspace

APP = SimulatorConfig(days=4, users=300, items=80, experiment={"start_day": 2})
UNTIL = APP.first_hour + 62  # an hour in which nobody and nothing is new
BATCH = 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Trained up to ``UNTIL``; the champion is ours, the challenger the hour embedding. Tests must not change it."""
    ranker = f"batch_size: {BATCH}\n"  # the app's hours fill no larger ones
    return trained_workspace(tmp_path_factory.mktemp("lane") / "var", APP, UNTIL, ranker)


@pytest.fixture
def served(trained: Settings, tmp_path: Path) -> Settings:
    """A copy of the trained workspace that a test may change, whose lane trains at every look."""
    return copy_of(trained, tmp_path, streaming_train=True, streaming_train_seconds=0.1)


@pytest.fixture(scope="module")
def rows(trained: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Header and rows of the hour from ``UNTIL`` on, as the app writes them."""
    root = tmp_path_factory.mktemp("rows") / "app"
    AppLog(app_config(trained), root, served=True).write_hours(UNTIL, UNTIL + 1)
    (file,) = (root / "log").glob("*.csv.gz")
    return gzip.decompress(file.read_bytes()).splitlines(keepends=True)

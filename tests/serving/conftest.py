"""A small workspace with clocks, two trained variants and a champion, made once; each test that changes it copies it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import Settings
from simulation.config import SimulatorConfig
from tests.trained import copy_of, trained_workspace

APP = SimulatorConfig(days=4, users=120, items=80, experiment={"start_day": 2})
UNTIL = APP.first_hour + 60


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Trained up to ``UNTIL``; the champion is ours, the challenger the hour embedding. Tests must not change it."""
    return trained_workspace(tmp_path_factory.mktemp("serving") / "var", APP, UNTIL)


@pytest.fixture
def served(trained: Settings, tmp_path: Path) -> Settings:
    """A copy of the trained workspace that a test may change."""
    return copy_of(trained, tmp_path)

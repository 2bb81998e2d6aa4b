"""A small workspace with clocks, two trained variants and a champion, made once; each test that changes it copies it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import Settings, load_settings
from model_registry.registry import CHALLENGER, CHAMPION
from model_registry.store import open_registry
from pipeline.history import build_history
from pipeline.source import save_app_source
from simulation.config import SimulatorConfig
from tests.conftest import copy_var, place_tracking_store, write_app

VARIANTS = ("hour_embedding", "matched_clock")
APP = SimulatorConfig(days=4, users=120, items=80, experiment={"start_day": 2})
UNTIL = APP.first_hour + 60


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Trained up to ``UNTIL``; the champion is ours, the challenger the hour embedding. Tests must not change it."""
    settings = load_settings(var=tmp_path_factory.mktemp("serving") / "var", source="simulator", variants=VARIANTS)
    write_app(settings.workspace, APP)
    place_tracking_store(settings)
    save_app_source(settings)
    build_history(settings, UNTIL)
    models = open_registry(settings)
    for alias, variant in ((CHAMPION, "matched_clock"), (CHALLENGER, "hour_embedding")):
        version = models.newest(variant, UNTIL.key)
        assert version is not None
        models.move(alias, version, "for the tests of serving")
    return settings


def copy_of(trained: Settings, folder: Path) -> Settings:
    """A copy of the trained workspace below a folder."""
    copy_var(trained.var, folder / "var")
    patient = {"serving_feature_ms": 5_000}  # a busy machine is not what these tests are about
    settings = load_settings(**{**trained.model_dump(exclude_unset=True), **patient, "var": folder / "var"})
    save_app_source(settings)
    return settings


@pytest.fixture
def served(trained: Settings, tmp_path: Path) -> Settings:
    """A copy of the trained workspace that a test may change."""
    return copy_of(trained, tmp_path)

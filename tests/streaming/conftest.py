"""A small workspace with clocks, two trained variants and a champion, made once; and the rows of the hour that runs then."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from core.settings import Settings, load_settings
from model_registry.registry import CHALLENGER, CHAMPION
from model_registry.store import open_registry
from pipeline.history import build_history
from pipeline.source import save_app_source
from simulation.config import SimulatorConfig
from simulation.log import AppLog
from simulation.workspace import app_config
from tests.conftest import copy_var, place_tracking_store, write_app

VARIANTS = ("hour_embedding", "matched_clock")
APP = SimulatorConfig(days=4, users=300, items=80, experiment={"start_day": 2})
UNTIL = APP.first_hour + 60
BATCH = 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Trained up to ``UNTIL``; the champion is ours, the challenger the hour embedding. Tests must not change it."""
    settings = load_settings(var=tmp_path_factory.mktemp("lane") / "var", source="simulator", variants=VARIANTS)
    write_app(settings.workspace, APP)
    (settings.workspace / "ranker.yaml").write_text(f"batch_size: {BATCH}\n")  # the app's hours fill no larger ones
    place_tracking_store(settings)
    save_app_source(settings)
    build_history(settings, UNTIL)
    models = open_registry(settings)
    for alias, variant in ((CHAMPION, "matched_clock"), (CHALLENGER, "hour_embedding")):
        version = models.newest(variant, UNTIL.key)
        assert version is not None
        models.move(alias, version, "for the tests of the lane")
    return settings


@pytest.fixture
def served(trained: Settings, tmp_path: Path) -> Settings:
    """A copy of the trained workspace that a test may change, whose lane trains at every look."""
    copy_var(trained.var, tmp_path / "var")
    changes = {"var": tmp_path / "var", "streaming_train": True, "streaming_train_seconds": 0.1}
    settings = load_settings(**{**trained.model_dump(exclude_unset=True), **changes, "serving_feature_ms": 5_000})
    save_app_source(settings)
    return settings


@pytest.fixture(scope="module")
def rows(trained: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Header and rows of the hour from ``UNTIL`` on, as the app writes them."""
    root = tmp_path_factory.mktemp("rows") / "app"
    AppLog(app_config(trained), root, served=True).write_hours(UNTIL, UNTIL + 1)
    (file,) = (root / "log").glob("*.csv.gz")
    return gzip.decompress(file.read_bytes()).splitlines(keepends=True)

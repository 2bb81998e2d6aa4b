"""Workspaces with trained rankers that serve, and copies of them that a test may change."""

from __future__ import annotations

from pathlib import Path

from core.hours import Hour
from core.settings import Settings, load_settings
from model_registry.registry import CHALLENGER, CHAMPION
from model_registry.store import open_registry
from pipeline.history import build_history
from pipeline.source import save_app_source
from simulation.config import SimulatorConfig
from tests.conftest import copy_var, place_tracking_store, write_app

VARIANTS = ("hour_embedding", "matched_clock")


def trained_workspace(var: Path, app: SimulatorConfig, until: Hour, ranker: str = "") -> Settings:
    """A simulated app's history up to an hour; the champion is ours, the challenger the hour embedding.

    Args:
        var: folder of the run-time state.
        app: the app.
        until: hour before which everything is trained on.
        ranker: content of the workspace's ``ranker.yaml``; empty: none.
    """
    settings = load_settings(var=var, source="simulator", variants=VARIANTS)
    write_app(settings.workspace, app)
    if ranker:
        (settings.workspace / "ranker.yaml").write_text(ranker)
    place_tracking_store(settings)
    save_app_source(settings)
    build_history(settings, until)
    models = open_registry(settings)
    for alias, variant in ((CHAMPION, "matched_clock"), (CHALLENGER, "hour_embedding")):
        version = models.newest(variant, until.key)
        assert version is not None
        models.move(alias, version, "for the tests")
    return settings


def copy_of(trained: Settings, folder: Path, **changes: object) -> Settings:
    """A copy of a trained workspace below a folder, with settings that differ."""
    copy_var(trained.var, folder / "var")
    patient = {"serving_feature_ms": 5_000}  # a busy machine is not what these tests are about
    settings = load_settings(**{**trained.model_dump(exclude_unset=True), **patient, **changes, "var": folder / "var"})
    save_app_source(settings)
    return settings

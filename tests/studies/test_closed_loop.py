"""Simulated worlds with frozen rankers, and the two studies on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from closed_loop import worlds
from core.files import read_json
from core.settings import Settings, load_settings
from studies import closed_loop, offline_online

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Tiny worlds: two days of history, one day of experiment, few people."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "SIZE", {"users": 80, "items": 60, "ids": "number", "daily_activity": 0.8})
        patch.setattr(worlds, "DAYS", 1)
        patch.setattr(worlds, "HISTORY_DAYS", 2)
        patch.setattr(worlds, "OFFLINE_DAYS", 1)
        patch.setattr(closed_loop, "ARMS", ("hour_embedding", "gaussian_clock"))
        patch.setattr(offline_online, "VARIANTS", ("none", "gaussian_clock"))
        yield load_settings(var=tmp_path_factory.mktemp("worlds") / "var")


def test_a_run_is_repeatable_and_its_luck_changes_it(settings: Settings) -> None:
    world = worlds.FrozenModelWorld(settings, 0, closed_loop.ARMS)
    one, again, other = world.run("gaussian_clock", 1), world.run("gaussian_clock", 1), world.run("gaussian_clock", 2)
    assert np.array_equal(one.values["duration_hours"], again.values["duration_hours"])
    assert not np.array_equal(one.values["duration_hours"], other.values["duration_hours"])
    assert one.exposed.sum() > 30
    assert set(world.offline) == set(closed_loop.ARMS)


def test_coverage_is_counted_and_a_second_run_computes_nothing(settings: Settings) -> None:
    conclusion, page = closed_loop.run(settings, replications=4, worlds=1)
    results = read_json(Path(page).parent / "results.json")
    assert results["runs"] == 4
    for metric in closed_loop.METRICS:
        for method in ("welch", "cuped"):
            assert 0 <= results[metric][method]["covered"] <= results[metric][method]["of"] == 4
        assert results[metric]["truth"]["lowest"] <= results[metric]["truth"]["mean"]
    assert "of 4" in conclusion
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds.FrozenModelWorld, "run", None)
        assert closed_loop.run(settings, replications=4, worlds=1)[0] == conclusion


def test_the_orders_are_compared(settings: Settings) -> None:
    conclusion, page = offline_online.run(settings, worlds=1)
    results = read_json(Path(page).parent / "results.json")
    assert "Kendall" in conclusion
    assert set(results["means"]) == {"none", "gaussian_clock"}
    assert results["means"]["none"]["duration_hours"] == 0
    assert {abs(t[0]) for t in results["tau"].values()} == {1.0}

"""What the ranking service and ``clock ab assign`` say of a user agrees at every moment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ab_analysis.assignment import assign_users, concurrent_holdouts
from ab_analysis.experiment import load_named
from core.settings import Settings, load_settings
from serving.routing import load_routes, named_models, stop_experiment

USERS = [f"u{n}" for n in range(400)]
DAYS = (("2026-03-02", "2026-03-20"), ("2026-03-02", "2026-03-09"), ("2026-03-02", "2026-03-10"), ("2026-03-12", "2026-03-25"),
        ("2026-03-14", "2026-03-25"), ("2026-03-15", "2026-03-25"), ("2026-03-11", None))  # fmt: skip
"""First and last days of experiments around the holdout, which runs from the 10th to the 14th."""


def write(settings: Settings, name: str, **keys: Any) -> None:
    settings.experiments_dir.mkdir(parents=True, exist_ok=True)
    content = {
        "name": name,
        "variants": {"a": 0.3, "b": 0.7},
        "control": "a",
        **{k: v for k, v in keys.items() if v is not None},
    }
    (settings.experiments_dir / f"{name}.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(params=DAYS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A workspace with an experiment on some days, and a holdout that begins in the middle of a day."""
    settings = load_settings(var=tmp_path, source="app")
    first, last = request.param
    write(settings, "ranking", start=first, end=last, models={"a": "champion", "b": "challenger"})
    write(settings, "all", start="2026-03-10T06:00:00", end="2026-03-14", holdout=True)
    return settings


def moments() -> Iterator[datetime]:
    first = datetime.fromisoformat("2026-03-01T23:30:00+00:00")
    return (first + timedelta(hours=n) for n in range(24 * 27))


def check_agreement(settings: Settings) -> tuple[int, int]:
    """Compare both at every half past an hour; moments at which users met the experiment, and at which they met the holdout."""
    routes, problems = load_routes(settings)
    assert not problems
    experiment = load_named(settings.experiments_dir, "ranking")
    assigned = dict(zip(USERS, assign_users(experiment, USERS, concurrent_holdouts(settings, experiment)), strict=True))
    met, beside = 0, 0
    for at in moments():
        exposures = [dict(route.exposures) for route in routes.of(USERS, at)]
        beside += any("all" in of_user for of_user in exposures)
        served = {user: of_user.get("ranking") for user, of_user in zip(USERS, exposures, strict=True)}
        runs = experiment.start_time <= at and (experiment.end_hour is None or at < experiment.end_hour.start)
        assert served == (assigned if runs else dict.fromkeys(USERS)), at
        met += any(served.values())
    return met, beside


def test_a_user_has_one_variant_on_all_days_of_an_experiment_in_the_service_and_in_assign(settings: Settings) -> None:
    met, beside = check_agreement(settings)
    assert met >= 8 * 24
    assert beside == 4 * 24 + 18
    begun = datetime.fromisoformat("2026-03-10T06:30:00+00:00")
    exposures = [route.exposures for route in load_routes(settings)[0].of(USERS, begun)]
    held_out = [of_user for of_user in exposures if of_user[-1] == ("all", "a")]
    assert 80 < len(held_out) < 160
    assert all(len(of_user) == 1 for of_user in held_out)


def test_they_agree_when_the_holdout_was_stopped_in_the_service(settings: Settings) -> None:
    assert stop_experiment(settings, "all", "the quarter is over")
    met, beside = check_agreement(settings)
    assert met >= 8 * 24
    assert beside == 0


def test_a_damaged_mark_of_a_stop_keeps_nobody_from_being_ranked_for(settings: Settings) -> None:
    """As a power cut leaves it: it counts as a stop, and is said."""
    assert stop_experiment(settings, "ranking", "harm")
    (settings.workspace / "serving" / "stopped" / "ranking.json").write_text("")
    routes, problems = load_routes(settings)
    assert routes.names == {"all"}
    assert list(problems) == ["experiment ranking"]
    assert "is damaged" in problems["experiment ranking"]


def test_the_models_of_an_experiment_that_is_over_are_not_kept_in_memory(settings: Settings) -> None:
    routes, _ = load_routes(settings)
    end = load_named(settings.experiments_dir, "ranking").end_hour
    last = (end.start if end else datetime.fromisoformat("2200-01-01T00:00:00+00:00")) - timedelta(seconds=1)
    assert routes.models(last) == {"champion", "challenger"}
    assert routes.models(last + timedelta(seconds=1)) == ({"champion"} if end else {"champion", "challenger"})


def test_every_model_that_a_file_names_is_known_also_where_the_file_is_wrong(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path, source="app", serving_shadow="version:7")
    write(settings, "ranking", start="2026-03-02", models={"a": "champion", "b": "version:12"})
    write(settings, "over", start="2026-01-02", end="2026-01-03", models={"a": "hour_embedding", "b": "candidate"})
    write(settings, "wrong", start="soon", models={"a": "champion", "b": "version:3"})
    assert stop_experiment(settings, "ranking", "it may go on tomorrow")
    expected = {"version:7", "champion", "version:12", "hour_embedding", "candidate", "version:3"}
    assert named_models(settings) == expected

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.errors import ConfigError
from core.hours import Hour
from core.settings import Settings
from events.log_files import part_of
from events.store import EventStore
from simulation.app import App
from simulation.config import load_config
from simulation.log import AppLog
from simulation.truth import attainable_auc, experiment_truth
from tests.conftest import TINY


def test_any_hour_of_the_log_can_be_written_by_itself(tmp_path: Path) -> None:
    hour = TINY.first_hour + 40
    AppLog(TINY, tmp_path / "all").write_hours(TINY.first_hour, TINY.end_hour)
    AppLog(TINY, tmp_path / "one").write_hours(hour, hour + 1)
    files = [tmp_path / part / "log" / f"{hour.key}.csv.gz" for part in ("all", "one")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("hour", [TINY.first_hour - 80, TINY.first_hour - 20, TINY.end_hour + 30, TINY.end_hour + 80])
def test_an_hour_long_before_or_after_the_app_has_a_log_without_rows(tmp_path: Path, hour: Hour) -> None:
    (path,) = AppLog(TINY, tmp_path).write_hours(hour, hour + 1)
    assert gzip.decompress(path.read_bytes()).decode().startswith("event,uid,track")
    assert len(pd.read_csv(path)) == 0


def test_the_log_passes_ingestion_with_its_dirt_accounted_for(app_settings: Settings, app_events: EventStore) -> None:
    manifests = app_events.manifests()
    rejected = {reason for m in manifests for reason in m.rejected}
    assert sum(m.rows for m in manifests) > 1000
    assert rejected == {"negative_duration", "missing_user_id"}
    assert sum(m.duplicates for m in manifests) > 0
    assert sum(m.exposures for m in manifests) > 0


def test_tastes_follow_the_hour_of_day() -> None:
    app = App(TINY)
    user, item = np.zeros(80, dtype=int), np.arange(80)
    morning, evening = (app.taste(user, item, np.full(80, h), day=0) for h in (8.0, 22.0))
    assert np.abs(morning - evening).max() > 0.5
    assert attainable_auc(TINY) > 0.65


def test_the_experiment_lifts_duration_on_the_same_draws() -> None:
    truth = experiment_truth(TINY.model_copy(update={"users": 400}), TINY.end_hour)
    assert truth["duration_hours"]["rel_effect"] > 0
    assert truth["active_days"]["rel_effect"] >= 0


def test_a_wrong_config_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("users: -3\nzones: {Mars/Base: 1}\n")
    with pytest.raises(ConfigError, match=r"(?s)users.*zones"):
        load_config(path)


def test_an_hour_that_is_played_has_the_rows_of_its_file(tmp_path: Path) -> None:
    log = AppLog(TINY, tmp_path)
    hour = TINY.first_hour + 36
    counts = list(log.play_hour(hour, 0.5))
    part = part_of(log.log_file(hour))
    played = part.read_bytes()
    assert counts == sorted(counts)
    assert counts[-1] == len(played.splitlines()) - 1 > 10
    log.write_hours(hour, hour + 1)
    assert gzip.decompress(log.log_file(hour).read_bytes()) == played
    assert not part.exists()


def test_the_order_of_the_zones_in_a_config_changes_nothing() -> None:
    zones = {"Asia/Shanghai": 0.5, "Europe/Berlin": 0.25, "America/New_York": 0.25}
    apps = [App(TINY.model_copy(update={"zones": dict(order)})) for order in (zones.items(), reversed(zones.items()))]
    names = [[app.zone_names[zone] for zone in app.zone] for app in apps]
    assert names[0] == names[1]
    assert {name: round(names[0].count(name) / len(names[0]), 1) for name in zones} == pytest.approx(zones, abs=0.1)


def test_the_zones_of_the_built_in_app_stand_in_the_order_of_their_shares() -> None:
    assert App(TINY).zone_names == list(TINY.zones)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zones: {}", "zones: no time zone"),
        ("zones: {Asia/Tokyo: 0}", "the share of Asia/Tokyo is 0"),
        ("zones: {Asia/Tokyo: -1, Asia/Shanghai: 1}", "the share of Asia/Tokyo is -1"),
        ("zones: {Asia/Tokyo: .nan}", "Asia/Tokyo"),
        ("seed: 100000000000000000000000", "seed"),
        ("start: 9999-12-30", "start"),
    ],
)
def test_an_app_that_cannot_be_simulated_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "app.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=said):
        load_config(tmp_path / "app.yaml")

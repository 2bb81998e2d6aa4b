"""The drift report of a workspace whose last day is not over."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import NotReadyError
from core.files import read_json, write_json
from core.hours import Hour
from core.settings import Settings, load_settings
from events.store import EventStore
from pipeline.reports import report_drift
from tests.conftest import TINY

pytestmark = pytest.mark.slow

LAST_DAY = (TINY.end_hour - 1).day


@pytest.fixture
def morning(app_settings: Settings, tmp_path: Path) -> Settings:
    """The tiny app's events, up to 10:00 UTC of the last day."""
    settings = load_settings(var=tmp_path / "var", source="simulator", mlflow_uri="")
    settings.events_dir.mkdir(parents=True)
    end = Hour.of_day(LAST_DAY) + 10
    for path in app_settings.events_dir.iterdir():
        if not path.name.startswith("hour=") or Hour.parse(path.name.removeprefix("hour=")) < end:
            (settings.events_dir / path.name).symlink_to(path)
    return settings


def test_a_day_that_is_not_over_is_compared_with_the_same_hours_of_the_days_before(morning: Settings) -> None:
    drift = report_drift(morning, LAST_DAY)
    store = EventStore(morning.events_dir)
    hours = [h for h in store.hours() if h.number % 24 < 10]
    assert drift.rows == sum(store.manifest(h).rows for h in hours if h.day == LAST_DAY)
    assert drift.reference_rows == sum(store.manifest(h).rows for h in hours if h.day < LAST_DAY)


def test_context_that_the_log_began_to_tell_is_not_compared_on_its_first_day(morning: Settings) -> None:
    store = EventStore(morning.events_dir)
    for hour in [h for h in store.hours() if h.day == LAST_DAY]:
        partition = store.partition(hour)
        original = partition.resolve()
        partition.unlink()
        shutil.copytree(original, partition)
        events = pq.read_table(partition / "events.parquet")
        tab = pa.array(["feed", "search"] * events.num_rows)[: events.num_rows]
        pq.write_table(events.append_column("tab", tab), partition / "events.parquet")
    source = morning.events_dir / "source.json"
    content = read_json(source)
    source.unlink()
    write_json(source, {**content, "context": ["tab"]})
    assert EventStore(morning.events_dir).source.categories == ("tab",)
    drift = report_drift(morning, LAST_DAY)
    assert drift.columns > 0
    assert ">tab<" not in Path(drift.html).read_text()


def test_a_day_without_events_has_no_report(morning: Settings) -> None:
    with pytest.raises(NotReadyError, match="no events"):
        report_drift(morning, date(2027, 1, 1))

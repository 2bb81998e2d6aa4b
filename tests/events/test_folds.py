"""Times that a zone's clock showed twice or never, wherever a mapping reads a moment."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError
from core.settings import load_settings
from events.ingest import last_moment
from events.log_paths import LogPaths
from events.store import EventStore
from tests.events.logs import HEADER, Log, rows

TWICE, NEVER = "2026-10-25 02:30:00", "2026-03-29 02:30:00"
"""In Berlin: at 00:30 and at 01:30 UTC; and no time at all, 01:30 UTC by the offset before the change."""
RULE = "zone: Europe/Berlin, fold: "
BEFORE_CHANGE = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
FOLDS = [("first", 0), ("second", 1), ("reject", None)]


def told(caplog: pytest.LogCaptureFixture, key: str, fold: str, rejected: str) -> bool:
    """Whether both kinds of unclear times were warned about."""
    now = f"{fold}, {rejected}" if fold == "reject" else fold
    never = rejected if fold == "reject" else "they count by the offset before the change"
    return all(
        f"{key}: 1 times {said}" in caplog.text
        for said in (
            f"were shown twice by the clocks of Europe/Berlin; fold says which is meant (now: {now})",
            f"never were on the clocks of Europe/Berlin; {never}",
        )
    )


@pytest.mark.parametrize(("fold", "hour"), FOLDS)
def test_exposures_go_by_their_own_rule(
    log: Log, caplog: pytest.LogCaptureFixture, fold: str, hour: int | None
) -> None:
    log.write(HEADER + rows(2))
    log.write(f"experiment,variant,uid,at\ne,a,u0,{TWICE}\ne,a,u1,{NEVER}\ne,a,u1,soon\n", "exposures.csv")
    account = log.ingest(
        exposures=f"exposures: {{path: exposures.csv, user_id: uid, timestamp: {{column: at, {RULE}{fold}}}}}"
    )
    store = EventStore(log.settings.events_dir)
    times = {
        time
        for path in store.root.glob("hour=*/exposures.parquet")
        for time in pq.read_table(path)["timestamp"].to_pylist()
    }
    if hour is None:
        assert (times, account.exposures) == (set(), 0)
        assert account.exposure_reasons == {"ambiguous_local_time": 1, "bad_timestamp": 1, "skipped_local_time": 1}
    else:
        assert times == {datetime(2026, 10, 25, hour, 30, tzinfo=UTC), BEFORE_CHANGE}
        assert account.exposure_reasons == {"bad_timestamp": 1}
    assert told(caplog, "exposures.timestamp", fold, "they count for nothing")


def attributes(log: Log, owner: str) -> list[dict[str, object]]:
    path = EventStore(log.settings.events_dir).attribute_file(owner)  # type: ignore[arg-type]
    return pq.read_table(path).to_pylist() if path.exists() else []


@pytest.mark.parametrize("owner", ["user", "item"])
@pytest.mark.parametrize(("fold", "hour"), FOLDS)
def test_since_when_a_row_of_a_table_holds_goes_by_its_own_rule(
    log: Log, caplog: pytest.LogCaptureFixture, owner: str, fold: str, hour: int | None
) -> None:
    log.write(HEADER + rows(2))
    log.write(f"id,grade,since\n{owner[0]}0,x,{TWICE}\n{owner[0]}1,y,{NEVER}\n{owner[0]}1,z,2026-07-01\n", "table.csv")
    table = (
        f"{owner}s: {{path: table.csv, key: id, since: {{column: since, {RULE}{fold}}}, attributes: {{grade: grade}}}}"
    )
    log.ingest(items=table)
    held = {row[f"{owner}_grade"]: row["event_timestamp"] for row in attributes(log, owner)}
    expected = {"z": datetime(2026, 6, 30, 22, tzinfo=UTC)}
    if hour is not None:
        expected |= {
            "x": datetime(2026, 10, 25, hour + 1, tzinfo=UTC),
            "y": datetime(2026, 3, 29, 2, tzinfo=UTC),
        }
    assert held == expected
    path = log.folder / "table.csv"
    assert told(caplog, f"{owner}s.since ({path})", fold, "their rows are left out")


@pytest.mark.parametrize(("fold", "hour"), FOLDS)
def test_an_age_goes_by_its_own_rule(log: Log, caplog: pytest.LogCaptureFixture, fold: str, hour: int | None) -> None:
    log.write(HEADER + rows(2))
    log.write(f"id,out\ni0,{TWICE}\ni1,{NEVER}\ni2,soon\n", "items.csv")
    log.ingest(
        items=f"items: {{path: items.csv, key: id, attributes: {{out: {{column: out, type: age, {RULE}{fold}}}}}}}"
    )
    hours = [row["item_out"] for row in attributes(log, "item")]
    start = datetime(1970, 1, 1, tzinfo=UTC)
    moments = [datetime(2026, 10, 25, hour, 30, tzinfo=UTC), BEFORE_CHANGE] if hour is not None else []
    assert [h for h in hours if h is not None] == [(moment - start).total_seconds() / 3600 for moment in moments]
    path = log.folder / "items.csv"
    assert told(caplog, f"items.attributes.out ({path})", fold, "they count as missing")
    assert "1 cells of 'out' are not a time, such as 'soon'" in caplog.text


@pytest.mark.parametrize(("fold", "hour"), FOLDS)
def test_the_last_moment_of_a_log_goes_by_its_rule(log: Log, fold: str, hour: int | None) -> None:
    log.write(HEADER + "u,1,x,2025-10-26 02:30:00\nu,2,x,2025-10-01\n")
    mapping = log.folder / "mapping.yaml"
    log.ingest(timestamp=f"timestamp: {{column: ts, {RULE}{fold}}}")
    moment = last_moment(load_settings(var=log.folder / "var"), str(mapping), LogPaths((str(log.folder / "log.csv"),)))
    assert moment == (
        datetime(2025, 9, 30, 22, tzinfo=UTC) if hour is None else datetime(2025, 10, 26, hour, 30, tzinfo=UTC)
    )


def test_an_option_of_moments_is_refused_where_no_moment_is_read(log: Log) -> None:
    log.write(HEADER + rows(1))
    log.write("id,out\ni0,1\n", "items.csv")
    with pytest.raises(ConfigError, match="fold belongs to the type age, and this is a number"):
        log.ingest(
            items="items: {path: items.csv, key: id, attributes: {out: {column: out, type: number, fold: first}}}"
        )

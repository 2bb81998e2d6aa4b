from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.errors import ConfigError, DataError
from core.hours import Hour
from core.settings import Settings, load_settings
from events.ingest import Account, ingest
from events.store import EventStore
from tests.conftest import NOW, small_log, write_mapping


def run(folder: Path, settings: Settings, frame: pd.DataFrame | str | None = None, **mapping: str) -> Account:
    path = folder / "log.csv"
    if isinstance(frame, str):
        path.write_text(frame)
    elif frame is not None:
        frame.to_csv(path, index=False)
    return ingest(str(write_mapping(folder, **mapping)), [str(path)], settings, now=NOW)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_rows_land_in_their_utc_hours_with_local_time_and_behaviors(tmp_path: Path, settings: Settings) -> None:
    account = run(tmp_path, settings, small_log())
    store = EventStore(settings.events_dir)
    assert (account.rows_in, account.kept, account.hours, account.users, account.items) == (6, 6, 3, 3, 4)
    assert [h.key for h in store.hours()] == ["2026-03-02T08", "2026-03-02T09", "2026-03-02T10"]
    rows = store.read(Hour.parse("2026-03-02T08"), verify=True).to_pylist()
    assert [r["local_time"].hour for r in rows] == [9, 9]
    assert [(r["finish"], r["skip"], r["like"]) for r in rows] == [(False, True, None), (True, False, None)]
    assert account.null_facets == {"genre": 1}


def test_the_same_file_twice_changes_no_byte(tmp_path: Path, settings: Settings) -> None:
    run(tmp_path, settings, small_log())
    events = tree(settings.events_dir)
    again = run(tmp_path, settings, small_log())
    assert (again.kept, again.duplicates, again.changed_hours) == (0, 6, [])
    after = tree(settings.events_dir)
    assert {k: v for k, v in after.items() if "_receipts" not in k} == {
        k: v for k, v in events.items() if "_receipts" not in k
    }


def test_a_bad_row_in_the_middle_is_quarantined_with_reason_and_content(tmp_path: Path, settings: Settings) -> None:
    lines = small_log().to_csv(index=False).splitlines()
    lines.insert(3, "u9,t1,not a time,1,100,rock")
    lines.insert(4, "only,three,cells")
    lines.insert(5, "u9,t1,2026-03-02T09:00:00Z,1,-100,rock")
    account = run(tmp_path, settings, "\n".join(lines) + "\n")
    assert (account.rows_in, account.kept, account.quarantined) == (9, 6, 3)
    assert account.reasons == {"bad_timestamp": 1, "malformed_row": 1, "negative_duration": 1}
    kept = [json.loads(line) for line in Path(str(account.quarantine)).read_text().splitlines()]
    assert {k["reason"]: k["content"] for k in kept}["malformed_row"] == "only,three,cells"
    assert {k["reason"]: k["content"] for k in kept}["bad_timestamp"]["ts"] == "not a time"


def test_times_in_the_future_are_quarantined(tmp_path: Path, settings: Settings) -> None:
    frame = small_log()
    frame.loc[2, "ts"] = (NOW + timedelta(days=1)).isoformat()
    assert run(tmp_path, settings, frame).reasons == {"in_future": 1}


@pytest.mark.parametrize(
    ("content", "mapping", "message"),
    [
        (None, {}, "no such file"),
        ("", {}, "is empty"),
        ("uid,track,ts,played,length,genre\n", {"facets": "facets: {genre: gerne}"}, "did you mean 'genre'"),
        (
            "uid,track,ts,played,length,genre\n",
            {"local_time": "local_time: {zone: Europe/Berlim}"},
            "did you mean 'Europe/Berlin'",
        ),
        (
            "uid,track,ts,played,length,genre\n",
            {"behaviors": "behaviors: {finish: 'played >'}"},
            "cannot read the expression",
        ),
        ("uid,track,ts,played,length,genre\n", {"facets": "facets: {hour: genre}"}, "the platform itself uses"),
        ("uid,track,ts,played,length,genre\n", {"columns": "colums: {}"}, "colums"),
    ],
)
def test_wrong_input_gives_a_clear_error_and_writes_nothing(
    tmp_path: Path, settings: Settings, content: str | None, mapping: dict[str, str], message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        run(tmp_path, settings, content, **mapping)
    assert not EventStore(settings.events_dir).hours()


def test_a_truncated_parquet_and_a_truncated_gzip_are_refused(tmp_path: Path, settings: Settings) -> None:
    whole = tmp_path / "whole.parquet"
    small_log().to_parquet(whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-20])
    packed = gzip.compress(small_log().to_csv(index=False).encode(), mtime=0)
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-12])
    mapping = str(write_mapping(tmp_path))
    for name in ("cut.parquet", "cut.csv.gz"):
        with pytest.raises(DataError, match="cut short"):
            ingest(mapping, [str(tmp_path / name)], settings, now=NOW)
    assert not EventStore(settings.events_dir).hours()


def test_an_unknown_zone_in_a_row_is_quarantined(tmp_path: Path, settings: Settings) -> None:
    frame = small_log().assign(tz=["Europe/Berlin"] * 5 + ["Mars/Base"])
    account = run(tmp_path, settings, frame, local_time="local_time: {zone_column: tz}")
    assert account.reasons == {"unknown_zone": 1}


def test_a_late_hour_lands_in_its_true_hour_and_changes_its_digest(tmp_path: Path, settings: Settings) -> None:
    frame = small_log()
    run(tmp_path, settings, frame.drop(index=4))
    store, hour = EventStore(settings.events_dir), Hour.parse("2026-03-02T10")
    before = store.manifest(hour)
    account = run(tmp_path, settings, frame.loc[[4]])
    assert account.changed_hours == ["2026-03-02T10"]
    assert store.manifest(hour).rows == before.rows + 1
    assert store.manifest(hour).digest != before.digest
    fresh = load_settings(var=tmp_path / "other", source="test")
    run(tmp_path, fresh, frame)
    assert EventStore(fresh.events_dir).manifest(hour).digest == store.manifest(hour).digest


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "jsonl", "jsonl.gz", "csv.gz", "folder"])
def test_every_format_gives_the_same_events(tmp_path: Path, form: str) -> None:
    frame, digests = small_log(40), []
    for kind in ("csv", form):
        settings = load_settings(var=tmp_path / kind, source="test")
        path = tmp_path / f"log.{kind}"
        if kind == "folder":
            path.mkdir()
            for hour, part in frame.groupby(frame.ts.str[:13]):
                part.to_csv(path / f"{hour}.csv", index=False)
        elif kind == "parquet":
            frame.to_parquet(path)
        elif kind.startswith("jsonl"):
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_csv(path, index=False)
        account = ingest(str(write_mapping(tmp_path)), [str(path)], settings, now=NOW)
        assert account.kept == 40
        digests.append([m.digest for m in EventStore(settings.events_dir).manifests()])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("unit", "convert"),
    [
        ("s", lambda t: int(t.timestamp())),
        ("ms", lambda t: int(t.timestamp() * 1000)),
        ("iso", lambda t: t.isoformat()),
    ],
)
def test_epoch_and_iso_times_agree(tmp_path: Path, settings: Settings, unit: str, convert: object) -> None:
    frame = small_log()
    frame["ts"] = [convert(pd.Timestamp(t)) for t in frame.ts]  # type: ignore[operator]
    run(tmp_path, settings, frame, timestamp=f"timestamp: {{column: ts, unit: {unit}}}")
    first = EventStore(settings.events_dir).read(Hour.parse("2026-03-02T08"))["timestamp"][0].as_py()
    assert first.isoformat() == "2026-03-02T08:00:00+00:00"


def test_daylight_saving_is_followed_in_both_directions(tmp_path: Path, settings: Settings) -> None:
    frame = small_log(4)
    frame["ts"] = ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]
    run(tmp_path, settings, frame)
    store = EventStore(settings.events_dir)
    local = [
        store.read(Hour.parse(key))["local_time"][0].as_py().hour
        for key in ("2026-03-29T00", "2026-03-29T01", "2026-10-25T00", "2026-10-25T01")
    ]
    assert local == [1, 3, 2, 2]


def test_facets_may_come_from_an_items_table(tmp_path: Path, settings: Settings) -> None:
    pd.DataFrame({"id": ["t0", "t1"], "m": ["calm", "wild"]}).to_csv(tmp_path / "items.csv", index=False)
    account = run(tmp_path, settings, small_log(), facets="items: {path: items.csv, key: id, facets: {mood: m}}")
    assert account.null_facets == {"mood": 2}


@pytest.mark.parametrize(
    ("log_ids", "table_ids", "moods"),
    [
        (["7.0", "8.0"], ["7", "8"], ["calm", "wild"]),
        (["7", "8"], ["7.0", "8.00"], ["calm", "wild"]),
        (["7", "8"], ["7", "7.0", "8"], ["calm", "late"]),
        (["007", "7"], ["7", "007"], ["wild", "calm"]),
        (["007", "8.0"], ["8", "8.0", "7"], [None, "wild"]),
        (["8.0", "7.0"], ["none", "7", "8"], ["late", "wild"]),
    ],
)
def test_items_of_a_table_are_those_of_the_log_where_one_writes_whole_numbers_as_floats(
    tmp_path: Path, settings: Settings, log_ids: list[str], table_ids: list[str], moods: list[str | None]
) -> None:
    table = pd.DataFrame({"id": table_ids, "m": ["calm", "wild", "late"][: len(table_ids)]})
    table.to_csv(tmp_path / "items.csv", index=False)
    frame = small_log().head(2).assign(track=log_ids)
    run(tmp_path, settings, frame, facets="items: {path: items.csv, key: id, facets: {mood: m}}")
    store = EventStore(settings.events_dir)
    assert [mood for hour in store.hours() for mood in store.read(hour)["mood"].to_pylist()] == moods


@pytest.mark.slow
@given(
    good=st.integers(0, 12),
    bad=st.integers(0, 6),
    again=st.integers(0, 6),
    torn=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_in_equal_kept_plus_duplicates_plus_quarantined(
    tmp_path: Path, good: int, bad: int, again: int, torn: int, seed: int
) -> None:
    frame = small_log(max(good, 1)).head(good)
    lines = frame.to_csv(index=False).splitlines()
    rows = lines[1:]
    rows += rows[:again]
    rows += [f"u1,t1,2026-03-02T10:00:0{n}Z,1,-5,rock" for n in range(bad)] + ["x,y"] * torn
    np.random.default_rng(seed).shuffle(rows)
    settings = load_settings(var=tmp_path / f"{good}-{bad}-{again}-{torn}-{seed}", source="test")
    content = "\n".join([lines[0], *rows]) + "\n"
    if rows and not good:
        with pytest.raises(DataError, match=f"none of the {len(rows)} rows"):
            run(tmp_path, settings, content)
        assert not EventStore(settings.events_dir).hours()
        return
    account = run(tmp_path, settings, content)
    assert (account.kept, account.quarantined) == (good, bad + torn)
    assert account.rows_in == len(rows) == account.kept + account.duplicates + account.quarantined


def test_foursquare_in_both_formats_gives_the_same_check_ins(foursquare_file: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(foursquare_file).head(400)
    frame.to_parquet(tmp_path / "checkins.parquet")
    lines = [
        "\t".join(
            [str(r.user_id), str(r.venue_id), "4bf58", "" if pd.isna(r.category) else r.category, "40.7", "-74.0", "-240",
             r.timestamp.strftime("%a %b %d %H:%M:%S +0000 %Y")]
        )
        for r in frame.itertuples()
    ]  # fmt: skip
    (tmp_path / "dataset_TSMC2014_NYC.txt").write_text("\n".join(lines) + "\n", encoding="latin-1")
    columns = ["event_id", "user_id", "item_id", "timestamp", "local_time", "category", "finish"]
    tables = []
    for mapping, name in (("foursquare", "checkins.parquet"), ("foursquare_tsmc", "dataset_TSMC2014_NYC.txt")):
        settings = load_settings(var=tmp_path / mapping, source="test")
        account = ingest(mapping, [str(tmp_path / name)], settings, now=NOW)
        assert account.rows_in == 400
        assert account.quarantined == 0
        store = EventStore(settings.events_dir)
        tables.append(pd.concat([store.read(h).select(columns).to_pandas() for h in store.hours()], ignore_index=True))
    pd.testing.assert_frame_equal(tables[0], tables[1])

"""What can be ranked: also what the table of items knows and nobody was shown yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.settings import Settings
from events.ingest import ingest
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.retrieval import ClockFeatures
from serving.catalog import Catalog, IdMap, load_catalog
from serving.retrieval import Retrieval
from tests.conftest import NOW
from training.category_keys import facet_keys

MAPPING = """
source: test
columns: {user_id: uid, item_id: iid}
timestamp: {column: ts}
local_time: {zone: UTC}
facets: {mood: mood}
items: {path: items.csv, key: id, facets: {genre: kind}}
behaviors: {finish: done = 1}
"""
HOURS = 3


def catalog_of(settings: Settings) -> Catalog:
    store = EventStore(settings.events_dir)
    until = store.hours()[-1] + 1
    ClockState(settings, store).rebuild(until)
    return load_catalog(settings, ClockFeatures(settings, store), until)


def take_in(settings: Settings, folder: Path, prefix: str, items: str) -> None:
    rows = [
        f"{prefix}{n % 4},{prefix}{n % 6},calm,{n % 2},2026-03-02T{8 + n % HOURS:02d}:{n % 60:02d}:00Z"
        for n in range(60)
    ]
    (folder / "log.csv").write_text("uid,iid,mood,done,ts\n" + "\n".join(rows) + "\n")
    (folder / "items.csv").write_text("id,kind\n" + items)
    (folder / "mapping.yaml").write_text(MAPPING)
    ingest(str(folder / "mapping.yaml"), [str(folder / "log.csv")], settings, now=NOW)


@pytest.mark.parametrize("prefix", ["", "i"])
def test_an_item_that_nobody_was_shown_has_its_facets_and_is_not_looked_for(
    tmp_path: Path, settings: Settings, prefix: str
) -> None:
    shown = "".join(f"{prefix}{n},rock\n" for n in range(6))
    take_in(settings, tmp_path, prefix, shown + f"{prefix}77,jazz\n{prefix}3,folk\n")
    catalog = catalog_of(settings)
    ids = IdMap(EventStore(settings.events_dir), "item")
    ids.refresh()
    new = ids.id_of(f"{prefix}77")
    assert new >= 0
    assert catalog.item.tolist() == sorted(catalog.item.tolist())
    assert catalog.item[~catalog.shown].tolist() == [new]
    (row,) = catalog.rows(np.array([new]))
    assert {name: values[row].as_py() for name, values in catalog.values.items()} == {"mood": None, "genre": "jazz"}
    jazz = facet_keys("genre", catalog.values["genre"])[row]
    assert jazz in catalog.facets_of(np.array([row]))
    assert (catalog.day_events[row], catalog.first_hour[row]) == (0, catalog.as_of.number)
    slots = pq.read_table(settings.events_dir / "_items" / "facets.parquet").slice(0, 0)
    candidates = Retrieval(catalog, settings.slot_minutes).candidates(100, 8.0, slots, np.empty(0, np.int64))
    assert sorted(candidates.tolist()) == catalog.item[catalog.shown].tolist()


def test_a_new_table_brings_new_items_without_new_events(tmp_path: Path, settings: Settings) -> None:
    shown = "".join(f"{n},rock\n" for n in range(6))
    take_in(settings, tmp_path, "", shown)
    before = catalog_of(settings)
    assert before.shown.all()
    (tmp_path / "items.csv").write_text("id,kind\n" + shown + "90,folk\n91,\n")
    ingest(str(tmp_path / "mapping.yaml"), [str(tmp_path / "log.csv")], settings, now=NOW)
    after = catalog_of(settings)
    assert after.item[~after.shown].tolist() == [90, 91]
    assert after.values["genre"].to_pylist()[-2:] == ["folk", None]
    assert after.popularity[after.shown].tolist() == before.popularity.tolist()


def test_a_table_that_did_not_change_is_not_kept_again(tmp_path: Path, settings: Settings) -> None:
    take_in(settings, tmp_path, "", "1,rock\n90,folk\n")
    kept = EventStore(settings.events_dir).item_facets_file
    first = kept.stat().st_ino
    ingest(str(tmp_path / "mapping.yaml"), [str(tmp_path / "log.csv")], settings, now=NOW)
    assert kept.stat().st_ino == first
    (tmp_path / "items.csv").write_text("id,kind\n1,rock\n90,jazz\n")
    ingest(str(tmp_path / "mapping.yaml"), [str(tmp_path / "log.csv")], settings, now=NOW)
    assert pq.read_table(kept)["genre"].to_pylist() == ["rock", "jazz"]


WITHOUT_ITEMS = MAPPING.replace("items: {path: items.csv, key: id, facets: {genre: kind}}\n", "")


def take_in_rows(settings: Settings, folder: Path, name: str, rows: list[str]) -> None:
    """Rows of user, item, mood, done and the time of 2026-03-02, of a source without a table of items."""
    (folder / "mapping.yaml").write_text(WITHOUT_ITEMS)
    lines = [",".join([*row.split()[:4], f"2026-03-02T{row.split()[4]}:00Z"]) for row in rows]
    (folder / name).write_text("uid,iid,mood,done,ts\n" + "\n".join(lines) + "\n")
    ingest(str(folder / "mapping.yaml"), [str(folder / name)], settings, now=NOW)


def test_what_comes_late_is_in_the_next_catalog_as_in_one_made_of_all_events(
    tmp_path: Path, settings: Settings
) -> None:
    hours = [f"u{n} shown calm 1 {8 + n:02d}:10" for n in range(3)]
    take_in_rows(settings, tmp_path, "log.csv", ["u1 early calm 1 08:20", *hours])
    before = catalog_of(settings)
    ids = IdMap(EventStore(settings.events_dir), "item")
    ids.refresh()
    assert before.first_hour[before.rows(np.array([ids.id_of("shown")]))] + 3 == before.as_of.number
    take_in_rows(settings, tmp_path, "late.csv", [
        "u2 unheard sad 0 09:40",  # no other event: nothing later brings it
        "u2 shown sad 1 09:50", "u2 early glad 1 09:50",  # earlier and later than what told the mood
        "u3 shown calm 1 11:10",
    ])  # fmt: skip
    stepped = catalog_of(settings)
    (settings.workspace / "serving" / "catalog.parquet").unlink()
    whole = catalog_of(settings)
    ids.refresh()
    rows = stepped.rows(np.array([ids.id_of(key) for key in ("unheard", "shown", "early")]))
    assert (rows >= 0).all()
    assert stepped.values["mood"].take(pa.array(rows)).to_pylist() == ["sad", "calm", "glad"]
    assert (stepped.as_of.number - stepped.first_hour[rows]).tolist() == [3, 4, 4]
    assert stepped.values == whole.values
    for name in ("item", "keys", "first_hour", "day_events", "popularity"):
        assert np.array_equal(getattr(stepped, name), getattr(whole, name)), name


def test_an_item_whose_statistics_have_gone_is_an_old_one(tmp_path: Path, settings: Settings) -> None:
    """Retention drops the rows of items that nobody was shown for long."""
    take_in_rows(
        settings, tmp_path, "log.csv", ["u1 old calm 1 08:10", "u1 newer calm 1 09:10", "u1 newest calm 0 10:10"]
    )
    catalog_of(settings)
    take_in_rows(settings, tmp_path, "next.csv", ["u1 newest calm 1 11:10"])
    store = EventStore(settings.events_dir)
    clock, until = ClockState(settings, store), store.hours()[-1] + 1
    clock.rebuild(until)
    clock.logs["item_stats"].clear()
    catalog = load_catalog(settings, ClockFeatures(settings, store), until)
    ids = IdMap(store, "item")
    ids.refresh()
    assert [ids.key_of(int(item)) for item in catalog.item[Retrieval(catalog, 60).fresh]] == ["newest", "newer", "old"]
    assert not catalog.day_events.any()

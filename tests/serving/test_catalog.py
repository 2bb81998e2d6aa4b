"""What can be ranked: also what the table of items knows and nobody was shown yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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

"""Readers of a store learn which hours changed, whatever was cut short, and look at no other hour."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from core.hours import Hour
from events.change_list import ChangePosition
from events.ingest import close_hours
from events.schema import event_schema
from events.source_properties import SourceProperties
from events.store import EventStore

FIRST = Hour.parse("2026-03-02T08")


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    store = EventStore(tmp_path / "events")
    store.declare(SourceProperties("test", (), ("like",), None))
    return store


def event(hour: Hour, name: str) -> pa.Table:
    row = {
        "event_id": name,
        "user_id": 1,
        "item_id": 2,
        "timestamp": hour.start,
        "local_time": hour.start.replace(tzinfo=None),
    }
    return pa.Table.from_pylist([row], schema=event_schema([]))


def test_an_hour_is_listed_when_it_is_another_than_before(store: EventStore) -> None:
    begin = store.changes.position()
    assert store.changes.since(begin) == set()
    store.merge(FIRST, event(FIRST, "a"))
    store.merge(FIRST + 1)
    assert store.changes.since(begin) == {FIRST, FIRST + 1}
    seen = store.changes.position()
    store.merge(FIRST, event(FIRST, "a"), duplicates=1)
    store.merge(FIRST + 1)
    assert store.changes.since(seen) == set()
    store.merge(FIRST, event(FIRST, "late"))
    assert store.changes.since(seen) == {FIRST}
    assert store.changes.since(ChangePosition.parse(str(seen))) == {FIRST}


def test_an_hour_whose_writing_was_cut_short_counts_as_changed_until_a_writer_lists_it(store: EventStore) -> None:
    store.merge(FIRST, event(FIRST, "a"))
    seen = store.changes.position()
    store.changes.begin(FIRST)  # here the process was killed, before or after the hour got its name
    assert store.changes.since(seen) == {FIRST}
    seen = store.changes.position()
    assert store.changes.since(seen) == {FIRST}
    store.changes.recover()
    assert store.changes.since(seen) == {FIRST}
    assert store.changes.since(store.changes.position()) == set()


def test_closing_hours_keeps_an_hour_whose_replacement_was_cut_short(store: EventStore) -> None:
    store.merge(FIRST, event(FIRST, "a"))
    seen = store.changes.position()
    store.changes.begin(FIRST)
    folder = store.partition(FIRST)
    folder.rename(folder.with_name(f".{folder.name}.old"))  # here the process was killed, between its two renames
    assert close_hours(store, FIRST, FIRST + 1) == [FIRST + 1]
    assert store.read(FIRST, verify=True)["event_id"].to_pylist() == ["a"]
    assert [path.name for path in store.root.glob(".hour=*")] == []
    assert store.changes.since(seen) == {FIRST, FIRST + 1}


def test_a_line_that_a_full_disk_cut_short_hides_no_other(store: EventStore) -> None:
    store.merge(FIRST)
    seen = store.changes.position()
    with store.changes.path.open("ab") as file:
        file.write(b"2026-03-")
    amid = store.changes.position()
    store.merge(FIRST + 1)
    assert store.changes.since(seen) == {FIRST + 1}
    assert store.changes.since(amid) == {FIRST + 1}


def test_another_list_than_the_one_that_is_known_tells_nothing(store: EventStore, tmp_path: Path) -> None:
    store.merge(FIRST)
    seen = store.changes.position()
    other = EventStore(tmp_path / "other")
    assert other.changes.since(seen) is None
    other.changes.add(FIRST)
    assert other.changes.since(seen) is None
    store.merge(FIRST + 1)
    content = store.changes.path.read_bytes()
    store.changes.path.write_bytes(content[:-4] + b"\xff\xff\xff\n")
    assert store.changes.since(seen) is None, "it is damaged"
    store.changes.path.write_bytes(content[: content.index(b"\n") + 1])  # an older copy was put back
    assert store.changes.since(seen) is None

"""Tables of users and items beside the log: what is kept of them, and from when on."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError, DataError
from core.hours import Hour
from core.settings import Settings, load_settings
from events.ingest import ingest
from events.schema import AttributeField
from events.store import EventStore
from tests.conftest import NOW

START = Hour.parse("2026-03-02T06")
MAPPING = """\
source: test
columns: {user_id: uid, item_id: iid}
timestamp: {column: ts}
local_time: {zone: UTC}
facets: {genre: genre}
behaviors: {finish: finish}
users:
  path: users.csv
  key: uid
  attributes:
    city: town
    fans: {column: fans, type: number}
items:
  path: items.jsonl
  key: id
  attributes:
    tags: {column: tags, type: list, separator: "|"}
    released: {column: released, type: age, zone: Asia/Tokyo}
"""
USERS = "uid,town,fans\na,Bonn,10\nb,,many\nc, Kiel ,3.5\n"
ITEMS = """{"id": 7, "tags": "new|old| new |", "released": "2026-03-01"}
{"id": 8, "tags": ["x", "y"], "released": null}
{"id": 9, "tags": "[\\"x\\", \\"z\\"]", "released": "yesterday"}
"""


def write_log(path: Path, hour: Hour, *users: str) -> Path:
    rows = [f"{user},7,rock,{(hour.start + timedelta(minutes=n)).isoformat()},1" for n, user in enumerate(users)]
    path.write_text("uid,iid,genre,ts,finish\n" + "\n".join(rows) + "\n")
    return path


def workspace(folder: Path, mapping: str = MAPPING, users: str = USERS, items: str = ITEMS) -> Settings:
    """The mapping and the tables, and nothing ingested."""
    (folder / "mapping.yaml").write_text(mapping)
    (folder / "users.csv").write_text(users)
    (folder / "items.jsonl").write_text(items)
    return load_settings(var=folder / "var", source="test", mlflow_uri="")


def take(settings: Settings, folder: Path, hour: Hour, *users: str) -> EventStore:
    path = write_log(folder / f"{hour.key}.csv", hour, *users)
    ingest(str(folder / "mapping.yaml"), [str(path)], settings, now=NOW)
    return EventStore(settings.events_dir)


def rows_of(store: EventStore, owner: str) -> list[dict[str, object]]:
    return pq.read_table(store.attribute_file(owner)).to_pylist()  # type: ignore[arg-type]


def epoch(hour: int = 0) -> datetime:
    return Hour(hour).start


def test_tables_are_read_by_the_types_of_their_attributes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = take(workspace(tmp_path), tmp_path, START, "a", "b")
    assert store.source.attributes == (
        AttributeField("user", "city", "category"),
        AttributeField("user", "fans", "number"),
        AttributeField("item", "tags", "list"),
        AttributeField("item", "released", "age"),
    )
    assert [(row["user_city"], row["user_fans"], row["event_timestamp"]) for row in rows_of(store, "user")] == [
        ("Bonn", 10.0, epoch()),
        (None, None, epoch()),
        ("Kiel", 3.5, epoch()),
    ]
    items = {row["item_id"]: row for row in rows_of(store, "item")}
    assert [items[n]["item_tags"] for n in (7, 8, 9)] == [["new", "old"], ["x", "y"], ["x", "z"]]
    assert items[7]["item_released"] == Hour.parse("2026-02-28T15").number  # midnight in Tokyo
    assert items[8]["item_released"] is items[9]["item_released"] is None
    assert "1 cells of 'fans' are not a number, such as 'many'; they count as missing" in caplog.text
    assert "1 cells of 'released' are not a time, such as 'yesterday'" in caplog.text


def test_ids_of_users_who_did_nothing_come_after_those_of_the_log(tmp_path: Path) -> None:
    store = take(workspace(tmp_path), tmp_path, START, "c", "b")
    ids = pq.read_table(store.root / "_ids" / "user.parquet").to_pylist()
    assert [(row["key"], row["id"]) for row in ids] == [("c", 1), ("b", 2), ("a", 3)]


def test_what_a_later_table_says_holds_from_the_next_hour_on(tmp_path: Path) -> None:
    settings = workspace(tmp_path)
    take(settings, tmp_path, START, "a")
    take(settings, tmp_path, START + 5, "a")
    (tmp_path / "users.csv").write_text("uid,town,fans\na,Bonn,10\nb,Köln,\nd,Ulm,1\n")
    store = take(settings, tmp_path, START + 6, "b")
    rows = [(row["user_city"], row["event_timestamp"]) for row in rows_of(store, "user")]
    later = (START + 6).start
    assert rows == [("Bonn", epoch()), (None, epoch()), ("Köln", later), ("Kiel", epoch()), ("Ulm", later)]
    before = store.attribute_file("user").read_bytes()
    take(settings, tmp_path, START + 7, "b")
    assert store.attribute_file("user").read_bytes() == before


def test_the_same_input_again_changes_no_byte(tmp_path: Path) -> None:
    settings = workspace(tmp_path)
    store = take(settings, tmp_path, START, "a", "b")
    before = {p: p.read_bytes() for p in sorted((store.root / "_attributes").iterdir())}
    (tmp_path / "users.csv").touch()  # it looks changed, and is not
    take(settings, tmp_path, START, "a", "b")
    after = {p: p.read_bytes() for p in before if p.suffix == ".parquet"}
    assert all(before[p] == content for p, content in after.items())


DATED = MAPPING.replace("  key: uid\n", "  key: uid\n  since: moved\n")


def test_a_row_that_says_since_when_holds_from_the_first_full_hour_after_it(tmp_path: Path) -> None:
    users = (
        "uid,town,fans,moved\n"
        "a,Bonn,1,2026-03-02T06:00:00Z\na,Köln,2,2026-03-02T06:00:01Z\na,Ulm,3,never\na,Trier,4,2026-03-02T06:00:01Z\n"
    )
    store = take(workspace(tmp_path, DATED, users), tmp_path, START, "a")
    rows = [(row["user_city"], row["event_timestamp"]) for row in rows_of(store, "user")]
    assert rows == [("Bonn", START.start), ("Köln", (START + 1).start)]


def test_a_dated_table_may_be_corrected_and_continued(tmp_path: Path) -> None:
    settings = workspace(tmp_path, DATED, "uid,town,fans,moved\na,Bonn,1,2026-03-02T06:00:00Z\n")
    take(settings, tmp_path, START, "a")
    (tmp_path / "users.csv").write_text(
        "uid,town,fans,moved\na,Bonn,7,2026-03-02T06:00:00Z\na,Ulm,1,2026-03-03T06:00:00Z\n"
    )
    store = take(settings, tmp_path, START + 1, "a")
    rows = [(row["user_city"], row["user_fans"], row["event_timestamp"]) for row in rows_of(store, "user")]
    assert rows == [("Bonn", 7.0, START.start), ("Ulm", 1.0, (START + 24).start)]


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapping = MAPPING.replace("source: test\n", "source: test\nids: {user: int}\n")
    users = "uid,town,fans\n1,Bonn,1\n1,Köln,2\n,Ulm,3\nx,Kiel,4\n"
    store = take(workspace(tmp_path, mapping, users), tmp_path, START, "1")
    assert [(row["user_id"], row["user_city"]) for row in rows_of(store, "user")] == [(1, "Bonn")]
    assert "1 rows have an id such as 'x', and the log's are whole numbers; they are left out" in caplog.text
    assert "1 rows have no uid; they are left out" in caplog.text
    assert "1 rows are of a user that had a row before; the first counts" in caplog.text


def test_an_attribute_that_a_mapping_no_longer_has_is_missing_from_then_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = workspace(tmp_path)
    take(settings, tmp_path, START, "a")
    (tmp_path / "mapping.yaml").write_text(MAPPING.replace("    city: town\n", "    place: town\n"))
    store = take(settings, tmp_path, START + 1, "a")
    assert "the mapping tells nothing of 'user_city', which the source has" in caplog.text
    first, second = (row for row in rows_of(store, "user") if row["user_id"] == 1)
    assert (first["user_city"], first["user_place"]) == ("Bonn", None)
    assert (second["user_city"], second["user_place"], second["event_timestamp"]) == (None, "Bonn", (START + 1).start)


def test_whole_numbers_of_pandas_are_the_log_s_ids(tmp_path: Path) -> None:
    mapping = MAPPING.replace("path: users.csv", "path: users.parquet\n  format: parquet")
    settings = workspace(tmp_path, mapping)
    frame = pd.DataFrame({"uid": [1.0, 2.0, None], "town": ["Bonn", "Ulm", "Kiel"], "fans": [1, 2, 3]})
    frame.to_parquet(tmp_path / "users.parquet")
    store = take(settings, tmp_path, START, "1", "2")
    assert [(row["user_id"], row["user_city"]) for row in rows_of(store, "user")] == [(1, "Bonn"), (2, "Ulm")]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("city: town", "city: towns", r"users.attributes.city .*: the log has no column 'towns'; did you mean 'town'"),
        ("key: uid", "key: user", r"users.key .*: the log has no column 'user'"),
        ("path: users.csv", "path: people.csv", r"no users table at 'people.csv' \(users.path"),
        ("fans, type: number", "fans, type: numeric", r"users.attributes.fans.type: .*'category', 'number'"),
        ("fans, type: number", "fans, type: number, separator: ;", "separator belongs to the type list, and this is a number"),
        ("zone: Asia/Tokyo", "zone: Asia/Tokio", "unknown time zone 'Asia/Tokio'"),
        ("    city: town", "    id: town", "the column user_id would stand twice"),
        ("    city: town", "    kind: town", "the column user_kind would stand twice"),
        ("    city: town", "    a-b: town", r"attributes: \['user_a-b'\] must be plain names"),
        ("facets: {genre: genre}", "facets: {user_city: genre}", "the column user_city would stand twice"),
        ("facets: {genre: genre}", "facets: {genre: genre}\ncontext: {tab: {column: genre, type: list}}", r"context.tab: of an"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_named_and_nothing_is_written(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in MAPPING
    settings = workspace(tmp_path, MAPPING.replace(old, new))
    with pytest.raises((ConfigError, DataError), match=said):
        take(settings, tmp_path, START, "a")
    assert not settings.events_dir.exists() or not EventStore(settings.events_dir).hours()


def test_a_table_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    mapping = MAPPING.replace("source: test\n", "source: test\nids: {user: int}\n")
    settings = workspace(tmp_path, mapping)
    with pytest.raises(ConfigError, match=r"none of the 3 rows can be used by 'uid' \(users.key\)"):
        take(settings, tmp_path, START, "1")


def test_an_attribute_keeps_its_type(tmp_path: Path) -> None:
    settings = workspace(tmp_path)
    take(settings, tmp_path, START, "a")
    (tmp_path / "mapping.yaml").write_text(MAPPING.replace("{column: fans, type: number}", "fans"))
    with pytest.raises(DataError, match="'fans' of the user is a number in this source, and the mapping says category"):
        take(settings, tmp_path, START + 1, "a")


def test_the_table_of_a_log_without_one_may_come_later(tmp_path: Path) -> None:
    settings = workspace(tmp_path, MAPPING.split("users:", maxsplit=1)[0])
    assert not take(settings, tmp_path, START, "a").source.attributes
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    store = take(settings, tmp_path, START + 1, "a")
    assert [row["event_timestamp"] for row in rows_of(store, "user")] == [epoch()] * 3

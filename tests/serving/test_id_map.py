"""The log's ids as serving reads them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from core.files import write_json, write_parquet
from events.ids import SCHEMA, id_path
from events.store import EventStore
from serving.catalog import IdMap


def write(path: Path, keys: list[str], first: int = 1) -> None:
    write_parquet(path, pa.table({"key": keys, "id": range(first, first + len(keys))}, schema=SCHEMA))


def test_ids_that_were_appended_or_merged_are_known_after_a_refresh(tmp_path: Path) -> None:
    base, ids = id_path(tmp_path, "user"), IdMap(EventStore(tmp_path), "user")
    ids.refresh()
    assert ids.id_of("ann") == -1
    write(base, ["ann", "bob"])
    ids.refresh()
    assert (ids.id_of("bob"), ids.id_of("cleo"), ids.key_of(1)) == (2, -1, "ann")
    write(base.with_name(f"user.{3:012d}.parquet"), ["cleo"], 3)
    ids.refresh()
    assert (ids.id_of("ann"), ids.id_of("cleo"), ids.key_of(3)) == (1, 3, "cleo")
    write(base, ["ann", "bob", "cleo", "dan"])
    ids.refresh()
    assert [ids.id_of(key) for key in ("ann", "bob", "cleo", "dan")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("7", 7), ("-3", -3), ("1234567890123456789", 1234567890123456789), ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", -1), ("9" * 5000, -1), ("--5", -1), ("5-", -1), ("٣", -1), ("ann", -1), ("", -1),
    ],
)  # fmt: skip
def test_whole_numbers_are_the_integers_that_ingestion_takes_and_no_text_is_an_error(
    tmp_path: Path, key: str, number: int
) -> None:
    write_json(id_path(tmp_path, "user").with_name("kinds.json"), {"user": "int"})
    ids = IdMap(EventStore(tmp_path), "user")
    ids.refresh()
    assert ids.id_of(key) == number

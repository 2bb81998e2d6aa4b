"""Cells of the online store: what is written is read back, whatever the values are called."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.hours import Hour
from core.settings import load_settings
from feature_repo.online import decode_cells, encode_cells
from feature_repo.repository import slot_feature
from feature_repo.schemas import LISTS, clock_schema

FACETS, SLOTS, HOUR, WINDOW_HOURS = ('gen"re', "as_of"), 24, Hour(492_000), 720
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TOP = st.lists(
    st.tuples(NAMES, st.floats(0, 1e18, exclude_min=True), st.integers(1, 2**53)), max_size=3, unique_by=lambda t: t[0]
)
ROW = st.fixed_dictionaries(
    {"events": st.integers(0, 2**40), "as_of": st.integers(491_000, 492_000), "facets": st.tuples(TOP, TOP)}
)


@pytest.mark.slow
@given(
    st.dictionaries(st.tuples(st.integers(-(2**62), 2**62), st.integers(0, SLOTS - 1)), ROW, min_size=1, max_size=12)
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, clocks: dict[tuple[int, int], dict[str, object]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "cells"
    schema = clock_schema(FACETS)
    columns: dict[str, list[object]] = {field.name: [] for field in schema}
    for (user, slot), row in sorted(clocks.items()):
        values = {"user_id": user, "slot": slot, "events": row["events"], "as_of": row["as_of"]}
        for facet, top in zip(FACETS, row["facets"], strict=True):  # type: ignore[call-overload]
            values |= {f"{facet}_{name}": [entry[n] for entry in top] for n, name in enumerate(LISTS)}
        for name, column in columns.items():
            column.append(values.get(name))
    rows = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema})
    cells = dict(encode_cells(rows.take(list(reversed(range(rows.num_rows)))), FACETS, load_settings(var=folder)))
    assert list(cells) == sorted({user for user, _ in clocks})
    for (user, slot), row in clocks.items():
        text = cells[user][slot_feature(slot)]
        assert text == "" if not row["events"] else json.loads(text)["events"] == row["events"]
    names = [slot_feature(n) for n in range(SLOTS)]
    read = decode_cells(
        list(cells), [[cells[user].get(name, "") for user in cells] for name in names], FACETS, HOUR, WINDOW_HOURS
    )
    fresh = [HOUR.number - row["as_of"] <= WINDOW_HOURS and row["events"] > 0 for row in rows.to_pylist()]
    compared = [name for name in schema.names if name in read.column_names and name != "hour"]
    assert read.select(compared).to_pylist() == rows.filter(pa.array(fresh)).select(compared).to_pylist()


def test_sqlite_holds_what_feasts_own_class_writes(tmp_path: Path) -> None:
    """Row by row, also after a second batch that corrects some of the first."""
    from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.infra.online_stores.sqlite import SqliteOnlineStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Int64List, Value
    from feast.types import Array, Float64, Int64, String

    from feature_repo.repository import SQLITE_STORE
    from feature_repo.sqlite_store import BatchedSqliteOnlineStore

    entity = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    types: dict[str, Any] = {"text": String, "count": Int64, "rate": Float64, "items": Array(Int64)}
    source = FileSource(path="rows.parquet", timestamp_field="event_timestamp")
    view = FeatureView(
        name="rows", entities=[entity], schema=[Field(name=n, dtype=t) for n, t in types.items()], source=source
    )
    few = [Value(int64_val=n) for n in range(3)]  # shared by many rows

    def batch(users: range, shift: int) -> list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]]:
        return [
            (
                EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user)]),
                {
                    "text": Value(string_val=f"'{user}\" {shift}"), "count": few[user % 3], "rate": Value(double_val=user / 7),
                    "items": Value(int64_list_val=Int64List(val=[user, shift])), **({"gone": Value()} if user % 2 else {}),
                },
                datetime(2026, 3, 1, shift, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC),
            )
            for user in users
        ]  # fmt: skip

    def batched(store: SqliteOnlineStore, config: RepoConfig, users: range, shift: int) -> None:
        store.online_write_batch(config, view, batch(users, shift), None)

    def numbered(store: SqliteOnlineStore, config: RepoConfig, users: range, shift: int) -> None:
        assert isinstance(store, BatchedSqliteOnlineStore)
        rows = [(user, values, since) for user, (_, values, since, _) in zip(users, batch(users, shift), strict=True)]
        store.write_numbered(config, view, "user_id", rows, datetime(2026, 3, 2, tzinfo=UTC))

    contents, reads = [], []
    for n, (store, kind, write) in enumerate(
        [
            (SqliteOnlineStore(), "sqlite", batched), (BatchedSqliteOnlineStore(), SQLITE_STORE, batched),
            (BatchedSqliteOnlineStore(), SQLITE_STORE, numbered),
        ]
    ):  # fmt: skip
        path = tmp_path / f"{n}.db"
        config = RepoConfig(
            project="p", provider="local", registry=str(tmp_path / "registry.db"),
            online_store={"type": kind, "path": str(path)}, entity_key_serialization_version=3,
        )  # fmt: skip
        store.update(config, [], [view], [], [entity], partial=False)
        for users, shift in ((range(-3, 40), 1), (range(30, 50), 2)):
            write(store, config, users, shift)
        asked = [
            EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user)])
            for user in (45, -3, 45, 99, *range(35))
        ]
        reads.append(store.online_read(config, view, asked, ["text"]))
        with closing(sqlite3.connect(path)) as connection:
            contents.append(connection.execute("SELECT * FROM p_rows ORDER BY 1, 2").fetchall())
            kept = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'p_rows_ek'").fetchone()[0]
            assert bool(kept) == (kind == "sqlite"), "the primary key begins with what this index is of"
    assert len(contents[0]) > 53 * 4
    assert contents[0] == contents[1] == contents[2]
    assert reads[0][:4:3] == [(datetime(2026, 3, 1, 2, tzinfo=UTC), batch(range(45, 46), 2)[0][1]), (None, None)]
    assert reads[0] == reads[1] == reads[2]

"""A user's clock in the online store: one row per user, one feature per slot.

A cell is JSON: ``{"as_of": 492000, "events": 4, "facets": [[["rock", "jazz"], [3.0, 1.0], [3, 2]], …]}``, the
facets in the source's order, each with its top values, scores and counts. An hour writes only the cells of
slots that changed; the others keep theirs. A cell says from which hour it holds, so that a
reader sees its age and drops one that left the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from core import duck
from core.duck import identifier
from core.hours import Hour
from core.settings import Settings
from feature_repo.repository import slot_feature
from feature_repo.schemas import LISTS, clock_schema

if TYPE_CHECKING:
    from feast import FeatureStore

WRITTEN_AT_ONCE = 5_000
Row = tuple[int, dict[str, Any], datetime]
"""Key of an entity, feature → Feast's value, and from when the row holds."""


class Cell(msgspec.Struct):
    """What a cell's JSON holds; of each facet the values, their scores and counts."""

    as_of: int
    events: int
    facets: list[tuple[list[str], list[float], list[int]]]


CELLS = msgspec.json.Decoder(list[Cell])


def empty_clock(settings: Settings) -> dict[str, str]:
    """The cells of a clock in which nothing happened."""
    return {slot_feature(n): "" for n in range(settings.slots)}


def encode_cells(rows: pa.Table, facets: Sequence[str], settings: Settings) -> Iterator[tuple[int, dict[str, str]]]:
    """Cells of clock rows, by user: (user, feature → JSON). An empty slot gives an empty text.

    Args:
        rows: in the columns of ``schemas.clock_schema``.
        facets: in the source's order.
        settings: how much memory the encoding may take.
    """
    lists = ", ".join(f"json_array({', '.join(identifier(f'{facet}_{name}') for name in LISTS)})" for facet in facets)
    content = f"json_object('as_of', as_of, 'events', events, 'facets', json_array({lists}))"
    cells = f"SELECT user_id, slot, CASE WHEN events > 0 THEN CAST({content} AS VARCHAR) ELSE '' END AS cell FROM rows"
    with duck.connection(settings) as con:
        con.register("rows", rows)
        users = con.execute(
            f"SELECT user_id, list(slot ORDER BY slot), list(cell ORDER BY slot) FROM ({cells}) GROUP BY 1 ORDER BY 1"
        )
        while part := users.fetchmany(WRITTEN_AT_ONCE):
            for user, slots, texts in part:
                yield user, dict(zip(map(slot_feature, slots), texts, strict=True))


def write_cells(
    store: FeatureStore, view_name: str, cells: Iterable[tuple[int, Mapping[str, str | bytes]]], hour: Hour
) -> int:
    """Write cells of users through Feast's online store.

    Each batch is one transaction (SQLite) or one command per user (Redis), so a reader never sees half a row.

    Args:
        store: Feast's.
        view_name: the view that they are features of.
        cells: user and feature → content.
        hour: from whose start they hold.

    Returns:
        Cells written.
    """
    from feast.protos.feast.types.Value_pb2 import Value

    def value(content: str | bytes) -> Any:
        return Value(string_val=content) if isinstance(content, str) else Value(bytes_val=content)

    rows = (
        (user, {name: value(content) for name, content in contents.items()}, hour.start) for user, contents in cells
    )
    return _write(store, view_name, "user_id", rows)


def write_rows(store: FeatureStore, view_name: str, rows: pa.Table, key: str) -> int:
    """Write rows of a view as they are through Feast's online store.

    What ``FeatureStore.write_to_online_store`` does, without a data frame and a check of every value in between.

    Args:
        store: Feast's.
        view_name: the view.
        rows: with the view's features, ``event_timestamp`` and the key.
        key: the view's only entity, int64.

    Returns:
        Rows written.
    """
    names = [feature.name for feature in store.get_feature_view(view_name).features]
    for part in rows.to_batches(max_chunksize=WRITTEN_AT_ONCE):
        contents = (dict(zip(names, row, strict=True)) for row in zip(*(_values(part[n]) for n in names), strict=True))
        moments = part["event_timestamp"].to_pylist()
        _write(store, view_name, key, zip(part[key].to_pylist(), contents, moments, strict=True))
    return rows.num_rows


def _write(store: FeatureStore, view_name: str, key: str, rows: Iterable[Row]) -> int:
    """Write rows of a view with one entity, whose key is an int64; returns the values written."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from feature_repo.sqlite_store import BatchedSqliteOnlineStore

    view, provider, now = store.get_feature_view(view_name), store._get_provider(), datetime.now(UTC)
    online = provider.online_store
    remaining, written = iter(rows), 0
    while batch := list(islice(remaining, WRITTEN_AT_ONCE)):
        if isinstance(online, BatchedSqliteOnlineStore):
            online.write_numbered(store.config, view, key, batch, now)
        else:
            data: list[Any] = [
                (EntityKey(join_keys=[key], entity_values=[Value(int64_val=number)]), values, moment, now)
                for number, values, moment in batch
            ]
            provider.online_write_batch(store.config, view, data, progress=None)
        written += sum(len(values) for _, values, _ in batch)
    return written


def _values(column: pa.Array) -> list[Any]:
    """Feast's values of a column of numbers, texts or lists of these."""
    from feast.protos.feast.types import Value_pb2

    def name_of(type_: pa.DataType) -> str:
        return "int64" if pa.types.is_integer(type_) else "double" if pa.types.is_floating(type_) else "string"

    value = Value_pb2.Value
    if pa.types.is_list(column.type):
        name = name_of(column.type.value_type)
        values_of = getattr(Value_pb2, f"{name.capitalize()}List")
        return [
            value() if items is None else value(**{f"{name}_list_val": values_of(val=items)})
            for items in column.to_pylist()
        ]
    field, items = f"{name_of(column.type)}_val", column.to_pylist()
    value_of = {item: value() if item is None else value(**{field: item}) for item in set(items)}  # rows share them
    return [value_of[item] for item in items]


def decode_cells(
    user_ids: Sequence[int], cells: Sequence[Sequence[str]], facets: Sequence[str], at: Hour, window_hours: int
) -> pa.Table:
    """Clock rows of cells, as the offline store gives them; ``hour`` is ``at``.

    Args:
        user_ids: U users.
        cells: for each slot the JSON of the U users, shape (slots, U); empty where there is none.
        facets: in the source's order.
        at: hour of the reading; a cell older than the window has expired.
        window_hours: length of the clock's window.

    Returns:
        Rows with events, by user and slot.
    """
    filled = [
        (user, slot, column[n])
        for n, user in sorted(enumerate(user_ids), key=itemgetter(1))
        for slot, column in enumerate(cells)
        if column[n]
    ]
    contents = CELLS.decode(f"[{','.join(cell for *_, cell in filled)}]")
    valid = [
        ((user, slot), cell)
        for (user, slot, _), cell in zip(filled, contents, strict=True)
        if cell.events > 0 and at.number - cell.as_of <= window_hours
    ]
    keys, kept = [key for key, _ in valid], [cell for _, cell in valid]
    types = _cell_types(tuple(facets))
    columns: dict[str, Sequence[int] | pa.Array] = {
        "user_id": [user for user, _ in keys],
        "hour": [at.number] * len(keys),
        "slot": [slot for _, slot in keys],
    }
    for f, facet in enumerate(facets):
        for part, name in enumerate(LISTS):
            column = f"{facet}_{name}"
            columns[column] = _list_array([cell.facets[f][part] for cell in kept], types[column])
    columns["events"] = [cell.events for cell in kept]
    columns["as_of"] = [cell.as_of for cell in kept]
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def _list_array(lists: Sequence[Sequence[Any]], type_: pa.ListType) -> pa.Array:
    """What ``pa.array`` makes of lists, in a fraction of its time."""
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum([len(items) for items in lists], out=offsets[1:])
    return pa.ListArray.from_arrays(offsets, pa.array(chain.from_iterable(lists), type_.value_type), type=type_)


@cache
def _cell_types(facets: tuple[str, ...]) -> dict[str, pa.DataType]:
    """Arrow types of the columns of clocks that are read online."""
    return {"hour": pa.int64(), **{field.name: field.type for field in clock_schema(facets)}}

"""What can be ranked: items with their facets and popularity; and the ids of users and items in the source's log."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import duck
from core.duck import file_list, hour_number, identifier
from core.errors import NotReadyError
from core.files import FROM_BACKUP, read_json, write_parquet
from core.hours import Hour
from core.id_text import parse_int64
from core.lookup import positions
from core.settings import Settings
from evaluation.popularity import popularity
from events.change_list import ChangePosition
from events.ids import id_files, id_path, read_ids
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures
from feature_repo.sql import columns
from training.attributes import Encoded, encode
from training.category_keys import facet_keys

STATS = ("first_hour", "day_events", "events", "finish_rate")
AS_OF, CHANGES = b"as_of", b"changes"
"""Keys of the stored catalog's metadata: its hour, and how far the events' list of changes is in it."""
UNKNOWN_ID = int(np.iinfo(np.int64).min)
"""In place of the integer of an id that the log does not have: ids that are integers in the log may be negative."""
RATE_EVENTS = 20
"""Number of events at the average finish rate that every item starts with, so that a few lucky ones do not make it popular."""


@dataclass(frozen=True)
class Catalog:
    """The items of the log and of the table of items, by ascending id; every array has shape (items,), ``keys`` (items, facets).

    Attributes:
        as_of: hour up to which events count, exclusive.
        item: ids.
        values: facet → the items' latest values, null for an item without one.
        keys: the values as the models know them (``facet_keys``).
        popularity: finish rate in the window, shrunk toward the average; or share of the events if the log has
            positives only; in [0, 1].
        day_events: events of the last 24 hours.
        first_hour: hour since 1970 UTC of the item's first event; ``as_of`` of an item without events.
        shown: whether the log has events of the item. The others are ranked where a request names them.
        attributes: what a table beside the log tells of the items as of ``as_of``, encoded for the models.
    """

    as_of: Hour
    item: np.ndarray
    values: dict[str, pa.Array]
    keys: np.ndarray
    popularity: np.ndarray
    day_events: np.ndarray
    first_hour: np.ndarray
    shown: np.ndarray
    attributes: Encoded = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item)

    def rows(self, items: np.ndarray) -> np.ndarray:
        """Row of each item, −1 for an unknown one; the shape of ``items``."""
        at, known = positions(self.item, items)
        return np.where(known, at, -1)

    def facets_of(self, rows: np.ndarray) -> np.ndarray:
        """Facet keys of rows, 0 for unknown items, shape (N, F)."""
        keys = np.zeros((len(rows), self.keys.shape[1]), dtype=np.int64)
        known = rows >= 0
        keys[known] = self.keys[rows[known]]
        return keys

    def popularity_of(self, rows: np.ndarray) -> np.ndarray:
        """Popularity of rows, 0 for unknown items, shape (N,)."""
        return np.where(rows >= 0, self.popularity[rows] if len(self.item) else 0.0, 0.0)


def load_catalog(settings: Settings, features: ClockFeatures, as_of: Hour) -> Catalog:
    """The catalog as of an hour. It is kept on disk, so that only the events since the last one are read, late ones included.

    Args:
        settings: name the workspace.
        features: of the source.
        as_of: hour up to which events count, exclusive.

    Raises:
        NotReadyError: there are no events yet.
    """
    path = settings.workspace / "serving" / "catalog.parquet"
    table = _read(path, as_of, features.facets)
    if table is None:
        table = _build(settings, features, as_of, path)
        write_parquet(path, table)
    table, shown = _with_new_items(table, features, as_of)
    events, rate = table["events"].to_numpy(), table["finish_rate"].to_numpy()
    positives_only = features.events.source.negatives is not None
    item_popularity = popularity(events, rate * events, positives_only=positives_only, prior_events=RATE_EVENTS)
    values = {f: table[f].combine_chunks() for f in features.facets}
    return Catalog(
        as_of=as_of, item=table["item_id"].to_numpy(), values=values,
        keys=np.stack([facet_keys(f, v) for f, v in values.items()], axis=1), popularity=item_popularity,
        day_events=table["day_events"].to_numpy(), first_hour=table["first_hour"].to_numpy(), shown=shown,
        attributes=_attributes(features, table["item_id"], as_of),
    )  # fmt: skip


def _with_new_items(table: pa.Table, features: ClockFeatures, as_of: Hour) -> tuple[pa.Table, np.ndarray]:
    """The catalog and the items that only the table of items knows, by ascending id; and which of them the log has shown."""
    file = features.events.item_facets_file
    if not file.exists():
        return table, np.ones(len(table), dtype=bool)
    told = pq.ParquetFile(file).read()
    told = told.filter(pc.invert(pc.is_in(told["item_id"], table["item_id"])))
    nothing = {"first_hour": as_of.number, "day_events": 0, "events": 0, "finish_rate": 0.0}
    columns = {
        name: told[name]
        if name in told.column_names
        else pa.array([nothing.get(name)] * len(told), table.schema.field(name).type)
        for name in table.column_names
    }
    both = pa.concat_tables([table.replace_schema_metadata(), pa.table(columns).cast(table.schema.remove_metadata())])
    order = np.argsort(both["item_id"].to_numpy(), kind="stable")
    return both.take(order), order < len(table)


def _attributes(features: ClockFeatures, items: pa.ChunkedArray, as_of: Hour) -> dict[str, np.ndarray]:
    """The items' attributes as of an hour, in the order of the items."""
    keys = pa.table({"item_id": items, "hour": pa.array([as_of.number] * len(items), pa.int64())})
    return encode(features.events.attribute_fields("item"), features.attributes("item", keys))


def _read(path: Path, as_of: Hour | None, facets: list[str]) -> pa.Table | None:
    """The stored catalog, if it is of that hour (any hour if None) and has these facets."""
    if not path.exists():
        return None
    table = pq.ParquetFile(path).read()
    columns_match = table.column_names == ["item_id", *facets, *map(_told, facets), *STATS]
    return table if columns_match and (as_of is None or _as_of(table) == as_of.number) else None


def _as_of(table: pa.Table) -> int:
    return int((table.schema.metadata or {}).get(AS_OF, b"0"))


def _told(facet: str) -> str:
    """Column with the time of the event that told an item's value of a facet: an earlier one, come late, does not replace it."""
    return f"{facet} told"


def _previous(path: Path, events: EventStore, as_of: Hour, facets: list[str]) -> tuple[pa.Table | None, set[Hour]]:
    """The stored catalog that one as of an hour can go on from, and the earlier hours whose events changed since it was made."""
    table = _read(path, None, facets)
    if table is None or _as_of(table) > as_of.number:
        return None, set()
    changed = events.changes.since(ChangePosition.parse(table.schema.metadata[CHANGES].decode()))
    return (table, changed) if changed is not None else (None, set())


def _build(settings: Settings, features: ClockFeatures, as_of: Hour, path: Path) -> pa.Table:
    events, facets = features.events, features.facets
    position = events.changes.position()  # before any event is read
    previous, changed = _previous(path, events, as_of, facets)
    first = _as_of(previous) if previous is not None else 0
    files = events.event_files(h for h in events.hours() if h < as_of and (h.number >= first or h in changed))
    names, told = columns(facets), columns([_told(facet) for facet in facets])
    latest = ", ".join(
        f"arg_max({value}, ({at}, event)) AS {value}, max({at}) FILTER (WHERE {value} IS NOT NULL) AS {at}"
        for value, at in ((identifier(facet), identifier(_told(facet))) for facet in facets)
    )
    stats = pa.concat_tables(
        [*features.latest("item_stats", as_of)] or [features.clock.logs["item_stats"].schema.empty_table()]
    )
    with duck.connection(settings) as con:
        con.register("stats", stats)
        parts = []
        if files:
            moments = ", ".join(f'"timestamp" AS {identifier(_told(facet))}' for facet in facets)
            hour = hour_number("timestamp")
            parts.append(
                f"SELECT item_id, {hour} AS hour, event_id AS event, {names}, {moments} FROM read_parquet({file_list(files)})"
            )
        if previous is not None:
            con.register("known", previous)
            parts.append(f"SELECT item_id, first_hour AS hour, '' AS event, {names}, {told} FROM known")
        if not parts:
            raise NotReadyError(f"no events before {as_of} to make a catalog of")
        # Retention drops the statistics of an item that was not shown for long: it is an old one, without events.
        table = con.sql(
            f"""SELECT i.item_id, {names}, {told}, i.first_hour, coalesce(day_events, 0) AS day_events,
            coalesce(events, 0) AS events, coalesce(finish_rate, 0) AS finish_rate
            FROM (SELECT item_id, min(hour) AS first_hour, {latest} FROM ({" UNION ALL ".join(parts)}) GROUP BY item_id) i
            LEFT JOIN stats USING (item_id) ORDER BY i.item_id"""
        ).to_arrow_table()
    return table.replace_schema_metadata({AS_OF: str(as_of.number), CHANGES: str(position)})


class IdMap:
    """The ids in the source's log and the platform's integers for them."""

    def __init__(self, events: EventStore, kind: str) -> None:
        self.kind, self.path = kind, id_path(events.root, kind)
        self.integers = False
        self._read: dict[Path, tuple[int, int]] = {}
        self._ids: dict[str, int] = {}
        self._keys: dict[int, str] = {}

    def refresh(self) -> None:
        """Read the ids that are new since the last call."""
        kinds = self.path.with_name("kinds.json")
        self.integers = kinds.exists() and read_json(kinds, FROM_BACKUP).get(self.kind) == "int"
        if self.integers:
            return
        files = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in id_files(self.path)}
        same_base = files.get(self.path) == self._read.get(self.path)  # another one has taken deltas in
        new = [path for path, stamp in files.items() if not (same_base and self._read.get(path) == stamp)]
        table = read_ids(new)
        ids = dict(zip(table["key"].to_pylist(), table["id"].to_pylist(), strict=True))
        keys = {number: key for key, number in ids.items()}
        self._ids = {**self._ids, **ids} if same_base else ids
        self._keys = {**self._keys, **keys} if same_base else keys
        self._read = files

    def id_of(self, key: str) -> int:
        """The integer of an id, ``UNKNOWN_ID`` if the log does not have it."""
        if self.integers:
            number = parse_int64(key)
            return UNKNOWN_ID if number is None else number
        return self._ids.get(key, UNKNOWN_ID)

    def key_of(self, number: int) -> str:
        return str(number) if self.integers else self._keys.get(number, str(number))

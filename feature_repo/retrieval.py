"""Reading the feature store: point-in-time rows, users' features and clocks online."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import duck
from core.duck_engine import DuckEngine
from core.errors import DataError, NotReadyError
from core.hours import Hour
from core.settings import Settings
from events.schema import Owner
from events.store import EventStore
from feature_repo.changes import ChangeLog, files_between
from feature_repo.clock import ClockState
from feature_repo.online import decode_cells
from feature_repo.recent import decode_histories, recent_behaviors
from feature_repo.repository import (
    ATTRIBUTE_VIEWS,
    COLD_START_SERVICE,
    HISTORY_FEATURE,
    RANKING_SERVICE,
    TRAINING_SERVICE,
    open_store,
    slot_feature,
)
from feature_repo.schemas import WHOLE_DAYS
from feature_repo.shrinkage import Shrinkage, shrink
from feature_repo.sql import columns, known_slots, newest_rows

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("feature_repo.retrieval")

KEYS = ("user_id", "hour", "slot")
FILLED_AT_ONCE = 400_000
"""Rows put online at a time when everything is."""


@dataclass(frozen=True)
class Features:
    """Features of users at hours; the column ``hour`` counts hours since 1970 UTC.

    Attributes:
        slots: clocks, one row per non-empty (user_id, hour, slot).
        profiles: activity in the window, one row per (user_id, hour) that has any.
        history: recent behaviors, one row per (user_id, hour) that has any.
        attributes: what tables beside the log tell of the users, one row per (user_id, hour); no columns where the source
            has no such table.
    """

    slots: pa.Table
    profiles: pa.Table
    history: pa.Table
    attributes: pa.Table = field(default_factory=lambda: pa.table({}))


class ClockFeatures:
    """A source's features through Feast, offline and online.

    Args:
        settings: of the workspace.
        events: the source's.
        from_log: as ``recent_behaviors`` takes it.

    Raises:
        NotReadyError: the clocks have not been computed yet.
    """

    def __init__(self, settings: Settings, events: EventStore, *, from_log: bool = False) -> None:
        self.settings, self.events, self.from_log = settings, events, from_log
        self.facets = events.facets
        self.clock = ClockState(settings, events)
        self.store: FeatureStore = open_store(settings, events)
        self._references: dict[str, dict[str, list[str]]] = {}
        self._column_types: dict[str, dict[str, pa.DataType]] = {}

    def historical(self, keys: pa.Table) -> Features:
        """Features as of the start of each hour, by Feast's point-in-time join of the training FeatureService.

        Args:
            keys: distinct (user_id int64, hour int64 since 1970 UTC).

        Raises:
            DataError: an hour before those that the change logs cover.
        """
        first = pc.min(keys["hour"]).as_py()
        if first is not None:
            self.check_known(Hour(first))
        views = self.references(TRAINING_SERVICE)
        frame = keys.select(["user_id", "hour"])
        profiles = self._join(frame, "user_activity", views["user_activity"])
        slots = self._join(self._with_known_slots(frame), "clock_slots", views["clock_slots"])
        if self.settings.shrinkage:
            slots = self._shrunk_offline(frame, slots)
        history = recent_behaviors(self.clock, keys, from_log=self.from_log)
        return Features(slots=slots, profiles=profiles, history=history, attributes=self.attributes("user", frame))

    def check_known(self, hour: Hour) -> None:
        """Refuse an hour before those that the change logs cover.

        Args:
            hour: at whose start features are asked for.

        Raises:
            DataError: what they were is not known.
        """
        since = self.clock.require_state().history_from
        if hour < since and hour > self.events.first_hour():
            raise DataError(
                f"what features were at {hour} is not known: the change logs begin at {since}; "
                f"'clock features rebuild' computes them again as far back as the log goes"
            )

    def attribute_references(self, owner: Owner) -> list[str]:
        """Feature references of what tables beside the log tell of users or items; none where there is no such table."""
        file = self.events.attribute_file(owner)
        written = {*pq.read_schema(file).names} if file.exists() else set()
        return [
            r for r in self.references(TRAINING_SERVICE).get(ATTRIBUTE_VIEWS[owner], []) if r.split(":")[1] in written
        ]

    def attributes(self, owner: Owner, keys: pa.Table) -> pa.Table:
        """What tables beside the log tell of users or items as of the start of each hour, by Feast's point-in-time join.

        Args:
            owner: user or item.
            keys: distinct (user_id or item_id int64, hour int64 since 1970 UTC).

        Returns:
            One row for each key, in its order, null where nothing is known; no columns where the source has no such table.
        """
        references = self.attribute_references(owner)
        if not references:
            return pa.table({})
        key, types = f"{owner}_id", {f.name: f.type for f in self.events.attribute_schema(owner)}
        frame = keys.select([key, "hour"]).sort_by([("hour", "ascending"), (key, "ascending")]).to_pandas()
        frame["event_timestamp"] = pd.to_datetime(frame["hour"] * 3600, unit="s", utc=True)
        table = self.store.get_historical_features(entity_df=frame, features=references).to_arrow()
        return pa.table(
            {n: table[n].cast(types.get(n, pa.int64())) for n in table.column_names if n != "event_timestamp"}
        )

    def online(self, user_ids: Sequence[int], at: Hour) -> Features:
        """The same features from the online store, for serving: those of the ranking FeatureService, in one request.

        Args:
            user_ids: any number of users; one that is unknown has no rows.
            at: the running hour.
        """
        users = list(dict.fromkeys(map(int, user_ids)))
        views = self.references(RANKING_SERVICE)
        values = self._values([reference for references in views.values() for reference in references], users)
        profiles = self._table("user_activity", {"user_id": users}, views["user_activity"], at, values)
        history = decode_histories(self.settings, users, values.get(HISTORY_FEATURE, ()), at)
        attributes = self._attributes_from(users, at, views.get(ATTRIBUTE_VIEWS["user"], []), values)
        return Features(self._clock(users, at, values), profiles, history, attributes)

    def _attributes_from(
        self, users: list[int], at: Hour, references: list[str], values: dict[str, list[Any]]
    ) -> pa.Table:
        """The users' attributes among the values that were read."""
        if not references:
            return pa.table({})
        types = {f.name: f.type for f in self.events.attribute_schema("user")}
        names = [reference.split(":")[1] for reference in references]
        read = {name: pa.array(map(_unpacked, values[name]), types[name]) for name in names}
        keys = {"user_id": pa.array(users, pa.int64()), "hour": pa.array([at.number] * len(users), pa.int64())}
        return pa.table({**keys, **read})

    def get_clock(self, user_ids: Sequence[int], at: Hour) -> pa.Table:
        """Clocks of users from the online store.

        Args:
            user_ids: any number of users; one that is unknown has no rows.
            at: the running hour.

        Returns:
            One row per non-empty (user_id, slot): the top values of each facet with scores and counts, ``events``,
            and ``as_of``, the hour since 1970 UTC from whose start the row holds.
        """
        users = list(dict.fromkeys(map(int, user_ids)))
        return self._clock(users, at, self._values(self.references(RANKING_SERVICE)["clock"], users))

    def _values(self, references: list[str], users: Sequence[int]) -> dict[str, list[Any]]:
        """Feature → the users' values, None where there is none."""
        response = self.store.get_online_features(
            features=references, entity_rows=[{"user_id": user} for user in users]
        )
        return {
            name: [getattr(value, kind) if (kind := value.WhichOneof("val")) else None for value in vector.values]  # noqa: PD011 (a protobuf)
            for name, vector in zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True)
        }

    def _clock(self, users: list[int], at: Hour, values: dict[str, list[Any]]) -> pa.Table:
        """Clocks from the values of their cells."""
        cells = [values[slot_feature(n)] for n in range(self.settings.slots)]
        rows = decode_cells(users, cells, self.facets, at, self.settings.window_hours)
        if self.settings.shrinkage and users:
            references, fitted = self.references(COLD_START_SERVICE), self._shrinkage()
            profile = self._read(WHOLE_DAYS, {"user_id": users}, references[WHOLE_DAYS], at)
            everyone = self.population(at)
            keys = pa.table({"user_id": pa.array(users, pa.int64()), "hour": pa.array([at.number] * len(users))})
            rows = shrink(fitted, keys, rows, profile, everyone)
        return rows

    def population(self, at: Hour) -> pa.Table:
        """Everybody's clock in hour ``at`` from the online store, one row per slot, in the columns of ``get_clock``."""
        references = self.references(COLD_START_SERVICE)["population_clock"]
        return self._read("population_clock", {"slot": list(range(self.settings.slots))}, references, at)

    def most_active(self, count: int) -> list[int]:
        """The users with the most events in the window, the lower id first among equals."""
        sums = self.clock.sums(self.clock.require_state())
        with duck.connection(self.settings) as con:
            users = sums.rows(DuckEngine(con), ["users"], "all", "user_id, events")
            rows = con.execute(
                f"SELECT user_id FROM ({users}) u GROUP BY user_id ORDER BY sum(events) DESC, user_id LIMIT {int(count)}"
            ).fetchall()
        return [int(user) for (user,) in rows]

    def changed(self, view: str, hour: Hour) -> pa.Table:
        """Rows of a view that hold from ``hour`` on."""
        changes = self.clock.logs[view]
        parts = changes.parts(hour)
        if not parts:
            return changes.schema.empty_table()
        with duck.connection(self.settings) as con:
            source = f"read_parquet({duck.file_list(parts)})"
            rows = con.sql(f"SELECT * FROM {source} WHERE as_of = {hour.number}").to_arrow_table()
        return rows.select(changes.schema.names).cast(changes.schema)

    def rows_of(self, view: str, users: Sequence[int], as_of: Hour) -> pa.Table:
        """The rows of users in a view that hold at an hour's start.

        Args:
            view: one whose first key is the user.
            users: any number of ids; one without a row has none here.
            as_of: the hour.
        """
        if not len(users):
            return self.clock.logs[view].schema.empty_table()
        wanted = pa.table({"user_id": pa.array(users, pa.int64())})
        return self._rows_at(view, as_of, "user_id IN (SELECT user_id FROM wanted)", wanted=wanted)

    def rows_at(self, view: str, as_of: Hour) -> pa.Table:
        """The rows of a view that hold at an hour's start, by key: of one that has few."""
        return self._rows_at(view, as_of, "true")

    def _rows_at(self, view: str, as_of: Hour, condition: str, **tables: pa.Table) -> pa.Table:
        """The rows of a view that hold at an hour's start and meet a condition, which may read tables by their names."""
        changes = self.clock.logs[view]
        parts = files_between(changes.root, as_of, as_of, changes.holds_hours)
        if not parts:
            return changes.schema.empty_table()
        with duck.connection(self.settings) as con:
            for name, table in tables.items():
                con.register(name, table)
            return _newest_rows(con, changes, parts, as_of, condition)

    def latest(self, view: str, as_of: Hour) -> Iterator[pa.Table]:
        """The rows of a view that hold at an hour's start, a part of the keys at a time."""
        changes = self.clock.logs[view]
        parts = changes.parts()
        if not parts:
            return
        keys = ", ".join(changes.keys)
        with duck.connection(self.settings) as con:
            source = f"read_parquet({duck.file_list(parts)})"
            entities = duck.scalar(con, f"SELECT count(DISTINCT ({keys})) FROM {source}")
            pieces = max(1, -(-int(entities) // FILLED_AT_ONCE))
            for piece in range(pieces):
                rows = _newest_rows(con, changes, parts, as_of, f"{changes.keys[0]} % {pieces} = {piece}")
                if rows.num_rows:
                    yield rows

    def references(self, service: str) -> dict[str, list[str]]:
        """Feature references of a service by view."""
        if service not in self._references:
            definition = self.store.get_feature_service(service)
            self._references[service] = {
                p.name_to_use(): [f"{p.name_to_use()}:{feature.name}" for feature in p.features]
                for p in definition.feature_view_projections
            }
        return self._references[service]

    def _join(self, keys: pa.Table, view: str, references: list[str]) -> pa.Table:
        """Point-in-time join of distinct keys (with hour) with a view: rows that have events, in the order of their key."""
        order = ", ".join(key for key in KEYS if key in keys.column_names)
        types = self._types(view)
        with duck.connection(self.settings) as con:
            con.register("keys", keys)
            frame = con.sql(f"SELECT * FROM keys ORDER BY {order}").to_arrow_table().to_pandas()
            frame["event_timestamp"] = pd.to_datetime(frame["hour"] * 3600, unit="s", utc=True)
            table = self.store.get_historical_features(entity_df=frame, features=references).to_arrow()
            table = table.drop_columns(["event_timestamp"])
            rows = pa.table({c: table[c].cast(types.get(c, pa.int64())) for c in table.column_names})
            in_order = all(np.array_equal(rows[key].to_numpy(), frame[key].to_numpy()) for key in keys.column_names)
            if in_order and pc.all(pc.greater(pc.fill_null(rows["events"], 0), 0), min_count=0).as_py():
                return rows
            sort = "" if in_order else f"ORDER BY {order}"
            return con.sql(f"SELECT * FROM rows WHERE events > 0 {sort}").to_arrow_table()

    def slot_files(self, first: Hour, last: Hour) -> list[Path]:
        """Files with all rows of slots that may hold at the start of any of the hours first to last."""
        slots = self.clock.logs["clock_slots"]
        return files_between(slots.root, first, last, slots.holds_hours)

    def _with_known_slots(self, keys: pa.Table) -> pa.Table:
        """Every key with every slot in which its user had a row by then: most users live in few of them."""
        parts = self.slot_files(*(Hour(bound(keys["hour"]).as_py()) for bound in (pc.min, pc.max)))
        if not parts:
            return keys.slice(0, 0).append_column("slot", pa.array([], pa.int64()))
        with duck.connection(self.settings) as con:
            con.register("keys", keys)
            return con.sql(known_slots(f"read_parquet({duck.file_list(parts)})", "keys")).to_arrow_table()

    def _read(self, view: str, keys: dict[str, list[Any]], references: list[str], at: Hour) -> pa.Table:
        rows = [dict(zip(keys, values, strict=True)) for values in zip(*keys.values(), strict=True)]
        values = self.store.get_online_features(features=references, entity_rows=rows).to_dict()
        return self._table(view, keys, references, at, values)

    def _table(
        self, view: str, keys: dict[str, list[Any]], references: list[str], at: Hour, values: dict[str, list[Any]]
    ) -> pa.Table:
        """Rows of a view from the values that were read, by key; keys without events have no row."""
        names = [*keys, *(r.split(":")[1] for r in references)]
        columns = [keys[name] if name in keys else values[name] for name in names]
        events = names.index("events")
        rows = sorted(
            (row for row in zip(*columns, strict=True) if (row[events] or 0) > 0), key=itemgetter(*range(len(keys)))
        )
        types = self._types(view)
        parts = zip(*rows, strict=True) if rows else [()] * len(names)
        table = {name: pa.array(part, types.get(name, pa.int64())) for name, part in zip(names, parts, strict=True)}
        return pa.table({**table, "hour": pa.array([at.number] * len(rows), pa.int64())})

    def _types(self, view: str) -> dict[str, pa.DataType]:
        """Arrow types of a view's columns."""
        if view not in self._column_types:
            self._column_types[view] = {f.name: f.type for f in self.clock.logs[view].schema}
        return self._column_types[view]

    def _shrinkage(self) -> Shrinkage:
        state = self.clock.require_state()
        if state.config and not state.config.whole_days:
            raise NotReadyError(
                f"CLOCK_SHRINKAGE is on, but the clocks have no whole days: run 'clock features rebuild {state.as_of}'"
            )
        return Shrinkage.load(self.settings, self.facets)

    def _shrunk_offline(self, keys: pa.Table, slots: pa.Table) -> pa.Table:
        views, fitted = self.references(COLD_START_SERVICE), self._shrinkage()
        profile = self._join(keys, WHOLE_DAYS, views[WHOLE_DAYS])
        hours = keys.select(["hour"]).group_by(["hour"]).aggregate([])
        everyone = self._join(_with_slots(hours, self.settings.slots), "population_clock", views["population_clock"])
        return shrink(fitted, keys, slots, profile, everyone)


def _newest_rows(
    con: duckdb.DuckDBPyConnection, changes: ChangeLog, parts: Sequence[Path], as_of: Hour, condition: str
) -> pa.Table:
    """The newest row at an hour's start of every entity that meets a condition, by key."""
    keys, names = columns(changes.keys), columns(changes.schema.names)
    condition = f"{condition} AND as_of <= {as_of.number}"
    newest = newest_rows(f"read_parquet({duck.file_list(parts)})", keys, "as_of", condition, names)
    return con.sql(f"{newest} ORDER BY {keys}").to_arrow_table().cast(changes.schema)


def _unpacked(value: Any) -> Any:
    """A value that Feast read; of a list its elements."""
    return list(value.val) if hasattr(value, "val") else value


def _with_slots(keys: pa.Table, slots: int) -> pa.Table:
    """Every key with every slot."""
    wide = keys.take(np.repeat(np.arange(keys.num_rows), slots))
    return wide.append_column("slot", pa.array(np.tile(np.arange(slots), keys.num_rows)))

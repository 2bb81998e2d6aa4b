"""Reading and filling the feature store: point-in-time rows, the online store, one user's clock."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from core.hours import Hour, hour_range
from core.settings import Settings
from events.store import EventStore
from feature_repo.clock import VIEWS, ClockState
from feature_repo.repository import TRAINING_SERVICE, open_store
from feature_repo.tiles import DAY

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("feature_repo.retrieval")


@dataclass(frozen=True)
class Features:
    """Features of users at hours.

    ``slots`` has one row per non-empty (user_id, hour, slot) and ``profiles`` one per (user_id,
    hour) that has one; ``hour`` counts hours since 1970 UTC.
    """

    slots: pa.Table
    profiles: pa.Table


class ClockFeatures:
    """A source's features through Feast, offline and online."""

    def __init__(self, settings: Settings, events: EventStore) -> None:
        self.settings, self.events = settings, events
        self.facets = events.facets
        self.store: FeatureStore = open_store(settings, self.facets)

    def historical(self, keys: pa.Table, service: str = TRAINING_SERVICE) -> Features:
        """Features as of the start of each hour, by Feast's point-in-time join.

        Args:
            keys: distinct (user_id int64, hour int64).
            service: FeatureService whose views are read.
        """
        views = self._views(service)
        frame = keys.select(["user_id", "hour"]).to_pandas()
        frame["event_timestamp"] = pd.to_datetime(frame["hour"] * 3600, unit="s", utc=True)
        profiles = self._join(frame, views["user_profile"])
        slots = None
        if "clock_slots" in views:
            wide = frame.loc[frame.index.repeat(DAY)].reset_index(drop=True)
            wide["slot"] = np.tile(np.arange(DAY), len(frame))
            slots = self._join(wide, views["clock_slots"])
        return Features(slots=slots if slots is not None else pa.table({}), profiles=profiles)

    def online(self, user_ids: Sequence[int], at: Hour, service: str = TRAINING_SERVICE) -> Features:
        """The same features from the online store, for serving within hour ``at``.

        The rows carry ``as_of``: the hour from whose start they hold.
        """
        views = self._views(service)
        users = list(map(int, user_ids))
        profiles = self._read(views["user_profile"], {"user_id": users}, at)
        slots = pa.table({})
        if "clock_slots" in views:
            keys = {"user_id": [u for u in users for _ in range(DAY)], "slot": list(range(DAY)) * len(users)}
            slots = self._read(views["clock_slots"], keys, at)
        return Features(slots=slots, profiles=profiles)

    def materialize(self, hour: Hour) -> int:
        """Write the rows that changed at the start of ``hour`` to the online store.

        The window is explicit, so repeating an hour writes the same rows again and nothing else.

        Returns:
            Rows written.
        """
        rows = 0
        for view in VIEWS:
            changed = _changed_rows(self.settings, view, hour)
            if changed:
                self.store.materialize(
                    start_date=hour.start - timedelta(seconds=1), end_date=hour.start, feature_views=[view]
                )
            rows += changed
        log.info("materialised %s: %d rows", hour, rows)
        return rows

    def materialize_all(self, until: Hour) -> int:
        """Fill the online store with every clock as of ``until``, one slot a time.

        Returns:
            Rows written.
        """
        rows = 0
        for view in VIEWS:
            for table in _latest_rows(self.settings, view, until):
                self.store.write_to_online_store(view, table.to_pandas())
                rows += table.num_rows
        log.info("online store filled as of %s: %d rows", until, rows)
        return rows

    def _views(self, service: str) -> dict[str, list[str]]:
        """Feature references of a service by view."""
        found = self.store.get_feature_service(service)
        return {
            p.name_to_use(): [f"{p.name_to_use()}:{feature.name}" for feature in p.features]
            for p in found.feature_view_projections
        }

    def _join(self, frame: pd.DataFrame, references: list[str]) -> pa.Table:
        job = self.store.get_historical_features(entity_df=frame, features=references)
        return _present(job.to_arrow().drop_columns(["event_timestamp"]))

    def _read(self, references: list[str], keys: dict[str, list[Any]], at: Hour) -> pa.Table:
        response = self.store.get_online_features(features=references, entity_rows=_rows(keys))
        columns = response.to_dict()
        columns["hour"] = [at.number] * len(columns["user_id"])
        return _present(pa.table({name: pa.array(values) for name, values in columns.items()}))


def _rows(keys: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(keys, values, strict=True)) for values in zip(*keys.values(), strict=True)]


def _present(table: pa.Table) -> pa.Table:
    """Rows that have events, in the order of their key; an empty slot is the same as none."""
    import pyarrow.compute as pc

    table = table.filter(pc.greater(pc.fill_null(table["events"], 0), 0))
    keys = [name for name in ("user_id", "hour", "slot") if name in table.column_names]
    return table.sort_by([(key, "ascending") for key in keys])


def _changed_rows(settings: Settings, view: str, hour: Hour) -> int:
    from core import duck

    with duck.connection(settings) as con:
        files = duck.quoted(str(settings.features_dir / view / "*.parquet"))
        return int(duck.scalar(con, f"SELECT count(*) FROM read_parquet({files}) WHERE as_of = {hour.number}"))


def _latest_rows(settings: Settings, view: str, until: Hour) -> list[pa.Table]:
    """The rows that hold at ``until``, by slot."""
    from core import duck

    files = duck.quoted(str(settings.features_dir / view / "*.parquet"))
    parts = []
    with duck.connection(settings) as con:
        for slot in range(DAY) if view == "clock_slots" else [DAY]:
            rows = con.sql(
                f"""SELECT * FROM read_parquet({files}) WHERE slot = {slot} AND as_of <= {until.number}
                QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY as_of DESC) = 1 ORDER BY user_id"""
            ).to_arrow_table()
            if rows.num_rows:
                parts.append(rows if view == "clock_slots" else rows.drop_columns(["slot"]))
    return parts


def advance(settings: Settings, until: Hour) -> dict[str, Any]:
    """Bring clocks and online store to ``until``: by refreshes where the state allows, else by a rebuild.

    Running it again writes the same rows again.

    Returns:
        ``as_of``, ``refreshed`` (hours), ``rebuilt`` (bool), ``online_rows`` written.
    """
    state = ClockState(settings, EventStore(settings.events_dir))
    current = state.read()
    if current is None or current["config"] != state.config:
        state.rebuild(until)
        rows = ClockFeatures(settings, state.store).materialize_all(until)
        return {"as_of": until.key, "refreshed": 0, "rebuilt": True, "online_rows": rows}
    at = Hour.parse(current["as_of"])
    if until < at:
        return {"as_of": at.key, "refreshed": 0, "rebuilt": False, "online_rows": 0}
    rows = 0
    hours = list(hour_range(at + 1, until + 1)) or [until]
    features = ClockFeatures(settings, state.store)
    for hour in hours:
        state.refresh(hour)
        rows += features.materialize(hour)
    return {"as_of": until.key, "refreshed": len(hours), "rebuilt": False, "online_rows": rows}

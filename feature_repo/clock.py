"""The state of the interest clock: full rebuild, and the refresh of one hour.

Layout below the workspace's ``features``::

    state.json                     as-of hour, settings it holds for, digest of every hour in the window
    tiles/<hour>.parquet           counts of each hour in the window
    sums/<slot>-<as of>.parquet    window sums of one slot; state.json names the valid ones
    clock_slots/<a>--<b>.parquet   clock rows that changed in hours a to b: Feast's offline source
    user_profile/<a>--<b>.parquet  the same for the whole day (slot ``DAY``)

``state.json`` is renamed into place last, so a crash leaves the state of the hour before whole;
files that no state names are overwritten by the next try.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import duck
from core.duck import identifier, quoted, scalar
from core.errors import DataError, NotReadyError
from core.files import digest_json, exclusive_lock, read_json, write_json, write_parquet
from core.hours import Hour, hour_range
from core.settings import Settings
from events.store import EventStore
from feature_repo.tiles import COUNTS, DAY, TILE_SCHEMA, clock_table, hour_tile, tiles_sql, window_start

log = logging.getLogger("feature_repo.clock")

VIEWS = ("clock_slots", "user_profile")
HISTORY_PAIRS = 20_000
"""Pairs (user, slot) whose history is computed at a time: bounds the memory of a rebuild."""


@dataclass(frozen=True)
class Refreshed:
    """What a rebuild or refresh did."""

    as_of: str
    slots_changed: int
    users_changed: int
    hours_corrected: int
    full: bool


class ClockState:
    """The interest clocks of one source, as of one hour."""

    def __init__(self, settings: Settings, store: EventStore) -> None:
        self.settings, self.store = settings, store
        self.root = settings.features_dir
        self.facets = store.facets

    @property
    def _path(self) -> Path:
        return self.root / "state.json"

    @property
    def config(self) -> dict[str, Any]:
        """Everything that the sums and the clock rows depend on besides the events."""
        return {
            "facets": self.facets,
            "window_hours": self.settings.window_hours,
            "top_k": self.settings.top_k,
            "weights": self.settings.score_weights,
        }

    def read(self) -> dict[str, Any] | None:
        """The state's description, or None before the first rebuild."""
        return read_json(self._path) if self._path.exists() else None

    @property
    def as_of(self) -> Hour | None:
        state = self.read()
        return Hour.parse(state["as_of"]) if state else None

    def rebuild(self, as_of: Hour) -> Refreshed:
        """Compute every clock of every hour up to ``as_of`` from the events, and start over from it.

        Raises:
            NotReadyError: an hour before ``as_of`` that follows the first event was never closed.
        """
        with exclusive_lock(self.root / ".lock"):
            hours = [hour for hour in self.store.hours() if hour < as_of]
            if not hours:
                raise NotReadyError(f"no events before {as_of}; ingest a log first")
            self._require_closed(hours[0], as_of)
            log.info("rebuilding clocks of %s to %s", hours[0], as_of)
            with duck.connection(self.settings, spill_to_file=True) as con:
                result = self._rebuild(con, as_of, hours)
        log.info("clocks as of %s: %d slots, %d users", as_of, result.slots_changed, result.users_changed)
        return result

    def refresh(self, as_of: Hour) -> Refreshed:
        """Bring the state from ``as_of − 1`` to ``as_of``.

        Adds the tile of the hour that ended, takes off the one that expired, and corrects hours of
        the window whose events changed since (late events). A second call changes nothing.

        Raises:
            NotReadyError: the state is not at ``as_of − 1``, or the hour that ended is not closed.
        """
        with exclusive_lock(self.root / ".lock"):
            state = self.read()
            if state is None:
                raise NotReadyError(f"no clocks yet; run 'python -m feature_repo rebuild {as_of - 1}' first")
            if state["config"] != self.config:
                raise DataError("the clock's settings changed; run 'python -m feature_repo rebuild' to apply them")
            at = Hour.parse(state["as_of"])
            if at > as_of:
                raise NotReadyError(f"clocks are as of {at}, later than {as_of}; nothing to do for an earlier hour")
            if at < as_of - 1:
                raise NotReadyError(f"clocks are as of {at}; refresh {at + 1} before {as_of} (hours are not skipped)")
            self._require_closed(as_of - 1, as_of)
            with duck.connection(self.settings) as con:
                return self._refresh(con, state, at, as_of)

    def _require_closed(self, first: Hour, end: Hour) -> None:
        for hour in hour_range(first, end):
            self.store.manifest(hour)  # raises NotReadyError, which names the hour

    def _rebuild(self, con: duckdb.DuckDBPyConnection, as_of: Hour, hours: list[Hour]) -> Refreshed:
        full = [self._events(hour) for hour in hours if self.store.manifest(hour).rows]
        if not full:
            raise NotReadyError(f"no events before {as_of}; every closed hour is empty")
        con.execute(f"CREATE TABLE tiles AS {tiles_sql(full, self.facets, with_hour=True)}")
        first = window_start(as_of, self.settings.window_hours)
        digests = {hour.key: self.store.manifest(hour).digest for hour in hours if hour >= first}
        for hour in (h for h in hours if h >= first):
            columns = ", ".join(identifier(name) for name in TILE_SCHEMA.names)
            tile = con.sql(
                f"SELECT {columns} FROM tiles WHERE hour = {hour.number} ORDER BY user_id, slot, facet, value"
            )
            write_parquet(self._tile_file(hour), tile.to_arrow_table().cast(TILE_SCHEMA))
        con.execute(
            f"""CREATE TABLE sums AS SELECT user_id, slot, facet, value, {_summed()} FROM tiles
            WHERE hour >= {first.number} GROUP BY ALL"""
        )
        files = {slot: self._write_sums(con, slot, as_of) for slot in range(DAY + 1)}
        self._path.unlink(missing_ok=True)  # from here to the commit a crash means: rebuild again
        for view in VIEWS:
            rows = self._history(con, view, hours[0], as_of)
            for old in self._sources(view):
                old.unlink()
            write_parquet(self.root / view / _span_name(hours[0] + 1, as_of), rows)
        slots, users = (
            scalar(con, f"SELECT count(DISTINCT (user_id, slot)) FROM sums WHERE slot {test} {DAY}")
            for test in ("<", "=")
        )
        self._commit(as_of, digests, files)
        return Refreshed(as_of.key, slots, users, 0, full=True)

    def _history(self, con: duckdb.DuckDBPyConnection, view: str, after: Hour, as_of: Hour) -> pa.Table:
        """Clock rows at every moment of change in (after, as_of], from the table ``tiles`` (with hours)."""
        window = self.settings.window_hours
        test = f"slot {'<' if view == 'clock_slots' else '='} {DAY}"
        con.execute(
            f"""CREATE OR REPLACE TABLE moments AS SELECT DISTINCT user_id, slot, hour + 1 + shift AS as_of
            FROM (SELECT DISTINCT user_id, slot, hour FROM tiles WHERE {test}), (VALUES (0), ({window})) s(shift)
            WHERE as_of > {after.number} AND as_of <= {as_of.number}"""
        )
        con.execute(
            f"""CREATE OR REPLACE TABLE batches AS SELECT user_id,
            CAST(sum(count(*)) OVER (ORDER BY user_id) // {HISTORY_PAIRS} AS BIGINT) AS batch FROM moments GROUP BY user_id"""
        )
        pieces = []
        for (batch,) in con.execute("SELECT DISTINCT batch FROM batches ORDER BY batch").fetchall():
            con.execute(
                f"""CREATE OR REPLACE TABLE batch_moments AS
                SELECT m.* FROM moments m JOIN batches b USING (user_id) WHERE b.batch = {batch}"""
            )
            con.execute(
                f"""CREATE OR REPLACE TABLE window_sums AS
                SELECT m.as_of, m.user_id, m.slot, t.facet, t.value, {_summed("t.")}
                FROM batch_moments m JOIN tiles t ON t.user_id = m.user_id AND t.slot = m.slot
                AND t.hour >= m.as_of - {window} AND t.hour < m.as_of GROUP BY ALL"""
            )
            pieces.append(self._clock(con, "window_sums", "batch_moments"))
        return pa.concat_tables(pieces) if pieces else self._empty_clock(con)

    def _refresh(self, con: duckdb.DuckDBPyConnection, state: dict[str, Any], at: Hour, as_of: Hour) -> Refreshed:
        known: dict[str, str] = state["tiles"]
        first = window_start(as_of, self.settings.window_hours)
        late = [
            hour
            for hour in self.store.hours()
            if first <= hour < at and self.store.manifest(hour).digest != known.get(hour.key, "")
        ]
        if at == as_of and not late:
            return Refreshed(as_of.key, 0, 0, 0, full=False)
        expired = [Hour.parse(key) for key in known if Hour.parse(key) < first]
        added = [*([as_of - 1] if at < as_of else []), *late]
        con.execute(f"CREATE TABLE delta AS SELECT *, 1 AS sign FROM ({_empty_tile()})")
        for hour in (*expired, *(h for h in late if h.key in known)):
            con.execute(f"INSERT INTO delta SELECT *, -1 FROM read_parquet({quoted(str(self._tile_file(hour)))})")
        fresh = {hour: hour_tile(con, self._events(hour), self.facets) for hour in added}
        for tile in fresh.values():
            con.register("tile", tile)
            con.execute("INSERT INTO delta SELECT *, 1 FROM tile")
            con.unregister("tile")
        touched = [row[0] for row in con.execute("SELECT DISTINCT slot FROM delta ORDER BY slot").fetchall()]
        files = {int(slot): name for slot, name in state["sums"].items()}
        old = [quoted(str(self.root / "sums" / files[slot])) for slot in touched]
        before = f"SELECT *, 1 AS sign FROM read_parquet([{', '.join(old)}])" if old else "SELECT * FROM delta"
        con.execute(
            f"""CREATE TABLE sums AS SELECT user_id, slot, facet, value, {_summed(sign=True)}
            FROM (SELECT * FROM delta {"UNION ALL " + before if old else ""})
            GROUP BY user_id, slot, facet, value HAVING sum(sign * events) <> 0"""
        )
        con.execute(f"CREATE TABLE keys AS SELECT DISTINCT {as_of.number} AS as_of, user_id, slot FROM delta")
        con.execute(
            f"CREATE VIEW keyed AS SELECT {as_of.number} AS as_of, s.* FROM sums s SEMI JOIN keys USING (user_id, slot)"
        )
        rows = self._clock(con, "keyed", "keys")
        for slot in touched:
            files[slot] = self._write_sums(con, slot, as_of, generation=state["generation"] + 1)
        for hour, tile in fresh.items():
            write_parquet(self._tile_file(hour), tile)
        digests = {k: v for k, v in known.items() if Hour.parse(k) >= first}
        digests |= {hour.key: self.store.manifest(hour).digest for hour in added}
        if late:
            self._correct(con, late, as_of)
        self._write_changes(rows, as_of)
        self._commit(as_of, digests, files, generation=state["generation"] + 1)
        day = pc.sum(pc.equal(rows["slot"], DAY)).as_py() or 0
        return Refreshed(as_of.key, rows.num_rows - day, day, len(late), full=False)

    def _correct(self, con: duckdb.DuckDBPyConnection, late: list[Hour], as_of: Hour) -> None:
        """Write the clock rows again that stand on late hours, for the pairs those hours touch."""
        start, window = min(late), self.settings.window_hours
        files = [
            self._events(hour)
            for hour in self.store.hours()
            if start - window <= hour < as_of and self.store.manifest(hour).rows
        ]
        names = ", ".join(quoted(str(self._events(hour))) for hour in late)
        con.execute(f"""CREATE TABLE late_users AS SELECT DISTINCT user_id FROM read_parquet([{names}])""")
        con.execute(
            f"""CREATE OR REPLACE TABLE tiles AS
            SELECT t.* FROM ({tiles_sql(files, self.facets, with_hour=True)}) t SEMI JOIN late_users USING (user_id)"""
        )
        for view in VIEWS:
            rows = self._history(con, view, start, as_of)
            con.register("rows", rows)
            for file in sorted((self.root / view).glob("*.parquet")):
                begin, end = _span(file)
                if end <= start:
                    continue
                columns = ", ".join(map(identifier, rows.column_names))
                merged = con.sql(
                    f"""SELECT {columns} FROM read_parquet({quoted(str(file))}) f
                    WHERE as_of <= {start.number} OR user_id NOT IN (SELECT user_id FROM late_users)
                    UNION ALL SELECT {columns} FROM rows WHERE as_of >= {begin.number} AND as_of <= {end.number}
                    ORDER BY user_id, slot, as_of"""
                ).to_arrow_table()
                write_parquet(file, merged.cast(rows.schema))
            con.unregister("rows")

    def _clock(self, con: duckdb.DuckDBPyConnection, sums: str, keys: str) -> pa.Table:
        return clock_table(con, sums, keys, self.facets, self.settings.score_weights, self.settings.top_k)

    def _empty_clock(self, con: duckdb.DuckDBPyConnection) -> pa.Table:
        con.execute(f"CREATE OR REPLACE TABLE no_sums AS SELECT CAST(0 AS BIGINT) AS as_of, * FROM ({_empty_tile()})")
        return self._clock(con, "no_sums", "no_sums")

    def _write_sums(self, con: duckdb.DuckDBPyConnection, slot: int, as_of: Hour, generation: int = 0) -> str:
        columns = ", ".join(identifier(name) for name in TILE_SCHEMA.names)
        rows = con.sql(f"SELECT {columns} FROM sums WHERE slot = {slot} ORDER BY user_id, facet, value")
        name = f"{slot:02d}-{as_of.key}-{generation}.parquet"
        write_parquet(self.root / "sums" / name, rows.to_arrow_table().cast(TILE_SCHEMA))
        return name

    def _write_changes(self, rows: pa.Table, as_of: Hour) -> None:
        """Put an hour's rows into the sources, and merge the hours of finished days into one file."""
        whole_day = pc.equal(rows["slot"], DAY)
        for view, part in (
            ("clock_slots", rows.filter(pc.invert(whole_day))),
            ("user_profile", rows.filter(whole_day)),
        ):
            covering = [f for f in self._sources(view) if _span(f)[0] <= as_of <= _span(f)[1]]
            file = covering[0] if covering else self.root / view / _span_name(as_of, as_of)
            if covering:
                part = _replace_rows(pq.ParquetFile(file).read(), part)
            write_parquet(file, part)
            self._compact(view, as_of)

    def _compact(self, view: str, as_of: Hour) -> None:
        hourly = [f for f in self._sources(view) if _span(f)[0] == _span(f)[1] and _span(f)[1].day < as_of.day]
        if not hourly:
            return
        table = pa.concat_tables([pq.ParquetFile(f).read() for f in hourly])
        span = min(_span(f)[0] for f in hourly), max(_span(f)[1] for f in hourly)
        merged = table.sort_by([("user_id", "ascending"), ("slot", "ascending"), ("as_of", "ascending")])
        if span[0] != span[1]:
            write_parquet(self.root / view / _span_name(*span), merged)
            for file in hourly:
                file.unlink()

    def _sources(self, view: str) -> list[Path]:
        return sorted((self.root / view).glob("*.parquet"))

    def _events(self, hour: Hour) -> Path:
        return self.store.partition(hour) / "events.parquet"

    def _tile_file(self, hour: Hour) -> Path:
        return self.root / "tiles" / f"{hour.key}.parquet"

    def _commit(self, as_of: Hour, tiles: dict[str, str], sums: dict[int, str], generation: int = 0) -> None:
        state = {
            "as_of": as_of.key,
            "generation": generation,
            "config": self.config,
            "tiles": tiles,
            "sums": {str(slot): name for slot, name in sums.items()},
        }
        write_json(self._path, {**state, "digest": digest_json(state)})
        self._sweep({self._tile_file(Hour.parse(k)).name for k in tiles}, "tiles")
        self._sweep(set(sums.values()), "sums")

    def _sweep(self, keep: Iterable[str], folder: str) -> None:
        wanted = set(keep)
        for file in (self.root / folder).glob("*.parquet"):
            if file.name not in wanted:
                file.unlink()


def _replace_rows(table: pa.Table, rows: pa.Table) -> pa.Table:
    """``table`` with ``rows`` in the place of its rows of equal (user, slot, moment)."""
    keys = ["user_id", "slot", "as_of"]
    mark = rows.select(keys).append_column("fresh", pa.array([True] * rows.num_rows, pa.bool_()))
    numbered = table.select(keys).append_column("position", pa.array(range(table.num_rows), pa.int64()))
    kept = numbered.join(mark, keys, join_type="left anti")["position"]
    table = table.take(kept.combine_chunks().sort())
    return pa.concat_tables([table, rows]).sort_by([(key, "ascending") for key in keys])


def _summed(prefix: str = "", *, sign: bool = False) -> str:
    factor = "sign * " if sign else ""
    return ", ".join(f"CAST(sum({factor}{prefix}{identifier(c)}) AS BIGINT) AS {identifier(c)}" for c in COUNTS)


def _empty_tile() -> str:
    types = {
        "user_id": "BIGINT",
        "slot": "BIGINT",
        "facet": "VARCHAR",
        "value": "VARCHAR",
        **dict.fromkeys(COUNTS, "BIGINT"),
    }
    return "SELECT " + ", ".join(f"CAST(NULL AS {t}) AS {identifier(n)}" for n, t in types.items()) + " WHERE false"


def _span_name(first: Hour, last: Hour) -> str:
    return f"{first.key}--{last.key}.parquet"


def _span(file: Path) -> tuple[Hour, Hour]:
    first, last = file.stem.split("--")
    return Hour.parse(first), Hour.parse(last)

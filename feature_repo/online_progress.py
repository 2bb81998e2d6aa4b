"""How far the online store is filled, so that what an interrupted run left out is made up for by the next one.

The clocks' own state says nothing of it: it is committed before the online store is written. ``feast/online.json`` is written
after that, and dropped by a rebuild. Beside it lie the users' attributes as they were written last.
"""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq

from core.documents import JsonObject
from core.duck import identifier
from core.files import read_json, write_json
from core.hours import Hour
from core.settings import Settings
from core.sql_engine import Engine, parquet_parts
from events.store import EventStore
from feature_repo.sql import newest_rows


class OnlineProgress:
    """The hour as of which the online store holds every row.

    Args:
        settings: of the workspace; of another store than that of the settings nothing is known.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = settings.workspace / "feast" / "online.json"
        self._store = settings.redis_url if settings.online_store == "redis" else settings.online_store

    @property
    def as_of(self) -> Hour | None:
        """The hour; None where it is not known, and the store has to be filled anew."""
        content = self._read()
        return Hour.parse(content["as_of"]) if content else None

    @property
    def changing(self) -> bool:
        """Whether rows as of that hour may differ from those that were written, as late events were about to change them."""
        return bool(self._read().get("changing"))

    def _read(self) -> JsonObject:
        """What is noted of this store; empty if nothing is."""
        content = read_json(self.path) if self.path.exists() else {}
        return content if content.get("store") == self._store else {}

    def note(self, as_of: Hour, *, changing: bool = False) -> None:
        """Note that every row as of an hour has been written.

        Args:
            as_of: the hour.
            changing: the rows that the change logs tell as of the hour are about to change.
        """
        write_json(self.path, {"as_of": as_of.key, "store": self._store, **({"changing": True} if changing else {})})

    def forget(self) -> None:
        """From here on the store has to be filled anew."""
        self.path.unlink(missing_ok=True)


class OnlineAttributes:
    """The users' attributes that the online store lacks: what differs from those that were written last.

    A table beside the log tells attributes late, too: of an hour that has been written already.

    Args:
        settings: of the workspace.
        events: of the source.
    """

    def __init__(self, settings: Settings, events: EventStore) -> None:
        self.path, self.schema = events.attribute_file("user"), events.attribute_schema("user")
        self._told = bool(events.attribute_fields("user"))
        self.written = settings.workspace / "feast" / "user_attributes"
        """What was written last: a folder of Parquet files."""
        self._mark, self._pending = self.written.with_suffix(".json"), self.written.with_suffix(".pending")
        self._read_file: dict[str, int] = {}
        self.columns: list[str] = []
        """Those of the schema that the file had when it was read."""

    def due(self, as_of: Hour, *, whole: bool) -> Hour | None:
        """The hour as of which attributes have to be written; None where what was written last holds.

        Args:
            as_of: hour as of which the clocks hold.
            whole: write everybody's, whatever was written last.
        """
        if not (self._told and self.path.exists()):
            return None
        if whole or not self._mark.exists():
            return as_of
        last = read_json(self._mark)
        noted = Hour.parse(last["as_of"])
        if last["file"] != self._file():
            return max(as_of, noted)
        begun = [("event_timestamp", ">", noted.start), ("event_timestamp", "<=", as_of.start)]
        return as_of if pq.read_table(self.path, columns=["event_timestamp"], filters=begun).num_rows else None

    def missing(self, running: Engine, as_of: Hour, *, whole: bool) -> str:
        """Read the attributes; returns a SELECT of ``columns`` of the users whose own are not those that were written last.

        What is read is kept aside, for ``note``: an ingestion may replace the file meanwhile.

        Args:
            running: computes it.
            as_of: hour at whose start they hold.
            whole: of all users.
        """
        known = {*pq.read_schema(self.path).names}
        self._read_file, self.columns = self._file(), [name for name in self.schema.names if name in known]
        running.write(self._newest(running, as_of), self._pending)
        rows = f"SELECT * FROM {running.files(parquet_parts(self._pending))} n"
        parts = parquet_parts(self.written) if self.written.exists() else []
        if not whole and parts and pq.read_schema(parts[0]).names == self._kept_names:
            rows = f"{rows} EXCEPT SELECT * FROM {running.files(parts)} w"
        start = running.hour_start("hour")
        cells = (f"{start} AS {name}" if name == "event_timestamp" else identifier(name) for name in self.columns)
        return f"SELECT {', '.join(cells)} FROM ({rows}) m"

    def note(self, as_of: Hour) -> None:
        """Note that what ``missing`` gave has been written."""
        self._mark.unlink(missing_ok=True)
        shutil.rmtree(self.written, ignore_errors=True)
        self._pending.rename(self.written)
        write_json(self._mark, {"as_of": as_of.key, "file": self._read_file})

    @property
    def _kept_names(self) -> list[str]:
        return ["hour" if name == "event_timestamp" else name for name in self.columns]

    def _newest(self, running: Engine, as_of: Hour) -> str:
        """SELECT of each user's last attributes as of an hour; the moment from which they hold is the number of an hour."""
        hour = f"{running.hour_number('event_timestamp')} AS hour"
        names = ", ".join(hour if name == "event_timestamp" else f'"{name}"' for name in self.columns)
        begun = f"event_timestamp <= {running.hour_start(str(as_of.number))}"
        return newest_rows(running.files([self.path]), "user_id", "event_timestamp", begun, names)

    def _file(self) -> dict[str, int]:
        stat = self.path.stat()
        return {"bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}

"""Removes people from what was computed of their events: clocks, recent behaviors, the online store, the log of what was served."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import NotReadyError
from core.files import exclusive_lock, write_parquet
from core.hours import Hour
from core.settings import Settings
from events.forgotten import Person
from events.store import EventStore
from feature_repo.behavior_state import BehaviorState
from feature_repo.clock import ClockState
from feature_repo.materialization import Materialization
from feature_repo.retrieval import ClockFeatures
from feature_repo.served import served_hours

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("feature_repo.forget")

LOCK_SECONDS = 60
"""How long another process may keep a SQLite file locked."""


def forget_features(settings: Settings, people: Sequence[Person], as_of: Hour) -> dict[str, int]:
    """Compute the clocks again from the events, which no longer have these people, and take them out of the online store.

    A rebuild writes the sums and the change logs whole: what one person added to everybody's clock and to items' counts is no
    longer in them, and the clocks of all others are what they were.

    Args:
        settings: of the workspace.
        people: whose events were removed.
        as_of: hour at whose start the clocks held.

    Returns:
        Rows of recent behaviors and entries of the online store that were removed.
    """
    numbers = [person.number for person in people if person.number is not None]
    clock = ClockState(settings, EventStore(settings.events_dir))
    behaviors = _forget_behaviors(clock, numbers)
    as_of = max(as_of, clock.as_of or as_of)  # an hour may have been refreshed meanwhile
    clock.rebuild(as_of)
    features = ClockFeatures(settings, clock.store)
    online = forget_online(features.store, numbers)
    Materialization(features).materialize_all(as_of)
    return {"recent_behaviors": behaviors, "online": online}


def _forget_behaviors(clock: ClockState, numbers: Sequence[int]) -> int:
    state = BehaviorState(clock)
    if not state.path.exists():
        return 0
    with exclusive_lock(state.root / ".lock"):
        return delete_rows(state.path, {"behaviors": ("user_id", list(numbers))})


def delete_rows(path: Path, conditions: dict[str, tuple[str, list[Any]]]) -> int:
    """Delete rows from a SQLite file, and their bytes with them.

    Args:
        path: the file.
        conditions: by table a column, and its values in the rows to delete.

    Returns:
        Rows deleted.
    """
    deleted = 0
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as con:
        con.execute("PRAGMA secure_delete = ON")
        for table, (column, values) in conditions.items():
            quoted_table = '"' + table.replace('"', '""') + '"'
            for value in values:
                deleted += con.execute(f"DELETE FROM {quoted_table} WHERE {column} = ?", (value,)).rowcount  # nosec B608
        con.execute("VACUUM")
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return deleted


def forget_online(store: FeatureStore, numbers: Sequence[int]) -> int:
    """Delete users from the online store, which Feast has no call for.

    Args:
        store: Feast's.
        numbers: the platform's numbers of the users.

    Returns:
        Rows (SQLite) or entities (Redis) deleted.
    """
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.infra.online_stores.helpers import _redis_key
    from feast.infra.online_stores.sqlite import SqliteOnlineStoreConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    config = store.config
    version = config.entity_key_serialization_version
    keys = [EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=number)]) for number in numbers]
    if isinstance(config.online_store, SqliteOnlineStoreConfig):  # Feast's own, or ours of ``sqlite_store``
        path = Path(config.online_store.path)
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as con:
            tables = [name for (name,) in con.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            columns = {
                name: {row[0] for row in con.execute("SELECT name FROM pragma_table_info(?)", (name,))}
                for name in tables
            }
        values = [serialize_entity_key(key, entity_key_serialization_version=version) for key in keys]
        return delete_rows(path, {name: ("entity_key", values) for name in tables if "entity_key" in columns[name]})
    from redis.exceptions import RedisError

    try:
        online: Any = store._get_provider().online_store
        client = online._get_client(config.online_store)
        return int(client.delete(*(_redis_key(config.project, key, version) for key in keys))) if keys else 0
    except RedisError as error:
        raise NotReadyError(f"Redis does not answer ({error}); start it, then run 'clock forget' again") from None


def forget_served(settings: Settings, people: Sequence[Person]) -> dict[str, int]:
    """Remove people from the log of requests and of the features that they were answered with.

    Returns:
        Requests removed, those of the shadow model included, and rows of features.
    """
    keys = pa.array([person.key for person in people], pa.string())
    numbers = pa.array([person.number for person in people if person.number is not None], pa.int64())
    removed = {"requests": 0, "served_features": 0}
    for folder in served_hours(settings):
        requests: list[pa.Array] = []
        files = sorted(folder.glob("*.parquet"), key=lambda path: (not path.name.startswith("requests-"), path.name))
        for path in files:
            table = pq.ParquetFile(path).read()
            kind = path.name.split("-")[0]
            if kind == "requests":
                gone = pc.or_(pc.is_in(table["user"], keys), pc.is_in(table["user_id"], numbers))
                requests += table.filter(gone)["request_id"].chunks
            elif kind == "shadow":
                gone = pc.is_in(table["request_id"], pa.chunked_array(requests, pa.string()))
            else:
                gone = pc.is_in(table["user_id"], numbers)
            if count := int(pc.sum(gone).as_py() or 0):
                removed["requests" if kind in {"requests", "shadow"} else "served_features"] += count
                write_parquet(path, table.filter(pc.invert(gone)))
    return removed

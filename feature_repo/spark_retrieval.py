"""Features as of the start of each hour, joined on Spark: what ``ClockFeatures.historical`` gives, as queries that have not run.

Keys are a table of the engine, and so is what comes of them: no row reaches the driver.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import yaml

from core.files import write_text
from core.hours import DAY_HOURS, Hour, hour_range
from core.settings import Settings
from core.sql_engine import Engine
from events.schema import Owner
from events.store import EventStore
from feature_repo.behavior_state import IN_ORDER, behaviors_sql
from feature_repo.recent import SCHEMA
from feature_repo.repository import TRAINING_SERVICE, repo_config, spark_offline_store
from feature_repo.retrieval import ClockFeatures
from feature_repo.sql import known_slots

if TYPE_CHECKING:
    from feast import FeatureStore


class Features(NamedTuple):
    """Features that have not been computed.

    Attributes:
        sql: SELECT of them, with the column ``hour``.
        schema: of the rows without the hour, as ``ClockFeatures.historical`` gives them.
    """

    sql: str
    schema: pa.Schema


TYPES = {
    pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.string(): "STRING", pa.timestamp("us", tz="UTC"): "TIMESTAMP",
}  # fmt: skip


class SparkRetrieval:
    """Joins on Spark, through Feast's offline store.

    Args:
        features: of the source.
        running: has the tables of keys.
        first: hour of any key.
        last: hour of any key.

    Raises:
        DataError: the change logs do not tell what features were at the first hour.
    """

    def __init__(self, features: ClockFeatures, running: Engine, first: Hour, last: Hour) -> None:
        features.check_known(first)
        self.features, self.engine = features, running
        self.store = _open_store(features.settings, features.events)
        self.first, self.last = first, last

    def profiles(self, users: str) -> Features:
        """Users' activity; those without any have no row.

        Args:
            users: table of distinct (user_id, hour).
        """
        return self._active("user_activity", f"SELECT user_id, hour FROM {users}")

    def slots(self, users: str) -> Features:
        """Users' clocks, one row for each slot that is not empty.

        Args:
            users: table of distinct (user_id, hour).
        """
        files = self.features.slot_files(self.first, self.last)
        keys = f"SELECT user_id, hour, CAST(0 AS BIGINT) AS slot FROM {users} WHERE 1 = 0"
        return self._active("clock_slots", known_slots(self.engine.files(files), users) if files else keys)

    def attributes(self, owner: Owner, keys: str) -> Features | None:
        """What tables beside the log tell, one row for each key; None where there is no such table.

        Args:
            owner: user or item.
            keys: table of distinct (user_id or item_id, hour).
        """
        references = self.features.attribute_references(owner)
        if not references:
            return None
        types = {f.name: f.type for f in self.features.events.attribute_schema(owner)}
        names = [f"{owner}_id", *(r.split(":")[1] for r in references)]
        schema = pa.schema([(name, types.get(name, pa.int64())) for name in names])
        return self._joined(f"SELECT {owner}_id, hour FROM {keys}", references, schema)

    def histories(self, users: str) -> Features:
        """Users' recent behaviors in the columns of ``recent.SCHEMA``; those without any have no row.

        Every behavior of a user gets its number; a history is the numbers up to that of the last behavior before its hour.

        Args:
            users: table of distinct (user_id, hour).
        """
        clock, settings = self.features.clock, self.features.settings
        reach, length = DAY_HOURS * settings.history_days, settings.history_length
        files = clock.store.event_files(list(hour_range(self.first - reach, self.last)))
        schema = SCHEMA.remove(SCHEMA.get_field_index("hour"))
        if not files or not length:
            return Features(f"SELECT {cast_columns(schema, ())}, CAST(NULL AS BIGINT) AS hour WHERE 1 = 0", schema)
        log = behaviors_sql(
            self.engine, self.engine.files(files), settings, f"e.user_id IN (SELECT user_id FROM {users})"
        )
        numbered = f"""SELECT user_id, items, minutes, hours,
            row_number() OVER (PARTITION BY user_id ORDER BY {IN_ORDER}) AS number FROM ({log}) l"""
        self.engine.table("numbered_behaviors", numbered, by=("user_id",))
        before = f"""SELECT user_id, hour, before FROM (
            SELECT *, sum(1 - asked) OVER (
                PARTITION BY user_id ORDER BY hour, asked DESC ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
            FROM (SELECT user_id, hour, 1 AS asked FROM {users} UNION ALL SELECT user_id, hours, 0 FROM numbered_behaviors) u
            ) c WHERE asked = 1 AND before > 0"""
        chosen = f"""SELECT user_id, hour, explode(sequence(greatest(before - {length - 1}, CAST(1 AS BIGINT)), before)) AS number
            FROM ({before}) b"""
        lists = ", ".join(f"transform(behaviors, b -> b.{name}) AS {name}" for name in ("items", "minutes", "hours"))
        sql = f"""SELECT user_id, hour, {lists} FROM (
            SELECT c.user_id, c.hour, array_sort(collect_list(struct(n.number, n.items, n.minutes, n.hours))) AS behaviors
            FROM ({chosen}) c JOIN numbered_behaviors n ON n.user_id = c.user_id AND n.number = c.number
            WHERE n.hours >= c.hour - {reach} GROUP BY c.user_id, c.hour) h"""
        return Features(sql, schema)

    def _active(self, view: str, keys: str) -> Features:
        """The rows of a view that have events, for keys with an hour."""
        references = self.features.references(TRAINING_SERVICE)[view]
        columns = [*self.features.clock.logs[view].keys, *(r.split(":")[1] for r in references)]
        types = {field.name: field.type for field in self.features.clock.logs[view].schema}
        joined = self._joined(keys, references, pa.schema([(name, types[name]) for name in columns]))
        return Features(f"SELECT * FROM ({joined.sql}) j WHERE events > 0", joined.schema)

    def _joined(self, keys: str, references: list[str], schema: pa.Schema) -> Features:
        """Features of keys with an hour, by Feast."""
        entities = f"SELECT k.*, {self.engine.hour_start('k.hour')} AS event_timestamp FROM ({keys}) k"
        job: Any = self.store.get_historical_features(entity_df=entities, features=references)
        return Features(f"SELECT {cast_columns(schema)}, hour FROM ({job.query}) q", schema)


def _open_store(settings: Settings, events: EventStore) -> FeatureStore:
    """The feature store of a source, whatever its offline store is, with Spark's; its definitions were applied."""
    from feast import FeatureStore

    folder = settings.workspace / "feast"
    config = {**repo_config(settings, events), "offline_store": spark_offline_store(settings)}
    write_text(folder / "spark.yaml", yaml.safe_dump(config, sort_keys=False))
    return FeatureStore(repo_path=str(folder), fs_yaml_file=folder / "spark.yaml")


def cast_columns(schema: pa.Schema, known: Container[str] | None = None) -> str:
    """SQL of the columns of a schema in its types.

    Args:
        schema: with the columns.
        known: those that the rows have, the others are null; None: they have all.
    """
    names = ((f.name, f'"{f.name}"' if known is None or f.name in known else "NULL", f.type) for f in schema)
    return ", ".join(f'CAST({value} AS {_type(kind)}) AS "{name}"' for name, value, kind in names)


def _type(kind: pa.DataType) -> str:
    """A type in Spark's SQL."""
    return f"ARRAY<{TYPES[kind.value_type]}>" if pa.types.is_list(kind) else TYPES[kind]

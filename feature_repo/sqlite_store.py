"""Feast's online store in SQLite, written a batch at a time: same file, same tables, same values.

Feast's own class runs a statement for each value and converts the same two moments anew for each of them, and again the moment
of each value that it reads. It also keeps an index of the tables' keys, which their primary keys begin with: kept up for
nothing, with each row that is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import TYPE_CHECKING, Any, Literal

from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.infra.online_stores.sqlite import (
    SqliteOnlineStore,
    SqliteOnlineStoreConfig,
    _quote_id,
    _table_id,
    adapt_datetime_epoch,
    convert_timestamp,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import to_naive_utc

if TYPE_CHECKING:
    from feast import Entity, FeatureView, RepoConfig

    Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
    NumberedRow = tuple[int, dict[str, Value], datetime]
    EncodedRow = tuple[bytes, dict[str, Value], datetime, datetime | None]

COLUMNS = ("entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts")
KEYS = COLUMNS[:2]
INT64 = Struct("<q")
"""How a key's number is written."""


class BatchedSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """Feast's options of a SQLite store; Feast finds this class by its name."""

    type: Literal["feature_repo.sqlite_store.BatchedSqliteOnlineStore"] = (
        "feature_repo.sqlite_store.BatchedSqliteOnlineStore"  # type: ignore[assignment]
    )


class BatchedSqliteOnlineStore(SqliteOnlineStore):
    """SQLite that takes a batch by one prepared statement."""

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make the views' tables as Feast's own class does, without the second index of each."""
        super().update(config, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial)
        with self._get_conn(config) as connection:
            for view in tables_to_keep:
                connection.execute(f"DROP INDEX IF EXISTS {_quote_id(f'{_name(config, view)}_ek')}")

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows in one transaction; what is written is what Feast's own class writes.

        Args:
            config: Feast's; vectors and the numbers of filters (``vector_enabled``, ``enable_openai_compatible_store``) are
                left to Feast's own class.
            table: the view.
            data: entity key, feature → value, moment from which it holds, and moment of writing.
            progress: called once, with the number of rows.
        """
        store = config.online_store
        if store.vector_enabled or getattr(store, "enable_openai_compatible_store", False):
            super().online_write_batch(config, table, data, progress)
            return
        version = config.entity_key_serialization_version
        rows = (
            (serialize_entity_key(entity, version), values, since, written) for entity, values, since, written in data
        )
        self._upsert(config, table, rows)
        if progress:
            progress(len(data))

    def write_numbered(
        self, config: RepoConfig, table: FeatureView, key: str, rows: Sequence[NumberedRow], written: datetime
    ) -> None:
        """As ``online_write_batch``, for a view with one entity that is a number.

        Args:
            config: Feast's.
            table: the view.
            key: the entity's join key, int64.
            rows: number, feature → value, and moment from which it holds.
            written: moment of writing.
        """
        of_zero = serialize_entity_key(
            EntityKey(join_keys=[key], entity_values=[Value(int64_val=0)]), config.entity_key_serialization_version
        )
        head = of_zero.removesuffix(INT64.pack(0))  # the number comes last
        assert len(of_zero) - len(head) == INT64.size
        pack = INT64.pack
        self._upsert(config, table, ((head + pack(number), values, moment, written) for number, values, moment in rows))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,  # noqa: ARG002
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read rows; what is read is what Feast's own class reads.

        Args:
            config: Feast's.
            table: the view.
            entity_keys: whose rows.
            requested_features: not looked at: all features of the view are read, as by Feast's own class.

        Returns:
            For each key the moment from which its row holds and feature → value, or twice None.
        """
        version = config.entity_key_serialization_version
        keys = [serialize_entity_key(key, version) for key in entity_keys]
        # An expression has no type that the connection would convert.
        query = (
            f"SELECT entity_key, feature_name, value, event_ts + 0 FROM {_quote_id(_name(config, table))} "
            f"WHERE entity_key IN ({','.join('?' * len(keys))}) ORDER BY entity_key"
        )
        values: dict[bytes, dict[str, Value]] = {key: {} for key in keys}
        since: dict[bytes, int] = {}
        parse = Value.FromString
        for key, name, content, moment in self._get_conn(config).execute(query, keys):
            values[key][name] = parse(content)
            since[key] = moment
        moments = {moment: convert_timestamp(b"%d" % moment).replace(tzinfo=UTC) for moment in set(since.values())}
        return [(moments[since[key]], values[key]) if key in since else (None, None) for key in keys]

    def _upsert(self, config: RepoConfig, table: FeatureView, rows: Iterable[EncodedRow]) -> None:
        updates = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS if column not in KEYS)
        upsert = (
            f"INSERT INTO {_quote_id(_name(config, table))} ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
            f"ON CONFLICT({', '.join(KEYS)}) DO UPDATE SET {updates}"
        )
        connection = self._get_conn(config)
        with connection:  # in the index's order: what is written next lies nearby
            connection.executemany(upsert, _values(sorted(rows, key=itemgetter(0))))


def _name(config: RepoConfig, table: FeatureView) -> str:
    name: str = _table_id(config.project, table, config.registry.enable_online_feature_view_versioning)
    return name


def _values(rows: Iterable[EncodedRow]) -> Iterator[tuple[bytes, str, bytes, str | None, int, int | None]]:
    contents: dict[
        int, tuple[bytes, str | None]
    ] = {}  # by the value's identity: counts are few, and shared by many rows
    for key, values, moment, created in rows:
        since, written = _epoch(moment), None if created is None else _epoch(created)
        for name, value in values.items():
            content = contents.get(id(value))
            if content is None:
                content = value.SerializeToString(), extract_text_and_num(value, False)[0]
                contents[id(value)] = content
            yield key, name, *content, since, written


@lru_cache(maxsize=64)
def _epoch(moment: datetime) -> int:
    """A moment as the store keeps it."""
    seconds: int = adapt_datetime_epoch(to_naive_utc(moment))
    return seconds

"""Feast's online store in SQLite, written a batch at a time: same file, same tables, same values.

Feast's own class runs a statement for each value and converts the same two moments anew for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import extract_text_and_num
from feast.infra.online_stores.sqlite import (
    SqliteOnlineStore,
    SqliteOnlineStoreConfig,
    _quote_id,
    _table_id,
    adapt_datetime_epoch,
)
from feast.utils import to_naive_utc

if TYPE_CHECKING:
    from feast import FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

COLUMNS = ("entity_key", "feature_name", "value", "value_text", "event_ts", "created_ts")
KEYS = COLUMNS[:2]


class BatchedSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """Feast's options of a SQLite store; Feast finds this class by its name."""

    type: Literal["feature_repo.sqlite_store.BatchedSqliteOnlineStore"] = (
        "feature_repo.sqlite_store.BatchedSqliteOnlineStore"  # type: ignore[assignment]
    )


class BatchedSqliteOnlineStore(SqliteOnlineStore):
    """SQLite that takes a batch by one prepared statement."""

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
        name = _quote_id(_table_id(config.project, table, config.registry.enable_online_feature_view_versioning))
        updates = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS if column not in KEYS)
        upsert = (
            f"INSERT INTO {name} ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
            f"ON CONFLICT({', '.join(KEYS)}) DO UPDATE SET {updates}"
        )
        connection = self._get_conn(config)
        with connection:
            connection.executemany(upsert, _rows(data, config.entity_key_serialization_version))
        if progress:
            progress(len(data))


def _rows(data: list[Row], version: int) -> Iterator[tuple[bytes, str, bytes, str | None, int, int | None]]:
    contents: dict[
        int, tuple[bytes, str | None]
    ] = {}  # by the value's identity: counts are few, and shared by many rows
    for entity, values, moment, created in data:
        key, since, written = (
            serialize_entity_key(entity, version),
            _epoch(moment),
            None if created is None else _epoch(created),
        )
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

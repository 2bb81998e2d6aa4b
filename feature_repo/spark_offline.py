"""Feast's Spark offline store with a point-in-time join that does not fan out, and that leaves its rows with the executors.

Feast's own join pairs every entity row with every earlier feature row. Here entity rows and feature rows are sorted together,
by entity and time, and each entity row takes over the last feature row before it: one shuffle, and as many rows as there are.
Rows of entities that nobody asked for are left out first, and files whose rows cannot hold at any time asked for are not
opened. Results are the same; ``feature_store.yaml`` names this class as the offline store's type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
from feast import FeatureView, FileSource
from feast.infra.offline_stores.contrib.spark_offline_store.spark import (
    SparkOfflineStore,
    SparkOfflineStoreConfig,
    SparkRetrievalJob,
)
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig

from core.duck import identifier
from core.hours import microseconds
from core.spark import spark_path
from core.spark_session import open_session
from core.sql_engine import parquet_parts
from feature_repo.changes import files_that_may_hold, spans_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MOMENT = "event_timestamp"
"""Column of an entity row's time."""


class ClockSparkOfflineStoreConfig(SparkOfflineStoreConfig):
    """Settings of the store."""

    type: str = "feature_repo.spark_offline.ClockSparkOfflineStore"


class SparkQueryJob(SparkRetrievalJob):
    """A retrieval by a query that has not run; ``to_spark_df`` gives its rows to a further one."""

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 (Feast passes it)
        return self.to_spark_df().toArrow()


class ClockSparkOfflineStore(SparkOfflineStore):
    """Spark over Parquet, joined by one sort of entity rows and feature rows."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **options: Any,
    ) -> RetrievalJob:
        """The latest feature row at or before each entity row's time, not older than the view's TTL; in no order.

        Sources are Spark's, or files, which both offline stores read. Anything but plain Parquet and entities with an
        ``event_timestamp`` is left to Feast's own join.

        Args:
            config: of the feature store.
            feature_views: that the features are of.
            feature_refs: ``view:feature``.
            entity_df: keys and times: a query, or a data frame of pandas or Spark.
            registry: Feast's.
            project: of the registry.
            full_feature_names: whether columns have the view's name before the feature's.
            filter_by_created_timestamp: whether rows that were created later are left out.
            options: for Feast's own join.
        """
        session = open_session(config.offline_store.spark_conf)
        entities = _entities(session, entity_df)
        plain = all(isinstance(v.batch_source, SparkSource | FileSource) and v.batch_source.path for v in feature_views)
        mapped = any(v.batch_source is not None and v.batch_source.field_mapping for v in feature_views)
        demanded = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        wanted = plain and not (mapped or demanded or full_feature_names or filter_by_created_timestamp)
        if not wanted or entities is None or MOMENT not in entities.columns:
            return SparkOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names,
                filter_by_created_timestamp, **options,
            )  # fmt: skip
        rows = _view(entities)
        span = _span(session, rows)
        columns, joined = list(entities.columns), rows
        for view in feature_views:
            features = [r.split(":")[1] for r in feature_refs if r.split(":")[0] == view.projection.name_to_use()]
            joined = f"({_latest(session, view, features, joined, rows, columns, span)})"
            columns += features
        return SparkQueryJob(
            session,
            f"SELECT {_list(columns)} FROM {joined} j",
            full_feature_names=False,
            config=config,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[c for c in entities.columns if c != MOMENT],
                min_event_timestamp=span[0],
                max_event_timestamp=span[1],
            ),
        )


def _entities(session: SparkSession, entity_df: Any) -> Any:
    """The entity rows as Spark's; None without any."""
    if isinstance(entity_df, str):
        return session.sql(entity_df)
    return session.createDataFrame(entity_df) if isinstance(entity_df, pd.DataFrame) else entity_df


def _span(session: SparkSession, rows: str) -> tuple[datetime, datetime]:
    """First and last time of entity rows; the first of all times where there are none."""
    limits = ", ".join(f"coalesce(unix_micros({limit}({MOMENT})), 0)" for limit in ("min", "max"))
    ((first, last),) = session.sql(f"SELECT {limits} FROM {rows}").collect()
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    return begin + timedelta(microseconds=first), begin + timedelta(microseconds=last)


def _view(frame: Any) -> str:
    name = f"rows_{uuid4().hex}"
    frame.createOrReplaceTempView(name)
    return name


def _latest(
    session: SparkSession,
    view: FeatureView,
    features: Sequence[str],
    joined: str,
    entities: str,
    columns: Sequence[str],
    span: tuple[datetime, datetime],
) -> str:
    """SELECT of rows with the features of a view that hold at their time.

    Args:
        session: Spark's.
        view: of the features.
        features: their names.
        joined: SQL of the rows, which have all columns of the entity rows.
        entities: name of the entity rows, whose keys are wanted.
        columns: of the rows.
        span: first and last time of the entity rows.
    """
    source: Any = view.batch_source
    mapped = view.projection.join_key_map or {}
    keys = {mapped.get(c.name, c.name): c.name for c in view.entity_columns}
    files = session.read.parquet(*_paths(view, *span))
    held_from = f"r.{identifier(source.timestamp_field)}"
    filled = ", ".join(f"r.{identifier(keys[c])}" if c in keys else f"NULL AS {identifier(c)}" for c in columns)
    values = ", ".join(f"r.{identifier(f)}" for f in features)
    ours, key = next(iter(keys.items()))
    selected = [identifier(c) for c in columns] + [_unless_expired(view, name) for name in features]
    return f"""SELECT {", ".join(selected)} FROM (
        SELECT *, last(held, true) OVER (
            PARTITION BY {_list(keys)} ORDER BY moment, asked ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS latest
        FROM (
            SELECT {_list(columns)}, {MOMENT} AS moment, 1 AS asked, NULL AS held FROM {joined} e
            UNION ALL
            SELECT {filled}, {held_from}, 0, struct({held_from} AS held_from, {values}) FROM {_view(files)} r
            WHERE {held_from} <= timestamp_micros({microseconds(span[1])})
                AND r.{identifier(key)} IN (SELECT {identifier(ours)} FROM {entities})) u) w
    WHERE asked = 1"""


def _paths(view: FeatureView, first: datetime, last: datetime) -> list[str]:
    """What Spark reads of a view's source: of a change log the files whose rows may hold at some times."""
    source: Any = view.batch_source
    if isinstance(source, SparkSource):  # its path is a pattern of Spark's
        path = Path(re.sub(r"\\(.)", r"\1", source.path))
        files = files_that_may_hold(path.parent, first, last, view.ttl) if path.name == "*" else []
        return [spark_path(file) for file in files] or [source.path]
    path = Path(source.path)
    if path.name != "*.parquet":
        return [spark_path(path)]
    root = path.parent.parent
    files = files_that_may_hold(root, first, last, view.ttl) or [
        part for s in spans_of(root) for part in parquet_parts(s)
    ]
    return [spark_path(file) for file in files]


def _unless_expired(view: FeatureView, feature: str) -> str:
    """A feature of the joined row, null when the row is older than the view's TTL."""
    column = f"latest.{identifier(feature)}"
    if not view.ttl:
        return f"{column} AS {identifier(feature)}"
    oldest = f"{MOMENT} - INTERVAL {int(view.ttl.total_seconds())} SECONDS"
    return f"CASE WHEN latest.held_from >= {oldest} THEN {column} END AS {identifier(feature)}"


def _list(names: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(map(identifier, names))

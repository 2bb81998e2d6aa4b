"""Feast's DuckDB offline store with a point-in-time join that does not fan out.

Feast's own join pairs every entity row with every earlier feature row and keeps the latest; a clock slot
changes twice a day, so that is 60 rows per entity row. DuckDB's ``ASOF JOIN`` finds the latest directly; rows
of entities that nobody asked for are left out first, and files whose rows cannot hold at any time asked for are not
opened. Results are the same; ``feature_store.yaml`` names this class as the offline store's type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, FileSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig, _write_data_source
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig

from core.duck import file_list, identifier, quoted
from feature_repo.changes import files_that_may_hold

ROW = "entity_row"
"""Column that numbers the entity rows within a query."""


class ClockOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings of the store."""

    type: str = "feature_repo.offline.ClockOfflineStore"
    memory_limit: str = "2GB"
    threads: int = 2


class ComputedJob(IbisRetrievalJob):
    """A retrieval whose rows were computed beforehand, as Arrow."""

    def __init__(self, rows: pa.Table, *others: Any, **named: Any) -> None:
        super().__init__(ibis.memtable(rows), *others, **named)
        self._rows = rows

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 (Feast passes it)
        return self._rows


class ClockOfflineStore(DuckDBOfflineStore):
    """DuckDB over Parquet, joined by ``ASOF JOIN``."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """The latest feature row at or before each entity row's time, not older than the view's TTL; in the entities' order.

        Anything but plain Parquet sources and a data frame of entities is left to Feast's own join.

        Args:
            config: of the feature store.
            feature_views: that the features are of.
            feature_refs: ``view:feature``.
            entity_df: keys and times.
            registry: Feast's.
            project: of the registry.
            full_feature_names: whether columns have the view's name before the feature's.
            filter_by_created_timestamp: whether rows that were created later are left out.
        """
        plain = all(isinstance(v.batch_source, FileSource) and not v.batch_source.field_mapping for v in feature_views)
        demanded = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        if (
            not plain
            or demanded
            or full_feature_names
            or filter_by_created_timestamp
            or not isinstance(entity_df, pd.DataFrame)
        ):
            return DuckDBOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
        moment = infer_event_timestamp_from_entity_df(dict(zip(entity_df.columns, entity_df.dtypes, strict=True)))
        store: Any = config.offline_store
        limits = {"memory_limit": store.memory_limit, "threads": store.threads}
        times = entity_df[moment]
        with duckdb.connect(":memory:", config=limits) as con:
            con.execute("SET TimeZone = 'UTC'")
            con.register("entities", entity_df.assign(**{ROW: np.arange(len(entity_df))}))
            selected = [f"e.{identifier(c)}" for c in entity_df.columns]
            joins = []
            for n, view in enumerate(feature_views):
                view_features = [
                    r.split(":")[1] for r in feature_refs if r.split(":")[0] == view.projection.name_to_use()
                ]
                joins.append(_asof(view, f"f{n}", view_features, identifier(moment), times))
                selected += [_unless_expired(view, f"f{n}", name, identifier(moment)) for name in view_features]
            joined = f"SELECT {', '.join(selected)} FROM entities e {' '.join(joins)} ORDER BY e.{ROW}"
            table = con.sql(joined).to_arrow_table()
        return ComputedJob(
            table,
            [],
            full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[c for c in entity_df.columns if c != moment],
                min_event_timestamp=times.min(),
                max_event_timestamp=times.max(),
            ),
            data_source_writer=_write_data_source,
            staging_location=None,
            staging_location_endpoint_override=None,
            repo_path=str(config.repo_path),
        )


def _asof(view: FeatureView, name: str, features: list[str], moment: str, times: pd.Series) -> str:
    """The ASOF JOIN of a view under a name: its latest row at or before the entity row's time, if any."""
    source: Any = view.batch_source
    mapped = view.projection.join_key_map or {}
    keys = [(identifier(mapped.get(c.name, c.name)), identifier(c.name)) for c in view.entity_columns]
    columns = ", ".join([*(key for _, key in keys), *map(identifier, features)])
    same = " AND ".join(f"e.{ours} = {name}.{key}" for ours, key in keys)
    ours, key = keys[0]
    return f"""ASOF LEFT JOIN (
            SELECT {columns}, {identifier(source.timestamp_field)} AS held_from
            FROM read_parquet({_files(view, times)}, union_by_name = true) r
            WHERE r.{key} IN (SELECT {ours} FROM entities)) {name}
        ON {same} AND e.{moment} >= {name}.held_from"""


def _files(view: FeatureView, times: pd.Series) -> str:
    """The files of a view's source whose rows may hold at some times: of a change log not all, else the source's path."""
    source: Any = view.batch_source
    root = Path(source.path).parent.parent
    files = files_that_may_hold(root, times.min(), times.max(), view.ttl) if len(times) else []
    return file_list(files) if files else quoted(source.path)  # the path is a pattern


def _unless_expired(view: FeatureView, name: str, feature: str, moment: str) -> str:
    """A feature of the joined row, null when the row is older than the view's TTL."""
    column = f"{name}.{identifier(feature)}"
    if not view.ttl:
        return column
    oldest = f"e.{moment} - INTERVAL {int(view.ttl.total_seconds())} SECONDS"
    return f"CASE WHEN {name}.held_from >= {oldest} THEN {column} END AS {identifier(feature)}"

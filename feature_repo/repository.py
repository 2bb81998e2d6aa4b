"""The Feast repository of a source: entities, views, services, and the stores the settings name."""

from __future__ import annotations

import logging
import os
from dataclasses import astuple
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from core.documents import JsonObject
from core.errors import NotReadyError
from core.files import digest_json, digest_text, exclusive_lock, read_json, write_json, write_text
from core.settings import Settings
from core.spark import spark_path
from core.spark_session import require_spark, session_options
from events.schema import BEHAVIORS, OWNERS, AttributeField, Owner
from events.store import EventStore
from feature_repo import schemas
from feature_repo.feast_import import import_feast
from feature_repo.schemas import LISTS, WHOLE_DAYS, ViewSchema, view_schemas

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

log = logging.getLogger("feature_repo")

TRAINING_SERVICE = "training_set"
"""FeatureService that samples read, by the point-in-time join."""
RANKING_SERVICE = "ranking"
"""FeatureService that serving reads."""
COLD_START_SERVICE = "cold_start"
"""FeatureService of what thin slots borrow from."""
CLOCK_PUSH, HISTORY_PUSH = "clock_push", "history_push"
SQLITE_STORE = "feature_repo.sqlite_store.BatchedSqliteOnlineStore"
HISTORY_VIEW, HISTORY_FEATURE = "user_history", "history"
ATTRIBUTE_VIEWS: dict[Owner, str] = {"user": "user_attributes", "item": "item_attributes"}
"""Views of what tables beside the log tell; there where the source has such attributes."""
HISTORY_VARIANTS = frozenset({"long_term_clock", "matched_clock"})
"""Variants that read a user's recent behaviors."""
OWNER = "interest-clock"
REGISTRY_PASSWORD, REDIS_PASSWORD = "CLOCK_SECRET_FEAST_DB", "CLOCK_SECRET_REDIS"
"""Variables that Feast puts into ``feature_store.yaml`` when it reads it, so that no password is written to a file."""


def slot_feature(slot: int) -> str:
    """Name of the online feature of a slot."""
    return f"slot_{slot:03d}"


def registry_is_file(settings: Settings) -> bool:
    """Whether Feast's registry is a file of the workspace, not a database."""
    return not settings.registry_url and not settings.in_production


def repo_config(settings: Settings, events: EventStore) -> JsonObject:
    """The content of ``feature_store.yaml``: which stores Feast uses. Passwords are names of environment variables.

    Args:
        settings: of the workspace.
        events: of the source.
    """
    folder = settings.workspace / "feast"
    keep_users = bool(events.attribute_fields("user"))  # they are written when they change, not when used
    online = (
        {
            "type": "redis",
            "connection_string": settings.redis_url
            + (f",password=${REDIS_PASSWORD}" if settings.in_production else ""),
            "skip_dedup": True,  # a corrected row of the same hour must win; hours are written in order
            "key_ttl_seconds": None
            if keep_users
            else 24 * 3600 * max(settings.window_days + 2, settings.history_days + 1),  # who left is forgotten
        }
        if settings.online_store == "redis"
        else {"type": SQLITE_STORE, "path": str(folder / "online.db")}
    )
    database = settings.registry_url
    if settings.in_production and not database:
        database = f"postgresql+psycopg://feast:${REGISTRY_PASSWORD}@{settings.postgres}/feast"
    registry = (
        {"registry_type": "sql", "path": database, "cache_ttl_seconds": 60}
        if database
        else {"registry_type": "file", "path": str(folder / "registry.db"), "cache_ttl_seconds": 60}
    )
    return {
        "project": settings.source.replace("-", "_"),
        "provider": "local",
        "registry": registry,
        "offline_store": _offline_store(settings),
        "online_store": online,
        "entity_key_serialization_version": 3,
        "auth": {"type": "no_auth"},
    }


def _offline_store(settings: Settings) -> JsonObject:
    if settings.offline_store == "duckdb":
        return {
            "type": "feature_repo.offline.ClockOfflineStore",
            "memory_limit": settings.duckdb_memory,
            "threads": settings.duckdb_threads,
        }
    return spark_offline_store(settings)


def spark_offline_store(settings: Settings) -> JsonObject:
    """Spark's offline store in ``feature_store.yaml``.

    Raises:
        ConfigError: Spark is not installed.
    """
    require_spark()
    return {"type": "feature_repo.spark_offline.ClockSparkOfflineStore", "spark_conf": session_options(settings)}


FIELD_TEXTS = {
    "events": "Events in the window.",
    "as_of": "Hour since 1970 UTC from whose start the row holds.",
    "first_hour": "Hour since 1970 UTC of the item's first event.",
    "day_events": "Events in the last 24 hours.",
    "day_finish": "Finishes in the last 24 hours.",
    "finish_rate": "Finishes over events in the window, 0 without any.",
    **{behavior: f"Number of {behavior} in the window." for behavior in BEHAVIORS},
}
LIST_TEXTS = {
    "values": "Top values, best first, of {}.",
    "scores": "Scores of the top values of {}.",
    "counts": "Events of the top values of {}.",
}


def feature_objects(settings: Settings, events: EventStore) -> list[Any]:
    """Everything that is applied to the registry for a source.

    Args:
        settings: of the workspace.
        events: of the source: they say which facets and attributes there are.

    Returns:
        Feast's entities, feature views and feature services.
    """
    from feast import Entity, FeatureService, FeatureView, Field, ValueType
    from feast.types import Bytes, Int64, String

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, description="A person of the source.")
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64, description="What is consumed.")
    slot = Entity(
        name="slot",
        join_keys=["slot"],
        value_type=ValueType.INT64,
        description=f"Slot of a clock, {settings.slot_minutes} minutes wide, numbered from local midnight.",
    )
    facets = events.facets
    window, views = f"{settings.window_days} days", view_schemas(facets, whole_days=settings.shrinkage)
    # One object each: Feast takes equal ones of one name for different sources.
    changes = {name: _changes(settings, name) for name in views}

    def view(name: str, entities: list[Any], fields: list[Any], description: str, **options: Any) -> FeatureView:
        keys = [Field(name=key, dtype=Int64) for entity in entities for key in [entity.join_key]]
        return FeatureView(
            name=name,
            entities=entities,
            schema=[*keys, *fields],
            source=options.pop("source", None) or changes[name],
            description=description,
            ttl=options.pop("ttl", timedelta(days=settings.window_days + 1)),
            owner=OWNER,
            tags={"window_days": str(settings.window_days), "top_k": str(settings.top_k)},
            **options,
        )

    clock_slots = view(
        "clock_slots", [user, slot], _fields(views["clock_slots"], facets, BEHAVIORS),
        f"Interest clock: top {settings.top_k} values per facet, user and slot over {window}. For training.", online=False,
    )  # fmt: skip
    clock = view(
        "clock",
        [user],
        [
            Field(name=slot_feature(n), dtype=String, description=f"Slot {n} as JSON; see feature_repo.online.")
            for n in range(settings.slots)
        ],
        "Interest clock of a user, one feature per slot, so that an hour writes only the slots that changed. For serving.",
        source=_push_source(CLOCK_PUSH, changes["clock_slots"]),
    )
    activity = view("user_activity", [user], _fields(views["user_activity"], facets), f"What a user did in {window}.")
    whole_days = [
        view(
            WHOLE_DAYS, [user], _fields(views[WHOLE_DAYS], facets),
            f"All-day top values of a user over {window}, as of the last UTC midnight: what thin slots borrow from.",
            ttl=timedelta(days=settings.window_days + 2),
        )
    ] if settings.shrinkage else []  # fmt: skip
    history = view(
        HISTORY_VIEW,
        [user],
        [Field(name=HISTORY_FEATURE, dtype=Bytes, description="Items, local minutes, hours; see feature_repo.recent.")],
        f"The last {settings.history_length} items that a user liked or finished in {settings.history_days} days. For serving.",
        source=_push_source(HISTORY_PUSH, changes["user_activity"]),
        ttl=timedelta(days=settings.history_days + 1),
    )
    population = view(
        "population_clock", [slot], _fields(views["population_clock"], facets),
        f"Everybody's top values per slot over {window}: what a new user's clock falls back to.",
    )  # fmt: skip
    items = view(
        "item_stats", [item], _fields(views["item_stats"], facets),
        f"Popularity, age and quality of an item over {window} and the last day. Serving's catalog reads them offline.",
        online=False,
    )  # fmt: skip
    attributes: dict[Owner, FeatureView] = {}
    for owner, entity in zip(OWNERS, (user, item), strict=True):
        if fields := [_attribute(field) for field in events.attribute_fields(owner)]:
            attributes[owner] = view(
                ATTRIBUTE_VIEWS[owner], [entity], fields, f"What tables beside the log tell of {owner}s.",
                source=_attributes(settings, events, owner), ttl=timedelta(0), online=owner == "user",
            )  # fmt: skip
    of_users = [attributes["user"]] if "user" in attributes else []
    active = activity[["events", "finish", "as_of"]]
    services = [
        FeatureService(
            name=TRAINING_SERVICE,
            features=[active, clock_slots, *attributes.values()],
            description="Everything that any variant of the ranker trains on.",
            owner=OWNER,
        ),
        FeatureService(
            name=RANKING_SERVICE,
            features=[active, clock, *([history] if settings.history_length else []), *of_users],
            description="What serving reads of a request's user, once for every variant that ranks it.",
            owner=OWNER,
        ),
        FeatureService(
            name=COLD_START_SERVICE,
            features=[*whole_days, population],
            description="What thin slots are shrunk towards: everybody's clock and, where there is one, the user's whole day.",
            owner=OWNER,
        ),
    ]
    return [
        user, item, slot, clock_slots, clock, activity, *whole_days, history, population, items, *attributes.values(), *services,
    ]  # fmt: skip


def _attribute(field: AttributeField) -> Any:
    """Feast's field of an attribute."""
    from feast import Field
    from feast.types import Array, Float64, String

    kinds: dict[str, Any] = {"category": String, "list": Array(String)}
    text = "Hours since 1970 UTC." if field.type == "age" else f"A {field.type} of the {field.owner}s' table."
    return Field(name=field.column, dtype=kinds.get(field.type, Float64), description=text)


def _fields(view: ViewSchema, facets: list[str], without: tuple[str, ...] = ()) -> list[Any]:
    """Feast's fields of a view's columns other than its keys and time."""
    import pyarrow as pa
    from feast import Field
    from feast.types import Array, Float64, Int64, String

    types = {pa.int64(): Int64, pa.float64(): Float64, pa.string(): String}
    texts = {f"{facet}_{name}": LIST_TEXTS[name].format(facet) for facet in facets for name in LISTS} | FIELD_TEXTS
    return [
        Field(
            name=field.name,
            dtype=Array(types[field.type.value_type]) if pa.types.is_list(field.type) else types[field.type],
            description=texts[field.name],
        )
        for field in view.columns
        if field.name not in {*view.keys, "event_timestamp", *without}
    ]


def _changes(settings: Settings, view: str) -> Any:
    """The change log of a view as the offline store reads it."""
    folder = settings.features_dir / view
    path = f"{spark_path(folder)}/*" if settings.offline_store == "spark" else str(folder / "*" / "*.parquet")
    return _source(settings, path, f"{view}_changes", f"Rows of {view}, one per entity and hour of change.")


def _attributes(settings: Settings, events: EventStore, owner: Owner) -> Any:
    """The attributes of users or items as the offline store reads them."""
    file = events.attribute_file(owner)
    path = spark_path(file) if settings.offline_store == "spark" else str(file)
    return _source(settings, path, f"{owner}_attributes_table", f"What {owner}s were, one row per {owner} and change.")


def _source(settings: Settings, path: str, name: str, description: str) -> Any:
    common: dict[str, Any] = {
        "name": name, "timestamp_field": "event_timestamp", "description": description, "owner": OWNER,
    }  # fmt: skip
    if settings.offline_store == "spark":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        return SparkSource(path=path, file_format="parquet", **common)
    from feast import FileSource
    from feast.data_format import ParquetFormat

    return FileSource(path=path, file_format=ParquetFormat(), **common)


def _push_source(name: str, changes: Any) -> Any:
    """One user's row can be pushed at once; in bulk rows are written hour by hour from what changed."""
    from feast import PushSource

    return PushSource(
        name=name,
        batch_source=changes,
        description="What a user did since the last full hour.",
        owner=OWNER,
    )


def open_store(settings: Settings, events: EventStore) -> FeatureStore:
    """The feature store of a source, its definitions applied if they changed.

    Applying resets nothing here: materialization always names its hour window.

    Args:
        settings: of the workspace.
        events: of the source.

    Raises:
        NotReadyError: the clocks have not been computed yet, or the registry's database does not answer.
    """
    import_feast()
    from feast import FeatureStore

    folder = settings.workspace / "feast"
    if settings.in_production:
        os.environ[REGISTRY_PASSWORD], os.environ[REDIS_PASSWORD] = (
            settings.secret("feast_db"),
            settings.secret("redis"),
        )
    if not any((settings.features_dir / "clock_slots").glob("*/*.parquet")):
        raise NotReadyError(f"no clocks in {settings.features_dir}; run 'clock features rebuild' first")
    config = yaml.safe_dump(repo_config(settings, events), sort_keys=False)
    attributes = [list(astuple(each)) for owner in ATTRIBUTE_VIEWS for each in events.attribute_fields(owner)]
    digest = digest_text(
        config,
        digest_json(
            [
                events.facets,
                settings.window_days,
                settings.top_k,
                settings.slots,
                settings.history_length,
                settings.history_days,
                *([attributes] if attributes else []),
                *([WHOLE_DAYS] if settings.shrinkage else []),
            ]
        ),
        _code_digest(),
    )
    mark = folder / "applied.json"
    os.environ.setdefault("FEAST_USAGE", "False")
    from sqlalchemy.exc import OperationalError

    try:
        with exclusive_lock(folder / ".lock"):
            if not mark.exists() or read_json(mark)["digest"] != digest or not _readable(folder):
                # If this fails, going back to the settings that were applied applies them again.
                mark.unlink(missing_ok=True)
                write_text(folder / "feature_store.yaml", config)
                if registry_is_file(settings):  # a torn registry file is written again; it holds definitions only
                    (folder / "registry.db").unlink(missing_ok=True)
                store, objects = FeatureStore(repo_path=str(folder)), feature_objects(settings, events)
                names = {definition.name for definition in objects}
                gone: list[Any] = [service for service in store.list_feature_services() if service.name not in names]
                store.apply(objects, objects_to_delete=gone, partial=False)
                write_json(mark, {"digest": digest})
                log.info("applied the feature repository of %s", settings.source)
        return FeatureStore(repo_path=str(folder))
    except OperationalError as error:
        raise NotReadyError(
            f"Feast's registry does not answer ({error.orig}); start its database, then retry"
        ) from None


def _readable(folder: Path) -> bool:
    """Whether the registry can be read and has the definitions; a crash may have cut its file short."""
    from feast import FeatureStore
    from feast.errors import FeastError
    from google.protobuf.message import DecodeError

    try:
        FeatureStore(repo_path=str(folder)).get_feature_service(TRAINING_SERVICE)
    except (FeastError, DecodeError, OSError):
        return False
    return True


def _code_digest() -> str:
    return digest_text(*(Path(str(file)).read_text(encoding="utf-8") for file in (__file__, schemas.__file__)))

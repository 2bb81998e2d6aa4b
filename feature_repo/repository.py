"""The Feast repository of a source: entities, views, services, and the stores the settings name."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from core.engine import SPARK_OPTIONS
from core.errors import NotReadyError
from core.files import digest_json, digest_text, exclusive_lock, read_json, write_json, write_text
from core.settings import Settings
from feature_repo.sql import COUNTS

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("feature_repo")

CLOCK_VARIANTS = frozenset({"naive_clock", "adaptive_clock", "gaussian_clock", "matched_clock"})
TRAINING_SERVICE = "training_set"
COLD_START_SERVICE = "cold_start"
CLOCK_PUSH, HISTORY_PUSH = "clock_push", "history_push"
HISTORY_VIEW, HISTORY_FEATURE = "user_history", "history"
HISTORY_VARIANTS = frozenset({"long_term_clock", "matched_clock"})
OWNER = "interest-clock"
REGISTRY_PASSWORD, REDIS_PASSWORD = "CLOCK_SECRET_FEAST_DB", "CLOCK_SECRET_REDIS"
"""Variables that Feast puts into ``feature_store.yaml`` when it reads it, so that no password is written to a file."""


def slot_feature(slot: int) -> str:
    """Name of the online feature of a slot."""
    return f"slot_{slot:03d}"


def service_name(variant: str) -> str:
    """Name of the FeatureService that a model variant reads at serving."""
    return f"ranker_{variant}"


def registry_is_file(settings: Settings) -> bool:
    return not settings.registry_url and not settings.in_production


def repo_config(settings: Settings) -> dict[str, Any]:
    """The content of ``feature_store.yaml``: which stores Feast uses. Passwords are names of environment variables."""
    folder = settings.workspace / "feast"
    online = (
        {
            "type": "redis",
            "connection_string": settings.redis_url
            + (f",password=${REDIS_PASSWORD}" if settings.in_production else ""),
            "skip_dedup": True,  # a corrected row of the same hour must win; hours are written in order
        }
        if settings.online_store == "redis"
        else {"type": "sqlite", "path": str(folder / "online.db")}
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


def _offline_store(settings: Settings) -> dict[str, Any]:
    if settings.offline_store == "duckdb":
        return {
            "type": "feature_repo.offline.ClockOfflineStore",
            "memory_limit": settings.duckdb_memory,
            "threads": settings.duckdb_threads,
        }
    return {"type": "spark", "spark_conf": {"spark.master": settings.spark_master, **SPARK_OPTIONS}}


def feature_objects(settings: Settings, facets: list[str]) -> list[Any]:
    """Everything that is applied to the registry for a source with these facets."""
    from feast import Entity, FeatureService, FeatureView, Field, ValueType
    from feast.types import Array, Bytes, Float64, Int64, String

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, description="A person of the source.")
    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64, description="What is consumed.")
    slot = Entity(
        name="slot",
        join_keys=["slot"],
        value_type=ValueType.INT64,
        description=f"Slot of a clock, {settings.slot_minutes} minutes wide, numbered from local midnight.",
    )
    window = f"{settings.window_days} days"

    def view(name: str, entities: list[Any], fields: list[Any], description: str, **options: Any) -> FeatureView:
        keys = [Field(name=key, dtype=Int64) for entity in entities for key in [entity.join_key]]
        return FeatureView(
            name=name,
            entities=entities,
            schema=[*keys, *fields],
            source=options.pop("source", None) or _changes(settings, name),
            description=description,
            ttl=options.pop("ttl", timedelta(days=settings.window_days + 1)),
            owner=OWNER,
            tags={"window_days": str(settings.window_days), "top_k": str(settings.top_k)},
            **options,
        )

    tops = [
        Field(name=f"{facet}_{name}", dtype=Array(dtype), description=f"{text} of {facet}.")
        for facet in facets
        for name, dtype, text in (
            ("values", String, "Top values, best first,"),
            ("scores", Float64, "Scores of the top values"),
            ("counts", Int64, "Events of the top values"),
        )
    ]
    as_of = Field(name="as_of", dtype=Int64, description="Hour since 1970 UTC from whose start the row holds.")
    events = Field(name="events", dtype=Int64, description="Events in the window.")
    behaviors = [Field(name=c, dtype=Int64, description=f"Number of {c} in the window.") for c in COUNTS[1:]]
    clock_slots = view(
        "clock_slots", [user, slot], [*tops, events, as_of],
        f"Interest clock: top {settings.top_k} values a facet, user and slot over {window}. For training.", online=False,
    )  # fmt: skip
    clock = view(
        "clock",
        [user],
        [
            Field(name=slot_feature(n), dtype=String, description=f"Slot {n} as JSON; see feature_repo.online.")
            for n in range(settings.slots)
        ],
        "Interest clock of a user, one feature a slot, so that an hour writes only the slots that changed. For serving.",
        source=_push_source(settings, CLOCK_PUSH, "clock_slots"),
    )
    activity = view("user_activity", [user], [events, *behaviors, as_of], f"What a user did in {window}.")
    profile = view(
        "user_profile", [user], [*tops, events, *behaviors, as_of],
        f"All-day top values of a user over {window}, as of the last UTC midnight.",
        ttl=timedelta(days=settings.window_days + 2),
    )  # fmt: skip
    history = view(
        HISTORY_VIEW,
        [user],
        [Field(name=HISTORY_FEATURE, dtype=Bytes, description="Items, local minutes, hours; see feature_repo.recent.")],
        f"The last {settings.history_length} items that a user liked or finished in {settings.history_days} days. For serving.",
        source=_push_source(settings, HISTORY_PUSH, "user_activity"),
        ttl=timedelta(days=settings.history_days + 1),
    )
    population = view(
        "population_clock", [slot], [*tops, events, *behaviors, as_of],
        f"Everybody's top values a slot over {window}: what a new user's clock falls back to.",
    )  # fmt: skip
    items = view(
        "item_stats",
        [item],
        [
            Field(name="first_hour", dtype=Int64, description="Hour since 1970 UTC of the item's first event."),
            Field(name="day_events", dtype=Int64, description="Events in the last 24 hours."),
            Field(name="day_finish", dtype=Int64, description="Finishes in the last 24 hours."),
            events, *behaviors,
            Field(name="finish_rate", dtype=Float64, description="Finishes over events in the window, 0 without any."),
            as_of,
        ],
        f"Popularity, age and quality of an item over {window} and the last day.",
    )  # fmt: skip
    active = activity[["events", "finish", "as_of"]]
    services = [
        FeatureService(
            name=TRAINING_SERVICE,
            features=[active, clock_slots],
            description="Everything that any variant of the ranker trains on.",
            owner=OWNER,
        ),
        FeatureService(
            name=COLD_START_SERVICE,
            features=[profile, population],
            description="What thin slots are shrunk towards: the user's whole day, and everybody's clock.",
            owner=OWNER,
        ),
        *(
            FeatureService(
                name=service_name(variant),
                features=[
                    active,
                    *([clock] if variant in CLOCK_VARIANTS else []),
                    *([history] if variant in HISTORY_VARIANTS else []),
                ],
                description=f"What the ranker variant {variant} reads at serving.",
                tags={"variant": variant},
                owner=OWNER,
            )
            for variant in settings.variants
        ),
    ]
    return [user, item, slot, clock_slots, clock, activity, profile, history, population, items, *services]


def _changes(settings: Settings, view: str) -> Any:
    """The change log of a view as the offline store reads it."""
    folder = settings.features_dir / view
    common: dict[str, Any] = {
        "name": f"{view}_changes",
        "timestamp_field": "event_timestamp",
        "description": f"Rows of {view}, one an entity and hour of change.",
        "owner": OWNER,
    }
    if settings.offline_store == "spark":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        return SparkSource(path=str(folder / "*"), file_format="parquet", **common)
    from feast import FileSource
    from feast.data_format import ParquetFormat

    return FileSource(path=str(folder / "*" / "*.parquet"), file_format=ParquetFormat(), **common)


def _push_source(settings: Settings, name: str, changes: str) -> Any:
    """One user's row can be pushed at once; in bulk rows are written hour by hour from what changed."""
    from feast import PushSource

    return PushSource(
        name=name,
        batch_source=_changes(settings, changes),
        description="What a user did since the last full hour.",
        owner=OWNER,
    )


def open_store(settings: Settings, facets: list[str]) -> FeatureStore:
    """The feature store of a source, its definitions applied if they changed.

    Applying resets nothing here: materialization always names its hour window.

    Raises:
        NotReadyError: the clocks have not been computed yet.
    """
    from feast import FeatureStore

    folder = settings.workspace / "feast"
    if settings.in_production:
        os.environ[REGISTRY_PASSWORD], os.environ[REDIS_PASSWORD] = (
            settings.secret("feast_db"),
            settings.secret("redis"),
        )
    if not any((settings.features_dir / "clock_slots").glob("*/*.parquet")):
        raise NotReadyError(f"no clocks in {settings.features_dir}; run 'clock features rebuild' first")
    config = yaml.safe_dump(repo_config(settings), sort_keys=False)
    digest = digest_text(
        config,
        digest_json(
            [
                facets,
                settings.window_days,
                settings.top_k,
                settings.variants,
                settings.slots,
                settings.history_length,
                settings.history_days,
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
                write_text(folder / "feature_store.yaml", config)
                if registry_is_file(settings):  # a torn registry file is made anew; it holds definitions only
                    (folder / "registry.db").unlink(missing_ok=True)
                FeatureStore(repo_path=str(folder)).apply(feature_objects(settings, facets))
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
    return digest_text(Path(__file__).read_text(encoding="utf-8"))

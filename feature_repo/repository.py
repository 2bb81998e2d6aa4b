"""The Feast repository of a source: entities, views, services, and the stores the settings name."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from core.errors import NotReadyError
from core.files import digest_json, digest_text, exclusive_lock, read_json, write_json, write_text
from core.settings import Settings
from feature_repo.tiles import COUNTS

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("feature_repo")

CLOCK_VARIANTS = frozenset({"naive_clock", "adaptive_clock", "gaussian_clock"})
TRAINING_SERVICE = "training_set"
OWNER = "interest-clock"


def service_name(variant: str) -> str:
    """Name of the FeatureService that a model variant reads at serving."""
    return f"ranker_{variant}"


def repo_config(settings: Settings) -> dict[str, Any]:
    """The content of ``feature_store.yaml``: which stores Feast uses."""
    folder = settings.workspace / "feast"
    online = (
        {"type": "redis", "connection_string": settings.redis_url}
        if settings.online_store == "redis"
        else {"type": "sqlite", "path": str(folder / "online.db")}
    )
    registry = (
        {"registry_type": "sql", "path": settings.registry_url, "cache_ttl_seconds": 60}
        if settings.registry_url
        else {"registry_type": "file", "path": str(folder / "registry.db"), "cache_ttl_seconds": 60}
    )
    return {
        "project": settings.source.replace("-", "_"),
        "provider": "local",
        "registry": registry,
        "offline_store": {"type": settings.offline_store},
        "online_store": online,
        "entity_key_serialization_version": 3,
        "auth": {"type": "no_auth"},
    }


def feature_objects(settings: Settings, facets: list[str]) -> list[Any]:
    """Everything that is applied to the registry for a source with these facets."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.data_format import ParquetFormat
    from feast.types import Array, Float64, Int64, String

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, description="A person of the source.")
    slot = Entity(
        name="slot",
        join_keys=["slot"],
        value_type=ValueType.INT64,
        description="Local hour of day of a clock, 0 to 23.",
    )
    common: dict[str, Any] = {
        "ttl": timedelta(days=settings.window_days + 1),
        "owner": OWNER,
        "tags": {"window_days": str(settings.window_days), "top_k": str(settings.top_k)},
    }

    def source(view: str, description: str) -> FileSource:
        return FileSource(
            name=f"{view}_changes",
            path=str(settings.features_dir / view / "*.parquet"),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            description=description,
            owner=OWNER,
        )

    per_facet = [
        field
        for facet in facets
        for field in (
            Field(name=f"{facet}_values", dtype=Array(String), description=f"Top values of {facet}, best first."),
            Field(name=f"{facet}_scores", dtype=Array(Float64), description=f"Scores of the top values of {facet}."),
        )
    ]
    as_of = Field(name="as_of", dtype=Int64, description="Hour since 1970 UTC from whose start the row holds.")
    clock_slots = FeatureView(
        name="clock_slots",
        entities=[user, slot],
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="slot", dtype=Int64),
            *per_facet,
            Field(name="events", dtype=Int64, description="Events in the slot's window."),
            as_of,
        ],
        source=source("clock_slots", "Clock rows, one a (user, slot) and hour of change."),
        description=f"Interest clock: top {settings.top_k} values a facet, user and local hour over {settings.window_days} days.",
        **common,
    )
    user_profile = FeatureView(
        name="user_profile",
        entities=[user],
        schema=[
            Field(name="user_id", dtype=Int64),
            *per_facet,
            *(Field(name=c, dtype=Int64, description=f"Number of {c} in the window.") for c in COUNTS),
            as_of,
        ],
        source=source("user_profile", "All-day rows, one a user and hour of change."),
        description=f"All-day interests and activity of a user over {settings.window_days} days.",
        **common,
    )
    activity = user_profile[["events", "finish", "as_of"]]
    services = [
        FeatureService(
            name=TRAINING_SERVICE,
            features=[activity, clock_slots],
            description="Everything that any variant of the ranker trains on.",
            owner=OWNER,
        ),
        *(
            FeatureService(
                name=service_name(variant),
                features=[activity, clock_slots] if variant in CLOCK_VARIANTS else [activity],
                description=f"What the ranker variant {variant} reads at serving.",
                tags={"variant": variant},
                owner=OWNER,
            )
            for variant in settings.variants
        ),
    ]
    return [user, slot, clock_slots, user_profile, *services]


def open_store(settings: Settings, facets: list[str]) -> FeatureStore:
    """The feature store of a source, its definitions applied if they changed.

    Applying resets nothing here: materialisation always names its hour window.

    Raises:
        NotReadyError: the clocks have not been computed yet.
    """
    from feast import FeatureStore

    folder = settings.workspace / "feast"
    if not any((settings.features_dir / "clock_slots").glob("*.parquet")):
        raise NotReadyError(f"no clocks in {settings.features_dir}; run 'python -m feature_repo rebuild' first")
    config = yaml.safe_dump(repo_config(settings), sort_keys=False)
    digest = digest_text(
        config, digest_json([facets, settings.window_days, settings.top_k, settings.variants]), _code_digest()
    )
    mark = folder / "applied.json"
    os.environ.setdefault("FEAST_USAGE", "False")
    with exclusive_lock(folder / ".lock"):
        if not mark.exists() or read_json(mark)["digest"] != digest or not _readable(folder):
            write_text(folder / "feature_store.yaml", config)
            if not settings.registry_url:  # a torn registry file is made anew; it holds definitions only
                (folder / "registry.db").unlink(missing_ok=True)
            FeatureStore(repo_path=str(folder)).apply(feature_objects(settings, facets))
            write_json(mark, {"digest": digest})
            log.info("applied the feature repository of %s", settings.source)
    return FeatureStore(repo_path=str(folder))


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

"""A workspace that is ready for training, and copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.hours import Hour, hour_range
from core.settings import Settings, load_settings
from events.store import EventStore
from feature_repo.materialization import advance
from tests.conftest import TINY
from training.checkpoint_delta import Tensors
from training.group import Group
from training.ranker import Ranker
from training.samples import SampleStore
from training.sharded.checkpoint import StateReader
from training.sharded.shard import TableShard
from training.state import StateStore

FIRST, LAST = TINY.first_hour, TINY.first_hour + 60


@pytest.fixture(scope="module")
def ready(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A workspace with events, clocks up to hour 60, and nothing trained."""
    var = tmp_path_factory.mktemp("training") / "var"
    settings = load_settings(var=var, source="simulator")
    shutil.copytree(app_settings.events_dir, settings.events_dir)
    advance(settings, LAST + 1)
    SampleStore(settings, EventStore(settings.events_dir)).build(hour_range(FIRST, LAST + 1))
    return settings


def fresh(ready: Settings, folder: Path) -> Settings:
    """The ready workspace with its own state folder."""
    settings = load_settings(var=folder / "var", source="simulator")
    settings.workspace.mkdir(parents=True)
    for name in ("events", "features", "feast"):
        (settings.workspace / name).symlink_to(ready.workspace / name)
    settings.training_dir.mkdir()
    (settings.training_dir / "samples").symlink_to(ready.training_dir / "samples")
    return settings


def read_shards(
    states: StateStore, hour: Hour, shards: dict[str, TableShard], parts: Mapping[str, tuple[str, ...]] | None = None
) -> Tensors:
    """Fill a process's parts of a state's tables, outside of a collection; returns what belongs to no table."""
    reader = StateReader(states, hour)
    reader.read_ids(shards)
    for shard in shards.values():
        shard.reserve()
    return reader.read_rows(shards, parts)[1]


def empty_shards(ranker: Ranker, rank: int, ranks: int) -> dict[str, TableShard]:
    """A process's parts of a ranker's tables, before any key has come."""
    group = Group()
    group.rank, group.size = rank, ranks
    return {name: TableShard.of(table, group) for name, table in ranker.tables.items()}  # type: ignore[arg-type]

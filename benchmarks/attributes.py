"""What twenty attributes of users and items cost: the hourly trainer's path, and the scoring of a request."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.clocks import write_log
from benchmarks.result import Result, alone, in_own_process
from benchmarks.training import HISTORY_HOURS, HOURS, ITEMS, PER_HOUR, SESSION, UNTIL, USERS, config_of
from core.files import write_parquet
from core.settings import Settings, load_settings
from events.schema import AttributeField, AttributeType, Owner
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures
from serving.catalog import load_catalog
from serving.models import LoadedModel
from serving.stages import Moments, pair_scores
from training.model import RankerModel
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.samples import SampleStore
from training.state import StateStore
from training.state_info import new_info
from training.trainer import Trainer

TYPES: dict[Owner, tuple[AttributeType, ...]] = {
    "user": ("category",) * 7 + ("number",) * 3,
    "item": ("category",) * 5 + ("number",) * 3 + ("list", "age"),
}
"""Twenty attributes."""
VALUES, CANDIDATES, REQUESTS = 50, 200, 200
VARIANTS = ("none", "matched_clock")


def bench_attributes(scale: float) -> list[Result]:
    """Samples a second over the hourly path, and core-seconds of a request's scores, each with attributes and without."""
    results = []
    for variant in VARIANTS:
        figures = {}
        for with_attributes in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                var = Path(folder)
                in_own_process(_prepare, var, variant, scale, with_attributes)
                figures[with_attributes] = alone(_measure, var, variant)
        (plain, scored), (speed, scored_more) = figures[False], figures[True]
        name = variant.removesuffix("_clock")
        results += [
            Result(f"train_attributes_{name}", speed, "/s", "without attributes", plain, speed / plain),
            Result(f"serve_attributes_{name}", scored_more, "ms", "without attributes", scored, scored / scored_more),
        ]
    return results


def _settings(var: Path, variant: str) -> Settings:
    return load_settings(var=var, source="bench", history_days=1, variants=(variant,))


def _prepare(var: Path, variant: str, scale: float, with_attributes: bool) -> None:
    """Events, clocks, and a state that knows every id."""
    settings = _settings(var, variant)
    users, hours = int(USERS * scale), HISTORY_HOURS + HOURS
    store = write_log(settings, int(PER_HOUR * scale) * hours, users, hours, session=SESSION)
    if with_attributes:
        _write_attributes(store, users)
        store = EventStore(settings.events_dir)
    ClockState(settings, store).rebuild(UNTIL, history=False)
    advance(settings, UNTIL + HOURS - 1)
    config = config_of(settings, variant).model_copy(update={"threads": 1})
    ranker = Ranker(config, store.facets, store.behaviors, (), store.source.attributes)
    ranker.users.grow(np.arange(users), UNTIL.number)
    ranker.items.grow(np.arange(ITEMS), UNTIL.number)
    info = new_info(config, store.facets, store.behaviors, (), store.source.attributes)
    states = StateStore(settings.training_dir / "states", variant)
    states.save(replace(info, hour=(UNTIL - 1).key), ranker, Optimizer(ranker))


def _write_attributes(store: EventStore, users: int) -> None:
    """Tables of attributes that always held, as ingestion writes them."""
    fields = tuple(
        AttributeField(owner, f"{kind}_{n}", kind) for owner, kinds in TYPES.items() for n, kind in enumerate(kinds)
    )
    store.declare(replace(store.source, attributes=fields))
    rng = np.random.default_rng(0)
    for owner, count in (("user", users), ("item", ITEMS)):
        columns: dict[str, object] = {
            f"{owner}_id": np.arange(count),
            "event_timestamp": np.zeros(count, "datetime64[us]"),
        }
        for field in store.attribute_fields(owner):  # type: ignore[arg-type]
            texts = np.array([f"v{n}" for n in range(VALUES)])[rng.integers(0, VALUES, count)]
            columns[field.column] = (
                texts
                if field.type == "category"
                else pa.ListArray.from_arrays(np.arange(0, count + 1, dtype=np.int32), pa.array(texts))
                if field.type == "list"
                else rng.exponential(size=count) * 1000
            )
        schema = store.attribute_schema(owner)  # type: ignore[arg-type]
        table = pa.table({name: pa.array(values).cast(schema.field(name).type) for name, values in columns.items()})
        write_parquet(store.attribute_file(owner), table.cast(schema))  # type: ignore[arg-type]


def _measure(var: Path, variant: str) -> tuple[float, float]:
    """Samples a core-second of joining, testing and training, and core-milliseconds of scoring a request."""
    settings = _settings(var, variant)
    store = EventStore(settings.events_dir)
    samples = SampleStore(settings, store)
    assert samples.features.store is not None
    trainer = Trainer(settings, variant, samples, config_of(settings, variant).model_copy(update={"threads": 1}))
    begun = time.process_time()
    samples.build([UNTIL + n for n in range(HOURS)], force=True)
    info = trainer.train(UNTIL + HOURS - 1)
    speed = info.samples_seen / (time.process_time() - begun)
    _, ranker, _ = trainer.states.load(UNTIL + HOURS - 1)
    model = LoadedModel("1", variant, info.hour, trainer.states.folder(UNTIL), RankerModel(info, ranker), 0)
    hour = UNTIL + HOURS - 1
    features = ClockFeatures(settings, store)
    catalog = load_catalog(settings, features, hour)
    rng = np.random.default_rng(1)
    users = samples.read(hour).tables.samples["user_id"].to_numpy()[:REQUESTS]
    read = [features.online([int(user)], hour) for user in users]
    moments = Moments([{}], np.array([float(hour.number)]), np.zeros(CANDIDATES, dtype=np.int64))

    def score() -> None:
        for user, known in zip(users, read, strict=True):
            pair_scores(
                model, catalog, known, users=np.full(CANDIDATES, user), minutes=np.full(CANDIDATES, hour.number * 60),
                items=rng.choice(catalog.item, CANDIDATES), moments=moments,
            )  # fmt: skip

    score()
    begun = time.process_time()
    score()
    return speed, (time.process_time() - begun) / len(users) * 1000

"""A service of a chosen size just before an hour, and the steps of that hour: what the benches of growth measure.

The service is made by the platform's own rebuild, fill and training, over a log that is written straight into hour
partitions. The hours that are measured lie beside it as raw log, so that they are ingested too.

Core-seconds, not seconds, are measured: what else the machine does leaves them nearly as they are.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.clocks import ITEMS, random_events, write_hour
from benchmarks.experiments import expose_users
from benchmarks.result import Result
from core.files import write_json, write_text
from core.hours import DAY_HOURS, Hour, hour_range
from core.settings import Settings, load_settings
from events.ids import SCHEMA as ID_SCHEMA
from events.ids import id_path
from events.mapping import load_mapping
from events.source_properties import SourceProperties
from events.store import EventStore
from feature_repo.behavior_state import BehaviorState
from feature_repo.clock import ClockState
from feature_repo.materialization import LAST_VIEW, Materialization, advance
from feature_repo.online import write_rows
from feature_repo.retrieval import ClockFeatures
from model_registry.registry import CANDIDATE, CHALLENGER, CHAMPION, Move
from model_registry.store import moves_file, open_registry
from pipeline.experiments import watch_experiments
from pipeline.promotion import apply_decision, evaluate_candidate, watch_champion
from pipeline.source import Source, ingest_hour, save_source
from pipeline.training import build_samples, train_variants

log = logging.getLogger("benchmarks.growth")

BEGIN = Hour.parse("2025-12-01T08")
"""First hour that is ingested; so that neither a day's end nor what is done once a day lies in the hours that follow."""
VARIANTS = ("long_term_clock", "matched_clock")
WINDOW_DAYS = 30
HISTORY_LENGTH = 10
"""Recent behaviors of a user: so few that they are full with the window, and a longer log does not make them longer."""
EXPERIMENT_DAYS = 7
MAPPING = """
source: bench
paths: ['{hour}.parquet']
columns: {event_id: event_id, user_id: user_id, item_id: item_id}
timestamp: {column: timestamp}
local_time: {zone: UTC}
ids: {user: string, item: string}
facets: {genre: genre, mood: mood, language: language}
behaviors: {finish: finish, like: like, skip: skip}
"""
NEGATIVES = "negatives: {per_positive: 2, kind: popularity}\n"
EXPERIMENT = """
name: bench
variants: {{a: 1, b: 1}}
control: a
start: {start}
pre_days: 14
primary: [active_days]
secondary: [finishes, likes]
stopping: {{rule: always_valid}}
models: {{a: champion, b: challenger}}
automatic_stop: true
"""

Step = Callable[[], object]


@dataclass(frozen=True)
class Service:
    """What a service has seen before the measured hours, and what these hold.

    Attributes:
        days: of log.
        users: who have clocks.
        active: users with events in a measured hour, about.
        events: of a measured hour, and of every hour that leaves a window while it runs.
        events_before: of each other hour of the log.
        exposed: users who may be in the experiment; None: all.
        positives_only: whether the log holds positives alone, so that negatives are drawn.
        history: whether the change logs tell what every row was at each hour, as they do after long operation.
        online: whether the online store is full before the measured hours; else it has just what tells the platform that it is.
        warm_hours: hours that are run before those that count: the first ones read everything once.
        measured_hours: hours that count.
    """

    days: int
    users: int
    active: int
    events: int
    events_before: int
    exposed: int | None = None
    positives_only: bool = False
    history: bool = True
    online: bool = True
    warm_hours: int = 3
    measured_hours: int = 5

    @property
    def hours(self) -> list[Hour]:
        """The hours that are run."""
        return list(hour_range(BEGIN, BEGIN + self.warm_hours + self.measured_hours))

    @cached_property
    def full_hours(self) -> frozenset[Hour]:
        """Hours with ``events``: what leaves a window is as large as what comes."""
        return frozenset(hour - ago for hour in self.hours for ago in (0, DAY_HOURS, DAY_HOURS * WINDOW_DAYS))

    def events_in(self, hour: Hour) -> int:
        """Events of an hour."""
        return self.events if hour in self.full_hours else self.events_before


class ServiceLog:
    """A service's whole log: hour partitions before ``BEGIN``, and the raw log of the hours from then on.

    Args:
        folder: in which it is written.
        service: whose log it is.
    """

    def __init__(self, folder: Path, service: Service) -> None:
        self.service = service
        self.store, self.raw = EventStore(folder / "events"), folder / "raw"
        self.raw.mkdir(parents=True)
        write_text(self.raw / "bench.yaml", MAPPING + (NEGATIVES if service.positives_only else ""))
        self.mapping = self.raw / "bench.yaml"
        self.store.declare(SourceProperties.of(load_mapping(str(self.mapping))[0]))
        rng = np.random.default_rng(1)
        for hour in hour_range(BEGIN - DAY_HOURS * service.days, BEGIN):
            write_hour(self.store, hour, self._events(rng, hour))
            if hour >= BEGIN - DAY_HOURS * EXPERIMENT_DAYS:
                expose_users(self.store, hour, service.exposed)
        for hour in service.hours:
            events = self._events(rng, hour)
            for at, name in enumerate(events.column_names):
                if name in {"user_id", "item_id"}:
                    events = events.set_column(at, name, _keys(name, events[name].to_numpy()))
            pq.write_table(events.drop_columns(["local_time"]), self.raw / f"{hour.key}.parquet")
        for name, count in (("user_id", service.users), ("item_id", ITEMS)):
            path = id_path(self.store.root, name.removesuffix("_id"))
            path.parent.mkdir(exist_ok=True)
            numbers = np.arange(count)
            pq.write_table(pa.table([_keys(name, numbers), numbers], schema=ID_SCHEMA), path)
        write_json(self.store.root / "_ids" / "kinds.json", {"user": "string", "item": "string"})

    def _events(self, rng: np.random.Generator, hour: Hour) -> pa.Table:
        service, count = self.service, self.service.events_in(hour)
        active = rng.choice(service.users, max(1, count * service.active // service.events), replace=False)
        finished = 1.0 if service.positives_only else 0.5
        return random_events(rng, hour, count, active, finished=finished)

    def workspace(self, var: Path, days: int) -> Settings:
        """A workspace that has the last days of the log, and everything that the platform makes of them."""
        settings = load_settings(
            var=var, source="bench", variants=VARIANTS, candidate_variant=VARIANTS[1], baseline_variant=VARIANTS[0],
            window_days=WINDOW_DAYS, history_length=HISTORY_LENGTH,
        )  # fmt: skip
        begun = time.monotonic()
        settings.events_dir.mkdir(parents=True)
        for part in ("source.json", "_ids", *(f"hour={h.key}" for h in hour_range(BEGIN - DAY_HOURS * days, BEGIN))):
            (settings.events_dir / part).symlink_to(self.store.root / part)
        save_source(settings, Source(str(self.mapping), (str(self.raw / "{hour}.parquet"),)))
        _fill(settings, self.service)
        log.info("%d days of log, %d users: ready in %.0f s", days, self.service.users, time.monotonic() - begun)
        return settings


def _keys(column: str, numbers: np.ndarray) -> pa.Array:
    """Ids as they stand in the log."""
    prefix = column.removesuffix("_id")
    return pa.array([f"{prefix}-{n:07d}" for n in numbers.tolist()])


def _fill(settings: Settings, service: Service) -> None:
    """Clocks, online store, trained states, a champion with its challenger, and an experiment, as of ``BEGIN``."""
    store = EventStore(settings.events_dir)
    clock = ClockState(settings, store)
    clock.rebuild(BEGIN, history=service.history)
    online = Materialization(ClockFeatures(settings, store))
    if service.online:
        online.materialize_all(BEGIN)
    else:
        for rows in online.features.latest(LAST_VIEW, BEGIN):
            write_rows(online.store, LAST_VIEW, rows, *clock.logs[LAST_VIEW].keys)
        online.progress.note(BEGIN)
    BehaviorState(clock).bring_to(BEGIN)
    for variant in settings.variants:
        _write_state(settings, variant, service.users, BEGIN - 1)
    _offer(settings, len(store.hours()))
    start = (BEGIN - DAY_HOURS * EXPERIMENT_DAYS).day
    write_text(settings.experiments_dir / "bench.yaml", EXPERIMENT.format(start=start))


def _write_state(settings: Settings, variant: str, users: int, hour: Hour) -> None:
    """A state with rows for every user and item, in the place of one that was trained on the whole log."""
    from training.config import load_ranker_config
    from training.optimizer import Optimizer
    from training.state import StateStore, untrained_ranker
    from training.state_info import new_info

    store = EventStore(settings.events_dir)
    info = new_info(load_ranker_config(settings, variant), store.facets, store.behaviors)
    ranker = untrained_ranker(info)
    ranker.users.grow(np.arange(users), hour.number)
    ranker.items.grow(np.arange(ITEMS), hour.number)
    StateStore(settings.training_dir / "states", variant).save(replace(info, hour=hour.key), ranker, Optimizer(ranker))


def _offer(settings: Settings, hours: int) -> None:
    """Register a champion and its challenger, after as many moves of the candidate as the log has hours."""
    earlier = [
        Move(CANDIDATE, str(n + 1), str(n), f"newest at {BEGIN - hours + n}", "2025-01-01", (BEGIN - hours + n).key)
        for n in range(1, hours)
    ]
    write_text(moves_file(settings), "".join(json.dumps(asdict(move)) + "\n" for move in earlier))
    baseline, candidate = train_variants(settings, settings.variants, BEGIN - 1)
    models = open_registry(settings)
    models.move(CHAMPION, baseline.registered, "the bench's", hour=BEGIN - 1)
    for alias in (CANDIDATE, CHALLENGER):
        models.move(alias, candidate.registered, "the bench's", hour=BEGIN - 1)


def hour_steps(settings: Settings, hour: Hour) -> Mapping[str, Step]:
    """The steps of an hour in the order of its cycle, by name: what the hourly DAGs call."""
    return {
        "ingestion": lambda: ingest_hour(settings, hour),
        "clocks": lambda: advance(settings, hour + 1),
        "samples": lambda: build_samples(settings, hour, hour),
        "training": lambda: train_variants(settings, settings.variants, hour),
        "gate": lambda: _gate(settings, hour),
        "experiments": lambda: _look(settings, hour),
    }


def _gate(settings: Settings, hour: Hour) -> None:
    watch_champion(settings, hour)
    apply_decision(settings, hour, evaluate_candidate(settings, hour))


def _look(settings: Settings, hour: Hour) -> None:
    looks = watch_experiments(settings, hour)
    assert [look.verdict for look in looks] != [None], f"the experiment was not looked at: {looks}"


def hour_costs(workspaces: Mapping[str, Settings], service: Service) -> dict[str, dict[str, float]]:
    """Median core-seconds of every step of the measured hours, by workspace and step.

    The workspaces take turns, step by step, so that what else the machine does meets all of them.

    Args:
        workspaces: by name; each as of ``BEGIN``.
        service: says which hours are run, and which of them count.
    """
    spent: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in workspaces}
    for hour in service.hours:
        steps = {name: hour_steps(settings, hour) for name, settings in workspaces.items()}
        for step in next(iter(steps.values())):
            for name, of_workspace in steps.items():
                begun = time.process_time()
                of_workspace[step]()
                spent[name][step].append(time.process_time() - begun)
    for name, by_step in spent.items():
        for step, seconds in by_step.items():
            log.info("%-6s %-12s %s", name, step, " ".join(f"{each:6.2f}" for each in seconds))
    return {
        name: {step: float(np.median(seconds[service.warm_hours :])) for step, seconds in by_step.items()}
        for name, by_step in spent.items()
    }


def growth(name: str, costs: Mapping[str, Mapping[str, float]], reference: str, unit: str = "s") -> list[Result]:
    """The figures of a bench: each step at every size beside the reference.

    Args:
        name: of the bench; a figure is called ``<name>_<step>_<size>``.
        costs: size → step → cost.
        reference: the size that the others are compared with.
        unit: of the costs.
    """
    return [
        Result(
            f"{name}_{step}_{size}",
            cost[step],
            unit,
            reference,
            costs[reference][step],
            costs[reference][step] / cost[step],
        )
        for step in costs[reference]
        for size, cost in costs.items()
    ]

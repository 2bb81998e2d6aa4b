"""Where studies of rankers run: a log that is prepared once, and runs of rankers over it that are kept.

A run does what the hourly trainer does, without Airflow, states and MLflow: test on an hour, then train on it, with the
same functions. Its scores go to a file whose name is a digest of everything that they depend on, so studies share runs and
an interrupted study continues where it stopped.
"""

from __future__ import annotations

import copy
import itertools
import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from core.errors import ConfigError
from core.files import digest_json, digest_text, write_atomically, write_parquet
from core.hours import Hour
from core.logs import setup_logging
from core.settings import Settings, load_settings
from events.ingest import close_hours
from events.mapping import Negatives
from events.store import EventStore
from feature_repo import shrinkage
from feature_repo.clock import ClockState
from pipeline.source import Source, ingest_history, load_source, save_app_source, save_source
from training.batch import HourKeys
from training.config import RankerConfig, code_version, label_of, load_ranker_config
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.samples import SampleStore
from training.scoring import predict
from training.tensors import LOG_EVENTS_SCALE, hour_keys
from training.trainer import fit

logger = logging.getLogger("studies")

Changes: TypeAlias = Mapping[str, Any]
"""Settings, or values of a ranker's config file, that differ from the defaults; the model that they go to checks them."""

NEGATIVES = ("popularity", "own")
PER_POSITIVE, NEGATIVES_SEED = 4, 7
NEGATIVE_HOURS = 24 * 30
"""Negatives are drawn from this many hours whatever the clock's window, so that settings are compared on the same samples."""
PROCESSES = 2
Mode = Literal["streaming", "daily", "ages"]
FIT_DAYS = 29
"""How much thin slots borrow is fitted on the first days, or on half of a shorter log: before the evaluated time."""
AGES = (1, 6, 12, 18, 24)
"""For the mode ``ages``: how many hours before the scored hour the ranker saw its last sample."""


@dataclass(frozen=True)
class Log:
    """A log with its clocks, as studies read it.

    Attributes:
        var: folder of the workspace.
        source: name of the source.
        negatives: how negatives are drawn; empty: the log has its own negatives.
        changes: settings that differ from the defaults, such as ``window_days``.
    """

    var: Path
    source: str
    negatives: str = ""
    changes: Changes = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        var = self.var / digest_json(dict(self.changes))[:8] if self.changes else self.var
        return load_settings(**{**self.changes, "var": var, "source": self.source})

    @property
    def samples(self) -> SampleStore:
        settings = self.settings
        store = SampleStore(settings, EventStore(settings.events_dir))
        if self.negatives:
            store.root = settings.training_dir / f"samples-{self.negatives}"
            store.negative_hours = NEGATIVE_HOURS
            store.negatives = Negatives.model_validate(
                {"per_positive": PER_POSITIVE, "kind": self.negatives, "seed": NEGATIVES_SEED}
            )
        return store

    @property
    def title(self) -> str:
        return f"{self.source}, {self.negatives} negatives" if self.negatives else self.source


@dataclass(frozen=True)
class Run:
    """A ranker over a log.

    Attributes:
        variant: time module.
        seed: for the ranker's initial weights.
        changes: values that differ from the ranker's config file.
        mode: ``streaming`` (test on an hour, then train on it), ``daily`` (test on a day, then train on it
            shuffled), ``ages`` (streaming; every hour scored by the rankers of ``AGES`` hours before).
    """

    variant: str
    seed: int
    changes: Changes = field(default_factory=dict)
    mode: Mode = "streaming"

    def config(self, settings: Settings) -> RankerConfig:
        file_values = load_ranker_config(settings, self.variant).model_dump()
        return RankerConfig(**{**file_values, **self.changes, "seed": self.seed})


class Lab:
    """Prepares logs and keeps runs, below ``var/studies``.

    Args:
        settings: name the source and the run-time folder.
        data: files of the source's log; the simulated app needs none.
        seeds: number of initial weights to average over.
    """

    def __init__(self, settings: Settings, data: str = "", seeds: int = 5) -> None:
        self.settings, self.data, self.seeds = settings, data, seeds
        self.root = settings.var / "studies"
        self._digests: dict[str, str] = {}
        self._code = code_version()

    @property
    def source(self) -> str:
        return self.settings.source

    def logs(self, changes: Mapping[str, Any] | None = None) -> list[Log]:
        """Prepare the source's log: clocks and samples. A log without negatives is prepared with each kind of ``NEGATIVES``.

        Args:
            changes: settings that differ from the defaults.
        """
        base = Log(self.root / "data", self.source)
        self._ingest(base.settings)
        unsliced = Log(base.var, self.source, "", changes or {})
        self._clocks(base.settings, unsliced.settings)
        positives_only = EventStore(base.settings.events_dir).source.negatives is not None
        logs = [
            Log(base.var, self.source, negatives, changes or {})
            for negatives in (NEGATIVES if positives_only else ("",))
        ]
        for prepared in logs:
            store = prepared.samples
            logger.info("%s: samples of %d hours", prepared.title, len(store.events.hours()))
            store.build(store.events.hours())
        return logs

    def _ingest(self, settings: Settings) -> None:
        """Ingest the whole log, once."""
        ingested_mark = settings.workspace / "whole"
        if ingested_mark.exists():
            paths = {Path(p).resolve() for p in load_source(settings).paths}
            if self.data and Path(self.data).resolve() not in paths:
                raise ConfigError(f"{settings.workspace} holds another log than {self.data}; start over with FRESH=1")
            return
        if self.source == "simulator":
            app = save_app_source(settings)
            app.write_hours(app.config.first_hour, Hour.of(app.app.first_instant(app.config.days)))
        else:
            if not self.data:
                raise ConfigError(f"the source '{self.source}' needs its log: SOURCE={self.source} DATA=PATH")
            save_source(settings, Source(self.source, (self.data,)))
        ingest_history(settings, None)
        store = EventStore(settings.events_dir)
        close_hours(store, store.hours()[0], store.hours()[-1])
        ingested_mark.touch()

    @staticmethod
    def _clocks(base: Settings, settings: Settings) -> None:
        """Compute the clocks of other settings than the defaults on the same events."""
        settings.workspace.mkdir(parents=True, exist_ok=True)
        if not settings.events_dir.exists():
            settings.events_dir.symlink_to(base.events_dir)
        state = ClockState(settings, EventStore(settings.events_dir))
        current = state.read()
        if current is None or current.config != state.config:
            state.rebuild(state.store.hours()[-1] + 1)
        if settings.shrinkage:
            hours = state.store.hours()
            if not shrinkage.Shrinkage.path(settings).exists():
                shrinkage.fit(settings, hours[0] + min(24 * FIT_DAYS, len(hours) // 2))

    def scores(self, log: Log, run: Run) -> Path:
        """File of a run's scores, shape (samples,), or (samples, ages)."""
        settings = log.settings
        depends = [log.source, log.negatives, dict(log.changes), run.config(settings).digest, run.mode]
        digest = digest_json([*depends, self._code, self._digest(log)])
        return self.root / "runs" / f"{digest[:24]}.npy"

    def _digest(self, log: Log) -> str:
        """Digest of the samples of a log."""
        key = key_of(log)
        if key not in self._digests:
            store = log.samples
            self._digests[key] = digest_text(*(store.digest(hour) for hour in store.events.hours()))
        return self._digests[key]

    def run(self, requested: Iterable[tuple[Log, Run]]) -> None:
        """Do all runs that have no scores yet."""
        pending = [(g, r) for g, r in requested if not self.scores(g, r).exists()]
        if not pending:
            return
        logger.info("%d runs to do, %d at a time", len(pending), PROCESSES)
        begun, done = time.monotonic(), 0
        jobs = {self.processes.submit(_work, g, r, self.scores(g, r)): (g, r) for g, r in pending}
        try:
            for job in as_completed(jobs):
                job.result()
                done += 1
                log, run = jobs[job]
                left = (time.monotonic() - begun) / done * (len(pending) - done) / 60
                logger.info(
                    "%s, %s, seed %d: %d of %d runs, about %.0f min left",
                    log.title,
                    run.variant,
                    run.seed,
                    done,
                    len(pending),
                    left,
                )
        finally:
            for job in jobs:
                job.cancel()

    def read(self, log: Log, run: Run) -> np.ndarray:
        """Scores of a finished run, shape (samples,), or (samples, ages)."""
        scores: np.ndarray = np.load(self.scores(log, run))
        return scores

    def behaviors(self) -> list[str]:
        """Behaviors that the source knows."""
        base = Log(self.root / "data", self.source).settings
        self._ingest(base)
        return EventStore(base.events_dir).behaviors

    def command(self, name: str) -> str:
        """The command that runs a study again."""
        data = f" DATA={self.data}" if self.data else ""
        return f"make study NAME={name} SOURCE={self.source}{data} SEEDS={self.seeds}"

    def forget(self) -> None:
        """Remove prepared logs and finished runs."""
        for name in ("data", "runs"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    @cached_property
    def processes(self) -> ProcessPoolExecutor:
        """The processes that do runs; a study asks for runs several times, and each would import PyTorch every time."""
        return ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn"))

    @cached_property
    def seed_numbers(self) -> list[int]:
        return [self.settings.seed + n for n in range(self.seeds)]


_cached_hours: dict[str, list[tuple[Hour, HourKeys]]] = {}


def hours_of(log: Log) -> list[tuple[Hour, HourKeys]]:
    """The hours that have samples, as keys with everything that any ranker reads; the last log's stay in memory."""
    key = key_of(log)
    if key not in _cached_hours:
        _cached_hours.clear()
        store = log.samples
        everything = Ranker(load_ranker_config(log.settings, "matched_clock"), store.facets, store.heads, store.context)
        drawn = ((hour, store.read(hour).tables) for hour in store.events.hours())
        _cached_hours[key] = [
            (hour, hour_keys(tables, everything)) for hour, tables in drawn if tables.samples.num_rows
        ]
    return _cached_hours[key]


def key_of(log: Log) -> str:
    """Digest of what identifies a log: its folder, source, negatives and changed settings."""
    return digest_json([str(log.var), log.source, log.negatives, dict(log.changes)])


def frame_path(log: Log) -> Path:
    """File of a log's samples as one frame."""
    return log.samples.root / "frame.parquet"


def write_frame(log: Log) -> None:
    """Write what comparisons slice by, one row per sample: user, label, hour, local hour and weekday, activity, item's age."""
    path = frame_path(log)
    if path.exists():
        return
    store = log.samples
    seen: dict[int, int] = {}
    tables = []
    for hour, keys in hours_of(log):
        head = store.heads.index(label_of(store.heads))
        first = np.array([seen.setdefault(int(i), hour.number) for i in keys.items])
        moment = keys.moment
        tables.append(
            pa.table(
                {
                    "hour": np.full(len(keys), hour.number),
                    "user": keys.users,
                    "label": keys.labels[:, head].astype(np.int8),
                    "known": keys.known[:, head],
                    "day": keys.minutes // 1440,
                    "local_hour": moment.hours.numpy().astype(np.int8),
                    "weekday": moment.weekday.numpy().astype(np.int8),
                    "events": np.rint(np.expm1(keys.dense[:, 0].astype(np.float64) * LOG_EVENTS_SCALE)).astype(
                        np.int32
                    ),
                    "item_age": (hour.number - first).astype(np.int32),
                }
            )
        )
    write_parquet(path, pa.concat_tables(tables))


def read_frame(log: Log) -> dict[str, np.ndarray]:
    """Columns of ``write_frame``."""
    write_frame(log)
    table = pq.read_table(frame_path(log))
    return {name: table[name].to_numpy() for name in table.column_names}


def _work(log: Log, run: Run, path: Path) -> None:
    setup_logging(load_settings())
    write_frame(log)  # from the same hours
    scores = replay(hours_of(log), log, run)
    write_atomically(path, lambda target: _save(target, scores))


def _save(path: Path, scores: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, scores)


def replay(hours: Sequence[tuple[Hour, HourKeys]], log: Log, run: Run) -> np.ndarray:
    """Run a ranker over a log: every sample is scored before the ranker is trained on it.

    Args:
        hours: of ``hours_of``.
        log: has the settings and the samples.
        run: the ranker.

    Returns:
        Scores of the label.
        Shape (samples,); with mode ``ages`` (samples, ages).
    """
    store, config = log.samples, run.config(log.settings)
    torch.set_num_threads(config.threads)
    ranker = Ranker(config, store.facets, store.heads, store.context)
    optimizer, head = Optimizer(ranker), store.heads.index(label_of(store.heads))
    scores: list[np.ndarray] = []
    past: dict[int, Ranker] = {}
    for first, part in _parts(hours, daily=run.mode == "daily"):
        keys = part.only(clock=ranker.time.needs_clock, recent_behaviors=ranker.needs_recent_behaviors)
        if run.mode == "ages":
            olds = [_as_of(past, first.number - age) or ranker for age in AGES]
            scores.append(np.stack([predict(old, keys)[:, head] for old in olds], axis=1))
        else:
            scores.append(predict(ranker, keys)[:, head])
        if run.mode == "daily":
            keys = keys.take(np.random.default_rng([run.seed, first.number]).permutation(len(keys)))
        fit(ranker, optimizer, keys, first)
        if run.mode == "ages":
            past[first.number] = copy.deepcopy(ranker)
            past = {n: r for n, r in past.items() if n >= first.number - 2 * max(AGES)}
    return np.concatenate(scores)


def _parts(hours: Sequence[tuple[Hour, HourKeys]], *, daily: bool) -> Iterable[tuple[Hour, HourKeys]]:
    """The hours, or the UTC days that they make."""
    if not daily:
        return hours
    days = itertools.groupby(hours, key=lambda pair: pair[0].day)
    return ((pairs[0][0], HourKeys.joined([keys for _, keys in pairs])) for pairs in (list(group) for _, group in days))


def _as_of(past: Mapping[int, Ranker], hour: int) -> Ranker | None:
    """The latest ranker that was trained on nothing after an hour."""
    return past[max(hours)] if (hours := [n for n in past if n <= hour]) else None

"""Where studies of rankers run: a log that is prepared once, and runs over it that are kept.

Scores go to a file whose name is a digest of everything that they depend on, so studies share runs and an interrupted
study continues where it stopped.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.errors import ConfigError
from core.files import digest_json, digest_text, write_atomically
from core.forks import FORKS, preload
from core.hours import Hour
from core.logs import setup_logging
from core.settings import Settings, load_settings
from events.ingest import close_hours
from events.mapping import load_mapping
from events.store import EventStore
from feature_repo import shrinkage
from feature_repo.clock import ClockState
from pipeline.source import Source, ingest_history, load_source, save_app_source, save_source
from studies.log import Log, key_of, write_frame

logger = logging.getLogger("studies")
preload("studies.run_imports")

NEGATIVES = ("popularity", "own")
PROCESSES = 2
SECONDS_TO_END = 5.0
FIT_DAYS = 29
"""How much thin slots borrow is fitted on the first days, or on half of a shorter log: before the evaluated time."""


class ScoringRun(Protocol):
    """What the lab can do over a log, and keep: a ranker that scores every sample with what it learned from earlier ones."""

    @property
    def title(self) -> str:
        """Name for people."""

    def identity(self, log: Log) -> list[Any]:
        """Everything besides the log's samples that the scores depend on, as JSON."""

    def score(self, log: Log) -> np.ndarray:
        """Scores of the label, shape (samples,) or (samples, ages)."""


class Lab:
    """Prepares logs and keeps runs, below ``var/studies``.

    Args:
        settings: name the source and the run-time folder.
        data: files of the source's log; the simulated app needs none.
        seeds: number of initial weights to average over.
        mapping: mapping file of the log; empty: the built-in one with the source's name.

    Raises:
        ConfigError: the mapping cannot be read, or is another source's.
    """

    def __init__(self, settings: Settings, data: str = "", seeds: int = 5, mapping: str = "") -> None:
        self.settings, self.data, self.seeds, self.mapping = settings, data, seeds, mapping
        if mapping and (of := load_mapping(mapping)[0].source) != settings.source:
            raise ConfigError(f"{mapping} maps the source '{of}', not '{settings.source}': add --source {of}")
        self.root = settings.var / "studies"
        self._digests: dict[str, str] = {}

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
        """Ingest the whole log, once; one that was interrupted goes on."""
        ingested_mark = settings.workspace / "whole"
        if EventStore(settings.events_dir).hours():
            self._check_same(settings, load_source(settings))
        if ingested_mark.exists():
            return
        if self.source == "simulator":
            app = save_app_source(settings)
            app.write_hours(app.config.first_hour, Hour.of(app.app.first_instant(app.config.days)))
        else:
            if not self.data:
                raise ConfigError(f"the source '{self.source}' needs its log: SOURCE={self.source} DATA=PATH")
            save_source(settings, Source(self.mapping or self.source, (self.data,)))
        ingest_history(settings, None)
        store = EventStore(settings.events_dir)
        close_hours(store, store.hours()[0], store.hours()[-1])
        ingested_mark.touch()

    def _check_same(self, settings: Settings, source: Source) -> None:
        paths = {Path(p).resolve() for p in source.paths}
        if self.data and Path(self.data).resolve() not in paths:
            raise ConfigError(f"{settings.workspace} holds another log than {self.data}; start over with FRESH=1")
        if self.mapping and Path(self.mapping).resolve() != Path(source.mapping).resolve():
            raise ConfigError(f"{settings.workspace} was mapped by {source.mapping}; start over with FRESH=1")

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

    def scores(self, log: Log, run: ScoringRun) -> Path:
        """File of a run's scores, shape (samples,), or (samples, ages)."""
        depends = [log.source, log.negatives, dict(log.changes), *run.identity(log)]
        digest = digest_json([*depends, self._digest(log)])
        return self.root / "runs" / f"{digest[:24]}.npy"

    def _digest(self, log: Log) -> str:
        """Digest of the samples of a log."""
        key = key_of(log)
        if key not in self._digests:
            store = log.samples
            self._digests[key] = digest_text(*(store.digest(hour) for hour in store.events.hours()))
        return self._digests[key]

    def run(self, requested: Iterable[tuple[Log, ScoringRun]]) -> None:
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
                    "%s, %s: %d of %d runs, about %.0f min left",
                    log.title,
                    run.title,
                    done,
                    len(pending),
                    left,
                )
        except BaseException:  # what is pending would keep the processes, and with them the program, alive
            self.close()
            raise

    def read(self, log: Log, run: ScoringRun) -> np.ndarray:
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
        data += f" MAPPING={self.mapping}" if self.mapping else ""
        return f"make study NAME={name} SOURCE={self.source}{data} SEEDS={self.seeds}"

    def close(self) -> None:
        """End the processes that do runs; what they did is on disk.

        After many runs some wait for work, and the program at its end for them, for ever: they are not asked for long.
        """
        if "processes" in self.__dict__:
            self.processes.shutdown(wait=False, cancel_futures=True)
            del self.processes
            for process in multiprocessing.active_children():
                process.join(SECONDS_TO_END)
                process.terminate()

    def forget(self) -> None:
        """Remove prepared logs and finished runs."""
        for name in ("data", "runs"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    @cached_property
    def processes(self) -> ProcessPoolExecutor:
        """The processes that do runs, forked from one that has imported PyTorch; a study asks for runs several times."""
        environment = dict(os.environ)  # the fork server has that of its start
        return ProcessPoolExecutor(PROCESSES, mp_context=FORKS, initializer=_take_over, initargs=(environment,))

    @cached_property
    def seed_numbers(self) -> list[int]:
        return [self.settings.seed + n for n in range(self.seeds)]


def _take_over(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)


def _work(log: Log, run: ScoringRun, path: Path) -> None:
    setup_logging(load_settings())
    write_frame(log)  # from the same hours
    scores = run.score(log)
    write_atomically(path, lambda target: _save(target, scores))


def _save(path: Path, scores: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, scores)

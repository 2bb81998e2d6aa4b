"""The lane trains: what serving ranks by goes on learning from the running hour's samples, and is published for serving.

Each version that serves is trained by itself, from the state that is registered. A sample is trained on once, when its outcomes are
known: of a log in which actions are rows of their own, when the time in which they may come is over. Samples are those that the
hour's own builder makes, with features as of the hour's start. They are trained on in whole batches of the ranker's size, as the
hour's run does: a step is as long whatever the size of its batch, and steps on a few samples make a ranker worse (the study
``parameters``). What does not fill a batch waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import ConfigError
from core.hours import Hour
from core.lookup import positions
from core.settings import Settings
from events.mapping_rows import Actions
from events.store import EventStore
from serving.models import served_versions
from streaming.status import TrainingStatus
from training.running import PublishedParameters, RunningTrainer
from training.running_samples import RunningSamples

log = logging.getLogger("streaming.parameters")

MOST_EVENTS = 20_000
"""Events of one step: features wait for no longer than these take."""


class ParameterLane:
    """Trains what serving ranks by on the samples of the clocks' hour.

    Args:
        settings: of the workspace.

    Raises:
        ConfigError: features are joined by Spark, whose start takes longer than a step.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.offline_store == "spark":
            raise ConfigError(
                "CLOCK_STREAMING_TRAIN needs CLOCK_OFFLINE_STORE=duckdb: a join by Spark takes longer than a minute"
            )
        self.settings = settings
        self.published = PublishedParameters(settings)
        self.status = TrainingStatus()

    def begin(self, hour: Hour) -> None:
        """Forget what was learned, and begin with an hour; nothing is published.

        Args:
            hour: that the clocks hold for.
        """
        self._hour, self._samples = hour, RunningSamples(self.settings, hour)
        self._trainers: dict[str, RunningTrainer] = {}
        self._failed: dict[str, str] = {}
        self._pending: pa.Table | None = None
        self._trained = np.empty(0, dtype=np.uint64)
        self._newest: datetime | None = None
        self._next = 0.0
        self.status = TrainingStatus()

    def take(self, events: pa.Table) -> None:
        """Take events to train on; those that were trained on are passed over, others may come again, changed.

        Args:
            events: since the clocks' hour, in the event schema, of users and items that the log knows.
        """
        if not events.num_rows:
            return
        newest = pc.max(events["timestamp"]).as_py()
        self._newest = max(newest, self._newest or newest)
        rows = self._of_the_hour(events)
        rows = pa.concat_tables([self._pending, rows]) if self._pending is not None else rows
        ids = _hashes(rows)
        new = ~pd.Series(ids).duplicated(keep="last").to_numpy() & ~positions(self._trained, ids)[1]
        self._pending = rows.filter(pa.array(new)).combine_chunks()

    def step(self, earlier: Callable[[], pa.Table]) -> bool:
        """Train on what came since the last time, if that is long ago, and publish what serving may take.

        Args:
            earlier: reads everything of the hour that ``take`` was told.

        Returns:
            Whether anything was published.
        """
        if self._pending is None or time.monotonic() < self._next:
            return False
        begun = time.monotonic()
        self._next = begun + self.settings.streaming_train_seconds
        new = self._follow_serving()
        ripe = self._ripe(self._pending)
        piece = self._whole_batches(ripe)
        if not self._trainers or not (piece.num_rows or new):
            return self._publish(begun) if self._left_over() else False
        if new and len(self._trained):
            told = self._of_the_hour(earlier())
            self._learn(told.filter(pa.array(positions(self._trained, _hashes(told))[1])), new)
        if piece.num_rows:
            self._learn(piece, [*self._trainers])
            ids = _hashes(piece)
            self._trained = np.union1d(self._trained, ids)
            self._pending = self._pending.filter(pa.array(~np.isin(_hashes(self._pending), ids)))
            if ripe.num_rows >= 2 * piece.num_rows:  # much to catch up with: features first, then the next piece
                self._next = 0.0
        return self._publish(begun)

    def _follow_serving(self) -> list[str]:
        """Begin with versions that serve now, end with those that no longer do; returns the former."""
        served = served_versions(self.settings)
        self._trainers = {version: trainer for version, trainer in self._trainers.items() if version in served}
        new = [version for version in served if version not in self._trainers and version not in self._failed]
        for version in new:
            self._guarded(version, partial(self._begin_with, version, served[version]))
        return [version for version in new if version in self._trainers]

    def _begin_with(self, version: str, folder: Path) -> None:
        self._trainers[version] = RunningTrainer(version, folder)

    def _learn(self, events: pa.Table, versions: list[str]) -> None:
        """Train versions on events."""
        if not events.num_rows:
            return
        drawn = self._samples.of(events)
        for version in versions:
            self._guarded(version, partial(self._trainers[version].learn, drawn))

    def _guarded(self, version: str, work: Callable[[], None]) -> None:
        """Do something with a version; one that fails is left out until the hour is over, whatever it is."""
        try:
            work()
        except Exception as error:  # the other versions, and the features, are not to suffer
            self._trainers.pop(version, None)
            self._failed[version] = f"{type(error).__name__}: {error}".splitlines()[0]
            log.warning("version %s is not trained within %s: %s", version, self._hour, error)

    def _left_over(self) -> bool:
        """Whether something is published of a version that no longer serves."""
        return bool(self.published.read(self._hour).keys() - self._trainers.keys())

    def _publish(self, begun: float) -> bool:
        """Publish the versions that have learned something and may serve."""
        fit = {v: trainer for v, trainer in self._trainers.items() if trainer.samples and not trainer.withheld}
        published = self.published.publish(self._hour, fit)
        withheld = {v: trainer.withheld for v, trainer in self._trainers.items() if trainer.withheld}
        for version, reason in withheld.items():
            if version not in self.status.withheld:
                log.warning("the parameters of version %s are not served within %s: %s", version, self._hour, reason)
        newest = max((trainer.until for trainer in fit.values()), default=None)
        self.status = TrainingStatus(
            parameters=sorted(each.name for each in published.values()), trained=newest.isoformat() if newest else None,
            samples=max((trainer.samples for trainer in fit.values()), default=0), withheld={**self._failed, **withheld},
            train_seconds=round(time.monotonic() - begun, 3),
        )  # fmt: skip
        return True

    def _whole_batches(self, events: pa.Table) -> pa.Table:
        """The first events in time order that fill batches of every version, as many as a step takes."""
        sizes = [trainer.info.ranker_config.batch_size for trainer in self._trainers.values()]
        batch = max(max(sizes, default=1) // self._samples.per_event, 1)
        count = min(events.num_rows, max(MOST_EVENTS, batch)) // batch * batch
        return events.sort_by([("timestamp", "ascending"), ("event_id", "ascending")]).slice(0, count)

    def _of_the_hour(self, events: pa.Table) -> pa.Table:
        """Those of the clocks' hour: of later ones the features are not known yet."""
        end = pa.scalar((self._hour + 1).start, events["timestamp"].type)
        return events.filter(pc.less(events["timestamp"], end))

    def _ripe(self, events: pa.Table) -> pa.Table:
        """Those whose outcomes are known."""
        rule = EventStore(self.settings.events_dir).source.actions
        if rule is None or self._newest is None:
            return events
        now = min(self._newest, datetime.now(UTC)) if self.settings.live else self._newest
        return shown_before(events, outcomes_known(rule, now))


def outcomes_known(rule: Actions, now: datetime) -> datetime:
    """Until when nothing more can come of what was shown.

    Args:
        rule: how actions are joined to impressions.
        now: time of the newest row.
    """
    return now - timedelta(minutes=rule.window_minutes, seconds=rule.skew_seconds)


def shown_before(events: pa.Table, moment: datetime) -> pa.Table:
    """Events up to a moment."""
    return events.filter(pc.less_equal(events["timestamp"], pa.scalar(moment, events["timestamp"].type)))


def _hashes(events: pa.Table) -> np.ndarray:
    """Hashes of 64 bits of the events' ids."""
    return pd.util.hash_array(events["event_id"].to_numpy(), categorize=False)

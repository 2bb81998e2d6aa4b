"""Samples of the running hour as its events come in: what the hour's own samples will be, a piece at a time."""

from __future__ import annotations

import pyarrow as pa

from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures
from training.negatives import NegativePool, sample_columns
from training.samples import HourSamples, with_features, without_features


class RunningSamples:
    """Builds samples of events of an hour that is not over, with features as of its start.

    Args:
        settings: of the workspace.
        hour: the hour; the clocks hold for its start.

    Attributes:
        per_event: samples that an event makes, its negatives included.
    """

    def __init__(self, settings: Settings, hour: Hour) -> None:
        self.hour, self._events = hour, EventStore(settings.events_dir)
        self._features = ClockFeatures(settings, self._events)
        self._columns, self._rule = sample_columns(self._events), self._events.source.negatives
        self._pool = (
            NegativePool(settings, self._events, self._events.facets, settings.window_hours, [hour])
            if self._rule
            else None
        )
        self.per_event = 1 + (self._rule.per_positive if self._rule else 0)
        self._pieces = 0

    def of(self, events: pa.Table) -> HourSamples:
        """Samples of events, in time order.

        Args:
            events: of the hour, at least one, none of which was in a piece before. Users and items have the log's ids.
        """
        self._pieces += 1
        samples = self._events.with_all_columns(events).select(self._columns)
        samples = samples.sort_by([("timestamp", "ascending"), ("event_id", "ascending")])
        if self._pool is not None and self._rule is not None:
            samples = self._pool.with_negatives(self.hour, samples, self._rule, self._pieces)
        if not samples.num_rows:  # among one's own items: nobody came back to one
            return HourSamples(self.hour, without_features(samples), "")
        (tables,) = with_features(self._features, [(self.hour, samples)])
        return HourSamples(self.hour, tables, "")

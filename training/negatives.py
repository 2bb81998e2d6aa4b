"""What the samples of an hour are before they get features: its events, and negatives where the log has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from core import duck
from core.duck import file_list, hour_number, identifier
from core.hours import Hour, hour_range
from core.settings import Settings
from events.mapping import Negatives
from events.schema import BEHAVIORS
from events.store import EventStore

TRIES = 4
"""A negative equal to its positive is drawn again this often, then left out."""


def sampled_events(
    settings: Settings, events: EventStore, hours: Sequence[Hour], rule: Negatives | None, window: int
) -> Iterator[tuple[Hour, pa.Table]]:
    """Each hour with its samples, in time order, without their features.

    Args:
        settings: of the workspace.
        events: of the source.
        hours: ascending; a draw depends on the hour alone, not on the others.
        rule: how negatives are drawn; None where the log has its own.
        window: hours before a sample's from which they are drawn.
    """
    columns = sample_columns(events)
    pool = NegativePool(settings, events, events.facets, window, hours) if rule and hours else None
    for hour in hours:
        rows = events.read(hour).select(columns)
        if pool is not None and rule and rows.num_rows:
            rows = pool.with_negatives(hour, rows, rule)
        yield hour, rows


def sample_columns(events: EventStore) -> list[str]:
    """Columns of a source's events that samples have."""
    source = events.source
    requests = ["request_id"] if source.has_requests else []
    columns = ["event_id", "user_id", "item_id", "timestamp", "local_time"]
    return [*columns, *events.facets, *BEHAVIORS, *source.context, *requests]


class NegativePool:
    """Past events to draw negatives from: a uniform draw from them is a draw by popularity.

    Only events before the start of the positive's hour, and so many hours before it at most, take part, so no
    negative and no facet of one comes from the future.
    """

    def __init__(
        self, settings: Settings, events: EventStore, facets: Sequence[str], window: int, hours: Sequence[Hour]
    ) -> None:
        self.window, self.facets = window, list(facets)
        past = hour_range(hours[0] - window, hours[-1] + 1)
        files = events.event_files(past)
        columns = ", ".join(map(identifier, ["user_id", "item_id", *self.facets]))
        with duck.connection(settings) as con:
            con.register("no_events", events.event_schema.empty_table())
            source = f"read_parquet({file_list(files)})" if files else "no_events"
            table = con.sql(
                f"SELECT {hour_number('timestamp')} AS hour, {columns} FROM {source} ORDER BY timestamp, event_id"
            ).to_arrow_table()
        self.hours = table["hour"].to_numpy()
        self.users, self.items = table["user_id"].to_numpy(), table["item_id"].to_numpy()
        self.table = table

    def with_negatives(self, hour: Hour, events: pa.Table, rule: Negatives, piece: int = 0) -> pa.Table:
        """The hour's positives, each followed by its negatives.

        Args:
            hour: the hour of ``events``.
            events: positives, in time order.
            rule: how they are drawn. The kind ``popularity`` draws by popularity in the window before the hour; ``own``
                draws from the user's own earlier events (which of my places now?), evenly over the items; positives on
                items that are new to the user, or the only one so far, are left out, for they would be told by that
                alone. The draws depend on the seed and on the hour, so an hour can be built by itself.
            piece: number of the piece of the hour that the events are, as each draws for itself; 0: they are the hour.
        """
        first, last = np.searchsorted(self.hours, [hour.number - self.window, hour.number])
        draw = np.random.default_rng([rule.seed, hour.number, *([piece] if piece else [])])
        if rule.kind == "own":
            events = events.filter(pa.array(self._revisits(events, first, last)))
        positives = np.repeat(np.arange(events.num_rows), rule.per_positive)
        item = events["item_id"].to_numpy()
        if rule.kind == "own":
            picks = self._own(events["user_id"].to_numpy()[positives], item[positives], first, last, draw)
        else:
            picks = np.full(len(positives), -1)
            for _ in range(TRIES if last > first else 0):
                bad = (picks < 0) | (self.items[picks] == item[positives])
                picks[bad] = draw.integers(first, last, int(bad.sum()))
            if last > first:
                picks[self.items[picks] == item[positives]] = -1
        keep = picks >= 0
        positives, picks = positives[keep], picks[keep]
        number = np.arange(len(positives)) - np.searchsorted(positives, positives)
        copied = events.take(positives)
        ids = pc.binary_join_element_wise(copied["event_id"], pa.array([f"n{n}" for n in number], pa.string()), "/")
        drawn = self.table.take(picks)
        columns = {
            name: ids
            if name == "event_id"
            else drawn[name].cast(events.schema.field(name).type)
            if name in {"item_id", *self.facets}
            else _negated(copied[name])
            if name in BEHAVIORS
            else copied[name]
            for name in events.column_names
        }
        negatives = pa.table(columns, schema=events.schema)
        order = np.argsort(np.concatenate([np.arange(events.num_rows), positives]), kind="stable")
        return pa.concat_tables([events, negatives]).take(order).combine_chunks()

    def _revisits(self, events: pa.Table, first: int, last: int) -> np.ndarray:
        """Which events are of an item that the user had before, while there is another such item."""
        pairs, _ = self._pairs(first, last)
        users, items = (events[name].to_numpy().astype(np.int64) for name in ("user_id", "item_id"))
        begin, end = np.searchsorted(pairs[:, 0], users, "left"), np.searchsorted(pairs[:, 0], users, "right")
        had = pd.MultiIndex.from_arrays([users, items]).isin(pd.MultiIndex.from_arrays(pairs.T))
        return had & (end - begin > 1)

    def _pairs(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Distinct (user, item) of the pool's events [first, last), and the position of its first event."""
        both = np.stack([self.users[first:last], self.items[first:last]], axis=1).astype(np.int64)
        if not len(both):
            return both, np.empty(0, np.int64)
        pairs, where = np.unique(both, axis=0, return_index=True)
        return pairs, where + first

    def _own(
        self, users: np.ndarray, items: np.ndarray, first: int, last: int, draw: np.random.Generator
    ) -> np.ndarray:
        """A random earlier event of each user with another item; −1 where there is none."""
        pairs, where = self._pairs(first, last)
        begin, end = np.searchsorted(pairs[:, 0], users, "left"), np.searchsorted(pairs[:, 0], users, "right")
        picks = np.full(len(users), -1)
        for _ in range(TRIES):
            open_ = (picks < 0) & (end > begin)
            at = begin + (draw.uniform(size=len(users)) * (end - begin)).astype(np.int64)
            at = np.minimum(at, max(len(pairs) - 1, 0))
            fits = np.zeros(len(users), dtype=bool)
            fits[open_] = pairs[at[open_], 1] != items[open_]
            picks[fits] = where[at[fits]]
        return picks


def _negated(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """False where the positive knows the behavior, null where it does not."""
    return pc.if_else(pc.is_valid(values), pa.scalar(False), pa.scalar(None, pa.bool_()))

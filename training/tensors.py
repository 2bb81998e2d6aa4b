"""Arrow tables of samples to tensors, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from core.errors import DataError
from training.embedding import distinct

if TYPE_CHECKING:
    from training.ranker import Ranker

LOG_EVENTS_SCALE = 5.0
"""Divides the log of a user's events, to bring it near 1."""
DAY_MINUTES = 1440
SATURDAY = 5
CLOCK_PARTS = ("clock_values", "clock_scores", "slot_events")
HISTORY_PARTS = ("history_items", "history_minutes")
BY_USER = (*CLOCK_PARTS, *HISTORY_PARTS)
"""Parts that have a row a user; everything else has a row a sample."""


class SampleTables(NamedTuple):
    """Samples with their features.

    Attributes:
        samples: user_id, item_id, local_time, the facets and the heads (bool, null unknown).
        slots: clock slots of the users as of the hour's start.
        profiles: activity of the users as of the hour's start.
        history: the users' recent behaviors before the hour's start: ``items`` and local ``minutes`` since 1970.
    """

    samples: pa.Table
    slots: pa.Table
    profiles: pa.Table
    history: pa.Table


@dataclass(frozen=True)
class Moment:
    """When the samples happen, on the user's wall clock.

    Attributes:
        minutes: local minutes since 1970, shape (B,).
    """

    minutes: Tensor

    @property
    def hours(self) -> Tensor:
        """Local time of day in hours to the minute, in [0, 24), shape (B,)."""
        return (self.minutes % DAY_MINUTES).float() / 60

    @property
    def weekday(self) -> Tensor:
        """0 Monday to 6 Sunday, shape (B,)."""
        return (self.minutes // DAY_MINUTES + 3) % 7

    @property
    def weekend(self) -> Tensor:
        """Whether it is Saturday or Sunday, shape (B,)."""
        return self.weekday >= SATURDAY


@dataclass(frozen=True)
class Batch:
    """Model input of B samples of U users; ids are rows of the ranker's tables.

    Attributes:
        users, items: shape (B,).
        facets: item facets, shape (B, F).
        minutes: local minutes since 1970, shape (B,).
        dense: log of the user's events in the window, finish rate, and whether there is a profile,
            shape (B, 3).
        user_position: position of the sample's user among the U users, shape (B,).
        clock_values: top values of each slot, shape (U, S, F, K), S slots; 0 where there is none. S is 0
            where the ranker needs no clock.
        clock_scores: their scores, same shape.
        slot_events: events of each slot, shape (U, S).
        history_items: recent behaviors, oldest first, shape (U, L); L is 0 where the ranker needs no history.
        history_minutes: their local minutes since 1970, −1 where there is none, shape (U, L).
        labels: 0 or 1 for each head, shape (B, heads); 0 where unknown.
        known: whether a label is known, shape (B, heads).
    """

    users: Tensor
    items: Tensor
    facets: Tensor
    minutes: Tensor
    dense: Tensor
    user_position: Tensor
    clock_values: Tensor
    clock_scores: Tensor
    slot_events: Tensor
    history_items: Tensor
    history_minutes: Tensor
    labels: Tensor
    known: Tensor

    def __len__(self) -> int:
        return len(self.users)

    @property
    def moment(self) -> Moment:
        return Moment(self.minutes)

    def to(self, device: torch.device) -> Batch:
        """The same in a device's memory."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def slice(self, start: int, stop: int) -> Batch:
        """Samples [start, stop); the features of all users stay, see ``compact``."""
        return replace(
            self, **{f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name not in BY_USER}
        )

    def compact(self) -> Batch:
        """The same samples with the features of their users only, for what computes on every user of a batch."""
        users, position = distinct(self.user_position, len(self.history_minutes))
        return replace(self, **{name: getattr(self, name)[users] for name in BY_USER}, user_position=position)

    def batches(self, size: int) -> Iterator[Batch]:
        """The samples in order, ``size`` at a time."""
        if 0 < len(self) <= size:
            yield self
            return
        for start in range(0, len(self), size):
            yield self.slice(start, start + size)


def shares(scores: Tensor) -> Tensor:
    """Scores (…, K) of a slot's facet, normalised to sum to 1; all 0 where there are none."""
    return scores / scores.sum(dim=-1, keepdim=True).clamp(min=1e-9)


def facet_keys(facet: str, values: pa.Array) -> np.ndarray:
    """int64 key of each facet value, 0 for null: a 63-bit digest, so that tables need no shared vocabulary.

    Two of a million values collide with a chance of 5e-8.
    """
    import hashlib

    encoded = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
    keys = [
        int.from_bytes(hashlib.blake2b(f"{facet}={value}".encode(), digest_size=8).digest(), "big") >> 1
        for value in encoded.dictionary.to_pylist()
    ]
    table = np.array([0, *keys], dtype=np.int64)
    at = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return table[at]


@dataclass(frozen=True)
class HourKeys:
    """An hour's samples as raw keys, before the rows of a model's tables are looked up.

    Same attributes as ``Batch``, keys instead of rows.
    """

    users: np.ndarray
    items: np.ndarray
    facets: np.ndarray
    minutes: np.ndarray
    dense: np.ndarray
    user_position: np.ndarray
    clock_values: np.ndarray
    clock_scores: np.ndarray
    slot_events: np.ndarray
    history_items: np.ndarray
    history_minutes: np.ndarray
    labels: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def moment(self) -> Moment:
        return Moment(torch.from_numpy(self.minutes))

    def only(self, *, clock: bool, history: bool) -> HourKeys:
        """The same samples without the parts that a ranker does not read."""
        parts = [*(() if clock else CLOCK_PARTS), *(() if history else HISTORY_PARTS)]
        return replace(self, **{name: getattr(self, name)[:, :0] for name in parts})

    def take(self, order: np.ndarray) -> HourKeys:
        """The samples in another order."""
        return replace(self, **{f.name: getattr(self, f.name)[order] for f in fields(self) if f.name not in BY_USER})

    @classmethod
    def joined(cls, parts: Sequence[HourKeys]) -> HourKeys:
        """Several hours as one; a user of two hours keeps the features of each."""
        starts = np.cumsum([0, *(len(part.history_minutes) for part in parts)])
        found = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        moved = [part.user_position + start for part, start in zip(parts, starts, strict=False)]
        return cls(**{**found, "user_position": np.concatenate(moved)})


def hour_keys(tables: SampleTables, ranker: Ranker) -> HourKeys:
    """Turn the tables of one hour into the arrays that a ranker needs."""
    samples = tables.samples
    users = samples["user_id"].to_numpy()
    unique, position = np.unique(users, return_inverse=True)
    local = samples["local_time"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return HourKeys(
        users=users,
        items=samples["item_id"].to_numpy(),
        facets=np.stack([facet_keys(f, samples[f]) for f in ranker.facets], axis=1),
        minutes=local // 60_000_000,
        dense=_dense(unique, tables.profiles)[position],
        user_position=position,
        **_user_parts(unique, tables.slots, tables.history, ranker),
        labels=np.stack([_column(samples, h) for h in ranker.heads], axis=1),
        known=np.stack([samples[h].is_valid().to_numpy(zero_copy_only=False) for h in ranker.heads], axis=1),
    )


def candidate_keys(
    users: np.ndarray,
    minutes: np.ndarray,
    items: np.ndarray,
    facets: np.ndarray,
    features: tuple[pa.Table, pa.Table, pa.Table],
    ranker: Ranker,
) -> HourKeys:
    """Candidates to score, with nothing known of their outcome; equal to ``hour_keys`` of the same impressions.

    Args:
        users, minutes, items: user, local minutes since 1970, and item of each candidate, shape (N,).
        facets: keys of the items' facets (``facet_keys``), shape (N, F).
        features: slots, profiles and histories of the users, as in ``SampleTables``.
        ranker: that will score them.
    """
    slots, profiles, history = features
    unique, position = np.unique(users, return_inverse=True)
    nothing = np.zeros((len(users), len(ranker.heads)), dtype=np.float32)
    return HourKeys(
        users=users, items=items, facets=facets, minutes=minutes, dense=_dense(unique, profiles)[position],
        user_position=position, **_user_parts(unique, slots, history, ranker), labels=nothing,
        known=nothing.astype(bool),
    )  # fmt: skip


def _user_parts(unique: np.ndarray, slots: pa.Table, history: pa.Table, ranker: Ranker) -> dict[str, np.ndarray]:
    """The parts of ``HourKeys`` that have a row a user, of the users ``unique``."""
    config = ranker.config
    values, scores, events = _clocks(unique, slots, ranker.facets, ranker.time.needs_clock * config.slots, config.top_k)
    items, minutes = _history(unique, history, ranker.needs_history * config.history_length)
    return {
        "clock_values": values, "clock_scores": scores, "slot_events": events, "history_items": items,
        "history_minutes": minutes,
    }  # fmt: skip


def to_batch(keys: HourKeys, ranker: Ranker) -> Batch:
    """Look the keys up in the ranker's tables; the batch lies where the ranker does."""
    looked_up = {
        "users": ranker.users,
        "items": ranker.items,
        "facets": ranker.values,
        "history_items": ranker.items,
    }
    arrays = {f.name: getattr(keys, f.name) for f in fields(keys) if f.name != "clock_values"}
    found = {n: looked_up[n].rows(a) if n in looked_up else torch.from_numpy(a) for n, a in arrays.items()}
    for name in ("dense", "clock_scores", "slot_events"):
        if not np.isfinite(getattr(keys, name)).all():
            raise DataError(f"features of the samples hold NaN or infinity ({name}); mend the source of the features")
    filled = keys.clock_values != 0  # most slots are empty
    values = np.zeros(filled.shape, dtype=np.int64)
    values[filled] = ranker.values.rows(keys.clock_values[filled]).numpy()
    return Batch(**found, clock_values=torch.from_numpy(values)).to(ranker.device)


def _positions(unique: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each user among the sorted ``unique``, and whether it is there."""
    at = np.searchsorted(unique, users).clip(max=len(unique) - 1)
    return at, unique[at] == users


def _clocks(
    unique: np.ndarray, slots: pa.Table, facets: Sequence[str], count: int, top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, scores and events of the users' slots."""
    values = np.zeros((len(unique), count, len(facets), top_k), dtype=np.int64)
    scores = np.zeros(values.shape, dtype=np.float32)
    events = np.zeros((len(unique), count), dtype=np.float32)
    if count and slots.num_rows:
        row, inside = _positions(unique, slots["user_id"].to_numpy())
        slot = slots["slot"].to_numpy()
        events[row[inside], slot[inside]] = slots["events"].to_numpy()[inside]
        for f, facet in enumerate(facets):
            lists = slots[f"{facet}_values"].combine_chunks()
            parent, rank = _ranks(lists)
            keep = inside[parent] & (rank < top_k)
            at = (row[parent[keep]], slot[parent[keep]], f, rank[keep])
            values[at] = facet_keys(facet, lists.flatten())[keep]
            flat = slots[f"{facet}_scores"].combine_chunks().flatten()
            scores[at] = flat.to_numpy(zero_copy_only=False)[keep]
    return values, scores, events


def _history(unique: np.ndarray, history: pa.Table, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The last behaviors of the users, right-aligned."""
    items = np.zeros((len(unique), length), dtype=np.int64)
    minutes = np.full((len(unique), length), -1, dtype=np.int64)
    if length and history.num_rows:
        row, inside = _positions(unique, history["user_id"].to_numpy())
        lists = history["items"].combine_chunks()
        parent, rank = _ranks(lists)
        column = length - lists.value_lengths().to_numpy()[parent] + rank
        keep = inside[parent] & (column >= 0)
        at = (row[parent[keep]], column[keep])
        items[at] = lists.flatten().to_numpy()[keep]
        minutes[at] = history["minutes"].combine_chunks().flatten().to_numpy()[keep]
    return items, minutes


def _ranks(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Of every element of a list column: the row of its list, and its place there."""
    parent = pc.list_parent_indices(lists).to_numpy()
    return parent, np.arange(len(parent)) - np.searchsorted(parent, parent)


def _dense(unique: np.ndarray, profiles: pa.Table) -> np.ndarray:
    dense = np.zeros((len(unique), 3), dtype=np.float32)
    if profiles.num_rows:
        row, inside = _positions(unique, profiles["user_id"].to_numpy())
        events, finish = (pc.fill_null(profiles[c], 0).to_numpy().astype(np.float32) for c in ("events", "finish"))
        features = np.stack(
            [np.log1p(events) / LOG_EVENTS_SCALE, finish / np.maximum(events, 1), np.ones_like(events)], axis=1
        )
        dense[row[inside]] = features[inside]
    return dense


def _column(samples: pa.Table, name: str) -> np.ndarray:
    return pc.fill_null(samples[name], False).cast(pa.float32()).to_numpy()

"""What a ranker reads of an hour: Arrow tables, keys as arrays, and batches of tensors.

Shapes: B samples, U users, S slots (24 in the paper), F facets, C parts of the context, K top values, D the width
of embeddings, L recent behaviors. Shapes of attributes are in ``training.attributes``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from training.embedding import distinct

DAY_MINUTES = 1440
SATURDAY = 5
CLOCK_PARTS = ("clock_values", "clock_scores", "slot_events")
RECENT_PARTS = ("recent_items", "recent_minutes")
BY_USER = (*CLOCK_PARTS, *RECENT_PARTS)
"""Parts with one row per user; everything else has one row per sample."""


class SampleTables(NamedTuple):
    """Samples with their features.

    Attributes:
        samples: user_id, item_id, local_time, the facets, the context and the heads (bool, null unknown).
        slots: clock slots of the users as of the hour's start.
        profiles: activity of the users as of the hour's start.
        recent_behaviors: the users' last behaviors before the hour's start: ``items`` and local ``minutes`` since 1970.
        user_attributes: what tables beside the log tell of the users as of the hour's start; no columns if nothing.
        item_attributes: the same of the items.
    """

    samples: pa.Table
    slots: pa.Table
    profiles: pa.Table
    recent_behaviors: pa.Table
    user_attributes: pa.Table = pa.table({})
    item_attributes: pa.Table = pa.table({})


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


class Prepared(Protocol):
    """What a time module computes of many samples at once, before they are cut into batches."""

    def slice(self, start: int, stop: int) -> Self:
        """That of the samples [start, stop)."""


@dataclass(frozen=True)
class Batch:
    """Model input of B samples of U users; ids are rows of the ranker's tables.

    Attributes:
        users, items: shape (B,).
        facets: the item's facets, shape (B, F).
        context: what is known of the moment, shape (B, C).
        attributes: of users, items and moments: values of categories, then bins of numbers, shape (B, A).
        lists: attributes that are lists, shape (B, L, M); 0 behind the last value.
        minutes: local minutes since 1970, shape (B,).
        dense: log of the user's events in the window, finish rate, and whether there is a profile,
            shape (B, 3).
        user_position: position of the sample's user among the U users, shape (B,).
        clock_values: top values of each slot, int32 as they are the most of all, shape (U, S, F, K), S slots; 0 where there is
            none. S is 0 where the ranker needs no clock.
        clock_scores: their scores, same shape.
        slot_events: events of each slot, shape (U, S).
        recent_items: recent behaviors, oldest first, int32, shape (U, L); L is 0 where the ranker needs no recent behaviors.
        recent_minutes: their local minutes since 1970, int32, −1 where there is none, shape (U, L).
        labels: 0 or 1 for each head, shape (B, heads); 0 where unknown.
        known: whether a label is known, shape (B, heads).
        prepared: of the time module, see ``Ranker.batches``; None where nothing was prepared.
    """

    users: Tensor
    items: Tensor
    facets: Tensor
    context: Tensor
    attributes: Tensor
    lists: Tensor
    minutes: Tensor
    dense: Tensor
    user_position: Tensor
    clock_values: Tensor
    clock_scores: Tensor
    slot_events: Tensor
    recent_items: Tensor
    recent_minutes: Tensor
    labels: Tensor
    known: Tensor
    prepared: Prepared | None = None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def moment(self) -> Moment:
        return Moment(self.minutes)

    def to(self, device: torch.device) -> Batch:
        """The same in a device's memory, with nothing prepared."""
        return Batch(**{name: getattr(self, name).to(device) for name in _TENSORS})

    def slice(self, start: int, stop: int) -> Batch:
        """Samples [start, stop); the features of all users stay, see ``compact``."""
        parts = {name: getattr(self, name)[start:stop] for name in _TENSORS if name not in BY_USER}
        return replace(self, **parts, prepared=self.prepared and self.prepared.slice(start, stop))

    def compact(self) -> Batch:
        """The same samples with the features of their users only, for what computes on every user of a batch."""
        users, position = distinct(self.user_position, len(self.recent_minutes))
        return replace(self, **{name: getattr(self, name)[users] for name in BY_USER}, user_position=position)

    def batches(self, size: int) -> Iterator[Batch]:
        """The samples in order, ``size`` at a time."""
        if 0 < len(self) <= size:
            yield self
            return
        for start in range(0, len(self), size):
            yield self.slice(start, min(start + size, len(self)))


_TENSORS = tuple(f.name for f in fields(Batch) if f.name != "prepared")


@dataclass(frozen=True)
class HourKeys:
    """An hour's samples as raw keys, before the rows of a model's tables are looked up.

    Same attributes as ``Batch``, keys instead of rows; but numbers are kept as they are, shape (B, N), NaN where missing:
    what bin they are in is known to a ranker.
    """

    users: np.ndarray
    items: np.ndarray
    facets: np.ndarray
    context: np.ndarray
    categories: np.ndarray
    numbers: np.ndarray
    lists: np.ndarray
    minutes: np.ndarray
    dense: np.ndarray
    user_position: np.ndarray
    clock_values: np.ndarray
    clock_scores: np.ndarray
    slot_events: np.ndarray
    recent_items: np.ndarray
    recent_minutes: np.ndarray
    labels: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    @property
    def moment(self) -> Moment:
        return Moment(torch.from_numpy(self.minutes))

    def only(self, *, clock: bool, recent_behaviors: bool) -> HourKeys:
        """The same samples without the parts that a ranker does not read."""
        parts = [*(() if clock else CLOCK_PARTS), *(() if recent_behaviors else RECENT_PARTS)]
        return replace(self, **{name: getattr(self, name)[:, :0] for name in parts})

    def take(self, order: np.ndarray) -> HourKeys:
        """The samples in another order."""
        return replace(self, **{f.name: getattr(self, f.name)[order] for f in fields(self) if f.name not in BY_USER})

    def piece(self, start: int, stop: int) -> HourKeys:
        """Samples [start, stop), with the features of their users only."""
        taken = self.take(np.arange(start, stop))
        users, position = np.unique(taken.user_position, return_inverse=True)
        return replace(taken, **{name: getattr(self, name)[users] for name in BY_USER}, user_position=position)

    @classmethod
    def joined(cls, parts: Sequence[HourKeys]) -> HourKeys:
        """Several hours as one; a user of two hours keeps the features of each."""
        starts = np.cumsum([0, *(len(part.recent_minutes) for part in parts)])
        width = max((part.lists.shape[2] for part in parts), default=0)
        padded = [np.pad(part.lists, ((0, 0), (0, 0), (0, width - part.lists.shape[2]))) for part in parts]
        parts = [replace(part, lists=lists) for part, lists in zip(parts, padded, strict=True)]
        arrays = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        moved = [part.user_position + start for part, start in zip(parts, starts, strict=False)]
        return cls(**{**arrays, "user_position": np.concatenate(moved)})


def shares(scores: Tensor) -> Tensor:
    """Scores (…, K) of a slot's facet, normalized to sum to 1; all 0 where there are none."""
    return scores / scores.sum(dim=-1, keepdim=True).clamp(min=1e-9)

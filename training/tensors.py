"""Arrow tables of samples to tensors, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from training.time_perception import Moment

if TYPE_CHECKING:
    from training.ranker import Ranker


LOG_EVENTS_SCALE = 5.0
"""Divides the log of a user's events, to bring it near 1."""


@dataclass(frozen=True)
class Batch:
    """Model input of B samples of U users; ids are rows of the ranker's tables.

    Attributes:
        users, items: shape (B,).
        facets: item facets, shape (B, F).
        moment: local time of day and weekday.
        dense: log of the user's events in the window, finish rate, and whether there is a profile,
            shape (B, 3).
        user_position: position of the sample's user among the U users, shape (B,).
        clock_values: top values of each slot, shape (U, S, F, K), S slots; 0 where there is none.
        clock_weights: their scores, normalised to sum to 1 within a slot's facet, same shape.
        labels: 0 or 1 for each head, shape (B, heads); 0 where unknown.
        known: whether a label is known, shape (B, heads).
    """

    users: Tensor
    items: Tensor
    facets: Tensor
    moment: Moment
    dense: Tensor
    user_position: Tensor
    clock_values: Tensor
    clock_weights: Tensor
    labels: Tensor
    known: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def slice(self, start: int, stop: int) -> Batch:
        """Samples [start, stop), with the clocks of their users only."""
        part = slice(start, stop)
        users, position = torch.unique(self.user_position[part], return_inverse=True)
        return Batch(
            self.users[part],
            self.items[part],
            self.facets[part],
            Moment(self.moment.hours[part], self.moment.weekday[part]),
            self.dense[part],
            position,
            self.clock_values[users],
            self.clock_weights[users],
            self.labels[part],
            self.known[part],
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """The samples in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.slice(start, start + size)


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
    hours: np.ndarray
    weekday: np.ndarray
    dense: np.ndarray
    user_position: np.ndarray
    clock_values: np.ndarray
    clock_weights: np.ndarray
    labels: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


def hour_keys(
    samples: pa.Table,
    slots: pa.Table,
    profiles: pa.Table,
    facets: Sequence[str],
    heads: Sequence[str],
    top_k: int,
    slot_count: int = 24,
) -> HourKeys:
    """Turn the tables of one hour into arrays.

    Args:
        samples: columns user_id, item_id, local_time, the facets and the heads (bool, null unknown).
        slots, profiles: the users' features as of the hour's start, keyed by user_id.
        facets, heads: names, in the ranker's order.
        top_k: values per slot and facet.
        slot_count: slots of a clock.
    """
    users = samples["user_id"].to_numpy()
    unique, position = np.unique(users, return_inverse=True)
    local = samples["local_time"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    minutes = local // 60_000_000
    values = np.zeros((len(unique), slot_count, len(facets), top_k), dtype=np.int64)
    weights = np.zeros(values.shape, dtype=np.float32)
    if slots.num_rows:
        row, inside = _positions(unique, slots["user_id"].to_numpy())
        slot = slots["slot"].to_numpy()
        for f, facet in enumerate(facets):
            _fill(values, weights, slots, facet, row, slot, inside, f)
    total = weights.sum(axis=3, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return HourKeys(
        users=users,
        items=samples["item_id"].to_numpy(),
        facets=np.stack([facet_keys(f, samples[f]) for f in facets], axis=1),
        hours=((minutes % 1440) / 60).astype(np.float32),
        weekday=((minutes // 1440 + 3) % 7).astype(np.int64),
        dense=_dense(unique, profiles)[position],
        user_position=position,
        clock_values=values,
        clock_weights=weights,
        labels=np.stack([_column(samples, h) for h in heads], axis=1),
        known=np.stack([samples[h].is_valid().to_numpy(zero_copy_only=False) for h in heads], axis=1),
    )


def to_batch(keys: HourKeys, ranker: Ranker) -> Batch:
    """Look the keys up in the ranker's tables."""
    return Batch(
        users=ranker.users.rows(keys.users),
        items=ranker.items.rows(keys.items),
        facets=ranker.values.rows(keys.facets),
        moment=Moment(torch.from_numpy(keys.hours), torch.from_numpy(keys.weekday)),
        dense=torch.from_numpy(keys.dense),
        user_position=torch.from_numpy(keys.user_position),
        clock_values=ranker.values.rows(keys.clock_values),
        clock_weights=torch.from_numpy(keys.clock_weights),
        labels=torch.from_numpy(keys.labels),
        known=torch.from_numpy(keys.known),
    )


def _positions(unique: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each user among the sorted ``unique``, and whether it is there."""
    at = np.searchsorted(unique, users).clip(max=len(unique) - 1)
    return at, unique[at] == users


def _fill(
    values: np.ndarray,
    weights: np.ndarray,
    slots: pa.Table,
    facet: str,
    row: np.ndarray,
    slot: np.ndarray,
    inside: np.ndarray,
    at_facet: int,
) -> None:
    lists = slots[f"{facet}_values"].combine_chunks()
    parent = pc.list_parent_indices(lists).to_numpy()
    if not len(parent):
        return
    rank = np.arange(len(parent)) - np.searchsorted(parent, parent)
    keep = inside[parent] & (rank < values.shape[3])
    at = (row[parent[keep]], slot[parent[keep]], at_facet, rank[keep])
    values[at] = facet_keys(facet, lists.flatten())[keep]
    weights[at] = slots[f"{facet}_scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)[keep]


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

"""Arrow tables of samples to tensors, without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from core.errors import DataError
from core.lookup import positions
from events.schema import OWNERS, AttributeField, Owner
from training.attributes import AttributeKeys, attribute_keys, encode, list_ranks
from training.batch import Batch, HourKeys, SampleTables
from training.category_keys import facet_keys
from training.ranker import Ranker

HOUR_US = 3_600_000_000
NOT_AS_THEY_ARE = frozenset({"clock_values", "recent_items", "categories", "numbers"})
"""Parts of an hour's keys that a batch has in another form."""
LOG_EVENTS_SCALE = 5.0
"""Divides the log of a user's events, to bring it near 1."""


class DecodedHour:
    """The tables of an hour as arrays, each part decoded once for all rankers that read it."""

    def __init__(
        self,
        tables: SampleTables,
        facets: Sequence[str],
        heads: Sequence[str],
        context: Sequence[str] = (),
        attributes: Sequence[AttributeField] = (),
    ) -> None:
        self.tables, self.facets, self.heads, self.context = tables, tuple(facets), tuple(heads), tuple(context)
        self.attributes = tuple(attributes)
        self._clocks_by_shape: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._recent_by_length: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def keys(self, ranker: Ranker) -> HourKeys:
        """What a ranker with these facets, heads, context and attributes reads.

        The arrays are shared between rankers: nobody writes to them.
        """
        config, (unique, position) = ranker.config, self._users
        shape = ranker.time.needs_clock * config.slots, config.top_k
        if shape not in self._clocks_by_shape:
            self._clocks_by_shape[shape] = _clocks(unique, self.tables.slots, self.facets, *shape)
        length = ranker.needs_recent_behaviors * config.history_length
        if length not in self._recent_by_length:
            self._recent_by_length[length] = _recent_behaviors(unique, self.tables.recent_behaviors, length)
        values, scores, events = self._clocks_by_shape[shape]
        items, minutes = self._recent_by_length[length]
        return HourKeys(
            **self._by_sample, user_position=position, clock_values=values, clock_scores=scores, slot_events=events,
            recent_items=items, recent_minutes=minutes,
        )  # fmt: skip

    @cached_property
    def _users(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct users, and the place of each sample's user among them."""
        unique, position = np.unique(self.tables.samples["user_id"].to_numpy(), return_inverse=True)
        return unique, position

    @cached_property
    def _by_sample(self) -> dict[str, np.ndarray]:
        """The parts of ``HourKeys`` with a row for each sample."""
        samples, (unique, position) = self.tables.samples, self._users
        local = samples["local_time"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        attributes = self._attribute_keys()
        return {
            "users": samples["user_id"].to_numpy(),
            "items": samples["item_id"].to_numpy(),
            "facets": np.stack([facet_keys(f, samples[f]) for f in self.facets], axis=1),
            "context": stacked([self._context_keys(name) for name in self.context], len(samples)),
            "categories": attributes.categories,
            "numbers": attributes.numbers,
            "lists": attributes.lists,
            "minutes": local // 60_000_000,
            "dense": _dense(unique, self.tables.profiles)[position],
            "labels": np.stack([_column(samples, h) for h in self.heads], axis=1),
            "known": np.stack([samples[h].is_valid().to_numpy(zero_copy_only=False) for h in self.heads], axis=1),
        }

    def _attribute_keys(self) -> AttributeKeys:
        """The samples' attributes; ages are taken at the moment of each sample."""
        samples = self.tables.samples
        tables: dict[Owner, pa.Table] = {
            "user": self.tables.user_attributes, "item": self.tables.item_attributes, "context": samples,
        }  # fmt: skip
        encoded = {
            owner: encode([field for field in self.attributes if field.owner == owner], table)
            for owner, table in tables.items()
        }
        rows: dict[Owner, np.ndarray] = {"context": np.arange(len(samples))}
        for owner in OWNERS:
            key = f"{owner}_id"
            rows[owner] = entity_rows(tables[owner], key, samples[key].to_numpy())
        hours = (
            samples["timestamp"].cast(pa.int64()).to_numpy() / HOUR_US if self.attributes else np.zeros(len(samples))
        )
        return attribute_keys(self.attributes, encoded, rows, hours)

    def _context_keys(self, name: str) -> np.ndarray:
        """Keys of a part of the context; unknown in samples of before the log told it."""
        samples = self.tables.samples
        return facet_keys(name, samples[name]) if name in samples.column_names else np.zeros(len(samples), np.int64)


def entity_rows(table: pa.Table, key: str, ids: np.ndarray) -> np.ndarray:
    """Row of each id in a table that has one row for each key, −1 where there is none; the shape of ``ids``."""
    if not table.num_rows:
        return np.full(len(ids), -1)
    keys = table[key].to_numpy()
    order = np.argsort(keys, kind="stable")
    at, inside = positions(keys[order], ids)
    return np.where(inside, order[at], -1)


def stacked(columns: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Columns of keys side by side, shape (rows, columns), also where there is none."""
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0), dtype=np.int64)


def hour_keys(tables: SampleTables, ranker: Ranker) -> HourKeys:
    """Turn the tables of one hour into the arrays that a ranker needs."""
    return DecodedHour(tables, ranker.facets, ranker.heads, ranker.context, ranker.attributes).keys(ranker)


def candidate_keys(
    users: np.ndarray,
    minutes: np.ndarray,
    items: np.ndarray,
    facets: np.ndarray,
    context: np.ndarray,
    attributes: AttributeKeys,
    features: tuple[pa.Table, pa.Table, pa.Table],
    ranker: Ranker,
) -> HourKeys:
    """Candidates to score, with nothing known of their outcome; equal to ``hour_keys`` of the same impressions.

    Args:
        users, minutes, items: user, local minutes since 1970, and item of each candidate, shape (N,).
        facets: keys of the items' facets (``facet_keys``), shape (N, F).
        context: keys of what is known of the moment, shape (N, C).
        attributes: of the N candidates, their users and moments.
        features: slots, profiles and recent behaviors of the users, as in ``SampleTables``.
        ranker: that will score them.
    """
    slots, profiles, recent = features
    unique, position = np.unique(users, return_inverse=True)
    nothing = np.zeros((len(users), len(ranker.heads)), dtype=np.float32)
    return HourKeys(
        users=users, items=items, facets=facets, context=context, categories=attributes.categories,
        numbers=attributes.numbers, lists=attributes.lists, minutes=minutes, dense=_dense(unique, profiles)[position],
        user_position=position, **_user_parts(unique, slots, recent, ranker), labels=nothing,
        known=nothing.astype(bool),
    )  # fmt: skip


def _user_parts(unique: np.ndarray, slots: pa.Table, recent: pa.Table, ranker: Ranker) -> dict[str, np.ndarray]:
    """The parts of ``HourKeys`` with one row per user, of the users ``unique``."""
    config = ranker.config
    values, scores, events = _clocks(unique, slots, ranker.facets, ranker.time.needs_clock * config.slots, config.top_k)
    items, minutes = _recent_behaviors(unique, recent, ranker.needs_recent_behaviors * config.history_length)
    return {
        "clock_values": values, "clock_scores": scores, "slot_events": events, "recent_items": items,
        "recent_minutes": minutes,
    }  # fmt: skip


def to_batch(keys: HourKeys, ranker: Ranker) -> Batch:
    """Look the keys up in the ranker's tables; the batch lies where the ranker does."""
    looked_up = {
        "users": ranker.users,
        "items": ranker.items,
        "facets": ranker.values,
        "context": ranker.values,
        "attributes": ranker.values,
        "lists": ranker.values,
    }
    arrays = {f.name: getattr(keys, f.name) for f in fields(keys) if f.name not in NOT_AS_THEY_ARE}
    arrays["attributes"] = np.concatenate([keys.categories, ranker.numbers.keys(keys.numbers)], axis=1)
    tensors = {n: looked_up[n].rows(a) if n in looked_up else torch.from_numpy(a) for n, a in arrays.items()}
    tensors["recent_items"] = ranker.items.rows(keys.recent_items, torch.int32)
    for name in ("dense", "clock_scores", "slot_events"):
        if not np.isfinite(getattr(keys, name)).all():
            raise DataError(f"features of the samples hold NaN or infinity ({name}); repair the source of the features")
    filled = keys.clock_values != 0  # most slots are empty
    values = np.zeros(filled.shape, dtype=np.int32)
    values[filled] = ranker.values.rows(keys.clock_values[filled], torch.int32).numpy()
    return Batch(**tensors, clock_values=torch.from_numpy(values), prepared=None).to(ranker.device)


def _clocks(
    unique: np.ndarray, slots: pa.Table, facets: Sequence[str], count: int, top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, scores and events of the users' slots."""
    values = np.zeros((len(unique), count, len(facets), top_k), dtype=np.int64)
    scores = np.zeros(values.shape, dtype=np.float32)
    events = np.zeros((len(unique), count), dtype=np.float32)
    if count and slots.num_rows:
        row, inside = positions(unique, slots["user_id"].to_numpy())
        slot = slots["slot"].to_numpy()
        if slot.max() >= count:
            raise DataError(
                f"the features have slots up to {slot.max()}, and the ranker reads clocks of {count}: they were computed with "
                "another CLOCK_SLOT_MINUTES or CLOCK_SPLIT_WEEKEND than it was trained with; set these back"
            )
        events[row[inside], slot[inside]] = slots["events"].to_numpy()[inside]
        for f, facet in enumerate(facets):
            lists = slots[f"{facet}_values"].combine_chunks()
            parent, rank = list_ranks(lists)
            keep = inside[parent] & (rank < top_k)
            at = (row[parent[keep]], slot[parent[keep]], f, rank[keep])
            values[at] = facet_keys(facet, lists.flatten())[keep]
            flat = slots[f"{facet}_scores"].combine_chunks().flatten()
            scores[at] = flat.to_numpy(zero_copy_only=False)[keep]
    return values, scores, events


def _recent_behaviors(unique: np.ndarray, recent: pa.Table, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The last behaviors of the users, right-aligned."""
    items = np.zeros((len(unique), length), dtype=np.int64)
    minutes = np.full((len(unique), length), -1, dtype=np.int32)
    if length and recent.num_rows:
        row, inside = positions(unique, recent["user_id"].to_numpy())
        lists = recent["items"].combine_chunks()
        parent, rank = list_ranks(lists)
        column = length - lists.value_lengths().to_numpy()[parent] + rank
        keep = inside[parent] & (column >= 0)
        at = (row[parent[keep]], column[keep])
        items[at] = lists.flatten().to_numpy()[keep]
        minutes[at] = recent["minutes"].combine_chunks().flatten().to_numpy()[keep]
    return items, minutes


def _dense(unique: np.ndarray, profiles: pa.Table) -> np.ndarray:
    dense = np.zeros((len(unique), 3), dtype=np.float32)
    if profiles.num_rows:
        row, inside = positions(unique, profiles["user_id"].to_numpy())
        events, finish = (pc.fill_null(profiles[c], 0).to_numpy().astype(np.float32) for c in ("events", "finish"))
        features = np.stack(
            [np.log1p(events) / LOG_EVENTS_SCALE, finish / np.maximum(events, 1), np.ones_like(events)], axis=1
        )
        dense[row[inside]] = features[inside]
    return dense


def _column(samples: pa.Table, name: str) -> np.ndarray:
    return pc.fill_null(samples[name], False).cast(pa.float32()).to_numpy()

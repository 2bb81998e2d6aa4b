"""Every sample of a log as named columns: what the ranker reads of it, for models of other libraries.

Columns have the names of the source's mapping, so an attribute that the mapping gains is there for every model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from core.errors import ConfigError
from core.hours import DAY_HOURS
from studies.log import Log, half_of, hours_of, key_of
from training.attributes import BINS, NUMERIC, of_type
from training.batch import HourKeys
from training.config import label_of

USER, ITEM = "user", "item"
PROFILE_PART = "activity"
PROFILE = ("log_events", "finish_rate", "has_profile")
"""Columns of ``Batch.dense``."""
LOCAL_HOUR, WEEKDAY = "local_hour", "weekday"
RECENT = 20
"""Recent behaviors of a user that models of sequences read."""
PSEUDO_SAMPLES = 10.0
"""Strength of the prior of a rate: the log's rate so far counts as so many samples."""


class NamedKeys(NamedTuple):
    """Where named features stand in an hour's keys.

    Attributes:
        part: attribute of ``HourKeys``.
        column: of that attribute; None: it has one column only, or all belong to the feature.
    """

    part: str
    column: int | None = None


def named_keys(log: Log) -> dict[str, NamedKeys]:
    """What rankers read of a log's samples by names: ids, facets, context and attributes → where they stand in an hour's keys."""
    store = log.samples
    return {
        USER: NamedKeys("users"),
        ITEM: NamedKeys("items"),
        **{name: NamedKeys("facets", at) for at, name in enumerate(store.facets)},
        **{name: NamedKeys("context", at) for at, name in enumerate(store.context)},
        **{
            field.column: NamedKeys(part, at)
            for part, types in (("categories", ("category",)), ("numbers", NUMERIC), ("lists", ("list",)))
            for at, field in enumerate(of_type(store.attributes, *types))
        },
    }


def without(keys: HourKeys, names: Sequence[str], log: Log) -> HourKeys:
    """The same samples with features unknown.

    Args:
        keys: of an hour.
        names: of ``named_keys``, or ``PROFILE_PART`` for the user's activity. A facet is left out of the clock, too.
        log: whose samples they are.

    Raises:
        ConfigError: the log has no feature of a name.
    """
    known = {PROFILE_PART: NamedKeys("dense"), **named_keys(log)}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"no feature {unknown} in {log.title} (it has {', '.join(known)})")
    changed: dict[str, np.ndarray] = {}
    for part, column in (known[name] for name in names):
        values = changed.setdefault(part, getattr(keys, part).copy())
        values[... if column is None else (slice(None), column)] = np.nan if part == "numbers" else 0
        if part == "facets" and keys.clock_values.shape[1]:
            for name in ("clock_values", "clock_scores"):
                changed.setdefault(name, getattr(keys, name).copy())[:, :, column] = 0
    return replace(keys, **changed)


def keys_column(keys: HourKeys, where: NamedKeys) -> np.ndarray:
    """The keys or numbers of one feature, shape (samples,); of a list the first value's."""
    values: np.ndarray = getattr(keys, where.part)
    if where.part == "lists":
        return values[:, where.column, 0] if values.shape[2] else np.zeros(len(keys), np.int64)
    return values if where.column is None else values[:, where.column]


@dataclass(frozen=True)
class Columns:
    """All samples of a log in order of time; every array has a row for each sample.

    Attributes:
        hour: number of the UTC hour.
        label: 0 or 1.
        known: whether the label is known.
        categories: name → code from 1 in order of first appearance, 0 where the value is missing.
        numbers: name → value. The attributes that are numbers as their rank among the values of the log's first half, in
            [0, 1], −1 where missing; their quantile bins are categories (``…_bin``). ``rate_…`` and ``count_…`` are hourly
            statistics: of the samples with the same value before the start of the sample's hour, how many were positive (log
            odds less those of all) and how many there were (log).
        recent: codes of the items of the user's last behaviors before the hour, newest first, 0 where there is none,
            shape (rows, RECENT).
    """

    hour: np.ndarray
    label: np.ndarray
    known: np.ndarray
    categories: Mapping[str, np.ndarray]
    numbers: Mapping[str, np.ndarray]
    recent: np.ndarray

    def __len__(self) -> int:
        return len(self.hour)

    def rows(self, start: int, end: int) -> np.ndarray:
        """Positions of the samples of the hours [start, end) whose label is known."""
        first, last = np.searchsorted(self.hour, [start, end])
        return first + np.flatnonzero(self.known[first:last])


_cached_columns: dict[str, Columns] = {}


def columns_of(log: Log) -> Columns:
    """The columns of a log; the last log's stay in memory."""
    key = key_of(log)
    if key not in _cached_columns:
        _cached_columns.clear()
        _cached_columns[key] = _read_columns(log)
    return _cached_columns[key]


def _read_columns(log: Log) -> Columns:
    hours, store = hours_of(log), log.samples
    head = store.heads.index(label_of(store.heads))
    hour = np.concatenate([np.full(len(keys), h.number) for h, keys in hours])
    label = np.concatenate([keys.labels[:, head] for _, keys in hours]).astype(np.int8)
    known = np.concatenate([keys.known[:, head] for _, keys in hours])
    raw: dict[str, np.ndarray] = {}
    measured: dict[str, np.ndarray] = {}
    for name, where in named_keys(log).items():
        values = np.concatenate([keys_column(keys, where) for _, keys in hours])
        (measured if where.part == "numbers" else raw)[name] = values
    recent = np.concatenate([_recent(keys) for _, keys in hours])
    items = pd.factorize(np.concatenate([raw[ITEM], recent.ravel()]))[0] + 1
    minutes = np.concatenate([keys.minutes for _, keys in hours])
    of_day, weekday = minutes // 60 % DAY_HOURS, (minutes // (60 * DAY_HOURS) + 3) % 7
    categories = {name: _codes(values, missing=name not in {USER, ITEM}) for name, values in raw.items()}
    categories[ITEM] = items[: len(hour)].astype(np.int32)
    dense = np.concatenate([keys.dense for _, keys in hours])
    numbers = {name: dense[:, at] for at, name in enumerate(PROFILE)}
    past = hour < half_of(hour)
    for name, values in measured.items():
        numbers[name], categories[f"{name}_bin"] = ranks_and_bins(values, values[past])
    for name, codes in counted(categories, store.facets, of_day).items():
        numbers[f"rate_{name}"], numbers[f"count_{name}"] = rates_before(codes, hour, label, known)
    categories |= {LOCAL_HOUR: (of_day + 1).astype(np.int32), WEEKDAY: (weekday + 1).astype(np.int32)}
    codes_of_recent = np.where(recent == 0, 0, items[len(hour) :].reshape(recent.shape)).astype(np.int32)
    return Columns(hour, label, known, categories, numbers, codes_of_recent)


def counted(
    categories: Mapping[str, np.ndarray], facets: tuple[str, ...] | list[str], of_day: np.ndarray
) -> dict[str, np.ndarray]:
    """What statistics are kept of: each category; the user with the item and with each facet; item and facets by time of day."""
    attributes = [ITEM, *facets]
    return {
        **categories,
        **{f"user_{name}": _crossed(categories[USER], categories[name]) for name in attributes},
        **{f"{name}_hour": _crossed(categories[name], of_day) for name in attributes},
    }


def ranks_and_bins(values: np.ndarray, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers by their place among those of the past.

    Args:
        values: shape (rows,); NaN where missing.
        past: earlier values.

    Returns:
        Share of past values that are smaller, −1 where missing; and quantile bins from 1, 0 where missing.
    """
    known, missing = np.sort(past[~np.isnan(past)]), np.isnan(values)
    rank = np.where(missing, -1.0, np.searchsorted(known, values) / max(len(known), 1))
    bins = np.where(missing, 0, 1 + np.minimum(rank * BINS, BINS - 1).astype(np.int32))
    return rank.astype(np.float32), bins.astype(np.int32)


def rates_before(
    codes: np.ndarray, hour: np.ndarray, label: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of the samples with the same code before the start of each sample's hour.

    Args:
        codes: of the samples, in order of time.
        hour: numbers of their hours, ascending.
        label: 0 or 1.
        known: whether the label is known; others do not count.

    Returns:
        Log odds of a positive, smoothed, less those of all samples before the hour; and the log of one more than the count.
    """
    order = np.lexsort((np.arange(len(codes)), codes))
    new_code = np.r_[True, np.diff(codes[order]) != 0]
    new_hour = new_code | np.r_[True, np.diff(hour[order]) != 0]

    def before(values: np.ndarray) -> np.ndarray:
        total = np.r_[0.0, np.cumsum(values[order])][:-1]
        starts = np.maximum.accumulate(np.where(new_hour, np.arange(len(order)), 0))
        firsts = np.maximum.accumulate(np.where(new_code, np.arange(len(order)), 0))
        result = np.empty(len(order))
        result[order] = total[starts] - total[firsts]
        return result

    first = np.searchsorted(hour, hour)
    positive, counts = label * known, known.astype(np.float64)
    usual = (np.r_[0.0, np.cumsum(positive)][first] + 1) / (np.r_[0.0, np.cumsum(counts)][first] + 2)
    count = before(counts)
    rate = (before(positive) + PSEUDO_SAMPLES * usual) / (count + PSEUDO_SAMPLES)
    logit = np.log(rate / (1 - rate)) - np.log(usual / (1 - usual))
    return logit.astype(np.float32), np.log1p(count).astype(np.float32)


def _codes(values: np.ndarray, *, missing: bool) -> np.ndarray:
    """Codes from 1 by first appearance; with ``missing`` the key 0 has the code 0."""
    if not missing:
        return (pd.factorize(values)[0] + 1).astype(np.int32)
    codes = np.zeros(len(values), dtype=np.int32)
    codes[values != 0] = pd.factorize(values[values != 0])[0] + 1
    return codes


def _crossed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    crossed: np.ndarray = a.astype(np.int64) * (int(b.max()) + 1) + b
    return crossed


def _recent(keys: HourKeys) -> np.ndarray:
    """Items of the last behaviors of each sample's user, newest first, 0 where there is none."""
    items = np.where(keys.recent_minutes >= 0, keys.recent_items, 0)[:, ::-1][:, :RECENT]
    padded = np.pad(items, ((0, 0), (0, RECENT - items.shape[1])))
    rows: np.ndarray = padded[keys.user_position]
    return rows

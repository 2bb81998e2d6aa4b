"""Ranks and AUC within groups of rows, such as users and their sessions; ties count half."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

Array = np.ndarray
NO_SESSION = -1


class Ranks(NamedTuple):
    """Dense ``places`` of values from 0, equal values alike, shape (rows,), and the number of ``distinct`` ones."""

    places: Array
    distinct: int

    def some(self, rows: Array) -> Ranks:
        """Those of some rows."""
        return Ranks(self.places[rows], self.distinct)


def ranks(values: Array) -> Ranks:
    """The ranks of values, such as scores."""
    order = np.argsort(values)
    dense = np.cumsum(_changes(values[order])) - 1
    places = np.empty(len(order), dtype=np.int64)
    places[order] = dense
    return Ranks(places, int(dense[-1]) + 1 if len(dense) else 0)


class Runs(NamedTuple):
    """Runs of rows of one group with equal scores, in ascending order of group, then score.

    Attributes:
        run: of each row, from 0, shape (rows,).
        group: of each run, shape (runs,).
    """

    run: Array
    group: Array

    @classmethod
    def of(cls, groups: Array, count: int, ranked: Ranks) -> Runs:
        """The runs of rows in ``count`` groups, numbers from 0; rows of one group are in order already."""
        if count == 1:
            return cls(ranked.places, np.zeros(ranked.distinct, dtype=np.int64))
        run, runs = ranks(groups * np.int64(ranked.distinct) + ranked.places)
        group = np.empty(runs, dtype=np.int64)
        group[run] = groups
        return cls(run, group)

    def sums(self, weights: Array) -> Array:
        """Weight of each run's rows, shape (runs,)."""
        return np.bincount(self.run, weights, len(self.group))

    def below(self, sums: Array) -> Array:
        """Of each run the ``sums`` of the lower ones of its group, and half of its own, shape (runs,)."""
        before = np.cumsum(sums) - sums
        starts = _changes(self.group)
        of_group: Array = before[np.flatnonzero(starts)][np.cumsum(starts) - 1]
        return before - of_group + sums / 2


def _changes(values: Array) -> Array:
    """Whether each value is another than the one before; the first is."""
    changes = np.empty(len(values), dtype=bool)
    changes[:1] = True
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def group_aucs(groups: Array, count: int, labels: Array, ranked: Ranks, weights: Array) -> tuple[Array, Array]:
    """AUC (NaN with one label only) and total weight of each of ``count`` groups of rows, shape (count,)."""
    runs = Runs.of(groups, count, ranked)
    positive, negative = runs.sums(weights * labels), runs.sums(weights * (1 - labels))
    pairs = np.bincount(runs.group, positive, count) * np.bincount(runs.group, negative, count)
    wins = np.bincount(runs.group, positive * runs.below(negative), count)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, wins / pairs, np.nan), np.bincount(groups, weights, count)


def auc_influence(groups: Array, count: int, labels: Array, ranked: Ranks, weights: Array) -> tuple[Array, Array]:
    """AUC of each of ``count`` groups of rows, NaN with one label only, and the influence of every row on its group's, 0 there."""
    runs = Runs.of(groups, count, ranked)
    positive, negative = weights * labels, weights * (1 - labels)
    positives, negatives = runs.sums(positive), runs.sums(negative)
    p, n = np.bincount(runs.group, positives, count), np.bincount(runs.group, negatives, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        wins = runs.below(negatives) / n[runs.group]  # of a positive with this score
        losses = 1 - runs.below(positives) / p[runs.group]  # of a negative: the share of positives above it
        values = np.where((p > 0) & (n > 0), np.bincount(runs.group, positives * wins, count) / p, np.nan)
        of_positive = (wins - values[runs.group]) / p[runs.group]
        of_negative = (losses - values[runs.group]) / n[runs.group]
    of_positive, of_negative = (np.nan_to_num(each)[runs.run] for each in (of_positive, of_negative))
    return values, positive * of_positive + negative * of_negative


class Sessions(NamedTuple):
    """The sessions that have both labels.

    Attributes:
        users: user of each session, as in ``Predictions``.
        aucs: AUC within each session.
        weights: total weight of its rows.
        samples: its rows.
    """

    users: Array
    aucs: Array
    weights: Array
    samples: Array


def mixed_sessions(users: Array, sessions: Array | None, labels: Array, ranked: Ranks, weights: Array) -> Sessions:
    """The sessions with both labels, with the AUC within each.

    Args:
        users, labels, ranked, weights: of each row, shape (rows,).
        sessions: number of each row's session within its user's, ``NO_SESSION`` for none; None where none are known.
    """
    rows = np.flatnonzero(sessions != NO_SESSION) if sessions is not None else np.empty(0, dtype=np.int64)
    numbers, distinct = pd.factorize(sessions[rows] if sessions is not None else rows)
    codes, pairs = pd.factorize(users[rows] * np.int64(len(distinct) + 1) + numbers)
    aucs, total = group_aucs(codes, len(pairs), labels[rows], ranked.some(rows), weights[rows])
    owners = np.empty(len(pairs), dtype=np.int64)
    owners[codes] = users[rows]
    both = ~np.isnan(aucs)
    return Sessions(owners[both], aucs[both], total[both], np.bincount(codes, minlength=len(pairs))[both])

"""Ranks and AUC within groups of rows, such as users and their sessions; ties count half."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

Array = np.ndarray
NO_SESSION = -1


class Ranks(NamedTuple):
    """Dense ``places`` of scores from 0, equal scores alike, shape (rows,), and the number of ``distinct`` ones."""

    places: Array
    distinct: int

    def some(self, rows: Array) -> Ranks:
        """Those of some rows."""
        return Ranks(self.places[rows], self.distinct)


def ranks(scores: Array) -> Ranks:
    """The ranks of scores."""
    order = np.argsort(scores)
    ranked = scores[order]
    dense = np.cumsum(_changes(ranked)) - 1
    places = np.empty(len(order), dtype=np.int64)
    places[order] = dense
    return Ranks(places, int(dense[-1]) + 1 if len(dense) else 0)


class Runs(NamedTuple):
    """Rows sorted by group, then by score; equal scores of a group are a run.

    Attributes:
        order: the sorted rows, shape (rows,).
        run: run of each sorted row, ascending from 0, shape (rows,).
        first: first sorted row of each run, shape (runs,).
        group_first: first run of each run's group, shape (runs,).
    """

    order: Array
    run: Array
    first: Array
    group_first: Array

    @classmethod
    def of(cls, groups: Array, ranked: Ranks) -> Runs:
        """Sort rows: groups are numbers from 0."""
        keys = groups * np.int64(ranked.distinct) + ranked.places
        order = np.argsort(keys)
        ordered = keys[order]
        starts = _changes(ordered)
        first = np.flatnonzero(starts)
        new_group = _changes(groups[order[first]])
        return cls(order, np.cumsum(starts) - 1, first, np.flatnonzero(new_group)[np.cumsum(new_group) - 1])

    def below(self, weights: Array) -> Array:
        """Weight of the rows with a lower score in each row's group, and half of those with an equal one, shape (rows,)."""
        total = np.concatenate([[0.0], np.cumsum(weights[self.order])])
        before, equal = total[self.first], np.diff(np.append(total[self.first], total[-1]))
        placed = np.empty(len(self.order))
        placed[self.order] = (before - before[self.group_first] + equal / 2)[self.run]
        return placed


def _changes(values: Array) -> Array:
    """Whether each value is another than the one before; the first is."""
    changes = np.empty(len(values), dtype=bool)
    changes[:1] = True
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def group_aucs(groups: Array, count: int, labels: Array, ranked: Ranks, weights: Array) -> tuple[Array, Array]:
    """AUC (NaN with one label only) and total weight of each of ``count`` groups of rows, shape (count,)."""
    positive, negative = weights * labels, weights * (1 - labels)
    pairs = np.bincount(groups, positive, count) * np.bincount(groups, negative, count)
    wins = np.bincount(groups, positive * Runs.of(groups, ranked).below(negative), count)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, wins / pairs, np.nan), np.bincount(groups, weights, count)


def auc_influence(groups: Array, count: int, labels: Array, ranked: Ranks, weights: Array) -> tuple[Array, Array]:
    """AUC of each of ``count`` groups of rows, NaN with one label only, and the influence of every row on its group's, 0 there."""
    positive, negative = weights * labels, weights * (1 - labels)
    p, n = np.bincount(groups, positive, count)[groups], np.bincount(groups, negative, count)[groups]
    runs = Runs.of(groups, ranked)
    with np.errstate(invalid="ignore", divide="ignore"):
        wins = runs.below(negative) / n  # of a positive with this score
        losses = 1 - runs.below(positive) / p  # of a negative: the share of positives above it
        both = (p > 0) & (n > 0)
        sums = np.bincount(groups, np.where(both, positive * wins / p, np.nan), count)
        values = np.where(np.bincount(groups, minlength=count) > 0, sums, np.nan)
        rows = positive * (wins - values[groups]) / p + negative * (losses - values[groups]) / n
    return values, np.where(both, rows, 0.0)


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

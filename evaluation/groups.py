"""Ranks and AUC within groups of rows, such as users and their sessions; ties count half."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

Array = np.ndarray
NO_SESSION = -1


def ranks(scores: Array) -> tuple[Array, int]:
    """Dense rank of each score, equal scores alike, and the number of distinct ones."""
    order = np.argsort(scores)
    ranked = scores[order]
    starts = np.empty(len(order), dtype=bool)
    starts[:1] = True
    np.not_equal(ranked[1:], ranked[:-1], out=starts[1:])
    dense = np.cumsum(starts) - 1
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = dense
    return ranks, int(dense[-1]) + 1 if len(dense) else 0


def below_in_group(groups: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """Weight of rows with a lower score in the row's group, and with an equal one, shape (rows,)."""
    places, distinct = ranks(scores)
    keys = groups * distinct + places
    order = np.argsort(keys)
    ordered = keys[order]
    starts = np.empty(len(order), dtype=bool)
    starts[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=starts[1:])
    first = np.flatnonzero(starts)
    run = np.cumsum(starts) - 1
    total = np.concatenate([[0.0], np.cumsum(weights[order])])
    before, equal = total[first], np.diff(np.append(total[first], total[-1]))
    group_of_run = groups[order[first]]
    new_group = np.empty(len(first), dtype=bool)
    new_group[:1] = True
    np.not_equal(group_of_run[1:], group_of_run[:-1], out=new_group[1:])
    at_group = before[np.flatnonzero(new_group)][np.cumsum(new_group) - 1] if len(first) else before
    below, same = np.empty(len(order)), np.empty(len(order))
    below[order], same[order] = (before - at_group)[run], equal[run]
    return below, same


def group_aucs(groups: Array, count: int, labels: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """AUC (NaN with one label only) and total weight of each of ``count`` groups of rows, shape (count,)."""
    positive, negative = weights * labels, weights * (1 - labels)
    p, n = np.bincount(groups, positive, count), np.bincount(groups, negative, count)
    below, same = below_in_group(groups, scores, negative)
    wins = np.bincount(groups, positive * (below + same / 2), count)
    pairs = p * n
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, wins / pairs, np.nan), np.bincount(groups, weights, count)


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


def mixed_sessions(users: Array, sessions: Array | None, labels: Array, scores: Array, weights: Array) -> Sessions:
    """The sessions with both labels, with the AUC within each.

    Args:
        users, labels, scores, weights: of each row, shape (rows,).
        sessions: number of each row's session within its user's, ``NO_SESSION`` for none; None where none are known.
    """
    rows = np.flatnonzero(sessions != NO_SESSION) if sessions is not None else np.empty(0, dtype=np.int64)
    numbers, distinct = pd.factorize(sessions[rows] if sessions is not None else rows)
    codes, pairs = pd.factorize(users[rows] * np.int64(len(distinct) + 1) + numbers)
    aucs, total = group_aucs(codes, len(pairs), labels[rows], scores[rows], weights[rows])
    owners = np.empty(len(pairs), dtype=np.int64)
    owners[codes] = users[rows]
    both = ~np.isnan(aucs)
    return Sessions(owners[both], aucs[both], total[both], np.bincount(codes, minlength=len(pairs))[both])

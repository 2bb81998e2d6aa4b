"""Scores of a model on labeled impressions, checked before any metric sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from core.errors import DataError
from evaluation.groups import NO_SESSION, Ranks, Sessions, group_aucs, mixed_sessions, ranks

Array = np.ndarray
FACET, CONTEXT, ATTRIBUTE = "facet_", "context_", "attribute_"
"""Prefixes of a prediction table's columns of item facets, the context, and attributes of users and items."""
SESSION_COLUMNS = ("hour", "request_id")
"""Columns of a prediction table that name a user's session: the UTC hour, and the request where the log tells it."""
LARGEST_WEIGHT = 1e100
"""Sums of products of weights, and of their inverses, fit a double up to here."""


@dataclass(frozen=True)
class Predictions:
    """Scores of one model on labeled impressions, checked.

    Attributes:
        users: user of each row, as positions 0..U−1 in the sorted user ids, shape (rows,).
        labels: 0 or 1, shape (rows,).
        scores: any real number, higher is better; a probability for log-loss and calibration.
        weights: weight of each row.
        user_ids: the sorted user ids, shape (U,).
        sessions: session of each row as a number of its user's, ``NO_SESSION`` for none, shape (rows,); None where
            sessions are not known.
    """

    users: Array
    labels: Array
    scores: Array
    weights: Array
    user_ids: Array
    sessions: Array | None = None

    @classmethod
    def of(cls, users: Any, labels: Any, scores: Any, weights: Any = None, sessions: Any = None) -> Predictions:
        """Check and take columns; ``DataError`` names what is wrong. ``sessions`` are numbers (``session_numbers``)."""
        users, scores = np.asarray(users), np.asarray(scores, dtype=np.float64)
        labels = np.asarray(labels, dtype=np.float64)
        weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
        sessions = None if sessions is None else np.asarray(sessions, dtype=np.int64)
        lengths = {len(users), len(labels), len(scores), len(weights), len(scores if sessions is None else sessions)}
        if len(lengths) > 1:
            raise DataError(f"user, label, score, weight and session have different lengths: {sorted(lengths)}")
        for name, column in (("score", scores), ("label", labels), ("weight", weights)):
            bad = int(np.count_nonzero(~np.isfinite(column)))
            if bad:
                raise DataError(
                    f"{bad} of {len(column)} values of '{name}' are missing or infinite; remove or mend them"
                )
        wrong = labels[(labels != 0) & (labels != 1)]
        if len(wrong):
            raise DataError(
                f"{len(wrong)} of {len(labels)} labels are not 0 or 1 (the first is {wrong[0]:g}); labels must be 0 or 1"
            )
        if np.any(weights < 0):
            raise DataError("weights must not be negative")
        if not np.all((weights == 0) | ((weights >= 1 / LARGEST_WEIGHT) & (weights <= LARGEST_WEIGHT))):
            raise DataError(f"weights must be 0 or between {1 / LARGEST_WEIGHT:g} and {LARGEST_WEIGHT:g}; scale them")
        blank = users == "" if users.dtype.kind in "OU" else False
        if nobody := int(np.count_nonzero(pd.isna(users) | blank)):
            raise DataError(f"{nobody} of {len(users)} rows have no user; leave them out")
        codes, user_ids = pd.factorize(users, sort=True)
        return cls(codes.astype(np.int64, copy=False), labels, scores, weights, np.asarray(user_ids), sessions)

    def some(self, rows: Array) -> Predictions:
        """These rows only (a mask, or positions)."""
        sessions = None if self.sessions is None else self.sessions[rows]
        users = self.users[rows]
        present = np.zeros(len(self.user_ids), dtype=bool)
        present[users] = True
        codes, user_ids = (np.cumsum(present) - 1)[users], self.user_ids[present]
        return Predictions(codes, self.labels[rows], self.scores[rows], self.weights[rows], user_ids, sessions)

    @cached_property
    def ranked(self) -> Ranks:
        """The ranks of the scores."""
        return ranks(self.scores)

    @cached_property
    def user_aucs(self) -> tuple[Array, Array]:
        """AUC of each user (NaN with one label only) and the user's total weight, shape (users,)."""
        return group_aucs(self.users, len(self.user_ids), self.labels, self.ranked, self.weights)

    @cached_property
    def mixed_sessions(self) -> Sessions:
        """The sessions that have both labels, with the AUC within each; none where sessions are not known."""
        return mixed_sessions(self.users, self.sessions, self.labels, self.ranked, self.weights)

    def in_sessions_of(self, other: Predictions) -> Predictions:
        """The same with the sessions of another model's predictions on the same impressions."""
        return replace(self, sessions=other.sessions)

    @property
    def no_probabilities(self) -> int:
        """How many scores lie outside [0, 1]."""
        return int(np.count_nonzero((self.scores < 0) | (self.scores > 1)))

    def __len__(self) -> int:
        return len(self.scores)


def session_numbers(*columns: Any) -> Array:
    """Number the sessions that columns name together, such as hour and request.

    Args:
        columns: one value per row; a missing one counts as a value where another column has one.

    Returns:
        Equal numbers for rows that are equal in all columns, ``NO_SESSION`` for rows without any value. Shape (rows,).

    >>> session_numbers([7, 7, 8, 8, None], ["a", None, "a", "a", None]).tolist()
    [0, 1, 2, 2, -1]
    """
    numbers, named = np.zeros(len(columns[0]), dtype=np.int64), np.zeros(len(columns[0]), dtype=bool)
    for column in columns:
        codes, distinct = pd.factorize(np.asarray(column))
        named |= codes >= 0
        numbers = pd.factorize(numbers * (len(distinct) + 1) + codes + 1)[0]
    return np.where(named, numbers, NO_SESSION)

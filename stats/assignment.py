"""Assignment to an experiment's variants: a salted hash of (experiment, user), without state.

Shared here because the simulated app, serving and the analysis must agree on it exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np


def hash_to_unit(salt: str, user_keys: Sequence[str]) -> np.ndarray:
    """A uniform number in [0, 1) for each user, independent between salts.

    Args:
        salt: any text.
        user_keys: the users' ids in the source's log, shape (users,).

    Returns:
        Shape (users,).

    >>> hash_to_unit("2026", ["ann", "bob"]).round(4).tolist()
    [0.8696, 0.2427]
    """
    prefix = hashlib.blake2b(f"{salt}\x1f".encode(), digest_size=8)
    points = np.empty(len(user_keys), dtype=np.uint64)
    for position, key in enumerate(user_keys):
        hasher = prefix.copy()
        hasher.update(key.encode())
        points[position] = int.from_bytes(hasher.digest(), "big")
    return points / np.float64(2**64)


def assign(experiment: str, salt: str, shares: Mapping[str, float], user_keys: Sequence[str]) -> np.ndarray:
    """Assign each user to a variant.

    Args:
        experiment: name of the experiment.
        salt: changes the split; keep it for the life of the experiment.
        shares: variant → share; shares are normalized to sum to 1.
        user_keys: the users' ids in the source's log, shape (users,).

    Returns:
        Array of variant names, shape (users,).

    >>> assign("clock_ranker", "2026", {"control": 0.5, "treatment": 0.5}, ["ann", "bob", "cid"]).tolist()
    ['control', 'treatment', 'control']
    """
    names = np.array(list(shares))
    bounds = np.cumsum([shares[name] for name in names])
    uniform = hash_to_unit(f"{experiment}\x1f{salt}", user_keys)
    return names[np.minimum(np.searchsorted(bounds / bounds[-1], uniform, side="right"), len(names) - 1)]

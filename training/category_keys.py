"""Texts as int64 keys, so that tables need no shared vocabulary."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import pyarrow as pa

FEW = 8
"""So few values are not sorted out by value first: a request has one user."""


@lru_cache(maxsize=1 << 16)
def text_key(name: str, value: str | None = None) -> int:
    """Key of a value of an attribute, or of its being missing: a 63-bit digest, never 0.

    Two of a million keys collide with a chance of 5e-8.
    """
    text = name if value is None else f"{name}={value}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1 or 1


def facet_keys(facet: str, values: pa.Array) -> np.ndarray:
    """int64 key of each facet value, 0 for null, shape (rows,)."""
    return _keys(facet, values, 0)


def category_keys(name: str, values: pa.Array) -> np.ndarray:
    """int64 key of each value of an attribute, shape (rows,); null has a key of its own."""
    return _keys(name, values, text_key(name))


def _keys(name: str, values: pa.Array, missing: int) -> np.ndarray:
    if len(values) <= FEW:
        return np.array([missing if v is None else text_key(name, v) for v in values.to_pylist()], dtype=np.int64)
    encoded = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
    keys = [text_key(name, value) for value in encoded.dictionary.to_pylist()]
    table = np.array([missing, *keys], dtype=np.int64)
    at = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return table[at]

"""Attributes of users, items and moments as keys: of categories, of lists of them, and of quantile bins of numbers.

Shapes: B samples, C categories, N numbers, L lists, M values of the longest list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from events.schema import AttributeField, Owner
from training.category_keys import category_keys, text_key

LONGEST_LIST = 10
"""Values of a list that are read; those behind them are left out."""
BINS = 16
"""Quantile bins of a number."""
MEMORY_SAMPLES = 200_000.0
"""Quantiles weigh the past like so many samples at most: they follow a number that drifts."""
UNFITTED, MISSING = BINS, BINS + 1
NUMERIC = ("number", "age")


@dataclass(frozen=True)
class AttributeKeys:
    """What samples have of attributes.

    Attributes:
        categories: keys, shape (B, C); a missing value has a key of its own.
        numbers: shape (B, N); NaN where missing.
        lists: keys, shape (B, L, M), M at least 1; 0 behind the last value.
    """

    categories: np.ndarray
    numbers: np.ndarray
    lists: np.ndarray


def of_type(fields: Sequence[AttributeField], *types: str) -> tuple[AttributeField, ...]:
    """The attributes of some types, in their order."""
    return tuple(field for field in fields if field.type in types)


Encoded = Mapping[str, np.ndarray]
"""Of a table's attributes by column: keys of categories (rows,) or lists (rows, M), or numbers (rows,)."""


def encode(fields: Sequence[AttributeField], table: pa.Table) -> dict[str, np.ndarray]:
    """Turn a table's attributes into keys and numbers; those that it has no column for are left out.

    Args:
        fields: attributes of one owner.
        table: of R rows.
    """
    encoded = {}
    for field in fields:
        if field.column in table.column_names:
            column = table[field.column]
            values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            encoded[field.column] = (
                category_keys(field.column, values)
                if field.type == "category"
                else _list_keys(field.column, values)
                if field.type == "list"
                else number_values(values)
            )
    return encoded


def attribute_keys(
    fields: Sequence[AttributeField],
    encoded: Mapping[Owner, Encoded],
    rows: Mapping[Owner, np.ndarray],
    hours: np.ndarray,
) -> AttributeKeys:
    """The attributes of B samples.

    Args:
        fields: what is read.
        encoded: for each owner the attributes of its table; one that is not among them is missing.
        rows: for each owner the samples' row in its table, −1 where it has none, shape (B,).
        hours: moment of each sample, hours since 1970 UTC, shape (B,); ages are taken at it.
    """
    samples = len(hours)

    def taken(field: AttributeField, missing: float) -> np.ndarray:
        """What each sample has of an attribute."""
        values, at = encoded[field.owner].get(field.column), rows[field.owner]
        if values is None or not len(values):
            kind = np.float64 if field.type in NUMERIC else np.int64
            return np.full((samples, 0) if field.type == "list" else samples, missing, dtype=kind)
        picked = values[at]
        picked[at < 0] = missing
        return picked

    categories = [taken(field, text_key(field.column)) for field in of_type(fields, "category")]
    numbers = [
        np.maximum(hours - taken(field, np.nan), 0) if field.type == "age" else taken(field, np.nan)
        for field in of_type(fields, *NUMERIC)
    ]
    lists = [taken(field, 0) for field in of_type(fields, "list")]
    width = max((keys.shape[1] for keys in lists), default=0) or 1
    wide = [np.pad(keys, ((0, 0), (0, width - keys.shape[1]))) for keys in lists]
    return AttributeKeys(
        categories=np.stack(categories, axis=1) if categories else np.zeros((samples, 0), np.int64),
        numbers=np.stack(numbers, axis=1) if numbers else np.zeros((samples, 0)),
        lists=np.stack(wide, axis=1) if wide else np.zeros((samples, 0, 1), np.int64),
    )


def number_values(values: pa.Array) -> np.ndarray:
    """Numbers, or the numbers that texts are; NaN for what is none. Shape (rows,)."""
    if pa.types.is_string(values.type):
        texts = pc.utf8_trim_whitespace(values).to_pylist()
        return np.array([_number(text) for text in texts], dtype=np.float64)
    if not values.null_count:
        return values.to_numpy(zero_copy_only=False).astype(np.float64)
    return np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan), dtype=np.float64)


def _number(text: str | None) -> float:
    try:
        number = float(text) if text is not None and "_" not in text else np.nan
    except ValueError:
        return np.nan
    return number if np.isfinite(number) else np.nan


def list_ranks(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Of every element of a list column: the row of its list, and its position in that list."""
    parent = pc.list_parent_indices(lists).to_numpy()
    return parent, np.arange(len(parent)) - np.searchsorted(parent, parent)


def _list_keys(name: str, values: pa.Array) -> np.ndarray:
    """Keys of lists, shape (rows, M): the first ``LONGEST_LIST`` values of each, 0 behind them."""
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    width = int(min(lengths.max(initial=0), LONGEST_LIST))
    keys = np.zeros((len(values), width), dtype=np.int64)
    if width:
        parent, rank = list_ranks(values)
        keep = rank < width
        keys[parent[keep], rank[keep]] = category_keys(name, pc.list_flatten(values))[keep]
    return keys


class NumberBins:
    """Quantile bins of numbers, fitted on the past: part of a ranker's state.

    After an hour the edges move towards that hour's quantiles by the hour's share of the samples that count. A mean of
    quantile functions is the quantile function of the distributions' barycenter (Agueh and Carlier 2011), so edges stay in
    order, and nothing but them has to be kept. A bin means a place among the values of the past; what it stands for drifts
    with them.

    Attributes:
        edges: inner edges of the bins, ascending, shape (N, ``BINS`` − 1).
        weights: samples that they rest on, shape (N,).
    """

    def __init__(self, fields: Sequence[AttributeField]) -> None:
        self.columns = [field.column for field in of_type(fields, *NUMERIC)]
        self.edges = np.zeros((len(self.columns), BINS - 1))
        self.weights = np.zeros(len(self.columns))
        names = [*map(str, range(BINS)), "unfitted", "missing"]
        self._keys = np.array(
            [[text_key(f"{column}#", name) for name in names] for column in self.columns], dtype=np.int64
        )

    def keys(self, numbers: np.ndarray) -> np.ndarray:
        """Key of each number's bin, (B, N) in, (B, N) out."""
        keys = np.zeros(numbers.shape, dtype=np.int64)
        for n, (edges, weight) in enumerate(zip(self.edges, self.weights, strict=True)):
            values = numbers[:, n]
            bins = np.searchsorted(edges, values, side="right") if weight else np.full(len(values), UNFITTED)
            keys[:, n] = self._keys[n][np.where(np.isnan(values), MISSING, bins)]
        return keys

    def state(self) -> dict[str, np.ndarray]:
        """Arrays of a checkpoint; none where there is no number."""
        return {"numbers.edges": self.edges, "numbers.weights": self.weights} if self.columns else {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take a checkpoint's arrays."""
        if self.columns:
            self.edges, self.weights = state["numbers.edges"].copy(), state["numbers.weights"].copy()

    def update(self, numbers: np.ndarray) -> None:
        """Take an hour's numbers, (B, N), into the quantiles."""
        for n in range(len(self.columns)):
            values = numbers[:, n]
            values = values[~np.isnan(values)]
            if not len(values):
                continue
            quantiles = np.quantile(values, np.arange(1, BINS) / BINS)
            share = len(values) / (len(values) + self.weights[n])
            self.edges[n] += share * (quantiles - self.edges[n])
            self.weights[n] = min(self.weights[n] + len(values), MEMORY_SAMPLES)

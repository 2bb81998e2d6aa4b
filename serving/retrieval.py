"""A simple first stage: popular, fresh, and what fits the user's clock now.

Half of the candidates are the most popular of the last day, a fifth the newest, the rest the most popular items whose
facet value is a top value of the user's clock around now; what one of them lacks is filled from the popular.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.catalog import Catalog
from stats.circle import circular_distance, gaussian

POPULAR, FRESH = 0.5, 0.2
NEAR_HOURS = 2.0
VALUES_USED = 6
"""Top values of the clock around now that items are taken for."""


class Retrieval:
    """Candidates from a catalog, prepared once for all requests."""

    def __init__(self, catalog: Catalog, slot_minutes: int) -> None:
        self.catalog, self.slot_hours = catalog, slot_minutes / 60
        self.popular = np.lexsort((catalog.item, -catalog.popularity, -catalog.day_events))
        self.fresh = np.lexsort((catalog.item, -catalog.day_events, -catalog.first_hour))
        rank = np.empty(len(catalog), dtype=np.int64)
        rank[self.popular] = np.arange(len(catalog))
        self._of_value: dict[tuple[str, str], np.ndarray] = {}
        for facet, values in catalog.values.items():
            encoded = values.dictionary_encode()
            codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
            order = np.lexsort((rank, codes))
            bounds = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
            for code, value in enumerate(encoded.dictionary.to_pylist()):
                self._of_value[facet, value] = order[bounds[code] : bounds[code + 1]]

    def candidates(self, count: int, local_hour: float, slots: pa.Table, exclude: np.ndarray) -> np.ndarray:
        """Item ids for a user, none twice.

        Args:
            count: how many; fewer where the catalog has no more.
            local_hour: of the user's day, in [0, 24).
            slots: the user's clock (``get_clock``), empty where there is none.
            exclude: item ids that are not wanted.
        """
        wanted = np.concatenate([self._matched(count, local_hour, slots), self.fresh[: int(count * FRESH)]])
        parts = np.concatenate(
            [self.popular[: int(count * POPULAR)], wanted, self.popular[: count + len(wanted) + len(exclude)]]
        )
        _, first = np.unique(parts, return_index=True)
        rows = parts[np.sort(first)]
        items = self.catalog.item[rows]
        return items[~np.isin(items, exclude)][:count]

    def _matched(self, count: int, local_hour: float, slots: pa.Table) -> np.ndarray:
        """Rows that fit the clock, an equal share for each of the values with the highest weight."""
        weights = near_values(slots, local_hour, list(self.catalog.values), self.slot_hours)
        share = int(count * (1 - POPULAR - FRESH)) // max(len(weights), 1)
        parts = [self._of_value[key][:share] for key in weights if key in self._of_value]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def near_values(
    slots: pa.Table, local_hour: float, facets: list[str], slot_hours: float
) -> dict[tuple[str, str], float]:
    """(facet, value) → weight of the clock's top values within two hours of now, the highest first."""
    found: dict[tuple[str, str], float] = {}
    if not slots.num_rows:
        return found
    for row in slots.select(["slot", *(f"{f}_{part}" for f in facets for part in ("values", "scores"))]).to_pylist():
        gap = circular_distance(local_hour - (row["slot"] + 0.5) * slot_hours)  # a weekend's slots follow, a day later
        if gap <= NEAR_HOURS:
            for facet in facets:
                for value, score in zip(row[f"{facet}_values"], row[f"{facet}_scores"], strict=True):
                    key = (facet, value)
                    found[key] = found.get(key, 0.0) + score * float(gaussian(gap))
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:VALUES_USED])

"""A simple first stage: popular items, new items, and items that fit the user's clock now.

Half of the candidates are the most popular of the last day, a fifth the newest, and the rest the most popular items whose
facet value is a top value of the user's clock around now. If a group has too few items, popular ones fill up. Items without
events are not looked for: they are ranked where a request names them.
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
"""Number of the clock's top values around now for which items are retrieved."""


class Retrieval:
    """Finds candidates in a catalog, which is indexed once for all requests."""

    def __init__(self, catalog: Catalog, slot_minutes: int) -> None:
        self.catalog, self.slot_hours = catalog, slot_minutes / 60
        popular = np.lexsort((catalog.item, -catalog.popularity, -catalog.day_events))
        fresh = np.lexsort((catalog.item, -catalog.day_events, -catalog.first_hour))
        self.popular, self.fresh = popular[catalog.shown[popular]], fresh[catalog.shown[fresh]]
        rank = np.full(len(catalog), len(catalog), dtype=np.int64)
        rank[self.popular] = np.arange(len(self.popular))
        self._of_value: dict[tuple[str, str], np.ndarray] = {}
        for facet, values in catalog.values.items():
            encoded = values.dictionary_encode()
            codes = np.where(catalog.shown, pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), -1)
            order = np.lexsort((rank, codes))
            bounds = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
            for code, value in enumerate(encoded.dictionary.to_pylist()):
                self._of_value[facet, value] = order[bounds[code] : bounds[code + 1]]

    def candidates(self, count: int, local_hour: float, slots: pa.Table, exclude: np.ndarray) -> np.ndarray:
        """Item ids for a user, without repetitions.

        Args:
            count: how many; fewer if the catalog has no more.
            local_hour: hour on the user's wall clock, in [0, 24).
            slots: the user's clock (``get_clock``), empty if there is none.
            exclude: ids of items to leave out.
        """
        fitting = np.concatenate([self._matched(count, local_hour, slots), self.fresh[: int(count * FRESH)]])
        parts = np.concatenate(
            [self.popular[: int(count * POPULAR)], fitting, self.popular[: count + len(fitting) + len(exclude)]]
        )
        _, first = np.unique(parts, return_index=True)
        rows = parts[np.sort(first)]
        items = self.catalog.item[rows]
        return items[~np.isin(items, exclude)][:count]

    def _matched(self, count: int, local_hour: float, slots: pa.Table) -> np.ndarray:
        """Rows of items that fit the clock, equally many for each of the values with the highest weights."""
        weights = near_values(slots, local_hour, list(self.catalog.values), self.slot_hours)
        share = int(count * (1 - POPULAR - FRESH)) // max(len(weights), 1)
        parts = [self._of_value[key][:share] for key in weights if key in self._of_value]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def near_values(
    slots: pa.Table, local_hour: float, facets: list[str], slot_hours: float
) -> dict[tuple[str, str], float]:
    """The clock's top values within two hours of now.

    Args:
        slots: the user's clock.
        local_hour: hour on the user's wall clock, in [0, 24).
        facets: names of the facets.
        slot_hours: width of a slot, hours.

    Returns:
        (facet, value) → weight, the highest first.
    """
    weights: dict[tuple[str, str], float] = {}
    if not slots.num_rows:
        return weights
    for row in slots.select(["slot", *(f"{f}_{part}" for f in facets for part in ("values", "scores"))]).to_pylist():
        gap = circular_distance(local_hour - (row["slot"] + 0.5) * slot_hours)  # a weekend's slots follow, a day later
        if gap <= NEAR_HOURS:
            for facet in facets:
                for value, score in zip(row[f"{facet}_values"], row[f"{facet}_scores"], strict=True):
                    key = (facet, value)
                    weights[key] = weights.get(key, 0.0) + score * float(gaussian(gap))
    return dict(sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:VALUES_USED])

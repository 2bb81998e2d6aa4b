"""How fresh a source's features are, and how many."""

from __future__ import annotations

from dataclasses import dataclass

from core import duck
from core.hours import Hour
from feature_repo.retrieval import ClockFeatures


@dataclass(frozen=True)
class ViewStatus:
    """Freshness and rows of a view's change log.

    Attributes:
        last_change: key of the hour of its newest row, None without any.
        rows: in the log.
        entities: that have one.
    """

    last_change: str | None
    rows: int
    entities: int


@dataclass(frozen=True)
class FeatureStatus:
    """Freshness of a source's features.

    Attributes:
        as_of: key of the hour at whose start the clocks hold, None before the first rebuild.
        engine: that computes them.
        views: by name.
    """

    as_of: str | None
    engine: str
    views: dict[str, ViewStatus]


def feature_status(features: ClockFeatures) -> FeatureStatus:
    """The clocks' hour, and for every view its last change and number of rows offline.

    Args:
        features: of the source.
    """
    at = features.clock.as_of
    views = {}
    with duck.connection(features.settings) as con:
        for view, changes in features.clock.logs.items():
            if not (parts := changes.parts()):  # a view that the settings ask for and the next rebuild makes
                views[view] = ViewStatus(None, 0, 0)
                continue
            keys = ", ".join(changes.keys)
            ((last, rows, entities),) = con.execute(
                f"SELECT max(as_of), count(*), count(DISTINCT ({keys})) FROM read_parquet({duck.file_list(parts)})"
            ).fetchall()
            views[view] = ViewStatus(Hour(last).key if last else None, rows, entities)
    return FeatureStatus(at.key if at else None, features.settings.engine, views)

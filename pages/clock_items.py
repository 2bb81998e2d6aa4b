"""Scores of a few items for a user over the day, by the champion that lies in the workspace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.hours import Hour
from events.ids import log_ids
from events.items import item_titles
from feature_repo.retrieval import ClockFeatures
from model_registry.registry import CHAMPION, read_moves
from model_registry.store import downloaded_version, moves_file
from pages.clock_values import ItemScores
from training.config import label_of

TIMES = 48
"""Times of day at which items are scored."""
POPULAR, SHOWN = 200, 8
"""Items that are scored, the most popular ones, and that are shown: those whose score depends most on the time."""


@dataclass(frozen=True)
class ChampionScores:
    """What the champion makes of items for a user: ``version`` and ``variant`` say which model."""

    version: str
    variant: str
    items: list[ItemScores]


def champion_scores(features: ClockFeatures, user: int, as_of: Hour) -> ChampionScores | None:
    """Score popular items for a user at every half hour of the 24 hours after a clock.

    The champion is the one that the registry's trail names. It is not downloaded for this.

    Args:
        features: of the source.
        user: the platform's number.
        as_of: the clocks' hour.

    Returns:
        The items whose score changes most over the day; None where no champion of these
            clocks lies in the workspace.
    """
    settings = features.settings
    champions = [move.version for move in read_moves(moves_file(settings)) if move.alias == CHAMPION]
    version = champions[-1] if champions else None
    folder = downloaded_version(settings, version) if version else None
    if version is None or folder is None:
        return None
    from serving.catalog import load_catalog
    from serving.models import LoadedModel
    from serving.stages import pair_scores
    from training.model import load_model

    model = load_model(folder)
    model.ranker.eval()
    info = model.info
    if list(info.facets) != list(features.facets) or model.slots != settings.slots:
        return None  # it was trained on clocks of another shape
    loaded = LoadedModel(version, info.variant, info.hour, folder, model, info.heads.index(label_of(info.heads)))
    catalog = load_catalog(settings, features, as_of)
    rows = np.argsort(-catalog.popularity, kind="stable")[:POPULAR]
    start = as_of.number * 60
    moments = start + (np.arange(TIMES) * (1440 // TIMES) - start) % 1440
    scores = pair_scores(
        loaded, catalog, features.online([user], as_of),
        users=np.full(TIMES * len(rows), user), minutes=np.repeat(moments, len(rows)),
        items=np.tile(catalog.item[rows], TIMES), rows=np.tile(rows, TIMES),
    ).reshape(TIMES, len(rows))  # fmt: skip
    order = np.argsort(-np.ptp(scores, axis=0), kind="stable")[:SHOWN]
    numbers = catalog.item[rows[order]].tolist()
    names, titles = log_ids(features.events.root, "item", numbers), item_titles(features.events, numbers)
    items = [
        ItemScores(
            names[int(catalog.item[rows[n]])],
            tuple(
                str(value)
                for facet in features.facets
                if (value := catalog.values[facet][int(rows[n])].as_py()) is not None
            ),
            tuple(map(float, scores[:, n])),
            titles.get(int(catalog.item[rows[n]]), ""),
        )
        for n in order
    ]
    return ChampionScores(version, info.variant, items)

"""The report of a day on what the champion's ranker rests on."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np

from core.errors import NotReadyError
from core.files import write_json
from core.hours import day_hours
from core.settings import Settings
from events.store import EventStore
from training.batch import HourKeys
from training.config import label_of
from training.importance import Importance, drawn_rows, importances
from training.samples import SampleStore
from training.state import StateStore

log = logging.getLogger("pipeline.importance")

ROWS = 5_000
"""Samples of a day that are looked at."""
MIN_ROWS = 200


@dataclass(frozen=True)
class ImportanceReport:
    """What a ranker rested on, on a day that it had not been trained on.

    Attributes:
        day: the day.
        variant: of the ranker; the champion's, or the baseline without one.
        state: key of the last hour that it was trained on.
        rows: samples looked at.
        inputs: the largest drop of AUC first.
    """

    day: str
    variant: str
    state: str
    rows: int
    inputs: tuple[Importance, ...]


def report_importance(settings: Settings, day: date) -> ImportanceReport:
    """Permutation importance of every input of the champion's variant: its state of before the day, on samples of the day.

    Raises:
        NotReadyError: the variant was not trained before the day, or the day has too few samples, or samples of one outcome only.
    """
    from model_registry.store import open_registry

    models = open_registry(settings)
    champion = models.get("champion")
    variant = models.lineage(champion).variant if champion else settings.baseline_variant
    hours, states = day_hours(day), StateStore(settings.training_dir / "states", variant)
    before = [hour for hour in states.hours() if hour < hours[-1]]
    held = next((hour for hour in reversed(before) if hour < hours[0]), before[0] if before else None)
    if held is None:
        raise NotReadyError(f"{variant} was not trained before {day}; there is nothing to look at yet")
    _, ranker = states.load_to_score(held)
    store = EventStore(settings.events_dir)
    samples = SampleStore(settings, store)
    unseen = [hour for hour in hours if hour > held and (samples.folder(hour) / "meta.json").exists()]
    parts = [
        drawn_rows(drawn.keys(ranker), -(-ROWS // len(unseen)), settings.seed + hour.number)
        for hour in unseen
        if (drawn := samples.read(hour)).tables.samples.num_rows
    ]
    rows = sum(map(len, parts))
    if rows < MIN_ROWS:
        raise NotReadyError(f"{day}: {rows} samples after {held}, {MIN_ROWS} are needed to say what a ranker rests on")
    head = samples.heads.index(label_of(samples.heads))
    keys = HourKeys.joined(parts)
    if len(np.unique(keys.labels[keys.known[:, head], head])) < 2:
        raise NotReadyError(f"{day}: every label is the same, so nobody can tell what a ranker rests on")
    inputs = tuple(importances(ranker, keys, head, settings.seed))
    report = ImportanceReport(str(day), variant, held.key, rows, inputs)
    write_json(settings.reports_dir / "importance" / f"{day}.json", asdict(report))
    log.info("inputs of %s on %s: most rests on %s", variant, day, ", ".join(i.name for i in inputs[:3]))
    return report

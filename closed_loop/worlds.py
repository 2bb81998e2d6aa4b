"""Small closed loops for studies: simulated users, and rankers trained on their history and then frozen.

A world is a simulated app whose history under its first policy has gone through the platform's own steps: log, ingestion,
clocks, hourly training of every ranker. From the experiment's start on, the rankers and the users' features are frozen.
A run of all users under one ranker then takes seconds, and no user's outcome depends on another user's arm: a user's
outcome in an A/B test is that in the run of their own arm.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import yaml

from closed_loop.loop import Loop, LoopPlan
from core.files import write_text
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures
from pipeline.reports import variant_metrics
from serving.catalog import load_catalog
from serving.models import Models
from serving.stages import pair_scores
from simulation.app import App
from simulation.truth import METRICS, UserTotals
from simulation.visits import Slates, Visits, first_policy

log = logging.getLogger("closed_loop.worlds")

SIZE: dict[str, object] = {"users": 400, "items": 300, "ids": "number"}
DAYS, HISTORY_DAYS, OFFLINE_DAYS = 14, 8, 4
FIRST_SEED = 7100


@dataclass(frozen=True)
class Outcome:
    """Users' metrics over a period, shape (users,) each, and who was exposed."""

    values: dict[str, np.ndarray]
    exposed: np.ndarray


class FrozenModelWorld:
    """One simulated app with frozen models and features, ready to be run under any of its rankers.

    Args:
        settings: name the run-time folder.
        number: of the world; gives its seed.
        variants: rankers to train.
    """

    def __init__(self, settings: Settings, number: int, variants: tuple[str, ...]) -> None:
        source = f"world-{number}"
        var = settings.var / "studies" / "worlds" / "-".join(variants)
        app_file = var / source / "app.yaml"
        if not app_file.exists():
            write_text(app_file, yaml.safe_dump({**SIZE, "seed": FIRST_SEED + number}))
        plan = LoopPlan(arms=variants, days=DAYS, history_days=HISTORY_DAYS, http=False, truth=False)
        self.loop = Loop(plan, source, var=var)
        self.loop.prepare()
        self.variants, self.settings, self.config = variants, self.loop.settings, self.loop.config
        self.start, self.end = self.loop.start, self.loop.end
        models = Models(self.settings)
        models.refresh(set(variants))
        self.models = {v: loaded for v in variants if (loaded := models.get(v))}
        store = ClockFeatures(self.settings, EventStore(self.settings.events_dir))
        self.features = store.online(list(range(1, self.config.users + 1)), self.start)
        self.catalog = load_catalog(self.settings, store, self.start)

    @cached_property
    def offline(self) -> dict[str, dict[str, float]]:
        """Variant → AUC and UAUC of its progressive predictions on the last days of the history."""
        metrics = variant_metrics(self.settings, self.start - 24 * OFFLINE_DAYS, self.start)
        return {v: {m: float(metrics[v][m].value) for m in ("auc", "uauc")} for v in self.variants}

    def app(self, luck: int) -> App:
        """The app with the draws of one ``luck``."""
        return App(self.config.model_copy(update={"luck": luck}))

    @cached_property
    def before(self) -> Outcome:
        """The history's metrics, from which covariates are computed."""
        return self._simulate(self.app(0), None, self.config.first_hour, self.start)

    def run(self, variant: str, luck: int) -> Outcome:
        """Simulate all users under one ranker; the same ``luck`` means the same draws."""
        return self._simulate(self.app(luck), variant, self.start, self.end)

    def _simulate(self, app: App, variant: str | None, start: Hour, end: Hour) -> Outcome:
        rank = first_policy(app) if variant is None else lambda slates: self.scores(variant, slates)
        visits, totals = Visits(app, start), UserTotals(app)
        while visits.next < end:
            totals.add(visits.simulate_until(min(visits.next + 24, end), rank))
        return Outcome({m: totals.values[m] for m in METRICS}, totals.exposed)

    def scores(self, variant: str, slates: Slates) -> np.ndarray:
        """A ranker's scores of slates, on the features as of the experiment's start, shape (R, C)."""
        loaded = self.models[variant]
        row, item = slates.pairs()
        scores = np.full(slates.candidates.shape, -np.inf)
        scores[slates.candidates >= 0] = pair_scores(
            loaded,
            self.catalog,
            self.features,
            users=slates.user[row] + 1,
            minutes=slates.local_minutes[row],
            items=item + 1,
        )
        return scores

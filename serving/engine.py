"""Ranking: the model behind a user's route scores the candidates on the user's features, or popularity does.

Everything that requests need lies in one immutable ``Snapshot``; ``refresh`` makes a new one beside the requests and puts
it in place at once, so a request sees one state of models, experiments and catalog from beginning to end.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa

from ab_analysis.assignment import ExposureLog
from core.errors import NotReadyError, PlatformError
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from feature_repo.retrieval import Features
from model_registry.registry import CHAMPION
from serving.catalog import Catalog, Keys, load_catalog
from serving.features import FeaturesAwayError, OnlineFeatures
from serving.journal import Journal
from serving.models import Loaded, Models
from serving.retrieval import Retrieval
from serving.routing import Route, Routes, load_routes, stop_experiment
from training.scoring import predict
from training.tensors import candidate_keys

log = logging.getLogger("serving.engine")

FAILURES_TO_STOP = 20
"""Requests that an experiment's model may fail on before the experiment is stopped."""
SHADOW_PENDING = 100
"""Requests that may wait for the shadow's scores; more are not scored by it."""
NO_FEATURES = Features(pa.table({}), pa.table({}), pa.table({}))


class NoChampionError(PlatformError):
    """There is no model to rank with yet."""


@dataclass(frozen=True)
class Request:
    """A request, checked.

    Attributes:
        user: as in the source's log.
        at: time of the request, aware.
        local_minutes: the same on the user's wall clock, minutes since 1970.
        candidates: items as in the source's log; None: the engine retrieves them.
        count: items wanted.
        exclude: items that retrieval leaves out.
    """

    request_id: str
    user: str
    at: datetime
    local_minutes: int
    candidates: tuple[str, ...] | None
    count: int
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranked:
    """An answer.

    Attributes:
        items: the wanted items, best first, as in the source's log.
        scores: their scores, descending.
        version, model_variant: of the model that ranked, empty where popularity did.
        route: by which the model was chosen.
        degraded: why this is not the answer it should be, empty where it is.
        features_as_of: hour from whose start the features hold.
        user_known: whether the log knows the user.
        unknown_items: candidates that the log does not know.
    """

    request_id: str
    items: tuple[str, ...]
    scores: tuple[float, ...]
    version: str
    model_variant: str
    route: Route
    degraded: str
    features_as_of: Hour
    user_known: bool
    unknown_items: int


@dataclass(frozen=True)
class Snapshot:
    """What requests are answered with."""

    at: Hour | None = None
    catalog: Catalog | None = None
    retrieval: Retrieval | None = None
    routes: Routes = field(default_factory=Routes)
    models: Mapping[str, Loaded] = field(default_factory=dict)


@dataclass
class _Work:
    """A request on its way."""

    request: Request
    user: int
    route: Route
    keys: Sequence[str] = ()
    items: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    loaded: Loaded | None = None
    degraded: str = ""


def pair_scores(
    loaded: Loaded,
    catalog: Catalog,
    features: Features,
    *,
    users: np.ndarray,
    minutes: np.ndarray,
    items: np.ndarray,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """A model's scores of N pairs of a user and an item, shape (N,): the one way from features to scores.

    Args:
        loaded: the model.
        catalog: gives the items' facets.
        features: of the users.
        users, minutes, items: user, local minutes since 1970 and item of each pair, shape (N,).
        rows: of the items in the catalog, where they are known already.
    """
    rows = catalog.rows(items) if rows is None else rows
    ranker = loaded.model.ranker
    own = (features.slots, features.profiles, features.history)
    keys = candidate_keys(users, minutes, items, catalog.facets_of(rows), own, ranker)
    found: np.ndarray = predict(ranker, keys)[:, loaded.head] if len(keys) else np.empty(0)
    return found


class Engine:
    """Ranks requests of one source. ``refresh`` before the first, and whenever something may have changed."""

    def __init__(self, settings: Settings, *, journal: bool = True) -> None:
        self.settings = settings
        self.events = EventStore(settings.events_dir)
        self.users, self.items = Keys(self.events, "user"), Keys(self.events, "item")
        self.models = Models(settings)
        self.features = OnlineFeatures(settings)
        self.exposures = ExposureLog(settings.workspace / "serving" / "exposures")
        self.journal = Journal(settings) if journal else None
        self.snapshot = Snapshot()
        self.problems: dict[str, str] = {}
        self.unlogged = 0
        self._failures: Counter[str] = Counter()
        self._shadow = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._shadow_pending = threading.Semaphore(SHADOW_PENDING)
        self._refreshing = threading.Lock()

    def refresh(self) -> None:
        """Take over new features, models, experiments and ids. What cannot be read stays as it was, and is named."""
        with self._refreshing:
            problems: dict[str, str] = {}
            at, catalog, retrieval = self.snapshot.at, self.snapshot.catalog, self.snapshot.retrieval
            try:
                now = self.features.store.clock.as_of
                if now is None:
                    problems["features"] = "there are no clocks yet; run 'make demo', or materialize an hour"
                elif now != at or catalog is None:
                    self.users.refresh()
                    self.items.refresh()
                    if at is None:
                        self.features.warm(now)
                    catalog = load_catalog(self.settings, self.features.store, now)
                    at, retrieval = now, Retrieval(catalog, self.settings.slot_minutes)
            except NotReadyError as error:
                problems["features"] = str(error)
            except Exception as error:  # the hour before keeps ranking
                problems["features"] = f"{type(error).__name__}: {error}"
                log.warning("features could not be read anew: %s", error)
            routes, wrong = load_routes(self.settings)
            shadow = {self.settings.serving_shadow} - {""}
            self.models.refresh(routes.models | shadow)
            models = {name: m for name in routes.models | shadow if (m := self.models.get(name))}
            self.snapshot = Snapshot(at, catalog, retrieval, routes, models)
            self.problems = {**problems, **wrong, **self.models.problems}

    def close(self) -> None:
        self._shadow.shutdown(wait=True)
        self.features.close()
        if self.journal:
            self.journal.close()

    def not_ready(self) -> str:
        """Why requests cannot be answered, empty where they can."""
        return self._lacks(self.snapshot)

    def _lacks(self, now: Snapshot) -> str:
        if not now.models:
            return self._no_champion()
        return "" if now.catalog is not None else self.problems.get("features", "no features yet")

    def _no_champion(self) -> str:
        reason = self.problems.get(CHAMPION) or self.problems.get("mlflow") or "no model is loaded"
        return f"no champion yet: {reason}"

    def rank(self, request: Request) -> Ranked:
        """Answer one request."""
        return self.rank_many([request])[0]

    def rank_many(self, requests: Sequence[Request], deadline_ms: float | None = None) -> list[Ranked]:
        """Answer requests together: features are read once, and each model scores all of its candidates at once.

        Raises:
            NoChampionError: there is no model yet.
        """
        now = self.snapshot
        if reason := self._lacks(now):
            raise NoChampionError(reason)
        assert now.at is not None
        assert now.catalog is not None
        routes = self._routes(now, requests)
        if not all(route.model in now.models or CHAMPION in now.models for route in routes):
            raise NoChampionError(self._no_champion())
        work = [
            _Work(request, self.users.id_of(request.user), route)
            for request, route in zip(requests, routes, strict=True)
        ]
        features, away = self._features_of(work, now.at, deadline_ms)
        for w in work:
            self._candidates(w, now, features)
        if away:
            for w in work:
                w.scores, w.degraded = now.catalog.popularity_of(w.rows), f"popularity: {away}"
        else:
            self._score(work, now, features)
        ranked = [self._answer(w, now.at) for w in work]
        self._log(work, ranked, now, None if away else features)
        return ranked

    @staticmethod
    def _routes(now: Snapshot, requests: Sequence[Request]) -> list[Route]:
        times = {request.at for request in requests}
        if len(times) == 1:
            return now.routes.of([request.user for request in requests], next(iter(times)))
        return [now.routes.of([request.user], request.at)[0] for request in requests]

    def _features_of(self, work: Sequence[_Work], at: Hour, deadline_ms: float | None) -> tuple[Features, str]:
        """Features of everybody, and why there are none."""
        users = sorted({w.user for w in work if w.user >= 0})
        if not users:
            return NO_FEATURES, ""
        try:
            return self.features.read(users, at, deadline_ms), ""
        except FeaturesAwayError as error:
            return NO_FEATURES, str(error)

    def _candidates(self, work: _Work, now: Snapshot, features: Features) -> None:
        assert now.catalog is not None
        assert now.retrieval is not None
        request = work.request
        if request.candidates is None:
            own = features.slots
            if own.num_rows:
                own = own.filter(pa.compute.equal(own["user_id"], work.user))
            exclude = np.array([self.items.id_of(key) for key in request.exclude], dtype=np.int64)
            hour = request.local_minutes % 1440 / 60
            wanted = max(request.count, min(self.settings.serving_candidates, RETRIEVED))
            work.items = now.retrieval.candidates(wanted, hour, own, exclude)
            work.keys = [self.items.key_of(int(item)) for item in work.items]
        else:
            work.keys = request.candidates
            work.items = np.array([self.items.id_of(key) for key in work.keys], dtype=np.int64)
        work.rows = now.catalog.rows(work.items)

    def _score(self, work: Sequence[_Work], now: Snapshot, features: Features) -> None:
        """Scores by each request's model; a model that is missing or fails gives way to the champion, it to popularity."""
        assert now.catalog is not None
        champion = now.models.get(CHAMPION)
        groups: dict[str, list[_Work]] = {}
        for w in work:
            if w.route.model in now.models:
                w.loaded = now.models[w.route.model]
            else:
                w.loaded, w.degraded = champion, f"champion: {w.route.model} is not loaded"
            assert w.loaded is not None
            groups.setdefault(w.loaded.version, []).append(w)
        for group in groups.values():
            for loaded in dict.fromkeys([group[0].loaded, champion]):
                if loaded is None:
                    continue
                try:
                    found = self.scores(loaded, group, features, now.catalog)
                except Exception as error:  # a model that fails costs quality, not the answer
                    log.warning("version %s failed: %s", loaded.version, error)
                    self._count_failures(group, loaded, str(error))
                    continue
                for w, scores in zip(group, found, strict=True):
                    if w.loaded is not loaded:
                        w.loaded, w.degraded = loaded, "champion: the variant's model failed"
                    w.scores = scores
                break
            else:
                for w in group:
                    w.scores, w.loaded = now.catalog.popularity_of(w.rows), None
                    w.degraded = "popularity: the model failed"

    @staticmethod
    def scores(loaded: Loaded, work: Sequence[_Work], features: Features, catalog: Catalog) -> list[np.ndarray]:
        """Each request's scores by one model."""
        sizes = [len(w.items) for w in work]
        found = pair_scores(
            loaded, catalog, features,
            users=np.repeat(np.array([w.user for w in work], dtype=np.int64), sizes),
            minutes=np.repeat(np.array([w.request.local_minutes for w in work], dtype=np.int64), sizes),
            items=np.concatenate([w.items for w in work]), rows=np.concatenate([w.rows for w in work]),
        )  # fmt: skip
        return np.split(found, np.cumsum(sizes)[:-1])

    def _count_failures(self, group: Sequence[_Work], loaded: Loaded, reason: str) -> None:
        for w in group:
            name = w.route.experiment
            if name and w.loaded is loaded:
                self._failures[name] += 1
                if self._failures[name] == FAILURES_TO_STOP and any(
                    e.automatic_stop for e in self.snapshot.routes.experiments if e.name == name
                ):
                    stop_experiment(
                        self.settings, name, f"version {loaded.version} failed {FAILURES_TO_STOP} times: {reason}"
                    )

    def _answer(self, work: _Work, at: Hour) -> Ranked:
        order = np.argsort(-work.scores, kind="stable")
        work.items, work.scores = work.items[order], work.scores[order]
        shown = order[: work.request.count]
        return Ranked(
            request_id=work.request.request_id, items=tuple(work.keys[n] for n in shown),
            scores=tuple(map(float, work.scores[: len(shown)])), version=work.loaded.version if work.loaded else "",
            model_variant=work.loaded.variant if work.loaded else "", route=work.route, degraded=work.degraded,
            features_as_of=at, user_known=work.user >= 0, unknown_items=int((work.rows < 0).sum()),
        )  # fmt: skip

    def _log(self, work: Sequence[_Work], ranked: Sequence[Ranked], now: Snapshot, features: Features | None) -> None:
        try:
            for w in work:
                if w.route.experiment:
                    self.exposures.expose(w.route.experiment, w.route.variant, w.request.user, w.request.at)
        except OSError as error:  # a full disk costs exposures, which the analysis shows, not the ranking
            self.unlogged += 1
            log.error("an exposure could not be logged: %s", error)
        if self.journal is None or now.at is None:
            return
        by_hour: dict[Hour, list[dict[str, object]]] = {}
        for w, answer in zip(work, ranked, strict=True):
            by_hour.setdefault(Hour.of(w.request.at), []).append(
                {
                    "request_id": w.request.request_id, "at": w.request.at, "user": w.request.user, "user_id": w.user,
                    "local_minutes": w.request.local_minutes, "features_as_of": now.at.number, "version": answer.version,
                    "experiment": w.route.experiment, "variant": w.route.variant, "degraded": w.degraded or None,
                    "items": w.items, "scores": w.scores.astype(np.float32), "shown": len(answer.items),
                }
            )  # fmt: skip
        for hour, rows in by_hour.items():
            self.journal.add(hour, "requests", rows)
        if features is not None:
            self.journal.add_features(now.at, sorted({w.user for w in work if w.user >= 0}), features)
            shadow = now.models.get(self.settings.serving_shadow)
            if shadow and self._shadow_pending.acquire(blocking=False):
                self._shadow.submit(self._score_shadow, shadow, work, features, now)

    def _score_shadow(self, shadow: Loaded, work: Sequence[_Work], features: Features, now: Snapshot) -> None:
        """Another model's scores of what was shown, for the log only."""
        try:
            assert now.catalog is not None
            assert self.journal is not None
            for w in work:
                w.rows = now.catalog.rows(w.items)  # in the order of the scores now
            found = self.scores(shadow, work, features, now.catalog)
            for w, scores in zip(work, found, strict=True):
                row = {
                    "request_id": w.request.request_id,
                    "version": shadow.version,
                    "items": w.items,
                    "scores": scores,
                }
                self.journal.add(Hour.of(w.request.at), "shadow", [row])
        except Exception as error:  # a shadow must not harm
            log.warning("shadow version %s failed: %s", shadow.version, error)
        finally:
            self._shadow_pending.release()


RETRIEVED = 200
"""Candidates that the engine retrieves for a request."""

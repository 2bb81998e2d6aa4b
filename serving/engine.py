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
from dataclasses import dataclass, field, replace
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
from serving.catalog import Catalog, IdMap, load_catalog
from serving.features import FeatureStoreUnavailableError, OnlineFeatures
from serving.models import LoadedModel, Models
from serving.request_log import RequestLog
from serving.retrieval import Retrieval
from serving.routing import Route, Routes, load_routes, stop_experiment
from training.scoring import predict
from training.tensors import candidate_keys

log = logging.getLogger("serving.engine")

FAILURES_TO_STOP = 20
"""Requests that an experiment's model may fail on before the experiment is stopped."""
SHADOW_PENDING = 100
"""Requests that may wait for the shadow's scores; more are not scored by it."""
RETRIEVED = 200
"""Candidates that the engine retrieves for a request."""
NO_FEATURES = Features(pa.table({}), pa.table({}), pa.table({}))


class NoChampionError(PlatformError):
    """There is no model to rank with yet."""


@dataclass(frozen=True)
class RankRequest:
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
class FeatureState:
    """What can be ranked, and for which hour.

    Attributes:
        as_of: hour from whose start features and catalog hold.
        catalog: the items.
        retrieval: finds candidates among them.
    """

    as_of: Hour
    catalog: Catalog
    retrieval: Retrieval


@dataclass(frozen=True)
class Snapshot:
    """What requests are answered with; without ``state`` or a model, no request is."""

    state: FeatureState | None = None
    routes: Routes = field(default_factory=Routes)
    models: Mapping[str, LoadedModel] = field(default_factory=dict)

    @property
    def as_of(self) -> Hour | None:
        """Hour from whose start the features hold."""
        return self.state.as_of if self.state else None

    @property
    def items(self) -> int:
        """Items that can be ranked."""
        return len(self.state.catalog) if self.state else 0


@dataclass(frozen=True)
class RoutedRequest:
    """First stage: a request, its user's number (−1: unknown), and who ranks for them."""

    request: RankRequest
    user: int
    route: Route


@dataclass(frozen=True)
class CandidateSet:
    """Second stage: what is ranked. ``keys``, ``items`` and their ``rows`` in the catalog run side by side."""

    routed: RoutedRequest
    keys: Sequence[str]
    items: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class ScoredCandidates:
    """Third stage: scores in the order of the candidates, by a model, or by popularity where ``model`` is None."""

    candidates: CandidateSet
    scores: np.ndarray
    model: LoadedModel | None
    degraded: str = ""

    def best_first(self) -> ScoredCandidates:
        """The same with candidates and scores in the order of descending scores; ties keep their order."""
        order = np.argsort(-self.scores, kind="stable")
        old = self.candidates
        keys = [old.keys[n] for n in order]
        return replace(
            self,
            candidates=replace(old, keys=keys, items=old.items[order], rows=old.rows[order]),
            scores=self.scores[order],
        )


def pair_scores(
    loaded: LoadedModel,
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
    user_tables = (features.slots, features.profiles, features.history)
    keys = candidate_keys(users, minutes, items, catalog.facets_of(rows), user_tables, ranker)
    scores: np.ndarray = predict(ranker, keys)[:, loaded.head] if len(keys) else np.empty(0)
    return scores


class RankingEngine:
    """Ranks requests of one source. ``refresh`` before the first, and whenever something may have changed."""

    def __init__(self, settings: Settings, *, log_requests: bool = True) -> None:
        self.settings = settings
        self.events = EventStore(settings.events_dir)
        self.users, self.items = IdMap(self.events, "user"), IdMap(self.events, "item")
        self.models = Models(settings)
        self.features = OnlineFeatures(settings)
        self.exposures = ExposureLog(settings.workspace / "serving" / "exposures")
        self.request_log = RequestLog(settings) if log_requests else None
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
            state, problems = self._refreshed_state(self.snapshot.state)
            routes, wrong = load_routes(self.settings)
            wanted = routes.models | ({self.settings.serving_shadow} - {""})
            self.models.refresh(wanted)
            models = {name: model for name in wanted if (model := self.models.get(name))}
            self.snapshot = Snapshot(state, routes, models)
            self.problems = {**problems, **wrong, **self.models.problems}

    def _refreshed_state(self, state: FeatureState | None) -> tuple[FeatureState | None, dict[str, str]]:
        """The features' state of now, or the one before and why it stays."""
        try:
            as_of = self.features.store.clock.as_of
            if as_of is None:
                return state, {"features": "there are no clocks yet; run 'make demo', or materialize an hour"}
            if state is None or as_of != state.as_of:
                self.users.refresh()
                self.items.refresh()
                if state is None:
                    self.features.warm(as_of)
                catalog = load_catalog(self.settings, self.features.store, as_of)
                state = FeatureState(as_of, catalog, Retrieval(catalog, self.settings.slot_minutes))
        except NotReadyError as error:
            return state, {"features": str(error)}
        except Exception as error:  # the hour before keeps ranking
            log.warning("features could not be read again: %s", error)
            return state, {"features": f"{type(error).__name__}: {error}"}
        return state, {}

    def close(self) -> None:
        """Finish what is logged beside the requests, and let go of the stores."""
        self._shadow.shutdown(wait=True)
        self.features.close()
        if self.request_log:
            self.request_log.close()

    def not_ready(self) -> str:
        """Why requests cannot be answered, empty where they can."""
        if not self.snapshot.models:
            return self._no_champion()
        return "" if self.snapshot.state else self._no_features()

    def _no_champion(self) -> str:
        reason = self.problems.get(CHAMPION) or self.problems.get("mlflow") or "no model is loaded"
        return f"no champion yet: {reason}"

    def _no_features(self) -> str:
        return self.problems.get("features", "no features yet")

    def rank(self, request: RankRequest) -> Ranked:
        """Answer one request.

        Raises:
            NoChampionError: there is no model, or there are no features, yet.
        """
        return self.rank_many([request])[0]

    def rank_many(self, requests: Sequence[RankRequest], deadline_ms: float | None = None) -> list[Ranked]:
        """Answer requests together: features are read once, and each model scores all of its candidates at once.

        Args:
            requests: checked requests.
            deadline_ms: time to wait for the feature store; default: the settings'.

        Returns:
            An answer to each request, in their order.

        Raises:
            NoChampionError: there is no model, or there are no features, yet.
        """
        snapshot = self.snapshot
        if not snapshot.models:
            raise NoChampionError(self._no_champion())
        state = snapshot.state
        if state is None:
            raise NoChampionError(self._no_features())
        routed = self._route(snapshot, requests)
        features, unavailable = self._read_features(routed, state.as_of, deadline_ms)
        candidates = [self._find_candidates(request, state, features) for request in routed]
        if unavailable:
            scored = [_by_popularity(c, state.catalog, unavailable) for c in candidates]
        else:
            scored = self._score(candidates, snapshot, state.catalog, features)
        ordered = [one.best_first() for one in scored]
        answers = [_answer(one, state.as_of) for one in ordered]
        self._log_exposures(routed)
        if self.request_log:
            self._log_requests(self.request_log, ordered, answers, state.as_of)
            if not unavailable:
                self._log_features(self.request_log, ordered, snapshot, state, features)
        return answers

    def _route(self, snapshot: Snapshot, requests: Sequence[RankRequest]) -> list[RoutedRequest]:
        """Who ranks for each request; ``NoChampionError`` where neither its model nor a champion is loaded."""
        times = {request.at for request in requests}
        if len(times) == 1:
            routes = snapshot.routes.of([request.user for request in requests], times.pop())
        else:
            routes = [snapshot.routes.of([request.user], request.at)[0] for request in requests]
        if not all(route.model in snapshot.models or CHAMPION in snapshot.models for route in routes):
            raise NoChampionError(self._no_champion())
        return [
            RoutedRequest(request, self.users.id_of(request.user), route)
            for request, route in zip(requests, routes, strict=True)
        ]

    def _read_features(
        self, routed: Sequence[RoutedRequest], as_of: Hour, deadline_ms: float | None
    ) -> tuple[Features, str]:
        """Features of everybody who is known, and why there are none."""
        users = _known_users(routed)
        if not users:
            return NO_FEATURES, ""
        try:
            return self.features.read(users, as_of, deadline_ms), ""
        except FeatureStoreUnavailableError as error:
            return NO_FEATURES, str(error)

    def _find_candidates(self, routed: RoutedRequest, state: FeatureState, features: Features) -> CandidateSet:
        """The request's own candidates, or retrieved ones."""
        request = routed.request
        keys: Sequence[str]
        if request.candidates is None:
            slots = features.slots
            if slots.num_rows:
                slots = slots.filter(pa.compute.equal(slots["user_id"], routed.user))
            exclude = np.array([self.items.id_of(key) for key in request.exclude], dtype=np.int64)
            local_hour = request.local_minutes % 1440 / 60
            wanted = max(request.count, min(self.settings.serving_candidates, RETRIEVED))
            items = state.retrieval.candidates(wanted, local_hour, slots, exclude)
            keys = [self.items.key_of(int(item)) for item in items]
        else:
            keys = request.candidates
            items = np.array([self.items.id_of(key) for key in keys], dtype=np.int64)
        return CandidateSet(routed, keys, items, state.catalog.rows(items))

    def _score(
        self, candidates: Sequence[CandidateSet], snapshot: Snapshot, catalog: Catalog, features: Features
    ) -> list[ScoredCandidates]:
        """Scores by each request's model; a model that is missing or fails gives way to the champion, it to popularity."""
        champion = snapshot.models.get(CHAMPION)
        by_version: dict[str, tuple[LoadedModel, list[int]]] = {}
        for place, one in enumerate(candidates):
            model = snapshot.models.get(one.routed.route.model) or snapshot.models[CHAMPION]
            by_version.setdefault(model.version, (model, []))[1].append(place)
        scored: dict[int, ScoredCandidates] = {}
        for model, places in by_version.values():
            group = [candidates[place] for place in places]
            scored.update(
                zip(places, self._score_group(group, model, champion, snapshot, catalog, features), strict=True)
            )
        return [scored[place] for place in range(len(candidates))]

    def _score_group(
        self,
        group: Sequence[CandidateSet],
        model: LoadedModel,
        champion: LoadedModel | None,
        snapshot: Snapshot,
        catalog: Catalog,
        features: Features,
    ) -> list[ScoredCandidates]:
        """Scores of candidates that one model ranks, or whatever takes its place."""
        for ranker in (model,) if champion is None or champion is model else (model, champion):
            try:
                scores = score_candidates(ranker, group, features, catalog)
            except Exception as error:  # a model that fails costs quality, not the answer
                log.warning("version %s failed: %s", ranker.version, error)
                if ranker is model:
                    self._count_failures(group, model, str(error))
                continue
            if ranker is not model:
                reasons = ["champion: the variant's model failed"] * len(group)
            else:
                reasons = [
                    "" if (name := one.routed.route.model) in snapshot.models else f"champion: {name} is not loaded"
                    for one in group
                ]
            return [
                ScoredCandidates(one, own_scores, ranker, reason)
                for one, own_scores, reason in zip(group, scores, reasons, strict=True)
            ]
        return [_by_popularity(one, catalog, "the model failed") for one in group]

    def _count_failures(self, group: Sequence[CandidateSet], model: LoadedModel, reason: str) -> None:
        stoppable = {e.name for e in self.snapshot.routes.experiments if e.automatic_stop}
        for name in (one.routed.route.experiment for one in group):
            if name:
                self._failures[name] += 1
                if self._failures[name] == FAILURES_TO_STOP and name in stoppable:
                    stop_experiment(
                        self.settings, name, f"version {model.version} failed {FAILURES_TO_STOP} times: {reason}"
                    )

    def _log_exposures(self, routed: Sequence[RoutedRequest]) -> None:
        try:
            for one in routed:
                if one.route.experiment:
                    self.exposures.expose(one.route.experiment, one.route.variant, one.request.user, one.request.at)
        except OSError as error:  # a full disk costs exposures, which the analysis shows, not the ranking
            self.unlogged += 1
            log.error("an exposure could not be logged: %s", error)

    @staticmethod
    def _log_requests(
        request_log: RequestLog, ordered: Sequence[ScoredCandidates], answers: Sequence[Ranked], as_of: Hour
    ) -> None:
        by_hour: dict[Hour, list[dict[str, object]]] = {}
        for scored, answer in zip(ordered, answers, strict=True):
            routed = scored.candidates.routed
            request = routed.request
            by_hour.setdefault(Hour.of(request.at), []).append(
                {
                    "request_id": request.request_id, "at": request.at, "user": request.user, "user_id": routed.user,
                    "local_minutes": request.local_minutes, "features_as_of": as_of.number, "version": answer.version,
                    "experiment": routed.route.experiment, "variant": routed.route.variant,
                    "degraded": scored.degraded or None, "items": scored.candidates.items,
                    "scores": scored.scores.astype(np.float32), "shown": len(answer.items),
                }
            )  # fmt: skip
        for hour, rows in by_hour.items():
            request_log.add(hour, "requests", rows)

    def _log_features(
        self,
        request_log: RequestLog,
        ordered: Sequence[ScoredCandidates],
        snapshot: Snapshot,
        state: FeatureState,
        features: Features,
    ) -> None:
        """The features that were read and, beside the requests, the shadow's scores on them."""
        candidates = [one.candidates for one in ordered]
        request_log.add_features(state.as_of, _known_users([one.routed for one in candidates]), features)
        shadow = snapshot.models.get(self.settings.serving_shadow)
        if shadow and self._shadow_pending.acquire(blocking=False):
            self._shadow.submit(self._log_shadow, request_log, shadow, candidates, features, state.catalog)

    def _log_shadow(
        self,
        request_log: RequestLog,
        shadow: LoadedModel,
        candidates: Sequence[CandidateSet],
        features: Features,
        catalog: Catalog,
    ) -> None:
        """Another model's scores of what was shown, for the log only."""
        try:
            for one, scores in zip(candidates, score_candidates(shadow, candidates, features, catalog), strict=True):
                request = one.routed.request
                row = {
                    "request_id": request.request_id, "version": shadow.version, "items": one.items, "scores": scores,
                }  # fmt: skip
                request_log.add(Hour.of(request.at), "shadow", [row])
        except Exception as error:  # a shadow must not harm
            log.warning("shadow version %s failed: %s", shadow.version, error)
        finally:
            self._shadow_pending.release()


def score_candidates(
    model: LoadedModel, candidates: Sequence[CandidateSet], features: Features, catalog: Catalog
) -> list[np.ndarray]:
    """Each request's scores by one model, in the order of its candidates."""
    sizes = [len(one.items) for one in candidates]
    scores = pair_scores(
        model, catalog, features,
        users=np.repeat(np.array([one.routed.user for one in candidates], dtype=np.int64), sizes),
        minutes=np.repeat(np.array([one.routed.request.local_minutes for one in candidates], dtype=np.int64), sizes),
        items=np.concatenate([one.items for one in candidates]),
        rows=np.concatenate([one.rows for one in candidates]),
    )  # fmt: skip
    return np.split(scores, np.cumsum(sizes)[:-1])


def _by_popularity(candidates: CandidateSet, catalog: Catalog, reason: str) -> ScoredCandidates:
    return ScoredCandidates(candidates, catalog.popularity_of(candidates.rows), None, f"popularity: {reason}")


def _known_users(routed: Sequence[RoutedRequest]) -> list[int]:
    return sorted({one.user for one in routed if one.user >= 0})


def _answer(scored: ScoredCandidates, as_of: Hour) -> Ranked:
    """The answer to a request whose candidates are in the order of their scores."""
    candidates, model = scored.candidates, scored.model
    request = candidates.routed.request
    return Ranked(
        request_id=request.request_id, items=tuple(candidates.keys[: request.count]),
        scores=tuple(map(float, scored.scores[: request.count])), version=model.version if model else "",
        model_variant=model.variant if model else "", route=candidates.routed.route, degraded=scored.degraded,
        features_as_of=as_of, user_known=candidates.routed.user >= 0, unknown_items=int((candidates.rows < 0).sum()),
    )  # fmt: skip

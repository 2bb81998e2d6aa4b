"""Ranking: the model that a user's route names scores the candidates on the user's features, or popularity does.

Everything that requests read is in one immutable ``Snapshot``. ``refresh`` builds a new one while requests are answered and
replaces the old one at once, so a request sees one state of models, experiments and catalog from beginning to end. The
stages of a ranking are in ``serving.stages``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ab_analysis.assignment import ExposureLog
from core.errors import NotReadyError, PlatformError
from core.hours import Hour
from core.settings import Settings
from events.forgotten import ForgottenList, ForgottenMatcher
from events.store import EventStore
from feature_repo.online_progress import OnlineProgress
from feature_repo.retrieval import Features
from model_registry.registry import CHAMPION
from serving.catalog import UNKNOWN_ID, Catalog, IdMap, load_catalog
from serving.features import FeatureStoreUnavailableError, OnlineFeatures
from serving.models import LoadedModel, Models
from serving.request_log import RequestLog, RequestRow, ShadowRow
from serving.retrieval import Retrieval
from serving.routing import Route, load_routes, stop_experiment
from serving.stages import (
    CandidateSet,
    FeatureState,
    Ranked,
    RankRequest,
    RoutedRequest,
    ScoredCandidates,
    Snapshot,
    answer_from,
    known_users,
    rank_by_popularity,
    score_candidates,
)

log = logging.getLogger("serving.engine")

FAILURES_TO_STOP = 20
"""An experiment is stopped when its model has failed on this many requests."""
SHADOW_PENDING = 100
"""Number of requests that may wait for the shadow model; further ones are not scored by it."""
RETRIEVED = 200
"""Number of candidates that the engine retrieves for a request."""
NO_FEATURES = Features(pa.table({}), pa.table({}), pa.table({}))


class NoChampionError(PlatformError):
    """There is no model to rank with yet."""


class RankingEngine:
    """Ranks requests of one source. Call ``refresh`` before the first request and whenever something may have changed."""

    def __init__(self, settings: Settings, *, log_requests: bool = True) -> None:
        self.settings = settings
        self.events = EventStore(settings.events_dir)
        self.users, self.items = IdMap(self.events, "user"), IdMap(self.events, "item")
        self.models = Models(settings)
        self.features = OnlineFeatures(settings)
        self.exposures = ExposureLog(settings.workspace / "serving" / "exposures")
        self.request_log = RequestLog(settings) if log_requests else None
        self.forgotten = ForgottenMatcher({})
        self.snapshot = Snapshot()
        self.problems: dict[str, str] = {}
        self.unlogged = 0
        self._failures: Counter[str] = Counter()
        self._shadow = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._shadow_pending = threading.Semaphore(SHADOW_PENDING)
        self._refreshing = threading.Lock()

    def refresh(self) -> None:
        """Take over new features, models, experiments and ids. What cannot be read stays as it was; ``problems`` says why."""
        with self._refreshing:
            self.forgotten = ForgottenList(self.events.root).matcher()
            state, problems = self._refreshed_state(self.snapshot.state)
            routes, route_problems = load_routes(self.settings)
            snapshot = Snapshot(state, routes)
            names = routes.models(snapshot.earliest_request) | ({self.settings.serving_shadow} - {""})
            self.models.refresh(names, snapshot.as_of)
            models = {name: model for name in names if (model := self.models.get(name))}
            self._forget_failures(kept=self.snapshot.routes.names & routes.names)
            self.snapshot = replace(snapshot, models=models)
            self.problems = {**problems, **route_problems, **self.models.problems}

    def _refreshed_state(self, state: FeatureState | None) -> tuple[FeatureState | None, dict[str, str]]:
        """The current state of the features; if it cannot be read, the previous one and the reason."""
        try:
            as_of = self._hour_online(state)
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
        except Exception as error:  # requests keep using the previous hour
            log.warning("features could not be read again: %s", error)
            return state, {"features": f"{type(error).__name__}: {error}"}
        return state, {}

    def _hour_online(self, state: FeatureState | None) -> Hour | None:
        """The hour as of which the online store holds features: the clocks', but while an hour is written, the one before."""
        clocks = self.features.store.clock.as_of
        if clocks is None or state is None or clocks < state.as_of:
            return clocks
        filled = OnlineProgress(self.settings).as_of
        return max(state.as_of, min(filled, clocks)) if filled else state.as_of

    def close(self) -> None:
        """Finish writing the logs, and close the stores."""
        self._shadow.shutdown(wait=True)
        self.features.close()
        if self.request_log:
            self.request_log.close()

    def not_ready(self) -> str:
        """Why requests cannot be answered; empty if they can."""
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
            NoChampionError: there is no model yet, or there are no features.
        """
        return self.rank_many([request])[0]

    def rank_many(self, requests: Sequence[RankRequest], deadline_ms: float | None = None) -> list[Ranked]:
        """Answer requests together: features are read once, and each model scores all of its candidates at once.

        Args:
            requests: checked requests.
            deadline_ms: time limit of the feature store, milliseconds; default: the setting's.

        Returns:
            The answers, in the order of the requests.

        Raises:
            NoChampionError: there is no model yet, or there are no features.
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
            scored = [rank_by_popularity(c, state.catalog, unavailable) for c in candidates]
        else:
            scored = self._score(candidates, snapshot, state.catalog, features)
        ordered = [ranking.best_first() for ranking in scored]
        answers = [answer_from(ranking, state.as_of) for ranking in ordered]
        self._log_exposures(routed)
        if self.request_log:
            self._log_requests(self.request_log, ordered, answers, state.as_of)
            if not unavailable:
                self._log_features(self.request_log, ordered, snapshot, state, features)
        return answers

    def _route(self, snapshot: Snapshot, requests: Sequence[RankRequest]) -> list[RoutedRequest]:
        """Which model ranks each request; ``NoChampionError`` if neither that model nor a champion is loaded.

        Who asked to be forgotten is ranked for as a stranger, takes part in no experiment, and is in no log.
        """
        times = {request.at for request in requests}
        if len(times) == 1:
            routes = snapshot.routes.of([request.user for request in requests], times.pop())
        else:
            routes = [snapshot.routes.of([request.user], request.at)[0] for request in requests]
        forgotten = [bool(self.forgotten) and self.forgotten.has(request.user) for request in requests]
        routes = [Route(CHAMPION) if gone else route for route, gone in zip(routes, forgotten, strict=True)]
        if not all(route.model in snapshot.models or CHAMPION in snapshot.models for route in routes):
            raise NoChampionError(self._no_champion())
        return [
            RoutedRequest(request, UNKNOWN_ID if gone else self.users.id_of(request.user), route)
            for request, route, gone in zip(requests, routes, forgotten, strict=True)
        ]

    def _read_features(
        self, routed: Sequence[RoutedRequest], as_of: Hour, deadline_ms: float | None
    ) -> tuple[Features, str]:
        """Features of the users whom the log knows, and why they are missing (empty if they are not)."""
        users = known_users(routed)
        if not users:
            return NO_FEATURES, ""
        try:
            return self.features.read(users, as_of, deadline_ms), ""
        except FeatureStoreUnavailableError as error:
            return NO_FEATURES, str(error)

    def _find_candidates(self, routed: RoutedRequest, state: FeatureState, features: Features) -> CandidateSet:
        """The request's own candidates, or retrieved ones if it has none."""
        request = routed.request
        keys: Sequence[str]
        if request.candidates is None:
            slots = features.slots
            if slots.num_rows:
                slots = slots.filter(pa.compute.equal(slots["user_id"], routed.user))
            exclude = np.array([self.items.id_of(key) for key in request.exclude], dtype=np.int64)
            local_hour = request.local_minutes % 1440 / 60
            count = max(request.count, min(self.settings.serving_candidates, RETRIEVED))
            items = state.retrieval.candidates(count, local_hour, slots, exclude)
            keys = [self.items.key_of(int(item)) for item in items]
        else:
            keys = request.candidates
            items = np.array([self.items.id_of(key) for key in keys], dtype=np.int64)
        return CandidateSet(routed, keys, items, state.catalog.rows(items))

    def _score(
        self, candidates: Sequence[CandidateSet], snapshot: Snapshot, catalog: Catalog, features: Features
    ) -> list[ScoredCandidates]:
        """Score each request's candidates by its model; if that is missing or fails, by the champion, else by popularity."""
        champion = snapshot.models.get(CHAMPION)
        by_version: dict[str, tuple[LoadedModel, list[int]]] = {}
        for position, candidate_set in enumerate(candidates):
            model = snapshot.models.get(candidate_set.routed.route.model) or snapshot.models[CHAMPION]
            by_version.setdefault(model.version, (model, []))[1].append(position)
        scored: dict[int, ScoredCandidates] = {}
        for model, positions in by_version.values():
            group = [candidates[position] for position in positions]
            scored.update(
                zip(positions, self._score_group(group, model, champion, snapshot, catalog, features), strict=True)
            )
        return [scored[position] for position in range(len(candidates))]

    def _score_group(
        self,
        group: Sequence[CandidateSet],
        model: LoadedModel,
        champion: LoadedModel | None,
        snapshot: Snapshot,
        catalog: Catalog,
        features: Features,
    ) -> list[ScoredCandidates]:
        """Score candidates by one model, or by whatever replaces it; if that fails, each request's alone."""
        others = (model.registered, *((champion, champion.registered) if champion and champion is not model else ()))
        for ranker in (model, *(other for other in others if other is not None)):
            try:
                scores = score_candidates(ranker, group, features, catalog)
            except Exception as error:  # a failing model lowers the quality of the answer, nothing else
                if len(group) > 1:  # one request's features fail no other's
                    alone = ([candidate_set] for candidate_set in group)
                    return [self._score_group(one, model, champion, snapshot, catalog, features)[0] for one in alone]
                log.warning("version %s failed: %s", ranker.version, error)
                if ranker is (model.registered or model):  # the lane's parameters are not the experiment's
                    self._count_failures(group, ranker, str(error))
                continue
            if ranker is model.registered:
                reasons = ["registered version: the lane's parameters failed"] * len(group)
            elif ranker is not model:
                reasons = ["champion: the variant's model failed"] * len(group)
            else:
                reasons = [
                    ""
                    if (name := candidate_set.routed.route.model) in snapshot.models
                    else f"champion: {name} is not loaded"
                    for candidate_set in group
                ]
            return [
                ScoredCandidates(candidate_set, model_scores, ranker, reason)
                for candidate_set, model_scores, reason in zip(group, scores, reasons, strict=True)
            ]
        return [rank_by_popularity(candidate_set, catalog, "the model failed") for candidate_set in group]

    def _count_failures(self, group: Sequence[CandidateSet], model: LoadedModel, reason: str) -> None:
        routes = self.snapshot.routes
        stoppable = {e.name for e in (*routes.experiments, *routes.holdouts) if e.automatic_stop}
        for name in (candidate_set.routed.route.experiment for candidate_set in group):
            if name:
                self._failures[name] += 1
                if (failures := self._failures[name]) >= FAILURES_TO_STOP and name in stoppable:
                    stop_experiment(self.settings, name, f"version {model.version} failed {failures} times: {reason}")
                    self._failures.pop(name, None)

    def _forget_failures(self, kept: set[str]) -> None:
        """Count the failures of experiments that have left the routes, or come back to them, from 0 again."""
        for name in [*self._failures]:  # at once, as requests count meanwhile
            if name not in kept:
                self._failures.pop(name, None)

    def _log_exposures(self, routed: Sequence[RoutedRequest]) -> None:
        for request in routed:
            for experiment, variant in request.route.exposures:
                try:
                    self.exposures.expose(experiment, variant, request.request.user, request.request.at)
                except OSError as error:  # a full disk: the analysis reports what is lost, and ranking goes on
                    self.unlogged += 1
                    log.error("an exposure could not be logged: %s", error)

    def _log_requests(
        self, request_log: RequestLog, ordered: Sequence[ScoredCandidates], answers: Sequence[Ranked], as_of: Hour
    ) -> None:
        by_hour: dict[Hour, list[RequestRow]] = {}
        for scored, answer in zip(ordered, answers, strict=True):
            routed = scored.candidates.routed
            request = routed.request
            if self.forgotten and self.forgotten.has(request.user):
                continue
            by_hour.setdefault(Hour.of(request.at), []).append(
                {
                    "request_id": request.request_id, "at": request.at, "user": request.user, "user_id": routed.user,
                    "local_minutes": request.local_minutes, "features_as_of": as_of.number, "version": answer.version,
                    "experiment": routed.route.experiment, "variant": routed.route.variant,
                    "degraded": scored.degraded or None, "items": scored.candidates.items,
                    "scores": scored.scores.astype(np.float32), "shown": len(answer.items),
                    "context": json.dumps(dict(request.context)) if request.context else None,
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
        """Log the features that were read and, in another thread, the shadow model's scores on them."""
        candidates = [ranking.candidates for ranking in ordered]
        request_log.add_features(state.as_of, known_users([ranking.routed for ranking in candidates]), features)
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
        """Log another model's scores of the same candidates."""
        try:
            for candidate_set, scores in zip(
                candidates, score_candidates(shadow, candidates, features, catalog), strict=True
            ):
                request = candidate_set.routed.request
                row: ShadowRow = {
                    "request_id": request.request_id, "version": shadow.version, "items": candidate_set.items, "scores": scores,
                }  # fmt: skip
                request_log.add(Hour.of(request.at), "shadow", [row])
        except Exception as error:  # the shadow must not disturb ranking
            log.warning("shadow version %s failed: %s", shadow.version, error)
        finally:
            self._shadow_pending.release()

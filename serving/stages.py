"""The stages of a ranking, from the request to the answer: immutable values, and the functions between them.

Request → ``RoutedRequest`` → ``CandidateSet`` → ``ScoredCandidates`` → ``Ranked``. Everything that the stages read lies in a
``Snapshot``, which never changes either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from core.hours import Hour
from events.schema import Owner
from feature_repo.retrieval import Features
from model_registry.registry import CHAMPION
from serving.catalog import UNKNOWN_ID, Catalog
from serving.models import LoadedModel
from serving.retrieval import Retrieval
from serving.routing import Route, Routes
from training.attributes import AttributeKeys, Encoded, attribute_keys, encode, number_values
from training.category_keys import facet_keys
from training.scoring import predict
from training.tensors import candidate_keys, entity_rows, stacked

PAST = timedelta(hours=1)
"""How far a request's time may be before the platform's."""


@dataclass(frozen=True)
class RankRequest:
    """A checked request.

    Attributes:
        request_id: of the caller, or made up.
        user: the user's id in the source's log.
        at: time of the request, aware.
        local_minutes: the same on the user's wall clock, minutes since 1970.
        candidates: ids of items in the source's log; None: the engine retrieves them.
        count: number of items in the answer.
        exclude: items that retrieval leaves out.
        context: what is known of the moment, by the log's names.
    """

    request_id: str
    user: str
    at: datetime
    local_minutes: int
    candidates: tuple[str, ...] | None
    count: int
    exclude: tuple[str, ...] = ()
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ContextNotes:
    """How a request's context was understood.

    Attributes:
        missing: what the model reads and the request does not tell, or not as a number where it is one; it counts as missing.
        unknown: whose value the model has not been trained on.
        ignored: what the model does not read.
    """

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranked:
    """An answer.

    Attributes:
        items: ids of items in the source's log, best first.
        scores: their scores, descending.
        version, model_variant: of the model that ranked; empty if popularity did.
        route: how the model was chosen.
        degraded: what was missing for a full answer; empty if nothing was.
        features_as_of: hour at whose start the features hold.
        user_known: whether the log has the user.
        unknown_items: number of candidates that neither the log nor the table of items has.
        context: how the request's context was understood.
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
    context: ContextNotes = ContextNotes()


@dataclass(frozen=True)
class FeatureState:
    """What can be ranked, and for which hour.

    Attributes:
        as_of: hour at whose start features and catalog hold.
        catalog: the items.
        retrieval: finds candidates among them.
    """

    as_of: Hour
    catalog: Catalog
    retrieval: Retrieval


@dataclass(frozen=True)
class Snapshot:
    """What requests are answered with; without ``state`` or a model, none can be answered."""

    state: FeatureState | None = None
    routes: Routes = field(default_factory=Routes)
    models: Mapping[str, LoadedModel] = field(default_factory=dict)

    @property
    def as_of(self) -> Hour | None:
        """Hour at whose start the features hold."""
        return self.state.as_of if self.state else None

    @property
    def earliest_request(self) -> datetime:
        """Before which no request's time lies."""
        return self.state.as_of.start - PAST if self.state else datetime.min.replace(tzinfo=UTC)

    @property
    def newest_sample(self) -> float:
        """Time of the newest sample in the champion's parameters, seconds since 1970; 0 where the registered ones rank."""
        champion = self.models.get(CHAMPION)
        return datetime.fromisoformat(champion.lane.until).timestamp() if champion and champion.lane else 0.0

    @property
    def items(self) -> int:
        """Number of items that can be ranked."""
        return len(self.state.catalog) if self.state else 0


@dataclass(frozen=True)
class RoutedRequest:
    """First stage: a request, its user's integer id (``UNKNOWN_ID`` of a stranger), and the model that ranks for them."""

    request: RankRequest
    user: int
    route: Route


@dataclass(frozen=True)
class CandidateSet:
    """Second stage: what is ranked. ``keys``, ``items`` and ``rows`` in the catalog are parallel."""

    routed: RoutedRequest
    keys: Sequence[str]
    items: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class ScoredCandidates:
    """Third stage: scores in the order of the candidates, from a model or, if ``model`` is None, from popularity."""

    candidates: CandidateSet
    scores: np.ndarray
    model: LoadedModel | None
    degraded: str = ""

    def best_first(self) -> ScoredCandidates:
        """The same, sorted by descending score; ties keep their order."""
        order = np.argsort(-self.scores, kind="stable")
        old = self.candidates
        keys = [old.keys[n] for n in order]
        return replace(
            self,
            candidates=replace(old, keys=keys, items=old.items[order], rows=old.rows[order]),
            scores=self.scores[order],
        )


@dataclass(frozen=True)
class Moments:
    """What is known of the moments of R requests.

    Attributes:
        contexts: by the log's names, one for each request.
        hours: hours since 1970 UTC, shape (R,).
        request: of each pair that is scored the request, shape (N,).
    """

    contexts: Sequence[Mapping[str, str]]
    hours: np.ndarray
    request: np.ndarray


def pair_scores(
    loaded: LoadedModel,
    catalog: Catalog,
    features: Features,
    *,
    users: np.ndarray,
    minutes: np.ndarray,
    items: np.ndarray,
    moments: Moments | None = None,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """A model's scores of N pairs of a user and an item: the only way from features to scores.

    Args:
        loaded: the model.
        catalog: has the items' facets and attributes.
        features: of the users.
        users, minutes, items: user, local minutes since 1970 and item of each pair, shape (N,).
        moments: context and time of the pairs; None: nothing is known of the context, and wall clocks count as UTC.
        rows: rows of the items in the catalog, if they are known already, shape (N,).

    Returns:
        Shape (N,).
    """
    if not len(items):
        return np.empty(0)
    rows = catalog.rows(items) if rows is None else rows
    ranker = loaded.model.ranker
    if moments is None:
        moments = Moments([{}] * len(items), minutes / 60, np.arange(len(items)))
    keys = candidate_keys(
        users, minutes, items, catalog.facets_of(rows), context_keys(loaded, moments.contexts)[moments.request],
        _attributes(loaded, catalog, features, users, rows, moments), (features.slots, features.profiles, features.history),
        ranker,
    )  # fmt: skip
    scores: np.ndarray = predict(ranker, keys)[:, loaded.head]
    if not np.isfinite(scores).all():
        raise ValueError("a score is not a finite number")
    return scores


def _attributes(
    loaded: LoadedModel, catalog: Catalog, features: Features, users: np.ndarray, rows: np.ndarray, moments: Moments
) -> AttributeKeys:
    """What a model reads of the pairs' users, items and moments beside the rest."""
    fields = loaded.model.ranker.attributes
    if not fields:
        return attribute_keys((), {}, {}, np.zeros(len(users)))
    numbers = [field for field in fields if field.owner == "context"]
    told = pa.table({f.column: pa.array([c.get(f.column) for c in moments.contexts], pa.string()) for f in numbers})
    encoded: dict[Owner, Encoded] = {
        "user": encode([field for field in fields if field.owner == "user"], features.attributes),
        "item": catalog.attributes,
        "context": encode(numbers, told),
    }
    users_rows = entity_rows(features.attributes, "user_id", users)
    at: dict[Owner, np.ndarray] = {"user": users_rows, "item": rows, "context": moments.request}
    return attribute_keys(fields, encoded, at, moments.hours[moments.request])


def context_keys(loaded: LoadedModel, contexts: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Keys of what a model reads of contexts, shape (contexts, C); 0 where one does not tell it."""
    names = loaded.model.ranker.context
    columns = [facet_keys(name, pa.array([told.get(name) for told in contexts], pa.string())) for name in names]
    return stacked(columns, len(contexts))


def context_notes(loaded: LoadedModel | None, context: Mapping[str, str]) -> ContextNotes:
    """How a model understands a request's context.

    Args:
        loaded: the model; None if popularity ranked, which reads no context.
        context: by the log's names.
    """
    if loaded is None:
        return ContextNotes(ignored=tuple(sorted(context)))
    ranker = loaded.model.ranker
    numbers = [field.column for field in ranker.attributes if field.owner == "context"]
    reads = [*ranker.context, *numbers]
    known = ranker.values.rows(context_keys(loaded, [context]))[0].numpy() > 0
    is_number = {name: not np.isnan(number_values(pa.array([context.get(name)], pa.string()))[0]) for name in numbers}
    return ContextNotes(
        missing=tuple(name for name in reads if name not in context or not is_number.get(name, True)),
        unknown=tuple(n for n, seen in zip(ranker.context, known, strict=True) if n in context and not seen),
        ignored=tuple(sorted(name for name in context if name not in reads)),
    )


def score_candidates(
    model: LoadedModel, candidates: Sequence[CandidateSet], features: Features, catalog: Catalog
) -> list[np.ndarray]:
    """Score several requests' candidates by one model; one array per request, in the order of its candidates."""
    sizes = [len(candidate_set.items) for candidate_set in candidates]
    scores = pair_scores(
        model, catalog, features,
        users=np.repeat(np.array([candidate_set.routed.user for candidate_set in candidates], dtype=np.int64), sizes),
        minutes=np.repeat(np.array([candidate_set.routed.request.local_minutes for candidate_set in candidates], dtype=np.int64), sizes),
        items=np.concatenate([candidate_set.items for candidate_set in candidates]),
        rows=np.concatenate([candidate_set.rows for candidate_set in candidates]),
        moments=moments_of([candidate_set.routed.request for candidate_set in candidates], sizes),
    )  # fmt: skip
    return np.split(scores, np.cumsum(sizes)[:-1])


def moments_of(requests: Sequence[RankRequest], sizes: Sequence[int]) -> Moments:
    """The moments of requests, each with its number of pairs."""
    hours = np.array([request.at.timestamp() / 3600 for request in requests])
    return Moments([request.context for request in requests], hours, np.repeat(np.arange(len(requests)), sizes))


def rank_by_popularity(candidates: CandidateSet, catalog: Catalog, reason: str) -> ScoredCandidates:
    """Score candidates by popularity; ``reason`` says why no model does."""
    return ScoredCandidates(candidates, catalog.popularity_of(candidates.rows), None, f"popularity: {reason}")


def known_users(routed: Sequence[RoutedRequest]) -> list[int]:
    """Users of the requests whom the log knows, each once."""
    return sorted({request.user for request in routed if request.user != UNKNOWN_ID})


def answer_from(scored: ScoredCandidates, as_of: Hour) -> Ranked:
    """The answer to a request whose candidates are sorted by score."""
    candidates, model = scored.candidates, scored.model
    request = candidates.routed.request
    return Ranked(
        request_id=request.request_id, items=tuple(candidates.keys[: request.count]),
        scores=tuple(map(float, scored.scores[: request.count])), version=model.version if model else "",
        model_variant=model.variant if model else "", route=candidates.routed.route, degraded=scored.degraded,
        features_as_of=as_of, user_known=candidates.routed.user != UNKNOWN_ID, unknown_items=int((candidates.rows < 0).sum()),
        context=context_notes(model, request.context),
    )  # fmt: skip

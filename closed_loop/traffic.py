"""The simulated app's requests to a ranker: over HTTP like real clients', or in this process."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import httpx
import numpy as np

from core.documents import JsonObject
from core.errors import NotReadyError
from core.files import write_atomically
from core.hours import Hour
from core.settings import Settings
from feature_repo.retrieval import ClockFeatures
from operations.processes import running
from operations.services import serving_service
from serving.engine import RankingEngine
from serving.stages import RankRequest, pair_scores
from simulation.app import App
from simulation.log import AppLog
from simulation.visits import Rank, Slates, Visits

log = logging.getLogger("closed_loop.traffic")

CLIENTS = 4
PATIENCE_SECONDS = 60.0
QUARTER_SECONDS = 900
"""Offsets of time zones are multiples of a quarter of an hour."""


class World:
    """People who are simulated hour by hour, their log, and their state between the hours.

    Args:
        log: of the app.
        state: file of the state; if it exists, the simulation continues from it.
        start: first hour.
    """

    def __init__(self, log: AppLog, state: Path, start: Hour) -> None:
        self.log, self.app, self.state = log, log.app, state
        self.visits = Visits(log.app, start)
        if state.exists():
            with np.load(state) as content:
                self.visits.restore(dict(content))

    @property
    def next(self) -> Hour:
        """The hour that is simulated next."""
        return self.visits.next

    def simulate_hour(self, rank: Rank) -> None:
        """Simulate the next hour and write its log; an interrupted hour is simulated again, with the same result."""
        hour = self.next
        self.log.write_visits(hour, self.visits.simulate_hour(rank))
        self.save()

    def save(self) -> None:
        def write(target: Path) -> None:
            with target.open("wb") as sink:
                np.savez(sink, **self.visits.state())  # type: ignore[arg-type]

        write_atomically(self.state, write)


class Answers:
    """Counts ``answers`` (``ok``, ``degraded``, refusals by status) and the ``versions`` that ranked."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()

    def count(self, keys: list[str], scores: dict[str, float], degraded: str | None, version: str) -> list[float]:
        """Count an answer; returns its scores in the order of the request's items."""
        self.answers["degraded" if degraded else "ok"] += 1
        self.versions[version] += 1
        return [scores[key] for key in keys]


class HttpRanker(Answers):
    """Sends each slate's request to a running service, a few at a time; a refused request is sent again."""

    def __init__(self, app: App, settings: Settings) -> None:
        super().__init__()
        self.app, self.url = app, f"http://127.0.0.1:{settings.serving_port}"
        key = settings.ranking_key
        self.client = httpx.Client(base_url=self.url, timeout=30, headers={"X-API-Key": key} if key else {})
        self.pool = ThreadPoolExecutor(CLIENTS, thread_name_prefix="client")

    def __call__(self, slates: Slates) -> np.ndarray:
        """Scores of the candidates, shape (R, C)."""
        rows = list(self.pool.map(lambda n: self._ask(slates, n), range(len(slates.user))))
        return np.stack(rows) if rows else np.empty(slates.candidates.shape)

    def wait(self, as_of: Hour, models: Mapping[str, str]) -> None:
        """Wait until the service has the features as of an hour and these models.

        Args:
            as_of: hour at whose start the features hold.
            models: name → version.

        Raises:
            NotReadyError: it takes too long.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            status = self.client.get("/model").json()
            versions = {name: m["version"] for name, m in status["models"].items()}
            if status["features_as_of"] == as_of.key and all(versions.get(n) == v for n, v in models.items()):
                return
            if time.monotonic() > end:
                raise NotReadyError(f"the service did not take over {as_of} and {dict(models)} in time: {status}")
            time.sleep(0.1)

    def close(self) -> None:
        self.client.close()
        self.pool.shutdown()

    def _ask(self, slates: Slates, n: int) -> np.ndarray:
        filled = np.flatnonzero(slates.candidates[n] >= 0)
        scores = np.full(slates.candidates.shape[1], -np.inf)
        if not len(filled):
            return scores
        keys = [self.app.item_key(int(item)) for item in slates.candidates[n, filled]]
        request = request_of(self.app, slates, n, keys)
        body = {
            "user": request.user, "candidates": keys, "time": request.at.isoformat(), "request_id": request.request_id,
        }  # fmt: skip
        answer = self._post(body)
        by_key = {row["item"]: row["score"] for row in answer["items"]}
        scores[filled] = self.count(keys, by_key, answer["degraded"], answer["model"]["version"])
        return scores

    def _post(self, body: JsonObject) -> JsonObject:
        """The service's answer; while it is busy or starting, the request is repeated."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self.client.post("/rank", json=body)
                if answer.status_code == 200:
                    return dict(answer.json())
                reason = f"{answer.status_code} {answer.json().get('error')}"
                self.answers[str(answer.status_code)] += 1
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                self.answers["no connection"] += 1
            if (not reason.startswith(("503", "504")) and reason[0].isdigit()) or time.monotonic() > end:
                raise NotReadyError(f"{self.url}/rank: {reason}")
            time.sleep(0.2)


@contextmanager
def http_ranker(app: App, settings: Settings) -> Iterator[HttpRanker]:
    """A running service and its client; each request is ranked alone, so that a run can be repeated to the last bit."""
    alone = settings.model_copy(update={"serving_together": 1})
    with running(settings, [serving_service(alone)]), closing(HttpRanker(app, settings)) as client:
        yield client


class EngineRanker(Answers):
    """Sends the same requests to an engine in this process, all of one call together."""

    def __init__(self, app: App, engine: RankingEngine) -> None:
        super().__init__()
        self.app, self.engine = app, engine

    def __call__(self, slates: Slates) -> np.ndarray:
        scores = np.full(slates.candidates.shape, -np.inf)
        filled = [np.flatnonzero(row >= 0) for row in slates.candidates]
        keys = [
            [self.app.item_key(int(i)) for i in row[columns]]
            for row, columns in zip(slates.candidates, filled, strict=True)
        ]
        requested = [n for n, columns in enumerate(filled) if len(columns)]
        requests = [request_of(self.app, slates, n, keys[n]) for n in requested]
        answers = self.engine.rank_many(requests, PATIENCE_SECONDS * 1000) if requested else []
        for n, answer in zip(requested, answers, strict=True):
            by_key = dict(zip(answer.items, answer.scores, strict=True))
            scores[n, filled[n]] = self.count(keys[n], by_key, answer.degraded, answer.version)
        return scores


class ForcedRanker:
    """Ranks for every user by one model, on the features of another world: what would happen to the user in another arm.

    Ids in the log are numbers, so that users and items are the same in all worlds.

    Args:
        engine: has the models.
        features: of the other world.
        model_of: name of each user's model, shape (users,).
    """

    def __init__(self, engine: RankingEngine, features: ClockFeatures, model_of: np.ndarray) -> None:
        self.engine, self.features, self.model_of = engine, features, model_of

    def __call__(self, slates: Slates) -> np.ndarray:
        snapshot = self.engine.snapshot
        if snapshot.state is None:
            raise NotReadyError(self.engine.not_ready())
        scores = np.full(slates.candidates.shape, -np.inf)
        features = self.features.online((np.unique(slates.user) + 1).tolist(), snapshot.state.as_of)
        row, item = slates.pairs()
        column = np.nonzero(slates.candidates >= 0)[1]
        for name in np.unique(self.model_of[slates.user]):
            of_model = np.flatnonzero(self.model_of[slates.user[row]] == name)
            scores[row[of_model], column[of_model]] = pair_scores(
                snapshot.models[name], snapshot.state.catalog, features, users=slates.user[row[of_model]] + 1,
                minutes=slates.local_minutes[row[of_model]], items=item[of_model] + 1,
            )  # fmt: skip
        return scores


def request_of(app: App, slates: Slates, n: int, keys: list[str]) -> RankRequest:
    """The request of one slate, with the user's own offset from UTC.

    Args:
        app: names the user.
        slates: the requests.
        n: row of the slate.
        keys: ids of its candidates in the log.
    """
    offset = -(-(slates.local_minutes[n] * 60 - slates.moment[n]) // QUARTER_SECONDS) * QUARTER_SECONDS
    zone = timezone(timedelta(seconds=float(offset)))
    at = datetime.fromtimestamp(float(slates.moment[n]), zone)
    number = f"{slates.day[n]}-{slates.user[n]}-{slates.number[n]}-{slates.slate}"
    return RankRequest(
        request_id=number, user=app.user_key(int(slates.user[n])), at=at,
        local_minutes=int(at.replace(tzinfo=UTC).timestamp() // 60), candidates=tuple(keys), count=len(keys),
    )  # fmt: skip

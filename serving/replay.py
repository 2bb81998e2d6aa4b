"""Rank a past hour's requests again by another model, on the same features that were served."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from core.errors import NotReadyError
from core.hours import Hour
from core.settings import Settings
from feature_repo.served import served_features
from serving.catalog import UNKNOWN_ID, load_catalog
from serving.features import open_features
from serving.models import Models
from serving.request_log import read_requests
from serving.stages import Moments, pair_scores

TOP = 10


@dataclass(frozen=True)
class ScoreDifference:
    """How far two models' scores of the same candidate are apart, absolute."""

    mean: float
    largest: float


@dataclass(frozen=True)
class Replay:
    """An hour's requests, ranked again by another model.

    Attributes:
        hour: its key.
        model: the other model's name; ``version`` and ``variant``: what stands behind it.
        requests: compared; ``left_out``: degraded, or without their features in the log.
        ranked_by: versions that ranked then.
        same_first: share of requests whose best item is the same.
        overlap: mean share of the first ten items that both models rank among the first ten.
        rank_correlation: mean of Spearman's, None where no request can be ranked.
    """

    hour: str
    model: str
    version: str
    variant: str
    requests: int
    left_out: int
    ranked_by: tuple[str, ...]
    score_difference: ScoreDifference
    same_first: float
    overlap: float
    rank_correlation: float | None


def replay_hour(settings: Settings, hour: Hour, model: str) -> Replay:
    """Rank the requests of an hour again by a model and compare with what was answered then.

    Degraded answers, and those whose features are not in the log, are left out.

    Args:
        settings: name the workspace.
        hour: hour of the requests.
        model: name of a model, as ``serving.models.Models`` takes it.

    Raises:
        NotReadyError: there are no requests in that hour, or the model cannot be loaded.
    """
    requests = read_requests(settings, hour)
    if not requests.num_rows:
        raise NotReadyError(f"no requests are logged for {hour}; the service logs what it ranks")
    models = Models(settings, recorded=False)
    models.refresh({model})
    loaded = models.get(model)
    if loaded is None:
        raise NotReadyError(f"{model} cannot be loaded: {models.problems.get(model) or models.problems.get('mlflow')}")
    rows = requests.to_pylist()
    hours = {row["features_as_of"] for row in rows}
    store = open_features(settings)
    catalog = load_catalog(settings, store, store.clock.require_state().as_of)
    comparisons: list[dict[str, float]] = []
    for as_of in sorted(hours):
        features, users = served_features(settings, Hour(as_of))
        users_with_features = {*users, UNKNOWN_ID}
        comparable = [
            r
            for r in rows
            if r["features_as_of"] == as_of and r["items"] and not r["degraded"] and r["user_id"] in users_with_features
        ]
        for row in comparable:
            items = np.array(row["items"], dtype=np.int64)
            scores = pair_scores(
                loaded, catalog, features, users=np.full(len(items), row["user_id"]),
                minutes=np.full(len(items), row["local_minutes"]), items=items,
                moments=Moments(
                    [json.loads(row.get("context") or "{}")], np.array([row["at"].timestamp() / 3600]),
                    np.zeros(len(items), dtype=np.int64),
                ),
            )  # fmt: skip
            comparisons.append(_compared(np.array(row["scores"]), scores))
    if not comparisons:
        raise NotReadyError(f"of {len(rows)} requests of {hour} none can be ranked again")
    values = {name: np.array([f[name] for f in comparisons]) for name in comparisons[0]}
    rankable = np.isfinite(values["correlation"]).any()
    return Replay(
        hour=hour.key, model=model, version=loaded.version, variant=loaded.variant, requests=len(comparisons),
        left_out=len(rows) - len(comparisons),
        ranked_by=tuple(sorted({row["version"] for row in rows if row["version"]}, key=_by_number)),
        score_difference=ScoreDifference(float(values["mean"].mean()), float(values["largest"].max())),
        same_first=float(values["same_first"].mean()), overlap=float(values["overlap"].mean()),
        rank_correlation=float(np.nanmean(values["correlation"])) if rankable else None,
    )  # fmt: skip


def _by_number(version: str) -> tuple[int, str]:
    """Order of versions; the lane's parameters of one follow it."""
    return int(version.partition("+")[0]), version


def _compared(before: np.ndarray, now: np.ndarray) -> dict[str, float]:
    """Compare two models' scores of the same candidates, which are sorted by the first one's."""
    order = np.argsort(-now, kind="stable")
    top = min(TOP, len(now))
    gap = np.abs(before - now)
    ranks = rankdata(before), rankdata(now)
    rankable = len(now) > 1 and all(np.ptp(r) > 0 for r in ranks)
    return {
        "mean": float(gap.mean()), "largest": float(gap.max()), "same_first": float(order[0] == 0),
        "overlap": len(set(order[:top]) & set(range(top))) / top,
        "correlation": float(np.corrcoef(*ranks)[0, 1]) if rankable else float("nan"),
    }  # fmt: skip

"""The promotion gate: compares a candidate with the champion and decides, in a sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import ConfigError, DataError
from core.hours import Hour
from evaluation.metrics import Predictions, auc, calibration_error, logloss, uauc, user_aucs

Verdict = Literal["promote", "keep", "wait", "refuse"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Margins(_Strict):
    """Where the lower end of a difference's interval must lie above. Points of AUC, 0 to 1."""

    auc_margin: float
    uauc_margin: float


class Policy(_Strict):
    """When a candidate becomes champion; see ``evaluation/policy.yaml``."""

    min_hours: int = Field(4, ge=1)
    max_hours: int = Field(24, ge=1)
    min_samples: int = Field(2000, ge=1)
    min_users: int = Field(100, ge=2)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    another_variant: Margins = Margins(auc_margin=0.0, uauc_margin=-0.01)
    same_variant: Margins = Margins(auc_margin=-0.005, uauc_margin=-0.02)
    max_calibration_error: float = Field(0.2, gt=0, le=1)


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file; ``ConfigError`` names the wrong key."""
    path = path or Path(__file__).with_name("policy.yaml")
    try:
        return Policy(**(yaml.safe_load(path.read_text(encoding="utf-8")) or {}))
    except FileNotFoundError:
        raise ConfigError(f"no policy file at {path}") from None
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        lines = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise ConfigError(f"{path}: {lines}") from None


@dataclass(frozen=True)
class Contender:
    """A model version in front of the gate."""

    version: str
    variant: str
    trained_until: str


@dataclass(frozen=True)
class Check:
    """One figure against its limit."""

    name: str
    passed: bool
    value: float
    limit: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Decision:
    """What the gate decided, and on what.

    Attributes:
        verdict: ``promote``, ``keep`` (the champion), ``wait`` (too little to see yet), ``refuse``
            (the evaluation itself is broken).
        reason: one sentence.
        hours: hours compared; none was in the training of either version.
    """

    verdict: Verdict
    reason: str
    candidate: Contender
    champion: Contender | None
    hours: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    policy: Policy,
    candidate: Contender,
    champion: Contender | None,
    predictions: dict[Hour, tuple[pa.Table, pa.Table | None]],
) -> Decision:
    """Decide about a candidate.

    Args:
        policy: limits.
        candidate, champion: the versions; no champion means the candidate may become the first.
        predictions: hour → the candidate's and the champion's predictions of it (columns event_id,
            user_id, label, score).

    Returns:
        The decision; a broken evaluation gives ``refuse``, never an exception and never a promotion.
    """
    last = max(Hour.parse(c.trained_until) for c in (candidate, champion) if c)
    hours = tuple(sorted(h for h in predictions if h > last))[: policy.max_hours]
    keys = tuple(h.key for h in hours)
    if len(hours) < policy.min_hours:
        return Decision(
            "wait", f"{len(hours)} of {policy.min_hours} hours after {last} have been seen.", candidate, champion, keys
        )
    try:
        ours, theirs = _aligned([predictions[h] for h in hours], with_champion=champion is not None)
        checks, figures = _checks(policy, candidate, champion, ours, theirs)
    except DataError as error:
        return Decision("refuse", f"The evaluation is broken: {error}.", candidate, champion, keys)
    short = [c for c in checks if c.name in {"samples", "users"} and not c.passed]
    if short:
        reason = f"Only {short[0].value:.0f} {short[0].name} of the {short[0].limit:.0f} that the policy wants."
        return Decision(
            "wait" if len(hours) < policy.max_hours else "keep", reason, candidate, champion, keys, checks, figures
        )
    failed = [c for c in checks if not c.passed]
    verdict: Verdict = "keep" if failed else "promote"
    return Decision(verdict, _sentence(candidate, champion, checks, failed), candidate, champion, keys, checks, figures)


def _aligned(
    pairs: list[tuple[pa.Table, pa.Table | None]], *, with_champion: bool
) -> tuple[Predictions, Predictions | None]:
    ours = pa.concat_tables([mine for mine, _ in pairs])
    if not with_champion:
        return _predictions(ours), None
    if any(other is None for _, other in pairs):
        raise DataError("an hour has no predictions of the champion")
    theirs = pa.concat_tables([other for _, other in pairs if other is not None])
    if ours["event_id"].combine_chunks() != theirs["event_id"].combine_chunks():
        joined = ours.select(["event_id"]).join(theirs, "event_id", join_type="inner")
        if joined.num_rows != ours.num_rows or ours.num_rows != theirs.num_rows:
            raise DataError("candidate and champion were not scored on the same impressions")
        ours, theirs = ours.sort_by("event_id"), theirs.sort_by("event_id")
    return _predictions(ours), _predictions(theirs)


def _predictions(table: pa.Table) -> Predictions:
    found = Predictions.of(table["user_id"].to_numpy(), table["label"].to_numpy(), table["score"].to_numpy())
    if len(found) and len(np.unique(found.labels)) < 2:
        raise DataError("every label of the window is the same, so no ranking can be judged")
    return found


def _checks(
    policy: Policy, candidate: Contender, champion: Contender | None, ours: Predictions, theirs: Predictions | None
) -> tuple[tuple[Check, ...], dict[str, Any]]:
    users = int(np.count_nonzero(~np.isnan(user_aucs(ours)[0])))
    checks = [
        Check("samples", len(ours) >= policy.min_samples, len(ours), policy.min_samples),
        Check("users", users >= policy.min_users, users, policy.min_users),
        Check(
            "calibration_error",
            (e := calibration_error(ours)) <= policy.max_calibration_error,
            e,
            policy.max_calibration_error,
        ),
    ]
    figures: dict[str, Any] = {"candidate": _figures(ours)}
    if theirs is None:
        value = auc(ours)
        low, high = value.interval(policy.confidence)
        checks.append(Check("auc_above_chance", low > 0.5, value.value, 0.5, (low, high)))
        return tuple(checks), figures
    figures["champion"] = _figures(theirs)
    same = champion is not None and candidate.variant == champion.variant
    margins = policy.same_variant if same else policy.another_variant
    for name, metric, margin in (("auc", auc, margins.auc_margin), ("uauc", uauc, margins.uauc_margin)):
        gap = metric(ours) - metric(theirs)
        low, high = gap.interval(policy.confidence)
        figures[f"{name}_difference"] = {"value": gap.value, "interval": [low, high], "p_value": gap.p_value()}
        checks.append(Check(f"{name}_difference", bool(low > margin), gap.value, margin, (low, high)))
    return tuple(checks), figures


def _figures(data: Predictions) -> dict[str, float]:
    return {
        "auc": auc(data).value,
        "uauc": uauc(data).value,
        "logloss": logloss(data).value,
        "samples": float(len(data)),
    }


def _sentence(candidate: Contender, champion: Contender | None, checks: tuple[Check, ...], failed: list[Check]) -> str:
    who = f"{candidate.variant} (version {candidate.version})"
    if champion is None:
        if failed:
            return f"{who} does not become the first champion: {failed[0].name} is {failed[0].value:.4f}, limit {failed[0].limit:g}."
        return f"{who} becomes the first champion: its AUC is {checks[-1].value:.4f}."
    gaps = ", ".join(
        f"{c.name.split('_')[0].upper()} {c.value:+.4f} [{c.interval[0]:+.4f}, {c.interval[1]:+.4f}]"
        for c in checks
        if c.interval is not None
    )
    rival = f"{champion.variant} (version {champion.version})"
    if not failed:
        return f"{who} replaces {rival}: {gaps}."
    worst = failed[0]
    end = f"the lower end {worst.interval[0]:+.4f} is" if worst.interval else f"{worst.value:.4f} is"
    return (
        f"{rival} stays: against it {who} has {gaps}, and for {worst.name} {end} not beyond the limit {worst.limit:g}."
    )

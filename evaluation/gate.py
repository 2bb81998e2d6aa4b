"""The promotion gate: compares a candidate with the champion and decides, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import DataError
from core.hours import DAY_HOURS, Hour
from core.numbers import finite
from evaluation.compare import check_paired
from evaluation.estimate import Estimate
from evaluation.gate_decision import (
    DifferenceFigures,
    GateCheck,
    GateDecision,
    GateFigures,
    ModelVersion,
    SideFigures,
    Verdict,
)
from evaluation.metrics import JUDGED, METRICS, auc, auc_gaps, calibration_error, calibration_ratio, user_aucs
from evaluation.policy import EVERY_FACET, SLICES, Guardrail, Policy
from evaluation.prediction_table import as_predictions, joined, with_hour
from evaluation.predictions import ATTRIBUTE, CONTEXT, FACET, Predictions
from stats.sequential import limit_at

DIFFERENCES = {f"{metric}_difference": title for metric, title in JUDGED.items()}
"""Checks of whole differences by their names, with the metrics' names for people; guardrails have values of the log in theirs."""


@dataclass(frozen=True)
class Scored:
    """Predictions of one hour: columns event_id, user_id, label, score, those to slice by, and those of sessions.

    ``reference`` is the champion's, or the popularity baseline's where there is no champion.
    """

    candidate: pa.Table
    reference: pa.Table | None


def judge(
    policy: Policy,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    predictions: Mapping[Hour, Scored],
    *,
    drift_share: float | None = None,
    now: Hour | None = None,
) -> GateDecision:
    """Decide about a candidate.

    Args:
        policy: limits.
        candidate, champion: the versions; no champion means that the reference is the popularity baseline.
        predictions: hour → predictions of both on it.
        drift_share: share of drifted columns on the last reported day.
        now: hour of the decision, for the candidate's age; default the last hour of ``predictions``.

    Returns:
        The decision; a broken evaluation gives ``refuse``, never an exception and never a promotion.
    """
    last = max(Hour.parse(c.trained_until) for c in (candidate, champion) if c)
    hours = tuple(sorted(h for h in predictions if h > last))[: policy.max_hours]
    keys = tuple(h.key for h in hours)
    if len(hours) < policy.min_hours:
        text = f"{len(hours)} of {policy.min_hours} hours after {last} have been seen."
        return GateDecision("wait", text, candidate, champion, keys)
    age = (now or hours[-1]).number - Hour.parse(candidate.trained_until).number
    if age > policy.max_age_hours:
        text = f"The candidate was trained {age} hours ago, the limit is {policy.max_age_hours}: a newer one takes its place."
        return GateDecision("keep", text, candidate, champion, keys)
    try:
        ours, theirs, slices = _aligned({h: predictions[h] for h in hours})
        z = limit_at(len(hours), policy.max_hours, policy.min_hours, 1 - policy.confidence)
        checks, figures, futile = _checks(policy, _same_variant(candidate, champion), ours, theirs, slices, z)
        hourly = _hourly(hours, predictions)
    except DataError as error:
        return GateDecision("refuse", f"The evaluation is broken: {error}.", candidate, champion, keys)
    verdict, reason = _verdict(policy, candidate, champion, checks, len(hours), futile, drift_share)
    return GateDecision(verdict, reason, candidate, champion, keys, checks, figures, hourly)


def falls_behind(policy: Policy, hourly: Mapping[Hour, Scored]) -> str | None:
    """Why the champion has to go back to its predecessor, or None.

    Args:
        policy: ``rollback_hours`` and the confidence.
        hourly: the last hours, the champion's predictions as ``candidate``, its predecessor's as ``reference``.

    Returns:
        A sentence when the champion's AUC is below its predecessor's in every one of the last
        ``rollback_hours`` hours and the difference over all of them is below 0 beyond doubt, which the confidence says of a day
        of hourly looks together (Bonferroni).
    """
    hours = sorted(hourly)[-policy.rollback_hours :]
    if len(hours) < policy.rollback_hours:
        return None
    try:
        ours, theirs, _ = _aligned({h: hourly[h] for h in hours})
        below = [a < b for a, b in _hourly(tuple(hours), hourly).values()]
    except DataError:
        return None
    gap = auc(ours) - auc(theirs)
    low, high = gap.interval(1 - (1 - policy.confidence) / DAY_HOURS)
    if len(below) == len(hours) and all(below) and high < 0:
        return f"below its predecessor in each of the last {len(hours)} hours: AUC {gap.value:+.4f} [{low:+.4f}, {high:+.4f}]"
    return None


def _same_variant(candidate: ModelVersion, champion: ModelVersion | None) -> bool:
    return champion is not None and candidate.variant == champion.variant


def _aligned(hourly: Mapping[Hour, Scored]) -> tuple[Predictions, Predictions, pa.Table]:
    if any(s.reference is None for s in hourly.values()):
        raise DataError("an hour has no predictions of the champion")
    ours = joined([with_hour(s.candidate, hour) for hour, s in hourly.items()])
    theirs = joined([s.reference for s in hourly.values() if s.reference is not None])
    if ours.num_rows != theirs.num_rows:
        raise DataError("candidate and champion were not scored on the same impressions")
    if ours["event_id"].combine_chunks() != theirs["event_id"].combine_chunks():
        ours, theirs = ours.sort_by("event_id"), theirs.sort_by("event_id")
        if ours["event_id"].combine_chunks() != theirs["event_id"].combine_chunks():
            raise DataError("candidate and champion were not scored on the same impressions")
    candidate = as_predictions(ours)
    pair = candidate, as_predictions(theirs).in_sessions_of(candidate)
    if len(pair[0]) and pair[0].labels.min() == pair[0].labels.max():
        raise DataError("every label of the window is the same, so no ranking can be judged")
    check_paired(*pair)
    return (
        *pair,
        ours.select([c for c in ours.column_names if c in SLICES or c.startswith((FACET, CONTEXT, ATTRIBUTE))]),
    )


def _hourly(hours: tuple[Hour, ...], predictions: Mapping[Hour, Scored]) -> dict[str, tuple[float, float]]:
    aucs = {}
    for hour in hours:
        scored = predictions[hour]
        if scored.reference is not None and scored.candidate.num_rows:
            pair = auc(as_predictions(scored.candidate)).value, auc(as_predictions(scored.reference)).value
            if not np.isnan(pair[0]):
                aucs[hour.key] = pair
    return aucs


def _checks(
    policy: Policy, same_variant: bool, ours: Predictions, theirs: Predictions, slices: pa.Table, z: float
) -> tuple[tuple[GateCheck, ...], GateFigures, bool]:
    users = int(np.count_nonzero(~np.isnan(user_aucs(ours)[0])))
    error, ratio = calibration_error(ours), calibration_ratio(ours).value
    low_ratio, high_ratio = policy.calibration.ratio
    checks = [
        GateCheck("samples", len(ours) >= policy.min_samples, len(ours), policy.min_samples),
        GateCheck("users", users >= policy.min_users, users, policy.min_users),
        GateCheck("calibration_error", error <= policy.calibration.max_error, error, policy.calibration.max_error),
        GateCheck(
            "predicted_over_observed", low_ratio <= ratio <= high_ratio, ratio, high_ratio if ratio > 1 else low_ratio
        ),
    ]
    sides = [{name: METRICS[name](side) for name in (*JUDGED, "logloss")} for side in (ours, theirs)]
    candidate, reference = (_side_figures(side, len(ours)) for side in sides)
    differences: dict[str, DifferenceFigures] = {}
    margins = policy.same_variant if same_variant else policy.another_variant
    futile = False
    for name in JUDGED:
        gap, margin = sides[0][name] - sides[1][name], margins.of(name)
        low, high = gap.value - z * gap.standard_error, gap.value + z * gap.standard_error
        if name != "session_auc" or not np.isnan(gap.value):
            differences[name] = DifferenceFigures(gap.value, [low, high], gap.p_value())
        if margin is not None:
            futile |= bool(high < margin)
            checks.append(GateCheck(f"{name}_difference", bool(low > margin), gap.value, margin, (low, high)))
    for rule in policy.guardrails:
        for column in _sliced_by(rule, slices.column_names):
            checks += _guard(rule, column, ours, theirs, slices[column], policy.confidence)
    figures = GateFigures(
        candidate, reference, z, differences["auc"], differences["uauc"], differences.get("session_auc")
    )
    return tuple(checks), figures, futile


def _side_figures(estimates: Mapping[str, Estimate], samples: int) -> SideFigures:
    session_auc = finite(estimates["session_auc"].value)
    values = {name: estimates[name].value for name in ("auc", "uauc", "logloss")}
    return SideFigures(**values, samples=samples, session_auc=session_auc)


def _sliced_by(rule: Guardrail, columns: list[str]) -> list[str]:
    """The columns that a guardrail looks at; one that the predictions lack breaks the evaluation."""
    if rule.by == EVERY_FACET:
        return [c for c in columns if c.startswith(FACET)]
    if rule.by not in columns:
        raise DataError(
            f"a guardrail slices by {rule.by}, the predictions have {', '.join(columns) or 'nothing to slice by'}"
        )
    return [rule.by]


def _guard(
    rule: Guardrail, by: str, ours: Predictions, theirs: Predictions, values: pa.ChunkedArray, confidence: float
) -> list[GateCheck]:
    """Each large enough slice of the column ``by``; one fails when its difference lies below −max_drop beyond doubt.

    Of a slice of one user's nobody knows the error: it is not judged.
    """
    encoded: Any = pc.dictionary_encode(values.combine_chunks())
    codes, labels = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()
    sizes = np.bincount(codes[codes >= 0], minlength=len(labels))
    large = sorted((label, code) for code, label in enumerate(labels) if sizes[code] >= rule.min_samples)
    if not large:
        return []
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2 / len(large))
    place = np.full(len(labels) + 1, -1)
    place[[code for _, code in large]] = np.arange(len(large))
    groups = place[codes]  # of nulls the last
    rows = np.flatnonzero(groups >= 0)
    checks = []
    for (label, _), gap, error in zip(
        large, *_slice_gaps(rule, ours, theirs, rows, groups[rows], len(large)), strict=True
    ):
        if not np.isnan(error):
            low, high = float(gap - z * error), float(gap + z * error)
            name = (
                f"{rule.metric} where {by.removeprefix(FACET).removeprefix(CONTEXT).removeprefix(ATTRIBUTE)} = {label}"
            )
            checks.append(GateCheck(name, bool(high >= -rule.max_drop), float(gap), -rule.max_drop, (low, high)))
    return checks


def _slice_gaps(
    rule: Guardrail, ours: Predictions, theirs: Predictions, rows: np.ndarray, groups: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The difference of a guardrail's metric in each of ``count`` groups of rows, and its standard error, shape (count,)."""
    if rule.metric == "auc":
        return auc_gaps(ours, theirs, rows, groups, count)
    metric, order = METRICS[rule.metric], rows[np.argsort(groups, kind="stable")]
    gaps = [
        metric(ours.some(part)) - metric(theirs.some(part))
        for part in np.split(order, np.cumsum(np.bincount(groups, minlength=count))[:-1])
    ]
    return np.array([gap.value for gap in gaps]), np.array([gap.standard_error for gap in gaps])


def _verdict(
    policy: Policy,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    checks: tuple[GateCheck, ...],
    hours: int,
    futile: bool,
    drift_share: float | None,
) -> tuple[Verdict, str]:
    failed = [c for c in checks if not c.passed]
    sentence = _sentence(candidate, champion, checks, failed)
    over = hours >= policy.max_hours
    if failed:
        small = [c for c in failed if c.name in {"samples", "users"}]
        if small:
            text = f"Only {small[0].value:.0f} {small[0].name} of the {small[0].limit:.0f} that the policy wants."
            return ("keep" if over else "wait"), text
        undecided = all(c.name in DIFFERENCES for c in failed) and not futile
        return ("wait" if undecided and not over else "keep"), sentence
    if drift_share is not None and drift_share > policy.max_drift_share:
        return (
            "needs_person",
            f"{sentence} But {drift_share:.0%} of the columns drifted (limit {policy.max_drift_share:.0%}).",
        )
    if policy.require_approval:
        return "needs_person", f"{sentence} The policy wants a person's approval."
    return "promote", sentence


def _sentence(
    candidate: ModelVersion, champion: ModelVersion | None, checks: tuple[GateCheck, ...], failed: list[GateCheck]
) -> str:
    who = f"{candidate.variant} (version {candidate.version})"
    reference = f"{champion.variant} (version {champion.version})" if champion else "the popularity baseline"
    gaps = ", ".join(
        f"{DIFFERENCES[c.name]} {c.value:+.4f} [{c.interval[0]:+.4f}, {c.interval[1]:+.4f}]"
        for c in checks
        if c.interval is not None and c.name in DIFFERENCES
    )
    if not failed:
        return f"{who} {'replaces' if champion else 'becomes the first champion, against'} {reference}: {gaps}."
    worst = failed[0]
    if worst.interval and worst.name in DIFFERENCES:
        why = f"for {worst.name.replace('_', ' ')} the lower end {worst.interval[0]:+.4f} is not above the limit {worst.limit:g}"
    else:
        why = f"{worst.name.replace('_', ' ')} is {worst.value:.4f}, limit {worst.limit:g}"
    return f"{who} does not pass against {reference}: {gaps}; {why}."

"""Whether an experiment's data can be trusted, before anybody looks at an effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import chdtrc

from ab_analysis.inference import MetricSpec, compare
from ab_analysis.moments import Cells
from ab_analysis.multiplicity import adjust
from core.sql_engine import Engine

if TYPE_CHECKING:  # a plain table needs no experiment file
    from ab_analysis.changes import RegisteredExperiment
    from ab_analysis.experiment import Experiment
    from ab_analysis.experiment_plan import ExperimentPlan
    from ab_analysis.user_table import Counts

ALARM = 0.001
"""A p-value of a randomization check below this means that assignment or logging is broken (Fabijan et al. 2019,
doi:10.1145/3292500.3330722). It is this low because a report looks every day, and at each look a sound experiment may fail;
0.01 is for who looks once."""
CLOSE = 0.01
"""A randomization check that passes with a p-value below this is told apart from one that passes clearly."""
MOST_CROSSED = 0.01
"""If a larger share of users was in two variants, the remaining users are not a random sample."""
SHOWN = 5
MIN_SEGMENT_USERS = 30
"""A segment with fewer users in one of the groups is not tested: its interval would be too optimistic."""


@dataclass(frozen=True)
class ExperimentCheck:
    """One check.

    Attributes:
        level: ``fail``: effects must not be read; ``warn``: read them with this in mind; ``ok``; ``skipped``: the data are
            too few to judge, which is neither good nor bad.
        text: the finding, and what to do.
    """

    name: str
    level: Literal["ok", "skipped", "warn", "fail"]
    text: str
    p_value: float | None = None

    @property
    def warns(self) -> bool:
        """Whether a reader of the effects has to know of it."""
        return self.level in {"warn", "fail"}

    @property
    def state(self) -> Literal["ok", "close", "skipped", "warn", "fail"]:
        """The level as a person is told it: ``close`` is a check that passed, but not clearly."""
        close = self.level == "ok" and self.p_value is not None and self.p_value < CLOSE
        return "close" if close else self.level


def _passed(name: str, p: float, text: str) -> ExperimentCheck:
    """A randomization check that passed, and how clearly."""
    close = f" Close to failing, which it does below {ALARM}: look at it again with more users." if p < CLOSE else ""
    return ExperimentCheck(name, "ok", text + close, p)


def sample_ratio(shares: Mapping[str, float], counts: Mapping[str, int], units: str = "") -> ExperimentCheck:
    """Check that the variants have their planned shares, by Pearson's χ².

    Args:
        shares: variant → planned share; they need not sum to 1.
        counts: variant → assigned users.
        units: what was assigned, if not users.
    """
    total = sum(counts.values())
    expected = [total * share / sum(shares.values()) for share in shares.values()]
    distance = sum((counts[v] - e) ** 2 / e for v, e in zip(shares, expected, strict=True))
    p = float(chdtrc(len(expected) - 1, distance))
    users = ", ".join(f"{v} {counts[v]:,} of {e:,.0f}" for v, e in zip(shares, expected, strict=True))
    users += f" {units}" if units else ""
    if p < ALARM:
        text = (
            f"Sample-ratio mismatch (p = {p:.2g}): {users} expected. Do not read the effects; look for lost or "
            "doubled exposures first."
        )
        return ExperimentCheck("sample ratio", "fail", text, p)
    verdict = "Sample ratio not far from the planned one" if p < CLOSE else "Sample ratio as planned"
    return _passed("sample ratio", p, f"{verdict} (p = {p:.2g}): {users} expected.")


def pre_period(experiment: Experiment, cells: Cells, specs: Iterable[MetricSpec]) -> ExperimentCheck:
    """Check that the variants did not differ before the start (an A/A test); Holm over metrics and variants."""
    p_values = {}
    control = cells.of(variant=experiment.control)
    for t in specs:
        for variant in experiment.treatments:
            effect = compare(t, control, cells.of(variant=variant), experiment.confidence, adjusted=False)
            if effect.known:
                p_values[f"{t.metric} ({variant})"] = effect.p_value
    if not p_values:
        return ExperimentCheck(
            "pre-period", "warn", "No pre-period: nothing is known of the users from before the start."
        )
    adjusted = adjust(p_values, "holm")
    worst = min(adjusted, key=lambda k: adjusted[k])
    p = adjusted[worst]
    if p < ALARM:
        text = (
            f"A/A check failed (p = {p:.2g}, {worst}): the variants differed before the experiment began. The split is "
            "not random, or an earlier experiment still works on it. Do not read the effects."
        )
        return ExperimentCheck("pre-period", "fail", text, p)
    return _passed("pre-period", p, f"The variants did not differ before the start (smallest p = {p:.2g}, {worst}).")


def exposure_days(db: Engine, experiment: Experiment) -> ExperimentCheck:
    """Check that users of all variants arrive on the same days."""
    rows = db.rows("SELECT exposure_day, variant, count(*) FROM users GROUP BY exposure_day, variant")
    days = sorted({r[0] for r in rows})
    counts = {(r[0], r[1]): int(r[2]) for r in rows}
    table = np.array([[counts.get((d, v), 0) for v in experiment.variants] for d in days])
    table = table[table.sum(axis=1) >= 5 * len(experiment.variants)]
    if len(table) < 2 or not table.sum(axis=0).all():
        return ExperimentCheck("exposure", "skipped", "Too few days of arrival to compare.")
    p = _same_shares(table)
    if p < ALARM:
        text = (
            f"Exposure imbalance (p = {p:.2g}): users of the variants arrive on different days. The variants were not "
            "started together, or one of them logs its exposures late."
        )
        return ExperimentCheck("exposure", "fail", text, p)
    return _passed("exposure", p, f"Users of all variants arrive on the same days (p = {p:.2g}).")


def _same_shares(table: np.ndarray) -> float:
    """P-value of "every row has the same shares", shape (rows, columns), by Pearson's χ²."""
    from scipy.stats import chi2_contingency

    return float(chi2_contingency(table).pvalue)


def counted(experiment: Experiment, counts: Counts) -> list[ExperimentCheck]:
    """Checks of who was left out, which hours are missing, and other experiments on the same users."""
    checks = []
    total = sum(counts.assigned.values())
    if counts.crossed:
        level: Literal["warn", "fail"] = "fail" if counts.crossed > MOST_CROSSED * total else "warn"
        text = f"{counts.crossed:,} users were seen in more than one variant and are left out."
        checks.append(ExperimentCheck("users in two variants", level, text))
    else:
        checks.append(ExperimentCheck("users in two variants", "ok", "Nobody was seen in two variants."))
    if counts.unknown:
        text = f"{counts.unknown:,} users met a variant that the experiment file does not have; those exposures are left out."
        checks.append(ExperimentCheck("unknown variants", "warn", text))
    if counts.early:
        text = (
            f"{counts.early:,} users were exposed before the start and are left out: what was measured before the start "
            "is no longer untouched for them. Is 'start' right?"
        )
        checks.append(ExperimentCheck("exposed before start", "warn", text))
    if counts.missing_hours:
        shown = ", ".join(counts.missing_hours[:SHOWN]) + (", …" if len(counts.missing_hours) > SHOWN else "")
        text = f"{len(counts.missing_hours)} hours are missing from the log: {shown}. Ingest or close them."
        checks.append(ExperimentCheck("missing hours", "warn", text))
    analyzed = sum(counts.analyzed.values())
    if experiment.trigger or experiment.population:
        table = np.array([[counts.analyzed[v], counts.assigned[v] - counts.analyzed[v]] for v in experiment.variants])
        share = analyzed / total if total else 0.0
        p = _same_shares(table) if table.sum(axis=0).all() else 1.0
        if p < ALARM:
            text = (
                f"The share of users in the analysis differs between the variants (p = {p:.2g}): the treatment changes who "
                "is triggered, and the compared users are not alike."
            )
            checks.append(ExperimentCheck("trigger", "fail", text, p))
        else:
            text = (
                f"{share:.1%} of the assigned users are in the analysis (trigger, population). Over all assigned users an "
                f"effect is diluted to about {share:.1%} of what is shown."
            )
            checks.append(ExperimentCheck("trigger", "warn" if share < 1 else "ok", text, p))
    return checks + _other_experiments(experiment, counts)


def _other_experiments(experiment: Experiment, counts: Counts) -> list[ExperimentCheck]:
    checks = []
    if counts.met_by_held_out:
        listed = ", ".join(f"{other} ({users:,})" for other, users in counts.met_by_held_out.items())
        text = f"Users who are held out met other experiments: {listed}. The effect of all together is diluted by them."
        checks.append(ExperimentCheck("held out", "warn", text))
    elif experiment.holdout:
        checks.append(ExperimentCheck("held out", "ok", f"Nobody of '{experiment.control}' met another experiment."))
    for other, p in counts.others.items():
        if p < ALARM:
            text = (
                f"Carry-over: the variants of '{other}' are spread unevenly over this experiment's (p = {p:.2g}). Put both "
                "into one layer, or give this one a new salt."
            )
            checks.append(ExperimentCheck("other experiments", "warn", text, p))
    return checks


def looks(experiment: Experiment, counts: Counts, *, allowed: bool) -> ExperimentCheck:
    """Check that the stopping rule allows a look now."""
    if allowed:
        return ExperimentCheck("looks", "ok", f"A look that was planned: {_rule(experiment)}.")
    if experiment.stopping.rule == "fixed":
        end = f"the end ({experiment.end})" if experiment.end else "the end, which the file does not give"
        text = f"An early look. With one look planned, the result may be read at {end} only; until then a difference is noise."
        return ExperimentCheck("looks", "warn", text)
    days = experiment.stopping.first_look_days
    after = "1 day" if days == 1 else f"{days} days"
    return ExperimentCheck(
        "looks", "warn", f"An early look: the first one is planned {after} after the start. ({counts.until})"
    )


def _rule(experiment: Experiment) -> str:
    return {
        "fixed": "one look at the end",
        "always_valid": "always-valid confidence sequence",
        "group_sequential": "group-sequential plan, O'Brien-Fleming spending",
    }[experiment.stopping.rule]


def edited(registered: RegisteredExperiment | None, experiment: Experiment) -> list[ExperimentCheck]:
    """Check that the experiment file was not changed after the first report."""
    if registered is None or registered.digest == experiment.digest:
        return []
    changed = ", ".join(registered.changed_keys(experiment))
    text = f"The experiment file was edited after the start: {changed} changed. What was planned is not what is shown."
    return [ExperimentCheck("edited after start", "warn", text)]


def nothing_to_adjust(plan: ExperimentPlan, has_pre: Mapping[str, bool]) -> list[ExperimentCheck]:
    """Name the metrics whose users have no pre-period, so that nothing can be adjusted by it."""
    missing = [m for m in plan.experiment.tested_metrics if has_pre.get(m) is False]
    if not missing:
        return []
    return [ExperimentCheck("covariates", "warn", f"No pre-period for {', '.join(missing)}: shown without CUPED.")]


@dataclass(frozen=True)
class UntestedSegment:
    """A segment without a result: too few users, or (if ``metric`` is set) a metric that cannot be tested."""

    segment: str
    value: str | None
    variant: str
    n_control: int
    n_treatment: int
    metric: str | None = None


def untested_segments(
    segments: Iterable[UntestedSegment], level: Literal["ok", "warn"] = "warn"
) -> list[ExperimentCheck]:
    """List the segments that are not in the results, with the reason."""
    parts = [
        f"{s.segment} = {'(no value)' if s.value is None else s.value} ({s.n_control:,} and {s.n_treatment:,} users of the "
        f"control and '{s.variant}'{f': {s.metric} cannot be compared by a lift' if s.metric else ''})"
        for s in segments
    ]
    if not parts:
        return []
    text = f"Not tested, for fewer than {MIN_SEGMENT_USERS} users on a side unless another reason is given: {'; '.join(parts)}."
    return [ExperimentCheck("segments", level, text)]


def withheld_lifts(metrics: Sequence[str]) -> list[ExperimentCheck]:
    """List the metrics whose lift is not shown."""
    if not metrics:
        return []
    text = (
        f"No lift is given for {', '.join(metrics)}: the control's value may be 0, and a share of it would mean nothing. "
        "Read the effect in the metric's own unit."
    )
    return [ExperimentCheck("lift withheld", "warn", text)]

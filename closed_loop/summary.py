"""The summary of a closed loop: which A/B intervals cover the truth, and the lines that a person reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from core.documents import JsonObject

if TYPE_CHECKING:
    from ab_analysis.report_file import ReportedResult
    from closed_loop.truth import TrueEffect
    from evaluation.metrics import MetricValue


@dataclass(frozen=True)
class Traffic:
    """How the slates were ranked.

    Attributes:
        over_http: by the service, else in this process.
        answers: ``ok``, ``degraded`` or the status of a refusal → how many.
        versions_served: number of model versions that ranked.
    """

    over_http: bool
    answers: dict[str, int]
    versions_served: int


@dataclass(frozen=True)
class Estimate:
    """The A/B estimate of an arm's relative effect on a metric, with its 95 % interval."""

    method: str
    rel_effect: float
    rel_effect_ci: tuple[float, float]
    p_value: float | None

    @classmethod
    def of(cls, row: ReportedResult) -> Estimate:
        """The estimate of a report's headline row, whose lift is known."""
        assert row.lift is not None
        return cls(row.method, row.lift.effect, (row.lift.low, row.lift.high), row.p_value)


@dataclass(frozen=True)
class LoopSummary:
    """Offline gain, A/B estimate and truth of every arm.

    Attributes:
        arms: names of the variants, the control first.
        hours: keys of the experiment's first hour and of the hour after its last one.
        users: simulated.
        offline: arm → metric → value on its progressive predictions.
        ab: arm → metric → estimate; the control has none.
        sentence: the report's decision.
        truth: arm → metric → true effect; empty where it was not simulated.
        report: path of the A/B report's page, None where nobody was exposed.
        command: runs it again.
        version: of the platform that ran it.
    """

    arms: tuple[str, ...]
    hours: tuple[str, str]
    users: int
    traffic: Traffic
    offline: dict[str, dict[str, MetricValue]]
    ab: dict[str, dict[str, Estimate]]
    sentence: str
    truth: dict[str, dict[str, TrueEffect]]
    report: str | None
    command: str
    version: str

    def true_lift(self, arm: str, metric: str) -> float | None:
        """The true relative effect of an arm on a metric, None where it was not simulated."""
        effect = self.truth.get(arm, {}).get(metric)
        return effect["rel_effect"] if effect else None

    def covers_truth(self, arm: str, metric: str) -> bool | None:
        """Whether the A/B interval covers the truth, None where one of the two is unknown."""
        estimate, truth = self.ab.get(arm, {}).get(metric), self.true_lift(arm, metric)
        if estimate is None or truth is None:
            return None
        low, high = estimate.rel_effect_ci
        return bool(low <= truth <= high)

    def as_json(self) -> JsonObject:
        """The content of ``summary.json``; ``covered`` holds, by arm and metric, whether the interval covers the truth."""
        covered = {
            arm: {metric: known for metric in metrics if (known := self.covers_truth(arm, metric)) is not None}
            for arm, metrics in self.ab.items()
        }
        return {**asdict(self), "covered": {arm: metrics for arm, metrics in covered.items() if metrics}}


def describe(summary: LoopSummary, page: str) -> str:
    """The lines that a person reads at the end of a closed loop.

    Args:
        summary: of the loop.
        page: path of its page.
    """
    slates = sum(count for answer, count in summary.traffic.answers.items() if answer in {"ok", "degraded"})
    lines = [
        "",
        f"Closed loop {summary.hours[0]} to {summary.hours[1]}: {summary.users} users, {slates:,} slates ranked, "
        f"{summary.traffic.versions_served} model versions served.",
        summary.sentence, "",
        f"{'arm':<16} {'AUC':>7} {'UAUC':>7}  {'metric':<16} {'A/B estimate and 95 % interval':<34} {'truth':>8}",
    ]  # fmt: skip
    for arm in summary.arms:
        offline = summary.offline[arm]
        head = f"{arm:<16} {offline['auc'].value:>7.4f} {offline['uauc'].value:>7.4f}"
        if arm == summary.arms[0]:
            lines.append(f"{head}  (control)")
        for metric, row in summary.ab.get(arm, {}).items():
            truth = summary.true_lift(arm, metric)
            if truth is not None:
                low, high = row.rel_effect_ci
                estimate = f"{row.rel_effect:+.2%} [{low:+.2%}, {high:+.2%}]"
                lines.append(f"{head}  {metric:<16} {estimate:<34} {truth:>+8.2%}")
                head = " " * len(head)
    return "\n".join([*lines, "", f"Page      {page}", f"A/B       {summary.report}"])

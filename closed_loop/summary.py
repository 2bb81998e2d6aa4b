"""The summary of a closed loop: which A/B intervals cover the truth, and the lines that a person reads."""

from __future__ import annotations

from typing import Any


def covered_truths(summary: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """Arm → metric → whether the A/B interval covers the truth."""
    covered: dict[str, dict[str, bool]] = {}
    for arm, metrics in summary["ab"].items():
        for metric, row in metrics.items():
            truth = summary["truth"].get(arm, {}).get(metric)
            if truth:
                low, high = row["rel_effect_ci"]
                covered.setdefault(arm, {})[metric] = bool(low <= truth["rel_effect"] <= high)
    return covered


def describe(summary: dict[str, Any]) -> str:
    """The lines that a person reads at the end of a closed loop."""
    control = summary["arms"][0]
    lines = [
        "",
        f"Closed loop {summary['hours'][0]} to {summary['hours'][1]}: {summary['users']} users, "
        f"{sum(v for k, v in summary['traffic']['answers'].items() if k in {'ok', 'degraded'}):,} slates ranked, "
        f"{summary['traffic']['versions_served']} model versions served.",
        summary["sentence"], "",
        f"{'arm':<16} {'AUC':>7} {'UAUC':>7}  {'metric':<16} {'A/B estimate and 95 % interval':<34} {'truth':>8}",
    ]  # fmt: skip
    for arm in summary["arms"]:
        offline = summary["offline"][arm]
        head = f"{arm:<16} {offline['auc']['value']:>7.4f} {offline['uauc']['value']:>7.4f}"
        if arm == control:
            lines.append(f"{head}  (control)")
        for metric, row in summary["ab"].get(arm, {}).items():
            truth = summary["truth"].get(arm, {}).get(metric)
            if truth:
                low, high = row["rel_effect_ci"]
                estimate = f"{row['rel_effect']:+.2%} [{low:+.2%}, {high:+.2%}]"
                lines.append(f"{head}  {metric:<16} {estimate:<34} {truth['rel_effect']:>+8.2%}")
                head = " " * len(head)
    return "\n".join([*lines, "", f"Page      {summary['page']}", f"A/B       {summary['report']}"])

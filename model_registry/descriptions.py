"""What MLflow says of a version in a few lines: what it is, what the gate decided, and where its pages are."""

from __future__ import annotations

from dataclasses import dataclass

from core.documents import one_line
from core.hours import Hour
from core.settings import Settings

LONGEST_TAG = 200
"""Characters of a reason in a tag; the whole of it is in the description and in the audit trail."""


@dataclass(frozen=True)
class GateNote:
    """What the gate decided of a version.

    Attributes:
        hour: of the decision.
        verdict: of it.
        reason: its sentence.
    """

    hour: Hour
    verdict: str
    reason: str


def describe_version(settings: Settings, variant: str, trained_until: str, gate: GateNote | None = None) -> str:
    """The description of a version, as Markdown.

    Args:
        settings: say where the pages are.
        variant: time module of the ranker.
        trained_until: key of the last hour that it was trained on.
        gate: the last decision on it; None before the first one.
    """
    lines = [f"Ranker of **{settings.source}** with the time module `{variant}`, trained until {trained_until} UTC."]
    if gate is None:
        lines.append("The gate has not judged it yet.")
    else:
        page = settings.page_url(settings.reports_dir / "gate" / f"{gate.hour.key}.html")
        lines.append(f"Gate at {gate.hour}: **{gate.verdict.replace('_', ' ')}**. {gate.reason} [The decision]({page})")
    lines.append(f"[All versions, promotions and drift]({settings.page_url(settings.reports_dir / 'model.html')})")
    return "\n\n".join(lines)


def short_reason(reason: str) -> str:
    """A reason as a tag."""
    return one_line(reason, LONGEST_TAG)

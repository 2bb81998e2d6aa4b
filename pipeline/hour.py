"""One hour without Airflow: the same steps that the hourly DAGs run, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.hours import Hour
from core.settings import Settings
from pipeline.experiments import ExperimentLook, watch_experiments
from pipeline.promotion import apply_decision, evaluate_candidate, watch_champion
from pipeline.source import ingest_hour
from pipeline.training import train_hour
from training.config import check_variants

if TYPE_CHECKING:
    from feature_repo.materialization import Advanced


@dataclass(frozen=True)
class HourSummary:
    """What an hour led to.

    Attributes:
        kept: events.
        clocks: how they came to its end.
        trained: variant → digest of its state.
        verdict: of the gate, with its ``reason``.
        experiments: that serve, as they were seen.
        moves: of the aliases, in words.
    """

    kept: int
    clocks: Advanced
    trained: dict[str, str]
    verdict: str
    reason: str
    experiments: list[ExperimentLook]
    moves: list[str]


def run_hour(settings: Settings, hour: Hour) -> HourSummary:
    """Ingest an hour, refresh the clocks, train, and let the gate decide. Running it again changes nothing."""
    from feature_repo.materialization import advance

    check_variants(settings)
    account = ingest_hour(settings, hour)
    clocks = advance(settings, hour + 1)
    trained = train_hour(settings, hour)
    back = watch_champion(settings, hour)
    decision = evaluate_candidate(settings, hour)
    moves = apply_decision(settings, hour, decision)
    looks = watch_experiments(settings, hour)
    return HourSummary(
        kept=account.kept,
        clocks=clocks,
        trained={each.variant: each.digest for each in trained},
        verdict=decision.verdict,
        reason=decision.reason,
        experiments=looks,
        moves=[f"{m.alias} → version {m.version}" for m in [*([back] if back else []), *moves]],
    )

"""One hour without Airflow: the same steps that the hourly DAGs run, in their order."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from core.hours import Hour
from core.settings import Settings
from pipeline.experiments import watch_experiments
from pipeline.promotion import apply_decision, evaluate_candidate, watch_champion
from pipeline.source import ingest_hour
from pipeline.training import train_hour


def run_hour(settings: Settings, hour: Hour) -> dict[str, Any]:
    """Ingest an hour, refresh the clocks, train, and let the gate decide. Running it again changes nothing."""
    from feature_repo.retrieval import advance

    account = ingest_hour(settings, hour)
    clocks = advance(settings, hour + 1)
    trained = train_hour(settings, hour)
    decision = evaluate_candidate(settings, hour)
    moves = apply_decision(settings, hour, decision)
    back = watch_champion(settings, hour)
    looks = watch_experiments(settings, hour)
    return {
        "kept": account.kept,
        "clocks": asdict(clocks),
        "trained": {each.variant: each.digest for each in trained},
        "verdict": decision.verdict,
        "reason": decision.reason,
        "experiments": looks,
        "moves": [f"{m.alias} → version {m.version}" for m in [*moves, *([back] if back else [])]],
    }

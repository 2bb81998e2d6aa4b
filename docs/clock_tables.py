"""Tables of the studies of the clock and of what is minutes old.

Functions with ``source`` write the table of one source; a log of positives only was compared with each kind of negatives.
"""

from __future__ import annotations

from pathlib import Path

from docs.markdown import table
from docs.study_results import (
    by_module,
    by_negatives,
    captioned,
    contents_of,
    logs_of,
    natural,
    parts_of,
    signed,
    words,
)

PAPER, SHRUNK = "gaussian_clock", "gaussian clock, thin slots borrow"


def streaming_table(source: str, var: Path) -> str | None:
    """How AUC changes as a ranker ages, and by order of training, by time module."""
    rows = [
        [
            parts_of(title, source)[0],
            words(module),
            signed(log["swing"][module]),
            signed(log["streaming less daily"][module]),
        ]
        for title, log in logs_of(var, "streaming_vs_daily", source).items()
        for module in by_module(log["swing"])
    ]
    columns = ["time module", "a day old less 12 h old", "trained by the hour less by the shuffled day"]
    return captioned(by_negatives(columns, rows), contents_of(var, "streaming_vs_daily", source)) if rows else None


def settings_table(study: str, source: str, var: Path) -> str | None:
    """Differences in AUC from the base setting, one row per setting and one column per ranker."""
    rankers: dict[str, None] = {}
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for title, log in logs_of(var, study, source).items():
        negatives, ranker = parts_of(title, source)
        ranker = ranker or "difference in AUC"  # of a study of one ranker
        rankers[ranker] = None
        for setting, metrics in log["gaps"].items():
            rows.setdefault((negatives, setting), {})[ranker] = signed(metrics["auc"])
    if not rows:
        return None
    lines = [
        [*place, *(by_ranker.get(r, "") for r in rankers)]
        for place, by_ranker in sorted(rows.items(), key=lambda row: (row[0][0], natural(row[0][1])))
    ]
    return captioned(by_negatives(["setting", *rankers], lines), contents_of(var, study, source))


def slices_table(study: str, source: str, var: Path) -> str | None:
    """Gains in AUC by slice, and the AUC of the paper's clock, with thin slots that borrow where the study has them."""
    rows, columns = [], ["slice"]
    for title, log in logs_of(var, study, source).items():
        shown = [module for module in (PAPER, SHRUNK) if module in log["values"]]
        columns = ["slice", *log["gains"], *(f"AUC, {words(module)}" for module in shown)]
        rows += [
            [
                parts_of(title, source)[0],
                part,
                *(signed(gain[part]) for gain in log["gains"].values()),
                *(f"{log['values'][module][part]['value']:.4f}" for module in shown),
            ]
            for part in sorted(next(iter(log["gains"].values())), key=natural)
        ]
    return captioned(by_negatives(columns, rows), contents_of(var, study, source)) if rows else None


def freshness_table(var: Path) -> str | None:
    """What features that are minutes old add, by module and metric."""
    logs = logs_of(var, "freshness")
    if not logs:
        return None
    rows = [
        [title, words(variant), name, *(signed(metrics[m]) for m in ("auc", "session_auc"))]
        for title, by_variant in logs.items()
        for variant, content in by_variant.items()
        for name, metrics in content["gaps"].items()
    ]
    columns = ["log", "module", "features", "AUC", "AUC within a user's 5 minutes"]
    return captioned(table(columns, rows), contents_of(var, "freshness"))


def parameters_table(var: Path) -> str | None:
    """What parameters that were trained within the hour add, by module and pace."""
    logs = logs_of(var, "parameters")
    if not logs:
        return None
    rows = [
        [title, words(variant), name, *(signed(metrics[m]) for m in ("auc", "logloss", "uauc"))]
        for title, content in logs.items()
        for variant, by_pace in content["gaps"].items()
        for name, metrics in by_pace.items()
    ]
    columns = ["log", "module", "trained", "AUC", "log-loss", "UAUC"]
    return captioned(table(columns, rows), contents_of(var, "parameters"))


def parameters_age_table(var: Path) -> str | None:
    """How far states are bent to their last hour, and what the running hour brings to a version that is a day old, in AUC."""
    logs = logs_of(var, "parameters")
    if not logs:
        return None
    rows = [
        [title, words(variant), *map(signed, bent.values()), signed(content["a day old"][variant]["auc"])]
        for title, content in logs.items()
        for variant, bent in content["swing"].items()
    ]
    names = next(iter(logs.values()))["swing"]["none"]
    columns = ["log", "module", *(f"bent, {name}" for name in names), "the running hour to a version a day old"]
    return captioned(table(columns, rows), contents_of(var, "parameters"))

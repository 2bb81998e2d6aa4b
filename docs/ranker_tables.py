"""Tables of the studies that compare rankers."""

from __future__ import annotations

import re
from pathlib import Path

from docs.markdown import table
from docs.study_results import bold_ours, by_module, by_negatives, captioned, contents_of, logs_of, parts_of, signed
from studies.chosen_options import COMPARED

OURS_LESS = ("auc", "session_auc")
METRICS = {"auc": "AUC", "uauc": "UAUC", "session_auc": "session AUC", "logloss": "log-loss"}


def variants_table(source: str, var: Path) -> str | None:
    """The metrics of each time module on a source's logs."""
    logs = logs_of(var, "variants", source)
    rows = [
        [parts_of(title, source)[0], bold_ours(name), *(f"{of[m]['value']:.4f}" for m in METRICS)]
        for title, log in logs.items()
        for name, of in by_module(log["values"]).items()
    ]
    columns = ["time module", *METRICS.values()]
    return captioned(by_negatives(columns, rows), contents_of(var, "variants", source)) if rows else None


def variant_differences_table(source: str, var: Path) -> str | None:
    """Differences in AUC and session AUC that the study ``variants`` is about."""
    pairs = [("gaussian_clock", other) for other in ("none", "naive_clock", "hour_embedding")]
    pairs += [("matched_clock", other) for other in ("gaussian_clock", "hour_embedding")]
    pairs += [("hour_embedding", "none")]
    rows = [
        [parts_of(title, source)[0], f"{a} less {b}", *(signed(log[f"{a} less"][b][m]) for m in OURS_LESS)]
        for title, log in logs_of(var, "variants", source).items()
        for a, b in pairs
        if f"{a} less" in log
    ]
    columns = ["difference", *(METRICS[m] for m in OURS_LESS)]
    return captioned(by_negatives(columns, rows), contents_of(var, "variants", source)) if rows else None


def baselines_table(source: str, var: Path) -> str | None:
    """Gains in AUC from a clock, by ranker."""
    logs = logs_of(var, "baselines", source)
    rows = [
        [parts_of(title, source)[0], ranker, *(signed(by_ranker[ranker]["auc"]) for by_ranker in log["gains"].values())]
        for title, log in logs.items()
        for ranker in next(iter(log["gains"].values()))
    ]
    columns = ["ranker", *next((log["gains"] for log in logs.values()), ())]
    return captioned(by_negatives(columns, rows), contents_of(var, "baselines", source)) if rows else None


def peers_table(var: Path) -> str | None:
    """Every ranker of the study ``peers``: its metrics, and how far our best is from it."""
    rows = []
    for title, log in logs_of(var, "peers").items():
        less = log["best_less"]
        rows += [
            [
                title,
                name.replace("_", " "),
                *(f"{of[m]['value']:.4f}" for m in METRICS),
                *(signed(less[name][m]) if name in less else "" for m in OURS_LESS),
            ]
            for name, of in log["values"].items()
        ]
    columns = ["log", "ranker", *METRICS.values(), *(f"our best less it, {METRICS[m]}" for m in OURS_LESS)]
    return captioned(table(columns, rows), contents_of(var, "peers")) if rows else None


def features_table(var: Path) -> str | None:
    """What AUC and session AUC lose without each group of features, the most important first."""
    rows = [
        [title, name, *(signed(of[m]) for m in OURS_LESS)]
        for title, log in logs_of(var, "features").items()
        for name, of in sorted(log["gaps"].items(), key=lambda gap: gap[1]["auc"]["value"])
    ]
    columns = ["log", "", *(f"difference in {METRICS[m]}" for m in OURS_LESS)]
    return captioned(table(columns, rows), contents_of(var, "features")) if rows else None


def options_table(study: str, var: Path) -> str | None:
    """Differences in AUC and session AUC of each option that a study compares with the default."""
    rows = []
    for title, log in logs_of(var, study).items():
        for name, of in sorted(log["values"].items(), key=_by_numbers):
            less = log["gaps"].get(name)
            differences = [signed(less[m]) if less else "" for m in OURS_LESS]
            rows.append([title, name, *(f"{of[m]['value']:.4f}" for m in OURS_LESS), *differences])
    titles = [METRICS[m] for m in OURS_LESS]
    columns = ["log, time module", "", *titles, *(f"difference in {title}" for title in titles)]
    return captioned(table(columns, rows), contents_of(var, study)) if rows else None


def _by_numbers(named: tuple[str, object]) -> list[float]:
    """Order of options by the numbers in their names; the default has none and comes first."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", named[0])]


def admission_rows_table(var: Path) -> str | None:
    """Rows and memory of the tables of ids, by the sightings after which an id has a row."""
    rows = [
        [title, name, f"{of['users']:,}", f"{of['items']:,}", f"{of['memory'] / 1e6:.2f}", f"{of['filter'] / 1e6:.1f}"]
        for content in contents_of(var, "admission")
        for title, log in content["extra"].items()
        for name, of in sorted(log.items(), key=_by_numbers)
    ]
    columns = ["log", "", "users with a row", "items with a row", "their memory, MB", "the filters' cells, MB"]
    return table(columns, rows) if rows else None


def chosen_options_table(study: str, chosen_by: tuple[str, ...], var: Path) -> str | None:
    """Options of the ranker: some metrics where one was chosen, which is in bold, and all on the days that are reported."""
    rows = [
        [
            title,
            f"**{name}**" if name == log.get("best") else name,
            *(signed(log["gaps"]["chosen"][name][m]) for m in chosen_by),
            *(signed(of[m]) for m in COMPARED),
        ]
        for title, log in logs_of(var, study).items()
        for name, of in sorted(log["gaps"]["reported"].items(), key=_by_numbers)
    ]
    tried, told = (f"chosen: {METRICS[m]}" for m in chosen_by), (f"reported: {METRICS[m]}" for m in COMPARED)
    columns = ["log, time module", "option", *tried, *told]
    return captioned(table(columns, rows), contents_of(var, study)) if rows else None

"""Tables of the studies that compare rankers."""

from __future__ import annotations

import re
from pathlib import Path

from core.documents import JsonObject
from docs.markdown import table
from docs.study_results import aucs, bold_ours, captioned, contents_of, differences_by_log, logs_of, signed, words
from studies.averaging import AVERAGED, BASES, DIFFERENCE, MODULES
from studies.base import COMPARED
from studies.weight_averages import AVERAGES, RAW

OURS_LESS = ("auc", "session_auc")
METRICS = {"auc": "AUC", "uauc": "UAUC", "session_auc": "session AUC", "logloss": "log-loss"}


def variants_table(var: Path) -> str | None:
    """The AUCs of each time module on every log that the study ``variants`` has run on."""
    logs = logs_of(var, "variants")
    if not logs:
        return None
    names = list(next(iter(logs.values()))["values"])
    rows = [
        [bold_ours(name), *(aucs(log["values"][name]) for log in logs.values())]
        for name in names
    ]  # fmt: skip
    return captioned(table(["time module", *logs], rows), contents_of(var, "variants"))


def variant_differences_table(var: Path) -> str | None:
    """Differences in AUC that the study ``variants`` is about."""
    logs = logs_of(var, "variants")
    if not logs:
        return None
    pairs = [("gaussian_clock", other) for other in ("none", "naive_clock", "hour_embedding")]
    pairs += [("matched_clock", other) for other in ("gaussian_clock", "hour_embedding")]
    rows = [[f"{a} less {b}", *(signed(log[f"{a} less"][b]["auc"]) for log in logs.values())] for a, b in pairs]
    return captioned(table(["difference", *logs], rows), contents_of(var, "variants"))


def baselines_table(var: Path) -> str | None:
    """Gains in AUC from a clock, by ranker."""
    rows_by_log = {
        title: {f"{ranker}, {gain}": figures["auc"] for gain, rankers in log["gains"].items() for ranker, figures in rankers.items()}
        for title, log in logs_of(var, "baselines").items()
    }  # fmt: skip
    return differences_by_log(var, "baselines", "ranker, gain of", rows_by_log)


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


def base_table(var: Path) -> str | None:
    """Options of the base ranker: AUC where they were chosen, everything on the days that are reported."""
    rows = [
        [title, name, signed(log["gaps"]["chosen"][name]["auc"]), *(signed(of[m]) for m in COMPARED)]
        for title, log in logs_of(var, "base").items()
        for name, of in log["gaps"]["reported"].items()
    ]
    columns = ["log, time module", "option", "chosen: AUC", *(f"reported: {METRICS[m]}" for m in COMPARED)]
    return captioned(table(columns, rows), contents_of(var, "base")) if rows else None


def _averaged(var: Path) -> list[tuple[str, JsonObject]]:
    """What the study ``averaging`` says of each log's bases, by their title."""
    return [
        (f"{title}, {name}", log["bases"][name])
        for title, log in logs_of(var, "averaging").items()
        for name in BASES
        if name in log["bases"]
    ]


def averaging_table(var: Path) -> str | None:
    """What the chosen average changes on the last days."""
    rows = [
        [title, words(m), base["average"], *(signed(base["gaps"][m][metric]) for metric in COMPARED)]
        for title, base in _averaged(var)
        for m in MODULES
        if m in base["gaps"]
    ]
    columns = ["log, base", "module", "half-life", *(METRICS[m] for m in COMPARED)]
    return captioned(table(columns, rows), contents_of(var, "averaging")) if rows else None


def averaging_rate_table(var: Path) -> str | None:
    """What slower steps change on the last days, and what an average adds to that."""
    rows = [
        [title, name, *(signed(of[m]) for m in COMPARED)]
        for title, log in logs_of(var, "averaging").items()
        for name, of in log["rate"].items()
    ]
    columns = ["log", "difference", *(METRICS[m] for m in COMPARED)]
    return captioned(table(columns, rows), contents_of(var, "averaging")) if rows else None


def averaging_modules_table(var: Path) -> str | None:
    """Time modules less none on the last days, by the weights as they are and by the chosen average, in AUC."""
    rows = [
        [title, words(m), *(signed(base["modules"][m][name]["auc"]) for name in (RAW, AVERAGED, DIFFERENCE))]
        for title, base in _averaged(var)
        for m in MODULES
        if m in base["modules"]
    ]
    columns = ["log, base", "module less none", f"weights {RAW}", AVERAGED, DIFFERENCE]
    return captioned(table(columns, rows), contents_of(var, "averaging")) if rows else None


def averaging_tried_table(var: Path) -> str | None:
    """Averages on the days that one is chosen on: differences in AUC and session AUC by time module, the chosen one in bold."""
    rows = [
        [
            title,
            f"**{average.title}**" if average.title == base["average"] else average.title,
            *(_both(base["tried"][m][average.title]) if m in base["tried"] else "" for m in MODULES),
        ]
        for title, base in _averaged(var)
        for average in AVERAGES
    ]
    columns = ["log, base", "half-life", *map(words, MODULES)]
    return captioned(table(columns, rows), contents_of(var, "averaging")) if rows else None


def _both(differences: JsonObject) -> str:
    return " / ".join(f"{differences[m]['value']:+.4f}" for m in OURS_LESS)

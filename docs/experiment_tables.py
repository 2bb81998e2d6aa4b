"""Tables of the studies of A/B statistics, of UAUC and of closed loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.markdown import table
from docs.study_results import captioned, percent, read_results, words
from evaluation.metrics import JUDGED
from studies.uauc import CHECKS, share_text

RULES = {"fixed": "one look, at the end", "naive": "an interval for one look, read every day"}
"""Stopping rules whose names need words."""


def ab_calibration_table(var: Path) -> str | None:
    """Error, coverage and power of each A/B method."""
    study = _study(var, "ab_calibration")
    if study is None:
        return None
    figures = ("type_1", "coverage", "power", "promised")
    rows = [[_method(name), *(_share(m[k]) for k in figures)] for name, m in study["one_look"]["methods"].items()]
    return _study_table(["method", "type-I error", "coverage of 95 %", "power", "power promised"], rows, study)


def ab_model_table(var: Path) -> str | None:
    """CUPAC beside Welch and CUPED, on the same draws."""
    study = _study(var, "ab_calibration")
    if study is None:
        return None
    figures = ("type_1", "coverage", "saved")
    rows = [[_method(name), *(_share(m[k]) for k in figures)] for name, m in study["model"]["methods"].items()]
    return _study_table(["method", "type-I error", "coverage of 95 %", "variance saved"], rows, study)


def ab_looks_table(var: Path) -> str | None:
    """Experiments without an effect that find one on at least one of the daily looks, by stopping rule."""
    study = _study(var, "ab_calibration")
    if study is None:
        return None
    looks = study["daily_looks"]
    rules = next(iter(looks.values()))["false_alarms"]
    rows = []
    for rule in rules:
        rates = [rate for users in looks.values() for rate in users["false_alarms"][rule].values()]
        rows.append([RULES.get(rule, words(rule)), f"{_share(min(rates))} to {_share(max(rates))}"])
    return _study_table(["rule", "detected an effect"], rows, study)


def ab_app_table(var: Path) -> str | None:
    """Coverage and saved variance on simulated apps."""
    study = _study(var, "ab_calibration")
    if study is None:
        return None
    rows = [
        [words(name), *(_share(m["coverage"][k]) for k in ("welch", "cuped")), _share(m["saved"]), _share(m["saved_by_theory"])]
        for name, m in study["app"]["metrics"].items()
    ]  # fmt: skip
    return _study_table(["metric", "coverage, Welch", "coverage, CUPED", "variance saved", "by theory"], rows, study)


def closed_loop_table(var: Path) -> str | None:
    """How often A/B intervals cover the truth of closed loops."""
    study = _study(var, "closed_loop")
    if study is None:
        return None
    metrics = [name for name, value in study.items() if isinstance(value, dict) and "cuped" in value]
    rows = [
        [words(m), *(f"{study[m][k]['covered']} of {study[m][k]['of']}" for k in ("cuped", "welch"))] for m in metrics
    ]
    return _study_table(["metric", "CUPED", "Welch"], rows, study)


def offline_online_table(var: Path) -> str | None:
    """Kendall's τ of rankers' offline with their online order."""
    study = _study(var, "offline_online")
    if study is None:
        return None
    taus = {tuple(name.split(" with ")): sum(t) / len(t) for name, t in study["tau"].items()}
    offline, online = ([*dict.fromkeys(pair[n] for pair in taus)] for n in (0, 1))
    rows = [[a.upper(), *(f"{taus[a, b]:+.2f}" for b in online)] for a in offline]
    return _study_table(["", *(words(name) for name in online)], rows, study)


def offline_online_rankers_table(var: Path) -> str | None:
    """Each ranker's offline metrics and online effects, means over the worlds."""
    study = _study(var, "offline_online")
    if study is None:
        return None
    rows = [
        [
            words(name),
            *(f"{m[k]:.4f}" for k in ("auc", "uauc")),
            *(percent(m[k]) for k in ("duration_hours", "active_days")),
        ]
        for name, m in study["means"].items()
    ]
    return _study_table(
        ["ranker", "AUC", "UAUC", "duration less that of none", "active days less those of none"], rows, study
    )


def uauc_table(var: Path) -> str | None:
    """Metrics of scores whose worth is known, over a week."""
    study = _study(var, "uauc")
    if study is None:
        return None
    rows = [
        [name, *(f"{m[k]['value']:.3f} ({m[k]['interval'][0]:.3f} to {m[k]['interval'][1]:.3f})" for k in JUDGED)]
        for name, m in study["bias"]["7"].items()
    ]
    return _study_table(["score", *JUDGED.values()], rows, study)


def uauc_days_table(var: Path) -> str | None:
    """UAUC of the same scores by the number of days that are evaluated together."""
    study = _study(var, "uauc")
    if study is None:
        return None
    days = sorted(study["bias"], key=int)
    rows = [
        [name, *(f"{study['bias'][d][name]['uauc']['value']:.3f}" for d in days)] for name in study["bias"][days[0]]
    ]
    return _study_table(["score", *("1 day" if d == "1" else f"{d} days" for d in days)], rows, study)


def uauc_gate_table(var: Path) -> str | None:
    """What the gate does with candidates whose worth is known, by what it checks beside AUC."""
    study = _study(var, "uauc")
    if study is None:
        return None
    rows = [
        [title, *(f"{case['truth'][k]:+.3f}" for k in JUDGED), "yes" if case["deserved"] else "no",
         *(share_text(case["promoted"][name], study["replications"]) for name in CHECKS)]
        for title, case in study["gate"].items()
    ]  # fmt: skip
    titles = (*(f"true {title}" for title in JUDGED.values()), "deserves it", *(f"promoted, {name}" for name in CHECKS))
    return _study_table(["candidate", *titles], rows, study)


def loop_effects_table(var: Path) -> str | None:
    """The last closed loop's estimates beside the truth."""
    summary = read_results(var / "loop" / "loop" / "summary.json")
    if summary is None or not summary["truth"]:
        return None
    rows = [
        [arm, words(metric), percent(e["rel_effect"]), f"{percent(e['rel_effect_ci'][0])} to {percent(e['rel_effect_ci'][1])}",
         percent(summary["truth"][arm][metric]["rel_effect"])]
        for arm, metrics in summary["ab"].items()
        for metric, e in metrics.items()
        if metric in summary["truth"][arm]
    ]  # fmt: skip
    return _study_table(["arm", "metric", "A/B estimate", "95 % interval", "truth"], rows, summary)


def loop_offline_table(var: Path) -> str | None:
    """AUC and UAUC of the last closed loop's arms."""
    summary = read_results(var / "loop" / "loop" / "summary.json")
    if summary is None:
        return None
    rows = [[a, *(f"{m[k]['value']:.4f}" for k in ("auc", "uauc"))] for a, m in summary["offline"].items()]
    return _study_table(["arm", "AUC", "UAUC"], rows, summary)


def _study_table(columns: Sequence[str], rows: Sequence[Sequence[str]], study: Mapping[str, Any]) -> str:
    return captioned(table(columns, rows), [study])


def _study(var: Path, name: str) -> Any:
    """Results of a study of the simulated app."""
    return read_results(var / "studies" / name / "results.json")


def _method(name: str) -> str:
    """A method's name as people write it.

    >>> _method("mean, cuped")
    'mean, CUPED'
    """
    return name.replace("cuped", "CUPED").replace("cupac", "CUPAC").replace("welch", "Welch")


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"

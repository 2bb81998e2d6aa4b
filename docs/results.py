"""Rewrite the tables of results from the files that runs write: ``python -m docs.results``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->`` in the README, ``docs/results`` or
``docs/explanation``. It is rewritten
if its file exists and fills every column of the table; otherwise the figures of the last known run stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.growth_chart import FIGURE, GROWTH, PANELS, curves, draw_growth
from core.documents import JsonObject
from core.files import read_json
from core.settings import ROOT, load_settings
from docs.markdown import table
from docs.ranker_tables import (
    admission_rows_table,
    averaging_modules_table,
    averaging_rate_table,
    averaging_table,
    averaging_tried_table,
    base_table,
    baselines_table,
    features_table,
    options_table,
    peers_table,
    variant_differences_table,
    variants_table,
)
from docs.study_results import (
    bold_ours,
    captioned,
    contents_of,
    differences_by_log,
    logs_of,
    read_results,
    signed,
    words,
)
from evaluation.metrics import JUDGED
from studies.uauc import CHECKS, share_text

MARKED = re.compile(r"(<!-- table: (?P<name>[a-z0-9_-]+) -->\n)(?P<body>.*?)(<!-- end table -->)", re.DOTALL)


def main() -> None:
    """Rewrite what can be rewritten, and say which tables were."""
    var = load_settings().var
    results = var / "bench" / "results.json"
    drawn = curves(results).keys()
    if all(panel.benches.keys() & drawn for panel in PANELS):  # as of a table, not less than the page has
        draw_growth(results, ROOT / "docs" / "assets" / "growth.svg")
    written = {name: text for name, build in TABLES.items() if (text := build(var))}
    changed = set()
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = rewrite(before, written)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.add(path.relative_to(ROOT).as_posix())
    print(f"tables from {var}: {', '.join(written) or 'none'}; changed: {', '.join(sorted(changed)) or 'nothing'}")


def pages() -> list[Path]:
    """Pages that may hold tables of results."""
    folders = [ROOT / "docs" / name for name in ("results", "explanation")]
    return [ROOT / "README.md", *(page for folder in folders for page in sorted(folder.glob("*.md")))]


def rewrite(text: str, tables: dict[str, str]) -> str:
    r"""Put tables between their markers.

    Args:
        text: a page.
        tables: name → Markdown; a table with fewer columns than the page's leaves it as it is.

    >>> rewrite("<!-- table: a -->\n<!-- end table -->", {"a": "| x |"})
    '<!-- table: a -->\n| x |\n<!-- end table -->'
    """

    def replaced(match: re.Match[str]) -> str:
        new = tables.get(match["name"])
        if new is None or columns_of(new) < columns_of(match["body"]):
            return match[0]
        kept = rows_of_others(match["body"], new) if match["name"] == "conclusions" else ""
        return f"{match[1]}{new}\n{kept}{match[4]}"

    return MARKED.sub(replaced, text)


def rows_of_others(before: str, new: str) -> str:
    r"""Rows of a table whose first two cells no row of its new version has: studies that another workspace ran.

    >>> rows_of_others("| study | log |\n| --- | --- |\n| a | x | 1 |\n| b | x | 2 |\n", "| a | x | 3 |")
    '| b | x | 2 |\n'
    """
    known = {tuple(line.split("|")[1:3]) for line in new.splitlines()}
    lines = before.splitlines()[2:]
    return "".join(f"{line}\n" for line in lines if tuple(line.split("|")[1:3]) not in known)


def columns_of(markdown: str) -> int:
    """Columns of a Markdown table; 0 where there is none."""
    first = markdown.strip().partition("\n")[0]
    return max(first.count("|") - 1, 0)


def demo_table(var: Path) -> str | None:
    """Metrics of each time module in the last demo."""
    summary = read_results(var / "demo" / "summary.json")
    if summary is None:
        return None
    rows = []
    columns = {"uauc": "UAUC", "gauc": "GAUC", "session_auc": "session AUC", "logloss": "log-loss"}
    if any("session_auc" not in metrics for metrics in summary["metrics"].values()):  # a demo of a version before it
        del columns["session_auc"]
    for name, metrics in summary["metrics"].items():
        low, high = metrics["auc"]["ci95"]
        values = [f"{metrics[m]['value']:.4f}" for m in columns]
        rows.append([bold_ours(name), f"{metrics['auc']['value']:.4f}", f"{low:.4f} – {high:.4f}", *values])
    return table(["time module", "AUC", "95 % interval", *columns.values()], rows)


def demo_experiment_table(var: Path) -> str | None:
    """Effects of the demo's planted experiment, beside the truth."""
    summary = read_results(var / "demo" / "summary.json")
    effects = (summary or {}).get("ab", {}).get("clock_ranker")
    if not effects:
        return None
    rows = [
        [
            name.replace("_hours", "").replace("_", " "),
            _percent(e["rel_effect"]),
            f"{100 * e['rel_effect_ci'][0]:+.2f} to {_percent(e['rel_effect_ci'][1])}",
            _percent(e["true_rel_effect"]),
        ]
        for name, e in effects.items()
        if e["true_rel_effect"] is not None
    ]
    return table(["metric", "estimate", "95 % interval", "truth"], rows)


def ab_calibration_table(var: Path) -> str | None:
    """Error, coverage and power of each A/B method."""
    study = _study(var, "ab_calibration")
    if study is None:
        return None
    methods = {**study["one_look"]["methods"], "mean, cupac": study["model"]["methods"]["cupac"]}
    figures = ("type_1", "coverage", "power", "promised")
    rows = [[name, *(_share(m[k]) if k in m else "" for k in figures)] for name, m in methods.items()]
    return _study_table(["method", "type-I error", "coverage of 95 %", "power", "power promised"], rows, study)


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
        rows.append([rule.replace("_", " "), f"{_share(min(rates))} to {_share(max(rates))}"])
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


def streaming_table(var: Path) -> str | None:
    """How AUC changes as a ranker ages, and by order of training."""
    rows_by_log = {}
    for title, log in logs_of(var, "streaming_vs_daily").items():
        rows = {f"{words(v)}, a day old less 12 h old": figure for v, figure in log["swing"].items()}
        rows |= {f"{words(v)}, hourly less daily": figure for v, figure in log["streaming less daily"].items()}
        rows_by_log[title] = rows
    return differences_by_log(var, "streaming_vs_daily", "module, difference", rows_by_log)


def sigma_table(var: Path) -> str | None:
    """AUC of each σ less that of σ = 1 h."""
    rows_by_log = {t: {s: m["auc"] for s, m in log["gaps"].items()} for t, log in logs_of(var, "sigma").items()}
    return differences_by_log(var, "sigma", "σ", rows_by_log)


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


def granularity_table(var: Path) -> str | None:
    """AUC of each width of slots less that of 60 minutes."""
    return _settings_table(var, "granularity")


def sensitivity_table(var: Path) -> str | None:
    """AUC of each setting of the clock less that of the default."""
    return _settings_table(var, "sensitivity")


def cold_start_table(var: Path) -> str | None:
    """Gains in AUC by history of users and items."""
    return _slices_table(var, "cold_start")


def seasonal_table(var: Path) -> str | None:
    """Gains in AUC by kind of day."""
    return _slices_table(var, "seasonal")


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
        [arm, words(metric), _percent(e["rel_effect"]), f"{_percent(e['rel_effect_ci'][0])} to {_percent(e['rel_effect_ci'][1])}",
         _percent(summary["truth"][arm][metric]["rel_effect"])]
        for arm, metrics in summary["ab"].items()
        for metric, e in metrics.items()
        if metric in summary["truth"][arm]
    ]  # fmt: skip
    return table(["arm", "metric", "A/B estimate", "95 % interval", "truth"], rows)


def loop_offline_table(var: Path) -> str | None:
    """AUC and UAUC of the last closed loop's arms."""
    summary = read_results(var / "loop" / "loop" / "summary.json")
    if summary is None:
        return None
    rows = [[a, *(f"{m[k]['value']:.4f}" for k in ("auc", "uauc"))] for a, m in summary["offline"].items()]
    return table(["arm", "AUC", "UAUC"], rows)


def bench_table(var: Path) -> str | None:
    """Every figure of the benchmarks beside its peer's."""
    results: list[JsonObject] | None = read_results(var / "bench" / "results.json")
    if not results:
        return None
    rows = [
        [f"`{r['name']}`", _figure(r["value"], r["unit"]), f"{_figure(r['peer_value'], r['unit'])} ({r['peer']})",
         f"{r['ratio']:.1f} ×", str(r.get("version", ""))]
        for r in results
        if r["ratio"] == r["ratio"] and r["ratio"] is not None and not FIGURE.fullmatch(r["name"])
    ]  # fmt: skip
    return table(["figure", "value", "peer", "ratio", "version"], rows) if rows else None


def growth_table(bench: str, var: Path) -> str | None:
    """What each step of an hour costs at every size of a bench of growth, in core-seconds or core-microseconds an event."""
    results: list[JsonObject] = read_results(var / "bench" / "results.json") or []
    costs: dict[str, dict[str, str]] = {}
    for result in results:
        figure = FIGURE.fullmatch(result["name"])
        if figure and figure["bench"] == bench:
            size = result["name"].rpartition("_")[2]
            costs.setdefault(figure["step"], {})[size] = _figure(result["value"], result["unit"])
    if not costs:
        return None
    sizes = list(dict.fromkeys(size for by_size in costs.values() for size in by_size))
    rows = [[step, *(by_size.get(size, "") for size in sizes)] for step, by_size in costs.items()]
    return table(["step", *sizes], rows)


def conclusions_table(var: Path) -> str | None:
    """The conclusion of every study that has run."""
    rows: list[Sequence[str]] = []
    for path in sorted((var / "studies").rglob("results.json")):
        name, *source = path.parent.relative_to(var / "studies").parts
        rows.append([f"`{name}`", ", ".join(source), str(read_json(path)["conclusion"])])
    return table(["study", "log", "conclusion"], rows) if rows else None


def _settings_table(var: Path, study: str) -> str | None:
    """A study of settings: differences in AUC from the base setting, one column per log and ranker."""
    rows_by_log = {t: {s: m["auc"] for s, m in log["gaps"].items()} for t, log in logs_of(var, study).items()}
    return differences_by_log(var, study, "setting", rows_by_log)


def _slices_table(var: Path, study: str) -> str | None:
    """A study of slices: gains in AUC, one row per slice and pair of modules."""
    rows_by_log = {
        title: {f"{part}, {words(gain)}": figure for gain, parts in log["gains"].items() for part, figure in parts.items()}
        for title, log in logs_of(var, study).items()
    }  # fmt: skip
    return differences_by_log(var, study, "slice, difference", rows_by_log)


def _study_table(columns: Sequence[str], rows: Sequence[Sequence[str]], study: Mapping[str, Any]) -> str:
    return captioned(table(columns, rows), [study])


def _study(var: Path, name: str) -> Any:
    """Results of a study of the simulated app."""
    return read_results(var / "studies" / name / "results.json")


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _percent(share: float) -> str:
    return f"{100 * share:+.2f} %"


def _figure(value: float, unit: str) -> str:
    return f"{value:,.3g} {unit}".strip() if abs(value) < 1000 else f"{value:,.0f} {unit}".strip()


TABLES: dict[str, Callable[[Path], str | None]] = {
    "demo": demo_table,
    "demo-experiment": demo_experiment_table,
    "variants": variants_table,
    "variants-differences": variant_differences_table,
    "ab_calibration": ab_calibration_table,
    "ab_calibration-looks": ab_looks_table,
    "ab_calibration-apps": ab_app_table,
    "baselines": baselines_table,
    "peers": peers_table,
    "features": features_table,
    "base": base_table,
    "admission": partial(options_table, "admission"),
    "admission-rows": admission_rows_table,
    "decay": partial(options_table, "decay"),
    "streaming_vs_daily": streaming_table,
    "sigma": sigma_table,
    "freshness": freshness_table,
    "parameters": parameters_table,
    "parameters-age": parameters_age_table,
    "averaging": averaging_table,
    "averaging-rate": averaging_rate_table,
    "averaging-tried": averaging_tried_table,
    "averaging-modules": averaging_modules_table,
    "granularity": granularity_table,
    "sensitivity": sensitivity_table,
    "cold_start": cold_start_table,
    "seasonal": seasonal_table,
    "closed_loop": closed_loop_table,
    "offline_online": offline_online_table,
    "uauc": uauc_table,
    "uauc-days": uauc_days_table,
    "uauc-gate": uauc_gate_table,
    "loop": loop_effects_table,
    "loop-offline": loop_offline_table,
    "bench": bench_table,
    **{name: partial(growth_table, name) for name in GROWTH},
    "conclusions": conclusions_table,
}
"""Name of a table → function that writes it from the run-time folder; None if its file does not exist."""

if __name__ == "__main__":
    main()

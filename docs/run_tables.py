"""Tables of the demo and of the benchmarks."""

from __future__ import annotations

from pathlib import Path

from benchmarks.growth_chart import FIGURE
from core.documents import JsonObject
from docs.markdown import table
from docs.study_results import bold_ours, percent, read_results


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
            percent(e["rel_effect"]),
            f"{100 * e['rel_effect_ci'][0]:+.2f} to {percent(e['rel_effect_ci'][1])}",
            percent(e["true_rel_effect"]),
        ]
        for name, e in effects.items()
        if e["true_rel_effect"] is not None
    ]
    return table(["metric", "estimate", "95 % interval", "truth"], rows)


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


def _figure(value: float, unit: str) -> str:
    return f"{value:,.3g} {unit}".strip() if abs(value) < 1000 else f"{value:,.0f} {unit}".strip()

"""Rewrite the tables of results from the files that runs leave: ``python -m docs.results``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->`` in the README or in ``docs/results``. It is rewritten
if its file is there and fills every column that the table has; otherwise the last known run's figures stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.files import read_json
from core.settings import ROOT, load_settings
from docs.generate import table

MARKED = re.compile(r"(<!-- table: (?P<name>[a-z0-9_-]+) -->\n)(?P<body>.*?)(<!-- end table -->)", re.DOTALL)
OURS = "matched_clock"


def main() -> None:
    """Rewrite what can be rewritten, and say which tables were."""
    var = load_settings().var
    written = {name: text for name, build in TABLES.items() if (text := build(var))}
    changed = set()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md"))):
        before = path.read_text(encoding="utf-8")
        after = rewrite(before, written)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.add(path.relative_to(ROOT).as_posix())
    print(f"tables from {var}: {', '.join(written) or 'none'}; changed: {', '.join(sorted(changed)) or 'nothing'}")


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
        return f"{match[1]}{new}\n{match[4]}"

    return MARKED.sub(replaced, text)


def columns_of(markdown: str) -> int:
    """Columns of a Markdown table; 0 where there is none."""
    first = markdown.strip().partition("\n")[0]
    return max(first.count("|") - 1, 0)


def demo_table(var: Path) -> str | None:
    """Metrics of each time module in the last demo."""
    summary = _read(var / "demo" / "summary.json")
    if summary is None:
        return None
    rows = []
    for name, metrics in summary["metrics"].items():
        low, high = metrics["auc"]["ci95"]
        values = [f"{metrics[m]['value']:.4f}" for m in ("uauc", "gauc", "logloss")]
        rows.append([_bold(name), f"{metrics['auc']['value']:.4f}", f"{low:.4f} – {high:.4f}", *values])
    return table(["time module", "AUC", "95 % interval", "UAUC", "GAUC", "log-loss"], rows)


def demo_experiment_table(var: Path) -> str | None:
    """Effects of the demo's planted experiment, beside the truth."""
    summary = _read(var / "demo" / "summary.json")
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


def variants_table(var: Path) -> str | None:
    """AUC and UAUC of each time module on every log that the study ``variants`` has run on."""
    logs = _variant_logs(var)
    if not logs:
        return None
    names = list(next(iter(logs.values()))["values"])
    rows = [
        [_bold(name), *(f"{log['values'][name]['auc']['value']:.4f} / {log['values'][name]['uauc']['value']:.4f}" for log in logs.values())]
        for name in names
    ]  # fmt: skip
    return table(["time module", *logs], rows)


def variant_differences_table(var: Path) -> str | None:
    """Differences in AUC that the study ``variants`` is about."""
    logs = _variant_logs(var)
    if not logs:
        return None
    pairs = [("gaussian_clock", other) for other in ("none", "naive_clock", "hour_embedding")]
    pairs += [(OURS, other) for other in ("gaussian_clock", "hour_embedding")]
    rows = [[f"{a} less {b}", *(_difference(log[f"{a} less"][b]["auc"]) for log in logs.values())] for a, b in pairs]
    return table(["", *logs], rows)


def ab_calibration_table(var: Path) -> str | None:
    """Error, coverage and power of each A/B method."""
    found = _read(var / "studies" / "ab_calibration" / "results.json")
    if found is None:
        return None
    methods = {**found["one_look"]["methods"], "mean, cupac": found["model"]["methods"]["cupac"]}
    figures = ("type_1", "coverage", "power", "promised")
    rows = [[name, *(f"{100 * m[k]:.1f} %" if k in m else "" for k in figures)] for name, m in methods.items()]
    return table(["method", "type-I error", "coverage of 95 %", "power", "power promised"], rows)


def bench_table(var: Path) -> str | None:
    """Every figure of the benchmarks beside its peer's."""
    results: list[dict[str, Any]] | None = _read(var / "bench" / "results.json")
    if not results:
        return None
    rows = [
        [f"`{r['name']}`", _figure(r["value"], r["unit"]), f"{_figure(r['peer_value'], r['unit'])} ({r['peer']})", f"{r['ratio']:.1f} ×"]
        for r in results
        if r["ratio"] == r["ratio"] and r["ratio"] is not None
    ]  # fmt: skip
    return table(["figure", "value", "peer", "ratio"], rows)


def conclusions_table(var: Path) -> str | None:
    """The conclusion of every study that has run."""
    rows: list[Sequence[str]] = []
    for path in sorted((var / "studies").rglob("results.json")):
        name, *source = path.parent.relative_to(var / "studies").parts
        rows.append([f"`{name}`", ", ".join(source), str(read_json(path)["conclusion"])])
    return table(["study", "log", "conclusion"], rows) if rows else None


def _variant_logs(var: Path) -> dict[str, Any]:
    logs: dict[str, Any] = {}
    for path in sorted((var / "studies" / "variants").rglob("results.json")):
        logs |= read_json(path).get("logs", {})
    return logs


def _read(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _bold(name: str) -> str:
    return f"**{name}**" if name == OURS else name


def _percent(share: float) -> str:
    return f"{100 * share:+.2f} %"


def _difference(figure: dict[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{figure['value']:+.4f} ({low:+.4f} to {high:+.4f})"


def _figure(value: float, unit: str) -> str:
    return f"{value:,.3g} {unit}".strip() if abs(value) < 1000 else f"{value:,.0f} {unit}".strip()


TABLES: dict[str, Callable[[Path], str | None]] = {
    "demo": demo_table,
    "demo-experiment": demo_experiment_table,
    "variants": variants_table,
    "variants-differences": variant_differences_table,
    "ab_calibration": ab_calibration_table,
    "bench": bench_table,
    "conclusions": conclusions_table,
}
"""Name of a table → what writes it from the run-time folder; None where its file is not there."""

if __name__ == "__main__":
    main()

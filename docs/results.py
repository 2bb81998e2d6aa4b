"""Rewrite the tables of results from the files that runs write: ``python -m docs.results``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end table -->`` in the README, ``docs/results`` or
``docs/explanation``. It is rewritten if its file exists and fills every column of the table; otherwise the figures of the last
known run stay. Studies of rankers have a table for each source, as ``sigma-foursquare``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.growth_chart import GROWTH, PANELS, curves, draw_growth
from core.files import read_json
from core.settings import ROOT, load_settings
from docs.averaging_tables import (
    averaging_modules_table,
    averaging_rate_table,
    averaging_table,
    averaging_tried_table,
)
from docs.clock_tables import (
    freshness_table,
    parameters_age_table,
    parameters_table,
    settings_table,
    slices_table,
    streaming_table,
)
from docs.experiment_tables import (
    ab_app_table,
    ab_calibration_table,
    ab_looks_table,
    ab_model_table,
    closed_loop_table,
    loop_effects_table,
    loop_offline_table,
    offline_online_rankers_table,
    offline_online_table,
    uauc_days_table,
    uauc_gate_table,
    uauc_table,
)
from docs.markdown import table
from docs.ranker_tables import (
    admission_rows_table,
    baselines_table,
    chosen_options_table,
    features_table,
    options_table,
    peers_table,
    variant_differences_table,
    variants_table,
)
from docs.run_tables import bench_table, demo_experiment_table, demo_table, growth_table

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
        if match["name"] == "conclusions":
            new = with_rows_of_others(new, match["body"])
        return f"{match[1]}{new}\n{match[4]}"

    return MARKED.sub(replaced, text)


def with_rows_of_others(new: str, before: str) -> str:
    r"""A table with those rows of its last version whose first two cells no new row has: studies that another workspace ran.

    >>> with_rows_of_others("| study | log |\n| --- | --- |\n| b | x | 3 |", "| study | log |\n| --- | --- |\n| a | x | 1 |\n| b | x | 2 |")
    '| study | log |\n| --- | --- |\n| a | x | 1 |\n| b | x | 3 |'
    """
    head, rows = new.splitlines()[:2], new.splitlines()[2:]
    known = {tuple(row.split("|")[1:3]) for row in rows}
    kept = [row for row in before.splitlines()[2:] if tuple(row.split("|")[1:3]) not in known]
    return "\n".join([*head, *sorted([*rows, *kept])])


def columns_of(markdown: str) -> int:
    """Columns of a Markdown table; 0 where there is none."""
    first = markdown.strip().partition("\n")[0]
    return max(first.count("|") - 1, 0)


def conclusions_table(var: Path) -> str | None:
    """The conclusion of every study that has run."""
    rows: list[Sequence[str]] = []
    for path in sorted((var / "studies").rglob("results.json")):
        name, *source = path.parent.relative_to(var / "studies").parts
        rows.append([f"`{name}`", ", ".join(source), first_part(str(read_json(path)["conclusion"]))])
    return table(["study", "log", "conclusion"], rows) if rows else None


def first_part(conclusion: str, most: int = 320) -> str:
    """As much of a conclusion as a table takes, to the end of a clause; its study's page has the rest.

    >>> first_part("A is better (+1); B is not. C is worse.", 30), first_part("A.", 30)
    ('A is better (+1); B is not …', 'A.')
    """
    end = max(conclusion.rfind(mark, 0, most) for mark in ("; ", ". "))
    return conclusion if len(conclusion) <= most or end < 0 else f"{conclusion[:end]} …"


SOURCES = ("simulator", "foursquare")
BY_SOURCE: dict[str, Callable[[str, Path], str | None]] = {
    "variants": variants_table,
    "variants-differences": variant_differences_table,
    "baselines": baselines_table,
    "streaming_vs_daily": streaming_table,
    "sigma": partial(settings_table, "sigma"),
    "granularity": partial(settings_table, "granularity"),
    "sensitivity": partial(settings_table, "sensitivity"),
    "cold_start": partial(slices_table, "cold_start"),
    "seasonal": partial(slices_table, "seasonal"),
}
"""Study, or study and subject → function that writes the table of a source, whose name is added: ``sigma-foursquare``."""
TABLES: dict[str, Callable[[Path], str | None]] = {
    "demo": demo_table,
    "demo-experiment": demo_experiment_table,
    "ab_calibration": ab_calibration_table,
    "ab_calibration-model": ab_model_table,
    "ab_calibration-looks": ab_looks_table,
    "ab_calibration-apps": ab_app_table,
    "peers": peers_table,
    "features": features_table,
    "base": partial(chosen_options_table, "base", ("auc",)),
    "session_loss": partial(chosen_options_table, "session_loss", ("auc", "session_auc")),
    "admission": partial(options_table, "admission"),
    "admission-rows": admission_rows_table,
    "decay": partial(options_table, "decay"),
    "freshness": freshness_table,
    "parameters": parameters_table,
    "parameters-age": parameters_age_table,
    "averaging": averaging_table,
    "averaging-rate": averaging_rate_table,
    "averaging-tried": averaging_tried_table,
    "averaging-modules": averaging_modules_table,
    "closed_loop": closed_loop_table,
    "offline_online": offline_online_table,
    "offline_online-rankers": offline_online_rankers_table,
    "uauc": uauc_table,
    "uauc-days": uauc_days_table,
    "uauc-gate": uauc_gate_table,
    "loop": loop_effects_table,
    "loop-offline": loop_offline_table,
    "bench": bench_table,
    **{name: partial(growth_table, name) for name in GROWTH},
    "conclusions": conclusions_table,
    **{f"{name}-{source}": partial(build, source) for name, build in BY_SOURCE.items() for source in SOURCES},
}
"""Name of a table → function that writes it from the run-time folder; None if its file does not exist."""

if __name__ == "__main__":
    main()

"""Speed of ``clock ab analyze`` on a plain table, from the start of the process to its end, beside what an analyst would run instead."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments import METRICS, write_users
from benchmarks.result import Result, timed
from core.duck import connection, quoted
from core.settings import ROOT, load_settings

USERS = 1_000_000
REPEATS = 5
TEA_TASTING = """
import tea_tasting as tt
{read}
experiment = tt.Experiment({{f"m{{k}}": tt.Mean(f"m{{k}}", f"m{{k}}_pre") for k in range({metrics})}}, ratio=tt.SampleRatio())
print(experiment.analyze(table, control="a"))
"""
PANDAS = """
import numpy as np
import pandas as pd
from scipy import stats
table = pd.{read}
print(stats.chisquare(table.variant.value_counts()).pvalue)
a, b = table.variant == "a", table.variant == "b"
for k in range({metrics}):
    y, x = table[f"m{{k}}"], table[f"m{{k}}_pre"]
    adjusted = y - np.cov(y, x)[0, 1] / x.var() * (x - x.mean())
    for values in (y, adjusted):
        test = stats.ttest_ind(values[b], values[a], equal_var=False)
        print(values[a].mean(), values[b].mean(), test.pvalue, test.confidence_interval())
"""
READERS = {
    "tea-tasting and DuckDB": "import ibis\ntable = ibis.connect('duckdb://').{reader}({path!r})",
    "tea-tasting and Polars": "import polars as pl\ntable = pl.{reader}({path!r})",
    "tea-tasting and pandas": "import pandas as pd\ntable = pd.{reader}({path!r})",
}


def bench_table_analysis(scale: float) -> list[Result]:
    """Welch and CUPED of six metrics and the sample ratio, from Parquet and from CSV; each a process from start to end."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        parquet, csv = Path(name) / "users.parquet", Path(name) / "users.csv"
        write_users(parquet, int(USERS * scale))
        with connection(load_settings(var=Path(name))) as con:
            con.execute(f"COPY (FROM read_parquet({quoted(str(parquet))})) TO {quoted(str(csv))} (HEADER)")
        for kind, path in (("parquet", parquet), ("csv", csv)):
            peers = _peers(kind, path)
            ours = _seconds(_command(path), Path(name))
            fastest = min(
                seconds := {peer: _seconds(command, Path(name)) for peer, command in peers.items()},
                key=lambda p: seconds[p],
            )
            peer = f"{fastest}, the fastest of {', '.join(f'{p} {s:.2f}' for p, s in seconds.items())} s"
            results.append(Result(f"analyze_{kind}", ours, "s", peer, seconds[fastest], seconds[fastest] / ours))
    return results


def _command(path: Path) -> list[str]:
    options = [f"--metric=m{k}" for k in range(METRICS)] + [f"--covariate=m{k}=m{k}_pre" for k in range(METRICS)]
    return [
        sys.executable,
        "-m",
        "clock",
        "ab",
        "analyze",
        str(path),
        "--variant",
        "variant",
        "--control",
        "a",
        *options,
    ]


def _peers(kind: str, path: Path) -> dict[str, list[str]]:
    reader = f"read_{kind}"
    scripts = {
        peer: TEA_TASTING.format(read=text.format(reader=reader, path=str(path)), metrics=METRICS)
        for peer, text in READERS.items()
    }
    scripts["pandas and SciPy"] = PANDAS.format(read=f"{reader}({str(path)!r})", metrics=METRICS)
    return {peer: [sys.executable, "-c", script] for peer, script in scripts.items()}


def _seconds(command: Sequence[str], var: Path) -> float:
    """Median seconds of a process; a first run, not counted, brings files into memory."""
    environment = {**os.environ, "CLOCK_VAR": str(var), "PYTHONPATH": str(ROOT)}

    def run() -> None:
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)

    run()
    return timed(run, REPEATS)

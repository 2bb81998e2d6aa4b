"""``python -m benchmarks``: every figure next to its peer's in the same run; results in ``var/bench/results.json``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.clocks import bench_clocks, bench_join, bench_window
from benchmarks.evaluation import bench_auc, bench_gate, bench_uauc
from benchmarks.experiments import bench_ab_analysis, bench_user_table
from benchmarks.hour_cycle import bench_hour_cycle
from benchmarks.imports import bench_imports
from benchmarks.result import Result
from benchmarks.runner import run_benches
from benchmarks.serving import bench_serving
from benchmarks.spark import bench_spark
from benchmarks.training import bench_training
from benchmarks.units import bench_units
from core import cli
from core.errors import ConfigError
from core.settings import load_settings

BENCHES: dict[str, Callable[[float], list[Result]]] = {
    "uauc": lambda scale: [bench_uauc(scale)],
    "auc": lambda scale: [bench_auc(scale)],
    "gate": lambda scale: [bench_gate(scale)],
    "clocks": bench_clocks,
    "window": bench_window,
    "spark": bench_spark,
    "join": lambda scale: [bench_join(scale)],
    "training": bench_training,
    "serving": bench_serving,
    "hour_cycle": bench_hour_cycle,
    "units": bench_units,
    "imports": bench_imports,
    "ab_analysis": bench_ab_analysis,
    "ab_user_table": bench_user_table,
}


def main(arguments: argparse.Namespace) -> None:
    chosen = arguments.only or list(BENCHES)
    if unknown := sorted(set(chosen) - set(BENCHES)):
        raise ConfigError(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    if not arguments.scale > 0:
        raise ConfigError(f"--scale {arguments.scale:g}: more than 0; 1 is the full size")
    path = load_settings().var / "bench" / "results.json"
    run_benches(BENCHES, chosen, arguments.scale, path, lambda result: print(result.line, flush=True))
    print(f"results in {path}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    top.add_argument("only", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; default all")
    top.add_argument("--scale", type=float, default=1.0, help="share of the full size (default 1)")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)

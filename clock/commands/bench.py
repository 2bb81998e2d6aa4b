"""``clock bench``: every figure next to its peer's in the same run; results in ``var/bench/results.json``."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from core import cli
from core.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.result import Result

BENCHES = {
    "uauc": "evaluation:bench_uauc",
    "auc": "evaluation:bench_auc",
    "gate": "evaluation:bench_gate",
    "clocks": "clocks:bench_clocks",
    "window": "clocks:bench_window",
    "spark": "spark:bench_spark",
    "join": "clocks:bench_join",
    "training": "training:bench_training",
    "serving": "serving:bench_serving",
    "hour_cycle": "hour_cycle:bench_hour_cycle",
    "units": "units:bench_units",
    "imports": "imports:bench_imports",
    "ab_analysis": "experiments:bench_ab_analysis",
    "ab_user_table": "experiments:bench_user_table",
}
"""Name → module of ``benchmarks`` and function."""
EPILOG = "Example: clock bench clocks join --scale 0.1"


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", autocompletion=lambda: list(BENCHES), help=f"Of {', '.join(BENCHES)}. Default: all."
        ),
    ] = None,
    scale: Annotated[float, typer.Option("--scale", metavar="SHARE", help="Share of the full size.")] = 1.0,
) -> None:
    """Measure speed and memory, side by side with what a user would pick instead.

    Each bench's results are kept in var/bench/results.json as soon as it is through.
    """
    from core.documents import did_you_mean

    chosen = names or list(BENCHES)
    if unknown := sorted(set(chosen) - set(BENCHES)):
        raise ConfigError(
            f"no bench {', '.join(unknown)}{did_you_mean(unknown[0], BENCHES)} (there are {', '.join(BENCHES)})"
        )
    if not scale > 0:
        raise ConfigError(f"--scale {scale:g}: more than 0; 1 is the full size")
    for name in chosen:
        results = run_bench(name, scale)
        for r in results:
            print(
                f"{r.name:<28} {r.value:9.3f} {r.unit:<3} {r.ratio:7.1f} × {r.peer} ({r.peer_value:.2f} {r.unit})",
                flush=True,
            )
        path = _keep(results)
    print(f"results in {path}")


def run_bench(name: str, scale: float) -> list[Result]:
    """Run one bench.

    Args:
        name: of ``BENCHES``.
        scale: share of the full size.
    """
    module, function = BENCHES[name].split(":")
    outcome = getattr(importlib.import_module(f"benchmarks.{module}"), function)(scale)
    return outcome if isinstance(outcome, list) else [outcome]


def _keep(results: list[Result]) -> str:
    """Put results into the file in the place of earlier ones of the same names; returns its path."""
    from core.files import read_json, write_json
    from core.settings import load_settings

    path = load_settings().var / "bench" / "results.json"
    measured = {r.name for r in results}
    kept = [r for r in read_json(path) if r["name"] not in measured] if path.exists() else []
    write_json(path, [*kept, *(asdict(r) for r in results)])
    return str(path)


app = cli.App(callback=None, no_args_is_help=False)
app.command("bench", epilog=EPILOG)(bench)

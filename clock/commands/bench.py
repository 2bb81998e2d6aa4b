"""``clock bench``: figures beside their peers' from the same run; results in ``var/bench/results.json``."""

from __future__ import annotations

import importlib
from functools import partial
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
    "endurance": "endurance:bench_endurance",
    "population": "size:bench_population",
    "traffic": "size:bench_traffic",
    "spark": "spark:bench_spark",
    "spark_ingest": "spark:bench_spark_ingest",
    "spark_join": "spark:bench_spark_join",
    "spark_rebuild": "spark:bench_spark_rebuild",
    "spark_experiment": "spark:bench_spark_experiment",
    "spark_scaling": "spark:bench_spark_scaling",
    "join": "clocks:bench_join",
    "online_write": "online:bench_online_write",
    "training": "training:bench_training",
    "sharded": "sharded:bench_sharded",
    "attributes": "attributes:bench_attributes",
    "serving": "serving:bench_serving",
    "streaming": "streaming:bench_streaming",
    "hour_cycle": "hour_cycle:bench_hour_cycle",
    "units": "units:bench_units",
    "imports": "imports:bench_imports",
    "ab_analysis": "experiments:bench_ab_analysis",
    "analyze": "table_analysis:bench_table_analysis",
    "ab_user_table": "experiments:bench_user_table",
    "experiment_look": "experiments:bench_experiment_look",
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
    """Measure speed and memory, beside what a user would use instead.

    The results of each benchmark are written to var/bench/results.json as soon as it is done. What an hour costs against the
    log's length, the users and the events is drawn in var/bench/growth.svg.
    """
    from core.documents import did_you_mean

    chosen = names or list(BENCHES)
    if unknown := sorted(set(chosen) - set(BENCHES)):
        raise ConfigError(
            f"no bench {', '.join(unknown)}{did_you_mean(unknown[0], BENCHES)} (choose from {', '.join(BENCHES)})"
        )
    if not scale > 0:
        raise ConfigError(f"--scale {scale:g}: more than 0; 1 is the full size")
    from benchmarks.growth_chart import draw_growth
    from benchmarks.runner import run_benches
    from core.settings import load_settings

    path = load_settings().var / "bench" / "results.json"
    benches = {name: partial(run_bench, name) for name in chosen}
    run_benches(benches, chosen, scale, path, lambda result: print(result.line, flush=True))
    print(f"results in {path}")
    if draw_growth(path, path.with_name("growth.svg")):
        print(f"chart in {path.with_name('growth.svg')}")


def run_bench(name: str, scale: float) -> list[Result]:
    """Run one bench.

    Args:
        name: of ``BENCHES``.
        scale: share of the full size, above 0.

    Raises:
        ConfigError: it needs a library that only ``make dev`` installs: its peers', or the tests' servers.
    """
    module, function = BENCHES[name].split(":")
    try:
        outcome = getattr(importlib.import_module(f"benchmarks.{module}"), function)(scale)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the bench {name} needs {error.name}, which 'make dev' installs") from error
    return outcome if isinstance(outcome, list) else [outcome]


app = cli.App(callback=None, no_args_is_help=False)
app.command("bench", epilog=EPILOG)(bench)

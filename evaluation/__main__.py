"""``python -m evaluation``: metrics of prediction files, and paired comparisons of models."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import cli
from core.errors import DataError
from core.settings import load_settings


def main(arguments: argparse.Namespace) -> None:
    from evaluation.streaming import Columns, file_metrics, read_models

    settings = load_settings()
    columns = Columns(arguments.user, arguments.label, arguments.score, arguments.weight)
    if arguments.command == "metrics":
        found = file_metrics(settings, arguments.predictions, columns, by=arguments.by)
        _print_table(
            [("all", found.overall), *(("(no value)" if s.value is None else s.value, s.metrics) for s in found.slices)]
        )
        print(json.dumps(found.as_json(arguments.by), allow_nan=False))
        return
    from evaluation.compare import bootstrap, compare

    if len(arguments.predictions) < 2:
        raise DataError("compare needs at least two files: the baseline first")
    models = read_models(settings, arguments.predictions, columns, arguments.key)
    results = []
    for path, model in zip(arguments.predictions[1:], models[1:], strict=True):
        rows = compare(models[0], model, arguments.confidence)
        if arguments.bootstrap:
            rows.append(bootstrap(models[0], model, replications=arguments.bootstrap, confidence=arguments.confidence))
        for row in rows:
            low, high = row.interval
            print(
                f"{path.name:<28} {row.metric:<8} {row.method:<10} {row.a:.6f} → {row.b:.6f}  {row.difference:+.6f} "
                f"[{low:+.6f}, {high:+.6f}]  p = {row.p_value:.3g}  detectable {row.detectable:.6f}"
            )
        results.append(
            {"baseline": str(arguments.predictions[0]), "model": str(path), "comparisons": [r.as_json() for r in rows]}
        )
    print(json.dumps({"results": results}, allow_nan=False))


def _print_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    names = (
        "auc",
        "uauc",
        "gauc",
        "ndcg@10",
        "logloss",
        "normalised_entropy",
        "calibration",
        "ece",
        "samples",
        "users",
    )
    print(f"{'slice':<16}" + "".join(f"{name[:11]:>12}" for name in names))
    for name, row in rows:
        cells = ("" if row[k] is None else f"{row[k]:,}" if isinstance(row[k], int) else f"{row[k]:.6f}" for k in names)
        print(f"{name[:16]:<16}" + "".join(f"{cell:>12}" for cell in cells))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m evaluation", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("predictions", nargs="+", type=Path, metavar="PREDICTIONS.parquet")
    shared.add_argument("--user", default="user_id", help="column of the user (default user_id)")
    shared.add_argument("--label", default="label", help="column of the label, 0 or 1 (default label)")
    shared.add_argument("--score", default="score", help="column of the score, a probability (default score)")
    shared.add_argument("--weight", help="column of row weights")
    metrics = commands.add_parser(
        "metrics",
        parents=[shared],
        help="AUC, UAUC, GAUC, NDCG@10, log-loss, normalised entropy, calibration",
        description="Metrics with 95 %% intervals clustered by user. Files larger than memory are streamed. "
        "The last line of output is one JSON object.",
    )
    metrics.add_argument("--by", help="also for each value of this column, for example local_hour")
    compare = commands.add_parser(
        "compare",
        parents=[shared],
        help="paired tests of models on the same impressions",
        description="Differences from the first file, with intervals clustered by user, DeLong's for the AUC, and the "
        "smallest difference that would be found. The last line of output is one JSON object.",
    )
    compare.add_argument(
        "--key", help="column that identifies an impression; without it rows must be in the same order"
    )
    compare.add_argument("--confidence", type=float, default=0.95)
    compare.add_argument(
        "--bootstrap", type=int, metavar="N", help="add the AUC's bootstrap interval over users, N replications"
    )
    return top


if __name__ == "__main__":
    cli.run(parser(), main)

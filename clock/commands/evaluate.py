"""``clock evaluate``: metrics of prediction files, and paired comparisons of models."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core import cli
from core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from evaluation.streaming import Columns, FileMetrics

METRICS = (
    "auc", "uauc", "gauc", "session_auc", "ndcg@10", "logloss", "normalised_entropy", "calibration", "ece", "samples",
    "users",
)  # fmt: skip

Predictions = Annotated[
    list[Path], typer.Argument(metavar="PREDICTIONS.parquet...", help="Parquet files of predictions.")
]
User = Annotated[str, typer.Option("--user", metavar="COLUMN", help="Column of the user.")]
Label = Annotated[str, typer.Option("--label", metavar="COLUMN", help="Column of the label, 0 or 1.")]
Score = Annotated[str, typer.Option("--score", metavar="COLUMN", help="Column of the score, a probability.")]
Weight = Annotated[str | None, typer.Option("--weight", metavar="COLUMN", help="Column of row weights.")]
Session = Annotated[
    list[str] | None,
    typer.Option(
        "--session",
        metavar="COLUMN",
        help="Column that names what a user was shown together, such as the request; repeat it for several columns. "
        "Default: those of hour and request_id that the files have.",
    ),
]

app = cli.App(
    help="Measure prediction files, and compare models on the same impressions.",
    epilog="Example: clock evaluate compare BASELINE.parquet MODEL.parquet --key event_id",
)


@app.command()
def metrics(
    predictions: Predictions,
    user: User = "user_id",
    label: Label = "label",
    score: Score = "score",
    weight: Weight = None,
    session: Session = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="COLUMN", help="Also for each value of this column, for example local_hour."),
    ] = None,
) -> None:
    """AUC, UAUC, GAUC, session AUC, NDCG@10, log-loss, normalized entropy, calibration.

    Metrics have 95 % intervals clustered by user. Files larger than memory are streamed.
    The last line of output is one JSON object.
    """
    from core.settings import load_settings
    from evaluation.streaming import file_metrics

    result = file_metrics(load_settings(), predictions, _columns(user, label, score, weight, session), by=by)
    if result.no_probabilities:
        _say_no_probabilities(result.no_probabilities, predictions)
    slices = [("(no value)" if s.value is None else s.value, s.metrics) for s in result.slices]
    _print_table([("all", result.overall), *slices])
    print(_session_line(result))
    print(json.dumps(result.as_json(by), allow_nan=False))


@app.command()
def compare(
    predictions: Predictions,
    user: User = "user_id",
    label: Label = "label",
    score: Score = "score",
    weight: Weight = None,
    session: Session = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="COLUMN",
            help="Column that identifies an impression. Without it rows must be in the same order.",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option("--confidence", help="Level of the intervals.")] = 0.95,
    replications: Annotated[
        int | None,
        typer.Option("--bootstrap", metavar="N", help="Add the AUC's bootstrap interval over users, N replications."),
    ] = None,
) -> None:
    """Paired tests of models on the same impressions.

    Differences from the first file, with intervals clustered by user, DeLong's for the AUC, and the smallest
    difference that would be detected. The last line of output is one JSON object.
    """
    from core.settings import load_settings
    from evaluation.compare import bootstrap
    from evaluation.compare import compare as compare_models
    from evaluation.metrics import COMPARED, OF_PROBABILITIES
    from evaluation.streaming import read_models
    from stats.confidence import check_confidence

    check_confidence(confidence)
    if replications is not None and replications < 0:
        raise ConfigError(f"--bootstrap {replications}: 0 or more")
    if len(predictions) < 2:
        raise DataError("compare needs at least two files: the baseline first")
    settings, columns = load_settings(), _columns(user, label, score, weight, session)
    models = read_models(settings, predictions, columns, key)
    names = tuple(name for name in COMPARED if name != "session_auc" or models[0].sessions is not None)
    if outside := sum(model.no_probabilities for model in models):
        names = tuple(name for name in names if name not in OF_PROBABILITIES)
        _say_no_probabilities(outside, predictions)
    results = []
    for path, model in zip(predictions[1:], models[1:], strict=True):
        rows = compare_models(models[0], model, confidence, names)
        if replications:
            rows.append(bootstrap(models[0], model, replications=replications, confidence=confidence))
        for row in rows:
            low, high = row.interval
            print(
                f"{path.name:<28} {row.metric:<11} {row.method:<10} {row.a:.6f} → {row.b:.6f}  {row.difference:+.6f} "
                f"[{low:+.6f}, {high:+.6f}]  p = {row.p_value:.3g}  detectable {row.detectable:.6f}"
            )
        results.append(
            {"baseline": str(predictions[0]), "model": str(path), "comparisons": [r.as_json() for r in rows]}
        )
    print(json.dumps({"results": results}, allow_nan=False))


def _columns(user: str, label: str, score: str, weight: str | None, session: list[str] | None) -> Columns:
    from evaluation.streaming import Columns

    return Columns(user, label, score, weight, tuple(session or ()))


def _session_line(result: FileMetrics) -> str:
    if not result.session_columns:
        return "No session AUC: the files have no column hour or request_id; name what a user was shown together with --session."
    counts = {name: result.overall[name] for name in ("sessions", "session_samples", "samples")}
    return (
        f"Sessions by user and {' and '.join(result.session_columns)}: {counts['sessions']:,} with both labels, "
        f"{counts['session_samples']:,} of {counts['samples']:,} rows."
    )


def _say_no_probabilities(scores: int, files: Sequence[Path]) -> None:
    names = ", ".join(map(str, files))
    print(
        f"WARN: {scores:,} scores of {names} lie outside 0 to 1, so they are not probabilities: no log-loss, entropy or "
        "calibration is given; apply a sigmoid, or divide percentages by 100",
        file=sys.stderr,
    )


def _print_table(rows: Sequence[tuple[str, dict[str, object]]]) -> None:
    width = max(16, *(len(name) + 2 for name, _ in rows))
    print(f"{'slice':<{width}}" + "".join(f"{name[:11]:>12}" for name in METRICS))
    for name, row in rows:
        cells = (
            "" if row[k] is None else f"{row[k]:,}" if isinstance(row[k], int) else f"{row[k]:.6f}" for k in METRICS
        )
        print(f"{name if name.isprintable() else ascii(name):<{width}}" + "".join(f"{cell:>12}" for cell in cells))

"""Prediction files as people have them: the right figure, or one line that names what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from clock.commands import evaluate
from core import cli
from core.errors import ConfigError, PlatformError
from evaluation import streaming

ROWS = 60
RNG = np.random.default_rng(0)
LABELS, SCORES = RNG.integers(0, 2, ROWS), np.round(RNG.random(ROWS), 2)
AUC = roc_auc_score(LABELS, SCORES)


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path / "var"))


def predictions(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    users = [f"u{n % 12}" for n in range(ROWS)]
    table = {"user_id": users, "label": LABELS, "score": SCORES, "event_id": range(ROWS), **columns}
    pq.write_table(pa.table({name: pa.array(values) for name, values in table.items()}), path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[dict[str, Any], str]:
    """The JSON object, which holds no NaN, and what was said beside it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert cli.call(evaluate.app, list(map(str, arguments))) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out.splitlines()[-1], parse_constant=refuse), shown.err


def refused(*arguments: object) -> str:
    with pytest.raises(PlatformError) as caught:
        cli.call(evaluate.app, list(map(str, arguments)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(bool), LABELS.astype(float), [str(n) for n in LABELS], LABELS.astype(np.int8)],
    ids=["bool", "float", "text", "int8"],
)
def test_labels_of_any_type_are_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: Any) -> None:
    content, _ = run(capsys, "metrics", predictions(tmp_path / "p.parquet", label=labels))
    assert content["auc"] == pytest.approx(AUC)


@pytest.mark.parametrize(
    ("columns", "message", "unusable"),
    [
        ({"label": LABELS * 0.5}, "labels are not 0 or 1 (the first is 0.5)", 34),
        ({"label": LABELS * 2 - 1}, "labels are not 0 or 1 (the first is -1)", 26),
        ({"label": ["yes", "no"] * 30}, "labels 0 or 1", 0),
        ({"label": [None, *LABELS[1:].tolist()]}, "1 of 60 values of 'label' are missing", 1),
        ({"label": [[1]] * ROWS}, "labels 0 or 1", 0),
        ({"score": [np.inf, *SCORES[1:]]}, "1 of 60 values of 'score' are missing or infinite", 1),
        ({"score": ["0,5"] * ROWS}, "must be numbers", 0),
        ({"user_id": [[1]] * ROWS}, "column 'user_id' holds BIGINT[]; users are text or numbers", 0),
        ({"user_id": [{"id": 1}] * ROWS}, "column 'user_id' holds STRUCT(id BIGINT)", 0),
        ({"user_id": ["", *["u"] * 59]}, "1 of 60 rows have no user", 1),
        ({"user_id": [np.nan, *[1.0] * 59]}, "1 of 60 rows have no user", 1),
        ({"user_id": [np.nan, *[1.0, 2.0] * 29, 1.0]}, "1 of 60 rows have no user", 1),
        ({"user_id": [None] * ROWS}, "60 of 60 rows have no user", 60),
        ({"w": [0.0] * ROWS}, "every 'w' in", 0),
        ({"w": [-1.0] * ROWS}, "weights must not be negative", 60),
        ({"w": [1e308] * ROWS}, "weights must be 0 or between", 60),
        ({"w": [1e-320] * ROWS}, "weights must be 0 or between", 60),
        ({"w": [np.nan, *[1.0] * 59]}, "1 of 60 values of 'weight' are missing", 1),
        ({"w": [np.nan] * ROWS}, "60 of 60 values of 'weight' are missing", 60),
        ({"SCORE": SCORES}, "2 columns named 'score', upper and lower case aside", 0),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_column_that_cannot_be_measured_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: dict[str, Any],
    message: str,
    unusable: int,
    streamed: bool,
) -> None:
    """Of rows that do not fit in memory the unusable ones are only counted."""
    path = predictions(tmp_path / "p.parquet", **columns)
    if streamed:
        monkeypatch.setattr(streaming, "IN_MEMORY_ROWS", 0)
    said = refused("metrics", path, *(("--weight", "w") if "w" in columns else ()))
    assert (f"{unusable} of 60 rows have a missing" if streamed and unusable else message) in said
    assert "p.parquet" in said


@pytest.mark.parametrize("scores", [SCORES * 10 - 5, SCORES * 100, -SCORES, SCORES * 1e308])
@pytest.mark.parametrize("streamed", [False, True])
def test_scores_that_are_no_probabilities_have_an_order_and_no_log_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scores: Any, streamed: bool
) -> None:
    path = predictions(tmp_path / "p.parquet", score=scores, part=["x", "y"] * 30)
    if streamed:
        monkeypatch.setattr(streaming, "IN_MEMORY_ROWS", 0)
    content, said = run(capsys, "metrics", path, "--by", "part")
    outside = int(((scores < 0) | (scores > 1)).sum())
    assert content["auc"] == pytest.approx(roc_auc_score(LABELS, scores))
    for row in (content, *content["by"]["part"].values()):
        assert [row[name] for name in ("logloss", "logloss_ci95", "calibration", "normalised_entropy", "ece")] == [
            None
        ] * 5
    assert f"{outside} scores of {path} lie outside 0 to 1" in said
    assert "RuntimeWarning" not in said
    both, said = run(capsys, "compare", predictions(tmp_path / "q.parquet"), path)
    assert "logloss" not in {r["metric"] for r in both["results"][0]["comparisons"]}
    assert f"{outside} scores" in said


def test_files_are_what_they_hold_and_not_what_their_folders_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = predictions(tmp_path / "score=1" / "label=0" / "fold=7" / "p*.parquet")
    predictions(path.with_name("p2.parquet"), score=1 - SCORES)
    content, _ = run(capsys, "metrics", path, "--by", "fold")
    assert content["auc"] == pytest.approx(AUC)
    assert content["samples"] == content["by"]["fold"]["7"]["samples"] == ROWS
    whole, _ = run(capsys, "metrics", tmp_path / "score=1")
    assert whole["samples"] == 2 * ROWS
    assert "is listed twice" in refused("metrics", path, path)


def test_files_with_different_columns_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = predictions(tmp_path / "1.parquet"), predictions(tmp_path / "2.parquet", device=[1.0, np.nan] * 30)
    content, _ = run(capsys, "metrics", *files, "--by", "device")
    assert content["by"]["device"]["1"]["samples"] == 30
    assert content["missing"]["device"]["samples"] == ROWS + 30


@pytest.mark.parametrize("arguments", [("--label", "score"), ("--user", "label"), ("--weight", "score")])
def test_one_column_for_two_things_is_refused(tmp_path: Path, arguments: tuple[str, str]) -> None:
    assert "must be different columns" in refused("metrics", predictions(tmp_path / "p.parquet"), *arguments)


def test_a_column_of_very_many_values_is_no_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MOST_SLICES", 50)
    with pytest.raises(ConfigError, match="--by event_id: the column has 60 values; at most 50"):
        cli.call(evaluate.app, ["metrics", str(predictions(tmp_path / "p.parquet")), "--by", "event_id"])


@pytest.mark.parametrize(
    "keys",
    [[float(n) for n in range(ROWS)], [str(n) for n in range(ROWS)]],
    ids=["numbers with a point", "text"],
)
def test_keys_pair_whatever_type_each_file_gives_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: list[Any]
) -> None:
    order = np.random.default_rng(1).permutation(ROWS)
    first = predictions(tmp_path / "a.parquet")
    second = predictions(tmp_path / "b.parquet", event_id=keys, score=1 - SCORES)
    pq.write_table(pq.read_table(second).take(order), second)
    content, _ = run(capsys, "compare", first, second, "--key", "event_id")
    assert content["results"][0]["comparisons"][0]["difference"] == pytest.approx(1 - 2 * AUC)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"label": 1 - LABELS}, (), "do not have the same impressions in the same rows"),
        ({"user_id": ["x"] * ROWS}, (), "do not have the same impressions in the same rows"),
        ({"w": [2.0] * 30 + [1.0] * 30}, ("--weight", "w"), "do not have the same impressions in the same rows"),
        ({"event_id": [np.nan, *map(float, range(1, ROWS))]}, ("--key", "event_id"), "1 rows have no 'event_id'"),
        ({"event_id": [f"{n} " for n in range(ROWS)]}, ("--key", "event_id"), "lacks 60 impressions"),
        ({}, ("--confidence", "95"), "must lie between 0.5 and 1"),
        ({}, ("--confidence", "0.9999999999999999"), "must lie between 0.5 and 1"),
        ({}, ("--bootstrap", "1"), "give no interval"),
        ({}, ("--bootstrap", "-1"), "0 or more"),
    ],
)
def test_models_that_cannot_be_compared_say_why(
    tmp_path: Path, columns: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    first = predictions(tmp_path / "a.parquet", w=[1.0] * ROWS)
    second = predictions(tmp_path / "b.parquet", **{"w": [1.0] * ROWS, **columns})
    assert message in refused("compare", first, second, *options)


@pytest.mark.parametrize("key", [(), ("--key", "event_id")])
def test_files_without_rows_have_nothing_to_compare(tmp_path: Path, key: tuple[str, ...]) -> None:
    files = predictions(tmp_path / "a.parquet"), predictions(tmp_path / "b.parquet")
    for file in files:
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    assert "the predictions have no rows: there is nothing to compare" in refused("compare", *files, *key)


@pytest.mark.parametrize("columns", [{"label": [1] * ROWS}, {"user_id": ["u"] * ROWS}])
def test_what_is_undefined_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: dict[str, Any]) -> None:
    files = (
        predictions(tmp_path / "a.parquet", **columns),
        predictions(tmp_path / "b.parquet", score=1 - SCORES, **columns),
    )
    metrics, _ = run(capsys, "metrics", files[0])
    compared, _ = run(capsys, "compare", *files)
    assert metrics["auc_ci95"] is None
    assert compared["results"][0]["comparisons"][0]["interval"] == [None, None]

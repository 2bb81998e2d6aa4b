"""The command line on prediction files, in memory and streamed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from core.errors import ConfigError, DataError
from core.settings import ROOT, Settings
from evaluation import streaming
from evaluation.compare import compare
from evaluation.streaming import Columns, file_metrics
from tests import forked


def predictions(folder: Path, name: str = "a", noise: float = 0.5, rows: int = 4000) -> Path:
    rng = np.random.default_rng(1)
    signal, users = rng.normal(size=rows), [f"u{n}" for n in rng.integers(0, 80, rows)]
    labels = (rng.uniform(size=rows) < 1 / (1 + np.exp(-signal))).astype(int)
    other = np.random.default_rng(len(name) + int(noise * 100)).normal(size=rows)
    score = np.round(1 / (1 + np.exp(-(signal + noise * other))), 2)
    frame = pd.DataFrame(
        {
            "id": np.arange(rows),
            "who": users,
            "y": labels,
            "p": score,
            "w": rng.choice([1.0, 2.0], rows),
            "local_hour": rng.integers(0, 3, rows),
        }
    )
    frame["local_hour"] = rng.integers(0, 3, rows)
    frame["hour"] = rng.integers(0, 9, rows)
    frame["request_id"] = [None if n % 3 else f"r{n}" for n in rng.integers(0, 9, rows)]
    path = folder / f"{name}.parquet"
    frame.to_parquet(path)
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run("evaluation", *arguments, environment={**os.environ, "PYTHONPATH": str(ROOT)})


COLUMNS = ("--user", "who", "--label", "y", "--score", "p")


@pytest.mark.slow
def test_metrics_ends_with_one_json_object(tmp_path: Path) -> None:
    done = run("metrics", str(predictions(tmp_path)), *COLUMNS, "--weight", "w", "--by", "local_hour")
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert content["samples"] == 4000
    assert content["users"] == 80
    assert content["auc_ci95"][0] < content["auc"] < content["auc_ci95"][1]
    assert set(content["by"]["local_hour"]) == {"0", "1", "2"}


@pytest.mark.parametrize("weight", [None, "w"])
def test_streamed_figures_are_the_plain_ones(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, weight: str | None
) -> None:
    path, columns = predictions(tmp_path), Columns("who", "y", "p", weight)
    plain = file_metrics(settings, [path], columns, by="local_hour")
    monkeypatch.setattr(streaming, "IN_MEMORY_ROWS", 0)
    monkeypatch.setattr(streaming, "ROWS_AT_ONCE", 700)
    streamed = file_metrics(settings, [path], columns, by="local_hour")
    pairs = [(plain.overall, streamed.overall)]
    assert [x.value for x in streamed.slices] == [x.value for x in plain.slices] == ["0", "1", "2"]
    pairs += [(a.metrics, b.metrics) for a, b in zip(plain.slices, streamed.slices, strict=True)]
    for first, second in pairs:
        for key, value in first.items():
            assert second[key] == pytest.approx(value, abs=1e-12), key


@pytest.mark.slow
def test_sessions_are_a_users_hours_cut_by_request_or_what_the_options_name(tmp_path: Path) -> None:
    path = predictions(tmp_path)
    frame = pd.read_parquet(path)
    for options, names in (((), ["hour", "request_id"]), (("--session", "local_hour"), ["local_hour"])):
        done = run("metrics", str(path), *COLUMNS, *options)
        content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        groups = [g for _, g in frame.groupby(["who", *names], dropna=False) if g.y.nunique() == 2]
        sizes = [len(g) for g in groups]
        expected = np.average([roc_auc_score(g.y, g.p) for g in groups], weights=sizes)
        assert content["session_auc"] == pytest.approx(expected, abs=1e-12)
        assert (content["sessions"], content["session_samples"]) == (len(groups), sum(sizes))
        assert f"Sessions by user and {' and '.join(names)}: {len(groups):,} with both labels" in done.stdout


@pytest.mark.slow
def test_files_without_sessions_say_so(tmp_path: Path) -> None:
    path = predictions(tmp_path)
    pd.read_parquet(path).drop(columns=["hour", "request_id"]).to_parquet(path)
    done = run("metrics", str(path), *COLUMNS)
    assert json.loads(done.stdout.splitlines()[-1])["session_auc"] is None
    assert "No session AUC: the files have no column hour or request_id" in done.stdout
    compared = run("compare", str(path), str(path), *COLUMNS)
    assert "session_auc" not in compared.stdout
    refused = run("metrics", str(path), *COLUMNS, "--session", "visit")
    assert refused.returncode == 2
    assert "no column ['visit']" in refused.stderr


def test_a_slice_called_all_and_rows_without_a_value_stand_beside_the_others(
    tmp_path: Path, settings: Settings
) -> None:
    path = predictions(tmp_path)
    frame = pd.read_parquet(path)
    frame["platform"] = [["all", "None", None, "null"][n % 4] for n in range(len(frame))]
    frame.to_parquet(path)
    measured = file_metrics(settings, [path], Columns("who", "y", "p"), by="platform")
    content = measured.as_json("platform")
    assert content["samples"] == 4000
    samples = {k: v["samples"] for k, v in content["by"]["platform"].items()}  # type: ignore[index]
    assert samples == dict.fromkeys(("None", "all", "null"), 1000)
    assert content["missing"]["platform"]["samples"] == 1000  # type: ignore[index]
    rows = frame[frame.platform == "all"]
    assert measured.slices[1].metrics["auc"] == pytest.approx(roc_auc_score(rows.y, rows.p))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.iloc[1:], "lacks 1 impressions of"),
        (lambda f: f.assign(id=f.id + 100_000), "lacks 4,000 impressions of"),
        (lambda f: f.assign(id=f.id.where(f.index != 3, f.id.iloc[0])), "1 values of 'id' appear more than once"),
        (lambda f: f.assign(id=f.id.astype("Int64").where(f.index != 3)), "1 rows have no 'id'"),
    ],
)
def test_keys_that_do_not_pair_are_refused(tmp_path: Path, settings: Settings, damage: Any, message: str) -> None:
    first, second = predictions(tmp_path, "a", 0.9), predictions(tmp_path, "b", 0.3)
    damage(pd.read_parquet(second).reset_index(drop=True)).to_parquet(second)
    with pytest.raises(DataError, match=message):
        streaming.read_models(settings, [first, second], Columns("who", "y", "p"), "id")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.assign(who=f.who.astype("object").where(f.index != 3, None)), "1 of 4000 rows have no user"),
        (lambda f: f.assign(y="click"), "labels 0 or 1"),
        (lambda f: f.iloc[:0], "no rows"),
    ],
)
def test_rows_that_cannot_be_measured_are_refused(
    tmp_path: Path, settings: Settings, damage: Any, message: str
) -> None:
    path = predictions(tmp_path)
    damage(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(DataError, match=message):
        file_metrics(settings, [path], Columns("who", "y", "p"))


def test_a_confidence_in_percent_and_undefined_figures(tmp_path: Path, settings: Settings) -> None:
    model = streaming.read_predictions(settings, [predictions(tmp_path)], Columns("who", "y", "p"))
    with pytest.raises(ConfigError, match=r"confidence 95 must lie between"):
        compare(model, model, 95)
    one_label = model.some(model.labels == 1)
    text = json.dumps([row.as_json() for row in compare(one_label, one_label)], allow_nan=False)
    assert json.loads(text)[0]["a"] is None


def test_rows_of_one_key_that_are_not_the_same_impression_are_named(tmp_path: Path, settings: Settings) -> None:
    first, second = predictions(tmp_path, "a", 0.9), predictions(tmp_path, "b", 0.3)
    columns = Columns("who", "y", "p")
    assert len(streaming.read_models(settings, [first, second], columns, "id")) == 2
    frame = pd.read_parquet(second)
    frame.assign(y=1 - frame["y"]).to_parquet(second)
    said = f"{second} and {first} do not have the same impressions: rows with the same 'id' differ in one of who, y; take both"
    with pytest.raises(DataError, match=re.escape(said)):
        streaming.read_models(settings, [first, second], columns, "id")
    with pytest.raises(
        DataError, match=r"in the same rows \(who, y\); where only the order differs, name .* with --key"
    ):
        streaming.read_models(settings, [first, second], columns)


@pytest.mark.slow
def test_compare_pairs_by_key_whatever_the_order(tmp_path: Path) -> None:
    first, second = predictions(tmp_path, "a", 0.9), predictions(tmp_path, "b", 0.3)
    pd.read_parquet(second).sample(frac=1, random_state=1).to_parquet(second)
    refused = run("compare", str(first), str(second), *COLUMNS)
    assert refused.returncode == 2
    assert f"{second} and {first} do not have the same impressions in the same rows (who, y)" in refused.stderr
    assert "where only the order differs, name the column that identifies an impression with --key" in refused.stderr
    done = run("compare", str(first), str(second), *COLUMNS, "--key", "id", "--bootstrap", "50")
    rows = json.loads(done.stdout.splitlines()[-1])["results"][0]["comparisons"]
    assert [(r["metric"], r["method"]) for r in rows] == [
        ("auc", "clustered"), ("auc", "delong"), ("uauc", "clustered"), ("gauc", "clustered"),
        ("session_auc", "clustered"), ("logloss", "clustered"),
        ("auc", "bootstrap"),
    ]  # fmt: skip
    assert rows[0]["interval"][0] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("metrics", "nowhere.parquet"), "no such file"),
        (("metrics", "{file}"), "no column ['user_id', 'label', 'score']"),
        (("metrics", "{text}", *COLUMNS), "as Parquet"),
        (("compare", "{file}", *COLUMNS), "at least two files"),
    ],
)
def test_wrong_input_is_named(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    file = predictions(tmp_path)
    done = run(*(a.format(file=file, text=tmp_path / "text.parquet") for a in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_nan_scores_are_counted_and_refused(tmp_path: Path) -> None:
    path = predictions(tmp_path)
    frame = pd.read_parquet(path)
    frame.loc[3, "p"] = float("nan")
    frame.to_parquet(path)
    done = run("metrics", str(path), *COLUMNS)
    assert done.returncode == 2
    assert "1 of 4000 values of 'score'" in done.stderr

"""Tables and files of users as people have them: the right figure, or one line that names what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from ab_analysis.assignment import assign_users, check_workspace_layers
from ab_analysis.experiment import Experiment
from ab_analysis.inference import MetricSpec, compare
from ab_analysis.table import TableResult, analyze_table
from ab_analysis.table_spec import TableSpec
from ab_analysis.user_file import read_users, write_assignments
from core.engine import engine
from core.errors import ConfigError, DataError
from core.settings import load_settings
from tests.ab_analysis.helpers import people, sides
from tests.packed import PACKERS, archive

AB: dict[str, Any] = {"name": "test", "variants": {"a": 1, "b": 1}, "control": "a", "start": "2026-03-02"}


def analyze(path: Path, **options: Any) -> tuple[list[TableResult], list[str]]:
    """Rows, and the texts of the checks that are more than "ok"."""
    spec = TableSpec(**{"variant": "variant", "control": "a", "metrics": ("y",), **options})
    with engine(load_settings(var=path.parent / "var")) as db:
        rows, checks = analyze_table(db, path, spec)
    return rows, [c.text for c in checks if c.level != "ok"]


def table(folder: Path, variants: list[str], values: list[Any], name: str = "t.parquet") -> Path:
    path = folder / name
    frame = pd.DataFrame({"variant": variants, "y": values})
    frame.to_parquet(path, index=False) if name.endswith("parquet") else frame.to_csv(path, index=False)
    return path


def text(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_negative_control_gives_a_lift_in_the_direction_of_the_effect(tmp_path: Path) -> None:
    (row,), _ = analyze(table(tmp_path, ["a"] * 3 + ["b"] * 3, [-9, -10, -11, -4, -5, -6]))
    assert (row.effect.control, row.effect.treatment, row.effect.effect) == pytest.approx((-10, -5, 5))
    assert row.effect.rel_effect == pytest.approx(0.5)
    low, high = row.effect.rel_effect_ci
    assert 0 < low < 0.5 < high
    absolute, relative = row.effect.widened(3.0)
    assert absolute[0] < row.effect.effect_ci[0]
    assert relative[0] < low < high < relative[1]


def test_a_metric_and_its_negative_have_mirrored_effects() -> None:
    frame = people(users=2000).assign(y=lambda f: f.duration + 5, z=lambda f: -f.duration - 5)
    up, down = (compare(MetricSpec(c, c), *sides(frame, (c,)), 0.95, adjusted=False) for c in "yz")
    assert down.effect == pytest.approx(-up.effect)
    assert down.rel_effect == pytest.approx(-up.rel_effect)
    assert down.rel_effect_ci == pytest.approx((-up.rel_effect_ci[1], -up.rel_effect_ci[0]), abs=2e-4)


def test_means_around_zero_give_no_lift_and_say_why(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, 200)
    values[:100] += 0.001 - values[:100].mean()  # a control mean of 0.001, which may be 0
    (row,), said = analyze(table(tmp_path, ["a"] * 100 + ["b"] * 100, list(values + np.repeat([0, 1], 100))))
    assert row.effect.known
    assert math.isnan(row.effect.rel_effect)
    assert "No lift is given for y" in " ".join(said)


def test_a_control_of_nothing_but_zeros_has_an_effect_and_no_lift(tmp_path: Path) -> None:
    values = [0] * 50 + [0, 1] * 25
    (row,), _ = analyze(table(tmp_path, ["a"] * 50 + ["b"] * 50, values))
    expected = stats.ttest_ind(values[50:], values[:50], equal_var=False)
    assert row.effect.effect == pytest.approx(0.5)
    assert row.effect.p_value == pytest.approx(expected.pvalue)
    assert math.isnan(row.effect.rel_effect)


def test_one_arm_of_zeros_and_one_of_ones_is_an_effect_of_one(tmp_path: Path) -> None:
    (row,), _ = analyze(table(tmp_path, ["a"] * 40 + ["b"] * 40, [0] * 40 + [1] * 40))
    assert (row.effect.effect, row.effect.effect_ci) == (1.0, (1.0, 1.0))
    assert row.effect.p_value == pytest.approx(2 / math.comb(80, 40))
    (same,), _ = analyze(table(tmp_path, ["a"] * 40 + ["b"] * 40, [3] * 80))
    assert not same.effect.known


@pytest.mark.parametrize("outlier", [1e12, 1e15, 1e300])
def test_a_large_value_of_another_arm_takes_nothing_from_a_small_one(tmp_path: Path, outlier: float) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0.28, 0.02, 300)
    values[-1] = outlier
    rows, _ = analyze(table(tmp_path, ["a"] * 100 + ["b"] * 100 + ["c"] * 100, list(values)))
    b, c = rows
    assert b.effect.control == pytest.approx(values[:100].mean(), rel=1e-11)
    assert b.effect.treatment == pytest.approx(values[100:200].mean(), rel=1e-11)
    assert b.effect.se == pytest.approx(
        math.sqrt((values[:100].var(ddof=1) + values[100:200].var(ddof=1)) / 100), rel=1e-9
    )
    assert c.effect.treatment == pytest.approx(outlier / 100, rel=1e-9)


@pytest.mark.parametrize("size", [2.0**-1070, 1e-290, 1e-200, 1e-80, -1e-80, 1e80, -1e80, 1e300, -1e300, 2.0**1021])
def test_values_of_any_size_are_values(tmp_path: Path, size: float) -> None:
    values = np.array([1.0, 2, 3, 4, 3, 4, 5, 6])
    (row,), _ = analyze(table(tmp_path, ["a"] * 4 + ["b"] * 4, list(values * size)))
    expected = stats.ttest_ind(values[4:], values[:4], equal_var=False)
    assert row.effect.control == pytest.approx(2.5 * size, rel=1e-9)
    assert row.effect.effect == pytest.approx(2 * size, rel=1e-9)
    assert row.effect.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert row.effect.rel_effect == pytest.approx(math.copysign(0.8, size), rel=1e-9)
    assert row.effect.widened(2.0)[1][0] < row.effect.rel_effect < row.effect.widened(2.0)[1][1]


def test_denominators_that_cancel_out_leave_a_ratio_unadjusted(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    variants = np.repeat(["a", "b"], 100)
    columns = {"y": rng.gamma(2, 1, 200), "d": np.where(variants == "a", 1.0, -1.0), "x": rng.normal(size=200)}
    path = tmp_path / "t.parquet"
    pd.DataFrame({"variant": variants, **columns}).to_parquet(path, index=False)
    rows, _ = analyze(path, metrics=(), ratios={"r": ("y", "d")}, covariates={"r": ("x",)})
    assert [row.method for row in rows] == ["welch", "cuped"]
    assert rows[0].effect == rows[1].effect
    assert rows[0].effect.known


def test_booleans_of_a_csv_are_ones_and_zeros(tmp_path: Path) -> None:
    rows = "".join(f"{'ab'[n % 2]},{['true', 'FALSE', 'True'][n % 3]}\n" for n in range(60))
    (row,), _ = analyze(text(tmp_path, "variant,y\n" + rows))
    assert row.effect.control == pytest.approx(np.mean([n % 3 != 1 for n in range(0, 60, 2)]))


def test_columns_named_as_inner_ones_are_columns(tmp_path: Path) -> None:
    frame = people(users=400).rename(columns={"group": "n", "duration": "t0", "days": "c0", "duration_pre": "g0"})
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    rows, _ = analyze(path, metrics=("t0", "c0"), segments=("n",), covariates={"t0": ("g0",)})
    control = frame[frame.variant == "a"]
    assert rows[0].effect.control == pytest.approx(control.t0.mean())
    assert {r.segment[1] for r in rows if r.segment} <= {"light", "middle", "heavy"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("variant,y\na,1\nb,yes\n", "line 3: column 'y' holds 'yes', not a number"),
        ("variant,y,y\na,1,2\nb,2,3\n", "2 columns named 'y'"),
        ("variant,y\na,1\nb,2,3\n", "Line: 3"),
        ("variant,y\n", "has no rows"),
        ("", "has no header"),
        ("variant,y\na,1\nb,\n", "y (1 users)"),
        ("variant,y\na,1\n,2\n", "1 rows have no variant; fill them in, or leave the rows out"),
        ("variant,y\na,1\nb,2\n".encode("utf-16"), "not UTF-8"),
    ],
)  # fmt: skip
def test_a_damaged_csv_is_refused_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError if "columns named" not in message else ConfigError) as caught:
        analyze(text(tmp_path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "delimiter", "mark"),
    [("t.csv", ";", ""), ("t.tsv", "\t", ""), ("t.csv", ",", "\ufeff"), ("t.csv.gz", ",", "")],
)
def test_other_forms_of_csv_are_read(tmp_path: Path, name: str, delimiter: str, mark: str) -> None:
    content = (
        mark + f"variant{delimiter}y\r\n" + "".join(f"{'ab'[n % 2]}{delimiter}{n}\r\n" for n in range(20))
    ).encode()
    (row,), _ = analyze(text(tmp_path, gzip.compress(content, mtime=0) if name.endswith("gz") else content, name))
    assert (row.effect.control, row.effect.treatment) == pytest.approx((9.0, 10.0))


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("ends", [("\n",), ("\r\n",), ("\n", "\r\n")])
def test_a_packed_table_gives_what_the_plain_one_does(tmp_path: Path, ending: str, ends: tuple[str, ...]) -> None:
    rows = ["variant\ty", *(f"{'ab'[n % 2]}\t{n * n}" for n in range(20))]
    content = "".join(row + ends[n % len(ends)] for n, row in enumerate(rows)).encode()
    plain, _ = analyze(text(tmp_path, content, "t.tsv"))
    packed, _ = analyze(text(tmp_path, PACKERS[ending](content), f"t.tsv{ending}"))
    assert packed == plain
    users = b"uid,x\nu1,1\nu2,2\n"
    assert read_users(str(text(tmp_path, PACKERS[ending](users), f"u.csv{ending}")), "uid") == ["u1", "u2"]
    assert read_users(str(text(tmp_path, PACKERS[ending](b"u1\nu2\n"), f"u.csv{ending}"))) == ["u1", "u2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv.bz2", PACKERS[".bz2"](b"variant,y\na,1\n")[:-9], "t.csv.bz2 cannot be read"),
        ("t.csv.gz", gzip.compress(bytes(1 << 20), 0)[:-9], "t.csv.gz cannot be read"),
        ("t.csv.xz", b"variant,y\na,1\n", "t.csv.xz cannot be read"),
        (
            "t.zip",
            archive(("a.csv", b"x"), ("b.csv", b"x")),
            r"t.zip is an archive of 2 files \(a.csv, b.csv\).*unpack it",
        ),
        ("t.csv.zst", b"\x28\xb5\x2f\xfd" + bytes(99), r"CSV named .csv, .tsv, .txt, also packed \(.gz, .gzip, .bz2"),
    ],
)
def test_a_packed_table_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        analyze(text(tmp_path, content, name))


def test_a_folder_that_is_called_like_a_text_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "t.csv"
    folder.mkdir()
    with pytest.raises(DataError, match=r"folder '.*t.csv' holds no Parquet files .* or CSV named"):
        analyze(folder)
    people(users=400).assign(y=lambda f: f.duration).to_parquet(folder / "part.parquet")
    assert analyze(folder)[0][0].n_control > 100


def test_segments_that_are_small_or_without_a_value_are_said(tmp_path: Path) -> None:
    frame = people(users=400).assign(y=lambda f: f.duration)
    frame["group"] = [None if n < 200 else "unknown" if n < 390 else "rare" for n in frame.index]
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    rows, said = analyze(path, segments=("group",))
    shown = {r.segment[1]: r.n_control + r.n_treatment for r in rows if r.segment}
    assert shown == {None: 200, "unknown": 190}
    assert "group = rare" in " ".join(said)


def test_a_crossed_user_is_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    frame = people(users=1000).assign(y=lambda f: f.duration)
    frame.loc[0, "user"] = frame.loc[1, "user"] = 5000
    frame.loc[0, "variant"], frame.loc[1, "variant"] = "a", "b"
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    with pytest.raises(DataError, match=r"1 users are in two variants.*--exclude-crossed"):
        analyze(path, user="user")
    (row,), said = analyze(path, user="user", exclude_crossed=True)
    assert row.n_control + row.n_treatment == 998
    assert row.effect.control == pytest.approx(frame[2:].query("variant == 'a'").y.mean())
    assert "1 users were in more than one variant and are left out" in " ".join(said)
    frame["user"] = frame["user"].astype("Int64").where(frame.index != 7)
    frame.to_parquet(path)
    with pytest.raises(DataError, match="1 rows have no user"):
        analyze(path, user="user", exclude_crossed=True)


@pytest.mark.parametrize("confidence", [95, 0, 1, -1, 0.5, 0.9999999999999999, math.nan, math.inf])
def test_a_confidence_that_is_none_is_named(confidence: float) -> None:
    with pytest.raises(ConfigError, match=r"--confidence .* must lie between 0.5 and 1 \(95 % is 0.95\)"):
        TableSpec("variant", "a", ("y",), confidence=confidence)


def test_users_of_a_file_are_those_of_the_log(tmp_path: Path) -> None:
    users = ["u1", "u2", "ü3"]
    lines = "\n".join(users) + "\n"
    pq.write_table(pa.table({"uid": [1, 2], "name": ["x", "y"]}), tmp_path / "u.parquet")
    for path in (
        text(tmp_path, "\ufeff" + lines, "marked.csv"), text(tmp_path, lines, "u.txt"),
        text(tmp_path, gzip.compress(lines.encode(), mtime=0), "u.csv.gz"), text(tmp_path, lines.replace("\n", "\r\n\r\n"), "blank.csv"),
    ):  # fmt: skip
        assert read_users(str(path)) == users, path
    assert read_users(str(tmp_path / "u.parquet"), "uid") == ["1", "2"]
    assert read_users("-", "uid", stdin=io.StringIO("x,uid\n1,u1\n2,u2\n")) == ["u1", "u2"]
    assert read_users("-", stdin=io.StringIO("\ufeffu1\n\nu2\n")) == ["u1", "u2"]
    experiment = Experiment(**AB)
    assert (
        assign_users(experiment, read_users(str(tmp_path / "marked.csv"))).tolist()
        == assign_users(experiment, users).tolist()
    )


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("uid,x\nu1,1\n,2\n", "uid", "line 3: no user in column 'uid'"),
        ('u1\n"u2\nu3\n', None, "line 2: a cell cannot be read"),
        ('u1\n"u2\nu3"\nu4\n', None, "line 2: a quote is opened and not closed"),
        ("uid,x\nu1,1\nu2\n", "uid", "line 3: 1 cells, but the header has 2"),
        ("uid,uid\nu1,1\n", "uid", "2 columns named 'uid'"),
        (b"u\xff1\n", None, "not UTF-8"),
    ],
)
def test_a_damaged_file_of_users_assigns_nobody(
    tmp_path: Path, content: str | bytes, column: str | None, message: str
) -> None:
    with pytest.raises((DataError, ConfigError)) as caught:
        read_users(str(text(tmp_path, content)), column)
    assert message in str(caught.value)


@pytest.mark.parametrize(("values", "message"), [(["u1", None], "1 rows have no user"), ([1.0, 2.0], "holds double")])
def test_users_that_are_no_ids_are_refused(tmp_path: Path, values: list[Any], message: str) -> None:
    pq.write_table(pa.table({"uid": values}), tmp_path / "u.parquet")
    with pytest.raises(DataError, match=message):
        read_users(str(tmp_path / "u.parquet"))


def test_assignments_go_into_a_folder_that_is_made(tmp_path: Path) -> None:
    write_assignments(tmp_path / "new" / "out.csv", ["u1", "u2", "u,3"], ["a", None, "b"])
    assert (tmp_path / "new" / "out.csv").read_text() == 'user,variant\nu1,a\n"u,3",b\n'


def test_layers_are_checked_against_the_workspace(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path, source="test")
    settings.experiments_dir.mkdir(parents=True)
    other = {**AB, "name": "other", "layer": {"name": "l", "start": 0, "end": 0.6}}
    (settings.experiments_dir / "other.yaml").write_text(json.dumps(other))
    (settings.experiments_dir / "broken.yaml").write_text("name: [")
    check_workspace_layers(settings, Experiment(**{**AB, "layer": {"name": "l", "start": 0.6, "end": 1}}))
    with pytest.raises(ConfigError, match="at the same time"):
        check_workspace_layers(settings, Experiment(**{**AB, "layer": {"name": "l", "start": 0.5, "end": 1}}))

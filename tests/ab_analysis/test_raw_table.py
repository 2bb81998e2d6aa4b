"""Tables of other people's experiments: cells, names, folders and options that mean something else than they seem to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from ab_analysis.moments import read_moments
from ab_analysis.quantiles import Quantile
from ab_analysis.table_spec import Limit
from clock.commands import ab
from core import cli
from core.engine import engine
from core.errors import ConfigError, DataError
from core.settings import load_settings
from tests.ab_analysis.test_hard_tables import analyze, text

VARIANTS = ["a", "b"] * 6
VALUES = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"variant": VARIANTS, "y": VALUES, **columns}), path)
    return path


def csv(cells: list[str], end: str = "\n") -> str:
    return f"variant,y{end}" + "".join(f"{'ab'[n % 2]},{cell}{end}" for n, cell in enumerate(cells))


@pytest.mark.parametrize(
    "cell", ['"0,5"', '"1,000"', "5%", "$10", "0x10", "−5", "５", "2024-01-01", "#N/A", "t", "1 2", "2\x00", "x" * 100]
)
def test_a_cell_that_is_no_number_is_shown_with_its_line(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"t\.csv, line 4: column 'y' holds .*write 1234\.5") as caught:
        analyze(text(tmp_path, csv(["1", "2", cell, "3", cell])))
    assert "(2 such cells)" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        "variant,y\r\na,1\nb,2\r\na,3\nb,4\n",
        "variant,y\ra,1\rb,2\ra,3\rb,4\r",
        "variant,y\n a , 1\nb,\t2 \na\u00a0,3\nb,\u00a04\n",
        "\ufeffvariant,y\na,1\nb,2\n\ufeffa,3\nb\u200b,4\n",
        'variant,y,note\na,1,"two\nlines, one cell"\nb,2,z\na,3,\nb,4,\n',
        "variant,y,note\na,1," + "x" * 3_000_000 + "\nb,2,\na,3,\nb,4,\n",
        "variant,y,\na,1,\nb,2,\na,3,\nb,4,\n",
        "variant,y\na,1\n\nb,2\na,3\nb,4\n\n\n",
    ],
    ids=[
        "mixed line ends",
        "old line ends",
        "padding",
        "byte order marks",
        "a cell of two lines",
        "a long cell",
        "a nameless column",
        "blank",
    ],
)
def test_a_csv_as_programs_write_them_has_the_values_that_a_person_sees(tmp_path: Path, content: str) -> None:
    (row,), _ = analyze(text(tmp_path, content))
    assert (row.n_control, row.n_treatment) == (2, 2)
    assert (row.effect.control, row.effect.treatment) == (2, 3)


@pytest.mark.parametrize("lines", [3, 50])
def test_rows_that_a_quote_swallows_are_said(tmp_path: Path, lines: int) -> None:
    rows = [f"{'ab'[n % 2]},{n},z" for n in range(100)]
    rows[2] = 'a,2,"z'
    rows[2 + lines] = rows[2 + lines] + '"'
    with pytest.raises(DataError, match=f"line 4: a quoted cell goes on for {lines + 1} lines"):
        analyze(text(tmp_path, "\n".join(["variant,y,note", *rows]) + "\n"))


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.json", "t.xlsx", "t"])
def test_what_is_no_table_says_which_files_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        analyze(text(tmp_path, b"PK\x03\x04" + bytes(100), name))
    assert "UTF-8" in str(caught.value) or "gzip" in str(caught.value) or "or CSV named .csv" in str(caught.value)


@pytest.mark.parametrize("name", ["t*.parquet", "t?.parquet", "t[1].parquet", "it's.parquet", "t*.csv", "t[1].csv"])
def test_a_sign_in_a_files_name_stands_for_itself(tmp_path: Path, name: str) -> None:
    for file in ("t1.parquet", "tt.parquet", "t1.csv"):
        frame = pd.DataFrame({"variant": VARIANTS, "y": [9.0] * 11 + [8.0]})
        frame.to_parquet(tmp_path / file) if file.endswith("parquet") else frame.to_csv(tmp_path / file, index=False)
    frame = pd.DataFrame({"variant": VARIANTS, "y": VALUES})
    frame.to_parquet(tmp_path / name) if name.endswith("parquet") else frame.to_csv(tmp_path / name, index=False)
    (row,), _ = analyze(tmp_path / name)
    assert (row.n_control, row.effect.control, row.effect.treatment) == (6, 6, 7)


def test_a_folder_adds_a_column_and_replaces_none(tmp_path: Path) -> None:
    parquet(tmp_path / "variant=z" / "y=3" / "part.parquet")
    (row,), _ = analyze(tmp_path / "variant=z")
    assert (row.effect.control, row.effect.treatment) == (6, 7)
    (row,), _ = analyze(tmp_path / "variant=z" / "y=3" / "part.parquet")
    assert row.effect.control == 6
    for v, values in {"a": [1, 2, 3], "b%20c": [4, 5, 6]}.items():
        (tmp_path / "t" / f"variant={v}").mkdir(parents=True)
        pq.write_table(pa.table({"y": values}), tmp_path / "t" / f"variant={v}" / "part.parquet")
    (row,), _ = analyze(tmp_path / "t")
    assert (row.variant, row.effect.control, row.effect.treatment) == ("b c", 2, 5)


def test_parts_are_joined_by_name_and_what_jobs_leave_behind_is_passed_over(tmp_path: Path) -> None:
    parquet(tmp_path / "t" / "1.parquet")
    pq.write_table(pa.table({"y": [20, 10], "variant": ["b", "a"], "more": [1, 2]}), tmp_path / "t" / "2.parquet")
    for left in ("_temporary/0/part.parquet", ".hidden/part.parquet", "_old.parquet"):
        parquet(tmp_path / "t" / left)
    (row,), _ = analyze(tmp_path / "t")
    assert (row.n_control, row.effect.control) == (7, pytest.approx(46 / 7))
    (tmp_path / "t" / "3.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"3\.parquet cannot be read as Parquet"):
        analyze(tmp_path / "t")


@pytest.mark.parametrize("second", ["y", "Y"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_two_columns_of_one_name_are_refused_and_others_do_not_matter(tmp_path: Path, kind: str, second: str) -> None:
    table = pa.table([pa.array(VARIANTS), pa.array(VALUES), pa.array(VALUES[::-1])], names=["variant", "y", second])
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        table.to_pandas(ignore_metadata=True).to_csv(path, index=False)
    else:
        pq.write_table(table, path)
    with pytest.raises(ConfigError, match=r"2 columns named 'y'.*rename all but one"):
        analyze(path)


@pytest.mark.parametrize(
    "name", ["\x1fy", "__adjustment", "y is missing", "value", "g0", "raw", "count", 'a"b', "日 本.x"]
)
def test_a_column_of_any_name_is_adjusted_like_another(tmp_path: Path, name: str) -> None:
    x = list(np.random.default_rng(1).normal(size=11))
    parquet(tmp_path / "1.parquet", x=[None, *x])
    pq.write_table(pq.read_table(tmp_path / "1.parquet").rename_columns(["variant", name, "x"]), tmp_path / "2.parquet")
    plain, _ = analyze(tmp_path / "1.parquet", covariates={"y": ("x",)})
    named, _ = analyze(tmp_path / "2.parquet", metrics=(name,), covariates={name: ("x",)})
    assert [r.effect for r in named] == [r.effect for r in plain]


def test_a_covariate_named_like_the_flag_of_another_is_a_covariate(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x, z, y = rng.normal(size=200), rng.normal(size=200), rng.normal(size=200)
    variant, empty = np.array(["a", "b"] * 100), rng.uniform(size=200) < 0.3
    frame = pd.DataFrame({"variant": variant, "y": y + x + z, "x": np.where(empty, np.nan, x), "x is missing": z})
    frame.to_parquet(tmp_path / "t.parquet")
    rows, _ = analyze(tmp_path / "t.parquet", covariates={"y": ("x", "x is missing")})
    design = np.column_stack([np.ones(200), np.where(empty, 0, x), empty, z])
    rest = frame.y - design @ np.linalg.lstsq(design, frame.y, rcond=None)[0]
    expected = stats.ttest_ind(rest[variant == "b"], rest[variant == "a"], equal_var=False)
    assert rows[1].effect.p_value == pytest.approx(expected.pvalue, rel=1e-7)


@pytest.mark.parametrize("values", [[None] * 12, [3.0] * 12])
def test_a_covariate_without_variation_is_said(tmp_path: Path, values: list[float | None]) -> None:
    path = parquet(tmp_path / "t.parquet", x=pa.array(values, pa.float64()))
    (welch, cuped), said = analyze(path, covariates={"y": ("x",)})
    assert cuped.effect.p_value == pytest.approx(welch.effect.p_value)
    assert "Covariate x is empty or the same for every user" in " ".join(said)


def test_variants_that_are_written_alike_are_said_and_too_many_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", variant=["a", "b", "A", "b "] * 3)
    _, said = analyze(path)
    assert "Variants 'A' and 'a'; 'b' and 'b ' are compared as different ones" in " ".join(said)
    pd.DataFrame({"variant": [f"v{n}" for n in range(3000)], "y": 1.0}).to_parquet(path)
    with pytest.raises(ConfigError, match="has 3,000 values; at most 50 are compared"):
        analyze(path, control="v0")


def test_sums_beyond_a_double_are_means_within_it(tmp_path: Path) -> None:
    values = np.array([1e308, 1.7e308, 1.2e308, 1.5e308] * 3)
    pq.write_table(pa.table({"variant": VARIANTS, "y": values}), tmp_path / "t.parquet")
    (row,), _ = analyze(tmp_path / "t.parquet")
    small = values / 2.0**1000
    expected = stats.ttest_ind(small[1::2], small[::2], equal_var=False)
    assert row.effect.control == pytest.approx(1.1e308)
    assert row.effect.effect == pytest.approx(0.5e308)
    assert row.effect.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    with engine(load_settings(var=tmp_path)) as db:
        db.table("ends", "SELECT 'a' AS variant, x FROM (VALUES (1.7e308::DOUBLE), (-1.7e308), (5e-324)) t(x)")
        moments = read_moments(db, "ends", ("variant",), [("x",)]).of(variant="a")
    assert moments.count == 3
    assert moments.mean("x") == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shares", "a=nan,b=1"), "write VARIANT=SHARE"),
        (("--shares", "a=inf,b=1"), "every share must be above 0"),
        (("--shares", "a=1e308,b=1e308"), "every share must be above 0"),
        (("--shares", "a=0,b=1"), "every share must be above 0"),
        (("--shares", "a=-1,b=1"), "every share must be above 0"),
        (("--shares", "a=1,b=1,a=2"), "'a' appears twice"),
        (("--shares", "a=50%,b=50%"), "write VARIANT=SHARE"),
        (("--shares", ""), "write VARIANT=SHARE"),
        (("--confidence", "95"), "must lie between 0.5 and 1"),
        (("--confidence", "nan"), "must lie between 0.5 and 1"),
        (("--ratio", "r=y/y"), "numerator and denominator are the same column"),
        (("--segment", ""), "no column ''"),
    ],
)
def test_an_option_without_a_meaning_is_refused(tmp_path: Path, options: tuple[str, str], message: str) -> None:
    path = parquet(tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=message):
        cli.call(ab.app, ["analyze", str(path), "--variant", "variant", "--control", "a", "--metric", "y", *options])


def heavy(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    """Users of two variants, a few of whom have values far beyond the others'."""
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"variant": np.repeat(["a", "b"], 500), "y": rng.lognormal(1, 1.5, 1000)})
    path = tmp_path / "heavy.parquet"
    frame.to_parquet(path, index=False)
    return path, frame


@pytest.mark.parametrize(
    ("option", "limit"), [(Limit(20.0), 20.0), (Limit(0.95, of_users=True), None), (Limit(1e9), np.inf)]
)
def test_a_limited_metric_is_the_metric_of_limited_values(tmp_path: Path, option: Limit, limit: float | None) -> None:
    path, frame = heavy(tmp_path)
    top = float(np.quantile(frame["y"], 0.95)) if limit is None else limit
    limited = frame.assign(y=frame["y"].clip(upper=top))
    a, b = (limited["y"][limited["variant"] == v] for v in "ab")
    ((row,), _) = analyze(path, limits={"y": option})
    assert (row.effect.control, row.effect.treatment) == pytest.approx((a.mean(), b.mean()))
    assert row.effect.p_value == pytest.approx(float(stats.ttest_ind(a, b, equal_var=False).pvalue), rel=1e-6)


def test_a_quantile_is_numpys_with_an_interval_around_its_difference(tmp_path: Path) -> None:
    path, frame = heavy(tmp_path)
    rows, _ = analyze(path, quantiles={"p90": Quantile("y", 0.9)})
    assert [(r.metric, r.method) for r in rows] == [("y", "welch"), ("p90", "quantile")]
    effect = rows[1].effect
    a, b = (float(np.quantile(frame["y"][frame["variant"] == v], 0.9)) for v in "ab")
    assert (effect.control, effect.treatment) == pytest.approx((a, b))
    low, high = effect.effect_ci
    assert low < b - a < high
    alone, _ = analyze(path, metrics=(), quantiles={"p90": Quantile("y", 0.9)})
    assert alone == [rows[1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantiles": {"y": Quantile("y", 0.5)}}, "name of a quantile and of a metric"),
        ({"quantiles": {"q": Quantile("y", 1.5)}}, "between 0 and 1"),
        ({"quantiles": {"q": Quantile("z", 0.5)}}, "has no column 'z'"),
        ({"quantiles": {"q": Quantile("y", 0.5)}, "limits": {"y": Limit(3.0)}}, "which a quantile does not need"),
        ({"limits": {"z": Limit(3.0)}}, "no --metric or --ratio is made of it"),
        ({"limits": {"y": Limit(0.2, of_users=True)}}, "between 0.5 and 1"),
        ({"limits": {"y": Limit(float("nan"))}}, "give a number"),
    ],
)
def test_a_limit_or_quantile_that_means_nothing_is_named(tmp_path: Path, options: Any, message: str) -> None:
    path, _ = heavy(tmp_path)
    with pytest.raises(ConfigError, match=message):
        analyze(path, **options)


def test_a_missing_value_is_refused_with_a_limit_and_in_a_quantile_too(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"variant": VARIANTS, "y": [None, *VALUES[1:]], "z": VALUES}).to_parquet(path, index=False)
    for options in ({"limits": {"y": Limit(5.0)}}, {"metrics": ("z",), "quantiles": {"q": Quantile("y", 0.5)}}):
        with pytest.raises(DataError):
            analyze(path, **options)


@pytest.mark.parametrize("limit", [Limit(5.0), Limit(0.9, of_users=True)])
@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_a_value_that_is_no_finite_number_does_not_count_as_the_limit(
    tmp_path: Path, unknown: float, limit: Limit
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"variant": VARIANTS, "y": [unknown, *VALUES[1:]]}), path)
    with pytest.raises(DataError, match=r"not a finite number .*: y \(1 users\)"):
        analyze(path, limits={"y": limit})


@pytest.mark.parametrize("name", ["variant", "Variant"])
@pytest.mark.parametrize("kind", ["metric", "quantile", "segment"])
def test_a_column_that_would_be_taken_for_the_variant_is_named(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"arm": [0, 1] * 6, "y": VALUES, name: VALUES}), path)
    asked: dict[str, dict[str, Any]] = {
        "metric": {"metrics": (name,)},
        "quantile": {"quantiles": {"q": Quantile(name, 0.5)}},
        "segment": {"segments": (name,)},
    }
    with pytest.raises(ConfigError, match=f"a column named '{name}' cannot be a metric, covariate or segment"):
        analyze(path, variant="arm", control="0", **asked[kind])


def test_nan_is_no_user_no_variant_and_no_value_of_a_segment(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", n=[np.nan, *VALUES[1:]])
    for option in ("user", "variant"):
        with pytest.raises(DataError, match="1 rows have no n"):
            analyze(path, **{"control": "1.0", option: "n"})
    _, said = analyze(path, segments=("n",))
    assert "n = (no value) (1 and 0 users" in said[0]


@pytest.mark.parametrize(
    ("cells", "message"), [([], "has no rows"), (["", "", "NA", ""], r"not a finite number .*: y \(4 users\)")]
)
def test_without_a_value_there_is_no_quantile_that_limits(tmp_path: Path, cells: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        analyze(text(tmp_path, csv(cells)), limits={"y": Limit(0.9, of_users=True)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--quantile p90=y", "write NAME=COLUMN@SHARE"),
        ("--quantile p90=y@most", "'most' is not a number"),
        ("--metric y --cap y=1 --winsorize y=0.9", "'y' has a limit already"),
        ("--metric y --cap y=much", "'much' is not a number"),
    ],
)
def test_a_wrong_option_of_a_limit_or_quantile_says_its_form(tmp_path: Path, arguments: str, message: str) -> None:
    path, _ = heavy(tmp_path)
    with pytest.raises(ConfigError, match=message):
        cli.call(ab.app, ["analyze", str(path), "--variant", "variant", "--control", "a", *arguments.split()])


def test_nan_of_a_covariate_in_parquet_is_the_empty_cell_of_a_csv_file_and_infinity_is_refused(tmp_path: Path) -> None:
    before = [np.nan, 3.0, 1, 4, np.nan, 5, 9, 2, 6, np.nan, 5, 3]
    ours = parquet(tmp_path / "t.parquet", before=pa.array(np.array(before), from_pandas=False))
    cells = "".join(
        f"{variant},{value},{'' if np.isnan(x) else x}\n"
        for variant, value, x in zip(VARIANTS, VALUES, before, strict=True)
    )
    theirs = text(tmp_path, "variant,y,before\n" + cells)
    asked: dict[str, Any] = {"metrics": ("y",), "covariates": {"y": ("before",)}}
    assert analyze(ours, **asked) == analyze(theirs, **asked)
    for unknown, whose in ((np.inf, "before"), (-np.inf, "before")):
        path = parquet(tmp_path / "inf.parquet", before=[unknown, *before[1:]])
        with pytest.raises(DataError, match=rf"not a finite number .*: {whose} \(1 users\)"):
            analyze(path, **asked)
    with pytest.raises(DataError, match=r"not a finite number .*: before \(3 users\)"):
        analyze(ours, metrics=("before",))

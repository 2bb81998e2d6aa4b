"""Sums by the engine: exact, whatever the order of the users."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ab_analysis.moments import exact_sums, read_moments
from core.engine import engine
from core.errors import DataError
from core.settings import load_settings


def users(n: int = 5000, seed: int = 3) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "variant": rng.choice(["a", "b"], n),
            "group": rng.choice(["x", "y", "z"], n),
            "count": rng.poisson(5, n),
            "heavy": rng.lognormal(0, 2.5, n),
            "far": 1e9 + rng.normal(0, 1, n),
            "tiny": rng.normal(0, 1e-9, n),
            "zero": np.zeros(n),
        }
    )


def test_moments_agree_with_numpy_also_far_from_zero(tmp_path: Path) -> None:
    table = users()
    columns = ["count", "heavy", "far", "tiny", "zero"]
    with engine(load_settings(var=tmp_path)) as db:
        db.register("people", table)
        computed = read_moments(db, "people", ("variant", "group"), [columns]).of(variant="a")
    values = table.to_pandas().query("variant == 'a'")[columns].to_numpy(float)
    assert computed.count == len(values)
    order = [computed.at(c) for c in columns]
    np.testing.assert_allclose(computed.means[order], values.mean(axis=0), rtol=1e-12, atol=1e-20)
    expected = (values - values.mean(axis=0)).T @ (values - values.mean(axis=0))
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    scale[scale == 0] = 1
    np.testing.assert_allclose(
        computed.comoments[np.ix_(order, order)] / scale, expected / scale, atol=1e-8
    )  # a mean of 10⁹ has steps of 10⁻⁷


def test_sums_are_exact_and_the_same_in_every_order(tmp_path: Path) -> None:
    table = users()
    terms = [("count",), ("count", "count"), ("heavy", "far"), ("heavy",)]
    sums = []
    with engine(load_settings(var=tmp_path)) as db:
        for seed in range(3):
            db.register("people", table.take(np.random.default_rng(seed).permutation(len(table))))
            sums.append(exact_sums(db, "people", ("variant",), terms))
    assert sums[0] == sums[1] == sums[2]
    group = table.to_pandas().query("variant == 'b'")
    count, values = sums[0]["b",]
    assert count == len(group)
    assert values[:2] == [Fraction(int(group["count"].sum())), Fraction(int((group["count"] ** 2).sum()))]
    assert float(values[3]) == pytest.approx(group["heavy"].sum(), rel=1e-11)


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_what_is_no_number_is_named_with_how_many_users_have_it(tmp_path: Path, bad: float | None) -> None:
    table = pa.table({"variant": ["a", "b", "b"], "y": pa.array([1.0, bad, bad]), "x": [1, 2, 3]})
    with engine(load_settings(var=tmp_path)) as db:
        db.register("people", table)
        with pytest.raises(DataError, match=r"y \(2 users\)"):
            read_moments(db, "people", ("variant",), [("x", "y")])

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from core.errors import NotReadyError
from evaluation.drift import NONE, OTHERS, ColumnDrift, compare_days


def frame(share: float, shift: float, seed: int, rows: int = 1500) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "genre": rng.choice(["rock", "jazz"], rows, p=[share, 1 - share]),
            "mood": rng.choice(np.array(["calm", None]), rows),
            "played": rng.normal(shift, 1, rows),
        }
    )


def compare(tmp_path: Path, current: pd.DataFrame, reference: pd.DataFrame, **columns: Any) -> Any:
    chosen = columns or {"categorical": ["genre", "mood"], "numerical": ["played"]}
    return compare_days("2026-03-02", current, reference, html=tmp_path / "x.html", **chosen)


@pytest.mark.slow
def test_a_column_that_moved_is_found_and_comes_first(tmp_path: Path) -> None:
    same, columns = compare(tmp_path, frame(0.5, 0, 1), frame(0.5, 0, 2))
    assert same.drifted == ()
    assert [column.drifted for column in columns] == [False] * 3
    moved, columns = compare(tmp_path, frame(0.9, 2, 1), frame(0.5, 0, 2))
    assert moved.drifted == ("genre", "played")
    assert moved.share == pytest.approx(2 / 3)
    assert [column.name for column in columns if column.drifted] == [column.name for column in columns[:2]]
    for column in columns:
        below, distance = column.value < column.limit, "p_value" not in column.test
        assert column.drifted == (below != distance)


def shares(column: ColumnDrift) -> dict[str, tuple[float, float]]:
    return dict(zip(column.bins, zip(column.current, column.reference, strict=True), strict=True))


@pytest.mark.slow
def test_shares_of_values_and_ranges_are_those_of_all_rows_missing_ones_among_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    current = frame(0.7, 0, 1, 600).assign(n=rng.integers(0, 5, 600), many=rng.integers(0, 40, 600).astype(str))
    reference = frame(0.5, 1, 2, 600).assign(n=rng.integers(2, 7, 600), many=rng.integers(0, 40, 600).astype(str))
    current.loc[:99, "played"] = np.nan
    current, reference = (
        side.assign(large=side.n + 1_000_001, close=1_000_000 + rng.uniform(0, 100, 600))
        for side in (current, reference)
    )
    _, columns = compare(
        tmp_path, current, reference, categorical=["genre", "mood", "many"], numerical=["played", "n", "large", "close"]
    )  # fmt: skip
    by_name = {column.name: shares(column) for column in columns}
    for of_column in by_name.values():
        assert np.sum(list(of_column.values()), axis=0) == pytest.approx([1, 1])
    assert by_name["genre"]["rock"] == (
        pytest.approx((current.genre == "rock").mean()),
        pytest.approx((reference.genre == "rock").mean()),
    )
    assert by_name["mood"][NONE][0] == pytest.approx(current.mood.isna().mean())
    assert by_name["played"][NONE] == (pytest.approx(100 / 600), 0)
    assert by_name["n"]["6"] == (0, pytest.approx((reference.n == 6).mean()))
    assert list(by_name["n"]) == [str(n) for n in range(7)]
    assert list(by_name["large"]) == [str(1_000_001 + n) for n in range(7)]
    assert by_name["many"][OTHERS][0] > 0.3
    lowest, *_, highest = [name for name in by_name["played"] if name != NONE]
    assert lowest.startswith("under ")
    assert by_name["played"][highest][1] == pytest.approx(
        (reference.played >= float(highest.split()[0])).mean(), abs=0.005
    )


@pytest.mark.slow
def test_a_change_within_one_hour_of_day_is_found_in_that_hour(tmp_path: Path) -> None:
    def hours(share: float, seed: int) -> pd.DataFrame:
        parts = [frame(share if h == 9 else 0.5, 0, seed + h).assign(hour=h) for h in (8, 9)]
        return pd.concat([*parts, frame(0.5, 0, seed, 20).assign(hour=10)])

    drift, columns = compare_days(
        "2026-03-02", hours(0.9, 100), hours(0.5, 200), categorical=["genre", "mood"], numerical=["played"],
        html=tmp_path / "x.html", hour="hour",
    )  # fmt: skip
    assert drift.hours == {"08": (), "09": ("genre",)}
    assert {column.name: column.hours for column in columns} == {"genre": ("09",), "mood": (), "played": ()}


def test_too_few_rows_are_no_drift_report(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="50 on both sides"):
        compare_days(
            "2026-03-02",
            frame(0.5, 0, 1, 10),
            frame(0.5, 0, 2),
            categorical=["genre"],
            numerical=[],
            html=tmp_path / "x.html",
        )

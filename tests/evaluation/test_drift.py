from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from core.errors import NotReadyError
from evaluation.drift import drift_report


def frame(share: float, shift: float, seed: int, rows: int = 1500) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "genre": rng.choice(["rock", "jazz"], rows, p=[share, 1 - share]),
            "mood": rng.choice(np.array(["calm", None]), rows),
            "played": rng.normal(shift, 1, rows),
        }
    )


@pytest.mark.slow
def test_a_column_that_moved_is_found_and_the_page_is_written(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"categorical": ["genre", "mood"], "numerical": ["played"]}
    same = drift_report("2026-03-02", frame(0.5, 0, 1), frame(0.5, 0, 2), html=tmp_path / "same.html", **columns)
    moved = drift_report("2026-03-02", frame(0.9, 2, 1), frame(0.5, 0, 2), html=tmp_path / "moved.html", **columns)
    assert same.drifted == ()
    assert moved.drifted == ("genre", "played")
    assert moved.share == pytest.approx(2 / 3)
    assert "<html" in (tmp_path / "moved.html").read_text()[:2000]


@pytest.mark.slow
def test_a_change_within_one_hour_of_day_is_found_in_that_hour(tmp_path: Path) -> None:
    def hours(share: float, seed: int) -> pd.DataFrame:
        parts = [frame(share if h == 9 else 0.5, 0, seed + h).assign(hour=h) for h in (8, 9)]
        return pd.concat([*parts, frame(0.5, 0, seed, 20).assign(hour=10)])

    drift = drift_report(
        "2026-03-02", hours(0.9, 100), hours(0.5, 200), categorical=["genre", "mood"], numerical=["played"],
        html=tmp_path / "x.html", hour="hour",
    )  # fmt: skip
    assert drift.hours == {"08": (), "09": ("genre",)}


def test_too_few_rows_are_no_drift_report(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="50 on both sides"):
        drift_report(
            "2026-03-02",
            frame(0.5, 0, 1, 10),
            frame(0.5, 0, 2),
            categorical=["genre"],
            numerical=[],
            html=tmp_path / "x.html",
        )

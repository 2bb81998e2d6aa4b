"""The page of a day's drift."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from evaluation.drift import compare_days
from pages.drift import write_drift_page
from tests.browser import draw_charts, fits_every_screen, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def events(rows: int, jazz: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    genre = rng.choice(["jazz", "a genre with a name that is rather long <b>"], rows, p=[jazz, 1 - jazz])
    mood, hour = rng.choice(["calm", "wild"], rows), rng.integers(0, 24, rows)
    return pd.DataFrame({"genre": genre, "mood": mood, "played_seconds": rng.gamma(2, 60, rows), "hour": hour})


@pytest.mark.slow
def test_the_page_says_what_drifted_and_where_and_fits_every_screen(tmp_path: Path, chromium: Browser) -> None:
    comparison = compare_days(
        "2026-03-02", events(4000, 0.8, 1), events(9000, 0.4, 2), categorical=["genre", "mood"], numerical=["played_seconds", "hour"],
        html=tmp_path / "2026-03-02.html", hour="hour",
    )  # fmt: skip
    path = write_drift_page(comparison, "the days before", 0.2, tmp_path)
    assert path.stat().st_size < 700_000
    fits_every_screen(chromium, path)
    with opened(chromium, path) as page:
        draw_charts(page)
        assert (
            page.locator(".banner:not(.calm, .open)")
            .inner_text()
            .startswith("1 of 4 columns drifted: genre. That is 25%; above 20%")
        )
        assert page.locator("tbody tr").first.inner_text().split("\t")[0] == "genre"
        ends = []
        for _ in range(2):
            page.get_by_role("button", name="value").click()
            rows = page.locator("tbody tr")
            ends.append({rows.first.inner_text().split("\t")[0], rows.last.inner_text().split("\t")[0]})
        assert "genre" in ends[0] & ends[1]
        assert page.locator("h2", has_text="Within hours of the day").count() == 1
    with opened(chromium, path, scripts=False) as page:
        assert page.locator("figure svg:visible").count() == 2

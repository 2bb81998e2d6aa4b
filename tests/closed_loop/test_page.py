"""The closed loop's page, from a summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from closed_loop.page import write_loop_page
from closed_loop.summary import Estimate, LoopSummary, Traffic
from core.settings import load_settings
from evaluation.metrics import MetricValue
from tests.browser import draw_charts, fits_every_screen, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ARMS = ("hour_embedding", "matched_clock", "gaussian_clock")
OFFLINE = {name: MetricValue(0.7, (0.69, 0.71)) for name in ("auc", "uauc", "logloss")}
SUMMARY = LoopSummary(
    arms=ARMS, hours=("2026-03-02T00", "2026-03-16T00"), users=1200, traffic=Traffic(True, {"ok": 80_000}, 300),
    offline=dict.fromkeys(ARMS, OFFLINE),
    ab={
        "matched_clock": {
            "active_days": Estimate("cuped", 0.021, (0.004, 0.038), 0.01), "duration_hours": Estimate("cuped", 0.05, (0.03, 0.07), 0.0),
        },
        "gaussian_clock": {"likes": Estimate("welch", -0.01, (-0.03, 0.01), 0.4)},
    },
    sentence="Ship matched_clock.",
    truth={
        "matched_clock": {
            "active_days": {"mean": 3, "rel_effect": 0.015, "rel_se": 0.001},
            "duration_hours": {"mean": 3, "rel_effect": 0.11, "rel_se": 0.001},
        },
    },
    report=None, command="make loop", version="0.2.0",
)  # fmt: skip


@pytest.mark.slow
def test_the_page_shows_each_effect_with_its_truth_and_fits_every_screen(tmp_path: Path, chromium: Browser) -> None:
    settings = load_settings(var=tmp_path, source="loop")
    path = write_loop_page(settings, SUMMARY)
    fits_every_screen(chromium, path)
    with opened(chromium, path) as page:
        draw_charts(page)
        section = page.locator("section", has_text="Effects: estimated and true")
        assert page.locator(".banner").inner_text().endswith("1 of 2 intervals cover the truth.")
        cells = [row.inner_text().split("\t") for row in section.locator("tbody tr").all()]
        rows = [(arm, metric, covered) for arm, metric, *_, covered in cells]
        assert rows == [
            ("matched_clock", "active days", "yes"), ("matched_clock", "duration hours", "no"), ("gaussian_clock", "likes", "–"),
        ]  # fmt: skip
        assert section.locator("path[transform]").count() >= 5  # a dot for each estimate, a diamond for each truth


def test_a_loop_without_a_report_has_a_page_without_a_chart(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path, source="loop")
    path = write_loop_page(settings, replace(SUMMARY, ab={}, truth={}))
    text = path.read_text()
    assert "The truth was not simulated in this run." in text
    assert "<figure" not in text
    assert path.stat().st_size < 60_000

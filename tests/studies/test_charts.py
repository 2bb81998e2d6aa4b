"""Charts of the studies' pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.settings import load_settings
from studies.charts import curves, dots, forest, steps
from studies.paired import Figure
from studies.study import Section, Study
from tests.browser import draw_charts, fits_every_screen, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.slow
def test_each_kind_of_chart_is_drawn_with_more_names_than_colors(tmp_path: Path, chromium: Browser) -> None:
    names = [f"setting_{n}" for n in range(6)]
    figures = {name: Figure(n / 100, (n / 100 - 0.02, n / 100 + 0.02), 0.001) for n, name in enumerate(names)}
    lines = {name: [(0.25, figure), (4.0, figure)] for name, figure in figures.items()}
    pairs = {name: [(0.6, n), (0.61, n + 1)] for n, name in enumerate(names)}
    sections = [
        Section("Curves", "By σ.", charts=[curves(lines, "σ, hours", "AUC", "AUC by σ", log=True)]),
        Section("Forest", "Two sides.", charts=forest({"against none": figures, "against hour": figures}, "AUC")),
        Section("Dots", "Worlds.", charts=[dots(pairs, "AUC", "lift", "AUC and lift", "")]),
        Section("Steps", "Looks.", charts=[steps({"fixed": [None, 2.0, 1.96], "naive": [1.96] * 3}, "day", "limit", "Limits by day")]),
    ]  # fmt: skip
    path = Study(load_settings(var=tmp_path), "charts").write("All are drawn.", sections, {}, "make study")
    fits_every_screen(chromium, path)
    with opened(chromium, path) as page:
        draw_charts(page)
        assert page.locator("[data-chart] svg").count() == 5
        forests = page.locator("section", has=page.get_by_role("heading", name="Forest")).locator("[data-chart]")
        for of_side in forests.all():
            assert of_side.locator(".mark-symbol path").count() == len(names)

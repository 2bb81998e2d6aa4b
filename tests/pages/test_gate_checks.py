"""The gate's checks on one scale, and the pages that show them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.hours import Hour
from core.page_table import Cell, Row
from evaluation.gate_decision import GateCheck, GateDecision, ModelVersion
from pages.gate_checks import check_name, checks_table, margins, plain
from pages.rankers import write_gate_page
from tests.browser import fits_every_screen, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHECKS = (
    GateCheck("samples", True, 8023, 2000),
    GateCheck("users", False, 50, 100),
    GateCheck("calibration_error", True, 0.05, 0.2),
    GateCheck("auc_difference", True, 0.03, 0.0, (0.01, 0.05)),
    GateCheck("session_auc_difference", False, -0.02, -0.01, (-0.04, 0.0)),
    GateCheck("auc where local_hour = 3", True, 0.0, -0.005, (-0.03, 0.02)),
    GateCheck("auc where genre = jazz", False, -0.1, -0.02, (-0.12, -0.08)),
)


def test_a_margin_is_right_of_the_limit_exactly_where_the_figure_is_on_the_right_side_of_it() -> None:
    for check, margin in zip(CHECKS, margins(CHECKS), strict=True):
        right = check.value > check.limit if check.interval else check.passed
        assert (margin.value > 0) == right, check.name


def test_differences_share_one_unit_and_other_figures_are_measured_in_their_limits() -> None:
    samples, users, error, auc, session_auc, *_ = margins(CHECKS)
    assert (samples.value, users.value, error.value) == pytest.approx((1.0, -0.5, 0.75))
    unit = 0.1  # the interval that lies farthest from its limit: jazz, -0.12 from -0.02
    assert auc.value == pytest.approx(0.03 / unit)
    assert auc.interval == pytest.approx((0.01 / unit, 0.05 / unit))
    assert session_auc.interval == pytest.approx((-0.03 / unit, 0.01 / unit))


def test_a_check_whose_figure_is_not_known_fails_and_takes_no_other_ones_scale() -> None:
    unknown = GateCheck("uauc_difference", False, float("nan"), -0.01, (float("nan"), float("nan")))
    alone, *others = margins((unknown, *CHECKS))
    assert (alone.value, alone.interval) == (-1.0, None)
    assert others == margins(CHECKS)
    assert "nan" not in str(checks_table((unknown, *CHECKS)).__html__())


def test_failed_checks_come_first_and_then_those_nearest_to_their_limits() -> None:
    rows = [row for row in checks_table(CHECKS).rows if isinstance(row, Row)]
    assert [str(row.cells[0]) for row in rows] == [
        "AUC where genre = jazz", "users", "session AUC difference",
        "AUC where local hour = 3", "AUC difference", "calibration error", "samples",
    ]  # fmt: skip
    verdicts = [cell.text for row in rows if isinstance(cell := row.cells[-1], Cell)]
    assert verdicts == ["failed"] * 3 + ["passed"] * 4


def test_figures_have_decimals_only_where_they_mean_something() -> None:
    assert [plain(value) for value in (8023.0, 0, 0.03, -0.02)] == ["8,023", "0", "0.0300", "-0.0200"]
    assert [plain(value, trimmed=True) for value in (2000, 0.2, -0.005, 0.0)] == ["2,000", "0.2", "-0.005", "0"]
    assert check_name(CHECKS[4]) == "session AUC difference"
    assert check_name(GateCheck("uauc_difference", True, 0, 0)) == "UAUC difference"


@pytest.mark.slow
def test_the_gates_page_fits_every_screen_and_shows_what_failed_unfolded(tmp_path: Path, chromium: Browser) -> None:
    version = ModelVersion("12", "matched_clock", "2026-03-02T00")
    hourly = {f"2026-03-{day:02}T{hour:02}": (0.6 + hour / 1000, 0.59) for day in (1, 2) for hour in range(24)}
    decision = GateDecision(
        "keep", "A reason of some words. " * 6, version, version, ("2026-03-02T01",), CHECKS, None, hourly
    )
    path = write_gate_page(tmp_path / "gate.html", Hour.parse("2026-03-02T01"), decision)
    assert path.stat().st_size < 100_000
    fits_every_screen(chromium, path)
    with opened(chromium, path, 400) as page:
        assert page.get_by_text("AUC where genre = jazz").is_visible()
        assert not page.get_by_text("AUC where local hour = 3").is_visible()
        page.get_by_text("Slices that passed: 1").click()
        assert page.get_by_text("AUC where local hour = 3").is_visible()
        newest = page.locator("section", has_text="Hour by hour").locator("tbody tr").first
        assert newest.inner_text().split() == ["2026-03-02T23", "0.6230", "0.5900", "+0.0330"]

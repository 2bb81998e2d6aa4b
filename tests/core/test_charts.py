"""The scripts that draw charts: made once, kept beside the workspaces, the same wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import vl_convert
from jsonschema import ValidationError
from markupsafe import escape

from core import charts
from core.charts import Chart, chart_scripts
from core.vega import alt, inline_data
from tests.browser import has_valid_charts


def made_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As in a new process: the list gets what the scripts are made from, each time they are made."""
    charts._make_scripts.cache_clear()
    asked: list[str] = []
    make = vl_convert.javascript_bundle

    def counted(snippet: str) -> str:
        asked.append(snippet)
        return make(snippet)

    monkeypatch.setattr(vl_convert, "javascript_bundle", counted)
    return asked


def test_what_is_kept_is_read_back_and_what_is_damaged_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = chart_scripts(tmp_path)
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    asked = made_again(monkeypatch)
    assert chart_scripts(tmp_path) == first
    assert asked == []
    kept.write_bytes(whole[: len(whole) // 2])
    assert chart_scripts(tmp_path) == first
    assert len(asked) == 1
    assert kept.read_bytes() == whole


def test_nothing_is_kept_where_there_are_no_workspaces(tmp_path: Path) -> None:
    assert len(chart_scripts(tmp_path / "var")) > 100_000
    assert list(tmp_path.iterdir()) == []


def test_a_chart_that_is_not_vega_lites_is_found_in_its_page(tmp_path: Path) -> None:
    page, bars = tmp_path / "page.html", alt.Chart(inline_data([{"x": 1}])).mark_bar()
    page.write_text(escape(Chart(bars.encode(x=alt.X("x:Q", stack=None)), "A bar.")))
    has_valid_charts(page)
    unknown: Any = "up"
    page.write_text(escape(Chart(bars.encode(x=alt.X("x:Q", stack=unknown)), "A bar.")))
    with pytest.raises(ValidationError, match="'up'"):
        has_valid_charts(page)

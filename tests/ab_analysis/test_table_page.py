"""The page of a plain table: the figures of the rows, on every screen, for everybody."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ab_analysis.histograms import read_table_histograms
from clock.commands import ab
from core import cli
from core.engine import engine
from core.errors import ConfigError
from core.settings import load_settings
from tests.ab_analysis.helpers import people
from tests.ab_analysis.test_summaries import summary_of
from tests.browser import draw_charts, fits_every_screen, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser

METRICS = "--metric duration --metric days --covariate duration=duration_pre --ratio per_day=duration/days"


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))


def page_of(folder: Path, options: str, users: int = 3000, **changes: Any) -> tuple[Path, list[dict[str, Any]]]:
    """The page of a table, and its rows."""
    table, page, rows = folder / "t.csv", folder / "p.html", folder / "o.json"
    people(users=users).assign(**changes).to_csv(table, index=False)
    call = f"analyze {table} --variant variant --control a --html {page} --json {rows} {options}"
    assert cli.call(ab.app, call.split()) == 0
    return page, json.loads(rows.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        f"{METRICS} --segment group --correction holm --minimum-effect 0.05 --quantile p90=duration@0.9",
        "--metric days --alternative greater --lower-is-better days --segment group",
        "--metric days --sequential 9000 --cluster home",
    ],
)
def test_the_page_has_the_figures_of_the_rows_on_every_screen(tmp_path: Path, chromium: Browser, options: str) -> None:
    path, rows = page_of(tmp_path, options, home=lambda f: f.variant + (f.user % 50).astype(str))
    fits_every_screen(chromium, path)
    decides = {r["metric"]: r for r in rows if "segment" not in r}
    with opened(chromium, path) as page:
        draw_charts(page)
        cells = page.locator("#effects td:visible").all_inner_texts()
        for row in decides.values():
            assert f"{row['rel_effect']:+.2%}" in cells
            ends = row.get("adjusted_ci", row["rel_effect_ci"])
            assert " to ".join("∞" if end is None else f"{end:+.2%}" for end in ends) in cells
        assert page.locator("#effects tbody tr:not(.group)").count() == len(decides)
        metrics = len(re.findall("--metric", options))
        assert page.get_by_role("img", name="Distribution of").count() == metrics
    assert path.stat().st_size < 1.5e6


def test_what_should_go_down_is_better_when_it_does(tmp_path: Path) -> None:
    text = page_of(tmp_path, "--metric duration --lower-is-better duration")[0].read_text()
    assert "<strong>Worse</strong>: duration (b) +" in text
    assert "<strong>Better</strong>: duration (b) +" in page_of(tmp_path, "--metric duration")[0].read_text()
    with pytest.raises(ConfigError, match="--lower-is-better days: it is none of duration"):
        page_of(tmp_path, "--metric duration --lower-is-better days")


def test_a_value_beyond_all_measure_is_shown_as_it_is(tmp_path: Path) -> None:
    durations = people(users=400).duration
    durations[7] = 1e300
    path, (row,) = page_of(tmp_path, "--metric duration --minimum-effect 0.01", users=400, duration=durations)
    assert row["users_needed"] is None
    assert "Not shown to differ" in path.read_text()


def test_a_page_of_a_summary_adds_up_what_adds_up_and_defines_nothing(tmp_path: Path) -> None:
    summary_of(people()).to_csv(tmp_path / "s.csv", index=False)
    call = f"analyze {tmp_path}/s.csv --summary --variant variant --control a --metric days --metric per_day --html {tmp_path}/p.html"
    assert cli.call(ab.app, call.split()) == 0
    text = (tmp_path / "p.html").read_text()
    totals = re.findall(r'data-label="total"[^>]*>(.*?)</td>', text)
    assert [bool(total) for total in totals] == [True, False]
    assert "What the metrics are" not in text


def test_a_histogram_counts_every_user_once_also_below_zero(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"variant": ["a", "b"] * 500, "y": np.random.default_rng(3).normal(0, 1, 1000), "n": np.arange(1000) % 7}
    )
    frame.loc[0, "y"] = -1e6
    with engine(load_settings(var=tmp_path)) as db:
        db.register("table_users", pa.Table.from_pandas(frame))
        histograms = read_table_histograms(db, ("y", "n"))
    for histogram in histograms.values():
        assert [sum(users) for users in histogram.users.values()] == [500, 500]
    y, n = histograms["y"], histograms["n"]
    assert y.start == pytest.approx(frame.y.quantile(0.01))
    inner = frame[(frame.variant == "b") & (frame.y >= y.start + 5 * y.width) & (frame.y < y.start + 6 * y.width)]
    assert y.users["b"][5] == len(inner)
    assert (n.start, n.width, n.users["a"][:7]) == (
        0,
        1,
        frame[frame.variant == "a"].n.value_counts().sort_index().tolist(),
    )


@pytest.mark.parametrize("side", ["greater", "less"])
def test_segments_are_on_the_page_of_one_side_too(tmp_path: Path, side: str) -> None:
    def rows_of(options: str) -> list[list[str]]:
        text = page_of(tmp_path, f"--metric duration --segment group {options}")[0].read_text()
        (table,) = re.findall(r'<table[^>]*id="segments".*?</table>', text, re.DOTALL)
        return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in table.split("<tr")[2:]]

    both, one = rows_of("--confidence 0.9"), rows_of(f"--alternative {side}")
    assert both
    open_end, shared = ("∞", 0) if side == "greater" else ("−∞", 1)
    for two_sided, one_sided in zip(both, one, strict=True):
        assert one_sided[4] == two_sided[4]
        ends = one_sided[5].split(" to ")
        assert (ends[shared], ends[1 - shared]) == (two_sided[5].split(" to ")[shared], open_end)
        assert one_sided[8].split(" to ")[1 - shared] == open_end


def test_a_segment_without_a_lift_is_named(tmp_path: Path) -> None:
    change = np.random.default_rng(5).normal(0, 1, 3000)
    text = page_of(tmp_path, "--metric change --segment group", change=change)[0].read_text()
    named = re.findall(r"group = (\w+) \([^()]*: change cannot be compared by a lift\)", text)
    assert named == ["heavy", "light", "middle"]


def test_a_failed_check_comes_before_any_effect(tmp_path: Path) -> None:
    text = page_of(tmp_path, "--metric duration --shares a=3,b=1")[0].read_text()
    assert "Do not read the effects: Sample-ratio mismatch" in text
    assert "<strong>Better</strong>" not in text


def test_names_of_a_table_are_escaped(tmp_path: Path) -> None:
    odd = "<b>x</b>"
    table = people(users=500).rename(columns={"duration": odd})
    table.to_csv(tmp_path / "t.csv", index=False)
    call = [
        "analyze",
        tmp_path / "t.csv",
        "--variant",
        "variant",
        "--control",
        "a",
        "--html",
        tmp_path / "p.html",
        "--metric",
        odd,
    ]
    assert cli.call(ab.app, [str(part) for part in call]) == 0
    assert odd not in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("--html {0}/t.csv", "the command reads it"),
        ("--html /proc/nowhere/p.html", "cannot write '/proc/nowhere/p.html'"),
        ("--html {0}/o --json {0}/o", "--json and --html both name"),
    ],
)
def test_a_page_that_cannot_be_written_says_so_in_one_line(tmp_path: Path, outputs: str, message: str) -> None:
    people(users=50).to_csv(tmp_path / "t.csv", index=False)
    call = f"analyze {tmp_path}/t.csv --variant variant --control a --metric days {outputs.format(tmp_path)}"
    with pytest.raises(ConfigError) as caught:
        cli.call(ab.app, call.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-291, 1e291, 1.7e308])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1)])
def test_a_page_is_written_whatever_the_size_of_the_values(
    tmp_path: Path, scale: float, signs: tuple[int, int]
) -> None:
    rows = "".join(f"{'ab'[n % 2]},{signs[n % 4 // 2] * (1 - n / 200) * scale!r}\n" for n in range(100))
    (tmp_path / "t.csv").write_text("variant,y\n" + rows)
    call = f"analyze {tmp_path}/t.csv --variant variant --control a --metric y --html {tmp_path}/p.html"
    assert cli.call(ab.app, call.split()) == 0
    text = (tmp_path / "p.html").read_text()
    assert "Distribution of" not in text
    assert "<table" in text

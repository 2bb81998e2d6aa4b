"""The page of a clock: what it says is what the ranker's module weighs, in numbers and in the browser."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from core.hours import Hour
from core.page_table import Group, Row
from core.settings import Settings, load_settings
from events.ids import log_ids
from events.store import EventStore
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures
from pages import clocks
from pages.clock_charts import leaders
from pages.clock_dial import INNER_RING, RADIUS, RING, Hand, dial
from pages.clock_tables import changes_table, segments_table
from pages.clock_values import (
    NO_INTEREST,
    OTHERS,
    ClockSlot,
    FacetClock,
    OtherClock,
    busiest_time,
    day_clocks,
    window_curve,
    window_weights,
)
from pages.clocks import _slots, write_clock_page
from tests.browser import draw_charts, fits_every_screen, opened
from tests.conftest import TINY
from training.batch import Moment
from training.config import RankerConfig, load_ranker_config
from training.time_modules.base import slot_weights
from training.time_modules.matched import SLOTS_PRIOR

if TYPE_CHECKING:
    from playwright.sync_api import Browser

UNTIL = TINY.first_hour + 60
INNER_SECTORS = """([within, count]) => [...document.querySelectorAll(".facet [data-chart]")][0]
  .querySelectorAll(".layer_0_marks path").values().filter(
    path => [...path.getAttribute("d").matchAll(/A([\\d.]+)/g)].every(found => Number(found[1]) < within)).toArray().length === count"""
"""Whether the first dial has so many sectors within a radius."""


@pytest.fixture(scope="module")
def features(app_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> ClockFeatures:
    settings = load_settings(var=tmp_path_factory.mktemp("pages") / "var", source="simulator")
    shutil.copytree(app_settings.events_dir, settings.events_dir)
    advance(settings, UNTIL)
    return ClockFeatures(settings, EventStore(settings.events_dir))


@pytest.fixture(scope="module")
def user(features: ClockFeatures) -> int:
    return features.most_active(1)[0]


def slot(number: int, tops: dict[str, float], events: int = 9) -> ClockSlot:
    return ClockSlot(number, events, Hour(1), {"genre": list(tops.items())})


def weights_by_hand(rows: pa.Table, facet: str, hours: float, sigma: float) -> dict[str, float]:
    """Value → its weight, straight from the paper's formula."""
    weights: dict[str, float] = {}
    for row in rows.to_pylist():
        gap = abs(row["slot"] + 0.5 - hours)
        gap = min(gap, 24 - gap)
        weight = math.exp(-(gap**2) / (2 * sigma**2)) / math.sqrt(2 * math.pi * sigma**2)
        for value, score in zip(row[f"{facet}_values"], row[f"{facet}_scores"], strict=True):
            weights[value] = weights.get(value, 0.0) + weight * score / sum(row[f"{facet}_scores"])
    return weights


def seen_by_hand(features: ClockFeatures, user: int, hours: float, sigma: float) -> dict[str, dict[str, float]]:
    rows = features.get_clock([user], UNTIL)
    return {facet: weights_by_hand(rows, facet, hours, sigma) for facet in features.facets}


def sentence(weights: dict[str, float]) -> str:
    best = sorted(weights.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(f"{value}\u00a0{weight:.0%}" for value, weight in best if weight >= 0.005) or "nothing"


@pytest.mark.parametrize("minutes", [60, 30])
def test_the_window_weighs_slots_as_the_rankers_module_does(minutes: int) -> None:
    config = RankerConfig(variant="gaussian_clock", slot_minutes=minutes)
    for clock in (0, 510, 1435):
        moment = Moment(torch.tensor([clock], dtype=torch.int64))
        theirs = slot_weights(moment, config, 1.5)[0].numpy()
        assert window_weights(config, clock / 60, 1.5) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.slow
def test_what_the_page_says_of_a_user_is_the_papers_weighted_sum(features: ClockFeatures, user: int) -> None:
    config = load_ranker_config(features.settings, "gaussian_clock")
    slots = _slots(features, features.get_clock([user], UNTIL))
    (day,) = day_clocks(features.facets, config, slots, slots)
    weights = window_weights(config, 21.25, 1.0)
    by_hand = seen_by_hand(features, user, 21.25, 1.0)
    for facet in day.facets:
        shares = dict(zip(facet.values, weights @ facet.shares, strict=True))
        empty = shares.pop(NO_INTEREST, 0.0)
        assert shares == pytest.approx(by_hand[facet.name])
        assert empty + sum(shares.values()) == pytest.approx(weights.sum())


def test_a_value_has_one_color_on_every_page_and_two_values_never_share_one() -> None:
    config = RankerConfig(variant="gaussian_clock")
    everybody = [slot(8, {f"usual-{n:02d}": 100.0 - n for n in range(11)})]
    of_user = [
        slot(8, {"usual-10": 5.0, "usual-00": 4.0, "rare": 3.0}),
        slot(9, {f"odd-{n:02d}": 1.0 for n in range(12)}),
    ]
    (theirs,), (all_days,) = (
        [f for d in day_clocks(["genre"], config, s, everybody) for f in d.facets] for s in (of_user, everybody)
    )
    usual = dict(zip(all_days.values, all_days.colors, strict=True))
    colors = dict(zip(theirs.values, theirs.colors, strict=True))
    assert {"usual-10", "usual-00", "rare", OTHERS} <= set(colors)
    assert {name: colors[name] for name in ("usual-10", "usual-00")} == {
        name: usual[name] for name in ("usual-10", "usual-00")
    }
    named = [color for name, color in colors.items() if name not in {OTHERS, NO_INTEREST}]
    assert len(named) == len(set(named)) == 12


def test_weekends_have_dials_of_their_own_where_their_clock_is_kept_apart() -> None:
    config = RankerConfig(variant="gaussian_clock", split_weekend=True)
    slots = [slot(8, {"work": 2.0}), slot(24 + 8, {"rest": 2.0})]
    days = {day.name: day.facets[0] for day in day_clocks(["genre"], config, slots, slots)}
    weights = window_weights(config, 8.5, 1.0)
    assert {name: [value for value, _ in facet.seen(weights, 3)] for name, facet in days.items()} == {
        "working days": ["work"], "weekends": ["rest"],
    }  # fmt: skip


def arcs(drawing: str) -> list[tuple[float, float]]:
    """Radii of every sector of a drawing's clocks, outside first."""
    (sectors,) = re.findall(r'<g class="mark-arc role-mark layer_0_marks".*?</g>', drawing)
    paths = re.findall(r' d="([^"]+)"', sectors)
    return [tuple(sorted({float(r) for r in re.findall(r"A([\d.]+)", path)}, reverse=True)) for path in paths]  # type: ignore[misc]


def test_equal_shares_take_equal_areas_in_both_rings_and_hours_without_events_are_one_sector() -> None:
    config = RankerConfig(variant="gaussian_clock")
    shares = np.zeros((24, 4))
    shares[:, 3] = 1
    shares[3] = [0.25, 0.5, 0.25, 0]
    facet = FacetClock("genre", ("a", "b", "c", NO_INTEREST), (0, 1, 2, 13), shares, shares, (shares[::-1],))
    drawing = str(dial(facet, 0, ["everybody"], config, Hand(510, 1.0), "in words").__html__())
    drawn = [(outer / RADIUS, inner / RADIUS) for outer, inner in arcs(drawing)]
    for inner, outer in (RING, INNER_RING):
        ring = [(low, high) for high, low in drawn if inner - 1e-3 <= low < high <= outer + 1e-3]
        areas = [(high**2 - low**2) / (outer**2 - inner**2) for low, high in ring]
        assert sorted(areas) == pytest.approx([0.25, 0.25, 0.5, *[1.0] * 23], abs=1e-3), (inner, outer)
        largest = max((area, high) for area, (_, high) in zip(areas, ring, strict=True) if area < 0.9)
        assert largest == pytest.approx((0.5, outer), abs=1e-3)
    assert 'aria-label="in words"' in drawing
    assert ">08:30<" in drawing


def test_the_window_is_one_at_its_middle_and_falls_by_its_width_on_both_sides_of_midnight() -> None:
    curve = window_curve(0.0, 2.0)
    times = (np.arange(len(curve)) + 0.5) * 24 / len(curve)
    assert curve[[0, -1]] == pytest.approx(1.0, abs=1e-3)
    for at in (2.0, 22.0):
        assert np.interp(at, times, curve) == pytest.approx(math.exp(-0.5), abs=1e-3)


def test_the_hand_stands_in_the_busiest_hour_at_first() -> None:
    slots = [slot(8, {"work": 2.0}, 5), slot(9, {"work": 2.0}, 7), slot(24 + 8, {"rest": 2.0}, 4)]
    assert busiest_time(slots, RankerConfig(variant="gaussian_clock", split_weekend=True)) == "08:30"
    assert busiest_time(slots[:2], RankerConfig(variant="gaussian_clock", slot_minutes=30)) == "04:45"


def test_the_value_that_leads_each_hour_has_its_color_in_every_row() -> None:
    config = RankerConfig(variant="gaussian_clock")
    now, then = [slot(8, {"news": 2.0, "jazz": 1.0}), slot(9, {"jazz": 3.0})], [slot(8, {"jazz": 1.0})]
    (day,) = day_clocks(["genre"], config, now, now, [OtherClock("a week ago", then, past=True)])
    view = leaders(day.facets[0], 0, "genre", [("a week ago", then), ("now", now)], config)
    spec = view.chart.drawing.to_dict()
    rows = {(row["clock"], row["slot"]): row["value"] for row in spec["data"]["values"]}
    assert len(rows) == 48
    assert {key: value for key, value in rows.items() if value != NO_INTEREST} == {
        ("a week ago", 8): "jazz", ("now", 8): "news", ("now", 9): "jazz",
    }  # fmt: skip
    scale = spec["encoding"]["color"]["scale"]
    assert set(scale["domain"]) == {"jazz", "news", NO_INTEREST} == {value for value, _ in view.key}
    assert len(set(scale["range"])) == 3


def test_a_segment_has_its_users_events_busiest_hour_and_leading_values() -> None:
    everybody = OtherClock("everybody", [slot(8, {"jazz": 6.0}, 20), slot(9, {"rock": 2.0}, 30)], users=7)
    heavy = OtherClock("heavy users", [slot(8, {"jazz": 3.0, "rock": 1.0}, 12)], users=2)
    rows = segments_table(["genre"], RankerConfig(variant="gaussian_clock"), [everybody, heavy]).rows
    texts = [[getattr(cell, "text", cell) for cell in row.cells] for row in rows if isinstance(row, Row)]
    assert texts == [
        ["everybody", "7", "50", "09:00", "jazz\u00a075%, rock\u00a025%"],
        ["heavy users", "2", "12", "08:00", "jazz\u00a075%, rock\u00a025%"],
    ]


def test_hours_whose_leader_changed_are_listed_by_facet_and_others_are_not() -> None:
    config = RankerConfig(variant="gaussian_clock")
    before = [slot(8, {"news": 2.0}), slot(9, {"jazz": 5.0, "rock": 4.0}), slot(10, {"jazz": 1.0})]
    now = [slot(8, {"news": 9.0, "jazz": 1.0}), slot(9, {"rock": 6.0, "jazz": 5.0}), slot(11, {"soul": 1.0})]
    others = [OtherClock("everybody", now, past=False), OtherClock("a week ago", before, past=True)]
    table = changes_table(["genre"], config, now, others)
    assert table is not None
    assert [column.label for column in table.columns] == ["hour", "a week ago", "now"]
    group, *rows = table.rows
    assert group == Group("genre: another leads in 3 of 4 hours with an interest")
    assert [row.cells for row in rows if isinstance(row, Row)] == [
        ["09:00", "jazz", "rock"], ["10:00", "jazz", "no interest"], ["11:00", "no interest", "soul"],
    ]  # fmt: skip
    assert changes_table(["genre"], config, now, others[:1]) is None


def shares_by_hand(rows: pa.Table, facet: str) -> dict[str, float]:
    """Value → its share of the one slot's scores; none where it has no events."""
    return {
        value: score / sum(row[f"{facet}_scores"])
        for row in rows.to_pylist()
        for value, score in zip(row[f"{facet}_values"], row[f"{facet}_scores"], strict=True)
    }


def lifts_by_hand(rows: pa.Table, facet: str, hours: float) -> str:
    """How many times as often as all day the matched clock's formula has each value in its first window, in words."""
    all_day: dict[str, float] = {}
    now: dict[str, float] = {}
    events = events_now = 0.0
    for row in rows.to_pylist():
        gap = abs(row["slot"] + 0.5 - hours)
        weight = 24 * math.exp(-(min(gap, 24 - gap) ** 2) / 2) / math.sqrt(2 * math.pi)
        events += row["events"]
        events_now += weight * row["events"]
        for value, score in zip(row[f"{facet}_values"], row[f"{facet}_scores"], strict=True):
            all_day[value] = all_day.get(value, 0.0) + score
            now[value] = now.get(value, 0.0) + weight * score
    user = {value: score / events for value, score in all_day.items()}
    lifts = {
        value: (now[value] + SLOTS_PRIOR * user[value]) / (events_now + SLOTS_PRIOR) / user[value] for value in user
    }
    best = sorted(lifts.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(f"{value}\u00a0×{lift:.1f}" for value, lift in best if lift >= 1.05) or "nothing"


@pytest.mark.slow
def test_each_time_module_is_said_to_see_what_its_formula_gives_at_the_chosen_time(
    features: ClockFeatures, user: int, chromium: Browser
) -> None:
    rows = features.get_clock([user], UNTIL)
    with opened(chromium, write_clock_page(features, user, "08:30")) as page:
        for hours in (8.5, 20.75):
            page.locator("#time").fill(str(int(hours * 60)))
            slot = rows.filter(pc.equal(rows["slot"], int(hours)))
            expected = {
                "naive_clock": [sentence(shares_by_hand(slot, f)) for f in features.facets],
                "gaussian_clock": [sentence(weights_by_hand(rows, f, hours, 1.0)) for f in features.facets],
                "matched_clock": [lifts_by_hand(rows, f, hours) for f in features.facets],
            }
            for variant, texts in expected.items():
                assert page.locator(f"[data-module={variant}]").all_inner_texts() == texts, (variant, hours)


def sectors(rows: pa.Table, facet: str) -> int:
    """Parts of all slots of a ring: the values that are drawn, and a slot without any."""
    slots = {row["slot"]: [s / sum(row[f"{facet}_scores"]) for s in row[f"{facet}_scores"]] for row in rows.to_pylist()}
    return sum(sum(share > 0.005 for share in slots.get(number, [])) or 1 for number in range(24))


@pytest.mark.slow
def test_the_inner_ring_shows_everybody_or_the_users_own_clock_of_the_past(
    features: ClockFeatures, user: int, chromium: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "PAST_DAYS", {1: "a day ago"})
    then = UNTIL - 24
    past = features.historical(pa.table({"user_id": [user], "hour": [then.number]})).slots
    marks = {"everybody": features.population(UNTIL), "a day ago": past}
    with opened(chromium, write_clock_page(features, user, "21:15")) as page:
        card = page.locator(".facet").first
        facet = features.facets[0]
        draw_charts(page)
        for number, (name, rows) in enumerate(marks.items()):
            page.get_by_label("Compare with").select_option(name)
            page.wait_for_function(INNER_SECTORS, arg=[RADIUS * 0.44, sectors(rows, facet)], timeout=10_000)
            assert page.evaluate("location.hash") == ("" if number == 0 else f"#compared={number}")
            weights = weights_by_hand(rows, facet, 21.25, 1.0)
            for row in card.locator(".legend li").all():
                value = row.locator(".name").inner_text()
                mark = row.locator(".bar i").evaluate("e => Number(e.style.getPropertyValue('--share'))")
                if value not in {OTHERS, NO_INTEREST}:
                    assert mark == pytest.approx(weights.get(value, 0.0), abs=1e-3), (name, value)


@pytest.mark.slow
def test_the_list_of_clocks_finds_a_user_by_the_logs_id_and_says_how_to_draw_another(
    features: ClockFeatures, chromium: Browser
) -> None:
    first, second = features.most_active(2)
    names = log_ids(features.events.root, "user", [first, second])
    for number in (first, second, None):
        path = write_clock_page(features, number)
    fits_every_screen(chromium, path.parent / "index.html")
    with opened(chromium, path.parent / "index.html", 400, follow=True) as page:
        field = page.get_by_label("Find a user")
        links = page.locator("tbody a:visible")
        assert links.all_inner_texts() == ["everybody", *sorted(names.values())]
        field.fill(names[second])
        assert links.all_inner_texts() == [names[second]]
        field.fill("Ann O'Neill")
        assert links.count() == 0
        command = shlex.split(page.locator("code").inner_text())
        assert command == ["clock", "features", "page", "Ann O'Neill", "--source", "simulator"]
        field.fill(names[first])
        links.click()
        assert page.locator("h1").inner_text() == f"Interest clock of user {names[first]}"


@pytest.mark.slow
def test_the_hand_turns_by_keyboard_and_pointer_and_the_page_says_what_is_seen_then(
    features: ClockFeatures, user: int, chromium: Browser
) -> None:
    path = write_clock_page(features, user, "08:30")
    with opened(chromium, path) as page:
        said = page.locator("[data-seen]")

        def expected(hours: float, sigma: float) -> list[str]:
            return [sentence(weights) for weights in seen_by_hand(features, user, hours, sigma).values()]

        assert said.all_inner_texts() == expected(8.5, 1.0)
        page.locator("#time").focus()
        for _ in range(15):
            page.keyboard.press("ArrowRight")
        assert said.all_inner_texts() == expected(9.75, 1.0)
        assert page.locator("#time").get_attribute("aria-valuetext") == "09:45"
        page.locator("#sigma").focus()
        page.keyboard.press("End")
        assert said.all_inner_texts() == expected(9.75, 6.0)
        draw_charts(page)
        face = page.locator(".dial [data-chart]").first
        face.scroll_into_view_if_needed()
        box = face.bounding_box()
        assert box is not None
        center = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.move(center[0] + 60, center[1])
        page.mouse.down()
        page.mouse.move(center[0], center[1] + 60)
        assert page.locator("[data-moment]").first.inner_text() == "12:00"
        page.mouse.move(center[0] - 60, center[1])
        page.mouse.up()
        assert page.locator("[data-moment]").first.inner_text() == "18:00"
        assert said.all_inner_texts() == expected(18.0, 6.0)
        page.wait_for_function("document.querySelector('.dial svg').textContent.includes('18:00σ 6 h')")
        sent = page.evaluate("location.hash")
    with opened(chromium, path, fragment=sent) as page:
        assert page.locator("[data-seen]").all_inner_texts() == expected(18.0, 6.0)


@pytest.mark.slow
def test_clock_pages_fit_every_screen_and_are_small_and_read_without_scripts(
    features: ClockFeatures, user: int, chromium: Browser
) -> None:
    for path in (write_clock_page(features, user, "08:30"), write_clock_page(features, None, "08:30")):
        assert path.stat().st_size < 1_000_000
        fits_every_screen(chromium, path)
        with opened(chromium, path, scripts=False) as page:
            assert page.locator("#time").is_hidden()
            assert page.locator(".dial svg").count() == len(features.facets)
            assert "08:30" in str(page.locator(".dial svg").first.text_content())
            assert page.locator(".legend data").first.is_visible()

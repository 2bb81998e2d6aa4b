"""The first page: what is fresh, what needs a person, what changed on the log's last day."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ab_analysis.changes import ExperimentChange, record_change
from core.files import write_json
from core.hours import Hour
from core.settings import Settings, load_settings
from events.store import EventStore
from model_registry.registry import CANDIDATE, CHAMPION, Move
from model_registry.store import moves_file
from pages.home import Home, Notice, look
from pages.index import write_index
from tests.browser import fits_every_screen, opened
from tests.conftest import TINY, workspace_of_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def last(app_events: EventStore) -> Hour:
    """The log's newest hour."""
    return app_events.hours()[-1]


@pytest.fixture
def workspace(app_settings: Settings, tmp_path: Path) -> Settings:
    """The tiny app's events, and nothing made of them yet."""
    return workspace_of_app(app_settings, tmp_path / "var")


def write_moves(settings: Settings, *moves: Move) -> None:
    path = moves_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(move)) + "\n" for move in moves))


def move(alias: str, version: str, hour: Hour) -> Move:
    return Move(alias, version, None, "it is better.", "2026-03-09T00:00:00+00:00", hour.key)


def decide(settings: Settings, hour: Hour, verdict: str, version: str, reason: str = "Because.") -> None:
    content = {"verdict": verdict, "reason": reason, "candidate": {"version": version, "variant": "matched_clock"}}
    write_json(settings.reports_dir / "gate" / f"{hour.key}.json", content)


def text_of(notices: list[Notice]) -> str:
    return "\n".join(f"{n.subject}: {n.text}" for n in notices)


def home(settings: Settings) -> Home:
    return look(settings, TINY.end_hour)


def test_what_follows_every_hour_is_late_after_an_hour_and_the_champion_never(workspace: Settings, last: Hour) -> None:
    write_moves(workspace, move(CHAMPION, "1", last - 40), move(CANDIDATE, "2", last - 1))
    decide(workspace, last - 3, "wait", "2")
    page = home(workspace)
    assert {row.what: (row.behind, row.is_late) for row in page.freshness} == {
        "events": (0, False), "clocks": (None, False), "candidate (matched clock)": (1, False), "champion's promotion": (40, False),
        "gate": (3, True), "pages of clocks": (None, False), "drift": (None, False), "experiments": (None, False),
    }  # fmt: skip
    assert text_of(page.needs) == "gate: 3 hours behind"


def test_a_live_source_is_late_by_the_wall_clock_and_a_replayed_log_is_not(workspace: Settings, last: Hour) -> None:
    live = load_settings(var=workspace.var, source="simulator", live=True)
    assert text_of(look(live, last + 8).needs) == "events: 7 hours behind"
    assert look(workspace, last + 8).needs == []


def test_a_decision_waits_for_a_person_until_its_candidate_is_champion(workspace: Settings, last: Hour) -> None:
    decide(workspace, last, "needs_person", "7", "Too much drift.")
    (notice,) = home(workspace).needs
    assert notice.subject == "approval"
    assert "matched_clock (version 7)" in notice.text
    assert "Too much drift." in notice.text
    assert notice.link == f"gate/{last.key}.html"
    write_moves(workspace, move(CANDIDATE, "7", last), move(CHAMPION, "7", last))
    assert home(workspace).needs == []


def test_only_what_happened_on_the_last_day_is_told_as_changed(workspace: Settings, last: Hour) -> None:
    write_moves(workspace, move(CHAMPION, "1", last - 48), move(CHAMPION, "2", last), move(CANDIDATE, "3", last))
    for hour, verdict in ((last - 48, "refuse"), (last - 1, "wait"), (last, "promote")):
        decide(workspace, hour, verdict, "2", f"{verdict} now.")
    changes = text_of(home(workspace).changes)
    assert "version 2. it is better." in changes
    assert "gate: 2 decisions: promote 1, wait 1. Last: promote now." in changes
    assert "version 1" not in changes
    assert "refuse" not in changes


def write_experiment(settings: Settings, name: str, first: Hour, last: Hour, more: str = "") -> None:
    settings.experiments_dir.mkdir(parents=True, exist_ok=True)
    (settings.experiments_dir / f"{name}.yaml").write_text(
        f"name: {name}\nvariants: {{a: 0.5, b: 0.5}}\ncontrol: a\nstart: {first.day}\nend: {last.day}\nprimary: [finish_rate]\n{more}"
    )


def report(settings: Settings, name: str, until: Hour, verdict: str, sentence: str) -> None:
    about = {"hypothesis": "", "owner": "", "start": "2026-03-01", "end": None, "primary": ["finish_rate"]}
    content = {
        "experiment": name, "until": until.key, "users": {"a": 5, "b": 5}, "about": about, "checks": [], "results": [],
        "decision": {"verdict": verdict, "sentence": sentence, "variant": "b"},
    }  # fmt: skip
    write_json(settings.reports_dir / "ab" / name / f"{until.key}.json", content)


def test_experiments_ask_a_person_until_they_are_concluded(workspace: Settings, last: Hour) -> None:
    first, end = last - 48, last + 1
    write_experiment(workspace, "over", first, last - 24)
    write_experiment(workspace, "done", first, last - 24, "conclusion: {outcome: shipped, note: it was better}\n")
    write_experiment(workspace, "harms", first, last + 240)
    write_experiment(workspace, "runs", first, last + 240)
    for name in ("over", "done", "runs"):
        report(workspace, name, end - 24, "keep_running", "Keep running.")
    report(workspace, "harms", end - 24, "stop", "Stop: fewer finish.")
    report(workspace, "removed", end - 24, "ship", "Ship: more finish.")
    (workspace.experiments_dir / "typo.yaml").write_text("name: typo\nvariant: {}\n")
    needs = {notice.subject: notice.text for notice in look(workspace, end).needs}
    assert set(needs) == {"typo", "over", "harms"}
    assert "its file is wrong" in needs["typo"]
    assert needs["over"] == "has ended and waits for a conclusion. Keep running."
    assert needs["harms"] == "Stop: fewer finish."


def test_what_people_did_to_experiments_is_told_for_a_day(workspace: Settings, last: Hour) -> None:
    write_experiment(workspace, "tried", last - 24, last + 240)
    at = (last - 3).start.isoformat(timespec="seconds")
    change = ExperimentChange(at, "ann", "extended", "too few users", "running", ["end"], {})
    record_change(workspace.experiments_dir, change, "tried")
    told = "tried: extended by ann: too few users"
    assert told in text_of(look(workspace, last).changes)
    assert told not in text_of(look(workspace, last + 24).changes)


def test_a_source_without_events_says_what_to_do(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="simulator")
    assert "none yet: ingest a log" in Path(write_index(settings)).read_text()


@pytest.mark.slow
def test_the_first_page_fits_every_screen(workspace: Settings, last: Hour, chromium: Browser) -> None:
    write_moves(workspace, move(CANDIDATE, "2", last), move(CHAMPION, "2", last))
    for number in range(12):
        decide(
            workspace,
            last - number,
            "keep" if number % 2 else "wait",
            "2",
            "A reason that takes some words to be said. " * 4,
        )
    path = Path(write_index(workspace))
    fits_every_screen(chromium, path)
    with opened(chromium, path) as page:
        assert "Everything is fresh" in page.locator(".banner").inner_text()
        assert page.get_by_text("more decisions").is_visible()
        assert re.search(r"Written [\d-]+ [\d:]+ UTC \(\d+ minutes? ago\)", page.locator(".facts").first.inner_text())

"""Pages of a workspace with a champion: the scores on a user's clock are the ranking service's, the model's page."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from core.files import write_json
from core.settings import Settings
from evaluation.gate_decision import GateDecision, ModelVersion
from events.ids import log_ids
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures
from model_registry.registry import CHAMPION
from model_registry.store import open_registry
from pages.clock_items import TIMES, champion_scores
from pages.clocks import write_clock_page
from pages.rankers import write_model_page
from pipeline.promotion import VersionScores
from serving.engine import RankingEngine
from serving.stages import RankRequest
from tests.browser import draw_charts, fits_every_screen, opened
from tests.pages.test_gate_checks import CHECKS
from tests.serving.conftest import UNTIL

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def features(served: Settings) -> ClockFeatures:
    return ClockFeatures(served, EventStore(served.events_dir))


def judge_champion(settings: Settings) -> None:
    """Score an hour by the champion, as the gate does, which downloads it."""
    champion = open_registry(settings).get(CHAMPION)
    assert champion is not None
    VersionScores(settings).read(str(champion.version), UNTIL - 1)


@pytest.mark.slow
def test_the_pages_scores_are_those_of_the_ranking_service(served: Settings, features: ClockFeatures) -> None:
    user = features.most_active(1)[0]
    assert champion_scores(features, user, UNTIL) is None
    judge_champion(served)
    champion = champion_scores(features, user, UNTIL)
    assert champion is not None
    assert champion.variant == "matched_clock"
    engine = RankingEngine(served, log_requests=False)
    try:
        engine.refresh()
        names = tuple(item.item for item in champion.items)
        for number in (0, 17, 47):
            later = (number * 1440 // TIMES - UNTIL.number * 60) % 1440
            at = UNTIL.start + timedelta(minutes=later)
            name = log_ids(served.events_dir, "user", [user])[user]
            request = RankRequest("page", name, at, UNTIL.number * 60 + later, names, len(names))
            answer = engine.rank(request)
            ours = {item.item: item.scores[number] for item in champion.items}
            assert dict(zip(answer.items, answer.scores, strict=True)) == pytest.approx(ours)
    finally:
        engine.close()


@pytest.mark.slow
def test_items_are_in_the_order_of_their_scores_at_the_chosen_time(
    served: Settings, features: ClockFeatures, chromium: Browser
) -> None:
    judge_champion(served)
    user = features.most_active(1)[0]
    path = write_clock_page(features, user)
    champion = champion_scores(features, user, UNTIL)
    assert champion is not None
    fits_every_screen(chromium, path)
    with opened(chromium, path) as page:
        draw_charts(page)
        rows, lines = page.locator("tr:has([data-item])"), page.locator(".mark-line path")
        strong = "all => all.filter(e => Number(e.getAttribute('opacity') ?? 1) === 1).length"
        assert lines.evaluate_all(strong) == len(champion.items) == rows.count()
        rows.nth(1).hover()
        page.wait_for_function(f"({strong})([...document.querySelectorAll('.mark-line path')]) === 1")
        for minutes in (510, 1260, 60):
            page.locator("#time").fill(str(minutes))
            best = sorted(champion.items, key=lambda item: -item.scores[minutes // 30])
            assert page.locator("[data-score]").all_inner_texts() == [
                f"{item.scores[minutes // 30]:.3f}" for item in best
            ]


@pytest.mark.slow
def test_the_models_page_tells_the_last_decision_and_shows_the_checks_of_the_last_one_with_figures(
    served: Settings, chromium: Browser
) -> None:
    version = ModelVersion("2", "matched_clock", UNTIL.key)
    judged = GateDecision("keep", "It is not better.", version, version, (UNTIL.key,), CHECKS)
    waits = GateDecision("wait", "1 of 4 hours have been seen.", version, version, (UNTIL.key,))
    for hour, decision in ((UNTIL, judged), (UNTIL + 1, waits)):
        write_json(served.reports_dir / "gate" / f"{hour.key}.json", decision.as_json())
    path = write_model_page(served)
    fits_every_screen(chromium, path)
    with opened(chromium, path) as page:
        assert "wait. 1 of 4 hours have been seen." in page.locator(".banner").inner_text()
        assert page.get_by_role("heading", name=f"Checks of {UNTIL}").is_visible()
        aliases = page.locator("section", has=page.get_by_role("heading", name="Versions")).locator("tbody tr")
        assert [row.split()[0] for row in aliases.all_inner_texts()] == ["champion", "challenger", "candidate"]
        champion = open_registry(served).get(CHAMPION)
        assert champion is not None
        link = str(aliases.first.locator("a").first.get_attribute("href"))
        assert link.endswith(f"/#/models/simulator-ranker/versions/{champion.version}")
        run, trained, events = (
            aliases.first.get_by_role("link", name=name, exact=True) for name in ("training run", "trained", "events")
        )
        assert str(run.get_attribute("href")).endswith(f"/runs/{champion.run_id}")
        assert f"/dags/train_ranker/runs?partition_key_pattern={champion.tags['hour']}" in str(
            trained.get_attribute("href")
        )
        assert "/dags/ingest_hour/runs?" in str(events.get_attribute("href"))
        first = (
            page.locator("section", has=page.get_by_role("heading", name="Checks of"))
            .locator("tbody tr")
            .first.inner_text()
        )
        assert "AUC where genre = jazz" in first
        assert "failed" in first

"""Experiments of a workspace: which are due, whole pages of past days, alerts, the index."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ConfigError
from core.files import read_json
from core.hours import Hour
from core.settings import Settings, load_settings
from pages.index import write_index
from pipeline.reports import due_experiments, past_reports, report_experiment
from simulation.workspace import write_experiment
from tests.conftest import TINY, webhook, workspace_of_app, write_app

END = TINY.end_hour


@pytest.fixture
def workspace(app_settings: Settings, tmp_path: Path) -> Settings:
    """The tiny app's events with separate experiments."""
    settings = workspace_of_app(app_settings, tmp_path / "var")
    write_app(settings.workspace, TINY)
    write_experiment(settings, END)
    return settings


def add(settings: Settings, stem: str, **content: Any) -> Path:
    path = settings.experiments_dir / f"{stem}.yaml"
    base = {"name": stem, "variants": {"a": 1, "b": 1}, "control": "a", "start": "2026-03-04"}
    path.write_text(yaml.safe_dump({**base, **content}))
    return path


@pytest.mark.slow
def test_a_new_file_is_found_and_one_that_has_ended_is_reported_once_more(workspace: Settings) -> None:
    add(workspace, "later", start="2026-05-01")
    add(workspace, "ran", end="2026-03-04")
    assert due_experiments(workspace, END) == ["clock_ranker", "ran"]
    assert due_experiments(workspace, Hour.parse("2026-03-03T00")) == []
    written = report_experiment(workspace, "clock_ranker", END)
    assert str(written.report).endswith(f"{END.key}.html")
    assert due_experiments(workspace, END) == ["clock_ranker", "ran"]  # its last day may be reported again
    assert due_experiments(workspace, END + 24) == ["ran"]  # the final report stands


def test_an_experiment_nobody_met_yet_says_so_and_has_no_page(workspace: Settings) -> None:
    add(workspace, "lonely")
    written = report_experiment(workspace, "lonely", END)
    assert written.report is None
    assert "nobody was exposed to 'lonely'" in written.sentence


def test_past_days_are_listed_up_to_the_end(workspace: Settings) -> None:
    days = date(2026, 3, 2), date(2026, 3, 9)
    due = past_reports(workspace, "clock_ranker", *days)
    assert [r.until for r in due] == ["2026-03-04T00", "2026-03-05T00", "2026-03-06T00"]
    assert past_reports(workspace, None, *days) == due
    with pytest.raises(ConfigError, match="lies before the first"):
        past_reports(workspace, None, days[1], days[0])
    with pytest.raises(ConfigError, match="no experiment 'other'"):
        past_reports(workspace, "other", *days)


@pytest.mark.slow
def test_an_experiment_that_is_wrong_fails_by_name_and_the_others_are_reported(workspace: Settings) -> None:
    add(workspace, "misnamed", name="another")
    (workspace.experiments_dir / "damaged.yaml").write_text("name: [\n")
    for name, start in (("low", 0.0), ("high", 0.3)):
        add(workspace, name, layer={"name": "ranking", "start": start, "end": start + 0.5})
    wrong = {
        "misnamed": r"name the file another\.yaml", "damaged": r"damaged\.yaml",
        "low": "layer 'ranking'", "high": "layer 'ranking'",
    }  # fmt: skip
    assert due_experiments(workspace, END) == sorted(["clock_ranker", *wrong])
    day = date(2026, 3, 5)
    assert {r.experiment for r in past_reports(workspace, None, day, day)} == {"clock_ranker", *wrong}
    for name, words in wrong.items():
        with pytest.raises(ConfigError, match=words):
            report_experiment(workspace, name, END)
    assert report_experiment(workspace, "clock_ranker", END).report


@pytest.mark.slow
def test_a_broken_split_is_an_alert(workspace: Settings) -> None:
    path = workspace.experiments_dir / "clock_ranker.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "variants": {"control": 0.97, "treatment": 0.03}}))
    with webhook() as (url, taken):
        settings = load_settings(var=workspace.var, source="simulator", alert_webhook=url)
        assert report_experiment(settings, "clock_ranker", END).verdict == "no_conclusion"
    assert taken[0]["title"] == "experiment clock_ranker: no_conclusion"


@pytest.mark.slow
def test_the_index_links_overview_and_reports_with_their_decisions(workspace: Settings) -> None:
    from ab_analysis.overview import write_overview

    sentence = report_experiment(workspace, "clock_ranker", END).sentence
    write_overview(workspace)
    text = Path(write_index(workspace)).read_text()
    assert 'href="ab/index.html"' in text
    assert f'href="ab/clock_ranker/{END.key}.html"' in text
    assert sentence.split(":")[0] in text
    registered = read_json(workspace.reports_dir / "ab" / "clock_ranker" / "registered.json")
    assert registered["content"]["name"] == "clock_ranker"

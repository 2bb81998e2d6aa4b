"""The closed loop on a few people: interrupted and resumed, every user in every arm, and the truth."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ab_analysis.assignment import assign_users
from ab_analysis.experiment import load_named
from closed_loop.loop import EXPERIMENT, Loop, LoopPlan
from closed_loop.summary import describe
from closed_loop.traffic import ForcedRanker
from closed_loop.truth import TRUTH_METRICS, first_exposures, world_totals
from core.errors import ConfigError
from core.hours import hour_range
from core.settings import Settings, load_settings
from events.ingest import close_hours, ingest
from events.store import EventStore
from pipeline.experiments import watch_experiments
from pipeline.source import Source, save_source
from serving.request_log import read_requests
from serving.routing import stopped
from simulation.config import SimulatorConfig
from simulation.log import AppLog
from simulation.visits import Slates
from simulation.workspace import planted_end, write_experiment
from tests.conftest import NOW

pytestmark = pytest.mark.slow

ARMS = ("hour_embedding", "gaussian_clock")
PLAN = LoopPlan(arms=ARMS, days=1, history_days=2, http=False)
HOURS = 4


def make(var: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.setenv("CLOCK_VAR", str(var))
    workspace = var / "loop"
    if not workspace.exists():
        workspace.mkdir(parents=True)
        (workspace / "app.yaml").write_text("{users: 120, items: 80, daily_activity: 0.8, sessions: 3}")
    loop = Loop(PLAN)
    loop.end = loop.start + HOURS
    return loop


def logs(loop: Loop) -> dict[str, bytes]:
    return {
        f"{n}/{hour.key}": (workspace.workspace / "app" / "log" / f"{hour.key}.csv.gz").read_bytes()
        for n, workspace in enumerate(loop.workspaces)
        for hour in hour_range(loop.config.first_hour, loop.end)
    }


def copy_of(loop: Loop, var: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """A loop's workspaces elsewhere; each reads its own log."""
    shutil.copytree(loop.settings.var, var)
    copied = make(var, monkeypatch)
    for world in copied.workspaces:
        save_source(world, Source(str(AppLog(copied.config, world.workspace / "app", served=True).prepare())))
    return copied


@pytest.fixture(scope="module")
def both_loops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loop, Loop]:
    """The same loop twice from one history: undisturbed, and broken off in the middle of an hour and resumed."""
    with pytest.MonkeyPatch.context() as patch:
        whole = make(tmp_path_factory.mktemp("whole") / "var", patch)
        whole.prepare()
        var = tmp_path_factory.mktemp("broken") / "var"
        broken = copy_of(whole, var, patch)
        rank, calls = ForcedRanker.__call__, []

        def failing(self: ForcedRanker, slates: Slates) -> np.ndarray:
            calls.append(slates)
            if len(calls) > 8:
                raise KeyboardInterrupt
            return rank(self, slates)

        patch.setattr(ForcedRanker, "__call__", failing)
        with pytest.raises(KeyboardInterrupt):
            broken.run_experiment()
        patch.setattr(ForcedRanker, "__call__", rank)
        resumed = make(var, patch)
        resumed.prepare()
        resumed.run_experiment()
        patch.setenv("CLOCK_VAR", str(whole.settings.var))
        whole.run_experiment()
        summary, page = whole.conclude()
        assert str(page) in describe(summary, str(page))
        return whole, resumed


def test_an_interrupted_loop_goes_on_to_the_same_end(both_loops: tuple[Loop, Loop]) -> None:
    whole, resumed = both_loops
    assert logs(whole) == logs(resumed)
    for one, other in zip(whole.workspaces, resumed.workspaces, strict=True):
        stores = [EventStore(w.events_dir) for w in (one, other)]
        assert [m.digest for m in stores[0].manifests()] == [m.digest for m in stores[1].manifests()]


def test_every_user_is_ranked_by_the_model_of_the_users_arm(both_loops: tuple[Loop, Loop]) -> None:
    whole, _ = both_loops
    rows = [r for h in hour_range(whole.start, whole.end) for r in read_requests(whole.settings, h).to_pylist()]
    assert len(rows) > 50
    arms = assign_users(whole.experiment, [r["user"] for r in rows])
    assert [r["variant"] for r in rows] == arms.tolist()
    assert not any(r["degraded"] for r in rows)
    versions = {v: {r["version"] for r in rows if r["variant"] == v} for v in ARMS}
    assert all(len(versions_of_arm) > 1 for versions_of_arm in versions.values())  # each hour's model is served
    assert not versions[ARMS[0]] & versions[ARMS[1]]


def test_worlds_are_the_same_until_the_experiment_and_differ_in_it(both_loops: tuple[Loop, Loop]) -> None:
    whole, _ = both_loops
    files = logs(whole)
    before = [h.key for h in hour_range(whole.config.first_hour, whole.start)]
    within = [h.key for h in hour_range(whole.start, whole.end)]
    assert before
    assert all(files[f"0/{key}"] == files[f"1/{key}"] for key in before)
    assert any(files[f"0/{key}"] != files[f"1/{key}"] for key in within)


def test_the_truth_is_every_user_in_every_arm(both_loops: tuple[Loop, Loop]) -> None:
    whole, _ = both_loops
    exposures = first_exposures(whole.settings, EXPERIMENT)
    arms = assign_users(whole.experiment, [str(u) for u in exposures["user_id"]])
    worlds = [world_totals(w, exposures, whole.end).set_index("user_id") for w in whole.workspaces]
    truth = whole.truth()
    for n, arm in enumerate(ARMS):
        for metric in TRUTH_METRICS:
            mine = [
                worlds[(n - ARMS.index(assigned)) % 2].loc[user, metric]
                for user, assigned in zip(exposures["user_id"], arms, strict=True)
            ]
            assert truth[arm][metric]["mean"] == pytest.approx(np.mean(mine))
    assert truth[ARMS[0]]["duration_hours"]["rel_effect"] == 0
    control, other = (truth[arm]["duration_hours"]["mean"] for arm in ARMS)
    assert truth[ARMS[1]]["duration_hours"]["rel_effect"] == pytest.approx(other / control - 1)


def test_its_page_shows_offline_online_and_truth(both_loops: tuple[Loop, Loop]) -> None:
    whole, _ = both_loops
    text = (whole.settings.reports_dir / "loop.html").read_text()
    for word in ("Offline", "truth", "gaussian_clock", "all exposed users"):
        assert word in text
    assert "loop.html" in (whole.settings.reports_dir / "index.html").read_text()


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (LoopPlan(arms=("none",)), "two or more different variants"),
        (LoopPlan(arms=("none", "none")), "two or more different variants"),
        (LoopPlan(arms=("none", "sundial")), "sundial"),
        (LoopPlan(days=0), "DAYS"),
    ],
)
def test_a_wrong_plan_is_told_so(plan: LoopPlan, words: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=words):
        plan.checked()


def test_a_loop_is_not_continued_with_another_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCK_VAR", str(tmp_path))
    Loop(PLAN)
    Loop(PLAN)
    with pytest.raises(ConfigError, match="FRESH=1"):
        Loop(LoopPlan(arms=ARMS, days=2, history_days=2, http=False))


@pytest.fixture(params=[("treatment",), ("treatment", "same")], ids=["one treatment", "beside a harmless one"])
def harmful(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """An app whose experiment halves the sessions of the treated; where a second treatment is asked for, it changes nothing."""
    rule: dict[str, Any] = {"start_day": 2, "session_lift": -0.5, "activity_lift": 0.0}
    app = SimulatorConfig(days=6, users=400, items=80, experiment=rule)
    settings = load_settings(var=tmp_path / "var", source="simulator")
    log = AppLog(app, settings.workspace / "app", served=True)
    (settings.workspace / "app.yaml").parent.mkdir(parents=True, exist_ok=True)
    (settings.workspace / "app.yaml").write_text(yaml.safe_dump(app.model_dump(mode="json")))
    log.write_hours(app.first_hour, app.end_hour)
    treatments = dict.fromkeys(request.param, "challenger")
    if "same" in treatments:
        for file in log.exposures.rglob("*.csv"):
            if file.is_file():
                file.write_text(re.sub(r"control,(u\d*[02468],)", r"same,\1", file.read_text()))
    ingest(str(log.prepare()), [str(log.root / "log")], settings, now=NOW)
    store = EventStore(settings.events_dir)
    close_hours(store, store.hours()[0], store.hours()[-1])
    path = write_experiment(settings, planted_end(settings, app.end_hour))
    content = yaml.safe_load(path.read_text())
    content |= {"end": None, "stopping": {"rule": "always_valid"}, "automatic_stop": True}
    content |= {"models": {"control": "champion", **treatments}}
    content |= {
        "variants": {"treatment": 2, "control": 2}
        if len(treatments) == 1
        else {"treatment": 2, "control": 1, "same": 1}
    }
    path.write_text(yaml.safe_dump(content))
    return settings


def test_an_experiment_that_harms_is_stopped_once(harmful: Settings) -> None:
    store = EventStore(harmful.events_dir)
    looks = [watch_experiments(harmful, hour) for hour in store.hours()[::12]]
    verdicts = [look[0].verdict for look in looks if look]
    assert verdicts[-1] == "stop"
    assert verdicts.count("stop") == 1
    (page,) = (harmful.reports_dir / "ab" / "clock_ranker").glob("*.html")
    reason = stopped(harmful, "clock_ranker") or ""
    assert "duration" in reason
    if "same" in load_named(harmful.experiments_dir, "clock_ranker").treatments:
        assert reason.startswith("treatment: Stop: ")
        assert reason.endswith("Others: same: keep running.")
    assert reason in page.read_text()

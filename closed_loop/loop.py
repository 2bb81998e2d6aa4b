"""The closed loop: rankers rank for people, people's log trains the rankers, and the A/B estimate is compared with the truth.

The simulated app's users are simulated day by day. A history under the app's first policy trains every arm's model. From the
experiment's start on, each user's slates are ranked by the model of the user's arm, through the serving layer, and every
hour's log goes through the steps of the hourly DAGs: ingest, clocks, training, gate.

**Truth.** Besides the real world there are others in which every user is in the next arm: the same people, the same draws,
the models of the same hour, but their own log and clocks. So each policy is simulated for every user, and the difference
of the means over all users is what the experiment estimates. No model is trained on the other worlds, so the true effect
is that of being assigned to an arm, given the models of the real world.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ab_analysis.assignment import assign_users
from ab_analysis.experiment import Experiment, load_experiment
from ab_analysis.report_file import read_report
from closed_loop.summary import Estimate, LoopSummary, Traffic
from closed_loop.traffic import EngineRanker, ForcedRanker, HttpRanker, World, http_ranker
from closed_loop.truth import TrueEffect, first_exposures, true_effects, world_totals
from core.errors import ConfigError, NotReadyError
from core.files import read_json, write_json, write_text
from core.hours import Hour, hour_range
from core.progress import STAGE, log_to, step
from core.release import platform_version
from core.settings import load_settings
from events.store import EventStore
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures
from model_registry.registry import CHAMPION
from model_registry.store import open_registry
from operations.airflow_api import AirflowApi
from operations.processes import log_folder, with_free_ports
from operations.services import migrate_airflow
from pipeline.history import build_history, ingest_and_clock
from pipeline.hour import run_hour
from pipeline.source import Source, ingest_hour, save_source
from serving.engine import RankingEngine
from simulation.app import App
from simulation.config import SimulatorConfig, load_config
from simulation.log import AppLog
from simulation.visits import Rank, first_policy
from training.config import load_ranker_config

log = logging.getLogger("closed_loop.loop")

SOURCE = "loop"
EXPERIMENT = "arms"
HISTORY_DAYS = 8
APP = SimulatorConfig(ids="number", users=2000, drift=0.05)
"""The app of a workspace without an ``app.yaml``."""


@dataclass(frozen=True)
class LoopPlan:
    """Size and form of a loop.

    Attributes:
        arms: rankers' variants, the control first.
        days: length of the experiment.
        history_days: days before it.
        http: whether requests go over HTTP (else to an engine in this process).
        airflow_hours: number of hours at the end whose steps run as Airflow's DAGs.
        truth: whether the other worlds are simulated, too.
    """

    arms: tuple[str, ...] = ("hour_embedding", "matched_clock")
    days: int = 14
    history_days: int = HISTORY_DAYS
    http: bool = True
    airflow_hours: int = 0
    truth: bool = True

    @property
    def command(self) -> str:
        """The command that runs a loop of this size."""
        return f"make loop ARMS={','.join(self.arms)} DAYS={self.days}"

    def checked(self) -> LoopPlan:
        """Check the plan and return it.

        Raises:
            ConfigError: an arm is not a variant or is named twice, or a number is too small.
        """
        if len(set(self.arms)) < 2 or len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"ARMS={','.join(self.arms)}: give two or more different variants, the control first")
        for arm in self.arms:
            load_ranker_config(load_settings(), arm)
        if self.days < 1 or self.history_days < 2:
            raise ConfigError("DAYS: at least 1, after at least 2 days of history")
        if self.airflow_hours < 0:
            raise ConfigError(f"AIRFLOW_HOURS={self.airflow_hours}: 0 or more")
        return self


def run_loop(plan: LoopPlan, *, fresh: bool = False, source: str = SOURCE) -> tuple[LoopSummary, Path]:
    """Run a loop to its end, continuing one that was interrupted.

    Args:
        plan: size and form.
        fresh: start over instead of continuing.
        source: name of the workspace.

    Returns:
        The summary, also written to ``<workspace>/loop/summary.json``, and the path of its page.
    """
    loop = Loop(plan.checked(), source, fresh=fresh)
    loop.prepare()
    loop.run_experiment()
    return loop.conclude()


class Loop:
    """A loop in its workspace; every step can be repeated."""

    def __init__(self, plan: LoopPlan, source: str = SOURCE, *, fresh: bool = False, **settings: Any) -> None:
        self.plan = plan
        values = {**settings, **_overrides(plan)}
        self.settings = load_settings(**{**values, **with_free_ports(load_settings(**settings)), "source": source})
        self.folder = self.settings.workspace / "loop"
        worlds = len(plan.arms) if plan.truth else 1
        self.workspaces = [self.settings] + [
            load_settings(**{**values, "source": f"{source}-{n}"}) for n in range(1, worlds)
        ]
        if fresh:
            for world in self.workspaces:
                shutil.rmtree(world.workspace, ignore_errors=True)
        log_to(log_folder(self.settings) / "loop.log")
        self.config = self._config()
        self.app = App(self.config)
        self._airflow: AirflowApi | None = None
        self.start = self.config.first_hour + 24 * plan.history_days
        self.end = self.start + 24 * plan.days

    @property
    def experiment(self) -> Experiment:
        return load_experiment(self.settings.experiments_dir / f"{EXPERIMENT}.yaml")

    def _config(self) -> SimulatorConfig:
        """The workspace's ``app.yaml``, or the loop's own app; a loop can only be continued with the plan it was begun with."""
        plan = self.plan
        app_file = self.settings.workspace / "app.yaml"
        config = load_config(app_file) if app_file.exists() else APP
        days = plan.history_days + plan.days + 1
        rule = config.experiment.model_copy(update={"start_day": plan.history_days})
        config = config.model_copy(update={"days": days, "ids": "number", "experiment": rule})
        begun = {
            "plan": {
                "arms": list(plan.arms),
                "days": plan.days,
                "history_days": plan.history_days,
                "truth": plan.truth,
            },
            "app": config.model_dump(mode="json"),
        }
        mark = self.folder / "plan.json"
        if mark.exists() and read_json(mark) != begun:
            raise ConfigError(
                f"{self.settings.workspace} holds a loop with another plan; start over with FRESH=1, or set CLOCK_VAR"
            )
        write_json(mark, begun)
        return config

    def prepare(self) -> None:
        """Simulate and ingest the history in every world, and train every arm on it in the real world."""
        if (self.folder / "prepared.json").exists():
            return
        begun = time.monotonic()
        log.info(
            "simulating %d users for %d days under the app's first policy",
            self.config.users,
            self.plan.history_days,
            extra=STAGE,
        )
        worlds = [self._world(n, self.config.first_hour) for n in range(len(self.workspaces))]
        for settings, world in zip(self.workspaces, worlds, strict=True):
            save_source(settings, Source(str(world.log.prepare())))
        rank = first_policy(self.app)
        visits = worlds[0].visits
        while visits.next < self.start:
            hour, shown = visits.next, visits.simulate_hour(rank)
            for world in worlds:
                world.log.write_visits(hour, shown)
        for world in worlds:
            world.visits = visits
            world.save()
        self._write_experiment({})
        build_history(self.settings, self.start)
        self._ensure_champion()
        for workspace in self.workspaces[1:]:
            ingest_and_clock(workspace, self.start)
        write_json(self.folder / "prepared.json", {"seconds": round(time.monotonic() - begun, 1)})

    def run_experiment(self) -> None:
        """Run every hour of the experiment: people, log, ingest, clocks, training, gate."""
        worlds = [self._world(n, self.start) for n in range(len(self.workspaces))]
        done = min(world.next for world in worlds)
        engine = RankingEngine(self.settings, log_requests=not self.plan.http)
        begun, first = time.monotonic(), done
        with ExitStack() as stack:
            stack.callback(engine.close)
            if done > self.start:  # the last hour may have been interrupted before its steps were done
                self._run_steps(done - 1, stack)
            engine.refresh()
            log.info("%d days of the experiment, hour by hour", self.plan.days, extra=STAGE)
            real = self._ranker(engine, stack)
            ranks: list[Rank] = [real, *self._other_rankers(engine)]
            for hour in hour_range(done, self.end):
                _check_ready(engine, hour)
                if isinstance(real, HttpRanker):
                    real.wait(hour, engine.models.names)
                for world, rank in zip(worlds, ranks, strict=True):
                    if world.next == hour:
                        world.simulate_hour(rank)
                self._keep_answers(hour, real)
                self._run_steps(hour, stack)
                engine.refresh()
                if (hour + 1).number % 24 == 0:
                    left = (
                        (time.monotonic() - begun)
                        / (hour.number - first.number + 1)
                        * (self.end.number - hour.number - 1)
                    )
                    log.info("%s is simulated; %d of %d days, %.0f min left", hour.day,
                             (hour.number - self.start.number + 1) // 24, self.plan.days, left / 60,
                             extra=step((hour.number - self.start.number + 1) // 24, self.plan.days))  # fmt: skip

    def conclude(self) -> tuple[LoopSummary, Path]:
        """Compare offline gain, A/B estimate and truth; write the summary and the page.

        Returns:
            The summary, and the path of its page.
        """
        from closed_loop.page import write_loop_page
        from pages.index import write_index
        from pages.rankers import write_model_page
        from pipeline.reports import report_experiment, variant_metrics

        log.info("comparing offline gain, A/B estimate and truth", extra=STAGE)
        truth = self.truth() if self.plan.truth else {}
        if len(self.plan.arms) == 2 and truth:
            effects = truth[self.plan.arms[1]]
            self._write_experiment({metric: values["rel_effect"] for metric, values in effects.items()})
        report = report_experiment(self.settings, EXPERIMENT, self.end)
        online = read_report(Path(report.report).with_suffix(".json")).headlines() if report.report else {}
        summary = LoopSummary(
            arms=self.plan.arms, hours=(self.start.key, self.end.key), users=self.config.users, traffic=self._traffic(),
            offline=variant_metrics(self.settings, self.start, self.end),
            ab={arm: {metric: Estimate.of(row) for metric, row in metrics.items()} for arm, metrics in online.items()},
            sentence=report.sentence, truth=truth, report=report.report, command=self.plan.command, version=platform_version(),
        )  # fmt: skip
        write_json(self.folder / "summary.json", summary.as_json())
        page = write_loop_page(self.settings, summary)
        write_model_page(self.settings)
        write_index(self.settings)
        return summary, page

    def truth(self) -> dict[str, dict[str, TrueEffect]]:
        """The true effect of each arm on each metric, over all exposed users: arm → metric → effect."""
        exposures = first_exposures(self.settings, EXPERIMENT)
        keys = [str(user) for user in exposures["user_id"]]
        arms = np.array([self.plan.arms.index(v) for v in assign_users(self.experiment, keys)])
        totals = [world_totals(world, exposures, self.end) for world in self.workspaces]
        return true_effects(self.plan.arms, arms, totals)

    def _ranker(self, engine: RankingEngine, stack: ExitStack) -> HttpRanker | EngineRanker:
        """The real world's ranker."""
        if not self.plan.http:
            return EngineRanker(self.app, engine)
        return stack.enter_context(http_ranker(self.app, self.settings))

    def _other_rankers(self, engine: RankingEngine) -> list[Rank]:
        """Rankers of the other worlds: in world n, every user is n arms further."""
        keys = [self.app.user_key(user) for user in range(self.config.users)]
        arm = np.array([self.plan.arms.index(v) for v in assign_users(self.experiment, keys)])
        names = np.array(self.plan.arms)
        return [
            ForcedRanker(engine, ClockFeatures(world, EventStore(world.events_dir)), names[(arm + n) % len(names)])
            for n, world in enumerate(self.workspaces)
            if n
        ]

    def _run_steps(self, hour: Hour, stack: ExitStack) -> None:
        """Run the hourly steps on an hour's log, in the real world and in the others."""
        if hour >= self.end - self.plan.airflow_hours:
            from operations.airflow_driver import run_hours, start_airflow

            if self._airflow is None:
                migrate_airflow(self.settings)
                self._airflow = start_airflow(self.settings, stack)
            run_hours(self._airflow, hour, hour + 1)
        else:
            run_hour(self.settings, hour)
        for world in self.workspaces[1:]:
            ingest_hour(world, hour)
            advance(world, hour + 1)

    def _ensure_champion(self) -> None:
        """Make the control champion if the gate promoted nobody, so that requests outside the experiment can be ranked."""
        models = open_registry(self.settings)
        if models.get(CHAMPION) is None:
            control = models.newest(self.plan.arms[0])
            if control is None:
                raise NotReadyError(f"{self.plan.arms[0]} was not trained on the history; start over with FRESH=1")
            models.move(CHAMPION, control, "control of the closed loop; it was not shown to beat popularity")

    def _world(self, number: int, start: Hour) -> World:
        log = AppLog(self.config, self.workspaces[number].workspace / "app", served=True)
        return World(log, self.folder / f"world-{number}.npz", start)

    def _keep_answers(self, hour: Hour, ranker: HttpRanker | EngineRanker) -> None:
        """Keep the hour's counts of answers; an hour that is simulated again replaces them."""
        path = self.folder / "traffic" / f"{hour.key}.json"
        if ranker.answers or not path.exists():
            write_json(path, {"answers": dict(ranker.answers), "versions": dict(ranker.versions)})
        ranker.answers.clear()
        ranker.versions.clear()

    def _traffic(self) -> Traffic:
        answers: Counter[str] = Counter()
        versions: set[str] = set()
        for path in sorted((self.folder / "traffic").glob("*.json")):
            content = read_json(path)
            answers.update(content["answers"])
            versions |= set(content["versions"])
        return Traffic(self.plan.http, dict(answers), versions_served=len(versions - {""}))

    def _write_experiment(self, truth: dict[str, float]) -> None:
        arms = self.plan.arms
        content = {
            "name": EXPERIMENT,
            "hypothesis": "A ranker that knows each user's hours brings people back and lets them stay longer.",
            "owner": "closed loop",
            "variants": dict.fromkeys(arms, round(1 / len(arms), 6)),
            "control": arms[0],
            "models": {arm: arm for arm in arms},
            "start": self.start.start.isoformat(),
            "end": (self.end.start - timedelta(seconds=1)).date().isoformat(),
            "pre_days": self.plan.history_days,
            "guardrails": {"skip_rate": {"max_worse": 0.05}},
            "secondary": ["finishes", "likes", "skips", "retained_day_1", "duration_per_active_day"],
            "minimum_effect": 0.03,
            "stopping": {"rule": "fixed"},
            "truth": {metric: round(value, 6) for metric, value in truth.items()},
        }
        write_text(self.settings.experiments_dir / f"{EXPERIMENT}.yaml", yaml.safe_dump(content, sort_keys=False))


def _overrides(plan: LoopPlan) -> dict[str, object]:
    return {
        "variants": plan.arms,
        "baseline_variant": plan.arms[0],
        "candidate_variant": plan.arms[-1],
        "serving_refresh_seconds": 0.3,
        "serving_feature_ms": 2000,
        "serving_timeout_ms": 10_000,
    }  # fmt: skip  (a busy machine must not change what people are shown)


def _check_ready(engine: RankingEngine, hour: Hour) -> None:
    if reason := engine.not_ready():
        raise NotReadyError(reason)
    if engine.snapshot.as_of != hour:
        raise NotReadyError(f"the clocks hold for {engine.snapshot.as_of}, not for {hour}: {engine.problems}")

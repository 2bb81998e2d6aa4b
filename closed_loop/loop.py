"""The closed loop: people meet the rankers, their log teaches the rankers, and the A/B test meets the truth.

The simulated app's users live day after day. A history under the app's first policy teaches every arm's model; from the
experiment's start on each user's slates are ranked by the model of the user's arm, through the serving layer, and every
hour's log goes through the steps of the hourly DAGs: ingest, clocks, training, gate.

**Truth.** Beside the real world run others in which every user is in the next arm: the same people, the same draws, the
models of the same hour, but their own log and clocks. So each policy is simulated for every user, and the difference of
the means over all users is what the experiment is to estimate. Nobody trains on the other worlds, so the true effect is
that of being assigned to an arm, given the models of the real world.
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
import pandas as pd
import yaml

from ab_analysis.assignment import assign_users
from ab_analysis.experiment import Experiment, load_experiment
from closed_loop.traffic import EngineRanker, ForcedRanker, HttpRanker, World
from core import duck
from core.duck import file_list, quoted
from core.errors import ConfigError, NotReadyError
from core.files import read_json, write_json, write_text
from core.hours import Hour, hour_range
from core.progress import STAGE, log_to, step
from core.settings import Settings, load_settings
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures, advance
from model_registry.registry import CHAMPION
from model_registry.store import open_registry
from operations.airflow_api import AirflowApi
from operations.processes import running, with_free_ports
from operations.services import migrate_airflow, serving_service
from pipeline.history import build_history, ingest_and_clock
from pipeline.hour import run_hour
from pipeline.source import Source, ingest_hour, save_source
from serving.engine import RankingEngine
from simulation.app import App
from simulation.config import SimulatorConfig, load_config
from simulation.log import AppLog
from simulation.visits import Rank, first_policy

log = logging.getLogger("closed_loop.loop")

SOURCE = "loop"
EXPERIMENT = "arms"
HISTORY_DAYS = 8
SUMMED_UP = ("method", "rel_effect", "rel_effect_ci", "p_value")
"""What the summary keeps of an estimate."""
APP: dict[str, Any] = {"ids": "number", "users": 2000, "drift": 0.05}
TRUTH_METRICS = {
    "active_days": "count(DISTINCT CAST(e.local_time AS DATE))",
    "duration_hours": "sum(e.played_seconds) / 3600",
    "finishes": "count(*) FILTER (WHERE e.finish)",
    "likes": 'count(*) FILTER (WHERE e."like")',
    "skips": "count(*) FILTER (WHERE e.skip)",
}


@dataclass(frozen=True)
class LoopPlan:
    """What a loop does.

    Attributes:
        arms: rankers' variants, the control first.
        days: of the experiment.
        history_days: before it.
        http: whether users reach the rankers over HTTP (else in this process).
        airflow_hours: last hours whose steps run as Airflow's DAGs.
        truth: whether the other worlds are simulated too.
    """

    arms: tuple[str, ...] = ("hour_embedding", "matched_clock")
    days: int = 14
    history_days: int = HISTORY_DAYS
    http: bool = True
    airflow_hours: int = 0
    truth: bool = True

    def checked(self) -> LoopPlan:
        """``ConfigError`` says what is wrong."""
        from training.config import load_ranker_config

        if len(set(self.arms)) < 2 or len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"ARMS={','.join(self.arms)}: give two or more different variants, the control first")
        for arm in self.arms:
            load_ranker_config(load_settings(), arm)
        if self.days < 1 or self.history_days < 2:
            raise ConfigError("DAYS: at least 1, after at least 2 days of history")
        if self.airflow_hours < 0:
            raise ConfigError(f"AIRFLOW_HOURS={self.airflow_hours}: 0 or more")
        return self


def run_loop(plan: LoopPlan, *, fresh: bool = False, source: str = SOURCE) -> dict[str, Any]:
    """Run a loop to its end, or on from where it was interrupted.

    Returns:
        The summary, also written to ``<workspace>/loop/summary.json`` beside the page.
    """
    loop = Loop(plan.checked(), source, fresh=fresh)
    loop.prepare()
    loop.live()
    return loop.conclude()


class Loop:
    """A loop in its workspace; every step can be run again."""

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
        log_to(self.settings.workspace / "logs" / "loop.log")
        self.config = self._config()
        self.app = App(self.config)
        self._airflow: AirflowApi | None = None
        self.start = self.config.first_hour + 24 * plan.history_days
        self.end = self.start + 24 * plan.days

    @property
    def experiment(self) -> Experiment:
        return load_experiment(self.settings.experiments_dir / f"{EXPERIMENT}.yaml")

    def _config(self) -> SimulatorConfig:
        """The workspace's own ``app.yaml``, or the loop's people; a loop goes on only as it was begun."""
        plan = self.plan
        app_file = self.settings.workspace / "app.yaml"
        config = load_config(app_file) if app_file.exists() else SimulatorConfig(**APP)
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
        """Simulate and ingest the history in every world, and train every arm on it in the real one."""
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
        self._champion()
        for other in self.workspaces[1:]:
            ingest_and_clock(other, self.start)
        write_json(self.folder / "prepared.json", {"seconds": round(time.monotonic() - begun, 1)})

    def live(self) -> None:
        """Every hour of the experiment: people, log, ingest, clocks, training, gate."""
        worlds = [self._world(n, self.start) for n in range(len(self.workspaces))]
        done = min(world.next for world in worlds)
        engine = RankingEngine(self.settings, log_requests=not self.plan.http)
        begun, first = time.monotonic(), done
        with ExitStack() as stack:
            stack.callback(engine.close)
            if done > self.start:  # an interruption may have come before the last hour was through
                self._through(done - 1, stack)
            engine.refresh()
            log.info("%d days of the experiment, hour by hour", self.plan.days, extra=STAGE)
            main = self._ranker(engine, stack)
            ranks: list[Rank] = [main, *self._others(engine)]
            for hour in hour_range(done, self.end):
                _check(engine, hour)
                if isinstance(main, HttpRanker):
                    main.wait(hour, engine.models.names)
                for world, rank in zip(worlds, ranks, strict=True):
                    if world.next == hour:
                        world.live(rank)
                self._keep(hour, main)
                self._through(hour, stack)
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

    def conclude(self) -> dict[str, Any]:
        """Compare offline gain, A/B estimate and truth; write the summary and the page."""
        from closed_loop.page import write_loop_page
        from pages.index import write_index
        from pages.rankers import write_model_page
        from pipeline.reports import headline_effects, report_experiment, variant_metrics

        log.info("comparing offline gain, A/B estimate and truth", extra=STAGE)
        truth = self.truth() if self.plan.truth else {}
        if len(self.plan.arms) == 2 and truth:
            effects = truth[self.plan.arms[1]]
            self._write_experiment({metric: values["rel_effect"] for metric, values in effects.items()})
        report = report_experiment(self.settings, EXPERIMENT, self.end)
        online = headline_effects(read_json(Path(report["report"]).with_suffix(".json"))) if report["report"] else {}
        summary = {
            "arms": list(self.plan.arms), "hours": [self.start.key, self.end.key], "users": self.config.users,
            "traffic": self._traffic(), "offline": variant_metrics(self.settings, self.start, self.end),
            "ab": {
                arm: {metric: {name: row[name] for name in SUMMED_UP} for metric, row in metrics.items()}
                for arm, metrics in online.items()
            },
            "sentence": report["sentence"], "truth": truth, "report": report["report"],
        }  # fmt: skip
        summary["covered"] = _covered(summary)
        write_json(self.folder / "summary.json", summary)
        summary["page"] = str(write_loop_page(self.settings, summary))
        write_model_page(self.settings)
        write_index(self.settings)
        return summary

    def truth(self) -> dict[str, dict[str, dict[str, float]]]:
        """Arm → metric → mean, relative effect on the control, and its standard error, over all exposed users."""
        exposures = first_exposures(self.settings)
        keys = [str(user) for user in exposures["user_id"]]
        arm = np.array([self.plan.arms.index(v) for v in assign_users(self.experiment, keys)])
        values = [world_totals(world, exposures, self.end) for world in self.workspaces]
        true_effects: dict[str, dict[str, dict[str, float]]] = {}
        by_arm = [
            {m: np.choose((n - arm) % len(self.plan.arms), [v[m].to_numpy() for v in values]) for m in TRUTH_METRICS}
            for n in range(len(self.plan.arms))
        ]
        for n, name in enumerate(self.plan.arms):
            true_effects[name] = {}
            for metric in TRUTH_METRICS:
                mine, control = by_arm[n][metric], by_arm[0][metric]
                mean, base = float(mine.mean()), float(control.mean())
                ratio = mean / base if base else float("nan")
                spread = (
                    float((mine - ratio * control).std(ddof=1)) / np.sqrt(len(mine)) / base if base else float("nan")
                )
                true_effects[name][metric] = {"mean": mean, "rel_effect": ratio - 1, "rel_se": spread}
        return true_effects

    def _ranker(self, engine: RankingEngine, stack: ExitStack) -> HttpRanker | EngineRanker:
        """The real world's ranker."""
        if not self.plan.http:
            return EngineRanker(self.app, engine)
        stack.enter_context(running(self.settings, [serving_service(self.settings)]))
        client = HttpRanker(self.app, self.settings)
        stack.callback(client.close)
        return client

    def _others(self, engine: RankingEngine) -> list[Rank]:
        """Rankers of the other worlds: every user in an arm further round."""
        keys = [self.app.user_key(user) for user in range(self.config.users)]
        arm = np.array([self.plan.arms.index(v) for v in assign_users(self.experiment, keys)])
        names = np.array(self.plan.arms)
        return [
            ForcedRanker(engine, ClockFeatures(world, EventStore(world.events_dir)), names[(arm + n) % len(names)])
            for n, world in enumerate(self.workspaces)
            if n
        ]

    def _through(self, hour: Hour, stack: ExitStack) -> None:
        """Take an hour's log through the hourly steps, in the real world and the others."""
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

    def _champion(self) -> None:
        """Somebody ranks for requests outside the experiment, also where the gate let nobody through."""
        models = open_registry(self.settings)
        if models.get(CHAMPION) is None:
            control = models.newest(self.plan.arms[0])
            if control is None:
                raise NotReadyError(f"{self.plan.arms[0]} was not trained on the history; start over with FRESH=1")
            models.move(CHAMPION, control, "control of the closed loop; it was not shown to beat popularity")

    def _world(self, number: int, start: Hour) -> World:
        log = AppLog(self.config, self.workspaces[number].workspace / "app", served=True)
        return World(log, self.folder / f"world-{number}.npz", start)

    def _keep(self, hour: Hour, ranker: HttpRanker | EngineRanker) -> None:
        """Remember the hour's answers; an hour lived again replaces them."""
        path = self.folder / "traffic" / f"{hour.key}.json"
        if ranker.answers or not path.exists():
            write_json(path, {"answers": dict(ranker.answers), "versions": dict(ranker.versions)})
        ranker.answers.clear()
        ranker.versions.clear()

    def _traffic(self) -> dict[str, Any]:
        answers: Counter[str] = Counter()
        versions: set[str] = set()
        for path in sorted((self.folder / "traffic").glob("*.json")):
            content = read_json(path)
            answers.update(content["answers"])
            versions |= set(content["versions"])
        return {"over_http": self.plan.http, "answers": dict(answers), "versions_served": len(versions - {""})}

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


def first_exposures(settings: Settings) -> pd.DataFrame:
    """When each user met the experiment first: user_id, exposed; by user."""
    store = EventStore(settings.events_dir)
    files = store.exposure_files()
    if not files:
        raise NotReadyError(f"nobody in {settings.workspace} was exposed to an experiment")
    with duck.connection(settings) as con:
        return con.sql(
            f"""SELECT user_id, min("timestamp") AS exposed FROM read_parquet({file_list(files)})
            WHERE experiment = {quoted(EXPERIMENT)} GROUP BY user_id ORDER BY user_id"""
        ).df()


def world_totals(settings: Settings, exposures: pd.DataFrame, end: Hour) -> pd.DataFrame:
    """Each exposed user's metrics from the exposure to ``end`` in a world's log, in the order of ``exposures``."""
    store = EventStore(settings.events_dir)
    first = Hour.of(exposures["exposed"].min().to_pydatetime())
    files = store.event_files(h for h in store.hours() if first <= h < end)
    sums = ", ".join(f"coalesce({sql}, 0) AS {name}" for name, sql in TRUTH_METRICS.items())
    with duck.connection(settings) as con:
        con.register("exposures", exposures)
        return con.sql(
            f"""SELECT x.user_id, {sums} FROM exposures x
            LEFT JOIN read_parquet({file_list(files)}) e ON e.user_id = x.user_id AND e."timestamp" >= x.exposed
            GROUP BY x.user_id ORDER BY x.user_id"""
        ).df()


def _overrides(plan: LoopPlan) -> dict[str, Any]:
    return {
        "variants": plan.arms,
        "baseline_variant": plan.arms[0],
        "candidate_variant": plan.arms[-1],
        "serving_refresh_seconds": 0.3,
        "serving_feature_ms": 2000,
        "serving_timeout_ms": 10_000,
    }  # fmt: skip  (a busy machine must not change what people are shown)


def _check(engine: RankingEngine, hour: Hour) -> None:
    if reason := engine.not_ready():
        raise NotReadyError(reason)
    if engine.snapshot.as_of != hour:
        raise NotReadyError(f"the clocks hold for {engine.snapshot.as_of}, not for {hour}: {engine.problems}")


def _covered(summary: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """Arm → metric → whether the A/B interval holds the truth."""
    covered: dict[str, dict[str, bool]] = {}
    for arm, metrics in summary["ab"].items():
        for metric, row in metrics.items():
            true = summary["truth"].get(arm, {}).get(metric)
            if true:
                low, high = row["rel_effect_ci"]
                covered.setdefault(arm, {})[metric] = bool(low <= true["rel_effect"] <= high)
    return covered


def describe(summary: dict[str, Any]) -> str:
    """What a person reads at the end."""
    control = summary["arms"][0]
    lines = [
        "",
        f"Closed loop {summary['hours'][0]} to {summary['hours'][1]}: {summary['users']} users, "
        f"{sum(v for k, v in summary['traffic']['answers'].items() if k in {'ok', 'degraded'}):,} slates ranked, "
        f"{summary['traffic']['versions_served']} model versions served.",
        summary["sentence"], "",
        f"{'arm':<16} {'AUC':>7} {'UAUC':>7}  {'metric':<16} {'A/B estimate and 95 % interval':<34} {'truth':>8}",
    ]  # fmt: skip
    for arm in summary["arms"]:
        offline = summary["offline"][arm]
        head = f"{arm:<16} {offline['auc']['value']:>7.4f} {offline['uauc']['value']:>7.4f}"
        if arm == control:
            lines.append(f"{head}  (control)")
        for metric, row in summary["ab"].get(arm, {}).items():
            true = summary["truth"].get(arm, {}).get(metric)
            if true:
                low, high = row["rel_effect_ci"]
                estimate = f"{row['rel_effect']:+.2%} [{low:+.2%}, {high:+.2%}]"
                lines.append(f"{head}  {metric:<16} {estimate:<34} {true['rel_effect']:>+8.2%}")
                head = " " * len(head)
    return "\n".join([*lines, "", f"Page      {summary['page']}", f"A/B       {summary['report']}"])

"""Do A/B intervals cover the counterfactual truth when people react to rankers?

Each run is a closed loop with its own ``luck``: both rankers are simulated for every user, users are assigned to arms at
random, and the A/B analysis sees each user's outcome in the user's arm. The truth is the difference over all users. Rankers
and features stay as they were at the experiment's start (``closed_loop.worlds``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from closed_loop.worlds import FrozenModelWorld
from core.documents import JsonObject
from core.settings import Settings
from stats.assignment import assign
from studies.ab_draws import both_methods
from studies.study import Section, Study

ARMS = ("hour_embedding", "matched_clock")
METRICS = ("active_days", "duration_hours")
METHODS = ("welch", "cuped")


class Interval(TypedDict):
    """A method's 95 % interval of the relative effect, and whether it covers the truth."""

    low: float
    high: float
    covers: bool


@dataclass(frozen=True)
class MetricOutcome:
    """The true relative effect on a metric, and each method's interval."""

    truth: float
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class RunOutcome:
    """One closed loop: how many users were exposed, and the outcome of each metric."""

    users: int
    metrics: dict[str, MetricOutcome]

    @classmethod
    def from_json(cls, content: JsonObject) -> RunOutcome:
        """An outcome as the study keeps it."""
        metrics = {m: MetricOutcome(content[m]["truth"], {k: content[m][k] for k in METHODS}) for m in METRICS}
        return cls(content["users"], metrics)

    def as_json(self) -> JsonObject:
        """The outcome for the study to keep."""
        return {"users": self.users, **{m: {"truth": o.truth, **o.intervals} for m, o in self.metrics.items()}}


def run(settings: Settings, replications: int, worlds: int) -> tuple[str, str]:
    """Run the study: ``replications`` loops, spread over the worlds; returns the conclusion and the page."""
    study = Study(settings, "closed_loop")
    runs_per_world = math.ceil(replications / worlds)
    worlds_by_number: dict[int, FrozenModelWorld] = {}
    outcomes: list[RunOutcome] = []
    for number in range(worlds):
        for luck in range(1, min(runs_per_world, replications - number * runs_per_world) + 1):
            parameters = {"world": number, "luck": luck, "arms": ARMS, "code": CODE}

            def run_once(number: int = number, luck: int = luck) -> JsonObject:
                if number not in worlds_by_number:
                    worlds_by_number.clear()
                    worlds_by_number[number] = FrozenModelWorld(settings, number, ARMS)
                return _run_once(worlds_by_number[number], luck).as_json()

            outcomes.append(RunOutcome.from_json(study.part(f"world-{number}-luck-{luck}", parameters, run_once)))
    return _report(study, outcomes, worlds)


CODE = 1
"""Version of the computation; raising it simulates all runs again."""


def _run_once(world: FrozenModelWorld, luck: int) -> RunOutcome:
    """One loop: truth, and each method's interval."""
    arms = [world.run(v, luck) for v in ARMS]
    before = world.before
    exposed = arms[0].exposed & arms[1].exposed
    keys = [str(user) for user in range(world.config.users)]
    treated = assign("closed_loop", str(luck), {"a": 0.5, "b": 0.5}, keys) == "b"
    new = (before.values["active_days"] == 0).astype(float)
    metrics: dict[str, MetricOutcome] = {}
    for m in METRICS:
        control, treatment = arms[0].values[m], arms[1].values[m]
        truth = float(treatment[exposed].mean() / control[exposed].mean() - 1)
        values = np.column_stack([np.where(treated, treatment, control), before.values[m], new])
        intervals: dict[str, Interval] = {}
        for method, effect in both_methods(m, values[exposed], treated[exposed]).items():
            low, high = effect.rel_effect_ci
            intervals[method] = {"low": low, "high": high, "covers": bool(low <= truth <= high)}
        metrics[m] = MetricOutcome(truth, intervals)
    return RunOutcome(int(exposed.sum()), metrics)


def _report(study: Study, runs: list[RunOutcome], worlds: int) -> tuple[str, str]:
    count = len(runs)
    rows: list[tuple[str, ...]] = []
    results: dict[str, JsonObject] = {}
    covered_by_cuped: dict[str, int] = {}
    for m in METRICS:
        truths = np.array([run.metrics[m].truth for run in runs])
        results[m] = {
            "truth": {"mean": float(truths.mean()), "lowest": float(truths.min()), "highest": float(truths.max())}
        }
        for method in METHODS:
            intervals = [run.metrics[m].intervals[method] for run in runs]
            covered = sum(interval["covers"] for interval in intervals)
            width = float(np.mean([interval["high"] - interval["low"] for interval in intervals]))
            above = sum(interval["low"] > 0 for interval in intervals)
            results[m][method] = {"covered": covered, "of": count, "mean_width": width, "shown_to_be_better": above}
            if method == "cuped":
                covered_by_cuped[m] = covered
            rows.append(
                (m.replace("_", " "), "Welch" if method == "welch" else "CUPED", f"{covered} of {count}", f"{truths.mean():+.1%}",
                 f"{width:.1%}", f"{above} of {count}")
            )  # fmt: skip
    good = all(covered >= 0.9 * count for covered in covered_by_cuped.values())
    conclusion = (
        f"A/B intervals {'cover' if good else 'do not cover'} the truth of closed loops: with CUPED "
        + ", ".join(f"{m.replace('_', ' ')} in {covered} of {count}" for m, covered in covered_by_cuped.items())
        + f" ({worlds} worlds; {ARMS[1].replace('_', ' ')} against {ARMS[0].replace('_', ' ')})."
    )
    columns = (
        "metric",
        "method",
        "intervals that cover the truth",
        "mean true effect",
        "mean width",
        "interval above 0",
    )
    text = (
        f"{runs[0].users} users or so a run, {count} runs. The truth of a run is the effect on its own users, so 95 % is \
the least that intervals for a wider population should reach."
    )
    command = f"make study NAME=closed_loop REPLICATIONS={count} SEEDS={worlds}"
    page = study.write(
        conclusion, [Section("Coverage", text, columns, tuple(rows))], {"runs": count, **results}, command
    )
    return conclusion, str(page)

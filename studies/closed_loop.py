"""Do A/B intervals hold the counterfactual truth where people react to rankers?

Each run is a closed loop of its own luck: both rankers are simulated for every user, a coin of its own puts them into arms, and the A/B
analysis sees each user's outcome in the user's arm. The truth is the difference over all users. Rankers and features are held
as they were at the experiment's start (``closed_loop.worlds``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from closed_loop.worlds import FrozenModelWorld
from core.settings import Settings
from stats.assignment import assign
from studies.ab_calibration import both_methods
from studies.study import Section, Study

ARMS = ("hour_embedding", "matched_clock")
METRICS = ("active_days", "duration_hours")


def run(settings: Settings, replications: int, worlds: int) -> tuple[str, str]:
    """Run the study: ``replications`` loops, spread over the worlds; returns the conclusion and the page."""
    study = Study(settings, "closed_loop")
    share = math.ceil(replications / worlds)
    made: dict[int, FrozenModelWorld] = {}
    found: list[dict[str, Any]] = []
    for number in range(worlds):
        for luck in range(1, min(share, replications - number * share) + 1):
            parameters = {"world": number, "luck": luck, "arms": ARMS, "code": CODE}

            def one(number: int = number, luck: int = luck) -> dict[str, Any]:
                if number not in made:
                    made.clear()
                    made[number] = FrozenModelWorld(settings, number, ARMS)
                return _one(made[number], luck)

            found.append(study.part(f"world-{number}-luck-{luck}", parameters, one))
    return _report(study, found, worlds)


CODE = 1
"""Counts changes of what a run means; a new number simulates all of them again."""


def _one(world: FrozenModelWorld, luck: int) -> dict[str, Any]:
    """One loop: truth, and each method's interval."""
    arms = [world.run(v, luck) for v in ARMS]
    before = world.before
    there = arms[0].exposed & arms[1].exposed
    keys = [str(user) for user in range(world.config.users)]
    treated = assign("closed_loop", str(luck), {"a": 0.5, "b": 0.5}, keys) == "b"
    new = (before.values["active_days"] == 0).astype(float)
    result: dict[str, Any] = {"users": int(there.sum())}
    for m in METRICS:
        control, other = arms[0].values[m], arms[1].values[m]
        truth = float(other[there].mean() / control[there].mean() - 1)
        values = np.column_stack([np.where(treated, other, control), before.values[m], new])
        result[m] = {"truth": truth}
        for method, effect in both_methods(m, values[there], treated[there]).items():
            low, high = effect.rel_effect_ci
            result[m][method] = {"low": low, "high": high, "covers": bool(low <= truth <= high)}
    return result


def _report(study: Study, found: list[dict[str, Any]], worlds: int) -> tuple[str, str]:
    count = len(found)
    rows, results = [], {}
    for m in METRICS:
        truths = np.array([f[m]["truth"] for f in found])
        results[m] = {
            "truth": {"mean": float(truths.mean()), "lowest": float(truths.min()), "highest": float(truths.max())}
        }
        for method in ("welch", "cuped"):
            covered = sum(f[m][method]["covers"] for f in found)
            width = float(np.mean([f[m][method]["high"] - f[m][method]["low"] for f in found]))
            above = sum(f[m][method]["low"] > 0 for f in found)
            results[m][method] = {"covered": covered, "of": count, "mean_width": width, "shown_to_be_better": above}
            rows.append(
                (m.replace("_", " "), "Welch" if method == "welch" else "CUPED", f"{covered} of {count}", f"{truths.mean():+.1%}",
                 f"{width:.1%}", f"{above} of {count}")
            )  # fmt: skip
    cuped = {m: results[m]["cuped"]["covered"] for m in METRICS}
    good = all(v >= 0.9 * count for v in cuped.values())
    conclusion = (
        f"A/B intervals {'hold' if good else 'do not hold'} the truth of closed loops: with CUPED "
        + ", ".join(f"{m.replace('_', ' ')} in {v} of {count}" for m, v in cuped.items())
        + f" ({worlds} worlds; {ARMS[1].replace('_', ' ')} against {ARMS[0].replace('_', ' ')})."
    )
    columns = (
        "metric",
        "method",
        "intervals that hold the truth",
        "mean true effect",
        "mean width",
        "interval above 0",
    )
    text = (
        f"{found[0]['users']} users or so a run, {count} runs. The truth of a run is the effect on its own users, so 95 % is \
the least that intervals for a wider population should reach."
    )
    command = f"make study NAME=closed_loop REPLICATIONS={count} SEEDS={worlds}"
    page = study.write(
        conclusion, [Section("Coverage", text, columns, tuple(rows))], {"runs": count, **results}, command
    )
    return conclusion, str(page)

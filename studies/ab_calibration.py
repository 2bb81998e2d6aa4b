"""Do the A/B statistics hold what they promise? Errors, coverage, power and daily looks, by simulation.

The same functions as in reports run on the same sufficient statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from core.settings import Settings
from studies.ab_daily_looks import DAYS, DailyLooks, daily_looks
from studies.ab_draws import ALPHA, Parameters
from studies.ab_on_the_app import OnTheApp, on_the_app
from studies.ab_one_look import ModelCovariate, OneLook, one_look, with_a_model
from studies.charts import steps
from studies.study import Section, Study


def run(settings: Settings, *, replications: int = 2000) -> tuple[str, str]:
    """Run the study.

    Returns:
        Its conclusion and the path of its page.
    """
    study = Study(settings, "ab_calibration")
    p = Parameters(replications=replications)
    plain = study.part("one_look", asdict(p), lambda: one_look(settings, p))
    model = study.part("models", asdict(p), lambda: with_a_model(settings, p))
    looks = {
        name: study.part(f"looks_{name}", {**asdict(p), "habit": habit}, partial(daily_looks, p, habit))
        for name, habit in (("habits", 1.0), ("no_habits", 0.0))
    }
    app_runs = max(replications // 5, 5)
    app = study.part("app", {"runs": app_runs, "seed": p.seed}, lambda: on_the_app(app_runs, p.seed))
    conclusion = conclude(plain, model, looks, app)
    page = study.write(
        conclusion,
        sections(p, plain, model, looks, app),
        {"one_look": plain, "model": model, "daily_looks": looks, "app": app, "parameters": asdict(p)},
        f"make study NAME=ab_calibration REPLICATIONS={replications}",
    )
    return conclusion, str(page)


def _margin(replications: int, rate: float = ALPHA) -> float:
    """Half width of the 99 % interval of a rate over the replications."""
    return 2.576 * math.sqrt(rate * (1 - rate) / replications)


def conclude(plain: OneLook, model: ModelCovariate, looks: dict[str, DailyLooks], app: OnTheApp) -> str:
    """The conclusion in one sentence; it also says what is not as promised."""
    margin = _margin(plain["replications"])
    wrong = [n for n, m in plain["methods"].items() if abs(m["type_1"] - ALPHA) > margin]
    uncovered = [n for n, m in plain["methods"].items() if abs(m["coverage"] - 1 + ALPHA) > margin]
    cupac = model["methods"]["cupac"]
    wrong += ["cupac"] if abs(cupac["type_1"] - ALPHA) > margin else []
    uncovered += ["cupac"] if abs(cupac["coverage"] - 1 + ALPHA) > margin else []
    peeked = [
        f"{rule}, {method} ({name})"
        for name, result in looks.items()
        for rule in ("always_valid", "group_sequential")
        for method, rate in result["false_alarms"][rule].items()
        if rate > ALPHA + margin
    ]
    naive = max(result["false_alarms"]["naive"]["cuped"] for result in looks.values())
    problems = {"type-I error": wrong, "coverage": uncovered}
    inaccurate = "; ".join(
        f"{what} is not as stated for {', '.join(names)}" for what, names in problems.items() if names
    )
    accuracy = inaccurate or "errors and coverage are as stated for every method"
    looked = (
        "daily looks under both rules keep the error"
        if not peeked
        else f"daily looks raise the error under {', '.join(peeked)}"
    )
    low = min(m["coverage"]["cuped"] for m in app["metrics"].values())
    return (
        f"Over {plain['replications']:,} replications {accuracy}; {looked}, where reading one-look intervals every day gives up to "
        f"{naive:.0%} false alarms; on the simulated app the intervals cover the truth in at least {low:.0%} of {app['runs']} runs."
    )


def sections(
    p: Parameters, plain: OneLook, model: ModelCovariate, looks: dict[str, DailyLooks], app: OnTheApp
) -> list[Section]:
    """The page."""
    r = plain["replications"]
    percent: Callable[[float], str] = lambda v: f"{v:.1%}"  # noqa: E731
    return [
        Section(
            "One look",
            f"{r:,} experiments of {p.users:,} users without an effect (type-I error, should be 5 % ± {_margin(r):.1%} by chance) "
            "and as many "
            f"with one (coverage, should be 95 % ± {_margin(r):.1%}; power beside what the analysis promises). CUPED took off "
            f"{plain['saved']:.1%} of the variance, theory (R² of the pre-period) says {plain['saved_by_theory']:.1%}.",
            ("method", "type-I error", "coverage", "power", "power promised", "true lift"),
            tuple(
                (n, percent(m["type_1"]), percent(m["coverage"]), percent(m["power"]), percent(m["promised"]), f"{m['truth']:.2%}")
                for n, m in plain["methods"].items()
            ),
        ),
        Section(
            "A model as covariate (CUPAC)",
            f"{model['replications']:,} experiments of each kind, all methods on the same draws. The model sees one column more.",
            ("method", "type-I error", "coverage", "variance saved"),
            tuple(
                (n, percent(m["type_1"]), percent(m["coverage"]), percent(m["saved"])) for n, m in model["methods"].items()
            ),
        ),
        Section(
            "Looking every day",
            f"Share of {p.replications:,} experiments without an effect in which at least one of {DAYS} daily looks shows a difference. "
            "Habits: users differ permanently, so that days are alike; no habits: all days are independent, where looks do most harm.",
            ("rule", "users", "welch", "cuped"),
            tuple(
                (rule.replace("_", " "), name.replace("_", " "), percent(c["welch"]), percent(c["cuped"]))
                for name, result in looks.items()
                for rule, c in result["false_alarms"].items()
            ),
            [
                steps(
                    next(iter(looks.values()))["limits"], "day of the look", "limit for |z|",
                    "Limits for the standardized difference by day and stopping rule",
                )
            ],
        ),
        Section(
            "On the simulated app",
            f"{app['runs']} apps of 800 users, 7 days before and 7 in the experiment; the truth is a run of all users in both arms.",
            ("metric", "coverage, welch", "coverage, cuped", "variance saved", "by theory"),
            tuple(
                (m.replace("_", " "), percent(c["coverage"]["welch"]), percent(c["coverage"]["cuped"]), percent(c["saved"]),
                 percent(c["saved_by_theory"]))
                for m, c in app["metrics"].items()
            ),
        ),
    ]  # fmt: skip

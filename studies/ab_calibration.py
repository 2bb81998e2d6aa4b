"""Do the A/B statistics hold what they promise? Errors, coverage, power and daily looks, by simulation.

Users have a heavy-tailed activity (gamma) that is the same before and in the experiment; a fifth of them are new. The same
functions as in reports run on the same sufficient statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from ab_analysis.effect import Effect
from ab_analysis.experiment import Experiment, Stopping
from ab_analysis.inference import MetricSpec, compare, post_stratified
from ab_analysis.model_covariate import add_model_covariates
from ab_analysis.moments import Cells, Moments
from ab_analysis.quantiles import Quantile, compare_quantiles
from ab_analysis.stopping import interval_multiplier
from core.engine import engine
from core.settings import Settings
from core.sql_engine import Engine
from studies.charts import steps
from studies.study import Section, Study

ALPHA = 0.05
COLUMNS = ("y", "x", "new", "events", "events_x", "kept")
METHODS: dict[str, tuple[MetricSpec, bool]] = {
    "mean, welch": (MetricSpec("y", "y"), False),
    "mean, cuped": (MetricSpec("y", "y", covariates=("x", "new")), True),
    "ratio, delta method": (MetricSpec("r", "y", "events"), False),
    "ratio, cuped": (MetricSpec("r", "y", "events", ("x", "events_x", "new")), True),
    "proportion, welch": (MetricSpec("kept", "kept"), False),
}
STRATA = 4
DAYS = 14


@dataclass(frozen=True)
class Parameters:
    """Size and effect of the simulated experiments."""

    replications: int = 2000
    users: int = 2000
    lift: float = 0.12
    seed: int = 20260324


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


def draw(rng: np.random.Generator, p: Parameters, lift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the users of one experiment.

    Returns:
        Values of ``COLUMNS``, shape (users, 6); whether each is treated, and their stratum, shape (users,).
    """
    habit = rng.gamma(1.5, 1.0, p.users)
    treated = rng.uniform(size=p.users) < 0.5
    new = rng.uniform(size=p.users) < 0.2
    events_x = np.where(new, 0, rng.poisson(4 * habit))
    events = 1 + rng.poisson(4 * habit * (1 + lift * treated))
    y = rng.gamma(2.0, 0.5, p.users) * (1 + lift / 2 * treated) * events
    x = rng.gamma(2.0, 0.5, p.users) * events_x
    kept = (
        rng.uniform(size=p.users) < np.minimum((0.3 + 0.1 * np.minimum(habit, 3)) * (1 + lift * treated), 1)
    ).astype(float)
    stratum = np.where(new, 0, 1 + np.minimum(events_x // 4, STRATA - 2))
    return np.column_stack([y, x, new.astype(float), events, events_x, kept]).astype(float), treated, stratum


def moments(values: np.ndarray, columns: tuple[str, ...] = COLUMNS) -> Moments:
    """Sufficient statistics of a sample, shape (users, columns)."""
    centered = values - values.mean(axis=0)
    return Moments(columns, len(values), values.mean(axis=0), centered.T @ centered)


def _tests(values: np.ndarray, treated: np.ndarray, stratum: np.ndarray) -> dict[str, Effect]:
    control, treatment = moments(values[~treated]), moments(values[treated])
    effects = {
        name: compare(spec, control, treatment, 1 - ALPHA, adjusted=adjusted)
        for name, (spec, adjusted) in METHODS.items()
    }
    cells: dict[tuple[str, ...], Moments] = {
        (side, str(s)): moments(values[(treated == flag) & (stratum == s)])
        for side, flag in (("a", False), ("b", True))
        for s in range(STRATA)
        if ((treated == flag) & (stratum == s)).any()
    }
    spec = MetricSpec("y", "y")
    effects["mean, post-stratified"] = post_stratified(
        spec, Cells(("variant", "s"), cells), ("s",), "a", "b", 1 - ALPHA
    )
    return effects


QUANTILE = Quantile("y", 0.9)


class MethodFigures(TypedDict):
    """Shares of the replications, of one method.

    Attributes:
        type_1: that differ without an effect; ``power``: that differ with one; ``promised``: the power that was promised.
        coverage: whose interval covers the true lift, ``truth``.
        se: mean standard error.
    """

    type_1: float
    coverage: float
    power: float
    promised: float
    se: float
    truth: float


class OneLook(TypedDict):
    """Figures of each method; the variance that CUPED saved, and saves by theory."""

    methods: dict[str, MethodFigures]
    saved: float
    saved_by_theory: float
    replications: int


class ModelFigures(TypedDict):
    """Shares of the replications, of one method beside CUPAC, and the variance that it saved."""

    type_1: float
    coverage: float
    saved: float


class ModelCovariate(TypedDict):
    """Figures of each method on the same draws."""

    methods: dict[str, ModelFigures]
    replications: int


class DailyLooks(TypedDict):
    """By stopping rule: the limits for |z| of each day (None: no look), and the share of false alarms of each method."""

    limits: dict[str, list[float | None]]
    false_alarms: dict[str, dict[str, float]]
    replications: int


class AppFigures(TypedDict):
    """Of one metric: the share of intervals of each method that cover the truth, and the variance saved."""

    coverage: dict[str, float]
    saved: float
    saved_by_theory: float


class OnTheApp(TypedDict):
    """Figures of each metric over simulated apps."""

    runs: int
    metrics: dict[str, AppFigures]


def one_look(settings: Settings, p: Parameters) -> OneLook:
    """Type-I error, coverage of the relative interval, and power beside the promised power, by method."""
    rng = np.random.default_rng(p.seed)
    truth = _truth(np.random.default_rng(p.seed + 1), Parameters(users=4_000_000), p.lift)
    counts = {n: {"false": 0, "covered": 0, "detected": 0, "promised": 0.0, "se": 0.0} for n in truth}
    saved, expected = [], []
    with engine(settings) as db:
        for _ in range(p.replications):
            nothing = draw(rng, p, 0.0)
            for n, e in {**_tests(*nothing), "quantile 0.9": _quantile(db, *nothing[:2])}.items():
                counts[n]["false"] += e.p_value < ALPHA
            values, treated, stratum = draw(rng, p, p.lift)
            effects = {**_tests(values, treated, stratum), "quantile 0.9": _quantile(db, values, treated)}
            for n, e in effects.items():
                counts[n]["covered"] += e.rel_effect_ci[0] <= truth[n] <= e.rel_effect_ci[1]
                counts[n]["detected"] += e.p_value < ALPHA
                counts[n]["promised"] += e.power(truth[n] * e.control)
                counts[n]["se"] += e.se
            saved.append(1 - (effects["mean, cuped"].se / effects["mean, welch"].se) ** 2)
            expected.append(_explained(values[:, 0], values[:, 1:3]))
            db.queries.clear()
    r = p.replications
    return {
        "methods": {
            n: {"type_1": c["false"] / r, "coverage": c["covered"] / r, "power": c["detected"] / r, "promised": c["promised"] / r,
                "se": c["se"] / r, "truth": truth[n]}
            for n, c in counts.items()
        },
        "saved": float(np.mean(saved)), "saved_by_theory": float(np.mean(expected)), "replications": r,
    }  # fmt: skip


def _register(db: Engine, values: np.ndarray, treated: np.ndarray) -> None:
    columns = {name: values[:, n] for n, name in enumerate(COLUMNS)}
    db.register(
        "users", pa.table({"user_id": np.arange(len(values)), "variant": np.where(treated, "b", "a"), **columns})
    )


def _quantile(db: Engine, values: np.ndarray, treated: np.ndarray) -> Effect:
    _register(db, values, treated)
    return compare_quantiles(db, QUANTILE, "a", "b", 1 - ALPHA)


def with_a_model(settings: Settings, p: Parameters) -> ModelCovariate:
    """CUPAC beside Welch and CUPED on the same draws: type-I error and coverage of the mean, and the variance saved."""
    rng = np.random.default_rng(p.seed + 3)
    truth = _truth(np.random.default_rng(p.seed + 1), Parameters(users=4_000_000), p.lift)["mean, welch"]
    columns = (*COLUMNS, "y_model")
    methods = {
        "welch": (MetricSpec("y", "y"), False),
        "cuped": METHODS["mean, cuped"],
        "cupac": (MetricSpec("y", "y", covariates=("x", "new", "y_model")), True),
    }
    counts = {m: {"type_1": 0.0, "coverage": 0.0, "saved": 0.0} for m in methods}
    with engine(settings) as db:
        for _ in range(p.replications):
            for lift in (0.0, p.lift):
                values, treated, _ = draw(rng, p, lift)
                _register(db, values, treated)
                add_model_covariates(db, ["y"], ["x", "events_x", "new"], p.seed)
                predicted = db.arrow("SELECT y_model FROM users_with_models ORDER BY user_id")["y_model"].to_numpy()
                sides = [moments(np.column_stack([values, predicted])[treated == f], columns) for f in (False, True)]
                effects = {m: compare(t, sides[0], sides[1], 1 - ALPHA, adjusted=a) for m, (t, a) in methods.items()}
                for m, e in effects.items():
                    if lift:
                        counts[m]["coverage"] += e.rel_effect_ci[0] <= truth <= e.rel_effect_ci[1]
                        counts[m]["saved"] += 1 - (e.se / effects["welch"].se) ** 2
                    else:
                        counts[m]["type_1"] += e.p_value < ALPHA
            db.queries.clear()
    r = p.replications
    return {
        "methods": {
            m: {"type_1": c["type_1"] / r, "coverage": c["coverage"] / r, "saved": c["saved"] / r}
            for m, c in counts.items()
        },
        "replications": r,
    }


def _explained(y: np.ndarray, x: np.ndarray) -> float:
    """R² of a regression: the share of the variance that CUPED removes in theory."""
    design = np.column_stack([np.ones(len(y)), x])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - residual.var() / y.var())


def _truth(rng: np.random.Generator, p: Parameters, lift: float) -> dict[str, float]:
    """True relative effects: expectations of many users in both arms; the quantile's by drawing them."""
    habit = rng.gamma(1.5, 1.0, p.users)
    events = [1 + 4 * habit * (1 + lift * t) for t in (0, 1)]
    kept = [np.minimum((0.3 + 0.1 * np.minimum(habit, 3)) * (1 + lift * t), 1) for t in (0, 1)]
    value_per_event = rng.gamma(2.0, 0.5, p.users)
    values = [value_per_event * (1 + lift / 2 * t) * (1 + rng.poisson(4 * habit * (1 + lift * t))) for t in (0, 1)]
    tops = [float(np.quantile(y, 0.9)) for y in values]
    mean = float((1 + lift / 2) * events[1].mean() / events[0].mean() - 1)
    return {
        **dict.fromkeys(("mean, welch", "mean, cuped", "mean, post-stratified"), mean),
        **dict.fromkeys(("ratio, delta method", "ratio, cuped"), lift / 2),
        "proportion, welch": float(kept[1].mean() / kept[0].mean() - 1),
        "quantile 0.9": tops[1] / tops[0] - 1,
    }


RULES = ("fixed", "always_valid", "group_sequential")


def daily_looks(p: Parameters, habit: float) -> DailyLooks:
    """False alarms without an effect, if somebody looks on each of 14 days and stops at the first difference.

    Args:
        p: sizes.
        habit: 1: users differ permanently, as people do; 0: every day is independent, where repeated looks do most harm.
    """
    rng = np.random.default_rng(p.seed + 7)
    start = datetime(2026, 3, 2, tzinfo=UTC)
    base: dict[str, Any] = {
        "name": "looks", "variants": {"a": 1, "b": 1}, "control": "a", "start": start, "confidence": 1 - ALPHA,
        "end": (start + timedelta(days=DAYS - 1)).date(),
    }  # fmt: skip
    limits: dict[str, list[float]] = {}
    for rule in RULES:
        e = Experiment(**base, stopping=Stopping(rule=rule))
        limits[rule] = [interval_multiplier(e, d, 1) or math.inf for d in range(1, DAYS + 1)]
    limits["naive"] = [limits["fixed"][-1]] * DAYS
    t = MetricSpec("y", "y", covariates=("x",))
    alarms = {rule: {"welch": 0, "cuped": 0} for rule in limits}
    for _ in range(p.replications):
        level = 1 + habit * (rng.gamma(1.5, 1 / 1.5, p.users) - 1)
        treated = rng.uniform(size=p.users) < 0.5
        days = rng.poisson(level[:, None], (p.users, DAYS)).cumsum(axis=1)
        before = rng.poisson(level * DAYS)
        z: dict[str, list[float]] = {"welch": [], "cuped": []}
        for d in range(DAYS):
            values = np.column_stack([days[:, d], before]).astype(float)
            sides = [moments(values[flag], ("y", "x")) for flag in (~treated, treated)]
            for method, adjusted in (("welch", False), ("cuped", True)):
                z[method].append(abs(compare(t, sides[0], sides[1], 1 - ALPHA, adjusted=adjusted).z))
        for rule, limit in limits.items():
            for method, z_values in z.items():
                alarms[rule][method] += any(v > bound for v, bound in zip(z_values, limit, strict=True))
    return {
        "limits": {k: [None if math.isinf(v) else v for v in values] for k, values in limits.items()},
        "false_alarms": {rule: {m: n / p.replications for m, n in c.items()} for rule, c in alarms.items()},
        "replications": p.replications,
    }


APP_METRICS = ("active_days", "duration_hours", "finishes")


def both_methods(metric: str, values: np.ndarray, treated: np.ndarray) -> dict[str, Effect]:
    """Effects by Welch and by CUPED.

    Args:
        metric: its name.
        values: of each user the metric, the same before, and whether the user is new, shape (users, 3).
        treated: shape (users,).
    """
    sides = [moments(values[treated == flag], ("y", "x", "new")) for flag in (False, True)]
    tested = MetricSpec(metric, "y", covariates=("x", "new"))
    return {
        method: compare(tested, sides[0], sides[1], 1 - ALPHA, adjusted=adjusted)
        for method, adjusted in (("welch", False), ("cuped", True))
    }


def on_the_app(runs: int, seed: int) -> OnTheApp:
    """On simulated apps with different seeds: do intervals cover the effect that a run of all users in both arms shows?"""
    from simulation.config import SimulatorConfig

    covered = {m: {"welch": 0, "cuped": 0} for m in APP_METRICS}
    saved: dict[str, list[float]] = {m: [] for m in APP_METRICS}
    theory: dict[str, list[float]] = {m: [] for m in APP_METRICS}
    for n in range(runs):
        config = SimulatorConfig(seed=seed + n, days=14, users=800, items=300, experiment={"start_day": 7})
        users, truth = _app_users(config)
        for m in APP_METRICS:
            values = np.column_stack([users[m], users[f"{m}_pre"], users["new"]])
            effects = both_methods(m, values, users["treated"])
            for method, e in effects.items():
                covered[m][method] += e.rel_effect_ci[0] <= truth[m] <= e.rel_effect_ci[1]
            saved[m].append(1 - (effects["cuped"].se / effects["welch"].se) ** 2)
            theory[m].append(_explained(values[:, 0], values[:, 1:]))
    return {
        "runs": runs,
        "metrics": {
            m: {"coverage": {k: c / runs for k, c in covered[m].items()}, "saved": float(np.mean(saved[m])),
                "saved_by_theory": float(np.mean(theory[m]))}
            for m in APP_METRICS
        },
    }  # fmt: skip


def _app_users(config: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Exposed users' metrics before and in the experiment, and the true relative effects."""
    from simulation.app import App
    from simulation.truth import experiment_truth, user_totals

    app = App(config)
    after = user_totals(app, config.end_hour)
    pre_metrics = {m: np.zeros(config.users) for m in APP_METRICS}
    for day in range(config.experiment.start_day):
        shown = app.day(day)
        np.add.at(pre_metrics["duration_hours"], shown.user, shown.played / 3600)
        np.add.at(pre_metrics["finishes"], shown.user, shown.finish)
        pre_metrics["active_days"][np.unique(shown.user)] += 1
    exposed, values = after.exposed, after.values
    users = {m: values[m][exposed] for m in APP_METRICS} | {f"{m}_pre": pre_metrics[m][exposed] for m in APP_METRICS}
    users["new"] = (pre_metrics["active_days"][exposed] == 0).astype(float)
    users["treated"] = (app.variant == config.experiment.treatment)[exposed]
    truth = experiment_truth(config, config.end_hour)
    return users, {m: truth[m]["rel_effect"] for m in APP_METRICS}


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

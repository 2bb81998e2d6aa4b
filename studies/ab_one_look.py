"""One look at the end of simulated experiments: type-I error, coverage and power of each method, and of a model as covariate."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import pyarrow as pa

from ab_analysis.effect import Effect
from ab_analysis.inference import MetricSpec, compare
from ab_analysis.model_covariate import add_model_covariates
from ab_analysis.quantiles import Quantile, compare_quantiles
from core.engine import local_engine
from core.settings import Settings
from core.sql_engine import Engine
from studies.ab_draws import (
    ALPHA,
    COLUMNS,
    METHODS,
    Parameters,
    draw,
    effects_by_method,
    moments,
    share_explained,
    true_effects,
)

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


def one_look(settings: Settings, p: Parameters) -> OneLook:
    """Type-I error, coverage of the relative interval, and power beside the promised power, by method."""
    rng = np.random.default_rng(p.seed)
    truth = true_effects(np.random.default_rng(p.seed + 1), Parameters(users=4_000_000), p.lift)
    counts = {n: {"false": 0, "covered": 0, "detected": 0, "promised": 0.0, "se": 0.0} for n in truth}
    saved, expected = [], []
    with local_engine(settings) as db:
        for _ in range(p.replications):
            nothing = draw(rng, p, 0.0)
            for n, e in {**effects_by_method(*nothing), "quantile 0.9": _quantile(db, *nothing[:2])}.items():
                counts[n]["false"] += e.p_value < ALPHA
            values, treated, stratum = draw(rng, p, p.lift)
            effects = {**effects_by_method(values, treated, stratum), "quantile 0.9": _quantile(db, values, treated)}
            for n, e in effects.items():
                counts[n]["covered"] += e.rel_effect_ci[0] <= truth[n] <= e.rel_effect_ci[1]
                counts[n]["detected"] += e.p_value < ALPHA
                counts[n]["promised"] += e.power(truth[n] * e.control)
                counts[n]["se"] += e.se
            saved.append(1 - (effects["mean, cuped"].se / effects["mean, welch"].se) ** 2)
            expected.append(share_explained(values[:, 0], values[:, 1:3]))
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
    truth = true_effects(np.random.default_rng(p.seed + 1), Parameters(users=4_000_000), p.lift)["mean, welch"]
    columns = (*COLUMNS, "y_model")
    methods = {
        "welch": (MetricSpec("y", "y"), False),
        "cuped": METHODS["mean, cuped"],
        "cupac": (MetricSpec("y", "y", covariates=("x", "new", "y_model")), True),
    }
    counts = {m: {"type_1": 0.0, "coverage": 0.0, "saved": 0.0} for m in methods}
    with local_engine(settings) as db:
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

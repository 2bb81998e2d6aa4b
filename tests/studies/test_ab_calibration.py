"""The calibration study: small, whole, resumable; checked against an oracle where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clock.commands import study
from core import cli
from core.errors import ConfigError
from core.settings import Settings
from studies import ab_calibration
from studies.ab_daily_looks import DailyLooks
from studies.ab_draws import Parameters, draw, true_effects
from studies.ab_on_the_app import OnTheApp
from studies.ab_one_look import MethodFigures, ModelCovariate, OneLook
from studies.study import Study

REPLICATIONS = 5
"""The command line takes 20 and more; the page and what it goes on from need no precise figures."""


@pytest.mark.slow
def test_the_study_writes_figures_and_a_conclusion_and_continues_where_it_stopped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    conclusion, page = ab_calibration.run(settings, replications=REPLICATIONS)
    assert conclusion.startswith(f"Over {REPLICATIONS} replications")
    results = json.loads((Path(page).parent / "results.json").read_text())
    assert results["one_look"]["saved"] == pytest.approx(results["one_look"]["saved_by_theory"], abs=0.02)
    assert set(results["daily_looks"]["habits"]["false_alarms"]) == {
        "fixed",
        "always_valid",
        "group_sequential",
        "naive",
    }
    assert "data-chart" in Path(page).read_text()
    first = Path(page).read_bytes()
    for name in ("one_look", "with_a_model", "daily_looks", "on_the_app"):
        monkeypatch.setattr(ab_calibration, name, lambda *_: pytest.fail("computed again"))
    ab_calibration.run(settings, replications=REPLICATIONS)
    assert Path(page).read_bytes() == first


def test_the_truth_of_the_made_up_users_is_what_many_of_them_show() -> None:
    p = Parameters(users=400_000)
    rng = np.random.default_rng(1)
    truth = true_effects(np.random.default_rng(2), p, p.lift)
    values, treated, _ = draw(rng, p, p.lift)
    a, b = values[~treated], values[treated]
    assert b[:, 0].mean() / a[:, 0].mean() - 1 == pytest.approx(truth["mean, welch"], abs=0.015)
    assert b[:, 5].mean() / a[:, 5].mean() - 1 == pytest.approx(truth["proportion, welch"], abs=0.01)
    assert (b[:, 0].sum() / b[:, 3].sum()) / (a[:, 0].sum() / a[:, 3].sum()) - 1 == pytest.approx(p.lift / 2, abs=0.01)
    tops = [np.quantile(side[:, 0], 0.9) for side in (a, b)]
    assert tops[1] / tops[0] - 1 == pytest.approx(truth["quantile 0.9"], abs=0.02)


def test_a_method_that_does_not_keep_its_word_is_in_the_conclusion() -> None:
    good: MethodFigures = {
        "type_1": 0.05, "coverage": 0.95, "power": 0.8, "promised": 0.8, "se": 0.1, "truth": 0.03,
    }  # fmt: skip
    bad: MethodFigures = {**good, "type_1": 0.09, "coverage": 0.9}
    plain: OneLook = {
        "replications": 2000, "methods": {"fine": good, "bad": bad}, "saved": 0.5, "saved_by_theory": 0.5,
    }  # fmt: skip
    rates = {"fixed": 0.05, "always_valid": 0.01, "group_sequential": 0.2, "naive": 0.2}
    looks: dict[str, DailyLooks] = {
        "habits": {
            "limits": {}, "false_alarms": {r: {"welch": v, "cuped": v} for r, v in rates.items()}, "replications": 2000,
        }
    }  # fmt: skip
    app: OnTheApp = {
        "runs": 100,
        "metrics": {"m": {"coverage": {"welch": 0.9, "cuped": 0.9}, "saved": 0.5, "saved_by_theory": 0.5}},
    }
    model: ModelCovariate = {
        "methods": {"cupac": {"type_1": 0.05, "coverage": 0.8, "saved": 0.6}}, "replications": 2000,
    }  # fmt: skip
    text = ab_calibration.conclude(plain, model, looks, app)
    assert "type-I error is not as stated for bad; coverage is not as stated for bad, cupac" in text
    assert "daily looks raise the error under group_sequential" in text


def test_a_part_with_other_parameters_is_computed_again(settings: Settings) -> None:
    study, calls = Study(settings, "some"), []
    for parameters in ({"n": 1}, {"n": 1}, {"n": 2}):
        study.part("one", parameters, lambda: calls.append(1))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["ab_calibratoin"], "did you mean"), (["ab_calibration", "--replications", "3"], "at least 20")],
)
def test_a_wrong_call_says_what_there_is(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cli.call(study.app, arguments)

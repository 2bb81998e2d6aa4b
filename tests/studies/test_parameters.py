"""The study of newer parameters: the chain is the trainer's, and a copy knows of an hour what has happened in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from studies import parameters
from studies.lab import Lab
from studies.log import hours_of
from studies.parameters import COLUMNS, DAY, HOURLY, NOON, PACES, CopyRun, Moments, Pace
from studies.replay import AGES, Run
from tests.studies.helpers import close, scored


@pytest.mark.slow
def test_a_copy_learns_within_the_hour_and_leaves_the_chain_as_it_is(small: Lab) -> None:
    (log,) = small.logs()
    run = Run("hour_embedding", small.seed_numbers[0])
    column = scored(small, log, CopyRun(run), COLUMNS)
    assert np.array_equal(column[HOURLY], run.score(log))
    ages = Run(run.variant, run.seed, mode="ages").score(log)
    moments = Moments(log)
    hours = np.concatenate([np.full(len(keys), hour.number) for hour, keys in hours_of(log)])
    minutes = np.concatenate([moments.minutes(hour) for hour, _ in hours_of(log)])
    evaluated = hours >= moments.first
    for age in (NOON, DAY):
        assert np.array_equal(column[HOURLY, age][evaluated], ages[evaluated, AGES.index(age)])
    steps = np.concatenate([np.unique(moments.minutes(hour), return_inverse=True)[1] for hour, _ in hours_of(log)])
    new, again = (column[Pace(1, way).title] for way in ("new", "again"))
    for learned in (new, again):
        assert close(learned[steps == 0], column[HOURLY][steps == 0])
    second, later = evaluated & (steps == 1), evaluated & (steps > 1)
    assert np.array_equal(new[second], again[second])
    assert not close(new[second], column[HOURLY][second])
    assert not close(new[later], again[later])
    assert close(column[Pace(10, "new").title][minutes < 10], column[HOURLY][minutes < 10])
    assert close(column[Pace(1, "batches").title], column[HOURLY])  # none of the app's hours fills a batch


@pytest.mark.slow
def test_the_study_of_parameters_is_complete(small: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "VARIANTS", ("none", "hour_embedding"))
    conclusion, page = parameters.run(small)
    assert conclusion.startswith("simulator, none, parameters trained every 10 minutes: AUC ")
    results = json.loads((Path(page).parent / "results.json").read_text())["logs"]["simulator"]
    assert results["gaps"].keys() == {*parameters.VARIANTS}
    assert results["gaps"]["none"].keys() == {pace.title for pace in PACES}
    assert "minutes 40 to 59" in Path(page).read_text()

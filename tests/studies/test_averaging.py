"""The study of averaged weights: what an average holds, what it scores, and how one is chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from studies import averaging
from studies.averaging import DEFAULT, SLOWER, choose
from studies.lab import Lab
from studies.log import half_of, hours_of
from studies.paired import Figure
from studies.replay import Learner, Run
from studies.weight_averages import AVERAGES, COLUMNS, RAW, Average, AveragedRun
from tests.studies.helpers import close, scored


def weights_of_hours(ages: Sequence[float], half_life: float) -> np.ndarray:
    """How much each hour's weights count, by how old they are; the first hour's count for all that was before."""
    before = 0.5 ** (np.array(ages) / half_life)
    return np.diff(before, prepend=0.0)


@pytest.mark.slow
def test_samples_are_scored_by_the_mean_of_the_weights_of_the_hours_before(small: Lab) -> None:
    (log,) = small.logs()
    run = Run("hour_embedding", small.seed_numbers[0])
    column = scored(small, log, AveragedRun(run), COLUMNS)
    assert np.array_equal(column[RAW], run.score(log))

    hours = hours_of(log)
    first = half_of(np.array([hour.number for hour, _ in hours]))
    at = next(n for n, (hour, _) in enumerate(hours) if hour.number >= first) + 3
    learner = Learner(run, log)
    ends: list[dict[str, torch.Tensor]] = []
    for hour, keys in hours[:at]:
        learner.train(learner.reads(keys), hour)
        ends.append({name: p.detach().clone() for name, p in learner.ranker.named_parameters()})
    start = sum(len(keys) for _, keys in hours[:at])
    rows = slice(start, start + len(hours[at][1]))
    sizes = np.array([len(keys) for _, keys in hours])
    mean_size = np.mean([len(keys) for hour, keys in hours if hour.number < first])
    ages = {"hours": np.arange(at)[::-1], "samples": (sizes[:at].sum() - np.cumsum(sizes[:at])) / mean_size}
    for average in (Average(3), Average(6, "samples"), Average(6, part="without the time module")):
        assert average in AVERAGES
        shares = weights_of_hours(ages[average.unit].tolist(), average.half_life)
        with torch.no_grad():
            for name, parameter in learner.ranker.named_parameters():
                if average.part == "all" or not name.startswith("time."):
                    parameter.copy_(sum(share * end[name] for share, end in zip(shares.tolist(), ends, strict=True)))
        expected = learner.scores(learner.reads(hours[at][1]))
        assert close(column[average.title][rows], expected), average
        assert not close(column[RAW][rows], expected)
        with torch.no_grad():
            for name, parameter in learner.ranker.named_parameters():
                parameter.copy_(ends[-1][name])
    before = slice(0, sum(len(keys) for hour, keys in hours if hour.number < first))
    assert all(np.array_equal(scored[before], column[RAW][before]) for scored in column.values())


def test_an_average_is_chosen_by_auc_among_those_that_keep_session_auc() -> None:
    def gap(value: float, half: float = 0.001) -> Figure:
        return Figure(value, (value - half, value + half), 0.0)

    best_auc, loses_one, keeps = "1 h", "3 h", "6 h"
    tried = {
        "none": {
            best_auc: {"auc": gap(0.9), "session_auc": gap(-0.002)},
            loses_one: {"auc": gap(0.8), "session_auc": gap(0.002)},
            keeps: {"auc": gap(0.1), "session_auc": gap(-0.0009)},
        },
        "matched_clock": {
            best_auc: {"auc": gap(0.9), "session_auc": gap(0.0)},
            loses_one: {"auc": gap(0.8), "session_auc": gap(-0.002)},
            keeps: {"auc": gap(0.1), "session_auc": gap(0.0)},
        },
    }
    assert choose(tried) == keeps
    assert choose({module: {a: of for a, of in by.items() if a != keeps} for module, by in tried.items()}) == best_auc


@pytest.mark.slow
def test_the_study_of_averages_is_complete(small: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "CASES", {DEFAULT: ("none", "hour_embedding"), SLOWER: ("none",)})
    conclusion, page = averaging.run(small)
    assert conclusion.startswith("simulator, default base, half-life ")
    results = json.loads((Path(page).parent / "results.json").read_text())["logs"]["simulator"]
    of_default = results["bases"][DEFAULT]
    assert of_default["average"] in COLUMNS
    assert of_default["tried"]["none"].keys() == {*COLUMNS} - {RAW}
    assert of_default["gaps"].keys() == {"none", "hour_embedding"}
    assert of_default["modules"].keys() == {"hour_embedding"}
    assert "the last days" in Path(page).read_text()

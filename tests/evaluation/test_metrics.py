from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from core.errors import DataError
from evaluation import metrics
from evaluation.predictions import Predictions, session_numbers

rows = st.lists(
    st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 5), st.sampled_from([0.5, 1.0, 2.5])),
    min_size=2,
    max_size=60,
)


def columns(data: Sequence[tuple[int, bool, int, float]]) -> tuple[np.ndarray, ...]:
    users, labels, scores, weights = map(np.array, zip(*data, strict=True))
    return users, labels.astype(float), scores / 6, weights


@given(rows)
@hypothesis_settings(deadline=None)
def test_auc_agrees_with_scikit_learn_with_ties_and_weights(data: list[tuple[int, bool, int, float]]) -> None:
    users, labels, scores, weights = columns(data)
    value = metrics.auc(Predictions.of(users, labels, scores, weights)).value
    if len(set(labels)) < 2:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)


@given(rows)
@hypothesis_settings(deadline=None)
def test_uauc_and_gauc_agree_with_a_loop_over_users(data: list[tuple[int, bool, int, float]]) -> None:
    users, labels, scores, weights = columns(data)
    predictions = Predictions.of(users, labels, scores, weights)
    each = [
        (
            roc_auc_score(labels[users == u], scores[users == u], sample_weight=weights[users == u]),
            weights[users == u].sum(),
        )
        for u in np.unique(users)
        if len(set(labels[users == u])) == 2
    ]
    if not each:
        assert np.isnan(metrics.uauc(predictions).value)
        return
    assert metrics.uauc(predictions).value == pytest.approx(np.mean([a for a, _ in each]), abs=1e-12)
    expected = np.average([a for a, _ in each], weights=[w for _, w in each])
    assert metrics.gauc(predictions).value == pytest.approx(expected, abs=1e-12)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 5), st.integers(-1, 2)), min_size=2, max_size=80
    )
)
@hypothesis_settings(deadline=None)
def test_session_auc_agrees_with_a_loop_over_sessions(data: list[tuple[int, bool, int, int]]) -> None:
    """Sessions of two users are different ones though their numbers agree; rows of no session count nowhere."""
    users, labels, scores, sessions = columns(data)
    weights = 1 + scores
    predictions = Predictions.of(users, labels, scores, weights, sessions)
    of_sessions = [(users == u) & (sessions == s) for u in np.unique(users) for s in range(3)]
    judged = [rows for rows in of_sessions if len(set(labels[rows])) == 2]
    counts = metrics.session_counts(predictions)
    assert counts == {"sessions": len(judged), "session_samples": sum(int(rows.sum()) for rows in judged)}
    aucs = [roc_auc_score(labels[rows], scores[rows], sample_weight=weights[rows]) for rows in judged]
    value = metrics.session_auc(predictions).value
    if not judged:
        assert np.isnan(value)
        return
    assert value == pytest.approx(np.average(aucs, weights=[weights[rows].sum() for rows in judged]), abs=1e-12)


def test_session_auc_of_a_day_is_the_mean_of_its_hours_weighted_by_their_samples_in_sessions() -> None:
    rng = np.random.default_rng(6)
    users, labels, scores = rng.integers(0, 30, 2000), rng.integers(0, 2, 2000), rng.uniform(size=2000)
    hours = np.sort(rng.integers(0, 24, 2000))
    day = Predictions.of(users, labels, scores, sessions=session_numbers(hours))
    hourly = [metrics.summary(day.some(hours == hour)) for hour in range(24)]
    mean = np.average([h["session_auc"] for h in hourly], weights=[h["session_samples"] for h in hourly])
    assert metrics.session_auc(day).value == pytest.approx(mean, abs=1e-12)


def test_without_sessions_there_is_no_session_auc() -> None:
    values = metrics.summary(Predictions.of([1, 1, 2, 2], [0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]))
    assert np.isnan(values["session_auc"])
    assert values["sessions"] == values["session_samples"] == 0
    assert values["uauc"] == 1


def test_logloss_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    labels, scores = rng.integers(0, 2, 500), rng.uniform(0.01, 0.99, 500)
    value = metrics.logloss(Predictions.of(rng.integers(0, 9, 500), labels, scores)).value
    assert value == pytest.approx(log_loss(labels, scores), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auc", "uauc", "gauc", "session_auc", "logloss", "calibration"])
def test_intervals_cover_the_truth_with_users_of_unequal_activity(name: str) -> None:
    """Coverage over 400 data sets of 80 users; 93 to 97 % allows four standard errors of noise below."""
    rng = np.random.default_rng(11)

    def draw(users: int) -> Predictions:
        size = rng.geometric(0.05, users) + 4
        user = np.repeat(np.arange(users), size)
        lean = np.repeat(rng.normal(0, 0.7, users), size)
        signal = rng.normal(0, 1, len(user))
        labels = rng.uniform(size=len(user)) < 1 / (1 + np.exp(-(0.8 * signal + lean)))
        scores = 1 / (1 + np.exp(-(signal + rng.normal(0, 0.5, len(user)))))
        return Predictions.of(user, labels, scores, sessions=np.arange(len(user)) // 5)

    truth = metrics.METRICS[name](draw(40_000)).value
    hits = 0
    for _ in range(400):
        low, high = metrics.METRICS[name](draw(80)).interval()
        hits += low <= truth <= high
    assert 0.91 <= hits / 400 <= 0.985


@pytest.mark.parametrize("name", ["uauc", "gauc", "session_auc"])
def test_what_is_of_one_user_alone_has_no_error(name: str) -> None:
    """The others have one label only."""
    rng = np.random.default_rng(6)
    users, labels = np.repeat(np.arange(20), 10), np.repeat(np.arange(20) % 2, 10)
    labels[:10] = np.arange(10) % 2
    first, second = (
        metrics.METRICS[name](Predictions.of(users, labels, rng.uniform(size=200), sessions=users)) for _ in range(2)
    )
    assert np.isfinite(first.value)
    assert np.isnan(first.interval()).all()
    gap = second - first
    assert gap.value != 0
    assert np.isnan(gap.p_value())


@pytest.mark.parametrize("name", metrics.COMPARED)
def test_one_user_gives_no_p_value(name: str) -> None:
    rng = np.random.default_rng(7)
    labels = np.arange(30) % 2
    first, second = (
        metrics.METRICS[name](Predictions.of(["u"] * 30, labels, rng.uniform(size=30), sessions=np.arange(30) // 5))
        for _ in range(2)
    )
    assert np.isnan((second - first).p_value())


def test_the_paired_difference_of_a_model_with_itself_is_nothing() -> None:
    rng = np.random.default_rng(5)
    data = Predictions.of(rng.integers(0, 20, 300), rng.integers(0, 2, 300), rng.uniform(size=300))
    gap = metrics.auc(data) - metrics.auc(data)
    assert gap.value == 0
    assert gap.p_value() == 1


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 2], [0.1, 0.2], "labels must be"),
        ([0, 1], [0.1, float("nan")], "'score'"),
        ([0], [0.1, 0.2], "different lengths"),
    ],
)
def test_bad_predictions_are_refused_with_a_reason(labels: list[float], scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Predictions.of([1, 2], labels, scores)


@pytest.mark.parametrize("weighted", [False, True])
def test_differences_within_slices_are_those_of_the_slices_alone(weighted: bool) -> None:
    """Slices of many users, of one user, of one label, and rows of no slice; with ties and weights of 0."""
    rng = np.random.default_rng(5)
    rows = 4_000
    users, groups = rng.integers(0, 60, rows), rng.integers(-1, 6, rows)
    labels = (rng.random(rows) < 0.3).astype(float)
    labels[groups == 4], users[groups == 5] = 1.0, 7
    weights = rng.integers(0, 3, rows) * 0.5 if weighted else np.ones(rows)
    first, second = (Predictions.of(users, labels, rng.integers(0, 40, rows) / 40, weights) for _ in range(2))
    inside = np.flatnonzero(groups >= 0)
    gaps, errors = metrics.auc_gaps(first, second, inside, groups[inside], 7)
    for group in range(6):
        alone = [metrics.auc(side.some(groups == group)) for side in (first, second)]
        expected = alone[0] - alone[1]
        np.testing.assert_allclose(gaps[group], expected.value, rtol=1e-12, err_msg=str(group))
        np.testing.assert_allclose(errors[group], expected.standard_error, rtol=1e-9, err_msg=str(group))
    assert np.isnan([gaps[4], errors[4], errors[5], gaps[6], errors[6]]).all()
    assert np.isfinite(errors[:4]).all()
    nowhere = np.empty(0, np.int64)
    for count in (0, 2):
        assert [len(part) for part in metrics.auc_gaps(first, second, nowhere, nowhere, count)] == [count, count]
        assert np.isnan(metrics.auc_gaps(first, second, nowhere, nowhere, count)).all()

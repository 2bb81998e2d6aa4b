from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.popularity import popularity

COUNTS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=8)


@given(counts=COUNTS, prior=st.sampled_from([0, 20]))
def test_the_finish_rate_is_drawn_towards_that_of_all_items(counts: list[tuple[int, int]], prior: int) -> None:
    shown = np.array([n for n, _ in counts])
    finished = np.array([min(n, k) for n, k in counts])
    usual = finished.sum() / shown.sum()
    expected = [(k + prior * usual) / (n + prior) for n, k in zip(shown, finished, strict=True)]
    assert popularity(shown, finished, positives_only=False, prior_events=prior).tolist() == pytest.approx(expected)


@given(counts=COUNTS)
def test_of_positives_only_it_is_the_share_of_the_events(counts: list[tuple[int, int]]) -> None:
    shown = np.array([n for n, _ in counts])
    scores = popularity(shown, shown, positives_only=True, prior_events=20)
    assert scores.sum() == pytest.approx(1)
    assert (np.argsort(scores, kind="stable") == np.argsort(shown, kind="stable")).all()


def test_an_item_that_nobody_saw_has_the_usual_rate_or_none() -> None:
    shown, finished = np.array([0, 4]), np.array([0, 3])
    assert popularity(shown, finished, positives_only=False, prior_events=20)[0] == 0.75
    assert np.isnan(popularity(shown, finished, positives_only=False)[0])

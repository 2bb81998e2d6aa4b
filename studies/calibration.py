"""Scores of each day calibrated by the days before: Platt scaling and isotonic regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from core.hours import DAY_HOURS

SMALLEST, STEP_HOURS = 1e-6, 6
PAST_HOURS = 3 * DAY_HOURS
"""Calibration forgets what is older."""
Frame = Mapping[str, np.ndarray]
Calibrate = Callable[[np.ndarray, Frame], np.ndarray]


def platt(scores: np.ndarray, frame: Frame) -> np.ndarray:
    """A logistic curve of the scores' log odds (Platt 1999), fitted again every ``STEP_HOURS`` to the hours before.

    Args:
        scores: probabilities, in order of time.
        frame: ``hour``, ``label`` and ``known`` of the samples.
    """
    from sklearn.linear_model import LogisticRegression

    def fitted(past: np.ndarray, label: np.ndarray, new: np.ndarray) -> np.ndarray:
        model = LogisticRegression(C=1e6).fit(_log_odds(past)[:, None], label)
        return np.asarray(model.predict_proba(_log_odds(new)[:, None])[:, 1])

    return _by_hours_before(scores, frame, fitted)


def isotonic(scores: np.ndarray, frame: Frame) -> np.ndarray:
    """A step function that rises with the scores (Zadrozny and Elkan 2002), fitted like ``platt``."""
    from sklearn.isotonic import IsotonicRegression

    def fitted(past: np.ndarray, label: np.ndarray, new: np.ndarray) -> np.ndarray:
        model = IsotonicRegression(y_min=SMALLEST, y_max=1 - SMALLEST, out_of_bounds="clip").fit(past, label)
        return np.asarray(model.predict(new))

    return _by_hours_before(scores, frame, fitted)


CALIBRATIONS: dict[str, Calibrate] = {"Platt scaling": platt, "isotonic regression": isotonic}


def _by_hours_before(
    scores: np.ndarray, frame: Frame, fitted: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Scores of a few hours at a time, by what was fitted to the hours before; as they are while there is one label only."""
    hour, known, label = frame["hour"], frame["known"], frame["label"]
    calibrated = scores.astype(np.float64)
    for start in range(int(hour[0]), int(hour[-1]) + 1, STEP_HOURS):
        oldest, first, last = np.searchsorted(hour, [start - PAST_HOURS, start, start + STEP_HOURS])
        past = oldest + np.flatnonzero(known[oldest:first])
        if last > first and len(past) and 0 < label[past].mean() < 1:
            calibrated[first:last] = fitted(scores[past].astype(np.float64), label[past], calibrated[first:last])
    return calibrated


def _log_odds(chance: np.ndarray) -> np.ndarray:
    clipped = np.clip(chance, SMALLEST, 1 - SMALLEST)
    return np.log(clipped / (1 - clipped))

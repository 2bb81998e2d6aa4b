"""LightGBM and logistic regression on a log's columns, retrained on everything so far."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, Protocol

import numpy as np

from core.errors import ConfigError
from evaluation.metrics import PROBABILITY_FLOOR
from studies.columns import Columns

logger = logging.getLogger("studies")

NEEDED = ("lightgbm", "torch_rechub")
FEWEST_SAMPLES = 5
"""Of a value, in what a logistic regression is fitted to, for a weight of its own."""
FEW_VALUES = 256
"""LightGBM splits a category with up to so many values; of larger ones it has the statistics, as is usual."""


class Peer(Protocol):
    """A model that learns from some samples and scores others."""

    def tune(self, fitted: np.ndarray, checked: np.ndarray) -> None:
        """Choose settings: fit on some rows, compare on later ones. Neither are among those that are reported."""

    def fit(self, rows: np.ndarray) -> None:
        """Learn from these rows, from the beginning."""

    def update(self, past: np.ndarray, new: np.ndarray) -> None:
        """Learn that ``new`` rows have been added to ``past``, which it knows."""

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Probability of a positive, shape (rows,)."""


def require_libraries() -> None:
    """Raise ``ConfigError``, with what to install, where a library that peers come from is missing."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"this study needs {' and '.join(missing)}: pip install -r requirements-studies.txt")


def log_loss(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean negative log-likelihood, nats."""
    chance = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return float(-np.mean(np.where(label == 1, np.log(chance), np.log1p(-chance))))


class LightGBMPeer:
    """Gradient-boosted trees (Ke et al. 2017) on small categories, numbers and hourly statistics.

    Args:
        columns: of the log.
        seed: of the draws of rows and columns.
    """

    LEAVES = (7, 15, 31, 63)
    ROUNDS, PATIENCE = 1000, 50

    def __init__(self, columns: Columns, seed: int) -> None:
        self.columns, self.leaves, self.rounds = columns, self.LEAVES[0], 100
        small = [name for name, codes in columns.categories.items() if codes.max() <= FEW_VALUES]
        self.names = [*small, *columns.numbers]
        self.categorical = list(range(len(small)))
        self.matrix = np.column_stack([*(columns.categories[n] for n in small), *columns.numbers.values()])
        self.matrix = self.matrix.astype(np.float32)
        self.parameters = {
            "objective": "binary", "learning_rate": 0.05, "min_data_in_leaf": 100, "feature_fraction": 0.8,
            "bagging_fraction": 0.8, "bagging_freq": 1, "num_threads": 1, "verbosity": -1, "seed": seed,
            "deterministic": True, "force_row_wise": True,
        }  # fmt: skip

    def tune(self, fitted: np.ndarray, checked: np.ndarray) -> None:
        """Number of leaves, and of trees where the later rows' log-loss stops to fall."""
        import lightgbm

        trials: list[tuple[float, int, int]] = []
        for leaves in self.LEAVES:
            train = self._dataset(fitted)
            stop = lightgbm.early_stopping(self.PATIENCE, verbose=False)
            booster = lightgbm.train(
                {**self.parameters, "num_leaves": leaves, "metric": "binary_logloss"}, train, self.ROUNDS,
                valid_sets=[self._dataset(checked, train)], callbacks=[stop],
            )  # fmt: skip
            trials.append((booster.best_score["valid_0"]["binary_logloss"], leaves, booster.best_iteration))
        loss, self.leaves, self.rounds = min(trials)
        logger.info("LightGBM: %d leaves, %d trees (log-loss %.4f)", self.leaves, self.rounds, loss)

    def fit(self, rows: np.ndarray) -> None:
        import lightgbm

        self.booster = lightgbm.train({**self.parameters, "num_leaves": self.leaves}, self._dataset(rows), self.rounds)

    def update(self, past: np.ndarray, new: np.ndarray) -> None:
        self.fit(np.concatenate([past, new]))

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.booster.predict(self.matrix[rows], num_threads=1))

    def _dataset(self, rows: np.ndarray, reference: Any = None) -> Any:
        import lightgbm

        return lightgbm.Dataset(
            self.matrix[rows], self.columns.label[rows], reference=reference, feature_name=self.names,
            categorical_feature=self.categorical, free_raw_data=True,
        )  # fmt: skip


class LogisticPeer:
    """L2-regularized logistic regression on every category's values, numbers and hourly statistics; the seed plays no part."""

    STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
    """Inverse strengths of the penalty that are tried."""

    def __init__(self, columns: Columns, seed: int) -> None:
        del seed
        self.columns, self.inverse_strength = columns, self.STRENGTHS[0]
        self.numbers = np.column_stack(list(columns.numbers.values()))

    def tune(self, fitted: np.ndarray, checked: np.ndarray) -> None:
        trials: list[tuple[float, float]] = []
        for strength in self.STRENGTHS:
            self.inverse_strength = strength
            self.fit(fitted)
            trials.append((log_loss(self.columns.label[checked], self.predict(checked)), strength))
        loss, self.inverse_strength = min(trials)
        logger.info("logistic regression: C = %g (log-loss %.4f)", self.inverse_strength, loss)

    def fit(self, rows: np.ndarray) -> None:
        from sklearn.linear_model import LogisticRegression

        self.mean, self.scale = self.numbers[rows].mean(axis=0), self.numbers[rows].std(axis=0) + 1e-6
        self.weight_of: dict[str, np.ndarray] = {}
        width = self.numbers.shape[1]
        for name, codes in self.columns.categories.items():
            often = np.bincount(codes[rows], minlength=int(codes.max()) + 1) >= FEWEST_SAMPLES
            self.weight_of[name] = np.where(often, width + np.cumsum(often) - 1, -1)
            width += int(often.sum())
        self.width = width
        model = LogisticRegression(C=self.inverse_strength, max_iter=200, tol=1e-4)
        self.model = model.fit(self._design(rows), self.columns.label[rows])

    def update(self, past: np.ndarray, new: np.ndarray) -> None:
        self.fit(np.concatenate([past, new]))

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict_proba(self._design(rows))[:, 1])

    def _design(self, rows: np.ndarray) -> Any:
        """One column for each number and each value that has a weight, sparse."""
        from scipy import sparse

        where = np.column_stack([w[self.columns.categories[name][rows]] for name, w in self.weight_of.items()])
        row, at = np.nonzero(where >= 0)
        values = sparse.csr_matrix(
            (np.ones(len(row)), (row, where[row, at] - self.numbers.shape[1])),
            shape=(len(rows), self.width - self.numbers.shape[1]),
        )
        return sparse.hstack([sparse.csr_matrix((self.numbers[rows] - self.mean) / self.scale), values], format="csr")

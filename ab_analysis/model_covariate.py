"""A model's prediction as covariate, cross-fitted: CUPAC (Tang et al. 2020), MLRATE (Guo et al. 2021, arXiv 2106.07263).

For each fold of users a gradient-boosted model learns on users of the other folds what they do in the experiment from
what they did before it; its prediction for the fold is then one more covariate. The model never sees the user it
predicts, nor who is treated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from core.engine import Engine

FOLDS = 4
MOST_TRAINING_ROWS = 100_000
CHUNKS_OF_USERS = 1_000_000
MIN_USERS = 400


def add_model_covariates(db: Engine, metrics: Sequence[str], features: Sequence[str], seed: int) -> list[str]:
    """Make ``users_with_models``: ``users`` with the column ``<metric>_model`` for each metric.

    Args:
        db: holds ``users``.
        metrics: what is predicted.
        features: columns measured before the experiment.
        seed: of the models.

    Returns:
        The new columns; none where there are too few users to learn from.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    users = int(db.scalar("SELECT count(*) FROM users"))
    if users < MIN_USERS:
        return []
    taken = ", ".join(dict.fromkeys(features))
    wanted = ", ".join(dict.fromkeys(metrics))
    every = max(1, -(-users // (MOST_TRAINING_ROWS * FOLDS // (FOLDS - 1))))
    # Folds by a hash, so that ids which carry meaning (the day of arrival) do not; the rows in order, for equal models.
    place = "abs(CAST(user_id AS BIGINT) % 1000003 * 7919 % 1000003)"
    sample = db.arrow(
        f"SELECT {place} AS place, {taken}, {wanted} FROM users WHERE {place} % {every} = 0 ORDER BY user_id"
    )
    matrix = _matrix(sample, features)
    folds = _folds(sample)
    models = {}
    for metric in dict.fromkeys(metrics):
        y = sample[metric].to_numpy().astype(float)
        models[metric] = [
            HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=15, random_state=seed).fit(
                matrix[folds != f], y[folds != f]
            )
            for f in range(FOLDS)
        ]
    parts = max(1, -(-users // CHUNKS_OF_USERS))
    tables = []
    for part in range(parts):
        chunk = db.arrow(f"SELECT {place} AS place, user_id, {taken} FROM users WHERE {place} % {parts} = {part}")
        rows, chunk_folds = _matrix(chunk, features), _folds(chunk)
        columns = {"user_id": chunk["user_id"]}
        for metric, fitted in models.items():
            predicted = np.zeros(len(rows))
            for f, model in enumerate(fitted):
                at = chunk_folds == f
                if at.any():
                    predicted[at] = model.predict(rows[at])
            columns[f"{metric}_model"] = pa.array(predicted)
        tables.append(pa.table(columns))
    db.register("model_predictions", pa.concat_tables(tables))
    names = [f"{metric}_model" for metric in models]
    chosen = ", ".join(f"p.{n}" for n in names)
    db.view(
        "users_with_models",
        f"SELECT u.*, {chosen} FROM users u JOIN model_predictions p ON p.user_id = u.user_id",
    )
    return names


def _matrix(table: pa.Table, features: Sequence[str]) -> np.ndarray:
    return np.column_stack([table[f].to_numpy().astype(float) for f in features])


def _folds(table: pa.Table) -> np.ndarray:
    return (table["place"].to_numpy() // 7) % FOLDS

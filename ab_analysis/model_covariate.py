"""A model's prediction as covariate, cross-fitted: CUPAC (Tang et al. 2020), MLRATE (Guo et al. 2021, arXiv 2106.07263).

For each fold of users a gradient-boosted model learns from the users of the other folds to predict what they do in the
experiment from what they did before it; its predictions for the fold are one more covariate. The model never sees the
users that it predicts for, nor who is treated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from core.sql_engine import Engine

FOLDS = 4
PLACES = 7
"""Places by the hash that follow each other and are of one fold."""
MOST_TRAINING_ROWS = 100_000
CHUNKS_OF_USERS = 1_000_000
MIN_USERS = 400


def add_model_covariates(db: Engine, metrics: Sequence[str], features: Sequence[str], seed: int) -> list[str]:
    """Create ``users_with_models``: ``users`` with a column ``<metric>_model`` for each metric.

    Args:
        db: has the table ``users``.
        metrics: columns to predict.
        features: columns measured before the experiment.
        seed: for the models.

    Returns:
        Names of the new columns; empty if there are too few users to learn from.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    users = int(db.scalar("SELECT count(*) FROM users"))
    if users < MIN_USERS:
        return []
    feature_columns = ", ".join(dict.fromkeys(features))
    metric_columns = ", ".join(dict.fromkeys(metrics))
    step = max(1, -(-users // (MOST_TRAINING_ROWS * FOLDS // (FOLDS - 1))))
    step += step % (PLACES * FOLDS) == 0  # else all places of the sample would be of one fold
    # Folds by a hash, because ids may carry meaning (the day of arrival); ordered rows, so that models are reproducible.
    hash_sql = "abs(CAST(user_id AS BIGINT) % 1000003 * 7919 % 1000003)"
    sample = db.arrow(
        f"SELECT {hash_sql} AS place, {feature_columns}, {metric_columns} FROM users WHERE {hash_sql} % {step} = 0 ORDER BY user_id"
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
        chunk = db.arrow(
            f"SELECT {hash_sql} AS place, user_id, {feature_columns} FROM users WHERE {hash_sql} % {parts} = {part}"
        )
        rows, chunk_folds = _matrix(chunk, features), _folds(chunk)
        columns = {"user_id": chunk["user_id"]}
        for metric, fitted in models.items():
            predicted = np.zeros(len(rows))
            for f, model in enumerate(fitted):
                in_fold = chunk_folds == f
                if in_fold.any():
                    predicted[in_fold] = model.predict(rows[in_fold])
            columns[f"{metric}_model"] = pa.array(predicted)
        tables.append(pa.table(columns))
    db.register("model_predictions", pa.concat_tables(tables))
    names = [f"{metric}_model" for metric in models]
    prediction_columns = ", ".join(f"p.{n}" for n in names)
    db.view(
        "users_with_models",
        f"SELECT u.*, {prediction_columns} FROM users u JOIN model_predictions p ON p.user_id = u.user_id",
    )
    return names


def _matrix(table: pa.Table, features: Sequence[str]) -> np.ndarray:
    return np.column_stack([table[f].to_numpy().astype(float) for f in features])


def _folds(table: pa.Table) -> np.ndarray:
    return (table["place"].to_numpy() // PLACES) % FOLDS

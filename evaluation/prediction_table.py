"""Tables of predictions, as the trainer and the gate write them: columns user_id, label, score, and those of sessions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from core.hours import Hour
from evaluation.predictions import SESSION_COLUMNS, Predictions, session_numbers


def with_hour(table: pa.Table, hour: Hour) -> pa.Table:
    """An hour's predictions with the column ``hour``; tables of versions before it lack the column."""
    if "hour" in table.column_names:
        return table
    return table.append_column("hour", pa.array(np.full(table.num_rows, hour.number)))


def joined(tables: list[pa.Table]) -> pa.Table:
    """The predictions of several hours as one table; what one hour does not know (``request_id``) is null there."""
    return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})


def as_predictions(table: pa.Table) -> Predictions:
    """Columns of a prediction table, checked."""
    if not table.num_rows:
        return Predictions.of(np.empty(0, np.int64), np.empty(0), np.empty(0))
    users, labels, scores = (table[name].to_numpy() for name in ("user_id", "label", "score"))
    naming = [table[name].to_numpy() for name in SESSION_COLUMNS if name in table.column_names]
    return Predictions.of(users, labels, scores, sessions=session_numbers(*naming) if naming else None)

"""Speed of metrics and of the gate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.result import Result, timed
from core.hours import Hour


def bench_uauc(scale: float) -> Result:
    """UAUC of 5 M predictions of 100 k users; the peer is scikit-learn in a loop over users, on 2,000 of them."""
    from sklearn.metrics import roc_auc_score

    from evaluation.metrics import uauc
    from evaluation.predictions import Predictions

    rng = np.random.default_rng(0)
    rows, users, sample = int(5_000_000 * scale), int(100_000 * scale), 2000
    user, label, score = rng.integers(0, users, rows), rng.integers(0, 2, rows), rng.uniform(size=rows)
    ours = timed(lambda: uauc(Predictions.of(user, label, score)))
    sampled = user < sample
    frame = pd.DataFrame({"user": user[sampled], "label": label[sampled], "score": score[sampled]})

    def loop() -> float:
        return float(
            np.mean([roc_auc_score(g.label, g.score) for _, g in frame.groupby("user") if g.label.nunique() == 2])
        )

    peer = timed(loop, 1) * users / min(sample, users)
    return Result("uauc", ours, "s", "scikit-learn per user, scaled from 2,000 users", peer, peer / ours)


def bench_auc(scale: float) -> Result:
    """Paired AUC difference of two models on 5 M predictions with its interval; the peer gives two AUCs and no interval."""
    from sklearn.metrics import roc_auc_score

    from evaluation.metrics import auc
    from evaluation.predictions import Predictions

    rng = np.random.default_rng(2)
    rows = int(5_000_000 * scale)
    user, label = rng.integers(0, max(rows // 50, 2), rows), rng.integers(0, 2, rows)
    a, b = rng.uniform(size=rows), rng.uniform(size=rows)
    pair = Predictions.of(user, label, a), Predictions.of(user, label, b)

    def paired() -> tuple[float, float]:
        return (auc(pair[1]) - auc(pair[0])).interval()

    ours = timed(paired)
    peer = timed(lambda: (roc_auc_score(label, a), roc_auc_score(label, b)), 1)
    return Result("auc_delong", ours, "s", "scikit-learn, two AUCs without interval", peer, peer / ours)


def bench_gate(scale: float) -> Result:
    """A whole decision: two models, 24 hours, all slices, intervals; the peer gives scikit-learn's AUCs of the slices."""
    from sklearn.metrics import roc_auc_score

    from evaluation.gate import Scored, judge
    from evaluation.gate_decision import ModelVersion
    from evaluation.policy import load_policy

    rng = np.random.default_rng(3)
    rows, start = int(5_000_000 * scale), Hour.parse("2026-03-02T00")
    a = rng.uniform(size=rows)
    b = np.clip(a + 0.1 * rng.normal(size=rows), 0, 1)
    columns = {
        "event_id": pa.array(np.arange(rows)).cast(pa.string()),
        "user_id": rng.integers(0, max(rows // 50, 2), rows),
        "label": (rng.uniform(size=rows) < a).astype(np.int8),
        "local_hour": rng.integers(0, 24, rows),
        "user_kind": rng.choice(["new", "regular", "heavy"], rows),
        "item_kind": rng.choice(["new", "known"], rows),
        "facet_genre": rng.choice([f"g{n}" for n in range(50)], rows),
        "facet_mood": rng.choice([f"m{n}" for n in range(12)], rows),
    }
    models = [pa.table({**columns, "score": s.astype(np.float32)}) for s in (a, b)]
    step = rows // 24
    hours = {start + 1 + n: Scored(*(m.slice(n * step, step) for m in models)) for n in range(24)}
    versions = ModelVersion("2", "a", start.key), ModelVersion("1", "b", start.key)
    ours = timed(lambda: judge(load_policy(), *versions, hours), 1)

    def with_sklearn() -> None:
        for by in ("local_hour", "user_kind", "item_kind", "facet_genre", "facet_mood"):
            for value in np.unique(columns[by]):
                mask = columns[by] == value
                for score in (a, b):
                    roc_auc_score(columns["label"][mask], score[mask])

    peer = timed(with_sklearn, 1)
    return Result("gate", ours, "s", "scikit-learn, AUC of the slices only", peer, peer / ours)

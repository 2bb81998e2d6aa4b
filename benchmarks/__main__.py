"""``python -m benchmarks``: every figure next to its peer's in the same run; results in ``var/bench/results.json``."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from core import cli
from core.files import write_json, write_parquet
from core.hours import Hour
from core.settings import load_settings


@dataclass(frozen=True)
class Result:
    """A figure and its peer's; ``ratio`` is the peer's value over ours (above 1: we are faster)."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds."""
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return float(np.median(took))


def bench_uauc(scale: float) -> Result:
    """UAUC of 5 M predictions of 100 k users; the peer is scikit-learn in a loop over users, on 2,000 of them."""
    from sklearn.metrics import roc_auc_score

    from evaluation.metrics import Predictions, uauc

    rng = np.random.default_rng(0)
    rows, users, sample = int(5_000_000 * scale), int(100_000 * scale), 2000
    user, label, score = rng.integers(0, users, rows), rng.integers(0, 2, rows), rng.uniform(size=rows)
    ours = timed(lambda: uauc(Predictions.of(user, label, score)))
    inside = user < sample
    frame = pd.DataFrame({"user": user[inside], "label": label[inside], "score": score[inside]})

    def loop() -> float:
        return float(
            np.mean([roc_auc_score(g.label, g.score) for _, g in frame.groupby("user") if g.label.nunique() == 2])
        )

    peer = timed(loop, 1) * users / min(sample, users)
    return Result("uauc", ours, "s", "scikit-learn per user, scaled from 2,000 users", peer, peer / ours)


def bench_auc(scale: float) -> Result:
    """Paired AUC difference of two models on 5 M predictions with its interval; the peer gives two AUCs and no interval."""
    from sklearn.metrics import roc_auc_score

    from evaluation.metrics import Predictions, auc

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

    from evaluation.gate import Contender, Scored, judge, load_policy

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
    contenders = Contender("2", "a", start.key), Contender("1", "b", start.key)
    ours = timed(lambda: judge(load_policy(), *contenders, hours), 1)

    def with_sklearn() -> None:
        for by in ("local_hour", "user_kind", "item_kind", "facet_genre", "facet_mood"):
            for value in np.unique(columns[by]):
                mask = columns[by] == value
                for score in (a, b):
                    roc_auc_score(columns["label"][mask], score[mask])

    peer = timed(with_sklearn, 1)
    return Result("gate", ours, "s", "scikit-learn, AUC of the slices only", peer, peer / ours)


def bench_clock(scale: float) -> list[Result]:
    """Clock rebuild over 30 days and the refresh of the next hour; the peer is the same tile table in pandas."""
    from events.schema import event_schema
    from events.store import EventStore
    from feature_repo.clock import ClockState

    rng = np.random.default_rng(1)
    hours, rows = 30 * 24, int(1_000_000 * scale)
    start = Hour.parse("2026-03-02T00")
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(var=Path(folder), source="bench")
        store = EventStore(settings.events_dir)
        store.declare(
            {"source": "bench", "facets": ["genre", "mood"], "behaviours": ["finish", "skip"], "negatives": None}
        )
        moments = np.sort(rng.integers(0, hours * 3600, rows))
        finish = rng.uniform(size=rows) < 0.4
        table = pa.table(
            {
                "event_id": [f"e{n}" for n in range(rows)],
                "user_id": rng.integers(0, rows // 100, rows),
                "item_id": rng.integers(0, 1000, rows),
                "timestamp": pa.array((start.number * 3600 + moments) * 1_000_000, pa.timestamp("us", "UTC")),
                "local_time": pa.array((start.number * 3600 + moments) * 1_000_000, pa.timestamp("us")),
                "genre": rng.choice([f"g{n}" for n in range(50)], rows),
                "mood": rng.choice([f"m{n}" for n in range(12)], rows),
                "played_seconds": np.full(rows, 10.0),
                "duration_seconds": np.full(rows, 100.0),
                "finish": finish,
                "like": np.zeros(rows, bool),
                "skip": ~finish & (rng.uniform(size=rows) < 0.4),
                "dislike": np.zeros(rows, bool),
                "share": np.zeros(rows, bool),
            }
        ).cast(event_schema(["genre", "mood"]))
        bounds = np.searchsorted(moments, np.arange(hours + 1) * 3600)
        for n in range(hours):
            store.merge(start + n, table.slice(bounds[n], bounds[n + 1] - bounds[n]))
        state = ClockState(settings, store)
        rebuild = timed(lambda: state.rebuild(start + hours - 1), 1)
        refresh = timed(lambda: state.refresh(start + hours), 1)
        file = Path(folder) / "all.parquet"
        write_parquet(file, table)

        def with_pandas() -> None:
            frame = pd.read_parquet(file)
            frame["slot"] = frame["local_time"].dt.hour
            frame["score"] = frame["finish"].astype(int) - frame["skip"].astype(int)
            for facet in ("genre", "mood"):
                sums = frame.groupby(["user_id", "slot", facet], observed=True)["score"].sum().reset_index()
                sums = sums[sums["score"] > 0].sort_values(["user_id", "slot", "score"], ascending=[True, True, False])
                sums.groupby(["user_id", "slot"]).head(3)

        pandas = timed(with_pandas, 1)
    return [
        Result("clock_rebuild_with_history", rebuild, "s", "pandas, final clock only", pandas, pandas / rebuild),
        Result("clock_refresh", refresh, "s", "pandas, full rebuild", pandas, pandas / refresh),
    ]


def main(arguments: argparse.Namespace) -> None:
    results = [
        bench_uauc(arguments.scale),
        bench_auc(arguments.scale),
        bench_gate(arguments.scale),
        *bench_clock(arguments.scale),
    ]
    for r in results:
        print(f"{r.name:<28} {r.value:8.3f} {r.unit}   {r.ratio:7.1f} × {r.peer} ({r.peer_value:.2f} {r.unit})")
    path = load_settings().var / "bench" / "results.json"
    write_json(path, [asdict(r) for r in results])
    print(f"results in {path}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    top.add_argument("--scale", type=float, default=1.0, help="share of the full size (default 1)")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)

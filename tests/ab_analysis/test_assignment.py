"""Assignment: uniform, independent, reproducible; layers; the exposure log."""

from __future__ import annotations

import resource
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, kstest

from ab_analysis.assignment import ExposureLog, assign_users, check_layers
from ab_analysis.experiment import Experiment, Layer
from core.errors import ConfigError
from core.hours import Hour
from core.settings import load_settings
from events.ingest import ingest
from events.store import EventStore
from stats.assignment import hash_to_unit
from tests.conftest import NOW, small_log, write_mapping

AB = {"name": "test", "variants": {"a": 1, "b": 1}, "control": "a", "start": "2026-03-02"}


@pytest.mark.slow
def test_ten_million_users_are_split_to_a_thousandth() -> None:
    """In chunks: the keys of ten million users at once would take a gigabyte."""
    total = np.zeros(10, dtype=int)
    for first in range(0, 10_000_000, 500_000):
        uniform = hash_to_unit("test\x1f2026", [str(n) for n in range(first, first + 500_000)])
        total += np.bincount((uniform * 10).astype(int), minlength=10)
    assert np.abs(total.cumsum() / 1e7 - np.arange(1, 11) / 10).max() < 1e-3


def test_the_hash_is_uniform_for_ids_that_follow_each_other() -> None:
    assert kstest(hash_to_unit("s", [f"user-{n:07d}" for n in range(50_000)]), "uniform").pvalue > 0.001


def test_experiments_split_independently_by_name_and_by_salt() -> None:
    keys = [str(n) for n in range(40_000)]
    first = assign_users(Experiment(**AB), keys)
    for other in ({"name": "next"}, {"salt": "new"}):
        second = assign_users(Experiment(**{**AB, **other}), keys)
        table = [[int(((first == x) & (second == y)).sum()) for y in "ab"] for x in "ab"]
        assert chi2_contingency(table).pvalue > 0.001
    assert (assign_users(Experiment(**AB), keys) == first).all()


def test_who_is_held_out_is_in_no_other_experiment_and_everybody_else_is_where_they_were() -> None:
    keys = [str(n) for n in range(20_000)]
    holdout = Experiment(
        **{**AB, "name": "all", "variants": {"out": 0.1, "in": 0.9}, "control": "out", "holdout": True}
    )
    layered = Experiment(**{**AB, "name": "next", "layer": {"name": "ranking", "start": 0.3, "end": 1}})
    kept = assign_users(holdout, keys, [holdout])
    assert kept.tolist() == assign_users(holdout, keys).tolist()
    assert (kept == "out").mean() == pytest.approx(0.1, abs=0.01)
    for experiment in (Experiment(**AB), layered):
        alone, beside = assign_users(experiment, keys), assign_users(experiment, keys, [holdout])
        assert {*beside[kept == "out"]} == {None}
        assert beside[kept == "in"].tolist() == alone[kept == "in"].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": {"name": "l", "end": 0.5}}, "leave out 'layer'"),
        ({"automatic_stop": True, "models": {"a": "champion", "b": "challenger"}}, "leave out 'automatic_stop'"),
    ],
)
def test_a_holdout_is_of_all_users_and_ends_by_nothing_itself(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Experiment(**{**AB, "holdout": True, **changes})


def test_there_is_one_holdout_at_a_time() -> None:
    first = Experiment(**{**AB, "holdout": True, "end": "2026-03-20"})
    check_layers([first, Experiment(**{**AB, "name": "next", "holdout": True, "start": "2026-03-21"})])
    with pytest.raises(ConfigError, match="'test' and 'next' are holdouts at the same time"):
        check_layers([first, Experiment(**{**AB, "name": "next", "holdout": True, "start": "2026-03-20"})])


def test_layers_keep_experiments_apart_and_leave_their_split_alone() -> None:
    keys = [str(n) for n in range(20_000)]
    low = Experiment(**{**AB, "layer": {"name": "ranking", "start": 0, "end": 0.3}})
    high = Experiment(**{**AB, "name": "next", "layer": {"name": "ranking", "start": 0.3, "end": 1}})
    in_low, in_high = (np.array([v is not None for v in assign_users(e, keys)]) for e in (low, high))
    assert not (in_low & in_high).any()
    assert (in_low | in_high).all()
    assert in_low.mean() == pytest.approx(0.3, abs=0.01)
    variants = assign_users(low, keys)
    assert (variants[in_low] == "a").mean() == pytest.approx(0.5, abs=0.02)


def test_experiments_that_claim_the_same_users_at_the_same_time_are_refused() -> None:
    low = Experiment(**{**AB, "end": "2026-03-10", "layer": Layer(name="ranking", start=0, end=0.6)})
    high = Experiment(**{**AB, "name": "next", "layer": Layer(name="ranking", start=0.5, end=1)})
    with pytest.raises(ConfigError, match=r"'test' takes users 0 to 0.6 and 'next' 0.5 to 1"):
        check_layers([low, high])
    later = high.model_copy(update={"start": datetime(2026, 3, 11, tzinfo=UTC)})
    check_layers([low, later])


def test_a_disk_that_is_full_within_a_line_takes_the_line_and_no_other(tmp_path: Path) -> None:
    log, users = ExposureLog(tmp_path), [f"u{n}" for n in range(9)]
    at = datetime(2026, 3, 2, 8, 5, tzinfo=UTC)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        written = []
        for user in users:
            with suppress(OSError):
                log.expose("test", "a", user, at)
                written.append(user)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 2 < len(written) < 6
    assert log.expose("test", "a", users[len(written)], at), "the user is logged as soon as there is room"
    (file,) = tmp_path.glob("*.csv/*.csv")
    rows = [line.split(",") for line in file.read_text().splitlines()]
    assert [row[2] for row in rows[1:]] == users[: len(written) + 1]
    assert {len(row) for row in rows} == {4}


def test_the_exposure_log_is_what_ingestion_reads(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    small_log().to_csv(tmp_path / "log" / "2026-03-02T08.csv", index=False)
    log = ExposureLog(tmp_path / "exposures")
    at = datetime(2026, 3, 2, 8, 5, tzinfo=UTC)
    assert log.expose("test", "a", "u0", at)
    assert not log.expose("test", "a", "u0", at + timedelta(minutes=1))
    assert log.expose("test", "b", "u,1", at + timedelta(minutes=2))
    assert log.expose("test", "b", "u,1", at)  # an earlier time that arrives later counts
    assert not log.expose("test", "b", "u,1", at)
    assert log.expose("test", "a", "u0", at + timedelta(hours=1))
    replica = ExposureLog(tmp_path / "exposures")
    assert replica.expose("test", "a", "u0", at - timedelta(minutes=2))
    assert replica.expose("test", "b", "u2", at)
    extra = "exposures: {path: '../exposures/{name}', user_id: user, timestamp: {column: timestamp}}\n"
    settings = load_settings(var=tmp_path / "var", source="test")
    ingest(str(write_mapping(tmp_path, extra)), [str(tmp_path / "log" / "2026-03-02T08.csv")], settings, now=NOW)
    exposures = EventStore(settings.events_dir).read_exposures(Hour.parse("2026-03-02T08")).to_pylist()
    assert len(list((tmp_path / "exposures" / "2026-03-02T08.csv").iterdir())) == 2
    assert sorted((r["experiment"], r["variant"], r["timestamp"]) for r in exposures) == [
        ("test", "a", at - timedelta(minutes=2)),
        ("test", "b", at),
        ("test", "b", at),
    ]

"""Aliases on a real MLflow store."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from core.errors import DataError, NotReadyError
from core.hours import Hour
from core.settings import ROOT, load_settings
from model_registry.registry import BY_HAND, Move, Registry
from tests.conftest import place_tracking_store, tracking_store


@pytest.fixture
def models(tmp_path: Path) -> Registry:
    store = tmp_path / "mlflow.db"
    store.write_bytes(tracking_store())
    client = mlflow.MlflowClient(f"sqlite:///{store}")
    client.create_registered_model("ranker")
    for _ in range(4):
        client.create_model_version("ranker", source=str(tmp_path), run_id=None)
    return Registry(client, "ranker", tmp_path / "moves.jsonl")


def champion(models: Registry) -> str | None:
    version = models.get("champion")
    return str(version.version) if version else None


def test_a_promotion_names_its_predecessor_and_can_be_undone(models: Registry) -> None:
    models.move("champion", "1", "first", expected=None)
    models.move("champion", "2", "better", expected="1")
    assert champion(models) == "2"
    back = models.rollback("worse after all")
    assert (back.previous, back.version, champion(models)) == ("2", "1", "1")
    assert [(m.previous, m.version, m.reason) for m in models.moves()] == [
        (None, "1", "first"), ("1", "2", "better"), ("2", "1", "worse after all"),
    ]  # fmt: skip


def test_two_promotions_at_once_cannot_both_win(models: Registry) -> None:
    models.move("champion", "1", "first", expected=None)

    def attempt(version: str) -> bool:
        try:
            models.move("champion", version, "race", expected="1")
        except DataError:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        wins = list(pool.map(attempt, ["2", "3", "4"]))
    assert sum(wins) == 1
    assert champion(models) == ["2", "3", "4"][wins.index(True)]


def test_moving_to_where_it_is_leaves_no_trace(models: Registry) -> None:
    models.move("champion", "1", "first")
    models.move("champion", "1", "again")
    assert len(models.moves()) == 1


def test_wrong_moves_are_refused(models: Registry) -> None:
    with pytest.raises(NotReadyError, match="no champion"):
        models.rollback("nothing there")
    with pytest.raises(DataError, match="no version 9"):
        models.move("champion", "9", "typo")
    models.move("champion", "1", "first")
    with pytest.raises(NotReadyError, match="first champion"):
        models.rollback("no predecessor")
    with pytest.raises(DataError, match="champion already"):
        models.rollback("same", to="1")


def test_a_champion_deleted_by_hand_counts_as_none(models: Registry) -> None:
    models.move("champion", "1", "first")
    models.client.delete_model_version("ranker", "1")
    assert champion(models) is None


HOUR = Hour.parse("2026-03-02T08")


def test_a_move_has_its_hour_and_who_wanted_it(models: Registry) -> None:
    models.move("champion", "1", "first", hour=HOUR)
    models.move("champion", "2", "better", hour=HOUR + 1)
    models.rollback("worse", hour=HOUR + 2, who="a person")
    assert [(m.hour, m.who) for m in models.moves()] == [
        ("2026-03-02T08", "platform"), ("2026-03-02T09", "platform"), ("2026-03-02T10", "a person"),
    ]  # fmt: skip


def test_a_move_made_by_hand_in_mlflow_is_recorded_once_before_the_next_one(models: Registry) -> None:
    models.move("champion", "1", "first", hour=HOUR)
    models.client.set_registered_model_alias("ranker", "champion", "3")
    (noticed,) = models.record_moves_by_hand(HOUR + 1)
    assert (noticed.previous, noticed.version, noticed.hour, noticed.who) == ("1", "3", "2026-03-02T09", BY_HAND)
    assert models.record_moves_by_hand(HOUR + 2) == []
    models.client.delete_registered_model_alias("ranker", "champion")
    models.move("champion", "2", "better", hour=HOUR + 3)
    assert [(m.previous, m.version, m.who) for m in models.moves()] == [
        (None, "1", "platform"), ("1", "3", BY_HAND), ("3", None, BY_HAND), (None, "2", "platform"),
    ]  # fmt: skip


def test_a_refused_move_still_records_what_was_done_by_hand(models: Registry) -> None:
    models.move("champion", "1", "first")
    models.client.set_registered_model_alias("ranker", "champion", "3")
    with pytest.raises(DataError, match="somebody moved it"):
        models.move("champion", "2", "better", expected="1")
    assert [m.version for m in models.moves()] == ["1", "3"]


@pytest.mark.parametrize("done", [True, False])
def test_a_move_that_a_crash_cut_short_is_never_taken_for_one_by_hand(
    models: Registry, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    models.move("champion", "1", "first")
    with monkeypatch.context() as broken:
        if done:  # the alias points at it, the trail does not say so yet
            broken.setattr(models, "_record", lambda moves: (_ for _ in ()).throw(OSError("full")))
        else:
            broken.setattr(
                models.client, "set_registered_model_alias", lambda *a: (_ for _ in ()).throw(OSError("gone"))
            )
        with pytest.raises(OSError, match="full" if done else "gone"):
            models.move("champion", "2", "better", hour=HOUR)
    assert models.record_moves_by_hand(HOUR + 1) == []
    assert [(m.version, m.who) for m in models.moves()] == [("1", "platform"), ("2", "platform")][: 1 + done]
    assert champion(models) == ("2" if done else "1")


def test_a_move_reads_only_what_was_added_to_the_trail_since_the_last_one(models: Registry) -> None:
    models.move("champion", "1", "first")
    models.move("champion", "2", "better")
    models.record_moves_by_hand()
    lines = models.trail.read_bytes()
    models.trail.write_bytes(b"?" * (len(lines) - 1) + b"\n")  # unreadable from here on
    models.move("champion", "3", "better still")
    assert models.record_moves_by_hand() == []
    models.trail.write_bytes(lines + models.trail.read_bytes()[len(lines) :])
    assert [(m.previous, m.version) for m in models.moves()] == [(None, "1"), ("1", "2"), ("2", "3")]


def test_a_move_that_a_full_disk_wrote_half_is_written_whole_by_the_next(models: Registry) -> None:
    models.move("champion", "1", "first")
    before = models.trail.read_bytes()
    models.move("champion", "2", "better", hour=HOUR)
    models.trail.write_bytes(models.trail.read_bytes()[: len(before) + 9])
    assert [m.version for m in models.moves()] == ["1"]
    assert [(m.version, m.who) for m in models.record_moves_by_hand(HOUR)] == [("2", BY_HAND)]
    assert [m.version for m in models.moves()] == ["1", "2"]


def test_lines_written_before_moves_had_hours_still_read(models: Registry) -> None:
    old = (
        '{"alias": "champion", "version": "%s", "previous": null, "reason": "%s", "at": "2026-03-02T09:01:00+00:00"}\n'
    )
    reasons = "gate at 2026-03-02T08: better", "worse"
    models.trail.write_text("".join(old % (n, reason) for n, reason in enumerate(reasons)))
    assert [move.hour for move in models.moves()] == ["2026-03-02T08", None]
    assert models.moves()[1] == Move("champion", "1", None, "worse", "2026-03-02T09:01:00+00:00")


@pytest.mark.slow
def test_of_what_mlflow_logs_only_warnings_are_shown(tmp_path: Path) -> None:
    place_tracking_store(load_settings(var=tmp_path))
    code = """import logging
from core.settings import load_settings
from model_registry.store import open_mlflow
open_mlflow(load_settings())
logging.getLogger("mlflow.models").info("its progress")
logging.getLogger("mlflow.models").warning("its trouble")
"""
    environment = {**os.environ, "CLOCK_VAR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_LOGGING_LEVEL", None)  # set by an earlier test of this process
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "its trouble" in done.stderr
    assert "its progress" not in done.stderr

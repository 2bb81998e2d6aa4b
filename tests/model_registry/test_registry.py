"""Aliases on a real MLflow store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from core.errors import DataError, NotReadyError
from model_registry.registry import Registry


@pytest.fixture
def models(tmp_path: Path) -> Registry:
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
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

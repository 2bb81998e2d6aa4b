"""Where the champion's moves are drawn."""

from __future__ import annotations

import pytest

from model_registry.registry import BY_HAND, Move
from pages.rankers import _places_of_moves


def test_every_move_of_the_champion_with_an_hour_is_drawn_whoever_made_it() -> None:
    def move(alias: str, hour: str | None, who: str = "platform") -> Move:
        return Move(alias, "2", "1", "any reason", "2026-03-09T00:00:00+00:00", hour, who)

    moves = [
        move("champion", "2026-03-02T00"), move("champion", "2026-03-03T12", "a person"),
        move("champion", "2026-03-03T18", BY_HAND), move("champion", None), move("challenger", "2026-03-03T00"),
        move("champion", "2026-02-01T00"),
    ]  # fmt: skip
    assert _places_of_moves(moves, ["2026-03-02", "2026-03-03"]) == pytest.approx([0.0, 1.5, 1.75])

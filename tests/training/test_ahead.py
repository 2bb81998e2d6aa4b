from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from training.ahead import one_ahead, side_by_side, start

WHERE: ContextVar[str] = ContextVar("where", default="nowhere")


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_parts_come_in_order_and_the_next_is_made_while_one_is_used(count: int) -> None:
    made = [threading.Event() for _ in range(count + 1)]

    def make(part: int) -> int:
        made[part].set()
        return part * 10

    for at, part in enumerate(one_ahead(make, range(count))):
        assert part == at * 10
        if at + 1 < count:
            assert made[at + 1].wait(10)


def test_an_error_of_a_part_comes_in_its_turn_and_whoever_stops_early_leaves_no_thread() -> None:
    def make(part: int) -> int:
        if part == 2:
            raise ValueError("the third")
        return part

    made: list[int] = []
    with pytest.raises(ValueError, match="the third"):
        made.extend(one_ahead(make, range(4)))
    before = threading.active_count()
    parts = one_ahead(make, range(2))
    assert next(parts) == 0
    parts.close()
    assert threading.active_count() == before


def test_work_side_by_side_keeps_its_order_and_really_is_side_by_side() -> None:
    both = threading.Barrier(2)

    def make(part: int) -> int:
        both.wait(10)
        return part

    assert side_by_side(make, range(4), threads=2) == [0, 1, 2, 3]
    assert side_by_side(str, [7], threads=2) == ["7"]


def test_work_that_was_started_sees_what_its_caller_does() -> None:
    WHERE.set("here")
    assert start(WHERE.get).result() == "here"

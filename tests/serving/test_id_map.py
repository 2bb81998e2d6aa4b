"""The log's ids as serving reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from core.files import write_json, write_parquet
from core.hours import Hour
from events.ids import SCHEMA, id_path
from events.store import EventStore
from serving.catalog import UNKNOWN_ID, IdMap
from serving.routing import Route
from serving.stages import CandidateSet, RankRequest, RoutedRequest, ScoredCandidates, answer_from, known_users


def write(path: Path, keys: list[str], first: int = 1) -> None:
    write_parquet(path, pa.table({"key": keys, "id": range(first, first + len(keys))}, schema=SCHEMA))


def test_ids_that_were_appended_or_merged_are_known_after_a_refresh(tmp_path: Path) -> None:
    base, ids = id_path(tmp_path, "user"), IdMap(EventStore(tmp_path), "user")
    ids.refresh()
    assert ids.id_of("ann") == UNKNOWN_ID
    write(base, ["ann", "bob"])
    ids.refresh()
    assert (ids.id_of("bob"), ids.id_of("cleo"), ids.key_of(1)) == (2, UNKNOWN_ID, "ann")
    write(base.with_name(f"user.{3:012d}.parquet"), ["cleo"], 3)
    ids.refresh()
    assert (ids.id_of("ann"), ids.id_of("cleo"), ids.key_of(3)) == (1, 3, "cleo")
    write(base, ["ann", "bob", "cleo", "dan"])
    ids.refresh()
    assert [ids.id_of(key) for key in ("ann", "bob", "cleo", "dan")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("7", 7), ("-3", -3), ("1234567890123456789", 1234567890123456789), ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", UNKNOWN_ID), ("9" * 5000, UNKNOWN_ID), ("--5", UNKNOWN_ID), ("5-", UNKNOWN_ID), ("٣", UNKNOWN_ID),
        ("ann", UNKNOWN_ID), ("", UNKNOWN_ID),
    ],
)  # fmt: skip
def test_whole_numbers_are_the_integers_that_ingestion_takes_and_no_text_is_an_error(
    tmp_path: Path, key: str, number: int
) -> None:
    write_json(id_path(tmp_path, "user").with_name("kinds.json"), {"user": "int"})
    ids = IdMap(EventStore(tmp_path), "user")
    ids.refresh()
    assert ids.id_of(key) == number


def test_only_who_is_not_in_the_log_is_a_stranger_however_the_log_counts_its_users() -> None:
    now = Hour.parse("2026-03-02T08")
    routed = {
        number: RoutedRequest(RankRequest("r", str(number), now.start, 0, ("1",), 1), number, Route("champion"))
        for number in (-7, -1, 0, 3, UNKNOWN_ID)
    }
    assert known_users([*routed.values()]) == [-7, -1, 0, 3]
    one = np.zeros(1, dtype=np.int64)
    answers = {
        number: answer_from(ScoredCandidates(CandidateSet(each, ("1",), one, one), one.astype(float), None), now)
        for number, each in routed.items()
    }
    assert [number for number, answer in answers.items() if not answer.user_known] == [UNKNOWN_ID]

"""Ids of a log's strings: a base, and deltas with what later hours brought."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from core.files import write_json
from events import ids
from events.ids import extend_ids, id_files, id_path, log_ids, platform_ids, read_ids


def extend(root: Path, keys: list[str]) -> dict[str, int]:
    """Extend the ids of users by keys, in this order; returns what the table expression says of them."""
    with duckdb.connect() as con:
        con.register("seen", pa.table({"key": pa.array(keys, pa.string()), "first_seen": range(len(keys))}))
        query = "SELECT key, min(first_seen) AS first_seen FROM seen GROUP BY ALL"
        table = extend_ids(con, id_path(root, "user"), query)
        return dict(con.execute(f"SELECT key, id FROM {table} SEMI JOIN seen USING (key)").fetchall())


@pytest.mark.slow
@settings(max_examples=20)
@given(
    hours=st.lists(st.lists(st.integers(1, 40).map(str), max_size=30), min_size=1, max_size=8), most=st.integers(1, 3)
)
def test_ids_count_in_the_order_of_first_appearance_however_they_lie_in_files(
    tmp_path_factory: pytest.TempPathFactory, hours: list[list[str]], most: int
) -> None:
    root = tmp_path_factory.mktemp("ids")
    expected: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "MOST_DELTAS", most)
        for keys in hours:
            for key in keys:
                expected.setdefault(key, len(expected) + 1)
            assert extend(root, keys) == {key: expected[key] for key in keys}
        assert len(id_files(id_path(root, "user"))) <= most + 1
    table = read_ids(id_files(id_path(root, "user")))
    assert dict(zip(table["key"].to_pylist(), table["id"].to_pylist(), strict=True)) == expected


def test_a_few_new_ids_are_appended_and_no_file_is_written_again(tmp_path: Path) -> None:
    extend(tmp_path, [f"user-{n}" for n in range(1000)])
    base = id_path(tmp_path, "user")
    before = base.stat()
    for n in range(3):
        extend(tmp_path, ["user-5", f"late-{n}"])
    assert (base.stat().st_ino, base.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in id_files(base)] == [
        "user.parquet", *(f"user.{n:012d}.parquet" for n in (1001, 1002, 1003))
    ]  # fmt: skip
    assert log_ids(tmp_path, "user", [6, 1003, 2000]) == {6: "user-5", 1003: "late-2", 2000: "2000"}


def test_deltas_that_a_crash_left_after_a_merge_do_not_count_twice(tmp_path: Path) -> None:
    extend(tmp_path, [f"user-{n}" for n in range(100)])
    extend(tmp_path, ["late"])
    delta = id_files(id_path(tmp_path, "user"))[1]
    content = delta.read_bytes()
    extend(tmp_path, [f"new-{n}" for n in range(50)])
    assert not delta.exists()
    delta.write_bytes(content)
    assert read_ids(id_files(id_path(tmp_path, "user"))).num_rows == 151
    assert extend(tmp_path, ["late", "last"]) == {"late": 101, "last": 152}
    assert not delta.exists()


def test_whole_numbers_of_a_log_are_their_own_ids_and_text_is_refused_with_an_example(tmp_path: Path) -> None:
    write_json(tmp_path / "_ids" / "kinds.json", {"user": "int"})
    (tmp_path / "hour=2026-03-10T10").mkdir()
    pq.write_table(pa.table({"user_id": [41, 7]}), tmp_path / "hour=2026-03-10T10" / "events.parquet")
    assert platform_ids(tmp_path, "user", ["7", "-3", "-9223372036854775808"]) == [7, -3, -(2**63)]
    with pytest.raises(DataError, match="'Ann' is not a user id: in this log they are whole numbers, for example 41"):
        platform_ids(tmp_path, "user", ["7", "Ann"])


def test_ids_of_the_log_find_their_numbers_and_an_unknown_one_is_named_with_a_near_miss(tmp_path: Path) -> None:
    extend(tmp_path, ["Ann-7f", "Bob-3c"])
    extend(tmp_path, ["Cleo"])
    assert platform_ids(tmp_path, "user", ["Cleo", "Ann-7f"]) == [3, 1]
    with pytest.raises(DataError, match=r"no user 'Ann-7g' in the log; .*did you mean 'Ann-7f'"):
        platform_ids(tmp_path, "user", ["Cleo", "Ann-7g"])

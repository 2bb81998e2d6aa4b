"""DuckDB's connections: each private, whichever instance of DuckDB they are on."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from core import duck
from core.duck import DATABASE, beside, connection, scalar
from core.settings import Settings, load_settings

SORTED = "SELECT max(h) FROM (SELECT md5(range::VARCHAR) AS h FROM range(1_500_000) ORDER BY h LIMIT 1_400_000)"


def tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    return [str(name) for (name,) in con.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]


def test_nothing_stays_from_one_block_to_the_next_or_beside_it(settings: Settings) -> None:
    with connection(settings) as con:
        con.execute("CREATE TABLE kept AS SELECT 1 AS a")
        con.execute("CREATE TEMP TABLE passing AS SELECT 1 AS a")
        con.execute("CREATE VIEW seen AS SELECT 1 AS a")
        con.execute("SET preserve_insertion_order = false")
        con.execute("SET TimeZone = 'Asia/Tokyo'")
        with connection(settings) as beside:
            assert tables(beside) == []
            beside.execute("CREATE TABLE kept AS SELECT 2 AS a")
        assert scalar(con, "SELECT a FROM kept") == 1
    assert len(duck._idle) == 1
    with connection(settings) as con:
        assert tables(con) == []
        assert scalar(con, "SELECT count(*) FROM duckdb_views() WHERE NOT internal") == 0
        assert scalar(con, "SELECT current_setting('preserve_insertion_order')")
        assert scalar(con, "SELECT current_setting('TimeZone')") == "UTC"


def test_an_instance_is_used_again_and_one_with_other_limits_is_not(settings: Settings) -> None:
    def instance(of: Settings) -> object:
        with connection(of) as con:
            assert scalar(con, "SELECT current_setting('threads')") == of.duckdb_threads
        return duck._idle[0]

    other = load_settings(var=settings.var, source="test", duckdb_threads=settings.duckdb_threads + 1)
    assert instance(settings) is instance(settings)
    assert instance(other) is not instance(settings)


def test_after_a_block_that_failed_or_spilled_the_next_one_works(tmp_path: Path) -> None:
    small = load_settings(var=tmp_path, source="test", duckdb_memory="50MB")
    with pytest.raises(duckdb.CatalogException), connection(small) as con:
        con.execute("FROM nothing")
    assert duck._idle == []
    largest = set()
    for _ in range(2):
        with connection(small) as con:
            largest.add(scalar(con, SORTED))
            folder = scalar(con, "SELECT current_setting('temp_directory')")
            assert Path(folder).is_dir(), "it did not spill: this shows nothing"
            assert scalar(con, "SELECT current_setting('memory_limit')").startswith("47")
        assert not Path(folder).exists()
    assert len(largest) == 1


def test_what_a_block_held_is_free_afterwards(settings: Settings) -> None:
    def held(con: duckdb.DuckDBPyConnection) -> int:
        return int(scalar(con, "SELECT sum(memory_usage_bytes) FROM duckdb_memory()"))

    with connection(settings) as con:
        con.execute("CREATE TABLE large AS SELECT md5(range::VARCHAR) AS h FROM range(500_000)")
        assert held(con) > 10e6
    with connection(settings) as con:
        assert held(con) < 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_forked_process_has_its_own_and_ends(settings: Settings) -> None:
    with connection(settings) as con:
        scalar(con, "SELECT sum(range) FROM range(1_000_000)")
    if not (child := os.fork()):
        status = 1
        try:
            with connection(settings) as con:
                status = int(scalar(con, "SELECT sum(range) FROM range(1_000_000)") != 499_999_500_000)
            duck.close_idle()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with connection(settings) as con:
        assert scalar(con, "SELECT 1") == 1


def test_threads_have_their_own(settings: Settings) -> None:
    sums: list[int] = []

    def work(number: int) -> None:
        for n in range(10):
            with connection(settings) as con:
                con.execute(f"CREATE TABLE t AS SELECT {number} AS a FROM range({n + 1})")
                sums.append(int(scalar(con, "SELECT sum(a) FROM t")) - number * (n + 1))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [0] * 40


def test_a_second_connection_sees_the_same_tables_in_memory_and_in_a_file(settings: Settings) -> None:
    for spill_to_file in (False, True):
        with connection(settings, spill_to_file=spill_to_file) as con:
            other = beside(con)
            other.execute("CREATE SCHEMA apart")
            other.execute("USE apart")
            other.execute("CREATE TABLE t AS SELECT 7 AS a")
            assert scalar(con, "SELECT a FROM apart.t") == 7
            on_disk = scalar(con, f"SELECT path FROM duckdb_databases() WHERE database_name = '{DATABASE}'")
            assert (on_disk is not None) == spill_to_file
    assert list((settings.workspace / "scratch").iterdir()) == []

"""What everything is built on: hours, files that are complete or absent, documents, ports, secrets, versions, alerts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from core import cli
from core.alerts import send_alert
from core.documents import did_you_mean, load_document
from core.duck import connection, hour_number, identifier, quoted, scalar
from core.errors import ConfigError, CorruptStateError, DataError, NotReadyError, PlatformError
from core.files import (
    append_lines,
    digest_file,
    digest_json,
    digest_text,
    end_of_lines,
    exclusive_lock,
    lines_since,
    read_json,
    recover_directories,
    replaced_directory,
    scratch_directory,
    temporary_directory,
    write_atomically,
    write_json,
    write_parquet,
)
from core.hours import Hour, day_hours, hour_range, parse_day
from core.ports import free_port, port_is_free
from core.secret_files import SECRETS, make_secrets, read_secret
from core.settings import Settings, load_settings
from core.state_version import STATE_VERSION, check_state_version, state_version, write_state_version
from events.ids import id_kinds
from events.store import EventStore
from tests.conftest import webhook

# --- hours


@given(st.integers(min_value=0, max_value=700_000))
def test_an_hour_survives_its_key_its_start_and_its_sums(number: int) -> None:
    hour = Hour(number)
    assert Hour.parse(hour.key) == Hour.of(hour.start) == hour + 5 - 5 == hour
    assert Hour.of(hour.start + timedelta(minutes=59, seconds=59)) == hour
    assert hour in day_hours(hour.day)
    assert hour < hour + 1


def test_an_hour_is_utc_whatever_zone_a_moment_has() -> None:
    india = timezone(timedelta(hours=5, minutes=30))
    assert Hour.of(datetime(2026, 3, 2, 5, 29, tzinfo=india)).key == "2026-03-01T23"
    assert Hour.of(datetime(2026, 3, 2, 5, 29)).key == "2026-03-02T05"  # noqa: DTZ001 - a naive moment counts as UTC


def test_a_range_ends_before_its_end_and_a_day_has_24_hours() -> None:
    first = Hour.parse("2026-03-02T22")
    assert [h.key for h in hour_range(first, first + 3)] == ["2026-03-02T22", "2026-03-02T23", "2026-03-03T00"]
    assert list(hour_range(first, first)) == []
    assert [h.start.hour for h in day_hours(date(2026, 3, 29))] == list(range(24))


@pytest.mark.parametrize("key", ["2026-03-02", "2026-03-02T24", "2026-3-2T05", "2026-03-02T05:00", "2026-02-30T05", ""])
def test_what_is_no_hour_is_refused_by_name(key: str) -> None:
    with pytest.raises(ConfigError, match="is not an hour; write a UTC hour as YYYY-MM-DDTHH"):
        Hour.parse(key)


def test_what_is_no_day_is_refused_by_name() -> None:
    assert parse_day("2026-03-02") == date(2026, 3, 2)
    with pytest.raises(ConfigError, match="'yesterday' is not a day"):
        parse_day("yesterday")


# --- files


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "state.json"
    write_json(path, {"b": 1, "a": "é"})
    before = path.read_bytes()

    def breaks(target: Path) -> None:
        target.write_text("half of it")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, breaks)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert read_json(path) == {"a": "é", "b": 1}


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "one", {"a": 1, "b": [2]})
    write_json(tmp_path / "two", {"b": [2], "a": 1})
    assert digest_file(tmp_path / "one") == digest_file(tmp_path / "two")
    table = pa.table({"n": [3, 1, 2], "t": ["x", None, "y"]})
    for name in ("one", "two"):
        write_parquet(tmp_path / name, table)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("metadata", [None, {"note": "a"}, {"note": "b"}])
def test_a_table_without_rows_is_written_as_pyarrow_writes_it_whatever_its_schema_says(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    kinds = {
        "n": pa.int64(),
        "t": pa.dictionary(pa.int32(), pa.string()),
        "l": pa.list_(pa.string()),
        "m": pa.timestamp("us", "UTC"),
    }
    schema = pa.schema([pa.field(name, kind, nullable=name != "n") for name, kind in kinds.items()], metadata)
    for table in (schema.empty_table(), pa.Table.from_batches([], schema)):
        pq.write_table(table, tmp_path / "plain", compression="zstd")
        write_parquet(tmp_path / "ours", table, row_group=10)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "plain").read_bytes()
        assert pq.read_schema(tmp_path / "ours").equals(pq.read_schema(tmp_path / "plain"), check_metadata=True)


def test_a_digest_knows_where_each_part_ends_and_forgets_the_order_of_keys() -> None:
    assert digest_text("ab", "c") != digest_text("a", "bc")
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1}) != digest_json({"a": 2, "b": 1})


def test_a_file_has_the_mode_that_is_asked_for(tmp_path: Path) -> None:
    write_atomically(tmp_path / "secret", lambda target: target.write_text("s"), mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_damaged_json_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"as_of": "2026')
    with pytest.raises(CorruptStateError, match=r"state\.json is damaged .* run the step that writes it again"):
        read_json(tmp_path / "state.json")


def test_a_folder_is_replaced_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with replaced_directory(path) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(ValueError, match="in the middle"), replaced_directory(path) as folder:  # noqa: PT012
        (folder / "two").write_text("2")
        raise ValueError("in the middle")
    assert [p.name for p in path.iterdir()] == ["one"]
    with replaced_directory(path) as folder:
        (folder / "two").write_text("2")
    assert [p.name for p in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_between_the_two_renames_is_undone(tmp_path: Path) -> None:
    aside, half = tmp_path / ".model.old", tmp_path / ".x.tmp"
    aside.mkdir()
    (aside / "one").write_text("1")
    half.mkdir()
    recover_directories(tmp_path)
    assert (tmp_path / "model" / "one").read_text() == "1"
    assert not aside.exists()
    assert not half.exists()
    aside.mkdir()  # a crash before the old one was removed: the new one stays
    recover_directories(tmp_path)
    assert (tmp_path / "model" / "one").exists()
    assert not aside.exists()


def test_a_scratch_folder_begins_empty_and_ends_gone(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "left behind").touch()
    with scratch_directory(tmp_path / "new") as folder:
        assert list(folder.iterdir()) == []
        (folder / "file").touch()
    assert not (tmp_path / "new").exists()


HOLDS_A_FOLDER = """
import time
from pathlib import Path
from core import cli
from core.files import temporary_directory
app = cli.App()
@app.command()
def hold(parent: Path) -> None:
    with temporary_directory("held-", parent) as folder:
        (folder / "content").write_text("x")
        print(folder, flush=True)
        time.sleep(600)
@app.command()
def other() -> None: ...
cli.run(app)
"""


@contextmanager
def folder_holder(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has a temporary folder, and the folder."""
    command = [sys.executable, "-c", HOLDS_A_FOLDER, "hold", str(parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_temporary_folder_is_gone_at_the_end_also_of_a_process_that_is_told_to_stop(tmp_path: Path) -> None:
    with temporary_directory("mine-", tmp_path) as folder:
        assert folder.is_dir()
    with folder_holder(tmp_path) as (process, held):
        assert held.is_dir()
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_one_in_use_is_not(tmp_path: Path) -> None:
    holder = folder_holder(tmp_path)
    with (
        temporary_directory("held-", tmp_path) as mine,
        holder as (process, killed),
        folder_holder(tmp_path) as (_, used),
    ):
        process.kill()
        process.wait(60)
        assert killed.is_dir()
        with temporary_directory("held-", tmp_path) as last:
            assert sorted(tmp_path.iterdir()) == sorted([mine, used, last])
        assert (used / "content").exists()


@pytest.mark.parametrize("ending", ["pass", "raise ConfigError('x')", "1 / 0"])
def test_what_libraries_leave_for_the_end_of_the_process_is_done(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "library"
    path.write_text("x")
    program = f"""
import atexit
from pathlib import Path
from core import cli
from core.errors import ConfigError
atexit.register(Path({str(path)!r}).unlink)
app = cli.App()
@app.command()
def one() -> None: {ending}
@app.command()
def two() -> None: ...
cli.run(app)
"""
    command = [sys.executable, "-c", program, "one"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == {"pass": 0, "1 / 0": cli.EXIT_BUG}.get(ending, cli.EXIT_ERROR)
    assert not path.exists()


@pytest.mark.parametrize(("signal", "where"), [("SIGINT", "con"), ("SIGINT", "beside(con)"), ("SIGTERM", "con")])
def test_a_signal_while_duckdb_computes_ends_the_command_at_once_and_is_no_error(
    tmp_path: Path, signal: str, where: str
) -> None:
    """DuckDB's threads look for an interruption between their tasks only; some tries, as it depends on where they are."""
    program = f"""
import os, signal, threading
from core import cli
from core.duck import beside, connection
from core.settings import load_settings
signal.signal(signal.SIGINT, signal.default_int_handler)
app = cli.App()
@app.command()
def one() -> None:
    with connection(load_settings(var={str(tmp_path)!r})) as con:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.{signal})).start()
        {where}.execute("SELECT sum(hash(a.range + b.range)) FROM range(1000000) a, range(1000000) b").fetchall()
@app.command()
def two() -> None: ...
cli.run(app)
"""
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", program, "one"], capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (cli.EXIT_INTERRUPTED, "interrupted\n")


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        ("OSError(30, 'Read-only file system', '/var/x')", cli.EXIT_ERROR, "error: '/var/x' cannot be written (Read-only file system); "),
        ("OSError(28, 'No space left on device')", cli.EXIT_ERROR, "error: a file cannot be written (No space left on device); make room"),
        ("PermissionError(13, 'Permission denied', '/x')", cli.EXIT_ERROR, "error: '/x' must not be read or written by this user"),
        ("EOFError('file ended')", cli.EXIT_BUG, "error: unexpected EOFError: file ended; details in"),
        ("OSError(5, 'Input/output error')", cli.EXIT_BUG, "error: unexpected OSError: [Errno 5]"),
        ("KeyboardInterrupt", cli.EXIT_INTERRUPTED, "interrupted\n"),
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_named_with_what_to_do(
    tmp_path: Path, raised: str, status: int, message: str
) -> None:
    program = "from core import cli\napp = cli.App()\n@app.command()\ndef one(): raise {}\n@app.command()\ndef two(): ...\ncli.run(app)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program.format(raised), "one"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, message in done.stderr) == (status, True), done.stderr
    details = "".join(path.read_text() for path in tmp_path.glob("clock-error-*"))
    assert (raised.partition("(")[0] in details) == (status == cli.EXIT_BUG)


def test_only_the_last_details_of_unexpected_errors_are_kept(tmp_path: Path) -> None:
    program = "from core import cli\napp = cli.App()\n@app.command()\ndef one(): 1 / 0\n@app.command()\ndef two(): ...\ncli.run(app)"
    (tmp_path / "clock-mine.log").write_text("another program's")
    for number in range(cli.MOST_TRACEBACKS):
        (tmp_path / f"clock-error-{number}.log").write_text("x")
        os.utime(tmp_path / f"clock-error-{number}.log", (number, number))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, "one"], env=environment, capture_output=True, text=True, check=False
    )
    details = Path(done.stderr.split("details in ")[1].strip())
    assert "ZeroDivisionError" in details.read_text()
    kept = {file.name for file in tmp_path.iterdir()}
    assert kept == {"clock-mine.log", details.name, *(f"clock-error-{n}.log" for n in range(1, cli.MOST_TRACEBACKS))}


def test_two_writers_take_turns(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with exclusive_lock(tmp_path / "lock"):
            order.append("second")

    writer = threading.Thread(target=second)
    with exclusive_lock(tmp_path / "lock"):
        writer.start()
        assert waiting.wait(10)
        writer.join(0.2)
        assert writer.is_alive()
        order.append("first")
    writer.join(10)
    assert order == ["first", "second"]


# --- documents


class Example(BaseModel):
    model_config = ConfigDict(extra="forbid")
    days: int
    name: str = "x"

    @model_validator(mode="after")
    def _named(self) -> Example:
        if self.name == "both":
            raise ValueError("name both goes with one day only")
        if self.name == "neither":
            raise ValueError("give more")
        return self


def read(folder: Path, text: str) -> Example:
    path = folder / "example.yaml"
    path.write_text(text)
    return load_document(path, Example, what="example file", see="see the docs")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("days: 3\nnamee: y\n", r"line 2.*namee.*did you mean 'name'"),
        ("days: three\n", r"line 1.*days"),
        ("days: 3\ndays: 4\n", r"line 2: 'days' appears twice \(first in line 1\)"),
        ("- 1\n", "must hold a mapping of keys"),
        ("days: [3\n", "is not valid YAML"),
        ("name: y\n", "days"),
        ("days: 3\nname: both\n", r"has 1 problem\(s\):\n  line 2: name both goes with one day only\n"),
        ("days: 3\nname: neither\n", r"example.yaml has 1 problem\(s\):\n  give more\n"),
    ],
)
def test_what_is_wrong_with_a_document_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)


def test_a_right_document_is_read_and_a_missing_one_named(tmp_path: Path) -> None:
    assert read(tmp_path, "days: 3\n") == Example(days=3)
    with pytest.raises(ConfigError, match="no example file at"):
        load_document(tmp_path / "nowhere.yaml", Example, what="example file")


def test_only_a_close_name_is_proposed() -> None:
    assert did_you_mean("gausian", ["gaussian", "naive"]) == "; did you mean 'gaussian'?"
    assert did_you_mean("zzz", ["gaussian", "naive"]) == ""


# --- DuckDB


@pytest.mark.slow
@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_is_a_literal_and_a_name(text: str) -> None:
    con = duckdb.connect()
    assert scalar(con, f"SELECT {quoted(text)}") == text
    name = text or "x"
    assert con.execute(f"SELECT 1 AS {identifier(name)}").fetchall() == [(1,)]


def test_hours_are_counted_alike_in_sql_and_python(settings: Settings) -> None:
    moments = [datetime(1970, 1, 1, 0, 59, tzinfo=UTC), datetime(2026, 3, 2, 5, 59, 59, tzinfo=UTC)]
    with connection(settings) as con:
        for moment in moments:
            sql = f"SELECT {hour_number('m')} FROM (SELECT CAST(? AS TIMESTAMPTZ) AS m)"
            assert scalar(con, sql, [moment]) == Hour.of(moment).number
        assert scalar(con, "SELECT 1 WHERE false") is None


# --- ports


def test_a_port_in_use_is_not_free() -> None:
    port = free_port()
    assert port_is_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not port_is_free(port)
    assert not port_is_free(70_000)


# --- errors, secrets, versions, settings


def test_every_error_that_a_user_can_act_on_is_a_platform_error() -> None:
    for kind in (ConfigError, DataError, NotReadyError, CorruptStateError):
        assert issubclass(kind, PlatformError)
        assert kind.__doc__


def test_secrets_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder) == list(SECRETS)
    values = {name: read_secret(folder, name) for name in SECRETS}
    assert len(set(values.values())) == len(SECRETS)
    assert all(len(value) >= 20 for value in values.values())
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in SECRETS)
    (folder / "redis").unlink()
    assert make_secrets(folder) == ["redis"]
    assert {name: read_secret(folder, name) for name in SECRETS if name != "redis"} == {
        name: value for name, value in values.items() if name != "redis"
    }


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_secret_that_is_missing_or_empty_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "redis").write_text(content)
    with pytest.raises(ConfigError, match="redis"):
        read_secret(tmp_path, "redis")


def test_a_workspace_of_another_version_is_refused(settings: Settings) -> None:
    assert state_version(settings) is None
    check_state_version(settings)
    assert state_version(settings) == STATE_VERSION
    for version, words in ((STATE_VERSION - 1, "back it up"), (STATE_VERSION + 1, "newer than this platform's")):
        write_state_version(settings, version)
        with pytest.raises(ConfigError, match=words):
            check_state_version(settings)
        assert state_version(settings) == version


def test_the_environment_sets_what_no_argument_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOCK_WINDOW_DAYS", "9")
    monkeypatch.setenv("CLOCK_SOURCE", "mine")
    settings = load_settings(var=tmp_path)
    assert (settings.window_days, settings.source) == (9, "mine")
    assert settings.workspace == tmp_path / "mine"
    assert load_settings(var=tmp_path, window_days=4).window_days == 4
    monkeypatch.setenv("CLOCK_WINDOW_DAYS", "many")
    with pytest.raises(ConfigError, match=r"(?i)window_days"):
        load_settings(var=tmp_path)


def test_every_setting_can_be_set_to_each_of_its_choices_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has texts only."""
    for name, about in Settings.model_json_schema()["properties"].items():
        values = about.get("enum") or [about["default"]] if "default" in about else []
        for value in values:
            if value is None or (name, value) == ("profile", "production"):  # which needs many others
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            with monkeypatch.context() as patch:
                patch.setenv(f"CLOCK_{name.upper()}", text)
                setting = getattr(load_settings(), name)
            shown = setting.get_secret_value() if isinstance(setting, SecretStr) else setting
            kept = str(shown) if isinstance(shown, Path) else list(shown) if isinstance(shown, tuple) else shown
            assert kept == value, name


@pytest.mark.parametrize("address", ["ftp//x", "http://h/{app}", "master:8080", "http://h/ x"])
def test_what_is_no_page_of_a_spark_application_is_refused(address: str) -> None:
    assert load_settings(spark_ui="http://h:8080/app/?appId={application}").spark_ui
    with pytest.raises(ConfigError, match=r"CLOCK_SPARK_UI: .* is no address of a page"):
        load_settings(spark_ui=address)


def test_a_setting_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOCK_VARIANTS", "none,matched_clock")
    with pytest.raises(ConfigError, match=r'CLOCK_VARIANTS is not JSON; write a list as \["none", "matched_clock"\]'):
        load_settings()


# --- alerts


def test_an_alert_arrives_with_its_details_and_none_is_sent_without_a_webhook(settings: Settings) -> None:
    assert send_alert(settings, "nobody asked") is False
    with webhook() as (url, taken):
        asked = load_settings(var=settings.var, source="test", alert_webhook=url)
        assert send_alert(asked, "late", hour=Hour.parse("2026-03-02T05"))
    expected: list[dict[str, Any]] = [{"title": "late", "source": "test", "details": {"hour": "2026-03-02T05"}}]
    assert taken == expected


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    lines = [f"a{character}b" for character in "\u2028\u2029\x85\x0b\x0c\x1c\r"]
    append_lines(tmp_path / "log", lines)
    assert lines_since(tmp_path / "log", 0) == lines


def test_lines_that_are_added_follow_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "a" / "lines"
    append_lines(path, ["one", "x" * 20_000])
    end = end_of_lines(path)
    with path.open("a") as file:
        file.write("y" * 9_000)  # a disk was full
    assert end_of_lines(path) == end == path.stat().st_size - 9_000
    assert lines_since(path, end) == []
    append_lines(path, ["two", "three"])
    assert lines_since(path, end) == ["two", "three"]
    assert lines_since(path, 0)[::2] == ["one", "two"]
    path.write_text("z" * 9_000)
    assert end_of_lines(path) == 0


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("duckdb_memory", "2", "CLOCK_DUCKDB_MEMORY"),
        ("redis_url", "redis", "CLOCK_REDIS_URL: .redis. is no host:port; write such as"),
        ("redis_url", "redis://cache:6379", "is no host:port"),
        ("redis_url", ":6379", "is no host:port"),
        ("postgres", "db", "CLOCK_POSTGRES: .db. is no host:port"),
        ("postgres", "user@db:5432", "is no host:port"),
        ("duckdb_memory", "lots", "CLOCK_DUCKDB_MEMORY: .lots. is no size of memory; write .* such as 2GB"),
        ("seed", 10**20, "CLOCK_SEED"),
        ("seed", -1, "CLOCK_SEED"),
        ("var", Path(__file__), "cannot be a folder, as .* is a file"),
        ("var", Path(__file__) / "below", "cannot be a folder, as .* is a file"),
    ],
)
def test_a_setting_that_nothing_could_run_with_is_named(setting: str, value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(**{setting: value})
    for memory in ("512MB", "1.5 GiB", "2gb"):
        assert load_settings(duckdb_memory=memory).duckdb_memory == memory
    for address in ("redis:6379", "127.0.0.1:6379", "cache-0.internal:6379", "[::1]:6379"):
        assert load_settings(redis_url=address, postgres=address).redis_url == address


def test_a_damaged_file_that_no_step_writes_again_is_to_be_put_back(tmp_path: Path) -> None:
    (tmp_path / "_ids").mkdir()
    (tmp_path / "_ids" / "kinds.json").write_text('{"user": "st')
    with pytest.raises(CorruptStateError, match=r"kinds\.json is damaged .*put it back from a backup"):
        id_kinds(tmp_path)
    (tmp_path / "_closed.json").write_text("{")
    with pytest.raises(CorruptStateError, match=r"_closed\.json is damaged .*put it back from a backup"):
        EventStore(tmp_path).close_until(Hour(1))

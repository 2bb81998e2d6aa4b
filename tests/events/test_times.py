"""Times and zones, as logs really have them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError, DataError
from events.guess import guess_mapping
from events.ingest import ingest
from events.zones import is_zone
from tests.conftest import NOW
from tests.events.logs import HEADER, TIME, Log, rows

# Times.


def test_abbreviations_of_zones_and_infinity_are_no_times(log: Log) -> None:
    times = [
        "2026-03-10 10:00:00 CST",
        "2026-03-10 10:00:00 PST",
        "infinity",
        "epoch",
        TIME,
        "2026-03-10 11:00:00 Europe/Berlin",
    ]
    log.write(HEADER + "".join(f"u,{n}i,x,{time}\n" for n, time in enumerate(times)))
    account = log.ingest(timestamp="timestamp: {column: ts, zone: Asia/Shanghai}")
    assert account.reasons == {"bad_timestamp": 2, "zone_abbreviation": 2}
    assert set(log.events()["timestamp"]) == {pd.Timestamp(TIME)}


def test_a_format_with_a_zones_name_takes_no_abbreviation(log: Log) -> None:
    cells = ["2026-03-10 10:00 CST", "2026-03-10 10:00 UTC", "2026-03-10 10:00 Asia/Shanghai", "2026-03-10 10:00 IST"]
    log.write(HEADER + "".join(f"u{n},i,x,{cell}\n" for n, cell in enumerate(cells)))
    account = log.ingest(timestamp='timestamp: {column: ts, format: "%Y-%m-%d %H:%M %Z"}')
    assert account.reasons == {"zone_abbreviation": 2}
    assert sorted(t.hour for t in log.events()["timestamp"]) == [2, 10]


def test_a_zone_with_spaces_around_it_is_that_zone(log: Log) -> None:
    log.write("uid,iid,genre,ts,tz\n" + f"u,i,x,{TIME}, Europe/Berlin \n")
    log.ingest(local_time="local_time: {zone_column: tz}")
    assert log.events()["local_time"].dt.hour.tolist() == [11]


def test_an_infinite_time_of_a_table_is_no_time(log: Log) -> None:
    import duckdb

    path = log.folder / "log.parquet"
    duckdb.sql(
        f"""COPY (SELECT 'u' AS uid, i::VARCHAR AS iid, 'x' AS genre, t AS ts FROM (VALUES (1, TIMESTAMP 'infinity'),
        (2, TIMESTAMP '2026-03-10 10:00:00')) v(i, t)) TO '{path}'"""
    )
    account = log.ingest(path)
    assert (account.kept, account.quarantined) == (1, 1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-10 10:00:00 +0100", "09:00"),
        ("2026-03-10 10:00:00 -05:30", "15:30"),
        ("2026-03-10T10:00:00+1", "09:00"),
        ("2026-03-10t10:00:00z", "10:00"),
        ("2026-03-10 10:00:00 Z", "10:00"),
        ("2026-03-10T10:00:00UTC", "10:00"),
        ("2026-03-10 10:00:00,000", "10:00"),
        ("2026-03-10t10:00:00,0", "10:00"),
        ("2026-03-10 10:00 Etc/GMT+5", "15:00"),
    ],
)
def test_times_of_iso_8601_are_read_as_ruby_git_python_and_java_write_them(log: Log, text: str, moment: str) -> None:
    log.write(HEADER + f'u,i,x,"{text}"\n')
    log.ingest()
    assert [f"{t:%H:%M}" for t in log.events()["timestamp"]] == [moment]


def test_an_unusual_spelling_of_a_time_without_an_offset_is_shown_twice_as_any_other(log: Log) -> None:
    log.write(HEADER + 'u,1,x,"2026-10-25t02:30:00,5"\nu,2,x,"2026-10-25 02:30:00,5"\n')
    account = log.ingest(timestamp="timestamp: {column: ts, zone: Europe/Berlin, fold: first}")
    assert account.ambiguous_times == 2
    assert [f"{t:%H:%M}" for t in log.events()["timestamp"]] == ["00:30", "00:30"]


@pytest.mark.parametrize(
    ("zone", "time", "moments"),
    [
        ("Australia/Lord_Howe", "2026-04-05 01:45:00", ["14:45", "15:15"]),
        ("Antarctica/Troll", "2026-10-25 01:30:00", ["23:30", "01:30"]),
        ("Australia/Lord_Howe", "2026-10-04 02:15:00", ["15:45", "15:45"]),
        ("Antarctica/Troll", "2026-03-29 01:30:00", ["01:30", "01:30"]),
    ],
)
def test_clocks_that_change_by_half_an_hour_or_two_are_read_as_others(
    tmp_path: Path, zone: str, time: str, moments: list[str]
) -> None:
    for fold, moment in zip(("first", "second"), moments, strict=True):
        (tmp_path / fold).mkdir()
        log = Log(tmp_path / fold)
        log.write(HEADER + f"u,i,x,{time}\n")
        account = log.ingest(timestamp=f"timestamp: {{column: ts, zone: {zone}, fold: {fold}}}")
        assert account.ambiguous_times + account.skipped_times == 1
        assert [f"{t:%H:%M}" for t in log.events()["timestamp"]] == [moment]


def test_a_decimal_comma_is_named_with_the_expression_that_reads_it(log: Log) -> None:
    log.write(f"uid;iid;genre;ts;played\nu;i;x;{TIME};1,5\nu;j;x;{TIME};2,25\n")
    played = "columns: {user_id: uid, item_id: iid, played_seconds: PLAYED}"
    with pytest.raises(
        DataError, match=r"not_a_number:played 2.*a cell reads '1,5'; write \"replace\(played, ',', '.'\)\""
    ):
        log.ingest(csv='csv: {delimiter: ";"}', columns=played.replace("PLAYED", "played"))
    log.ingest(csv='csv: {delimiter: ";"}', columns=played.replace("PLAYED", "\"replace(played, ',', '.')\""))
    assert sorted(log.events()["played_seconds"]) == [1.5, 2.25]


@pytest.mark.parametrize(("fold", "hours"), [("second", [1, 2]), ("first", [0, 2])])
def test_the_repeated_hour_of_autumn_is_the_mappings_choice(log: Log, fold: str, hours: list[int]) -> None:
    log.write(HEADER + "u,1,x,2026-10-25 02:30:00\nu,2,x,2026-10-25 03:30:00\nu,3,x,2026-03-29 02:30:00\n")
    account = log.ingest(timestamp=f"timestamp: {{column: ts, zone: Europe/Berlin, fold: {fold}}}")
    assert [t.hour for t in sorted(log.events()["timestamp"])][1:] == hours
    assert (account.ambiguous_times, account.skipped_times) == (1, 1)


def test_times_that_are_not_clear_may_be_refused(log: Log) -> None:
    log.write(HEADER + "u,1,x,2026-10-25 02:30:00\nu,2,x,2026-10-25 03:30:00\nu,3,x,2026-03-29 02:30:00\n")
    account = log.ingest(timestamp="timestamp: {column: ts, zone: Europe/Berlin, fold: reject}")
    assert (account.kept, account.reasons) == (1, {"ambiguous_local_time": 1, "skipped_local_time": 1})


def test_a_wrong_unit_is_an_error_that_names_the_right_one(log: Log) -> None:
    log.write(HEADER + "".join(f"u,{n},x,{1772438400000 + n}\n" for n in range(50)))
    with pytest.raises(DataError, match="look like unit: ms"):
        log.ingest(timestamp="timestamp: {column: ts, unit: s}")
    assert not log.settings.events_dir.joinpath("source.json").exists()


def test_a_log_with_dates_only_is_warned_about(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    dates = "".join(f"u{n},i,x,2026-03-{n % 9 + 10}\n" for n in range(30))
    log.write(HEADER + dates)
    zone = "timestamp: {column: ts, zone: Asia/Tokyo}"
    assert log.ingest(timestamp=zone).midnights == 30
    assert "all of the 30 events are at midnight" in caplog.text
    caplog.clear()
    log.write(HEADER + dates.replace("u", "v") + rows(1, 50))
    assert log.ingest(timestamp=zone).midnights == 30
    assert "midnight" not in caplog.text


def test_times_with_a_type_need_no_unit_and_the_message_says_so(log: Log) -> None:
    table = pa.table({"uid": ["a"], "iid": ["b"], "genre": ["x"], "ts": pa.array([1773136800], pa.timestamp("s"))})
    pq.write_table(table, log.folder / "log.parquet")
    with pytest.raises(
        DataError, match="Times such as '2026-03-10 10:00:00' look like unit: iso; the mapping says unit: s"
    ):
        log.ingest(log.folder / "log.parquet", timestamp="timestamp: {column: ts, unit: s}")


@pytest.mark.parametrize("name", ["localtime", "posixrules", "right/Europe/Berlin", "Mars/Base"])
def test_a_zone_is_one_that_every_library_knows(name: str) -> None:
    assert not is_zone(name)
    assert is_zone("Europe/Berlin")


def test_offsets_that_are_no_numbers_are_quarantined(log: Log) -> None:
    cells = ["60", "nan", "inf", "1e300", ""]
    log.write("uid,iid,genre,ts,off\n" + "".join(f"u,{n}i,x,{TIME},{cell}\n" for n, cell in enumerate(cells)))
    account = log.ingest(local_time='local_time: {offset_minutes_column: "off"}')
    assert (account.kept, account.reasons) == (1, {"unknown_zone": 4})
    assert log.events()["local_time"].tolist() == [pd.Timestamp("2026-03-10T11:00:00")]


@pytest.mark.parametrize(
    ("cell", "clock"),
    [("330", "15:30"), ("+0530", "15:30"), ("+05:30", "15:30"), ("-0700", "03:00"), ("-7:00", "03:00"), ("+00:00", "10:00"),
     ("-330.0", "04:30"), ("-0330", "06:30")],
)  # fmt: skip
def test_an_offset_may_be_minutes_or_as_times_have_it(log: Log, cell: str, clock: str) -> None:
    log.write(f"uid,iid,genre,ts,tz\nu,i,x,{TIME},{cell}\n")
    log.ingest(local_time="local_time: {offset_minutes_column: tz}")
    assert log.events()["local_time"].dt.strftime("%H:%M").tolist() == [clock]


def test_an_offset_of_the_time_itself_is_the_users(log: Log) -> None:
    log.write("uid,iid,genre,ts\nu,i,x,2026-03-10T10:00:00+05:30\nu,j,x,2026-03-10T10:00:00-07:00\n")
    log.ingest(local_time='local_time: {offset_minutes_column: "right(ts, 6)"}')
    assert set(log.events()["local_time"]) == {pd.Timestamp("2026-03-10T10:00:00")}


@pytest.mark.parametrize(
    ("cells", "said"),
    [(("-5", "5.5", "0"), "if these are hours, write \"tz \\* 60\""), (("-18000", "7200", "0"), "if these are seconds, write \"tz / 60\"")],
)  # fmt: skip
def test_offsets_of_hours_and_seconds_are_not_taken_for_minutes(
    log: Log, caplog: pytest.LogCaptureFixture, cells: tuple[str, ...], said: str
) -> None:
    log.write("uid,iid,genre,ts,tz\n" + "".join(f"u{n},i{n},x,{TIME},{cells[n % 3]}\n" for n in range(60)))
    account = log.ingest(local_time="local_time: {offset_minutes_column: tz}")
    assert account.reasons == {"unknown_zone": 40}
    assert re.search(said, caplog.text)
    rule = "tz * 60" if cells[0] == "-5" else "tz / 60"
    assert log.ingest(local_time=f"local_time: {{offset_minutes_column: {rule}}}").kept == 40


def test_an_offset_in_a_column_of_zones_gets_the_hint(log: Log) -> None:
    log.write("uid,iid,genre,ts,tz\n" + "".join(f"u{n},i{n},x,{TIME},+02:00\n" for n in range(30)))
    with pytest.raises(DataError, match=r'offsets are read by local_time: .offset_minutes_column: "tz"'):
        log.ingest(local_time="local_time: {zone_column: tz}")


def test_a_date_and_a_time_of_day_in_two_columns_are_one_moment(log: Log) -> None:
    log.write("uid,iid,genre,date,time\nu,i,x,10/03/2026,01:30:00 PM\nu,j,x,29/03/2026,02:30:00 AM\n")
    account = log.ingest(
        timestamp="""timestamp: {column: "date || ' ' || time", format: "%d/%m/%Y %I:%M:%S %p", zone: Europe/Berlin}"""
    )
    assert (account.kept, account.skipped_times) == (2, 1)
    assert set(log.events()["timestamp"]) == {
        pd.Timestamp("2026-03-10T12:30:00Z"),
        pd.Timestamp("2026-03-29T01:30:00Z"),
    }


@pytest.mark.parametrize(
    ("cell", "rule"),
    [("1773136800000", "unit: ms"), ('"2026-03-10T10:00:00Z"', "unit: iso"), ("29552280", "unit: s")],
)
def test_a_time_inside_an_object_is_named_by_its_path(log: Log, cell: str, rule: str) -> None:
    log.write(f'{{"uid": "u", "iid": "i", "genre": "x", "event": {{"ts": {cell}}}}}\n', "log.jsonl")
    path = "CAST(event->>'$.ts' AS BIGINT) * 60" if rule == "unit: s" else "event->>'$.ts'"
    log.ingest(log.folder / "log.jsonl", timestamp=f'timestamp: {{column: "{path}", {rule}}}')
    assert log.events()["timestamp"].tolist() == [pd.Timestamp(TIME)]


def test_an_expression_of_the_time_is_checked_as_any_other(log: Log) -> None:
    log.write("uid,iid,genre,date,time\n" + "u,i,x,2026-03-10,10h00\n" * 30)
    with pytest.raises(DataError, match=r"Look at timestamp: a cell reads '2026-03-10 10h00'"):
        log.ingest(timestamp="""timestamp: {column: "date || ' ' || time"}""")
    with pytest.raises(ConfigError, match=r"timestamp.column .*: the log has no column 'tyme'; did you mean 'time'"):
        log.ingest(timestamp="""timestamp: {column: "date || ' ' || tyme"}""")


@pytest.mark.parametrize(
    ("time", "message"),
    [("2999-03-10T10:00:00Z", "'2999-03-10T10:00:00Z' lie in the future: is the clock of this machine right"),
     ("1970-01-01", "'1970-01-01' lie before 1990: does the log write a missing time so")],
)  # fmt: skip
def test_times_that_can_be_read_and_cannot_be_true_are_told_as_such(log: Log, time: str, message: str) -> None:
    log.write(HEADER + f"u,i,x,{time}\n" * 12)
    with pytest.raises(DataError, match=message):
        log.ingest()


ZONES = "local_time: {users_zone: tz}\nusers: {path: users.csv, key: uid}"


def test_the_zone_of_a_user_may_stand_in_a_table_of_users(log: Log) -> None:
    log.write(HEADER + f"7,i,x,{TIME}\n8.0,i,x,{TIME}\n9,i,x,{TIME}\n10,i,x,{TIME}\n")
    log.write("uid,tz\n7.0,Asia/Tokyo\n8,America/New_York\n9,\n7,UTC\n", "users.csv")
    account = log.ingest(local_time=ZONES)
    assert (account.kept, account.reasons) == (2, {"unknown_zone": 2})
    clocks = log.events().set_index("user_id")["local_time"].dt.strftime("%H:%M").to_dict()
    assert clocks == {7: "19:00", 8: "06:00"}
    account = log.ingest(local_time=ZONES.replace("tz}", "\"coalesce(nullif(tz, ''), 'UTC')\"}"))
    assert (account.kept, account.duplicates, account.reasons) == (1, 2, {"unknown_zone": 1})


def test_a_table_of_users_may_have_zones_and_attributes(log: Log) -> None:
    log.write(HEADER + rows(3))
    log.write("uid,tz,town\n" + "".join(f"u{n},Asia/Tokyo,Kobe\n" for n in range(3)), "users.csv")
    log.ingest(local_time=ZONES.replace("uid}", "uid, attributes: {town: town}}"))
    assert log.events()["local_time"].dt.hour.tolist() == [19] * 3
    assert log.settings.events_dir.joinpath("_attributes", "user.parquet").exists()


@pytest.mark.parametrize(
    ("rule", "users", "message"),
    [
        ("local_time: {users_zone: tz}", "", "local_time.users_zone: name the table under users"),
        (ZONES.replace("key: uid", "key: uid, since: t"), "", "a user has one zone; take one of them out"),
        (
            "local_time: {zone: UTC}\nusers: {path: users.csv, key: uid}",
            "",
            "users: name the attributes .* or the zone",
        ),
        ("local_time: {zone: UTC, users_zone: tz}", "", "give exactly one of"),
        (ZONES, "uid,zone\nu0,UTC\n", r"local_time.users_zone .*: the log has no column 'tz'"),
        (ZONES, "user,tz\nu0,UTC\n", r"users.key .*: the log has no column 'uid'"),
        (ZONES, "uid,tz\nU0,UTC\n", "users.key, for example at user 'u0': the table has no zone for them"),
        (ZONES, "uid,tz\nu1,CEST\n", "at user 'u1': a cell reads 'CEST', it takes a zone such as Europe/Berlin"),
    ],
)
def test_zones_of_users_that_cannot_be_read_are_told(log: Log, rule: str, users: str, message: str) -> None:
    log.write(HEADER + rows(12))
    log.write(users, "users.csv")
    with pytest.raises((ConfigError, DataError), match=message):
        log.ingest(local_time=rule)


def test_zones_of_a_table_of_users_are_guessed(log: Log) -> None:
    log.write(
        "user_id,item_id,genre,finish,ts\n" + "".join(f"u{n},i{n},rock,1,{TIME}\n" for n in range(30)), "log/log.csv"
    )
    log.write(
        "user_id,timezone\n" + "".join(f"u{n},{('UTC', 'Asia/Tokyo')[n % 2]}\n" for n in range(30)), "log/users.csv"
    )
    text = guess_mapping([str(log.folder / "log")], source="test")
    assert "local_time: {users_zone: timezone}" in text or 'users_zone: "timezone"' in text
    (log.folder / "guess.yaml").write_text(text)
    assert (
        ingest(str(log.folder / "guess.yaml"), [str(log.folder / "log" / "log.csv")], log.settings, now=NOW).kept == 30
    )
    assert set(log.events()["local_time"].dt.hour) == {10, 19}

"""Paths in which the hour or the day of a log's rows stands, in whatever form."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest
import yaml

from core.errors import ConfigError, DataError, NotReadyError
from core.hours import Hour
from core.settings import Settings, load_settings
from events.guess import guess_mapping
from events.ingest import ingest
from events.log_files import find_files
from events.log_paths import LogPaths, in_order
from events.mapping import load_mapping
from events.store import EventStore
from pipeline.due import next_due_hour
from pipeline.source import Source, ingest_hour, log_end, save_source
from tests.conftest import small_log, write_mapping

HOUR = Hour.parse("2026-03-01T22")


@pytest.mark.parametrize(
    ("pattern", "zone", "paths", "whole"),
    [
        ("log/{hour}.csv", "UTC", ["log/2026-03-01T22.csv"], "log/*.csv"),
        ("{hour:%Y/%m/%d/%H}/*.gz", "UTC", ["2026/03/01/22/*.gz"], "*/*/*/*/*.gz"),
        ("dt={hour:%Y-%m-%d}/hr={hour:%H}/", "UTC", ["dt=2026-03-01/hr=22/"], "dt=*-*-*/hr=*/"),
        ("e_{hour:%Y%m%d}.csv", "Asia/Shanghai", ["e_20260302.csv"], "e_*.csv"),
        ("{hour}.csv", "Asia/Kolkata", ["2026-03-02T03.csv", "2026-03-02T04.csv"], "*.csv"),
        ("{hour:%y%j}", "UTC", ["26060"], "*"),
        ("growing.csv", "UTC", ["growing.csv"], "growing.csv"),
    ],
)
def test_the_paths_of_an_hour_and_of_the_whole(pattern: str, zone: str, paths: list[str], whole: str) -> None:
    log = LogPaths((pattern,), zone)
    assert (log.of(HOUR), log.all()) == (paths, [whole])
    assert log.name_times == (pattern != "growing.csv")


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("log/{hour}.csv", ["log/2025-12-31T23.csv", "log/2026-01-01T00.csv"]),
        ("{hour:%d.%m.%Y}.csv", ["31.12.2025.csv", "30.01.2026.csv", "01.02.2026.csv"]),
        ("{hour:%H}h/{hour:%y%j}", ["23h/25365", "01h/26001", "00h/26002/part"]),
        ("at=*/**/{hour:%d}/{hour:%Y%m%d}?.[cp]sv", ["at=z/02/20260102a.csv", "at=a/q/r/01/20260201b.psv"]),
        ("{hour:%Y-%m-%d}*", ["strange", "2026-01-01", "2026-01-01-b", "2026-01-02"]),
    ],
)
def test_files_are_ordered_by_the_times_that_they_are_named_for(pattern: str, files: list[str]) -> None:
    assert in_order(pattern, sorted(files)) == files


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("{hour:%m-%d}.csv", "does not tell the day"), ("{hour:%H}", "the day"), ("{hour:%Y%m%d%I}", "%I is not known")],
)
def test_a_form_that_tells_no_day_is_refused_in_a_mapping_and_on_the_command_line(
    tmp_path: Path, pattern: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        LogPaths((pattern,))
    with pytest.raises(ConfigError, match=words):
        load_mapping(str(write_mapping(tmp_path, f"paths: ['{pattern}']\n")))


@pytest.mark.parametrize("path", ["log/{date}.csv", "log/{day}/x.csv", "log/%Y%m%d.csv", "{date:%Y}"])
def test_another_programs_form_gets_a_hint(path: str) -> None:
    with pytest.raises(DataError, match=r"written \{hour\} or \{hour:%Y-%m-%d\}"):
        find_files([path])


def daily_log(folder: Path, paths: str, zone: str = "UTC") -> Settings:
    """A day of rows, half an hour apart, in a file for each day of a zone."""
    rows = small_log(48)
    local = pd.to_datetime(rows["ts"]).dt.tz_convert(zone).dt.strftime("%Y%m%d")
    (folder / "log").mkdir()
    for day, part in rows.groupby(local):
        part.to_csv(folder / "log" / f"app-{day}.csv", index=False)
    settings = load_settings(var=folder / "var", source="test")
    extra = f"paths: ['{paths}']\npath_zone: {zone}\n"
    save_source(settings, Source(str(write_mapping(folder, extra))))
    return settings


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_a_log_with_a_file_a_day_comes_hour_by_hour_as_in_one_go(tmp_path: Path, zone: str) -> None:
    settings = daily_log(tmp_path, "log/app-{hour:%Y%m%d}.csv", zone)
    first, last = Hour.parse("2026-03-02T08"), Hour.parse("2026-03-03T07")
    kept = 0
    for number in range(first.number, last.number + 1):
        hour = Hour(number)
        kept += ingest_hour(settings, hour).kept
        store = EventStore(settings.events_dir)
        assert store.hours()[-1] == hour
        assert store.manifest(hour).rows == 2
        assert next_due_hour(settings, "ingest") == hour + 1
    assert kept == 48
    mapping = str(tmp_path / "mapping.yaml")
    whole = EventStore(tmp_path / "whole")
    ingest(mapping, [], settings, out=whole.root)
    assert [whole.read(hour).equals(store.read(hour)) for hour in whole.hours()] == [True] * 24
    assert log_end(settings, Source(mapping)) == last + 1
    with pytest.raises(NotReadyError, match=r"the log of 2026-03-06T12 has not arrived: no file .*app-20260306\.csv"):
        ingest_hour(settings, Hour.parse("2026-03-06T12"))


@pytest.mark.parametrize(
    ("name", "pattern", "hour", "words"),
    [
        ("2026-03-02T16", "{hour}.csv", "2026-03-02T16", "has 8 rows, and none of 2026-03-02T16; if files"),  # Shanghai
        (
            "2026-03-02T03",
            "{hour}.csv",
            "2026-03-02T03",
            "has rows of 2026-03-02T08, after the time that it is named for; if",
        ),
        ("20260301", "{hour:%Y%m%d}.csv", "2026-03-01T23", "has rows of 2026-03-02T08, after the time"),
        ("20260302", "{hour:%Y%m%d}.csv", "2026-03-02T07", ""),
        ("2026-03-02T08", "{hour}.csv", "2026-03-02T08", "has rows of 2026-03-02T10, after"),
    ],
)
def test_files_named_in_another_zone_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, pattern: str, hour: str, words: str
) -> None:
    small_log(8).to_csv(tmp_path / f"{name}.csv", index=False)  # 8 to 12 o'clock
    settings = load_settings(var=tmp_path / "var", source="test")
    mapping = str(write_mapping(tmp_path))
    save_source(settings, Source(mapping, (str(tmp_path / pattern),)))
    with caplog.at_level(logging.WARNING):
        ingest_hour(settings, Hour.parse(hour))
    assert (words in caplog.text) if words else ("path_zone" not in caplog.text)
    assert ("set path_zone in the mapping" in caplog.text) == bool(words)


def test_a_log_that_ends_after_its_last_files_time_is_told_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = daily_log(tmp_path, "log/app-{hour:%Y%m%d}.csv", "America/New_York")
    mapping = tmp_path / "mapping.yaml"
    assert log_end(settings, Source(str(mapping))) == Hour.parse("2026-03-03T08")
    assert "path_zone" not in caplog.text
    (tmp_path / "log" / "app-20260303.csv").unlink()
    mapping.write_text(mapping.read_text().replace("America/New_York", "UTC"))
    assert log_end(settings, Source(str(mapping))) == Hour.parse("2026-03-03T05")
    assert "the log ends in 2026-03-03T04, and no file is named for it" in caplog.text
    assert "if files are not named for days of UTC, set path_zone" in caplog.text


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["2026-03-02T08.csv", "2026-03-02T09.csv"], "{hour}.csv"),
        (["2026/03/02/08/a.csv", "2026/03/02/09/b.csv"], "{hour:%Y/%m/%d/%H}/*.csv"),
        (["dt=2026-03-02/hr=08/a.csv", "dt=2026-03-02/hr=09/a.csv"], "dt={hour:%Y-%m-%d/hr=%H}/a.csv"),
        (["y=2026/m=03/d=02/p-1.csv.gz", "y=2026/m=03/d=03/p-2.csv.gz"], "y={hour:%Y/m=%m/d=%d}/*.csv.gz"),
        (["2019-01-01-x/e_20260302.csv", "2019-01-01-x/e_20260303.csv"], "2019-01-01-x/e_{hour:%Y%m%d}.csv"),
        (["e_20260302_1.csv", "e_20260303_2.csv", "users_20260303.csv"], "e_{hour:%Y%m%d}*.csv"),
        (
            [f"region={region}/dt=2026-03-0{day}/x.csv" for region in ("eu", "us") for day in (1, 2)],
            "region=*/dt={hour:%Y-%m-%d}/x.csv",
        ),
        (["app=a/2026-03-01.csv", "app=a/2026-03-02.csv", "app=a/users.csv"], "app=a/{hour:%Y-%m-%d}.csv"),
        (["one_20260302.csv"], None),
        (["a.csv", "b.csv"], None),
        (["part-20269902.csv", "part-20261402.csv"], None),
    ],
)
def test_a_first_mapping_tells_how_files_are_named(tmp_path: Path, names: list[str], pattern: str | None) -> None:
    for name in names:
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        small_log(20).drop(columns=["track"] if "users" in name else []).to_csv(file, index=False)
    guessed = guess_mapping([str(tmp_path / "data")])
    paths = yaml.safe_load(guessed).get("paths")
    assert paths == (None if pattern is None else [str(tmp_path / "data" / pattern)])
    if paths:
        assert {*find_files(LogPaths(tuple(paths)).all())} >= {tmp_path / "data" / n for n in names if "users" not in n}
    assert ("1 other file(s) are not, such as" in guessed) == any("users" in name for name in names)


def test_files_of_other_folders_are_told_that_a_first_mapping_does_not_read(tmp_path: Path) -> None:
    for name in ("eu/2026-03-01.csv", "eu/2026-03-02.csv", "us/2026-03-01.csv", "us/2026-03-02.csv"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        small_log(20).to_csv(tmp_path / "data" / name, index=False)
    guessed = guess_mapping([str(tmp_path / "data")])
    assert yaml.safe_load(guessed)["paths"] == [f"{tmp_path}/data/eu/{{hour:%Y-%m-%d}}.csv"]
    assert "; 2 other file(s) are not, such as us/2026-03-01.csv\n" in guessed

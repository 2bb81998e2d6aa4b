"""Logs in an object store: the same events as from files of this machine, and errors that say what is wrong."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pandas as pd
import pytest
import yaml

from core.errors import ConfigError, DataError, NotReadyError
from core.hours import Hour, hour_range
from core.ports import free_port
from core.settings import Settings, load_settings
from events.guess import guess_mapping, ingest_arguments
from events.ingest import ingest
from events.log_files import find_files, has_arrived
from events.log_paths import LogPaths
from events.mapping import load_mapping
from events.remote_log import local_path, remote_files
from events.store import EventStore
from pipeline.source import Source, ingest_history, ingest_hour, load_source, log_end, save_source
from tests.conftest import small_log, write_mapping
from tests.servers import object_server

FIRST = Hour.parse("2026-03-02T08")
TABLES = """
items: {path: ../items.csv, key: id, facets: {mood: mood}}
users: {path: users.csv, key: id, attributes: {city: city}}
exposures: {path: 'shown/{stem}.csv', user_id: uid, timestamp: {column: ts}}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an object store that speaks S3."""
    port = free_port()
    with object_server(tmp_path_factory.mktemp("objects"), port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket that this process may read."""
    for name, value in {
        "ENDPOINT_URL": store,
        "ACCESS_KEY_ID": "k",
        "SECRET_ACCESS_KEY": "s",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return Bucket(f"log-{uuid4()}")


class Bucket:
    """A bucket of the object store."""

    def __init__(self, name: str) -> None:
        self.name, self.client = name, boto3.client("s3")
        self.client.create_bucket(Bucket=name)

    def put(self, folder: Path) -> str:
        """Copy a folder's files to the bucket; returns the bucket's address."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.client.put_object(Bucket=self.name, Key=str(file.relative_to(folder)), Body=file.read_bytes())
        return f"s3://{self.name}"


def write_log(folder: Path) -> None:
    """A log with a file an hour, tables and exposures beside it, and files that are no part of it."""
    rows = small_log(8)
    for hour, part in rows.groupby(pd.to_datetime(rows["ts"]).dt.strftime("%H")):
        file = folder / "log ü" / "dt=2026-03-02" / f"hr={hour}.csv.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(part.to_csv(index=False).encode(), mtime=0))
        shown = file.parent / "shown" / f"hr={hour}.csv"
        shown.parent.mkdir(exist_ok=True)
        shown.write_text(f"uid,experiment,variant,ts\nu1,night,a,2026-03-02T{hour}:10:00Z\n")
    (folder / "log ü" / "dt=2026-03-02" / "_SUCCESS").touch()
    (folder / "log ü" / "items.csv").write_text("id,mood\nt1,calm\nt2,\n")
    (folder / "log ü" / "dt=2026-03-02" / "users.csv").write_text("id,city\nu0,Bonn\nu1,Köln\n")


def content(root: Path) -> dict[str, bytes]:
    """The files of an event store but for locks, for when files of a log were written, and for the name of the list of changes."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    kept = [path for path in files if path.parent.name[:1] not in "_." or path.suffix == ".parquet"]
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def test_a_log_in_an_object_store_is_ingested_as_one_of_this_machine(bucket: Bucket, tmp_path: Path) -> None:
    write_log(tmp_path / "here")
    address = bucket.put(tmp_path / "here")
    mapping = str(write_mapping(tmp_path, TABLES))
    stores = []
    for name, root in (("local", str(tmp_path / "here")), ("remote", address)):
        settings = load_settings(var=tmp_path / name, source="test")
        account = ingest(mapping, [f"{root}/log ü/dt=*/hr=*.csv.gz"], settings)
        assert (account.kept, account.exposures) == (8, 4)
        stores.append(settings.events_dir)
        assert [*(settings.workspace / "scratch").iterdir()] == [], "what was fetched is removed"
        again = ingest(mapping, [f"{root}/log ü/dt=*/hr=*.csv.gz"], settings)
        assert (again.kept, again.changed_hours) == (0, [])
    assert content(stores[0]) == content(stores[1])


def test_hours_wait_for_their_files_and_history_takes_the_rest(bucket: Bucket, tmp_path: Path) -> None:
    write_log(tmp_path / "here")
    late = tmp_path / "here" / "log ü" / "dt=2026-03-02" / "hr=11.csv.gz"
    shutil.move(late, tmp_path / "late")
    address = bucket.put(tmp_path / "here")
    pattern = f"{address}/log ü/dt={{hour:%Y-%m-%d}}/hr={{hour:%H}}.csv.gz"
    mapping = str(write_mapping(tmp_path, TABLES))
    settings = load_settings(var=tmp_path / "var", source="test")
    source = Source(mapping, (pattern,))
    save_source(settings, source)
    assert load_source(settings).paths == (pattern,)
    assert log_end(settings, source) == FIRST + 3
    assert ingest_history(settings, FIRST + 2).kept == 4
    assert ingest_hour(settings, FIRST + 2).kept == 2
    with pytest.raises(NotReadyError, match=r"the log of 2026-03-02T11 has not arrived: no file s3://.*hr=11\.csv\.gz"):
        ingest_hour(settings, FIRST + 3)
    shutil.move(tmp_path / "late", late)
    bucket.put(tmp_path / "here")
    assert ingest_hour(settings, FIRST + 3).kept == 2
    events = EventStore(settings.events_dir)
    assert [events.manifest(hour).rows for hour in hour_range(FIRST, FIRST + 4)] == [2] * 4


@pytest.mark.parametrize("pattern", ["dt={hour:%Y-%m-%d}/hr={hour:%H}", "dt={hour:%Y-%m-%d}/hr={hour:%H}/"])
def test_the_folders_of_hours_are_a_log_as_a_whole_too(bucket: Bucket, tmp_path: Path, pattern: str) -> None:
    for hour, part in small_log(8).groupby(pd.to_datetime(small_log(8)["ts"]).dt.strftime("%H")):
        folder = tmp_path / "log" / "dt=2026-03-02" / f"hr={hour}"
        folder.mkdir(parents=True)
        part.to_csv(folder / "part.csv", index=False)
        (folder / "readme.md").write_text("rows of an hour\n")
    address, mapping = bucket.put(tmp_path), str(write_mapping(tmp_path))
    for number, root in enumerate((str(tmp_path), address)):
        settings = load_settings(var=tmp_path / f"var{number}", source="test")
        source = Source(mapping, (f"{root}/log/{pattern}",))
        save_source(settings, source)
        assert log_end(settings, source) == FIRST + 4
        assert ingest_history(settings, FIRST + 3).kept == 6
        assert ingest_hour(settings, FIRST + 3).kept == 2


def test_a_table_may_lie_elsewhere_than_the_log(bucket: Bucket, tmp_path: Path) -> None:
    write_log(tmp_path / "here")
    address = bucket.put(tmp_path / "here")
    mapping = str(
        write_mapping(tmp_path, f"items: {{path: '{address}/log ü/items.csv', key: id, facets: {{mood: mood}}}}\n")
    )
    settings = load_settings(var=tmp_path / "var", source="test")
    ingest(mapping, [str(tmp_path / "here" / "log ü" / "dt=2026-03-02" / "hr=08.csv.gz")], settings)
    assert EventStore(settings.events_dir).read(FIRST)["mood"].to_pylist() == [None, "calm"]


def test_an_address_of_exposures_is_refused_as_none_would_be_read(tmp_path: Path) -> None:
    mapping = write_mapping(
        tmp_path, "exposures: {path: 's3://other/shown/{name}', user_id: uid, timestamp: {column: ts}}\n"
    )
    with pytest.raises(
        ConfigError, match=r"exposures.path: an address is not looked at; name the exposures from the log's folder"
    ):
        load_mapping(str(mapping))


def test_a_table_elsewhere_that_did_not_change_is_not_kept_again(
    bucket: Bucket, tmp_path: Path, settings: Settings
) -> None:
    write_log(tmp_path / "here")
    address = bucket.put(tmp_path / "here") + "/log ü"
    mapping = str(
        write_mapping(
            tmp_path,
            f"items: {{path: '{address}/items.csv', key: id, facets: {{mood: mood}}, attributes: {{mood: mood}}}}\n"
            f"users: {{path: '{address}/dt=2026-03-02/users.csv', key: id, attributes: {{city: city}}}}\n",
        )
    )

    def ingested() -> dict[str, int]:
        ingest(mapping, [f"{address}/dt=2026-03-02/hr=08.csv.gz"], settings)
        kept = [*(settings.events_dir / "_attributes").iterdir(), *(settings.events_dir / "_items").iterdir()]
        return {path.name: path.stat().st_mtime_ns for path in kept}

    first = ingested()
    assert set(first) >= {"item.parquet", "user.parquet", "facets.parquet"}
    assert ingested() == first
    bucket.client.put_object(Bucket=bucket.name, Key="log ü/items.csv", Body=b"id,mood\nt1,calm\nt2,loud\n")
    changed = ingested()
    assert {name for name in first if name.endswith(".parquet") and changed[name] != first[name]} == {
        "item.parquet",
        "facets.parquet",
    }


def test_a_folder_in_an_object_store_may_hold_more_than_log_files(
    bucket: Bucket, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "README.md").write_text("What is logged here\n")
    (folder / "manifest.crc").write_bytes(b"\x01crc")
    (folder / "unnamed").write_bytes(gzip.compress(b"uid,track\n"))
    small_log(8).to_csv(folder / "part.csv", index=False)
    address = bucket.put(tmp_path)
    mapping = str(write_mapping(tmp_path))
    for path in (str(folder), f"{address}/log", f"{address}/log/"):
        caplog.clear()
        assert ingest(mapping, [path], settings).rows_in == 8
        assert "1 files in folder" in caplog.text
        assert "such as unnamed, which holds gzip" in caplog.text
    assert "rows of part.csv" in guess_mapping([f"{address}/log"])


@pytest.mark.parametrize(
    "pattern", ["{hour:%d-%m-%Y}.csv", "{hour:%d}/*/{hour:%m.%Y}.csv", "region=*/{hour:%Y-%m-%d}*.csv", "*.csv"]
)
def test_the_end_of_a_log_is_found_however_its_files_are_named(
    bucket: Bucket, tmp_path: Path, settings: Settings, pattern: str
) -> None:
    log_files = LogPaths((pattern.replace("*", "[us]"),))
    for n in range(6):
        rows, day = small_log(4), FIRST - 24 * n  # the last day of February comes first
        rows["ts"] = [(pd.Timestamp(moment) - pd.Timedelta(days=n)).isoformat() for moment in rows["ts"]]
        file = tmp_path / "log" / log_files.of(day)[0]
        if pattern == "*.csv":
            file = file.with_name(f"{9 - n if n else 1}.csv")
        elif "region" in pattern and n > 1:
            file = Path(str(file).replace("region=[us]", "region=zz"))
        file.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(file, index=False)
    for root in (str(tmp_path / "log"), bucket.put(tmp_path) + "/log"):
        assert log_end(settings, Source(str(write_mapping(tmp_path)), (f"{root}/{pattern}",))) == FIRST + 2


def test_a_first_mapping_is_guessed_from_an_address(bucket: Bucket, tmp_path: Path) -> None:
    write_log(tmp_path / "here")
    address = bucket.put(tmp_path / "here")
    paths = [f"{address}/log ü/dt=2026-03-02/*.csv.gz"]
    guessed = guess_mapping(paths)
    assert yaml.safe_load(guessed)["paths"] == [f"{address}/log ü/dt={{hour:%Y-%m-%d/hr=%H}}.csv.gz"]
    (tmp_path / "guess.yaml").write_text(guessed)
    assert ingest_arguments(paths, load_mapping(str(tmp_path / "guess.yaml"))[0]) == f"'{paths[0]}'"
    settings = load_settings(var=tmp_path / "var", source="test")
    assert ingest(str(tmp_path / "guess.yaml"), [], settings).kept == 8
    with pytest.raises(ConfigError, match="name files of one place only"):
        guess_mapping([*paths, str(tmp_path / "here")])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(var=tmp_path / "var", source="test")


def test_what_cannot_be_read_is_told_and_nothing_is_written(
    bucket: Bucket, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, mapping = bucket.put(tmp_path), str(write_mapping(tmp_path))
    bucket.client.put_object(Bucket=bucket.name, Key="empty/a.csv", Body=b"")
    for path, error, words in (
        (f"{address}/none/*.csv", DataError, r"no such file: 's3://.*/none/\*\.csv'; check the address"),
        ("s3://no-such-bucket/log", DataError, "no such file: 's3://no-such-bucket/log'"),
        ("ftp://host/log.csv", ConfigError, "logs are read from this machine and from s3://, gs://"),
        (f"{address}/empty/a.csv", DataError, r"^s3://.*/empty/a\.csv is empty"),
    ):
        with pytest.raises(error, match=words):
            ingest(mapping, [path], settings)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for name in ("log", "events_20260403.csv", "2026/403/forbidden.csv"):  # none of which is what the store answered
        with pytest.raises(NotReadyError, match=f"'{address}/{name}' cannot be read now: .*NETWORK_CONNECTION"):
            ingest(mapping, [f"{address}/{name}"], settings)
    assert not settings.events_dir.exists()


def test_a_file_is_kept_nowhere_but_below_its_folder(tmp_path: Path) -> None:
    assert local_path("s3://log/a b/ü.csv", tmp_path) == tmp_path / "s3" / "log" / "a b" / "ü.csv"
    with pytest.raises(DataError, match="leads out of its folder"):
        local_path("s3://log/../../passwd", tmp_path)


def test_files_are_found_as_globs_of_this_machine_find_them(bucket: Bucket, tmp_path: Path) -> None:
    for name in ("a/1.csv", "a/b/2.csv", "a/b/c/3.csv", "a/_tmp/4.csv", "a/.5.csv", "a/x[1].csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    address = bucket.put(tmp_path)
    for pattern, names in (
        ("a/*.csv", ["a/1.csv", "a/x[1].csv"]),
        ("a/*/2.csv", ["a/b/2.csv"]),
        ("a/**/*.csv", ["a/1.csv", "a/b/2.csv", "a/b/c/3.csv", "a/x[1].csv"]),
        ("a", ["a/1.csv", "a/b/2.csv", "a/b/c/3.csv", "a/x[1].csv"]),
        ("a/", ["a/1.csv", "a/b/2.csv", "a/b/c/3.csv", "a/x[1].csv"]),
        ("a/b/2.csv", ["a/b/2.csv"]),
        ("a/x[1].csv", ["a/x[1].csv"]),
        ("", ["a/1.csv", "a/b/2.csv", "a/b/c/3.csv", "a/x[1].csv"]),
        ("*", ["a/1.csv", "a/b/2.csv", "a/b/c/3.csv", "a/x[1].csv"]),
        ("a/[bc]", ["a/b/2.csv", "a/b/c/3.csv"]),
        ("z*", []),
    ):
        assert [file.url for file in remote_files(f"{address}/{pattern}")] == [f"{address}/{name}" for name in names], (
            pattern
        )
        assert has_arrived(f"{address}/{pattern}") == bool(names)
        if names:
            assert find_files([f"{tmp_path}/{pattern}"]) == [tmp_path / name for name in names], pattern

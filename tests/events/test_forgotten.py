"""People who asked to be forgotten go from an event store, and the same log does not bring them back."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core.errors import CorruptStateError
from core.settings import Settings
from events.forget import find_matching, find_people, forget_events, forget_ids
from events.forgotten import ForgottenList
from events.ingest import ingest
from events.store import EventStore
from pipeline.forgetting import digest_of, forget
from tests.conftest import NOW, small_log, write_mapping

STRINGS, SHORT = ("u0", "u1", "u2", "newcomer"), ("70", "71", "72", "79")
LONG = ("-9223372036854775808", "1234567890123456789", "9223372036854775807", "1234567890123456790")


@pytest.mark.parametrize("users", [STRINGS, SHORT, LONG], ids=["strings", "short numbers", "numbers of 19 digits"])
def test_the_same_log_again_does_not_bring_a_person_back(
    tmp_path: Path, settings: Settings, users: tuple[str, ...]
) -> None:
    log = small_log(12)
    log["uid"] = log["uid"].map(dict(zip(STRINGS, users, strict=True)))
    _, gone, stays, late = users
    log.loc[11, "ts"] = "never"  # quarantined, of user 2
    log.loc[10, "ts"] = "never"  # of user 1
    path = tmp_path / "log.csv"
    log.to_csv(path, index=False)
    mapping = str(write_mapping(tmp_path))
    first = ingest(mapping, [str(path)], settings, now=NOW)
    store = EventStore(settings.events_dir)
    people = find_people(store, [gone])
    ForgottenList(store.root).add([gone])
    assert find_matching(store, ForgottenList(store.root).matcher()) == people

    removed = forget_events(store, people)
    forget_ids(store, people)

    assert removed["events"] == 3
    assert removed["quarantined"] == 1
    assert find_matching(store, ForgottenList(store.root).matcher()) == []
    again = ingest(mapping, [str(path)], settings, now=NOW)
    assert (again.kept, again.ignored, again.quarantined, again.duplicates) == (0, 4, 1, 7)
    assert again.rows_in == first.rows_in
    texts = [p.read_bytes() for p in settings.events_dir.rglob("*") if p.is_file() and p.suffix in {".json", ".jsonl"}]
    assert not any(f'"{gone}"'.encode() in text for text in texts)
    assert any(f'"{stays}"'.encode() in text or f": {stays}".encode() in text for text in texts)
    numbers = {n for p in store.event_files() for n in pq.ParquetFile(p).read(["user_id"])["user_id"].to_pylist()}
    assert people[0].number not in numbers
    assert len(numbers) == 2
    fresh = small_log(1).assign(uid=late)
    fresh.to_csv(path, index=False)
    ingest(mapping, [str(path)], settings, now=NOW)
    newcomer = find_people(store, [late])[0]
    assert newcomer.number not in {None, people[0].number, *numbers}


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_quarantined_row_with_a_separator_of_lines_in_a_cell_stops_nobody_from_being_forgotten(
    tmp_path: Path, settings: Settings, character: str
) -> None:
    log = small_log(6)
    log.loc[1:2, "ts"] = "never"  # of users 1 and 2
    log["genre"] = f"a{character}b"
    path = tmp_path / "log.csv"
    log.to_csv(path, index=False)
    ingest(str(write_mapping(tmp_path)), [str(path)], settings, now=NOW)
    store = EventStore(settings.events_dir)
    (quarantine,) = (store.root / "_quarantine").glob("*.jsonl")
    _, stays = quarantine.read_bytes().splitlines(keepends=True)

    assert forget_events(store, find_people(store, ["u1"]))["quarantined"] == 1

    assert quarantine.read_bytes() == stays


@pytest.mark.parametrize("spelled", ["71", "71.0", " 71.00\t"])
def test_an_id_that_the_log_writes_with_a_point_is_forgotten_however_it_is_written(
    tmp_path: Path, settings: Settings, spelled: str
) -> None:
    log = small_log(7)
    log["uid"] = log["uid"].map({"u0": "70.0", "u1": "71.0", "u2": "72.0"})
    log.loc[4, ["uid", "ts"]] = " 71.00 ", "never"  # quarantined
    path, exposures = tmp_path / "log.csv", tmp_path / "exposures.csv"
    log.to_csv(path, index=False)
    exposures.write_text(f"experiment,variant,user,timestamp\ne,a,71.0,{log['ts'][0]}\ne,a,70.0,{log['ts'][0]}\n")
    mapping = str(
        write_mapping(tmp_path, "exposures: {path: exposures.csv, user_id: user, timestamp: {column: timestamp}}\n")
    )
    ingest(mapping, [str(path)], settings, now=NOW)

    report = forget(settings, [spelled])

    assert report.people == [digest_of(settings, "71")] == [digest_of(settings, spelled)]
    assert (report.removed["events"], report.removed["exposures"], report.removed["quarantined"]) == (1, 1, 1)
    assert report.unknown == []
    again = ingest(mapping, [str(path)], settings, now=NOW)
    assert (again.kept, again.ignored, again.duplicates, again.exposures) == (0, 2, 5, 1)
    path.write_text(path.read_text() + 'x,y\n71.0,"t1,never\n')  # the last cannot be read, and is theirs
    assert ingest(mapping, [str(path)], settings, now=NOW).ignored == 3


def test_texts_with_a_point_are_other_ids_than_those_without(tmp_path: Path, settings: Settings) -> None:
    log = small_log(6)
    log["uid"] = log["uid"].map({"u0": "3", "u1": "3.0", "u2": "ann"})
    path = tmp_path / "log.csv"
    log.to_csv(path, index=False)
    ingest(str(write_mapping(tmp_path)), [str(path)], settings, now=NOW)
    people = find_people(EventStore(settings.events_dir), ["3.0"])
    assert people[0].key == "3.0"
    assert forget_events(EventStore(settings.events_dir), people)["events"] == 2


@pytest.mark.parametrize(("ids", "unknown"), [(STRINGS, "u7"), (SHORT, "77"), (SHORT, "ann")])
def test_an_id_that_the_log_does_not_know_is_named_and_listed_all_the_same(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture, ids: tuple[str, ...], unknown: str
) -> None:
    log = small_log(6)
    log["uid"] = log["uid"].map(dict(zip(STRINGS, ids, strict=True)))
    path = tmp_path / "log.csv"
    log.to_csv(path, index=False)
    mapping = str(write_mapping(tmp_path))
    ingest(mapping, [str(path)], settings, now=NOW)
    with caplog.at_level("INFO"):
        report = forget(settings, [unknown])
    digest = digest_of(settings, unknown)
    assert report.unknown == report.people == [digest]
    assert (
        f"the log has no user with 1 of the 1 ids (perhaps no longer): are they written as in the log? They are on the list \
of the forgotten all the same, so that later files leave them out; their digests: {digest}"
        in caplog.text
    )
    assert "1 ids forgotten: nothing of them was stored" in caplog.text
    assert not any(unknown in record.getMessage().replace(digest, "") for record in caplog.records)
    log.assign(uid=unknown).to_csv(path, index=False)
    if unknown != "ann":
        assert ingest(mapping, [str(path)], settings, now=NOW).ignored == 6
    assert forget(settings, [ids[0]]).unknown == []
    assert forget(settings, [ids[0]]).unknown == [digest_of(settings, ids[0])]


def test_a_damaged_list_is_an_error_and_is_never_begun_anew(tmp_path: Path) -> None:
    forgotten = ForgottenList(tmp_path)
    forgotten.add(["a"])
    forgotten.merge({"another salt": ["b"]})
    assert forgotten.matcher().has("a")
    assert not forgotten.matcher().has("b")
    for damaged in ("[1]", '{"salt": ["a"', ""):
        forgotten.path.write_text(damaged)
        with pytest.raises(CorruptStateError, match="no list of the forgotten; put it back") as error:
            forgotten.add(["c"])
        assert "delete" not in str(error.value)
        assert forgotten.path.read_text() == damaged

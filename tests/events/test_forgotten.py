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


def test_a_damaged_list_is_an_error_and_is_never_begun_anew(tmp_path: Path) -> None:
    forgotten = ForgottenList(tmp_path)
    forgotten.add(["a"])
    forgotten.merge({"another salt": ["b"]})
    assert forgotten.matcher().has("a")
    assert not forgotten.matcher().has("b")
    forgotten.path.write_text("[1]")
    with pytest.raises(CorruptStateError, match="no list of the forgotten"):
        forgotten.add(["c"])
    assert forgotten.path.read_text() == "[1]"

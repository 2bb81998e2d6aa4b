"""Logs of impressions and of the actions that come after them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from core.errors import ConfigError, DataError
from core.hours import Hour
from core.settings import Settings, load_settings
from events.ids import log_ids
from events.ingest import Account, ingest
from events.mapping import Mapping
from events.store import EventStore
from tests.conftest import NOW

MAPPING = """\
source: test
columns: {user_id: uid, item_id: iid}
timestamp: {column: ts}
local_time: {zone: UTC}
facets: {genre: genre}
actions:
  column: action
  values: {finish: PLAY_END, like: [LIKE, BOOKMARK], share: SHARE}
impressions: {values: [VIEW]}
"""
HEADER = "uid,iid,genre,ts,action"
OUTCOMES = ("finish", "like", "share")


class ActionLog:
    """A store that files of actions are ingested into."""

    def __init__(self, folder: Path, mapping: str = MAPPING) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.mapping = folder / "mapping.yaml"
        self.mapping.write_text(mapping)
        self.settings: Settings = load_settings(var=folder / "var", source="test", mlflow_uri="")
        self.store = EventStore(self.settings.events_dir)

    def ingest(self, *lines: str, header: str = HEADER, name: str = "log.csv") -> Account:
        path = self.folder / name
        path.write_text("\n".join([header, *lines]) + "\n")
        return self.ingest_files(path)

    def ingest_files(self, *paths: Path) -> Account:
        account = ingest(str(self.mapping), [str(path) for path in paths], self.settings, now=NOW)
        counted = account.kept + account.duplicates + account.merged + account.quarantined + account.ignored
        assert account.rows_in == counted
        return account

    def frame(self) -> pd.DataFrame:
        return pa.concat_tables(self.store.read(hour, verify=True) for hour in self.store.hours()).to_pandas()

    def outcomes(self) -> list[tuple[int, str, bool | None, bool | None, bool | None]]:
        """Item, minute and outcomes of every event, in order of time."""
        return [
            (row.item_id, f"{row.timestamp:%H:%M}", *(None if getattr(row, n) is None else bool(getattr(row, n)) for n in OUTCOMES))
            for row in self.frame().sort_values(["timestamp", "event_id"]).itertuples()
        ]  # fmt: skip

    def files(self) -> dict[str, bytes]:
        return {
            str(p.relative_to(self.store.root)): p.read_bytes()
            for p in sorted(self.store.root.rglob("*"))
            if p.is_file() and not {"_receipts", ".changes"} & {*p.parts}
        }


def row(user: int, item: int, minute: float, action: str = "VIEW", genre: str = "rock") -> str:
    moment = datetime(2026, 3, 10, 10, tzinfo=UTC) + timedelta(minutes=minute)
    return f"{user},{item},{genre},{moment.isoformat()},{action}"


@pytest.fixture
def log(tmp_path: Path) -> ActionLog:
    return ActionLog(tmp_path)


def test_views_become_events_with_what_was_done_after_them(log: ActionLog) -> None:
    account = log.ingest(
        row(1, 7, 0), row(1, 8, 1), row(1, 7, 5, "LIKE"), row(1, 7, 6, "PLAY_END"), row(2, 9, 3), row(2, 9, 40, "BOOKMARK")
    )  # fmt: skip
    assert log.outcomes() == [
        (7, "10:00", True, True, False),
        (8, "10:01", False, False, False),
        (9, "10:03", False, False, False),
        (9, "10:40", None, True, None),
    ]
    assert account.actions is not None
    assert asdict(account.actions) == {"kept": 4, "merged": 2, "joined": 2, "alone": 1, "late": 0, "conflicting": 0}


def test_an_action_belongs_to_the_last_time_that_the_item_was_shown(log: ActionLog) -> None:
    log.ingest(row(1, 7, 0), row(1, 7, 10), row(1, 7, 12, "LIKE"))
    assert [like for *_, like, _ in log.outcomes()] == [False, True]


def test_the_window_is_the_mappings(log: ActionLog) -> None:
    log.mapping.write_text(MAPPING.replace("  column: action", "  column: action\n  window_minutes: 60"))
    log.ingest(row(2, 9, 3), row(2, 9, 40, "BOOKMARK"), row(2, 9, 64, "SHARE"))
    assert log.outcomes() == [(9, "10:03", False, True, False), (9, "11:04", None, None, True)]


def test_a_later_action_changes_the_event_and_its_hour_is_stale(log: ActionLog) -> None:
    log.ingest(row(1, 7, 50), row(1, 8, 51))
    hour = Hour.parse("2026-03-10T10")
    before = log.store.digests(hour, hour + 1)
    account = log.ingest(row(1, 7, 65, "LIKE"))
    assert log.outcomes()[0] == (7, "10:50", False, True, False)
    assert account.changed_hours == ["2026-03-10T10", "2026-03-10T11"]
    assert (account.kept, account.merged, account.actions and account.actions.late) == (0, 1, 1)
    assert log.store.digests(hour, hour + 1)[hour] != before[hour]


def test_an_impression_that_comes_last_takes_the_actions_that_stood_alone(log: ActionLog) -> None:
    alone = log.ingest(row(1, 7, 65, "LIKE"))
    assert log.outcomes() == [(7, "11:05", None, True, None)]
    assert (alone.kept, alone.actions and alone.actions.alone) == (1, 1)
    log.ingest(row(1, 7, 50))
    assert log.outcomes() == [(7, "10:50", False, True, False)]
    assert log.store.manifest(Hour.parse("2026-03-10T11")).rows == 0


def test_the_same_files_again_change_no_byte(log: ActionLog) -> None:
    lines = [row(1, 7, 0), row(1, 7, 5, "LIKE"), row(1, 7, 5, "LIKE"), row(1, 8, 70, "SHARE")]
    first = log.ingest(*lines)
    before = log.files()
    again = log.ingest(*lines)
    assert (first.kept, first.merged, first.duplicates) == (2, 1, 1)
    assert (again.kept, again.merged, again.duplicates, again.changed_hours) == (0, 0, 4, [])
    assert log.files() == before


def test_work_that_was_interrupted_between_two_hours_is_resumed(tmp_path: Path) -> None:
    lines = [row(1, 7, 50), row(1, 7, 65, "LIKE"), row(1, 8, 66), row(1, 8, 130, "SHARE")]
    whole, broken = ActionLog(tmp_path / "whole"), ActionLog(tmp_path / "broken")
    whole.ingest(*lines)
    broken.ingest(*lines)
    for key in ("2026-03-10T11", "2026-03-10T12"):
        shutil.rmtree(broken.store.partition(Hour.parse(key)))
    broken.ingest(*lines)
    assert broken.files() == whole.files()


def test_an_id_joins_whatever_the_time_between(log: ActionLog) -> None:
    log.mapping.write_text(MAPPING.replace("item_id: iid", "item_id: iid, event_id: request"))
    header = HEADER + ",request"
    log.ingest(row(1, 7, 0) + ",r1", row(1, 7, 10) + ",r2", header=header)
    log.ingest(row(1, 7, 1500, "LIKE") + ",r1", header=header)
    assert [like for *_, like, _ in log.outcomes()] == [True, False]


def test_an_id_of_another_item_is_no_join_and_is_counted(log: ActionLog) -> None:
    log.mapping.write_text(MAPPING.replace("item_id: iid", "item_id: iid, event_id: request"))
    account = log.ingest(row(1, 7, 0) + ",r1", row(2, 8, 5, "LIKE") + ",r1", header=HEADER + ",request")
    assert [(item, like) for item, _, _, like, _ in log.outcomes()] == [(7, False), (8, True)]
    assert account.actions is not None
    assert (account.actions.conflicting, account.actions.alone) == (1, 1)
    assert log.frame()["event_id"].is_unique


def test_values_that_the_mapping_does_not_name_are_quarantined(log: ActionLog) -> None:
    account = log.ingest(row(1, 7, 0), row(1, 7, 1, "SEARCH"), row(1, 7, 2, "like"))
    assert account.reasons == {"unknown_action": 2}
    with pytest.raises(DataError, match=r"actions\.values"):
        log.ingest(row(1, 7, 1, "SEARCH"))


def test_impressions_and_actions_may_be_tables_of_their_own(log: ActionLog, caplog: pytest.LogCaptureFixture) -> None:
    actions = log.folder / "actions.csv"
    actions.write_text("uid,iid,ts,action\n1,7,2026-03-10T10:05:00Z,LIKE\n")
    impressions = log.folder / "impressions.csv"
    impressions.write_text("uid,iid,genre,ts\n1,7,rock,2026-03-10T10:00:00Z\n1,8,jazz,2026-03-10T10:01:00Z\n")
    log.ingest_files(actions)
    assert "'genre' (facets.genre)" in caplog.text
    log.ingest_files(impressions)
    assert [(item, like) for item, _, _, like, _ in log.outcomes()] == [(7, True), (8, False)]
    assert list(log.frame()["genre"]) == ["rock", "jazz"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("column: action", "column: acton"), r"actions.column: the log has no column 'acton'; did you mean 'action'"),
        (("genre: genre", "genre: Genres"), r"facets.genre: the log has no column 'Genres'; did you mean 'genre'"),
        (
            ("{values: [VIEW]}", "{values: [VIEW], list_column: showns}"),
            r"list_column: .*'showns'; did you mean 'shown'",
        ),
        (("item_id: iid", "item_id: iid, played_seconds: secnds / 2"), r"\(secnds / 2\): .* did you mean 'seconds'"),
    ],
)
def test_a_misspelled_column_is_refused_although_a_file_may_lack_it(
    log: ActionLog, wrong: tuple[str, str], message: str
) -> None:
    log.mapping.write_text(MAPPING.replace(*wrong))
    with pytest.raises(ConfigError, match=message):
        log.ingest(row(1, 7, 0) + ",8,5", header=HEADER + ",shown,seconds")
    assert not log.store.hours()


def test_a_column_that_the_mapping_names_elsewhere_is_no_misspelling(log: ActionLog) -> None:
    log.mapping.write_text(
        MAPPING.replace("item_id: iid", "item_id: iid, played_seconds: played_s, duration_seconds: played_t")
    )
    assert log.ingest("1,7,2026-03-10T10:00:00Z,9", header="uid,iid,ts,played_t").kept == 1


def test_an_action_whose_clock_is_behind_joins_within_the_skew(log: ActionLog) -> None:
    lines = [
        row(1, 7, 60),
        row(1, 7, 59.95, "LIKE"),
        row(2, 7, 0),
        row(2, 7, 10),
        row(2, 7, 9.9, "LIKE"),
        row(3, 7, 5),
        row(3, 7, 4.8, "LIKE"),
    ]
    log.mapping.write_text(MAPPING.replace("  column: action", "  column: action\n  skew_seconds: 6"))
    log.ingest(*lines)
    assert [(minute, like) for _, minute, _, like, _ in log.outcomes()] == [
        ("10:00", False), ("10:04", True), ("10:05", False), ("10:10", True), ("11:00", True),
    ]  # fmt: skip


def test_without_skew_an_action_before_its_impression_stands_alone(log: ActionLog) -> None:
    log.ingest(row(1, 7, 60), row(1, 7, 59.95, "LIKE"))
    assert [like for *_, like, _ in log.outcomes()] == [True, False]


def test_a_source_of_an_earlier_version_has_no_skew(log: ActionLog) -> None:
    log.ingest(row(1, 7, 0))
    declared = json.loads((log.store.root / "source.json").read_text())
    del declared["actions"]["skew_seconds"]
    (log.store.root / "source.json").write_text(json.dumps(declared))
    assert log.ingest(row(1, 7, 1)).kept == 1


SESSIONS = """\
source: test
columns: {user_id: user_id, item_id: reference}
timestamp: {column: timestamp, unit: s}
local_time: {zone: UTC}
actions: {column: action_type, values: {finish: clickout item}}
impressions: {list_column: impressions}
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "json", "parquet"])
def test_a_click_out_with_its_list_is_an_impression_of_each_item_and_a_click_on_one(tmp_path: Path, form: str) -> None:
    log = ActionLog(tmp_path, SESSIONS)
    shown = [["11", "12", "13"], ["11", "14"], []]
    frame = pd.DataFrame(
        {
            "user_id": ["a", "a", "b"],
            "timestamp": [1_773_136_800, 1_773_136_900, 1_773_137_000],
            "action_type": ["clickout item", "clickout item", "clickout item"],
            "reference": ["12", "99", "15"],
            "impressions": shown,
        }
    )
    path = tmp_path / {"text": "log.csv", "json": "log.jsonl", "parquet": "log.parquet"}[form]
    if form == "text":
        frame.assign(impressions=["|".join(items) for items in shown]).to_csv(path, index=False)
    elif form == "json":
        path.write_text("\n".join(json.dumps(line) for line in frame.to_dict("records")) + "\n")
    else:
        frame.to_parquet(path)
    account = log.ingest_files(path)
    assert (account.rows_in, account.unfolded, account.quarantined) == (8, 5, 0)
    clicked = {(item, minute): None if pd.isna(finish) else bool(finish) for item, minute, finish, *_ in log.outcomes()}
    assert sorted(clicked.values(), key=str) == [False, False, False, False, True, True, True]
    assert account.actions is not None
    assert (account.actions.joined, account.actions.alone) == (1, 2)
    assert log.ingest_files(path).changed_hours == []


def test_lists_alone_need_no_actions(tmp_path: Path) -> None:
    log = ActionLog(
        tmp_path,
        "source: test\ncolumns: {user_id: uid, item_id: iid, event_id: request}\ntimestamp: {column: ts}\n"
        "local_time: {zone: UTC}\nbehaviors: {finish: iid = chosen}\nimpressions: {list_column: shown, separator: ' '}\n",
    )
    log.ingest("1,5 6 7,6,2026-03-10T10:00:00Z,r1", header="uid,shown,chosen,ts,request")
    told = sorted((item, finish) for item, _, finish, *_ in log.outcomes())
    assert told == [(5, False), (6, True), (7, False)]


@pytest.mark.parametrize("actions", ["", "actions: {column: action, values: {like: LIKE}}\n"])
def test_lists_that_an_expression_computes_are_refused_and_not_taken_for_items(tmp_path: Path, actions: str) -> None:
    (tmp_path / "log.csv").write_text("uid,iid,ts,shown,action\n1,1,2026-03-02T08:00:00,1-0 2-1,VIEW\n")
    computed = "regexp_replace(shown, '-[01]', '', 'g')"
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "source: test\ncolumns: {user_id: uid, item_id: iid}\ntimestamp: {column: ts, zone: UTC}\nlocal_time: {zone: UTC}\n"
        f'behaviors: {{finish: iid = 1}}\n{actions}impressions: {{list_column: "{computed}"}}\n'
    )
    settings = load_settings(var=tmp_path / "var", source="test")
    with pytest.raises(ConfigError, match=r"list_column: 'regexp_replace.*names one, and no expression"):
        ingest(str(mapping), [str(tmp_path / "log.csv")], settings, now=NOW)
    assert not settings.events_dir.exists()


def test_a_column_of_actions_that_an_expression_computes_is_refused_and_not_taken_for_impressions(
    log: ActionLog,
) -> None:
    log.mapping.write_text(MAPPING.replace("column: action", "column: upper(action)"))
    with pytest.raises(
        ConfigError, match=r"actions.column: 'upper\(action\)' is not a column .* names one, and no expression"
    ):
        log.ingest(row(1, 7, 0), row(1, 7, 1, "LIKE"))
    assert not log.store.hours()


def test_a_fact_that_comes_again_later_with_a_like_keeps_the_like(tmp_path: Path) -> None:
    log = ActionLog(
        tmp_path,
        "source: test\ncolumns: {user_id: uid, item_id: iid, event_id: eid}\ntimestamp: {column: ts}\n"
        "local_time: {zone: UTC}\nfacets: {genre: genre}\nbehaviors: {like: liked}\n",
    )
    header = "uid,iid,genre,ts,liked,eid"
    first = log.ingest("1,7,rock,2026-03-10T10:00:00Z,,e1", "1,8,rock,2026-03-10T10:01:00Z,false,e2", header=header)
    later = log.ingest(
        "1,7,rock,2026-03-10T10:00:00Z,true,e1", "1,8,rock,2026-03-10T12:01:00Z,true,e2",
        "1,9,rock,2026-03-10T10:02:00Z,false,e3", "1,9,rock,2026-03-10T10:02:00Z,true,e3", header=header,
    )  # fmt: skip
    assert (first.kept, later.kept, later.merged, later.duplicates) == (2, 1, 3, 0)
    assert [(item, minute, like) for item, minute, _, like, _ in log.outcomes()] == [
        (7, "10:00", True), (8, "10:01", True), (9, "10:02", True),
    ]  # fmt: skip
    before = log.files()
    again = log.ingest("1,7,rock,2026-03-10T10:00:00Z,true,e1", "1,7,rock,2026-03-10T10:00:00Z,false,e1", header=header)
    assert (again.duplicates, again.merged, again.changed_hours) == (2, 0, [])
    assert log.files() == before


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"impressions": {"values": ["VIEW"]}}, "give actions.column"),
        ({"actions": {"column": "a", "values": {"like": "X", "share": ["X"]}}}, "several things"),
        ({"actions": {"column": "a", "values": {}}}, "at least 1"),
    ],
)
def test_a_mapping_of_actions_that_means_nothing_is_refused(part: dict[str, object], message: str) -> None:
    content = {
        "source": "test", "columns": {"user_id": "u", "item_id": "i"}, "timestamp": {"column": "ts"},
        "local_time": {"zone": "UTC"}, "behaviors": {"finish": "true"},
    }  # fmt: skip
    with pytest.raises(ValidationError, match=message):
        Mapping.model_validate({**content, **part})


def test_a_source_keeps_its_rule(log: ActionLog) -> None:
    log.ingest(row(1, 7, 0))
    log.mapping.write_text(MAPPING.replace("  column: action", "  column: action\n  window_minutes: 60"))
    with pytest.raises(DataError, match="other actions"):
        log.ingest(row(1, 7, 1))


TOLD = st.builds(
    row,
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from([0, 5, 29, 30, 31, 45, 59, 60, 61, 75, 130, 200]),
    st.sampled_from(["VIEW", "VIEW", "LIKE", "SHARE", "PLAY_END", "SEARCH", ""]),
    st.sampled_from(["rock", "jazz"]),
)


@pytest.mark.slow
@given(
    lines=st.lists(
        st.tuples(TOLD, st.sampled_from(["", "", "r1", "r2", "r3"]), st.integers(0, 2)), min_size=1, max_size=12
    ),
    order=st.permutations(range(3)),
    skew=st.sampled_from([0, 60, 300]),
)
@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_split_into_files_and_any_order_gives_the_same_log(
    tmp_path: Path, lines: list[tuple[str, str, int]], order: list[int], skew: int
) -> None:
    shutil.rmtree(tmp_path)
    mapping = MAPPING.replace("item_id: iid", "item_id: iid, event_id: request").replace(
        "  column: action", f"  column: action\n  skew_seconds: {skew}"
    )
    whole, parts = ActionLog(tmp_path / "whole", mapping), ActionLog(tmp_path / "parts", mapping)
    header = HEADER + ",request"
    good = row(3, 3, 0) + ","
    whole.ingest(good, *(f"{line},{request}" for line, request, _ in lines), header=header)
    for number in order:
        parts.ingest(good, *(f"{line},{request}" for line, request, place in lines if place == number), header=header)
    keys = [hour for hour in whole.store.hours() if whole.store.manifest(hour).rows]
    assert [hour for hour in parts.store.hours() if parts.store.manifest(hour).rows] == keys
    for hour in keys:
        assert parts.store.read(hour).equals(whole.store.read(hour))
        assert [f.read_bytes() for f in parts.store.fact_files([hour])] == [
            f.read_bytes() for f in whole.store.fact_files([hour])
        ]


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        ("['a', 'b c']", {"a", "b c"}),
        ("""['a', "it's"]""", {"a", "it's"}),
        ("['a' 'b 1 2'\n 'c']", {"a", "b 1 2", "c"}),
        ("[1 2\n  3]", {"1", "2", "3"}),
        ("['a']", {"a"}),
        ("[1]", {"1"}),
        ("[a, b", {"[a, b"}),
    ],
)
def test_lists_as_python_prints_them_are_unfolded(tmp_path: Path, cell: str, items: set[str]) -> None:
    log = ActionLog(
        tmp_path, MAPPING.replace("{values: [VIEW]}", "{values: [VIEW], list_column: shown}") + "ids: {item: string}\n"
    )
    path = tmp_path / "log.csv"
    pd.DataFrame(
        [{"uid": "u", "iid": "", "genre": "x", "ts": "2026-03-10T10:00:00Z", "action": "VIEW", "shown": cell}]
    ).to_csv(path)
    log.ingest_files(path)
    assert set(log_ids(log.store.root, "item", log.frame()["item_id"].tolist()).values()) == items


def test_the_behaviors_of_the_kept_events_are_counted_with_the_actions_that_joined_them(log: ActionLog) -> None:
    account = log.ingest(row(1, 7, 0), row(1, 8, 1), row(1, 7, 5, "LIKE"), row(2, 9, 40, "BOOKMARK"))
    assert account.behaviors == {"finish": 0, "like": 2, "share": 0}
    late = log.ingest(row(1, 8, 6, "LIKE"), row(3, 8, 6, "SHARE"), name="late.csv")
    assert (late.kept, late.merged, late.behaviors) == (1, 1, {"finish": 0, "like": 0, "share": 1})


def test_impressions_that_all_have_the_label_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = ActionLog(tmp_path, MAPPING + 'behaviors: {finish: "true"}\n')
    log.ingest(*(row(1, item, item) for item in range(30)))
    assert "all of the 30 items that were shown are finish" in caplog.text


def test_actions_of_which_none_belongs_to_an_impression_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown, played = (
        [row(1, item, item) for item in range(20)],
        [row(1, item, 20 + item, "PLAY_END") for item in range(20)],
    )
    ActionLog(tmp_path / "right").ingest(*shown, *played)
    assert "none of the" not in caplog.text
    swapped = MAPPING.replace("PLAY_END", "VIEW").replace("values: [VIEW]", "values: [PLAY_END]")
    ActionLog(tmp_path / "swapped", swapped).ingest(*shown, *played)
    assert "none of the 20 actions belongs to one of the 20 impressions" in caplog.text


@pytest.mark.parametrize("key", ["facets", "context"])
def test_what_is_inside_of_a_json_column_is_named_by_its_path(tmp_path: Path, key: str) -> None:
    lines = [
        json.dumps({"uid": 1, "iid": n, "ts": f"2026-03-10T10:0{n}:00Z", "genre": "rock", "action": "VIEW", "geo": {"country": "DE"}})
        for n in range(3)
    ]  # fmt: skip
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines) + "\n")
    other = {"facets": "", "context": "facets: {genre: genre}\n"}[key]
    wrong = MAPPING.replace("facets: {genre: genre}\n", f"{other}{key}: {{land: geo.country}}\n")
    with pytest.raises(ConfigError, match=rf"{key}.land: 'geo.country' names no column; .*geo->>'\$.country'"):
        ActionLog(tmp_path / "wrong", wrong).ingest_files(path)
    log = ActionLog(tmp_path / "right", wrong.replace("geo.country", "\"geo->>'$.country'\""))
    log.ingest_files(path)
    assert set(log.frame()["land"]) == {"DE"}


def test_a_facet_that_is_empty_in_every_event_is_warned_about_by_name(
    log: ActionLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.ingest(row(1, 7, 0, genre=""), row(1, 8, 1, genre=""))
    assert "facets.genre: 'genre' is empty in every one of the 2 events" in caplog.text
    caplog.clear()
    log.ingest(row(1, 7, 10, genre=""), row(1, 8, 11), name="b.csv")
    assert "facets.genre" not in caplog.text


def test_nothing_changed_is_not_said_of_an_input_whose_rows_merged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = MAPPING.partition("actions:")[0] + "behaviors: {like: \"action = 'LIKES'\"}\n"
    log = ActionLog(tmp_path, plain)
    log.ingest(row(1, 7, 0), row(1, 7, 1, "LIKE"))
    log.mapping.write_text(plain.replace("LIKES", "LIKE"))
    account = log.ingest(row(1, 7, 0), row(1, 7, 1, "LIKE"))
    assert (account.kept, account.merged, account.duplicates) == (0, 1, 1)
    assert "nothing changed" not in caplog.text
    log.ingest(row(1, 7, 0), row(1, 7, 1, "LIKE"))
    assert "nothing changed" in caplog.text

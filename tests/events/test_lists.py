"""Lists of items in one cell that say themselves what was done with each item."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

from core.errors import ConfigError, DataError
from core.hours import Hour
from events.ingest import ingest
from events.mapping import Mapping
from tests.conftest import NOW
from tests.events.test_actions import ActionLog

NEWS = """\
source: test
csv: {delimiter: "\\t", header: false, columns: [impression, user, time, history, impressions]}
columns: {user_id: user, item_id: news, request_id: impression}
timestamp: {column: time, format: "%m/%d/%Y %I:%M:%S %p"}
local_time: {zone: UTC}
impressions: {list_column: impressions, separator: " ", labels: {values: {finish: "1"}}}
"""
LINES = (
    "1\tU13\t3/9/2026 9:05:58 AM\tN8 N9\tN1-1 N2-0 N3-0",
    "2\tU91\t3/9/2026 9:06:30 AM\t\tN3-1",
    "3\tU13\t3/9/2026 11:10:00 PM\tN8 N9 N1\tN2-0 N4-1 N5-1",
)


def told(log: ActionLog) -> list[tuple[int, str, bool | None]]:
    """Place in the list, minute and finish of every event."""
    frame = log.frame().sort_values(["timestamp", "position"])
    return [
        (-1 if pd.isna(row.position) else int(row.position), f"{row.timestamp:%H:%M}", None if pd.isna(row.finish) else bool(row.finish))
        for row in frame.itertuples()
    ]  # fmt: skip


def write(log: ActionLog, *lines: str, name: str = "log.tsv") -> Path:
    path = log.folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_item_of_a_list_with_labels_is_an_event_with_its_label(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, NEWS)
    account = log.ingest_files(write(log, *LINES))
    assert (account.rows_in, account.unfolded, account.kept, account.items) == (7, 4, 7, 5)
    assert told(log) == [
        (0, "09:05", True), (1, "09:05", False), (2, "09:05", False), (0, "09:06", True),
        (0, "23:10", False), (1, "23:10", True), (2, "23:10", True),
    ]  # fmt: skip
    assert set(log.frame()["request_id"]) == {"1", "2", "3"}
    assert log.store.behaviors == ["finish"]
    assert log.ingest_files(log.folder / "log.tsv").changed_hours == []


def test_an_item_may_hold_the_separator_and_a_label_may_mean_several_behaviors_apart(tmp_path: Path) -> None:
    labels = "labels: {separator: '::', values: {like: [up, love], dislike: down}, shown: [seen, none]}"
    log = ActionLog(tmp_path, NEWS.replace('labels: {values: {finish: "1"}}', labels))
    log.ingest_files(write(log, "1\tU1\t3/9/2026 9:00:00 AM\t\ta::b::love a::seen b::down c::none"))
    frame = log.frame().sort_values("position")
    assert frame["like"].tolist() == [True, False, False, False]
    assert frame["dislike"].tolist() == [False, False, True, False]
    ids = pd.read_parquet(sorted((log.store.root / "_ids").glob("item*.parquet"))[-1])
    assert set(ids["key"]) == {"a::b", "a", "b", "c"}


def test_an_item_without_a_label_or_with_another_one_is_quarantined_and_never_taken_for_shown(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, NEWS)
    account = log.ingest_files(write(log, LINES[0], "4\tU1\t3/9/2026 9:00:00 AM\t\tN1 N2-2 N3-1"))
    assert account.reasons == {"unknown_label": 2}
    assert account.kept == 4
    assert account.quarantine is not None
    kept_back = [json.loads(line)["content"]["news"] for line in Path(account.quarantine).read_text().splitlines()]
    assert sorted(kept_back) == ["N1", "N2"]
    with pytest.raises(DataError, match=r"unknown_label 2\).*labels"):
        ActionLog(tmp_path / "other", NEWS).ingest_files(write(log, "1\tU1\t3/9/2026 9:00:00 AM\t\tN1_1 N2_0"))


CHOSEN = """\
source: test
columns: {user_id: user_id, item_id: article_id, event_id: impression_id}
timestamp: {column: impression_time}
local_time: {zone: UTC}
impressions: {list_column: inview, separator: ",", chosen: {finish: clicked, like: liked}}
"""


@pytest.mark.parametrize("form", ["text", "json", "python", "parquet"])
def test_the_items_of_a_list_that_were_chosen_stand_in_other_columns(tmp_path: Path, form: str) -> None:
    log = ActionLog(tmp_path, CHOSEN)
    frame = pd.DataFrame(
        {
            "impression_id": [48401, 152513],
            "user_id": [22779, 150224],
            "impression_time": ["2026-03-10T10:00:00Z", "2026-03-10T11:00:00Z"],
            "inview": [[11, 12, 13], [12, 14]],
            "clicked": [[12], []],
            "liked": [[12, 13], [99]],  # 99 was not in the list
        }
    )
    lists = ["inview", "clicked", "liked"]
    path = tmp_path / {"text": "log.csv", "python": "log.csv", "json": "log.jsonl", "parquet": "log.parquet"}[form]
    if form == "text":
        frame.assign(**{n: [",".join(map(str, c)) for c in frame[n]] for n in lists}).to_csv(path, index=False)
    elif form == "python":
        frame.assign(**{n: frame[n].map(str) for n in lists}).to_csv(path, index=False)
    elif form == "json":
        path.write_text("\n".join(json.dumps(line) for line in frame.to_dict("records")) + "\n")
    else:
        frame.to_parquet(path)
    account = log.ingest_files(path)
    assert (account.rows_in, account.unfolded, account.kept) == (6, 4, 6)
    outcomes = [(item, finish, like) for item, _, finish, like, _ in log.outcomes()]
    assert sorted(outcomes) == [
        (11, False, False), (12, False, False), (12, True, True), (13, False, True), (14, False, False), (99, False, True),
    ]  # fmt: skip
    places = log.frame().set_index("item_id")["position"]
    assert pd.isna(places[99])
    assert log.ingest_files(path).changed_hours == []


def test_a_file_without_the_column_of_what_was_chosen_knows_nothing_of_it(tmp_path: Path) -> None:
    """Nothing done is something else than nothing known, as in the part of a log that is kept back for a contest."""
    log = ActionLog(tmp_path, CHOSEN.replace(", like: liked", "") + "actions: {column: act, values: {like: LIKE}}\n")
    log.ingest("1,5,2026-03-10T10:00:00Z,7,", header="user_id,article_id,impression_time,impression_id,act")
    log.ingest('1,"5,6",2026-03-10T11:00:00Z,8', header="user_id,inview,impression_time,impression_id", name="b.csv")
    assert [finish for *_, finish, _, _ in log.outcomes()] == [None, None, None]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ('{labels: {values: {finish: "1"}}}', "give list_column"),
        ("{chosen: {finish: clicked}}", "give list_column"),
        ('{list_column: a, chosen: {finish: b}, labels: {values: {like: "1"}}}', "not both"),
        ('{list_column: a, labels: {values: {finish: "0"}}}', r"'0'\] would mean several things"),
        ('{list_column: a, labels: {separator: "", values: {finish: "1"}}}', "labels.separator"),
    ],
)
def test_rules_about_lists_that_cannot_be_meant_are_refused(tmp_path: Path, rule: str, said: str) -> None:
    log = ActionLog(
        tmp_path, CHOSEN.partition("impressions:")[0] + f"behaviors: {{share: 'true'}}\nimpressions: {rule}\n"
    )
    with pytest.raises((ConfigError, ValidationError), match=said):
        log.ingest("1,2,2026-03-10T10:00:00Z,9", header="user_id,article_id,impression_time,impression_id")


def test_a_list_that_no_file_has_is_refused_where_there_are_no_actions(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, CHOSEN.replace("list_column: inview", "list_column: slate"))
    with pytest.raises(
        ConfigError, match=r"impressions.list_column: the log has no column 'slate'.*\(columns: .*inview"
    ):
        log.ingest('1,2,"3,4",3,,2026-03-10T10:00:00Z,9',
                   header="user_id,article_id,inview,clicked,liked,impression_time,impression_id")  # fmt: skip
    assert not log.store.hours()


SEARCHES = """\
source: test
columns: {user_id: user, item_id: reference}
timestamp: {column: ts}
local_time: {zone: UTC}
actions: {column: action, values: {finish: clickout item}, ignored: [search for destination, change of sort order]}
impressions: {list_column: shown}
"""


def test_actions_of_no_interest_are_passed_over_and_counted(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, SEARCHES)
    header = "user,ts,action,reference,shown"
    lines = (
        "a,,search for destination,\"Rome, Italy\",",
        "a,2026-03-10T10:00:00Z,change of sort order,price,7|8",
        "a,2026-03-10T10:01:00Z,clickout item,8,7|8|9",
        "a,2026-03-10T10:02:00Z,interaction item image,8,",
    )  # fmt: skip
    account = log.ingest(*lines, header=header)
    assert (account.rows_in, account.ignored, account.kept, account.merged) == (8, 1, 5, 1)
    assert account.reasons == {"unknown_action": 1}
    assert account.ids == {"item": "int", "user": "string"}  # the destination is no item
    assert account.quarantine is not None
    assert "Rome" not in Path(account.quarantine).read_text()
    every = SEARCHES.replace("change of sort order]", "change of sort order, interaction item image]")
    log.mapping.write_text(every)  # what is passed over is no property of the source: it may change
    again = log.ingest(*lines, header=header)
    assert (again.ignored, again.duplicates, again.quarantined) == (2, 6, 0)
    assert again.changed_hours == []


def test_a_file_of_nothing_but_what_is_passed_over_is_no_error(tmp_path: Path) -> None:
    account = ActionLog(tmp_path, SEARCHES).ingest(
        *[f"a,2026-03-10T10:{n:02d}:00Z,search for destination,Rome,x" for n in range(30)],
        header="user,ts,action,reference,shown".replace("shown", "other"),
    )
    assert (account.ignored, account.kept, account.rows_in) == (30, 0, 30)


def test_a_value_is_not_passed_over_and_meant_at_once() -> None:
    with pytest.raises(ValidationError, match=r"'LIKE'\] would mean several things"):
        Mapping.model_validate(
            {
                "source": "test", "columns": {"user_id": "u", "item_id": "i"}, "timestamp": {"column": "ts"},
                "local_time": {"zone": "UTC"}, "actions": {"column": "a", "values": {"like": "LIKE"}, "ignored": "LIKE"},
            }
        )  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "cells", "said"),
    [
        ("{zone_column: tz}", ("Mars/Base",), "local_time.zone_column: a cell reads 'Mars/Base', it takes a zone such as"),
        ("{zone_column: tz}", ("",), "local_time.zone_column: every cell is empty"),
        ("{zone_column: zone}", ("UTC",), "local_time.zone_column: the log has no column 'zone'"),
        ("{offset_minutes_column: minutes}", ("60",), "local_time.offset_minutes_column: the log has no column 'minutes'"),
        ("{offset_minutes_column: tz}", ("9999",), "a cell reads '9999', it takes minutes from UTC"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("actions", ["", "actions: {column: action, values: {like: LIKE}}\n"])
def test_zones_that_cannot_be_read_are_named_with_their_key(
    tmp_path: Path, rule: str, cells: tuple[str], said: str, actions: str
) -> None:
    mapping = f"""source: test
columns: {{user_id: user, item_id: item}}
timestamp: {{column: ts}}
local_time: {rule}
behaviors: {{finish: "true"}}
{actions}"""
    with pytest.raises((ConfigError, DataError), match=said):
        ActionLog(tmp_path, mapping).ingest(
            *[f"a,7,2026-03-10T10:{n:02d}:00Z,VIEW,{cells[0]}" for n in range(30)], header="user,item,ts,action,tz"
        )


def test_a_zone_may_be_an_expression(tmp_path: Path) -> None:
    mapping = """source: test
columns: {user_id: user, item_id: item}
timestamp: {column: ts}
local_time: {zone_column: "coalesce(tz, 'Europe/Berlin')"}
behaviors: {finish: "true"}
"""
    log = ActionLog(tmp_path, mapping)
    log.ingest("1,7,2026-03-10T10:00:00Z,", "1,8,2026-03-10T10:00:00Z,Asia/Tokyo", header="user,item,ts,tz")
    assert log.frame().set_index("item_id")["local_time"].dt.hour.to_dict() == {7: 11, 8: 19}


def test_the_account_says_how_often_each_behavior_is_true(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, CHOSEN)
    header = "user_id,impression_id,impression_time,inview,clicked,liked"
    lines = ("1,1,2026-03-10T10:00:00Z,\"11,12,13\",12,", "1,2,2026-03-10T11:00:00Z,\"11,12\",12,\"11,12\"")  # fmt: skip
    assert log.ingest(*lines, header=header).behaviors == {"finish": 2, "like": 2}
    assert log.ingest(*lines, header=header).behaviors == {"finish": 0, "like": 0}  # nothing was kept


def impressions(count: int, cell: str) -> tuple[str, ...]:
    return tuple(f"{n}\tU{n}\t3/9/2026 9:{n:02d}:00 AM\t\t{cell}" for n in range(count))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("N1-0 N2-0", "none of the 60 events has a behavior"),
        ("N1-1 N2-1", "all of the 60 items that were shown are finish"),
        ("N1-1 N2-1 N3-0", "60 of the 90 items of lists are finish, more than half"),
        ("N1-1 N2-0", ""),
        ("N1-1", ""),
    ],
)
def test_lists_in_which_nothing_or_nearly_everything_was_chosen_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cell: str, said: str
) -> None:
    log = ActionLog(tmp_path, NEWS)
    log.ingest_files(write(log, *impressions(30, cell)))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    warnings = [text for text in warnings if "event" in text or "item" in text]
    assert [text.startswith(said) for text in warnings] == ([True] if said else [])
    caplog.clear()
    small = ActionLog(tmp_path / "small", NEWS)
    small.ingest_files(write(small, *impressions(3, cell)))
    assert "swapped" not in caplog.text


def test_what_is_passed_over_does_not_hide_that_no_other_row_could_be_read(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, SEARCHES)
    lines = [f"a,2026-03-10T10:{n:02d}:00Z,search for destination,Rome," for n in range(30)]
    lines += [f"a,10/03/2026 10:{n:02d},clickout item,7,7|8" for n in range(30)]
    with pytest.raises(DataError, match=r"none of the 90 rows of .*beside 30 that are ignored.*\(bad_timestamp 90\)"):
        log.ingest(*lines, header="user,ts,action,reference,shown")
    assert not log.store.hours()


@pytest.mark.parametrize(
    ("rule", "cell", "said"),
    [
        (
            "list_column: impressions, ",
            "N1-1 N2-0 N3-0",
            r"no list was split by '\|'; a cell reads 'N1-1 N2-0 N3-0': is it ' '\?",
        ),
        ("list_column: impressions, separator: ',', ", "N1-1;N2-0", r"no list was split by ','.*is it ';'\?"),
        ("list_column: impressions, separator: ' ', ", "N1-1,N2-0", r"no list was split by ' '.*is it ','\?"),
    ],
)
def test_a_separator_that_splits_no_list_is_refused_with_the_one_that_it_looks_like(
    tmp_path: Path, rule: str, cell: str, said: str
) -> None:
    log = ActionLog(tmp_path, NEWS.replace('list_column: impressions, separator: " ", ', rule))
    with pytest.raises(ConfigError, match="impressions.separator: " + said):
        log.ingest_files(write(log, *impressions(3, cell), "9\tU1\t3/9/2026 9:00:00 AM\t\tN3-1"))
    assert not log.store.hours()


PLACES = CHOSEN.replace(", like: liked", "").replace('separator: ","', 'separator: "|"')


@pytest.mark.parametrize(
    ("cells", "clicked", "refused"),
    [
        (("New York", "San Juan 2"), ("New York", ""), False),
        (("52.52,13.40", "48.85,2.35"), ("", ""), False),
        (("52.52,13.40", "48.85,2.35"), ("", "48.85,2.35"), False),
        (("Paris, France", "Rome, Italy, EU"), ("", ""), False),
        (("11,12", "13,14,15"), ("", ""), True),
        (("red,blue", "blue,green"), ("blue", "green"), True),
        (("1;2;3;4", "5;6;7;8"), ("", ""), True),
    ],
)
def test_lists_of_one_item_whose_ids_hold_a_separator_are_read_unless_their_parts_are_items(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cells: tuple[str, str], clicked: tuple[str, str], refused: bool
) -> None:
    log = ActionLog(tmp_path, PLACES)
    path = tmp_path / "log.csv"
    frame = pd.DataFrame({"impression_id": [1, 2], "user_id": [7, 8], "inview": cells, "clicked": clicked})
    frame.assign(impression_time="2026-03-10T10:00:00Z").to_csv(path, index=False)
    if refused:
        with pytest.raises(ConfigError, match=r"impressions.separator: .*is it '[,;]'\? Nothing was ingested"):
            log.ingest_files(path)
        assert not log.store.hours()
        return
    account = log.ingest_files(path)
    assert (account.kept, account.items, account.chosen_not_in_list) == (2, 2, 0)
    assert "no list was split by '|'; a cell reads " in caplog.text


@pytest.mark.parametrize(
    ("shown", "clicked", "items"),
    [
        ("[np.int64(11), np.int64(12)]", "[np.int64(12)]", [11, 12]),
        ("[np.float64(11.0), np.float64(12.0)]", "12.0", [11, 12]),
        ("(11, 12)", "(12,)", [11, 12]),
        ("{11,12}", "{12}", [11, 12]),
        ("11.0|12.0", "12", [11, 12]),
        ("11|12", "12.0", [11, 12]),
        ("('a b', 'c')", "c", [1, 2]),
        ("{a,c}", "{c}", [1, 2]),
        ("[Live] a|c", "c", [1, 2]),
        ("(Live) a|c", "c", [1, 2]),
    ],
)
def test_lists_are_read_as_numpy_python_and_databases_print_them(
    tmp_path: Path, shown: str, clicked: str, items: list[int]
) -> None:
    log = ActionLog(tmp_path, PLACES)
    frame = pd.DataFrame({"impression_id": [1], "user_id": [7], "inview": [shown], "clicked": [clicked]})
    frame.assign(impression_time="2026-03-10T10:00:00Z").to_csv(tmp_path / "log.csv", index=False)
    account = log.ingest_files(tmp_path / "log.csv")
    assert (account.kept, account.chosen_not_in_list, account.behaviors) == (2, 0, {"finish": 1})
    assert sorted(item for item, *_ in log.outcomes()) == items


def test_a_list_that_was_cut_short_is_quarantined(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, PLACES)
    cells = ['["a", "b"', "['a', 'b", '["a", "b"]', "[a", "[x] a|b"]
    frame = pd.DataFrame({"impression_id": range(5), "user_id": range(5), "inview": cells, "clicked": ""})
    frame.assign(impression_time="2026-03-10T10:00:00Z").to_csv(tmp_path / "log.csv", index=False)
    account = log.ingest_files(tmp_path / "log.csv")
    assert (account.kept, account.reasons) == (5, {"bad_list": 2})


def test_lists_of_one_item_each_need_no_separator(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, NEWS.replace('separator: " ", ', ""))
    cells = ("N1-1", "N2-0", "a b-0", '["N 5-1"]', '["N 6-1"]')
    log.ingest_files(write(log, *(f"{n}\tU1\t3/9/2026 9:0{n}:00 AM\t\t{cell}" for n, cell in enumerate(cells))))
    assert [finish for *_, finish in told(log)] == [True, False, False, True, True]


@pytest.mark.parametrize("form", ["parquet", "lists", "csv"])
def test_ids_that_pandas_made_floats_beside_nulls_are_those_of_the_list(tmp_path: Path, form: str) -> None:
    log = ActionLog(tmp_path, CHOSEN.replace(", like: liked", ""))
    clicked: list[object] = [9700278.0, None]
    frame = pd.DataFrame(
        {
            "impression_id": [1, 2], "user_id": [7, 8], "impression_time": ["2026-03-10T10:00:00Z", "2026-03-10T11:00:00Z"],
            "inview": [[9700278, 12, 13], [12, 14]], "clicked": clicked,
        }
    )  # fmt: skip
    path = tmp_path / ("log.csv" if form == "csv" else "log.parquet")
    if form == "csv":
        frame.assign(inview=["9700278,12,13", "12,14"]).to_csv(path, index=False)
    else:
        if form == "lists":
            frame = frame.assign(inview=[[9700278.0, 12.0, 13.0], [12.0, 14.0]], clicked=[[9700278.0], []])
        frame.to_parquet(path)
    account = log.ingest_files(path)
    assert (account.kept, account.chosen_not_in_list, account.behaviors) == (5, 0, {"finish": 1})
    assert account.ids["item"] == "int"
    assert sorted((item, finish) for item, _, finish, *_ in log.outcomes()) == [
        (12, False), (12, False), (13, False), (14, False), (9700278, True),
    ]  # fmt: skip


@pytest.mark.slow
def test_items_that_were_chosen_and_are_not_in_their_list_are_counted_and_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = "user_id,impression_id,impression_time,inview,clicked,liked"
    log = ActionLog(tmp_path, CHOSEN)
    account = log.ingest('1,1,2026-03-10T10:00:00Z,"11,12,13",a12,"11,a12"', header=header)
    assert (account.kept, account.chosen_not_in_list) == (4, 1)
    assert "1 of the 2 items that were chosen are not in their list" in caplog.text


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"%m/%d/%Y %I:%M:%S %p"', '"%m/%d/%Y %H:%M:%S %p"', "%p .AM or PM. goes with %I"),
        ('format: "%m/%d/%Y %I:%M:%S %p"', "unit: iso", r"bad_timestamp 7\).*timestamp.format: \"%m/%d/%Y %I:%M:%S %p\""),
        ("header: false, ", "", "add header: false"),
        ("time, history, impressions]", "time, impressions]", r"malformed_row 3\).*a row has 5 cells, csv.columns 4"),
        (', labels: {values: {finish: "1"}}', "", "say what was done: impressions.labels, impressions.chosen or behaviors"),
        ("zone: UTC", "zone: time", "unknown time zone 'time'.*if it is a column: zone_column"),
        ("item_id: news,", "item_id: news, position: impression,", "columns.position: a list says by itself"),
    ],
)  # fmt: skip
def test_what_newcomers_get_wrong_is_said_with_the_key_that_mends_it(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    assert before in NEWS
    log = ActionLog(tmp_path, NEWS.replace(before, after))
    with pytest.raises((ConfigError, DataError), match=said):
        log.ingest_files(write(log, *LINES))
    assert not log.store.hours()


ITEMS = """items:
  path: news.tsv
  csv: {header: false, columns: [id, title]}
  key: id
  facets: {title: title}
"""


def test_a_table_of_items_that_knows_no_item_of_the_log_is_refused_with_both_examples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = ActionLog(tmp_path, NEWS + ITEMS.replace("key: id", "key: title"))
    write(log, "N1\tTitle 1", "N9\tTitle 1", name="news.tsv")
    with pytest.raises(ConfigError, match=r"items.key: .*in news.tsv by 'title': it reads 'Title 1', the log 'N[1-5]'"):
        log.ingest_files(write(log, *LINES))
    assert not log.store.hours()
    log.mapping.write_text(NEWS + ITEMS)
    account = log.ingest_files(log.folder / "log.tsv")
    assert (account.kept, account.null_facets) == (7, {"title": 6})
    assert "1 of the 5 items are in news.tsv by 'id'" in caplog.text
    caplog.clear()
    write(log, "N1\tTitle 1", "N3\tTitle 3", "N2\tTitle 2", name="news.tsv")
    log.ingest_files(write(log, *(line.replace("3/9", "3/10") for line in LINES), name="b.tsv"))
    assert "items.key" not in caplog.text


def test_an_hour_whose_items_are_all_newer_than_the_table_is_taken(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, NEWS + ITEMS)
    write(log, "N77\tTitle", name="news.tsv")
    hour = Hour.parse("2026-03-09T09")
    path = write(log, LINES[1])
    assert ingest(str(log.mapping), [str(path)], log.settings, now=NOW, close=(hour, hour + 1)).kept == 1


def test_times_of_which_many_cannot_be_read_are_warned_about_with_the_format_that_reads_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = ActionLog(tmp_path, NEWS.replace("%m/%d/%Y", "%d/%m/%Y"))
    lines = [f"{n}\tU{n}\t3/{n}/2026 9:00:00 AM\t\tN1-1 N2-0" for n in (3, *range(13, 31))]
    assert log.ingest_files(write(log, *lines)).reasons == {"bad_timestamp": 36}
    assert "36 of the 38 rows are quarantined (bad_timestamp 36). Times such as '3/" in caplog.text
    assert 'look like timestamp.format: "%m/%d/%Y %I:%M:%S %p"' in caplog.text


def test_unknown_actions_of_rows_without_an_item_are_told_too(tmp_path: Path) -> None:
    lines = ("a,2026-03-10T10:00:00Z,session_start,,", "a,2026-03-10T10:10:00Z,clickout item,8,")
    account = ActionLog(tmp_path, SEARCHES).ingest(*lines, header="user,ts,action,reference,shown")
    assert (account.reasons, account.unknown_actions) == ({"missing_item_id": 1}, {"session_start": 1})


def test_unknown_actions_are_told_with_their_rows_and_with_what_may_be_meant(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = ActionLog(tmp_path, SEARCHES)
    header = "user,ts,action,reference,shown"
    lines = [f"a,2026-03-10T10:{n:02d}:00Z,clickout itm,8," for n in range(3)]
    lines += ["a,2026-03-10T10:09:00Z,XYZ,8,", "a,2026-03-10T10:10:00Z,clickout item,8,"]
    assert log.ingest(*lines, header=header).unknown_actions == {"clickout itm": 3, "XYZ": 1}
    assert "'clickout itm' 3; did you mean 'clickout item'?; 'XYZ' 1" in caplog.text
    with pytest.raises(DataError, match=r"impressions.values: 'clickout itm' 3; did you mean 'clickout item'"):
        ActionLog(tmp_path / "other", SEARCHES).ingest(*lines[:3], header=header)


def test_the_tutorials_news_log_is_read_as_it_says(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "tutorials" / "your-own-log.md").read_text()
    example = text.partition("### A complete example")[2].partition("\n## ")[0]
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?:^ {4}.*\n)+", example, re.MULTILINE)]
    shown, described, mapping = blocks[:3]
    log = ActionLog(tmp_path, mapping.replace("source: news", "source: test"))
    write(log, described.strip(), "N2\tnews\tlocal\tAnother", "N3\tnews\tworld\tAnother", name="news.tsv")
    account = log.ingest_files(write(log, shown.strip(), name="behaviors.tsv"))
    assert (account.kept, account.behaviors) == (3, {"finish": 1})
    assert account.null_facets == {"category": 0, "subcategory": 0}
    assert [place for place, *_ in told(log)] == [0, 1, 2]
    assert set(log.frame()["request_id"]) == {"1"}


def test_a_second_ingestion_adds_behaviors_and_takes_none_away(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, NEWS.replace("request_id: impression", "event_id: impression"))
    swapped = log.mapping.read_text().replace('{finish: "1"}', '{finish: "0"}, shown: "1"')
    right = log.mapping.read_text()
    log.mapping.write_text(swapped)
    log.ingest_files(write(log, LINES[0]))
    log.mapping.write_text(right)
    account = log.ingest_files(log.folder / "log.tsv")
    assert (account.kept, account.merged, account.duplicates) == (0, 1, 2)
    assert [finish for *_, finish in told(log)] == [True, True, True]

"""Values of real logs: what cannot be known is not true, expressions, and messages that name the cause."""

from __future__ import annotations

import csv
import json
import logging
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import ConfigError, DataError
from core.hours import Hour
from events.store import EventStore
from tests.events.logs import HEADER, TIME, Log, outcomes, rows

# What cannot be known is not true.


@pytest.mark.parametrize(
    "expression",
    ["played / length >= 0.9", "played // length >= 1 OR played / length >= 0.9", "1 / (played / length) < 2"],
)
def test_what_is_divided_by_zero_is_unknown(log: Log, expression: str) -> None:
    log.write(
        f"uid,iid,genre,ts,played,length\na,1,x,{TIME},0,0\nb,1,x,2026-03-10T10:01:00Z,5,0\nc,1,x,2026-03-10T10:02:00Z,9,9\n"
    )
    log.ingest(behaviors=f'behaviors: {{finish: "{expression}"}}')
    assert outcomes(log, "finish") == [None, None, True]


def test_numbers_of_a_table_that_are_not_finite_are_unknown(log: Log) -> None:
    frame = pd.DataFrame(
        {"uid": ["a", "b", "c"], "iid": "x", "genre": "g", "rating": [float("nan"), float("inf"), 5.0],
         "ts": pd.to_datetime([TIME, "2026-03-10T10:01:00Z", "2026-03-10T10:02:00Z"])}
    )  # fmt: skip
    frame.to_parquet(log.folder / "log.parquet")
    log.ingest(log.folder / "log.parquet", behaviors='behaviors: {like: "rating >= 4"}')
    assert outcomes(log, "like") == [None, None, True]


def test_yes_and_no_are_read_however_they_are_written(log: Log) -> None:
    cells = ["1.0", "0.0", "on", "OFF", " true ", "No", "", "2", "-1", "0.5", "maybe"]
    lines = [f"u,i{n},x,2026-03-10T10:{n:02d}:00Z,{cell}\n" for n, cell in enumerate(cells)]
    log.write("uid,iid,genre,ts,liked\n" + "".join(lines))
    account = log.ingest(behaviors="behaviors: {like: liked}")
    assert outcomes(log, "like") == [True, False, True, False, True, False, None, None, None, None, None]
    assert account.unreadable == {"behaviors.like": 4}


# Expressions.


def test_an_error_inside_an_expression_names_it_and_the_row(log: Log) -> None:
    log.write(HEADER + rows(5) + f"u,1,x,{TIME}\n")
    with pytest.raises(ConfigError, match=r"behaviors\.finish: .*fails in row"):
        log.ingest(behaviors='behaviors: {finish: "CAST(genre AS INT) = 1"}')
    assert not log.settings.events_dir.joinpath("source.json").exists()


def test_a_log_without_attributes_has_the_item_for_its_facet(log: Log) -> None:
    log.write(HEADER + rows(2))
    log.ingest(facets="")
    assert log.events()["item"].tolist() == ["i0", "i1"]


@pytest.mark.parametrize("expression", ["rating:float >= 4", "rating IN (SELECT 4)", "a b > 1"])
def test_a_name_that_needs_quotes_gets_the_hint(log: Log, expression: str) -> None:
    log.write(HEADER + rows(2))
    with pytest.raises(ConfigError, match="written in double quotes"):
        log.ingest(behaviors=f'behaviors: {{like: "{expression}"}}')


def test_a_column_called_off_gets_the_hint(log: Log) -> None:
    log.write(HEADER + rows(2))
    with pytest.raises(ConfigError, match="write the name in quotes"):
        log.ingest(local_time="local_time: {offset_minutes_column: off}")


NESTED = [{"uid": f"u{n}", "iid": "i", "ts": TIME, "geo": {"country": "DE"}, "tags": ["a", "b"]} for n in range(3)]


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        ("csv", ("geo->>'$.country'", "tags->>'$[0]'")),
        ("jsonl", ("geo->>'$.country'", "tags->>'$[0]'")),
        ("parquet", ("geo['country']", "tags[1]")),
    ],
)
def test_an_attribute_that_is_a_whole_object_or_list_is_warned_about_with_how_to_name_a_part(
    log: Log, caplog: pytest.LogCaptureFixture, form: str, parts: tuple[str, str]
) -> None:
    path = log.folder / f"log.{form}"
    if form == "csv":
        texts = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in NESTED]
        pd.DataFrame(texts).to_csv(path, index=False)
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, NESTED)))
    else:
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    account = log.ingest(path, facets="facets: {land: geo}\ncontext: {tag: tags}")
    assert (account.kept, account.nested) == (3, {"land": 3, "tag": 3})
    for key, part in (("facets.land", parts[0].replace("country", "name")), ("context.tag", parts[1])):
        assert any(
            line.startswith(f"{key}: ") and line.endswith(f"name a part of it: {part}") for line in caplog.messages
        )
    caplog.clear()
    other = Log(log.write("", "other/empty").parent)
    rule = f'facets: {{land: "{parts[0]}"}}\ncontext: {{tag: "{parts[1]}"}}'
    assert other.ingest(path, facets=rule).nested == {}
    assert {tuple(row) for row in other.events()[["land", "tag"]].to_numpy()} == {("DE", "a")}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_facet_with_several_values_is_told(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.write(HEADER + "".join(f"u{n},i,{('rock|jazz', 'rock', '|')[n % 3]},{TIME}\n" for n in range(9)))
    assert log.ingest(context="context: {kind: genre}").several == {"genre": 3}
    assert "facets.genre: 'genre' holds several values with | between them in 3 of the 9 events" in caplog.text
    caplog.clear()
    other = Log(log.write("", "other/empty").parent)
    assert other.ingest(log.folder / "log.csv", facets="facets: {genre: \"split_part(genre, '|', 1)\"}").several == {}
    assert "several" not in caplog.text


@pytest.mark.parametrize("word", ["null", "NaN", "\\N", "None"])
def test_words_for_missing_values_are_told(log: Log, caplog: pytest.LogCaptureFixture, word: str) -> None:
    log.write(HEADER + "".join(f"u{n},i,{(word, 'rock')[n % 2]},{TIME}\n" for n in range(8)))
    assert log.ingest(context="context: {kind: genre}").missing_words == {"genre": 4, "kind": 4}
    assert "facets.genre: 'genre' reads null, NaN" in caplog.text
    assert "context.kind: 'genre' reads" in caplog.text
    caplog.clear()
    other = Log(log.write("", "other/empty").parent)
    account = other.ingest(
        log.folder / "log.csv", facets=f"facets: {{genre: \"nullif(genre, '{word.replace(chr(92), chr(92) * 2)}')\"}}"
    )
    assert (account.missing_words, account.null_facets) == ({}, {"genre": 4})
    assert "another word" not in caplog.text


@pytest.mark.parametrize(
    ("behaviors", "told"),
    [
        ("behaviors: {finish: genre = 'rock'}", True),
        ("behaviors: {finish: genre = 'rock'}\nnegatives: {per_positive: 4}", False),
        ("behaviors: {finish: iid <> 'i7'}", False),
        ("actions: {column: genre, values: {finish: rock}}", True),
        ("actions: {column: genre, values: {finish: jazz}}\nimpressions: {values: rock}", False),
    ],
)
def test_a_log_of_positives_only_is_told(
    log: Log, caplog: pytest.LogCaptureFixture, behaviors: str, told: bool
) -> None:
    log.write(HEADER + rows(30))
    assert log.ingest(behaviors=behaviors).kept == 30
    assert ("if the log has positives only, add negatives" in caplog.text) == told


def test_words_in_brackets_are_neither_objects_nor_lists(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    log.write(
        HEADER + "".join(f"u{n},i,{cell},{TIME}\n" for n, cell in enumerate(("[deleted]", "{x}", "[", "[a] b [c]")))
    )
    assert log.ingest().nested == {}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("cell", "path", "value"),
    [
        ("['a', 'b']", "$[0]", "a"), ("[\"it's\", 'b']", "$[0]", "it's"), ("[{'id': 16, 'name': 'Anime'}]", "$[0].name", "Anime"),
        ("{'mood': None, 'lang': 'de', 'live': True}", "$.lang", "de"), ("{'live': True}", "$.live", "true"),
        ("{'mood': None, 'lang': 'de'}", "$.mood", None), ("{'none': 'None, of'}", "$.none", "None, of"),
        ("[]", "$[0]", None), ("[None, None, 1]", "$[2]", "1"),
    ],
)  # fmt: skip
def test_a_part_is_taken_of_what_python_printed(log: Log, cell: str, path: str, value: str | None) -> None:
    pd.DataFrame({"uid": ["u"], "iid": ["i"], "about": [cell], "ts": [TIME]}).to_csv(
        log.folder / "log.csv", index=False
    )
    account = log.ingest(facets=f"facets: {{part: \"about->>'{path}'\"}}")
    assert account.unreadable == {}
    assert log.events()["part"].tolist() == [value]


def test_a_cell_that_is_no_json_costs_its_value_and_is_counted(log: Log) -> None:
    cells = ('"{""country"": ""DE""}"', "", "oops", "[1")
    log.write("uid,iid,geo,ts\n" + "".join(f"u{n},i,{cell},{TIME}\n" for n, cell in enumerate(cells)))
    account = log.ingest(facets="facets: {land: \"geo->>'$.country'\"}")
    assert (account.kept, account.null_facets, account.unreadable) == (4, {"land": 3}, {"facets.land": 2})


def test_an_items_table_with_a_cell_that_is_no_json_is_read(log: Log) -> None:
    log.write('id,about\ni0,"{""mood"": ""calm""}"\ni1,oops\n', name="items.csv")
    log.write(HEADER + rows(2))
    log.ingest(facets="", items="items: {path: items.csv, key: id, facets: {mood: \"about->>'$.mood'\"}}")
    assert log.events()["mood"].tolist() == ["calm", None]


# Exposures.


def test_exposures_are_read_as_events_are(log: Log) -> None:
    log.write(HEADER + rows(5), "log/a.csv")
    log.write(
        "user,experiment,variant,at\nu1,e,control,2026-03-10 11:00:00\nu2,e,control,2099-01-01 00:00:00\n"
        "u3,e,,2026-03-10 11:00:00\nu4,e,treatment,yesterday\n,e,treatment,2026-03-10 11:00:00\n",
        "exposures/a.csv",
    )
    account = log.ingest(
        log.folder / "log",
        exposures="exposures: {path: '../exposures/{name}', user_id: user, timestamp: {column: at, zone: Europe/Berlin}}",
    )
    assert account.exposures == 1
    assert account.exposure_reasons == {"bad_timestamp": 1, "in_future": 1, "missing_user_id": 1, "missing_variant": 1}
    store = EventStore(log.settings.events_dir)
    (row,) = store.read_exposures(Hour.parse("2026-03-10T10")).to_pylist()
    assert row["timestamp"] == datetime(2026, 3, 10, 10, tzinfo=UTC)
    assert [hour.key for hour in store.hours()] == ["2026-03-10T10"]


def test_exposed_users_are_whole_numbers_as_those_of_events_are(log: Log) -> None:
    log.write(HEADER + f"8,i,x,{TIME}\n", "log/a.csv")
    users = ("8.0", "7.5", "008", "1e1", "9")
    log.write("user,experiment,variant,at\n" + "".join(f"{user},e,control,{TIME}\n" for user in users), "exposures.csv")
    account = log.ingest(
        log.folder / "log", exposures="exposures: {path: ../exposures.csv, user_id: user, timestamp: {column: at}}"
    )
    assert account.exposure_reasons == {"bad_user_id": 3}
    rows_ = EventStore(log.settings.events_dir).read_exposures(Hour.parse("2026-03-10T10")).to_pylist()
    assert sorted(row["user_id"] for row in rows_) == [8, 9]


def test_a_column_without_content_is_unknown_in_every_expression(log: Log) -> None:
    """An hour in which nobody has a length is an hour like any other."""
    log.write('{"uid":"a","iid":"x","ts":"2026-03-10T10:00:00Z","genre":"","length":""}\n', "log.jsonl")
    account = log.ingest(
        log.folder / "log.jsonl",
        columns="columns: {user_id: uid, item_id: iid, duration_seconds: length / 2}",
        facets="facets: {genre: genre, letter: 'left(genre, 1)'}",
        behaviors="behaviors: {finish: length / 2 > 1}",
    )
    assert (account.kept, account.quarantined) == (1, 0)
    assert outcomes(log, "finish") == [None]


def test_empty_cells_do_not_make_a_column_of_numbers_text(log: Log) -> None:
    cells = ["", "", "100"]
    lines = [json.dumps({"uid": "a", "iid": f"i{n}", "ts": TIME, "length": cell}) for n, cell in enumerate(cells)]
    log.write("\n".join(lines) + "\n", "l.jsonl")
    account = log.ingest(log.folder / "l.jsonl", facets="", behaviors="behaviors: {finish: length / 2 > 1}")
    assert (account.kept, account.quarantined) == (3, 0)
    assert list(log.events()["finish"]).count(True) == 1


def test_a_zone_column_of_another_type_is_no_zone(log: Log) -> None:
    frame = pd.DataFrame({"uid": ["a"] * 30, "iid": ["x"] * 30, "genre": ["rock"] * 30})
    frame["tz"] = pd.Timestamp("2026-03-10")
    frame["ts"] = [f"2026-03-10T10:{n:02d}:00Z" for n in range(30)]
    frame.to_parquet(log.folder / "log.parquet")
    with pytest.raises(DataError, match="unknown_zone 30"):
        log.ingest(log.folder / "log.parquet", local_time="local_time: {zone_column: tz}")


def test_utf_16_without_its_mark_and_a_header_without_end_are_refused(log: Log) -> None:
    log.write((HEADER + rows(2)).encode("utf-16")[2:])
    with pytest.raises(DataError, match="no byte order mark"):
        log.ingest(csv="csv: {encoding: utf-16}")
    log.write("uid,iid,genre," + "x" * 200_000 + "\n" + rows(2))
    csv.field_size_limit(1 << 24)  # as a reader of other tables in this process leaves it
    with pytest.raises(DataError, match="cannot be read as a header"):
        log.ingest()


# A message is one line, whatever the names of columns and the expressions are.


@pytest.mark.parametrize(
    ("content", "mapping", "message"),
    [
        ('"uid,iid,genre,ts\ru,i,rock,2026-03-10T10:00:00Z\r', {}, r"no column 'uid' \(columns: uid,iid,genre,ts u,i"),
        (
            HEADER,
            {"behaviors": "behaviors:\n  finish: |\n    uid =\n    (SELECT 1)\n"},
            r"'uid = \(SELECT 1\)' must be one",
        ),
        (HEADER, {"behaviors": "behaviors:\n  finish: |\n    uid =\n    geenre\n"}, r"\(uid = geenre\): .*'genre'"),
        (",".join(f"c{n}" for n in range(500)) + "\n", {}, r"c39 and 460 more\)"),
    ],
)
def test_messages_are_one_line(log: Log, content: str, mapping: dict[str, str], message: str) -> None:
    log.write(content)
    with pytest.raises(ConfigError, match=message) as refused:
        log.ingest(**mapping)
    assert "\n" not in str(refused.value)
    assert not (log.settings.events_dir / "source.json").exists()


def test_a_file_name_with_a_line_break_is_refused(log: Log) -> None:
    path = log.write(HEADER, name="log\n2.csv")
    with pytest.raises(DataError, match=r"log\\n2.csv': a path with control characters"):
        log.ingest(path)


def test_minutes_and_seconds_are_named_with_the_expression_that_reads_them(log: Log) -> None:
    log.write(f"uid,iid,genre,ts,played\nu,i,x,{TIME},3:30\nu,j,x,{TIME},12:05\n")
    columns = "columns: {user_id: uid, item_id: iid, played_seconds: PLAYED}"
    with pytest.raises(DataError, match="a cell reads '3:30'; write \"") as error:
        log.ingest(columns=columns.replace("PLAYED", "played"))
    expression = str(error.value).partition('write "')[2].partition('"')[0]
    log.ingest(columns=columns.replace("PLAYED", json.dumps(expression)))
    assert sorted(log.events()["played_seconds"]) == [210, 725]


def test_a_text_that_is_compared_with_a_number_is_shown(log: Log) -> None:
    log.write(f"uid;iid;genre;ts;stars\nu;i;x;{TIME};4,5\nu;j;x;{TIME};3,0\n")
    with pytest.raises(
        ConfigError, match=r"behaviors.finish: 'stars >= 4': .*; a cell of 'stars' reads '4,5'; nothing was ingested"
    ):
        log.ingest(csv='csv: {delimiter: ";"}', behaviors="behaviors: {finish: stars >= 4}")


def test_a_log_without_a_header_gets_the_hint(log: Log) -> None:
    log.write(rows(3))
    with pytest.raises(ConfigError, match=r"set csv: \{header: false, columns: \[...\]\}"):
        log.ingest()

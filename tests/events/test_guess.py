"""A first mapping guessed from a log: it loads, it ingests, and it says what a person has to check."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import DataError
from core.settings import Settings
from events.guess import guess_mapping, ingest_arguments
from events.ingest import ingest
from events.mapping import Mapping, load_mapping
from tests.conftest import NOW


def guessed(tmp_path: Path, name: str, text: str) -> tuple[Mapping, str, Path]:
    log = tmp_path / name
    log.write_text(text)
    written = guess_mapping([str(log)], source="guessed")
    path = tmp_path / "mapping.yaml"
    path.write_text(written)
    return load_mapping(str(path))[0], written, log


def rows(count: int, line: str) -> str:
    """``count`` lines in which {n} is the row, {u} one of 7 users, {i} one of 13 items, {g} one of 3 genres."""
    return "".join(
        line.format(n=n, u=n % 7, i=n % 13, g=("rock", "jazz", "folk")[n % 3], m=n % 60) + "\n" for n in range(count)
    )


def test_plays_with_lengths_in_milliseconds(tmp_path: Path, settings: Settings) -> None:
    text = "userId,trackId,genre,ts,ms_played,duration_ms,liked\n" + rows(
        200, "u{u},t{i},{g},2026-03-02T08:{m:02d}:00Z,{n}000,200000,1"
    )
    mapping, written, log = guessed(tmp_path, "plays.csv", text)
    assert (mapping.columns.user_id, mapping.columns.item_id) == ("userId", "trackId")
    assert (mapping.columns.played_seconds, mapping.columns.duration_seconds) == (
        "ms_played / 1000",
        "duration_ms / 1000",
    )
    assert mapping.facets == {"genre": "genre"}
    assert mapping.behaviors == {
        "finish": "played_seconds / duration_seconds >= 0.9", "like": "liked", "skip": "played_seconds < 5",
    }  # fmt: skip
    assert "check: the zone in which these people live" in written
    account = ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW)
    assert account.kept == 200


@pytest.mark.parametrize(
    ("number", "unit"),
    [("17720{n:05d}", "s"), ("17720{n:05d}000", "ms"), ("17720{n:05d}000000", "us"), ("17720{n:05d}000000000", "ns")],
)
def test_the_unit_of_numbers_is_told_by_their_size(tmp_path: Path, number: str, unit: str) -> None:
    mapping, _, _ = guessed(tmp_path, "a.csv", "uid,iid,genre,time\n" + rows(100, "{u},{i},{g}," + number))
    assert mapping.timestamp.unit == unit


def test_dates_without_the_time_of_day_are_to_be_checked(tmp_path: Path) -> None:
    text = "user,item,date,time\n" + rows(60, "{u},{i},2026-03-10,10:{n:02d}:00")
    written = guessed(tmp_path, "log.csv", text)[1]
    assert 'check: a date without the time of day, which the clock needs: it may stand in "time"' in written
    assert json.loads(written.partition("then column: ")[2].partition(";")[0]) == "date || ' ' || time"
    written = guessed(tmp_path, "log.csv", text.replace(",time", ",other").replace("10:", "x"))[1]
    assert "which the clock needs: is there none?" in written


def test_times_with_a_decimal_comma_are_times(tmp_path: Path, settings: Settings) -> None:
    text = "user,item,at\n" + rows(60, '{u},{i},"2026-03-10 10:{n:02d}:00,250"')
    mapping, _, log = guessed(tmp_path, "log.csv", text)
    assert mapping.timestamp.unit == "iso"
    assert ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW).kept == 60


@pytest.mark.parametrize("name", ["value", "cell", "v", "count", "sample"])
def test_columns_may_have_names_that_the_guess_uses(tmp_path: Path, name: str) -> None:
    mapping, _, _ = guessed(
        tmp_path, "log.csv", f"user,item,at,{name}\n" + rows(60, "{u},{i},2026-03-10T10:{n:02d}:00Z,{g}")
    )
    assert [*mapping.facets.values()] == [name]


@pytest.mark.parametrize("name", ["no", "off", "null", "1", "true"])
def test_names_that_yaml_would_read_otherwise_are_quoted(tmp_path: Path, name: str) -> None:
    text = f"user,item,at,{name}\n" + rows(60, "{u},{i},2026-03-10T10:{n:02d}:00Z,{g}")
    assert set(guessed(tmp_path, "log.csv", text)[0].facets.values()) == {f'"{name}"'}
    (tmp_path / f"{name}.csv").write_text(text)
    path = tmp_path / "other.yaml"
    path.write_text(guess_mapping([str(tmp_path / f"{name}.csv")]))
    assert load_mapping(str(path))[0].source == f"log_{name}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(50), "holds a ZIP archive"),
        (b"<html>Log in</html>", "holds a page of HTML"),
    ],
)
def test_files_that_are_no_text_are_named_as_ingestion_names_them(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        guess_mapping([str(tmp_path / "log.csv")])


def test_a_format_that_is_not_iso_and_another_delimiter(tmp_path: Path, settings: Settings) -> None:
    text = "visitorid;itemid;category;when\n" + rows(100, "{u};{i};{g};25/04/2025 10:{m:02d}")
    mapping, _, log = guessed(tmp_path, "b.csv", text)
    assert (mapping.csv.delimiter, mapping.timestamp.format) == (";", "%d/%m/%Y %H:%M")
    assert ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW).kept > 0


def test_a_column_of_actions_becomes_behaviors(tmp_path: Path) -> None:
    text = "user,item,genre,at,action\n" + "".join(
        f"u{n % 5},i{n % 9},{n % 3},2026-03-02T08:00:{n % 60:02d}Z,{('rent', 'bookmark', 'purchase', 'skip')[n % 4]}\n"
        for n in range(80)
    )
    mapping, written, _ = guessed(tmp_path, "c.csv", text)
    assert mapping.behaviors == {
        "finish": "action IN ('purchase')", "like": "action IN ('bookmark')", "skip": "action IN ('skip')",
    }  # fmt: skip
    assert "rent" in written


def test_rows_that_show_an_item_are_impressions_and_the_others_actions(tmp_path: Path, settings: Settings) -> None:
    text = "user,item,genre,at,action\n" + "".join(
        f"u{n},i{n % 9},{n % 3},2026-03-02T08:00:{n % 60:02d}Z,VIEW\n"
        f"u{n},i{n % 9},{n % 3},2026-03-02T08:05:{n % 60:02d}Z,{('LIKE', 'add_bookmark')[n % 2]}\n"
        for n in range(40)
    )
    mapping, _, log = guessed(tmp_path, "c.csv", text)
    assert mapping.actions is not None
    assert mapping.impressions is not None
    assert mapping.actions.values == {"like": ("LIKE", "add_bookmark")}
    account = ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW)
    assert (account.kept, account.merged) == (40, 40)


def test_a_shops_events_are_actions_and_no_facet(tmp_path: Path, settings: Settings) -> None:
    text = "timestamp,visitorid,event,itemid,transactionid\n" + "".join(
        f"{1_433_221_332_117 + 60_000 * n},{n},view,{n % 9},\n{1_433_221_392_117 + 60_000 * n},{n},{did},{n % 9},{n if paid else ''}\n"
        for n in range(60)
        for did, paid in ([("addtocart", False), ("transaction", True)][n % 2],)
    )
    mapping, _, log = guessed(tmp_path, "events.csv", text)
    assert mapping.actions is not None
    assert mapping.impressions is not None
    assert mapping.actions.values == {"finish": ("transaction",), "like": ("addtocart",)}
    assert mapping.impressions.values == ("view",)
    assert not mapping.facets
    account = ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW)
    assert (account.kept, account.merged) == (60, 60)


def test_ratings_become_likes_and_dislikes(tmp_path: Path) -> None:
    text = "userId,movieId,genre,rating,timestamp\n" + "".join(
        f"{n % 5},{n % 9},{'ab'[n % 2]},{n % 5 + 1},{1_772_000_000 + n}\n" for n in range(50)
    )
    mapping, _, _ = guessed(tmp_path, "d.csv", text)
    assert mapping.behaviors == {"like": "rating >= 4", "dislike": "rating <= 2"}


@pytest.mark.parametrize("unrated", ["0", "-1"])
def test_a_rating_of_nothing_is_no_dislike(tmp_path: Path, unrated: str) -> None:
    text = "user_id,book_id,rating,ts\n" + "".join(
        f"{n % 7},{n % 13},{(unrated, '1', '5')[n % 3]},2026-03-02T08:{n % 60:02d}:00Z\n" for n in range(60)
    )
    mapping = guessed(tmp_path, "log.csv", text)[0]
    assert mapping.behaviors == {"like": "rating >= 4", "dislike": "rating > 0 AND rating <= 2"}


def test_rows_that_only_say_that_something_happened_are_positives(tmp_path: Path) -> None:
    mapping, written, _ = guessed(
        tmp_path, "e.csv", "person,venue,category,time\n" + rows(60, "{u},{i},{g},2026-03-02 08:{m:02d}")
    )
    assert mapping.behaviors == {"finish": "true"}
    assert mapping.negatives is not None
    assert "every row is taken as a positive" in written


def test_json_lines_and_names_with_spaces(tmp_path: Path) -> None:
    text = rows(
        60, '{{"User ID": "u{u}", "Track Name": "t{i}", "Main Genre": "{g}", "ts": "2026-03-02T08:{m:02d}:00+01:00"}}'
    )
    mapping, _, _ = guessed(tmp_path, "f.jsonl", text)
    assert (mapping.columns.user_id, mapping.facets) == ('"User ID"', {"main_genre": '"Main Genre"'})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,2,3\n", "no column looks like a time (its columns are a, b, c)"),
        ("uid,ts\n1,2026-03-02T08:00:00Z\n", "no column looks like items"),
        ("uid,iid,ts\n", "holds no rows"),
        ("uid,iid,iid,ts\n1,2,3,2026-03-02T08:00:00Z\n", "(its columns are uid, ts; several are called iid: give each"),
        ("uid,iid,ts,ts\n1,2,3,2026-03-02T08:00:00Z\n", "(its columns are uid, iid; several are called ts: give each"),
    ],
)
def test_what_cannot_be_guessed_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        guess_mapping([str(path)])
    assert message in str(error.value)


@pytest.mark.slow
def test_the_foursquare_log_is_guessed_and_ingests(foursquare_file: Path, tmp_path: Path, settings: Settings) -> None:
    """Guessed from all of it; its first weeks are ingested, as every hour is a partition to write."""
    path = tmp_path / "mapping.yaml"
    path.write_text(guess_mapping([str(foursquare_file)]))
    begins = pq.read_table(foursquare_file).slice(0, 20_000)
    pq.write_table(begins, tmp_path / "begins.parquet")
    account = ingest(str(path), [str(tmp_path / "begins.parquet")], settings, now=NOW)
    assert account.kept > 19_000


def test_a_file_whose_name_looks_like_a_pattern_is_looked_at_alone(tmp_path: Path) -> None:
    line = "u{u},i{i},{g},2026-03-10T10:{m:02d}:00Z"
    (tmp_path / "ab.csv").write_text("member,song,genre,ts\n" + rows(900, line))
    (tmp_path / "a*.csv").write_text("uid,iid,genre,ts\n" + rows(40, line))
    assert "guessed from 40 rows of a*.csv" in guess_mapping([str(tmp_path / "a*.csv")], source="guessed")


def test_a_list_with_labels(tmp_path: Path, settings: Settings) -> None:
    text = "impression_id\tuser_id\ttime\thistory\timpressions\n" + rows(
        60, "{n}\tU{u}\t2026-03-02T08:{m:02d}:00Z\tN1 N2\tN{i}-0 N9{i}-1 N500-0"
    )
    mapping, _, log = guessed(tmp_path, "behaviors.tsv", text)
    assert mapping.impressions is not None
    assert mapping.impressions.labels is not None
    assert (mapping.impressions.list_column, mapping.impressions.separator) == ("impressions", " ")
    account = ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW)
    assert (account.kept, account.quarantined) == (180, 0)


def test_a_list_with_what_was_clicked_beside_it(tmp_path: Path, settings: Settings) -> None:
    table = pa.table(
        {
            "impression_id": range(40), "user_id": [n % 7 for n in range(40)],
            "impression_time": [f"2026-03-02T08:{n:02d}:00Z" for n in range(40)],
            "article_ids_inview": [[n % 5, 10 + n % 5, 20] for n in range(40)], "article_ids_clicked": [[20] for _ in range(40)],
        }
    )  # fmt: skip
    log = tmp_path / "behaviors.parquet"
    pq.write_table(table, log)
    path = tmp_path / "mapping.yaml"
    path.write_text(guess_mapping([str(log)], source="guessed"))
    mapping = load_mapping(str(path))[0]
    assert mapping.impressions is not None
    assert mapping.impressions.chosen == {"finish": "article_ids_clicked"}
    account = ingest(str(path), [str(log)], settings, now=NOW)
    assert (account.kept, account.quarantined) == (120, 0)


def test_a_log_of_one_person_has_a_constant_user_to_be_checked(tmp_path: Path, settings: Settings) -> None:
    text = "ts,master_metadata_track_name,ms_played\n" + rows(50, "2026-03-02T08:{m:02d}:00Z,track{i},{n}000")
    mapping, written, log = guessed(tmp_path, "streams.csv", text)
    assert mapping.columns.user_id == "'me'"
    assert "check: no column looks like users" in written
    assert ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW).users == 1


def test_lines_before_the_header_are_passed_over(tmp_path: Path, settings: Settings) -> None:
    text = "# exported 2026-03-03\nuid,iid,genre,ts\n" + rows(50, "u{u},{i},{g},2026-03-02T08:{m:02d}:00Z")
    mapping, _, log = guessed(tmp_path, "a.csv", text)
    assert mapping.csv.skip == 1
    assert ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW).kept == 50


def test_a_list_with_labels_in_a_file_without_a_header(tmp_path: Path, settings: Settings) -> None:
    text = rows(60, "{n}\tU{u}\t3/19/2026 9:{m:02d}:00 AM\tN1 N2\tN{i}-0 N9{i}-1 N500-0")
    mapping, written, log = guessed(tmp_path, "behaviors.tsv", text)
    assert mapping.csv.columns == ("request_id", "user", "time", "column3", "impressions")
    assert mapping.timestamp.format == "%m/%d/%Y %I:%M:%S %p"
    assert "check: these names are guesses" in written
    account = ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW)
    assert (account.kept, account.quarantined, account.users, account.behaviors) == (180, 0, 7, {"finish": 60})


def test_a_column_of_zones_is_the_users_clock_and_other_actions_are_ignored(tmp_path: Path, settings: Settings) -> None:
    lines = rows(60, "u{u},i{i},{g},2026-03-02T08:{m:02d}:00Z,VIEW,Europe/Berlin")
    lines += "u1,i1,rock,2026-03-02T09:00:00Z,LIKE,\nu1,i1,rock,2026-03-02T09:01:00Z,scroll,Asia/Tokyo\n"
    mapping, written, log = guessed(tmp_path, "a.csv", "uid,iid,genre,ts,action,timezone\n" + lines)
    assert mapping.local_time.zone_column == "coalesce(nullif(timezone, ''), 'UTC')"
    assert mapping.actions is not None
    assert mapping.actions.ignored == ("scroll",)
    assert "check: do they mean nothing?" in written
    account = ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW)
    assert (account.quarantined, account.ignored) == (0, 1)


@pytest.mark.parametrize("table", ["articles.tsv", "news.tsv"])
def test_a_table_without_times_beside_the_log_becomes_its_items(tmp_path: Path, settings: Settings, table: str) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    log = folder / "behaviors.tsv"
    log.write_text(rows(60, "{n}\tU{u}\t3/19/2026 9:{m:02d}:00 AM\tN1 N2\tN{i}-0 N9{i}-1 N500-0"))
    (folder / table).write_text("".join(f"N{n}\t{('sports', 'travel')[n % 2]}\tTitle {n}\n" for n in range(1000)))
    path = folder / "mapping.yaml"
    path.write_text(guess_mapping([str(folder)], source="guessed"))
    mapping = load_mapping(str(path))[0]
    assert mapping.items is not None
    assert (mapping.items.path, mapping.items.key) == (table, "column0")
    assert mapping.columns.request_id == "request_id"
    account = ingest(str(path), [str(log)], settings, now=NOW)
    assert (account.kept, account.quarantined, account.null_facets) == (180, 0, {"column1": 0})


def test_tables_of_items_and_users_and_the_context_are_told_apart_and_ingested(
    tmp_path: Path, settings: Settings
) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    log = folder / "plays.csv"
    header = "user_id,track_id,genre,ts,finished,device,tab\n"
    log.write_text(
        header + rows(120, "{u},{i},{g},2026-03-02T08:{m:02d}:00Z,1,android,{u}").replace("android,3", "ios,3")
    )
    tracks = "".join(
        f"{n},{('happy', 'sad')[n % 2]},{n * 10},2026-01-{n + 1:02d},a|b,{n % 4},Song {n}\n" for n in range(13)
    )
    (folder / "catalog.csv").write_text("track_id,mood,plays,released,tags,artist_id,name\n" + tracks)
    people = "".join(f"{n},{('Berlin', 'Oslo')[n % 2]},{20 + n},yes,name {n}\n" for n in range(13))
    (folder / "people.csv").write_text("id,city,age,is_paying,full_name\n" + people)
    written = guess_mapping([str(folder)], source="guessed")
    path = folder / "mapping.yaml"
    path.write_text(written)
    mapping = load_mapping(str(path))[0]
    assert set(mapping.context) == {"device", "tab"}
    assert mapping.items is not None
    assert mapping.users is not None
    assert (mapping.items.path, mapping.items.key, mapping.items.facets) == (
        "catalog.csv",
        "track_id",
        {"mood": "mood"},
    )
    assert mapping.items.title == "name"
    assert ingest_arguments([str(folder)], mapping) == str(log)
    kinds = {name: attribute.type for name, attribute in mapping.items.attributes.items()}
    assert kinds == {"plays": "number", "released": "age", "artist_id": "category"}
    assert (mapping.users.path, mapping.users.key) == ("people.csv", "id")
    assert {name: attribute.type for name, attribute in mapping.users.attributes.items()} == {
        "city": "category", "age": "number",
    }  # fmt: skip
    account = ingest(str(path), [str(log)], settings, now=NOW)
    assert (account.kept, account.quarantined, account.null_facets) == (120, 0, {"genre": 0, "mood": 0})


def test_the_length_is_another_column_than_what_was_played_of_it(tmp_path: Path) -> None:
    text = "user,video,watch_ratio,play_duration,video_duration,ts\n" + rows(
        60, "{u},{i},0.{n},{n}000,200000,2026-03-02T08:{m:02d}:00Z"
    )
    mapping = guessed(tmp_path, "log.csv", text)[0]
    assert mapping.columns.played_seconds == "play_duration / 1000"
    assert mapping.columns.duration_seconds == "video_duration / 1000"


def test_a_word_amid_a_name_is_no_user(tmp_path: Path) -> None:
    text = "hist_user_behavior_n,session_id,track_id,session_length,ts\n" + rows(
        60, "{m},s{u},t{i},20,2026-03-02T08:{m:02d}:00Z"
    )
    mapping = guessed(tmp_path, "log.csv", text)[0]
    assert (mapping.columns.user_id, mapping.columns.duration_seconds) == ("session_id", None)


def test_other_tables_of_a_collection_are_neither_users_nor_part_of_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "ml"
    folder.mkdir()
    ratings = folder / "ratings.csv"
    ratings.write_text("userId,movieId,rating,timestamp\n" + rows(120, "{u},{i},4.5,17720{n:05d}"))
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n" + rows(120, "{u},{i},fun,17720{n:05d}"))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{n},T{n},x|y\n" for n in range(13)))
    (folder / "links.csv").write_text("movieId,imdbId\n" + "".join(f"{n},{n:07d}\n" for n in range(13)))
    path = tmp_path / "mapping.yaml"
    path.write_text(guess_mapping([str(folder)], source="guessed"))
    mapping = load_mapping(str(path))[0]
    assert mapping.items is not None
    assert (mapping.items.path, mapping.users) == ("movies.csv", None)
    assert ingest_arguments([str(folder)], mapping) == str(ratings)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_told(tmp_path: Path, settings: Settings, encoding: str) -> None:
    log, path = tmp_path / "log.csv", tmp_path / "mapping.yaml"
    text = "user;item;Gattung;Zeit\n" + rows(60, "{u};Lied {i};für {g};10.03.2026 10:{m:02d}:00")
    log.write_bytes(text.encode(encoding))
    path.write_text(guess_mapping([str(log)], source="guessed"))
    mapping = load_mapping(str(path))[0]
    assert (mapping.csv.encoding, mapping.csv.delimiter) == (encoding, ";")
    assert (mapping.timestamp.column, mapping.timestamp.format) == ("Zeit", "%d.%m.%Y %H:%M:%S")
    assert ingest(str(path), [str(log)], settings, now=NOW).kept == 60


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("{u},10{i},{g},pv,17720{n:05d}", ("user", "item", "column2", "action", "time")),
        ("{u}\t2026-03-10T10:{m:02d}:00Z\t30.{i}\t-97.{i}\t22{i}", ("user", "time", "column2", "column3", "item")),
        ("{u}::{i}::{g}::17720{n:05d}", ("user", "item", "column2", "time")),
    ],
)  # fmt: skip
def test_a_log_without_a_header_has_names_to_be_checked(
    tmp_path: Path, settings: Settings, line: str, columns: tuple[str, ...]
) -> None:
    mapping, written, log = guessed(tmp_path, "log.txt", rows(120, line))
    assert mapping.csv.columns == columns
    assert "check: these names are guesses" in written
    assert (mapping.columns.user_id, mapping.columns.item_id, mapping.timestamp.column) == ("user", "item", "time")
    account = ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW)
    assert (account.users, account.items, account.quarantined) == (7, 13, 0)


def test_actions_and_ratings_without_a_header(tmp_path: Path) -> None:
    text = "".join(f"{n % 7},1{n % 13},4{n % 13 % 3},{('pv', 'buy', 'fav')[n % 3]},17720{n:05d}\n" for n in range(120))
    mapping = guessed(tmp_path, "log.csv", text)[0]
    assert mapping.csv.columns == ("user", "item", "category", "action", "time")
    assert mapping.facets == {"category": "category"}
    assert mapping.actions is not None
    assert mapping.actions.values == {"finish": ("buy",), "like": ("fav",)}
    (tmp_path / "log.csv").unlink()
    text = "".join(f"{n % 7}::1{n % 13}::{n % 5 + 1}::17720{n:05d}\n" for n in range(120))
    mapping = guessed(tmp_path, "log.dat", text)[0]
    assert mapping.csv.columns == ("user", "item", "rating", "time")
    assert mapping.behaviors == {"like": "rating >= 4", "dislike": "rating <= 2"}


def test_a_table_whose_name_tells_no_format_has_one(tmp_path: Path, settings: Settings) -> None:
    log = tmp_path / "ratings.dat"
    log.write_text("".join(f"{n % 7}::1{n % 13}::{n % 5 + 1}::17720{n:05d}\n" for n in range(120)))
    films = tmp_path / "movies.dat"
    films.write_bytes("".join(f"1{n}::Café {n}::{('Drama', 'Krimi')[n % 2]}\n" for n in range(13)).encode("latin-1"))
    path = tmp_path / "mapping.yaml"
    path.write_text(guess_mapping([str(log), str(films)], source="guessed"))
    mapping = load_mapping(str(path))[0]
    assert mapping.items is not None
    assert (mapping.items.format, mapping.items.csv.encoding) == ("csv", "latin-1")
    assert ingest_arguments([str(log), str(films)], mapping) == str(log)
    assert ingest(str(path), [str(log)], settings, now=NOW).null_facets == {"column2": 0}


@pytest.mark.parametrize(
    ("name", "header", "facets"),
    [("log.csv", "uid,iid,genre,ts,mood,genre", {"mood": "mood"}), ("log.csv", "uid,iid,Genre,ts,mood,genre", {"mood": "mood"}),
     ("log.csv", "uid,iid,,ts,,", {"column_3": "column_3", "column_5": "column_5", "column_6": "column_6"}),
     ("log.csv", " uid ,iid, genre,ts,x,y", {"genre": "genre"}), ("log.tsv", "uid,iid,genre,ts,x,y", {"genre": "genre"})],
)  # fmt: skip
def test_a_guess_calls_columns_as_ingestion_does(
    tmp_path: Path, settings: Settings, name: str, header: str, facets: dict[str, str]
) -> None:
    text = header + "\n" + rows(60, "{u},{i},{g},2026-03-02T08:{m:02d}:00Z,m{g},z{g}")
    mapping, written, log = guessed(tmp_path, name, text)
    assert mapping.facets == facets
    assert ("# check: several columns are called" in written) == (header.casefold().count("genre") > 1)
    assert ingest(str(tmp_path / "mapping.yaml"), [str(log)], settings, now=NOW).kept == 60


def test_numbers_that_do_not_count_from_1970_are_to_be_checked(tmp_path: Path) -> None:
    mapping, written, _ = guessed(tmp_path, "log.csv", "uid,iid,timestamp\n" + rows(60, "{u},{i},{n}5000"))
    assert (mapping.timestamp.unit, mapping.timestamp.origin_us) == ("s", 1_704_067_200_000_000)
    assert "check: these numbers do not count from 1970" in written


def test_a_guess_takes_the_first_of_several_values(tmp_path: Path) -> None:
    rows = "".join(
        f"u{n % 5},i{n % 9},2026-11-23T{n % 24:02}:00:00Z,{('Action|Comedy', 'Drama')[n % 2]},1\n" for n in range(60)
    )
    (tmp_path / "plays.csv").write_text("user,item,time,genres,finished\n" + rows)
    assert "split_part(genres, '|', 1)" in guess_mapping([str(tmp_path / "plays.csv")])


@pytest.mark.parametrize(
    ("column", "behavior"),
    [("is_liked", "like"), ("songLiked", "like"), ("add_to_cart", "like"), ("is_thumbs_up", "like"), ("skip_2", "skip"),
     ("user_purchase", "finish"), ("is_long_view", "finish"), ("verified_purchase", None), ("page_order", None),
     ("not_skipped", None), ("next_page", None), ("close_friend", None), ("share_allowed", None), ("report_lang", None)],
)  # fmt: skip
def test_a_flag_is_a_behavior_where_its_name_says_that_and_no_more(
    tmp_path: Path, column: str, behavior: str | None
) -> None:
    text = f"user_id,item_id,genre,ts,{column}\n"
    for n in range(60):
        text += f"u{n % 7},i{n % 9},rock,2026-03-02T08:{n:02d}:00Z,{n % 2}\n"
    mapping, _, _ = guessed(tmp_path, "a.csv", text)
    assert mapping.behaviors == ({behavior: column} if behavior else {"finish": "true"})


def test_a_verified_purchase_of_a_review_is_no_behavior(tmp_path: Path) -> None:
    text = "user_id,asin,category,timestamp,rating,verified_purchase\n" + rows(
        200, "u{u},b{i},{g},2026-03-02T08:{m:02d}:00Z,5,true"
    )
    mapping, _, _ = guessed(tmp_path, "reviews.csv", text)
    assert set(mapping.behaviors) == {"like", "dislike"}

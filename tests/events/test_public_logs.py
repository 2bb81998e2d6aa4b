"""The field's public logs, in small files of their original formats, through the built-in mappings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from core.errors import ConfigError
from core.settings import Settings
from events.ingest import Account, ingest
from events.items import item_titles
from events.mapping import BUILTIN
from events.store import EventStore
from tests.conftest import NOW


def stored(name: str, path: Path, settings: Settings) -> tuple[Account, pd.DataFrame, EventStore]:
    account = ingest(name, [str(path)], settings, now=NOW)
    store = EventStore(settings.events_dir)
    table = pa.concat_tables(store.read(hour) for hour in store.hours())
    return account, table.to_pandas().sort_values("timestamp", kind="stable").reset_index(drop=True), store


def test_lastfm_listens_without_track_ids_quotes_or_header(tmp_path: Path, settings: Settings) -> None:
    log = tmp_path / "userid-timestamp-artid-artname-traid-traname.tsv"
    log.write_text(
        "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71\tDeep Dish\t\tFuck Me Im Famous (Pacha Ibiza)\n"
        'user_000001\t2009-05-04T13:54:10Z\ta7f7df4a\t"Weird" Al\tt-1\tComposition 0919 "Live"\n'
        "user_000002\t2009-05-04T13:52:04Z\t\tUnderground Resistance\tt-1\tSame Track\n"
        "user_000002\tyesterday\t\tUnderground Resistance\tt-1\tSame Track\n",
        encoding="utf-8",
    )
    account, events, store = stored("lastfm_1k", log, settings)
    assert (account.rows_in, account.kept, account.quarantined) == (4, 3, 1)
    assert events["artist"].tolist() == ["Underground Resistance", "a7f7df4a", "f1b1cf71"]
    assert events["finish"].all()
    assert events["like"].isna().all()
    assert events["item_id"].nunique() == 2
    assert store.source.negatives
    assert store.source.negatives.kind == "popularity"


KUAIRAND = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def test_an_origin_is_for_numbers_only(tmp_path: Path, settings: Settings) -> None:
    text = (BUILTIN / "yambda.yaml").read_text().replace("unit: s,", "unit: iso,")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="origin is for numbers"):
        ingest(str(tmp_path / "mine.yaml"), [str(tmp_path)], settings, now=NOW)


@pytest.mark.slow
@pytest.mark.parametrize("release", ["pure", "1k"])
def test_kuairand_impressions_with_the_tags_of_the_videos(tmp_path: Path, settings: Settings, release: str) -> None:
    (tmp_path / f"log_standard_4_08_to_4_21_{release}.csv").write_text(
        KUAIRAND
        + "0,5525,20220408,1600,1649404800000,1,1,0,0,1,0,1,61207,64600,0,0,0,0,1\n"
        + "0,77,20220408,1600,1649404801000,0,0,0,0,0,1,0,1200,20000,0,0,0,0,1\n"
    )
    (tmp_path / f"log_standard_4_22_to_5_08_{release}.csv").write_text(
        KUAIRAND + "3,77,20220422,0900,1650589200000,1,0,0,0,0,0,0,15000,20000,0,0,0,0,1\n"
    )
    (tmp_path / f"video_features_basic_{release}.csv").write_text(
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
        "music_id,music_type,tag\n"
        '5525,10,NORMAL,2022-04-07,ShortImport,1,64600,720,1280,33,9,"39,12"\n'
        "77,11,AD,2022-04-07,Web,1,20000,720,1280,34,4,\n"
    )
    onehot = ",".join(f"onehot_feat{n}" for n in range(18))
    (tmp_path / f"user_features_{release}.csv").write_text(
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,follow_user_num_range,"
        "fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,register_days_range,"
        f'{onehot}\n0,full_active,0,1,1,514,500+,150,"[100,1k)",34,"[30,60)",799,730+,{"1," * 17}\n'
    )
    account, events, store = stored("kuairand", tmp_path / "log_standard_*.csv", settings)
    assert (account.rows_in, account.kept) == (3, 3)
    assert events["tag"].tolist() == ["39", None, None]
    assert events["video_type"].tolist() == ["NORMAL", "AD", "AD"]
    assert events["local_time"].dt.hour.tolist() == [16, 16, 9]
    behaviors = {name: events[name].tolist() for name in ("finish", "like", "skip", "dislike", "share")}
    assert behaviors == {
        "finish": [True, False, False],
        "like": [True, False, False],
        "skip": [False, True, False],
        "dislike": [False, True, False],
        "share": [True, False, False],
    }
    assert events["played_seconds"].tolist() == [61.207, 1.2, 15.0]
    assert store.source.negatives is None
    assert set(events["tab"]) == {"1"}
    (user,) = pa.parquet.read_table(store.attribute_file("user")).to_pylist()
    assert (user["user_activity"], user["user_fans"], user["user_feature_11"]) == ("full_active", 150.0, "1")
    items = {item["item_id"]: item for item in pa.parquet.read_table(store.attribute_file("item")).to_pylist()}
    assert (items[5525]["item_tags"], items[77]["item_tags"]) == (["39", "12"], None)
    assert items[77]["item_length"] == 20000.0


def test_yambda_listens_and_likes_of_one_moment_are_two_events(tmp_path: Path, settings: Settings) -> None:
    rows = {
        "uid": [100, 100, 100, 200],
        "timestamp": [3600, 3600, 3700, 90000],
        "item_id": [7, 7, 8, 9],
        "is_organic": [1, 1, 0, 0],
        "played_ratio_pct": [95, None, 2, None],
        "track_length_seconds": [200, None, 100, None],
        "event_type": ["listen", "like", "listen", "dislike"],
    }
    kinds = {"uid": pa.uint32(), "timestamp": pa.uint32(), "item_id": pa.uint32(), "is_organic": pa.uint8(),
             "played_ratio_pct": pa.uint16(), "track_length_seconds": pa.uint32(), "event_type": pa.string()}  # fmt: skip
    table = pa.table({name: pa.array(values, kinds[name]) for name, values in rows.items()})
    pa.parquet.write_table(table, tmp_path / "multi_event.parquet")
    artists = pa.table({"artist_id": pa.array([1, 2, 3], pa.uint32()), "item_id": pa.array([7, 7, 8], pa.uint32())})
    pa.parquet.write_table(artists, tmp_path / "artist_item_mapping.parquet")
    account, events, _ = stored("yambda", tmp_path / "multi_event.parquet", settings)
    assert (account.rows_in, account.kept, account.duplicates) == (4, 4, 0)
    assert events["artist"].tolist() == ["1", "1", "3", None]
    assert events["finish"].tolist().count(True) == 1
    assert events["like"].sum() == events["skip"].sum() == events["dislike"].sum() == 1
    assert events["local_time"].min() == pd.Timestamp("2024-01-01T01:00")
    assert sorted(events["played_seconds"].dropna()) == [2.0, 190.0]


def test_movielens_in_both_formats_gives_the_same_events(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,307,3.5,1256677221\n1,481,4.0,1256677456\n2,5,0.5,1256677500\n"
    )
    films = [
        "307,Three Colors: Blue (1993),Drama",
        '481,"Oh, that (1993) ",Drama|Thriller',
        "5,No Year,(no genres listed)",
    ]
    (tmp_path / "movies.csv").write_text("\n".join(["movieId,title,genres", *films, ""]))
    account, events, store = stored("movielens", tmp_path / "ratings.csv", settings)
    assert account.kept == 3
    assert item_titles(store, [307, 481, 99]) == {307: "Three Colors: Blue (1993)", 481: "Oh, that (1993)"}
    assert events["genre"].tolist() == ["Drama", "Drama", None]
    assert events["decade"].tolist() == ["199", "199", None]
    assert events["like"].tolist() == [False, True, False]
    assert events["dislike"].tolist() == [False, False, True]


def test_movielens_1m_in_its_original_format(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "ratings.dat").write_bytes(b"1::1193::5::978300760\n1::661::2::978302109\n")
    (tmp_path / "movies.dat").write_bytes(
        "1193::Amélie, or One Flew (1975)::Drama|War\n661::James (1996)::Animation\n".encode("latin-1")
    )
    account, events, store = stored("movielens_1m", tmp_path / "ratings.dat", settings)
    assert account.kept == 2
    assert item_titles(store, [1193]) == {1193: "Amélie, or One Flew (1975)"}
    assert events["genre"].tolist() == ["Drama", "Animation"]
    assert events["decade"].tolist() == ["197", "199"]
    assert events["local_time"].dt.hour.tolist() == [16, 16]


def test_an_expression_over_unknown_item_columns_is_named(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,307,3.5,1256677221\n")
    (tmp_path / "movies.csv").write_text("movieId,name,genres\n307,Blue (1993),Drama\n")
    with pytest.raises(ConfigError, match=r"items\.facets\.decade .*no column 'title'"):
        ingest("movielens", [str(tmp_path / "ratings.csv")], settings, now=NOW)

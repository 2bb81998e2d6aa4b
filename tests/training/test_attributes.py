"""Attributes of users, items and moments: kept with the past's quantiles, trained on, and the same when ranking."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from core.errors import NotReadyError
from core.hours import Hour
from core.page_table import Row
from core.page_template import UNKNOWN
from core.settings import Settings, load_settings
from evaluation.metrics import auc
from evaluation.prediction_table import as_predictions
from events.ingest import ingest
from events.schema import AttributeField, Owner
from events.store import EventStore
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures, Features
from pages.rankers import importance_table
from pipeline.importance import report_importance
from serving.catalog import load_catalog
from serving.models import LoadedModel
from serving.schemas import RankBody
from serving.stages import Moments, context_notes, pair_scores
from tests.conftest import NOW
from training.attributes import BINS, LONGEST_LIST, AttributeKeys, Encoded, NumberBins, attribute_keys, encode
from training.category_keys import text_key
from training.config import load_ranker_config
from training.importance import drawn_rows, importances
from training.model import RankerModel, input_example, signature
from training.samples import SampleStore
from training.scoring import predict
from training.state import StateStore, load_ranker, ranker_tensors
from training.tensors import hour_keys
from training.trainer import Trainer, read_predictions

START = Hour.parse("2026-03-02T06")
HOURS, PER_HOUR, USERS, ITEMS = 8, 150, 400, 30
VARIANT = "gaussian_clock"
MAPPING = """\
source: test
columns: {user_id: uid, item_id: iid}
timestamp: {column: ts}
local_time: {zone: UTC}
facets: {genre: genre}
behaviors: {finish: finish}
"""
TABLES = """\
context: {surface: tab, battery: {column: battery, type: number}}
users:
  path: users.csv
  key: uid
  since: since
  attributes: {city: town, fans: {column: fans, type: number}}
items:
  path: items.csv
  key: iid
  attributes: {tags: {column: tags, type: list, separator: "|"}, released: {column: released, type: age}, maker: maker}
"""


def write_source(folder: Path) -> None:
    """Impressions that are finished for what tables say of the user and the item; ids say it as well, but slowly."""
    rng = np.random.default_rng(3)
    n = HOURS * PER_HOUR
    user, item = rng.integers(0, USERS, n), rng.integers(0, ITEMS, n)
    liked = 0.1 + 0.6 * (user % 2 == 0) + 0.2 * (item % 3 == 0)
    frame = pd.DataFrame(
        {
            "uid": user + 1,
            "iid": item + 1,
            "genre": rng.choice(["rock", "jazz"], n),
            "ts": [(START.start + timedelta(seconds=int(3600 / PER_HOUR * k))).isoformat() for k in range(n)],
            "tab": rng.choice(["1", "2", ""], n),
            "battery": rng.choice(["5", "50.5", "", "full"], n),
            "finish": (rng.uniform(size=n) < liked).astype(int),
        }
    )
    frame.to_csv(folder / "log.csv", index=False)
    users = np.arange(USERS)
    changed = START + HOURS // 2
    pd.concat(
        [
            pd.DataFrame(
                {
                    "uid": users + 1,
                    "town": np.where(users % 2 == 0, "Bonn", "Ulm"),
                    "fans": np.where(users % 7 == 3, np.nan, users**2),
                    "since": "2026-01-01",
                }
            ),
            pd.DataFrame({"uid": [1, 2], "town": ["Kiel", None], "fans": [1, 2], "since": changed.start.isoformat()}),
        ]
    ).to_csv(folder / "users.csv", index=False)
    items = np.arange(ITEMS - 2)  # two items have no row
    pd.DataFrame(
        {
            "iid": items + 1,
            "tags": np.where(items % 3 == 0, "hit|new", np.where(items % 3 == 1, "old", "")),
            "released": [(START.start - timedelta(days=int(i), hours=7)).isoformat() if i % 5 else "" for i in items],
            "maker": np.where(items % 4 == 0, "", "m" + pd.Series(items % 5).astype(str)),
        }
    ).to_csv(folder / "items.csv", index=False)


def workspace(folder: Path, mapping: str) -> Settings:
    """Events and clocks of the log, online as well."""
    folder.mkdir(exist_ok=True)
    settings = load_settings(var=folder / "var", source="test", variants=(VARIANT,), mlflow_uri="")
    (folder / "mapping.yaml").write_text(mapping)
    write_source(folder)
    ingest(str(folder / "mapping.yaml"), [str(folder / "log.csv")], settings, now=NOW)
    advance(settings, START + HOURS // 2)
    advance(settings, START + HOURS)
    return settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The log with its tables, trained on hour by hour."""
    settings = workspace(tmp_path_factory.mktemp("attributes"), MAPPING + TABLES)
    Trainer(settings, VARIANT).train(START + HOURS - 1, save_every=3)
    return settings


@pytest.fixture(scope="module")
def loaded(settings: Settings) -> LoadedModel:
    states = StateStore(settings.training_dir / "states", VARIANT)
    info, ranker, _ = states.load(START + HOURS - 1)
    return LoadedModel("1", VARIANT, info.hour, states.folder(START + HOURS - 1), RankerModel(info, ranker), 0)


def auc_of(settings: Settings) -> float:
    """Progressive AUC of the second half of the hours."""
    table = read_predictions(settings, VARIANT, START + HOURS // 2, START + HOURS)
    return auc(as_predictions(table)).value


@pytest.mark.slow
def test_a_ranker_learns_from_tables_what_ids_tell_late(settings: Settings, tmp_path: Path) -> None:
    without = workspace(tmp_path, MAPPING)
    Trainer(without, VARIANT).train(START + HOURS - 1, save_every=100)
    assert auc_of(settings) > auc_of(without) + 0.05


def test_samples_have_what_the_tables_said_as_of_the_hour(settings: Settings) -> None:
    store = SampleStore(settings, EventStore(settings.events_dir))
    for at in range(HOURS):
        tables = store.read(START + at).tables
        users = {row["user_id"]: row for row in tables.user_attributes.to_pylist()}
        town = {uid: users[uid]["user_city"] for uid in (1, 2) if uid in users}
        later = at >= HOURS // 2
        assert all(town[uid] == ({1: "Kiel", 2: None} if later else {1: "Bonn", 2: "Ulm"})[uid] for uid in town)
        items = {row["item_id"]: row for row in tables.item_attributes.to_pylist()}
        assert all(items[iid]["item_maker"] is None for iid in (ITEMS, ITEMS - 1) if iid in items)
        assert all(row["item_tags"] in (["hit", "new"], ["old"], None) for row in items.values())


def scores_of(
    loaded: LoadedModel,
    catalog_hour: Hour,
    settings: Settings,
    features: Features,
    rows: pa.Table,
    contexts: list[dict[str, str]],
) -> np.ndarray:
    """Scores of impressions as the service computes them."""
    clock = ClockFeatures(settings, EventStore(settings.events_dir))
    hours = rows["timestamp"].cast(pa.int64()).to_numpy() / 3_600_000_000
    return pair_scores(
        loaded, load_catalog(settings, clock, catalog_hour), features, users=rows["user_id"].to_numpy(),
        minutes=rows["local_time"].to_numpy().astype("datetime64[m]").astype(np.int64), items=rows["item_id"].to_numpy(),
        moments=Moments(contexts, hours, np.arange(len(hours))),
    )  # fmt: skip


def test_a_request_gets_the_score_that_training_gives_the_impression(settings: Settings, loaded: LoadedModel) -> None:
    """Of the running hour, from the online store; with attributes of every type, and with missing ones."""
    events = EventStore(settings.events_dir)
    later = settings.events_dir.parent.parent / "later.csv"
    hour = START + HOURS
    lines = [
        f"{n % USERS + 1},{n % ITEMS + 1},rock,{(hour.start + timedelta(seconds=n)).isoformat()},{n % 2},{n % 100},1"
        for n in range(120)
    ]
    later.write_text("uid,iid,genre,ts,tab,battery,finish\n" + "\n".join(lines) + "\n")
    folder = settings.var.parent
    ingest(str(folder / "mapping.yaml"), [str(later)], settings, now=NOW)
    drawn = SampleStore(settings, events).read(hour)
    ranker, rows = loaded.model.ranker, drawn.tables.samples
    keys = hour_keys(drawn.tables, ranker)
    assert np.isnan(keys.numbers).any(axis=0).tolist() == [
        True,
        True,
        False,
    ]  # fans, released; every battery is a number
    assert (keys.lists > 0).any()
    expected = predict(ranker, keys)[:, 0]
    clock = ClockFeatures(settings, events)
    online = clock.online(np.unique(rows["user_id"].to_numpy()).tolist(), hour)
    assert online.attributes.num_rows == min(USERS, 120)
    contexts = [
        RankBody(user="1", context={"surface": int(row["surface"]), "battery": float(row["battery"])}).context_texts
        for row in rows.to_pylist()
    ]
    known = np.isin(
        rows["genre"].to_numpy(zero_copy_only=False), ["rock"]
    )  # the catalog has an item's latest genre, of before this hour
    catalog = load_catalog(settings, clock, hour)
    held: dict[str, pa.Array] = catalog.values  # noqa: PD011 (a dictionary)
    latest = held["genre"].take(pa.array(catalog.rows(rows["item_id"].to_numpy()))).to_pylist()
    known &= np.array([genre == "rock" for genre in latest])
    assert known.sum() > 30
    scores = scores_of(loaded, hour, settings, online, rows, contexts)
    np.testing.assert_allclose(scores[known], expected[known], atol=1e-6)
    nothing = Features(online.slots, online.profiles, online.history)
    assert (np.abs(scores_of(loaded, hour, settings, nothing, rows, contexts) - scores) > 1e-3).mean() > 0.9
    flat = scores_of(loaded, hour, settings, online, rows, [{**told, "battery": "99"} for told in contexts])
    assert (np.abs(flat - scores) > 1e-5).any()


def test_an_answer_says_how_the_context_was_understood(loaded: LoadedModel) -> None:
    def notes(**context: str) -> tuple[tuple[str, ...], ...]:
        understood = context_notes(loaded, context)
        return understood.missing, understood.unknown, understood.ignored

    assert notes(surface="1", battery="7") == ((), (), ())
    assert notes() == (("surface", "battery"), (), ())
    assert notes(surface="9", battery="full", place="home") == (("battery",), ("surface",), ("place",))
    assert context_notes(None, {"surface": "1"}).ignored == ("surface",)


def test_the_logged_model_takes_attributes(loaded: LoadedModel) -> None:
    model = loaded.model
    example = input_example(model.info)
    names = ["user_city", "user_fans", "item_tags", "item_released", "item_maker", "battery"]
    assert set(names) <= set(signature(model.info).inputs.input_names())
    base = model.predict(example)["finish"].iloc[0]
    for name, value in [("user_city", "Bonn"), ("user_fans", 900.0), ("item_released", 500.0), ("battery", None)]:
        assert model.predict(example.assign(**{name: [value]}))["finish"].iloc[0] != base, name
    assert model.predict(example.assign(item_tags=[["hit", "new"]]))["finish"].iloc[0] != base
    missing = example.assign(**dict.fromkeys(names))
    assert 0 < model.predict(missing)["finish"].iloc[0] < 1


def test_the_logged_model_scores_like_training(settings: Settings, loaded: LoadedModel) -> None:
    drawn = SampleStore(settings, EventStore(settings.events_dir)).read(START + HOURS - 1)
    ranker, keys = loaded.model.ranker, hour_keys(drawn.tables, loaded.model.ranker)
    users = {row["user_id"]: row for row in drawn.tables.user_attributes.to_pylist()}
    items = {row["item_id"]: row for row in drawn.tables.item_attributes.to_pylist()}
    rows = drawn.tables.samples.to_pylist()[:20]
    frame = pd.DataFrame(
        [
            {
                **{name: row[name] for name in ("user_id", "item_id", "local_time", "genre", "surface")},
                "battery": float(row["battery"]) if row["battery"] not in {None, "full"} else None,
                **users[row["user_id"]],
                **items[row["item_id"]],
                "item_released": None
                if items[row["item_id"]]["item_released"] is None
                else row["timestamp"].timestamp() / 3600 - items[row["item_id"]]["item_released"],
            }
            for row in rows
        ]
    )
    read = loaded.model._attributes(frame)
    np.testing.assert_array_equal(read.categories, keys.categories[:20])
    np.testing.assert_allclose(read.numbers, keys.numbers[:20], atol=1e-6)
    assert {*read.lists.ravel()} == {*keys.lists[:20].ravel()} | {0}
    without_profile = frame.assign(
        events=0, finish=0, slot_events=[[]] * 20, genre_values=[[]] * 20, genre_scores=[[]] * 20
    )
    assert loaded.model.predict(without_profile)["finish"].between(0, 1).all()
    assert ranker.numbers.weights.min() > 0


def test_a_saved_state_has_the_quantiles(loaded: LoadedModel) -> None:
    again = load_ranker(ranker_tensors(loaded.model.ranker), loaded.model.info)
    np.testing.assert_array_equal(again.numbers.edges, loaded.model.ranker.numbers.edges)
    assert (np.diff(again.numbers.edges, axis=1) >= 0).all()


@pytest.mark.slow
def test_training_in_one_go_and_hour_by_hour_ends_in_the_same_bits(settings: Settings, tmp_path: Path) -> None:
    other = workspace(tmp_path, MAPPING + TABLES)
    for at in range(HOURS):
        Trainer(other, VARIANT).train(START + at)
    states = [StateStore(each.training_dir / "states", VARIANT) for each in (settings, other)]
    first, second = (store.tensors(START + HOURS - 1) for store in states)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_what_a_ranker_rests_on_is_what_the_log_was_made_of(settings: Settings) -> None:
    drawn = SampleStore(settings, EventStore(settings.events_dir)).read(START + HOURS - 1)
    states = StateStore(settings.training_dir / "states", VARIANT)
    _, before, _ = states.load(START + 5)  # saved every three hours: not trained on the last one
    keys = hour_keys(drawn.tables, before)
    inputs = importances(before, keys, 0, seed=1)
    assert (
        len(inputs) == len({(each.name, each.of) for each in inputs}) == 3 + 2 + 6 + 1
    )  # ids, activity; genre, tab; …; clock
    assert inputs[0].name == "user_city"
    intervals = [(each.low, each.high) for each in inputs if each.low is not None and each.high is not None]
    assert intervals[0][0] > 0.05
    assert len(intervals) == len(inputs)
    assert all(low <= each.auc_drop <= high for each, (low, high) in zip(inputs, intervals, strict=True))
    assert importances(before, keys, 0, seed=1) == inputs
    some = drawn_rows(keys, 50, seed=1)
    scores = predict(before, keys)[:, 0]
    assert len(some) == 50
    assert {*predict(before, some)[:, 0].round(5)} <= {*scores.round(5)}


def test_of_one_user_nobody_knows_the_interval_of_what_an_input_is_worth(settings: Settings) -> None:
    drawn = SampleStore(settings, EventStore(settings.events_dir)).read(START + HOURS - 1)
    _, before, _ = StateStore(settings.training_dir / "states", VARIANT).load(START + 5)
    keys = hour_keys(drawn.tables, before)
    inputs = importances(before, replace(keys, users=np.full_like(keys.users, 7)), 0, seed=1)
    assert {(each.low, each.high) for each in inputs} == {(None, None)}
    assert np.isfinite([each.auc_drop for each in inputs]).all()
    rows = importance_table([asdict(each) for each in inputs]).rows
    assert {row.cells[3] for row in rows if isinstance(row, Row)} == {UNKNOWN}


def test_a_day_of_positives_only_tells_nothing_of_what_a_ranker_rests_on(tmp_path: Path) -> None:
    settings = workspace(tmp_path / "positives", MAPPING.replace("finish: finish", "finish: 'true'"))
    local = settings.model_copy(update={"mlflow_uri": f"sqlite:///{tmp_path}/mlflow.db", "baseline_variant": VARIANT})
    Trainer(local, VARIANT).train(START + HOURS - 1, save_every=3)
    with pytest.raises(NotReadyError, match="every label is the same"):
        report_importance(local, START.day)


@pytest.mark.slow
def test_a_day_s_report_says_what_the_ranker_rests_on(settings: Settings, tmp_path: Path) -> None:
    local = settings.model_copy(update={"mlflow_uri": f"sqlite:///{tmp_path}/mlflow.db", "baseline_variant": VARIANT})
    report = report_importance(local, START.day)
    assert (report.variant, report.state, report.inputs[0].name) == (VARIANT, (START + 2).key, "user_city")
    assert report.rows == (HOURS - 3) * PER_HOUR + 120 * (START + HOURS in EventStore(settings.events_dir).hours())
    with pytest.raises(NotReadyError, match="was not trained before 2026-03-01"):
        report_importance(local, START.day - timedelta(days=1))
    with pytest.raises(NotReadyError, match="0 samples after"):
        report_importance(local, START.day + timedelta(days=1))


FIELDS = [
    AttributeField("user", "city", "category"),
    AttributeField("item", "size", "number"),
    AttributeField("item", "tags", "list"),
    AttributeField("item", "released", "age"),
    AttributeField("context", "battery", "number"),
]


OWNERS: tuple[Owner, ...] = ("user", "item", "context")


def keys_of(table: pa.Table, hours: list[float]) -> AttributeKeys:
    """The attributes of samples that are the rows of one table."""
    encoded: dict[Owner, Encoded] = {o: encode([f for f in FIELDS if f.owner == o], table) for o in OWNERS}
    return attribute_keys(FIELDS, encoded, dict.fromkeys(OWNERS, np.arange(len(hours))), np.array(hours))


def test_missing_is_a_value_of_its_own_and_no_list_is_none() -> None:
    table = pa.table(
        {
            "user_city": ["Bonn", None, ""],
            "item_size": [1.0, None, float("inf")],
            "item_tags": pa.array([["a", "b"], None, []], pa.list_(pa.string())),
            "item_released": [90.0, None, 200.0],
            "battery": ["1e2", "full", "nan"],
        }
    )
    keys = keys_of(table, [100.0, 100.0, 100.0])
    assert keys.categories[:, 0].tolist() == [
        text_key("user_city", "Bonn"), text_key("user_city"), text_key("user_city", ""),
    ]  # fmt: skip
    np.testing.assert_array_equal(
        keys.numbers,
        [[1, 10, 100], [np.nan, np.nan, np.nan], [np.inf, 0, np.nan]],
    )
    assert keys.lists[:, 0].tolist() == [
        [text_key("item_tags", "a"), text_key("item_tags", "b")], [0, 0], [0, 0],
    ]  # fmt: skip


def test_columns_that_are_not_there_are_missing() -> None:
    keys = keys_of(pa.table({"user_id": [1, 2]}), [5.0, 6.0])
    assert keys.categories.tolist() == [[text_key("user_city")]] * 2
    assert np.isnan(keys.numbers).all()
    assert keys.lists.tolist() == [[[0]], [[0]]]


def test_a_long_list_is_cut() -> None:
    table = pa.table({"item_tags": pa.array([[str(n) for n in range(50)]], pa.list_(pa.string()))})
    assert keys_of(table, [0.0]).lists.shape == (1, 1, LONGEST_LIST)


def test_quantiles_follow_the_past_and_stay_in_order() -> None:
    bins = NumberBins([AttributeField("item", "size", "number")])
    rng = np.random.default_rng(0)
    first = bins.keys(np.array([[3.0], [np.nan]]))
    assert len(np.unique(first)) == 2  # nothing was fitted yet; missing is known
    for _ in range(50):
        bins.update(rng.exponential(size=(400, 1)))
    expected = -np.log(1 - np.arange(1, BINS) / BINS)
    np.testing.assert_allclose(bins.edges[0], expected, rtol=0.1)
    counts = np.unique(bins.keys(rng.exponential(size=(16_000, 1))), return_counts=True)[1]
    assert len(counts) == BINS
    assert 700 < counts.min() < counts.max() < 1300
    before = bins.edges.copy()
    bins.update(np.full((5, 1), np.nan))
    np.testing.assert_array_equal(bins.edges, before)
    for _ in range(40):
        bins.update(100 + rng.exponential(size=(40_000, 1)))
    assert bins.edges[0].min() > 95  # a number that has drifted is followed
    assert (np.diff(bins.edges[0]) >= 0).all()


def test_many_equal_numbers_share_a_bin() -> None:
    bins = NumberBins([AttributeField("item", "size", "number")])
    for _ in range(3):
        bins.update(np.array([0.0] * 90 + [5.0] * 10)[:, None])
    zero, five, seven = bins.keys(np.array([[0.0], [5.0], [7.0]]))[:, 0]
    assert zero != five
    assert five == seven


def test_the_config_of_a_variant_knows_nothing_of_attributes(settings: Settings) -> None:
    """They are the source's: a state has them beside its config, and goes on with those that it began with."""
    info = StateStore(settings.training_dir / "states", VARIANT).info(START + HOURS - 1)
    assert info.ranker_config == load_ranker_config(settings, VARIANT)
    assert [field.column for field in info.attributes] == [
        "user_city", "user_fans", "item_tags", "item_released", "item_maker", "battery",
    ]  # fmt: skip

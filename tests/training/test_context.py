"""What is known of the moment of an impression: kept with the event, trained on, and asked for when ranking."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from core.errors import ConfigError
from core.hours import Hour
from core.settings import Settings, load_settings
from evaluation.metrics import auc
from evaluation.prediction_table import as_predictions
from events.ingest import ingest
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.retrieval import ClockFeatures
from serving.catalog import load_catalog
from serving.models import LoadedModel
from serving.schemas import RankBody
from serving.stages import Moments, pair_scores
from tests.conftest import NOW
from training.category_keys import facet_keys
from training.config import load_ranker_config
from training.model import RankerModel, input_example, signature
from training.samples import SampleStore
from training.scoring import predict
from training.state import StateStore
from training.tensors import hour_keys
from training.trainer import Trainer, read_predictions

START = Hour.parse("2026-03-02T06")
HOURS, PER_HOUR = 8, 150
VARIANT = "matched_clock"  # reads facets and counts them: the context must not be among them
MAPPING = """\
source: test
columns: {user_id: uid, item_id: iid}
timestamp: {column: ts}
local_time: {zone: UTC}
facets: {genre: genre}
behaviors: {finish: finish}
"""
CONTEXT = "context: {surface: tab, device: device}\n"


def log_of(folder: Path) -> Path:
    """Impressions that are finished where they stand in the feed and hardly where they stand in search; nothing else matters."""
    rng = np.random.default_rng(3)
    n = HOURS * PER_HOUR
    tab = rng.choice(["1", "2"], n)
    frame = pd.DataFrame(
        {
            "uid": rng.integers(1, 40, n),
            "iid": rng.integers(1, 30, n),
            "genre": rng.choice(["rock", "jazz"], n),
            "ts": [(START.start + timedelta(seconds=int(3600 / PER_HOUR * k))).isoformat() for k in range(n)],
            "tab": tab,
            "device": rng.choice(["phone", ""], n),
            "finish": (rng.uniform(size=n) < np.where(tab == "1", 0.9, 0.1)).astype(int),
        }
    )
    path = folder / "log.csv"
    frame.to_csv(path, index=False)
    return path


def workspace(folder: Path, mapping: str) -> Settings:
    """Events and clocks of the log."""
    folder.mkdir(exist_ok=True)
    settings = load_settings(var=folder / "var", source="test", variants=(VARIANT,), mlflow_uri="")
    (folder / "mapping.yaml").write_text(mapping)
    ingest(str(folder / "mapping.yaml"), [str(log_of(folder))], settings, now=NOW)
    ClockState(settings, EventStore(settings.events_dir)).rebuild(START + HOURS)
    return settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The log with its context, trained on hour by hour."""
    settings = workspace(tmp_path_factory.mktemp("context"), MAPPING + CONTEXT)
    Trainer(settings, VARIANT).train(START + HOURS - 1, save_every=100)
    return settings


def auc_of(settings: Settings) -> float:
    """Progressive AUC of the second half of the hours."""
    table = read_predictions(settings, VARIANT, START + HOURS // 2, START + HOURS)
    return auc(as_predictions(table)).value


def loaded_model(settings: Settings) -> LoadedModel:
    states = StateStore(settings.training_dir / "states", VARIANT)
    info, ranker, _ = states.load(START + HOURS - 1)
    return LoadedModel("1", VARIANT, info.hour, states.folder(START + HOURS - 1), RankerModel(info, ranker), 0)


def test_a_ranker_learns_from_the_context_what_nothing_else_tells(settings: Settings, tmp_path: Path) -> None:
    without = workspace(tmp_path, MAPPING)
    Trainer(without, VARIANT).train(START + HOURS - 1, save_every=100)
    assert auc_of(settings) > 0.8
    assert auc_of(without) < 0.6


def test_predictions_can_be_cut_by_the_context(settings: Settings) -> None:
    table = read_predictions(settings, VARIANT, START, START + HOURS)
    assert {*table["context_surface"].to_pylist()} == {"1", "2"}
    assert {*table["context_device"].to_pylist()} == {"phone", None}


def test_a_request_with_the_context_gets_the_score_that_training_gives_the_impression(settings: Settings) -> None:
    store = EventStore(settings.events_dir)
    hour = START + HOURS - 1
    model, drawn = loaded_model(settings), SampleStore(settings, store).read(hour)
    ranker, rows = model.model.ranker, drawn.tables.samples
    expected = predict(ranker, hour_keys(drawn.tables, ranker))[:, 0]
    clock = ClockFeatures(settings, store)
    users = rows["user_id"].to_numpy()
    features = clock.historical(
        pa.table({"user_id": np.unique(users), "hour": np.full(len(np.unique(users)), hour.number)})
    )
    catalog = load_catalog(settings, clock, START + HOURS)
    local = rows["local_time"].to_numpy().astype("datetime64[m]").astype(np.int64)
    body = [
        RankBody(user="1", context={"surface": int(row["surface"]), "device": row["device"], "unused": 1}).context_texts
        for row in rows.to_pylist()
    ]

    def scored(context: list[dict[str, str]]) -> np.ndarray:
        return pair_scores(
            model,
            catalog,
            features,
            users=users,
            minutes=local,
            items=rows["item_id"].to_numpy(),
            moments=Moments(context, local / 60, np.arange(len(local))) if context else None,
        )

    latest = catalog.facets_of(catalog.rows(rows["item_id"].to_numpy()))[:, 0]
    keep = latest == facet_keys("genre", rows["genre"])  # the catalog has an item's latest genre
    assert keep.sum() > 20
    np.testing.assert_allclose(scored(body)[keep], expected[keep], atol=1e-6)
    swapped = [{**told, "surface": {"1": "2", "2": "1"}[told["surface"]]} for told in body]
    assert (np.sign(scored(body) - scored(swapped)) == np.where(rows["surface"].to_numpy() == "1", 1, -1)).mean() > 0.95
    unknown = scored([])
    assert (np.abs(unknown - scored(body)) > 0.05).mean() > 0.9


def test_the_logged_model_takes_the_context(settings: Settings) -> None:
    model = loaded_model(settings).model
    example = input_example(model.info)
    scores = {surface: model.predict(example.assign(surface=surface))["finish"].iloc[0] for surface in ("1", "2", None)}
    assert scores["1"] > scores[None] > scores["2"]
    assert {"surface", "device"} <= set(signature(model.info).inputs.input_names())


def test_a_log_may_tell_its_context_only_from_some_hour_on(tmp_path: Path) -> None:
    settings = workspace(tmp_path, MAPPING)
    store = EventStore(settings.events_dir)
    assert store.source.context == ()
    half = START + HOURS // 2
    Trainer(settings, VARIANT).train(half, save_every=100)
    digests = [store.manifest(hour).digest for hour in store.hours()]
    (tmp_path / "mapping.yaml").write_text(MAPPING + "context: {surface: tab}\n")
    later = tmp_path / "later.csv"
    later.write_text("uid,iid,genre,ts,tab,device,finish\n1,2,rock,2026-03-02T14:10:00Z,1,,1\n")
    ingest(str(tmp_path / "mapping.yaml"), [str(later)], settings, now=NOW)
    store = EventStore(settings.events_dir)
    assert store.source.context == ("surface",)
    assert [store.manifest(hour).digest for hour in store.hours()][: len(digests)] == digests
    assert store.read(START)["surface"].null_count == store.read(START).num_rows
    assert store.read(store.hours()[-1])["surface"].to_pylist() == ["1"]
    info = Trainer(settings, VARIANT).train(START + HOURS - 1, save_every=100)  # it goes on as it began
    assert info.context == ()
    account = ingest(str(tmp_path / "mapping.yaml"), [str(tmp_path / "log.csv")], settings, now=NOW)
    assert (account.merged, account.kept) == (HOURS * PER_HOUR, 0)  # the same log again adds what was missing
    assert store.read(START)["surface"].null_count == 0
    fresh = Trainer(settings, VARIANT, config=load_ranker_config(settings, VARIANT).model_copy(update={"seed": 5}))
    assert fresh.samples.context == ("surface",)


def test_a_mapping_without_a_source_s_context_leaves_it_unknown(settings: Settings, tmp_path: Path) -> None:
    again = workspace(tmp_path, MAPPING + CONTEXT)
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    later = tmp_path / "later.csv"
    later.write_text("uid,iid,genre,ts,finish\n1,2,rock,2026-03-02T14:10:00Z,1\n")
    assert ingest(str(tmp_path / "mapping.yaml"), [str(later)], again, now=NOW).kept == 1
    store = EventStore(again.events_dir)
    assert store.source.context == ("surface", "device")
    assert store.read(store.hours()[-1])["surface"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("context: {genre: tab}\n", r"\['genre'\] are facets and context"),
        ("context: {Genre: tab}\n", "differ in case only"),
        ("context: {position: tab}\n", r"context: \['position'\] are names that the platform itself uses"),
        ("context: {'a b': tab}\n", r"context: \['a b'\] must be plain names"),
        ("context: {surface: tabs}\n", r"context.surface: the log has no column 'tabs'; did you mean 'tab'"),
    ],
)
def test_a_wrong_context_is_named(tmp_path: Path, extra: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        workspace(tmp_path, MAPPING + extra)


def test_actions_that_come_later_leave_the_context_of_the_impression(tmp_path: Path) -> None:
    settings = load_settings(var=tmp_path / "var", source="test", mlflow_uri="")
    mapping = tmp_path / "mapping.yaml"
    acting = MAPPING.replace(
        "behaviors: {finish: finish}\n",
        "actions: {column: action, values: {finish: PLAY}}\nimpressions: {values: [VIEW]}\n",
    )
    mapping.write_text(acting + "context: {surface: tab}\n")
    shown, played = tmp_path / "a.csv", tmp_path / "b.csv"
    at = datetime(2026, 3, 2, 10, tzinfo=UTC)
    shown.write_text(f"uid,iid,genre,ts,tab,action\n1,7,rock,{at.isoformat()},feed,VIEW\n")
    played.write_text(f"uid,iid,genre,ts,action\n1,7,rock,{(at + timedelta(minutes=3)).isoformat()},PLAY\n")
    for path in (played, shown):
        ingest(str(mapping), [str(path)], settings, now=NOW)
    store = EventStore(settings.events_dir)
    (event,) = store.read(store.hours()[0]).to_pylist()
    assert (event["surface"], event["finish"]) == ("feed", True)

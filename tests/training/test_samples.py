"""Negatives of a log of positives only: never from the future, seeded, one for one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.hours import Hour
from core.settings import Settings, load_settings
from evaluation.metrics import session_auc, session_counts, uauc
from evaluation.prediction_table import as_predictions
from events.ingest import close_hours, ingest
from events.store import EventStore
from feature_repo.materialization import advance
from tests.conftest import NOW, write_mapping
from training.running import RunningTrainer
from training.running_samples import RunningSamples
from training.samples import SampleStore
from training.trainer import Trainer, read_predictions

START = Hour.parse("2026-03-02T00")


@pytest.fixture(params=["popularity", "own"])
def positives(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    settings = load_settings(var=tmp_path / "var", source="test")
    rows = [
        {
            "uid": n % 4 + 1,
            "track": (n * n) % 7 + 100 + (50 if n > 60 else 0),  # new items appear later
            "ts": (START.start + timedelta(minutes=17 * n)).isoformat(),
            "genre": f"g{(n * n) % 3}",
        }
        for n in range(120)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "log.csv", index=False)
    mapping = write_mapping(
        tmp_path,
        columns="columns: {user_id: uid, item_id: track}",
        behaviors="behaviors: {finish: 'true'}",
        extra=f"negatives: {{per_positive: 3, kind: {request.param}, seed: 5}}\n",
    )
    ingest(str(mapping), [str(tmp_path / "log.csv")], settings, now=NOW)
    advance(settings, EventStore(settings.events_dir).hours()[-1] + 1)
    return settings


@pytest.mark.slow
def test_negatives_come_from_the_past_and_are_the_same_every_time(positives: Settings) -> None:
    store = EventStore(positives.events_dir)
    samples = SampleStore(positives, store)
    hours = store.hours()
    samples.build(hours)
    digests = {h: samples.read(h).digest for h in hours}
    seen: set[int] = set()
    items_of_user: dict[int, set[int]] = {}
    assert store.source.negatives is not None
    kind = store.source.negatives.kind
    drawn = 0
    for hour in hours:
        rows = samples.read(hour).tables.samples.to_pylist()
        positive = [r for r in rows if r["finish"]]
        negative = [r for r in rows if not r["finish"]]
        events = store.read(hour).to_pylist()
        answerable = [
            e for e in events if kind == "popularity" or {e["item_id"]} < items_of_user.get(e["user_id"], set())
        ]
        assert len(positive) == len(answerable)
        assert len(negative) <= 3 * len(positive)
        for row in negative:
            assert row["item_id"] in (items_of_user.get(row["user_id"], set()) if kind == "own" else seen)
            source = next(p for p in positive if row["event_id"].startswith(p["event_id"] + "/"))
            assert row["item_id"] != source["item_id"]
            assert row["local_time"] == source["local_time"]
        drawn += len(negative)
        for row in events:
            seen.add(row["item_id"])
            items_of_user.setdefault(row["user_id"], set()).add(row["item_id"])
    assert drawn > 100
    assert samples.build(hours) == 0
    samples.build([hours[7]], force=True)
    assert samples.read(hours[7]).digest == digests[hours[7]]


def test_a_store_that_is_told_how_to_draw_negatives_does_not_draw_as_the_source_says(positives: Settings) -> None:
    """Studies compare logs with negatives of both kinds."""
    store = EventStore(positives.events_dir)
    hour, rule = store.hours()[20], store.source.negatives
    assert rule is not None
    other = "own" if rule.kind == "popularity" else "popularity"
    samples = SampleStore(positives, store)
    samples.root = positives.training_dir / "samples-other"
    samples.negatives, samples.negative_hours = rule.model_copy(update={"kind": other}), 6
    rows = samples.read(hour).tables.samples.to_pylist()
    past = [row for h in store.hours() if hour - 6 <= h < hour for row in store.read(h).to_pylist()]
    negatives = [row for row in rows if not row["finish"]]
    assert negatives
    for row in negatives:
        of = [each for each in past if other == "popularity" or each["user_id"] == row["user_id"]]
        assert row["item_id"] in {each["item_id"] for each in of}
    assert len(rows) != SampleStore(positives, store).read(hour).tables.samples.num_rows


@pytest.mark.slow
def test_pieces_of_an_hour_have_its_positives_and_features_and_draw_negatives_of_their_own(positives: Settings) -> None:
    store = EventStore(positives.events_dir)
    hour = store.hours()[20]
    whole, events = SampleStore(positives, store).read(hour).tables, store.read(hour)
    pieces = RunningSamples(positives, hour)
    assert pieces.per_event == 4
    drawn = [pieces.of(part).tables for part in (events.slice(2), events.slice(0, 2))]
    ids = {e for tables in drawn for e in tables.samples["event_id"].to_pylist() if "/" not in e}
    assert ids == {e for e in whole.samples["event_id"].to_pylist() if "/" not in e}
    users = drawn[0].samples["user_id"]
    assert drawn[0].profiles.equals(whole.profiles.filter(pc.is_in(whole.profiles["user_id"], users)))
    again = [RunningSamples(positives, hour).of(events).tables.samples for _ in range(2)]
    assert again[0].equals(again[1])
    second = pieces.of(events).tables.samples
    assert set(second["event_id"].to_pylist()) & set(again[0]["event_id"].to_pylist())
    assert not second.equals(again[0])  # another piece, other draws


def test_a_piece_of_which_nobody_came_back_to_an_item_teaches_nothing(positives: Settings) -> None:
    store = EventStore(positives.events_dir)
    drawn = RunningSamples(positives, START).of(store.read(START))
    whole = SampleStore(positives, store).read(START).tables.samples
    assert drawn.tables.samples.equals(whole)
    assert store.source.negatives is not None
    assert bool(whole.num_rows) == (store.source.negatives.kind == "popularity")
    trainer = Trainer(positives, "gaussian_clock")
    trainer.train(START)
    running = RunningTrainer("1", trainer.states.folder(START))
    running.learn(drawn)
    assert running.samples == whole.num_rows


def test_an_empty_hour_after_a_window_without_events_has_no_samples(positives: Settings) -> None:
    store = EventStore(positives.events_dir)
    hour = store.hours()[-1] + positives.window_hours + 1
    close_hours(store, store.hours()[-1] + 1, hour)
    samples = SampleStore(positives, store)
    assert samples.build([hour]) == 1
    assert samples.count(hour) == 0


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False])
def test_requests_that_the_log_tells_cut_a_users_hour_into_sessions(tmp_path: Path, told: bool) -> None:
    """One user's hour of three requests; the score follows the request, so it ranks nothing within one."""
    settings = load_settings(var=tmp_path / "var", source="test", variants=("none",))
    log = pd.DataFrame(
        {
            "uid": "ann",
            "track": [f"t{n}" for n in range(12)],
            "ts": [(START.start + timedelta(minutes=n)).isoformat() for n in range(12)],
            "genre": "rock",
            "played": [100, 3, 3, 3, 100, 100, 3, 3, 100, 100, 100, 3],
            "request": [f"r{n // 4}" for n in range(12)],
        }
    )
    log.to_csv(tmp_path / "log.csv", index=False)
    request = ", request_id: request" if told else ""
    mapping = write_mapping(
        tmp_path,
        columns=f"columns: {{user_id: uid, item_id: track{request}}}",
        behaviors="behaviors: {finish: played > 90}",
    )
    ingest(str(mapping), [str(tmp_path / "log.csv")], settings, now=NOW)
    advance(settings, START + 1)
    Trainer(settings, "none").train(START)
    table = read_predictions(settings, "none", START, START + 1)
    requests = log.request.str[1].astype(float).to_numpy()
    assert table["hour"].unique().to_pylist() == [START.number]
    assert ("request_id" in table.column_names) == told
    scored = as_predictions(table.set_column(table.column_names.index("score"), "score", pa.array(requests / 4)))
    assert session_counts(scored) == {"sessions": 3 if told else 1, "session_samples": 12}
    if told:
        assert session_auc(scored).value == 0.5
    else:
        assert session_auc(scored).value == uauc(scored).value > 0.6

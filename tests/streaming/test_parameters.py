"""The lane trains: what serving ranks by learns from the running hour, and nothing of it is left when the hour is over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
import yaml

from core.errors import ConfigError
from core.files import read_json, write_json
from core.settings import Settings, load_settings
from events.ids import log_ids
from events.mapping_rows import Actions
from events.store import EventStore
from feature_repo.materialization import advance
from feature_repo.running import running_events, running_parameters
from model_registry.registry import CHALLENGER, CHAMPION
from model_registry.store import open_registry
from operations.doctor import examine
from operations.metrics import WorkspaceCollector
from pipeline.forgetting import forget
from pipeline.hour import run_hour
from pipeline.source import ingest_hour, save_app_source
from serving.engine import RankingEngine
from serving.models import LoadedModel, record_file
from serving.replay import replay_hour
from serving.stages import Ranked, RankRequest
from streaming.lane import Lane
from streaming.parameters import ParameterLane, outcomes_known, shown_before
from streaming.status import LaneStatus, TrainingStatus
from tests.conftest import copy_var
from tests.streaming.conftest import BATCH, UNTIL
from training import running
from training.running import PublishedParameters
from training.samples import SampleStore
from training.state import StateStore, ranker_tensors
from training.trainer import fit


@pytest.fixture
def engine(served: Settings) -> Iterator[RankingEngine]:
    ranking = RankingEngine(served)
    ranking.refresh()
    yield ranking
    ranking.close()


def append(settings: Settings, rows: list[bytes]) -> None:
    """Write lines to the log of the hour that runs."""
    with (settings.workspace / "app" / "log" / f"{UNTIL.key}.csv").open("ab") as file:
        file.writelines(rows)


def look(lane: Lane) -> TrainingStatus:
    """Let the lane look at the log, and train."""
    time.sleep(0.15)  # its pace
    lane.step()
    training = LaneStatus.read(lane.settings).training
    assert training is not None
    return training


def request(user: str = "u000003", number: str = "r") -> RankRequest:
    at = UNTIL.start + timedelta(minutes=10)
    items = tuple(f"t{n:06d}" for n in range(20))
    return RankRequest(number, user, at, int((at + timedelta(hours=8)).timestamp() // 60), items, 20)


def rank(engine: RankingEngine) -> Ranked:
    engine.refresh()
    return engine.rank(request(number=uuid.uuid4().hex))


def champion(settings: Settings) -> str:
    version = open_registry(settings).get(CHAMPION)
    assert version is not None
    return str(version.version)


def model_of(engine: RankingEngine, name: str = CHAMPION) -> LoadedModel:
    engine.refresh()
    loaded = engine.models.get(name)
    assert loaded is not None
    return loaded


def test_within_the_hour_its_samples_rank_and_after_it_the_registered_version(
    served: Settings, engine: RankingEngine, rows: list[bytes]
) -> None:
    version, before = champion(served), rank(engine)
    assert before.version == version
    lane = Lane(served)
    append(served, rows[: len(rows) // 2])
    told = look(lane)
    half = rank(engine)
    assert half.version.startswith(f"{version}+")
    assert [half.version] == told.parameters
    assert dict(zip(half.items, half.scores, strict=True)) != dict(zip(before.items, before.scores, strict=True))
    append(served, rows[len(rows) // 2 :])
    assert look(lane).samples > told.samples > 20
    later = rank(engine)
    assert later.version > half.version
    assert rank(engine).version == later.version
    assert model_of(engine).model is model_of(engine).model  # loaded once
    ingest_hour(served, UNTIL)
    advance(served, UNTIL + 1)
    after = rank(engine)  # the lane has not looked since: the clocks' hour alone says that it is over
    assert after.version == version
    assert after.features_as_of == UNTIL + 1
    assert look(lane).parameters == []
    assert not [*running_parameters(served).glob("*")]
    engine.close()
    replayed = replay_hour(served, UNTIL, CHALLENGER)
    assert replayed.ranked_by == (version, half.version, later.version)
    assert read_json(record_file(served))[CHAMPION]["version"] == version  # a replay is nobody's server


def test_the_lane_learns_what_the_hours_run_learns_from_its_first_batches(
    served: Settings, engine: RankingEngine, rows: list[bytes]
) -> None:
    """Against the hour's own samples, and the state that the version was made of: the same bits."""
    lane = Lane(served)
    append(served, rows)
    look(lane)
    parameters = model_of(engine)
    assert parameters.lane is not None
    ingest_hour(served, UNTIL)
    drawn = SampleStore(served, EventStore(served.events_dir)).read(UNTIL)
    of_the_hour = drawn.tables.samples.num_rows
    assert parameters.lane.samples == of_the_hour // BATCH * BATCH > 20  # nobody and nothing in this hour is new
    _, ranker, optimizer = StateStore(served.training_dir / "states", "matched_clock").load(UNTIL - 1)
    fit(ranker, optimizer, drawn.keys(ranker).piece(0, parameters.lane.samples), UNTIL)
    learned, expected = (ranker_tensors(each) for each in (parameters.model.ranker, ranker))
    assert learned.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in learned.items())


def test_the_hours_run_is_the_same_with_a_lane_that_trains_and_without(
    served: Settings, engine: RankingEngine, rows: list[bytes], tmp_path: Path
) -> None:
    del engine
    copy_var(served.var, tmp_path / "alone")
    alone = load_settings(**{**served.model_dump(exclude_unset=True), "var": tmp_path / "alone"})
    save_app_source(alone)
    lane = Lane(served)
    append(served, rows)
    assert look(lane).parameters
    ours, theirs = run_hour(served, UNTIL), run_hour(alone, UNTIL)
    assert ours.trained == theirs.trained
    assert (ours.verdict, ours.reason, ours.moves) == (theirs.verdict, theirs.reason, theirs.moves)
    for variant in served.variants:
        files = [StateStore(s.training_dir / "states", variant).folder(UNTIL) / "state.json" for s in (served, alone)]
        assert files[0].read_bytes() == files[1].read_bytes()  # it has the digest of the weights
    versions = [len(open_registry(s).client.search_model_versions()) for s in (served, alone)]
    assert versions[0] == versions[1]


def test_each_arm_learns_by_itself_and_a_rollback_takes_effect_at_once(served: Settings, rows: list[bytes]) -> None:
    experiment = {
        "name": "arms", "hypothesis": "The clock helps.", "owner": "test", "control": "hour", "start": str(UNTIL.start.date()),
        "variants": {"hour": 0.5, "clock": 0.5}, "models": {"hour": "challenger", "clock": "champion"},
    }  # fmt: skip
    path = served.experiments_dir / "arms.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(experiment))
    engine = RankingEngine(served)
    engine.refresh()
    lane = Lane(served)
    append(served, rows[: len(rows) // 2])
    assert len(look(lane).parameters) == 2
    arms = {name: model_of(engine, name) for name in (CHAMPION, CHALLENGER)}
    assert {name: (m.variant, m.version.partition("+")[0]) for name, m in arms.items()} == {
        name: (m.registered.variant, m.registered.version) for name, m in arms.items() if m.registered
    }
    models, version = open_registry(served), champion(served)
    models.move(CHAMPION, arms[CHALLENGER].version.partition("+")[0], "something was wrong")
    back = rank(engine)
    assert back.version == arms[CHALLENGER].version
    path.unlink()  # now one version serves
    engine.refresh()
    models.move(CHAMPION, version, "it was right")
    engine.refresh()
    append(served, rows[len(rows) // 2 :])
    (name,) = look(lane).parameters
    assert name.startswith(f"{version}+")
    assert model_of(engine).version == name
    engine.close()


def test_a_version_that_is_promoted_within_the_hour_learns_all_of_it(
    served: Settings, engine: RankingEngine, rows: list[bytes]
) -> None:
    lane = Lane(served)
    append(served, rows[: len(rows) // 2])
    first = look(lane)
    other = open_registry(served).get(CHALLENGER)
    assert other is not None
    open_registry(served).move(CHAMPION, str(other.version), "promoted")
    assert rank(engine).version == str(other.version)
    promoted = look(lane)
    assert [name.partition("+")[0] for name in promoted.parameters] == [str(other.version)]
    assert promoted.samples == first.samples
    assert rank(engine).version == promoted.parameters[0]


def test_parameters_that_go_astray_are_not_served(
    served: Settings, engine: RankingEngine, rows: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "JUDGED_FROM", 20)  # the app's hours are short
    version = champion(served)
    folder = model_of(engine).folder
    told = read_json(folder / "state.json")
    told["config"] |= {"dense_rate": 1e6, "embedding_rate": 1e6}  # nobody can learn like this
    write_json(folder / "state.json", told)
    lane = Lane(served)
    append(served, rows[: len(rows) // 2])
    assert (training := look(lane)).parameters == []
    assert "after they were trained on" in training.withheld[version]
    assert rank(engine).version == version
    (finding,) = [f for f in examine(served) if f.check == "streaming parameters"]
    assert finding.status == "warning"
    assert f"version {version}" in finding.detail
    values = {m.name: m.samples[0].value for m in WorkspaceCollector(served).collect() if m.samples}
    assert values["clock_stream_withheld"] == 1
    assert lane.status.events > 20  # features go on


def test_parameters_that_cannot_be_read_leave_the_registered_version(
    served: Settings, engine: RankingEngine, rows: list[bytes]
) -> None:
    lane = Lane(served)
    append(served, rows)
    look(lane)
    (weights,) = running_parameters(served).glob("*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-9])
    assert rank(engine).version == champion(served)
    assert "damaged" in engine.problems[f"lane, version {champion(served)}"]
    (running_parameters(served) / "published.json").write_text("{")
    assert rank(engine).version == champion(served)
    assert "damaged" in engine.problems["lane"]


def test_a_ranking_falls_back_on_the_registered_version_where_the_lanes_fails(
    served: Settings, engine: RankingEngine, rows: list[bytes]
) -> None:
    append(served, rows)
    look(Lane(served))
    loaded = model_of(engine)
    with torch.no_grad():
        loaded.model.ranker.head.bias.fill_(float("nan"))
    answer = engine.rank(request())
    assert answer.version == champion(served)
    assert "the lane's parameters failed" in answer.degraded


def test_who_is_forgotten_is_in_no_parameters(served: Settings, engine: RankingEngine, rows: list[bytes]) -> None:
    lane = Lane(served)
    append(served, rows)
    before = look(lane)
    (user,) = pc.mode(EventStore(running_events(served)).read(UNTIL)["user_id"]).field("mode").to_pylist()
    forget(served, [log_ids(served.events_dir, "user", [user])[user]])
    assert not PublishedParameters(served).read(UNTIL)
    assert rank(engine).version == champion(served)
    after = look(lane)
    assert 0 < after.samples <= before.samples
    later = RankingEngine(served)
    loaded = model_of(later)
    assert loaded.lane is not None
    assert user not in loaded.model.ranker.users.keys.tolist()
    later.close()


def test_a_lane_that_is_killed_begins_the_hour_again(
    served: Settings, engine: RankingEngine, rows: list[bytes]
) -> None:
    environment = {
        **os.environ, "CLOCK_VAR": str(served.var), "CLOCK_STREAMING_SECONDS": "0.2", "CLOCK_STREAMING_TRAIN": "true",
        "CLOCK_STREAMING_TRAIN_SECONDS": "0.2",
    }  # fmt: skip
    command = [sys.executable, "-m", "clock", "stream", "follow"]

    def until_served(known: str) -> str:
        wait_until(lambda: rank(engine).version not in {known, champion(served)})
        return engine.rank(request()).version

    append(served, rows[: len(rows) // 2])
    with subprocess.Popen(command, env=environment) as process:
        try:
            half = until_served("")
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert rank(engine).version == half  # what was published goes on to serve
    leftover = running_parameters(served) / "9-half-written"
    leftover.mkdir()
    append(served, rows[len(rows) // 2 :])
    with subprocess.Popen(command, env=environment) as process:
        try:
            whole = until_served(half)
            assert whole > half
            wait_until(lambda: LaneStatus.read(served).training is not None)
            assert not leftover.exists()
        finally:
            process.terminate()
    run_hour(served, UNTIL)
    assert "+" not in rank(engine).version


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_without_the_setting_what_another_lane_left_is_dropped(
    served: Settings, engine: RankingEngine, rows: list[bytes]
) -> None:
    append(served, rows)
    look(Lane(served))
    assert rank(engine).version != champion(served)
    plain = Lane(load_settings(**{**served.model_dump(exclude_unset=True), "streaming_train": False}))
    plain.step()
    assert rank(engine).version == champion(served)
    assert LaneStatus.read(served).training is None
    assert json.loads((served.streaming_dir / "status.json").read_text())["training"] is None


def test_features_that_spark_joins_are_not_trained_on_within_the_hour(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="CLOCK_OFFLINE_STORE=duckdb"):
        ParameterLane(load_settings(var=settings.var, offline_store="spark"))


def test_what_actions_may_still_come_of_is_not_trained_on() -> None:
    rule = Actions(column="type", values={"like": "like"}, window_minutes=10, skew_seconds=30)
    start = datetime(2026, 3, 2, 12, tzinfo=UTC)
    shown = [start + timedelta(minutes=minute) for minute in (0, 4, 5, 15)]
    events = pa.table({"timestamp": pa.array(shown, pa.timestamp("us", "UTC"))})
    ripe = shown_before(events, outcomes_known(rule, shown[-1]))
    assert ripe["timestamp"].to_pylist() == shown[:2]

"""The engine against training: the same scores, whoever asks, and what happens when something is away."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from core.hours import Hour
from core.settings import Settings, load_settings
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.materialization import advance
from feature_repo.served import served_features
from model_registry.registry import CHALLENGER, CHAMPION
from model_registry.store import open_registry
from pipeline.source import ingest_hour
from serving.engine import FAILURES_TO_STOP, NoChampionError, RankingEngine
from serving.models import served_versions
from serving.replay import replay_hour
from serving.request_log import read_requests
from serving.retrieval import near_values
from serving.routing import load_routes, resume_experiment, stop_experiment, stopped
from serving.stages import Ranked, RankRequest
from tests.serving.conftest import APP, UNTIL
from training.samples import SampleStore
from training.scoring import predict
from training.tensors import hour_keys


def request(user: str, items: list[str] | None, minutes: int = 10, count: int = 1000, number: str = "r") -> RankRequest:
    at = UNTIL.start + timedelta(minutes=minutes)
    local = int((at + timedelta(hours=8)).timestamp() // 60)
    return RankRequest(number, user, at, local, None if items is None else tuple(items), count)


def scores(answer: Ranked) -> dict[str, float]:
    return dict(zip(answer.items, answer.scores, strict=True))


@pytest.fixture
def engine(served: Settings) -> RankingEngine:
    ranking = RankingEngine(served)
    ranking.refresh()
    return ranking


def test_serving_scores_what_training_scores(served: Settings, engine: RankingEngine) -> None:
    """Every event of the next hour, as a request from its own user at its own time, against the samples' scores."""
    ingest_hour(served, UNTIL)
    drawn = SampleStore(served, EventStore(served.events_dir)).read(UNTIL)
    engine.users.refresh()
    engine.items.refresh()
    samples = drawn.tables.samples
    known = pc.is_in(samples["item_id"], pa.array(engine.snapshot.state.catalog.item))  # type: ignore[union-attr]
    for name in ("champion", "hour_embedding"):
        engine.models.refresh({name})
        loaded = engine.models.get(name)
        assert loaded is not None
        expected = predict(loaded.model.ranker, hour_keys(drawn.tables, loaded.model.ranker))[:, loaded.head]
        engine.snapshot = type(engine.snapshot)(**{**engine.snapshot.__dict__, "models": {CHAMPION: loaded}})
        requests = [
            RankRequest(
                str(n), engine.users.key_of(row["user_id"]), row["timestamp"],
                int(row["local_time"].replace(tzinfo=UTC).timestamp() // 60), (engine.items.key_of(row["item_id"]),), 1,
            )
            for n, row in enumerate(samples.to_pylist())
        ]  # fmt: skip
        one_by_one = np.array([engine.rank(r).scores[0] for r in requests])
        together = np.array([a.scores[0] for a in engine.rank_many(requests)])
        keep = known.to_numpy(zero_copy_only=False)
        assert keep.sum() > 20
        np.testing.assert_allclose(one_by_one[keep], expected[keep], atol=1e-6)
        np.testing.assert_allclose(together, one_by_one, atol=1e-6)


def test_an_hour_is_served_from_when_the_online_store_has_it(served: Settings, engine: RankingEngine) -> None:
    """The clocks are committed before, and a store that is away is filled by a later try."""
    ingest_hour(served, UNTIL)
    ClockState(served, EventStore(served.events_dir)).refresh(UNTIL + 1)
    engine.refresh()
    assert engine.rank(request("u000003", ["t000001"])).features_as_of == UNTIL
    advance(served, UNTIL + 1)
    engine.refresh()
    assert engine.rank(request("u000003", ["t000001"])).features_as_of == UNTIL + 1


def test_an_answer_is_ordered_complete_and_says_where_it_comes_from(engine: RankingEngine) -> None:
    items = [f"t{n:06d}" for n in range(40)]
    answer = engine.rank(request("u000003", [*items, "unheard-of"], count=10))
    assert list(answer.scores) == sorted(answer.scores, reverse=True)
    assert len(answer.items) == 10
    assert set(answer.items) <= {*items, "unheard-of"}
    assert answer.unknown_items >= 1
    assert answer.user_known
    assert answer.model_variant == "matched_clock"
    assert answer.features_as_of == UNTIL
    assert not answer.degraded
    stranger = engine.rank(request("nobody", items))
    assert not stranger.user_known
    assert not stranger.degraded
    assert len(stranger.items) == 40


def test_retrieval_gives_popular_fresh_and_fitting_items_none_twice(engine: RankingEngine) -> None:
    answer = engine.rank(request("u000003", None, count=50))
    assert len(set(answer.items)) == len(answer.items) == 50
    left = engine.rank(RankRequest("x", "u000003", answer_time(), 0, None, 50, exclude=answer.items[:5]))
    assert not set(answer.items[:5]) & set(left.items)
    state = engine.snapshot.state
    assert state is not None
    catalog, retrieval = state.catalog, state.retrieval
    assert catalog is not None
    assert retrieval is not None
    clock = engine.features.store.get_clock([engine.users.id_of("u000003")], UNTIL)
    hour = float(clock["slot"][0].as_py()) + 0.5
    fits = near_values(clock, hour, list(catalog.values), 1.0)
    (facet, value), *_ = fits
    chosen = retrieval.candidates(20, hour, clock, np.array([], dtype=np.int64))
    held = catalog.values[facet].take(pa.array(catalog.rows(chosen)))
    assert value in held.to_pylist()


def answer_time() -> datetime:
    return UNTIL.start + timedelta(minutes=1)


def test_a_store_that_is_away_gives_popularity_and_says_so(served: Settings, engine: RankingEngine) -> None:
    items = [f"t{n:06d}" for n in range(40)]
    before = scores(engine.rank(request("u000003", items)))
    online = served.workspace / "feast" / "online.db"
    engine.features._opened = None
    online.rename(online.with_suffix(".away"))
    online.mkdir()  # nothing can be opened there
    away = engine.rank(request("u000003", items))
    assert away.degraded.startswith("popularity: the feature store")
    assert list(away.scores) == sorted(away.scores, reverse=True)
    assert not away.version
    online.rmdir()
    online.with_suffix(".away").rename(online)
    engine.features._resting_until = 0.0
    engine.features.read([1], UNTIL, 60_000)  # opening it again takes longer than a request may
    assert scores(engine.rank(request("u000003", items))) == before


def test_a_broken_or_missing_version_never_replaces_one_that_ranks(served: Settings, engine: RankingEngine) -> None:
    first = engine.models.names[CHAMPION]
    models = open_registry(served)
    version = models.newest("hour_embedding", UNTIL.key)
    assert version is not None
    models.move(CHAMPION, version, "to be broken")
    weights = next((served.training_dir / "versions").glob(f"{version}/**/weights.safetensors"), None)
    if weights is None:
        from model_registry.store import download_version

        weights = download_version(served, version) / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:1000])
    engine.refresh()
    assert engine.models.names[CHAMPION] == first
    assert "damaged" in engine.problems[CHAMPION]
    assert engine.rank(request("u000003", ["t000001"])).version == first
    weights.write_bytes(good)
    engine.refresh()
    assert engine.models.names[CHAMPION] == version
    assert engine.rank(request("u000003", ["t000001"])).version == version


def test_mlflow_away_keeps_the_model_and_a_new_server_starts_with_its_local_copy(served: Settings) -> None:
    engine = RankingEngine(served)
    engine.refresh()
    version = engine.models.names[CHAMPION]
    away = load_settings(
        **{**served.model_dump(exclude_unset=True), "mlflow_uri": f"sqlite:///{served.var}/nowhere/else/mlflow.db"}
    )
    (served.var / "nowhere").write_text("a file where a folder should be")
    engine.models.settings = away
    engine.refresh()
    assert engine.models.names[CHAMPION] == version
    assert "mlflow" in engine.problems
    late = RankingEngine(away)
    late.refresh()
    assert late.models.names[CHAMPION] == version
    assert late.rank(request("u000003", ["t000001"])).version == version


def test_without_a_champion_a_request_is_told_so(served: Settings) -> None:
    open_registry(served).client.delete_registered_model_alias("simulator-ranker", CHAMPION)
    engine = RankingEngine(served)
    engine.refresh()
    with pytest.raises(NoChampionError, match="no champion yet"):
        engine.rank(request("u000003", ["t000001"]))


def write_experiment(settings: Settings, **more: object) -> None:
    content = {
        "name": "canary", "variants": {"stay": 0.5, "try": 0.5}, "control": "stay", "start": APP.start.isoformat(),
        "models": {"stay": "champion", "try": "challenger"}, "automatic_stop": True, **more,
    }  # fmt: skip
    settings.experiments_dir.mkdir(parents=True, exist_ok=True)
    (settings.experiments_dir / "canary.yaml").write_text(yaml.safe_dump(content))


def test_an_experiment_splits_traffic_logs_exposures_and_can_be_stopped(served: Settings) -> None:
    write_experiment(served, layer={"name": "main", "start": 0.0, "end": 0.5})
    engine = RankingEngine(served)
    engine.refresh()
    assert engine.models.names.keys() == {CHAMPION, CHALLENGER}
    users = [f"u{n:06d}" for n in range(100)]
    answers = {u: engine.rank(request(u, ["t000001", "t000002"], number=u)) for u in users}
    kinds = {(a.route.variant, a.model_variant) for a in answers.values()}
    assert kinds == {("", "matched_clock"), ("stay", "matched_clock"), ("try", "hour_embedding")}
    (file,) = (served.workspace / "serving" / "exposures" / f"{UNTIL.key}.csv").glob("*.csv")
    lines = file.read_text().splitlines()[1:]
    logged = {line.split(",")[2]: line.split(",")[1] for line in lines}
    assert logged == {u: a.route.variant for u, a in answers.items() if a.route.variant}
    assert 30 < len(logged) < 70
    assert stop_experiment(served, "canary", "too slow")
    assert not stop_experiment(served, "canary", "again")
    engine.refresh()
    assert {engine.rank(request(u, ["t000001"])).route.model for u in users} == {CHAMPION}
    assert resume_experiment(served, "canary")
    assert load_routes(served)[0].models(UNTIL.start) == {CHAMPION, CHALLENGER}


def test_an_exposure_that_cannot_be_written_is_counted_and_takes_no_other_with_it(
    served: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_experiment(served)
    engine = RankingEngine(served)
    engine.refresh()
    write, users = engine.exposures._append, [f"u{n:06d}" for n in range(20)]

    def full(hour: Hour, row: tuple[str, ...]) -> None:
        if row[2] in users[3:5]:
            raise OSError(28, "No space left on device")
        write(hour, row)

    monkeypatch.setattr(engine.exposures, "_append", full)
    assert len(engine.rank_many([request(user, ["t000001"], number=user) for user in users])) == 20
    (file,) = (served.workspace / "serving" / "exposures" / f"{UNTIL.key}.csv").glob("*.csv")
    assert [line.split(",")[2] for line in file.read_text().splitlines()[1:]] == [*users[:3], *users[5:]]
    assert engine.unlogged == 2


def test_who_is_held_out_meets_nothing_else_and_everybody_else_meets_both(served: Settings) -> None:
    write_experiment(served)
    holdout = {
        "name": "all",
        "variants": {"out": 0.3, "in": 0.7},
        "control": "out",
        "start": APP.start.isoformat(),
        "holdout": True,
    }
    (served.experiments_dir / "all.yaml").write_text(yaml.safe_dump(holdout))
    engine = RankingEngine(served)
    engine.refresh()
    users = [f"u{n:06d}" for n in range(60)]
    routes = {u: engine.rank(request(u, ["t000001", "t000002"], number=u)).route for u in users}
    assert {r.exposures[0] for r in routes.values() if len(r.exposures) == 1} == {("all", "out")}
    assert {r.exposures[1:] == [("all", "in")] for r in routes.values() if r.experiment == "canary"} == {True}
    assert {r.model for r in routes.values() if r.variant == "out"} == {CHAMPION}
    (file,) = (served.workspace / "serving" / "exposures" / f"{UNTIL.key}.csv").glob("*.csv")
    logged = {tuple(line.split(",")[:3]) for line in file.read_text().splitlines()[1:]}
    assert logged == {(*exposure, u) for u, route in routes.items() for exposure in route.exposures}
    assert 5 < sum(r.variant == "out" for r in routes.values()) < 32


@pytest.mark.parametrize("damage", ["a weight is lost", "scores are NaN"])
def test_a_variant_whose_model_fails_is_answered_by_the_champion_and_stopped(served: Settings, damage: str) -> None:
    write_experiment(served)
    engine = RankingEngine(served)
    engine.refresh()
    broken = engine.snapshot.models[CHALLENGER].model.ranker
    if damage == "a weight is lost":
        broken.head.weight.data = broken.head.weight.data[:, :3]
    else:
        broken.head.weight.data.fill_(float("nan"))
    users = [
        u
        for u in (f"u{n:06d}" for n in range(200))
        if engine.snapshot.routes.of([u], answer_time())[0].variant == "try"
    ]
    for user in users[: FAILURES_TO_STOP + 1]:
        nothing = engine.rank(request(user, []))
        assert (nothing.items, nothing.degraded) == ((), ""), "with nothing to rank no model fails"
        answer = engine.rank(request(user, ["t000001", "t000002"]))
        assert answer.model_variant == "matched_clock"
        assert answer.degraded.startswith("champion")
    assert f"failed {FAILURES_TO_STOP} times" in (stopped(served, "canary") or "")


def test_a_user_whom_the_model_cannot_score_takes_nobodys_answer_away(engine: RankingEngine) -> None:
    champion = engine.snapshot.models[CHAMPION]
    users = champion.model.ranker.users
    bad, good = (f"u{n:06d}" for n in (3, 4))
    row = int(users.rows(np.array([engine.users.id_of(bad)])).item())
    assert row, "the user has an embedding"
    users.weight[row] = float("nan")
    items = [f"t{n:06d}" for n in range(20)]
    before = engine.rank(request(good, items))
    answers = engine.rank_many([request(good, items), request(bad, items), request(good, items)])
    assert [answer.degraded for answer in answers] == ["", "popularity: the model failed", ""]
    assert answers[0].items == answers[2].items == before.items


def test_an_experiment_that_is_served_again_is_stopped_again_after_as_many_failures(served: Settings) -> None:
    write_experiment(served)
    engine = RankingEngine(served)
    engine.refresh()
    users = [f"u{n:06d}" for n in range(200)]
    (user, *_) = [u for u in users if engine.snapshot.routes.of([u], answer_time())[0].variant == "try"]

    def fail(times: int) -> None:
        engine.snapshot.models[CHALLENGER].model.ranker.head.weight.data.fill_(float("nan"))
        for _ in range(times):
            engine.rank(request(user, ["t000001"]))

    fail(FAILURES_TO_STOP)
    assert resume_experiment(served, "canary")
    fail(FAILURES_TO_STOP - 1)  # before the service has looked at the experiments again
    assert not stopped(served, "canary")
    fail(1)
    assert resume_experiment(served, "canary")
    fail(FAILURES_TO_STOP - 1)
    assert stop_experiment(served, "canary", "by hand")
    engine.refresh()
    assert resume_experiment(served, "canary")
    engine.refresh()
    fail(FAILURES_TO_STOP - 1)
    assert not stopped(served, "canary")
    fail(1)
    assert f"failed {FAILURES_TO_STOP} times" in (stopped(served, "canary") or "")


def test_failures_before_an_experiment_may_be_stopped_count_once_it_may(served: Settings) -> None:
    write_experiment(served, automatic_stop=False)
    engine = RankingEngine(served)
    engine.refresh()
    engine.snapshot.models[CHALLENGER].model.ranker.head.weight.data.fill_(float("nan"))
    users = [f"u{n:06d}" for n in range(200)]
    (user, *_) = [u for u in users if engine.snapshot.routes.of([u], answer_time())[0].variant == "try"]
    for _ in range(FAILURES_TO_STOP + 1):
        engine.rank(request(user, ["t000001"]))
    assert not stopped(served, "canary")
    write_experiment(served)
    engine.refresh()
    engine.rank(request(user, ["t000001"]))
    assert stopped(served, "canary")


def test_what_serves_is_noted_again_when_a_name_is_gone(served: Settings) -> None:
    """The lane trains what is noted: a version that nobody is ranked by any more is not among it."""
    write_experiment(served)
    engine = RankingEngine(served)
    engine.refresh()
    challenger, champion = engine.models.names[CHALLENGER], engine.models.names[CHAMPION]
    assert served_versions(served).keys() == {challenger, champion}
    assert stop_experiment(served, "canary", "too slow")
    engine.refresh()
    assert served_versions(served).keys() == {champion}


def test_wrong_experiments_are_left_out_and_named(served: Settings) -> None:
    write_experiment(served, models={"stay": "champion"})
    routes, problems = load_routes(served)
    assert routes.experiments == ()
    assert "name one for each" in problems["experiment canary"]
    write_experiment(served, stopping={"rule": "fixed"}, end="2026-04-01")
    assert "looks every hour" in load_routes(served)[1]["experiment canary"]


@pytest.mark.parametrize("name", ["../elsewhere", "", "A B", "x/y"])
def test_a_name_that_is_none_stops_nothing(trained: Settings, name: str) -> None:
    from core.errors import ConfigError

    before = sorted(trained.var.rglob("*"))
    for act in (lambda: stop_experiment(trained, name, "x"), lambda: resume_experiment(trained, name)):
        with pytest.raises(ConfigError, match="not an experiment's name"):
            act()
    assert sorted(trained.var.rglob("*")) == before


def test_features_and_requests_are_logged_as_served_and_can_be_trained_on_and_replayed(served: Settings) -> None:
    settings = load_settings(**{**served.model_dump(exclude_unset=True), "serving_shadow": "challenger"})
    engine = RankingEngine(settings)
    engine.refresh()
    ingest_hour(served, UNTIL)
    items = [f"t{n:06d}" for n in range(30)]
    users = sorted({engine.users.key_of(u) for u in EventStore(served.events_dir).read(UNTIL)["user_id"].to_pylist()})
    users = [u for u in users if engine.users.id_of(u) > 0]
    for n, user in enumerate(users):
        engine.rank(request(user, items, number=f"r{n}"))
        engine.rank(request(user, items, number=f"r{n}"))  # sent again
    engine.close()
    logged = read_requests(settings, UNTIL)
    assert logged["request_id"].to_pylist() == [f"r{n}" for n in sorted(range(len(users)), key=lambda n: f"r{n}")]
    assert set(logged["shown"].to_pylist()) == {30}
    seen, readers = served_features(settings, UNTIL)
    assert readers == sorted(engine.users.id_of(u) for u in users)
    keys = pa.table({"user_id": readers, "hour": [UNTIL.number] * len(readers)})
    joined = SampleStore(served, EventStore(served.events_dir)).features.historical(keys)
    columns = ["user_id", "slot", "genre_values", "genre_scores", "events"]
    assert seen.slots.select(columns).to_pylist() == joined.slots.select(columns).to_pylist()
    # training on what was served gives the samples that a join gives: nothing was skewed
    plain = SampleStore(served, EventStore(served.events_dir)).read(UNTIL)
    shutil.rmtree(SampleStore(served, EventStore(served.events_dir)).folder(UNTIL))
    as_served = load_settings(**{**served.model_dump(exclude_unset=True), "features_as_served": True})
    again = SampleStore(as_served, EventStore(as_served.events_dir)).read(UNTIL)
    assert again.digest == plain.digest
    same = replay_hour(settings, UNTIL, "champion")
    assert same.requests == len(users)
    assert same.score_difference.largest < 1e-6
    assert same.same_first == same.overlap == 1.0
    other = replay_hour(settings, UNTIL, "challenger")
    assert other.variant == "hour_embedding"
    assert other.score_difference.mean > 1e-3
    shadow = list((settings.workspace / "serving" / "log").rglob("shadow-*.parquet"))
    rows = pa.concat_tables([pa.parquet.read_table(p) for p in shadow])
    assert set(rows["request_id"].to_pylist()) == {f"r{n}" for n in range(len(users))}
    assert set(rows["version"].to_pylist()) == {str(open_registry(served).get(CHALLENGER).version)}  # type: ignore[union-attr]


def test_served_features_win_over_joined_ones(served: Settings) -> None:
    engine = RankingEngine(served)
    engine.refresh()
    ingest_hour(served, UNTIL)
    user = int(EventStore(served.events_dir).read(UNTIL)["user_id"][0].as_py())
    features = engine.features.read([user], UNTIL)
    changed = features.profiles.set_column(
        features.profiles.column_names.index("events"), "events", pa.array([12345] * features.profiles.num_rows)
    )
    assert engine.request_log is not None
    engine.request_log.add_features(UNTIL, [user], type(features)(features.slots, changed, features.history))
    engine.close()
    as_served = load_settings(**{**served.model_dump(exclude_unset=True), "features_as_served": True})
    profiles = SampleStore(as_served, EventStore(as_served.events_dir)).read(UNTIL).tables.profiles
    mine = dict(zip(profiles["user_id"].to_pylist(), profiles["events"].to_pylist(), strict=True))
    assert mine[user] == 12345
    assert sum(v == 12345 for v in mine.values()) == 1


def test_the_catalog_keeps_up_hour_by_hour(served: Settings) -> None:
    from feature_repo.materialization import advance
    from serving.catalog import load_catalog

    features = RankingEngine(served).features.store
    load_catalog(served, features, UNTIL)
    ingest_hour(served, UNTIL)
    advance(served, UNTIL + 1)
    stepped = load_catalog(served, features, UNTIL + 1)
    (served.workspace / "serving" / "catalog.parquet").unlink()
    whole = load_catalog(served, features, UNTIL + 1)
    assert stepped.item.tolist() == whole.item.tolist()
    assert stepped.keys.tolist() == whole.keys.tolist()
    assert stepped.popularity.tolist() == whole.popularity.tolist()
    assert stepped.first_hour.tolist() == whole.first_hour.tolist()


def test_a_request_with_nothing_to_rank_is_left_out_of_a_replay(served: Settings) -> None:
    engine = RankingEngine(served)
    engine.refresh()
    engine.rank(request("u000003", [], number="nothing"))
    engine.rank(request("u000003", ["t000001", "t000002"], number="something"))
    engine.close()
    replayed = replay_hour(served, UNTIL, "challenger")
    assert (replayed.requests, replayed.left_out) == (1, 1)


def test_an_hour_without_requests_cannot_be_replayed(served: Settings) -> None:
    from core.errors import NotReadyError

    with pytest.raises(NotReadyError, match="no requests are logged"):
        replay_hour(served, Hour.parse("2026-03-01T00"), "champion")


@pytest.mark.slow
def test_a_workspace_without_anything_says_what_to_do(tmp_path: Path) -> None:
    engine = RankingEngine(load_settings(var=tmp_path / "var", source="empty"))
    engine.refresh()
    with pytest.raises(NoChampionError):
        engine.rank(request("u", ["a"]))
    assert "make demo" in engine.problems["features"]


def test_two_writers_of_one_process_keep_each_others_rows(served: Settings) -> None:
    for number in ("first", "second"):
        engine = RankingEngine(served)
        engine.refresh()
        engine.rank(request("u000003", ["t000001", "t000002"], number=number))
        engine.close()
    assert read_requests(served, UNTIL)["request_id"].to_pylist() == ["first", "second"]

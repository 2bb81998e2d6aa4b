"""The hourly trainer on the tiny simulated app: one definition of a state, however it was reached."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import QUERY_INTERRUPTED, ConfigError, CorruptStateError, DataError, NotReadyError
from core.files import digest_file, write_parquet
from core.hours import Hour, hour_range
from core.settings import Settings, load_settings
from evaluation.metrics import session_auc
from evaluation.prediction_table import as_predictions
from events.store import EventStore
from feature_repo.clock import ClockState
from feature_repo.materialization import advance
from feature_repo.retrieval import ClockFeatures
from pipeline.history import build_history
from pipeline.hour import run_hour
from tests.conftest import TINY
from tests.training.conftest import FIRST, LAST, fresh
from training.config import load_ranker_config
from training.model import RankerModel, load_model
from training.ranker import Ranker
from training.samples import SampleStore
from training.scoring import predict
from training.state import RECENT_HOURS, StateStore, ranker_tensors
from training.tensors import hour_keys
from training.trainer import Trainer, fit, prediction_file, read_predictions, train_together


def weights(settings: Settings, variant: str, hour: Hour) -> Path:
    return StateStore(settings.training_dir / "states", variant).folder(hour) / "weights.safetensors"


def bits_of(settings: Settings, variant: str, hour: Hour) -> dict[str, bytes]:
    tensors = StateStore(settings.training_dir / "states", variant).tensors(hour)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["hour_embedding", "adaptive_clock", "long_term_clock", "matched_clock"])
def test_in_bulk_or_hour_by_hour_the_state_is_the_same_to_the_bit(
    ready: Settings, tmp_path: Path, variant: str
) -> None:
    until = FIRST + 30
    bulk, hourly = fresh(ready, tmp_path / "bulk"), fresh(ready, tmp_path / "hourly")
    info = Trainer(bulk, variant).train(until, start=FIRST, save_every=100)
    for hour in hour_range(FIRST, until + 1):
        step = Trainer(hourly, variant).train(hour, start=FIRST)
    assert info.digest == step.digest
    assert bits_of(bulk, variant, until) == bits_of(hourly, variant, until)


@pytest.mark.slow
def test_predictions_of_a_version_without_hours_have_the_sessions_that_they_have_now(
    ready: Settings, tmp_path: Path
) -> None:
    settings = fresh(ready, tmp_path)
    Trainer(settings, "none").train(FIRST + 30, start=FIRST, save_every=100)
    today = read_predictions(settings, "none", FIRST, FIRST + 31)
    hours = today["hour"].to_pylist()  # some have no samples
    older = sorted(set(hours))[::2]
    for hour in older:
        path = prediction_file(settings, "none", Hour(hour))
        write_parquet(path, pq.ParquetFile(path).read().drop_columns(["hour"]))
    mixed = read_predictions(settings, "none", FIRST, FIRST + 31)
    assert len(set(hours)) > len(older) > 3
    assert mixed["hour"].to_pylist() == hours
    before, after = (session_auc(as_predictions(table)) for table in (today, mixed))
    assert before.value == after.value
    assert 0 < before.value < 1
    assert before.standard_error == after.standard_error


@pytest.mark.slow
def test_variants_trained_in_turn_end_with_the_bits_that_each_has_alone(ready: Settings, tmp_path: Path) -> None:
    """On one sample store, from different hours on, and beside one whose chain is damaged."""
    until, variants = FIRST + 30, ("long_term_clock", "hour_embedding", "adaptive_clock", "none")
    alone, together = fresh(ready, tmp_path / "alone"), fresh(ready, tmp_path / "together")
    for variant in variants[:3]:
        Trainer(alone, variant).train(until, start=FIRST)
    Trainer(together, variants[1]).train(FIRST + 20, start=FIRST)
    Trainer(together, variants[3]).train(FIRST + 20, start=FIRST)
    damaged = weights(together, variants[3], FIRST + 20)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    samples = SampleStore(together, EventStore(together.events_dir))
    trainers = [Trainer(together, variant, samples) for variant in variants]
    *states, error = train_together(trainers, until, reports=[None] * len(trainers))
    for variant, state in zip(variants[:3], states, strict=True):
        assert state == StateStore(alone.training_dir / "states", variant).info(until)
        assert bits_of(together, variant, until) == bits_of(alone, variant, until)
    assert isinstance(error, CorruptStateError)


def test_ctrl_c_is_no_failure_of_the_variant_that_it_meets(ready: Settings, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise RuntimeError(QUERY_INTERRUPTED)

    settings = fresh(ready, tmp_path)
    samples = SampleStore(settings, EventStore(settings.events_dir))
    trainers = [Trainer(settings, variant, samples) for variant in ("none", "hour_embedding")]
    with pytest.raises(RuntimeError, match=QUERY_INTERRUPTED):
        train_together(trainers, trainers[0]._first_hour(), reports=[interrupted, None])


def test_samples_are_read_and_decoded_once_until_they_change(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    (settings.training_dir / "samples").unlink()
    shutil.copytree(
        ready.training_dir / "samples" / f"hour={LAST.key}", settings.training_dir / "samples" / f"hour={LAST.key}"
    )
    samples = SampleStore(settings, EventStore(settings.events_dir))
    plain, clock = (Trainer(settings, v, samples)._fresh()[1] for v in ("none", "matched_clock"))
    first, again, other = samples.read(LAST).keys(plain), samples.read(LAST).keys(plain), samples.read(LAST).keys(clock)
    assert again.facets is first.facets is other.facets
    assert again.clock_values is first.clock_values
    assert other.clock_values.size > first.clock_values.size == 0
    meta = samples.folder(LAST) / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "digest": "of other samples"}))
    assert samples.read(LAST).digest == "of other samples"
    assert samples.read(LAST).keys(plain).facets is not first.facets


def test_what_is_wrong_with_an_hour_that_is_read_ahead_does_not_touch_the_one_before(
    ready: Settings, tmp_path: Path
) -> None:
    settings = fresh(ready, tmp_path)
    (settings.training_dir / "samples").unlink()
    samples = SampleStore(settings, EventStore(settings.events_dir))
    for hour in (LAST - 1, LAST):
        shutil.copytree(ready.training_dir / "samples" / f"hour={hour.key}", samples.folder(hour))
    trainer = Trainer(settings, "none", samples)
    ranker = trainer._fresh()[1]
    samples.read_ahead(LAST, ranker)
    samples.read_ahead(LAST, ranker)
    assert [samples.read(hour).hour for hour in (LAST - 1, LAST)] == [LAST - 1, LAST]
    (samples.folder(LAST) / "samples.parquet").write_bytes(b"damaged")
    with pytest.raises(pa.ArrowInvalid):
        Trainer(settings, "none").train(LAST, start=LAST - 1)
    assert trainer.states.head() == LAST - 1


@pytest.mark.slow
def test_an_hour_is_trained_once_and_never_skipped(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    trainer = Trainer(settings, "none")
    first = trainer.train(FIRST + 5, start=FIRST)
    again = trainer.train(FIRST + 3, start=FIRST)
    assert again == first
    assert trainer.train(FIRST + 8, save_every=100).samples_seen > first.samples_seen
    with pytest.raises(NotReadyError, match="has not been ingested"):
        trainer.train(TINY.end_hour + 48)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_still_works(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    trainer = Trainer(settings, "none")
    whole = trainer.train(FIRST + 6, start=FIRST)
    path = weights(settings, "none", FIRST + 6)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptStateError, match="remove"):
        Trainer(settings, "none").train(FIRST + 7)
    shutil.rmtree(path.parent)
    assert Trainer(settings, "none").train(FIRST + 6).digest == whole.digest


def test_a_state_holds_what_changed_since_a_complete_one(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    trainer = Trainer(settings, "matched_clock")
    trainer.train(LAST, start=FIRST)
    states = trainer.states
    chains = {hour: states.chain(hour) for hour in states.hours()}
    assert max(map(len, chains.values())) > 1
    for hour, chain in chains.items():
        assert not chain[-1].builds_on
        if hour.number % 24 == 23:
            assert len(chain) == 1
        elif len(chain) > 1:
            sizes = [
                (states.folder(h) / "weights.safetensors").stat().st_size for h in (hour, Hour.parse(chain[-1].hour))
            ]
            assert sizes[0] < sizes[1]
    layered = max(hour for hour, chain in chains.items() if len(chain) > 1)
    with states.whole(layered) as folder:
        model = load_model(folder)
        same = ranker_tensors(states.load(layered)[1])
        assert all(torch.equal(t, same[name]) for name, t in ranker_tensors(model.ranker).items())
    assert states.remove(hour for hour in states.hours() if hour < layered) > 0
    assert states.hours()[0] == Hour.parse(chains[layered][-1].hour)
    states.tensors(layered)
    base = states.folder(states.hours()[0])
    content = (base / "weights.safetensors").read_bytes()
    (base / "weights.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptStateError, match=f"{base.name}/weights.safetensors is damaged"):
        states.load(layered)
    shutil.rmtree(base)
    with pytest.raises(CorruptStateError, match="which is gone; remove"):
        states.load(layered)


@pytest.mark.slow
def test_a_checkpoint_is_written_without_reading_those_of_earlier_hours(ready: Settings, tmp_path: Path) -> None:
    """Their weights lie elsewhere while the last hours are saved; put back, the chain reads as one that had them."""
    settings, away = fresh(ready, tmp_path / "one"), tmp_path / "away"
    trainer = Trainer(settings, "none")
    trainer.train(LAST - 8, start=FIRST)

    def hide(*_: object) -> None:
        for path in sorted(trainer.states.root.glob("hour=*/weights.safetensors")):
            path.rename(away / path.parent.name)

    away.mkdir()
    last_state = trainer.train(LAST, report=hide)
    assert len(trainer.states.hours()) > RECENT_HOURS
    for hour in trainer.states.hours()[:-1]:  # the others were forgotten meanwhile
        (away / f"hour={hour.key}").rename(weights(settings, "none", hour))
    assert last_state.builds_on
    expected = fresh(ready, tmp_path / "other")
    Trainer(expected, "none").train(LAST, start=FIRST, save_every=100)
    assert bits_of(settings, "none", LAST) == bits_of(expected, "none", LAST)


def test_a_chain_of_the_version_that_counted_in_32_bits_goes_on(ready: Settings, tmp_path: Path) -> None:
    """Its checkpoints are read as they are; the next one stands alone, and the figures stay the same."""
    today, older = fresh(ready, tmp_path / "today"), fresh(ready, tmp_path / "older")
    Trainer(today, "matched_clock").train(FIRST + 40, start=FIRST)
    states = StateStore(today.training_dir / "states", "matched_clock")
    head = max(hour for hour in states.hours() if states.info(hour).builds_on)
    states.drop_after(head)
    shutil.copytree(states.root, older.training_dir / "states" / "matched_clock")
    for path in StateStore(older.training_dir / "states", "matched_clock").root.glob("hour=*/state.json"):
        tensors = load_file(path.parent / "weights.safetensors")
        counted = {name: t.float() for name, t in tensors.items() if name.endswith(".statistics")}
        assert len(counted) == 2
        save_file({**tensors, **counted}, path.parent / "weights.safetensors")
        content = json.loads(path.read_text())
        del content["layers"]
        path.write_text(json.dumps({**content, "weights": digest_file(path.parent / "weights.safetensors")}))
    for settings in (today, older):
        Trainer(settings, "matched_clock").train(head + 3)
    states = StateStore(older.training_dir / "states", "matched_clock")
    assert states.info(head).builds_on
    assert not states.info(head + 1).builds_on
    scores = [read_predictions(s, "matched_clock", head + 1, head + 4)["score"].to_numpy() for s in (today, older)]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)


def test_a_reader_does_not_touch_what_is_being_written(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    trainer = Trainer(settings, "none")
    trainer.train(FIRST + 2, start=FIRST)
    writing = trainer.states.root / ".abc.tmp"
    writing.mkdir()
    assert trainer.states.head() == FIRST + 2
    assert writing.exists()
    trainer.train(FIRST + 3)  # holds the lock: nobody else writes
    assert not writing.exists()


def test_target_statistics_are_part_of_the_state(ready: Settings, tmp_path: Path) -> None:
    """A chain that is read again for every hour ends with the bits of one that is not; users are counted, too."""
    until = FIRST + 8
    bulk, hourly = fresh(ready, tmp_path / "bulk"), fresh(ready, tmp_path / "hourly")
    for settings in (bulk, hourly):
        (settings.workspace / "ranker.yaml").write_text("target_statistics: true\nembedding_penalty: 0.1\n")
    Trainer(bulk, "none").train(until, start=FIRST, save_every=100)
    for hour in hour_range(FIRST, until + 1):
        Trainer(hourly, "none").train(hour, start=FIRST)
    assert bits_of(bulk, "none", until) == bits_of(hourly, "none", until)
    _, ranker, _ = StateStore(hourly.training_dir / "states", "none").load(until)
    assert float(ranker.users.statistics[1:].sum()) > 0


def test_an_option_that_came_later_does_not_end_a_chain(ready: Settings, tmp_path: Path) -> None:
    """A state that does not know it is one with its default; its digest stays what it was."""
    settings = fresh(ready, tmp_path)
    trainer = Trainer(settings, "none")
    trainer.train(FIRST + 2, start=FIRST)
    path = weights(settings, "none", FIRST + 2).parent / "state.json"
    content = json.loads(path.read_text())
    del content["config"]["experts"]
    path.write_text(json.dumps(content))
    before = trainer.states.info(FIRST + 2).digest
    assert trainer.train(FIRST + 3).parent == before


def test_a_state_of_another_platform_is_named_and_left_alone(ready: Settings, tmp_path: Path) -> None:
    """It was trained with an option that no longer exists; the chain is not continued by accident."""
    settings = fresh(ready, tmp_path)
    Trainer(settings, "none").train(FIRST + 2, start=FIRST)
    path = weights(settings, "none", FIRST + 2).parent / "state.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "config": {**content["config"], "gates": 3}}))
    before = path.read_bytes()
    with pytest.raises(NotReadyError, match=r"does not have \(gates\): .* train it again"):
        Trainer(settings, "none").train(FIRST + 3)
    assert path.read_bytes() == before


def test_samples_see_features_as_of_the_start_of_their_hour(ready: Settings) -> None:
    """Against a brute-force count over the event log: nothing from the hour itself or later."""
    store = EventStore(ready.events_dir)
    samples = SampleStore(ready, store)
    hour = LAST
    drawn = samples.read(hour)
    assert drawn.tables.profiles.num_rows > 3
    past = pa.concat_tables(store.read(h) for h in store.hours() if h < hour)
    for row in drawn.tables.profiles.to_pylist():
        events_of_user = past.filter(pc.equal(past["user_id"], row["user_id"]))
        assert row["events"] == events_of_user.num_rows
        assert row["finish"] == (pc.sum(events_of_user["finish"]).as_py() or 0)
        assert row["as_of"] <= hour.number


def test_offline_and_online_features_are_equal(ready: Settings) -> None:
    store = EventStore(ready.events_dir)
    features = ClockFeatures(ready, store)
    at = ClockState(ready, store).as_of
    assert at is not None
    users = np.unique(np.concatenate([store.read(h)["user_id"].to_numpy() for h in store.hours()[:40]]))
    keys = pa.table({"user_id": users, "hour": np.full(len(users), at.number)})
    offline, online = features.historical(keys), features.online(users.tolist(), at)
    for view in ("slots", "profiles", "history"):
        a, b = getattr(offline, view), getattr(online, view)
        names = sorted(a.column_names)
        assert a.num_rows > 10
        assert a.select(names).to_pylist() == b.select(names).to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["gaussian_clock", "long_term_clock", "matched_clock"])
def test_the_model_learns_and_the_logged_form_predicts_the_same(ready: Settings, tmp_path: Path, variant: str) -> None:
    settings = fresh(ready, tmp_path)
    trainer = Trainer(settings, variant)
    trainer.train(LAST - 1, start=FIRST, save_every=1000)
    info, ranker, optimizer = trainer.states.load(LAST - 1)
    drawn = trainer.samples.read(LAST)
    keys = hour_keys(drawn.tables, ranker)
    straight = predict(ranker, keys)
    frame = drawn.tables.samples.select(["user_id", "item_id", "local_time", *info.facets]).to_pandas()
    profiles = drawn.tables.profiles.to_pandas().set_index("user_id")
    for name in ("events", "finish"):
        frame[name] = frame["user_id"].map(profiles[name]).fillna(0).astype(int)
    slots = {(r["user_id"], r["slot"]): r for r in drawn.tables.slots.to_pylist()}
    for facet in info.facets:
        for part in ("values", "scores"):
            name = f"{facet}_{part}"
            frame[name] = [[(slots.get((u, s)) or {name: []})[name] for s in range(24)] for u in frame["user_id"]]
    empty: dict[str, list[int]] = {"items": [], "minutes": []}
    histories = {r["user_id"]: r for r in drawn.tables.recent_behaviors.to_pylist()}
    frame["slot_events"] = [
        [(slots.get((u, s)) or {"events": 0})["events"] for s in range(24)] for u in frame["user_id"]
    ]
    for name in empty:
        frame[f"history_{name}"] = [histories.get(u, empty)[name] for u in frame["user_id"]]
    served = RankerModel(info, ranker).predict(frame)
    assert np.abs(served.to_numpy() - straight).max() < 1e-6
    first = fit(ranker, optimizer, keys, LAST)
    for _ in range(20):
        last = fit(ranker, optimizer, keys, LAST)
    assert last < first


def test_checkpoints_hold_every_id_seen(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    info = Trainer(settings, "none").train(FIRST + 20, start=FIRST, save_every=100)
    store = EventStore(settings.events_dir)
    users = pd.unique(np.concatenate([store.read(h)["user_id"].to_numpy() for h in hour_range(FIRST, FIRST + 21)]))
    tensors = StateStore(settings.training_dir / "states", "none").tensors(FIRST + 20)
    assert sorted(tensors["tables.users.keys"].tolist()) == sorted(users.tolist())
    assert info.tables["users"] == len(users) + 1


def test_features_that_are_no_numbers_and_hours_without_samples(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    trainer = Trainer(settings, "matched_clock")
    trainer.train(FIRST + 30, start=FIRST, save_every=100)
    info, ranker, optimizer = trainer.states.load(FIRST + 30)
    keys = hour_keys(trainer.samples.read(LAST).tables, ranker)
    broken = replace(keys, dense=np.full_like(keys.dense, np.nan))
    before = {name: t.clone() for name, t in ranker_tensors(ranker).items()}
    with pytest.raises(DataError, match="NaN or infinity"):
        fit(ranker, optimizer, broken, LAST)
    one_class = replace(keys, labels=np.zeros_like(keys.labels))
    assert np.isfinite(fit(ranker, optimizer, one_class, LAST))
    nothing = keys.take(np.empty(0, dtype=np.int64))
    assert predict(ranker, nothing).shape == (0, len(info.heads))
    assert fit(ranker, optimizer, nothing, LAST) == 0
    assert all(torch.isfinite(t.float()).all() for t in ranker_tensors(ranker).values())
    assert before.keys() == ranker_tensors(ranker).keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slot_minutes: 30", "slot_minutes 30 is not that of the clocks, 60; .* set CLOCK_SLOT_MINUTES"),
        ("slot_minutes: 7", "slot_minutes 7"),
        ("split_weekend: true", "CLOCK_SPLIT_WEEKEND"),
        ("top_k: 5", "top_k 5 is more than the 3 that are kept; set CLOCK_TOP_K"),
        ("history_length: 500", "history_length 500"),
        ("variants: {none: {slot_minutes: 120}}", "slot_minutes 120"),
        ("hidden: [-3]", "hidden"),
        ("hidden: [0]", "hidden"),
        ("seed: 99999999999999999999", "seed"),
    ],
)
def test_options_that_contradict_the_clocks_or_cannot_be_trained_are_named(
    tmp_path: Path, text: str, said: str
) -> None:
    settings = load_settings(var=tmp_path, source="simulator")
    settings.workspace.mkdir()
    (settings.workspace / "ranker.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=said):
        load_ranker_config(settings, "none")
    (settings.workspace / "ranker.yaml").write_text("slot_minutes: 60\ntop_k: 2\nhistory_length: 20\n")
    assert load_ranker_config(settings, "none").top_k == 2


def test_a_variant_that_would_never_be_offered_is_named_before_anything_is_computed(tmp_path: Path) -> None:
    two = {"var": tmp_path, "source": "simulator", "variants": ("none", "matched_clock")}
    with pytest.raises(ConfigError, match="CLOCK_CANDIDATE_VARIANT is 'cyclic', which is not among CLOCK_VARIANTS"):
        run_hour(load_settings(**two, candidate_variant="cyclic"), FIRST)
    with pytest.raises(ConfigError, match="CLOCK_BASELINE_VARIANT is 'hour_embedding'"):
        build_history(load_settings(**two), FIRST)
    with pytest.raises(ConfigError, match="no variant 'foo'"):
        build_history(load_settings(**{**two, "variants": ("none", "foo")}), FIRST)


@pytest.mark.parametrize("rate", ["embedding_rate: 1.0e+30", "dense_rate: 1.0e+30"])
def test_training_that_diverges_says_so_and_keeps_the_states_before(ready: Settings, tmp_path: Path, rate: str) -> None:
    settings = fresh(ready, tmp_path)
    Trainer(settings, "matched_clock").train(FIRST + 2, start=FIRST)
    (settings.workspace / "ranker.yaml").write_text(f"variants: {{matched_clock: {{{rate}}}}}\n")
    diverging = Trainer(settings, "matched_clock")
    with pytest.raises(DataError, match=r"matched_clock .*lower embedding_rate or dense_rate"):
        diverging.train(FIRST + 12)
    head = diverging.states.head()
    assert head is not None
    assert head < FIRST + 12
    (settings.workspace / "ranker.yaml").write_text("{}\n")
    diverging.states.drop_after(FIRST + 2)
    assert Trainer(settings, "matched_clock").train(FIRST + 3).hour == (FIRST + 3).key


def test_clocks_of_other_slots_are_refused_where_rankers_are_trained(ready: Settings, tmp_path: Path) -> None:
    """They would be read as if they were those of before: rankers know a slot by its place."""
    settings = fresh(ready, tmp_path)
    (settings.workspace / "features").unlink()
    shutil.copytree(ready.workspace / "features", settings.workspace / "features")
    Trainer(settings, "matched_clock").train(FIRST + 2, start=FIRST)
    state = (settings.features_dir / "state.json").read_bytes()
    for changed, said in (
        ({"slot_minutes": 30}, "CLOCK_SLOT_MINUTES is 30"),
        ({"split_weekend": True}, "SPLIT_WEEKEND"),
    ):
        other = load_settings(var=settings.var, source="simulator", **changed)
        with pytest.raises(ConfigError, match=f"{said}.* set it back, or train in a workspace of its own"):
            advance(other, LAST + 1)
        assert (settings.features_dir / "state.json").read_bytes() == state
    samples = SampleStore(settings, EventStore(settings.events_dir)).read(LAST)
    narrow = Ranker(
        load_ranker_config(settings, "matched_clock").model_copy(update={"slot_minutes": 120}), ["genre"], ["finish"]
    )
    with pytest.raises(DataError, match="the ranker reads clocks of 12"):
        samples.keys(narrow)

"""The average of the dense weights: what it holds, that it scores and does not train, and that it lasts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.hours import Hour, hour_range
from core.settings import Settings
from tests.training.conftest import FIRST, fresh
from training.checkpoint_delta import Tensors
from training.config import RankerConfig, load_ranker_config
from training.model import load_model
from training.running import RunningTrainer
from training.samples import HourSamples
from training.scoring import predict
from training.state import StateStore
from training.state_info import StateInfo
from training.trainer import HourResult, Trainer, fit, read_predictions
from training.weight_average import PREFIX

VARIANT, HALF_LIFE = "hour_embedding", 3.0
DECAY = 0.5 ** (1 / HALF_LIFE)
UNTIL = FIRST + 24


@pytest.fixture(scope="module")
def hourly(ready: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A chain whose scores are by an average, saved after each hour."""
    settings = fresh(ready, tmp_path_factory.mktemp("hourly"))
    averaging(settings).train(UNTIL, start=FIRST)
    return settings


def averaging(settings: Settings, half_life: float = HALF_LIFE) -> Trainer:
    values = load_ranker_config(settings, VARIANT).model_dump()
    return Trainer(settings, VARIANT, config=RankerConfig(**{**values, "average_hours": half_life}))


def tensors_of(settings: Settings, hour: Hour) -> Tensors:
    return StateStore(settings.training_dir / "states", VARIANT).tensors(hour)


def bits(tensors: Tensors) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_the_average_is_that_of_the_weights_at_the_ends_of_the_hours(hourly: Settings) -> None:
    ends = [part(tensors_of(hourly, hour), "dense.") for hour in hour_range(FIRST, UNTIL + 1)]
    shares = [DECAY ** (len(ends) - 1), *((1 - DECAY) * DECAY**age for age in reversed(range(len(ends) - 1)))]
    average = part(tensors_of(hourly, UNTIL), PREFIX)
    assert average.keys() == ends[-1].keys()
    for name, mean in average.items():
        expected = sum(share * end[name].double() for share, end in zip(shares, ends, strict=True))
        assert torch.allclose(mean.double(), torch.as_tensor(expected), rtol=0, atol=1e-5), name
    assert any(not torch.allclose(mean, ends[-1][name], atol=1e-3) for name, mean in average.items())


def test_training_is_the_same_with_an_average_and_without(ready: Settings, hourly: Settings, tmp_path: Path) -> None:
    plain = fresh(ready, tmp_path)
    Trainer(plain, VARIANT).train(UNTIL, start=FIRST)
    ours, theirs = tensors_of(hourly, UNTIL), tensors_of(plain, UNTIL)
    assert {name: b for name, b in bits(ours).items() if not name.startswith(PREFIX)} == bits(theirs)
    averaged, as_trained = (read_predictions(s, VARIANT, UNTIL, UNTIL + 1)["score"].to_numpy() for s in (hourly, plain))
    assert not np.allclose(averaged, as_trained, atol=1e-3)


def test_an_hour_is_scored_by_what_is_served_of_the_state_before_it(hourly: Settings) -> None:
    states = StateStore(hourly.training_dir / "states", VARIANT)
    keys_of = averaging(hourly).samples.read(UNTIL)
    with states.whole(UNTIL - 1) as folder:
        served = load_model(folder).ranker
    _, scorer = states.load_to_score(UNTIL - 1)
    _, trained, optimizer = states.load(UNTIL - 1)
    by_served, by_scorer, by_trained = (predict(r, keys_of.keys(r)) for r in (served, scorer, trained))
    with optimizer.scoring():
        by_average = predict(trained, keys_of.keys(trained))
    at = averaging(hourly).samples.heads.index("finish")
    tested = read_predictions(hourly, VARIANT, UNTIL, UNTIL + 1)["score"].to_numpy()
    known = keys_of.keys(trained).known[:, at]
    for scores in (by_served, by_scorer, by_average):
        assert np.array_equal(scores[known, at].astype(np.float32), tested)
    assert np.array_equal(predict(trained, keys_of.keys(trained)), by_trained)  # the weights are back in their place
    assert not np.allclose(by_trained, by_average, atol=1e-3)


def test_in_bulk_or_hour_by_hour_and_stopped_on_the_way_the_state_is_the_same_to_the_bit(
    ready: Settings, hourly: Settings, tmp_path: Path
) -> None:
    stopped = fresh(ready, tmp_path)

    def fails(results: list[HourResult], following: StateInfo) -> None:
        if results[-1].hour > FIRST + 10:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        averaging(stopped).train(UNTIL, start=FIRST, save_every=7, report=fails)  # type: ignore[arg-type]
    states = StateStore(stopped.training_dir / "states", VARIANT)
    assert states.head() == FIRST + 6
    info = averaging(stopped).train(UNTIL, save_every=100)
    assert info.digest == StateStore(hourly.training_dir / "states", VARIANT).info(UNTIL).digest
    assert bits(tensors_of(stopped, UNTIL)) == bits(tensors_of(hourly, UNTIL))


def test_the_average_of_a_state_without_one_begins_with_its_weights_and_ends_with_the_option(
    ready: Settings, tmp_path: Path
) -> None:
    settings = fresh(ready, tmp_path)
    Trainer(settings, VARIANT).train(FIRST + 8, start=FIRST, save_every=9)
    before = part(tensors_of(settings, FIRST + 8), "dense.")
    averaging(settings).train(FIRST + 9)
    with_average = tensors_of(settings, FIRST + 9)
    now, average = part(with_average, "dense."), part(with_average, PREFIX)
    for name, mean in average.items():
        assert torch.allclose(mean, DECAY * before[name] + (1 - DECAY) * now[name], rtol=0, atol=1e-6), name
    averaging(settings, half_life=24).train(FIRST + 10)
    longer, decay = tensors_of(settings, FIRST + 10), 0.5 ** (1 / 24)
    for name, mean in part(longer, PREFIX).items():
        expected = decay * average[name] + (1 - decay) * longer[f"dense.{name}"]
        assert torch.allclose(mean, expected, rtol=0, atol=1e-6), name
    Trainer(settings, VARIANT).train(FIRST + 11)
    assert not part(tensors_of(settings, FIRST + 11), PREFIX)


def test_layers_that_begin_anew_are_averaged_from_the_end_of_their_first_hour_on(
    hourly: Settings, tmp_path: Path
) -> None:
    settings = fresh(hourly, tmp_path)
    (settings.training_dir / "states").symlink_to(hourly.training_dir / "states")
    values = load_ranker_config(settings, VARIANT).model_dump()
    config = RankerConfig(**{**values, "average_hours": HALF_LIFE, "hidden": (48, 32)})
    _, ranker, optimizer = Trainer(settings, VARIANT, config=config)._resume(UNTIL)
    assert optimizer.average is not None
    kept = part(tensors_of(settings, UNTIL), PREFIX)
    assert optimizer.average.mean.keys() == {name for name in kept if not name.startswith("mlp.")}
    assert all(torch.equal(mean, kept[name]) for name, mean in optimizer.average.mean.items())
    optimizer.end_hour()
    parameters = ranker.named_dense_parameters()
    assert optimizer.average.mean.keys() == parameters.keys()
    assert torch.equal(optimizer.average.mean["mlp.0.weight"], parameters["mlp.0.weight"])


def test_the_lane_serves_what_the_state_would_if_the_hour_ended_now(hourly: Settings, tmp_path: Path) -> None:
    states = StateStore(hourly.training_dir / "states", VARIANT)
    drawn = averaging(hourly).samples.read(UNTIL)
    half = drawn.tables.samples.num_rows // 2
    rows = drawn.tables.samples
    parts = [drawn.tables._replace(samples=each) for each in (rows.slice(0, half), rows.slice(half))]
    pieces = [HourSamples(UNTIL, tables, drawn.digest) for tables in parts]
    with states.whole(UNTIL - 1) as folder:
        lane, base = RunningTrainer("1", folder), load_model(folder)
    _, ranker, optimizer = states.load(UNTIL - 1)
    before = part(states.tensors(UNTIL - 1), PREFIX)
    for number, piece in enumerate(pieces):
        lane.learn(piece)
        fit(ranker, optimizer, piece.keys(ranker), UNTIL)
        published = tmp_path / str(number)
        published.mkdir()
        lane.write(published)
        served = load_model(published, base).ranker.named_dense_parameters()
        for name, p in ranker.named_dense_parameters().items():
            assert torch.allclose(served[name], DECAY * before[name] + (1 - DECAY) * p, rtol=0, atol=1e-6), name
            assert torch.equal(lane.ranker.named_dense_parameters()[name], p), name
    assert not lane.withheld
    with optimizer.scoring():
        by_registered = predict(ranker, drawn.keys(ranker))
    by_lane = predict(load_model(published, base).ranker, drawn.keys(ranker))
    assert not np.allclose(by_lane, by_registered, atol=1e-4)

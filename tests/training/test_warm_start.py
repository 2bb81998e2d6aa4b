"""A chain goes on when the ranker's configuration changes."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.hours import hour_range
from core.settings import Settings
from tests.training.conftest import FIRST, empty_shards, fresh, read_shards
from training.checkpoint_delta import Tensors
from training.config import RankerConfig, load_ranker_config
from training.embedding import first_embeddings
from training.ranker import Ranker
from training.shard_files import merged_shards
from training.sharded import checkpoint
from training.state import StateStore, ranker_tensors, untrained_ranker
from training.state_info import StateInfo, lineage_tags
from training.trainer import Trainer
from training.warm_start import TakeOver, shapes_of

VARIANT, HEAD = "matched_clock", FIRST + 19
TABLES = ("users", "items", "values")


@pytest.fixture(scope="module")
def trained(ready: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A chain with target statistics, saved as a base and a delta."""
    settings = fresh(ready, tmp_path_factory.mktemp("trained"))
    Trainer(settings, VARIANT, config=changed(settings)).train(HEAD, start=FIRST, save_every=18)
    assert StateStore(settings.training_dir / "states", VARIANT).info(HEAD).builds_on
    return settings


def changed(settings: Settings, **changes: Any) -> RankerConfig:
    values = load_ranker_config(settings, VARIANT).model_dump()
    return RankerConfig(**{**values, "target_statistics": True, **changes})


def copy_of(trained: Settings, folder: Path) -> Settings:
    settings = fresh(trained, folder)
    shutil.copytree(trained.training_dir / "states", settings.training_dir / "states")
    return settings


def started(settings: Settings, **changes: Any) -> tuple[StateInfo, Ranker, Tensors, Tensors]:
    """Description and ranker with what they take over, Adam's moments, and the state's tensors."""
    trainer = Trainer(settings, VARIANT, config=changed(settings, **changes))
    info, ranker, optimizer = trainer._resume(HEAD)
    return info, ranker, optimizer.tensors(), trainer.states.tensors(HEAD)


def bits(tensors: Tensors) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_a_change_that_leaves_every_shape_takes_over_everything(
    trained: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = copy_of(trained, tmp_path)
    with caplog.at_level(logging.INFO):
        info, ranker, moments, before = started(settings, batch_size=64, dense_rate=0.01)
    assert bits({**ranker_tensors(ranker), **moments}) == bits(before)
    assert info.warm_start is not None
    assert (info.warm_start.fresh_tables, info.warm_start.fresh_layers) == ((), ())
    (line,) = [record.message for record in caplog.records if "took over" in record.message]
    assert line == (
        f"matched_clock: batch_size 256 → 64, dense_rate 0.002 → 0.01; took over 3 of 3 tables and 6 of 6 layers "
        f"of the state at {HEAD.key}"
    )


def test_the_state_that_follows_says_what_it_came_from_and_so_do_later_ones_and_their_tags(
    trained: Settings, tmp_path: Path
) -> None:
    settings = copy_of(trained, tmp_path)
    trainer = Trainer(settings, VARIANT, config=changed(settings, hidden=(48, 32)))
    before = trainer.states.info(HEAD)
    first = trainer.train(HEAD + 1)
    assert (first.parent, first.builds_on, first.warm_start.hour) == (before.digest, "", HEAD.key)  # type: ignore[union-attr]
    assert first.samples_seen > before.samples_seen
    assert first == replace(trainer.states.info(HEAD + 1), layers=first.layers)
    second = trainer.train(HEAD + 2)
    assert second.parent == first.digest
    assert second.warm_start == first.warm_start
    assert lineage_tags(second)["warm_start"] == str(first.warm_start)
    assert "warm_start" not in lineage_tags(before)
    assert "hidden [64, 32] → [48, 32]" in str(first.warm_start)
    assert trainer.states.info(HEAD) == before


def test_layers_of_another_shape_begin_anew_and_the_others_keep_their_weights_and_moments(
    trained: Settings, tmp_path: Path
) -> None:
    info, ranker, moments, before = started(copy_of(trained, tmp_path), hidden=(48, 32), sequence="din")
    assert info.warm_start is not None
    assert set(info.warm_start.fresh_layers) == {
        "mlp.0",
        "mlp.2",
        "cross.0",
        "head",
        "attention.score.0",
        "attention.score.2",
    }
    assert set(info.warm_start.layers) == {"time", "target_statistics"}
    assert info.warm_start.tables == TABLES
    now, untrained = ranker_tensors(ranker), ranker_tensors(untrained_ranker(info))
    names = [name for name, p in sorted(ranker.named_parameters()) if p.requires_grad]
    old_names = sorted(name.removeprefix("dense.") for name in before if name.startswith("dense."))
    for at, name in enumerate(names):
        kept = name.rpartition(".")[0] in info.warm_start.layers
        assert torch.equal(now[f"dense.{name}"], (before if kept else untrained)[f"dense.{name}"]), name
        assert (f"adam.{at}.exp_avg" in moments) == kept, name
        if kept:
            old = f"adam.{old_names.index(name)}.exp_avg"
            assert torch.equal(moments[f"adam.{at}.exp_avg"], before[old])
            assert before[old].any()
    for name, tensor in now.items():
        if name.startswith("tables."):
            assert torch.equal(tensor, before[name]), name


def test_tables_of_another_width_keep_their_ids_and_counts(trained: Settings, tmp_path: Path) -> None:
    info, ranker, _, before = started(copy_of(trained, tmp_path), dim=8)
    assert info.warm_start is not None
    assert (info.warm_start.tables, info.warm_start.fresh_tables) == ((), TABLES)
    for name, table in ranker.tables.items():
        prefix = f"tables.{name}."
        assert table.keys.tolist() == before[prefix + "keys"].tolist()
        assert torch.equal(table.seen[: table.size], before[prefix + "seen"])
        assert torch.equal(table.statistics[: table.size], before[prefix + "statistics"])
        assert table.statistics.any()
        assert not table.accumulator.any()
        drawn = torch.cat([rows for _, rows in first_embeddings(table.seed, 1, table.size - 1, 8)])
        assert torch.equal(table.weight[1 : table.size], drawn)
        assert not table.weight[0].any()
    assert int(ranker.time_of_day_counts.span[1]) == HEAD.number


def test_counts_that_nobody_kept_begin_anew_beside_those_that_stay(trained: Settings, tmp_path: Path) -> None:
    settings = copy_of(trained, tmp_path)
    Trainer(settings, VARIANT, config=changed(settings, target_statistics=False)).train(HEAD + 1)
    trainer = Trainer(settings, VARIANT, config=changed(settings))
    info, ranker, _ = trainer._resume(HEAD + 1)
    assert info.warm_start is not None
    assert info.warm_start.fresh_counts == ("users",)
    assert "counts of users" in str(info.warm_start)
    assert not ranker.users.statistics.any()
    assert ranker.items.statistics.any()
    trainer.train(HEAD + 2)
    assert trainer.states.load(HEAD + 2)[1].users.statistics.any()


def test_what_is_a_setting_and_not_learned_has_the_new_value(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    config = load_ranker_config(settings, "gaussian_clock")
    Trainer(settings, "gaussian_clock", config=config).train(FIRST + 3, start=FIRST)
    for changes in ({"sigma_hours": 2.0}, {"sigma_hours": 2.0, "learn_sigma": True}):
        trainer = Trainer(settings, "gaussian_clock", config=config.model_copy(update=changes))
        _, ranker, _ = trainer._resume(FIRST + 3)
        assert torch.allclose(ranker.time.log_sigma.exp(), torch.tensor(2.0))  # type: ignore[operator]


def test_an_hour_that_is_stopped_before_its_checkpoint_ends_with_the_bits_of_one_that_is_not(
    trained: Settings, tmp_path: Path
) -> None:
    """So does one in one go, and one that is dropped and trained again."""
    stopped, other = copy_of(trained, tmp_path / "a"), copy_of(trained, tmp_path / "b")
    changes = {"dim": 8, "experts": 2}
    steps = Trainer(stopped, VARIANT, config=changed(stopped, **changes)).steps(HEAD + 3, save_every=2)
    assert [next(steps), next(steps)] == [HEAD + 1, HEAD + 2]  # the second is being trained
    steps.close()
    assert StateStore(stopped.training_dir / "states", VARIANT).head() == HEAD
    Trainer(stopped, VARIANT, config=changed(stopped, **changes)).train(HEAD + 3)
    for hour in hour_range(HEAD + 1, HEAD + 4):
        Trainer(other, VARIANT, config=changed(other, **changes)).train(hour)
    chains = [StateStore(settings.training_dir / "states", VARIANT) for settings in (stopped, other)]
    expected = bits(chains[0].tensors(HEAD + 3))
    assert bits(chains[1].tensors(HEAD + 3)) == expected
    chains[1].drop_after(HEAD)
    again = Trainer(other, VARIANT, config=changed(other, **changes)).train(HEAD + 3)
    assert again.digest == chains[0].info(HEAD + 3).digest
    assert bits(chains[1].tensors(HEAD + 3)) == expected


def test_inputs_that_differ_leave_layers_of_the_same_shape_alone(trained: Settings, tmp_path: Path) -> None:
    """Facets in another order would be read by weights that were learned for others."""
    settings = copy_of(trained, tmp_path)
    states = StateStore(settings.training_dir / "states", VARIANT)
    before, tensors = states.info(HEAD), states.tensors(HEAD)
    for after, layers in (
        (replace(before, facets=tuple(reversed(before.facets))), 0),
        (replace(before, heads=tuple(reversed(before.heads))), 0),
        (before, 6),
    ):
        ranker = untrained_ranker(after)
        take_over = TakeOver.of(before, after, shapes_of(tensors), ranker, ranker.tables)
        assert take_over.info.warm_start is not None
        assert len(take_over.info.warm_start.layers) == layers
        assert take_over.info.warm_start.tables == TABLES


@pytest.mark.parametrize("changes", [{"dim": 8}, {"target_statistics": False}, {"batch_size": 64}])
@pytest.mark.parametrize("ranks", [1, 3])
def test_the_parts_of_several_processes_are_what_one_takes_over(
    trained: Settings, tmp_path: Path, changes: dict[str, Any], ranks: int
) -> None:
    settings = copy_of(trained, tmp_path)
    info, ranker, _, _ = started(settings, **changes)
    states = StateStore(settings.training_dir / "states", VARIANT)
    before, shapes = states.info(HEAD), checkpoint.StateReader(states, HEAD).shapes()
    untrained, parts = untrained_ranker(info), []
    for rank in range(ranks):
        shards = empty_shards(untrained, rank, ranks)
        take_over = TakeOver.of(before, replace(info, parent=""), shapes, untrained, shards)
        assert take_over.info == info
        read_shards(states, HEAD, shards, take_over.parts)
        parts.append(checkpoint.shard_tensors(shards, changed=False))
    expected = {name: tensor for name, tensor in ranker_tensors(ranker).items() if name.startswith("tables.")}
    assert bits(merged_shards(parts, whole=True)) == bits(expected)


def test_scores_after_a_change_of_width_follow_from_kept_counts(trained: Settings, tmp_path: Path) -> None:
    """The chain trains on with finite scores, whatever changed."""
    settings = copy_of(trained, tmp_path)
    for changes in ({"dim": 8}, {"hidden": ()}, {"experts": 3}, {"cross_layers": 0}, {"slot_minutes": 60, "top_k": 2}):
        trainer = Trainer(settings, VARIANT, config=changed(settings, **changes))
        info = trainer.train((trainer.states.head() or HEAD) + 1)
        assert all(np.isfinite(t.numpy()).all() for t in trainer.states.tensors(trainer.states.head() or HEAD).values())
        assert info.warm_start is not None

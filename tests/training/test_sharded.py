"""Several processes train what one trains: real groups of processes on the tiny simulated app."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from core.errors import ConfigError, CorruptStateError, NotReadyError, PlatformError
from core.files import write_parquet
from core.hours import Hour
from core.settings import ROOT, Settings, load_settings
from evaluation.metrics import auc
from evaluation.prediction_table import as_predictions
from events.ingest import ingest
from events.store import EventStore
from feature_repo.materialization import advance
from model_registry.store import download_version
from pipeline.processes import run_group
from pipeline.training import train_hour, train_variants
from tests.conftest import NOW, place_tracking_store, write_mapping
from tests.training.conftest import FIRST, LAST, empty_shards, fresh, read_shards
from tests.training.group_scenarios import rounds
from training.checkpoint_delta import Tensors
from training.config import load_ranker_config
from training.embedding import DRAWN_AT_ONCE, INITIAL_SCALE, GrowingEmbedding, first_embeddings
from training.group import Group
from training.heartbeat import Pulse, pulses
from training.model import load_model
from training.sample_files import read_rows
from training.samples import SampleStore
from training.shard_files import merged_shards, shard_path
from training.sharded import checkpoint
from training.sharded.collection import require_torchrec
from training.sharded.deal import Deal
from training.sharded.hour_table import HourTable
from training.sharded.shard import TableShard
from training.sightings import PARTITIONS, SightingFilter, owners
from training.state import StateStore, ranker_tensors, write_state
from training.state_info import StateInfo
from training.tensors import to_batch
from training.trainer import Trainer, read_predictions, trained_keys
from training.weight_average import PREFIX

VARIANTS = ("adaptive_clock", "gaussian_clock", "long_term_clock", "matched_clock", "naive_clock")
UNTIL = FIRST + 26
Gather = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def of_processes(settings: Settings, processes: int, **changes: object) -> Settings:
    """The same workspace, trained by several processes; a busy machine is given time."""
    return load_settings(
        **{
            "var": settings.var,
            "source": "simulator",
            "train_processes": processes,
            "train_stall_seconds": 240.0,
            **changes,
        }
    )


def states_of(settings: Settings, variant: str) -> StateStore:
    return StateStore(settings.training_dir / "states", variant)


def bits(tensors: Tensors) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def scenario(name: str, folder: Path, *arguments: str, processes: int = 2, **options: object) -> str:
    """Run a command of ``group_scenarios`` in processes of a group."""
    return run_group(
        "tests.training.group_scenarios", name, str(folder), *arguments, processes=processes, folder=folder,
        **{"environment": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, "stall_seconds": 120.0, **options},  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(scope="module")
def by_one(ready: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Trained by one process, with a checkpoint every few hours."""
    settings = fresh(ready, tmp_path_factory.mktemp("one"))
    for variant in VARIANTS:
        Trainer(settings, variant).train(UNTIL, start=FIRST, save_every=5)
    return settings


@pytest.fixture(scope="module")
def by_two(ready: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Trained by two processes."""
    settings = fresh(ready, tmp_path_factory.mktemp("two"))
    place_tracking_store(settings)
    trained = train_variants(of_processes(settings, 2), VARIANTS, UNTIL, save_every=5, log_model=False)
    assert [each.variant for each in trained] == list(VARIANTS)
    assert all(each.hour == UNTIL and each.metrics["samples"] > 0 for each in trained)
    return settings


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_train_what_one_trains(by_one: Settings, by_two: Settings, variant: str) -> None:
    one, two = (states_of(settings, variant) for settings in (by_one, by_two))
    infos = one.info(UNTIL), two.info(UNTIL)
    assert infos[0].digest == infos[1].digest
    assert infos[0].tables == infos[1].tables
    assert (len(infos[0].shards), len(infos[1].shards)) == (0, 2)
    a, b = one.tensors(UNTIL), two.tensors(UNTIL)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, b[name]), name
        elif name.startswith("tables."):  # Adam moves what has no slope by its rounding
            assert torch.allclose(tensor, b[name], atol=2e-3, rtol=1e-3), name
    predictions = [as_predictions(read_predictions(s, variant, FIRST, UNTIL + 1)) for s in (by_one, by_two)]
    assert len(predictions[0]) == len(predictions[1]) > 100
    assert np.abs(predictions[0].scores - predictions[1].scores).max() < 1e-3
    assert auc(predictions[0]).value == pytest.approx(auc(predictions[1]).value, abs=2e-4)


@pytest.mark.slow
def test_each_process_writes_about_its_share_of_the_rows_and_deltas_build_on_each_other(by_two: Settings) -> None:
    states = states_of(by_two, "gaussian_clock")
    chain = states.chain(UNTIL)
    assert len(chain) > 1, "nothing was built on"
    for info in chain:
        folder = states.folder(Hour.parse(info.hour))
        sizes = [path.stat().st_size for path in sorted(folder.glob("shard-*"))]
        assert len(sizes) == len(info.shards) == 2
        assert max(sizes) < 0.75 * sum(sizes)


@pytest.mark.slow
def test_a_state_of_several_processes_is_served_like_any_other(by_one: Settings, by_two: Settings) -> None:
    with states_of(by_two, "matched_clock").whole(UNTIL) as folder:
        model = load_model(folder)
    ranker = states_of(by_one, "matched_clock").load(UNTIL)[1]
    assert torch.equal(torch.from_numpy(model.ranker.users.keys), torch.from_numpy(ranker.users.keys))
    assert model.info.shards == ()


@pytest.mark.slow
def test_the_hour_of_the_dag_is_trained_by_the_processes_that_the_settings_say_and_registered(
    by_two: Settings, tmp_path: Path
) -> None:
    """What ``train_ranker`` calls; and the version that it registers is what the gate and serving load."""
    settings = fresh(by_two, tmp_path)
    shutil.copytree(states_of(by_two, "matched_clock").root, states_of(settings, "matched_clock").root)
    place_tracking_store(settings)
    changed = of_processes(settings, 2, variants=("matched_clock",), candidate_variant="matched_clock")
    (trained,) = train_hour(changed, UNTIL + 1)
    info = states_of(settings, "matched_clock").info(UNTIL + 1)
    assert (trained.digest, len(info.shards)) == (info.digest, 2)
    model = load_model(download_version(settings, trained.registered))
    assert model.info.digest == info.digest
    with states_of(settings, "matched_clock").whole(UNTIL + 1) as folder:
        assert bits(ranker_tensors(model.ranker)) == bits(ranker_tensors(load_model(folder).ranker))


@pytest.mark.slow
def test_two_processes_go_on_with_another_configuration_as_one_does(
    by_one: Settings, by_two: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = [fresh(by_one, tmp_path / "one"), fresh(by_two, tmp_path / "two")]
    for each, trained in zip(settings, (by_one, by_two), strict=True):
        shutil.copytree(states_of(trained, "matched_clock").root, states_of(each, "matched_clock").root)
        (each.workspace / "ranker.yaml").write_text("dim: 8\nexperts: 2\n")
        place_tracking_store(each)
    Trainer(settings[0], "matched_clock").train(UNTIL + 2)
    train_variants(of_processes(settings[1], 2), ["matched_clock"], UNTIL + 2, save_every=2, log_model=False)
    one, two = (states_of(each, "matched_clock").info(UNTIL + 2) for each in settings)
    assert one.warm_start == two.warm_start
    assert one.warm_start is not None
    assert one.warm_start.fresh_tables == ("users", "items", "values")
    assert len(two.shards) == 2
    assert capfd.readouterr().err.count("took over 0 of 3 tables") >= 1
    a, b = (states_of(each, "matched_clock").tensors(UNTIL + 2) for each in settings)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        if name.startswith("tables."):
            assert torch.allclose(tensor, b[name], atol=2e-3, rtol=1e-3), name


@pytest.mark.slow
def test_two_processes_admit_average_and_rank_within_sessions_as_one_does(ready: Settings, tmp_path: Path) -> None:
    settings = [fresh(ready, tmp_path / name) for name in ("one", "two")]
    for each in settings:
        (each.workspace / "ranker.yaml").write_text(
            "admit_after: 4\naccumulator_decay: 0.8\naverage_hours: 3\nsession_loss: 4\n"
        )
        place_tracking_store(each)
    until = FIRST + 8
    Trainer(settings[0], "matched_clock").train(until, start=FIRST, save_every=4)
    train_variants(of_processes(settings[1], 2), ["matched_clock"], until, save_every=4, log_model=False)
    a, b = (states_of(each, "matched_clock").tensors(until) for each in settings)
    assert a.keys() == b.keys()
    assert int(a["tables.users.sightings"].sum()) > 0
    assert len(a["tables.items.keys"]) > 0
    averages = [name for name in a if name.startswith(PREFIX)]
    assert averages
    assert any(not torch.equal(a[name], a[f"dense.{name.removeprefix(PREFIX)}"]) for name in averages)
    for name in averages:
        assert torch.allclose(a[name], b[name], atol=2e-3, rtol=1e-3), name
    for name, tensor in a.items():
        if name.startswith("tables."):
            equal = torch.allclose if tensor.is_floating_point() else torch.equal
            assert equal(tensor, b[name], **({"atol": 2e-3, "rtol": 1e-3} if tensor.is_floating_point() else {})), name


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_any_number_of_processes_reads_a_state_bit_for_bit(
    by_one: Settings, by_two: Settings, tmp_path: Path, processes: int
) -> None:
    """1 or 2 → 4 → 2 → 1 → 3, each from what the one before wrote."""
    original = states_of(by_one if processes == 1 else by_two, "matched_clock")
    expected, info = original.tensors(UNTIL), original.info(UNTIL)
    ranker = original.load(UNTIL)[1]
    states = original
    for ranks in (4, 2, 1, 3):
        parts = []
        for rank in range(ranks):
            shards = empty_shards(ranker, rank, ranks)
            dense = read_shards(states, UNTIL, shards)
            parts.append(checkpoint.shard_tensors(shards, changed=False))
        merged = {**dense, **merged_shards(parts, whole=True)}
        assert bits(merged) == bits(expected), ranks
        states = written_by(tmp_path / str(ranks), info, parts, dense)
        assert bits(states.tensors(UNTIL)) == bits(expected), ranks


def written_by(root: Path, info: StateInfo, parts: list[Tensors], dense: Tensors) -> StateStore:
    """A store with a whole state in as many files as there are parts."""
    states = StateStore(root, info.variant)
    folder = states.folder(UNTIL)
    folder.mkdir(parents=True)
    digests = [checkpoint.write_shard(shard_path(folder, rank, len(parts)), part) for rank, part in enumerate(parts)]
    write_state(folder, replace(info, builds_on="", layers=1, shards=tuple(digests)), dense)
    return states


@pytest.mark.slow
def test_a_shard_that_is_cut_short_is_named_before_anything_is_trained_on_it(by_two: Settings, tmp_path: Path) -> None:
    states = states_of(by_two, "naive_clock")
    copy = StateStore(tmp_path, "naive_clock")
    shutil.copytree(states.root, copy.root)
    shard = shard_path(copy.folder(UNTIL), 1, 2)
    shard.write_bytes(shard.read_bytes()[:-10])
    ranker = states.load(UNTIL)[1]
    for read in (lambda: copy.load(UNTIL), lambda: read_shards(copy, UNTIL, empty_shards(ranker, 0, 2))):
        with pytest.raises(CorruptStateError, match=r"shard-001-of-002.*cut short"):
            read()


def rank_one(settings: Settings) -> psutil.Process:
    """The second of the processes that train a workspace."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for pulse in all_pulses(settings):
            if pulse.rank == 1:
                return psutil.Process(pulse.pid)
        time.sleep(0.05)
    raise AssertionError("no second process was started")


def all_pulses(settings: Settings) -> list[Pulse]:
    return [pulse for folder in (settings.training_dir / "processes").glob("*") for pulse in pulses(folder)]


def wait_for_steps(settings: Settings, steps: int) -> None:
    """Until both processes have gone so many steps."""
    until = time.monotonic() + 180
    while time.monotonic() < until:
        seen = all_pulses(settings)
        if len(seen) == 2 and min(pulse.count for pulse in seen) >= steps:
            return
        time.sleep(0.05)
    raise AssertionError("the processes did not get so far")


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_the_retry_equals_the_undisturbed_run(
    ready: Settings, by_two: Settings, tmp_path: Path
) -> None:
    settings = fresh(ready, tmp_path)
    place_tracking_store(settings)
    errors: list[BaseException] = []

    def train() -> None:
        try:
            train_variants(of_processes(settings, 2), ["matched_clock"], UNTIL, save_every=5, log_model=False)
        except NotReadyError as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    victim = rank_one(settings)
    wait_for_steps(settings, 300)
    victim.kill()
    killed = time.monotonic()
    thread.join(120)
    assert errors, "the victim had done its work before it was killed"
    assert "rank 1 was ended by SIGKILL" in str(errors[0])
    assert time.monotonic() - killed < 60
    train()
    assert len(errors) == 1
    assert bits(states_of(settings, "matched_clock").tensors(UNTIL)) == bits(
        states_of(by_two, "matched_clock").tensors(UNTIL)
    )
    assert not list(states_of(settings, "matched_clock").root.glob(".*.tmp"))


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them_and_a_retry_goes_on_from_the_last_state(
    ready: Settings, by_two: Settings, tmp_path: Path
) -> None:
    settings = fresh(ready, tmp_path)
    place_tracking_store(settings)
    changes = {"CLOCK_VAR": str(settings.var), "CLOCK_SOURCE": "simulator", "CLOCK_TRAIN_PROCESSES": "2"}
    command = [sys.executable, "-m", "pipeline", "train", "gaussian_clock", "--until", UNTIL.key, "--save-every", "5"]
    with subprocess.Popen(
        [*command, "--no-model"], cwd=ROOT, env={**os.environ, **changes, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as started:  # fmt: skip
        wait_for_steps(settings, 300)
        children = psutil.Process(started.pid).children(recursive=True)
        started.kill()
        started.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    train_variants(of_processes(settings, 2), ["gaussian_clock"], UNTIL, save_every=5, log_model=False)
    assert bits(states_of(settings, "gaussian_clock").tensors(UNTIL)) == bits(
        states_of(by_two, "gaussian_clock").tensors(UNTIL)
    )


@pytest.mark.slow
def test_a_process_whose_disk_is_full_is_named_and_nothing_is_half_written(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    variables = {"CLOCK_VAR": str(settings.var), "CLOCK_SOURCE": "simulator", "PYTHONPATH": str(ROOT)}
    with pytest.raises(NotReadyError, match=r"rank 1.*writing its part of the state"):
        scenario(
            "disk-full", settings.training_dir / "processes", "none", (FIRST + 12).key,
            environment={**variables, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    states = states_of(settings, "none")
    head = states.head()
    assert head is None or (head < FIRST + 12 and states.tensors(head))
    assert not [path for path in states.root.iterdir() if path.is_dir() and not path.name.startswith("hour=")]


@pytest.mark.slow
def test_what_goes_wrong_in_one_process_goes_wrong_in_all_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rank 1(, reading)?: the file is torn"):
        scenario("one-fails", tmp_path / "a")
    with pytest.raises(ConfigError, match="rank 1 has another plan than rank 0"):
        scenario("differ", tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "doing"), [("one-hangs", "thinking"), ("one-stops", "waiting for the others")])
def test_a_process_that_stands_still_is_named(tmp_path: Path, name: str, doing: str) -> None:
    begun = time.monotonic()
    with pytest.raises(NotReadyError, match=rf"rank 1 stands still \({doing}\)"):
        scenario(name, tmp_path, stall_seconds=6.0)
    assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_processes_exchange_rows_and_sum_gradients(tmp_path: Path) -> None:
    every = json.loads(scenario("exchange", tmp_path, processes=3))
    for rank, (got, gradients, ranks) in enumerate(every):
        assert got == [[[10 * other + rank] * 2] * (other + rank) for other in range(3)]
        assert gradients == [[6.0, 6.0], [1.0, 1.0], None]
        assert ranks == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("after", "decay"), [(1, 1.0), (2, 0.7)])
def test_a_table_of_three_processes_grows_and_forgets_like_that_of_one_to_the_bit(
    tmp_path: Path, after: int, decay: float
) -> None:
    one = GrowingEmbedding(5, 7, 2, SightingFilter(after, 16 * PARTITIONS) if after > 1 else None, decay)
    for hour, keys in rounds():
        one.grow(keys, hour)
        if hour < 60:
            one.accumulator[: one.size] = torch.arange(one.size).float()
        one.statistics[: one.size] = torch.arange(one.size)[:, None].double()
        if hour == 40:
            gone = one.expire(30)
            one.mark_saved()
            whole = {name: tensor.clone() for name, tensor in one.state().items()}
    delta = one.delta()
    assert delta is not None
    assert 40 < gone < one.size + 200
    assert decay == 1 or len(np.unique(one.accumulator[1 : one.size] / torch.arange(1, one.size))) > 2
    assert int(scenario("grow", tmp_path, str(after), str(decay), processes=3)) == gone
    for name, expected in (("whole", whole), ("delta", delta)):
        parts = [load_file(tmp_path / f"{name}-{rank}") for rank in range(3)]
        named = [{f"tables.t.{key}": tensor for key, tensor in part.items()} for part in parts]
        merged = merged_shards(named, whole=name == "whole")
        assert bits(merged) == bits({f"tables.t.{key}": tensor for key, tensor in expected.items()})


def test_ids_are_spread_evenly_and_always_in_the_same_way() -> None:
    keys = np.arange(-50_000, 50_000) * 7
    for ranks in (2, 3, 8):
        counts = np.bincount(owners(keys, ranks), minlength=ranks)
        assert counts.sum() == len(keys)
        assert counts.max() < 1.03 * len(keys) / ranks
    assert np.array_equal(owners(keys[:100], 4), owners(keys, 4)[:100])


@pytest.mark.parametrize("count", [0, 1, 5, 256, 257, 1000, 4096, 70_000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_sample_is_dealt_once_and_steps_are_those_of_one_process(count: int, ranks: int) -> None:
    deal = Deal(count, 256, ranks, row_group=2048)
    rows = [deal.rows(rank) for rank in range(ranks)]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(count))
    assert len(deal.samples()) == len(deal.edges(0)) == -(-count // 256)
    assert deal.samples().sum() == count
    assert deal.samples().max(initial=0) < 256 + (ranks if deal.window > 256 else 1)
    for rank in range(ranks):
        assert np.all(np.diff(rows[rank]) > 0)
        assert deal.edges(rank)[-1:].tolist() in ([], [len(rows[rank])])
    if deal.window == 256:
        for step in range(len(deal.samples())):
            members = np.concatenate(
                [
                    r[e[step - 1] if step else 0 : e[step]]
                    for r, e in zip(rows, map(deal.edges, range(ranks)), strict=True)
                ]
            )
            assert np.array_equal(np.sort(members), np.arange(256 * step, min(256 * (step + 1), count)))


def test_of_a_long_hour_each_process_reads_its_own_row_groups(tmp_path: Path) -> None:
    count, group = 40_000, 2048
    write_parquet(tmp_path / "hour.parquet", pa.table({"at": np.arange(count)}), row_group=group)
    deal = Deal(count, 256, 2, row_group=group)
    read = [set((deal.rows(rank)[: -(count % (2 * group)) or None] // group).tolist()) for rank in range(2)]
    assert read[0].isdisjoint(read[1])
    file = pq.ParquetFile(tmp_path / "hour.parquet")
    for rank in range(2):
        assert read_rows(file, deal.rows(rank))["at"].to_pylist() == deal.rows(rank).tolist()
    assert read_rows(file, np.empty(0, dtype=np.int64)).num_rows == 0


def test_parts_of_an_hour_have_the_features_of_their_own_users(ready: Settings) -> None:
    store = SampleStore(ready, EventStore(ready.events_dir))
    whole = store.read(LAST)
    assert store.count(LAST) == whole.tables.samples.num_rows > 20
    for rows in (np.arange(3), np.array([0, 4, store.count(LAST) - 1])):
        part = store.read_part(LAST, rows)
        assert part.tables.samples.equals(whole.tables.samples.take(rows))
        users = set(part.tables.samples["user_id"].to_pylist())
        assert set(part.tables.profiles["user_id"].to_pylist()) <= users
        assert 0 < part.tables.profiles.num_rows <= len(users) <= 3 < whole.tables.profiles.num_rows
        ranker = Trainer(ready, "matched_clock", store)._fresh()[1]
        part_keys, all_keys = part.keys(ranker), whole.keys(ranker)
        assert np.array_equal(part_keys.dense, all_keys.dense[rows])
        assert np.array_equal(
            part_keys.clock_values[part_keys.user_position], all_keys.clock_values[all_keys.user_position[rows]]
        )


def noting(rows_looked_up: set[int], gather: Gather, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows_looked_up |= set(rows.reshape(-1).tolist())
    return gather(rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ranker_looks_up_no_embedding_that_it_does_not_name(
    ready: Settings, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not fetched raises; so ``reads`` names everything that ``forward`` looks up."""
    settings = ready
    store = SampleStore(settings, EventStore(settings.events_dir))
    config = load_ranker_config(settings, variant).model_copy(update={"sequence": "din"})
    ranker = Trainer(settings, variant, store, config)._fresh()[1]
    keys = store.read(LAST).keys(ranker)
    for name, grown in trained_keys(ranker, keys).items():
        ranker.tables[name].grow(grown)
    batch = next(iter(ranker.cut(to_batch(keys, ranker), [20, len(keys)])))
    named = {name: set(torch.cat([r.reshape(-1) for r in rows]).tolist()) for name, rows in ranker.reads(batch).items()}
    looked_up: dict[str, set[int]] = {name: set() for name in named}
    for name, table in ranker.tables.items():
        monkeypatch.setattr(table, "_gather", partial(noting, looked_up[name], table._gather))
    ranker(batch)
    assert all(looked_up[name] for name in ("users", "items", "values"))
    for name, rows in looked_up.items():
        assert rows <= named[name], name


def test_an_embedding_that_was_not_fetched_is_refused() -> None:
    table = HourTable(empty_shard())
    table.open(np.array([3, 5, 9]), np.array([1, 2, 3]), torch.zeros(3, 0))
    assert table.rows(np.array([5, 4, 9])).tolist() == [2, 0, 3]
    table.hold(torch.tensor([0, 2]), torch.ones(2, 4))
    assert table(torch.tensor([2, 0])).shape == (2, 4)
    with pytest.raises((IndexError, RuntimeError)):
        table(torch.tensor([3]))


def empty_shard() -> TableShard:
    return TableShard(4, 1, 0, Group())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "count", [1, 5, DRAWN_AT_ONCE - 1, DRAWN_AT_ONCE, DRAWN_AT_ONCE + 1, DRAWN_AT_ONCE + 17, 150_000]
)
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_first_embeddings_drawn_in_chunks_are_those_of_one_draw(count: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(7 * 1_000_003 + 5)
    drawn = torch.cat([rows for _, rows in first_embeddings(7, 5, count, dim)])
    assert torch.equal(drawn, INITIAL_SCALE * torch.randn(count, dim, generator=generator))


def test_an_id_that_takes_over_the_row_of_an_expired_one_begins_with_nothing() -> None:
    table = GrowingEmbedding(4, 1, width=2)
    table.grow(np.arange(10), 1)
    table.accumulator[:11], table.statistics[:11] = 5, 3
    table.grow(np.arange(5), 100)
    assert table.expire(50) == 5
    table.grow(np.array([50, 51]), 101)
    rows = table.rows(np.array([50, 51]))
    assert table.accumulator[rows].tolist() == [0, 0]
    assert table.statistics[rows].tolist() == [[0, 0], [0, 0]]
    assert table.accumulator[table.rows(np.arange(5))].tolist() == [5] * 5


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ids_expire_also_where_nothing_happens_in_the_first_hour_of_any_day(tmp_path: Path, processes: int) -> None:
    settings = load_settings(var=tmp_path / "var", source="test")
    hours = [FIRST + 24 * day + hour for day in range(4) for hour in (2, 3)]
    rows = [
        (100 + (hour.number - FIRST.number) // 24 * 10 + n, n, hour.start.isoformat(), "g")
        for hour in hours
        for n in range(6)
    ]
    pd.DataFrame(rows, columns=["uid", "track", "ts", "genre"]).to_csv(tmp_path / "log.csv", index=False)
    mapping = write_mapping(
        tmp_path, columns="columns: {user_id: uid, item_id: track}", behaviors="behaviors: {finish: 'track % 2 = 0'}"
    )
    ingest(str(mapping), [str(tmp_path / "log.csv")], settings, now=NOW)
    advance(settings, hours[-1] + 1)
    (settings.workspace / "ranker.yaml").write_text("expire_days: 1\n")
    if processes == 1:
        Trainer(settings, "none").train(hours[-1], save_every=12)
    else:
        place_tracking_store(settings)
        several = of_processes(settings, 2, source="test")
        train_variants(several, ["none"], hours[-1], save_every=12, log_model=False)
    keys = states_of(settings, "none").tensors(hours[-1])["tables.users.keys"].tolist()
    assert sorted(keys) == [100 + day * 10 + n for day in (2, 3) for n in range(6)]


def test_without_the_extra_several_processes_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrec", None)
    with pytest.raises(ConfigError, match=r"requirements-distributed\.txt"):
        require_torchrec()


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["embedding_rate: 1.0e+30", "dense_rate: 1.0e+30"])
def test_two_processes_that_diverge_say_so_and_keep_no_such_state(ready: Settings, tmp_path: Path, rate: str) -> None:
    settings = fresh(ready, tmp_path)
    place_tracking_store(settings)
    (settings.workspace / "ranker.yaml").write_text(f"variants: {{matched_clock: {{batch_size: 8, {rate}}}}}\n")
    with pytest.raises(PlatformError, match=r"matched_clock diverged on .*lower embedding_rate or dense_rate"):
        train_variants(of_processes(settings, 2), ("matched_clock",), FIRST + 12, log_model=False)
    states = states_of(settings, "matched_clock")
    for hour in states.hours():
        ranker = states.load(hour)[1]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in ranker_tensors(ranker).values())

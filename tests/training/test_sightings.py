"""Ids get a row once they were seen often enough."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from core.hours import hour_range
from core.settings import Settings
from tests.training.conftest import FIRST, empty_shards, fresh, read_shards
from training.config import RankerConfig, load_ranker_config
from training.embedding import UNKNOWN, GrowingEmbedding
from training.forget import forget_states
from training.ranker import Ranker
from training.shard_files import merged_shards
from training.sharded import checkpoint
from training.sightings import FULL, MOST_SIGHTINGS, PARTITIONS, SightingFilter, cells_of, owners
from training.state import StateStore, ranker_tensors
from training.trainer import Trainer, read_predictions

SMALL = 16 * PARTITIONS
VARIANT, UNTIL = "matched_clock", FIRST + 8
ADMITTING = "admit_after: 3\naccumulator_decay: 0.9\n"
"""Sums that decay are state, too."""


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@settings(max_examples=30)
@given(hours=st.lists(st.lists(st.integers(-50, 50), max_size=60), max_size=6), after=st.integers(2, 5))
def test_an_id_gets_its_row_in_the_hour_in_which_it_was_seen_often_enough(hours: list[list[int]], after: int) -> None:
    """So few ids share no cell, so that the filter is exact; a plain count is the oracle."""
    table, seen = GrowingEmbedding(2, 1, 0, SightingFilter(after, SMALL)), Counter[int]()
    for hour, keys in enumerate(hours):
        table.grow(np.array(keys, dtype=np.int64), hour)
        seen.update(keys)
        assert set(table.keys.tolist()) == {key for key, count in seen.items() if count >= after}


def test_ids_that_share_cells_are_counted_too_often_and_never_too_rarely() -> None:
    draws, counted = np.random.default_rng(1), SightingFilter(3, SMALL)
    seen, early = Counter[int](), 0
    for _ in range(6):
        keys, sightings = np.unique(draws.integers(0, 250_000, 80_000), return_counts=True)
        seen.update(dict(zip(keys.tolist(), sightings.tolist(), strict=True)))
        admitted = counted.admit(keys, sightings)
        truly = np.array([seen[key] >= 3 for key in keys.tolist()])
        assert not (truly & ~admitted).any()
        early += int((admitted & ~truly).sum())
    assert 0 < early < 0.1 * len(seen)


def test_a_full_filter_begins_a_new_generation_and_forgets_the_one_before_the_last() -> None:
    counted, rounds = SightingFilter(2, SMALL), iter(np.arange(1, 40_000_001).reshape(-1, 100_000))
    known = np.array([-7])

    def fill() -> None:
        while counted.filled <= FULL * SMALL:
            keys = next(rounds)
            counted.admit(keys, np.ones(len(keys), dtype=np.int64))

    assert not counted.admit(known, np.array([1]))[0]
    memory = counted.counts.nbytes
    fill()
    counted.begin(counted.filled)
    assert counted.moved
    assert counted.filled == 0
    fresh_ids = np.arange(-100_000, -90_000)
    wrong = counted.admit(fresh_ids, np.ones(len(fresh_ids), dtype=np.int64)).mean()
    assert 0 < wrong < 0.1
    assert counted.admit(known, np.array([1]))[0], "the generation before still counts"
    fill()
    counted.begin(counted.filled)
    fill()
    counted.begin(counted.filled)
    cells = cells_of(known, SMALL)
    assert counted.counts[0, cells].max() == 0
    assert counted.counts.nbytes == memory


def test_counts_end_at_the_largest_that_a_cell_holds() -> None:
    counted = SightingFilter(MOST_SIGHTINGS, SMALL)
    assert not counted.admit(np.array([5]), np.array([MOST_SIGHTINGS - 1]))[0]
    assert counted.admit(np.array([5]), np.array([10**9]))[0]
    assert counted.counts.max() == MOST_SIGHTINGS


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_the_filters_of_several_processes_are_parts_of_that_of_one(ranks: int) -> None:
    keys = np.random.default_rng(2).integers(-(2**62), 2**62, 5000)
    sightings = np.random.default_rng(3).integers(1, 5, 5000)
    one, admitted = SightingFilter(3, SMALL), dict[int, bool]()
    expected = dict(zip(keys.tolist(), one.admit(keys, sightings).tolist(), strict=True))
    cells = []
    for rank in range(ranks):
        part, mine = one.part(rank, ranks), owners(keys, ranks) == rank
        admitted |= dict(zip(keys[mine].tolist(), part.admit(keys[mine], sightings[mine]).tolist(), strict=True))
        cells.append(part.state())
        again = one.part(rank, ranks)
        again.add(one.state()["cells"].numpy(), one.state()["sightings"].numpy())
        assert bits(again.state()) == bits(part.state())
    assert admitted == expected
    assert np.concatenate([c["cells"].numpy() for c in cells]).tolist() == one.state()["cells"].tolist()
    assert sum(part["sightings"].sum() for part in cells) == one.state()["sightings"].sum()


@pytest.fixture(scope="module")
def admitting(ready: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Trained with a checkpoint every hour."""
    settings = fresh(ready, tmp_path_factory.mktemp("admitting"))
    (settings.workspace / "ranker.yaml").write_text(ADMITTING)
    for hour in hour_range(FIRST, UNTIL + 1):
        Trainer(settings, VARIANT).train(hour, start=FIRST)
    return settings


def states_of(settings: Settings) -> StateStore:
    return StateStore(settings.training_dir / "states", VARIANT)


def loaded(settings: Settings) -> Ranker:
    return states_of(settings).load(UNTIL)[1]


def test_ids_without_a_row_train_the_row_of_unknown_ids(admitting: Settings, ready: Settings) -> None:
    ranker, trainer = loaded(admitting), Trainer(admitting, VARIANT)
    seen: dict[str, Counter[int]] = {"users": Counter(), "items": Counter()}
    for hour in hour_range(FIRST, UNTIL + 1):
        samples = trainer.samples.read(hour).tables.samples
        seen["users"].update(samples["user_id"].to_pylist())
        seen["items"].update(samples["item_id"].to_pylist())
    for name, counts in seen.items():
        table = ranker.tables[name]
        assert set(table.keys.tolist()) == {key for key, count in counts.items() if count >= 3}
        assert 0 < table.size - 1 < len(counts)
        assert table.weight[UNKNOWN].any()
        assert float(table.accumulator[UNKNOWN]) > 0
        assert int(table.seen[UNKNOWN]) == 0
    assert ranker.values.sightings is None
    kinds = set(read_predictions(admitting, VARIANT, UNTIL, UNTIL + 1)["item_kind"].to_pylist())
    assert kinds <= {"known", "new"}


def test_counts_of_sightings_are_state_that_builds_on_the_one_before(
    admitting: Settings, ready: Settings, tmp_path: Path
) -> None:
    """A chain that is read again for every hour ends with the bits of one that is not, and one that goes on after a stop."""
    bulk = fresh(ready, tmp_path)
    (bulk.workspace / "ranker.yaml").write_text(ADMITTING)
    steps = Trainer(bulk, VARIANT).steps(UNTIL, start=FIRST, save_every=4)
    for _ in range(6):
        next(steps)
    steps.close()
    assert states_of(bulk).head() == FIRST + 3
    Trainer(bulk, VARIANT).train(UNTIL, save_every=100)
    assert states_of(admitting).info(UNTIL).builds_on
    assert bits(states_of(admitting).tensors(UNTIL)) == bits(states_of(bulk).tensors(UNTIL))
    assert bits(states_of(admitting).tensors(UNTIL)) == bits(
        {**states_of(admitting).tensors(UNTIL), **ranker_tensors(loaded(admitting))}
    )


@pytest.mark.parametrize("ranks", [1, 3])
def test_any_number_of_processes_reads_the_sightings(admitting: Settings, ranks: int) -> None:
    states, ranker, parts = states_of(admitting), loaded(admitting), []
    for rank in range(ranks):
        shards = empty_shards(ranker, rank, ranks)
        read_shards(states, UNTIL, shards)
        parts.append(checkpoint.shard_tensors(shards, changed=False))
    expected = {name: t for name, t in states.tensors(UNTIL).items() if name.startswith("tables.")}
    assert bits(merged_shards(parts, whole=True)) == bits(expected)


def test_an_id_is_admitted_at_once_where_nothing_else_is_said(ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    Trainer(settings, VARIANT).train(FIRST + 1, start=FIRST)
    names = StateStore(settings.training_dir / "states", VARIANT).tensors(FIRST + 1).keys()
    assert not [name for name in names if name.endswith(("cells", "sightings"))]


def test_admission_begins_and_ends_in_a_running_chain(admitting: Settings, ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    config = load_ranker_config(settings, VARIANT).model_dump()

    def trained(hour: int, **changes: int) -> Ranker:
        trainer = Trainer(settings, VARIANT, config=RankerConfig(**{**config, **changes}))
        trainer.train(FIRST + hour, start=FIRST)
        return trainer.states.load(FIRST + hour)[1]

    rows = trained(1).users.size
    begun = trained(2, admit_after=200)
    assert begun.users.size == rows
    assert begun.users.sightings is not None
    before = int(begun.users.sightings.counts.sum())
    other = trained(3, admit_after=100)
    assert other.users.sightings is not None
    assert int(other.users.sightings.counts.sum()) > before > 0, "the counts go on"
    assert trained(4).users.size > rows


def test_a_person_who_is_forgotten_leaves_no_sightings(admitting: Settings, ready: Settings, tmp_path: Path) -> None:
    settings = fresh(ready, tmp_path)
    (settings.workspace / "ranker.yaml").write_text(ADMITTING)
    Trainer(settings, VARIANT).train(FIRST + 3, start=FIRST, save_every=2)
    states = states_of(settings)
    ranker = states.load(FIRST + 3)[1]
    samples = Trainer(settings, VARIANT).samples.read(FIRST).tables.samples
    user = next(u for u in samples["user_id"].to_pylist() if not int(ranker.users.rows(np.array([u]))[0]))
    cells = cells_of(np.array([user]), load_ranker_config(settings, VARIANT).admission_cells)[0]
    assert ranker.users.sightings is not None
    assert ranker.users.sightings.counts[0, cells].min() >= 1
    assert forget_states(settings, [user]) >= 1
    again = states.load(FIRST + 3)[1].users.sightings
    assert again is not None
    assert again.counts[:, cells].max() == 0
    assert forget_states(settings, [user]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("admit_after: 0", "admit_after"),
        ("admit_after: 300", "admit_after"),
        ("admission_cells: 1000", "admission_cells"),
        ("admission_cells: 4194305", "admission_cells"),
    ],
)
def test_a_wrong_admission_is_named(ready: Settings, tmp_path: Path, text: str, said: str) -> None:
    settings = fresh(ready, tmp_path)
    (settings.workspace / "ranker.yaml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=said):
        load_ranker_config(settings, VARIANT)

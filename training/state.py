"""Trained states: the chain ``state(H) = train(state(H − 1), samples(H))`` on disk.

Layout below the workspace's ``training/states/<variant>``::

    hour=2026-11-23T10/weights.safetensors   tensors of the ranker and its optimizers
    hour=2026-11-23T10/state.json            hour, lineage (parent, data, config, code), file digests
    hour=2026-11-23T10/shard-000-of-002.safetensors  the tables' rows of one of several processes (``training.shard_files``)

A day's last state has every tensor, others only what changed since the one that they build on (``training.checkpoint_delta``).
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import CorruptStateError, DataError
from core.files import (
    digest_file,
    exclusive_lock,
    recover_directories,
    replaced_directory,
    temporary_directory,
    write_json,
)
from core.hours import Hour
from training.checkpoint_delta import Tensors, apply, table_bytes
from training.device import CPU
from training.optimizer import Optimizer
from training.ranker import Ranker
from training.shard_files import merged_shards, shard_path
from training.state_info import StateInfo, read_info
from training.weight_average import scoring_weights

RECENT_HOURS = 48
"""States of this many last hours are kept, and the last one of every day."""
WORTHWHILE = 0.5
"""A state builds on another where what changed of its tables is at most this share of them."""
MOST_LAYERS = 24
"""Most files that a state may be spread over."""
WEIGHTS = "weights.safetensors"


def ranker_tensors(ranker: Ranker) -> dict[str, Tensor]:
    """Every tensor of the ranker, on the CPU: its dense parameters and the used rows of its tables, copied from a GPU only."""
    return {**dense_part(ranker), **_table_parts({name: table.state() for name, table in ranker.tables.items()})}


def changed_tensors(ranker: Ranker) -> Tensors | None:
    """Like ``ranker_tensors``, but of the tables only what the last checkpoint lacks; None if it cannot serve as a base."""
    deltas = {name: table.delta() for name, table in ranker.tables.items()}
    known = {name: delta for name, delta in deltas.items() if delta is not None}
    return {**dense_part(ranker), **_table_parts(known)} if len(known) == len(deltas) else None


def dense_part(ranker: Ranker) -> Tensors:
    """What belongs to no table: dense parameters, the time that counts are of, bins of numbers."""
    dense = {f"dense.{name}": p.data.cpu() for name, p in ranker.named_parameters()}
    bins = {name: torch.from_numpy(array.copy()) for name, array in ranker.numbers.state().items()}
    return {**dense, "rhythm": ranker.time_of_day_counts.span, **bins}


def _table_parts(tables: dict[str, dict[str, Tensor]]) -> Tensors:
    return {f"tables.{name}.{part}": tensor for name, parts in tables.items() for part, tensor in parts.items()}


def scoring_ranker(tensors: Tensors, info: StateInfo) -> Ranker:
    """The ranker that a state describes, with the weights that score: the average's, where the state has one."""
    return load_ranker({**tensors, **scoring_weights(tensors)}, info)


def load_ranker(tensors: Tensors, info: StateInfo) -> Ranker:
    """The ranker that a state describes, with its tensors, as it was trained."""
    ranker = untrained_ranker(info)
    for name, table in ranker.tables.items():
        prefix = f"tables.{name}."
        table.load({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
    load_dense_part(ranker, tensors)
    return ranker


def load_to_train(tensors: Tensors, info: StateInfo, device: torch.device = CPU) -> tuple[Ranker, Optimizer]:
    """The ranker that a state describes with its optimizer, in a device's memory; what it learns from here on is noted.

    Args:
        tensors: every one of the state.
        info: the state's description.
        device: where to train.
    """
    ranker = load_ranker(tensors, info).to(device)
    optimizer = Optimizer(ranker)
    optimizer.load(tensors)
    if _as_written_today(tensors, ranker):
        _mark_saved(ranker)
    return ranker, optimizer


def load_dense_part(ranker: Ranker, tensors: Mapping[str, Tensor]) -> None:
    """Take what ``dense_part`` gave."""
    ranker.time_of_day_counts.span.copy_(tensors["rhythm"])
    ranker.numbers.load({name: tensors[name].numpy() for name in ranker.numbers.state()})
    with torch.no_grad():
        for name, p in ranker.named_parameters():
            p.copy_(tensors[f"dense.{name}"])


class StateStore:
    """The states of one variant."""

    def __init__(self, root: Path, variant: str) -> None:
        self.root, self.variant = root / variant, variant

    def folder(self, hour: Hour) -> Path:
        return self.root / f"hour={hour.key}"

    def hours(self) -> list[Hour]:
        """Hours that have a state, in order."""
        return sorted(Hour.parse(p.parent.name.removeprefix("hour=")) for p in self.root.glob("hour=*/state.json"))

    @property
    def lock_file(self) -> Path:
        """Held while the states are written; who writes several variants takes theirs in the order of these paths."""
        return self.root.parent / f".{self.variant}.lock"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For one writer at a time, the others wait; what a crash left of a write is undone first."""
        with exclusive_lock(self.lock_file):
            recover_directories(self.root)
            yield

    def head(self) -> Hour | None:
        """Latest hour trained, None before the first."""
        hours = self.hours()
        return hours[-1] if hours else None

    def info(self, hour: Hour) -> StateInfo:
        """The state's description."""
        path = self.folder(hour) / "state.json"
        if not path.exists():
            raise DataError(f"no state of '{self.variant}' at {hour}; there are {[h.key for h in self.hours()][-5:]}")
        return read_info(path.parent)

    def tensors(self, hour: Hour) -> Tensors:
        """Every tensor of a state.

        Raises:
            CorruptStateError: one of its files does not match its digest.
        """
        return self._read(self.chain(hour))

    def _read(self, chain: Sequence[StateInfo]) -> Tensors:
        return apply([self.link(info) for info in reversed(chain)])

    def chain(self, hour: Hour) -> list[StateInfo]:
        """The state and those that it builds on, down to a whole one."""
        chain = [self.info(hour)]
        while on := chain[-1].builds_on:
            if not (self.folder(Hour.parse(on)) / "state.json").exists():
                raise CorruptStateError(
                    f"the state of '{self.variant}' at {chain[-1].hour} builds on {on}, which is gone; remove "
                    f"{self.folder(Hour.parse(chain[-1].hour))} and what is later, and train again"
                )
            chain.append(self.info(Hour.parse(on)))
        return chain

    def link(self, info: StateInfo) -> Tensors:
        """The tensors of a state's own files, those of several processes put together."""
        weights, *shards = map(load_file, self.files(info))
        return {**weights, **merged_shards(shards, whole=not info.builds_on)} if shards else weights

    def files(self, info: StateInfo) -> list[Path]:
        """A state's own files, the dense part's first.

        Raises:
            CorruptStateError: one does not match its digest.
        """
        folder = self.folder(Hour.parse(info.hour))
        digests = {folder / WEIGHTS: info.weights}
        digests |= {shard_path(folder, rank, len(info.shards)): digest for rank, digest in enumerate(info.shards)}
        for path, digest in digests.items():
            if not path.exists() or digest_file(path) != digest:
                raise CorruptStateError(
                    f"{path} is damaged or cut short; remove {path.parent} (and what is later, which builds on it) and "
                    "train again: it continues from the state before"
                )
        return list(digests)

    def load(self, hour: Hour, device: torch.device = CPU) -> tuple[StateInfo, Ranker, Optimizer]:
        """A state ready to train on, in a device's memory; ``CorruptStateError`` as ``tensors``."""
        chain = self.chain(hour)
        info = replace(chain[0], layers=len(chain))
        return info, *load_to_train(self._read(chain), info, device)

    def load_to_score(self, hour: Hour) -> tuple[StateInfo, Ranker]:
        """A state ready to score with; ``CorruptStateError`` as ``tensors``."""
        return self.info(hour), scoring_ranker(self.tensors(hour), self.info(hour))

    def save(
        self, info: StateInfo, ranker: Ranker, optimizer: Optimizer, *, since: StateInfo | None = None
    ) -> StateInfo:
        """Write a state, by rename, and forget states that are no longer needed. No earlier state's tensors are read.

        Args:
            info: the state's description.
            ranker: to be saved.
            optimizer: to be saved.
            since: the state that the ranker was loaded from or last saved as, None where there is none: what is written
                may then build on it.

        Returns:
            The description as it was written.
        """
        hour = Hour.parse(info.hour)
        delta = changed_tensors(ranker) if since is not None and self.is_base(since, hour) else None
        if since is None or delta is None or table_bytes(delta) > WORTHWHILE * _bytes_of_tables(ranker):
            tensors, on, layers = ranker_tensors(ranker), "", 1
        else:
            tensors, on, layers = delta, since.hour, since.layers + 1
        tensors = {name: t.contiguous() for name, t in {**tensors, **optimizer.tensors()}.items()}
        sizes = {name: table.size for name, table in ranker.tables.items()}
        with replaced_directory(self.folder(hour)) as target:
            info = write_state(target, replace(info, tables=sizes, builds_on=on, layers=layers), tensors)
        _mark_saved(ranker)
        self.drop_unneeded(hour)
        return info

    def is_base(self, since: StateInfo, hour: Hour) -> bool:
        """Whether the state of an hour may build on another one; a day's last state stands alone."""
        if not since.hour or not since.layers or since.layers >= MOST_LAYERS or (hour + 1).day != hour.day:
            return False
        base = Hour.parse(since.hour)
        return base < hour and (self.folder(base) / "state.json").exists()

    @contextmanager
    def whole(self, hour: Hour) -> Iterator[Path]:
        """A folder of the state with every tensor: its own, or a temporary one for the ``with`` block."""
        info = self.info(hour)
        if not info.builds_on and not info.shards:
            yield self.folder(hour)
            return
        with temporary_directory("clock-state-") as scratch:
            target = scratch / self.folder(hour).name
            target.mkdir()
            write_state(target, replace(info, builds_on="", shards=()), self.tensors(hour))
            yield target

    def drop_after(self, hour: Hour) -> list[Hour]:
        """Remove states later than ``hour``, for a replay; returns the hours removed."""
        with self.writing():
            later = [h for h in self.hours() if h > hour]
            for h in reversed(later):
                shutil.rmtree(self.folder(h))
        return later

    def remove(self, hours: Iterable[Hour]) -> int:
        """Remove states, but not those that others build on; returns how many."""
        states, removed = self.hours(), 0
        following: Hour | None = None
        unwanted = set(hours)
        for hour in reversed(states):  # a state builds on the one before it, if on any
            if hour not in unwanted or (following is not None and self.info(following).builds_on == hour.key):
                following = hour
            else:
                shutil.rmtree(self.folder(hour))
                removed += 1
        return removed

    def drop_unneeded(self, head: Hour) -> None:
        """Remove states that lie further back than the last hours and are not the last of their day."""
        self.remove(
            hour
            for hour, following in itertools.pairwise(self.hours())
            if hour < head - RECENT_HOURS and hour.day == following.day
        )


def _as_written_today(tensors: Tensors, ranker: Ranker) -> bool:
    """Whether a checkpoint's tables have today's types: older ones counted in 32 bits, and a delta cannot build on them."""
    return all(
        tensors[f"tables.{name}.{part}"].dtype == getattr(table, part).dtype
        for name, table in ranker.tables.items()
        for part in table.parts
    )


def _mark_saved(ranker: Ranker) -> None:
    for table in ranker.tables.values():
        table.mark_saved()


def _bytes_of_tables(ranker: Ranker) -> int:
    """Size of the tables in a whole checkpoint."""
    rows = (table.size * getattr(table, part)[:1].nbytes for table in ranker.tables.values() for part in table.parts)
    counted = sum(table.sightings.nbytes for table in ranker.tables.values() if table.sightings is not None)
    return sum(rows) + counted + sum(table.keys.nbytes for table in ranker.tables.values())


def untrained_ranker(info: StateInfo) -> Ranker:
    """A ranker of the form that a state describes."""
    return Ranker(info.ranker_config, info.facets, info.heads, info.context, info.attributes)


def write_state(folder: Path, info: StateInfo, tensors: Tensors) -> StateInfo:
    """Write a state's tensors and its description into a folder; returns the description with the digest of its file."""
    save_file(tensors, folder / WEIGHTS)
    info = replace(info, weights=digest_file(folder / WEIGHTS))
    write_json(folder / "state.json", {**asdict(info), "digest": info.digest})
    return info

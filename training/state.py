"""Trained states: the chain ``state(H) = train(state(H − 1), samples(H))`` on disk.

Layout below the workspace's ``training/states/<variant>``::

    hour=2026-11-23T10/weights.safetensors   tensors of the ranker and its optimizers
    hour=2026-11-23T10/state.json            hour, lineage (parent, data, config, code), file digest

A day's last state has every tensor, others only what changed since the one that they build on (``training.checkpoint_delta``).
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import CorruptStateError, DataError, NotReadyError
from core.files import (
    digest_file,
    digest_json,
    digest_text,
    exclusive_lock,
    read_json,
    recover_directories,
    replaced_directory,
    write_json,
)
from core.hours import Hour
from training.checkpoint_delta import Tensors, apply, diff, table_bytes
from training.config import RankerConfig, code_version
from training.device import CPU
from training.embedding import ALONE
from training.group import Group
from training.optimizer import Optimizer
from training.ranker import Ranker

RECENT_HOURS = 48
"""States of this many last hours are kept, and the last one of every day."""
WORTHWHILE = 0.5
"""A state builds on another where what changed of its tables is at most this share of them."""
MOST_LAYERS = 24
"""A state stands on so many files at most."""
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class StateInfo:
    """What a state is and what it came from.

    Attributes:
        hour: last hour trained on.
        parent: digest of the state before, empty for the first.
        data: digest of the samples trained on since the state before.
        digest: identifies the state: of parent, data, config and code.
        weights: digest of its file.
        builds_on: hour of the state whose tensors its own complete; empty where they are whole.
    """

    variant: str
    hour: str
    parent: str
    data: str
    config: dict[str, Any]
    code: str
    samples_seen: int
    facets: tuple[str, ...]
    heads: tuple[str, ...]
    weights: str = ""
    builds_on: str = ""
    tables: dict[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return lineage_digest(self.parent, self.data, digest_json(self.config), self.code)

    @property
    def ranker_config(self) -> RankerConfig:
        """What it was trained with; an option that came later has its default.

        Raises:
            NotReadyError: it was trained with an option that is no more.
        """
        try:
            return RankerConfig(**self.config)
        except ValidationError as error:
            wrong = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
            raise NotReadyError(
                f"the state of '{self.variant}' at {self.hour} was trained with options that this platform does not have "
                f"({wrong}): move the states of this variant away to train it anew"
            ) from None


def read_info(folder: Path) -> StateInfo:
    """The description in a state's folder, wherever that folder lies."""
    content = read_json(folder / "state.json")
    known = {f.name for f in fields(StateInfo)}
    content = {name: value for name, value in content.items() if name in known}  # older states said more
    return StateInfo(**{**content, **{name: tuple(content[name]) for name in ("facets", "heads")}})


def lineage_digest(parent: str, data: str, config: str, code: str) -> str:
    """Digest that identifies a state by where it comes from."""
    return digest_text(parent, data, config, code)


def ranker_tensors(ranker: Ranker) -> dict[str, Tensor]:
    """Every tensor of the ranker, on the CPU: its dense parameters and the used rows of its tables, copied from a GPU only."""
    tables = {
        f"tables.{name}.{part}": tensor
        for name, table in ranker.tables.items()
        for part, tensor in table.state().items()
    }
    dense = {f"dense.{name}": p.data.cpu() for name, p in ranker.named_parameters()}
    return {**dense, **tables, "rhythm": ranker.time_of_day_counts.span}


def load_ranker(
    tensors: dict[str, Tensor], config: RankerConfig, facets: Sequence[str], heads: Sequence[str]
) -> Ranker:
    """A ranker with the given tensors."""
    ranker = Ranker(config, facets, heads)
    for name, table in ranker.tables.items():
        prefix = f"tables.{name}."
        table.load({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
    ranker.time_of_day_counts.span.copy_(tensors["rhythm"])
    with torch.no_grad():
        for name, p in ranker.named_parameters():
            p.copy_(tensors[f"dense.{name}"])
    return ranker


class StateStore:
    """The states of one variant."""

    def __init__(self, root: Path, variant: str) -> None:
        self.root, self.variant = root / variant, variant

    def folder(self, hour: Hour) -> Path:
        return self.root / f"hour={hour.key}"

    def hours(self) -> list[Hour]:
        """Hours that have a state, in order."""
        return sorted(Hour.parse(p.parent.name.removeprefix("hour=")) for p in self.root.glob("hour=*/state.json"))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For one writer at a time, the others wait; what a crash left of a write is undone first."""
        with exclusive_lock(self.root.parent / f".{self.variant}.lock"):
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
            CorruptStateError: a file that it stands on does not match its digest.
        """
        return self._read(self._chain(hour))

    def _read(self, chain: Sequence[StateInfo]) -> Tensors:
        return apply([self._verified(info) for info in reversed(chain)])

    def _chain(self, hour: Hour) -> list[StateInfo]:
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

    def _verified(self, info: StateInfo) -> Tensors:
        path = self.folder(Hour.parse(info.hour)) / WEIGHTS
        if not path.exists() or digest_file(path) != info.weights:
            raise CorruptStateError(
                f"{path} is damaged or cut short; remove {path.parent} (and what is later, which builds on it) and "
                "train again: it continues from the state before"
            )
        return load_file(path)

    def load(self, hour: Hour, group: Group = ALONE, device: torch.device = CPU) -> tuple[StateInfo, Ranker, Optimizer]:
        """A state ready to train on, in a device's memory; ``CorruptStateError`` as ``tensors``."""
        info, tensors = self.info(hour), self.tensors(hour)
        ranker = load_ranker(tensors, info.ranker_config, info.facets, info.heads).to(device)
        optimizer = Optimizer(ranker, group)
        optimizer.load(tensors)
        return info, ranker, optimizer

    def save(self, info: StateInfo, ranker: Ranker, optimizer: Optimizer) -> StateInfo:
        """Write a state, by rename, and forget states that are no longer needed."""
        hour = Hour.parse(info.hour)
        tensors = {name: t.contiguous() for name, t in {**ranker_tensors(ranker), **optimizer.tensors()}.items()}
        sizes = {name: table.size for name, table in ranker.tables.items()}
        changed, on = self._changed(hour, tensors)
        with replaced_directory(self.folder(hour)) as target:
            info = _write(target, replace(info, tables=sizes, builds_on=on), changed)
        self._forget(hour)
        return info

    def _changed(self, hour: Hour, tensors: Tensors) -> tuple[Tensors, str]:
        """What a new state has to hold, and the hour of the state that this completes: all of it and none, if need be."""
        before = [h for h in self.hours() if h < hour]
        if before and (hour + 1).day == hour.day:
            chain = self._chain(before[-1])
            delta = diff(self._read(chain), tensors) if len(chain) < MOST_LAYERS else None
            if delta is not None and table_bytes(delta) <= WORTHWHILE * table_bytes(tensors):
                return delta, before[-1].key
        return tensors, ""

    @contextmanager
    def whole(self, hour: Hour) -> Iterator[Path]:
        """A folder of the state with every tensor: its own, or one for the length of the ``with`` block."""
        info = self.info(hour)
        if not info.builds_on:
            yield self.folder(hour)
            return
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / self.folder(hour).name
            target.mkdir()
            _write(target, replace(info, builds_on=""), self.tensors(hour))
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
        unwanted, removed = set(hours), 0
        needed: set[str] = set()
        if not unwanted:
            return 0
        for hour in reversed(self.hours()):  # a state builds on an earlier one
            if hour in unwanted and hour.key not in needed:
                shutil.rmtree(self.folder(hour))
                removed += 1
            else:
                needed.add(self.info(hour).builds_on)
        return removed

    def _forget(self, head: Hour) -> None:
        self.remove(
            hour
            for hour, following in itertools.pairwise(self.hours())
            if hour < head - RECENT_HOURS and hour.day == following.day
        )


def _write(folder: Path, info: StateInfo, tensors: Tensors) -> StateInfo:
    save_file(tensors, folder / WEIGHTS)
    info = replace(info, weights=digest_file(folder / WEIGHTS))
    write_json(folder / "state.json", {**asdict(info), "digest": info.digest})
    return info


def new_info(config: RankerConfig, facets: Sequence[str], heads: Sequence[str]) -> StateInfo:
    """Description of the state before any training."""
    return StateInfo(
        variant=config.variant, hour="", parent="", data="", config=config.model_dump(mode="json"),
        code=code_version(), samples_seen=0, facets=tuple(facets), heads=tuple(heads),
    )  # fmt: skip

"""Removes people from what was trained on them: samples, predictions, and their rows in the rankers' tables.

A row of a table is not taken out, as every later checkpoint counts on its number: its key becomes one that no user has, and its
values become zeros. It was last seen at hour 0, so the next day's expiry gives it back. What all users share (other tables,
layers) stays as it was trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from core.files import read_json, replaced_directory, write_json
from core.hours import Hour
from core.settings import Settings
from events.forget import filter_parquet
from events.store import EventStore
from training.checkpoint_delta import WITHOUT_ROWS, Tensors
from training.sample_files import samples_digest, writing_samples
from training.samples import SampleStore
from training.shard_files import SHARD_PATTERN
from training.sightings import cells_of
from training.state import WEIGHTS, StateStore, write_state
from training.state_info import StateInfo, read_info

USERS = "tables.users"
NOBODY = int(np.iinfo(np.int64).min)
"""Plus a row's number, the key of a row that was given up; no log counts its users from the least of 64 bits on."""
NOBODIES = 1 << 48


def forget_samples(settings: Settings, numbers: Sequence[int], stale: Collection[Hour]) -> dict[str, int]:
    """Remove users from samples and predictions. Samples stay those of their hour's events, unless they were not before.

    Args:
        settings: of the workspace.
        numbers: the platform's numbers of the users.
        stale: hours whose samples were not built from their events as they were before people were removed.

    Returns:
        Rows of samples with their features, and of predictions, that were removed.
    """
    store = EventStore(settings.events_dir)
    samples = SampleStore(settings, store) if store.hours() else None
    removed, root = {"samples": 0, "predictions": 0}, settings.training_dir / "samples"
    with writing_samples(root):
        for meta_file in sorted(root.glob("hour=*/meta.json")):
            hour, meta = Hour.parse(meta_file.parent.name.removeprefix("hour=")), read_json(meta_file)
            inputs = meta["inputs"]
            if samples is not None and hour not in stale and store.has(hour):
                inputs = {**inputs, "events": store.manifest(hour).digest}
            with replaced_directory(meta_file.parent) as target:
                shutil.copytree(meta_file.parent, target, dirs_exist_ok=True)
                tables = [path for path in sorted(target.glob("*.parquet")) if path.stem != "item_attributes"]
                rows = {path.stem: filter_parquet(path, "user_id", numbers) for path in tables}
                removed["samples"] += sum(rows.values())
                digest = samples_digest(target) if any(rows.values()) else meta["digest"]
                write_json(
                    target / "meta.json",
                    {**meta, "inputs": inputs, "rows": meta["rows"] - rows["samples"], "digest": digest},
                )
    for path in sorted((settings.training_dir / "predictions").glob("*/*.parquet")):
        removed["predictions"] += filter_parquet(path, "user_id", numbers)
    return removed


def forget_states(settings: Settings, numbers: Sequence[int]) -> int:
    """Remove users from every trained state and downloaded version; returns the files that were written again."""
    written = 0
    for folder in sorted((settings.training_dir / "states").glob("[!.]*")):
        states = StateStore(folder.parent, folder.name)
        with states.writing():
            written += _forget_chain(states, numbers)
    for weights in sorted((settings.training_dir / "versions").rglob(WEIGHTS)):
        written += forget_state(weights.parent, numbers)
    return written


def forget_state(folder: Path, numbers: Sequence[int]) -> bool:
    """Remove users from a folder with a whole state; returns whether it had any."""
    tensors = load_file(folder / WEIGHTS)
    changed = bool(_give_up(tensors, numbers, 1, ())[1]) | _forget_sightings(tensors, numbers, read_info(folder))
    if changed:
        _write(folder, tensors)
    return changed


def _forget_chain(states: StateStore, numbers: Sequence[int]) -> int:
    """Remove users from states that build on each other; the oldest first, as it says which row is whose."""
    written = 0
    given_up: dict[str, tuple[int, frozenset[int]]] = {}
    for hour in states.hours():
        info = states.info(hour)
        tensors = states.link(info)
        size, rows = given_up[info.builds_on] if info.builds_on else (1, frozenset())
        every, changed = _give_up(tensors, numbers, size, rows)
        given_up[hour.key] = size + len(tensors[f"{USERS}.keys"]), frozenset(every)
        if _forget_sightings(tensors, numbers, info) | changed:
            _write(states.folder(hour), tensors)
            written += 1
    return written


def _give_up(tensors: Tensors, numbers: Sequence[int], size: int, before: Iterable[int]) -> tuple[set[int], bool]:
    """Let rows of the users' table belong to nobody.

    Args:
        tensors: of a state, whole or what it changed; they are changed in place.
        numbers: of the users.
        size: rows of the state that it builds on; 1 where it is whole.
        before: rows that were given up in that state.

    Returns:
        The rows that belong to nobody in this state, and whether its tensors changed.
    """
    keys = tensors[f"{USERS}.keys"].numpy()
    theirs = np.isin(keys, np.array(numbers, dtype=np.int64))
    rows = {*before, *(size + np.flatnonzero(theirs | (keys < NOBODY + NOBODIES))).tolist()}
    keys[theirs] = NOBODY + size + np.flatnonzero(theirs)
    here = tensors.get(f"{USERS}.rows")
    numbered = torch.arange(len(keys) + 1) if here is None else here
    at = torch.isin(numbered, torch.tensor(sorted(rows), dtype=torch.int64))
    changed = bool(theirs.any())
    for name, tensor in tensors.items():
        if name.startswith(f"{USERS}.") and name.removeprefix(f"{USERS}.") not in {"rows", *WITHOUT_ROWS}:
            changed = changed or bool(tensor[at].any())
            tensor[at] = 0
    return rows, changed


def _forget_sightings(tensors: Tensors, numbers: Sequence[int], info: StateInfo) -> bool:
    """Empty the cells that count sightings of users without a row; others that share one are given a row later for it.

    Args:
        tensors: of a state; they are changed in place.
        numbers: of the users.
        info: the state's description.

    Returns:
        Whether anything was counted there.
    """
    if f"{USERS}.cells" not in tensors:
        return False
    size, sightings = info.ranker_config.admission_cells, tensors[f"{USERS}.sightings"]
    cells = tensors[f"{USERS}.cells"].numpy() % size
    theirs = torch.from_numpy(np.isin(cells, cells_of(np.array(numbers, dtype=np.int64), size)))
    counted = bool(sightings[theirs].any())
    sightings[theirs] = 0
    return counted


def _write(folder: Path, tensors: Tensors) -> None:
    """Write a state again, in one file whatever the number of its shards was."""
    with replaced_directory(folder) as target:
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SHARD_PATTERN))
        write_state(target, replace(read_info(folder), shards=()), tensors)

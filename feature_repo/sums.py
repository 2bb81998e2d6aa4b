"""The window's sums on disk: a base for every slot, for the users and the items, and what each hour since then changed.

Layout below the workspace's ``features``::

    sums/<name>-<as of>-<n>/<part>/    base of a slot (its number), of ``users`` or of ``items``
    sums/<as of>-<n>/<part>/           delta: what a refresh changed, in every slot

Counts add up, so a sum is its base and the deltas since: positive where events came, negative where they
expired. An hour writes a delta, as large as its traffic; bases whose deltas have grown as large as they are
get folded, a few an hour. ``users``, the whole day of each, takes its deltas from those of the slots.

Parts, with their keys: a facet's number (user_id, slot, value), ``all`` (user_id, slot), ``everyone-<facet>``
(slot, value), ``everyone-all`` (slot), ``items`` (item_id); those of ``users`` are without slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core.documents import JsonObject
from core.errors import CorruptStateError
from core.files import digest_files, digest_text, files_stamp
from core.sql_engine import Engine, parquet_parts

FOLD_LAYERS = 48
"""A base with that many deltas is folded however small they are: reading opens each."""
FileDigests = Callable[[Sequence[Path]], Mapping[Path, str]]
"""Gives the SHA-256 of files, in hex."""
FOLD_HOURS = 24
"""Hours in which every base could have its turn: bounds what one hour folds."""


@dataclass(frozen=True)
class Layer:
    """A folder of sums.

    Attributes:
        folder: its name.
        digest: of its files, taken when they were written.
        number: the refresh that wrote it; 0 for a rebuild.
        rows: how many each name has in it, of those that have any.
        stamp: sizes and times of its files when they last matched the digest; empty: not known.
    """

    folder: str
    digest: str
    number: int
    rows: Mapping[str, int]
    stamp: str = ""


@dataclass(frozen=True)
class Sums:
    """Which folders make up the sums.

    Attributes:
        root: where they lie.
        bases: by name: a slot's number, ``users``, ``items``.
        deltas: those that some base does not hold yet, oldest first.
    """

    root: Path
    bases: Mapping[str, Layer]
    deltas: tuple[Layer, ...] = ()

    @classmethod
    def from_json(cls, root: Path, content: Mapping[str, Any]) -> Sums | None:
        """From their description in ``state.json``; None where an older platform wrote it.

        Args:
            root: folder of the sums.
            content: what ``as_json`` gave.
        """
        if "bases" not in content:
            return None
        bases = {name: Layer(**layer) for name, layer in content["bases"].items()}
        return cls(root, bases, tuple(Layer(**layer) for layer in content["deltas"]))

    def as_json(self) -> JsonObject:
        """Their description for ``state.json``."""
        return {
            "bases": {name: asdict(layer) for name, layer in self.bases.items()},
            "deltas": [asdict(layer) for layer in self.deltas],
        }

    @property
    def slots(self) -> list[str]:
        """Numbers of the slots that have a base."""
        return [name for name in self.bases if name.isdigit()]

    @property
    def folders(self) -> set[str]:
        """Names of all folders that make up the sums."""
        return {layer.folder for layer in (*self.bases.values(), *self.deltas)}

    def since(self, name: str) -> list[Layer]:
        """The deltas that a base does not hold."""
        return [delta for delta in self.deltas if self._lacks(name, delta)]

    def _lacks(self, name: str, delta: Layer) -> bool:
        return name in delta.rows and delta.number > self.bases[name].number

    def with_delta(self, delta: Layer) -> Sums:
        """With another delta, the newest."""
        return replace(self, deltas=(*self.deltas, delta))

    def with_bases(self, bases: Mapping[str, Layer]) -> Sums:
        """With new bases; deltas that no base needs any more are dropped."""
        folded = replace(self, bases={**self.bases, **bases})
        kept = {layer.folder for name in folded.bases for layer in folded.since(name)}
        return replace(folded, deltas=tuple(layer for layer in self.deltas if layer.folder in kept))

    def due(self) -> list[str]:
        """Bases to fold now: those with the most in their deltas, a few at a time."""
        weights = {}
        for name, base in self.bases.items():
            since = self.since(name)
            changed = sum(layer.rows[name] for layer in since)
            if changed and (changed >= base.rows.get(name, 0) or len(since) >= FOLD_LAYERS):
                weights[name] = changed / max(base.rows.get(name, 0), 1)
        few = math.ceil(len(self.bases) / FOLD_HOURS)
        return sorted(weights, key=lambda name: (-weights[name], name))[:few]

    def rows(self, engine: Engine, names: Sequence[str], part: str, columns: str) -> str:
        """SELECT of the rows of some bases and their deltas; a key may come more than once, its counts add up.

        Args:
            engine: reads them.
            names: one or more slots, or ``users`` or ``items`` alone.
            part: name of one of their parts.
            columns: what to select, comma separated.
        """
        bases = [path for name in names for path in self._files([self.bases[name]], part)]
        selects = [f"SELECT {columns} FROM {engine.files(bases)} b"]
        sharing: dict[tuple[str, ...], list[Layer]] = {}
        for delta in self.deltas:
            if wanted := tuple(name for name in names if self._lacks(name, delta)):
                sharing.setdefault(wanted, []).append(delta)
        for slots, deltas in sharing.items():
            only = f" WHERE slot IN ({', '.join(slots)})" if slots[0].isdigit() else ""
            selects.append(f"SELECT {columns} FROM {engine.files(self._files(deltas, part))} d{only}")
        return " UNION ALL ".join(selects)

    def _files(self, layers: Iterable[Layer], part: str) -> list[Path]:
        return [path for layer in layers for path in parquet_parts(self.root / layer.folder / part)]

    def checked(self, names: Iterable[str], digests: FileDigests = digest_files) -> Sums:
        """The sums, once the folders of some bases and their deltas are known to hold what was written.

        A folder whose files are as they were when they last matched is not read again: an hour reads what changed, not
        everything. ``verify`` reads everything.

        Args:
            names: slots, ``users``, ``items``.
            digests: reads files that have changed.

        Raises:
            CorruptStateError: a folder does not hold what was written.
        """
        layers = {layer.folder: layer for name in names for layer in (self.bases[name], *self.since(name))}
        stamps = {folder: folder_stamp(self.root / folder) for folder in layers}
        changed = [layer for folder, layer in layers.items() if stamps[folder] != layer.stamp]
        self._verify(changed, digests)
        fresh = {layer.folder: replace(layer, stamp=stamps[layer.folder]) for layer in changed}
        return replace(
            self,
            bases={name: fresh.get(layer.folder, layer) for name, layer in self.bases.items()},
            deltas=tuple(fresh.get(layer.folder, layer) for layer in self.deltas),
        )

    def verify(self) -> None:
        """Compare every file with its digest.

        Raises:
            CorruptStateError: a folder does not hold what was written.
        """
        self._verify([*self.bases.values(), *self.deltas], digest_files)

    def _verify(self, layers: Sequence[Layer], digests: FileDigests) -> None:
        stored = folder_digests([self.root / layer.folder for layer in layers], digests)
        for layer in layers:
            if stored[self.root / layer.folder] != layer.digest:
                raise CorruptStateError(
                    f"the sums in {self.root / layer.folder} are damaged; "
                    "run 'clock features rebuild' to compute them again from the events"
                )


def folder_digests(folders: Sequence[Path], digests: FileDigests) -> dict[Path, str]:
    """Digest of every file below each of some folders of sums.

    Args:
        folders: of sums.
        digests: reads the files.
    """
    files = {folder: sorted(folder.rglob("*.parquet")) for folder in folders}
    of_files = digests([path for paths in files.values() for path in paths])
    return {folder: digest_text(*(of_files[path] for path in paths)) for folder, paths in files.items()}


def folder_stamp(folder: Path) -> str:
    """Names, sizes and times of change of every file below a folder of sums, in short."""
    return files_stamp(folder, sorted(folder.rglob("*.parquet")))

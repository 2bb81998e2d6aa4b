"""Which hours of a store changed since somebody last looked, without a look at every hour.

Layout below the store's root::

    .changes/list            its id, then the key of every hour that was written and is not as before, in that order
    .changes/<hour>          while that hour is being written; a crash leaves it

A reader keeps the position up to which it knows the list. An hour whose writing was cut short counts as changed for every
reader until the next writer has put it on the list, so no change is missed.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError
from core.files import append_lines, end_of_lines, lines_since, write_text
from core.hours import Hour

LIST = "list"


@dataclass(frozen=True)
class ChangePosition:
    """How far somebody knows a list: the list's id, and bytes of it."""

    list_id: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> ChangePosition:
        """Read what ``str`` wrote.

        >>> str(ChangePosition.parse("a1@40"))
        'a1@40'
        """
        list_id, _, offset = text.partition("@")
        return cls(list_id, int(offset))

    def __str__(self) -> str:
        return f"{self.list_id}@{self.offset}"


class ChangeList:
    """The list of a store's changes.

    Args:
        root: the store's.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / ".changes"
        self.path = self.folder / LIST

    def begin(self, hour: Hour) -> None:
        """Note that an hour is about to be written. For one writer at a time, as all that follows."""
        self._create()
        (self.folder / hour.key).touch()

    def end(self, hour: Hour, *, changed: bool) -> None:
        """Note that an hour was written, and whether it is another one than before."""
        if changed:
            self.add(hour)
        (self.folder / hour.key).unlink()

    def add(self, hour: Hour) -> None:
        """Put an hour on the list."""
        self._create()
        append_lines(self.path, [hour.key])

    def recover(self) -> None:
        """Put the hours on the list whose writing was cut short."""
        for hour in self._being_written():
            self.end(hour, changed=True)

    def position(self) -> ChangePosition:
        """Where the list ends now."""
        self._create()
        return ChangePosition(self._id(), end_of_lines(self.path))

    def since(self, position: ChangePosition) -> set[Hour] | None:
        """Hours that were written after a position, or are being written.

        Returns:
            None where this is not the list of the position, or it is damaged: everything may have changed.
        """
        hours = self._being_written()  # first: one that ends meanwhile is on the list when that is read
        if not self.path.exists() or self._id() != position.list_id or end_of_lines(self.path) < position.offset:
            return None
        try:
            return hours | {Hour.parse(line) for line in lines_since(self.path, position.offset)}
        except (ConfigError, UnicodeDecodeError):
            return None

    def _being_written(self) -> set[Hour]:
        if not self.folder.exists():
            return set()
        return {Hour.parse(name) for name in os.listdir(self.folder) if name[0].isdigit()}  # noqa: PTH208 (names alone)

    def _id(self) -> str:
        with self.path.open("rb") as file:
            return file.readline().decode(errors="replace").strip()

    def _create(self) -> None:
        if not self.path.exists():
            write_text(self.path, f"{uuid.uuid4().hex}\n")

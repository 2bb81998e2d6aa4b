"""How far the lane is, as others see it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from core.errors import NotReadyError
from core.files import read_json, write_json
from core.settings import Settings


@dataclass(frozen=True)
class LaneStatus:
    """How far the lane is.

    Attributes:
        as_of: key of the hour that the clocks hold for; empty before there are any.
        events: of the hours since, counted in.
        users: whose features online are newer than the clocks.
        rejected: rows that could not be read.
        newest: time of the newest event that counts, None without any.
        written: when the features were last written, None if they were not yet.
        step_seconds: how long the last rows took from the look at the log to the online store.
        problem: what keeps the lane from going on, empty if nothing does.
    """

    as_of: str
    events: int = 0
    users: int = 0
    rejected: int = 0
    newest: str | None = None
    written: str | None = None
    step_seconds: float = 0.0
    problem: str = ""

    @classmethod
    def read(cls, settings: Settings) -> LaneStatus:
        """The status that the lane wrote last.

        Raises:
            NotReadyError: no lane has run in this workspace.
        """
        path = status_file(settings)
        if not path.exists():
            raise NotReadyError(f"no lane has run for '{settings.source}' yet; 'clock stream follow' starts it")
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in read_json(path).items() if name in names})

    def write(self, settings: Settings) -> None:
        """Put the status where others read it."""
        write_json(status_file(settings), asdict(self))


def last_seen(settings: Settings) -> float:
    """When a lane last looked at the log, seconds since 1970; 0 if none ever did."""
    path = status_file(settings)
    return path.stat().st_mtime if path.exists() else 0.0


def look_alive(settings: Settings) -> None:
    """Note that the lane looked at the log."""
    os.utime(status_file(settings))


def status_file(settings: Settings) -> Path:
    """Where the lane's status stands."""
    return settings.streaming_dir / "status.json"

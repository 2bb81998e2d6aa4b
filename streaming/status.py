"""How far the lane is, as others see it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from core.documents import JsonObject
from core.errors import NotReadyError
from core.files import read_json, write_json
from core.settings import Settings


@dataclass(frozen=True)
class TrainingStatus:
    """What the lane has trained.

    Attributes:
        parameters: published for serving, by the names that answers give them.
        trained: time of the newest sample that one of them was trained on, None if none is published.
        samples: of the hour that they were trained on.
        withheld: version → why its parameters are not published.
        train_seconds: how long the last step took from the events to what is published, for all versions.
    """

    parameters: list[str] = field(default_factory=list)
    trained: str | None = None
    samples: int = 0
    withheld: dict[str, str] = field(default_factory=dict)
    train_seconds: float = 0.0


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
        training: what it has trained, None if it does not train.
    """

    as_of: str
    events: int = 0
    users: int = 0
    rejected: int = 0
    newest: str | None = None
    written: str | None = None
    step_seconds: float = 0.0
    problem: str = ""
    training: TrainingStatus | None = None

    @classmethod
    def read(cls, settings: Settings) -> LaneStatus:
        """The status that the lane wrote last.

        Raises:
            NotReadyError: no lane has run in this workspace.
        """
        path = status_file(settings)
        if not path.exists():
            raise NotReadyError(f"no lane has run for '{settings.source}' yet; 'clock stream follow' starts it")
        content = _known(cls, read_json(path))
        training = content.pop("training", None)
        return cls(**content, training=TrainingStatus(**_known(TrainingStatus, training)) if training else None)

    def write(self, settings: Settings) -> None:
        """Put the status where others read it."""
        write_json(status_file(settings), asdict(self))


def _known(of: type, content: JsonObject) -> JsonObject:
    """What this platform's class has of a file that another version may have written."""
    names = {field.name for field in fields(of)}
    return {name: value for name, value in content.items() if name in names}


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

"""The version of a workspace's files: read before anything is written, so that no code guesses at another's layout."""

from __future__ import annotations

from core.errors import ConfigError
from core.files import read_json, write_json
from core.settings import Settings

STATE_VERSION = 3
"""Raised when the layout of a workspace changes; ``operations.migrations`` then has a step from the one before."""


def state_version(settings: Settings) -> int | None:
    """The version of a workspace; None: nothing is there yet."""
    path = settings.workspace / "version.json"
    if path.exists():
        return int(read_json(path)["state"])
    return None if not settings.events_dir.exists() else STATE_VERSION  # written before there were versions


def write_state_version(settings: Settings, version: int = STATE_VERSION) -> None:
    """Say which version of the platform's state the workspace holds."""
    write_json(settings.workspace / "version.json", {"state": version})


def check_state_version(settings: Settings) -> None:
    """Return if this code may write to the workspace; a new one is marked as its own.

    Raises:
        ConfigError: the workspace is older or newer than the code.
    """
    found = state_version(settings)
    if found is None or not (settings.workspace / "version.json").exists():
        write_state_version(settings)
    elif found < STATE_VERSION:
        raise ConfigError(
            f"{settings.workspace} is of state version {found}, this platform writes {STATE_VERSION}: "
            f"back it up, then run 'clock ops --source {settings.source} migrate'"
        )
    elif found > STATE_VERSION:
        raise ConfigError(
            f"{settings.workspace} is of state version {found}, newer than this platform's {STATE_VERSION}: "
            "run the platform that wrote it, or restore a backup"
        )

"""The version of a workspace's files: checked before anything is written, so that no code misreads another's layout."""

from __future__ import annotations

from core.errors import ConfigError
from core.files import FROM_BACKUP, read_json, write_json
from core.settings import Settings

STATE_VERSION = 5
"""Increased when the layout of a workspace changes; ``operations.migrations`` then has a step from the previous version."""


def state_version(settings: Settings) -> int | None:
    """The version of a workspace's files, None if it is empty."""
    path = settings.workspace / "version.json"
    if path.exists():
        return int(read_json(path, FROM_BACKUP)["state"])
    return None if not settings.events_dir.exists() else STATE_VERSION  # written before there were versions


def write_state_version(settings: Settings, version: int = STATE_VERSION) -> None:
    """Record the version of the workspace's files."""
    write_json(settings.workspace / "version.json", {"state": version})


def check_state_version(settings: Settings) -> None:
    """Check that this code may write to the workspace; record the version in an empty one.

    Raises:
        ConfigError: the workspace is older or newer than the code.
    """
    version = state_version(settings)
    if version is None or not (settings.workspace / "version.json").exists():
        write_state_version(settings)
    elif version < STATE_VERSION:
        raise ConfigError(
            f"{settings.workspace} is of state version {version}, this platform writes {STATE_VERSION}: "
            f"back it up, then run 'clock ops --source {settings.source} migrate'"
        )
    elif version > STATE_VERSION:
        raise ConfigError(
            f"{settings.workspace} is of state version {version}, newer than this platform's {STATE_VERSION}: "
            "run the platform that wrote it, or restore a backup"
        )

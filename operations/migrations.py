"""Steps from one version of a workspace's files to the next, each safe to be repeated after a crash."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from core.errors import ConfigError
from core.files import read_json
from core.settings import Settings
from core.state_version import STATE_VERSION, state_version, write_state_version
from events.store import EventStore
from feature_repo.behavior_state import BehaviorState
from feature_repo.clock import ClockState

log = logging.getLogger("operations.migrations")


def _nothing(settings: Settings) -> None:
    """The clocks' sums became bases and deltas, which the next step computes."""


def _sums_of_scores(settings: Settings) -> None:
    """The clocks' sums hold scores: they are computed again from the events, and so are the change logs."""
    store = EventStore(settings.events_dir)
    if settings.features_dir.exists() and (hours := store.hours()):
        clock = ClockState(settings, store)
        clock.rebuild(clock.as_of or hours[-1] + 1)


def _recent_behaviors(settings: Settings) -> None:
    """Id files have deltas, hours may have facts, and recent behaviors are state, which is filled here."""
    clock = ClockState(settings, EventStore(settings.events_dir))
    if settings.history_length and (as_of := clock.as_of):
        BehaviorState(clock).bring_to(as_of)


def _list_of_changes(settings: Settings) -> None:
    """Clocks and recent behaviors know how far the events' list of changes is in them, not the digest of every hour."""
    store = EventStore(settings.events_dir)
    clock = ClockState(settings, store)
    content = read_json(clock.path) if clock.exists() else {}
    if "hours" in content:
        changes, state = store.changes.position(), clock.require_state()
        for hour in store.hours():
            if hour < state.as_of and store.manifest(hour).digest != content["hours"].get(hour.key):
                store.changes.add(hour)  # behind the position: the next refresh corrects it
        clock.commit(replace(state, changes=changes))
    (store.root / ".digests.json").unlink(missing_ok=True)
    _recent_behaviors(settings)


STEPS: Mapping[int, Callable[[Settings], None]] = {
    1: _nothing,
    2: _sums_of_scores,
    3: _recent_behaviors,
    4: _list_of_changes,
}
"""From which version → what brings it to the next."""


def migrate(
    settings: Settings, steps: Mapping[int, Callable[[Settings], None]] = STEPS, target: int = STATE_VERSION
) -> list[int]:
    """Bring a workspace to the code's version, a step at a time; each is recorded when it is through.

    Returns:
        Versions reached.

    Raises:
        ConfigError: the workspace is newer than the code, or there is no step from its version.
    """
    current = state_version(settings)
    if current is None:
        raise ConfigError(f"there is no state in {settings.workspace}")
    if current > target:
        raise ConfigError(f"{settings.workspace} is of version {current}, newer than this platform's {target}")
    reached = []
    for version in range(current, target):
        if version not in steps:
            raise ConfigError(f"version {version} cannot be migrated; build {settings.source} again from its log")
        log.info("from version %d to %d", version, version + 1)
        steps[version](settings)
        write_state_version(settings, version + 1)
        reached.append(version + 1)
    write_state_version(settings, target)
    return reached

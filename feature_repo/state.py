"""Where a source's clocks lie on disk, and what describes them.

Layout below the workspace's ``features``::

    state.json                  as-of hour, settings it holds for, how far the events' list of changes is in it
    sums/                       window sums, see ``feature_repo.sums``
    <view>/, latest/<view>/     change logs, see ``feature_repo.changes``
    recent/                     recent behaviors, see ``feature_repo.behavior_state``

``state.json`` is renamed into place last, so a crash leaves the state of the hour before whole;
folders that no state names are rewritten by the next attempt. Sums carry their digest: damage on the
disk is detected, and a rebuild repairs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from core.documents import JsonObject
from core.errors import DataError, NotReadyError
from core.files import digest_json, read_json, write_json
from core.hours import DAY_HOURS, Hour
from core.settings import Settings
from events.change_list import ChangePosition
from events.store import EventStore
from feature_repo.changes import ChangeLog, latest_folder
from feature_repo.online_progress import OnlineProgress
from feature_repo.schemas import WHOLE_DAYS, view_schemas
from feature_repo.sums import Sums

ROWS_HOLD_LONGER = 2 * DAY_HOURS
"""Hours that a row may hold beyond the window: a day, the whole-day rows two (the views' TTL)."""


@dataclass(frozen=True)
class ClockConfig:
    """Everything that the sums and the rows depend on besides the events.

    Attributes:
        whole_days: whether there are rows of users' whole days, for thin slots to borrow from.
    """

    facets: list[str]
    window_hours: int
    top_k: int
    weights: dict[str, float]
    slot_minutes: int
    split_weekend: bool
    whole_days: bool = False

    @classmethod
    def of(cls, settings: Settings, facets: list[str]) -> ClockConfig:
        """The configuration that the settings ask for."""
        return cls(
            facets,
            settings.window_hours,
            settings.top_k,
            settings.score_weights,
            settings.slot_minutes,
            settings.split_weekend,
            settings.shrinkage,
        )

    def includes(self, wanted: ClockConfig) -> bool:
        """Whether clocks that were computed with this are what is wanted, perhaps with more."""
        return wanted in (self, replace(self, whole_days=False))


@dataclass(frozen=True)
class StateDescription:
    """What ``state.json`` says.

    Attributes:
        as_of: hour at whose start the clocks hold.
        generation: refreshes since the rebuild.
        history_from: first hour whose rows the change logs can tell.
        config: what the clocks were computed with; None: an older platform's, which is no longer understood.
        changes: how far the events' list of changes is in the clocks; None: an older platform's, which knew digests.
        sums: the window's sums; None: an older platform's.
    """

    as_of: Hour
    generation: int
    history_from: Hour
    config: ClockConfig | None
    changes: ChangePosition | None
    sums: Sums | None

    def serves(self, wanted: ClockConfig) -> bool:
        """Whether refreshes can go on from it to clocks of a configuration."""
        return self.config is not None and self.config.includes(wanted)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], sums_folder: Path) -> StateDescription:
        """From the content of ``state.json``; an older platform's too, so that a rebuild can begin from it."""
        as_of, config = content["as_of"], content["config"]
        known = {*config, "whole_days"} == {
            field.name for field in fields(ClockConfig)
        }  # older ones' whole days are computed again
        return cls(
            as_of=Hour.parse(as_of),
            generation=content.get("generation", 0),
            history_from=Hour.parse(content.get("history_from", as_of)),
            config=ClockConfig(**config) if known else None,
            changes=ChangePosition.parse(content["changes"]) if "changes" in content else None,
            sums=Sums.from_json(sums_folder, content["sums"]),
        )

    def as_json(self) -> JsonObject:
        """The content of ``state.json``, without its digest."""
        return {
            "as_of": self.as_of.key,
            "generation": self.generation,
            "history_from": self.history_from.key,
            "config": asdict(self.config) if self.config else {},
            "changes": str(self.changes),
            "sums": self.sums.as_json() if self.sums else {},
        }


class ClockStorage:
    """The files of a source's clocks.

    Args:
        settings: of the workspace.
        store: the source's events.
    """

    def __init__(self, settings: Settings, store: EventStore) -> None:
        self.settings, self.store = settings, store
        self.root = settings.features_dir
        self.window = settings.window_hours

    @property
    def path(self) -> Path:
        """File of the state's description."""
        return self.root / "state.json"

    @property
    def sums_folder(self) -> Path:
        return self.root / "sums"

    @cached_property
    def facets(self) -> list[str]:
        """The source's, in their order."""
        return self.store.facets

    @cached_property
    def logs(self) -> dict[str, ChangeLog]:
        """The change log of every view, by the view's name."""
        return {
            name: ChangeLog(
                self.root / name, view.keys, view.columns, self.window + ROWS_HOLD_LONGER, turn=1 + 4 * number
            )
            for number, (name, view) in enumerate(view_schemas(self.facets, whole_days=self.settings.shrinkage).items())
        }

    @property
    def config(self) -> ClockConfig:
        """What the settings ask for now."""
        return ClockConfig.of(self.settings, self.facets)

    def exists(self) -> bool:
        """Whether there was a rebuild."""
        return self.path.exists()

    def read(self) -> StateDescription | None:
        """The state's description, or None before the first rebuild."""
        return StateDescription.from_json(read_json(self.path), self.sums_folder) if self.exists() else None

    def require_state(self) -> StateDescription:
        """The state's description.

        Raises:
            NotReadyError: nothing has been rebuilt yet.
        """
        state = self.read()
        if state is None:
            raise NotReadyError("no clocks yet; run 'clock features rebuild' first")
        return state

    @property
    def as_of(self) -> Hour | None:
        """Hour at whose start the clocks hold; None before the first rebuild."""
        state = self.read()
        return state.as_of if state else None

    @staticmethod
    def sums(state: StateDescription) -> Sums:
        """The window's sums of a state.

        Raises:
            DataError: an older platform wrote them.
        """
        if state.sums is None:
            raise DataError("the sums are an older platform's; run 'clock features rebuild'")
        return state.sums

    def commit(self, state: StateDescription) -> None:
        """Rename the description into place, then drop what it does not name: folders of sums, rows of whole days."""
        content = state.as_json()
        write_json(self.path, {**content, "digest": digest_json(content)})
        named = self.sums(state).folders
        for folder in self.sums_folder.glob("*"):
            if folder.name not in named:
                shutil.rmtree(folder)
        if not (state.config and state.config.whole_days):  # the state's, as the setting may have changed since
            for folder in (self.root / WHOLE_DAYS, latest_folder(self.root / WHOLE_DAYS)):
                shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Drop the description: from here on a crash means to rebuild again, and to fill the online store anew."""
        OnlineProgress(self.settings).forget()
        self.path.unlink(missing_ok=True)

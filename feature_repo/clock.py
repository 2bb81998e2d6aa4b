"""The state of the interest clock: full rebuild, and the refresh of one hour.

Layout below the workspace's ``features``::

    state.json                  as-of hour, settings it holds for, digest of every hour it stands on
    sums/                       window sums, see ``feature_repo.sums``
    <view>/                     change logs, see ``feature_repo.changes``

``state.json`` is renamed into place last, so a crash leaves the state of the hour before whole;
folders that no state names are written again by the next try. Sums carry their digest: damage on the
disk is found, and mended by a rebuild.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.engine import engine
from core.errors import DataError, NotReadyError
from core.files import digest_json, exclusive_lock, read_json, write_json
from core.hours import Hour, hour_range
from core.logs import log_context
from core.settings import Settings
from events.store import EventStore
from feature_repo.changes import ChangeLog, bounds
from feature_repo.history import ITEM_COUNTS
from feature_repo.sql import COUNTS, clock_schema
from feature_repo.sums import Sums
from feature_repo.work import Refreshed

log = logging.getLogger("feature_repo.clock")


def change_logs(root: Path, facets: Sequence[str]) -> dict[str, ChangeLog]:
    """The change log of every view below ``root``."""

    def plain(key: str, *fields: pa.Field) -> pa.Schema:
        return pa.schema(
            [
                pa.field(key, pa.int64()),
                pa.field("event_timestamp", pa.timestamp("us", tz="UTC")),
                *fields,
                pa.field("as_of", pa.int64()),
            ]
        )

    items = [pa.field(c, pa.int64()) for c in ("first_hour", *ITEM_COUNTS)]
    schemas = {
        "clock_slots": (("user_id", "slot"), clock_schema(facets)),
        "user_activity": (("user_id",), plain("user_id", *(pa.field(c, pa.int64()) for c in COUNTS))),
        "user_profile": (("user_id",), clock_schema(facets, ("user_id",))),
        "population_clock": (("slot",), clock_schema(facets, ("slot",))),
        "item_stats": (("item_id",), plain("item_id", *items, pa.field("finish_rate", pa.float64()))),
    }
    return {name: ChangeLog(root / name, keys, schema) for name, (keys, schema) in schemas.items()}


class ClockState:
    """The interest clocks of one source, as of one hour."""

    def __init__(self, settings: Settings, store: EventStore) -> None:
        self.settings, self.store = settings, store
        self.root = settings.features_dir
        self.facets = store.facets
        self.window = settings.window_hours

    @property
    def _path(self) -> Path:
        return self.root / "state.json"

    @cached_property
    def logs(self) -> dict[str, ChangeLog]:
        return change_logs(self.root, self.facets)

    @property
    def config(self) -> dict[str, Any]:
        """Everything that the sums and the rows depend on besides the events."""
        return {
            "facets": self.facets,
            "window_hours": self.window,
            "top_k": self.settings.top_k,
            "weights": self.settings.score_weights,
            "slot_minutes": self.settings.slot_minutes,
            "split_weekend": self.settings.split_weekend,
        }

    def read(self) -> dict[str, Any] | None:
        """The state's description, or None before the first rebuild."""
        return read_json(self._path) if self._path.exists() else None

    def needed(self) -> dict[str, Any]:
        """The state's description; ``NotReadyError`` before the first rebuild."""
        state = self.read()
        if state is None:
            raise NotReadyError("no clocks yet; run 'clock features rebuild' first")
        return state

    @property
    def as_of(self) -> Hour | None:
        state = self.read()
        return Hour.parse(state["as_of"]) if state else None

    @log_context(hour="as_of")
    def rebuild(self, as_of: Hour, *, history: bool = True) -> Refreshed:
        """Compute the clocks from the events, and start over from them.

        Args:
            as_of: hour up to which events count.
            history: also write what every row was at each hour before, as training on the past needs;
                without it the change logs begin at ``as_of``.

        Raises:
            NotReadyError: an hour before ``as_of`` that follows the first event was never closed.
        """
        with exclusive_lock(self.root / ".lock"):
            hours = [hour for hour in self.store.hours() if hour < as_of]
            if not hours:
                raise NotReadyError(f"no events before {as_of}; ingest a log first")
            self._require_closed(hours[0], as_of)
            log.info("rebuilding clocks of %s to %s", hours[0], as_of)
            from feature_repo.rebuild import Rebuild

            with engine(self.settings) as running:
                result = Rebuild(self, running, as_of, hours, history=history).run()
        log.info("clocks as of %s: %d slots, %d users", as_of, result.slots_changed, result.users_changed)
        return result

    @log_context(hour="as_of")
    def refresh(self, as_of: Hour) -> Refreshed:
        """Bring the state from ``as_of − 1`` to ``as_of``.

        Adds the events of the hour that ended, takes off those of the hour that expired, and corrects what
        stands on hours whose events changed since (late events). A second call changes nothing.

        Raises:
            NotReadyError: the state is not at ``as_of − 1``, or the hour that ended is not closed.
        """
        with exclusive_lock(self.root / ".lock"):
            state = self.needed()
            if state["config"] != self.config:
                raise DataError(f"the clock's settings changed; run 'clock features rebuild {as_of}' to apply them")
            at = Hour.parse(state["as_of"])
            if at > as_of:
                raise NotReadyError(f"clocks are as of {at}, later than {as_of}; nothing to do for an earlier hour")
            if at < as_of - 1:
                raise NotReadyError(f"clocks are as of {at}; refresh {at + 1} before {as_of} (hours are not skipped)")
            self._require_closed(as_of - 1, as_of)
            late = self._late(state, at)
            if at == as_of and not late:
                return Refreshed(as_of.key, 0, 0, 0, full=False)
            from feature_repo.refresh import Refresh

            with engine(self.settings) as running:
                return Refresh(self, running, state, as_of, late).run()

    def _late(self, state: dict[str, Any], at: Hour) -> list[Hour]:
        """Hours before ``at`` whose events are not those that the state stands on."""
        known, end = state["hours"], at.key
        changed = [h for h, digest in self.store.digests().items() if digest != known.get(h, "")]
        return [Hour.parse(h) for h in changed if h < end]

    def _require_closed(self, first: Hour, end: Hour) -> None:
        for hour in hour_range(first, end):
            self.store.manifest(hour)  # raises NotReadyError, which names the hour

    @property
    def sums_folder(self) -> Path:
        return self.root / "sums"

    def sums(self, state: dict[str, Any]) -> Sums:
        """The window's sums of a state."""
        return Sums.read(self.sums_folder, state["sums"])

    def commit(self, state: dict[str, Any]) -> None:
        """The commit: rename the description into place, then drop what it does not name."""
        write_json(self._path, {**state, "digest": digest_json(state)})
        named = self.sums(state).folders
        for folder in self.sums_folder.glob("*"):
            if folder.name not in named:
                shutil.rmtree(folder)

    def retire(self, cutoff: Hour) -> int:
        """Drop changes that no reading at or after ``cutoff`` can meet; returns the spans removed.

        A row holds for a window and a day at most (the views' TTL), the whole-day rows a day longer. What is asked for
        an hour before ``cutoff`` is refused from then on.
        """
        with exclusive_lock(self.root / ".lock"):
            state = self.needed()
            cutoff = min(cutoff, Hour.parse(state["as_of"]))
            oldest = cutoff - self.window - 2 * 24
            old = [s for log in self.logs.values() for s in log.spans() if bounds(s)[1] < oldest]
            if old and Hour.parse(state["history_from"]) < cutoff:
                content = {name: value for name, value in state.items() if name != "digest"}
                self.commit({**content, "history_from": cutoff.key})
            for span in old:
                shutil.rmtree(span)
        return len(old)

    def forget(self) -> None:
        """Drop the description: from here on a crash means to rebuild again."""
        self._path.unlink(missing_ok=True)

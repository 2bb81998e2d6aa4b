"""The interest clocks of a source: full rebuild, and the refresh of one hour."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import partial

from core.engine import engine
from core.errors import ConfigError, DataError, NotReadyError
from core.files import exclusive_lock
from core.hours import Hour, hour_range
from core.logs import log_context
from feature_repo.changes import bounds
from feature_repo.computation import Refreshed
from feature_repo.rebuild import Rebuild
from feature_repo.refresh import Refresh
from feature_repo.state import ROWS_HOLD_LONGER, ClockStorage, StateDescription

log = logging.getLogger("feature_repo.clock")


class ClockState(ClockStorage):
    """The interest clocks of one source, as of one hour."""

    @log_context(hour="as_of")
    def rebuild(self, as_of: Hour, *, history: bool = True) -> Refreshed:
        """Compute the clocks from the events, and start over from them.

        Args:
            as_of: hour at whose start the clocks hold: events before it count.
            history: also write what every row was at each hour before, as training on the past needs;
                without it the change logs begin at ``as_of``.

        Raises:
            NotReadyError: an hour before ``as_of`` that follows the first event was never closed.
            ConfigError: the settings ask for other slots than those that rankers were trained on.
        """
        with exclusive_lock(self.root / ".lock"):
            self.store.require_hours()  # before anything is written to a store that is not there
            self._require_same_slots()
            changes = self.store.changes.position()
            hours = [hour for hour in self.store.hours() if hour < as_of]
            if not hours:
                raise NotReadyError(f"no events before {as_of}; ingest a log first")
            self._require_closed(hours[0], as_of)
            log.info("rebuilding clocks of %s to %s", hours[0], as_of)
            with engine(self.settings, partial(self.store.count, hours)) as running:
                result = Rebuild(self, running, as_of, changes, hours, history=history).run()
        log.info("clocks as of %s: %d slots, %d users", as_of, result.slots_changed, result.users_changed)
        return result

    @log_context(hour="as_of")
    def refresh(self, as_of: Hour) -> Refreshed:
        """Bring the state from ``as_of − 1`` to ``as_of``.

        Adds the events of the hour that ended, takes off those of the hour that expired, and corrects what
        was computed from hours whose events changed since (late events). A second call changes nothing.

        Args:
            as_of: hour at whose start the clocks shall hold.

        Raises:
            NotReadyError: the state is not at ``as_of − 1``, or the hour that ended is not closed.
            DataError: the clocks were computed with other settings, or from other events.
        """
        with exclusive_lock(self.root / ".lock"):
            state = self.require_state()
            if not state.serves(self.config):
                raise DataError(f"the clock's settings changed; run 'clock features rebuild {as_of}' to apply them")
            if state.as_of > as_of:
                raise NotReadyError(
                    f"clocks are as of {state.as_of}, later than {as_of}; nothing to do for an earlier hour"
                )
            if state.as_of < as_of - 1:
                raise NotReadyError(
                    f"clocks are as of {state.as_of}; refresh {state.as_of + 1} before {as_of} (hours are not skipped)"
                )
            self._require_closed(as_of - 1, as_of)
            changes, late = self.store.changes.position(), self._late(state)
            if state.as_of == as_of and not late:
                return Refreshed(as_of.key, 0, 0, 0, full=False)
            with engine(self.settings, partial(self._touched, state.as_of, as_of, late)) as running:
                return Refresh(self, running, state, as_of, changes, late).run()

    def _touched(self, since: Hour, as_of: Hour, late: list[Hour]) -> int:
        """Events that a refresh reads: those that come and go, and all of the window where some came late."""
        first = as_of - self.window
        hours = hour_range(first, as_of) if late else [*hour_range(since - self.window, first), as_of - 1]
        return self.store.count(hours)

    def _late(self, state: StateDescription) -> list[Hour]:
        """Hours before the state's whose events changed since it was computed."""
        changed = self.store.changes.since(state.changes) if state.changes else None
        if changed is None:
            raise DataError(
                f"{self.store.changes.path} is damaged, or not the list of changes that the clocks in {self.root} know; "
                f"run 'clock features rebuild {state.as_of}'"
            )
        return sorted(hour for hour in changed if hour < state.as_of and self.store.has(hour))

    def knows_events(self, state: StateDescription) -> bool:
        """Whether the state was computed from this store's events, so that the refreshes can go on from it."""
        known = state.changes is not None and self.store.changes.since(state.changes) is not None
        if not known:
            log.warning("%s is damaged, or not the list that the clocks know", self.store.changes.path)
        return known

    def _require_same_slots(self) -> None:
        """Rankers read a slot by its place in the clock: those that are trained would misread clocks of other slots."""
        state = self.read()
        trained = any((self.settings.training_dir / "states").glob("*/hour=*"))
        if state is None or state.config is None or not trained:
            return
        for name in ("slot_minutes", "split_weekend"):
            before, now = getattr(state.config, name), getattr(self.config, name)
            if before != now:
                raise ConfigError(
                    f"CLOCK_{name.upper()} is {now}, and the rankers of {self.settings.workspace} are trained on clocks with "
                    f"{before}, which they would misread; set it back, or train in a workspace of its own (CLOCK_VAR)"
                )

    def _require_closed(self, first: Hour, until: Hour) -> None:
        for hour in hour_range(first, until):
            self.store.manifest(hour)  # raises NotReadyError, which names the hour

    def retire(self, cutoff: Hour) -> int:
        """Drop changes that no reading at or after ``cutoff`` can meet.

        What is asked for an hour before ``cutoff`` is refused from then on.

        Returns:
            Pieces of change logs removed.
        """
        with exclusive_lock(self.root / ".lock"):
            state = self.require_state()
            cutoff = min(cutoff, state.as_of)
            oldest = cutoff - self.window - ROWS_HOLD_LONGER
            old = [s for log in self.logs.values() for s in log.spans() if bounds(s)[1] < oldest]
            if old and state.history_from < cutoff:
                self.commit(replace(state, history_from=cutoff))
            for span in old:
                shutil.rmtree(span)
        return len(old)

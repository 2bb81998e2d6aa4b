"""A person's right to be forgotten: everything of them goes from every store below the workspace, and does not come back.

While it runs, ``forgetting.json`` in the workspace says who is removed, so that an interrupted removal is completed by the next
one; it is removed last. What is counted over many users and is not computed again (metrics of past hours, reports, the shared
layers of trained models) stays: none of it tells of one person.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ab_analysis.assignment import forget_exposures
from core.documents import JsonObject
from core.errors import DataError
from core.files import exclusive_lock, read_json, write_json
from core.hours import Hour
from core.settings import Settings
from core.state_version import check_state_version
from events.forget import find_matching, find_people, find_unknown, forget_events, forget_ids
from events.forgotten import ForgottenList, ForgottenMatcher, Person
from events.ids import ingested_id
from events.store import EventStore

log = logging.getLogger("pipeline.forgetting")

RANKS_NOW_SECONDS = 600
"""A service that has written to the log of requests since so long ago counts as running."""
KEPT = (
    "counts of inputs by reason (manifests, receipts): numbers without ids",
    "metrics, decisions and experiment reports of the past: sums and means over many users",
    "shared layers and the tables of items and values in rankers: trained on everybody together, with no row for a person",
    "lines of Airflow's audit log on who looked at their clock: with a salted digest in place of the id",
    "the list of the forgotten: salted digests, so that later inputs and restored backups do not bring anybody back",
)
NOT_REACHED = (
    "the raw log of the source: remove their rows there, or let it expire; ingested again, they are passed over",
    "backups: restoring one applies the list of the forgotten; let old ones expire",
    "log files below logs/ and airflow/logs: they name no users by themselves, and expire after keep_days",
    "the memory of a running ranking service: it knows the list within seconds, and loses its ids when it is restarted",
)


@dataclass(frozen=True)
class Removal:
    """Who is being removed, and what must be known of the workspace before anything was.

    Attributes:
        people: to remove.
        as_of: key of the hour at whose start the clocks held, None without clocks.
        stale: keys of hours whose samples were not those of their events.
        unknown: ids of people whom the log did not have.
    """

    people: list[Person]
    as_of: str | None
    stale: list[str]
    unknown: list[str]

    @classmethod
    def read(cls, path: Path) -> Removal | None:
        """The removal that was interrupted, None where none was."""
        if not path.exists():
            return None
        content = read_json(path)
        people = [Person(*person) for person in content["people"]]
        return cls(people, content["as_of"], content["stale"], content.get("unknown", []))


@dataclass(frozen=True)
class ForgettingReport:
    """What was removed, without saying of whom.

    Attributes:
        at: when, UTC.
        people: digests of their ids, as the list of the forgotten has them.
        unknown: those of ids that the log did not have, or no longer had. They are on the list all the same.
        removed: rows, files or entries of each kind.
        kept: what stays, and why it tells of nobody.
        not_reached: where the platform does not look, and who has to.
    """

    at: str
    people: list[str]
    unknown: list[str]
    removed: dict[str, int]
    kept: list[str] = field(default_factory=lambda: list(KEPT))
    not_reached: list[str] = field(default_factory=lambda: list(NOT_REACHED))

    def as_json(self) -> JsonObject:
        """Plain values, for an XCom or the last line of a command."""
        return asdict(self)


def pending_file(settings: Settings) -> Path:
    """Where it stands who is being removed."""
    return settings.workspace / "forgetting.json"


def list_copy(settings: Settings) -> Path:
    """A second copy of the list, beside the workspaces: it is still there when one is moved away to restore a backup."""
    return settings.var / "forgotten" / f"{settings.source}.json"


def digest_of(settings: Settings, key: str) -> str:
    """The digest of an id, with which ``forget_digest`` finds the person, and which the list of the forgotten holds."""
    check_state_version(settings)
    return ForgottenList(settings.events_dir).digest(ingested_id(settings.events_dir, "user", key))


def forget(settings: Settings, keys: Sequence[str]) -> ForgettingReport:
    """Forget people by their ids in the source's log; an interrupted removal is completed with it.

    Args:
        settings: of the workspace.
        keys: ids as they stand in the log, also of people whom the platform has nothing of: they are passed over from now on.

    Raises:
        DataError: no ids, and nothing was interrupted.
        NotReadyError: a store does not answer; the next call goes on from here.
    """
    check_state_version(settings)
    store = EventStore(settings.events_dir)
    with exclusive_lock(settings.workspace / ".forgetting.lock"):
        pending = Removal.read(pending_file(settings))
        people = find_people(store, keys)
        if pending is not None:
            log.info("going on with the removal of %d people that was interrupted", len(pending.people))
            known = {person.key for person in pending.people}
            people = [*pending.people, *(person for person in people if person.key not in known)]
        if not people:
            raise DataError("nobody to forget: give ids as they stand in the log; no removal was interrupted")
        return _remove(settings, store, people, pending)


def forget_digest(settings: Settings, digest: str) -> ForgettingReport:
    """Forget the person whose id has a digest (``digest_of``), so that no form or database has to hold the id.

    Raises:
        DataError: nobody in the workspace has it.
    """
    check_state_version(settings)
    store, pending = EventStore(settings.events_dir), Removal.read(pending_file(settings))
    matcher = ForgottenMatcher({ForgottenList(store.root).salt(): [digest]})
    people = [*find_matching(store, matcher), *(p for p in (pending.people if pending else ()) if matcher.has(p.key))]
    if not people:
        raise DataError(
            f"nobody in {settings.workspace} has the digest {digest}; 'clock forget --digest USER' prints it"
        )
    return forget(settings, list({person.key for person in people}))


def forget_listed(settings: Settings) -> ForgettingReport | None:
    """Forget everybody on the list who is in the workspace all the same, as after a backup was restored; None: nobody is."""
    store = EventStore(settings.events_dir)
    people = find_matching(store, ForgottenList(store.root).matcher())
    if not people and not pending_file(settings).exists():
        return None
    return forget(settings, [person.key for person in people])


def _remove(settings: Settings, store: EventStore, people: list[Person], pending: Removal | None) -> ForgettingReport:
    """Remove people step by step, each of which may be repeated; their ids go last, as the steps need them."""
    from feature_repo.clock import ClockState
    from feature_repo.forget import forget_features, forget_served
    from feature_repo.running import forget_running
    from model_registry.forget import forget_models
    from pages.clocks import remove_clock_pages
    from pages.index import write_index
    from pipeline.training import stale_hours
    from training.forget import forget_samples, forget_states

    if pending is None:
        as_of = ClockState(settings, store).as_of
        stale = stale_hours(settings) if store.hours() else []
        pending = Removal([], as_of.key if as_of else None, [hour.key for hour in stale], [])
    strangers = find_unknown(store, [person for person in people if person not in pending.people])
    unknown = [*pending.unknown, *(person.key for person in strangers)]
    removal = Removal(people, pending.as_of, pending.stale, unknown)
    forgotten = ForgottenList(store.root)
    digests = forgotten.add(person.key for person in people)
    listed = time.monotonic()
    write_json(list_copy(settings), forgotten.groups())
    write_json(pending_file(settings), asdict(removal) | {"people": [list(person) for person in people]})
    keys = {person.key for person in people}
    numbers = [person.number for person in people if person.number is not None]
    removed: dict[str, int] = {}
    removed |= forget_events(store, people)
    forget_running(settings, numbers)
    removed["experiment_days"] = _forget_experiment_days(settings)
    if numbers:
        removed |= forget_samples(settings, numbers, {Hour.parse(key) for key in removal.stale})
        removed["states"] = forget_states(settings, numbers)
        removed["models"] = forget_models(settings, numbers) if (settings.training_dir / "states").exists() else 0
        if removal.as_of is not None:
            removed |= forget_features(settings, people, Hour.parse(removal.as_of))
        if pages := remove_clock_pages(settings, numbers):
            removed["pages"] = pages
            write_index(settings)
    _let_services_know(settings, listed)
    removed["exposure_lines"] = forget_exposures(settings.workspace / "serving" / "exposures", keys)
    removed |= forget_served(settings, people)
    removed["ids"] = forget_ids(store, people)
    unknown_digests = [forgotten.digest(key) for key in unknown]
    report = ForgettingReport(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", digests, unknown_digests, removed)
    write_json(settings.workspace / "forgotten" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}.json", report.as_json())
    pending_file(settings).unlink()
    if unknown:
        log.warning(
            "the log has no user with %d of the %d ids (perhaps no longer): are they written as in the log? They are on the list "
            "of the forgotten all the same, so that later files leave them out; their digests: %s",
            len(unknown), len(people), ", ".join(unknown_digests),
        )  # fmt: skip
    removals = ", ".join(f"{n} {kind}" for kind, n in removed.items() if n)
    log.info("%d ids forgotten: %s", len(people), removals or "nothing of them was stored")
    return report


def _let_services_know(settings: Settings, listed: float) -> None:
    """Where requests are ranked now, wait until every service knows the list and has written what it answered before.

    Args:
        settings: of the workspace.
        listed: when the people were put on the list, by the monotonic clock.
    """
    from feature_repo.served import served_hours
    from serving.request_log import FLUSH_SECONDS

    written = [path for hour in served_hours(settings)[-2:] for path in hour.glob("*.parquet")]
    newest = max((path.stat().st_mtime for path in written), default=0.0)
    patience = settings.serving_refresh_seconds + settings.serving_timeout_ms / 1000 + FLUSH_SECONDS + 1
    left = listed + patience - time.monotonic()
    if newest > time.time() - RANKS_NOW_SECONDS and left > 0:
        log.info("waiting %.0f s for what the ranking service has not written yet", left)
        time.sleep(left)


def _forget_experiment_days(settings: Settings) -> int:
    """Remove what closed days add to experiments: the next look computes it from the events, which are other ones now."""
    folders = [path for path in settings.experiment_days_dir.glob("*") if any(path.glob("*/"))]
    for folder in folders:
        with exclusive_lock(folder / ".lock"):
            shutil.rmtree(folder)
    return len(folders)

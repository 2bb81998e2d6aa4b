"""A source's history in bulk: everything before the hour at which the hourly DAGs take over."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from core.documents import JsonObject
from core.errors import ConfigError
from core.hours import Hour
from core.progress import STAGE
from core.settings import Settings
from events.ingest import Account, close_hours
from events.store import EventStore
from pipeline.promotion import offer_first
from pipeline.source import ingest_history, load_source
from pipeline.training import train_history
from training.config import check_variants

if TYPE_CHECKING:
    from feature_repo.materialization import Advanced

log = logging.getLogger("pipeline.history")


@dataclass(frozen=True)
class HistorySummary:
    """What building the history led to: the hours in it, the account of the ingestion, the clocks."""

    hours: int
    ingest: Account
    clocks: Advanced

    def as_json(self) -> JsonObject:
        """Plain values, for an XCom or the last line of a command; of the changed hours their number."""
        content = asdict(self)
        content["ingest"]["changed_hours"] = len(self.ingest.changed_hours)
        return content


def ingest_and_clock(settings: Settings, until: Hour) -> tuple[Account, Advanced]:
    """Ingest the log before an hour, close its hours, and bring clocks and online store to ``until``.

    Raises:
        ConfigError: nothing of the log lies before the hour.
    """
    from feature_repo.materialization import advance

    log.info("1/4 ingesting the log before %s", until, extra=STAGE)
    account = ingest_history(settings, until)
    store = EventStore(settings.events_dir)
    hours = store.hours()
    if not hours or hours[0] >= until:
        raise ConfigError(f"no event of the log of '{settings.source}' lies before {until}; give a later hour")
    close_hours(store, hours[0], until - 1)
    log.info("2/4 computing the interest clocks as of %s", until, extra=STAGE)
    return account, advance(settings, until)


def build_history(settings: Settings, until: Hour) -> HistorySummary:
    """Ingest, compute clocks, train every variant, and offer the first champion, for all hours before ``until``.

    Every stage keeps what it has done, so an interrupted build continues.

    Raises:
        ConfigError: the settings or the ranker file say something wrong of the variants, or nothing of the log lies before the hour.
    """
    check_variants(settings, first=True)
    if load_source(settings).simulated:
        from simulation.workspace import app_log

        app = app_log(settings)
        log.info("the simulated app writes its log of %s to %s", app.config.first_hour, until - 1, extra=STAGE)
        app.write_hours(app.config.first_hour, until)
    account, clocks = ingest_and_clock(settings, until)
    log.info("3/4 training %d variants on the history", len(settings.variants), extra=STAGE)
    trained = train_history(settings, until - 1)
    log.info("4/4 offering the first champion and candidate", extra=STAGE)
    offer_first(settings, trained)
    hours = [h for h in EventStore(settings.events_dir).hours() if h < until]
    return HistorySummary(len(hours), account, clocks)

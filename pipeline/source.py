"""Where a source's log comes from, hour by hour: an app's own log files, or a log replayed by its times."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import DataError, NotReadyError
from core.files import read_json, write_json
from core.hours import Hour
from core.logs import log_context
from core.settings import Settings
from events.ingest import Account, ingest, last_moment
from events.log_files import has_arrived
from events.log_paths import LogPaths, is_remote
from events.mapping import load_mapping, log_paths
from events.store import EventStore

if TYPE_CHECKING:
    from simulation.log import AppLog

log = logging.getLogger("pipeline.source")


@dataclass(frozen=True)
class Source:
    """How the hours of a source arrive.

    Attributes:
        mapping: mapping file or the name of a built-in one.
        paths: files of the log; empty: the mapping's own.
        simulated: the app is simulated, and writes an hour's log when the hour is asked for.
    """

    mapping: str
    paths: tuple[str, ...] = ()
    simulated: bool = False

    @property
    def log(self) -> LogPaths:
        """Where the log lies."""
        return log_paths(*load_mapping(self.mapping), self.paths)


def save_source(settings: Settings, source: Source) -> None:
    """Remember how the workspace's log arrives."""
    absolute = tuple(p if is_remote(p) else str(Path(p).absolute()) for p in source.paths)
    mapping = str(Path(source.mapping).absolute()) if Path(source.mapping).exists() else source.mapping
    write_json(settings.workspace / "source.json", asdict(Source(mapping, absolute, source.simulated)))


def log_end(settings: Settings, source: Source) -> Hour | None:
    """The hour after the last readable event of a source's log; None for files of hours or days of which none has arrived yet.

    Raises:
        ConfigError: the mapping is wrong, or does not fit the log.
        DataError: there is no log, or no event of it has a readable time.
    """
    if source.simulated:
        from simulation.workspace import app_log

        app = app_log(settings)
        return Hour.of(app.app.first_instant(app.config.days))
    paths = source.log
    files = paths.all()
    if paths.name_times and not any(map(has_arrived, files)):
        return None
    moment = last_moment(settings, source.mapping, paths)
    if moment is None:
        raise DataError(
            f"{', '.join(files)} holds no event with a readable time before now; look at timestamp in the mapping"
        )
    last = Hour.of(moment)
    if paths.name_times and not any(map(has_arrived, paths.of(last))):
        log.warning("the log ends in %s, and no file is named for it (%s); %s", last, paths.of(last)[0], _remedy(paths))
    return last + 1


def _remedy(paths: LogPaths) -> str:
    return f"if files are not named for {'hours' if paths.name_hours else 'days'} of {paths.zone}, set path_zone in the mapping"


def _tell_other_zone(settings: Settings, paths: LogPaths, hour: Hour, account: Account) -> None:
    """Warn where an hour's files hold rows of other hours, as those do that are named in another zone than the mapping says."""
    files = paths.of(hour)
    later = [
        key for key in account.changed_hours if key > (hour + 1).key and not {*paths.of(Hour.parse(key))} & {*files}
    ]
    if later:
        log.warning("%s has rows of %s, after the time that it is named for; %s", files[0], min(later), _remedy(paths))
    elif account.kept and paths.name_hours and not EventStore(settings.events_dir).manifest(hour).rows:
        log.warning("%s has %d rows, and none of %s; %s", files[0], account.kept, hour, _remedy(paths))


def save_app_source(settings: Settings) -> AppLog:
    """Let the workspace's log come from the simulated app, which writes an hour when it is asked for."""
    from simulation.workspace import app_log  # SciPy's import, which real logs do without

    simulated = app_log(settings)
    save_source(settings, Source(str(simulated.prepare()), (), simulated=True))
    return simulated


def load_source(settings: Settings) -> Source:
    """How the workspace's log arrives; ``NotReadyError`` before it was set up."""
    path = settings.workspace / "source.json"
    if not path.exists():
        raise NotReadyError(f"the workspace {settings.workspace} has no source yet; run 'clock demo' or 'clock setup'")
    content = read_json(path)
    return Source(content["mapping"], tuple(content["paths"]), content["simulated"])


@log_context(hour="hour")
def ingest_hour(settings: Settings, hour: Hour) -> Account:
    """Ingest one hour's log and close the hour.

    All rows in the files of the hour, or of its day, land in their true hours; those that were there before are passed over.

    Raises:
        NotReadyError: the hour's log file has not arrived.
    """
    source = load_source(settings)
    if source.simulated:
        from simulation.workspace import app_log

        app_log(settings).write_hours(hour, hour + 1)
    paths = source.log
    files = paths.of(hour)
    if paths.name_times:
        if missing := [path for path in files if not has_arrived(path)]:
            raise NotReadyError(
                f"the log of {hour} has not arrived: no file {missing[0]}. If nothing happened in that hour, close it "
                f"with 'clock events close {hour}'"
            )
        account = ingest(source.mapping, files, settings, close=(hour, hour + 1))
        _tell_other_zone(settings, paths, hour, account)
        return account
    return ingest(source.mapping, files, settings, close=(hour, hour + 1), only=(hour, hour + 1))


def end_of_log(settings: Settings) -> Hour:
    """The hour after the last event of the workspace's log.

    Raises:
        NotReadyError: the source was not set up, or no file of its log has arrived.
    """
    source = load_source(settings)
    end = log_end(settings, source)
    if end is None:
        raise NotReadyError(f"the log has not arrived: no file {source.log.all()[0]}")
    return end


def ingest_history(settings: Settings, until: Hour | None) -> Account:
    """Ingest everything before an hour in one go."""
    source = load_source(settings)
    return ingest(source.mapping, source.log.all(), settings, only=(None, until))

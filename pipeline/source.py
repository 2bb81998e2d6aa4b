"""Where a source's log comes from, hour by hour: an app's own log files, or a log replayed by its times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core import duck
from core.errors import DataError, NotReadyError
from core.files import read_json, write_json
from core.hours import Hour
from core.logs import log_context
from core.settings import Settings
from events.ingest import Account, ingest, last_moment
from events.log_files import has_arrived
from events.mapping import load_mapping, relative

if TYPE_CHECKING:
    from simulation.log import AppLog


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
    def hourly_files(self) -> bool:
        """Whether the log has a file an hour (else each hour is taken out of the whole by its times)."""
        return any("{hour}" in path for path in self.patterns)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Paths of the log; ``{hour}`` in one stands for an hour's key."""
        mapping, folder = load_mapping(self.mapping)
        return self.paths or tuple(relative(folder, path) for path in mapping.paths)

    def files_of(self, hour: Hour | None = None) -> list[str]:
        """Paths of an hour's log, or of the whole."""
        return [path.replace("{hour}", hour.key if hour else "*") for path in self.patterns]


def save_source(settings: Settings, source: Source) -> None:
    """Remember how the workspace's log arrives."""
    absolute = tuple(str(Path(p).absolute()) for p in source.paths)
    mapping = str(Path(source.mapping).absolute()) if Path(source.mapping).exists() else source.mapping
    write_json(settings.workspace / "source.json", asdict(Source(mapping, absolute, source.simulated)))


def log_end(settings: Settings, source: Source) -> Hour | None:
    """The hour after the last readable event of a source's log; None for hourly files of which none has arrived yet.

    Raises:
        ConfigError: the mapping is wrong, or does not fit the log.
        DataError: there is no log, or no event of it has a readable time.
    """
    if source.simulated:
        from simulation.workspace import app_log

        app = app_log(settings)
        return Hour.of(app.app.first_instant(app.config.days))
    if source.hourly_files and not any(map(has_arrived, source.files_of())):
        return None
    with duck.connection(settings) as con:
        moment = last_moment(con, source.mapping, source.files_of())
    if moment is None:
        raise DataError(
            f"{', '.join(source.files_of())} holds no event with a readable time before now; look at timestamp in the mapping"
        )
    return Hour.of(moment) + 1


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

    Late rows in the hour's file land in their true hours.

    Raises:
        NotReadyError: the hour's log file has not arrived.
    """
    source = load_source(settings)
    if source.simulated:
        from simulation.workspace import app_log

        app_log(settings).write_hours(hour, hour + 1)
    files = source.files_of(hour)
    if source.hourly_files:
        if missing := [path for path in files if not has_arrived(path)]:
            raise NotReadyError(
                f"the log of {hour} has not arrived: no file {missing[0]}. If nothing happened in that hour, close it "
                f"with 'clock events close {hour}'"
            )
        return ingest(source.mapping, files, settings, close=(hour, hour + 1))
    return ingest(source.mapping, files, settings, close=(hour, hour + 1), only=(hour, hour + 1))


def end_of_log(settings: Settings) -> Hour:
    """The hour after the last event of the workspace's log.

    Raises:
        NotReadyError: the source was not set up, or no file of its log has arrived.
    """
    source = load_source(settings)
    end = log_end(settings, source)
    if end is None:
        raise NotReadyError(f"the log has not arrived: no file {source.files_of()[0]}")
    return end


def ingest_history(settings: Settings, until: Hour | None) -> Account:
    """Ingest everything before an hour in one go."""
    source = load_source(settings)
    return ingest(source.mapping, source.files_of(), settings, only=(None, until))

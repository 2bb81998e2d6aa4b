"""The lane between two hours: the log is followed while it is written, and users' features online are seconds old.

Rows go through the same ingestion as an hour's, into an event store of the lane's alone, and the features of the users who did
something are computed from the clocks' hour and these events (``feature_repo.running``). When the hour was refreshed, what the
lane wrote is taken back and it begins anew. Nothing of it enters the durable state: losing the lane's folder loses nothing.

Layout below the workspace's ``streaming``::

    events/           event store of the hours since the clocks' own
    users-HOUR.txt    whose features were written on top of the clocks of HOUR (``feature_repo.running``)
    parameters/       what rankers learned from the clocks' hour (``training.running``)
    status.json       how far the lane is
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import duck
from core.errors import ConfigError, DataError, NotReadyError, PlatformError
from core.files import digest_text, exclusive_lock, write_json
from core.hours import Hour, hour_range
from core.lock_order import LANE_LOCK
from core.settings import Settings
from events.forgotten import ForgottenList
from events.ids import id_files, id_kinds, id_path
from events.ingest import ingest
from events.log_files import find_files
from events.log_paths import is_remote
from events.mapping import load_mapping
from events.source_properties import SourceProperties
from events.store import EventStore
from feature_repo.retrieval import ClockFeatures
from feature_repo.running import RunningHour, running_events, running_lock, running_parameters
from pipeline.source import Source, load_source
from streaming.status import LaneStatus, look_alive
from streaming.tail import LogTail

if TYPE_CHECKING:
    from streaming.parameters import ParameterLane

log = logging.getLogger("streaming.lane")

MOST_HOURS = 6
"""Hours after the clocks' own that the lane follows; further behind, the hourly run needs help first."""
EXPECTED = (PlatformError, OSError, duckdb.IOException, sqlite3.OperationalError)
"""What happens to a lane beside the hourly runs, and passes."""


class Lane:
    """Follows a source's log and keeps its users' features online up to date.

    Args:
        settings: of the workspace.

    Raises:
        NotReadyError: there are no clocks yet.
        ConfigError: the log is of a format that cannot be followed.
        DataError: the mapping's facets or behaviors are not those of the events.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.root = settings, settings.streaming_dir
        self.source: Source = load_source(settings)
        self.mapping, _ = load_mapping(self.source.mapping)
        self.paths = self.source.log  # asked for at every look
        events = EventStore(settings.events_dir)
        events.check_declared(SourceProperties.of(self.mapping))
        self.features = ClockFeatures(settings, events)
        self.running_hour = RunningHour(self.features)
        self.as_of: Hour | None = None
        self.store = EventStore(running_events(settings))
        self.status = LaneStatus(self._clocks_hour().key)
        self.parameters = _parameter_lane(settings) if settings.streaming_train else None
        self._tails: dict[str, LogTail] = {}
        self._known: dict[str, int | None] = {}
        self._seen: pa.Table | None = None
        self._forgotten = ""
        self._unwritten = False
        self._keeps_rows = True
        if elsewhere := [path for path in self.paths.patterns if is_remote(path)]:
            raise ConfigError(
                f"{elsewhere[0]} cannot be followed: only files of this machine grow; land a stream instead"
            )
        for path in self._files(self._clocks_hour()):
            LogTail(Path(path), self.mapping)

    def step(self) -> bool:
        """Look at the log once, and put online what came.

        Returns:
            Whether rows came.

        Raises:
            DataError: a file of the log was cut off; the lane begins the hour anew with the next step.
            NotReadyError: the clocks are too far behind.
        """
        with exclusive_lock(running_lock(self.settings)):
            return self._step(time.monotonic())

    def _step(self, begun: float) -> bool:
        hour = self._clocks_hour()
        if hour != self.as_of or self._list_of_the_forgotten() != self._forgotten or not self.store.root.exists():
            self._begin(hour)
        came = self._ingest(hour)
        self._unwritten |= came
        if self._unwritten:  # also what a store did not take the last time
            self._write(hour, begun)
            self._unwritten = False
        if self.parameters is not None and self.as_of is not None and self.parameters.step(lambda: self._rows_of(hour)):
            self.status = replace(self.status, training=self.parameters.status)
            self.report()
        return came

    def report(self, problem: str = "") -> None:
        """Write the status, and what keeps the lane from going on."""
        self.status = replace(self.status, problem=problem)
        self.status.write(self.settings)

    def _clocks_hour(self) -> Hour:
        return self.features.clock.require_state().as_of

    def _files(self, hour: Hour) -> list[str]:
        """The log's files of the hours that are not in the clocks yet."""
        if not self.paths.name_times:
            return [str(file) for file in find_files(self.paths.all())]
        now = max(Hour.of(datetime.now(UTC)), hour) if self.settings.live else hour
        if now > hour + MOST_HOURS:
            raise NotReadyError(
                f"the clocks hold for {hour}, more than {MOST_HOURS} hours ago: the lane goes on when the hourly runs have caught up"
            )
        of_hours = dict.fromkeys(path for each in hour_range(hour, now + 1) for path in self.paths.of(each))
        return [file for path in of_hours for file in (sorted(glob(path)) if has_magic(path) else [path])]

    def _begin(self, hour: Hour) -> None:
        """Take back what was written on top of other clocks, and follow the log from the clocks' hour on."""
        self.as_of = None
        # Of the same hour the events are read again and their rows written again, unless some may be gone.
        keeps_rows = self._keeps_rows and self.store.root.exists()
        self.running_hour.take_back(keep=hour if keeps_rows else None)
        shutil.rmtree(self.store.root, ignore_errors=True)
        self._copy_ids()
        self.store = EventStore(running_events(self.settings))
        self._forgotten = self._list_of_the_forgotten()
        ForgottenList(self.store.root).merge(ForgottenList(self.settings.events_dir).groups())
        shutil.rmtree(running_parameters(self.settings), ignore_errors=True)
        if self.parameters is not None:
            self.parameters.begin(hour)
        self._tails, self._seen, self._keeps_rows, self.as_of = {}, None, True, hour
        self.status = LaneStatus(hour.key, training=self.parameters.status if self.parameters else None)
        self.report()
        log.info("following the log of '%s' from %s on", self.settings.source, hour)

    def _copy_ids(self) -> None:
        """Give the lane's store the ids of the log, so that everybody keeps theirs; new ones are the lane's own."""
        real, kinds = self.settings.events_dir, id_kinds(self.settings.events_dir)
        if kinds:
            write_json(self.store.root / "_ids" / "kinds.json", kinds)
        for kind in ("user", "item"):
            files = id_files(id_path(real, kind))
            self._known[kind] = sum(pq.read_metadata(file).num_rows for file in files) if files else None
            for file in files:
                target = self.store.root / "_ids" / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)

    def _list_of_the_forgotten(self) -> str:
        path = ForgottenList(self.settings.events_dir).path
        return digest_text(path.read_text()) if path.exists() else ""

    def _ingest(self, hour: Hour) -> bool:
        """Bring the rows that came into the lane's store; returns whether there were any."""
        came = False
        for path in self._files(hour):
            if path not in self._tails:
                self._tails[path] = LogTail(Path(path), self.mapping)
            try:
                rows = self._tails[path].read()
            except DataError:
                self.as_of, self._keeps_rows = None, False  # what was read of the file may be gone
                raise
            if not rows:
                continue
            piece = self.root / f"piece{self._tails[path].plain.suffix}"
            piece.write_bytes(rows)
            try:
                account = ingest(
                    self.source.mapping, [str(piece)], self.settings, out=self.store.root, close=(hour, hour),
                    only=(hour, None), piece_of=Path(path),
                )  # fmt: skip
            except DataError as error:  # not one row can be read: the hour's ingestion will say so
                log.warning("%s: %s", path, error)
                self.status = replace(self.status, rejected=self.status.rejected + rows.count(b"\n"))
            except Exception:
                self.as_of = None  # these rows are read once more
                raise
            else:
                self.status = replace(self.status, rejected=self.status.rejected + account.quarantined)
                came = True
            finally:
                piece.unlink()
        return came

    def _write(self, hour: Hour, begun: float) -> None:
        """Put the features of the users online whose events changed since the last time."""
        files = self.store.event_files([each for each in self.store.hours() if each >= hour])
        if not files:
            return
        with duck.connection(self.settings) as con:
            events = f"(SELECT * FROM read_parquet({duck.file_list(files)}) WHERE {self._known_by_the_log()})"
            seen = con.sql(
                f"SELECT user_id, count(*) AS events, bit_xor(hash(e)) AS content FROM {events} e GROUP BY user_id"
            ).to_arrow_table()
            con.register("seen", seen)
            con.register("before", self._seen if self._seen is not None else seen.schema.empty_table())
            changed = con.sql("SELECT user_id FROM (FROM seen EXCEPT FROM before) ORDER BY user_id").to_arrow_table()
            con.register("changed", changed)
            rows = con.sql(f"SELECT e.* FROM {events} e SEMI JOIN changed USING (user_id)").to_arrow_table()
            newest = duck.scalar(con, f"SELECT max(timestamp) FROM {events}")
        if rows.num_rows:
            features = self.running_hour.rows(rows)
            if features.as_of != hour:
                self.as_of = None  # an hour was refreshed: these events may be in its clocks already
                return
            self.running_hour.write(features)
        if self.parameters is not None:
            self.parameters.take(rows)
        self._seen = seen
        self.status = replace(
            self.status, events=int(pc.sum(seen["events"]).as_py() or 0), users=len(seen),
            newest=newest.isoformat() if newest else None, written=datetime.now(UTC).isoformat(timespec="milliseconds"),
            step_seconds=round(time.monotonic() - begun, 3),
        )  # fmt: skip
        self.report()

    def _rows_of(self, hour: Hour) -> pa.Table:
        """Everything of an hour that counts."""
        with duck.connection(self.settings) as con:
            files = duck.file_list(self.store.event_files([hour]))
            return con.sql(f"SELECT * FROM read_parquet({files}) WHERE {self._known_by_the_log()}").to_arrow_table()

    def _known_by_the_log(self) -> str:
        """Condition: user and item have the id that the hour's ingestion gives them; those of newcomers are not known yet."""
        return " AND ".join(f"{kind}_id <= {most}" for kind, most in self._known.items() if most is not None) or "true"


def _parameter_lane(settings: Settings) -> ParameterLane:
    from streaming.parameters import ParameterLane  # PyTorch's import takes seconds, and most lanes do not train

    return ParameterLane(settings)


def follow(settings: Settings) -> None:
    """Follow the source's log until the process is stopped; what fails is tried again, and stands in the status.

    Raises:
        NotReadyError: there is no such workspace, or another lane of it runs.
        ConfigError: training reads the features that serving saw; or as ``Lane``.
        DataError: as ``Lane``.
    """
    try:
        settings.require_features_of_whole_hours()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not settings.workspace.exists():
        raise NotReadyError(f"there is no workspace {settings.workspace}; run 'clock setup' first, or check --source")
    with only_one(settings):
        lane: Lane | None = None
        problem = ""
        logging.getLogger("events").setLevel(
            max(logging.ERROR, log.getEffectiveLevel())
        )  # the hour's ingestion tells it
        while True:
            begun = time.monotonic()
            try:
                lane = lane or Lane(settings)
                lane.step()
                now = ""
            except Exception as error:  # the lane goes on: an hour may just be refreshed, or a store be away
                if lane is None and not isinstance(error, NotReadyError):
                    raise
                now = str(error).splitlines()[0] if str(error) else type(error).__name__
                if now != problem:
                    log.warning("%s; trying again", now, exc_info=None if isinstance(error, EXPECTED) else error)
            if now != problem:
                lane.report(now) if lane else LaneStatus("", problem=now).write(settings)
                problem = now
            look_alive(settings)
            time.sleep(max(settings.streaming_seconds - (time.monotonic() - begun), 0.05))


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the workspace's lane; ``NotReadyError`` if another process has it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(settings.workspace / LANE_LOCK, wait=False))
        except BlockingIOError:
            raise NotReadyError(f"a lane of '{settings.source}' runs already in {settings.streaming_dir}") from None
        yield

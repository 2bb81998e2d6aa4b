"""From a Redis stream to the hourly log files that ingestion and the lane read: each entry exactly once.

An entry is one row of the log: its fields are the columns, or its only field ``json`` holds the row whole. A row belongs to the
file of the hour in which Redis took the entry in, which its id tells, so that the same entries always give the same files. While
an hour runs, its file carries the suffix ``.part`` behind its name; the hour's ingestion does not see it before it is complete.

How far the files are is one small file, written after the rows are on disk: what a crash left behind that point is cut off,
and the entries are read again. Where that file is lost, or an older one was put back, entries that are in completed files already
come once more, into the running hour: ingestion recognizes them, and a completed file is never changed.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError, NotReadyError
from core.files import exclusive_lock, read_json, write_json
from core.hours import Hour
from core.lock_order import LANDING_LOCK
from core.settings import Settings
from events.hour_changes import LONGEST_GAP_HOURS
from events.log_files import part_of
from events.log_paths import LogPaths, names_every_hour

if TYPE_CHECKING:
    import redis

log = logging.getLogger("streaming.redis_log")

ENTRIES_AT_ONCE = 5_000
WAIT_MS = 1_000
"""How long a look at the stream waits for new entries."""
GRACE_SECONDS = 2
"""After an hour's end its last entries are waited for so long: Redis gives ids by its own clock."""
BEGIN = "0-0"


@dataclass(frozen=True)
class Position:
    """How far the log files are.

    Attributes:
        stream: the stream's name.
        entry: id of the last entry in the files.
        hour: key of the hour whose file is being written; empty before the first.
        size: bytes of that file.
    """

    stream: str
    entry: str = BEGIN
    hour: str = ""
    size: int = 0


class LogWriter:
    """Writes entries of a stream to hourly files.

    Args:
        pattern: path of the files, with ``{hour}`` in it, ending with ``.jsonl``.
        progress: file that says how far they are.
        stream: the stream's name.

    Raises:
        ConfigError: the pattern has no place for the hour, or is not that of JSON lines; or the files are of another stream.
    """

    def __init__(self, pattern: str, progress: Path, stream: str) -> None:
        if not names_every_hour(pattern) or not pattern.endswith((".jsonl", ".ndjson")):
            raise ConfigError(f"'{pattern}': the log needs a file an hour of JSON lines, such as log/{{hour}}.jsonl")
        self.paths, self.progress = LogPaths((pattern,)), progress
        known = Position(**read_json(progress)) if progress.exists() else Position(stream)
        if known.stream != stream:
            raise ConfigError(
                f"{progress} tells of the stream '{known.stream}', not of '{stream}'; remove it to begin anew"
            )
        self.position = known
        self._cut()

    def _cut(self) -> None:
        """Drop what a crash left in the running hour's file behind the position."""
        if self.position.hour:
            part = self.part_of(Hour.parse(self.position.hour))
            if part.exists() and part.stat().st_size > self.position.size:
                with part.open("r+b") as file:
                    file.truncate(self.position.size)

    def file_of(self, hour: Hour) -> Path:
        """An hour's file once it is complete."""
        return Path(self.paths.of(hour)[0])

    def part_of(self, hour: Hour) -> Path:
        """An hour's file while it is written."""
        return part_of(self.file_of(hour))

    def write(self, entries: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        """Append entries to the files of their hours, and complete the hours before.

        Args:
            entries: id and fields, in the stream's order.

        Returns:
            Rows written.
        """
        rows = 0
        for hour, group in groupby(entries, self._hour_to_write):
            some = list(group)
            self.complete_before(hour)
            part = self.part_of(hour)
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                file.write("".join(f"{row_text(fields)}\n" for _, fields in some).encode(errors="replace"))
                file.flush()
                os.fsync(file.fileno())
                self._reach(Position(self.position.stream, some[-1][0], hour.key, file.tell()))
            rows += len(some)
        return rows

    def _hour_to_write(self, entry: tuple[str, Mapping[str, str]]) -> Hour:
        """An entry's hour, or the running one where that is over: a completed file is never changed."""
        hour = hour_of(entry[0])
        hour = max(hour, Hour.parse(self.position.hour)) if self.position.hour else hour
        while self.file_of(hour).exists():  # the position is an older one than the files are
            hour += 1
        return hour

    def complete_before(self, hour: Hour) -> None:
        """Give the file that is being written its name, if its hour is over; an hour without an entry gets a file without a row.

        Not so where nothing came for very long: then whoever closes hours decides whether nothing happened in them.
        """
        if not self.position.hour:
            self._reach(Position(self.position.stream, self.position.entry, hour.key))
        running = Hour.parse(self.position.hour)
        silent = hour > running + LONGEST_GAP_HOURS
        if silent:
            log.warning("no entry from %s to %s: their hours get no file", running + 1, hour - 1)
        while running < hour:
            part = self.part_of(running)
            if not silent and not part.exists() and not self.file_of(running).exists():
                part.parent.mkdir(parents=True, exist_ok=True)
                part.write_text("\n")
            if part.exists():
                part.replace(self.file_of(running))
                log.info("the log of %s is complete: %s", running, self.file_of(running))
            running = hour if silent else running + 1
            self._reach(Position(self.position.stream, self.position.entry, running.key))

    def _reach(self, position: Position) -> None:
        if position != self.position:
            write_json(self.progress, asdict(position))
            self.position = position


def hour_of(entry: str) -> Hour:
    """The hour in which Redis took an entry in; an id begins with milliseconds since 1970.

    >>> hour_of("1772359200000-0").key
    '2026-03-01T10'
    """
    return _hour_at(int(entry.partition("-")[0]) / 1000)


def _id_parts(entry: str) -> tuple[int, int]:
    """Milliseconds and number of an entry's id, by which Redis orders them."""
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)


def _hour_at(seconds: float) -> Hour:
    return Hour.of(datetime.fromtimestamp(seconds, UTC))


def row_text(fields: Mapping[str, str]) -> str:
    r"""One row of the log as a line of JSON.

    >>> row_text({"user": "u1", "item": "7"})
    '{"user": "u1", "item": "7"}'
    >>> row_text({"json": '{"user": "u1",\n "liked": true}'})
    '{"user": "u1", "liked": true}'
    """
    if [*fields] == ["json"]:
        try:
            return json.dumps(json.loads(fields["json"]), ensure_ascii=False)
        except (ValueError, RecursionError):
            return fields["json"].replace("\n", " ")  # a row that cannot be read is counted, and not lost
    return json.dumps(dict(fields), ensure_ascii=False)


def land(
    settings: Settings, url: str, stream: str, pattern: str, *, trim: bool, once: bool = False,
    clock: Callable[[], float] = time.time,
) -> int:  # fmt: skip
    """Write a stream's entries to hourly log files until the process is stopped.

    Args:
        settings: of the workspace.
        url: of Redis, ``redis://…``.
        stream: its name.
        pattern: path of the files, with ``{hour}`` in it.
        trim: remove entries from the stream that are in completed files.
        once: stop when the stream holds no more.
        clock: seconds since 1970.

    Returns:
        Rows written.

    Raises:
        ConfigError: see ``LogWriter``, or the URL is wrong.
        NotReadyError: Redis does not answer, or another process writes the workspace's log.
    """
    try:
        import redis
    except ImportError:
        raise ConfigError("a Redis stream needs the extra 'production': install requirements-production.txt") from None
    try:
        client: redis.Redis = redis.Redis.from_url(
            url, decode_responses=True, encoding_errors="replace", health_check_interval=30
        )
    except ValueError as error:
        raise ConfigError(f"'{url}' is no URL of Redis: {error}") from None
    with _only_one(settings):
        writer = LogWriter(pattern, _progress_file(settings), stream)
        return _land(client, writer, trim=trim, once=once, clock=clock)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(settings.workspace / LANDING_LOCK, wait=False))
        except BlockingIOError:
            raise NotReadyError(f"another 'clock stream land' of '{settings.source}' writes its log already") from None
        yield


def _progress_file(settings: Settings) -> Path:
    """Where it stands how far the files are; the lane's folder, in which it once was, may be deleted at any time."""
    path, before = settings.workspace / "landing.json", settings.streaming_dir / "landing.json"
    if before.exists() and not path.exists():
        before.replace(path)
    return path


def _land(client: redis.Redis, writer: LogWriter, *, trim: bool, once: bool, clock: Callable[[], float]) -> int:
    """Write a stream's entries until the process is stopped, or with ``once`` until it holds no more; returns the rows."""
    import redis

    stream, rows = writer.position.stream, 0
    while True:
        try:
            answer: Any = client.xread(
                {stream: writer.position.entry}, count=ENTRIES_AT_ONCE, block=None if once else WAIT_MS
            )
        except redis.ResponseError as error:
            raise ConfigError(f"'{stream}' cannot be read as a stream: {error}") from None
        except redis.RedisError as error:
            if once:
                raise NotReadyError(f"Redis does not answer: {error}") from None
            log.warning("Redis does not answer: %s; trying again", error)
            time.sleep(1)
            continue
        entries = answer[0][1] if answer else []
        rows += writer.write(entries)
        if len(entries) < ENTRIES_AT_ONCE:  # nothing is left of the hours before
            before = writer.position.hour
            writer.complete_before(_hour_at(clock() - GRACE_SECONDS))
            if trim and writer.position.hour != before:
                begin = f"{Hour.parse(writer.position.hour).start.timestamp() * 1000:.0f}-0"
                # by Redis' clock the hour may go on: what came since the last look is still to be read
                client.xtrim(stream, minid=min(begin, writer.position.entry, key=_id_parts), approximate=True)
        if once and not entries:
            return rows

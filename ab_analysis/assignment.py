"""Who is in which variant of an experiment, and the log of who was exposed to it."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import logging
import os
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ab_analysis.experiment import Experiment, find_experiments, load_experiment
from core.errors import ConfigError
from core.files import write_text
from core.hours import Hour
from core.settings import Settings
from stats.assignment import assign, hash_to_unit

log = logging.getLogger("ab_analysis.assignment")

COLUMNS = ("experiment", "variant", "user", "timestamp")


def assign_users(experiment: Experiment, user_keys: Sequence[str], holdouts: Sequence[Experiment] = ()) -> np.ndarray:
    """Variant of each user, None for users outside the experiment's share of its layer, and for those who are held out.

    The same user always gets the same variant; experiments with other names or salts split independently; experiments
    with disjoint shares of one layer have no user in common.

    Args:
        experiment: its variants, shares, salt and layer.
        user_keys: the users' ids in the source's log, shape (users,).
        holdouts: whose control meets no other experiment; for a holdout itself they do not count.

    Returns:
        Array of objects, shape (users,).
    """
    variants = _split(experiment, user_keys)
    if experiment.layer is not None:
        position = hash_to_unit(f"layer\x1f{experiment.layer.name}", user_keys)
        variants[(position < experiment.layer.start) | (position >= experiment.layer.end)] = None
    for holdout in () if experiment.holdout else holdouts:
        variants[_split(holdout, user_keys) == holdout.control] = None
    return variants


def _split(experiment: Experiment, user_keys: Sequence[str]) -> np.ndarray:
    """Variant of each user, whatever layers and holdouts say; shape (users,)."""
    return assign(experiment.name, experiment.salt, experiment.variants, user_keys).astype(object)


def check_layers(experiments: Sequence[Experiment]) -> None:
    """Check that experiments which run at the same time do not claim the same users of a layer, and that one at most is a holdout.

    Raises:
        ConfigError: two of them do, or are.
    """
    for n, a in enumerate(experiments):
        for b in experiments[n + 1 :]:
            if a.holdout and b.holdout and run_together(a, b):
                raise ConfigError(
                    f"'{a.name}' and '{b.name}' are holdouts at the same time, so that neither shows the effect of all; end one first"
                )
            if a.layer is None or b.layer is None or a.layer.name != b.layer.name:
                continue
            apart = a.layer.end <= b.layer.start or b.layer.end <= a.layer.start
            if not apart and run_together(a, b):
                raise ConfigError(
                    f"layer '{a.layer.name}': '{a.name}' takes users {a.layer.start:g} to {a.layer.end:g} and '{b.name}' "
                    f"{b.layer.start:g} to {b.layer.end:g} at the same time; give them shares or days that do not overlap"
                )


def check_workspace_layers(settings: Settings, experiment: Experiment) -> None:
    """Check an experiment's layer against the workspace's other experiments, as the daily reports do.

    Other experiments whose files are wrong are skipped with a warning: they cannot be served either.

    Raises:
        ConfigError: another experiment claims the same users, or is a holdout at the same time.
    """
    for other in _others(settings, experiment):
        check_layers([experiment, other])


def concurrent_holdouts(settings: Settings, experiment: Experiment) -> list[Experiment]:
    """The workspace's holdouts that run at some time of an experiment: they keep their control from it on all of its days.

    A user's variant therefore does not change on a holdout's first or last day; the ranking service goes by the same rule.
    """
    if experiment.holdout:
        return []
    return [other for other in _others(settings, experiment) if other.holdout and run_together(experiment, other)]


def _others(settings: Settings, experiment: Experiment) -> list[Experiment]:
    """The workspace's other experiments whose files can be read."""
    others = []
    for name, path in find_experiments(settings.experiments_dir).items():
        try:
            other = load_experiment(path)
        except ConfigError as error:
            log.warning("experiment file %s is skipped: %s", name, error)
            continue
        if other.name != experiment.name:
            others.append(other)
    return others


def run_together(a: Experiment, b: Experiment) -> bool:
    """Whether two experiments run at the same time, were it for an hour."""
    ends = [e.end_hour.start if e.end_hour else datetime.max.replace(tzinfo=UTC) for e in (a, b)]
    return a.start_time < ends[1] and b.start_time < ends[0]


class ExposureLog:
    """Appends first exposures to ``<root>/<hour>.csv/<writer>.csv``, which a mapping's ``exposures`` reads as one log.

    Each process has a file of its own for every hour: on a network file system, appends of two machines to one file overwrite
    each other. A process logs a user once per hour, and again if an earlier time arrives later; the analysis takes the earliest.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.writer = uuid.uuid4().hex[:16]  # process ids are reused, and the same in many containers
        self._lock = threading.Lock()
        self._hour: Hour | None = None
        self._seen: dict[tuple[str, str], datetime] = {}

    def expose(self, experiment: str, variant: str, user_key: str, at: datetime) -> bool:
        """Log that a user was exposed to a variant.

        Args:
            experiment: its name.
            variant: the user's variant.
            user_key: the user's id in the source's log.
            at: time of the exposure, aware.

        Returns:
            False if this process has logged the user in that hour, at that time or earlier.
        """
        hour = Hour.of(at)
        with self._lock:
            if self._hour != hour:
                self._hour, self._seen = hour, {}
            before = self._seen.get((experiment, user_key))
            if before is not None and before <= at:
                return False
            self._append(hour, (experiment, variant, user_key, at.astimezone(UTC).isoformat()))
            self._seen[experiment, user_key] = at
        return True

    def _append(self, hour: Hour, row: tuple[str, ...]) -> None:
        path = self.root / f"{hour.key}.csv"
        if not path.is_file():  # an hour that an older platform began stays one file
            path.mkdir(parents=True, exist_ok=True)
            path /= f"{self.writer}.csv"
        with locked_file(path) as handle:
            size = os.fstat(handle).st_size
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([row] if size else [COLUMNS, row])
            line = text.getvalue().encode()
            if os.write(handle, line) < len(line):  # the rest did not fit; half a line would take the next one with it
                os.ftruncate(handle, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@contextmanager
def locked_file(path: Path) -> Iterator[int]:
    """Hold a log's file, so that nobody replaces it while a line is added; yields a handle that appends."""
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                yield handle
                return
        finally:
            os.close(handle)


def forget_exposures(root: Path, user_keys: Collection[str]) -> int:
    """Remove users from the logs of exposures, while processes may append to them.

    Args:
        root: of the logs.
        user_keys: the users' ids in the source's log.

    Returns:
        Lines removed.
    """
    removed = 0
    for path in sorted(p for p in root.rglob("*.csv") if p.is_file()):
        with locked_file(path):
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
            kept = [row for n, row in enumerate(rows) if n == 0 or len(row) < len(COLUMNS) or row[2] not in user_keys]
            if len(kept) < len(rows):
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(kept)
                write_text(path, text.getvalue())
                removed += len(rows) - len(kept)
    return removed

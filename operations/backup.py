"""Backups of all state: the workspace's files and, in production, PostgreSQL's databases.

Redis is not among them: the online store is filled again from the clocks. MLflow's artifacts in an object store are left
to the store's own versioning and replication; in the embedded profile they are files of the workspace.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from core.errors import ConfigError, CorruptStateError, NotReadyError
from core.files import digest_file, exclusive_lock, read_json, replaced_directory, write_json
from core.lock_order import lock_files
from core.settings import DATABASES, Settings
from core.state_version import state_version
from events.forgotten import ForgottenList
from events.store import EventStore
from operations.migrations import migrate

log = logging.getLogger("operations.backup")

NOT_STATE = frozenset({"logs", "scratch", "secrets", "services.json"})
"""Entries of a workspace that no backup holds: secrets are kept elsewhere, logs tell of the past, queries spill to scratch."""
LEFTOVERS = (".lock", ".tmp", "-wal", "-shm", "-journal", ".pid")
"""How names end of what processes hold, or are about to write."""
FORGOTTEN = "forgotten.json"
"""In a backup the list of the forgotten, for those who restore an earlier one."""
LOCK_TIMEOUT_SECONDS, RESTORE_TRIES, RESTORE_PAUSE_SECONDS = 30, 5, 2.0
SQLITE = (b"SQLite format 3\x00", ".db")


@dataclass(frozen=True)
class BackupSummary:
    """A backup that was written: its folder, and its size in bytes."""

    backup: str
    bytes: int


@dataclass(frozen=True)
class RestoreSummary:
    """What was put back: how many files and folders of the workspace, and which of PostgreSQL's databases."""

    restored: int
    databases: tuple[str, ...]


def back_up(settings: Settings, folder: Path) -> BackupSummary:
    """Write a backup into a new folder below ``folder``, completely or not at all.

    Writers of the workspace wait meanwhile (their locks are held); SQLite files are copied by SQLite's own backup, so
    that Airflow and MLflow may run.

    Raises:
        ConfigError: there is no state yet, or the folder cannot be made.
        NotReadyError: PostgreSQL does not answer.
    """
    if state_version(settings) is None:
        raise ConfigError(f"there is nothing to back up in {settings.workspace}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"'{folder}' cannot hold backups: {error.strerror}; name a folder") from None
    target = folder / f"{settings.source}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    with replaced_directory(target) as half:
        with _writers_waiting(settings):
            _pack(settings.workspace, half)
            dumps = _dump_databases(settings, half) if settings.in_production else []
        write_json(half / FORGOTTEN, ForgottenList(settings.events_dir).groups())
        files = {p.name: digest_file(p) for p in sorted(half.iterdir())}
        write_json(half / "manifest.json", {
            "source": settings.source, "profile": settings.profile, "state": state_version(settings), "files": files,
            "databases": dumps,
        })  # fmt: skip
    size = sum(p.stat().st_size for p in target.iterdir())
    log.info("backup %s: %.1f MB", target, size / 1e6)
    return BackupSummary(str(target), size)


def restore(settings: Settings, backup: Path) -> RestoreSummary:
    """Put a backup back: the workspace must be empty, and so must PostgreSQL's databases (``operations init``).

    Who asked to be forgotten after the backup was made is removed again: everybody on the lists in the backups beside it, and on
    the copy beside the workspaces. A damaged backup changes nothing. After an interrupted restore move the workspace away and begin again.

    Raises:
        ConfigError: there is state already, or the backup is another source's.
        CorruptStateError: a file of the backup does not match its digest.
    """
    if not (backup / "manifest.json").exists():
        raise ConfigError(f"{backup} is not a backup: it has no manifest.json")
    manifest = read_json(backup / "manifest.json")
    if manifest["source"] != settings.source:
        raise ConfigError(f"{backup} is of the source {manifest['source']}, not {settings.source} (--source)")
    kept = [p.name for p in settings.workspace.glob("*")] if settings.workspace.exists() else []
    if state := sorted(set(kept) - NOT_STATE - {"airflow", "mlflow"}):
        raise ConfigError(f"{settings.workspace} is not empty ({', '.join(state[:4])}); move it away first")
    for name, digest in manifest["files"].items():
        if not (backup / name).exists() or digest_file(backup / name) != digest:
            raise CorruptStateError(f"{backup / name} is damaged; take another backup")
    settings.workspace.mkdir(parents=True, exist_ok=True)
    with tarfile.open(backup / "workspace.tar.gz") as archive:
        archive.extractall(settings.workspace, filter="data")
        count = len(archive.getmembers())
    if settings.in_production:
        for name in manifest["databases"]:
            _restore_database(settings, name, backup / f"{name}.dump")
    migrate(settings)
    _apply_forgotten(settings, backup)
    _fill_online_store(settings)
    return RestoreSummary(count, tuple(manifest["databases"]))


@contextmanager
def _writers_waiting(settings: Settings) -> Iterator[None]:
    """Hold every lock that writers of the workspace take in turns."""
    with ExitStack() as locks:
        for path in lock_files(settings.workspace):
            locks.enter_context(exclusive_lock(path))
        yield


def _pack(workspace: Path, half: Path) -> None:
    copies = half / "sqlite"
    copies.mkdir()

    with tarfile.open(half / "workspace.tar.gz", "w:gz", compresslevel=1) as archive:
        for path in _files_of(workspace):
            try:
                archive.add(_sqlite_copy(path, copies) if _is_sqlite(path) else path, str(path.relative_to(workspace)))
            except FileNotFoundError:  # nothing that the locks guard: a service that runs has removed it meanwhile
                log.debug("%s is gone", path)
    shutil.rmtree(copies)


def _files_of(workspace: Path) -> Iterator[Path]:
    """The files of a workspace that hold state, in the order of their paths within each entry."""
    for top in sorted(workspace.iterdir()):
        if top.name in NOT_STATE or top.name.startswith("."):
            continue
        walked = [Path(folder, name) for folder, _, names in os.walk(top) for name in names] if top.is_dir() else [top]
        for path in sorted(walked):
            parts = path.relative_to(workspace).parts
            left_over = any(part.endswith(LEFTOVERS) for part in parts) or parts[:2] == ("airflow", "logs")
            if not left_over and not (path.is_symlink() and path.name.endswith("latest")):
                yield path


def _is_sqlite(path: Path) -> bool:
    if path.suffix != SQLITE[1] or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE[0])) == SQLITE[0]


def _sqlite_copy(path: Path, folder: Path) -> Path:
    copy = folder / "copy.db"
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, timeout=60)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def _dump_databases(settings: Settings, half: Path) -> list[str]:
    for name in DATABASES:
        _postgres_tool(
            settings, name, ["pg_dump", "--format=custom", "--no-owner", "--file", str(half / f"{name}.dump"), name]
        )
    return list(DATABASES)


def _restore_database(settings: Settings, name: str, dump: Path) -> None:
    """In one transaction: completely or not at all. If a service still writes, it waits, or the restore waits and tries again."""
    for left in reversed(range(RESTORE_TRIES)):
        try:
            _postgres_tool(settings, name, ["pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction",
                                            "--dbname", name, str(dump)])  # fmt: skip
        except NotReadyError as error:
            if not left:
                raise
            log.warning("%s; trying again (are all services stopped?)", error)
            time.sleep(RESTORE_PAUSE_SECONDS)
        else:
            return


def _postgres_tool(settings: Settings, database: str, command: list[str]) -> None:
    """One of PostgreSQL's own programs, its login in the environment, as nobody else may read a process's."""
    program = shutil.which(command[0])
    if program is None:
        raise NotReadyError(f"{command[0]} is not installed (Debian: postgresql-client)")
    host, port = settings.postgres.rsplit(":", 1)
    login = {
        "PGHOST": host, "PGPORT": port, "PGUSER": database, "PGPASSWORD": settings.secret(f"{database}_db"),
        "PGOPTIONS": f"-c lock_timeout={LOCK_TIMEOUT_SECONDS}s",
    }  # fmt: skip
    done = subprocess.run(
        [program, *command[1:]], env={**os.environ, **login}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotReadyError(f"{command[0]} of {database} failed: {done.stderr.strip()[-300:]}")


def _apply_forgotten(settings: Settings, backup: Path) -> None:
    """Bring the list of the forgotten up to what is known of it anywhere, and forget who is back."""
    from pipeline.forgetting import forget_listed, list_copy

    known = ForgottenList(settings.events_dir)
    beside = [path.parent for path in backup.parent.glob("*/manifest.json")]
    lists = [path / FORGOTTEN for path in beside if read_json(path / "manifest.json").get("source") == settings.source]
    for path in sorted(path for path in [*lists, list_copy(settings)] if path.exists()):
        known.merge(read_json(path))
    if report := forget_listed(settings):
        log.info("forgotten again: %d people", len(report.people))


def _fill_online_store(settings: Settings) -> None:
    """Redis starts empty after a restore; what SQLite had came with the files."""
    from feature_repo.materialization import Materialization
    from feature_repo.retrieval import ClockFeatures

    if settings.online_store == "redis":
        features = ClockFeatures(settings, EventStore(settings.events_dir))
        if features.clock.as_of:
            Materialization(features).materialize_all(features.clock.as_of)

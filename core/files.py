"""Files that are either complete or absent: atomic writes, digests, locks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError, CorruptStateError

if TYPE_CHECKING:
    import pyarrow as pa


LINES_AT_ONCE = 8192
"""Bytes in which the end of a line is looked for at a time."""


def write_atomically(path: Path, write: Callable[[Path], object], *, mode: int = 0o644) -> None:
    """Write a file so that it is either complete or absent: into a temporary file beside it that is then renamed.

    Args:
        path: the file; missing folders are created.
        write: called with the path of the temporary file.
        mode: permissions of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by atomic rename."""
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def is_passed_over(path: Path, root: Path) -> bool:
    """Whether a file below ``root``, or a folder on the way to it, begins with ``_`` or ``.``.

    They hold what jobs leave while they write, and a table's own log.
    """
    below = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
    return any(part.startswith((".", "_")) for part in below)


def is_tabbed(path: Path) -> bool:
    """Whether a text file's name says that tabs stand between its cells (``.tsv``, ``.tsv.gz``)."""
    return ".tsv" in (suffix.lower() for suffix in path.suffixes)


def check_output(path: Path, *inputs: Path) -> None:
    """Check, before the work, that a command can write where it was asked to.

    Args:
        path: the file to write.
        inputs: what the command reads.

    Raises:
        ConfigError: the path is a folder, or one of the inputs, which would be lost.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"cannot write '{path}': it is a folder; name a file in it")
        if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
            raise ConfigError(f"cannot write '{path}': the command reads it; name another file")
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}") from None


def write_output(path: Path, text: str) -> None:
    """Write a command's result, atomically where the path is a file; a device or a pipe, such as /dev/stdout, gets the text.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as device:
                device.write(text)
        else:
            write_text(path.resolve(), text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}") from None


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a text file, for one writer at a time; what a full disk or a crash left of a line is dropped first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(end_of_lines(path))
        file.write("".join(f"{line}\n" for line in lines).encode())


def end_of_lines(path: Path) -> int:
    """Size of a text file up to the end of its last whole line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - LINES_AT_ONCE)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
    return 0


def lines_since(path: Path, offset: int) -> list[str]:
    """The whole lines of a text file from an offset on, which ``end_of_lines`` gave; only a newline ends one, as JSON keeps others."""
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    return content[: content.rfind(b"\n") + 1].decode().split("\n")[:-1]


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n")


WRITE_AGAIN = "delete it and run the step that writes it again"
FROM_BACKUP = "put it back from a backup: no step writes it again as it was"
"""What to do with a damaged file of what is told once, such as which ids are numbers."""


def read_json(path: Path, remedy: str = WRITE_AGAIN) -> Any:
    """Read one of the platform's own JSON files.

    Args:
        path: of the file.
        remedy: what to do where it is damaged.

    Raises:
        CorruptStateError: it cannot be parsed.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptStateError(f"{path} is damaged ({error}); {remedy}") from error


def write_parquet(path: Path, table: pa.Table, *, row_group: int | None = None) -> None:
    """Write a table deterministically: the same rows in the same order give the same bytes.

    Args:
        path: the file.
        table: its content.
        row_group: rows of a row group; by default PyArrow's million.
    """
    import pyarrow.parquet as pq  # 0.4 s that every process would take, as each reads its settings

    if not table.num_rows:
        content = _parquet_without_rows(table.schema.serialize().to_pybytes())
        write_atomically(path, lambda target: target.write_bytes(content))
        return
    write_atomically(path, lambda target: pq.write_table(table, target, row_group, compression="zstd"))


@lru_cache(maxsize=64)
def _parquet_without_rows(schema: bytes) -> bytes:
    """The file of a table without rows, as ``write_parquet`` has it: an hour in which nothing happened is several of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = pa.BufferOutputStream()
    pq.write_table(pa.ipc.read_schema(pa.py_buffer(schema)).empty_table(), target, compression="zstd")
    return bytes(target.getvalue())


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """Fill a temporary directory in the ``with`` block; on success it replaces ``path``.

    The old directory is renamed aside before the new one is renamed into place. After a crash between the two it is
    still there, complete, and ``recover_directories`` puts it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    retired = _retired(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".", suffix=".tmp"))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)
            path.replace(retired)
        temporary.replace(path)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """An empty folder that exists for the ``with`` block; leftovers of a crash are removed first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def temporary_directory(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder that exists for the ``with`` block; those that killed processes left behind are removed first.

    A process holds a lock on its folder for as long as it lives.

    Args:
        prefix: begins the folder's name, and the names of those before it.
        parent: where it stands; by default where the system keeps temporary files.
    """
    parent = parent or Path(tempfile.gettempdir())
    for other in parent.glob(f"{prefix}*"):
        with suppress(OSError), _locked_folder(other):
            shutil.rmtree(other, ignore_errors=True)
    hidden = Path(tempfile.mkdtemp(dir=parent, prefix=f".{prefix}"))
    with ExitStack() as stack:
        with suppress(OSError):  # a file system without locks
            stack.enter_context(_locked_folder(hidden))
        folder = hidden.rename(parent / hidden.name.removeprefix("."))  # others see it only now that it is locked
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; ``OSError`` where another process holds it, or it is none of ours."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def remove_files(paths: Iterable[Path], root: Path) -> None:
    """Remove files, and the folders on the way to them that are empty then.

    Args:
        paths: of the files.
        root: folder above all of them, which stays.
    """
    folders: set[Path] = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders |= {root.joinpath(*below.parts) for below in path.relative_to(root).parents if below.parts}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        with suppress(OSError):  # it holds something else
            folder.rmdir()


def recover_directories(root: Path) -> None:
    """Clean up after a crash within ``replaced_directory``, directly below ``root``. Call it while holding the writer's lock."""
    if not root.exists():
        return
    left = [root / name for name in sorted(os.listdir(root)) if name.startswith(".")]  # noqa: PTH208 (names alone)
    for retired in (path for path in left if path.suffix == ".old"):
        path = root / retired.name.removeprefix(".").removesuffix(".old")
        if path.exists():
            shutil.rmtree(retired)
        else:
            retired.replace(path)
    for temporary in (path for path in left if path.suffix == ".tmp"):
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _retired(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


@contextmanager
def exclusive_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock on ``path``, so that writers of one store take turns; a crash releases it.

    Args:
        path: a file, made where it is missing.
        wait: for its holder; else ``BlockingIOError`` where somebody has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def digest_text(*parts: str) -> str:
    """SHA-256, in hex, of texts; the digest depends on where each one ends."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def files_stamp(root: Path, files: Iterable[Path]) -> str:
    """Names below a folder, sizes and times of change of files, in short."""
    seen = ((path.relative_to(root).as_posix(), path.stat()) for path in files)
    return digest_text(*(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in seen))


def digest_json(value: Any) -> str:
    """SHA-256, in hex, of a value as JSON with sorted keys."""
    return digest_text(json.dumps(value, sort_keys=True, default=str))


def digest_file(path: Path) -> str:
    """SHA-256, in hex, of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_files(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256, in hex, of each of some files."""
    return {path: digest_file(path) for path in paths}

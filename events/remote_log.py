"""A log in an object store or on another machine: listed and fetched by Arrow's file systems before it is read.

Readers tell the lines of files, look at their first bytes, and read some of them more than once, so they read files of this
machine. What was fetched is removed when it has been read. Who may read is the store's own: for Amazon's S3 and what speaks like
it the variables ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, or the machine's role.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from core.duck import GLOB_SIGN
from core.errors import ConfigError, DataError, NotReadyError, PlatformError
from core.files import is_passed_over, temporary_directory
from core.settings import Settings
from events.log_paths import URL, is_remote
from events.mapping import Mapping as LogMapping

log = logging.getLogger("events.remote_log")

SCHEMES = ("s3", "gs", "abfs", "hdfs")
AT_ONCE = 8
"""Files that are looked for or fetched at a time."""
PIECE = 8 << 20
"""Bytes of a file that are copied at a time."""
REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|NO_SUCH_BUCKET|forbidden|unauthorized|\b40[13]\b", re.IGNORECASE
)
"""What an answer holds that will be the same when it is asked for again."""
NAMED = re.compile(r"'[^']*'")
"""What an answer names, such as a key with ``0403`` for a day in April."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a store.

    Attributes:
        url: its address.
        store: the file system that has it.
        path: where it is there.
        size: bytes.
        modified_ns: when it was written, nanoseconds since 1970.
    """

    url: str
    store: pafs.FileSystem
    path: str
    size: int
    modified_ns: int


def remote_files(url: str) -> list[RemoteFile]:
    """Files under the address of a file, a folder or a glob, in order; none where there is none.

    Files and folders that begin with ``_`` or ``.`` are passed over, as on this machine.

    Raises:
        ConfigError: such addresses are not known, or the store refuses.
        NotReadyError: the store does not answer.
    """
    parts = URL.fullmatch(url)
    assert parts is not None
    if parts["scheme"] not in SCHEMES:
        raise ConfigError(
            f"'{url}': logs are read from this machine and from {', '.join(f'{s}://' for s in SCHEMES)}; download it first"
        )
    with _told(url):
        store, root = pafs.FileSystem.from_uri(f"{parts['scheme']}://{parts['host']}")
        inside = parts["path"].rstrip("/")
        base = posixpath.join(root, *filter(None, inside.split("/")))
        found = store.get_file_info(base)
        is_glob = found.type == pafs.FileType.NotFound and GLOB_SIGN.search(inside) is not None
        if is_glob:  # else a name may have such a sign, too
            base = posixpath.join(root, *filter(None, _before_glob(inside)))
            found = store.get_file_info(base)
        if found.type == pafs.FileType.File:
            infos = [found]
        elif found.type == pafs.FileType.Directory:
            infos = store.get_file_info(pafs.FileSelector(base, recursive=True))
        else:
            infos = []
    prefix = root.rstrip("/")
    files = {
        info.path.removeprefix(prefix).lstrip("/"): info
        for info in infos
        if info.type == pafs.FileType.File and not is_passed_over(Path(info.path), Path(base))
    }
    return [
        RemoteFile(f"{parts['scheme']}://{parts['host']}/{name}", store, info.path, info.size, info.mtime_ns or 0)
        for name in sorted(_globbed([*files], inside) if is_glob else files)
        for info in [files[name]]
    ]


@contextmanager
def on_this_machine(
    mapping: LogMapping, paths: Sequence[str], settings: Settings
) -> Iterator[tuple[LogMapping, list[str]]]:
    """A log's paths as paths of this machine, within a ``with`` block, and the mapping with its tables' paths as such.

    Beside the files of a log lies what the mapping says is beside them: tables of users and items, logs of exposures.

    Args:
        mapping: of the log.
        paths: files, folders or globs, and addresses of such.
        settings: of the workspace, in whose scratch folder files are kept meanwhile.

    Raises:
        ConfigError, DataError, NotReadyError: as ``remote_files``; or there is no file under an address.
    """
    tables = {name: table for name in ("items", "users") if (table := getattr(mapping, name)) is not None}
    remote_tables = {name: table for name, table in tables.items() if is_remote(table.path)}
    if not remote_tables and not any(map(is_remote, paths)):
        yield mapping, [*paths]
        return
    scratch = settings.workspace / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with temporary_directory("fetched-", scratch) as folder:
        wanted = {path: some_files(path) for path in paths if is_remote(path)}
        beside = {url for files in wanted.values() for file in files for url in _beside(mapping, file.url)}
        with ThreadPoolExecutor(AT_ONCE) as pool:  # a request for each folder, and for each file's exposures
            found = pool.map(remote_files, sorted(beside))
            fetch([file for files in (*wanted.values(), *found) for file in files], folder)
        for name, table in remote_tables.items():
            file = some_files(table.path)[0]
            fetch([file], folder)
            at_home = table.model_copy(update={"path": str(local_path(file.url, folder))})
            mapping = mapping.model_copy(update={name: at_home})
        try:
            yield mapping, [str(local_path(path, folder)) if path in wanted else path for path in paths]
        except PlatformError as error:  # names files as the user does
            error.args = tuple(_with_addresses(part, folder) for part in error.args)
            raise


def some_files(url: str) -> list[RemoteFile]:
    """As ``remote_files``, at least one; ``DataError`` where there is none."""
    files = remote_files(url)
    if not files:
        raise DataError(f"no such file: '{url}'; check the address (a file, a folder or a quoted glob)")
    return files


def fetch(files: Sequence[RemoteFile], folder: Path) -> None:
    """Copy files to ``local_path`` below a folder, with the time at which they were written; those that are there stay."""
    targets = {local_path(file.url, folder): file for file in files}
    missing = [file for target, file in targets.items() if not target.exists()]
    if not missing:
        return
    megabytes = sum(file.size for file in missing) / 1e6
    log.info(
        "fetching %d file(s), %.1f MB: %s%s", len(missing), megabytes, missing[0].url, ", …" if missing[1:] else ""
    )
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(partial(_fetch, folder=folder), missing))


def local_path(url: str, folder: Path) -> Path:
    """Where the file of an address lies below a folder; ``DataError`` where its name leads out of it."""
    if ".." in url.split("/"):
        raise DataError(f"{url!a} leads out of its folder; rename it")
    return folder / url.replace("://", "/", 1)


def _with_addresses(part: object, folder: Path) -> object:
    """A part of an error with the addresses of files that were fetched into a folder in the place of their paths."""
    return (
        re.sub(rf"{re.escape(str(folder))}/({'|'.join(SCHEMES)})/", r"\1://", part) if isinstance(part, str) else part
    )


def _fetch(file: RemoteFile, folder: Path) -> None:
    target = local_path(file.url, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with _told(file.url), file.store.open_input_stream(file.path, compression=None) as source, part.open("wb") as sink:
        shutil.copyfileobj(source, sink, PIECE)
    os.utime(part, ns=(file.modified_ns, file.modified_ns))
    part.rename(target)


def _beside(mapping: LogMapping, url: str) -> set[str]:
    """Addresses of what a mapping says lies beside a file of the log."""
    folder, name = url.rsplit("/", 1)
    paths = [table.path for table in (mapping.items, mapping.users) if table]
    if mapping.exposures:
        paths.append(mapping.exposures.path.replace("{name}", name).replace("{stem}", name.split(".")[0]))
    scheme, _, below = folder.partition("://")
    places = (
        posixpath.normpath(posixpath.join(below, path))
        for path in paths
        if not (is_remote(path) or path.startswith("/"))
    )
    host = below.split("/")[0]
    return {f"{scheme}://{place}" for place in places if place.startswith(f"{host}/")}


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Say of an error of a store what it was about."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        if isinstance(error, FileNotFoundError):
            raise DataError(f"'{url}' is gone: {why}") from None
        if isinstance(error, pa.ArrowException) or REFUSED.search(NAMED.sub("", why)):
            raise ConfigError(f"'{url}' cannot be read: {why}") from None
        raise NotReadyError(f"'{url}' cannot be read now: {why}") from None


def _before_glob(path: str) -> Iterator[str]:
    """The folders of a path before the first that has a sign of a glob."""
    for part in PurePosixPath(path).parts:
        if GLOB_SIGN.search(part):
            return
        yield part


def _globbed(names: Sequence[str], glob: str) -> list[str]:
    """Files that a glob matches, else those in folders that it matches."""
    pattern = glob.split("/")

    def in_folder(parts: Sequence[str]) -> bool:
        return any(_matches(parts[:depth], pattern) for depth in range(1, len(parts)))

    files = [name for name in names if _matches(name.split("/"), pattern)]
    return files or [name for name in names if in_folder(name.split("/"))]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether folders and name are those of a glob; ``**`` stands for any folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[n:], pattern[1:]) for n in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])

"""Files of a log: which there are under a path, in which format, and whether they are whole."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import GLOB_SIGN
from core.errors import DataError
from core.files import is_passed_over
from events.log_paths import is_remote
from events.packing import CHUNK, DAMAGED, binary, is_packed, packing_of, plain_name
from events.remote_log import remote_files

log = logging.getLogger("events.log_files")

SUFFIXES = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
ALSO = "also .gz, .bz2, .xz, and .zip of one file"
"""How files of these endings may be packed."""
NO_TEXT = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "a ZIP archive (or an Excel workbook)", b"PAR1": "Parquet", b"\x28\xb5\x2f\xfd": "Zstandard",
    b"BZh9": "bzip2", b"\xfd7zXZ": "xz", b"ARROW1": "Arrow", b"Obj\x01": "Avro", b"SQLite f": "a SQLite database",
    b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook", b"%PDF": "a PDF",
    b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"version https://git-lfs": "a pointer of Git LFS",
    b"<!DOCTYPE": "a page of HTML", b"<!doctype": "a page of HTML", b"<html": "a page of HTML", b"<?xml": "XML",
}  # fmt: skip
"""What a file begins with that is not what its name says."""
REMEDY = defaultdict(lambda: "unpack or convert it", {
    "gzip": "call it .gz", "bzip2": "call it .bz2", "xz": "call it .xz", "Parquet": "call it .parquet, or set format: parquet",
    "UTF-32": "save it as UTF-8", "a pointer of Git LFS": "fetch it with git lfs pull", "a page of HTML": "download the log itself",
})  # fmt: skip
NO_LOG = {"a PDF", "a page of HTML", "XML"}
"""What lies beside a log and is no part of it."""
MOST_NAMED = 3
HEAD = 300
"""Bytes of a file by which its content is told."""
OTHER_PLACE = re.compile(r"\{\w*(hour|day|date|year|dt|%)\w*[:}]|%[YmdH]")
"""What other programs write in a path for the time."""
TAR = slice(257, 262), b"ustar"
"""Where an archive of tar says that it is one."""


def find_files(paths: list[str]) -> list[Path]:
    """Files under the given files, folders and globs, in order.

    Files and folders that begin with ``_`` or ``.`` are passed over: they hold what jobs leave while they write, and
    a table's own log.

    Raises:
        DataError: no file exists, or a folder must not be looked into.
    """
    matches: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.is_dir() and text.strip():
            below = _below(path)
            inside = [p for p in below if format_of(p)]
            if not inside:
                names = ", ".join(sorted(p.name for p in below)[:MOST_NAMED])
                remedy = (
                    f"; if {names} are logs, name them by their paths and set format in the mapping" if below else ""
                )
                raise DataError(f"folder '{text}' holds no log files ({', '.join(sorted(SUFFIXES))}, {ALSO}){remedy}")
            matches += inside
        elif path.is_file():
            matches.append(path)
        elif globbed := _globbed(path) if text.strip() else []:
            matches += globbed
        else:
            raise DataError(_no_file(text))
    files = sorted({p.resolve(): p for p in matches}.values(), key=str)
    if strange := [file for file in files if not str(file).isprintable()]:
        raise DataError(f"{str(strange[0])!a}: a path with control characters or line breaks; rename it")
    if split := [file for file in files if "\\" in str(file) and GLOB_SIGN.search(str(file))]:
        raise DataError(f"{split[0]}: a path with a backslash and one of * ? [ in it cannot be read; rename it")
    if not files:
        raise DataError("no log given: name its files on the command line or under 'paths' in the mapping")
    return files


def tell_unread(paths: list[str]) -> None:
    """Warn of files in folders that may be a part of the log, and that no name says how to read.

    Args:
        paths: of a log, as of ``find_files``.
    """
    for folder in filter(os.path.isdir, paths):
        contents = {file: _content(_head(file)) for file in _below(Path(folder)) if format_of(file) is None}
        unread = {file: content for file, content in contents.items() if content and content not in NO_LOG}
        if unread:
            file, content = min(unread.items())
            log.warning(
                "%d files in folder '%s' are not read, such as %s, which holds %s; if they belong to the log, %s",
                len(unread), folder, file.name, content, REMEDY[content],
            )  # fmt: skip


def has_arrived(path: str) -> bool:
    """Whether there is something under a path or an address: a file, a folder, or a file that the glob matches.

    Raises:
        ConfigError, DataError, NotReadyError: of an address, as ``remote_files``.
    """
    if is_remote(path):
        return bool(remote_files(path))
    return Path(path).exists() or bool(_globbed(Path(path)))


def _no_file(text: str) -> str:
    """What is wrong with a path under which there is no file."""
    if not text.strip():
        return "the path of a log is empty; is a variable of the shell not set?"
    if Path(text).exists():
        return f"'{text}' is a pipe or a device, which cannot be read twice; write it to a file first"
    times = "; the hour or day in a path is written {hour} or {hour:%Y-%m-%d}" if OTHER_PLACE.search(text) else ""
    return f"no such file: '{text}'; check the path (a file, a folder or a quoted glob){times}"


def _below(folder: Path) -> list[Path]:
    """Files in a folder and in those below it that no job left; a folder that must not be looked into is an error."""

    def refuse(error: OSError) -> None:
        raise DataError(f"folder '{error.filename}' cannot be looked into ({error.strerror}); nothing was ingested")

    files: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_passed_over(Path(root, name), folder)]
        files += [Path(root, name) for name in names]
    return [file for file in files if file.is_file() and not is_passed_over(file, folder)]


def _globbed(pattern: Path) -> list[Path]:
    """Files that a pattern matches, below the folders that it names as they are, signs and all; else those in folders that it matches."""
    root = pattern.parent
    while not root.is_dir():
        root = root.parent
    matches = [root / match for match in glob.glob(str(pattern.relative_to(root)), root_dir=root, recursive=True)]
    matches = [path for path in matches if not is_passed_over(path, root)]
    if files := [path for path in matches if path.is_file()]:
        return files
    return [file for path in matches if path.is_dir() for file in _below(path) if format_of(file)]


def format_of(path: Path) -> str | None:
    """The format (``csv``, ``jsonl``, ``parquet``) that a file's name says, None where it says none."""
    return SUFFIXES.get(plain_name(path).suffix.lower())


def unpacked(path: Path) -> Path:
    """Where a log file that is packed when it is complete lies before; any other file's own path."""
    return path.with_suffix("") if is_packed(path) else path


def part_of(path: Path) -> Path:
    """Where a log file lies while it is written, if its writer renames or packs it when it is complete."""
    plain = unpacked(path)
    return plain.with_name(f"{plain.name}.part")


def check_whole(file: Path, kind: str | None) -> None:
    """Fail for a file that is empty or was cut short, before anything is read from it.

    Raises:
        DataError: it is, or :func:`check_content` refuses it.
    """
    check_content(file, kind)
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty (0 bytes); nothing was ingested. Remove it, or fetch it again")
    try:
        if kind == "parquet":
            pq.ParquetFile(file)
        elif is_packed(file):
            with binary(file) as stream:
                while stream.read(CHUNK):
                    pass
    except (pa.ArrowInvalid, *DAMAGED) as error:
        raise DataError(
            f"{file} is damaged or was cut short ({str(error).splitlines()[0]}); nothing was ingested. "
            "Fetch the file again and repeat the command: rows already ingested are recognized"
        ) from None


def check_content(file: Path, kind: str | None) -> None:
    """Fail for a file that begins as something else than its name says.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    head, packing = _head(file), packing_of(file)
    content = _content(head)
    if packing and head and content is None:
        raise DataError(f"{file} is not {packing}, as its name says; take {file.suffix} off. Nothing was ingested")
    if packing and packing in (content or "") and kind != "parquet":
        content = _content(_unpacked_head(file))
        if packing in (content or ""):
            raise DataError(f"{file} is packed twice by {packing}; unpack it once. Nothing was ingested")
    wanted = "Parquet" if kind == "parquet" else "text"
    if content not in {None, wanted}:
        remedy = REMEDY[content] if wanted == "text" or "LFS" in content else "unpack or convert it"
        raise DataError(f"{file} holds {content} and no {wanted}; {remedy}. Nothing was ingested")


def _head(file: Path) -> bytes:
    """The first bytes of a file; ``DataError`` where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(HEAD)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); nothing was ingested") from None


def _content(head: bytes) -> str | None:
    """What a file holds that begins so, unless it may be text."""
    place, mark = TAR
    if head[place] == mark:
        return "a tar archive"
    return next((what for magic, what in NO_TEXT.items() if head.startswith(magic)), None)


def _unpacked_head(file: Path) -> bytes:
    """The first bytes of what is packed in a file, none if it is damaged."""
    try:
        with binary(file) as stream:
            return stream.read(HEAD)
    except DAMAGED:
        return b""

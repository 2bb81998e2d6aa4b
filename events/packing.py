"""Files that are packed, each with one log or table in it: which they are, and their bytes as they were before."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from core.errors import DataError
from core.files import is_passed_over

CHUNK = 1 << 20
GZIP, ZIP = "gzip", "ZIP"
PACKINGS = {".gz": GZIP, ".gzip": GZIP, ".bz2": "bzip2", ".xz": "xz", ".zip": ZIP}
"""How a packed file's name ends, and how it is packed."""
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What is raised for a packed file that is damaged or was cut short."""
ENCRYPTED = 1
"""The bit of an archive's member that says that a password opens it."""
MOST_NAMED = 3


def packing_of(file: Path) -> str | None:
    """How a file is packed, by its name; None: it is not."""
    return PACKINGS.get(file.suffix.lower())


def is_packed(file: Path) -> bool:
    """Whether a file's name says that it is packed."""
    return packing_of(file) is not None


def plain_name(file: Path) -> Path:
    """A file's name before it was packed: that of the only file in an archive, else its own without the ending.

    >>> plain_name(Path("log/ratings.tsv.bz2")).name
    'ratings.tsv'
    """
    if packing_of(file) == ZIP:
        with suppress(OSError, zipfile.BadZipFile):
            members = _members(file)
            if len(members) == 1 and (name := Path(members[0].filename)).suffix:
                return file.with_name(name.name)
    return file.with_suffix("") if is_packed(file) else file


def binary(file: Path) -> BinaryIO:
    """The file's bytes, unpacked where it is packed.

    Raises:
        DataError: it is an archive, and not of one file that anybody may read.
    """
    openers: dict[str | None, Callable[[Path], object]] = {
        None: lambda path: path.open("rb"), GZIP: gzip.open, "bzip2": bz2.open, "xz": lzma.open, ZIP: _only_member,
    }  # fmt: skip
    return cast(BinaryIO, openers[packing_of(file)](file))


def is_read_by_duckdb(file: Path) -> bool:
    """Whether DuckDB unpacks a file where that is needed, which it tells by the name."""
    return not is_packed(file) or file.suffix.lower() == ".gz"


def for_duckdb(file: Path, copy: Path) -> Path:
    """The file, or its bytes at ``copy`` where it is packed in a way that DuckDB does not read."""
    if is_read_by_duckdb(file):
        return file
    with binary(file) as stream, copy.open("wb") as target:
        shutil.copyfileobj(stream, target, CHUNK)
    return copy


def _only_member(file: Path) -> BinaryIO:
    members = _members(file)
    if len(members) != 1:
        names = ", ".join(member.filename for member in members[:MOST_NAMED])
        listed = (
            f"{len(members)} files ({names}{', ...' if len(members) > MOST_NAMED else ''})" if members else "no file"
        )
        raise DataError(
            f"{file} is an archive of {listed}, and only one of a single file is read; unpack it, and name its files"
        )
    if members[0].flag_bits & ENCRYPTED:
        raise DataError(f"{file} is encrypted; unpack it with its password")
    try:
        with zipfile.ZipFile(file) as archive:  # the member goes on to be read after this is closed
            return cast(BinaryIO, archive.open(members[0]))
    except NotImplementedError as error:
        raise DataError(f"{file} cannot be unpacked here ({error}); unpack it by the program that packed it") from None


def _members(file: Path) -> list[zipfile.ZipInfo]:
    """Files of a ZIP archive, without those that programs hide, as a Mac does in ``__MACOSX``."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    return [member for member in members if not member.is_dir() and not is_passed_over(Path(member.filename), Path())]

"""A log file that its writer appends to: the whole lines that came since the last look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from core.errors import ConfigError, DataError
from events.log_files import format_of, part_of, unpacked
from events.mapping import Mapping

MOST_BYTES = 64 << 20
"""Bytes of one look at most: bounds the memory of a lane that has much to catch up with."""
LONGEST_ROW = 1 << 20
"""A quoted cell may hold line breaks; one that is not closed after so many bytes is a stray quote."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class LogTail:
    """Reads a growing text log from its begin on.

    Args:
        path: of the log; it need not exist yet, or lies where ``part_of`` says. One that is packed when it is
            complete is read where it is not yet: beside it, without the ending.
        mapping: says how the log is written.

    Raises:
        ConfigError: logs of this format cannot be read while they grow.
    """

    def __init__(self, path: Path, mapping: Mapping) -> None:
        self.path, self.csv = path, mapping.csv
        self.kind = mapping.format if mapping.format != "auto" else format_of(path)
        if self.kind == "parquet" or self.csv.encoding == "utf-16":
            raise ConfigError(
                f"{path} cannot be followed: only CSV and JSON lines in UTF-8 or Latin-1 can be read while they are written"
            )
        self.plain = unpacked(path)
        self.offset = 0
        self.head = b""
        """The lines before the first row; every piece of the log begins with them."""

    def read(self) -> bytes:
        """The rows that were completed since the last look, with the log's head before them; empty if there are none.

        Raises:
            DataError: the file is now shorter than what was read of it.
        """
        part = part_of(self.path)
        path = part if part.exists() else self.plain
        try:
            file = path.open("rb")
        except FileNotFoundError:  # nothing yet, or it was renamed just now
            return b""
        with file:
            return self._read(file)

    def _read(self, file: BinaryIO) -> bytes:
        size = file.seek(0, os.SEEK_END)
        if size < self.offset:
            raise DataError(f"{self.path} was cut off or written again ({size} bytes; {self.offset} were read already)")
        if size == self.offset:
            return b""
        if not self.offset:
            file.seek(0)
            if not self._read_head(file.read(LONGEST_ROW)):
                return b""
        file.seek(self.offset)
        came = file.read(MOST_BYTES)
        rows = came[: self._end_of_rows(came)]
        self.offset += len(rows)
        return self.head + rows if rows.strip() else b""

    def _read_head(self, begin: bytes) -> bool:
        """Remember the lines before the first row; False while they are not all there."""
        if begin.startswith(UTF_16):
            raise ConfigError(f"{self.path} is UTF-16; only UTF-8 and Latin-1 can be read while they are written")
        if self.kind == "csv":
            lines, count = begin.splitlines(keepends=True), self.csv.skip + self.csv.header
            if len(lines) < count or (count and not lines[count - 1].endswith(b"\n")):
                return False
            self.head = b"".join(lines[:count])
            self.offset = len(self.head)
        return True

    def _end_of_rows(self, came: bytes) -> int:
        """Where the last whole row ends; a line break within quotes ends none."""
        end = whole = came.rfind(b"\n") + 1
        quote = self.csv.quote.encode() if self.kind == "csv" else b""
        open_quotes = came.count(quote, 0, end) if quote else 0
        while open_quotes % 2 and end - whole <= LONGEST_ROW:
            before = came.rfind(b"\n", 0, whole - 1) + 1
            open_quotes -= came.count(quote, before, whole)
            whole = before
        return end if open_quotes % 2 else whole

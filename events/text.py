"""Text files as people have them, put right before DuckDB reads them: encodings, line ends, quotes, JSON arrays.

A file in which nothing is wrong is read as it is; otherwise a cleaned copy is, and lines that are not rows are listed.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from core.errors import DataError
from events.mapping_csv import CsvOptions
from events.packing import CHUNK, binary, for_duckdb, is_packed

log = logging.getLogger("events.text")

MARK = b"\xef\xbb\xbf"
"""Byte order mark of UTF-8."""
SEPARATOR = b"\x1e"
"""Before each text of a JSON text sequence (RFC 7464)."""
LINE_ENDS = re.compile(r"[\r\n]+")
BETWEEN_OBJECTS = re.compile(r"[\r\n]+|(?<=\})\s*(?=\{)")
LONGEST_LINE = 15 << 20
RETURN = "\ue00d"
"""Stands for a carriage return while a line is taken apart: a character for private use, as Python's csv takes no return."""
LONGEST_CELL_LINES = 20
"""A quoted cell that goes on for more lines than this is a quote that was never meant to open one."""


class Cleaned(NamedTuple):
    """What to read for a file.

    Attributes:
        path: the file, or a cleaned copy.
        bad: lines that are not rows, each with the reason.
        blank: nothing but line ends is in the file.
    """

    path: Path
    bad: list[tuple[str, str]]
    blank: bool


CleanText = Callable[[Path, Path], Cleaned]
"""Cleans a file, into a copy at the second path where that is needed."""


def decoded(file: Path, encoding: str, newline: str | None = None) -> TextIO:
    r"""The file's text, with its line ends read as Python's ``open`` does; strange bytes become ``\xNN``.

    Raises:
        DataError: the file shall be UTF-16 and has no byte order mark.
    """
    if encoding == "utf-16":
        with binary(file) as stream:
            head = stream.read(2)
        if head not in {b"", b"\xff\xfe", b"\xfe\xff"}:
            raise DataError(
                f"{file} has no byte order mark, so it is not UTF-16; set csv: {{encoding: utf-8}} in the mapping, or save "
                "it as UTF-8. Nothing was ingested"
            )
    return io.TextIOWrapper(binary(file), encoding=encoding, errors="backslashreplace", newline=newline)


def pass_lines(stream: TextIO | BinaryIO, count: int) -> None:
    """Read lines of a text and forget them."""
    for _ in range(count):
        stream.readline()


def clean_json(file: Path, copy: Path) -> Cleaned:
    """JSON with an object a line from JSON lines, an array of objects, or objects over several lines."""
    check_encoding(file, "utf-8", "")
    file = for_duckdb(file, copy.with_suffix(".plain"))
    with binary(file) as stream:
        head = stream.read(CHUNK).removeprefix(MARK).lstrip()
    if not head:
        return Cleaned(file, [], blank=True)
    if not is_row_by_row(head):
        with binary(file) as stream, copy.open("w", encoding="utf-8") as target:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")
            for value in _objects(text):
                target.write(value + "\n")
        return Cleaned(copy, [], blank=copy.stat().st_size == 0)
    printed = is_printed(head)
    if not printed and not _has_trouble(file):
        return Cleaned(file, [], blank=False)
    bad: list[tuple[str, str]] = []
    with binary(file) as stream, copy.open("wb") as target:
        for line in (part for whole in _lines(stream) for part in whole.split(b"\r")):
            if reason := _unreadable(line):
                bad.append((line.decode("utf-8", "backslashreplace").replace("\x00", "\\x00"), reason))
            elif line.strip():
                target.write((json_of(line) if printed else line) + b"\n")
    return Cleaned(copy, bad, blank=copy.stat().st_size == 0)


def is_printed(head: bytes) -> bool:
    """Whether a file that should be JSON lines has objects as Python prints them: ``{'user': 'a', 'played': None}``.

    Args:
        head: how it begins.
    """
    first = head.removeprefix(MARK).lstrip().split(b"\n", 1)[0]
    return first.startswith(b"{") and json_of(first) != first


def json_of(line: bytes) -> bytes:
    """A line as JSON where it is an object as Python prints it; any other line as it is.

    >>> json_of(b"{'user': 'a', 'played': None}"), json_of(b"{'user'")
    (b'{"user": "a", "played": null}', b"{'user'")
    """
    try:
        json.loads(line)
    except ValueError:
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = ast.literal_eval(line.decode("utf-8").strip())
            return json.dumps(value, ensure_ascii=False).encode() if isinstance(value, dict) else line
    except RecursionError:
        pass
    return line


def is_row_by_row(head: bytes) -> bool:
    """Whether a file of JSON has an object a line, and is no array, no sequence, and no object over several lines.

    Args:
        head: how it begins.
    """
    start = head.removeprefix(MARK).lstrip()
    if start.startswith((b"[", SEPARATOR)):
        return False
    return not start.startswith(b"{") or _is_json(start.split(b"\n", 1)[0])


def _is_json(line: bytes) -> bool:
    """Whether a line is anything other than the opening of an object that goes on in the next line, or several objects."""
    try:
        json.loads(line)
    except RecursionError:  # a separate line, which no reader takes
        return True
    except ValueError as error:
        text, pos = line.decode("utf-8", "replace").rstrip(), getattr(error, "pos", 0)
        if pos and text[:pos].rstrip().endswith("}") and text[pos:].startswith("{"):
            return False
        return not (pos >= len(text) - 1 and text.endswith(("{", ",", "[")))
    return True


def _objects(stream: TextIO) -> Iterator[str]:
    """Values of an array, or one after another, each as its own text in one line; never more than one in memory.

    What cannot be read is passed on line by line, so that it is counted.
    """
    decoder, buffer, at, ended = json.JSONDecoder(), "", 0, False
    array = closed = True  # an array may begin here: at the start, or after another one
    while True:
        while at < len(buffer) and (buffer[at] in " \t\r\n\ufeff,\x1e" or (array and buffer[at] == "]")):
            closed = closed or buffer[at] == "]"
            at += 1
        if at < len(buffer) and closed:
            array, closed = buffer[at] == "[", False
            at += array
            continue
        try:
            if at >= len(buffer):
                raise ValueError
            _, end = decoder.raw_decode(buffer, at)
            if end == len(buffer) and not ended:
                raise ValueError  # a number may go on
            yield LINE_ENDS.sub(" ", buffer[at:end])
            at = end
        except (ValueError, RecursionError):
            if ended:
                break
            more = stream.read(CHUNK)
            ended = not more
            buffer, at = buffer[at:] + more, 0
    for line in BETWEEN_OBJECTS.split(buffer[at:]):
        if rest := line.strip().rstrip(",").lstrip("["):
            yield rest.removesuffix("]") if not rest.startswith("{") else rest


def clean_csv(file: Path, copy: Path, options: CsvOptions, delimiter: str, columns: int) -> Cleaned:
    """Delimited text in UTF-8, with one kind of line end, and no quote that swallows rows.

    Args:
        file: the file.
        copy: where a cleaned copy goes.
        options: how the file is written.
        delimiter: between its cells.
        columns: cells of a row.
    """
    check_encoding(file, options.encoding, "csv: ")
    file = for_duckdb(file, copy.with_suffix(".plain"))
    utf8 = options.encoding == "utf-8"
    if options.skip and utf8:
        rest = copy.with_suffix(".rest")
        with binary(file) as stream, rest.open("wb") as target:
            pass_lines(stream, options.skip)
            shutil.copyfileobj(stream, target, CHUNK)
        file = rest
    with binary(file) as stream:
        head = stream.read(CHUNK)
        if not head.removeprefix(MARK).strip(b"\r\n") and not stream.read(1):
            return Cleaned(file, [], blank=True)
    quote = options.quote if len(options.quote) == 1 and len(delimiter) == 1 else ""
    begins_blank = head.removeprefix(MARK)[:1] in {b"\r", b"\n"}
    if utf8 and not begins_blank and not _has_trouble(file) and not (quote and _odd_quotes(file, quote.encode())):
        return Cleaned(file, [], blank=False)
    if not utf8:
        whole = copy.with_suffix(".utf8")
        with decoded(file, options.encoding, "\n") as text, whole.open("w", encoding="utf-8", newline="\n") as target:
            pass_lines(text, options.skip)
            while chunk := text.read(CHUNK):
                target.write(chunk.removeprefix("\ufeff"))
        file = whole
    bad: list[tuple[str, str]] = []
    with binary(file) as stream, copy.open("wb") as target:
        rows = (row for line in _lines(stream) for row in _rows_in(line, quote, delimiter, columns))
        lines = itertools.dropwhile(lambda line: not line, rows)
        records = _records(lines, quote, delimiter, columns, bad)
        for record in records:
            target.write(record + b"\n")
    return Cleaned(copy, bad, blank=copy.stat().st_size == 0)


def _rows_in(line: bytes, quote: str, delimiter: str, columns: int) -> list[bytes]:
    """The rows of a line that holds carriage returns: they end rows, unless the line is a whole row with them."""
    if b"\r" not in line:
        return [line]
    if quote:
        text = line.decode("utf-8", "surrogateescape").replace("\r", RETURN)
        try:
            cells = next(csv.reader([text], delimiter=delimiter, quotechar=quote))
        except csv.Error:
            cells = []
        if len(cells) == columns:
            marks = (quote + cell.replace(quote, quote * 2).replace(RETURN, "\r") + quote for cell in cells)
            return [delimiter.join(marks).encode("utf-8", "surrogateescape")]
    elif line.count(delimiter.encode()) == columns - 1:
        return [line.replace(b"\r", b" ")]  # nothing can be quoted
    return [bare for row in line.split(b"\r") if (bare := row.removeprefix(MARK))]


def _records(
    lines: Iterator[bytes], quote: str, delimiter: str, columns: int, bad: list[tuple[str, str]]
) -> Iterator[bytes]:
    """Rows, each with the lines that its quoted cells span; a line whose quote never closes is not a row."""
    waiting: list[bytes] = []
    while True:
        if waiting:
            line = waiting.pop(0)
        elif (line := next(lines, None)) is None:  # type: ignore[assignment]
            return
        if reason := _unreadable(line):
            bad.append((line.decode("utf-8", "backslashreplace").replace("\x00", "\\x00"), reason))
            continue
        if not quote or not line.count(quote.encode()) % 2 or not ends_open(line, quote, delimiter):
            yield line
            continue
        span, closed = [line], False
        while len(span) <= LONGEST_CELL_LINES:
            follower = waiting.pop(0) if waiting else next(lines, None)
            if follower is None:
                break
            span.append(follower)
            if follower.count(quote.encode()) % 2 and not ends_open(b"\n".join(span), quote, delimiter):
                closed = True
                break
        inner = [_cells(text, quote, delimiter) for text in span[1:-1]]
        if closed and not (inner and columns > 2 and all(count == columns for count in inner)):
            yield b"\n".join(span)
        else:
            bad.append((line.decode("utf-8", "backslashreplace"), "open_quote"))
            waiting[:0] = span[1:]


def ends_open(text: bytes, quote: str, delimiter: str) -> bool:
    """Whether a quoted cell is still open at the end of the text."""
    try:
        list(
            csv.reader(io.StringIO(text.decode("utf-8", "replace")), delimiter=delimiter, quotechar=quote, strict=True)
        )
    except csv.Error as error:
        return "unexpected end" in str(error)
    return False


def _cells(line: bytes, quote: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line.decode("utf-8", "replace")], delimiter=delimiter, quotechar=quote), []))
    except csv.Error:
        return 0


def check_encoding(file: Path, encoding: str, key: str) -> None:
    """Fail for a file that a byte order mark or its zeros show to be in another encoding."""
    if is_wide(file) and encoding != "utf-16":
        remedy = f"set {key}{{encoding: utf-16}} in the mapping" if key else "save it as UTF-8"
        raise DataError(f"{file} is UTF-16, not {encoding}; {remedy}. Nothing was ingested")


def is_wide(file: Path) -> bool:
    """Whether a byte order mark or its zeros show that a file is UTF-16."""
    with binary(file) as stream:
        head = stream.read(1024)
    start = head[:200].rstrip(b"\0")  # a file may be padded with zeros
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or start.count(b"\0") > len(start) // 3 > 0


class LineEnds(NamedTuple):
    """Ends of lines.

    Attributes:
        feeds: line feeds.
        returns: carriage returns.
        pairs: carriage returns before a line feed.
    """

    feeds: int
    returns: int
    pairs: int

    @property
    def are_mixed(self) -> bool:
        """Whether a reader that expects one kind of line end would be misled."""
        return 0 < self.pairs < self.feeds or self.returns > self.pairs


def _has_trouble(file: Path) -> bool:
    """Whether a file has bytes that are not UTF-8, control characters, mixed line ends, a very long line, or is padded.

    A byte order mark at a later line's beginning is trouble as well: files were put together.
    """
    if is_packed(file) and _is_padded(file):
        return True
    with binary(file) as stream:
        ends = line_ends(stream)
    return ends is None or ends.are_mixed


def line_ends(stream: BinaryIO, size: int | None = None, *, in_file: bool = False) -> LineEnds | None:
    """Count the ends of lines; None where there is other trouble (``_has_trouble``).

    Args:
        stream: at the beginning of a line.
        size: bytes to read, which end with a line; None: all.
        in_file: the line is not the file's first.
    """
    feeds = returns = pairs = since = 0
    rest = b""
    for number in itertools.count(int(in_file)):
        if not (chunk := stream.read(CHUNK if size is None else min(CHUNK, size))):
            break
        size = None if size is None else size - len(chunk)
        block = rest + chunk
        if b"\0" in chunk or b"\x01" in chunk or b"\n" + MARK in block or (number and block.startswith(MARK)):
            return None
        cut = block.rfind(b"\n") + 1
        since = 0 if cut else since + len(chunk)
        if since > LONGEST_LINE:
            return None
        head, rest = block[:cut], block[cut:]
        try:
            head.decode("utf-8")
        except UnicodeDecodeError:
            return None
        feeds, returns, pairs = feeds + head.count(b"\n"), returns + head.count(b"\r"), pairs + head.count(b"\r\n")
    try:
        rest.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return LineEnds(feeds, returns + rest.removesuffix(b"\r").count(b"\r"), pairs)


def _is_padded(file: Path) -> bool:
    """Whether zeros follow a packed file, as tapes and block devices leave them."""
    with file.open("rb") as stream:
        stream.seek(-min(4, file.stat().st_size), io.SEEK_END)
        return stream.read() == bytes(4)


def _odd_quotes(file: Path, quote: bytes) -> bool:
    with binary(file) as stream:
        return any(line.count(quote) % 2 for line in stream)


def _unreadable(line: bytes) -> str | None:
    if len(line) > LONGEST_LINE:
        return "too_long"
    if b"\0" in line or b"\x01" in line:
        return "control_character"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "bad_encoding"
    return None


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends and byte order marks; carriage returns within a line may end rows, too."""
    for line in stream:
        yield line.rstrip(b"\r\n").removeprefix(MARK)

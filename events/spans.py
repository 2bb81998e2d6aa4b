"""How an input is divided among processes: small files together, long text files at ends of lines.

A file is divided only where each of its lines is a row by itself and nothing has to be put right, so that its parts read as
the whole does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from events.mapping import Mapping
from events.packing import CHUNK, is_packed
from events.text import MARK, LineEnds, ends_open, is_row_by_row, line_ends

Span = tuple[int, int]


class Piece(NamedTuple):
    """A piece of an input.

    Attributes:
        files: in their order.
        span: bytes [begin, end) of the only file, None: whole files.
    """

    files: tuple[Path, ...]
    span: Span | None = None


class SpanCheck(NamedTuple):
    """What tells whether a file may be divided, a span at a time.

    Attributes:
        file: the file.
        span: bytes of it.
        quote: what may make a cell go on in the next line; empty: nothing.
        delimiter: between cells.
    """

    file: Path
    span: Span
    quote: str
    delimiter: str


Checker = Callable[[Sequence[SpanCheck]], Iterable[LineEnds | None]]
"""Lets processes call `check_span`; the results are in order."""


def divide(mapping: Mapping, kind: str, files: Sequence[Path], size: int, check: Checker) -> list[Piece]:
    """Pieces of an input.

    Args:
        mapping: how the files are written.
        kind: their format.
        files: in the order of their rows.
        size: bytes of a piece, about.
        check: runs the checks.
    """
    checks = [
        c for file in files if _is_divisible(mapping, kind, file, size) for c in _checks(mapping, kind, file, size)
    ]
    ends: dict[Path, list[LineEnds | None]] = {}
    for each, counted in zip(checks, check(checks) if checks else [], strict=True):
        ends.setdefault(each.file, []).append(counted)
    spans: dict[Path, list[Span]] = {}
    for each in checks:
        if _agree(ends[each.file]):
            spans.setdefault(each.file, []).append(each.span)
    pieces: list[Piece] = []
    together: list[Path] = []
    for file in files:
        too_large = sum(f.stat().st_size for f in [*together, file]) > size
        if together and (file in spans or too_large):
            pieces.append(Piece(tuple(together)))
            together = []
        if file in spans:
            pieces += [Piece((file,), span) for span in spans[file]]
        else:
            together.append(file)
    return [*pieces, *([Piece(tuple(together))] if together else [])]


def check_span(check: SpanCheck) -> LineEnds | None:
    """Count the ends of a span's lines; None where a line is no row by itself or a reader has to put something right."""
    begin, end = check.span
    with check.file.open("rb") as stream:
        stream.seek(begin)
        ends = line_ends(stream, end - begin, in_file=begin > 0)
        if ends is None or ends.are_mixed or not check.quote:
            return None if ends is None or ends.are_mixed else ends
        stream.seek(begin)
        quote = check.quote.encode()
        for line in _lines_with(stream, end - begin, quote):
            if line.count(quote) % 2 or ends_open(line, check.quote, check.delimiter):
                return None
    return ends


def copy_span(file: Path, copy: Path, span: Span, *, with_first_line: bool) -> Path:
    """Copy a span of a text file; gives the copy.

    Args:
        file: the file.
        copy: where the copy goes.
        span: bytes of the file.
        with_first_line: let the file's first line, its header, come before a later span.
    """
    begin, end = span
    with file.open("rb") as source, copy.open("wb") as target:
        if begin and with_first_line:
            target.write(source.readline().removeprefix(MARK))
        source.seek(begin)
        left = end - begin
        while chunk := source.read(min(CHUNK, left)):
            target.write(chunk)
            left -= len(chunk)
    return copy


def _is_divisible(mapping: Mapping, kind: str, file: Path, size: int) -> bool:
    """Whether a file may be one that is divided, by its size, its beginning and how it is written."""
    if kind == "parquet" or is_packed(file) or file.stat().st_size <= size:
        return False
    with file.open("rb") as stream:
        head = stream.read(CHUNK)
    if kind == "jsonl":
        return is_row_by_row(head)
    options = mapping.csv
    one_sign = len(options.quote) == 1 and len(options.delimiter_of(file)) == 1
    is_plain = options.encoding == "utf-8" and not options.skip and (one_sign or not options.quote)
    return is_plain and head.removeprefix(MARK)[:1] not in {b"", b"\r", b"\n"}


def _checks(mapping: Mapping, kind: str, file: Path, size: int) -> list[SpanCheck]:
    quote, delimiter = ("", "") if kind == "jsonl" else (mapping.csv.quote, mapping.csv.delimiter_of(file))
    return [SpanCheck(file, span, quote, delimiter) for span in _spans(file, size)]


def _spans(file: Path, size: int) -> list[Span]:
    """Spans of about a size that end with a line."""
    length = file.stat().st_size
    places = [0]
    with file.open("rb") as stream:
        while places[-1] + size < length:
            stream.seek(places[-1] + size)
            stream.readline()
            places.append(min(stream.tell(), length))
    return list(pairwise([*places, length] if places[-1] < length else places))


def _agree(ends: Sequence[LineEnds | None]) -> bool:
    known = [each for each in ends if each is not None]
    total = LineEnds(*(sum(counts) for counts in zip(*known, strict=True))) if known else None
    return total is not None and len(known) == len(ends) and not total.are_mixed


def _lines_with(stream: BinaryIO, size: int, sign: bytes) -> Iterator[bytes]:
    """The lines of the next bytes that hold a sign."""
    rest = b""
    while size and (chunk := stream.read(min(CHUNK, size))):
        size -= len(chunk)
        block = rest + chunk
        cut = block.rfind(b"\n") + 1
        whole, rest = block[:cut], block[cut:]
        if sign in whole:
            yield from (line for line in whole.split(b"\n") if sign in line)
    if sign in rest:
        yield rest

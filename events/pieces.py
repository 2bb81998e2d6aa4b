"""An input read in pieces, each by what holds for all of them; see ``events.input_part``."""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import duckdb
import pyarrow as pa

from events.input_part import answers_of
from events.local_input import Log, RowCounts
from events.log_files import check_content, check_whole
from events.part_tasks import PieceResult, PieceWork, Reader, said_warnings
from events.readers import in_order_of_rows, one_format
from events.spans import check_span, divide

log = logging.getLogger("events.ingest")

T = TypeVar("T")
R = TypeVar("R")


class Run(Protocol):
    """Lets processes call a function for each of some items; the results are in the items' order."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T], /) -> list[R]:
        """Call it."""
        ...


@dataclass(frozen=True)
class Pieces:
    """An input that was read.

    Attributes:
        work: its pieces.
        results: what became of them.
        known: the answers that they went by.
    """

    work: Sequence[PieceWork]
    results: Sequence[PieceResult]
    known: Mapping[str, Any]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Numbered rows before each piece, and all of them."""
        return tuple(accumulate((result.rows for result in self.results), initial=0))

    @cached_property
    def counts(self) -> RowCounts:
        """What became of the rows."""
        reasons: Counter[str] = Counter()
        for result in self.results:
            reasons.update(result.counts.reasons)
        good, forgotten = (
            sum(getattr(result.counts, name) for result in self.results) for name in ("good", "forgotten")
        )
        return RowCounts(good, dict(sorted(reasons.items())), forgotten)

    def sums(self, name: str) -> dict[str, int]:
        """Sums of one of the results' counts, by its name."""
        total: Counter[str] = Counter()
        for result in self.results:
            total.update(getattr(result, name))
        return dict(total)

    def again(self, number: int) -> PieceWork:
        """A piece to be read again, with its rows' numbers in the input."""
        return self.work[number]._replace(known=self.known, first_row=self.offsets[number])


def read_pieces(con: duckdb.DuckDBPyConnection, log_: Log, reader: Reader, run: Run, size: int) -> Pieces:
    """Let every piece be read by what holds for all.

    Args:
        con: any connection.
        log_: the input.
        reader: reads a piece.
        run: lets processes work.
        size: bytes of a piece, about.

    Raises:
        ConfigError, DataError: the input cannot be read.
    """
    mapping, files = log_.mapping, [*log_.files]
    kind = one_format(mapping, files)
    for file in files:
        check_content(file, kind)
    with said_warnings() as said:
        try:
            ordered = in_order_of_rows(con, mapping, kind, files)
        except (EOFError, OSError, zlib.error, pa.ArrowInvalid):
            for file in files:
                check_whole(file, kind)
            raise
    reader.make_folders()
    divided = divide(mapping, kind, ordered, size, lambda checks: run(check_span, checks))
    pieces = [PieceWork(number, piece, {}) for number, piece in enumerate(divided)]
    results: dict[int, PieceResult] = {}
    known: dict[str, Any] = {}
    while work := [each._replace(known=known) for each in pieces if not _went_by(results.get(each.number), known)]:
        log.info("reading %d pieces of the input", len(work))
        results |= zip((each.number for each in work), run(reader, work), strict=True)
        known = answers_of(results[each.number].part.shares for each in pieces)
    read = Pieces(pieces, [results[each.number] for each in pieces], known)
    for each, result in zip(pieces, read.results, strict=True):
        if result.error is not None:
            (told,) = run(reader, [read.again(each.number)])  # it names a row by its number in the input
            raise told.error or result.error
    for warning in dict.fromkeys(warning for result in read.results for warning in result.warnings):
        if warning not in said:
            log.warning("%s", warning)
    return read


def _went_by(result: PieceResult | None, known: Mapping[str, Any]) -> bool:
    """Whether a piece was read by the answers that hold."""
    return result is not None and all(known[key] == used for key, used in result.part.used.items())

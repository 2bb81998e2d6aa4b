"""A part of an input, and what its reader has to know of the whole: several processes that read a part each agree on it.

How a cell is read can depend on all rows: whether most cells of a column are numbers, whether every id is one. A reader asks
its `InputPart`. It answers from the part alone as long as nothing is known of the whole, and keeps what the part says. Whoever
put the parts to work joins what they say (`answers_of`), and has those read again that went by another answer. As an answer
depends only on questions that come before it, this ends after a few rounds; of an ordinary log no part is read twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import duckdb


class Layout(NamedTuple):
    """The columns of a log.

    Attributes:
        names: of the files' columns, in order.
        keys: names that folders called ``key=value`` add.
        types: DuckDB type by name.
        untyped: names of columns that are text although the format has types.
        repeated: names that a header has more than once.
        is_sorted: the format has no order of columns: names are in the order of the alphabet.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    types: Mapping[str, str]
    untyped: frozenset[str]
    repeated: frozenset[str]
    is_sorted: bool


@dataclass
class InputPart:
    """The part of an input that is read, by default all of it.

    Attributes:
        span: bytes [begin, end) of the only file, none of which a reader has to put right; None: whole files.
        first_row: rows of the input before the part.
        known: answers that hold for the whole input.
        shares: what the part says to each question.
        used: the answers that its reader went by.
    """

    span: tuple[int, int] | None = None
    first_row: int = 0
    known: Mapping[str, Any] = field(default_factory=dict)
    shares: dict[str, Any] = field(default_factory=dict)
    used: dict[str, Any] = field(default_factory=dict)

    def layout(self, share: Layout) -> Layout:
        """The whole input's columns, given the part's."""
        return self._ask("layout", "", share)

    def has_numbers(self, column: str, filled: int, numbers: int) -> bool | None:
        """Whether most cells of a column are numbers, None where no cell has content.

        Args:
            column: its name.
            filled: cells of the part that have content.
            numbers: those that are numbers.
        """
        return self._ask("numbers", column, (filled, numbers))

    def is_whole(self, what: str, share: bool | None) -> bool | None:
        """Whether all ids of some kind are whole numbers, None where there are none.

        Args:
            what: the kind.
            share: the same of the part.
        """
        return self._ask("whole", what, share)

    def _ask(self, question: str, subject: str, share: Any) -> Any:
        key = f"{question}:{subject}"
        self.shares[key] = share
        self.used[key] = self.known[key] if key in self.known else QUESTIONS[question]([share])
        return self.used[key]


def answers_of(shares: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Answers for an input, from what its parts say, in their order.

    >>> answers_of([{"numbers:year": (3, 3), "whole:user": True}, {"numbers:year": (4, 0), "whole:user": None}])
    {'numbers:year': False, 'whole:user': True}
    """
    parts = list(shares)
    keys = dict.fromkeys(chain.from_iterable(parts))
    return {key: QUESTIONS[key.partition(":")[0]]([part[key] for part in parts if key in part]) for key in keys}


def _has_numbers(shares: Sequence[tuple[int, int]]) -> bool | None:
    filled, numbers = (sum(counts) for counts in zip(*shares, strict=True))
    return 2 * numbers > filled if filled else None


def _is_whole(shares: Sequence[bool | None]) -> bool | None:
    said = [share for share in shares if share is not None]
    return all(said) if said else None


def _layout(shares: Sequence[Layout]) -> Layout:
    if all(share == shares[0] for share in shares):
        return shares[0]
    names = list(dict.fromkeys(chain.from_iterable(share.names for share in shares)))
    is_sorted = any(share.is_sorted for share in shares)
    taken = {name.lower() for name in names}
    spelling: dict[str, str] = {}
    for key in chain.from_iterable(share.keys for share in shares):
        if key.lower() not in taken:
            spelling.setdefault(key.lower(), key)
    untyped = set(spelling.values())
    types = dict.fromkeys(untyped, "VARCHAR")
    for name in names:
        having = [share for share in shares if name in share.names]
        kinds = list(dict.fromkeys(share.types[name] for share in having))
        if len({family(kind) for kind in kinds}) > 1 or any(name in share.untyped for share in having):
            untyped.add(name)
            types[name] = "VARCHAR"
        else:
            types[name] = _widest(kinds)
    return Layout(
        tuple(sorted(names) if is_sorted else names), tuple(spelling.values()), types, frozenset(untyped),
        frozenset().union(*(share.repeated for share in shares)), is_sorted,
    )  # fmt: skip


def family(kind: str) -> str:
    """Types between which nothing is lost: a file may have one and the next another of the same family."""
    if kind in {"FLOAT", "DOUBLE"}:
        return "real"
    return "integer" if kind.endswith("INT") or kind.endswith("INTEGER") else kind


def _widest(kinds: Sequence[str]) -> str:
    """The type of DuckDB that holds the values of all types of a family."""
    if len(kinds) == 1:
        return kinds[0]
    union = " UNION ALL ".join(f"SELECT CAST(NULL AS {kind}) AS x" for kind in kinds)
    with duckdb.connect() as con:
        return str(con.execute(f"DESCRIBE {union}").fetchall()[0][1])


QUESTIONS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "layout": _layout, "numbers": _has_numbers, "whole": _is_whole,
}  # fmt: skip
"""How the answer to a question follows from what each part says, in the parts' order."""

"""Removes people from an event store: their events, what rows told, exposures, attributes, quarantined rows, and their ids."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.duck import file_list
from core.files import lines_since, write_parquet, write_text
from core.hours import Hour
from core.id_text import parse_int64
from events.forgotten import ForgottenMatcher, Person, words_of
from events.ids import id_files, id_kinds, id_path, ingested_id, read_ids
from events.store import EventStore

log = logging.getLogger("events.forget")

HOUR_FILES = ("events", "facts", "exposures")
TAKEN_BACK = "\x1f"
"""Begins the text that takes an id's place in the mapping: no id of a log can begin so, as blanks at its ends are dropped."""


def find_people(store: EventStore, keys: Iterable[str]) -> list[Person]:
    """People by their ids as they stand in the log, whether or not the log has them."""
    wanted = list(dict.fromkeys(ingested_id(store.root, "user", key) for key in keys))
    if id_kinds(store.root).get("user") == "int":
        return [Person(key, parse_int64(key)) for key in wanted]
    table = read_ids(id_files(id_path(store.root, "user")))
    known = table.filter(pc.is_in(table["key"], pa.array(wanted, pa.string())))
    numbers = dict(zip(known["key"].to_pylist(), known["id"].to_pylist(), strict=True))
    return [Person(key, numbers.get(key)) for key in wanted]


def find_unknown(store: EventStore, people: Sequence[Person]) -> list[Person]:
    """Those of some people whose ids neither an event nor anything else in the store has."""
    if id_kinds(store.root).get("user") != "int":
        return [person for person in people if person.number is None]
    numbers = ", ".join(str(person.number) for person in people if person.number is not None)
    known = _known_numbers(store, f"user_id IN ({numbers})") if numbers else set()
    return [person for person in people if person.number not in known]


def find_matching(store: EventStore, matcher: ForgottenMatcher) -> list[Person]:
    """People in a store whose ids have one of some digests: all on its list, after it was restored from a backup."""
    if not matcher:
        return []
    if id_kinds(store.root).get("user") != "int":
        table = read_ids(id_files(id_path(store.root, "user")))
        pairs = zip(table["key"].to_pylist(), table["id"].to_pylist(), strict=True)
        return [Person(key, number) for key, number in pairs if matcher.has(key)]
    numbers = _known_numbers(store, matcher.sql("CAST(user_id AS VARCHAR)"))
    return [Person(str(number), number) for number in sorted(numbers)]


def forget_events(store: EventStore, people: Sequence[Person]) -> dict[str, int]:
    """Remove people's rows from every hour, and from the attributes, the quarantine; the hours change as after late events.

    Args:
        store: the event store.
        people: to remove.

    Returns:
        Rows removed of each kind, and hours that were written again.
    """
    numbers = [person.number for person in people if person.number is not None]
    removed = dict.fromkeys((*HOUR_FILES, "attributes", "quarantined", "hours"), 0)
    with store.writing():
        for hour in _hours_of(store, numbers):
            for kind, rows in store.without_users(hour, numbers).items():
                removed[kind] += rows
            removed["hours"] += 1
        for path in _attribute_files(store):
            removed["attributes"] += filter_parquet(path, "user_id", numbers)
        removed["quarantined"] = _forget_quarantined(store, {person.key for person in people})
    return removed


def forget_ids(store: EventStore, people: Sequence[Person]) -> int:
    """Take people's ids out of the mapping to integers, the last trace: the integers are never given again. Returns the ids."""
    keys, removed = pa.array([person.key for person in people], pa.string()), 0
    with store.writing():
        for path in id_files(id_path(store.root, "user")):
            table = pq.ParquetFile(path).read()
            texts = table["key"].to_pylist()
            known = pc.is_in(table["key"], keys).to_pylist()
            if any(known):
                new = [f"{TAKEN_BACK}{uuid.uuid4().hex}" if k else t for k, t in zip(known, texts, strict=True)]
                write_parquet(path, pa.table([pa.array(new, pa.string()), table["id"]], schema=table.schema))
                removed += sum(known)
    return removed


def filter_parquet(path: Path, column: str, values: Sequence[Any]) -> int:
    """Write a Parquet file again without the rows that have one of some values in a column; returns the rows left out."""
    table = pq.ParquetFile(path).read()
    gone = pc.is_in(table[column], pa.array(values, table.schema.field(column).type))
    count = int(pc.sum(gone).as_py() or 0)
    if count:
        write_parquet(path, table.filter(pc.invert(gone)))
    return count


def _known_numbers(store: EventStore, condition: str) -> set[int]:
    """The users of a store for whom a condition on ``user_id`` holds."""
    files = [*_files(store), *_attribute_files(store)]
    if not files:
        return set()
    with duckdb.connect() as con:
        users = f"SELECT DISTINCT user_id FROM read_parquet({file_list(files)}, union_by_name = true)"
        return {number for (number,) in con.execute(f"SELECT user_id FROM ({users}) WHERE {condition}").fetchall()}


def _files(store: EventStore, kinds: Sequence[str] = HOUR_FILES) -> list[Path]:
    return [path for kind in kinds for path in sorted(store.root.glob(f"hour=*/{kind}.parquet"))]


def _attribute_files(store: EventStore) -> list[Path]:
    path = store.attribute_file("user")
    return [path] if path.exists() else []


def _hours_of(store: EventStore, numbers: Sequence[int]) -> list[Hour]:
    """Hours that hold anything of some users."""
    keys: set[str] = set()
    if not numbers:
        return []
    with duckdb.connect() as con:
        for kind in HOUR_FILES:
            if files := _files(store, [kind]):
                rows = con.execute(
                    f"""SELECT DISTINCT filename FROM read_parquet({file_list(files)}, union_by_name = true, filename = true)
                    WHERE user_id IN ({", ".join(map(str, numbers))})"""
                ).fetchall()
                keys |= {Path(name).parent.name.removeprefix("hour=") for (name,) in rows}
    return sorted(map(Hour.parse, keys))


def _forget_quarantined(store: EventStore, keys: set[str]) -> int:
    """Remove quarantined rows that name somebody in any of their cells; returns how many."""
    removed = 0
    for path in sorted((store.root / "_quarantine").glob("*.jsonl")):
        lines = lines_since(path, 0)
        kept = [line for line in lines if not keys & _words(json.loads(line)["content"])]
        if len(kept) < len(lines):
            write_text(path, "".join(f"{line}\n" for line in kept))
            removed += len(lines) - len(kept)
    return removed


def _words(content: Any) -> set[str]:
    """Every cell of a quarantined row, and its words."""
    if isinstance(content, dict):
        return set().union(*map(_words, content.values()))
    if isinstance(content, list):
        return set().union(*map(_words, content))
    return words_of(str(content))

"""The account of an ingestion: what became of the rows, and what a person should know of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from collections.abc import Mapping as ABCMapping
from dataclasses import dataclass, field
from typing import Protocol

import duckdb

from core.documents import one_line
from core.duck import identifier, quoted, scalar
from events.actions import ActionCounts
from events.cells import holds_several, is_missing_word, is_nested
from events.folds import tell_folds
from events.likely_cause import likely_cause
from events.lists import ListMarks
from events.mapping import Mapping
from events.staging import ITEM_LENGTH_KEY, Staging

log = logging.getLogger("events.account")

NOTED_SHARE = 0.05
"""A part of the events of which more than this share could not be read is worth a warning."""
FEW_ROWS = 20
"""So few bad rows alone in an hour do not mean that the mapping is wrong, nor do so few events without a behavior."""
FEW_EVENTS_OF_AN_HOUR = 1000
"""So few events may all be negatives in a quiet hour."""
MOST_OF_A_LIST = 0.5
"""People choose less than this share of what a list shows them."""
MOST_NOT_IN_LIST = 0.1
"""Where more than this share of the chosen items are not in their list, the two are written differently."""


@dataclass(frozen=True)
class ShownItems:
    """Items that were shown, in a log that tells what was.

    Attributes:
        items: how many: kept events of a log with actions, else readable items of lists that have several.
        labeled: those of which the behavior that metrics use as the label is true.
    """

    items: int
    labeled: int


@dataclass
class Account:
    """What became of the rows: ``rows_in == kept + duplicates + merged + quarantined + ignored``, always.

    Attributes:
        rows_in: rows of the input; a row with a list of items counts once an item.
        kept: rows that became an event.
        duplicates: rows that say nothing new.
        merged: rows that add a behavior, or where the item was shown, to another row's event.
        quarantined: rows that could not be read, with their ``reasons``.
        ignored: rows of a log with actions that the mapping passes over.
        actions: of a log with actions, what became of those that are new.
        behaviors: how many of the kept events each behavior is true of.
        null_facets: how many of the kept events have no value of a facet.
        null_context: the same of context.
        odd_ids: how many rows have a user or an item whose id is a whole JSON object or list (``nested``), or a word that programs
            write for one that is missing (``missing``).
        several: how many of the kept events have a facet with a | between parts of it; without those that have none.
        midnights: how many of them were at midnight of the log's zone, to the microsecond.
        nested: how many of the kept events have a whole JSON object or list as a facet or as context; without those that have none.
        missing_words: how many of them have there a word that programs write for a missing value; without those that have none.
        shown: of a log that tells what was shown, how many items, and how many of them have the label.
        chosen_not_in_list: items that a column names as chosen and that are not in their row's list.
        unknown_actions: the most frequent values of ``actions.column`` that the mapping does not name.
    """

    rows_in: int = 0
    kept: int = 0
    duplicates: int = 0
    merged: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    hours: int = 0
    users: int = 0
    items: int = 0
    null_facets: dict[str, int] = field(default_factory=dict)
    exposures: int = 0
    changed_hours: list[str] = field(default_factory=list)
    quarantine: str | None = None
    ids: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    ambiguous_times: int = 0
    skipped_times: int = 0
    exposure_reasons: dict[str, int] = field(default_factory=dict)
    unfolded: int = 0
    ignored: int = 0
    actions: ActionCounts | None = None
    behaviors: dict[str, int] = field(default_factory=dict)
    null_context: dict[str, int] = field(default_factory=dict)
    nested: dict[str, int] = field(default_factory=dict)
    missing_words: dict[str, int] = field(default_factory=dict)
    several: dict[str, int] = field(default_factory=dict)
    midnights: int = 0
    odd_ids: dict[str, int] = field(default_factory=dict)
    shown: ShownItems | None = None
    chosen_not_in_list: int = 0
    unknown_actions: dict[str, int] = field(default_factory=dict)


class Examples(Protocol):
    """What of an input's rows a warning shows."""

    @property
    def marks(self) -> ListMarks:
        """What its lists say."""
        ...

    def cause(self, reason: str) -> str:
        """What a person should look at when many rows have a reason."""
        ...

    def nested(self, name: str) -> str:
        """A kept event's facet or context that is a whole object or list."""
        ...

    def part_of(self, source: str, example: str) -> str:
        """How a mapping names a part of it, by its column or expression."""
        ...

    def describe_actions(self, counts: dict[str, int]) -> str:
        """Values of ``actions.column`` that the mapping does not name, with their rows."""
        ...


class StagedExamples:
    """Examples from the tables of a `Staging`.

    Args:
        staging: of the input.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self.marks = staging.marks
        self.part_of = staging.raw.part_of
        self.describe_actions = staging.describe_actions

    def cause(self, reason: str) -> str:
        return likely_cause(self._staging, reason)

    def nested(self, name: str) -> str:
        return nested_example(self._staging.con, name)


def nested_example(con: duckdb.DuckDBPyConnection, name: str) -> str:
    """A facet or context of the events of ``fresh`` that is a whole object or list."""
    cell = identifier(name)
    return str(scalar(con, f"SELECT any_value({cell}) FROM fresh WHERE {is_nested(cell)}"))


def kept_counts(con: duckdb.DuckDBPyConnection, mapping: Mapping) -> dict[str, int]:
    """Count what the kept events, those of ``fresh``, are, have, and lack; counts of parts add up."""
    attributes = (*mapping.facet_names, *mapping.context_names)
    conditions = {f"null:{name}": f"{identifier(name)} IS NULL" for name in attributes}
    conditions |= {f"nested:{name}": is_nested(identifier(name)) for name in attributes}
    conditions |= {f"missing:{name}": is_missing_word(identifier(name)) for name in attributes}
    conditions |= {f"several:{name}": holds_several(identifier(name)) for name in mapping.facet_names}
    conditions |= {f"true:{name}": identifier(name) for name in mapping.behavior_names}
    local = f"timestamp AT TIME ZONE {quoted(mapping.timestamp.zone)}"
    conditions["midnight"] = f"date_trunc('day', {local}) = {local}"
    selected = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in conditions.values())
    return dict(zip(conditions, con.execute(f"SELECT {selected} FROM fresh").fetchall()[0], strict=True))


def take_counts(account: Account, mapping: Mapping, counts: ABCMapping[str, int]) -> None:
    """Put what ``kept_counts`` counted into an account."""
    facets, context = mapping.facet_names, mapping.context_names
    account.null_facets = {name: counts[f"null:{name}"] for name in facets}
    account.null_context = {name: counts[f"null:{name}"] for name in context}
    account.nested = {name: count for name in (*facets, *context) if (count := counts[f"nested:{name}"])}
    account.missing_words = {name: count for name in (*facets, *context) if (count := counts[f"missing:{name}"])}
    account.several = {name: count for name in facets if (count := counts[f"several:{name}"])}
    account.midnights = counts["midnight"]
    account.behaviors = {name: counts[f"true:{name}"] for name in mapping.behavior_names}


def odd_id_conditions() -> dict[str, str]:
    """DuckDB's conditions on ``user_key`` and ``item_key``, by what is odd of an id (``Account.odd_ids``)."""
    return {
        f"{kind}: {what}": is_odd(f"{kind}_key")
        for kind in ("user", "item")
        for what, is_odd in (("nested", is_nested), ("missing", is_missing_word))
    }


def count_kept(con: duckdb.DuckDBPyConnection, mapping: Mapping, account: Account) -> None:
    """Count what the kept events, those of ``fresh``, are, have, and lack, and what is odd of good rows."""
    take_counts(account, mapping, kept_counts(con, mapping))
    odd = odd_id_conditions()
    selected = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in odd.values())
    counts = con.execute(f"SELECT {selected} FROM staged WHERE reason IS NULL").fetchall()[0]
    account.odd_ids = {what: n for what, n in zip(odd, counts, strict=True) if n}
    listed = "staged JOIN raw USING (__row) WHERE reason IS NULL AND __size > 1"
    shown = "fresh WHERE NOT is_action" if mapping.actions else listed
    if account.kept and (mapping.impressions or mapping.actions):
        label = identifier(mapping.behavior_names[0])
        row = con.execute(f"SELECT count(*), count(*) FILTER (WHERE {label}) FROM {shown}").fetchall()[0]
        account.shown = ShownItems(*row)


def tell(account: Account, mapping: Mapping, examples: Examples, *, one_hour: bool) -> None:
    """Tell what a person should know of an input that was taken.

    Args:
        account: of the input.
        mapping: how it was read.
        examples: of its rows.
        one_hour: the input is an hour of a log; some things are odd of a whole log only.
    """
    _tell_oddities(account, mapping, one_hour)
    _tell_odd_ids(account, mapping)
    _tell_nested(account, mapping, examples)
    _tell_missing_words(account, mapping)
    _tell_several(account, mapping)
    _tell_not_in_list(examples.marks)
    _tell_quarantined(account, examples)
    if account.unknown_actions:
        values = examples.describe_actions(account.unknown_actions)
        log.warning("values of actions.column that the mapping does not name: %s; their rows are quarantined", values)


def _tell_oddities(account: Account, mapping: Mapping, one_hour: bool) -> None:
    _tell_odd_shares(account, mapping, FEW_EVENTS_OF_AN_HOUR if one_hour else FEW_ROWS)
    if account.kept >= FEW_ROWS and account.midnights == account.kept:
        log.warning(
            "all of the %d events are at midnight: does timestamp.column hold dates only? The clock needs the time of day",
            account.kept,
        )  # fmt: skip
    if not one_hour:
        _tell_empty_attributes(account, mapping)
    for part, count in account.unreadable.items():
        if count > account.kept * NOTED_SHARE and part != ITEM_LENGTH_KEY:  # that is told once for the table
            kind = "neither true nor false" if part.startswith("behaviors.") else "no JSON"
            kind = "no whole number from 0 on" if part == "columns.position" else kind
            log.warning("%s: %d cells are %s and count as unknown", part, count, kind)
    shifted = {"ambiguous": account.ambiguous_times, "skipped": account.skipped_times}
    tell_folds(shifted, mapping.timestamp, "timestamp", "they are quarantined")
    if account.exposure_reasons:
        log.warning("exposures that could not be read: %s", account.exposure_reasons)
    if account.duplicates and not account.kept and not account.merged and not account.changed_hours:
        log.info("every row was ingested already; nothing changed")


def _tell_odd_shares(account: Account, mapping: Mapping, few: int) -> None:
    """Tell where behaviors are so frequent, or so rare, that the mapping may say something else than it means."""
    if account.kept >= few and not any(account.behaviors.values()) and not mapping.actions:
        log.warning(
            "none of the %d events has a behavior (%s), so every one is a negative: look at behaviors, impressions.labels "
            "or impressions.chosen", account.kept, ", ".join(account.behaviors),
        )  # fmt: skip
    shown, label = account.shown, mapping.behavior_names[0]
    all_taken = not shown.items if mapping.actions and shown else account.behaviors[label] == account.kept
    if account.kept >= few and all_taken and not mapping.has_lists and not mapping.negatives:
        log.warning(
            "none of the %d events is one in which an item was not taken (%s): rankers learn from both; if the log has positives only, "
            "add negatives to the mapping, else look at behaviors and impressions", account.kept, label,
        )  # fmt: skip
    if shown is None or shown.items < few:
        return
    if account.actions and account.actions.alone >= few and not account.actions.joined:
        log.warning(
            "none of the %d actions belongs to one of the %d impressions: is actions.window_minutes too short, or are the "
            "values of actions and impressions swapped?", account.actions.alone, shown.items,
        )  # fmt: skip
    if shown.labeled == shown.items:
        log.warning(
            "all of the %d items that were shown are %s: is that meant, or are labels or values swapped?", shown.items, label
        )  # fmt: skip
    elif not mapping.actions and shown.labeled > MOST_OF_A_LIST * shown.items:
        log.warning(
            "%d of the %d items of lists are %s, more than half: is that meant, or are labels swapped?",
            shown.labeled, shown.items, label,
        )  # fmt: skip


def _tell_quarantined(account: Account, examples: Examples) -> None:
    read = account.rows_in - account.ignored
    if account.quarantined >= FEW_ROWS and account.quarantined > NOTED_SHARE * read:
        reasons = sorted(account.reasons, key=lambda reason: -account.reasons[reason])
        log.warning(
            "%d of the %d rows are quarantined (%s). %s", account.quarantined, read,
            ", ".join(f"{reason} {account.reasons[reason]}" for reason in reasons), examples.cause(reasons[0]),
        )  # fmt: skip


def _tell_not_in_list(marks: ListMarks) -> None:
    if marks.chosen_not_in_list > MOST_NOT_IN_LIST * marks.chosen:
        log.warning(
            "%d of the %d items that were chosen are not in their list: do impressions.chosen and impressions.list_column "
            "write items in the same way?", marks.chosen_not_in_list, marks.chosen,
        )  # fmt: skip


def _tell_empty_attributes(account: Account, mapping: Mapping) -> None:
    """Tell which facets and which context no event has, although there is a column or an expression for them."""
    for name, count in {**account.null_facets, **account.null_context}.items():
        if account.kept and count == account.kept:
            key, source = _attribute(mapping, name)
            log.warning(
                "%s: '%s' is empty in every one of the %d events; look at the column or the expression",
                key, one_line(source), account.kept,
            )  # fmt: skip


def _tell_odd_ids(account: Account, mapping: Mapping) -> None:
    for what, count in account.odd_ids.items():
        kind, _, oddity = what.partition(": ")
        source = one_line(mapping.columns.user_id if kind == "user" else mapping.columns.item_id)
        meaning = (
            "is a whole JSON object or list; name a part of it, as in \"user->>'$.id'\"" if oddity == "nested"
            else f"reads NaN, None or another word for a missing one, and counts as the id of one {kind}"
        )  # fmt: skip
        log.warning("columns.%s_id: in %d rows '%s' %s", kind, count, source, meaning)


def _tell_missing_words(account: Account, mapping: Mapping) -> None:
    """Tell where an attribute is a word for a missing value, which counts as a value like any other."""
    for key, source, count in _noted(account, mapping, account.missing_words):
        log.warning(
            "%s: '%s' reads null, NaN, \\N or another word for a missing value in %d of the %d events, and counts as a value; if it "
            "is missing, write nullif(..., 'null') with the word that the log has", key, source, count, account.kept,
        )  # fmt: skip


def _tell_several(account: Account, mapping: Mapping) -> None:
    """Tell where a facet holds several values as one text: each combination is a value of its own in the clock."""
    for key, source, count in _noted(account, mapping, account.several):
        log.warning(
            "%s: '%s' holds several values with | between them in %d of the %d events, and each combination counts as a value; "
            "a clock says more of one: write split_part(..., '|', 1) for the first", key, source, count, account.kept,
        )  # fmt: skip


def _noted(account: Account, mapping: Mapping, counts: ABCMapping[str, int]) -> Iterator[tuple[str, str, int]]:
    """Attributes of which enough events are counted for a warning: the mapping's key, its column or expression, and the events."""
    for name, count in counts.items():
        if count > NOTED_SHARE * account.kept:
            key, source = _attribute(mapping, name)
            yield key, one_line(source), count


def _tell_nested(account: Account, mapping: Mapping, examples: Examples) -> None:
    """Tell where an attribute is a whole JSON object or list, of which one part was meant."""
    for name, count in account.nested.items():
        if count > NOTED_SHARE * (account.kept - {**account.null_facets, **account.null_context}[name]):
            key, source = _attribute(mapping, name)
            example = examples.nested(name)
            log.warning(
                "%s: '%s' is a whole object or list in %d of the %d events, such as %s, and kept as one text; name a part of it: %s",
                key, one_line(source), count, account.kept, one_line(example, 60), examples.part_of(source, example),
            )  # fmt: skip


def _attribute(mapping: Mapping, name: str) -> tuple[str, str]:
    """Key of a facet or of context in the mapping, and its column or expression."""
    if name in mapping.context:
        return f"context.{name}", mapping.context_columns[name]
    if mapping.items and name in mapping.items.facets:
        return f"items.facets.{name}", mapping.items.facets[name]
    return f"facets.{name}", mapping.log_facets[name]

"""The people who asked to be forgotten: digests of their ids, so that no later input or backup brings them back.

The list, ``_forgotten.json`` in the event store, has a salt of 16 random bytes and the SHA-256 of salt and id for each person.
Lists of two stores, each with its salt, become one by ``merge``. A digest says of an id that one has already whether it is on
the list. Where ids are few or countable, all of them can be tried: the list is kept like the data that it protects.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from core.duck import quoted
from core.errors import CorruptStateError
from core.files import digest_text, read_json, write_json
from core.id_text import strip_blanks, without_point

TOKEN = re.compile(r"""[^\s,;|"'=:{}()\[\]]+""")
"""What may be an id in a line that could not be read."""


def words_of(text: str) -> set[str]:
    """What may be an id in a cell, or in a line that could not be read: all of it, and its words, as ingestion reads ids."""
    words = {text, strip_blanks(text), *TOKEN.findall(text)}
    return words | {without_point(word) for word in words}


class Person(NamedTuple):
    """A user to be forgotten: the id as ingestion reads it, and the platform's integer, None where it has none."""

    key: str
    number: int | None


class ForgottenList:
    """The list of a source.

    Args:
        root: of the event store.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / "_forgotten.json"

    def groups(self) -> dict[str, list[str]]:
        """Digests by their salt.

        Raises:
            CorruptStateError: the file is damaged. It is never written anew: people would come back.
        """
        if not self.path.exists():
            return {}
        try:
            content = read_json(self.path)
        except CorruptStateError:  # which says to delete the file
            content = None
        if not isinstance(content, dict) or not all(isinstance(digests, list) for digests in content.values()):
            raise CorruptStateError(
                f"{self.path} is no list of the forgotten; put it back from a backup, or from the folder 'forgotten' beside the "
                "workspaces: without it people would come back"
            )
        return content

    def salt(self) -> str:
        """The salt of new digests; made, and kept, where there is none yet."""
        groups = self.groups()
        if not groups:
            groups = {secrets.token_hex(16): []}
            write_json(self.path, groups)
        return next(iter(groups))

    def digest(self, key: str) -> str:
        """The digest of an id, as ``add`` lists it."""
        return digest_text(self.salt(), key)

    def add(self, keys: Iterable[str]) -> list[str]:
        """Put ids on the list; returns their digests."""
        digests = [self.digest(key) for key in keys]
        self.merge({self.salt(): digests})
        return digests

    def merge(self, other: Mapping[str, Sequence[str]]) -> None:
        """Add everybody who is on another list.

        Args:
            other: digests by their salt.
        """
        groups = self.groups()
        merged = {
            salt: sorted({*groups.get(salt, []), *other.get(salt, [])}) for salt in dict.fromkeys([*groups, *other])
        }
        if merged != groups:
            write_json(self.path, merged)

    def matcher(self) -> ForgottenMatcher:
        """What tells whether an id is on the list as it is now."""
        return ForgottenMatcher(self.groups())


class ForgottenMatcher:
    """Tells whether ids are on a list.

    Args:
        groups: digests by their salt.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        self.groups = {salt: frozenset(digests) for salt, digests in groups.items() if digests}

    def __bool__(self) -> bool:
        return bool(self.groups)

    def has(self, key: str) -> bool:
        """Whether an id, as it stands in the log, is on the list."""
        return any(digest_text(salt, key) in digests for salt, digests in self.groups.items())

    def sql(self, column: str) -> str:
        """DuckDB's condition that a column holds the id of somebody on the list."""
        conditions = [
            f"sha256({quoted(salt)} || chr(31) || {column}) IN ({', '.join(map(quoted, sorted(digests)))})"
            for salt, digests in self.groups.items()
        ]
        return f"({' OR '.join(conditions)})" if conditions else "false"

    def names_somebody(self, line: str) -> bool:
        """Whether a line that could not be read has the id of somebody on the list as one of its words."""
        return any(map(self.has, words_of(line)))

    def pass_over(self, con: duckdb.DuckDBPyConnection, reason: str) -> int:
        """Let an input's rows of people on the list count as passed over, whatever else is wrong with them.

        Args:
            con: has the tables ``staged`` and ``malformed`` of the input.
            reason: of rows that are not kept and not quarantined.

        Returns:
            How many there are.
        """
        if not self:
            return 0
        condition = self.sql("user_key")
        rows = con.execute(f"UPDATE staged SET reason = {quoted(reason)} WHERE {condition}").fetchall()[0][0]
        lines = con.execute("SELECT DISTINCT content FROM malformed").fetchall()
        for (line,) in lines:
            if line and self.names_somebody(line):
                con.execute("UPDATE malformed SET reason = ? WHERE content = ?", [reason, line])
                rows += 1
        return int(rows)

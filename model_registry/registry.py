"""Registry moves: aliases of a registered model, each move atomic, recorded, and undoable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from core.documents import JsonObject
from core.errors import DataError, NotReadyError
from core.files import append_lines, end_of_lines, exclusive_lock, lines_since, read_json, write_json
from core.hours import Hour
from model_registry.descriptions import short_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
"""The version that the gate compares with the champion, until it decides."""
CANDIDATE = "candidate"
"""The newest version of the candidate's variant; the next challenger."""
ALIASES = (CHAMPION, CHALLENGER, CANDIDATE)
VERSION = "version:"
"""Begins the name of a model that is always the same version, such as ``version:12``."""
LOGGED_MODEL = "models:/"
"""Begins the source of a version that was registered from a logged model, before the model's id."""
PREDECESSOR = "predecessor"
BY_PLATFORM = "platform"
BY_HAND = "by hand in MLflow"
"""Who moved an alias that does not point where its last recorded move left it."""
FORBIDDEN = "PERMISSION_DENIED"
NO_SUCH_THING = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
"""MLflow's codes for an alias, version or model that does not exist."""


LINEAGE = ("variant", "hour")
"""Tags of every version that the platform registers."""


class VersionLineage(NamedTuple):
    """Where a version comes from.

    Attributes:
        variant: time module of its ranker.
        hour: last one that it was trained on.
    """

    variant: str
    hour: Hour


class _Unchecked(Enum):
    UNCHECKED = "unchecked"


UNCHECKED: Final = _Unchecked.UNCHECKED
"""In place of an expected version: the caller does not mind where an alias points."""
_HOUR_IN_REASON = re.compile(r"\bat (\d{4}-\d{2}-\d{2}T\d{2})")


@dataclass(frozen=True)
class Move:
    """One line of the audit trail: an alias went from one version to another.

    Attributes:
        alias: which one.
        version: where it points now; None where somebody deleted the alias.
        previous: where it pointed before, None where it did not exist.
        reason: why, one sentence.
        at: wall clock of the move, or of its discovery where it was made by hand, ISO 8601 UTC.
        hour: the log's hour at which it happened, for example ``2026-11-23T10``; None where nobody said.
        who: ``platform``, ``by hand in MLflow``, or who asked for it.
    """

    alias: str
    version: str | None
    previous: str | None
    reason: str
    at: str
    hour: str | None = None
    who: str = BY_PLATFORM

    @classmethod
    def from_json(cls, line: JsonObject) -> Move:
        """A line of the trail; those written before moves had hours name theirs in the reason, if at all."""
        if "hour" not in line and (named := _HOUR_IN_REASON.search(line["reason"])):
            line = {**line, "hour": named.group(1)}
        return cls(**line)


def read_moves(trail: Path) -> list[Move]:
    """The moves of an audit trail, oldest first; none where there is no file."""
    if not trail.exists():
        return []
    return [Move.from_json(json.loads(line)) for line in lines_since(trail, 0)]


class Registry:
    """Aliases of one registered model.

    Args:
        client: MLflow client.
        name: registered model.
        trail: file of the audit trail (JSON lines); its neighbors are the lock that makes moves atomic, the move that is
            being made, which a crash leaves behind, and where each alias was left by the trail up to some byte of it, so
            that an hour does not read all moves that there ever were.
    """

    def __init__(self, client: MlflowClient, name: str, trail: Path) -> None:
        self.client, self.name, self.trail = client, name, trail
        self._pending = trail.with_suffix(".pending.json")
        self._left = trail.with_suffix(".left.json")

    def get(self, alias: str) -> ModelVersion | None:
        """Version behind an alias, None where there is none (or somebody deleted it).

        One that somebody registered in MLflow itself has no tags: it gets those of the model that was logged.

        Raises:
            NotReadyError: MLflow does not answer, which must never be taken for "there is none".
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._with_lineage(self.client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in NO_SUCH_THING or self._is_unknown(error.error_code):
                return None
            raise NotReadyError(f"MLflow does not say who '{alias}' of {self.name} is ({error}); retry") from error

    def lineage(self, version: ModelVersion) -> VersionLineage:
        """Where a version that ``get`` gave comes from.

        Raises:
            DataError: the platform did not train it.
        """
        if missing := [tag for tag in LINEAGE if tag not in version.tags]:
            raise DataError(
                f"version {version.version} of {self.name} was not trained by the platform: it has no tag '{missing[0]}', nor has the "
                "logged model behind it; point its aliases at another version in MLflow, or delete them"
            )
        return VersionLineage(version.tags["variant"], Hour.parse(version.tags["hour"]))

    def _with_lineage(self, version: ModelVersion) -> ModelVersion:
        """A version with the tags of its logged model where it lacks its own."""
        from mlflow.exceptions import MlflowException

        source = str(version.source)
        if all(tag in version.tags for tag in LINEAGE) or not source.startswith(LOGGED_MODEL):
            return version
        number = str(version.version)
        try:
            tags = self.client.get_logged_model(source.removeprefix(LOGGED_MODEL)).tags
        except MlflowException as error:
            if error.error_code not in NO_SUCH_THING:
                raise
            return version
        for key, value in tags.items():
            if not key.startswith("mlflow."):
                self.client.set_model_version_tag(self.name, number, key, value)
        return self.client.get_model_version(self.name, number)

    def _is_unknown(self, code: str) -> bool:
        """Whether nobody made the model yet: a server with logins refuses to speak of what does not exist."""
        return code == FORBIDDEN and not self.client.search_registered_models(f"name = '{self.name}'")

    def newest(self, variant: str, until: str | None = None) -> str | None:
        """Newest version of a variant, trained up to the hour ``until`` where one is given; None where there is none."""
        if "'" in variant:  # somebody's typing error: no variant has one, and MLflow would refuse the question
            return None
        versions = self.client.search_model_versions(f"name = '{self.name}' and tags.variant = '{variant}'")
        fitting = [v for v in versions if until is None or v.tags["hour"] <= until]
        return str(max(fitting, key=lambda v: (v.tags["hour"], int(v.version))).version) if fitting else None

    def resolve(self, name: str) -> str | None:
        """Version that a model's name means: an alias's, the N of ``version:N``, or a variant's newest; None where there is none."""
        if name.startswith(VERSION):
            return name.removeprefix(VERSION)
        return self._version_of(name) if name in ALIASES else self.newest(name)

    def move(
        self,
        alias: str,
        version: str,
        reason: str,
        *,
        hour: Hour | None = None,
        who: str = BY_PLATFORM,
        expected: str | _Unchecked | None = UNCHECKED,
    ) -> Move:
        """Point an alias at a version.

        Args:
            alias: for example ``champion``.
            version: the version; it must exist.
            reason: kept in the trail and on the version.
            hour: the log's hour at which it happens.
            who: who wants it.
            expected: version that the caller saw behind the alias; if another one is there now,
                somebody moved it in between, and nothing is done.

        Raises:
            DataError: the alias moved in between, or there is no such version.
            NotReadyError: MLflow does not answer.
        """
        with self._locked():
            return self._move(alias, version, reason, expected, hour=hour, who=who)

    def rollback(self, reason: str, to: str | None = None, *, hour: Hour | None = None, who: str = BY_PLATFORM) -> Move:
        """Point the champion back at its predecessor, or at a named version.

        Args:
            reason: kept in the trail and on the version.
            to: version to go to; None for the predecessor.
            hour: the log's hour at which it happens.
            who: who wants it.

        Raises:
            NotReadyError: there is no champion, or it has no predecessor.
            DataError: the target is the champion already, or does not exist.
        """
        with self._locked():
            current = self.get(CHAMPION)
            if current is None:
                raise NotReadyError(f"{self.name} has no champion to roll back")
            target = to or current.tags.get(PREDECESSOR)
            if not target:
                raise NotReadyError(
                    f"version {current.version} is the first champion of {self.name}; name a version to go to instead"
                )
            if str(target) == str(current.version):
                raise DataError(f"version {target} is the champion already")
            return self._move(
                CHAMPION, str(target), reason, current.version, hour=hour, who=who, record_predecessor=False
            )

    def moves(self) -> list[Move]:
        """The audit trail, oldest first."""
        return read_moves(self.trail)

    def record_moves_by_hand(self, hour: Hour | None = None) -> list[Move]:
        """Add what somebody did to the aliases in MLflow itself to the trail.

        An alias that does not point where its last recorded move left it was moved by hand. Every move looks for
        this first; the hourly steps and the model page call it so that a move by hand is dated to its hour.

        Args:
            hour: the log's hour at which this is noticed.

        Returns:
            The moves added.

        Raises:
            NotReadyError: MLflow does not answer.
        """
        with self._locked():
            return self._record_moves_by_hand(ALIASES, hour)

    def _record_moves_by_hand(self, aliases: Sequence[str], hour: Hour | None) -> list[Move]:
        recorded = self._recorded()
        if self._pending.exists():  # a move that was cut short: did it happen?
            cut_short = Move.from_json(read_json(self._pending))
            if self._version_of(cut_short.alias) == cut_short.version != recorded.get(cut_short.alias):
                self._record([cut_short])
                recorded[cut_short.alias] = cut_short.version
            self._pending.unlink()
        added = []
        for alias in aliases:
            version, last = self._version_of(alias), recorded.get(alias)
            if version != last:
                where = "was deleted" if version is None else f"was pointed at version {version}"
                added.append(
                    Move(alias, version, last, f"{alias} {where}", _now(), hour.key if hour else None, BY_HAND)
                )
        if added:
            self._record(added)
        return added

    def _recorded(self) -> dict[str, str | None]:
        """Alias → version where the last move of the trail left it."""
        if not self.trail.exists():
            return {}
        end = end_of_lines(self.trail)
        known: JsonObject = read_json(self._left) if self._left.exists() else {"bytes": 0, "versions": {}}
        if known["bytes"] > end:  # an older copy of the trail was put back
            known = {"bytes": 0, "versions": {}}
        versions: dict[str, str | None] = known["versions"]
        if known["bytes"] < end:
            moves = [Move.from_json(json.loads(line)) for line in lines_since(self.trail, known["bytes"])]
            versions |= {move.alias: move.version for move in moves}
            write_json(self._left, {"bytes": end, "versions": versions})
        return versions

    def _version_of(self, alias: str) -> str | None:
        current = self.get(alias)
        return str(current.version) if current else None

    def _record(self, moves: Sequence[Move]) -> None:
        append_lines(self.trail, [json.dumps(asdict(move)) for move in moves])

    def _move(
        self,
        alias: str,
        version: str,
        reason: str,
        expected: str | _Unchecked | None,
        *,
        hour: Hour | None,
        who: str,
        record_predecessor: bool = True,
    ) -> Move:
        from mlflow.exceptions import MlflowException

        self._record_moves_by_hand([alias], hour)
        seen = self._version_of(alias)
        if expected is not UNCHECKED and seen != (str(expected) if expected is not None else None):
            raise DataError(
                f"'{alias}' of {self.name} is now version {seen}, not {expected}; somebody moved it. Look again"
            )
        try:
            self.client.get_model_version(self.name, version)
        except MlflowException as error:
            if error.error_code not in NO_SUCH_THING:
                raise NotReadyError(f"MLflow does not answer ({error}); retry") from error
            raise DataError(f"{self.name} has no version {version}") from None
        move = Move(alias, version, seen, reason, _now(), hour.key if hour else None, who)
        if alias == CHAMPION and seen and record_predecessor and seen != version:
            self.client.set_model_version_tag(self.name, version, PREDECESSOR, seen)
        if seen != version:
            write_json(self._pending, asdict(move))
        self.client.set_registered_model_alias(self.name, alias, version)
        self.client.set_model_version_tag(self.name, version, f"{alias}_reason", short_reason(reason))
        if seen != version:
            self._record([move])
            self._pending.unlink()
        return move

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with exclusive_lock(self.trail.with_suffix(".lock")):
            yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

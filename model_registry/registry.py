"""Registry moves: aliases of a registered model, each move atomic, recorded, and undoable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import DataError, NotReadyError
from core.files import exclusive_lock, write_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
"""The version that the gate compares with the champion, until it decides."""
CANDIDATE = "candidate"
"""The newest version of the candidate's variant; the next challenger."""
PREDECESSOR = "predecessor"
FORBIDDEN = "PERMISSION_DENIED"
NO_SUCH_THING = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
"""MLflow's codes for an alias, version or model that is not there."""


class Anything:
    """The caller does not mind where an alias points."""


ANYTHING = Anything()


@dataclass(frozen=True)
class Move:
    """One line of the audit trail: an alias went from one version to another."""

    alias: str
    version: str
    previous: str | None
    reason: str
    at: str


class Registry:
    """Aliases of one registered model.

    Args:
        client: MLflow client.
        name: registered model.
        trail: file of the audit trail (JSON lines); its neighbor is the lock that makes moves atomic.
    """

    def __init__(self, client: MlflowClient, name: str, trail: Path) -> None:
        self.client, self.name, self.trail = client, name, trail

    def get(self, alias: str) -> ModelVersion | None:
        """Version behind an alias, None where there is none (or somebody deleted it).

        Raises:
            NotReadyError: MLflow does not answer, which must never be taken for "there is none".
        """
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version_by_alias(self.name, alias)
        except MlflowException as error:
            if error.error_code in NO_SUCH_THING or self._is_unknown(error.error_code):
                return None
            raise NotReadyError(f"MLflow does not say who '{alias}' of {self.name} is ({error}); retry") from error

    def _is_unknown(self, code: str) -> bool:
        """Whether nobody made the model yet: a server with logins refuses to speak of what does not exist."""
        return code == FORBIDDEN and not self.client.search_registered_models(f"name = '{self.name}'")

    def newest(self, variant: str, until: str | None = None) -> str | None:
        """Newest version of a variant, trained up to the hour ``until`` where one is given; None where there is none."""
        found = self.client.search_model_versions(f"name = '{self.name}' and tags.variant = '{variant}'")
        fitting = [v for v in found if until is None or v.tags["hour"] <= until]
        return str(max(fitting, key=lambda v: (v.tags["hour"], int(v.version))).version) if fitting else None

    def move(self, alias: str, version: str, reason: str, *, expected: str | Anything | None = ANYTHING) -> Move:
        """Point an alias at a version.

        Args:
            alias: for example ``champion``.
            version: the version; it must exist.
            reason: kept in the trail and on the version.
            expected: version that the caller saw behind the alias; another one there means that
                somebody moved it in between, and nothing is done.

        Raises:
            DataError: the alias moved in between, or there is no such version.
        """
        with self._locked():
            return self._move(alias, version, reason, expected)

    def rollback(self, reason: str, to: str | None = None) -> Move:
        """Point the champion back at its predecessor, or at a named version.

        Raises:
            NotReadyError: there is no champion, or it has no predecessor.
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
            return self._move(CHAMPION, str(target), reason, current.version, record_predecessor=False)

    def moves(self) -> list[Move]:
        """The audit trail, oldest first."""
        if not self.trail.exists():
            return []
        return [Move(**json.loads(line)) for line in self.trail.read_text(encoding="utf-8").splitlines() if line]

    def _move(
        self, alias: str, version: str, reason: str, expected: str | Anything | None, *, record_predecessor: bool = True
    ) -> Move:
        from mlflow.exceptions import MlflowException

        current = self.get(alias)
        seen = str(current.version) if current else None
        if not isinstance(expected, Anything) and seen != (str(expected) if expected is not None else None):
            raise DataError(
                f"'{alias}' of {self.name} is now version {seen}, not {expected}; somebody moved it. Look again"
            )
        try:
            self.client.get_model_version(self.name, version)
        except MlflowException as error:
            if error.error_code not in NO_SUCH_THING:
                raise NotReadyError(f"MLflow does not answer ({error}); retry") from error
            raise DataError(f"{self.name} has no version {version}") from None
        move = Move(alias, version, seen, reason, datetime.now(UTC).isoformat(timespec="seconds"))
        if alias == CHAMPION and seen and record_predecessor and seen != version:
            self.client.set_model_version_tag(self.name, version, PREDECESSOR, seen)
        self.client.set_registered_model_alias(self.name, alias, version)
        self.client.set_model_version_tag(self.name, version, f"{alias}_reason", reason[:4900])
        if seen != version:
            write_text(self.trail, "".join(json.dumps(asdict(m)) + "\n" for m in [*self.moves(), move]))
        return move

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with exclusive_lock(self.trail.with_suffix(".lock")):
            yield

"""What became of an experiment's file: as it was at its first report, and every change with who, when and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ab_analysis.experiment import BESIDE_THE_RESULT, Experiment
from core.documents import JsonObject
from core.errors import CorruptStateError
from core.files import append_lines, lines_since

DEFINED, IN_AN_EDITOR = "defined", "edited by hand"


@dataclass(frozen=True)
class RegisteredExperiment:
    """An experiment file as it was at its first report.

    Attributes:
        digest: of the file's content.
        content: the keys of the file; those of an older version of the file's schema are kept as they are.
    """

    digest: str
    content: JsonObject

    @classmethod
    def of(cls, experiment: Experiment) -> RegisteredExperiment:
        """The record of an experiment that is reported now."""
        return cls(experiment.digest, experiment.model_dump(mode="json"))

    def changed_keys(self, experiment: Experiment) -> list[str]:
        """Keys on which results rest and in which the experiment file differs now."""
        changed = changed_keys(self.content, experiment.model_dump(mode="json"))
        return [key for key in changed if key not in BESIDE_THE_RESULT]


@dataclass(frozen=True)
class ExperimentChange:
    """A change of an experiment's file.

    Attributes:
        at: when (UTC), to the second.
        who: name of the person.
        action: ``defined``, ``redefined``, ``stopped``, ``extended``, ``concluded``, or ``edited by hand``: seen only at the next change.
        why: in the person's words.
        state: of the experiment at that moment: ``planned``, ``running`` or ``ended``.
        keys: that are other than before.
        content: the file's keys from then on.
    """

    at: str
    who: str
    action: str
    why: str
    state: str
    keys: list[str]
    content: JsonObject

    @property
    def affects_result(self) -> bool:
        """Whether it changed, after the start, what a result rests on; a first definition changes nothing."""
        late = self.state != "planned" and self.action != DEFINED
        return late and any(key not in BESIDE_THE_RESULT for key in self.keys)

    def told(self, key: str) -> str:
        """A key's value from then on, as the file has it."""
        return json.dumps(self.content.get(key), ensure_ascii=False).strip('"')


def changed_keys(before: JsonObject, after: JsonObject) -> list[str]:
    """Keys that differ between two contents of a file."""
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


def changes_file(folder: Path, name: str) -> Path:
    """Where an experiment's changes are kept: beside its file, one JSON object a line."""
    return folder / f"{name}.changes.jsonl"


def read_changes(folder: Path, name: str) -> list[ExperimentChange]:
    """Every recorded change of an experiment, the oldest first.

    Args:
        folder: of the experiment files.
        name: of the experiment.

    Raises:
        CorruptStateError: a line cannot be read.
    """
    path = changes_file(folder, name)
    if not path.exists():
        return []
    changes = []
    for number, line in enumerate(lines_since(path, 0), 1):
        try:
            changes.append(ExperimentChange(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise CorruptStateError(f"{path}, line {number} is damaged ({error}); mend or remove the line") from error
    return changes


def record_change(folder: Path, change: ExperimentChange, name: str) -> None:
    """Append a change; one writer at a time."""
    append_lines(changes_file(folder, name), [json.dumps(asdict(change), ensure_ascii=False, sort_keys=True)])


def content_of(experiment: Experiment) -> JsonObject:
    """The keys of an experiment's file, without those that only have their default."""
    return experiment.model_dump(mode="json", exclude_unset=True)


def unrecorded(changes: Sequence[ExperimentChange], experiment: Experiment) -> list[str]:
    """Keys that somebody changed in an editor since the last recorded change; none where nothing was ever recorded."""
    return changed_keys(changes[-1].content, content_of(experiment)) if changes else []

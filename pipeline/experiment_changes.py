"""What people do with an experiment without a shell: plan, define, stop, extend and conclude it.

The experiment's file stays the source of truth. Every change of it is kept beside it with who, when and why.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from ab_analysis.assignment import check_workspace_layers
from ab_analysis.changes import (
    DEFINED,
    IN_AN_EDITOR,
    ExperimentChange,
    changed_keys,
    content_of,
    read_changes,
    record_change,
    unrecorded,
)
from ab_analysis.experiment import Experiment, find_experiments, load_named, parse_experiment
from ab_analysis.experiment_text import comments_of, set_keys
from ab_analysis.plan_page import plan_markdown, write_plan_page
from ab_analysis.preview import ExperimentPreview, preview_experiment
from core.errors import ConfigError
from core.files import exclusive_lock, write_text
from core.hours import Hour
from core.settings import Settings
from events.store import EventStore
from serving.routing import resume_experiment, stop_experiment

log = logging.getLogger("pipeline.experiment_changes")

SPLITS_USERS = ("variants", "control", "salt", "layer", "holdout", "start")
"""Keys that would give users who met the experiment another variant, or another moment at which they met it."""
SHORTEST_REASON = 5


@dataclass(frozen=True)
class PlannedExperiment:
    """A plan that was written as a page.

    Attributes:
        preview: the plan.
        page: its path.
        summary: the plan in short, as Markdown.
    """

    preview: ExperimentPreview
    page: Path
    summary: str


def plan_experiment(settings: Settings, text: str, *, replace: bool = False) -> PlannedExperiment:
    """Check the text of an experiment file as if it were to be saved, and write the page of its plan; nothing is saved.

    Args:
        settings: name the workspace.
        text: of the file.
        replace: an experiment of this name may exist.

    Raises:
        ConfigError: something in the file is wrong, or it may not be saved.
    """
    experiment = parse_experiment(text, Path("the experiment file"))
    _check_definition(settings, experiment, text, replace=replace)
    preview = preview_experiment(settings, experiment)
    page = write_plan_page(settings, preview, text, "A draft: saved only when somebody approves it.")
    return PlannedExperiment(preview, page, plan_markdown(preview, settings.page_url(page)))


def define_experiment(settings: Settings, text: str, who: str, why: str, *, replace: bool = False) -> ExperimentChange:
    """Save an experiment file.

    Args:
        settings: name the workspace.
        text: of the file.
        who: defines it.
        why: in that person's words.
        replace: an experiment of this name may exist; its file is replaced unless that would lose comments, or give users
            who have met the experiment another variant.

    Raises:
        ConfigError: something in the file is wrong, or it may not be saved.
    """
    experiment = parse_experiment(text, Path("the experiment file"))
    with _writing(settings):
        before = _check_definition(settings, experiment, text, replace=replace)
        preview = preview_experiment(settings, experiment)
        action = "redefined" if before else DEFINED
        if before is None:  # an earlier one of this name, whose file is gone, may have been stopped
            resume_experiment(settings, experiment.name)
        change = _save(settings, before, experiment, text, action, who, why)
        write_plan_page(settings, preview, text, f"Saved by {who} on {change.at[:10]}.")
    return change


def stop_early(settings: Settings, name: str, who: str, why: str, last_day: date | None = None) -> ExperimentChange:
    """Stop a running experiment: nobody is exposed any more, and its final report is as of the end of its last day.

    What was planned stays planned, so that the result is read by the rule that the experiment began with.

    Args:
        settings: name the workspace.
        name: of the experiment.
        who: stops it.
        why: in that person's words.
        last_day: that counts; default: the last one of the log.

    Raises:
        ConfigError: it does not run, or the day is not one on which it ran.
    """
    with _writing(settings):
        experiment, as_of = _named(settings, name)
        _require(experiment, as_of, "running", "stop")
        assert as_of is not None
        day = last_day or (as_of - 1).day
        if not experiment.start_time.date() <= day <= (as_of - 1).day:
            raise ConfigError(
                f"{name} cannot be stopped as of {day}: it ran from {experiment.start_time.date()} to {(as_of - 1).day}"
            )
        change = _set(settings, experiment, {"stopped": day}, "stopped", who, why)
        if experiment.models or experiment.holdout:
            stop_experiment(settings, name, f"{who}: {why}", hour=(as_of - 1).key)
    return change


def extend(settings: Settings, name: str, who: str, why: str, end: date) -> ExperimentChange:
    """Give an experiment that has not ended a later last day.

    Raises:
        ConfigError: it has ended or has no end, the day is not a later one, or another experiment has its users by then.
    """
    with _writing(settings):
        experiment, as_of = _named(settings, name)
        if experiment.state(as_of) == "ended":
            raise ConfigError(f"{name} ended on {experiment.stopped or experiment.end}: define another experiment")
        if experiment.end is None:
            raise ConfigError(f"{name} has no last day, so there is nothing to extend")
        if end <= experiment.end:
            raise ConfigError(f"{name} runs to {experiment.end}; {end} is not later (to end it sooner, stop it)")
        return _set(settings, experiment, {"end": end}, "extended", who, why)


def conclude(settings: Settings, name: str, who: str, outcome: str, note: str) -> ExperimentChange:
    """Write down what people decided when an experiment was over.

    Args:
        settings: name the workspace.
        name: of the experiment.
        who: concludes it.
        outcome: ``shipped``, ``not_shipped`` or ``inconclusive``.
        note: why; it stands in the file too.

    Raises:
        ConfigError: it is not over.
    """
    with _writing(settings):
        experiment, as_of = _named(settings, name)
        _require(experiment, as_of, "ended", "conclude")
        values = {"conclusion": {"outcome": outcome, "note": note.strip()}}
        return _set(settings, experiment, values, "concluded", who, note)


def _writing(settings: Settings) -> AbstractContextManager[None]:
    return exclusive_lock(settings.workspace / ".experiments.lock")


def log_end(settings: Settings) -> Hour | None:
    """End of the log; None before the first event."""
    hours = EventStore(settings.events_dir).hours()
    return hours[-1] + 1 if hours else None


def _named(settings: Settings, name: str) -> tuple[Experiment, Hour | None]:
    return load_named(settings.experiments_dir, name), log_end(settings)


def _require(experiment: Experiment, as_of: Hour | None, state: str, verb: str) -> None:
    now = experiment.state(as_of)
    if now != state:
        last = experiment.stopped or experiment.end
        dates = {
            "planned": f"it begins on {experiment.start_time.date()}",
            "running": f"it runs until {last or 'it is stopped'}",
        }
        raise ConfigError(f"cannot {verb} {experiment.name}: {dates.get(now, f'it ended on {last}')}")


def _check_definition(settings: Settings, experiment: Experiment, text: str, *, replace: bool) -> Experiment | None:
    """Check that an experiment may be saved; returns what it replaces."""
    path = settings.experiments_dir / f"{experiment.name}.yaml"
    if experiment.name not in find_experiments(settings.experiments_dir):
        if experiment.stopped or experiment.conclusion:
            raise ConfigError(f"{experiment.name}: a new experiment cannot be stopped or concluded yet")
        return None
    if not replace:
        raise ConfigError(f"there is an experiment '{experiment.name}' already; choose another name, or replace it")
    before = load_named(settings.experiments_dir, experiment.name)
    if before.state(log_end(settings)) != "planned":
        keys = changed_keys(before.model_dump(mode="json"), experiment.model_dump(mode="json"))
        if fixed := [key for key in keys if key in (*SPLITS_USERS, "stopped", "conclusion")]:
            raise ConfigError(
                f"{experiment.name} has begun: {', '.join(fixed)} cannot change any more, as users have met it; define another one"
            )
    if lost := [c for c in comments_of(path.read_text(encoding="utf-8")) if c not in comments_of(text)]:
        raise ConfigError(f"{path} has comments that would be lost ({lost[0]}); change it in an editor")
    return before


def _set(
    settings: Settings, experiment: Experiment, values: Mapping[str, Any], action: str, who: str, why: str
) -> ExperimentChange:
    path = find_experiments(settings.experiments_dir)[experiment.name]
    text = set_keys(path.read_text(encoding="utf-8"), values, path)
    return _save(settings, experiment, parse_experiment(text, path), text, action, who, why)


def _save(
    settings: Settings, before: Experiment | None, after: Experiment, text: str, action: str, who: str, why: str
) -> ExperimentChange:
    """Write a file and then the record of its change; after a crash between the two, the next change records it as by hand.

    Raises:
        ConfigError: no reason is given, or another experiment has the same users of a layer at the same time.
    """
    if len(why.strip()) < SHORTEST_REASON:
        raise ConfigError("say why, in a few words: the reason is kept with the change")
    folder, as_of = settings.experiments_dir, log_end(settings)
    if after.state(as_of) != "ended":  # what is over claims nobody: overlaps made in an editor are mended by a stop
        check_workspace_layers(settings, after)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    state, content = (before or after).state(as_of), content_of(before) if before else {}
    if before and (keys := unrecorded(read_changes(folder, after.name), before)):
        by_hand = ExperimentChange(at, "not known", IN_AN_EDITOR, "", state, keys, content)
        record_change(folder, by_hand, after.name)
    keys = changed_keys(content, content_of(after))
    change = ExperimentChange(at, who, action, why.strip(), state, keys, content_of(after))
    write_text(folder / f"{after.name}.yaml", text)
    record_change(folder, change, after.name)
    log.info("experiment %s is %s by %s: %s", after.name, action, who, change.why)
    return change

"""Experiments that serve: looked at every hour, and stopped for everybody when they do harm."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ab_analysis.experiment import find_experiments, load_named
from ab_analysis.report import analyze_experiment, write_report
from core.alerts import send_alert
from core.errors import NotReadyError, PlatformError
from core.hours import Hour
from core.settings import Settings
from serving.routing import stop_experiment, stopped

log = logging.getLogger("pipeline.experiments")


@dataclass(frozen=True)
class ExperimentLook:
    """What was seen of an experiment.

    Attributes:
        experiment: its name.
        verdict: of the decision; None where nothing could be decided.
        sentence: of the decision, or why there is none.
    """

    experiment: str
    verdict: str | None
    sentence: str


def watch_experiments(settings: Settings, hour: Hour) -> list[ExperimentLook]:
    """Look at the running experiments with ``automatic_stop`` as of the end of an hour.

    One whose verdict is to stop (in one of its treatments a primary metric is worse, or a guardrail is broken, under its
    always-valid rule, which allows a look an hour) is stopped: serving sends the users of all arms back to the champion, its
    report is written, an alert goes out; each names the treatment. Looking again changes nothing.

    Returns:
        Every look that was due.
    """
    until = hour + 1
    looks = []
    for name in find_experiments(settings.experiments_dir):
        try:
            look = _look(settings, name, until)
        except NotReadyError as error:  # nobody, or too few, met it yet
            look = ExperimentLook(name, None, str(error))
        except PlatformError as error:  # its file or its data: the others are looked at all the same
            log.warning("experiment %s at %s cannot be read: %s", name, hour, error)
            send_alert(settings, f"experiment {name} cannot be watched", reason=str(error))
            look = ExperimentLook(name, None, str(error))
        if look is not None:
            looks.append(look)
    return looks


def _look(settings: Settings, name: str, until: Hour) -> ExperimentLook | None:
    """One look at an experiment; None where it has none due. Stops it when that is the verdict."""
    experiment = load_named(settings.experiments_dir, name)
    begun = experiment.start_time < until.start
    ended = experiment.end_hour is not None and until > experiment.end_hour
    if not experiment.automatic_stop or not begun or ended or stopped(settings, name):
        return None
    _, analysis, _ = analyze_experiment(settings, experiment, until, with_days=False)
    decision = analysis.decision
    hour = until - 1
    log.info("experiment %s at %s: %s", name, hour, decision.sentence)
    if decision.verdict == "stop":
        report = write_report(settings, experiment, until).page
        stop_experiment(settings, name, decision.sentence, hour=hour.key, report=str(report))
        send_alert(settings, f"experiment {name} is stopped", sentence=decision.sentence, report=str(report))
    return ExperimentLook(name, decision.verdict, decision.sentence)

"""Experiments that serve: looked at every hour, and stopped for everybody when they do harm."""

from __future__ import annotations

import logging
from typing import Any

from ab_analysis.experiment import find_experiments, load_named
from ab_analysis.report import analyze_experiment, write_report
from core.alerts import send_alert
from core.errors import NotReadyError
from core.hours import Hour
from core.settings import Settings
from serving.routing import stop_experiment, stopped

log = logging.getLogger("pipeline.experiments")


def watch_experiments(settings: Settings, hour: Hour) -> list[dict[str, Any]]:
    """Look at the running experiments with ``automatic_stop`` as of the end of an hour.

    One whose verdict is to stop (a primary metric is worse, or a guardrail is broken, under its always-valid rule, which
    allows a look an hour) is stopped: serving sends its users back to the champion, its report is written, an alert
    goes out. Looking again changes nothing.

    Returns:
        Experiment, verdict and sentence of every look.
    """
    until, found = hour + 1, []
    for name in find_experiments(settings.experiments_dir):
        experiment = load_named(settings.experiments_dir, name)
        begun = experiment.start_time < until.start
        ended = experiment.end_hour is not None and until > experiment.end_hour
        if not experiment.automatic_stop or not begun or ended or stopped(settings, name):
            continue
        try:
            _, analysis, _ = analyze_experiment(settings, experiment, until)
        except NotReadyError as error:  # nobody, or too few, met it yet
            found.append({"experiment": name, "verdict": None, "sentence": str(error)})
            continue
        decision = analysis.decision
        found.append({"experiment": name, "verdict": decision.verdict, "sentence": decision.sentence})
        log.info("experiment %s at %s: %s", name, hour, decision.sentence)
        if decision.verdict == "stop":
            report = write_report(settings, experiment, until).page
            stop_experiment(settings, name, decision.sentence, hour=hour.key, report=str(report))
            send_alert(settings, f"experiment {name} is stopped", sentence=decision.sentence, report=str(report))
    return found

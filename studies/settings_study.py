"""A study of the clock's settings: the same log and the same rankers, with clocks computed for each setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.page_template import words
from evaluation.metrics import METRICS
from studies.lab import Lab
from studies.paired import SHOWN, Panel, as_json, over_seeds
from studies.replay import Run
from studies.study import Study
from studies.tables import against_base, verdict


def compare_settings(
    lab: Lab, name: str, changes: Mapping[str, Mapping[str, Any]], base: str, variants: tuple[str, ...]
) -> tuple[str, str]:
    """Run variants with each setting; every difference is paired with the base setting, on the same samples.

    Args:
        lab: has the logs and the runs.
        name: of the study.
        changes: setting → changes of the platform's settings.
        base: the setting that the others are compared with.
        variants: rankers.

    Returns:
        The conclusion and the path of the page.
    """
    logs = {setting: lab.logs(change) for setting, change in changes.items()}
    runs = {v: [Run(v, seed) for seed in lab.seed_numbers] for v in variants}
    lab.run(
        (log, run)
        for logs_of_setting in logs.values()
        for log in logs_of_setting
        for runs_of in runs.values()
        for run in runs_of
    )
    sections, sentences, results = [], [], {}
    for position, log in enumerate(logs[base]):
        panels = {setting: Panel(lab, logs_of_setting[position]) for setting, logs_of_setting in logs.items()}
        for variant in variants:
            estimates = {
                (s, m): [METRICS[m](panel.predictions(r)) for r in runs[variant]]
                for s, panel in panels.items()
                for m in SHOWN
            }
            values = {s: {m: over_seeds(estimates[s, m]) for m in SHOWN} for s in panels}
            gaps = {
                s: {
                    m: over_seeds([b - a for a, b in zip(estimates[base, m], estimates[s, m], strict=True)])
                    for m in SHOWN
                }
                for s in panels
                if s != base
            }
            title = f"{log.title}, {words(variant)}"
            results[title] = as_json({"values": values, "gaps": gaps})
            sentences.append(f"{title}: {verdict(gaps, base)}.")
            sections.append(against_base(title, "Only the clock's settings differ.", values, gaps, base))
    conclusion = " ".join(sentences)
    study = Study(lab.settings, name, lab.source)
    return conclusion, str(study.write(conclusion, sections, {"logs": results}, lab.command(name)))

"""A study of where modules differ: the runs of the study ``variants``, sliced by masks over the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from core.page_template import words
from studies.lab import Lab
from studies.log import Log
from studies.paired import Figure, Panel, as_json
from studies.replay import Run
from studies.study import Section, Study
from studies.tables import join_names

SHOWN = ("none", "hour_embedding", "naive_clock", "gaussian_clock", "matched_clock")
PAPER, OURS = "gaussian_clock", "matched_clock"
FEWEST = 200
"""Number of positives that a slice needs to be shown."""
Masks = Callable[[Panel], Mapping[str, np.ndarray]]


def compare_slices(
    lab: Lab, name: str, text: str, masks: Masks, extra: Mapping[str, tuple[Log, ...]] | None = None
) -> tuple[str, str]:
    """AUC of the modules on each slice, and the clocks' gains on it.

    Args:
        lab: has the logs and the runs.
        name: of the study.
        text: description of the slices.
        masks: function of a panel that returns slice → mask over the log's samples.
        extra: further rows, the paper's clock on other logs: title → logs, in the order of the source's logs.

    Returns:
        The conclusion and the path of the page.
    """
    logs = lab.logs()
    runs = {v: [Run(v, seed) for seed in lab.seed_numbers] for v in SHOWN}
    extra_logs = dict(extra or {})
    lab.run((log, run) for log in logs for runs_of in runs.values() for run in runs_of)
    lab.run((log, run) for logs_of in extra_logs.values() for log in logs_of for run in runs[PAPER])
    sections, sentences, results = [], [], {}
    for position, log in enumerate(logs):
        panel = Panel(lab, log)
        slices = {
            n: m for n, m in masks(panel).items() if int(panel.frame["label"][m & panel.evaluated].sum()) >= FEWEST
        }
        values = {v: {n: panel.value(runs_of, "auc", m) for n, m in slices.items()} for v, runs_of in runs.items()}
        for title, logs_of in extra_logs.items():
            other_panel = Panel(lab, logs_of[position])
            values[title] = {n: other_panel.value(runs[PAPER], "auc", m) for n, m in slices.items()}
        gains = {
            "paper's clock less none": {n: panel.gap(runs["none"], runs[PAPER], "auc", m) for n, m in slices.items()},
            "paper's clock less hour embedding": {
                n: panel.gap(runs["hour_embedding"], runs[PAPER], "auc", m) for n, m in slices.items()
            },
            "ours less paper's clock": {n: panel.gap(runs[PAPER], runs[OURS], "auc", m) for n, m in slices.items()},
        }
        results[log.title] = as_json({"values": values, "gains": gains})
        sentences.append(f"{log.title}: {'; '.join(_where(what, by) for what, by in gains.items())}.")
        rows = [(words(v), *(by[n].text for n in slices)) for v, by in values.items()]
        rows += [(what, *(by[n].signed for n in slices)) for what, by in gains.items()]
        sizes = ("samples", *(f"{int((m & panel.evaluated).sum()):,}" for m in slices.values()))
        sections.append(Section(log.title, text, ("AUC", *slices), (sizes, *rows)))
    conclusion = " ".join(sentences)
    study = Study(lab.settings, name, lab.source)
    return conclusion, str(study.write(conclusion, sections, {"logs": results}, lab.command(name)))


def _where(what: str, by: Mapping[str, Figure]) -> str:
    above = [n for n, f in by.items() if f.above]
    below = [n for n, f in by.items() if f.interval[1] < 0]
    parts = [f"above 0 for {join_names(above)}"] if above else []
    parts += [f"below 0 for {join_names(below)}"] if below else []
    return f"{what} {' and '.join(parts) or 'not established anywhere'}"

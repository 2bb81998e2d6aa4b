"""A study of where modules differ: the runs of ``variants``, sliced by masks over the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from studies.lab import Lab, Log, Run
from studies.paired import Figure, Panel, as_json
from studies.study import Section, Study
from studies.tables import listed, words

SHOWN = ("none", "hour_embedding", "naive_clock", "gaussian_clock", "matched_clock")
PAPER, OURS = "gaussian_clock", "matched_clock"
FEWEST = 200
"""Positives that a slice needs to be shown."""
Masks = Callable[[Panel], Mapping[str, np.ndarray]]


def compare_slices(
    lab: Lab, name: str, text: str, masks: Masks, more: Mapping[str, tuple[Log, ...]] | None = None
) -> tuple[str, str]:
    """AUC of the modules on each slice, and the clocks' gains there.

    Args:
        lab: where it runs.
        name: of the study.
        text: what the slices are.
        masks: slice → mask over a log's samples.
        more: further rows, the paper's clock on other logs (by title, in the order of the source's logs).

    Returns:
        Conclusion and page.
    """
    logs = lab.logs()
    runs = {v: [Run(v, seed) for seed in lab.seed_numbers] for v in SHOWN}
    others = dict(more or {})
    lab.run((given, one) for given in logs for many in runs.values() for one in many)
    lab.run((given, one) for found in others.values() for given in found for one in runs[PAPER])
    sections, sentences, results = [], [], {}
    for at, given in enumerate(logs):
        panel = Panel(lab, given)
        found = {
            n: m for n, m in masks(panel).items() if int(panel.frame["label"][m & panel.evaluated].sum()) >= FEWEST
        }
        values = {v: {n: panel.value(many, "auc", m) for n, m in found.items()} for v, many in runs.items()}
        for title, logs_of in others.items():
            other = Panel(lab, logs_of[at])
            values[title] = {n: other.value(runs[PAPER], "auc", m) for n, m in found.items()}
        gains = {
            "paper's clock less none": {n: panel.gap(runs["none"], runs[PAPER], "auc", m) for n, m in found.items()},
            "paper's clock less hour embedding": {
                n: panel.gap(runs["hour_embedding"], runs[PAPER], "auc", m) for n, m in found.items()
            },
            "ours less paper's clock": {n: panel.gap(runs[PAPER], runs[OURS], "auc", m) for n, m in found.items()},
        }
        results[given.title] = as_json({"values": values, "gains": gains})
        sentences.append(f"{given.title}: {'; '.join(_where(what, by) for what, by in gains.items())}.")
        rows = [(words(v), *(by[n].text for n in found)) for v, by in values.items()]
        rows += [(what, *(by[n].signed for n in found)) for what, by in gains.items()]
        sizes = ("samples", *(f"{int((m & panel.evaluated).sum()):,}" for m in found.values()))
        sections.append(Section(given.title, text, ("AUC", *found), (sizes, *rows)))
    conclusion = " ".join(sentences)
    study = Study(lab.settings, name, lab.source)
    return conclusion, str(study.write(conclusion, sections, {"logs": results}, lab.command(name)))


def _where(what: str, by: Mapping[str, Figure]) -> str:
    above = [n for n, f in by.items() if f.above]
    below = [n for n, f in by.items() if f.interval[1] < 0]
    parts = [f"above 0 for {listed(above)}"] if above else []
    parts += [f"below 0 for {listed(below)}"] if below else []
    return f"{what} {' and '.join(parts) or 'not established anywhere'}"

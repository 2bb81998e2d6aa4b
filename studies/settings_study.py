"""A study of the clock's settings: the same log, clocks computed again, the same rankers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.metrics import METRICS
from studies.lab import Lab, Run
from studies.paired import COMPARED, Panel, as_json, over_seeds
from studies.study import Study
from studies.tables import against_base, verdict, words


def compare_settings(
    lab: Lab, name: str, changes: Mapping[str, Mapping[str, Any]], base: str, variants: tuple[str, ...]
) -> tuple[str, str]:
    """Run variants with each setting; every difference is paired with the base setting, on the same samples.

    Args:
        lab: where it runs.
        name: of the study.
        changes: setting → changes of the platform's settings.
        base: the setting that the others are compared with.
        variants: rankers.

    Returns:
        Conclusion and page.
    """
    logs = {setting: lab.logs(change) for setting, change in changes.items()}
    runs = {v: [Run(v, seed) for seed in lab.seed_numbers] for v in variants}
    lab.run((given, one) for found in logs.values() for given in found for many in runs.values() for one in many)
    sections, sentences, results = [], [], {}
    for at, given in enumerate(logs[base]):
        panels = {setting: Panel(lab, found[at]) for setting, found in logs.items()}
        for variant in variants:
            made = {
                (s, m): [METRICS[m](panel.predictions(r)) for r in runs[variant]]
                for s, panel in panels.items()
                for m in COMPARED
            }
            values = {s: {m: over_seeds(made[s, m]) for m in COMPARED} for s in panels}
            gaps = {
                s: {m: over_seeds([b - a for a, b in zip(made[base, m], made[s, m], strict=True)]) for m in COMPARED}
                for s in panels
                if s != base
            }
            title = f"{given.title}, {words(variant)}"
            results[title] = as_json({"values": values, "gaps": gaps})
            sentences.append(f"{title}: {verdict(gaps, base)}.")
            sections.append(against_base(title, "Only the clock's settings differ.", values, gaps, base))
    conclusion = " ".join(sentences)
    study = Study(lab.settings, name, lab.source)
    return conclusion, str(study.write(conclusion, sections, {"logs": results}, lab.command(name)))

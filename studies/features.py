"""What each group of features is worth: the ranker without it, and with all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.page_template import words
from events.schema import Owner
from studies.columns import ITEM, PROFILE_PART, USER, named_keys
from studies.lab import Lab
from studies.log import Log
from studies.paired import SHOWN, Figure, Panel, as_json
from studies.replay import Run
from studies.study import Study
from studies.tables import against_base, join_names

MODULE = "matched_clock"
ALL = "all features"
KINDS: dict[Owner, str] = {"user": "user attributes", "item": "item attributes", "context": "context attributes"}
TEXT = (
    "The same ranker, hour by hour, with one group of features left out: its values are unknown in training and in testing. Without \
the clock it is the ranker without a time module. A facet that is left out is missing in the clock, too."
)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    logs = lab.logs()
    runs = {log.title: runs_of(log, lab.seed_numbers) for log in logs}
    lab.run((log, r) for log in logs for of in runs[log.title].values() for r in of)
    figures, sections, sentences = {}, [], []
    for log in logs:
        panel, by = Panel(lab, log), runs[log.title]
        values = {name: {m: panel.value(of, m) for m in SHOWN} for name, of in by.items()}
        gaps = {name: {m: panel.gap(by[ALL], of, m) for m in SHOWN} for name, of in by.items() if name != ALL}
        figures[log.title] = {"values": values, "gaps": gaps}
        sentences.append(_sentence(log.title, gaps))
        sections.append(against_base(log.title, TEXT, values, gaps, ALL))
    study = Study(lab.settings, "features", lab.source)
    conclusion = " ".join(sentences)
    results = {"seeds": lab.seed_numbers, "logs": {t: as_json(f) for t, f in figures.items()}}
    return conclusion, str(study.write(conclusion, sections, results, lab.command("features")))


def groups_of(log: Log) -> dict[str, tuple[str, ...]]:
    """The groups that are left out one at a time: title → names of features. Each by itself, and those of a kind together."""
    owners = {field.column: field.owner for field in log.samples.attributes}
    kinds: dict[str, list[str]] = {}
    for name, where in named_keys(log).items():
        if name not in {USER, ITEM}:
            kind = KINDS[owners[name]] if name in owners else where.part
            kinds.setdefault(kind, []).append(name)
    groups: dict[str, tuple[str, ...]] = {"the user's id": (USER,), "the item's id": (ITEM,)}
    groups["the user's activity"] = (PROFILE_PART,)
    for kind, names in kinds.items():
        groups |= {name: (name,) for name in names}
        groups |= {f"all {kind}": tuple(names)} if len(names) > 1 else {}
    return groups


def runs_of(log: Log, seeds: Sequence[int]) -> dict[str, list[Run]]:
    """Title of what is left out → runs."""
    runs = {ALL: [Run(MODULE, seed) for seed in seeds]}
    for title, names in groups_of(log).items():
        runs[f"without {title}"] = [Run(MODULE, seed, without=names) for seed in seeds]
    return {**runs, "without the clock": [Run("none", seed) for seed in seeds]}


def _sentence(title: str, gaps: Mapping[str, Mapping[str, Figure]]) -> str:
    """Which groups carry what, most first."""

    def lost(metric: str) -> list[str]:
        worse = [name for name, of in gaps.items() if of[metric].interval[1] < 0]
        return sorted(worse, key=lambda name: gaps[name][metric].value)

    overall, within = lost("auc"), lost("session_auc")
    parts = [f"AUC is lower {join_names(overall)}" if overall else "no group is shown to matter in AUC"]
    parts.append(
        f"within users' hours {join_names(within)}" if within else "within users' hours none is shown to matter"
    )
    better = [name for name, of in gaps.items() if of["auc"].above]
    parts += [f"AUC is higher {join_names(better)}"] if better else []
    return f"{title}, {words(MODULE)}: {'; '.join(parts)}."

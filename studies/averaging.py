"""Is a ranker better that is scored by an average of its dense weights over the hours past?

Training goes on from the weights as they are: the averages only score. An average is chosen on the log's second half without
its last days, one for all time modules; the last days are reported, with that average alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from core.documents import JsonObject
from core.hours import DAY_HOURS
from core.page_template import words
from evaluation.estimate import Estimate
from evaluation.metrics import METRICS
from studies.base import STRONGER
from studies.chosen_options import COMPARED, TITLES, chosen_and_reported, reported_days
from studies.lab import Lab
from studies.log import Changes
from studies.paired import Figure, Panel, as_json, over_seeds
from studies.replay import Run
from studies.study import Section, Study
from studies.weight_averages import COLUMNS, RAW, AveragedRun

AVERAGED, DIFFERENCE = "averaged", "difference"
MODULES = ("none", "hour_embedding", "gaussian_clock", "matched_clock")


class Case(NamedTuple):
    """A ranker that is scored with and without averages: its options by their name, and its time module."""

    base: str
    module: str


DEFAULT, SLOWER, STRONG = "default", "a quarter of the dense rate", "stronger"
PLAIN: Changes = {"average_hours": 0.0}
BASES: dict[str, Changes] = {DEFAULT: PLAIN, SLOWER: {**PLAIN, "dense_rate": 0.0005}, STRONG: {**PLAIN, **STRONGER}}
"""Options of the ranker. The second tells whether an average does what slower steps do as well."""
CASES: dict[str, tuple[str, ...]] = {DEFAULT: MODULES, SLOWER: ("none",), STRONG: ("none", "matched_clock")}
TUNED_ON = "kuairand"
"""The stronger options were chosen on this source, and are tried on it alone."""
CHOSEN_BY = ("auc", "session_auc", "logloss")
Gaps: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Figure]]]
"""Time module → average → metric → difference from the weights as they are."""
TEXT = (
    "Scores by an exponential moving average of the dense weights at the ends of hours, less scores by the weights as they are, of "
    "the same rankers. Embeddings of users, items and values are never averaged. "
)
RULE = (
    "Chosen: the highest mean gain in AUC over the time modules, among the averages with which session AUC is established to be lower "
    "for none of them."
)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    cases = [
        Case(base, m) for base, modules in CASES.items() for m in modules if base != STRONG or lab.source == TUNED_ON
    ]
    runs = {c: [AveragedRun(Run(c.module, seed, BASES[c.base])) for seed in lab.seed_numbers] for c in cases}
    logs = lab.logs()
    lab.run((log, r) for log in logs for runs_of in runs.values() for r in runs_of)
    answers = [_answer(Panel(lab, log, second_half=True), runs) for log in logs]
    conclusion = " ".join(sentence for answer in answers for sentence in answer.sentences)
    results = {"seeds": lab.seed_numbers, "logs": {g.title: a.figures for g, a in zip(logs, answers, strict=True)}}
    sections = [section for answer in answers for section in answer.sections]
    study = Study(lab.settings, "averaging", lab.source)
    return conclusion, str(study.write(conclusion, sections, results, lab.command("averaging")))


class Answer(NamedTuple):
    """What the study says of one log."""

    sentences: list[str]
    sections: list[Section]
    figures: JsonObject


def _answer(panel: Panel, runs: Mapping[Case, Sequence[AveragedRun]]) -> Answer:
    """Choose an average for each base on the earlier days of a log's second half, and report it on the last ones."""
    hours, log = panel.frame["hour"], panel.log.title
    days = reported_days(panel.log.source, (int(hours[-1]) + 1 - panel.first) // DAY_HOURS)
    earlier, last = (Comparison(panel, runs, mask) for mask in chosen_and_reported(hours, days).values())
    answer = Answer([], [], {})
    figures: dict[str, JsonObject] = {}
    for base in dict.fromkeys(case.base for case in runs):
        title = f"{log}, {base} base"
        cases = {case.module: case for case in runs if case.base == base}
        tried = {m: {c: earlier.gap((k, c), (k, RAW)) for c in COLUMNS if c != RAW} for m, k in cases.items()}
        best = choose(tried)
        gained = {m: last.gap((k, best), (k, RAW)) for m, k in cases.items()}
        values = {m: {c: last.values(k, c) for c in (RAW, best)} for m, k in cases.items()}
        order = {m: last.order(base, m, best) for m in cases if m != "none"}
        figures[base] = {"average": best, "tried": tried, "values": values, "gaps": gained, "modules": order}
        answer.sentences.append(_sentence(title, best, gained))
        answer.sections.append(_tried(f"{title}: choosing an average", tried, best))
        answer.sections.append(_reported(f"{title}: the last days", values, gained))
        if order:
            answer.sections.append(_order(f"{title}: the time modules", order))
    best, slower, default = figures[DEFAULT]["average"], (Case(SLOWER, "none"), RAW), Case(DEFAULT, "none")
    rate = {
        f"{SLOWER}, less the default": last.gap(slower, (default, RAW)),
        f"half-life {best}, less {SLOWER}": last.gap((default, best), slower),
    }
    answer.sections.append(_rate(f"{log}: an average or slower steps", rate))
    answer.figures.update(as_json({"days": days, "bases": figures, "rate": rate}))
    return answer


def choose(tried: Gaps) -> str:
    """The average that serves all time modules best by ``RULE``; the highest in AUC where none keeps session AUC."""
    averages = list(next(iter(tried.values())))
    kept = [a for a in averages if not any((-of[a]["session_auc"]).above for of in tried.values())]
    return max(kept or averages, key=lambda a: float(np.mean([of[a]["auc"].value for of in tried.values()])))


Scored: TypeAlias = tuple[Case, str]
"""A ranker, and the average that scores it."""


class Comparison:
    """Metrics of all rankers by all averages on some samples of a log.

    Args:
        panel: has the log.
        runs: of each ranker one for each seed.
        among: mask over the log's samples.
    """

    def __init__(self, panel: Panel, runs: Mapping[Case, Sequence[AveragedRun]], among: np.ndarray) -> None:
        self.panel, self.runs, self.among = panel, runs, among
        self._estimates: dict[tuple[Scored, str], list[Estimate]] = {}

    def estimates(self, scored: Scored, metric: str) -> list[Estimate]:
        """A metric, of each seed."""
        if (scored, metric) not in self._estimates:
            case, column = scored
            each = [self.panel.predictions(r, self.among, COLUMNS.index(column)) for r in self.runs[case]]
            self._estimates |= {(scored, m): [METRICS[m](p) for p in each] for m in COMPARED}
        return self._estimates[scored, metric]

    def values(self, case: Case, column: str) -> dict[str, Figure]:
        """Metrics of a ranker by one average."""
        return {m: over_seeds(self.estimates((case, column), m)) for m in COMPARED}

    def gap(self, scored: Scored, than: Scored) -> dict[str, Figure]:
        """Metrics of one less those of another, paired by seed."""
        return {m: over_seeds(self._differences(scored, than, m)) for m in COMPARED}

    def order(self, base: str, module: str, column: str) -> dict[str, dict[str, Figure]]:
        """A time module's metrics less those of none, by the weights as they are and by an average, and how far the two differ."""
        case, none = Case(base, module), Case(base, "none")
        gains = {m: [self._differences((case, c), (none, c), m) for c in (RAW, column)] for m in COMPARED}
        return {
            RAW: {m: over_seeds(raw) for m, (raw, _) in gains.items()},
            AVERAGED: {m: over_seeds(averaged) for m, (_, averaged) in gains.items()},
            DIFFERENCE: {m: over_seeds([b - a for a, b in zip(*of, strict=True)]) for m, of in gains.items()},
        }

    def _differences(self, scored: Scored, than: Scored, metric: str) -> list[Estimate]:
        pairs = zip(self.estimates(scored, metric), self.estimates(than, metric), strict=True)
        return [ours - theirs for ours, theirs in pairs]


def _tried(title: str, tried: Gaps, best: str) -> Section:
    rows = tuple(
        (words(module), f"{average} (chosen)" if average == best else average, *(of[m].signed for m in CHOSEN_BY))
        for module, by_average in tried.items()
        for average, of in by_average.items()
    )
    return Section(title, TEXT + RULE, ("module", "half-life", *_titles(CHOSEN_BY)), rows)


def _reported(title: str, values: Gaps, gained: Mapping[str, Mapping[str, Figure]]) -> Section:
    rows = tuple(
        (
            words(module),
            average,
            *(of[m].text for m in COMPARED),
            *(gained[module][m].signed if average != RAW else "" for m in COMPARED),
        )
        for module, by_average in values.items()
        for average, of in by_average.items()
    )
    columns = ("module", "weights", *TITLES, *(f"{t}, less that of the weights {RAW}" for t in TITLES))
    return Section(title, TEXT, columns, rows)


def _order(title: str, order: Gaps) -> Section:
    rows = tuple(
        (words(module), name, *(of[m].signed for m in COMPARED))
        for module, by_name in order.items()
        for name, of in by_name.items()
    )
    return Section(title, "Metrics less those of none, on the last days.", ("module", "weights", *TITLES), rows)


def _rate(title: str, rate: Mapping[str, Mapping[str, Figure]]) -> Section:
    rows = tuple((name, *(of[m].signed for m in COMPARED)) for name, of in rate.items())
    return Section(title, "Time module none, on the last days.", ("", *TITLES), rows)


def _titles(metrics: Sequence[str]) -> tuple[str, ...]:
    return tuple(title for metric, title in zip(COMPARED, TITLES, strict=True) if metric in metrics)


def _sentence(title: str, average: str, gained: Mapping[str, Mapping[str, Figure]]) -> str:
    told = [
        f"{words(module)}: AUC {of['auc'].direction} ({of['auc'].signed}), log-loss {of['logloss'].direction} "
        f"({of['logloss'].signed}), session AUC {of['session_auc'].direction} ({of['session_auc'].signed})"
        for module, of in gained.items()
    ]
    return f"{title}, half-life {average}; {'; '.join(told)}."

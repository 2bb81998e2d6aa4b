"""Does it pay to serve parameters that were trained on the running hour's samples, as the lane between two hours can do?

The hourly chain is what it always is: each hour's samples are scored by the state of the hour before, then trained on, whole.
Beside it a copy of that state learns from what has happened in the hour so far, and scores what comes next. The copy is
dropped at the end of the hour.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from core.documents import JsonObject
from core.hours import Hour
from core.page_template import words
from evaluation.metrics import METRICS
from evaluation.predictions import Predictions
from studies.lab import Lab
from studies.log import Log, evaluated_from, hours_of
from studies.paired import Figure, Panel, as_json, over_seeds
from studies.replay import Learner, PastRankers, Run, progressive_scores
from studies.study import Section, Study
from studies.tables import BASE
from training.batch import HourKeys

VARIANTS = ("none", "hour_embedding", "gaussian_clock", "matched_clock")
MINUTE_US = 60_000_000
LATE_MINUTE = 40
"""From this minute on an hour's samples are late in it: parameters of the hour before are old by then."""
Way = Literal["new", "again", "batches"]


@dataclass(frozen=True)
class Pace:
    """How the copy learns within an hour.

    Attributes:
        minutes: between two steps.
        way: ``new``: it learns from what came since the last step; ``again``: from the hour so far, from the state of the hour
            before on; ``batches``: from what came, whenever it fills a batch of the ranker's size.
    """

    minutes: int
    way: Way

    @property
    def title(self) -> str:
        """Name for people."""
        every = f"every {self.minutes} minutes" if self.minutes > 1 else "every minute"
        return {"new": every, "again": f"{every}, the hour again", "batches": f"{every}, whole batches"}[self.way]


PACES = (Pace(10, "new"), Pace(1, "new"), Pace(1, "again"), Pace(1, "batches"))
FASTEST, OF_THE_LANE = Pace(1, "new"), Pace(1, "batches")
HOURLY = "the hour before"
NOON, DAY = 12, 24
OLD = tuple((name, age) for name in (HOURLY, FASTEST.title) for age in (NOON, DAY))
"""States at the end of an hour so many hours ago: the chain's, and the copy's that is dropped."""
STALE_LEARNING = f"{DAY} hours before, and the hour {OF_THE_LANE.title}"
"""A version that promotion left behind, alone, and with a copy of it that learns from the running hour only."""
COLUMNS: tuple[str | tuple[str, int], ...] = (HOURLY, *(pace.title for pace in PACES), STALE_LEARNING, *OLD)
"""What scores each evaluated sample."""
COMPARED = {"auc": "AUC", "logloss": "log-loss", "uauc": "UAUC"}
TEXT = (
    f"Every ranker is trained by the hour. Its samples are scored by the state of {HOURLY}, or by a copy of it that learns within "
    "the hour, from features of the hour's start; every sample is scored before anything is trained on it. A sample's outcome counts as "
    "known at once."
)


@dataclass(frozen=True)
class CopyRun:
    """A ranker whose copies learn within the hour; the time before the evaluated one is only trained on."""

    run: Run

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.run.title}, parameters minutes old"

    def identity(self, log: Log) -> list[str]:
        """What the scores depend on besides the samples."""
        return [*self.run.identity(log), "parameters", *map(str, COLUMNS)]

    def score(self, log: Log) -> np.ndarray:
        """Scores of every sample by each of ``COLUMNS``, shape (samples, columns); equal ones before the evaluated time."""
        moments = Moments(log)
        past = {HOURLY: PastRankers(), FASTEST.title: PastRankers()}

        def scores(learner: Learner, hour: Hour, keys: HourKeys) -> np.ndarray:
            past[HOURLY].keep(learner)
            by_hour = learner.scores(keys)
            if hour.number < moments.first - DAY:
                return np.repeat(by_hour[:, None], len(COLUMNS), axis=1)
            columns, minutes = {HOURLY: by_hour}, moments.minutes(hour)
            if hour.number < moments.first:  # scored by nobody, but what the copy learns is asked for a day later
                past[FASTEST.title].keep(learned_within(learner, hour, keys, minutes, FASTEST)[1])
                return np.repeat(by_hour[:, None], len(COLUMNS), axis=1)
            for pace in PACES:
                columns[pace.title], copy = learned_within(learner, hour, keys, minutes, pace)
                if pace == FASTEST:
                    past[pace.title].keep(copy)
            stale = past[HOURLY].as_of(hour - DAY) or learner
            columns[STALE_LEARNING], _ = learned_within(stale, hour, keys, minutes, OF_THE_LANE)
            aged = {(name, age): past[name].as_of(hour - age) or learner for name, age in OLD}
            return np.stack([*columns.values(), *(old.scores(keys) for old in aged.values())], axis=1)

        return progressive_scores(hours_of(log), Learner(self.run, log), scores)


class Moments:
    """When the samples of a log happened, on no wall clock.

    Args:
        log: whose samples.
    """

    def __init__(self, log: Log) -> None:
        self.log, self.samples = log, log.samples

    @cached_property
    def first(self) -> int:
        """Number of the first evaluated hour."""
        return evaluated_from(self.log.source, np.array([hour.number for hour, _ in hours_of(self.log)]))

    def minutes(self, hour: Hour) -> np.ndarray:
        """Minute of the hour of each of its samples, ascending, shape (samples,)."""
        moments = self.samples.read(hour).tables.samples["timestamp"].cast(pa.timestamp("us", "UTC"))
        return moments.cast(pa.int64()).to_numpy() // MINUTE_US % 60


def learned_within(
    learner: Learner, hour: Hour, keys: HourKeys, minutes: np.ndarray, pace: Pace
) -> tuple[np.ndarray, Learner]:
    """Let a copy of a ranker learn within an hour.

    Args:
        learner: as it is at the hour's start; it is left as it is.
        hour: the hour.
        keys: its samples in time order.
        minutes: of the hour, of each sample, ascending.
        pace: how the copy learns.

    Returns:
        Each sample's score by the copy as it was when the step began in which the sample happened, shape (samples,); and the
        copy at the end of the hour.
    """
    copy, scores, trained = learner.copy(), [], 0
    size = learner.ranker.config.batch_size
    for start, end in _steps(minutes, pace.minutes):
        scores.append(copy.scores(keys.piece(start, end)))
        until = end - (end - trained) % size if pace.way == "batches" else end
        if pace.way == "again":
            copy, trained = learner.copy(), 0
        if until > trained:
            copy.train(keys.piece(trained, until), hour, piece=True)
            trained = until
    return np.concatenate(scores), copy


def _steps(minutes: np.ndarray, width: int) -> Iterator[tuple[int, int]]:
    """Begin and end of the samples of each step of an hour in which there are any."""
    edges = np.searchsorted(minutes, np.arange(0, 60 + width, width))
    return ((int(a), int(b)) for a, b in itertools.pairwise(edges) if b > a)


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    logs = lab.logs()
    runs = {v: [CopyRun(Run(v, seed)) for seed in lab.seed_numbers] for v in VARIANTS}
    lab.run((log, r) for log in logs for runs_of in runs.values() for r in runs_of)
    figures: dict[str, JsonObject] = {}
    sections, sentences = [], []
    for log in logs:
        panel = ColumnPanel(lab, log)
        gaps = {v: {p.title: panel.gaps(runs_of, p.title) for p in PACES} for v, runs_of in runs.items()}
        late = {v: {p.title: panel.gaps(runs_of, p.title, panel.late) for p in PACES} for v, runs_of in runs.items()}
        values = {v: {c: panel.values(runs_of, c) for c in (HOURLY, *gaps[v])} for v, runs_of in runs.items()}
        stale = {v: panel.gaps(runs_of, STALE_LEARNING, than=(HOURLY, DAY)) for v, runs_of in runs.items()}
        more = {v: panel.more_than(runs["none"], runs_of) for v, runs_of in runs.items() if v != "none"}
        bent = {
            v: {name: panel.swing(runs_of, name) for name in (HOURLY, FASTEST.title)} for v, runs_of in runs.items()
        }
        figures[log.title] = as_json(
            {"values": values, "gaps": gaps, "late": late, "a day old": stale, "more than none": more, "swing": bent}
        )
        sentences += [_sentence(log.title, variant, gaps[variant]) for variant in runs]
        sentences.append(_sentence_on_hours(log.title, more, bent))
        sections += [
            Section(log.title, TEXT, *_table(values, gaps)),
            Section(
                f"{log.title}, minutes {LATE_MINUTE} to 59", "Differences on the samples late in each hour.",
                ("module", "parameters", *COMPARED.values()),
                tuple((words(v), name, *(f[m].signed for m in COMPARED)) for v, by in late.items() for name, f in by.items()),
            ),
            Section(
                f"{log.title}, a version that is a day old", f"The state of {STALE_LEARNING}, less that state by itself: what "
                "the running hour alone brings to a version that promotion left behind.",
                ("module", *COMPARED.values()),
                tuple((words(v), *(f[m].signed for m in COMPARED)) for v, f in stale.items()),
            ),
            Section(
                f"{log.title}, twelve hours later",
                "AUC of the state a day after the end of its last hour, less that of the state twelve hours after it: above 0 where a "
                f"ranker is bent to the hour that it was last trained on. The copy's is of one that learned {FASTEST.title}.",
                ("module", f"the chain ({HOURLY})", "the copy"),
                tuple((words(v), *(figure.signed for figure in by.values())) for v, by in bent.items()),
            ),
        ]  # fmt: skip
    conclusion = " ".join(sentences)
    page = Study(lab.settings, "parameters", lab.source).write(
        conclusion, sections, {"seeds": lab.seed_numbers, "logs": figures}, lab.command("parameters")
    )
    return conclusion, str(page)


class ColumnPanel(Panel):
    """A panel of runs that score every sample by each of ``COLUMNS``."""

    @cached_property
    def late(self) -> np.ndarray:
        """Mask of the log's evaluated samples that happened late in their hour."""
        moments = Moments(self.log)
        return np.concatenate(
            [
                moments.minutes(hour) >= LATE_MINUTE if hour.number >= self.first else np.zeros(len(keys), dtype=bool)
                for hour, keys in hours_of(self.log)
            ]
        )

    def values(self, runs: Sequence[CopyRun], column: str) -> dict[str, Figure]:
        """Metrics of the scores of a column."""
        return {m: self.value(runs, m, column=COLUMNS.index(column)) for m in COMPARED}

    def gaps(
        self,
        runs: Sequence[CopyRun],
        column: str,
        among: np.ndarray | None = None,
        than: str | tuple[str, int] = HOURLY,
    ) -> dict[str, Figure]:
        """Metrics of a column's scores less those of another's, on the same samples; default: the state of the hour before."""
        pairs = [self._two(run, column, than, among=among) for run in runs]
        return {m: over_seeds([METRICS[m](a) - METRICS[m](b) for a, b in pairs]) for m in COMPARED}

    def more_than(self, base: Sequence[CopyRun], runs: Sequence[CopyRun]) -> Figure:
        """By how much more ``runs`` gain in AUC from the lane's parameters than ``base``, paired by seed."""
        measure = METRICS["auc"]
        gains = [
            [measure(a) - measure(b) for a, b in (self._two(run, OF_THE_LANE.title, HOURLY) for run in of)]
            for of in (runs, base)
        ]
        return over_seeds([ours - theirs for ours, theirs in zip(*gains, strict=True)])

    def swing(self, runs: Sequence[CopyRun], name: str) -> Figure:
        """AUC a day after a state's last hour less AUC twelve hours after it."""
        measure = METRICS["auc"]
        pairs = (self._two(run, (name, DAY), (name, NOON)) for run in runs)
        return over_seeds([measure(day) - measure(noon) for day, noon in pairs])

    def _two(self, run: CopyRun, *columns: str | tuple[str, int], among: np.ndarray | None = None) -> list[Predictions]:
        return [self.predictions(run, among, COLUMNS.index(column)) for column in columns]


Differences = Mapping[str, Mapping[str, Mapping[str, Figure]]]
"""Time module → column → metric → figure."""


def _table(values: Differences, gaps: Differences) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    columns = ("module", "parameters", *COMPARED.values(), *(f"{t}, less that of {HOURLY}" for t in COMPARED.values()))
    rows = tuple(
        (
            words(variant), name, *(metrics[m].text for m in COMPARED),
            *(gaps[variant][name][m].signed if name in gaps[variant] else BASE for m in COMPARED),
        )
        for variant, by_name in values.items()
        for name, metrics in by_name.items()
    )  # fmt: skip
    return columns, rows


def _sentence(title: str, variant: str, gaps: Mapping[str, Mapping[str, Figure]]) -> str:
    told = [
        f"{name}: AUC {f['auc'].direction} ({f['auc'].signed}), log-loss {f['logloss'].direction} ({f['logloss'].signed})"
        for name, f in gaps.items()
        if name in {p.title for p in PACES if p.way != "again"}
    ]
    return f"{title}, {words(variant)}, parameters trained {'; '.join(told)}."


def _sentence_on_hours(title: str, more: Mapping[str, Figure], bent: Mapping[str, Mapping[str, Figure]]) -> str:
    gained, by = more["hour_embedding"], bent["hour_embedding"]
    return (
        f"{title}: the hour embedding's gain in AUC {OF_THE_LANE.title} less that of none is {gained.signed}; a day old less twelve "
        f"hours old it is {by[HOURLY].signed} by the chain and {by[FASTEST.title].signed} by its copy."
    )

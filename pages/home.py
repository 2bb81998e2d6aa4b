"""What the first page says of a source: whether it is fresh, what needs a person, what changed on its last day.

All of it is read from files of the workspace: the page is right while MLflow and Airflow are away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ab_analysis.changes import read_changes
from ab_analysis.experiment import Experiment, find_experiments, load_experiment
from ab_analysis.report_file import ReportFile, read_report
from core.documents import one_line
from core.errors import ConfigError
from core.files import read_json
from core.hours import DAY_HOURS, Hour
from core.page_template import percent, words
from core.settings import Settings
from events.partition import Manifest
from events.store import EventStore, missing_hours
from feature_repo.clock import ClockState
from model_registry.registry import BY_PLATFORM, CANDIDATE, CHAMPION, Move, read_moves
from model_registry.store import moves_file

HOURLY_MAY_LAG = 1
"""Hours that what follows every hour may be behind the events; ``LIVE_MAY_LAG``: the events behind the wall clock."""
LIVE_MAY_LAG = 2
DAILY_MAY_LAG = 2 * DAY_HOURS
DECISIONS = 60
"""Decisions that the first page knows: more than a day has."""
CHANGED_HOURS = 24
"""Hours by the wall clock for which a person's change of an experiment is told."""
ASKING = frozenset({"ship", "stop", "person", "no_conclusion"})
"""Verdicts of a report on which a person has to act."""
ENDINGS_ASKED = 30 * DAY_HOURS
"""Hours after an experiment's end for which the first page asks for a conclusion."""
MANY_REJECTED = 0.01
"""Share of a day's rows in quarantine that a person should look at."""


@dataclass(frozen=True)
class Freshness:
    """How far something is.

    Attributes:
        what: it is.
        until: hour up to which it holds, exclusive; None where there is none yet.
        behind: hours that it lacks of the events, or the events of now.
        allowed: hours that are no reason to worry; None: any number.
        link: to its page.
    """

    what: str
    until: Hour | None
    behind: int | None
    allowed: int | None
    link: str = ""

    @property
    def is_late(self) -> bool:
        return self.allowed is not None and self.behind is not None and self.behind > self.allowed


@dataclass(frozen=True)
class Notice:
    """Something to know: what it is about, a sentence, and the page that says more."""

    subject: str
    text: str
    link: str = ""


@dataclass(frozen=True)
class DecisionFile:
    """A gate decision as its file tells it, in short.

    Attributes:
        hour: key of the hour up to which was compared.
        candidate: version and variant, in words.
        version: of the candidate.
        link: to its page, from the first one.
    """

    hour: Hour
    verdict: str
    reason: str
    candidate: str
    version: str
    link: str

    @classmethod
    def read(cls, path: Path) -> DecisionFile:
        """A decision from its JSON below ``reports/gate``."""
        content = read_json(path)
        version, variant = content["candidate"]["version"], content["candidate"]["variant"]
        name = f"{variant} (version {version})"
        return cls(
            Hour.parse(path.stem), content["verdict"], content["reason"], name, version, f"gate/{path.stem}.html"
        )


@dataclass(frozen=True)
class Home:
    """The first page.

    Attributes:
        end: end of the newest hour of events; None before the first.
        freshness: a row for each stage.
        needs: what a person has to look at.
        changes: what happened on the last day of the log.
    """

    end: Hour | None
    freshness: list[Freshness]
    needs: list[Notice]
    changes: list[Notice]


def look(settings: Settings, now: Hour) -> Home:
    """Look at a workspace.

    Args:
        settings: of the workspace.
        now: the running hour, which counts only where the source is live.
    """
    store = EventStore(settings.events_dir)
    hours = store.hours()
    if not hours:
        return Home(None, [], [Notice("events", "none yet: ingest a log, or run 'clock demo'")], [])
    end = hours[-1] + 1
    moves = read_moves(moves_file(settings))
    decisions = read_decisions(settings.reports_dir)
    reports = {
        folder.name: read for folder in sorted((settings.reports_dir / "ab").glob("*/")) if (read := _reports(folder))
    }
    experiments = dict(_experiments(settings))
    freshness = list(_freshness(settings, end, moves, decisions, reports, now))
    first = Hour.of_day((end - 1).day)
    today = [store.manifest(hour) for hour in hours if hour >= first]
    needs = [
        *_late(freshness), *_gaps(hours), *_quarantined(today, MANY_REJECTED), *_waiting(decisions, moves), *_wrong(experiments),
        *_experiments_that_ask(experiments, reports, end),
    ]  # fmt: skip
    before = [store.manifest(hour - DAY_HOURS) for hour in hours if hour >= first and store.has(hour - DAY_HOURS)]
    changes = [
        *_events_of_day(today, before), *_quarantined(today), *_moves_of_day(moves, first), *_decisions_of_day(decisions, first),
        *_changed_experiments(settings, experiments, now), *_verdicts_of_day(reports, first), *_drift_of_day(settings.reports_dir, first),
    ]  # fmt: skip
    return Home(end, freshness, needs, changes)


def read_decisions(reports: Path) -> list[DecisionFile]:
    """The gate's last decisions, the newest first: a log of years has thousands."""
    paths = sorted((reports / "gate").glob("*.json"), reverse=True)[:DECISIONS]
    return [DecisionFile.read(path) for path in paths]


def _reports(folder: Path) -> list[ReportFile]:
    """The last two reports of an experiment by their hours, the newest last."""
    return [read_report(path) for path in sorted(folder.glob("[0-9]*.json"))[-2:]]


def _experiments(settings: Settings) -> Iterator[tuple[str, Experiment | ConfigError]]:
    """What each experiment's file says, or what is wrong with it."""
    for name, path in find_experiments(settings.experiments_dir).items():
        try:
            yield name, load_experiment(path)
        except ConfigError as error:
            yield name, error


def _freshness(
    settings: Settings,
    end: Hour,
    moves: Sequence[Move],
    decisions: Sequence[DecisionFile],
    reports: dict[str, list[ReportFile]],
    now: Hour,
) -> Iterator[Freshness]:
    def row(what: str, until: Hour | None, allowed: int | None, link: str = "") -> Freshness:
        return Freshness(what, until, None if until is None else max(end.number - until.number, 0), allowed, link)

    yield Freshness(
        "events", end, max(now.number - end.number, 0) if settings.live else 0, LIVE_MAY_LAG if settings.live else None
    )
    yield row(
        "clocks", ClockState(settings, EventStore(settings.events_dir)).as_of, HOURLY_MAY_LAG, "clocks/index.html"
    )
    trained = [Hour.parse(move.hour) + 1 for move in moves if move.alias == CANDIDATE and move.hour]
    yield row(
        f"candidate ({words(settings.candidate_variant)})",
        trained[-1] if trained else None,
        HOURLY_MAY_LAG,
        "model.html",
    )
    promoted = [Hour.parse(move.hour) + 1 for move in moves if move.alias == CHAMPION and move.hour]
    yield row("champion's promotion", promoted[-1] if promoted else None, None, "model.html")
    yield row(
        "gate", decisions[0].hour + 1 if decisions else None, HOURLY_MAY_LAG, decisions[0].link if decisions else ""
    )
    drawn = settings.reports_dir / "clocks" / "everyone.json"
    yield row(
        "pages of clocks",
        Hour.parse(read_json(drawn)["as_of"]) if drawn.exists() else None,
        DAILY_MAY_LAG,
        "clocks/index.html",
    )
    drift = sorted((settings.reports_dir / "drift").glob("*.json"))
    reported = Hour.parse(f"{drift[-1].stem}T00") + DAY_HOURS if drift else None
    yield row(
        "drift",
        min(reported, end) if reported else None,
        DAILY_MAY_LAG,
        f"drift/{drift[-1].stem}.html" if drift else "",
    )
    newest = [Hour.parse(each[-1].until) for each in reports.values()]
    yield row(
        "experiments", min(max(newest), end) if newest else None, DAILY_MAY_LAG if newest else None, "ab/index.html"
    )


def _late(freshness: Sequence[Freshness]) -> Iterator[Notice]:
    for row in freshness:
        if row.is_late:
            yield Notice(row.what, f"{row.behind:,} hours behind", row.link)


def _gaps(hours: Sequence[Hour]) -> Iterator[Notice]:
    if missing := missing_hours(hours):
        yield Notice("events", f"{count(len(missing), 'hour')} missing, the first {missing[0]}: nothing passes a gap")


def _waiting(decisions: Sequence[DecisionFile], moves: Sequence[Move]) -> Iterator[Notice]:
    """The newest decision where it waits for a person, or says that comparing is broken."""
    if not decisions:
        return
    newest = decisions[0]
    champions = [move.version for move in moves if move.alias == CHAMPION]
    if newest.verdict == "needs_person" and newest.version not in champions[-1:]:
        text = f"approve or reject {newest.candidate} under Airflow's required actions. {newest.reason}"
        yield Notice("approval", text, newest.link)
    if newest.verdict == "refuse":
        yield Notice("gate", f"refuses {newest.candidate}. {newest.reason}", newest.link)


def _wrong(experiments: Mapping[str, Experiment | ConfigError]) -> Iterator[Notice]:
    for name, experiment in experiments.items():
        if isinstance(experiment, ConfigError):
            yield Notice(name, f"its file is wrong: {one_line(str(experiment))}", "ab/index.html")


def _experiments_that_ask(
    experiments: Mapping[str, Experiment | ConfigError], reports: dict[str, list[ReportFile]], end: Hour
) -> Iterator[Notice]:
    """Experiments to stop, to look into, or to conclude; those with a conclusion, or whose file is gone, ask for nothing."""
    for name, each in reports.items():
        newest, link, experiment = each[-1].decision, f"ab/{name}/{each[-1].until}.html", experiments.get(name)
        if experiment is None or (isinstance(experiment, Experiment) and experiment.conclusion is not None):
            continue
        last = experiment.end_hour if isinstance(experiment, Experiment) and experiment.state(end) == "ended" else None
        if last is None:
            if newest.verdict in ASKING:
                yield Notice(name, newest.sentence, link)
        elif end.number - last.number <= ENDINGS_ASKED:
            yield Notice(name, f"has ended and waits for a conclusion. {newest.sentence}", link)


def _changed_experiments(
    settings: Settings, experiments: Mapping[str, Experiment | ConfigError], now: Hour
) -> Iterator[Notice]:
    """What people did to experiments in the last hours, by the wall clock."""
    since = (now + 1 - CHANGED_HOURS).start
    for name in experiments:
        for change in read_changes(settings.experiments_dir, name):
            if datetime.fromisoformat(change.at) >= since:
                yield Notice(name, f"{change.action} by {change.who}: {change.why}", "ab/index.html")


def _events_of_day(today: Sequence[Manifest], before: Sequence[Manifest]) -> Iterator[Notice]:
    rows, rows_before = sum(m.rows for m in today), sum(m.rows for m in before)
    compared = len(before) == len(today) and rows_before
    change = f", {percent(rows / rows_before - 1, 1)} against the same hours of the day before" if compared else ""
    yield Notice("events", f"{rows:,} in {count(len(today), 'hour')}{change}")


def _quarantined(today: Sequence[Manifest], least: float = 0.0) -> Iterator[Notice]:
    """Rows in quarantine, where they are at least the share ``least`` of all."""
    rejected: Counter[str] = Counter()
    for manifest in today:
        rejected.update(manifest.rejected)
    if rejected and rejected.total() >= least * (rejected.total() + sum(m.rows for m in today)):
        reasons = ", ".join(f"{words(reason)} {rows:,}" for reason, rows in rejected.most_common())
        yield Notice("quarantine", f"{count(rejected.total(), 'row')}: {reasons}")


def _moves_of_day(moves: Sequence[Move], first: Hour) -> Iterator[Notice]:
    for move in moves:
        if move.alias == CHAMPION and move.hour and Hour.parse(move.hour) >= first:
            who = "" if move.who == BY_PLATFORM else f" ({move.who})"
            yield Notice(f"champion {move.hour[-3:]}", f"version {move.version}{who}. {move.reason}", "model.html")


def _decisions_of_day(decisions: Sequence[DecisionFile], first: Hour) -> Iterator[Notice]:
    made = [decision for decision in decisions if decision.hour >= first]
    if made:
        counts = Counter(decision.verdict for decision in made)
        verdicts = ", ".join(f"{words(verdict)} {times}" for verdict, times in counts.most_common())
        yield Notice("gate", f"{count(len(made), 'decision')}: {verdicts}. Last: {made[0].reason}", made[0].link)


def _verdicts_of_day(reports: dict[str, list[ReportFile]], first: Hour) -> Iterator[Notice]:
    """Experiments reported on the day whose verdict is new."""
    for name, (*earlier, newest) in reports.items():
        before = earlier[-1].decision.verdict if earlier else None
        if Hour.parse(newest.until) > first and newest.decision.verdict != before:
            was = f" (before: {words(before)})" if before else ""
            yield Notice(name, f"{newest.decision.sentence}{was}", f"ab/{name}/{newest.until}.html")


def _drift_of_day(reports: Path, first: Hour) -> Iterator[Notice]:
    path = reports / "drift" / f"{first.day}.json"
    if path.exists():
        drift = read_json(path)
        names = f": {', '.join(map(words, drift['drifted']))}" if drift["drifted"] else ""
        text = f"{len(drift['drifted'])} of {count(drift['columns'], 'column')}{names}"
        yield Notice("drift", text, f"drift/{first.day}.html")


def count(number: int, noun: str) -> str:
    """``1 hour``, ``2,000 hours``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

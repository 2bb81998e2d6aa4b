"""Does it pay to count in what users did minutes ago, as the lane between two hours does?

Rankers are trained as always, on features of the hour's start; the evaluated samples are scored on these, and on features that
hold a few minutes before each of them. A third kind of ranker is also trained on the newer features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import duck
from core.documents import JsonObject
from core.duck_engine import DuckEngine
from core.errors import ConfigError
from core.files import replaced_directory, write_parquet
from core.hours import Hour, hour_range
from core.page_template import words
from evaluation.predictions import Predictions
from feature_repo.behavior_state import select_behaviors
from feature_repo.executor import Executor
from feature_repo.query_builder import PAIR, SumTables
from studies.lab import Lab
from studies.log import Log, evaluated_from, hours_of
from studies.paired import Figure, Panel, as_json
from studies.replay import Learner, Run, progressive_scores
from studies.study import Section, Study
from studies.tables import BASE
from training.batch import HourKeys, SampleTables
from training.ranker import Ranker
from training.tensors import hour_keys

VARIANTS = ("none", "gaussian_clock", "matched_clock")
MINUTE_US = 60_000_000
MINUTES = 5
"""Features are brought up to date so often."""
PARTS = range(1, 60 // MINUTES)
"""The parts of an hour before which something of it has happened."""
TILES, WINDOWS = SumTables("tiles"), SumTables("windows")
FILES = ("slots", "profiles", "history")
JUDGED_BY = {"auc": "AUC", "session_auc": f"AUC within a user's {MINUTES} minutes"}
TEXT = f"""Features are brought up to date every {MINUTES} minutes. AUC compares all samples. The second is of samples of one user within \
{MINUTES} minutes, which all have the same features of their user: it tells whether the candidates of a moment are ordered better."""
Use = Literal["served", "trained"]
PLAIN, SERVED, TRAINED = "as of the hour", "served minutes old", "trained and served minutes old"


@dataclass(frozen=True)
class FreshRun:
    """A ranker that scores on features which are minutes old.

    Attributes:
        run: the ranker.
        use: ``served``: in the evaluated time only, and for scores; ``trained``: always, and in training too.
    """

    run: Run
    use: Use

    @property
    def title(self) -> str:
        """Name for people."""
        return f"{self.run.title}, features minutes old ({self.use})"

    def identity(self, log: Log) -> list[str]:
        """What the scores depend on besides the samples."""
        return [*self.run.identity(log), "fresh", self.use, str(MINUTES)]

    def score(self, log: Log) -> np.ndarray:
        """Scores of every sample, made before the ranker is trained on it."""
        learner, fresh = Learner(self.run, log), FreshTables(log)
        if self.use == "trained":
            return progressive_scores(((hour, fresh.keys(hour, learner.ranker)) for hour, _ in hours_of(log)), learner)

        def served(learner: Learner, hour: Hour, plain: HourKeys) -> np.ndarray:
            return learner.scores(fresh.keys(hour, learner.ranker) if hour.number >= fresh.first else plain)

        return progressive_scores(hours_of(log), learner, served)


class FreshTables:
    """Features of a log's samples as they were at the begin of the part of the hour in which each sample happened.

    Args:
        log: whose samples they are of.
    """

    def __init__(self, log: Log) -> None:
        self.log, self.samples, self.settings = log, log.samples, log.settings
        self.events, self.facets = self.samples.events, self.samples.facets
        self.root = self.samples.root / f"fresh-{MINUTES}"

    @cached_property
    def first(self) -> int:
        """Number of the first evaluated hour."""
        return evaluated_from(self.log.source, np.array([hour.number for hour, _ in hours_of(self.log)]))

    def write(self, hours: list[Hour]) -> None:
        """Compute the features of hours that are not there yet."""
        with duck.connection(self.settings) as con:
            running = DuckEngine(con)
            for hour in hours:
                folder = self.root / hour.key
                if not folder.exists() and self.events.manifest(hour).rows:
                    tables = self._computed(running, hour)
                    with replaced_directory(folder) as target:
                        for name, table in zip(FILES, tables, strict=True):
                            write_parquet(target / f"{name}.parquet", table)

    def _computed(self, running: DuckEngine, hour: Hour) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Slots, counts of events and behaviors of an hour's users, with the number of the part of the hour before which they hold."""
        executor = Executor(running, self.settings, self.facets)
        build = executor.build
        begin = int(hour.start.timestamp())
        running.table("here", f"SELECT * FROM {running.files(self.events.event_files([hour]))}")
        if running.scalar("SELECT count(*) FROM here WHERE minute(timestamp) <> minute(local_time)"):
            raise ConfigError(
                "this study needs zones that are whole hours from UTC: a sample tells its local minute only"
            )
        window = self.events.event_files([*hour_range(hour - self.settings.window_hours, hour)])
        before = (
            f"SELECT * FROM {running.files(window)} WHERE user_id IN (SELECT user_id FROM here) UNION ALL BY NAME"
            if window
            else ""
        )
        # Every part of the hour is an hour of its own, after one of all that was before: so the query builder's windows apply.
        since = f"(epoch_us(timestamp) - {1_000_000 * begin})"
        at = f"CASE WHEN {since} < 0 THEN 0 ELSE 1 + {since} // {MINUTE_US * MINUTES} END"
        numbered = f"* REPLACE (make_timestamp(3600000000 * ({at})) AS timestamp)"
        executor.run(build.read("numbered", f"(SELECT {numbered} FROM ({before} SELECT * FROM here)) e"))
        running.table(
            "moments",
            f"""SELECT DISTINCT until AS as_of, user_id, slot FROM numbered
            JOIN range({PARTS.start + 1}, {PARTS.stop + 1}) r(until) ON hour BETWEEN 1 AND until - 1""",
        )
        by_part = (*PAIR, "hour")
        executor.run(
            build.dictionaries("numbered"),
            build.encode("encoded", "numbered", keys=by_part),
            build.sums(TILES, "encoded", by_part),
            build.windows(WINDOWS, TILES, "moments", PARTS.stop + 1),
        )
        slots = executor.arrow(build.clock_rows(WINDOWS, "moments", (*PAIR, "as_of"), "k.as_of"))
        profiles = running.arrow(
            f"""SELECT until - 1 AS part, user_id, count(*) AS events, count(*) FILTER (WHERE finish) AS finish FROM numbered
            JOIN range({PARTS.start + 1}, {PARTS.stop + 1}) r(until) ON hour BETWEEN 1 AND until - 1 GROUP BY until, user_id"""
        )
        history = []
        for number in PARTS:
            until = f"(SELECT * FROM here WHERE epoch_us(timestamp) < {1_000_000 * (begin + number * MINUTES * 60)})"
            rows = select_behaviors(running, until, self.settings)
            history.append(rows.append_column("part", pa.array(np.full(len(rows), number))))
        part_of = pc.subtract(slots["as_of"], 1)
        as_of = pa.array(np.full(len(slots), hour.number))
        slots = slots.drop_columns("as_of").append_column("as_of", as_of).append_column("part", part_of)
        return slots, profiles, pa.concat_tables(history)

    def keys(self, hour: Hour, ranker: Ranker) -> HourKeys:
        """An hour's samples in their order, each with the features of its part of the hour."""
        tables = self.samples.read(hour).tables
        local = tables.samples["local_time"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        part_of = local // MINUTE_US % 60 // MINUTES  # zones are whole hours from UTC: see write
        fresh = [pq.read_table(self.root / hour.key / f"{name}.parquet") for name in FILES]
        keys, order = [], []
        for part in np.unique(part_of):
            rows = np.flatnonzero(part_of == part)
            of_part = [table.filter(pc.equal(table["part"], int(part))) for table in fresh]
            keys.append(hour_keys(_newer(tables, rows, *of_part), ranker))
            order.append(rows)
        joined = HourKeys.joined(keys)
        return joined.take(np.argsort(np.concatenate(order), kind="stable"))


def _newer(
    tables: SampleTables, rows: np.ndarray, slots: pa.Table, profiles: pa.Table, history: pa.Table
) -> SampleTables:
    """Some samples of an hour, with newer rows of their users in the place of those of the hour's start."""
    samples = tables.samples.take(rows)
    users = pc.unique(samples["user_id"])
    slots, profiles, history = (t.filter(pc.is_in(t["user_id"], users)) for t in (slots, profiles, history))
    if not len(profiles):
        return tables._replace(samples=samples)
    return tables._replace(
        samples=samples, slots=_slots(tables.slots, slots), profiles=_profiles(tables.profiles, profiles),
        recent_behaviors=_history(tables.recent_behaviors, history),
    )  # fmt: skip


def _slots(old: pa.Table, new: pa.Table) -> pa.Table:
    pairs = [t["user_id"].to_numpy() * 1000 + t["slot"].to_numpy() for t in (old, new)]
    kept = old.filter(pa.array(~np.isin(pairs[0], pairs[1])))
    names = [name for name in old.column_names if name in new.column_names]
    return pa.concat_tables([kept.select(names), new.select(names)], promote_options="permissive")


def _profiles(old: pa.Table, new: pa.Table) -> pa.Table:
    names = ["user_id", "events", "finish"]
    both = pa.concat_tables([old.select(names), new.select(names)], promote_options="permissive")
    summed = both.group_by("user_id").aggregate([("events", "sum"), ("finish", "sum")])
    return summed.rename_columns({"events_sum": "events", "finish_sum": "finish"}).select(names)


def _history(old: pa.Table, new: pa.Table) -> pa.Table:
    """Histories with later behaviors behind them."""
    if not len(new):
        return old
    lists = {
        row["user_id"]: (row["items"], row["minutes"])
        for row in old.select(["user_id", "items", "minutes"]).to_pylist()
    }
    for user, item, minute in zip(*(new[n].to_pylist() for n in ("user_id", "items", "minutes")), strict=True):
        items, minutes = lists.get(user, ([], []))
        lists[user] = ([*items, item], [*minutes, minute])
    types = pa.list_(pa.int64())
    return pa.table(
        {
            "user_id": pa.array([*lists], pa.int64()),
            "items": pa.array([items for items, _ in lists.values()], types),
            "minutes": pa.array([minutes for _, minutes in lists.values()], types),
        }
    )


class MomentPanel(Panel):
    """A panel whose sessions are a user's samples of one part of an hour, which all have the same features of their user.

    Within a user's whole hour newer features cannot be judged: those of a sample hold the outcomes of the samples that it is
    compared with, so that what comes after a positive is compared with fewer positives than what came before it (Miller and
    Sanjurjo 2018, Econometrica 86(6)).
    """

    @cached_property
    def parts(self) -> np.ndarray:
        """Number of the part of the hour, counted since 1970, of every sample of the log."""
        numbers = [hour.number * (60 // MINUTES) + keys.minutes % 60 // MINUTES for hour, keys in hours_of(self.log)]
        return np.concatenate(numbers)

    def predictions_of(self, scores: np.ndarray, among: np.ndarray | None = None) -> Predictions:
        """Scores of all samples, shape (samples,), on the evaluated ones."""
        rows = self.evaluated if among is None else self.evaluated & among
        users, labels = (self.frame[name][rows] for name in ("user", "label"))
        return Predictions.of(users, labels, scores[rows], sessions=self.parts[rows])


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    logs = lab.logs()
    for log in logs:
        FreshTables(log).write([hour for hour, _ in hours_of(log)])
    uses: dict[str, Use | None] = {PLAIN: None, SERVED: "served", TRAINED: "trained"}
    plain = {v: [Run(v, seed) for seed in lab.seed_numbers] for v in VARIANTS}
    runs = {
        v: {name: [FreshRun(r, use) if use else r for r in plain[v]] for name, use in uses.items()} for v in VARIANTS
    }
    lab.run((log, r) for log in logs for by_use in runs.values() for runs_of in by_use.values() for r in runs_of)
    figures: dict[str, JsonObject] = {}
    sections, sentences = [], []
    for log in logs:
        panel, rows = MomentPanel(lab, log), []
        for variant, by_use in runs.items():
            values = {n: {m: panel.value(runs_of, m) for m in JUDGED_BY} for n, runs_of in by_use.items()}
            gaps = {
                n: {m: panel.gap(by_use[PLAIN], runs_of, m) for m in JUDGED_BY}
                for n, runs_of in by_use.items() if n != PLAIN
            }  # fmt: skip
            figures.setdefault(log.title, {})[variant] = {"values": as_json(values), "gaps": as_json(gaps)}
            sentences += [_sentence(log.title, variant, name, by_metric) for name, by_metric in gaps.items()]
            rows += [
                (words(variant), name, *(by_metric[m].text for m in JUDGED_BY),
                 *((gaps[name][m].signed if name in gaps else BASE) for m in JUDGED_BY))
                for name, by_metric in values.items()
            ]  # fmt: skip
        columns = (
            "module",
            "features",
            *JUDGED_BY.values(),
            *(f"{t}, less that of the hour's" for t in JUDGED_BY.values()),
        )
        sections.append(Section(log.title, TEXT, columns, tuple(rows)))
    conclusion = " ".join(sentences)
    page = Study(lab.settings, "freshness", lab.source).write(
        conclusion, sections, {"logs": figures}, lab.command("freshness")
    )
    return conclusion, str(page)


def _sentence(title: str, variant: str, name: str, gaps: Mapping[str, Figure]) -> str:
    told = [f"{JUDGED_BY[m]} {f.direction} ({f.signed})" for m, f in gaps.items()]
    return f"{title}, {words(variant)}, {name}: {', '.join(told)}."

"""The slots of a rebuild, some at a time: one pass after the other in a process, side by side in the tasks of a cluster.

A pass is computed by DuckDB in both. A cluster first brings the events of each pass to one task, in one shuffle; a slot that
has too many events for a pass is split by users there, and its sums over everybody are added up when all tasks are done.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core import duck
from core.duck_engine import DuckEngine
from core.files import temporary_directory
from core.hours import Hour
from core.settings import Settings
from core.spark import SparkEngine
from core.spark_exchange import TASK, exchange, pieces_of
from core.sql_engine import Engine, parquet_parts
from events.schema import BEHAVIORS
from events.store import EventStore
from feature_repo.computation import ClockComputation
from feature_repo.query_builder import PAIR, SumTables
from feature_repo.sql import columns, summed
from feature_repo.state import ClockStorage
from feature_repo.sums import Sums

PASS_EVENTS = 7_000_000
"""Events of a pass, about: bounds its memory."""
PASSES_A_CORE = 3
"""Passes that a cluster has at least for each of its cores, so that none waits long for the last."""
HOURS_BETWEEN, FEW_HOURS = 7, 100
"""Slots are counted in every so many hours, whose times of day are all there are; in all, where they are few."""
SLOT_SUMS, EVERYONE = SumTables("sum"), SumTables("everyone")
"""The tables of a pass, and of everybody in all of them."""


@dataclass(frozen=True)
class SlotPass:
    """Neighboring slots, or a share of the users of one.

    Attributes:
        number: tells its rows from those of other passes.
        slots: their numbers.
        share: users whose id leaves it when divided by ``shares``.
        shares: in how many passes the users of the slot are.
    """

    number: int
    slots: tuple[int, ...]
    share: int = 0
    shares: int = 1

    def has(self, slot: str, user: str) -> str:
        """SQL condition that an event is of this pass.

        >>> SlotPass(3, (7,), 1, 4).has("slot", "user_id")
        'slot IN (7) AND abs(user_id % 4) = 1'
        """
        of_users = f" AND abs({user} % {self.shares}) = {self.share}" if self.shares > 1 else ""
        return f"{slot} IN ({', '.join(map(str, self.slots))}){of_users}"


def slot_passes(slots: Sequence[int], loads: Mapping[int, int], most: int) -> list[SlotPass]:
    """Neighboring slots together while they have at most ``most`` events.

    >>> [each.slots for each in slot_passes(range(4), {1: 5, 2: 3, 3: 9}, 8)]
    [(0, 1, 2), (3,)]
    """
    groups: list[list[int]] = []
    load = 0
    for slot in slots:
        events = loads.get(slot, 0)
        if groups and load + events <= most:
            groups[-1].append(slot)
            load += events
        else:
            groups.append([slot])
            load = events
    return [SlotPass(number, tuple(group)) for number, group in enumerate(groups)]


def shared_passes(slots: Sequence[int], loads: Mapping[int, int], most: int) -> list[SlotPass]:
    """``slot_passes`` in which a slot of more than ``most`` events has several, each of a share of its users.

    >>> [(each.slots, each.share, each.shares) for each in shared_passes(range(3), {0: 5, 1: 20, 2: 4}, 10)]
    [((0,), 0, 1), ((1,), 0, 2), ((1,), 1, 2), ((2,), 0, 1)]
    """
    passes: list[SlotPass] = []
    for each in slot_passes(slots, loads, most):
        shares = max(
            -(-sum(loads.get(slot, 0) for slot in each.slots) // most), 1
        )  # only a slot by itself has more than ``most``
        passes += [SlotPass(len(passes) + n, each.slots, n, shares) for n in range(shares)]
    return passes


class SlotComputation(ClockComputation):
    """Computes passes from a view ``raw`` of their events, as ``ClockQueryBuilder.read`` gives them.

    Args:
        clock: where the clocks lie.
        running: has the view, and the dictionaries of its values.
        as_of: hour at whose start they shall hold.
    """

    def compute(self, each: SlotPass, root: Path, rows_folder: Path | None) -> None:
        """Write a pass.

        Args:
            each: the pass.
            root: in which the bases of its slots have their folders.
            rows_folder: for the clock rows; None: they are not wanted.
        """
        self.executor.run(
            self.build.encode("part", "raw", f"WHERE {each.has('r.slot', 'r.user_id')}"),
            self.build.sums(SLOT_SUMS, "part", PAIR),
            self.build.everyone(SLOT_SUMS),
        )
        self.write_slot_sums(SLOT_SUMS, each.slots, root)
        if rows_folder:
            users = SLOT_SUMS.of(self.build.parts(PAIR)[-1])
            rows = self.build.clock_rows(SLOT_SUMS, users, PAIR, str(self.as_of.number))
            self.engine.write(self.executor.prepare(rows), rows_folder)

    def rows_folder(self, each: SlotPass) -> Path:
        """Where the clock rows of a pass belong."""
        return self.clock.logs["clock_slots"].span(self.as_of, self.as_of, each.number)


@dataclass(frozen=True)
class PassWriter:
    """A task of an executor: computes the pass whose events it has.

    Attributes:
        settings: of the workspace.
        as_of: hour at whose start the clocks shall hold.
        passes: all of them, by number.
        root: folder in which each has one for what it writes: nobody reads it, so that a task that outlives its driver harms nothing.
        rows: whether clock rows are wanted.
    """

    settings: Settings
    as_of: Hour
    passes: Sequence[SlotPass]
    root: Path
    rows: bool

    def __call__(self, number: int, running: Engine) -> None:
        """Compute the pass whose events are the engine's table ``raw``."""
        self.compute(running, self.passes[number])

    def compute(self, running: Engine, each: SlotPass) -> None:
        """Write a pass from its events, which are the engine's table ``raw``."""
        clock = ClockStorage(self.settings, EventStore(self.settings.events_dir))
        computation, folder = SlotComputation(clock, running, self.as_of), self.root / str(each.number)
        computation.executor.run(computation.build.dictionaries("raw"))
        computation.compute(each, folder / "sums", folder / "rows" if self.rows else None)


class ExecutorPasses:
    """Lets the executors of a cluster compute all passes.

    Args:
        computation: of the driver; its engine is Spark, and has the view ``raw``.
        running: that engine.
        files: of the view's events, by hour.
        rows: whether clock rows are wanted.
    """

    def __init__(
        self, computation: SlotComputation, running: SparkEngine, files: Sequence[Path], *, rows: bool
    ) -> None:
        self.computation, self.engine, self.files, self.rows = computation, running, files, rows
        self.settings, self.build = computation.clock.settings, computation.build

    def run(self) -> None:
        """Write the sums of all slots to their folders, and the clock rows if they are wanted."""
        loads = self._loads()
        slots = range(self.settings.slots)
        most = min(PASS_EVENTS, -(-sum(loads.values()) // (self.engine.cores * PASSES_A_CORE)))
        passes = shared_passes(slots, loads, max(most, 1))
        storage = self.computation.clock.sums_folder
        storage.mkdir(parents=True, exist_ok=True)
        with temporary_directory("passes-", storage) as root:
            writer = PassWriter(self.settings, self.computation.as_of, passes, root, self.rows)
            exchange(self.engine, {"raw": self._reads(passes)}, len(passes), writer)
            written = {folder.name for folder in root.glob("*/sums/*")}
            if empty := [slot for slot in slots if self.computation.base_folder(str(slot)) not in written]:
                passes.append(SlotPass(len(passes), tuple(empty)))
                self._compute_empty(replace(writer, rows=False), passes[-1])
            self._take_over(passes, root, storage)

    def _reads(self, passes: Sequence[SlotPass]) -> list[str]:
        """Queries of the events, each of some files, with the number of the pass that an event is of."""
        cases = " ".join(f"WHEN {each.has('slot', 'user_id')} THEN {each.number}" for each in passes)
        names = columns(["slot", "user_id", *self.build.facets, *BEHAVIORS])
        with duck.connection(self.settings) as con:
            running = DuckEngine(con)
            build = SlotComputation(self.computation.clock, running, self.computation.as_of).build
            reads = [build.read("raw", running.files(piece)).sql for piece in pieces_of(self.engine, self.files)]
        return [f"SELECT CAST(CASE {cases} END AS INTEGER) AS {TASK}, {names} FROM ({read}) r" for read in reads]

    def _loads(self) -> dict[int, int]:
        """Events of each slot, about: counted in some of the hours."""
        step = HOURS_BETWEEN if len(self.files) > FEW_HOURS else 1
        some = self.files[::step]
        self.computation.executor.read_files("raw_some", some)
        counts = self.engine.rows("SELECT slot, count(*) FROM raw_some GROUP BY slot")
        return {int(slot): int(n) * len(self.files) // len(some) for slot, n in counts}

    def _compute_empty(self, writer: PassWriter, each: SlotPass) -> None:
        """Write the sums of slots without events, which no task is for."""
        with duck.connection(self.settings) as con:
            running = DuckEngine(con)
            SlotComputation(self.computation.clock, running, self.computation.as_of).executor.read_files("raw", [])
            writer.compute(running, each)

    def _take_over(self, passes: Sequence[SlotPass], root: Path, storage: Path) -> None:
        """Put the files of the passes where they belong, and add up what is of everybody."""
        for slot in range(self.settings.slots):
            shutil.rmtree(storage / self.computation.base_folder(str(slot)), ignore_errors=True)
        for each in passes:
            written = root / str(each.number)  # not there where a share has none of the slot's users
            if (rows := written / "rows").exists():
                target = self.computation.rows_folder(each)
                target.parent.mkdir(parents=True, exist_ok=True)
                rows.rename(target)
            for file in written.glob("sums/*/*/*.parquet"):
                target = storage / file.relative_to(written / "sums").parent
                target.mkdir(parents=True, exist_ok=True)
                file.rename(target / f"part-{each.share:05d}.parquet")
        split = {slot for each in passes if each.shares > 1 for slot in each.slots}
        with duck.connection(self.settings) as con:
            running = DuckEngine(con)
            for slot in sorted(split):
                for part in self.build.parts(("slot",), everyone=True):
                    folder = storage / self.computation.base_folder(str(slot)) / part.name
                    by, files = columns(part.keys), running.files(parquet_parts(folder))
                    sums = f"SELECT {by}, {summed(part.counts)} FROM {files} s GROUP BY {by}"
                    running.write(f"{sums} {running.sorted_by(by)}", folder)


def write_population(clock: ClockStorage, as_of: Hour, sums: Sums) -> None:
    """Write everybody's clock rows from the sums of the slots, which are few for everybody together.

    Args:
        clock: where the clocks lie.
        as_of: hour at whose start they hold.
        sums: as of then.
    """
    with duck.connection(clock.settings) as con:
        computation = ClockComputation(clock, DuckEngine(con), as_of)
        build, running = computation.build, computation.engine
        parts = build.parts(("slot",), everyone=True)
        stored = {part: f"({sums.rows(running, sums.slots, part.name, columns(part.columns))})" for part in parts}
        computation.executor.read_files("raw", [])
        texts = {part.facet: f"{rows} t" for part, rows in stored.items() if part.facet is not None}
        computation.executor.run(build.dictionaries("raw", texts))
        running.tables({EVERYONE.of(part): build.with_ids(rows, part) for part, rows in stored.items()})
        rows = build.clock_rows(EVERYONE, EVERYONE.of(parts[-1]), ("slot",), str(as_of.number), everyone=True)
        computation.write_rows("population_clock", as_of, 0, computation.executor.prepare(rows))

"""A user's clock at once: what happened in the running hour, before the hour is over."""

from __future__ import annotations

import pyarrow as pa

from core.engine import engine
from core.errors import DataError
from feature_repo.computation import ClockComputation, among
from feature_repo.online import encode_cells
from feature_repo.query_builder import PAIR, SumTables
from feature_repo.repository import CLOCK_PUSH, slot_feature
from feature_repo.retrieval import ClockFeatures
from feature_repo.sql import columns, summed

FRESH, NOW = SumTables("fresh"), SumTables("now")


def push_events(features: ClockFeatures, events: pa.Table) -> int:
    """Put the clocks of the users of these events online, the events counted in.

    Feast's push source writes their rows to the online store only; the hour's refresh writes the same slots
    again from the whole hour. Pushing the same events again changes nothing.

    Args:
        features: of the source.
        events: all events so far of the hour that is running, of any users, in the event schema.

    Returns:
        Slots that changed.

    Raises:
        DataError: an event lies before the hour that the clocks hold for: it is in them already, or late.
        NotReadyError: there are no clocks yet.
    """
    clock = features.clock
    state = clock.require_state()
    if not events.num_rows:
        return 0
    with engine(clock.settings) as running:
        computation = ClockComputation(clock, running, state.as_of)
        build, executor = computation.build, computation.executor
        running.register("arrived", events)
        executor.run(build.read("came", "arrived"))
        early = int(running.scalar(f"SELECT count(*) FROM came WHERE hour < {state.as_of.number}"))
        if early:
            raise DataError(
                f"{early} events lie before {state.as_of}, the hour that the clocks hold for; ingest them instead"
            )
        running.table("pairs", "SELECT DISTINCT user_id, slot FROM came")
        touched = [str(slot) for (slot,) in running.rows("SELECT DISTINCT slot FROM pairs ORDER BY slot")]
        sums, touching = clock.sums(state), among("pairs", *PAIR)
        stored = {part: f"({computation.merged(sums, touched, part, touching)})" for part in build.parts(PAIR)}
        texts = {part.facet: f"{sql} t" for part, sql in stored.items() if part.facet is not None}
        executor.run(
            build.dictionaries("came", texts),
            build.encode("arrived_ids", "came"),
            build.sums(FRESH, "arrived_ids", PAIR),
        )
        for part, sql in stored.items():
            by = columns(part.keys)
            running.table(
                NOW.of(part),
                f"""SELECT {by}, {summed(part.counts)} FROM ({build.with_ids(sql, part)}
                    UNION ALL SELECT {columns(part.columns)} FROM {FRESH.of(part)}) u GROUP BY {by}""",
            )
        rows = executor.arrow(build.clock_rows(NOW, "pairs", PAIR, str(state.as_of.number)))
    cells_of = dict(encode_cells(rows, clock.facets, clock.settings))
    users = sorted(cells_of)
    names = [slot_feature(n) for n in range(clock.settings.slots)]
    known = features.store.get_online_features(
        features=[f"clock:{name}" for name in names], entity_rows=[{"user_id": user} for user in users]
    ).to_df()
    known = known.set_index("user_id").loc[users, names].fillna("")
    for user, cells in cells_of.items():
        known.loc[user, list(cells)] = list(cells.values())
    features.store.push(CLOCK_PUSH, known.reset_index().assign(event_timestamp=state.as_of.start))
    return rows.num_rows

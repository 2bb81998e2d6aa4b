"""A user's clock at once: what happened in the running hour, before the hour is over."""

from __future__ import annotations

import pyarrow as pa

from core.engine import engine
from core.errors import DataError
from core.hours import Hour
from feature_repo.online import encode_cells
from feature_repo.repository import CLOCK_PUSH, slot_feature
from feature_repo.retrieval import ClockFeatures
from feature_repo.sql import columns, summed
from feature_repo.work import Work, among


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
    state = clock.needed()
    at = Hour.parse(state["as_of"])
    if not events.num_rows:
        return 0
    with engine(clock.settings) as running:
        work = Work(clock, running, at)
        running.register("arrived", events)
        work.recipe.read("came", [], "arrived")
        early = int(running.scalar(f"SELECT count(*) FROM came WHERE hour < {at.number}"))
        if early:
            raise DataError(f"{early} events lie before {at}, the hour that the clocks hold for; ingest them instead")
        running.table("pairs", "SELECT DISTINCT user_id, slot FROM came")
        touched = [str(slot) for (slot,) in running.rows("SELECT DISTINCT slot FROM pairs ORDER BY slot")]
        own = among("pairs", "user_id", "slot")
        before = {i: f"({work.merged(clock.sums(state), touched, i, own)})" for i, _ in work.recipe.parts()}
        work.recipe.dictionaries("came", {int(i): f"{sql} t" for i, sql in before.items() if i != "all"})
        work.recipe.encode("arrived_ids", "came")
        work.recipe.sums("fresh", "arrived_ids", ("user_id", "slot"))
        for i, counts in work.recipe.parts():
            keys = "user_id, slot" if i == "all" else "user_id, slot, value"
            running.table(
                f"now_{i}",
                f"""SELECT {keys}, {summed(counts)} FROM ({work.with_ids(before[i], i)}
                    UNION ALL SELECT {keys}, {columns(counts)} FROM fresh_{i}) u GROUP BY {keys}""",
            )
        rows = running.arrow(work.recipe.clock("now", "pairs", ("user_id", "slot"), str(at.number)))
    cells = dict(encode_cells(rows, clock.facets))
    users = sorted(cells)
    names = [slot_feature(n) for n in range(clock.settings.slots)]
    known = features.store.get_online_features(
        features=[f"clock:{name}" for name in names], entity_rows=[{"user_id": user} for user in users]
    ).to_df()
    known = known.set_index("user_id").loc[users, names].fillna("")
    for user, found in cells.items():
        known.loc[user, list(found)] = list(found.values())
    features.store.push(CLOCK_PUSH, known.reset_index().assign(event_timestamp=at.start))
    return rows.num_rows

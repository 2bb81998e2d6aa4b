"""A user's clock at once: what happened in the running hour, before the hour is over."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from core.engine import engine, parquet_parts
from core.errors import DataError, NotReadyError
from feature_repo.online import encode_cells
from feature_repo.repository import CLOCK_PUSH, slot_feature
from feature_repo.retrieval import ClockFeatures
from feature_repo.sql import Recipe, columns, summed


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
    state, at = clock.read(), clock.as_of
    if state is None or at is None:
        raise NotReadyError("no clocks yet; run 'python -m feature_repo rebuild' first")
    if not events.num_rows:
        return 0
    with engine(clock.settings) as running:
        recipe = Recipe(running, clock.settings, clock.facets)
        running.register("arrived", events)
        recipe.read("came", [], "arrived")
        early = int(running.scalar(f"SELECT count(*) FROM came WHERE hour < {at.number}"))
        if early:
            raise DataError(f"{early} events lie before {at}, the hour that the clocks hold for; ingest them instead")
        running.table("pairs", "SELECT DISTINCT user_id, slot FROM came")
        touched = [slot for (slot,) in running.rows("SELECT DISTINCT slot FROM pairs ORDER BY slot")]
        entries = state["sums"]

        def stored(part: str, counts: Sequence[str]) -> str:
            value = "" if part == "all" else "f.value, "
            selects = [
                f"""SELECT f.user_id, CAST({slot} AS INTEGER) AS slot, {value}{columns(counts, "f.")}
                FROM {running.files(parquet_parts(clock.sums_folder(entries[str(slot)]["folder"]) / part))} f
                JOIN pairs p ON p.user_id = f.user_id AND p.slot = {slot}"""
                for slot in touched
            ]
            return " UNION ALL ".join(selects)

        parts = recipe.parts()
        recipe.dictionaries("came", {int(i): f"({stored(i, counts)}) t" for i, counts in parts[:-1]})
        recipe.encode("arrived_ids", "came")
        recipe.sums("fresh", "arrived_ids", ("user_id", "slot"))
        for i, counts in parts:
            keys, old = "user_id, slot", stored(i, counts)
            if i != "all":
                keys = "user_id, slot, value"
                old = f"""SELECT t.user_id, t.slot, d.id AS value, {columns(counts, "t.")} FROM ({old}) t
                    JOIN values_{i} d ON d.value = t.value"""
            running.table(
                f"now_{i}",
                f"""SELECT {keys}, {summed(counts)} FROM (
                    {old} UNION ALL SELECT {keys}, {columns(counts)} FROM fresh_{i}) u GROUP BY {keys}""",
            )
        rows = running.arrow(recipe.clock("now", "pairs", ("user_id", "slot"), str(at.number)))
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

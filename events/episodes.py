"""When rows with one event id are one event: the rule is the same for rows of one input and of several.

The first row of an id opens an event. Rows of that id belong to it when they are no more than ``SAME_EVENT_HOURS`` later;
the next row after that opens another event.
"""

from __future__ import annotations

import duckdb

from core.duck import scalar

SAME_EVENT_HOURS = 48


def open_episodes(con: duckdb.DuckDBPyConnection, rows: str) -> None:
    """Create the table ``episodes(event_id, opened)``: when each event of an id begins.

    A row belongs to the last episode of its id that does not begin after it (an ASOF join).

    Args:
        con: has the rows.
        rows: table or view with the columns ``event_id`` and ``ts``.
    """
    con.execute(f"CREATE OR REPLACE TABLE episodes AS SELECT event_id, min(ts) AS opened FROM {rows} GROUP BY event_id")
    reach = f"INTERVAL {SAME_EVENT_HOURS} HOUR"
    con.execute(
        f"""CREATE OR REPLACE TEMP TABLE after_episodes AS SELECT event_id, ts
        FROM {rows} JOIN episodes USING (event_id) WHERE ts > opened + {reach}"""
    )
    while scalar(con, "SELECT count(*) FROM after_episodes"):
        con.execute(
            """CREATE OR REPLACE TEMP TABLE next_episodes AS SELECT event_id, min(ts) AS opened FROM after_episodes
            GROUP BY event_id"""
        )
        con.execute("INSERT INTO episodes FROM next_episodes")
        con.execute(
            f"""CREATE OR REPLACE TEMP TABLE after_episodes AS SELECT event_id, ts
            FROM after_episodes JOIN next_episodes n USING (event_id) WHERE ts > n.opened + {reach}"""
        )
    con.execute("DROP TABLE after_episodes")

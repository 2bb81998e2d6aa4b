"""The values that a slot keeps, best first: one definition, and the plan that suits each engine.

A slot keeps the k values with the highest positive score; ties break by count, then by value. DuckDB is fastest with one
number to compare, the place of a (score, events, value) among all of them, and looks up what is at a place in lists. On a
cluster all of them together are too many for one task and for a list: Spark compares the three, group by group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from feature_repo.statements import Statement


@dataclass(frozen=True)
class TopLists:
    """How the lists of a facet's top values are computed.

    Attributes:
        needs: tables or views to make before; the last is ``top_<facet>`` of the keys and ``best``.
        looked_up: name of a column → query of the one list in which values are looked up.
        lists: name of a list (``schemas.LISTS``) → its SQL, from the columns of ``looked_up`` and ``best_<facet>``.
    """

    needs: tuple[Statement, ...]
    looked_up: Mapping[str, str]
    lists: Mapping[str, str]


def ranked_top(facet: int, sums: str, keys: str, k: int, one: int) -> TopLists:
    """By the place of a value's (score, events, value) among all rows, in DuckDB's SQL.

    Args:
        facet: its number.
        sums: table of the keys, ``value`` (its id), ``events`` and ``score``.
        keys: columns that identify a slot, comma separated.
        k: most values in a list.
        one: units of a score of 1.
    """
    ranks, listed, dictionary = f"ranks_{facet}", f"listed_{facet}", f"values_{facet}"
    at_places = {"values": "d.value", "scores": f"CAST(r.score AS DOUBLE) / {one}", "counts": "r.events"}
    lists = ", ".join(f'coalesce(list({of} ORDER BY r.place), []) AS "{name}"' for name, of in at_places.items())
    return TopLists(
        (
            Statement(
                ranks,
                f"""SELECT score, events, value, row_number() OVER (ORDER BY score, events, value DESC) AS place
                FROM (SELECT DISTINCT score, events, value FROM {sums} WHERE score > 0) s""",
            ),
            Statement(listed, f"SELECT {lists} FROM {ranks} r JOIN {dictionary} d ON d.id = r.value"),
            Statement(
                f"top_{facet}",
                f"""SELECT {keys}, max(r.place, {int(k)}) AS best FROM {sums} s
                JOIN {ranks} r ON r.score = s.score AND r.events = s.events AND r.value = s.value GROUP BY {keys}""",
            ),
        ),
        {f"{name}_{facet}": f'(SELECT "{name}" FROM {listed})' for name in at_places},
        {name: f"list_select({name}_{facet}, coalesce(best_{facet}, []))" for name in at_places},
    )


def compared_top(facet: int, sums: str, keys: str, k: int, one: int) -> TopLists:
    """By comparing a slot's own rows, in Spark's SQL; arguments as for ``ranked_top``.

    Only the texts of the values are looked up in a list, by their ids, which count from 1.
    """
    texts = "transform(sort_array(collect_list(struct(id, value))), d -> d.value)"
    best = f"coalesce(best_{facet}, array())"
    return TopLists(
        (
            Statement(
                f"top_{facet}",
                f"""SELECT {keys}, max_by(struct(value, score, events), struct(score, events, -value), {int(k)}) AS best
                FROM {sums} s WHERE score > 0 GROUP BY {keys}""",
                view=True,
            ),
        ),
        {f"texts_{facet}": f"(SELECT {texts} FROM values_{facet})"},
        {
            "values": f"transform({best}, b -> element_at(texts_{facet}, b.value))",
            "scores": f"transform({best}, b -> CAST(b.score AS DOUBLE) / {one})",
            "counts": f"transform({best}, b -> b.events)",
        },
    )


TOP_LISTS: Mapping[str, Callable[[int, str, str, int, int], TopLists]] = {"duckdb": ranked_top, "spark": compared_top}
"""By the dialect of an engine's SQL."""

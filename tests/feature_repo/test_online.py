"""Cells of the online store: what is written is read back, whatever the values are called."""

from __future__ import annotations

import json

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from core.hours import Hour
from feature_repo.online import decode_cells, encode_cells
from feature_repo.repository import slot_feature
from feature_repo.schemas import LISTS, clock_schema

FACETS, SLOTS, HOUR, WINDOW_HOURS = ('gen"re', "as_of"), 24, Hour(492_000), 720
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TOP = st.lists(
    st.tuples(NAMES, st.floats(0, 1e18, exclude_min=True), st.integers(1, 2**53)), max_size=3, unique_by=lambda t: t[0]
)
ROW = st.fixed_dictionaries(
    {"events": st.integers(0, 2**40), "as_of": st.integers(491_000, 492_000), "facets": st.tuples(TOP, TOP)}
)


@given(
    st.dictionaries(st.tuples(st.integers(-(2**62), 2**62), st.integers(0, SLOTS - 1)), ROW, min_size=1, max_size=12)
)
def test_what_is_written_is_read_back(clocks: dict[tuple[int, int], dict[str, object]]) -> None:
    schema = clock_schema(FACETS)
    columns: dict[str, list[object]] = {field.name: [] for field in schema}
    for (user, slot), row in sorted(clocks.items()):
        values = {"user_id": user, "slot": slot, "events": row["events"], "as_of": row["as_of"]}
        for facet, top in zip(FACETS, row["facets"], strict=True):  # type: ignore[call-overload]
            values |= {f"{facet}_{name}": [entry[n] for entry in top] for n, name in enumerate(LISTS)}
        for name, column in columns.items():
            column.append(values.get(name))
    rows = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema})
    cells = dict(encode_cells(rows.take(list(reversed(range(rows.num_rows)))), FACETS))
    assert list(cells) == sorted({user for user, _ in clocks})
    for (user, slot), row in clocks.items():
        text = cells[user][slot_feature(slot)]
        assert text == "" if not row["events"] else json.loads(text)["events"] == row["events"]
    names = [slot_feature(n) for n in range(SLOTS)]
    read = decode_cells(
        list(cells), [[cells[user].get(name, "") for user in cells] for name in names], FACETS, HOUR, WINDOW_HOURS
    )
    fresh = [HOUR.number - row["as_of"] <= WINDOW_HOURS and row["events"] > 0 for row in rows.to_pylist()]
    compared = [name for name in schema.names if name in read.column_names and name != "hour"]
    assert read.select(compared).to_pylist() == rows.filter(pa.array(fresh)).select(compared).to_pylist()

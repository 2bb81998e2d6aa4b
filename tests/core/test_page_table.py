"""Tables of pages."""

from __future__ import annotations

from jinja2 import Environment

from core.page_table import Cell, Column, Group, Row, Table

EVIL = '"><script>'


def test_everything_in_a_table_is_escaped_wherever_it_stands() -> None:
    table = Table(
        (Column("metric", hint=EVIL), Column(EVIL, words=True)),
        [Group(EVIL), Row((Cell(EVIL, hint=EVIL, link=EVIL), EVIL), note=EVIL)],
        caption=EVIL,
    )
    text = Environment(autoescape=True).from_string("{{ table }}").render(table=table)
    assert "<script" not in text
    assert text.count("&#34;&gt;&lt;script&gt;") == 10


def test_every_cell_but_the_first_says_what_it_is_for_narrow_screens() -> None:
    text = Table((Column("metric"), Column("lift"), Column("p")), [Row(("likes", "+2 %", "0.04"))]).__html__()
    assert 'data-label="metric"' not in text
    assert [text.count(f'data-label="{name}"') for name in ("lift", "p")] == [1, 1]

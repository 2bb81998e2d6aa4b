"""Tables of pages: on a wide screen rows and columns, on a narrow one a card a row, with every figure on both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

TABLE_STYLE = """
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
caption { text-align: left; padding-bottom: .4rem; color: var(--soft) }
th, td { text-align: right; padding: .35rem .45rem; border-bottom: 1px solid var(--line); vertical-align: top }
th:first-child, td:first-child, .words { text-align: left } th { color: var(--soft); font-weight: 600 }
td { white-space: nowrap } td.words, td:first-child { white-space: normal; overflow-wrap: break-word }
.wide { overflow-x: auto }
tr.strong td { font-weight: 600 } tr.note td { color: var(--soft) } tr:has(+ .note) td { border-bottom: 0 }
tr.group th { padding-top: 1rem }
.controls { display: none; flex-wrap: wrap; gap: .5rem; align-items: center; margin: .5rem 0 }
.scripted .controls { display: flex }
.controls label { display: flex; gap: .4rem; align-items: center } .controls .narrow { display: none }
:is(button, select, input[type=search]) { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--soft);
  border-radius: .4rem; padding: .2rem .6rem; max-width: 100% }
button { cursor: pointer } button.done::after { content: " ✓" }
button.sort { border: 0; padding: 0; background: none; font: inherit; text-align: inherit; color: inherit }
th:has(.sort) span { display: none } button.sort:hover { text-decoration: underline }
[aria-sort=ascending] .sort::after { content: " ↑" }
[aria-sort=descending] .sort::after { content: " ↓" }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); margin: 0 }
body[data-scale=absolute] [data-scale=relative], body:not([data-scale=absolute]) [data-scale=absolute] { display: none !important }
@media print { .controls { display: none !important } }
@media (max-width: 52rem) {
  [role=table] thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
  [role=table], [role=table] caption, [role=table] tbody { display: block }
  [role=table] tr { display: block; border-bottom: 1px solid var(--line); padding: .4rem 0 }
  [role=table] :is(th, td) { border: 0; padding: .1rem 0 } [role=table] tr.group th { display: block; text-align: left }
  [role=table] td { display: flex; justify-content: space-between; gap: 1rem; white-space: normal; overflow-wrap: anywhere }
  [role=table] td::before { content: attr(data-label); color: var(--soft); font-weight: 400; text-align: left; flex: none }
  [role=table] tr.note td { font-weight: 400 } [role=table] tr:has(+ .note) { border-bottom: 0 }
  [role=table] td:first-child { font-weight: 600 } [role=table] td:first-child::before { content: none }
  [role=table] td:empty { display: none } .controls .narrow { display: inline-block } .scripted th .sort { display: none }
  .scripted th:has(.sort) span { display: inline }
}
"""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        label: its heading, which on a narrow screen stands before each of its cells.
        hint: what it means, shown by the pointer.
        words: whether it holds text, which is left-aligned and wraps; else figures.
        scale: ``relative`` or ``absolute`` for one of two columns between which the reader chooses.
    """

    label: str
    hint: str = ""
    words: bool = False
    scale: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: what it shows.
        tone: ``good``, ``bad``, ``soft`` or empty.
        hint: what it means, shown by the pointer.
        link: where it leads.
        sort: what an interactive table sorts by in place of the text; NaN: unknown, which comes last.
    """

    text: str
    tone: str = ""
    hint: str = ""
    link: str = ""
    sort: float | None = None

    def __html__(self) -> Markup:
        text = escape(self.text)
        if self.hint:
            text = Markup('<abbr title="{}">{}</abbr>').format(self.hint, text)
        return Markup('<a href="{}">{}</a>').format(self.link, text) if self.link else text


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        cells: one for each column.
        strong: whether it stands out.
        note: a sentence below it, as wide as the table.
        choices: name of a choice that the reader has on the page → value for which an interactive table shows the row.
    """

    cells: Sequence[Cell | str]
    strong: bool = False
    note: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A heading between rows."""

    label: str


@dataclass(frozen=True)
class Table:
    """A table; Jinja renders it where it is named.

    Attributes:
        columns: in their order; the first says what a row is about.
        rows: with a cell for each column, and headings between them.
        caption: shown above it.
        name: its id on the page, if readers may sort, filter and copy it; needs ``page_template.INTERACTIVE``.

    >>> print(Table((Column("metric"), Column("lift")), [Row(("likes", Cell("+2 %", "good")))]).__html__().splitlines()[-1])
    <tr role="row"><td role="cell">likes</td><td role="cell" class="good" data-label="lift">+2 %</td></tr></tbody></table>
    """

    columns: Sequence[Column]
    rows: Sequence[Row | Group]
    caption: str = ""
    name: str = ""

    def __html__(self) -> Markup:
        caption = Markup("<caption>{}</caption>").format(self.caption) if self.caption else ""
        heads = Markup("").join(
            Markup('<th role="columnheader" scope="col"{}{}{}{}>{}</th>').format(
                Markup(' class="words"') if column.words else "",
                _attribute("title", column.hint),
                _attribute("data-scale", column.scale),
                _attribute("data-key", _key(column) if self.name else ""),
                column.label,
            )
            for column in self.columns
        )
        head = Markup('<thead role="rowgroup"><tr role="row">{}</tr></thead>').format(heads)
        rows = Markup("\n").join(map(self._row, self.rows))
        interactive = Markup(' id="{}" data-interactive').format(self.name) if self.name else ""
        table = Markup('<table role="table"{}>{}{}<tbody role="rowgroup">\n{}</tbody></table>')
        return table.format(interactive, caption, head, rows)

    def _row(self, row: Row | Group) -> Markup:
        if isinstance(row, Group):
            heading = Markup('<th role="rowheader" colspan="{}" scope="rowgroup">{}</th>')
            return Markup('<tr role="row" class="group">{}</tr>').format(heading.format(len(self.columns), row.label))
        cells = Markup("").join(
            self._cell(column, Cell(cell) if isinstance(cell, str) else cell, first=number == 0)
            for number, (column, cell) in enumerate(zip(self.columns, row.cells, strict=True))
        )
        choices = Markup("").join(_attribute(f"data-{name}", value) for name, value in row.choices.items())
        shown = Markup('<tr role="row"{}{}>{}</tr>').format(
            _attribute("class", "strong" if row.strong else ""), choices, cells
        )
        if not row.note:
            return shown
        note = Markup('<tr role="row" class="note"><td role="cell" colspan="{}">{}</td></tr>')
        return shown + note.format(len(self.columns), row.note)

    @staticmethod
    def _cell(column: Column, cell: Cell, *, first: bool) -> Markup:
        classes = " ".join(name for name in ("words" if column.words else "", cell.tone) if name)
        label = "" if first else _attribute("data-label", column.label)
        sort = "" if cell.sort is None else Markup(' data-sort="{}"').format(_number(cell.sort))
        scale = _attribute("data-scale", column.scale)
        return Markup('<td role="cell"{}{}{}{}>{}</td>').format(_attribute("class", classes), label, sort, scale, cell)


def _key(column: Column) -> str:
    """A column's name in an address."""
    return "-".join(
        filter(None, ["".join(c for c in word if c.isalnum()) for word in (*column.label.split(), column.scale)])
    )


def _number(value: float) -> str:
    return f"{value:.12g}" if math.isfinite(value) else ""


def _attribute(name: str, value: str) -> Markup:
    return Markup(f' {name}="{escape(value)}"') if value else Markup("")  # noqa: S704 # nosec B704

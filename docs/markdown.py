"""Markdown: tables, inline code, docstrings as prose, whole pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A Markdown table.

    >>> print(table(["a", "b"], [[1, "x|y"]]))
    | a | b |
    | --- | --- |
    | 1 | x\|y |
    """
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").strip()


def code(value: object) -> str:
    """A value as inline code; an empty text stays empty."""
    text = str(value)
    return f"`{text}`" if text else ""


def prose(docstring: str) -> str:
    """A docstring as Markdown: double backticks become single, sections of the Google convention become bold."""
    text = inspect.cleandoc(docstring).replace("``", "`")
    text = re.sub(r"^(Args|Returns|Raises|Attributes):$", r"\n**\1**\n", text, flags=re.MULTILINE)
    lines = []
    in_section = False
    for line in text.splitlines():
        if line.startswith("**"):
            in_section = True
        elif line and not line.startswith(" "):
            in_section = False
        if in_section and re.match(r" {4}\S", line):
            head, colon, meaning = line.strip().partition(": ")
            is_argument = colon and re.fullmatch(r"[\w*, ]+", head)
            lines.append(f"- `{head}`: {meaning}" if is_argument else f"- {line.strip()}")
        else:
            lines.append(f"  {line.strip()}" if in_section and line.startswith("     ") else line)
    return "\n".join(lines)


def page(title: str, *parts: str) -> str:
    """A page with its title and the note that it is generated."""
    return "\n\n".join([f"# {title}", *(part.strip("\n") for part in parts if part.strip())])

"""What studies have written, and how their figures stand in Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from core.documents import JsonObject
from core.files import read_json
from docs.markdown import table
from training.time_modules import MODULES

V = TypeVar("V")
OURS = "matched_clock"
NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


def logs_of(var: Path, study: str, source: str = "**") -> JsonObject:
    """Log → results of a study on it.

    Args:
        var: run-time folder.
        study: its name.
        source: of the logs; default: every one that the study has run on.
    """
    return {title: log for content in contents_of(var, study, source) for title, log in content.get("logs", {}).items()}


def contents_of(var: Path, study: str, source: str = "**") -> list[JsonObject]:
    """Results of a study on every log that it has run on, or on those of one source."""
    return [read_json(path) for path in sorted((var / "studies" / study).glob(f"{source}/results.json"))]


def read_results(path: Path) -> Any:
    """Content of a results file; None where there is none."""
    return read_json(path) if path.exists() else None


def parts_of(title: str, source: str) -> tuple[str, str]:
    """What the title of a source's log says of the negatives, and what else.

    >>> parts_of("foursquare, own negatives, naive clock", "foursquare"), parts_of("simulator, naive clock", "simulator")
    (('own', 'naive clock'), ('', 'naive clock'))
    """
    first, _, rest = title.removeprefix(source).removeprefix(", ").partition(", ")
    negatives = first.removesuffix(" negatives")
    return (negatives, rest) if negatives != first else ("", f"{first}, {rest}" if rest else first)


def by_negatives(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose rows begin with the kind of negatives, which is left out where the log has its own negatives."""
    if any(row[0] for row in rows):
        return table(["negatives", *columns], rows)
    return table(columns, [row[1:] for row in rows])


def captioned(markdown: str, studies: Sequence[Mapping[str, Any]]) -> str:
    """A table with the commands and versions that its results name below it."""
    sources = [
        f"`{study['command']}`" + (f", version {study['version']}" if "version" in study else "")
        for study in studies
        if study.get("command")
    ]
    return f"{markdown}\n\nFrom {'; '.join(sources)}." if sources else markdown


def natural(name: str) -> tuple[str, ...]:
    """Key that sorts names with numbers in them by these, as files of results keep no order.

    >>> sorted(["14 days", "7 days", "top 10", "top 5"], key=natural)
    ['7 days', '14 days', 'top 5', 'top 10']
    """
    return tuple(f"{float(part):020.6f}" if NUMBER.fullmatch(part) else part for part in NUMBER.split(name))


def signed(figure: JsonObject) -> str:
    """A difference with its interval."""
    low, high = figure["interval"]
    return f"{figure['value']:+.4f} ({low:+.4f} to {high:+.4f})"


def percent(share: float) -> str:
    """A share with its sign, per cent."""
    return f"{100 * share:+.2f} %"


def by_module(values: Mapping[str, V]) -> dict[str, V]:
    """Values of time modules in the modules' order."""
    return {name: values[name] for name in MODULES if name in values}


def bold_ours(name: str) -> str:
    """A time module's name, ours in bold."""
    return f"**{name}**" if name == OURS else name


def words(name: str) -> str:
    """A name with spaces for underscores."""
    return name.replace("_", " ")

"""What studies have written, and how their figures stand in Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.documents import JsonObject
from core.files import read_json
from docs.markdown import table
from evaluation.metrics import JUDGED

OURS = "matched_clock"


def logs_of(var: Path, study: str) -> JsonObject:
    """Log → results of a study on it."""
    return {title: log for content in contents_of(var, study) for title, log in content.get("logs", {}).items()}


def contents_of(var: Path, study: str) -> list[JsonObject]:
    """Results of a study on every log that it has run on."""
    return [read_json(path) for path in sorted((var / "studies" / study).rglob("results.json"))]


def read_results(path: Path) -> Any:
    """Content of a results file; None where there is none."""
    return read_json(path) if path.exists() else None


def differences_by_log(
    var: Path, study: str, title: str, rows_by_log: Mapping[str, Mapping[str, JsonObject]]
) -> str | None:
    """A table of differences with their intervals, one column per log."""
    if not rows_by_log:
        return None
    names = dict.fromkeys(name for rows in rows_by_log.values() for name in rows)
    rows = [[name, *(signed(r[name]) if name in r else "" for r in rows_by_log.values())] for name in names]
    return captioned(table([title, *rows_by_log], rows), contents_of(var, study))


def captioned(markdown: str, studies: Sequence[Mapping[str, Any]]) -> str:
    """A table with the commands and versions that its results name below it."""
    sources = [
        f"`{study['command']}`" + (f", version {study['version']}" if "version" in study else "")
        for study in studies
        if study.get("command")
    ]
    return f"{markdown}\n\nFrom {'; '.join(sources)}." if sources else markdown


def aucs(values: JsonObject) -> str:
    """AUC, UAUC and, where the study has it, session AUC."""
    return " / ".join(f"{values[metric]['value']:.4f}" for metric in JUDGED if metric in values)


def signed(figure: JsonObject) -> str:
    """A difference with its interval."""
    low, high = figure["interval"]
    return f"{figure['value']:+.4f} ({low:+.4f} to {high:+.4f})"


def bold_ours(name: str) -> str:
    """A time module's name, ours in bold."""
    return f"**{name}**" if name == OURS else name


def words(name: str) -> str:
    """A name with spaces for underscores."""
    return name.replace("_", " ")

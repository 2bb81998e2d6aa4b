"""Tables of the study of averaged weights."""

from __future__ import annotations

from pathlib import Path

from core.documents import JsonObject
from docs.markdown import table
from docs.ranker_tables import METRICS, OURS_LESS
from docs.study_results import captioned, contents_of, logs_of, signed, words
from studies.averaging import AVERAGED, BASES, DIFFERENCE, MODULES
from studies.chosen_options import COMPARED
from studies.weight_averages import AVERAGES, RAW


def _averaged(var: Path) -> list[tuple[str, JsonObject]]:
    """What the study ``averaging`` says of each log's bases, by their title."""
    return [
        (f"{title}, {name}", log["bases"][name])
        for title, log in logs_of(var, "averaging").items()
        for name in BASES
        if name in log["bases"]
    ]


def averaging_table(var: Path) -> str | None:
    """What the chosen average changes on the last days."""
    rows = [
        [title, words(m), base["average"], *(signed(base["gaps"][m][metric]) for metric in COMPARED)]
        for title, base in _averaged(var)
        for m in MODULES
        if m in base["gaps"]
    ]
    columns = ["log, base", "module", "half-life", *(METRICS[m] for m in COMPARED)]
    return captioned(table(columns, rows), contents_of(var, "averaging")) if rows else None


def averaging_rate_table(var: Path) -> str | None:
    """What slower steps change on the last days, and what an average adds to that."""
    rows = [
        [title, name, *(signed(of[m]) for m in COMPARED)]
        for title, log in logs_of(var, "averaging").items()
        for name, of in log["rate"].items()
    ]
    columns = ["log", "difference", *(METRICS[m] for m in COMPARED)]
    return captioned(table(columns, rows), contents_of(var, "averaging")) if rows else None


def averaging_modules_table(var: Path) -> str | None:
    """Time modules less none on the last days, by the weights as they are and by the chosen average, in AUC."""
    rows = [
        [title, words(m), *(signed(base["modules"][m][name]["auc"]) for name in (RAW, AVERAGED, DIFFERENCE))]
        for title, base in _averaged(var)
        for m in MODULES
        if m in base["modules"]
    ]
    columns = ["log, base", "module less none", f"weights {RAW}", AVERAGED, DIFFERENCE]
    return captioned(table(columns, rows), contents_of(var, "averaging")) if rows else None


def averaging_tried_table(var: Path) -> str | None:
    """Averages on the days that one is chosen on: differences in AUC and session AUC by time module, the chosen one in bold."""
    rows = [
        [
            title,
            f"**{average.title}**" if average.title == base["average"] else average.title,
            *(_both(base["tried"][m][average.title]) if m in base["tried"] else "" for m in MODULES),
        ]
        for title, base in _averaged(var)
        for average in AVERAGES
    ]
    columns = ["log, base", "half-life", *map(words, MODULES)]
    return captioned(table(columns, rows), contents_of(var, "averaging")) if rows else None


def _both(differences: JsonObject) -> str:
    return " / ".join(f"{differences[m]['value']:+.4f}" for m in OURS_LESS)

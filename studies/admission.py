"""Rows for ids that were seen more than once only: what it saves, and what it costs."""

from __future__ import annotations

from core.documents import JsonObject
from studies.lab import Lab
from studies.log import Changes, Log, hours_of
from studies.options_study import Supplement, compare_options
from studies.replay import Run
from studies.study import Section
from training.config import RankerConfig
from training.ranker import Ranker
from training.state import ranker_tensors
from training.trainer import expire_ids

BASE = "at once"
SIGHTINGS = (2, 3, 5, 10)
OPTIONS: dict[str, Changes] = {BASE: {}, **{f"after {n}": {"admit_after": n} for n in SIGHTINGS}}
MODULES = ("none", "matched_clock")
TEXT = "An id gets its row in the hour in which it was seen so often, in samples. Until then its samples train the row of unknown ids."
ROWS_TEXT = (
    "At the end of the log. Memory is that of embeddings, Adagrad's sums, counts and ids, in training with matched clock; "
    "the filter's cells are its own."
)
IDS_BYTES = 24
"""Of each id beside the parts of its row: its key, and the two arrays by which it is looked up."""


def run(lab: Lab) -> tuple[str, str]:
    """Run the study; returns the conclusion and the page."""
    return compare_options(lab, "admission", OPTIONS, MODULES, TEXT, rows_kept)


def rows_kept(log: Log) -> Supplement:
    """Rows and memory of the tables of users and items after a log, by option."""
    figures: dict[str, JsonObject] = {}
    for option, changes in OPTIONS.items():
        config = Run(MODULES[-1], log.settings.seed, changes).config(log.settings)
        figures[option] = _tables_after(log, config)
    columns = ("", "users with a row", "items with a row", "their memory, MB", "the filters' cells, MB")
    rows = tuple(
        (option, f"{of['users']:,}", f"{of['items']:,}", f"{of['memory'] / 1e6:.2f}", f"{of['filter'] / 1e6:.1f}")
        for option, of in figures.items()
    )
    return Supplement(Section(f"{log.title}: rows", ROWS_TEXT, columns, rows), figures)


def _tables_after(log: Log, config: RankerConfig) -> JsonObject:
    """Let the tables of a ranker see a log's ids, hour by hour, as training does."""
    samples = log.samples
    ranker = Ranker(config, samples.facets, samples.heads, samples.context, samples.attributes)
    tables = {"users": ranker.users, "items": ranker.items}
    for hour, keys in hours_of(log):
        expire_ids(ranker, hour)
        ranker.users.grow(keys.users, hour.number)
        ranker.items.grow(keys.items, hour.number)
    parts = ranker_tensors(ranker)
    return {
        **{name: table.size - 1 for name, table in tables.items()},
        "memory": sum(
            table.size * IDS_BYTES + sum(parts[f"tables.{name}.{part}"].nbytes for part in table.parts)
            for name, table in tables.items()
        ),
        "filter": sum(table.sightings.counts.nbytes for table in tables.values() if table.sightings is not None),
    }

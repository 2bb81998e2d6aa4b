"""Samples of many hours built by Spark: executors join and write, and the driver moves what they wrote into place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.documents import JsonObject
from core.files import replaced_directory, temporary_directory, write_json, write_parquet
from core.hours import Hour
from core.spark import QUERIES_AT_ONCE, SparkEngine, spark_path
from events.schema import OWNERS
from feature_repo.retrieval import ClockFeatures
from feature_repo.spark_retrieval import SparkRetrieval
from training.negatives import write_sampled_events
from training.sample_files import FILES, ROW_GROUP, count_rows, samples_digest

TASKS_A_CORE = 4
"""Tasks that write events: so many that the cores end at about the same time."""
NO_USERS = pa.table({"user_id": pa.array([], pa.int64())})
"""Features of an hour when no hour has any samples."""
ORDERS = {"slots": ("user_id", "slot"), "profiles": ("user_id",), "history": ("user_id",)}
"""Columns by which an hour's features are sorted."""


def _samples_of(folder: Path, hour: Hour) -> Path:
    return folder / f"hour={hour.number}" / f"{FILES[0]}.parquet"


class SparkSampleBuilder:
    """Builds the samples of hours on Spark.

    Args:
        features: of the source.
        running: Spark.
    """

    def __init__(self, features: ClockFeatures, running: SparkEngine) -> None:
        self.features, self.engine = features, running
        self.settings, self.events = features.settings, features.events

    def build(self, hours: Mapping[Hour, JsonObject], root: Path) -> None:
        """Write the samples of hours, each to its folder.

        Args:
            hours: ascending, with what each is built from.
            root: of the samples.
        """
        root.mkdir(parents=True, exist_ok=True)
        with temporary_directory("spark-", root) as folder:
            samples = folder / FILES[0]
            files = {FILES[0]: {hour.number: _samples_of(samples, hour) for hour in hours}}
            shares = [[(hour, _samples_of(samples, hour)) for hour in share] for share in self._shares([*hours])]
            self.engine.run_tasks(partial(write_sampled_events, self.settings, ROW_GROUP), shares)
            with_rows = [hour for hour in hours if pq.read_metadata(files[FILES[0]][hour.number]).num_rows]
            queries = self._queries(samples, with_rows[0], with_rows[-1]) if with_rows else {}
            with ThreadPoolExecutor(QUERIES_AT_ONCE) as pool:
                written = list(pool.map(lambda name: self._write(queries[name], name, folder), queries))
            files |= dict(zip(queries, written, strict=True))
            digests = self.engine.digests([file for of_hour in files.values() for file in of_hour.values()])
            empty = dict.fromkeys(FILES[1:], NO_USERS) | {name: self._empty(query) for name, query in queries.items()}
            for hour, inputs in hours.items():
                self._place(hour, inputs, root / f"hour={hour.key}", files, empty, digests)

    def _shares(self, hours: Sequence[Hour]) -> list[Sequence[Hour]]:
        """Hours by task. Negatives are drawn from a pool of all events before: a task draws those of many hours."""
        tasks = min(self.engine.cores * (1 if self.events.source.negatives else TASKS_A_CORE), len(hours))
        ends = [len(hours) * n // tasks for n in range(tasks + 1)]
        return [hours[begin:end] for begin, end in pairwise(ends)]

    def _queries(self, samples: Path, first: Hour, last: Hour) -> dict[str, str]:
        """File's name → SELECT of its rows of all hours, with the column ``hour``."""
        self.engine.session.read.parquet(spark_path(samples)).createOrReplaceTempView("samples_written")
        keys = {
            owner: f"sample_{owner}s"
            for owner in OWNERS
            if owner == "user" or self.features.attribute_references(owner)
        }
        for owner, name in keys.items():
            distinct = f"SELECT DISTINCT {owner}_id, CAST(hour AS BIGINT) AS hour FROM samples_written"
            self.engine.table(name, distinct, by=(f"{owner}_id",))
        joined = SparkRetrieval(self.features, self.engine, first, last)
        users = keys["user"]
        queries = {"slots": joined.slots(users), "profiles": joined.profiles(users), "history": joined.histories(users)}
        for owner, name in keys.items():
            if (rows := joined.attributes(owner, name)) is not None:
                queries[f"{owner}_attributes"] = rows
        return queries

    def _write(self, query: str, name: str, folder: Path) -> dict[int, Path]:
        order = ORDERS.get(name) or (f"{name.split('_', maxsplit=1)[0]}_id",)
        return self.engine.write_file_by_key(query, "hour", order, folder / name, ROW_GROUP)

    def _empty(self, query: str) -> pa.Table:
        return self.engine.arrow(f"SELECT * FROM ({query}) q LIMIT 0").drop_columns(["hour"])

    def _place(
        self,
        hour: Hour,
        inputs: JsonObject,
        target: Path,
        files: Mapping[str, Mapping[int, Path]],
        empty: Mapping[str, pa.Table],
        digests: Mapping[Path, str],
    ) -> None:
        """Move an hour's files into its folder, with what describes them."""
        with replaced_directory(target) as folder:
            known = {}
            for name in [FILES[0], *empty]:
                path, written = folder / f"{name}.parquet", files.get(name, {}).get(hour.number)
                if written is None:
                    write_parquet(path, empty[name])
                else:
                    known[path] = digests[written]
                    written.rename(path)
            write_json(
                folder / "meta.json",
                {"inputs": inputs, "rows": count_rows(folder), "digest": samples_digest(folder, known)},
            )

"""Samples of many hours built by Spark: executors join and write, and the driver moves what they wrote into place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.documents import JsonObject
from core.files import replaced_directory, temporary_directory, write_json, write_parquet
from core.hours import Hour
from core.spark import QUERIES_AT_ONCE, SparkEngine, divided, spark_path
from events.schema import OWNERS
from feature_repo.retrieval import ClockFeatures
from feature_repo.spark_retrieval import Features, SparkRetrieval
from training.hour_files import FeatureWriter, hour_file, write_sampled_events
from training.sample_files import FILES, ROW_GROUP, count_rows, samples_digest

TASKS_A_CORE = 4
"""Tasks that write events: so many that the cores end at about the same time."""
NO_USERS = pa.table({"user_id": pa.array([], pa.int64())})
"""Features of an hour when no hour has any samples."""


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
            files = {hour: hour_file(folder, hour.number, FILES[0]) for hour in hours}
            shares = [[(hour, files[hour]) for hour in share] for share in self._shares([*hours])]
            self.engine.run_tasks(partial(write_sampled_events, self.settings, ROW_GROUP), shares)
            with_rows = [hour for hour, file in files.items() if pq.read_metadata(file).num_rows]
            features = self._features(folder / FILES[0], with_rows[0], with_rows[-1]) if with_rows else {}
            with ThreadPoolExecutor(QUERIES_AT_ONCE) as pool:
                list(pool.map(lambda name: self._write(features[name], name, folder), features))
            digests = self.engine.digests(sorted(folder.glob("*/hour=*/*.parquet")))
            empty = dict.fromkeys(FILES[1:], NO_USERS)
            empty |= {name: features[name].schema.empty_table() for name in features}
            for hour, inputs in hours.items():
                written = {name: hour_file(folder, hour.number, name) for name in [FILES[0], *empty]}
                self._place(root / f"hour={hour.key}", inputs, written, empty, digests)

    def _shares(self, hours: Sequence[Hour]) -> list[Sequence[Hour]]:
        """Hours by task. Negatives are drawn from a pool of all events before: a task draws those of many hours."""
        tasks = min(self.engine.cores * (1 if self.events.source.negatives else TASKS_A_CORE), len(hours))
        return divided(hours, tasks)

    def _features(self, samples: Path, first: Hour, last: Hour) -> dict[str, Features]:
        """File's name → its rows of all hours, from the folder of their samples."""
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
        rows = {"slots": joined.slots(users), "profiles": joined.profiles(users), "history": joined.histories(users)}
        attributes = {f"{owner}_attributes": joined.attributes(owner, name) for owner, name in keys.items()}
        return rows | {name: known for name, known in attributes.items() if known is not None}

    def _write(self, features: Features, name: str, folder: Path) -> None:
        order = [column for column in ("user_id", "item_id", "slot") if column in features.schema.names]
        self.engine.hand_over(features.sql, "hour", FeatureWriter(folder, name, features.schema, ROW_GROUP), order)

    @staticmethod
    def _place(
        target: Path,
        inputs: JsonObject,
        written: Mapping[str, Path],
        empty: Mapping[str, pa.Table],
        digests: Mapping[Path, str],
    ) -> None:
        """Move an hour's files into its folder, with what describes them; a table without rows has no file yet."""
        with replaced_directory(target) as folder:
            known = {}
            for name, file in written.items():
                path = folder / f"{name}.parquet"
                if file in digests:
                    known[path] = digests[file]
                    file.rename(path)
                else:
                    write_parquet(path, empty[name], row_group=ROW_GROUP)
            description = {"inputs": inputs, "rows": count_rows(folder), "digest": samples_digest(folder, known)}
            write_json(folder / "meta.json", description)

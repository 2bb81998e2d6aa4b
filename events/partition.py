"""An hour's files: events, what rows told, exposures, and the manifest that says what they hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from core.files import digest_file, digest_text, write_json, write_parquet
from core.hours import Hour
from events.schema import exposure_schema


@dataclass(frozen=True)
class Manifest:
    """What an hour partition holds.

    ``watermark`` is the latest event time in the partition; ``digest`` covers events and exposures.
    """

    hour: str
    rows: int
    digest: str
    exposures: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    watermark: str | None = None


def write_partition(
    target: Path,
    hour: Hour,
    events: pa.Table,
    exposures: pa.Table,
    facts: pa.Table | None,
    duplicates: int,
    rejected: dict[str, int],
) -> Manifest:
    """Write an hour's files and its manifest to an empty folder.

    Args:
        target: the folder.
        hour: the hour.
        events, exposures, facts: its rows; ``facts`` None: none.
        duplicates: rows of its inputs that repeated others.
        rejected: rows of its inputs by the reason why they are none.
    """
    latest = pa.compute.max(events["timestamp"]).as_py() if events.num_rows else None
    write_parquet(target / "events.parquet", events)
    if exposures.num_rows:
        write_parquet(target / "exposures.parquet", exposures)
    if facts is not None and facts.num_rows:
        write_parquet(target / "facts.parquet", facts)
    manifest = Manifest(
        hour=hour.key,
        rows=events.num_rows,
        digest=partition_digest(target),
        exposures=exposures.num_rows,
        duplicates=duplicates,
        rejected=dict(sorted(rejected.items())),
        watermark=latest.isoformat() if latest else None,
    )
    write_json(target / "manifest.json", asdict(manifest))
    return manifest


def first_exposures(table: pa.Table) -> pa.Table:
    """The first exposure of each user to each variant, by time."""
    keys = ["experiment", "variant", "user_id"]
    first = table.group_by(keys).aggregate([("timestamp", "min")]).rename_columns([*keys, "timestamp"])
    return first.sort_by([("timestamp", "ascending"), *((key, "ascending") for key in keys)]).cast(exposure_schema())


def partition_digest(folder: Path) -> str:
    """Digest of an hour's events and exposures; empty where there is no hour."""
    files = [folder / "events.parquet", folder / "exposures.parquet"]
    missing = not files[0].exists()
    return "" if missing else digest_text(*(digest_file(f) for f in files if f.exists()))

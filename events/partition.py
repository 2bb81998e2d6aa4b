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


@dataclass(frozen=True)
class HourContent:
    """All that an hour's files hold.

    Attributes:
        hour: the hour.
        events, exposures, facts: its rows; ``facts`` None: none.
        duplicates: rows of its inputs that repeated others.
        rejected: rows of its inputs by the reason why they are none.
    """

    hour: Hour
    events: pa.Table
    exposures: pa.Table
    facts: pa.Table | None
    duplicates: int
    rejected: dict[str, int]

    def write(self, folder: Path) -> Manifest:
        """Write the files and the manifest to an empty folder."""
        latest = pa.compute.max(self.events["timestamp"]).as_py() if self.events.num_rows else None
        write_parquet(folder / "events.parquet", self.events)
        if self.exposures.num_rows:
            write_parquet(folder / "exposures.parquet", self.exposures)
        if self.facts is not None and self.facts.num_rows:
            write_parquet(folder / "facts.parquet", self.facts)
        manifest = Manifest(
            hour=self.hour.key,
            rows=self.events.num_rows,
            digest=partition_digest(folder),
            exposures=self.exposures.num_rows,
            duplicates=self.duplicates,
            rejected=dict(sorted(self.rejected.items())),
            watermark=latest.isoformat() if latest else None,
        )
        write_json(folder / "manifest.json", asdict(manifest))
        return manifest


def first_exposures(table: pa.Table) -> pa.Table:
    """The first exposure of each user to each variant, by time."""
    if not table.num_rows:  # as in nearly every hour, and grouping nothing takes a millisecond
        return exposure_schema().empty_table()
    keys = ["experiment", "variant", "user_id"]
    first = table.group_by(keys).aggregate([("timestamp", "min")]).rename_columns([*keys, "timestamp"])
    return first.sort_by([("timestamp", "ascending"), *((key, "ascending") for key in keys)]).cast(exposure_schema())


def partition_digest(folder: Path) -> str:
    """Digest of an hour's events and exposures; empty where there is no hour."""
    files = [folder / "events.parquet", folder / "exposures.parquet"]
    missing = not files[0].exists()
    return "" if missing else digest_text(*(digest_file(f) for f in files if f.exists()))

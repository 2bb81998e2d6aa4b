"""A folder with a mapping and a log, for tests of what ingestion makes of rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from core.settings import Settings, load_settings
from events.ingest import Account, ingest
from events.store import EventStore
from tests.conftest import NOW

BASE = {
    "source": "source: test",
    "columns": "columns: {user_id: uid, item_id: iid}",
    "timestamp": "timestamp: {column: ts}",
    "local_time": "local_time: {zone: UTC}",
    "facets": "facets: {genre: genre}",
    "behaviors": 'behaviors: {finish: "true"}',
}
HEADER = "uid,iid,genre,ts\n"
TIME = "2026-03-10T10:00:00Z"


class Log:
    """A folder with a mapping and a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Settings = load_settings(var=folder / "var", source="test", mlflow_uri="")

    def write(self, content: str | bytes, name: str = "log.csv") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def ingest(self, *paths: Path | str, **mapping: str) -> Account:
        (self.folder / "mapping.yaml").write_text("\n".join({**BASE, **mapping}.values()) + "\n")
        names = [str(path) for path in paths] or [str(self.folder / "log.csv")]
        return ingest(str(self.folder / "mapping.yaml"), names, self.settings, now=NOW)

    def events(self) -> pd.DataFrame:
        store = EventStore(self.settings.events_dir)
        return pa.concat_tables(store.read(hour) for hour in store.hours()).to_pandas()


def rows(count: int, start: int = 0) -> str:
    return "".join(f"u{n},i{n},rock,2026-03-10T10:{n % 60:02d}:00Z\n" for n in range(start, start + count))


def outcomes(log: Log, behavior: str) -> dict[int, bool | None]:
    frame = log.events().sort_values("timestamp")
    return [None if pd.isna(value) else bool(value) for value in frame[behavior]]  # type: ignore[return-value]

"""The app's raw log, hour by hour: gzipped CSV in its own format, with the defects of real logs.

Layout below the log's root::

    mapping.yaml          how this log becomes events, for the ingestion
    items.csv             item attributes
    log/2026-03-02T10.csv.gz         impressions that reached the log in that UTC hour
    exposures/2026-03-02T10.csv      experiment exposures of that hour
"""

from __future__ import annotations

import gzip
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from core.files import digest_json, read_json, write_atomically, write_json, write_text
from core.hours import Hour, hour_range
from events.log_files import part_of
from simulation.app import FACETS, App, Impressions
from simulation.config import SimulatorConfig
from simulation.random import uniform

DIRT = 100
PLAYED_EVERY = 0.2
"""Seconds between two looks at what is due."""
EXPOSURES = {
    "path": "../exposures/{stem}.csv",
    "user_id": "user",
    "timestamp": {"column": "timestamp", "unit": "iso"},
}
MAPPING = {
    "source": "simulator",
    "description": "The simulated music app.",
    "format": "csv",
    "paths": ["log/{hour}.csv.gz"],
    "columns": {
        "user_id": "uid",
        "item_id": "track",
        "event_id": "event",
        "played_seconds": "played",
        "duration_seconds": "length",
    },
    "timestamp": {"column": "ts_ms", "unit": "ms"},
    "local_time": {"zone_column": "tz"},
    "items": {"path": "items.csv", "key": "track", "facets": {name: name for name in FACETS}},
    "behaviors": {
        "finish": "played_seconds / duration_seconds >= 0.9",
        "like": "liked = 1",
        "skip": "played_seconds < 5",
        "dislike": "disliked = 1",
        "share": "shared = 1",
    },
    "exposures": EXPOSURES,
}

SERVED_EXPOSURES = "../../serving/exposures"
"""Where a workspace's ranking service logs exposures, relative to the event log's folder."""


class AppLog:
    """Writes the log of an app; each hour can be written on its own, always with the same bytes.

    With ``served`` the exposures are written to where a workspace's ranking service logs its own, which are then added.
    """

    def __init__(self, config: SimulatorConfig, root: Path, *, served: bool = False) -> None:
        self.config, self.root, self.app, self.served = config, root, App(config), served
        self.exposures = (root / "log" / SERVED_EXPOSURES).resolve() if served else root / "exposures"
        self._days: dict[int, tuple[Impressions, np.ndarray]] = {}

    def prepare(self) -> Path:
        """Write the mapping and the items table, unless those of this config exist.

        Returns:
            The mapping file.
        """
        config_record, digest = self.root / "config.json", digest_json(self.config.model_dump(mode="json"))
        if not config_record.exists() or read_json(config_record)["digest"] != digest:
            write_json(config_record, {"digest": digest, "config": self.config.model_dump(mode="json")})
            mapping = (
                {**MAPPING, "exposures": {**EXPOSURES, "path": f"{SERVED_EXPOSURES}/{{stem}}.csv"}}
                if self.served
                else MAPPING
            )
            write_text(self.root / "mapping.yaml", yaml.safe_dump(mapping, sort_keys=False))
            items = {"track": [self.app.item_key(i) for i in range(self.config.items)]}
            values = self.app.item_values
            items |= {name: [f"{name}-{v:02d}" for v in values[:, f]] for f, name in enumerate(FACETS)}
            write_text(self.root / "items.csv", pd.DataFrame(items).to_csv(index=False))
        return self.root / "mapping.yaml"

    def log_file(self, hour: Hour) -> Path:
        return self.root / "log" / f"{hour.key}.csv.gz"

    def write_hours(self, start: Hour, end: Hour) -> list[Path]:
        """Write the log files of the hours in [start, end); existing files are kept.

        Returns:
            The files of all these hours.
        """
        self.prepare()
        written = []
        for hour in hour_range(start, end):
            path = self.log_file(hour)
            if not path.exists():
                self._write_exposures(hour)
                _write_csv(path, self._rows(hour))
            part_of(self.log_file(hour)).unlink(missing_ok=True)
            written.append(path)
        return written

    def play_hour(self, hour: Hour, seconds: float) -> Iterator[int]:
        """Write an hour's rows one after the other, as they would reach the log within the hour, into ``HOUR.csv.part``.

        Args:
            hour: to write.
            seconds: that the hour is to take.

        Yields:
            Rows written so far, some times a second.
        """
        self.prepare()
        rows = self._rows(hour)
        header, *lines = rows.to_csv(index=False).encode().splitlines(keepends=True)
        due = (pd.to_numeric(rows["ts_ms"]).to_numpy() / 1000 - hour.start.timestamp()).clip(0, 3600) * seconds / 3600
        path = part_of(self.log_file(hour))
        path.parent.mkdir(parents=True, exist_ok=True)
        begun, written = time.monotonic(), 0
        with path.open("wb") as file:
            file.write(header)
            while written < len(lines):
                until = int(np.searchsorted(due, time.monotonic() - begun, side="right"))
                file.writelines(lines[written:until])
                file.flush()
                written = max(until, written)
                yield written
                time.sleep(PLAYED_EVERY)

    def _day(self, day: int) -> tuple[Impressions, np.ndarray]:
        """Impressions of a local day, and the UTC hour in which each reaches the log."""
        if day not in self._days:
            shown = self.app.day(day)
            hours = (shown.moment // 3600).astype(int)
            late = uniform(self.config.seed, DIRT, 0, day, np.arange(len(hours))) < self.config.dirt.late
            self._days = {d: v for d, v in self._days.items() if abs(d - day) <= 4} | {day: (shown, hours + late)}
        return self._days[day]

    def _parts(self, hour: Hour) -> list[tuple[int, Impressions, np.ndarray]]:
        """Impressions of an hour: (local day, the day's impressions, the hour's positions among them).

        Days without any are left out, but for one where there are none at all, as long before and after the app.
        """
        day = min(max((hour.number - self.config.first_hour.number) // 24, 0), self.config.days - 1)
        days = range(max(day - 2, 0), min(day + 2, self.config.days))
        parts = [(d, self._day(d)[0], np.flatnonzero(self._day(d)[1] == hour.number)) for d in days]
        return [part for part in parts if len(part[2])] or parts[:1]

    def write_visits(self, hour: Hour, shown: Impressions) -> Path:
        """Write the log of an hour that was simulated with a ranker (``simulation.visits``), replacing an older one.

        The ranking service logs who met which variant, in ``exposures``.
        """
        self.prepare()
        position_text = np.char.mod("%03d", shown.position)
        events = np.char.add(np.char.add(np.char.mod("v%d", shown.session), "-"), position_text)
        rows = self._raw(shown, np.arange(len(events)), events)
        path = self.log_file(hour)
        _write_csv(
            path, self._dirty(rows, shown.session, shown.position).sort_values(["ts_ms", "event"], kind="stable")
        )
        return path

    def _rows(self, hour: Hour) -> pd.DataFrame:
        frames = [
            self._dirty(
                self._raw(shown, positions, np.array([f"{day:03d}-{n:07d}" for n in positions])), day, positions
            )
            for day, shown, positions in self._parts(hour)
        ]
        return pd.concat(frames).sort_values(["ts_ms", "event"], kind="stable")

    def _raw(self, shown: Impressions, positions: np.ndarray, events: np.ndarray) -> pd.DataFrame:
        """Rows of the log for the impressions at ``positions``."""
        user, item = shown.user[positions], shown.item[positions]
        return pd.DataFrame(
            {
                "event": events,
                "uid": [self.app.user_key(int(u)) for u in user],
                "track": [self.app.item_key(int(i)) for i in item],
                "ts_ms": (shown.moment[positions] * 1000).astype(np.int64),
                "tz": np.array(self.app.zone_names)[self.app.zone[user]],
                "played": shown.played[positions],
                "length": self.app.length[item],
                "liked": shown.like[positions].astype(int),
                "disliked": shown.dislike[positions].astype(int),
                "shared": shown.share[positions].astype(int),
            }
        )

    def _dirty(self, frame: pd.DataFrame, *keys: np.ndarray | int) -> pd.DataFrame:
        """Repeat some rows and damage others, as real collectors do; the draws depend on ``keys``."""
        dirt, seed = self.config.dirt, self.config.seed
        damage = uniform(seed, DIRT, 1, *keys) < dirt.damaged
        if damage.any():
            damage_draw = uniform(seed, DIRT, 2, *keys)
            frame.loc[damage & (damage_draw < 0.5), "length"] *= -1
            frame.loc[damage & (damage_draw >= 0.5), "uid"] = ""
        repeated = (uniform(seed, DIRT, 3, *keys) < dirt.duplicates) & ~damage
        return pd.concat([frame, frame[repeated]])

    def _write_exposures(self, hour: Hour) -> None:
        rule = self.config.experiment
        frames = []
        for day, shown, positions in self._parts(hour):
            positions = positions[shown.position[positions] == 0]
            if day < rule.start_day or not len(positions):
                continue
            moments = pd.to_datetime((shown.moment[positions] * 1000).astype(np.int64), unit="ms", utc=True)
            frames.append(
                pd.DataFrame(
                    {
                        "experiment": rule.name,
                        "variant": self.app.variant[shown.user[positions]],
                        "user": [self.app.user_key(int(u)) for u in shown.user[positions]],
                        "timestamp": moments.strftime("%Y-%m-%dT%H:%M:%S.%f+00:00"),
                    }
                )
            )
        if frames:
            text = pd.concat(frames).sort_values(["timestamp", "user"]).to_csv(index=False)
            path = self.exposures / f"{hour.key}.csv"
            write_text(path / "app.csv" if self.served and not path.is_file() else path, text)


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=1) as stream:
        stream.write(frame.to_csv(index=False).encode())
    write_atomically(path, lambda target: target.write_bytes(buffer.getvalue()))

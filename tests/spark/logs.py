"""Logs of all kinds of dirt, for ingestion by both engines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

MAPPING = """\
source: test
columns: {user_id: uid, item_id: iid, event_id: eid, played_seconds: secs}
timestamp: {column: ts, zone: Europe/Berlin, fold: reject}
local_time: {zone_column: zone}
facets: {genre: genre, channel: channel}
context: {screen: screen}
behaviors: {finish: "secs > 30", like: liked}
items: {path: items.csv, key: iid, facets: {kind: mood}}
users: {path: users.csv, key: uid, attributes: {town: town}}
exposures: {path: exposures.csv, user_id: uid, timestamp: {column: at}}
"""
NAMES = ("uid", "iid", "eid", "ts", "zone", "secs", "liked", "genre", "screen")
PLACES = ("", '"a ""b"""', '"x, y"', '{""deep"": 1}', "home")


def dirty_log(folder: Path) -> list[str]:
    """Write the mapping, tables beside the log and a log; gives its files."""
    rng = np.random.default_rng(8)
    (folder / "mapping.yaml").write_text(MAPPING)
    (folder / "items.csv").write_text("iid,mood\n" + "".join(f"i{n},m{n % 3}\n" for n in range(40)))
    (folder / "users.csv").write_text("uid,town\n" + "".join(f"u{n},t{n % 4}\n" for n in range(0, 900, 3)))
    exposures = "".join(f"u{n},e,{'ab'[n % 2]},2026-03-28T{n % 9:02d}:30:00Z\n" for n in range(60))
    (folder / "exposures.csv").write_text("uid,experiment,variant,at\n" + exposures)
    header, lines = ",".join(NAMES), [_line(rng, n) for n in range(9000)]
    spans = (0, 5000, 7000, 8000, 8500, 9000)
    parts = [lines[begin:end] for begin, end in pairwise(spans)]
    parts[0][700] = "too,short"
    parts[3][100] = 'u1,i1,,"2026-03-10T01:00:00Z,Asia/Tokyo,3,1,open,'
    parts[3][200] = _line(rng, 0, place='"two\nlines"')
    swapped = ",".join(NAMES[::-1])
    log = folder / "log"
    (log / "channel=tv").mkdir(parents=True)
    (log / "a.csv").write_text("\n".join([header, *parts[0]]) + "\n")  # long: it is read in pieces
    (log / "b.csv.gz").write_bytes(gzip.compress("\n".join([header, *parts[1]]).encode()))
    (log / "channel=tv" / "c.csv").write_bytes("\r\n".join([header, *parts[2]]).encode())
    (log / "d.csv").write_bytes("\n".join([header, *parts[3], "u1,\xff"]).encode("latin-1"))
    rows = (",".join(line.split(",")[::-1]) for line in parts[4] if '"' not in line)
    (log / "e.csv").write_text("\n".join([swapped, *rows]) + "\n")
    return ["log"]


def one_facet(folder: Path) -> None:
    """Leave the log of ``dirty_log`` one facet, as the clocks' work grows with them."""
    mapping = MAPPING.replace("genre: genre, channel: channel", "genre: genre").replace(", facets: {kind: mood}", "")
    (folder / "mapping.yaml").write_text(mapping.replace("items: {path: items.csv, key: iid}\n", ""))


def repeated_log(folder: Path) -> list[str]:
    """Write JSON lines that repeat events of ``dirty_log``, add to them, and come late; gives the files."""
    rng = np.random.default_rng(9)
    names = []
    for number, count in enumerate((1500, 300)):
        rows = [dict(zip(NAMES, _line(rng, n).replace('"', "").split(","), strict=False)) for n in range(count)]
        rows = [{name: cell for name, cell in row.items() if cell and (number or name != "screen")} for row in rows]
        lines = [
            json.dumps({**row, "liked": n % 2, "channel": "web" if number else None}) for n, row in enumerate(rows)
        ]
        names.append(f"later{number}.jsonl")
        (folder / names[-1]).write_text("\n".join([*lines, "{broken", '{"uid": "u1", "uid": "u2"}']) + "\n")
    return names


def _line(rng: np.random.Generator, n: int, place: str | None = None) -> str:
    user, kind = int(rng.integers(0, 900)), rng.random()
    event = f"e{rng.integers(0, 4000)}" if rng.random() < 0.7 else ""
    time = f"2026-03-{28 if n % 7 else 29} {rng.integers(0, 5):02d}:{rng.integers(0, 60):02d}:00"
    if event and kind > 0.02:  # mostly what the id's event is
        number = int(event[1:])
        user, item, time = number % 900, number % 50, f"2026-03-28 {number % 7:02d}:{number % 60:02d}:00"
    else:
        item = int(rng.integers(0, 50))
    zone = _one_of(rng, ["Europe/Berlin", "Asia/Tokyo", "Mars/Base"], (0.6, 0.38, 0.02))
    seconds = _one_of(rng, ["10", "45.5", "x", "-1", ""], (0.4, 0.5, 0.02, 0.02, 0.06))
    liked = _one_of(rng, ["1", "0", "", "maybe"], (0.2, 0.3, 0.45, 0.05))
    genre = _one_of(rng, ["rock", "jazz", "", "NaN"], (0.5, 0.3, 0.1, 0.1))
    time = _one_of(rng, [time, "soon", "", "2031-01-01 00:00:00"], (0.95, 0.02, 0.02, 0.01))
    who = _one_of(rng, [f"u{user}", "", "NaN"], (0.98, 0.01, 0.01))
    cells = [who, f"i{item}", event, time, zone, seconds, liked, genre, place or _one_of(rng, PLACES, (0.2,) * 5)]
    return ",".join(cells)


def _one_of(rng: np.random.Generator, cells: Sequence[str], shares: Sequence[float]) -> str:
    return str(rng.choice(np.array(cells, dtype=object), p=shares))


def stored_files(var: Path) -> dict[str, bytes]:
    """Every file of a workspace's event store, without what names the workspace and the random name of its list of changes."""
    root = var / "test" / "events"
    files = (file for file in root.rglob("*") if file.is_file() and ".changes" not in file.parts)
    return {str(file.relative_to(root)): file.read_bytes().replace(str(var).encode(), b"VAR") for file in files}

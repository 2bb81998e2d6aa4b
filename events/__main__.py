"""``python -m events``: ingest a log, close empty hours, look at what is there."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from core import cli
from core.hours import Hour
from core.settings import load_settings

EXAMPLE = """\
# A mapping file says how the columns of a log become events. Everything but the marked keys is optional.
source: my_app                        # required: name of the source, and of its workspace under var/
format: auto                          # auto (by suffix), csv, parquet, jsonl; each also .gz
csv: {delimiter: ",", quote: '"', header: true, encoding: utf-8}   # columns: [...] where there is no header; "\\t" is a tab
                                      # (.tsv has tabs anyway); encoding: utf-8, latin-1 or utf-16
paths: [log/{hour}.csv.gz]            # default paths, relative to this file; the command line's win;
                                      # {hour} is the hour's key (2026-11-23T10), where the log has a file an hour
columns:
  user_id: uid                        # required: a column, or a SQL expression over columns of the row
  item_id: track                      # required; string ids are mapped to integers once, and kept
  event_id: id                        # absent: a digest of user, item and timestamp
  played_seconds: ms_played / 1000
  duration_seconds: ms_total / 1000
timestamp: {column: ts, unit: ms, zone: UTC}   # required; unit: iso, s, ms, us; or format: "%d/%m/%Y %H:%M"
                                      # origin: 2024-01-01 where numbers do not count from 1970;
                                      # fold: first, second or reject, for times that a zone's clock shows twice in autumn
ids: {user: string, item: string}     # or int; absent: int where every id of the first input is an integer, else text;
                                      # fixed by the first input
local_time: {zone: Europe/Berlin}     # required; or zone_column: tz, or offset_minutes_column: tz_offset
facets: {genre: genre}                # attributes in the log itself; no facet at all: the item itself serves as one
items:                                # attributes in a table of items
  path: items.csv                     # beside this file or beside the log; may be a pattern; csv: {...} as above
  key: track_id                       # matches item_id as it stands in the log
  facets: {mood: mood, language: lang}   # columns of the table, or expressions over them
behaviors:                           # required: at least one; leave out what the source cannot know
  finish: played_seconds / duration_seconds >= 0.9
  skip: played_seconds < 5
  like: action = 'like'
negatives: {per_positive: 4, kind: popularity, seed: 7}   # for logs of positives only; or kind: own
# Names with spaces or signs are quoted inside expressions: '"rating:float" >= 4'; off, on, yes, no and names with a
# colon are quoted for YAML: column: "off".
exposures:                            # who met which experiment variant; {name} is the log file's name
  path: ../exposures/{name}
  user_id: uid
  timestamp: {column: ts, unit: ms}
"""


def main(arguments: argparse.Namespace) -> None:
    from events.ingest import close_hours, ingest
    from events.mapping import load_mapping
    from events.store import EventStore, missing_hours

    if arguments.command == "explain":
        print(EXAMPLE)
        return
    settings = load_settings()
    if arguments.command == "ingest":
        if arguments.out is None:
            settings = load_settings(source=load_mapping(arguments.mapping)[0].source)
        start, end = (Hour.parse(h) if h else None for h in (arguments.start, arguments.end))
        account = ingest(arguments.mapping, arguments.path, settings, out=arguments.out, only=(start, end))
        print(json.dumps({**asdict(account), "changed_hours": len(account.changed_hours)}, ensure_ascii=False))
        return
    store = EventStore(arguments.out or settings.events_dir)
    if arguments.command == "close":
        first = Hour.parse(arguments.first)
        closed = close_hours(store, first, Hour.parse(arguments.last) if arguments.last else first)
        print(json.dumps({"closed": [hour.key for hour in closed]}))
    else:
        hours = store.hours()
        manifests = store.manifests()
        print(
            json.dumps(
                {
                    "source": store.source.source,
                    "facets": store.facets,
                    "hours": len(hours),
                    "first": hours[0].key if hours else None,
                    "last": hours[-1].key if hours else None,
                    "missing": [hour.key for hour in missing_hours(hours)],
                    "events": sum(m.rows for m in manifests),
                    "exposures": sum(m.exposures for m in manifests),
                }
            )
        )


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m events", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    ingest = commands.add_parser(
        "ingest",
        help="read a log into hour partitions",
        description="Read a log into hour partitions. The last line of output is one JSON object with the account: "
        "rows_in = kept + duplicates + quarantined. Running it again on the same files changes nothing.",
    )
    ingest.add_argument("mapping", metavar="MAPPING.yaml", help="mapping file, or foursquare, foursquare_tsmc")
    ingest.add_argument("path", nargs="*", metavar="PATH", help="files, folders or globs; default: the mapping's paths")
    ingest.add_argument("--out", type=Path, metavar="DIR", help="where the store is; default var/<source>/events")
    ingest.add_argument("--from", dest="start", metavar="HOUR", help="take rows of this hour and later only")
    ingest.add_argument("--to", dest="end", metavar="HOUR", help="take rows before this hour only")
    close = commands.add_parser("close", help="close hours in which nothing happened")
    close.add_argument("first", metavar="HOUR", help="for example 2026-11-23T10")
    close.add_argument("last", nargs="?", metavar="LAST", help="close every hour up to and including this one")
    close.add_argument("--out", type=Path, metavar="DIR")
    status = commands.add_parser("status", help="what the store holds, and which hours are missing")
    status.add_argument("--out", type=Path, metavar="DIR")
    commands.add_parser("explain", help="print a commented mapping file")
    return top


if __name__ == "__main__":
    cli.run(parser(), main)

"""``clock events``: ingest a log, close empty hours, look at what the workspace holds."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from core import cli
from core.errors import ConfigError

EXAMPLE = """\
# A mapping file says how the columns of a log become events. Everything but the marked keys is optional.
# Names with spaces or signs are quoted inside expressions: '"rating:float" >= 4'; off, on, yes, no and names with a
# colon are quoted for YAML: column: "off".
source: my_app                        # required: name of the source, and of its workspace under var/
description: Streams of my app        # for people
format: auto                          # auto (by suffix), csv, parquet, jsonl; text also .gz, .bz2, .xz, .zip
csv: {delimiter: ",", quote: '"', header: true, encoding: utf-8}   # header: false, columns: [...] where there is none; "\\t" is
                                      # a tab (.tsv has tabs anyway); encoding: utf-8, latin-1 or utf-16; skip: 1 passes over a
                                      # line before the header
paths: ["log/{hour}.csv.gz"]          # default paths, relative to this file; the command line's win;
                                      # {hour} is the hour's key (2026-11-23T10), where the log has a file an hour;
                                      # in another form: dt={hour:%Y-%m-%d}/hr={hour:%H}/*.parquet; a file a day:
                                      # {hour:%Y%m%d}.csv; in an object store: s3://bucket/{hour}.csv
path_zone: UTC                        # of the hours and days that paths name
columns:
  user_id: uid                        # required: a column, or a SQL expression over columns of the row
  item_id: track                      # required; string ids are mapped to integers once, and kept
  event_id: id                        # absent: a digest of user, item and timestamp
  played_seconds: ms_played / 1000
  duration_seconds: ms_total / 1000
  position: rank                      # where the item stood among those shown with it, a whole number; a list that is
                                      # unfolded gives it by itself, from 0
  request_id: request                 # what the items that were shown together have in common
timestamp: {column: ts, unit: ms, zone: UTC}   # required; unit: iso, s, ms, us, ns; or format: "%d/%m/%Y %H:%M"
                                      # column: "date || ' ' || time" where the time is in two columns;
                                      # origin: 2024-01-01 where numbers do not count from 1970;
                                      # fold: first, second or reject, for times that a zone's clock shows twice in autumn;
                                      # all of these go wherever a moment is read
ids: {user: string, item: string}     # or int; absent: int where every id of the first input is an integer, else text;
                                      # fixed by the first input
local_time: {zone: Europe/Berlin}     # required; or zone_column: tz, or offset_minutes_column: tz_offset (120 or +02:00;
                                      # of hours: tz * 60), or users_zone: tz, a column of the table of users
facets: {genre: genre}                # attributes in the log itself; no facet at all: the item itself serves as one
context: {tab: tab, device: platform} # what is known of the moment besides user, item and time: rankers read it, and a
                                      # request tells it under the same names; it may come later than the first input;
                                      # a column alone is a category; {column: battery, type: number} is read by quantiles
items:                                # attributes in a table of items
  path: items.csv                     # beside this file or beside the log; may be a pattern
  format: auto                        # as above, also csv: {...}
  key: track_id                       # matches item_id as it stands in the log
  facets: {mood: mood, language: lang}   # columns of the table, or expressions over them
  duration_seconds: length            # where the log does not have it
  title: name                         # what people call an item: pages show it, nothing is trained on it
  since: valid_from                   # of attributes, as under users
  attributes:                         # what rankers read besides, and the clock does not; here a column alone is a category
    label: label
    tags: {column: tags, type: list, separator: "|"}   # several categories: a list, a JSON array, or text
    plays: {column: plays, type: number}               # read by quantiles of the past
    released: {column: released, type: age, zone: UTC} # the time since; unit, format, fold as for timestamp
users:                                # attributes in a table of users, read like items
  path: users.csv
  key: uid
  since: valid_from                   # from when a row holds, or {column: valid_from, unit: ms}; absent: the first table
                                      # tells what always held, a later one what changes from then on
  attributes: {city: city, fans: {column: fans, type: number}}
behaviors:                           # required: at least one; leave out what the source cannot know
  finish: played_seconds / duration_seconds >= 0.9
  skip: played_seconds < 5
  like: action = 'like'
actions:                              # for logs in which what was done is a separate row, which may come later
  column: action                      # what a row is; a row without a value is an impression
  values: {like: [LIKE, BOOKMARK], share: SHARE}   # a value means a behavior; others are quarantined
  ignored: [SEARCH]                   # values of rows that are passed over, and counted
  window_minutes: 30                  # an action belongs to the impression with its event_id, or else to the last one of
                                      # its user and item in this window before it; else it is a separate positive
  skew_seconds: 0                     # how much later than the action the impression's clock may be
impressions:
  values: [VIEW]                      # values of actions.column that mean that the item was shown
  list_column: shown                  # or several items in one cell, as a list, a JSON array, or text with a
  separator: "|"                      # separator; item_id then names the column of the item that was acted on, if any
  chosen: {finish: clicked}           # columns with those of the list's items that were acted on; or, where each item ends
                                      # with it (a-1|b-0): labels: {separator: "-", values: {finish: "1"}, shown: "0"}
negatives: {per_positive: 4, kind: popularity, seed: 7}   # for logs of positives only; or kind: own
exposures:                            # who met which experiment variant; {name} is the log file's name
  path: ../exposures/{name}
  experiment: experiment              # columns; user and timestamp are written as in the log
  variant: variant
  user_id: uid
  timestamp: {column: ts, unit: ms}
"""

Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where the store is. Default: var/SOURCE/events.")
]

app = cli.App(
    shared_source=True,
    help="Bring in a log: ingest it, close empty hours, see what the workspace holds.",
    epilog="Example: clock events ingest my_app.yaml log/",
)


@app.command()
def ingest(
    mapping: Annotated[
        str, typer.Argument(metavar="MAPPING.yaml", help="Mapping file, or foursquare, foursquare_tsmc.")
    ],
    path: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...", help="Files, folders or globs, also of s3://… Default: the mapping's paths."
        ),
    ] = None,
    out: Out = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="HOUR", help="Take only rows of this hour and later.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="HOUR", help="Take only rows before this hour.")] = None,
) -> None:
    """Read a log into hour partitions.

    The last line of output is one JSON object with the account: rows_in = kept + duplicates + merged + quarantined
    + ignored.
    Running it again on the same files changes nothing.
    """
    from core.hours import Hour, check_range
    from core.settings import load_settings
    from events.ingest import ingest as ingest_log
    from events.mapping import load_mapping

    first, last = Hour.parse(start) if start else None, Hour.parse(end) if end else None
    if first and last:
        check_range(first, last)
    settings = load_settings() if out else load_settings(source=load_mapping(mapping)[0].source)
    account = ingest_log(mapping, path or [], settings, out=out, only=(first, last))
    print(json.dumps({**asdict(account), "changed_hours": len(account.changed_hours)}, ensure_ascii=False))


@app.command()
def close(
    first: Annotated[str, typer.Argument(metavar="HOUR", help="For example 2026-11-23T10.")],
    last: Annotated[
        str | None, typer.Argument(metavar="[LAST]", help="Close every hour up to and including this one.")
    ] = None,
    out: Out = None,
    source: cli.SourceOption = None,
) -> None:
    """Close hours in which nothing happened."""
    from core.hours import Hour
    from events.ingest import close_hours
    from events.store import EventStore

    start, end = Hour.parse(first), Hour.parse(last or first)
    if end < start:
        raise ConfigError(f"{end} lies before {start}; give the earlier hour first")
    closed = close_hours(EventStore(out or cli.settings_of(source).events_dir), start, end)
    print(json.dumps({"closed": [hour.key for hour in closed]}))


@app.command()
def status(out: Out = None, source: cli.SourceOption = None) -> None:
    """Show what the store holds, and which hours are missing."""
    from events.store import EventStore, missing_hours

    store = EventStore(out or cli.settings_of(source).events_dir)
    hours, manifests = store.hours(), store.manifests()
    content = {
        "source": store.source.source,
        "facets": store.facets,
        "hours": len(hours),
        "first": hours[0].key if hours else None,
        "last": hours[-1].key if hours else None,
        "missing": [hour.key for hour in missing_hours(hours)],
        "events": sum(m.rows for m in manifests),
        "exposures": sum(m.exposures for m in manifests),
    }
    print(json.dumps(content))


@app.command()
def explain() -> None:
    """Print a commented mapping file."""
    print(EXAMPLE)


@app.command()
def guess(
    path: Annotated[list[str], typer.Argument(metavar="LOG...", help="Files, folders or globs of a log.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="SOURCE", help="Name of the source. Default: from the file's name.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="MAPPING.yaml", help="File to write. Default: standard output.")
    ] = None,
) -> None:
    """Look at a log and write a first mapping for it, with comments on what to check."""
    from core.files import write_output
    from events.guess import guess_mapping, ingest_arguments
    from events.mapping import SOURCE_NAME, load_mapping

    if name is not None and not re.fullmatch(SOURCE_NAME, name):
        raise ConfigError(f"--name {name}: begin with a letter; small letters, digits, - and _ may follow, 41 in all")
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already; give another --out, or remove it")
    mapping = guess_mapping(path, name)
    if out is None:
        print(mapping, end="")
        return
    write_output(out, mapping)
    arguments = ingest_arguments(path, load_mapping(str(out))[0])
    print(f"written to {out}; look at the lines marked 'check', then run 'clock events ingest {out} {arguments}'")

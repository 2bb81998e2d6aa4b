"""``clock stream``: keep features online seconds old, and write a stream's rows to log files."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from core import cli

app = cli.App(
    shared_source=True,
    help="The minutes between two hours: follow the log while it is written, and put what users do online at once.",
    epilog="Example: clock stream follow --source shop",
)


@app.command()
def follow(source: cli.SourceOption = None) -> None:
    """Follow the log until stopped: clocks, activity and recent behaviors online are seconds old.

    The log's own files are read while they are written: CSV or JSON lines, a file an hour or one that grows. When an hour is
    over, the hourly run computes it exactly and takes its place.
    """
    from streaming.lane import follow as follow_log

    follow_log(cli.settings_of(source))


@app.command()
def status(source: cli.SourceOption = None) -> None:
    """Show how far the lane is."""
    from streaming.status import LaneStatus

    print(json.dumps(asdict(LaneStatus.read(cli.settings_of(source))), indent=1))


@app.command()
def land(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="Name of the Redis stream.")],
    to: Annotated[
        str, typer.Option("--to", metavar="PATH", help="The log's files, as the mapping names them: log/{hour}.jsonl.")
    ],
    url: Annotated[
        str,
        typer.Option("--redis", metavar="URL", envvar="CLOCK_STREAM_REDIS", help="redis://[:password@]host:port/n."),
    ] = "redis://127.0.0.1:6379/0",
    trim: Annotated[bool, typer.Option("--trim", help="Remove from Redis what is in completed files.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Stop when the stream holds no more.")] = False,
    source: cli.SourceOption = None,
) -> None:
    """Write a Redis stream to hourly log files, each entry exactly once, until stopped.

    An entry's fields are the columns of the log; an only field 'json' holds the row whole.
    """
    from streaming.redis_log import land as land_stream

    rows = land_stream(cli.settings_of(source), url, stream, to, trim=trim, once=once)
    print(json.dumps({"stream": stream, "rows": rows}))

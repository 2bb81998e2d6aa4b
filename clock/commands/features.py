"""``clock features``: the interest clocks of a source, by hand."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core import cli
from core.errors import ConfigError

if TYPE_CHECKING:
    from feature_repo.retrieval import ClockFeatures

Key = Annotated[bool, typer.Option("--key", help="USER is the platform's own number, not the log's id.")]

app = cli.App(
    shared_source=True,
    help="Work on a source's interest clocks: rebuild, inspect, draw, fit.",
    epilog="Example: clock features page everyone --time 21:15",
)


@app.command()
def rebuild(
    until: Annotated[
        str | None, typer.Argument(metavar="[HOUR]", help="Default: the clocks' hour, else the end of the log.")
    ] = None,
    no_history: Annotated[
        bool,
        typer.Option("--no-history", help="Only the clocks as they are at HOUR: faster, but no training on the past."),
    ] = False,
    source: cli.SourceOption = None,
) -> None:
    """Compute all clocks from the events, and fill the online store."""
    from core.hours import Hour
    from events.store import EventStore
    from feature_repo.clock import ClockState
    from feature_repo.materialization import Materialization
    from feature_repo.retrieval import ClockFeatures

    asked = Hour.parse(until) if until else None
    settings = cli.settings_of(source)
    store = EventStore(settings.events_dir)
    clock_state = ClockState(settings, store)
    hours = store.hours()
    end = asked or clock_state.as_of or (hours[-1] + 1 if hours else None)
    if end is None:
        raise ConfigError("no events yet; run 'clock events ingest' first")
    done = asdict(clock_state.rebuild(end, history=not no_history))
    rows = Materialization(ClockFeatures(settings, store)).materialize_all(end)
    print(json.dumps({**done, "online_rows": rows}))


@app.command()
def advance(
    until: Annotated[str, typer.Argument(metavar="HOUR", help="For example 2026-11-23T10.")],
    source: cli.SourceOption = None,
) -> None:
    """Bring clocks and online store up to an hour, hour by hour."""
    from core.hours import Hour
    from feature_repo.materialization import advance as advance_to

    print(json.dumps(asdict(advance_to(cli.settings_of(source), Hour.parse(until)))))


@app.command()
def status(source: cli.SourceOption = None) -> None:
    """Show freshness and rows of every view."""
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures
    from feature_repo.status import feature_status

    settings = cli.settings_of(source)
    print(json.dumps(asdict(feature_status(ClockFeatures(settings, EventStore(settings.events_dir)))), indent=1))


@app.command()
def clock(
    user: Annotated[list[str], typer.Argument(metavar="USER...", help="Users' ids as they stand in the log.")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="HOUR", help="The running hour. Default: the clocks' own.")
    ] = None,
    key: Key = False,
    source: cli.SourceOption = None,
) -> None:
    """Print clocks of users as serving sees them, as JSON."""
    from core.hours import Hour
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures
    from pages.clocks import clock_json

    chosen = Hour.parse(at) if at else None
    settings = cli.settings_of(source)
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    numbers = _numbers(features, user, is_key=key)
    hour = chosen or features.clock.require_state().as_of
    print(json.dumps(clock_json(features, numbers, hour), ensure_ascii=False))


@app.command()
def page(
    who: Annotated[
        str,
        typer.Argument(
            metavar="USER",
            help="A user's id as it stands in the log, or 'everyone'; '-' reads the id from standard input.",
        ),
    ],
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="HH:MM", help="Local time of the Gaussian window. Default: the busiest hour."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", metavar="FILE", help="Write only this file. Default: among the reports, listed with the others."
        ),
    ] = None,
    reports: Annotated[
        str | None, typer.Option("--reports", metavar="URL", help="With --output: link to the reports at this address.")
    ] = None,
    key: Key = False,
    source: cli.SourceOption = None,
) -> None:
    """Draw a user's clock, or everybody's; without --output prints the page's path."""
    from core.files import write_output
    from events.store import EventStore
    from feature_repo.retrieval import ClockFeatures
    from pages.clocks import EVERYONE, render_clock_page, write_clock_page

    if time is not None and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", time):
        raise ConfigError(f"'{time}' is not a local time; write it as HH:MM, for example 08:30")
    settings = cli.settings_of(source)
    features = ClockFeatures(settings, EventStore(settings.events_dir))
    name = sys.stdin.readline().rstrip("\n") if who == "-" else who
    user = None if who == EVERYONE and not key else _numbers(features, [name], is_key=key)[0]
    if output is None:
        print(write_clock_page(features, user, time))
        return
    html, _ = render_clock_page(features, user, time, reports=reports)
    write_output(Path(output), html)


def _numbers(features: ClockFeatures, users: list[str], *, is_key: bool) -> list[int]:
    """The platform's numbers of users that a person names."""
    from core.id_text import parse_int64
    from events.ids import platform_ids

    if not is_key:
        features.clock.require_state()  # before the first clocks, that is what is missing
        return platform_ids(features.events.root, "user", users)
    numbers = []
    for user in users:
        if (number := parse_int64(user)) is None:
            raise ConfigError(f"'{user}' is not a key; with --key give the platform's own number of a user")
        numbers.append(number)
    return numbers


@app.command()
def fit(
    until: Annotated[
        str | None, typer.Argument(metavar="[HOUR]", help="Read nothing later. Default: the clocks' hour.")
    ] = None,
    source: cli.SourceOption = None,
) -> None:
    """Fit how much thin slots borrow (for CLOCK_SHRINKAGE=true)."""
    from core.hours import Hour
    from feature_repo.shrinkage import fit as fit_shrinkage

    settings = cli.settings_of(source)
    fitted = fit_shrinkage(settings, Hour.parse(until) if until else None)
    print(json.dumps(asdict(fitted), indent=1))
